"""Image pipelines of every family and their video pipelines: they run in milliseconds and download nothing."""

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from diffusers_video import TextToVideoPipeline
from diffusers_video.pipelines.byte_tokenizer import build_byte_tokenizer

from .tiny_models import shake_temporal_layers, tiny_unet2d


TEXT_WIDTH = 12
POOLED_WIDTH = 10
MAX_TOKENS = 77
SIZE = 16  # pixels; the latents are 8 by 8
FAMILIES = ("sd15", "sd21", "sdxl", "lcm")


def tiny_tokenizer() -> CLIPTokenizer:
    """A tokenizer of single bytes: every text has its tokens, and there is nothing to download."""
    return build_byte_tokenizer(MAX_TOKENS)


def tiny_text_encoder(projection: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A text encoder of three layers and width 12."""
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=TEXT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=POOLED_WIDTH,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def tiny_vae() -> AutoencoderKL:
    """An autoencoder of images with 4 latent channels and half the pixels in height and width."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
    ).eval()


def tiny_vae_without_posterior() -> AutoencoderTiny:
    """An `AutoencoderTiny` of the sizes of [`tiny_vae`]."""
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()


def tiny_scheduler(family: str = "sd15") -> DDIMScheduler | LCMScheduler:
    """The noise schedule of Stable Diffusion; v-prediction for 2.1."""
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if family == "lcm":
        return LCMScheduler(**schedule, steps_offset=1)
    prediction_type = "v_prediction" if family == "sd21" else "epsilon"
    return DDIMScheduler(
        **schedule, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type
    )


def tiny_image_encoder() -> CLIPVisionModelWithProjection:
    """An image encoder for IP-Adapters: 16 by 16 pixels, width 16, projected to 16."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=16,
    )
    return CLIPVisionModelWithProjection(config).eval()


def tiny_feature_extractor() -> CLIPImageProcessor:
    """The image processor of [`tiny_image_encoder`]."""
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def tiny_image_pipeline(family: str = "sd15", **components) -> DiffusionPipeline:
    """The image pipeline of a family, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        parts = {
            "vae": tiny_vae(),
            "text_encoder": tiny_text_encoder(),
            "tokenizer": tiny_tokenizer(),
            "unet": tiny_unet2d(family, cross_attention_dim=TEXT_WIDTH * (2 if family == "sdxl" else 1)),
            "scheduler": tiny_scheduler(family),
        }
        if family == "sdxl":
            parts |= {"text_encoder_2": tiny_text_encoder(projection=True), "tokenizer_2": tiny_tokenizer()}
            pipeline = StableDiffusionXLPipeline(**{**parts, **components}, add_watermarker=False)
        else:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            pipeline = StableDiffusionPipeline(**{**parts, **components})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_text_to_video(
    family: str = "sd15", preset: str = "light", trained: bool = True, dtype: torch.dtype = torch.float32
) -> TextToVideoPipeline:
    """The video pipeline of a family; `trained` gives its temporal layers random weights, so that frames mix."""
    pipeline = TextToVideoPipeline.from_image_model(tiny_image_pipeline(family), preset, num_frames=3, fps=4.0)
    if trained:
        shake_temporal_layers(pipeline.unet)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)


def tiny_given(
    pipeline_class: type[DiffusionPipeline], family: str = "sd15", dtype: torch.dtype = torch.float32, **options
) -> DiffusionPipeline:
    """A pipeline for given frames, whose temporal layers have random weights; windows of 5 frames."""
    pipeline = pipeline_class.from_image_model(
        tiny_image_pipeline(family), "light", temporal_options=options, num_frames=5, fps=8.0
    )
    shake_temporal_layers(pipeline.unet)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)


def tiny_controlnet(unet: UNet2DConditionModel, seed: int = 3) -> ControlNetModel:
    """A ControlNet of an image U-Net whose residuals are not zero."""
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in controlnet.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return controlnet.eval()
