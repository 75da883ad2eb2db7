"""Tiny upscalers: Stable Diffusion's in latents, with 4 pixels to a latent, and one in pixels."""

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionUpscalePipeline

from diffusers_video import UNetVideoConditionModel, VideoSuperResolutionPipeline

from .tiny_models import shake_temporal_layers, tiny_unet2d
from .tiny_pipelines import TEXT_WIDTH, tiny_scheduler, tiny_text_encoder, tiny_tokenizer


KINDS = ("latent", "pixel")


def tiny_image_upscaler() -> StableDiffusionUpscalePipeline:
    """The image upscaler, always with the same weights; low-resolution frames have the size of the latents."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.08333,
        )
        pipeline = StableDiffusionUpscalePipeline(
            vae=vae.eval(),
            text_encoder=tiny_text_encoder(),
            tokenizer=tiny_tokenizer(),
            unet=tiny_unet2d("x4_upscaler", cross_attention_dim=TEXT_WIDTH),
            low_res_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            scheduler=tiny_scheduler("sd21"),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_pixel_unet(**options: object) -> UNetVideoConditionModel:
    """A new video denoiser of noisy pixels beside low-resolution ones, which reads no text."""
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    options = {"class_embed_type": "timestep", "mid_block_type": "UNetMidBlock2D", **blocks, **options}
    return UNetVideoConditionModel.from_unet2d(tiny_unet2d("sd15", in_channels=6, out_channels=3, **options))


def tiny_upscaler(
    kind: str = "latent",
    preset: str = "light",
    trained: bool = True,
    dtype: torch.dtype = torch.float32,
    weight_size: float = 0.2,
    **settings: object,
) -> VideoSuperResolutionPipeline:
    """The video upscaler; `trained` gives its temporal layers random weights of this size, so that frames mix."""
    settings = {"num_frames": 4, "chunk_overlap": 1, "fps": 6.0, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        if kind == "latent":
            overlap = settings.pop("chunk_overlap")
            pipeline = VideoSuperResolutionPipeline.from_image_model(tiny_image_upscaler(), preset, **settings)
            pipeline.register_to_config(chunk_overlap=overlap)
        else:
            low_res_scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
            pipeline = VideoSuperResolutionPipeline(tiny_pixel_unet(), tiny_scheduler(), low_res_scheduler, **settings)
    if trained:
        shake_temporal_layers(pipeline.unet, weight_size)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)
