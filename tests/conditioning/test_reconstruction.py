"""Guidance through the denoised estimate against closed forms, and small copies that are fitted."""

import pytest
import torch
from torch import Tensor

from diffusers_video.conditioning.reconstruction import (
    Observation,
    fit_low_res,
    guide_estimate,
    observe_frames,
    shrink_linearly,
)


def know_small_copy(low_res: Tensor, scale: float) -> Observation:
    return Observation(low_res, lambda video: shrink_linearly(video, low_res.shape[-2:]), scale)


def mix_frames(matrix: Tensor, video: Tensor) -> Tensor:
    """A linear denoiser, x^ = A z over frames."""
    return torch.einsum("ij,bcjhw->bcihw", matrix, video)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_reconstruction_guidance_of_a_linear_denoiser_has_a_closed_form(scale: float) -> None:
    matrix = torch.randn(4, 4, dtype=torch.float64)  # x^ = A z over frames
    noisy, given = torch.randn(2, 2, 3, 4, 2, 2, dtype=torch.float64)
    mask = torch.tensor([True, False, True, False])
    estimate = mix_frames(matrix, noisy)
    errors = (given - estimate)[:, :, mask]
    known = observe_frames(given, mask, scale)
    got = guide_estimate(lambda z: mix_frames(matrix, z), noisy, [known], signal=0.7, held=mask)
    want = estimate.clone()
    want[:, :, ~mask] += scale * 0.7 * torch.einsum("aj,ncahw->ncjhw", matrix[mask][:, ~mask], errors)
    torch.testing.assert_close(got, want)
    assert not got.requires_grad


def test_guidance_of_a_small_copy_has_a_closed_form() -> None:
    noisy = torch.randn(2, 3, 4, 8, 12, dtype=torch.float64)
    matrix, low_res = torch.randn(4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 2, 3, dtype=torch.float64)
    known = know_small_copy(low_res, scale=3.0)
    got = guide_estimate(lambda z: mix_frames(matrix, z), noisy, [known], signal=0.6)
    shrink = torch.func.vmap(lambda row: shrink_linearly(row.reshape(1, 1, 1, 8, 12), (2, 3)).flatten())
    filters = shrink(torch.eye(96, dtype=torch.float64))  # (pixels, small pixels)
    estimate = mix_frames(matrix, noisy)
    errors = low_res.flatten(3) - estimate.flatten(3) @ filters
    want = estimate + 3.0 * 0.6 * mix_frames(matrix.T, (errors @ filters.T).unflatten(3, (8, 12)))
    torch.testing.assert_close(got, want)


def test_both_kinds_of_knowledge_add_up() -> None:
    noisy, given = torch.randn(2, 1, 3, 4, 8, 8, dtype=torch.float64)
    matrix, mask = torch.randn(4, 4, dtype=torch.float64), torch.tensor([True, False, False, True])
    known = [observe_frames(given, mask, 2.0), know_small_copy(torch.randn(1, 3, 4, 2, 2).double(), 5.0)]

    def guide(*chosen: int) -> Tensor:
        return guide_estimate(
            lambda z: mix_frames(matrix, z), noisy, [known[one] for one in chosen], signal=0.5, held=mask
        )

    estimate = mix_frames(matrix, noisy)
    torch.testing.assert_close(guide(0, 1) - estimate, guide(0) + guide(1) - 2 * estimate)
    torch.testing.assert_close(guide(0, 1)[:, :, mask], estimate[:, :, mask])


def test_each_clip_of_a_batch_is_guided_as_if_it_were_alone() -> None:
    noisy, given = torch.randn(2, 3, 2, 4, 2, 2, dtype=torch.float64)
    mask = torch.tensor([True, False, False, True])

    def guide(rows: slice) -> Tensor:
        def denoise(z: Tensor) -> Tensor:
            return torch.tanh(z + z.mean(dim=2, keepdim=True))

        known = observe_frames(given[rows], mask, 4.0)
        return guide_estimate(denoise, noisy[rows], [known], signal=0.8, held=mask)

    torch.testing.assert_close(guide(slice(0, 3))[1:2], guide(slice(1, 2)))


@pytest.mark.parametrize("size", [(4, 4), (2, 8)])
def test_a_fitted_video_has_the_small_copy_and_stays_within_limits(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    true, other = torch.rand(2, 2, 3, 2, 16, 16, dtype=torch.float64) * 2 - 1
    low_res = shrink_linearly(true, size)
    fitted = fit_low_res(other, low_res)
    assert fitted.abs().max() <= 1
    torch.testing.assert_close(shrink_linearly(fitted, size), low_res, rtol=0, atol=1e-6)
    torch.testing.assert_close(fit_low_res(true, low_res), true)
    inside = fit_low_res(other, low_res, limits=(-9.0, 9.0))
    assert (inside - other).square().sum() <= (true - other).square().sum()  # the least change
