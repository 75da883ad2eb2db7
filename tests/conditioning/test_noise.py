"""Noise over frames: the correlations of the paper, and the same noise for the same seed."""

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from diffusers_video.conditioning.noise import (
    NOISE_PRIORS,
    check_noise_prior,
    draw_noise,
    draw_seeds,
    frame_generators,
)


SHAPE = (2, 3, 4, 5, 5)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("noise_prior", NOISE_PRIORS)
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_noise_has_unit_variance_and_the_correlations_of_the_paper(noise_prior: str, strength: float) -> None:
    noise = draw_noise((2, 4, 4, 100, 100), noise_prior, strength, generator=seeded(0)[0])
    frames = noise.transpose(0, 2).flatten(1).double()  # 80,000 values each: correlations are good to 0.004
    covariance = frames @ frames.T / frames.shape[1]
    rho = strength**2 / (1 + strength**2)
    distance = (torch.arange(4)[:, None] - torch.arange(4)).abs().double()
    wanted = {"independent": 0.0**distance, "mixed": rho ** (distance > 0), "progressive": rho ** (distance / 2)}
    torch.testing.assert_close(covariance, wanted[noise_prior].double(), atol=0.02, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [SHAPE, (2, 7)])
def test_independent_noise_is_that_of_diffusers(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    want = randn_tensor(shape, generator=seeded(3)[0], dtype=dtype)
    assert torch.equal(draw_noise(shape, generator=seeded(3)[0], dtype=dtype), want)


@pytest.mark.parametrize("noise_prior", NOISE_PRIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_list_of_generators_gives_every_video_the_noise_it_has_alone(noise_prior: str, dtype: torch.dtype) -> None:
    def draw(size: int, generator: list[torch.Generator] | torch.Generator) -> Tensor:
        return draw_noise((size, *SHAPE[1:]), noise_prior, 0.7, generator=generator, dtype=dtype)

    batch = draw(3, seeded(5, 6, 7))
    assert batch.dtype == dtype
    for index, seed in enumerate((5, 6, 7)):
        assert torch.equal(batch[index], draw(1, seeded(seed))[0])
        assert torch.equal(batch[index], draw(1, seeded(seed)[0])[0])


@pytest.mark.parametrize("noise_prior", NOISE_PRIORS)
def test_noise_of_one_generator_differs_between_the_videos_of_a_batch(noise_prior: str) -> None:
    noise = draw_noise((2, 4, 3, 32, 32), noise_prior, 3.0, generator=seeded(0)[0])
    assert (noise[0] * noise[1]).mean().abs() < 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("noise_prior", NOISE_PRIORS)
@pytest.mark.parametrize("seeds", [(0,), (1, 2)])
def test_a_generator_on_the_cpu_gives_the_same_noise_on_every_device(noise_prior: str, seeds: tuple[int, ...]) -> None:
    shape = (len(seeds), *SHAPE[1:])
    on_cpu = draw_noise(shape, noise_prior, 0.7, generator=seeded(*seeds))
    on_gpu = draw_noise(shape, noise_prior, 0.7, generator=seeded(*seeds), device="cuda")
    assert on_gpu.device.type == "cuda" and torch.equal(on_gpu.cpu(), on_cpu)


@pytest.mark.parametrize("noise_prior", ["mixed", "progressive"])
def test_half_precision_is_the_only_rounding(noise_prior: str) -> None:
    shape = (1, 4, 16, 32, 32)
    half = draw_noise(shape, noise_prior, 5.0, generator=seeded(0)[0], dtype=torch.bfloat16)
    frames = half.transpose(0, 2).flatten(1).double()
    torch.testing.assert_close(frames.var(dim=1), torch.ones(16).double(), atol=0.1, rtol=0)  # 4096 values each


def test_frames_that_are_images_share_no_noise() -> None:
    image_only = torch.tensor([True, False])
    noise = draw_noise((2, 4, 2, 50, 50), "mixed", 10.0, generator=seeded(0)[0], image_only=image_only)
    correlation = (noise[:, :, 0] * noise[:, :, 1]).mean(dim=(1, 2, 3))
    assert correlation[0].abs() < 0.05 and correlation[1] > 0.9


def test_a_very_large_strength_repeats_one_noise() -> None:
    noise = draw_noise(SHAPE, "mixed", 1e200, generator=seeded(0)[0])
    assert torch.equal(noise, noise[:, :, :1].expand(SHAPE)) and noise.std() > 0.5


@pytest.mark.parametrize(
    ("prior", "strength", "error", "message"),
    [
        ("shared", 1.0, ValueError, "`noise_prior` must be one of .* 'shared'. Choose"),
        (None, 1.0, ValueError, "`noise_prior` must be one of"),
        ("mixed", 0.0, ValueError, "`noise_prior_strength` must be above 0 and finite, but is 0.0. Take"),
        ("mixed", -1, ValueError, "`noise_prior_strength` must be above 0"),
        ("mixed", float("nan"), ValueError, "`noise_prior_strength` must be above 0 and finite"),
        ("progressive", float("inf"), ValueError, "`noise_prior_strength` must be above 0 and finite"),
        ("mixed", "2", TypeError, "`noise_prior_strength` must be a number, but is '2'"),
        ("mixed", True, TypeError, "`noise_prior_strength` must be a number"),
    ],
)
def test_a_prior_that_does_not_exist_is_refused(
    prior: str | None, strength: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_noise_prior(prior, strength)
    with pytest.raises(error, match=message):
        draw_noise(SHAPE, prior, strength, generator=None)


def test_noise_without_frames_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="`shape` must be .* for mixed noise, but is"):
        draw_noise((2, 7), "mixed", generator=None)


def test_the_noise_of_a_frame_follows_from_its_video_and_its_place_alone() -> None:
    def draw(generator: torch.Generator | list, batch_size: int, first: int, num_frames: int) -> Tensor:
        sources = frame_generators(draw_seeds(generator, batch_size), first, num_frames)
        return randn_tensor((batch_size * num_frames, 4), generator=sources).view(batch_size, num_frames, 4)

    whole = draw(seeded(1, 2), 2, 0, 6)
    assert torch.equal(draw(seeded(1, 2), 2, 2, 3), whole[:, 2:5])
    assert torch.equal(draw(seeded(2), 1, 0, 6), whole[1:])
    assert len(whole.view(12, 4).unique(dim=0)) == 12
    source = seeded(3)[0]
    first, second = draw(source, 2, 0, 1), draw(source, 2, 0, 1)
    assert len(torch.cat([first, second]).view(4, 4).unique(dim=0)) == 4
    torch.manual_seed(5)
    seeds = draw_seeds(None, 2)
    torch.manual_seed(5)
    assert seeds == draw_seeds(None, 2) and len(set(seeds)) == 2
