"""Tiny versions of the image models that tests inflate: the real classes, a few thousand weights, no download."""

import torch
from diffusers import UNet2DConditionModel


_BASE = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}

UNET2D_FAMILIES = {
    "sd15": {},
    "sd21": {
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 10,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
    },
    "inpainting": {"in_channels": 9},
    "instruct_pix2pix": {"in_channels": 8},
    "lcm": {"time_cond_proj_dim": 6},
    "unclip": {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 14,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
    },
    "x4_upscaler": {
        "in_channels": 7,
        "only_cross_attention": (True, False),
        "num_class_embeds": 1000,
        "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "k_upscaler": {
        "sample_size": 16,
        "in_channels": 8,
        "out_channels": 5,
        "act_fn": "gelu",
        "block_out_channels": (32, 32, 64, 64),
        "attention_head_dim": 8,
        "conv_in_kernel": 1,
        "conv_out_kernel": 1,
        "down_block_types": ("KDownBlock2D", *["KCrossAttnDownBlock2D"] * 3),
        "mid_block_type": None,
        "norm_num_groups": None,
        "resnet_time_scale_shift": "scale_shift",
        "time_cond_proj_dim": 14,
        "time_embedding_type": "fourier",
        "timestep_post_act": "gelu",
        "up_block_types": (*["KCrossAttnUpBlock2D"] * 3, "KUpBlock2D"),
    },
    "if_simple": {
        "in_channels": 3,
        "out_channels": 6,
        "act_fn": "gelu",
        "attention_head_dim": 4,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "cross_attention_norm": "group_norm",
        "cross_attention_dim": 32,
        "encoder_hid_dim": 12,
        "encoder_hid_dim_type": "text_proj",
        "block_out_channels": (32, 64),
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_scale_factor": 1.414,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "norm_num_groups": 8,
        "resnet_out_scale_factor": 1.414,
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_act_fn": "gelu",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    },
}


def tiny_unet2d(family: str = "sd15", seed: int = 0, **options: object) -> UNet2DConditionModel:
    """Build the image U-Net of a family, with random weights, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(**{**_BASE, **UNET2D_FAMILIES[family], **options}).eval()


def video_inputs(
    unet2d: UNet2DConditionModel,
    batch_size: int = 2,
    num_frames: int = 3,
    size: int | None = None,
    tokens: int = 77,
    seed: int = 0,
) -> dict[str, object]:
    """Make arguments of a video U-Net's `forward`, one row per video, that suit the image U-Net's options."""
    config = unet2d.config
    size = config.sample_size if size is None else size
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    text_dim = config.encoder_hid_dim or config.cross_attention_dim
    inputs = {
        "sample": randn(batch_size, config.in_channels, num_frames, size, size),
        "timestep": torch.randint(0, 1000, (batch_size,), generator=generator),
        "encoder_hidden_states": randn(batch_size, tokens, text_dim),
    }
    if config.time_cond_proj_dim is not None:
        inputs["timestep_cond"] = randn(batch_size, config.time_cond_proj_dim)
    if config.num_class_embeds is not None:
        inputs["class_labels"] = torch.randint(0, config.num_class_embeds, (batch_size,), generator=generator)
    if config.class_embed_type == "projection":
        inputs["class_labels"] = randn(batch_size, config.projection_class_embeddings_input_dim)
    if config.addition_embed_type == "text_time":
        time_ids = torch.randint(0, 1024, (batch_size, 6), generator=generator)
        inputs["added_cond_kwargs"] = {"text_embeds": randn(batch_size, 10), "time_ids": time_ids}
    return inputs


def image_inputs(inputs: dict[str, object]) -> dict[str, object]:
    """Turn arguments of a video U-Net into those of the image U-Net called once on all frames."""
    num_frames = inputs["sample"].shape[2]

    def repeat(value: object) -> object:
        if isinstance(value, dict):
            return {key: repeat(item) for key, item in value.items()}
        if isinstance(value, list):
            return [repeat(item) for item in value]
        return value.repeat_interleave(num_frames, dim=0)

    sample = inputs["sample"].transpose(1, 2).flatten(0, 1)
    return {"sample": sample, **{key: repeat(value) for key, value in inputs.items() if key != "sample"}}


def shake_temporal_layers(model: torch.nn.Module, scale: float = 0.2, seed: int = 1) -> torch.nn.Module:
    """Give the temporal layers of a new video model random weights, so that they do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.temporal_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model
