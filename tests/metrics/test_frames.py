"""PSNR, SSIM and LPIPS of frames: against reference numbers, by hand, and where torchmetrics means something else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from diffusers_video.layers.layout import videos_to_images
from diffusers_video.metrics import average_frames, lpips, psnr, ssim

from ..conftest import Golden


def pair(num_frames: int = 3) -> tuple[Tensor, Tensor]:
    videos = torch.rand(2, 3, num_frames, 16, 13)
    return videos, (videos + 0.2 * torch.randn_like(videos)).clamp(0, 1)


@pytest.mark.parametrize("colours", ["rgb", "gray"])
@pytest.mark.parametrize("measure", [psnr, ssim])
def test_common_metrics_agrees(
    colours: str, measure: Callable[..., Tensor], load_golden: Callable[[str], Golden]
) -> None:
    golden = load_golden("psnr_ssim")
    videos, targets = (golden.tensors[f"inputs.{colours}.{name}"].transpose(1, 2) for name in ("a", "b"))
    scores, name = average_frames(measure(videos, targets)), f"{colours}.{measure.__name__}"
    wants = golden.config["values_float64"]
    assert scores.per_frame == pytest.approx(wants[f"{name}_per_frame"], rel=1e-6)
    assert scores.per_frame_std == pytest.approx(wants[f"{name}_per_frame_std"], rel=1e-5)
    assert [scores.mean] == pytest.approx(wants[f"{name}_final"], rel=1e-6)
    assert [scores.std] == pytest.approx(wants[f"{name}_final_std"], rel=1e-6)
    if colours == "rgb":
        assert average_frames(measure(videos, videos)).mean == pytest.approx(wants[f"{name}_identical"], abs=1e-9)


def test_psnr_of_known_errors_per_frame_and_per_video() -> None:
    targets = torch.zeros(1, 3, 2, 4, 4)
    videos = torch.tensor([0.1, 0.01]).view(1, 1, 2, 1, 1).expand(targets.shape)
    assert psnr(videos, targets)[0].tolist() == pytest.approx([20, 40], rel=1e-6)
    # The mean of decibels is 30; those of the mean error are fewer.
    assert psnr(videos, targets, per="video").tolist() == pytest.approx([22.967], abs=1e-3)


def test_psnr_is_that_of_torchmetrics_per_frame_and_not_its_default() -> None:
    videos, targets = pair()
    images = videos_to_images(videos), videos_to_images(targets)
    found = psnr(videos, targets)
    want = peak_signal_noise_ratio(*images, data_range=1.0, dim=(1, 2, 3), reduction="none")
    torch.testing.assert_close(found.flatten().float(), want)
    pooled = peak_signal_noise_ratio(*images, data_range=1.0)
    assert pooled.item() != pytest.approx(found.mean().item(), rel=1e-5)


def test_psnr_of_equal_frames_is_the_cap_or_infinite() -> None:
    videos = torch.rand(1, 3, 2, 4, 4)
    assert psnr(videos, videos).tolist() == [[100.0, 100.0]]
    assert psnr(videos, videos, cap=60.0).tolist() == [[60.0, 60.0]]
    assert psnr(videos, videos, cap=None).isinf().all()


def test_the_range_of_values_makes_no_difference() -> None:
    videos, targets = pair()
    for measure in (psnr, ssim):
        moved = measure(videos * 2 - 1, targets * 2 - 1, value_range=(-1, 1))
        torch.testing.assert_close(moved, measure(videos, targets), rtol=1e-4, atol=1e-5)


def test_ssim_leaves_out_the_border_and_time() -> None:
    videos, targets = pair(num_frames=12)
    found = ssim(videos, targets)
    default = structural_similarity_index_measure(
        videos_to_images(videos), videos_to_images(targets), data_range=1.0, reduction="none"
    )
    assert (found.flatten() - default).abs().max() > 1e-3
    over_time = structural_similarity_index_measure(videos, targets, data_range=1.0, reduction="none")
    assert (found.mean(1) - over_time).abs().max() > 1e-3
    changed = targets.clone()
    changed[:, :, 3] = 0.5
    others = [index for index in range(12) if index != 3]
    torch.testing.assert_close(ssim(videos, changed)[:, others], found[:, others])


def test_ssim_of_two_flat_frames_by_hand() -> None:
    videos, targets = torch.full((1, 3, 1, 11, 11), 0.25), torch.full((1, 3, 1, 11, 11), 0.75)
    want = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)  # the term of contrast is 1
    assert ssim(videos, targets).item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("form", ["one number", "ones behind", "map"])
def test_lpips_is_the_networks_mean_for_each_frame(form: str) -> None:
    seen = []

    def network(images: Tensor, targets: Tensor) -> Tensor:
        assert images.dtype == torch.float32 and -1 <= images.min() < -0.5
        seen.append(len(images))
        distances = (images - targets).abs().mean(1, keepdim=True)
        whole = distances.mean((1, 2, 3))
        return {"one number": whole, "ones behind": whole.view(-1, 1, 1, 1), "map": distances}[form]

    videos, targets = pair()
    found = lpips(network, videos, targets, batch_size=4)
    torch.testing.assert_close(found, 2 * (videos - targets).abs().mean((1, 3, 4)).double())
    assert seen == [4, 2]


def test_averages_name_what_they_are_of() -> None:
    scores = average_frames(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert (scores.mean, scores.per_video, scores.per_frame) == (3.0, (1.5, 4.5), (2.0, 4.0))
    assert scores.per_frame_std == (1.0, 2.0) and scores.std == pytest.approx(3.5**0.5)
    assert "single frames" in scores.averaging
    with pytest.raises(ValueError, match=r"`scores` must have shape \(batch_size, num_frames\), but has shape \(3,\)"):
        average_frames(torch.zeros(3))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_bad_videos_are_refused(measure: Callable[..., Tensor]) -> None:
    videos, targets = pair()
    with pytest.raises(ValueError, match=r"finite values in \[0, 1\], but they reach from -1 to .*`value_range`"):
        measure(videos * 2 - 1 - videos.min() * 2, targets)
    with pytest.raises(ValueError, match="`targets` must have finite values .* from nan to nan"):
        measure(videos, targets * torch.nan)
    with pytest.raises(ValueError, match="`videos` and `targets` must have one shape"):
        measure(videos, targets[:1])
    with pytest.raises(ValueError, match="`videos` must have shape .*batch_size, channels, num_frames"):
        measure(videos[0], targets[0])
    with pytest.raises(TypeError, match="`videos` must be a floating-point tensor, but is torch.uint8. Divide bytes"):
        measure((videos * 255).byte(), targets)
    with pytest.raises(ValueError, match="`value_range` must rise"):
        measure(videos, targets, value_range=(1, 0))


def test_bad_options_are_refused() -> None:
    videos, targets = pair()
    with pytest.raises(ValueError, match="`per` must be 'frame' or 'video', but is 'clip'"):
        psnr(videos, targets, per="clip")
    with pytest.raises(ValueError, match="at least 11 pixels high and wide for SSIM, but are 16x10"):
        ssim(videos[..., :10], targets[..., :10])
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        lpips(lambda images, targets: images, videos, targets, batch_size=0)
    for broken in (torch.tensor(1.0), torch.zeros(5), torch.full((6,), torch.nan)):
        with pytest.raises(ValueError, match="`network` must return one finite distance for each of 6 images"):
            lpips(lambda images, targets, broken=broken: broken, videos, targets)
