"""Low-resolution videos as the condition of an upscaler: their size, the noise on them, and how it is told."""

# Shapes: B videos, C channels, F frames, H height, W width.

from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from torch import Tensor, nn

from ..layers.layout import images_to_videos, videos_to_images


DEFAULT_NOISE_LEVEL = 20
DEFAULT_MAX_NOISE_LEVEL = 350


def shrink_video(pixel_values: Tensor, scale: int) -> Tensor:
    """
    Make the low-resolution video of a video, as an upscaler is trained to see it.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): In [-1, 1], height
            and width multiples of `scale`.
        scale (`int`): How many times smaller.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, num_frames, height / scale, width / scale)`: In [-1, 1]; each
        frame on its own, by a bicubic filter as wide as a shrunk pixel.
    """
    size = [side // scale for side in pixel_values.shape[-2:]]
    images = nn.functional.interpolate(videos_to_images(pixel_values), size=size, mode="bicubic", antialias=True)
    return images_to_videos(images.clamp(-1, 1), pixel_values.shape[2])


def enlarge_images(images: Tensor, factor: int) -> Tensor:
    """
    Bring low-resolution frames to the size of what is denoised.

    Args:
        images (`torch.Tensor` of shape `(num_images, channels, height, width)`): Frames.
        factor (`int`): How many times larger: 1 where latents have the size of the low-resolution frames.

    Returns:
        `torch.Tensor` of shape `(num_images, channels, height * factor, width * factor)`: By a bicubic filter;
        `images` itself with a factor of 1.

    Source:
        SR3 (arXiv:2104.07636), Section 2.3: the low-resolution image is upsampled by bicubic interpolation and joined
        to the noisy one along the channels. Stable Diffusion's upscaler needs no interpolation.
    """
    return images if factor == 1 else nn.functional.interpolate(images, scale_factor=factor, mode="bicubic")


def noise_low_res(low_res: Tensor, noise: Tensor, noise_levels: Tensor, scheduler: SchedulerMixin) -> Tensor:
    """
    Put noise on low-resolution frames: sqrt(abar_l) x + sqrt(1 - abar_l) noise, also at level 0.

    Args:
        low_res (`torch.Tensor` of shape `(rows, channels, ...)`): Frames in [-1, 1], or videos.
        noise (`torch.Tensor` of the same shape): Unit noise.
        noise_levels (`torch.Tensor` of shape `(rows,)` or `(1,)`): l, timesteps of `scheduler`.
        scheduler (`SchedulerMixin`): The schedule of this noise.

    Returns:
        `torch.Tensor` of the same shape.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.4 and Eq. 5: noise augmentation of the low-resolution condition.
    """
    return scheduler.add_noise(low_res, noise, noise_levels)


def tell_noise_levels(noise_levels: Tensor, unet_config: Any) -> dict[str, Tensor]:
    """
    Bring noise levels into the form that a denoiser is told them in.

    Args:
        noise_levels (`torch.Tensor` of shape `(batch_size,)` and type `torch.int64`): One for each video.
        unet_config (`Any`): Configuration of the denoiser, which has classes (`num_class_embeds` or
            `class_embed_type="timestep"`) or `"noise_level"` among its `added_time_ids`, or both.

    Returns:
        `dict[str, torch.Tensor]`: Arguments of the denoiser.
    """
    told = {}
    if unet_config.num_class_embeds is not None or unet_config.class_embed_type is not None:
        told["class_labels"] = noise_levels
    if "noise_level" in unet_config.added_time_ids:
        told["noise_level"] = noise_levels.to(torch.float32)
    return told


def check_low_res_scheduler(scheduler: Any, max_noise_level: int, unet: ConfigMixin | None) -> None:
    """
    Refuse a schedule of the low-resolution frames' noise that does not reach to a level.

    Args:
        scheduler (`Any`): What was passed.
        max_noise_level (`int`): The highest level.
        unet ([`ConfigMixin`], *optional*): The denoiser; with a number of classes, the level must be one of them.

    Raises:
        TypeError: If it is no scheduler with `add_noise`.
        ValueError: If the level is too high.
    """
    if not hasattr(scheduler, "add_noise") or "num_train_timesteps" not in getattr(scheduler, "config", {}):
        raise TypeError(
            f"`low_res_scheduler` must be a scheduler with `add_noise`, but is a {type(scheduler).__name__}. Take the"
            " `DDPMScheduler` of the image upscaler."
        )
    levels = scheduler.config.num_train_timesteps
    if unet is not None:
        levels = min(levels, getattr(unet, "_orig_mod", unet).config.num_class_embeds or levels)
    if max_noise_level >= levels:
        raise ValueError(
            f"`max_noise_level` must be below {levels}, the levels that `low_res_scheduler` and `unet` know, but is"
            f" {max_noise_level}."
        )
