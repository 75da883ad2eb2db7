"""The U-Net of VideoCrafter 2, as it was published -> `UNet3DConditionModel` of diffusers."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.embeddings import Timesteps
from torch import Tensor
from torch.nn import functional

from .ldm_names import ENDS, RESNET, count_layers, level_starts, level_widths, locate, swap
from .weights import build_model


Shapes = Mapping[str, tuple[int, ...]]

DEFAULT_FPS = 16  # of the original forward call
MARK = "input_blocks.1.0.temopral_conv.conv1.0.weight"  # spelt so in the original
_INPUT_HEADS = 8  # of the transformer behind the first convolution
_TEMPORAL_CONV = "temopral_conv."
_PLACES = {1: "attentions", 2: "temp_attentions"}


def convert_videocrafter2_unet(
    tensors: Mapping[str, Tensor], *, fps: float = DEFAULT_FPS, origin: str = "VideoCrafter 2"
) -> UNet3DConditionModel:
    """
    Make diffusers' U-Net of weights of VideoCrafter 2, for videos of one frame rate.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Weights by original name, without the prefix of the checkpoint.
        fps (`float`, *optional*, defaults to 16): Frames per second. The original adds the embedding of the frame
            rate to that of the timestep; diffusers' class reads none, so it becomes part of a bias here.
        origin (`str`, *optional*): What the weights were read from, for the message.

    Returns:
        [`~diffusers.UNet3DConditionModel`]: In evaluation mode.

    Raises:
        ValueError: If `fps` is not above 0, or weights are missing or left over.

    Source:
        VideoCrafter 2 (arXiv:2401.09047) and its released code.
    """
    if not fps > 0:
        raise ValueError(f"`fps` must be above 0, but is {fps}. The original's default is {DEFAULT_FPS}.")
    weights = _with_fps(dict(tensors), float(fps))
    try:
        options = unet3d_options({name: tuple(tensor.shape) for name, tensor in weights.items()})
    except KeyError as error:
        raise ValueError(f"'{origin}' must hold a U-Net of VideoCrafter 2, but lacks the weight {error}.") from error
    return build_model(partial(UNet3DConditionModel, **options), unet3d_weights(weights), origin)


def unet3d_options(shapes: Shapes) -> dict[str, Any]:
    """
    Read the options of the U-Net off its weights.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes by original name.

    Returns:
        `dict[str, Any]`: Arguments of [`~diffusers.UNet3DConditionModel`].

    Raises:
        KeyError: If a weight that tells an option is missing.
    """
    has_attention = [f"input_blocks.{start}.1.proj_in.weight" in shapes for start in level_starts(shapes)]
    return {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": level_widths(shapes),
        "layers_per_block": count_layers(shapes),
        "down_block_types": tuple("CrossAttnDownBlock3D" if has else "DownBlock3D" for has in has_attention),
        "up_block_types": tuple("CrossAttnUpBlock3D" if has else "UpBlock3D" for has in reversed(has_attention)),
        "cross_attention_dim": shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": shapes["init_attn.0.proj_in.weight"][0] // _INPUT_HEADS,
    }


def unet3d_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Rename the weights of the U-Net.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Those of VideoCrafter 2 without the embedding of the frame rate.

    Returns:
        `dict[str, torch.Tensor]`: Those of a [`~diffusers.UNet3DConditionModel`]; names that are not known are kept.
    """
    layers = count_layers(tensors)
    middle_end = max(int(name.split(".")[1]) for name in tensors if name.startswith("middle_block."))
    weights = {}
    for name, tensor in tensors.items():
        is_projection = name.endswith((".proj_in.weight", ".proj_out.weight"))  # a convolution in the first layer
        weights[_name(name, layers, middle_end)] = tensor.flatten(1) if is_projection else tensor
    return weights


def _name(name: str, layers: int, middle_end: int) -> str:
    if (end := swap(name, {**ENDS, "init_attn.0": "transformer_in"})) != name:
        return end
    place = locate(name, layers, middle_end)
    if place is None:
        return name
    layer, rest, position = place
    if "samplers" in layer:
        return f"{layer}.{rest}"
    if rest.startswith(_TEMPORAL_CONV):
        return f"{layer.replace('resnets', 'temp_convs')}.{rest.removeprefix(_TEMPORAL_CONV)}"
    if "resnets" in layer:
        return f"{layer}.{swap(rest, RESNET)}"
    return f"{layer.replace('attentions', _PLACES.get(position, 'attentions'))}.{rest}"


def _with_fps(weights: dict[str, Tensor], fps: float) -> dict[str, Tensor]:
    """Add the embedding of one frame rate to the last bias of the time embedding."""
    parts = [f"fps_embedding.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    if not all(name in weights for name in (*parts, "time_embed.2.bias")):
        return weights
    first_weight, first_bias, last_weight, last_bias = (weights.pop(name).float() for name in parts)
    sinusoid = Timesteps(first_weight.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0)(torch.tensor([fps]))
    hidden = functional.silu(functional.linear(sinusoid, first_weight, first_bias))
    embedding = functional.linear(hidden, last_weight, last_bias)[0]
    bias = weights["time_embed.2.bias"]
    return {**weights, "time_embed.2.bias": (bias.float() + embedding).to(bias.dtype)}
