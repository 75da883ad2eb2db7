"""Our models under the names of LVDM's released code."""

import torch
from diffusers import ModelMixin
from torch import Tensor


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "noise_level_embedding": "label_emb",
}
PAIR = {
    "spatial_attention.group_norm": "norm_s",
    "spatial_attention.to_out.0": "proj_out_s",
    "temporal_norm": "norm_t",
    "temporal_attention.to_out.0": "proj_out_t",
    "temporal_attention.relative_keys": "relative_position_k.embeddings_table",
    "temporal_attention.relative_values": "relative_position_v.embeddings_table",
}
INTERLEAVED = {
    "temporal_attn1": "attn1_tmp",
    "temporal_attn2": "attn2_tmp",
    "temporal_norm1": "norm4",
    "temporal_norm2": "norm5",
    "relative_keys": "relative_position_k.embeddings_table",
    "relative_values": "relative_position_v.embeddings_table",
}


def original_unet(unet: ModelMixin) -> dict[str, Tensor]:
    """The weights of a U-Net under the names of `UNetModel`, without the checkpoint's prefix."""
    layers = unet.config.layers_per_block + 1
    tensors: dict[str, Tensor] = {}
    for name, tensor in unet.state_dict().items():
        stem, kind = name.rsplit(".", 1)
        if tensor.ndim == 4:
            tensor = tensor[:, :, None]
        if stem in ENDS:
            tensors[f"{ENDS[stem]}.{kind}"] = tensor
            continue
        side, *steps = name.split(".")
        if side == "mid_block":
            place = f"middle_block.{1 if steps[0] == 'attentions' else 2 * int(steps[1])}"
            rest = steps[2:]
        else:
            level, kind_of_layer, number = int(steps[0]), steps[1], int(steps[2])
            rest = steps[3:]
            first = level * layers + (side == "down_blocks")
            block = {"down_blocks": "input_blocks", "up_blocks": "output_blocks"}[side]
            if kind_of_layer == "downsamplers":
                tensors[f"{block}.{first + layers - 1}.0.op.{rest[-1]}"] = tensor
                continue
            if kind_of_layer == "upsamplers":
                position = 1 + (len(unet.up_blocks[level].attentions) > 0)
                tensors[f"{block}.{first + layers - 1}.{position}.conv.{rest[-1]}"] = tensor
                continue
            place = f"{block}.{first + number}.{int(kind_of_layer == 'attentions')}"
        add_layer(tensors, place, ".".join(rest), tensor)
    return tensors


def add_layer(tensors: dict[str, Tensor], place: str, rest: str, tensor: Tensor) -> None:
    stem, _, kind = rest.rpartition(".")
    if stem in RESNET:
        tensors[f"{place}.{RESNET[stem]}.{kind}"] = tensor
    elif rest in PAIR:
        tensors[f"{place}.{PAIR[rest]}"] = tensor
    elif stem in PAIR:
        is_conv = stem.endswith("to_out.0") and kind == "weight"
        tensors[f"{place}.{PAIR[stem]}.{kind}"] = tensor[..., None] if is_conv else tensor
    elif stem[-4:] in ("to_q", "to_k", "to_v") and "attention." in stem:
        name = f"{place}.qkv_{stem[0]}.{kind}"  # queries come first, then keys, then values, as here
        tensor = tensor[..., None] if kind == "weight" else tensor
        tensors[name] = torch.cat([tensors[name], tensor]) if name in tensors else tensor
    else:
        is_conv = stem in ("proj_in", "proj_out") and kind == "weight"
        parts = [INTERLEAVED.get(part, part) for part in rest.split(".")]
        tensors[f"{place}.{'.'.join(parts)}"] = tensor[..., None, None, None] if is_conv else tensor


def original_autoencoder(vae: ModelMixin) -> dict[str, Tensor]:
    """The weights of a 3D autoencoder under the names of `AutoencoderKL`, kernels of padded convolutions twice."""
    places = {
        "encoder.conv_in": "encoder.conv_first",
        "encoder.conv_norm_out": "encoder.final_block.0",
        "encoder.conv_out": "encoder.final_block.2",
    }
    for level in range(len(vae.encoder.down_blocks)):
        places[f"encoder.down_blocks.{level}.downsampler"] = f"encoder.conv_blocks.{level}.down"
        places[f"encoder.down_blocks.{level}.resnet"] = f"encoder.conv_blocks.{level}.res"
        places[f"decoder.up_blocks.{level}.upsampler"] = f"decoder.conv_blocks.{level}.up"
        for number in range(2):
            places[f"decoder.up_blocks.{level}.resnets.{number}"] = f"decoder.conv_blocks.{level}.res{number + 1}"
    tensors = {}
    for name, tensor in vae.state_dict().items():
        stem, kind = name.rsplit(".", 1)
        for ours, theirs in places.items():
            if stem == ours or stem.startswith(f"{ours}."):
                stem = theirs + stem.removeprefix(ours)
                break
        if name.endswith("upsampler." + kind):
            tensors[f"{stem}.convt.{kind}"] = tensor
        elif "norm" in stem or stem == "encoder.final_block.0":
            tensors[f"{stem}.{kind}"] = tensor
        else:
            tensors[f"{stem}.conv.{kind}"] = tensor
            if kind == "weight":
                tensors[f"{stem}.weight"] = tensor
    return tensors
