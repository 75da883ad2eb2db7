"""Options of [`UNetSpaceTimeModel`]: published configurations, and what is refused."""

from collections.abc import Mapping
from typing import Any

from ..layers.condition_embedding import POOLING_HEADS
from ..layers.factorised_attention import ATTENTION_TYPES
from ..layers.frame_attention import RELATIVE_POSITIONS
from .inflation import check_choice


TIMESTEP_TYPES = ("discrete", "log_snr")
TIME_SCALE_SHIFTS = ("default", "scale_shift")
_LEAST = {
    "layers_per_block": 1,
    "transformer_depth": 1,
    "max_relative_distance": 1,
    "time_embed_layers": 2,
    "num_class_embeds": 1,
    "num_noise_levels": 1,
}

_LVDM_FRAMES = {"in_channels": 4, "out_channels": 4, "use_frame_mask": True, "num_noise_levels": 251}
_SPACE_TIME = {"joint_norm": False, "joint_temporal_norm": False, "relative_positions": "keys_values"}

_VDM = {  # arXiv:2204.03458, Appendix A
    **_SPACE_TIME,
    "in_channels": 3,
    "out_channels": 3,
    "sample_size": 64,
    "block_out_channels": (256, 512, 1024, 2048),
    "layers_per_block": 2,
    "attention_levels": (False, True, True, True),
    "num_attention_heads": None,
    "attention_head_dim": 64,
    "resnet_time_scale_shift": "default",
    "time_embed_dim": 1024,
    "time_embed_layers": 4,
    "timestep_type": "log_snr",
    "max_relative_distance": 16,
    "dropout": 0.1,
}
_VDM_TEXT = {**_VDM, "pooled_text_dim": 1024, "dropout": 0.0}
_SMALL = (128, 256, 512, 1024)

PRESETS: dict[str, dict[str, Any]] = {
    "lvdm": {},
    "lvdm_prediction": _LVDM_FRAMES,
    "lvdm_interpolation": {**_LVDM_FRAMES, "max_relative_distance": 5},
    "lvdm_text_to_video": {
        "attention_type": "interleaved",
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "attention_levels": (True, True, True, False),
        "num_attention_heads": 8,
        "resnet_time_scale_shift": "default",
        "cross_attention_dim": 768,
        "max_relative_distance": 16,
    },
    "vdm_ucf101": _VDM,
    "vdm_bair": {**_VDM, "block_out_channels": (128, 256, 384, 512), "layers_per_block": 3, "time_embed_layers": 2},
    "vdm_kinetics": {**_VDM, "time_embed_layers": 2},
    "vdm_text_small": {**_VDM_TEXT, "block_out_channels": _SMALL},
    "vdm_text": _VDM_TEXT,
    "vdm_text_128": {
        **_VDM_TEXT,
        "sample_size": 128,
        "block_out_channels": (*_SMALL, 2048),
        "attention_levels": (False, False, True, True, True),
        "attention_head_dim": 128,
    },
}


def check_options(config: Mapping[str, Any]) -> None:
    """
    Refuse options that are out of their range or do not fit each other.

    Args:
        config (`Mapping[str, Any]`): Configuration of a [`UNetSpaceTimeModel`], complete.

    Raises:
        ValueError: Naming the option.
    """
    check_choice("attention_type", config["attention_type"], ATTENTION_TYPES)
    check_choice("relative_positions", config["relative_positions"], RELATIVE_POSITIONS)
    check_choice("timestep_type", config["timestep_type"], TIMESTEP_TYPES)
    check_choice("resnet_time_scale_shift", config["resnet_time_scale_shift"], TIME_SCALE_SHIFTS)
    for name, least in _LEAST.items():
        if config[name] is not None and config[name] < least:
            raise ValueError(f"`{name}` must be at least {least}, but is {config[name]}. Choose a larger number.")
    widths, levels, groups = config["block_out_channels"], config["attention_levels"], config["norm_num_groups"]
    if len(widths) != len(levels) or not widths or any(width < 1 or width % groups for width in widths):
        raise ValueError(
            f"`block_out_channels` must be multiples of `norm_num_groups`={groups}, one for each of the"
            f" {len(levels)} `attention_levels`, but is {tuple(widths)}. Change one of the three."
        )
    _check_heads(config)
    _check_text(config)
    if config["relative_positions"] == "released" and config["attention_type"] != "pair":
        raise ValueError(
            "`relative_positions`='released' stands for weights of LVDM with `attention_type`='pair', but that is"
            f" {config['attention_type']!r}, whose released weights have 'keys_values'."
        )


def _check_heads(config: Mapping[str, Any]) -> None:
    heads, dim_head = config["num_attention_heads"], config["attention_head_dim"]
    if (heads is None) == (dim_head is None):
        raise ValueError(
            "One of `num_attention_heads` and `attention_head_dim` must be `None`, but they are"
            f" {heads} and {dim_head}: the other one follows from the channels."
        )
    divisor = heads if dim_head is None else dim_head
    widths = config["block_out_channels"]
    attending = {width for width, attends in zip(widths, config["attention_levels"], strict=True) if attends}
    if wrong := [width for width in sorted({*attending, widths[-1]}) if divisor < 1 or width % divisor]:
        raise ValueError(
            f"`num_attention_heads` or `attention_head_dim` must divide the channels of levels with attention, but"
            f" {divisor} does not divide {wrong[0]}. Choose another number."
        )


def _check_text(config: Mapping[str, Any]) -> None:
    text_dim, pooled_dim = config["cross_attention_dim"], config["pooled_text_dim"]
    if text_dim is not None and (config["attention_type"] == "pair" or pooled_dim is not None):
        raise ValueError(
            f"`cross_attention_dim` needs transformers, `attention_type` 'interleaved' or 'sequential', and no"
            f" `pooled_text_dim`, but is {text_dim} with {config['attention_type']!r} and {pooled_dim}. Take one form"
            " of text."
        )
    if pooled_dim is not None and (pooled_dim < 1 or pooled_dim % POOLING_HEADS):
        raise ValueError(
            f"`pooled_text_dim` must be a multiple of {POOLING_HEADS}, but is {pooled_dim}. It is the width of the"
            " text encoder."
        )
