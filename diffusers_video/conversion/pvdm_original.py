"""
PVDM as its code saves it: names, shapes and tensors -> those of our models.

Source:
    sihyun-yu/PVDM: `ViTAutoencoder`, and a `DiffusionWrapper` around a `UNetModel`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


Shapes = Mapping[str, tuple[int, ...]]

PARALLEL_PREFIX = "module."  # what distributed training puts before every name
UNET_PREFIX = "diffusion_model."
AUTOENCODER_MARK = "encoder.to_patch_embedding.weight"
UNET_MARK = "input_blocks.0.0.weight"
ZEROS = "zeros"  # a table of the U-Net: the latents that stand for no clip before; only conditional models have it
NUM_HEADS = 8  # of the released U-Nets, whose weights do not tell
PLANES = ("xy", "yt", "xt")  # projected over time, height and width

_TABLES = ("coords", "frame_rot_emb.inv_freqs", "image_rot_emb.scales")
_ENDS = {
    "encoder.to_patch_embedding": "patch_embedding",
    "to_pixel.1": "to_pixels",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_SUBLAYERS = ("attn1", "attn2", "ff")
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(\d)\.(.+)")
_PLANE_LAYER = re.compile(r"(xy|yt|xt)_quant_attn\.layers\.(\d+)\.(\d)\.(.+)")
_PLANE = re.compile(r"(?:(pre|post)_)?(xy|yt|xt)(?:_(token|pos_embedding))?(?:\.(.+))?")
_BLOCK = re.compile(r"(?:(input|output)_blocks\.(\d+)|(middle)_block)\.(\d)\.(.+)")
_COUPLING = re.compile(r"(?:(input|output)_attns\.(\d+)|mid_attn)\.(.+)")
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def strip_prefixes(names: Iterable[str]) -> dict[str, str]:
    """
    Take off the names what wrappers put before them.

    Args:
        names (`Iterable[str]`): Names in the file.

    Returns:
        `dict[str, str]`: Names without `module.` and `diffusion_model.`, by name in the file.
    """
    return {name: name.removeprefix(PARALLEL_PREFIX).removeprefix(UNET_PREFIX) for name in names}


def autoencoder_options(shapes: Shapes) -> dict[str, Any]:
    """
    Tell the options of an autoencoder from the shapes of its weights.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes, by name without prefixes.

    Returns:
        `dict[str, Any]`: Options of [`AutoencoderTriplane`]. As in the original code, attention heads of the
        projections have an eighth of the channels.

    Raises:
        KeyError: If a weight is missing.
    """
    hidden_size, patch_values = shapes[AUTOENCODER_MARK]
    in_channels, patch_size = shapes["to_pixel.1.weight"][1:3]
    dim_head = 2 * shapes["encoder.frame_rot_emb.inv_freqs"][0]
    plane_dim = hidden_size // 8
    num_frames, height, width = (shapes[f"{plane}_pos_embedding"][1] - 1 for plane in PLANES)
    if patch_values != in_channels * patch_size**2:
        raise ValueError(
            f"The autoencoder must cut and join patches of one size, but takes {patch_values} numbers of each and"
            f" gives {in_channels} x {patch_size} x {patch_size}. Only patches of one size can be converted."
        )
    return {
        "in_channels": in_channels,
        "latent_channels": shapes["pre_xy.weight"][0],
        "hidden_size": hidden_size,
        "patch_size": patch_size,
        "sample_size": (height * patch_size, width * patch_size),
        "num_frames": num_frames,
        "num_layers": _count(shapes, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": shapes["encoder.layers.0.0.fn.to_qkv.weight"][0] // (3 * dim_head),
        "attention_head_dim": dim_head,
        "ff_mult": shapes["encoder.layers.0.2.fn.net.3.weight"][1] // hidden_size,
        "plane_num_layers": _count(shapes, r"xy_quant_attn\.layers\.(\d+)\."),
        "plane_num_attention_heads": shapes["xy_quant_attn.layers.0.0.fn.to_qkv.weight"][0] // (3 * plane_dim),
        "plane_attention_head_dim": plane_dim,
        "plane_mlp_dim": shapes["xy_quant_attn.layers.0.1.fn.net.0.weight"][0],
    }


def autoencoder_weights(tensors: Mapping[str, Tensor], patch_size: int) -> dict[str, Tensor]:
    """
    Rename and reshape the weights of an autoencoder.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Weights, by name without prefixes.
        patch_size (`int`): Pixels of a token.

    Returns:
        `dict[str, torch.Tensor]`: Those of [`AutoencoderTriplane`]. What has no place in it keeps its name.

    Raises:
        ValueError: If the tables of positions are others than ours.
    """
    weights = {}
    for name, tensor in tensors.items():
        if name.endswith(_TABLES):
            _check_table(name, tensor)
        elif name.endswith(".to_qkv.weight"):
            place = _autoencoder_name(name.removesuffix(".to_qkv.weight") + ".")
            weights |= {f"{place}to_{part}.weight": rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
        elif name == AUTOENCODER_MARK:  # rows of a patch, then columns, then channels
            patches = tensor.unflatten(1, (patch_size, patch_size, -1))
            weights["patch_embedding.weight"] = patches.movedim(3, 1).contiguous()
        else:
            is_map = name.startswith(("pre_", "post_")) and tensor.dim() == 4
            weights[_autoencoder_name(name)] = tensor.flatten(1) if is_map else tensor
    return weights


def unet_options(shapes: Shapes, num_attention_heads: int, latent_size: tuple[int, int, int]) -> dict[str, Any]:
    """
    Tell the options of a U-Net from the shapes of its weights.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes, by name without prefixes.
        num_attention_heads (`int`): Attention heads, which the shapes do not tell.
        latent_size (`tuple[int, int, int]`): Frames, height and width of the latents, which they do not tell either.

    Returns:
        `dict[str, Any]`: Options of [`UNetTriplaneModel`].

    Raises:
        KeyError: If a weight is missing.
    """
    widths, attention, counts, index = [], [], [], 1
    while (key := f"input_blocks.{index}.0.out_layers.3.weight") in shapes:
        # A level begins with a layer behind one that halves.
        if not counts or _halving(shapes, index - 1):
            widths.append(shapes[key][0])
            attention.append(f"input_blocks.{index}.1.qkv.weight" in shapes)
            counts.append(0)
        counts[-1] += not _halving(shapes, index)
        index += 1
    return {
        "in_channels": shapes["out.2.weight"][0],
        "out_channels": shapes["out.2.weight"][0],
        "sample_size": tuple(latent_size[1:]),
        "num_frames": latent_size[0],
        "block_out_channels": tuple(widths),
        "layers_per_block": counts[0],
        "plane_attention": tuple(attention),
        "num_attention_heads": num_attention_heads,
        "use_previous_clip": ZEROS in shapes,
    }


def unet_weights(tensors: Mapping[str, Tensor], num_attention_heads: int) -> dict[str, Tensor]:
    """
    Rename and split the weights of a U-Net.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Weights, by name without prefixes.
        num_attention_heads (`int`): Attention heads: the rows of each head's queries, keys and values lie together.

    Returns:
        `dict[str, torch.Tensor]`: Those of [`UNetTriplaneModel`]. What has no place in it keeps its name.
    """
    weights = {}
    for name, tensor in tensors.items():
        if name == ZEROS:
            continue
        ours = _unet_name(name, tensors)
        tensor = tensor.squeeze(2) if tensor.dim() == 3 else tensor  # 1D convolutions of attention
        place, mark, kind = ours.partition(".qkv.")
        if mark:
            parts = tensor.unflatten(0, (num_attention_heads, 3, -1)).unbind(1)
            weights |= {
                f"{place}.attn.to_{letter}.{kind}": part.flatten(0, 1)
                for letter, part in zip("qkv", parts, strict=True)
            }
        else:
            weights[ours.replace(".proj_out.", ".attn.to_out.0.")] = tensor
    return weights


def discriminator_weights(tensors: Mapping[str, Tensor], num_dims: int) -> dict[str, Tensor]:
    """
    Choose and rename the weights of a discriminator, out of those of the losses.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Weights of PVDM's `LPIPSWithDiscriminator`, by name.
        num_dims (`int`): 2 for the discriminator of frames, 3 for that of clips.

    Returns:
        `dict[str, torch.Tensor]`: Those of [`PatchFeatureDiscriminator`].
    """
    prefix = f"discriminator_{num_dims}d.model"
    return {f"layers.{name.removeprefix(prefix)}": value for name, value in tensors.items() if name.startswith(prefix)}


def _count(shapes: Shapes, pattern: str) -> int:
    return 1 + max(int(match[1]) for name in shapes if (match := re.match(pattern, name)))


def _halving(shapes: Shapes, index: int) -> bool:
    """
    Whether an input block halves rows and columns.

    A halving block has no attention and no change of width; so has a plain one on a level without attention. Its twin
    on the way up tells: blocks are undone in reverse, and a level ends with a second residual block that doubles.
    """
    last = max(int(name.split(".")[1]) for name in shapes if name.startswith("input_blocks."))
    twin = f"output_blocks.{last - index}."
    return any(f"{twin}{place}.in_layers.2.weight" in shapes for place in (1, 2))


def _check_table(name: str, table: Tensor) -> None:
    if name.endswith("inv_freqs"):
        angles = 10000.0 ** (-torch.arange(len(table), dtype=torch.float32) / len(table))
    elif name.endswith("scales"):
        angles = torch.logspace(0.0, math.log2(5), table.numel(), base=2)
    else:
        return  # `coords`, which nothing reads
    if not torch.allclose(table.flatten().float().cpu(), angles, rtol=1e-3):
        raise ValueError(f"'{name}' must hold the frequencies of PVDM's code, but holds others. They cannot be kept.")


def _autoencoder_name(name: str) -> str:
    if match := _LAYER.fullmatch(name):
        side, layer, sublayer, rest = match.groups()
        return f"{side}.blocks.{layer}.{_sublayer_name(int(sublayer), _SUBLAYERS, rest)}"
    if match := _PLANE_LAYER.fullmatch(name):
        plane, layer, sublayer, rest = match.groups()
        parts = (_SUBLAYERS[0], _SUBLAYERS[2])
        return f"projections.{PLANES.index(plane)}.blocks.{layer}.{_sublayer_name(int(sublayer), parts, rest)}"
    if match := _PLANE.fullmatch(name):
        side, plane, table, rest = match.groups()
        index = PLANES.index(plane)
        if table is not None:
            return f"projections.{index}." + {"token": "token", "pos_embedding": "positions"}[table]
        if side is not None:
            return {"pre": "to", "post": "from"}[side] + f"_latents.{index}.{rest}"
    return _end_name(name)


def _sublayer_name(index: int, parts: tuple[str, ...], rest: str) -> str:
    if rest.startswith("norm."):
        return f"norm{index + 1}.{rest.removeprefix('norm.')}"
    rest = rest.removeprefix("fn.").replace("net.0.", "net.0.proj.").replace("net.3.", "net.2.")
    return f"{parts[index]}.{rest}"


def _unet_name(name: str, tensors: Mapping[str, Tensor]) -> str:
    if match := _COUPLING.fullmatch(name):
        side, index, rest = match.groups()
        return f"{_layer_place(side, index)}.cross_attention.{rest}"
    match = _BLOCK.fullmatch(name)
    if match is None or name.startswith("input_blocks.0."):
        return _end_name(name)
    side, index, _, place, rest = match.groups()
    layer = _layer_place(side, index)
    if rest.startswith(("norm.", "qkv.", "proj_out.")):
        return f"{layer}.attention.{rest}"
    part, kind = rest.rsplit(".", 1)
    return f"{layer}.{'resnet' if place == '0' else 'resnet_out'}.{_RESNET.get(part, part)}.{kind}"


def _layer_place(side: str | None, index: str | None) -> str:
    if side is None:
        return "mid_layer"
    return f"down_layers.{int(index) - 1}" if side == "input" else f"up_layers.{index}"


def _end_name(name: str) -> str:
    place, _, kind = name.rpartition(".")
    return f"{_ENDS[place]}.{kind}" if place in _ENDS else name
