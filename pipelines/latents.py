"""From videos to latents and back: the same functions for image and video autoencoders."""

# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images; c, f, h, w the same of the latents.

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn

from diffusers_video.layers.layout import images_to_videos, videos_to_images


FRAMES_AT_ONCE = 16
PIXEL_CHANNELS = 3


def is_video_autoencoder(vae: nn.Module | None) -> bool:
    """
    Tell whether an autoencoder takes whole videos (it then has `latents_shape`) or single images.

    Args:
        vae (`torch.nn.Module`, *optional*): An `AutoencoderKL`, an `AutoencoderTiny`, or an autoencoder of videos.

    Returns:
        `bool`: `True` for an autoencoder of videos.
    """
    return hasattr(vae, "latents_shape")


def vae_scale_factor(vae: nn.Module | None) -> int:
    """
    Pixels of a frame for each latent, in height and in width alike.

    Args:
        vae (`torch.nn.Module`, *optional*): The autoencoder; 8 is assumed where there is none.

    Returns:
        `int`: The factor: `spatial_scale_factor` of an autoencoder of videos that has it, else a power of 2.
    """
    if vae is None:
        return 8
    if is_video_autoencoder(vae) and hasattr(vae, "spatial_scale_factor"):  # that of an AutoencoderTiny is another
        return vae.spatial_scale_factor
    return 2 ** (len(vae.config.block_out_channels) - 1)


def frames_per_latent(vae: nn.Module | None) -> int:
    """
    Frames of a video for each frame of its latents.

    Args:
        vae (`torch.nn.Module`, *optional*): The autoencoder.

    Returns:
        `int`: 1 but for an autoencoder of videos that compresses time, which has `temporal_scale_factor`.
    """
    return getattr(vae, "temporal_scale_factor", 1)


