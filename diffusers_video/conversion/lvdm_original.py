"""
LVDM and VideoCrafter 1 as they were published: names, shapes and tensors of their networks -> those of our models.

Source:
    LVDM (arXiv:2211.13221) and the networks of its released code: `autoencoder3d.AutoencoderKL`, and `UNetModel` and
    `FrameInterpPredUNet` of `openaimodel3d`; VideoCrafter (arXiv:2310.19512), `UNetModel` of its released code.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from .ldm_names import ENDS, RESNET, count_layers, level_starts, level_widths, locate, swap


Shapes = Mapping[str, tuple[int, ...]]
Value = TypeVar("Value")

_RELATIVE = ".relative_position_k.embeddings_table"
_ENDS = {
    **ENDS,
    "label_emb": "noise_level_embedding",
    "fps_embedding.0": "fps_embedding.linear_1",
    "fps_embedding.2": "fps_embedding.linear_2",
}
_PAIR = {
    "norm_s": "spatial_attention.group_norm",
    "qkv_s": "spatial_attention.qkv",
    "proj_out_s": "spatial_attention.to_out.0",
    "norm_t": "temporal_norm",
    "qkv_t": "temporal_attention.qkv",
    "proj_out_t": "temporal_attention.to_out.0",
    "relative_position_k.embeddings_table": "temporal_attention.relative_keys",
    "relative_position_v.embeddings_table": "temporal_attention.relative_values",
}
_INTERLEAVED = {
    "attn1_tmp": "temporal_attn1",
    "attn2_tmp": "temporal_attn2",
    "norm4": "temporal_norm1",
    "norm5": "temporal_norm2",
}
_IN_TIME = {  # of transformers that attend in time only
    "attn1": "temporal_attn1",
    "attn2": "temporal_attn2",
    "norm1": "temporal_norm1",
    "norm2": "temporal_norm2",
}
_TRANSFORMER_BLOCK = re.compile(r"(transformer_blocks\.\d+)\.(.+)")

_AUTOENCODER_BLOCK = re.compile(r"(?:encoder|decoder)\.conv_blocks\.(\d+)\.(down|res|up|res1|res2)\.(.+)")
_AUTOENCODER_PLACES = {
    "down": "encoder.down_blocks.{}.downsampler",
    "res": "encoder.down_blocks.{}.resnet",
    "up": "decoder.up_blocks.{}.upsampler",
    "res1": "decoder.up_blocks.{}.resnets.0",
    "res2": "decoder.up_blocks.{}.resnets.1",
}
_AUTOENCODER_ENDS = {
    "encoder.conv_first": "encoder.conv_in",
    "encoder.final_block.0": "encoder.conv_norm_out",
    "encoder.final_block.2": "encoder.conv_out",
}


def autoencoder_weights(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """
    Rename the weights of the 3D autoencoder.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Those of `AutoencoderKL`, or their shapes. A padded convolution has its
            kernel there twice, as `conv.weight` and as `weight`.

    Returns:
        `dict[str, torch.Tensor]`: Those of an [`AutoencoderKL3D`]; names that are not known are kept.
    """
    aliases = {name.replace(".conv.weight", ".weight") for name in tensors if name.endswith(".conv.weight")}
    return {_autoencoder_name(name): tensor for name, tensor in tensors.items() if name not in aliases}


def _autoencoder_name(name: str) -> str:
    path, _, kind = name.rpartition(".")
    path = re.sub(r"\.convt?$", "", path)  # of the padded convolutions
    if match := _AUTOENCODER_BLOCK.fullmatch(f"{path}.{kind}"):
        block, layer, rest = match.groups()
        return f"{_AUTOENCODER_PLACES[layer].format(block)}.{rest}"
    return f"{_AUTOENCODER_ENDS.get(path, path)}.{kind}"


def autoencoder_options(shapes: Shapes) -> dict[str, Any]:
    """
    Read the options of the autoencoder off its weights.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes by our names.

    Returns:
        `dict[str, Any]`: Arguments of [`AutoencoderKL3D`]. Which axes a level halves is not among them, because the
        weights do not tell.

    Raises:
        KeyError: If a weight that tells an option is missing.
    """
    levels = len({name.split(".")[2] for name in shapes if name.startswith("encoder.down_blocks.")})
    widths = [shapes[f"encoder.down_blocks.{level}.downsampler.weight"] for level in range(levels)]
    first_width, in_channels = shapes["encoder.conv_in.weight"][:2]
    return {
        "in_channels": in_channels,
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "block_out_channels": (first_width, *(shape[0] for shape in widths)),
        "latent_channels": shapes["post_quant_conv.weight"][0],
    }


def unet_options(shapes: Shapes) -> dict[str, Any]:
    """
    Read the options of a U-Net off its weights.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes by original name.

    Returns:
        `dict[str, Any]`: Arguments of [`UNetSpaceTimeModel`].

    Raises:
        KeyError: If a weight that tells an option is missing.
        ValueError: If it is of another kind.
    """
    widths = level_widths(shapes)
    starts = level_starts(shapes)
    in_channels, out_channels = shapes["input_blocks.0.0.weight"][1], shapes["out.2.weight"][0]
    has_mask = "label_emb.weight" in shapes and in_channels == out_channels + 1
    first = "input_blocks.1.0"
    is_scaled = shapes[f"{first}.emb_layers.1.weight"][0] == 2 * shapes[f"{first}.out_layers.0.weight"][0]
    options = {
        "in_channels": in_channels - has_mask,
        "out_channels": out_channels,
        "block_out_channels": widths,
        "layers_per_block": count_layers(shapes),
        "attention_levels": tuple(
            any(name.startswith(f"input_blocks.{start}.1.") for name in shapes) for start in starts
        ),
        "resnet_time_scale_shift": "scale_shift" if is_scaled else "default",
        "use_frame_mask": has_mask,
        "num_noise_levels": shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else None,
        "use_fps": "fps_embedding.0.weight" in shapes,
        "input_attention": "init_attn.0.norm.weight" in shapes,
    }
    return {**options, **_attention_options(shapes, widths)}


def _attention_options(shapes: Shapes, widths: tuple[int, ...]) -> dict[str, Any]:
    tables = {name.removesuffix(_RELATIVE): shape for name, shape in shapes.items() if name.endswith(_RELATIVE)}
    in_middle = [name for name in tables if name.startswith("middle_block.")]
    if not in_middle:
        raise ValueError(
            "The weights must be those of a U-Net with relative positions, but have none. VideoCrafter 2 is converted"
            " by `convert_videocrafter2_unet`."
        )
    rows, dim_head = tables[in_middle[0]]
    if "middle_block.1.norm_s.weight" in shapes:
        kind = {"attention_type": "pair", "relative_positions": "released"}
    elif "middle_block.1.transformer_blocks.0.norm4.weight" in shapes:
        kind = {"attention_type": "interleaved"}
    else:
        kind = {"attention_type": "sequential", "joint_norm": False}
    if kind["attention_type"] == "sequential":  # whose heads have the same width on all levels
        heads = {"num_attention_heads": None, "attention_head_dim": dim_head}
    else:
        heads = {"num_attention_heads": widths[-1] // dim_head}
    if kind["attention_type"] != "pair":
        blocks = {name.split(".")[3] for name in shapes if name.startswith("middle_block.1.transformer_blocks.")}
        kind["transformer_depth"] = len(blocks)
        kind["cross_attention_dim"] = shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1]
    return {**kind, **heads, "max_relative_distance": rows // 2}


def unet_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Rename the weights of a U-Net and bring them into our form.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Those of LVDM's or VideoCrafter 1's.

    Returns:
        `dict[str, torch.Tensor]`: Those of a [`UNetSpaceTimeModel`]: convolutions of one frame in 2D, those of one
        position as linear layers, and queries, keys and values apart. Names that are not known are kept.
    """
    layers = count_layers(tensors)
    middle_end = max(int(name.split(".")[1]) for name in tensors if name.startswith("middle_block."))
    weights = {}
    for name, tensor in tensors.items():
        name = _unet_name(name, layers, middle_end)
        if tensor.ndim == 5:
            tensor = tensor[:, :, 0]
        if name.endswith((".proj_in.weight", ".proj_out.weight", ".qkv.weight", ".to_out.0.weight")):
            tensor = tensor.flatten(1)
        stem, mark, kind = name.partition(".qkv.")
        if mark:
            for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
                weights[f"{stem}.to_{letter}.{kind}"] = rows.clone()
        else:
            weights[name] = tensor.contiguous()
    return weights


