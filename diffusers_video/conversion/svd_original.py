"""
Stable Video Diffusion as it was published, in one file: its names, shapes and tensors -> those of our models.

Source:
    generative-models' `svd.yaml`: a `VideoUNet`, an `AutoencodingEngine` with a `VideoDecoder`, and a conditioner
    whose embedder 0 is an OpenCLIP image encoder and whose embedder 3 is the autoencoder that encodes the image.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from ..layers.clip_embedding import ADDED_TIME_IDS
from . import ldm_names
from .ldm_names import RESNET, swap


Shapes = Mapping[str, tuple[int, ...]]
Value = TypeVar("Value")

# Parts of the file: how the names of their weights begin, first what is cut off, then what is kept.
UNET = (("model.diffusion_model.", ""),)
VAE = (
    ("conditioner.embedders.3.encoder.", "encoder."),
    ("conditioner.embedders.3.encoder.", "quant_conv."),
    ("first_stage_model.", "decoder."),
)
IMAGE_ENCODER = (("conditioner.embedders.0.open_clip.model.visual.", ""),)
UNUSED = (  # a second encoder, an image decoder, and what is left of the text tower
    "first_stage_model.encoder.",
    "conditioner.embedders.3.encoder.decoder.",
    "conditioner.embedders.3.encoder.post_quant_conv.",
    "conditioner.embedders.0.open_clip.model.",
)
TEMPORAL_MARK = ".time_stack."

HEAD_WIDTH = 64  # `num_head_channels` of svd.yaml
IMAGE_ENCODER_HEADS = 16  # of OpenCLIP's ViT-L, ViT-H and ViT-g alike
SCALING_FACTOR = 0.18215

_VAE_MIDDLE = re.compile(r"mid\.(block_[12]|attn_1)\.(.+)")
_VAE_BLOCK = re.compile(r"(down|up)\.(\d+)\.((?:block\.\d+|downsample|upsample)\..+)")
_ATTENTION = {
    "time_stack": "temporal_transformer_blocks",
    "time_pos_embed.0": "time_pos_embed.linear_1",
    "time_pos_embed.2": "time_pos_embed.linear_2",
}
_UNET_ENDS = {
    **ldm_names.ENDS,
    "label_emb.0.0": "clip_embedding.linear_1",
    "label_emb.0.2": "clip_embedding.linear_2",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_VAE_ENDS = {"norm_out": "conv_norm_out", "conv_out.time_mix_conv": "time_conv_out"}
_IMAGE_ENCODER_ENDS = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1": "vision_model.embeddings.patch_embedding",
    "ln_pre": "vision_model.pre_layrnorm",
    "ln_post": "vision_model.post_layernorm",
    "proj": "visual_projection.weight",
}
_IMAGE_ENCODER_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn": "self_attn",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def select(entries: Mapping[str, Value], part: Iterable[tuple[str, str]]) -> dict[str, Value]:
    """
    Choose what belongs to a part of the file.

    Args:
        entries (`Mapping[str, Any]`): Tensors or shapes, by name in the file.
        part (`Iterable[tuple[str, str]]`): `UNET`, `VAE` or `IMAGE_ENCODER`.

    Returns:
        `dict[str, Any]`: Those of the part, by name in it.
    """
    return {
        name.removeprefix(cut): value
        for cut, kept in part
        for name, value in entries.items()
        if name.startswith(cut + kept)
    }


def left_over(names: Iterable[str]) -> list[str]:
    """
    List the weights that belong to no part.

    Args:
        names (`Iterable[str]`): Names in the file.

    Returns:
        `list[str]`: Those that are neither converted nor known to be of no use.
    """
    known = tuple(cut + kept for cut, kept in (*UNET, *VAE, *IMAGE_ENCODER)) + UNUSED
    return sorted(name for name in names if not name.startswith(known))


def unet_options(shapes: Shapes) -> dict[str, Any]:
    """
    Read the options of the U-Net off its weights.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes by name in the `VideoUNet`.

    Returns:
        `dict[str, Any]`: Arguments of [`UNetVideoConditionModel`].

    Raises:
        KeyError: If a weight that tells an option is missing.
    """
    widths = ldm_names.level_widths(shapes)
    has_text = [f"input_blocks.{start}.1.proj_in.weight" in shapes for start in ldm_names.level_starts(shapes)]
    block = "middle_block.1.transformer_blocks"
    return {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": ldm_names.count_layers(shapes),
        "down_block_types": tuple("CrossAttnDownBlock2D" if text else "DownBlock2D" for text in has_text),
        "up_block_types": tuple("CrossAttnUpBlock2D" if text else "UpBlock2D" for text in reversed(has_text)),
        "attention_head_dim": tuple(max(width // HEAD_WIDTH, 1) for width in widths),
        "cross_attention_dim": shapes[f"{block}.0.attn2.to_k.weight"][1],
        "transformer_layers_per_block": len({name.split(".")[3] for name in shapes if name.startswith(f"{block}.")}),
        "use_linear_projection": True,
        "added_time_ids": ADDED_TIME_IDS,
        "added_time_embed_dim": shapes["label_emb.0.0.weight"][1] // len(ADDED_TIME_IDS),
    }


def unet_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Rename the weights of the U-Net.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Those of the `VideoUNet`.

    Returns:
        `dict[str, torch.Tensor]`: Those of a [`UNetVideoConditionModel`]; names that are not known are kept.
    """
    layers = ldm_names.count_layers(tensors)
    return {_unet_name(name, layers): tensor for name, tensor in tensors.items()}


