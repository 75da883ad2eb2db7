"""Given frames in training: which ones a task gives, what the denoiser is told of them, and what a preview shows."""

# Shapes: B videos, C channels, F frames, H height, W width, of latents.

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from diffusers_video.conditioning.frames import (
    INTERPOLATION_RATE,
    MAX_CONTEXT_FRAMES,
    FrameCondition,
    ends_mask,
    first_frames_mask,
)
from diffusers_video.conditioning.noise import draw_noise
from diffusers_video.training.config import VideoUNetConfig


_CLIP_TENSORS = ("pixel_values", "latents_mean", "latents_std")
_CONTEXT_DROPOUT = 0.1


def take_windows(
    batch: Mapping[str, Any], strides: Tensor, starts: Tensor, rate: int = INTERPOLATION_RATE
) -> dict[str, Any]:
    """
    Take the window of an interpolation model out of each clip, before it is encoded.

    Args:
        batch (`Mapping[str, Any]`): Clips with `fps` `(batch_size,)`, and `pixel_values` or packed latents
            `(batch_size, channels, num_frames, height, width)`.
        strides (`torch.Tensor` of shape `(batch_size,)`): Frames from one to the next.
        starts (`torch.Tensor` of shape `(batch_size,)`): First frames.
        rate (`int`, *optional*, defaults to 4): Frames of the result for each given one.

    Returns:
        `dict[str, Any]`: The batch with windows of `rate + 1` frames, and the frames per second that these have.
    """
    window = torch.arange(rate + 1)
    taken = {}
    for name in _CLIP_TENSORS:
        if name in batch:
            videos = zip(batch[name], strides.tolist(), starts.tolist(), strict=True)
            taken[name] = torch.stack([video[:, start + stride * window] for video, stride, start in videos])
    return {**batch, **taken, "fps": batch["fps"] / strides.to(batch["fps"])}


def draw_windows(
    batch: Mapping[str, Any], generator: torch.Generator, rate: int = INTERPOLATION_RATE
) -> dict[str, Any]:
    """
    Draw the window of an interpolation model from each clip: neighbouring frames, or every `rate`-th one as in the
    pass before, where the clip is long enough; all places alike.

    Args:
        batch (`Mapping[str, Any]`): See [`take_windows`].
        generator (`torch.Generator`): Source of randomness, on the CPU.
        rate (`int`, *optional*, defaults to 4): See [`take_windows`].

    Returns:
        `dict[str, Any]`: See [`take_windows`].

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.3: one model, trained on 1.875 to 7.5 and on 7.5 to 30 fps.
    """
    num_frames = next(batch[name].shape[2] for name in _CLIP_TENSORS if name in batch)
    size = len(batch["fps"])
    choices = torch.tensor([one for one in (1, rate) if rate * one < num_frames])
    strides = choices[torch.randint(len(choices), (size,), generator=generator)]
    places = num_frames - rate * strides
    starts = (torch.rand(size, generator=generator) * places).long().clamp(max=places - 1)
    return take_windows(batch, strides, starts, rate)


def heldout_window(batch: Mapping[str, Any], place: int, rate: int = INTERPOLATION_RATE) -> dict[str, Any]:
    """
    Take a fixed window: every second held-out clip has the lower rate, where it is long enough.

    Args:
        batch (`Mapping[str, Any]`): One clip, see [`take_windows`].
        place (`int`): Number of the clip.
        rate (`int`, *optional*, defaults to 4): See [`take_windows`].

    Returns:
        `dict[str, Any]`: See [`take_windows`].
    """
    num_frames = next(batch[name].shape[2] for name in _CLIP_TENSORS if name in batch)
    stride = rate if place % 2 and rate**2 < num_frames else 1
    return take_windows(batch, torch.tensor([stride]), torch.tensor([0]), rate)


def draw_frame_mask(config: VideoUNetConfig, batch_size: int, num_frames: int, generator: torch.Generator) -> Tensor:
    """
    Draw which frames are given.

    Args:
        config ([`VideoUNetConfig`]): `task` and its chances.
        batch_size (`int`): Number of videos.
        num_frames (`int`): Frames of each.
        generator (`torch.Generator`): Source of randomness, on the CPU.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames)`: `torch.bool`.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.2: the number S of given first frames is 0, 1 or 2, with chances that
        are not told; Section 3.3: both ends.
    """
    if config.task == "key-frames":
        chances = torch.tensor(config.num_given_probabilities or [1.0] * (MAX_CONTEXT_FRAMES + 1))
        num_given = torch.multinomial(chances, batch_size, replacement=True, generator=generator)
        return first_frames_mask(num_given, num_frames)
    dropout = _CONTEXT_DROPOUT if config.context_dropout is None else config.context_dropout
    return ends_mask(torch.rand(batch_size, generator=generator) >= dropout, num_frames)


