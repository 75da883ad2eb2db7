"""Tiny pipelines without text, of every kind: latents of videos, latents of images, triplanes, and pixels."""

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import DDIMScheduler, ModelMixin

from diffusers_video import AutoencoderKL3D, UnconditionalVideoPipeline
from diffusers_video.training.unconditional import LVDM_SCHEDULE

from .tiny_pipelines import tiny_vae
from .tiny_space_time import tiny_space_time
from .tiny_triplane import tiny_autoencoder_triplane, tiny_unet_triplane


KINDS = ("video", "image", "pixel", "triplane")
FRAMES = {"video": 8, "image": 3, "pixel": 3, "triplane": 2}
SIDES = {"video": (16, 16), "image": (16, 16), "pixel": (8, 8), "triplane": (8, 12)}


def tiny_autoencoder_kl_3d(**options: object) -> AutoencoderKL3D:
    """Half the frames, half the height and width; latents whose scale and shift are not trivial."""
    own = {"block_out_channels": (4, 8), "downsample_factors": (2, 2, 2), "norm_num_groups": 4, "sample_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL3D(**{**own, "scaling_factor": 0.5, "shift_factor": 0.25, **options}).eval()


def make_parts(kind: str, **options: object) -> tuple[ModelMixin, ModelMixin | None]:
    """Denoiser and autoencoder of a kind; `options` are the denoiser's."""
    if kind == "triplane":
        return tiny_unet_triplane(**options), tiny_autoencoder_triplane()
    if kind == "pixel":
        return tiny_space_time(in_channels=3, out_channels=3, **options), None
    return tiny_space_time(**options), tiny_autoencoder_kl_3d() if kind == "video" else tiny_vae()


def tiny_unconditional(
    kind: str = "video", dtype: torch.dtype = torch.float32, max_noise_level: int = 0, **options: object
) -> UnconditionalVideoPipeline:
    """A pipeline of a kind, whose denoiser does something."""
    unet, vae = make_parts(kind, **options)
    scheduler = DDIMScheduler(**LVDM_SCHEDULE, clip_sample=False)
    height, width = SIDES[kind]
    sizes = {"num_frames": FRAMES[kind], "fps": 4.0, "height": height, "width": width}
    pipeline = UnconditionalVideoPipeline(unet, scheduler, vae, **sizes, max_noise_level=max_noise_level)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)
