"""Tiny networks of PVDM: the real classes, three different sides, a few thousand weights."""

import torch
from torch import Tensor, nn

from diffusers_video import AutoencoderTriplane, UNetTriplaneModel
from diffusers_video.layers.triplane import TriplaneSize


VIDEO_SIZE = (2, 8, 12)  # frames, height and width in pixels
LATENT_SIZE = TriplaneSize(2, 4, 6)
AUTOENCODER = {
    "latent_channels": 2,
    "hidden_size": 16,
    "patch_size": 2,
    "sample_size": (8, 12),
    "num_frames": 2,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "ff_mult": 2,
    "plane_num_layers": 2,
    "plane_num_attention_heads": 2,
    "plane_mlp_dim": 12,
}
UNET = {
    "in_channels": 2,
    "out_channels": 2,
    "sample_size": (4, 6),
    "num_frames": 2,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "plane_attention": (True, False),
    "num_attention_heads": 2,
    "norm_num_groups": 4,
}


def tiny_autoencoder_triplane(**options: object) -> AutoencoderTriplane:
    return AutoencoderTriplane(**{**AUTOENCODER, **options}).eval()


def tiny_unet_triplane(**options: object) -> UNetTriplaneModel:
    """A U-Net whose new layers, which add nothing, do something."""
    return wake(UNetTriplaneModel(**{**UNET, **options}).eval())


def wake(model: nn.Module) -> nn.Module:
    """Give random values to weights that are initialised to zero."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return model


def some_videos(batch_size: int = 2, size: tuple[int, int, int] = VIDEO_SIZE) -> Tensor:
    return torch.rand(batch_size, 3, *size) * 2 - 1


def some_latents(batch_size: int = 2, size: TriplaneSize = LATENT_SIZE) -> Tensor:
    return torch.rand(batch_size, 2, sum(size.lengths)) * 2 - 1