def heldout_frame_mask(config: VideoUNetConfig, place: int, num_frames: int) -> Tensor:
    """
    Fix which frames of a held-out clip are given: 1, 2, 0, 1, ... first ones, or both ends.

    Args:
        config ([`VideoUNetConfig`]): `task`.
        place (`int`): Number of the clip.
        num_frames (`int`): Its frames.

    Returns:
        `torch.Tensor` of shape `(1, num_frames)`: `torch.bool`.
    """
    if config.task == "key-frames":
        return first_frames_mask(torch.tensor([(place + 1) % (MAX_CONTEXT_FRAMES + 1)]), num_frames)
    return ends_mask(torch.tensor([True]), num_frames)


def context_conditions(
    latents: Tensor,
    frame_mask: Tensor,
    added_time_ids: tuple[str, ...],
    *,
    scheduler: DDPMScheduler | None = None,
    max_noise_level: int = 0,
    generator: torch.Generator | None = None,
    is_in_place: bool = False,
) -> dict[str, Tensor]:
    """
    What the denoiser is told of given frames, with noise of a level of its own for each clip if asked for.

    Args:
        latents (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Clean latents.
        frame_mask (`torch.Tensor` of shape `(batch_size, num_frames)`): `True` for given frames.
        added_time_ids (`tuple[str, ...]`): Numbers per clip that the denoiser reads.
        scheduler (`DDPMScheduler`, *optional*): Noise schedule; needed for noise.
        max_noise_level (`int`, *optional*, defaults to 0): Highest timestep of the noise; 0 leaves the frames clean.
        generator (`torch.Generator`, *optional*): Source of randomness, on the CPU; needed for noise.
        is_in_place (`bool`, *optional*, defaults to `False`): Whether given frames take the places of noisy ones.

    Returns:
        `dict[str, torch.Tensor]`: Arguments of the denoiser, and with `is_in_place` the `context_noise` of
        [`~training.objectives.denoising_loss`].

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.2, and appendix on the interpolation model: conditioning augmentation by
        a random step in 0 to 250; LVDM (arXiv:2211.13221), Section 3.3: conditional latent perturbation.
    """
    told, levels, noise = latents, torch.zeros(len(latents), dtype=torch.long), torch.zeros_like(latents)
    if max_noise_level:
        levels = torch.randint(max_noise_level + 1, (len(latents),), generator=generator)
        noise = draw_noise(latents.shape, generator=generator, device=latents.device)
        noisy = scheduler.add_noise(latents, noise, levels.to(latents.device))
        told = torch.where(levels.to(latents.device).view(-1, 1, 1, 1, 1) > 0, noisy, latents)
    conditions = {"context_latents": told, "frame_mask": frame_mask.to(latents.device)}
    if "noise_level" in added_time_ids:
        conditions["noise_level"] = levels.to(latents.device)
    return conditions | ({"context_noise": noise} if is_in_place else {})


def preview_arguments(task: str, clip: Mapping[str, Any], rate: int = INTERPOLATION_RATE) -> dict[str, Any]:
    """
    Frames of a clip that the preview of a trained model goes on from.

    Args:
        task (`str`): See [`VideoUNetConfig`].
        clip (`Mapping[str, Any]`): `pixel_values` `(3, num_frames, height, width)` in [-1, 1], or `latents_mean`.
        rate (`int`, *optional*, defaults to 4): See [`take_windows`].

    Returns:
        `dict[str, Any]`: Arguments of the task's pipeline.
    """
    if task == "text-to-video":
        return {}
    is_latent = "pixel_values" not in clip
    if is_latent:
        frames = clip["latents_mean"][None].float()
    else:
        frames = (clip["pixel_values"].transpose(0, 1) * 0.5 + 0.5).clamp(0, 1)
    if task == "interpolation":
        return {"frame_latents": frames[:, :, ::rate]} if is_latent else {"frames": frames[::rate]}
    given = frames[:, :, :MAX_CONTEXT_FRAMES] if is_latent else frames[:MAX_CONTEXT_FRAMES]
    return {"conditions": [FrameCondition(given, tuple(range(MAX_CONTEXT_FRAMES)), is_latent=is_latent)]}