def _unet_name(name: str, layers: int) -> str:
    place = ldm_names.locate(name, layers)
    if (end := swap(name, _UNET_ENDS)) != name or place is None:
        return end
    layer, rest, _ = place
    return f"{layer}.{rest if 'samplers' in layer else _layer_name(layer.split('.')[-2], rest)}"


def vae_options(shapes: Shapes) -> dict[str, Any]:
    """
    Read the options of the autoencoder off its weights.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes by name in the autoencoder.

    Returns:
        `dict[str, Any]`: Arguments of [`AutoencoderKLVideo`].

    Raises:
        KeyError: If a weight that tells an option is missing.
    """
    levels = _num_vae_levels(shapes)
    layers = len({name.split(".")[4] for name in shapes if name.startswith("encoder.down.0.block.")})
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(
            shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)
        ),
        "layers_per_block": layers,
        "latent_channels": shapes["quant_conv.weight"][0] // 2,
        "scaling_factor": SCALING_FACTOR,
        "force_upcast": True,  # as diffusers publishes it: in half precision it overflows
        "use_post_quant_conv": False,
    }


def vae_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Rename the weights of the autoencoder and bring them into our form.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Those of the encoder, its `quant_conv` and the `VideoDecoder`.

    Returns:
        `dict[str, torch.Tensor]`: Those of an [`AutoencoderKLVideo`]. Attention is written there in linear layers
        instead of 1x1 convolutions, and the mixing scalars change sign, because the decoder weighs the temporal path
        with them: sigmoid(-x) = 1 - sigmoid(x).
    """
    levels = _num_vae_levels(tensors)
    weights = {}
    for name, tensor in tensors.items():
        name = _vae_name(name, levels)
        if ".attentions." in name and tensor.ndim == 4:
            tensor = tensor[:, :, 0, 0].contiguous()
        weights[name] = -tensor if name.endswith("mix_factor") else tensor
    return weights


def _num_vae_levels(names: Iterable[str]) -> int:
    return len({name.split(".")[2] for name in names if name.startswith("encoder.down.")})


def _vae_name(name: str, levels: int) -> str:
    # The decoder's levels are counted from the finest, ours from the coarsest.
    side, _, rest = name.partition(".")
    if match := _VAE_MIDDLE.fullmatch(rest):
        kind, rest = match.groups()
        if kind == "attn_1":
            return f"{side}.mid_block.attentions.0.{swap(rest, _VAE_ATTENTION)}"
        return f"{side}.mid_block.resnets.{int(kind[-1]) - 1}.{_vae_resnet_name(rest)}"
    if match := _VAE_BLOCK.fullmatch(rest):
        direction, level, rest = match.groups()
        block = f"{side}.{direction}_blocks.{int(level) if direction == 'down' else levels - 1 - int(level)}"
        if rest.startswith("block."):
            _, number, rest = rest.split(".", 2)
            return f"{block}.resnets.{number}.{_vae_resnet_name(rest)}"
        return f"{block}.{rest.replace(f'{direction}sample.', f'{direction}samplers.0.')}"
    return f"{side}.{swap(rest, _VAE_ENDS)}"


def image_encoder_options(shapes: Shapes) -> dict[str, Any]:
    """
    Read the options of the image encoder off its weights.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes by name in OpenCLIP's image tower.

    Returns:
        `dict[str, Any]`: Arguments of `CLIPVisionConfig`.

    Raises:
        KeyError: If a weight that tells an option is missing.
    """
    width, _, patch, _ = shapes["conv1.weight"]
    positions = shapes["positional_embedding"][0] - 1
    return {
        "hidden_size": width,
        "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "projection_dim": shapes["proj"][1],
        "num_hidden_layers": len({name.split(".")[2] for name in shapes if name.startswith("transformer.resblocks.")}),
        "num_attention_heads": IMAGE_ENCODER_HEADS,
        "patch_size": patch,
        "image_size": patch * round(positions**0.5),
        "hidden_act": "gelu",
    }


def image_encoder_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Rename the weights of the image encoder and bring them into the form of transformers.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Those of OpenCLIP's image tower.

    Returns:
        `dict[str, torch.Tensor]`: Those of a `CLIPVisionModelWithProjection`: queries, keys and values apart, and the
        projection transposed.
    """
    weights = {}
    for name, tensor in tensors.items():
        name = _image_encoder_name(name)
        layer, mark, kind = name.partition(".in_proj_")
        if mark:
            for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
                weights[f"{layer}.{letter}_proj.{kind}"] = rows.clone()
        else:
            weights[name] = tensor.T.contiguous() if name.startswith("visual_projection.") else tensor
    return weights


def _image_encoder_name(name: str) -> str:
    if not name.startswith("transformer.resblocks."):
        return swap(name, _IMAGE_ENCODER_ENDS)
    _, _, layer, rest = name.split(".", 3)
    return f"vision_model.encoder.layers.{layer}.{swap(rest, _IMAGE_ENCODER_LAYER)}"


def _layer_name(place: str, rest: str) -> str:
    if place.startswith("attentions"):
        return swap(rest, _ATTENTION)
    if rest.startswith("time_stack."):
        return f"temporal_res_block.{swap(rest.removeprefix('time_stack.'), RESNET)}"
    return swap(rest, RESNET)


def _vae_resnet_name(rest: str) -> str:
    return "time_mixer.mix_factor" if rest == "mix_factor" else _layer_name("resnets", rest)