def latents_shape(vae: nn.Module | None, num_frames: int, height: int, width: int) -> tuple[int, ...]:
    """
    Shape of the latents of one video.

    Args:
        vae (`torch.nn.Module`, *optional*): An autoencoder of images or of videos; without one latents are pixels.
        num_frames (`int`): Frames of the video.
        height (`int`): Height in pixels, a multiple of [`vae_scale_factor`].
        width (`int`): Width in pixels, a multiple of [`vae_scale_factor`].

    Returns:
        `tuple[int, ...]`: `(c, num_frames, h, w)` but for an autoencoder of videos, which says it itself.
    """
    if is_video_autoencoder(vae):
        return tuple(vae.latents_shape(num_frames, height, width))
    if vae is None:
        return (PIXEL_CHANNELS, num_frames, height, width)
    factor = vae_scale_factor(vae)
    return (vae.config.latent_channels, num_frames, height // factor, width // factor)


def scale_latents(vae: nn.Module, latents: Tensor) -> Tensor:
    """
    Bring what the encoder gives to the scale that the denoiser works in; the inverse of [`unscale_latents`].

    Args:
        vae (`torch.nn.Module`): Its configuration holds `scaling_factor`, and perhaps `shift_factor` or
            `latents_mean` and `latents_std`.
        latents (`torch.Tensor` of shape `(batch_size, c, ...)`): Latents as the encoder gives them.

    Returns:
        `torch.Tensor`: Of the same shape.
    """
    mean, std, scaling_factor = _latent_statistics(vae, latents)
    return (latents - mean) * scaling_factor / std


def unscale_latents(vae: nn.Module, latents: Tensor) -> Tensor:
    """
    Bring denoised latents to the scale that the decoder takes; the inverse of [`scale_latents`].

    Args:
        vae (`torch.nn.Module`): As in [`scale_latents`].
        latents (`torch.Tensor` of shape `(batch_size, c, ...)`): Latents as the denoiser gives them.

    Returns:
        `torch.Tensor`: Of the same shape.
    """
    mean, std, scaling_factor = _latent_statistics(vae, latents)
    return latents * std / scaling_factor + mean


def encode_video(
    vae: nn.Module | None,
    pixel_values: Tensor,
    generator: torch.Generator | list[torch.Generator] | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """
    Encode videos, drawing each from its posterior.

    Chunks change nothing for an autoencoder of images: the posterior is drawn from after all frames are encoded.

    Args:
        vae (`torch.nn.Module`, *optional*): An autoencoder of images or of videos; without one latents are pixels.
        pixel_values (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): In [-1, 1].
        generator (`torch.Generator` or `list[torch.Generator]`, *optional*): One for all videos, or one for each.
        chunk_size (`int`, *optional*, defaults to 16): Frames encoded at once by an autoencoder of images.

    Returns:
        `torch.Tensor` of shape `(batch_size, *latents_shape)`: Latents times the `scaling_factor`.
    """
    if vae is None:
        return pixel_values
    batch_size, _, num_frames = pixel_values.shape[:3]
    encoded = _encode(vae, pixel_values, chunk_size)
    if not hasattr(encoded[0], "latent_dist"):
        latents = torch.cat([part.latents for part in encoded])
    else:
        parameters = torch.cat([part.latent_dist.parameters for part in encoded])
        generators = generator if isinstance(generator, list) else [generator] * batch_size
        posteriors = zip(parameters.chunk(batch_size), generators, strict=True)
        latents = torch.cat([DiagonalGaussianDistribution(one).sample(source) for one, source in posteriors])
    if not is_video_autoencoder(vae):
        latents = images_to_videos(latents, num_frames)
    return scale_latents(vae, latents)


def encode_mode(vae: nn.Module, pixel_values: Tensor, chunk_size: int | None = None) -> Tensor:
    """
    Encode videos to the mode of their posterior, as the encoder gives it: not multiplied by the `scaling_factor`.

    Args:
        vae (`torch.nn.Module`): An autoencoder of images or of videos; one without a posterior gives its latents.
        pixel_values (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): In [-1, 1].
        chunk_size (`int`, *optional*, defaults to 16): Frames encoded at once by an autoencoder of images.

    Returns:
        `torch.Tensor` of shape `(batch_size, *latents_shape)`: Latents.
    """
    parts = _encode(vae, pixel_values, chunk_size)
    latents = torch.cat([part.latent_dist.mode() if hasattr(part, "latent_dist") else part.latents for part in parts])
    return latents if is_video_autoencoder(vae) else images_to_videos(latents, pixel_values.shape[2])


def _encode(vae: nn.Module, pixel_values: Tensor, chunk_size: int | None) -> list[BaseOutput]:
    with _full_precision(vae):
        pixel_values = pixel_values.to(get_module_execution_device(vae), vae.dtype)
        if is_video_autoencoder(vae):
            return [vae.encode(pixel_values)]
        chunks = videos_to_images(pixel_values).split(chunk_size or FRAMES_AT_ONCE)
        return [vae.encode(chunk) for chunk in chunks]


def decode_latents(
    vae: nn.Module | None,
    latents: Tensor,
    chunk_size: int | None = None,
    latent_size: tuple[int, int, int] | None = None,
) -> Tensor:
    """
    Decode latents to frames.

    Chunks change nothing for an autoencoder of images. One of videos has its chunks in its configuration.

    Args:
        vae (`torch.nn.Module`, *optional*): An autoencoder of images or of videos; without one latents are pixels.
        latents (`torch.Tensor` of shape `(batch_size, *latents_shape)`): Latents times the `scaling_factor`.
        chunk_size (`int`, *optional*, defaults to 16): Frames decoded at once by an autoencoder of images.
        latent_size (`tuple[int, int, int]`, *optional*): Frames, height and width of latents that do not show them,
            which are those of an [`AutoencoderTriplane`]; by default those of its configuration.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`: About [-1, 1], not clamped.
    """
    if vae is None:
        return latents
    latents = unscale_latents(vae, latents)
    with _full_precision(vae):
        latents = latents.to(get_module_execution_device(vae), vae.dtype)
        if is_video_autoencoder(vae):
            options = {} if latent_size is None else {"latent_size": latent_size}
            return vae.decode(latents, **options).sample
        chunks = videos_to_images(latents).split(chunk_size or FRAMES_AT_ONCE)
        frames = torch.cat([vae.decode(chunk).sample for chunk in chunks])
    return images_to_videos(frames, latents.shape[2])


@contextmanager
def _full_precision(vae: nn.Module) -> Iterator[None]:
    # A half-precision autoencoder that asks for it (`force_upcast`) overflows to black frames otherwise.
    upcast = vae.dtype == torch.float16 and vae.config.get("force_upcast", False)
    if upcast:
        vae.to(dtype=torch.float32)
    try:
        yield
    finally:
        if upcast:
            vae.to(dtype=torch.float16)


def _latent_statistics(vae: nn.Module, latents: Tensor) -> tuple[Tensor | float, Tensor | float, float]:
    config = vae.config
    scaling_factor = config.get("scaling_factor") or vae.scaling_factor
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return config.get("shift_factor") or 0.0, 1.0, scaling_factor
    shape = (1, -1, *[1] * (latents.ndim - 2))
    mean_c, std_c = (torch.tensor(values).to(latents).view(shape) for values in (mean, std))
    return mean_c, std_c, scaling_factor
