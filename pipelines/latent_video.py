"""Pipelines that denoise in the latent space of an autoencoder."""

# Shapes: B videos, C channels, F frames, H height, W width; c, h, w of the latents.

from typing import Any

import torch
from torch import Tensor

from diffusers_video.conditioning.noise import draw_noise
from diffusers_video.pipelines import latents as latent_space
from diffusers_video.pipelines.checks import check_finite


class LatentDecodingMixin:
    """
    From latents to frames.

    The class that inherits it has `vae`.
    """

    def decode_latents(
        self,
        latents: Tensor,
        decode_chunk_size: int | None = None,
        latent_size: tuple[int, int, int] | None = None,
    ) -> Tensor:
        """
        Decode latents to frames without gradients, some frames at a time.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): Denoised latents.
            decode_chunk_size (`int`, *optional*, defaults to 16): Frames decoded at once.
            latent_size (`tuple[int, int, int]`, *optional*): Frames, height and width of latents that do not show
                them; by default those of the autoencoder.

        Returns:
            `torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`: About [-1, 1], not clamped.

        Raises:
            FloatingPointError: If latents or frames hold a NaN or an infinity.
        """
        advice = "Load `unet` in float32 or bfloat16, or try another scheduler or a lower `guidance_scale`."
        check_finite(latents, "Denoising", advice)
        with torch.no_grad():
            frames = latent_space.decode_latents(self.vae, latents, decode_chunk_size, latent_size)
        check_finite(frames, "Decoding", "Load `vae` in float32 or bfloat16.")
        return frames

    def decode_frames(
        self,
        latents: Tensor,
        decode_chunk_size: int | None = None,
        latent_size: tuple[int, int, int] | None = None,
    ) -> Tensor:
        """
        Decode latents to frames that can be shown.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): Denoised latents.
            decode_chunk_size (`int`, *optional*, defaults to 16): Frames decoded at once.
            latent_size (`tuple[int, int, int]`, *optional*): Frames, height and width of latents that do not show
                them; by default those of the autoencoder.

        Returns:
            `torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`: In [0, 1].

        Raises:
            FloatingPointError: If latents or frames hold a NaN or an infinity.
        """
        return (self.decode_latents(latents, decode_chunk_size, latent_size) * 0.5 + 0.5).clamp(0, 1)


class LatentVideoMixin(LatentDecodingMixin):
    """
    Sizes, noise, encoding and decoding.

    The class that inherits it has `vae`, `vae_scale_factor`, `unet` and `scheduler`, and in its configuration
    `num_frames`, `noise_prior` and `noise_prior_strength`, and perhaps `height` and `width`.
    """

    def default_shape(
        self, video: Tensor | None, latents: Any, height: int | None, width: int | None, num_frames: int | None
    ) -> tuple[int | None, int | None, int]:
        """
        Fill in what a call leaves open: from a video or latents that are given, else from the models.

        Args:
            video (`torch.Tensor` of shape `(videos, channels, num_frames, height, width)`, *optional*): Given video.
            latents (`Any`): Given latents.
            height (`int`, *optional*): Height asked for, in pixels.
            width (`int`, *optional*): Width asked for, in pixels.
            num_frames (`int`, *optional*): Frames asked for.

        Returns:
            `tuple[int | None, int | None, int]`: Height, width and frames.
        """
        known = (self.config.num_frames, None, None)
        size = self.unet.config.sample_size
        if self.config.get("height") is not None:
            known = (self.config.num_frames, self.config.height, self.config.width)
        elif size is not None:
            size = size if isinstance(size, (list, tuple)) else (size, size)
            known = (self.config.num_frames, *(number * self.vae_scale_factor for number in size))
        if video is not None:
            known = tuple(video.shape[2:])
        elif isinstance(latents, Tensor) and latents.ndim == 5 and not latent_space.is_video_autoencoder(self.vae):
            known = (latents.shape[2], *(number * self.vae_scale_factor for number in latents.shape[3:]))
        asked = (num_frames, height, width)
        num_frames, height, width = (new if old is None else old for old, new in zip(asked, known, strict=True))
        return height, width, num_frames

    def prepare_latents(
        self,
        batch_size: int,
        num_frames: int,
        height: int,
        width: int,
        dtype: torch.dtype,
        device: str | torch.device,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        *,
        video: Tensor | None = None,
        timestep: Tensor | None = None,
        chunk_size: int | None = None,
    ) -> Tensor:
        """
        Latents that sampling starts from: noise of the prior in the configuration, or the latents of a video with such
        noise added.

        Args:
            batch_size (`int`): Number of videos.
            num_frames (`int`): Frames of each.
            height (`int`): Height in pixels.
            width (`int`): Width in pixels.
            dtype (`torch.dtype`): Type wanted.
            device (`str` or `torch.device`): Where they are wanted.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): One for all videos, or one for each.
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`, *optional*): Unit noise to use.
            video (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`, *optional*): In [0, 1].
            timestep (`torch.Tensor`, *optional*): Timestep of the noise added to `video`.
            chunk_size (`int`, *optional*): Frames encoded at once.

        Returns:
            `torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`.

        Raises:
            ValueError: If the prior is not independent, and the latents have no frames that could share noise.
            FloatingPointError: If the autoencoder gives a NaN or an infinity.
        """
        shape = (batch_size, *latent_space.latents_shape(self.vae, num_frames, height, width))
        encoded = None
        if video is not None:
            encoded = latent_space.encode_video(self.vae, video * 2 - 1, generator, chunk_size).to(device, dtype)
            check_finite(encoded, "Encoding the video", "Load `vae` in float32 or bfloat16.")
        noise = latents
        if noise is None:
            prior = (self.config.noise_prior, self.config.noise_prior_strength)
            noise = draw_noise(shape, *prior, generator=generator, device=device, dtype=dtype)
        noise = noise.to(device, dtype)
        if encoded is None:
            return noise * self.scheduler.init_noise_sigma
        return self.scheduler.add_noise(encoded, noise, timestep.reshape(-1)[:1].repeat(batch_size))