def _unet_name(name: str, layers: int, middle_end: int) -> str:
    if (end := swap(name, _ENDS)) != name:
        return end
    if name.startswith("init_attn.0."):
        return f"input_transformer.{_transformer_name(name.removeprefix('init_attn.0.'), _IN_TIME)}"
    place = locate(name, layers, middle_end)
    if place is None:
        return name
    layer, rest, position = place
    if "samplers" in layer:
        return f"{layer}.{rest}"
    if position == 0 or "resnets" in layer:
        return f"{layer}.{swap(rest, RESNET)}"
    return f"{layer}.{_attention_name(rest, position, middle_end)}"


def _attention_name(rest: str, position: int, middle_end: int) -> str:
    if (pair := swap(rest, _PAIR)) != rest:
        return pair
    if middle_end == 2:
        return _transformer_name(rest, _INTERLEAVED)
    if position == 1:
        return f"spatial_transformer.{_transformer_name(rest, {})}"
    return f"temporal_transformer.{_transformer_name(rest, _IN_TIME)}"


def _transformer_name(rest: str, table: Mapping[str, str]) -> str:
    match = _TRANSFORMER_BLOCK.fullmatch(rest)
    if match is None:
        return rest
    block, rest = match.groups()
    for letter, ours in (("k", "keys"), ("v", "values")):
        rest = rest.replace(f"relative_position_{letter}.embeddings_table", f"relative_{ours}")
    return f"{block}.{swap(rest, table)}"
