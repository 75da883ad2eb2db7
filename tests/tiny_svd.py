"""A tiny Stable Video Diffusion: diffusers' own classes, random weights, no download."""

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from diffusers_video import ImageToVideoPipeline
from diffusers_video.conversion.spatio_temporal_unet import convert_spatio_temporal_unet
from diffusers_video.conversion.temporal_decoder import convert_temporal_decoder


SIZE = 16  # pixels; the latents are 8 by 8
NUM_FRAMES = 3
WIDTH = 16  # of the image embedding

# As Stability AI publishes it.
SVD_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "interpolation_type": "linear",
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}


def tiny_svd_unet() -> UNetSpatioTemporalConditionModel:
    """The U-Net, in the widths at which the original code has one and two heads of 64 channels."""
    return UNetSpatioTemporalConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        num_attention_heads=(1, 2),
        num_frames=NUM_FRAMES,
    )


def tiny_svd(seed: int = 0) -> StableVideoDiffusionPipeline:
    """The pipeline of diffusers, always with the same weights; those of norms and mixers are random as well."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            layers_per_block=2,
            scaling_factor=0.18215,
        )
        config = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=16,
            image_size=224,
            patch_size=56,
            projection_dim=WIDTH,
            hidden_act="gelu",
        )
        pipeline = StableVideoDiffusionPipeline(
            vae=vae,
            image_encoder=CLIPVisionModelWithProjection(config),
            unet=tiny_svd_unet(),
            scheduler=EulerDiscreteScheduler(**SVD_SCHEDULER),
            feature_extractor=CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224),
        )
        for model in (pipeline.vae, pipeline.image_encoder, pipeline.unet):
            model.eval()
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.data += 0.1 * torch.randn_like(parameter)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_image_to_video(dtype: torch.dtype = torch.float32) -> ImageToVideoPipeline:
    """The same in our classes."""
    theirs = tiny_svd()
    pipeline = ImageToVideoPipeline(
        vae=convert_temporal_decoder(theirs.vae),
        image_encoder=theirs.image_encoder,
        unet=convert_spatio_temporal_unet(theirs.unet),
        scheduler=EulerDiscreteScheduler(**SVD_SCHEDULER),
        feature_extractor=theirs.feature_extractor,
        num_frames=NUM_FRAMES,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)


def some_image(seed: int = 0, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """An image with smooth parts and edges; size is width and height."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)
