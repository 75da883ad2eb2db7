"""What autoencoders are trained on and measured by."""

# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images; c, h, w of the latents.

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from diffusers_video.layers.layout import images_to_videos, videos_to_images
from diffusers_video.metrics.consistency import flicker
from diffusers_video.metrics.frames import psnr
from diffusers_video.pipelines.latents import is_video_autoencoder


class FrameAutoencoder(nn.Module):
    """
    Encode and decode frames in one call, which is what distributed training wraps.

    Args:
        vae (`AutoencoderKL`): The autoencoder.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """
        Reconstruct frames.

        Args:
            images (`torch.Tensor` of shape `(num_images, channels, height, width)`): Values in [-1, 1].
            generator (`torch.Generator`, *optional*): Draws the latents from their posterior; without one its mode
                is decoded.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Reconstructions of the shape of `images`, and the KL divergence of
            each image's posterior from a standard normal distribution, `(num_images,)`, summed over its latents.
        """
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        return self.vae.decode(latents).sample, posterior.kl()


def reconstruction_loss(reconstructions: Tensor, images: Tensor, kind: str) -> Tensor:
    """
    Compare reconstructions with what they should be.

    Args:
        reconstructions (`torch.Tensor`): Of any shape.
        images (`torch.Tensor`): Of the same shape.
        kind (`str`): `"l1"`, `"l2"`, or `"l1+l2"` for their sum.

    Returns:
        `torch.Tensor`: Scalar, the mean over all values.
    """
    error = reconstructions.float() - images.float()
    terms = {"l1": error.abs(), "l2": error.square()}
    return sum(terms[name].mean() for name in kind.split("+"))


def reconstruct_frames(model: nn.Module, videos: Tensor) -> Tensor:
    """
    Reconstruct videos by an autoencoder of images, from the mode of each posterior.

    Args:
        model (`torch.nn.Module`): A [`FrameAutoencoder`].
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Values in [-1, 1].

    Returns:
        `torch.Tensor`: Of the same shape.
    """
    return images_to_videos(model(videos_to_images(videos))[0], videos.shape[2])


@torch.no_grad()
def heldout_reconstruction(
    reconstruct: Callable[[Tensor], Tensor],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    clips: Sequence[dict[str, Any]],
    device: torch.device,
) -> dict[str, float]:
    """
    Reconstruct held-out clips and compare them with what they were.

    Args:
        reconstruct (`Callable`): Takes and returns videos `(1, channels, num_frames, height, width)`; it must draw
            nothing at random.
        loss_fn (`Callable`): `(reconstructions, videos) -> loss`.
        clips (`Sequence[dict[str, Any]]`): With `pixel_values` `(channels, num_frames, height, width)`.
        device (`torch.device`): Where it runs.

    Returns:
        `dict[str, float]`: `heldout_loss`, the mean of `loss_fn`; `heldout_psnr` in dB, the mean of [`psnr`] over
        frames; and of clips with several frames `heldout_flicker`, the mean of [`flicker`]. Both are of
        reconstructions clamped to [-1, 1].
    """
    measured: dict[str, list[Tensor]] = {"heldout_loss": [], "heldout_psnr": [], "heldout_flicker": []}
    for clip in clips:
        videos = clip["pixel_values"][None].to(device)
        reconstructions = reconstruct(videos)
        measured["heldout_loss"].append(loss_fn(reconstructions, videos))
        pictures = reconstructions.float().clamp(-1, 1)  # as they are shown
        measured["heldout_psnr"].append(psnr(pictures, videos, value_range=(-1, 1)).mean())
        if videos.shape[2] > 1:
            measured["heldout_flicker"].append(flicker(pictures, videos, value_range=(-1, 1)).mean())
    return {name: torch.stack(values).double().mean().item() for name, values in measured.items() if values}


@torch.no_grad()
def measure_scaling_factor(vae: nn.Module, clips: Sequence[dict[str, Any]]) -> float:
    """
    Find the factor that gives latents unit variance.

    Args:
        vae (`torch.nn.Module`): An autoencoder of images or of clips, with a posterior.
        clips (`Sequence[dict[str, Any]]`): With `pixel_values` `(channels, num_frames, height, width)`.

    Returns:
        `float`: One over the standard deviation of sampled latents, over all channels together.

    Source:
        Latent Diffusion Models (arXiv:2112.10752), Appendix G, "Rescaling of the latent space".
    """
    generator = torch.Generator().manual_seed(0)
    parts = []
    for clip in clips:
        videos = clip["pixel_values"][None].to(vae.device, vae.dtype)
        images = videos if is_video_autoencoder(vae) else videos_to_images(videos)
        parts.append(vae.encode(images).latent_dist.sample(generator).float().flatten())
    return 1 / torch.cat(parts).std().item()


def zero_init_residuals(vae: nn.Module) -> None:
    """
    Let the residual blocks of a new model add nothing at first, so that its shortest path is learned first.

    Args:
        vae (`torch.nn.Module`): The last convolution of each `ResnetBlock2D` is set to zero.

    Source:
        Fixup (arXiv:1901.09321), rule 1: the last layer of each residual branch begins at 0.
    """
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
