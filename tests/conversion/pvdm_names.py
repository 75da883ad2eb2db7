"""
The names of PVDM as its code saves them, derived the other way round than the converter does.

The layers of our models are walked in the order in which the original constructors make theirs.
"""

import torch
from torch import Tensor, nn

from diffusers_video import AutoencoderTriplane, UNetTriplaneModel


PLANES = ("xy", "yt", "xt")


def original_autoencoder(model: AutoencoderTriplane) -> dict[str, Tensor]:
    """The weights of an autoencoder under the names of `ViTAutoencoder`, with the tables it saves."""
    config = model.config
    patches = model.patch_embedding.weight.permute(0, 2, 3, 1).flatten(1)
    tensors = {
        "encoder.to_patch_embedding.weight": patches,
        "coords": torch.linspace(-1, 1, config.num_frames)[:, None],
    }
    tensors["encoder.to_patch_embedding.bias"] = model.patch_embedding.bias
    tensors |= _state("to_pixel.1", model.to_pixels)
    dim = config.attention_head_dim
    for side in ("encoder", "decoder"):
        tensors[f"{side}.frame_rot_emb.inv_freqs"] = 1 / 10000 ** (torch.arange(0, dim, 2).float() / dim)
        tensors[f"{side}.image_rot_emb.scales"] = torch.logspace(0, torch.tensor(5.0).log2().item(), dim // 4, base=2)
        for number, block in enumerate(getattr(model, side).blocks):
            parts = ((block.norm1, block.attn1), (block.norm2, block.attn2), (block.norm3, block.ff))
            tensors |= _sublayers(f"{side}.layers.{number}", parts)
    for index, plane in enumerate(PLANES):
        projection = model.projections[index]
        tensors[f"{plane}_token"], tensors[f"{plane}_pos_embedding"] = projection.token, projection.positions
        for number, block in enumerate(projection.blocks):
            parts = ((block.norm1, block.attn1), (block.norm2, block.ff))
            tensors |= _sublayers(f"{plane}_quant_attn.layers.{number}", parts)
        for side, linear in (("pre", model.to_latents[index]), ("post", model.from_latents[index])):
            tensors[f"{side}_{plane}.weight"] = linear.weight[:, :, None, None]
            tensors[f"{side}_{plane}.bias"] = linear.bias
    return _plain(tensors)


def original_unet(model: UNetTriplaneModel, size: int | None = None) -> dict[str, Tensor]:
    """The weights of a U-Net under the names of `UNetModel`; with the table of zeros if a size is given."""
    heads = model.config.num_attention_heads
    tensors = _state("time_embed.0", model.time_embedding.linear_1)
    tensors |= _state("time_embed.2", model.time_embedding.linear_2)
    tensors |= _state("input_blocks.0.0", model.conv_in)
    tensors |= _state("out.0", model.conv_norm_out) | _state("out.2", model.conv_out)
    places = [(f"input_blocks.{i}", f"input_attns.{i}", layer) for i, layer in enumerate(model.down_layers, start=1)]
    places.append(("middle_block", "mid_attn", model.mid_layer))
    places += [(f"output_blocks.{i}", f"output_attns.{i}", layer) for i, layer in enumerate(model.up_layers)]
    for block, coupling, layer in places:
        parts = [layer.resnet, layer.attention, layer.resnet_out]
        for number, part in enumerate(part for part in parts if part is not None):
            write = _attention if part is layer.attention else _resnet
            tensors |= write(f"{block}.{number}", part, heads)
        tensors |= _attention(coupling, layer.cross_attention, heads)
    if size is not None:
        tensors["zeros"] = torch.zeros(1, model.config.in_channels, size)
    return _plain(tensors)


def _resnet(place: str, block: nn.Module, heads: int) -> dict[str, Tensor]:
    tensors = _state(f"{place}.in_layers.0", block.norm1) | _state(f"{place}.in_layers.2", block.conv1)
    tensors |= _state(f"{place}.emb_layers.1", block.time_emb_proj)
    tensors |= _state(f"{place}.out_layers.0", block.norm2) | _state(f"{place}.out_layers.3", block.conv2)
    return tensors | ({} if block.conv_shortcut is None else _state(f"{place}.skip_connection", block.conv_shortcut))


def _attention(place: str, layer: nn.Module, heads: int) -> dict[str, Tensor]:
    tensors = _state(f"{place}.norm", layer.norm)
    for kind in ("weight", "bias"):
        rows = [getattr(part, kind).chunk(heads) for part in (layer.attn.to_q, layer.attn.to_k, layer.attn.to_v)]
        joined = torch.cat([part for head in zip(*rows, strict=True) for part in head])
        out = getattr(layer.attn.to_out[0], kind)
        tensors[f"{place}.qkv.{kind}"] = joined[..., None] if kind == "weight" else joined
        tensors[f"{place}.proj_out.{kind}"] = out[..., None] if kind == "weight" else out
    return tensors


def _sublayers(place: str, parts: tuple[tuple[nn.Module, nn.Module], ...]) -> dict[str, Tensor]:
    tensors = {}
    for number, (norm, part) in enumerate(parts):
        tensors |= _state(f"{place}.{number}.norm", norm)
        fn = f"{place}.{number}.fn"
        if hasattr(part, "to_q"):
            rows = [part.to_q.weight, part.to_k.weight, part.to_v.weight]
            tensors[f"{fn}.to_qkv.weight"] = torch.cat(rows)
            tensors |= _state(f"{fn}.to_out.0", part.to_out[0])
        else:
            tensors |= _state(f"{fn}.net.0", part.net[0].proj) | _state(f"{fn}.net.3", part.net[2])
    return tensors


def _state(place: str, layer: nn.Module) -> dict[str, Tensor]:
    return {f"{place}.{name}": value for name, value in layer.state_dict().items()}


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
