"""Tiny factorised U-Nets of every kind, with random weights in all layers."""

import torch
from torch import Tensor

from diffusers_video import UNetSpaceTimeModel


_BASE = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "attention_levels": (False, True),
    "num_attention_heads": 2,
    "norm_num_groups": 4,
    "max_relative_distance": 2,
}
KINDS = {
    "lvdm": {},
    "released": {"relative_positions": "released", "use_frame_mask": True, "num_noise_levels": 11},
    "lvdm_text": {"attention_type": "interleaved", "cross_attention_dim": 12, "resnet_time_scale_shift": "default"},
    "vdm": {
        "in_channels": 3,
        "out_channels": 3,
        "joint_norm": False,
        "joint_temporal_norm": False,
        "resnet_time_scale_shift": "default",
        "time_embed_layers": 4,
        "timestep_type": "log_snr",
        "pooled_text_dim": 16,
        "num_attention_heads": None,
        "attention_head_dim": 8,
    },
    "videocrafter": {
        "attention_type": "sequential",
        "cross_attention_dim": 12,
        "input_attention": True,
        "joint_norm": False,
        "use_fps": True,
        "relative_positions": "keys",
    },
}


def tiny_space_time(kind: str = "lvdm", **options: object) -> UNetSpaceTimeModel:
    """Build a U-Net of a kind, in evaluation mode, whose last layers are not zero as those of new ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNetSpaceTimeModel(**{**_BASE, **KINDS[kind], **options}).eval()
        with torch.no_grad():
            for parameter in unet.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.7 / parameter[0].numel() ** 0.5)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return unet


def space_time_inputs(
    unet: UNetSpaceTimeModel, num_frames: int = 4, batch_size: int = 2, size: tuple[int, int] = (8, 8)
) -> dict[str, Tensor]:
    """Make arguments of `forward` that suit the options."""
    config = unet.config
    generator = torch.Generator().manual_seed(1)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    sample = randn(batch_size, config.in_channels, num_frames, *size)
    inputs = {"sample": sample, "timestep": torch.arange(batch_size) * 3.0 - 1}
    if config.timestep_type == "discrete":
        inputs["timestep"] = torch.arange(batch_size) * 400 + 7
    if config.cross_attention_dim or config.pooled_text_dim:
        inputs["encoder_hidden_states"] = randn(batch_size, 5, config.cross_attention_dim or config.pooled_text_dim)
    if config.use_frame_mask:
        inputs["context_latents"] = randn(*sample.shape)
        inputs["frame_mask"] = (torch.arange(num_frames) == 0).expand(batch_size, -1)
    if config.num_noise_levels:
        inputs["noise_level"] = torch.arange(batch_size)
    if config.use_fps:
        inputs["fps"] = torch.arange(batch_size) * 8 + 8.0
    return inputs
