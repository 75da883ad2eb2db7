"""Noise over the frames of a video: what a denoiser is trained on, and what sampling starts from."""

# Shapes: B videos, C channels, F frames, H height, W width, of latents.

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


NOISE_PRIORS = ("independent", "mixed", "progressive")


def check_noise_prior(noise_prior: Any, noise_prior_strength: Any) -> None:
    """
    Refuse a noise prior that does not exist.

    Args:
        noise_prior (`Any`): One of `NOISE_PRIORS`.
        noise_prior_strength (`Any`): A finite number above 0.

    Raises:
        TypeError: If the strength is not a number.
        ValueError: If the prior is unknown, or the strength is out of range.
    """
    if noise_prior not in NOISE_PRIORS:
        raise ValueError(f"`noise_prior` must be one of {NOISE_PRIORS}, but is {noise_prior!r}. Choose one of them.")
    if isinstance(noise_prior_strength, bool) or not isinstance(noise_prior_strength, (int, float)):
        kind = type(noise_prior_strength).__name__
        raise TypeError(f"`noise_prior_strength` must be a number, but is {noise_prior_strength!r} ({kind}).")
    if not (math.isfinite(noise_prior_strength) and noise_prior_strength > 0):
        raise ValueError(
            f"`noise_prior_strength` must be above 0 and finite, but is {noise_prior_strength}. Take"
            " `noise_prior='independent'` for frames that share no noise."
        )


def draw_noise(
    shape: Sequence[int],
    noise_prior: str = "independent",
    noise_prior_strength: float = 1.0,
    *,
    generator: torch.Generator | list[torch.Generator] | None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    image_only: Tensor | None = None,
) -> Tensor:
    """
    Draw unit Gaussian noise that may be shared between the frames of a video.

    With strength alpha, frame index i, and all e independent and standard normal:

    - "independent": noise_i = e_i
    - "mixed": noise_i = sqrt(alpha^2 / (1 + alpha^2)) e_shared + sqrt(1 / (1 + alpha^2)) e_i
    - "progressive": noise_0 = e_0, noise_i = sqrt(alpha^2 / (1 + alpha^2)) noise_(i-1) + sqrt(1 / (1 + alpha^2)) e_i

    Every frame alone has unit variance. Two frames correlate by rho = alpha^2 / (1 + alpha^2) ("mixed"), or by
    sqrt(rho) to the power of their distance ("progressive"). A list of generators gives every video the noise it
    would have had alone, bit for bit; a generator on the CPU gives the same noise on every device.

    Args:
        shape (`Sequence[int]`): `(batch_size, channels, num_frames, height, width)`; any shape that begins with
            `batch_size` where the prior is independent.
        noise_prior (`str`, *optional*, defaults to `"independent"`): `"independent"`, `"mixed"` or `"progressive"`.
        noise_prior_strength (`float`, *optional*, defaults to 1.0): alpha, above 0; without effect on independent
            noise.
        generator (`torch.Generator` or `list[torch.Generator]`, *optional*): One for all videos, or one for each.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`): Where the noise is wanted.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Type of the noise. Frames are mixed in float32
            at least.
        image_only (`torch.Tensor` of shape `(batch_size,)`, *optional*): `True` for videos whose frames are unrelated
            images: theirs is independent.

    Returns:
        `torch.Tensor` of `shape`: Unit Gaussian noise.

    Raises:
        TypeError: If the strength is not a number.
        ValueError: If the prior is unknown, the strength is not above 0, or `shape` has no frames to share noise.

    Source:
        PYoCo (arXiv:2305.10474), Section 4: mixed and progressive noise model.
    """
    check_noise_prior(noise_prior, noise_prior_strength)
    shape, device = tuple(shape), torch.device(device)
    if noise_prior == "independent":
        return randn_tensor(shape, generator=generator, device=device, dtype=dtype)
    if len(shape) != 5:
        raise ValueError(
            f"`shape` must be (batch_size, channels, num_frames, height, width) for {noise_prior} noise, but is"
            f" {shape}. Take `noise_prior='independent'`."
        )
    first = generator[0] if isinstance(generator, list) else generator
    drawn_on = first.device if first is not None and first.device.type == "cpu" else device
    source = {"generator": generator, "device": drawn_on, "dtype": dtype}
    own = randn_tensor(shape, **source)
    noise = own.to(torch.promote_types(dtype, torch.float32))
    # Not `strength**2 / (1 + strength**2)`: the square of a large number overflows.
    length = math.hypot(1, noise_prior_strength)
    shared_part, own_part = noise_prior_strength / length, 1 / length
    if noise_prior == "mixed":
        shared = randn_tensor((*shape[:2], 1, *shape[3:]), **source)
        noise = shared_part * shared.to(noise) + own_part * noise
    else:
        frames = [noise[:, :, 0]]
        for index in range(1, shape[2]):
            frames.append(shared_part * frames[-1] + own_part * noise[:, :, index])
        noise = torch.stack(frames, dim=2)
    noise = noise.to(dtype)
    if image_only is not None:
        noise = torch.where(image_only.to(noise.device).view(-1, 1, 1, 1, 1), own, noise)
    return noise.to(device)


def make_generator(*key: int) -> torch.Generator:
    """
    Make a source of randomness from what names it: nothing depends on what came before.

    Args:
        key (`int`): At least 0 each, such as seed, process and micro-batch, or seed and frame.

    Returns:
        `torch.Generator`: On the CPU.
    """
    seed = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(seed[0]) << 31 | int(seed[1]) >> 1)


def draw_seeds(generator: torch.Generator | list[torch.Generator] | None, batch_size: int) -> list[int]:
    """
    Draw one seed for each video.

    Args:
        generator (`torch.Generator` or `list[torch.Generator]`, *optional*): One for all videos, or one for each;
            otherwise the global one of PyTorch.
        batch_size (`int`): Number of videos.

    Returns:
        `list[int]`: In [0, 2^63 - 1).
    """
    sources = generator if isinstance(generator, list) else [generator] * batch_size
    places = ["cpu" if source is None else source.device for source in sources]
    return [
        int(torch.randint(2**63 - 1, (), generator=source, device=place))
        for source, place in zip(sources, places, strict=True)
    ]


def frame_generators(seeds: Sequence[int], first: int, num_frames: int) -> list[torch.Generator]:
    """
    Make one source of randomness for each frame, from the seed of its video and its place in it alone: a frame has the
    same noise whatever chunk it is drawn in.

    Args:
        seeds (`Sequence[int]`): One for each video, from [`draw_seeds`].
        first (`int`): Place of the first frame in its video, at least 0.
        num_frames (`int`): Number of frames.

    Returns:
        `list[torch.Generator]`: All frames of the first video, then those of the next.
    """
    return [make_generator(seed, first + index) for seed in seeds for index in range(num_frames)]
