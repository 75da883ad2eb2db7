"""
The names of Stable Video Diffusion as it was published, derived the other way round than the converter does.

The blocks of diffusers' models are walked in the order in which generative-models' constructors make theirs, and each
layer is given the number it gets there.
"""

import torch
from diffusers import StableVideoDiffusionPipeline
from torch import Tensor, nn


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def original_svd(pipeline: StableVideoDiffusionPipeline) -> dict[str, Tensor]:
    """The weights of a pipeline as one original file holds them, with those that are of no use for inference."""
    vae = original_vae(pipeline.vae)
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in original_unet(pipeline.unet).items()}
    for name, tensor in vae.items():
        if name.startswith("decoder."):
            tensors[f"first_stage_model.{name}"] = tensor
        else:
            tensors[f"conditioner.embedders.3.encoder.{name}"] = tensor
    clip = "conditioner.embedders.0.open_clip.model"
    tensors |= {f"{clip}.visual.{name}": tensor for name, tensor in original_clip(pipeline.image_encoder).items()}
    unused = ("first_stage_model.encoder.conv_in.weight", f"{clip}.ln_final.weight", f"{clip}.logit_scale")
    unused += ("conditioner.embedders.3.encoder.decoder.conv_in.weight", f"{clip}.positional_embedding")
    unused += ("conditioner.embedders.3.encoder.post_quant_conv.weight",)
    tensors |= {name: torch.full((2,), torch.nan) for name in unused}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def original_unet(unet: nn.Module) -> dict[str, Tensor]:
    """The weights of a U-Net under the names of `VideoUNet`."""
    places = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 0
    for level, block in enumerate(unet.down_blocks):
        for index in range(len(block.resnets)):
            number += 1
            places[f"down_blocks.{level}.resnets.{index}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.attentions.{index}"] = f"input_blocks.{number}.1"
        if block.downsamplers is not None:
            number += 1
            places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
    number = 0
    for level, block in enumerate(unet.up_blocks):
        for index in range(len(block.resnets)):
            places[f"up_blocks.{level}.resnets.{index}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{level}.attentions.{index}"] = f"output_blocks.{number}.1"
            number += 1
        last = 2 if hasattr(block, "attentions") else 1
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{last}.conv"
    return {_unet_name(name, places): tensor for name, tensor in unet.state_dict().items()}


def _unet_name(name: str, places: dict[str, str]) -> str:
    place = next(place for place in sorted(places, key=len, reverse=True) if name.startswith(f"{place}."))
    rest = name.removeprefix(f"{place}.")
    if ".attentions." in place:
        rest = rest.replace("temporal_transformer_blocks.", "time_stack.")
        rest = rest.replace("time_pos_embed.linear_1", "time_pos_embed.0")
        rest = rest.replace("time_pos_embed.linear_2", "time_pos_embed.2")
    elif ".resnets." in place:
        rest = _resnet_name(rest, RESNET)
    return f"{places[place]}.{rest}"


def _resnet_name(rest: str, spatial: dict[str, str]) -> str:
    part, _, inner = rest.partition(".")
    if part == "time_mixer":
        return rest
    layer, kind = inner.rsplit(".", 1)
    if part == "temporal_res_block":
        return f"time_stack.{RESNET[layer]}.{kind}"
    return f"{spatial[layer]}.{kind}"


def original_vae(vae: nn.Module) -> dict[str, Tensor]:
    """The weights of an autoencoder under the names of `AutoencodingEngine`."""
    tensors = {}
    levels = len(vae.decoder.up_blocks)
    plain = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"conv_shortcut": "nin_shortcut"}
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for name, tensor in vae.state_dict().items():
        side, *steps = name.split(".")
        rest = ".".join(steps)
        if steps[0] == "mid_block":
            inner = ".".join(steps[3:])
            if steps[1] == "attentions":
                layer, kind = inner.rsplit(".", 1)
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor  # 1x1 convolutions there
                rest = f"mid.attn_1.{attention[layer]}.{kind}"
            else:
                rest = f"mid.block_{int(steps[2]) + 1}.{_vae_resnet_name(inner, plain)}"
        elif steps[0] in ("down_blocks", "up_blocks"):
            direction = steps[0].removesuffix("_blocks")
            level = int(steps[1]) if direction == "down" else levels - 1 - int(steps[1])
            if steps[2] == "resnets":
                rest = f"{direction}.{level}.block.{steps[3]}.{_vae_resnet_name('.'.join(steps[4:]), plain)}"
            else:
                rest = f"{direction}.{level}.{direction}sample.conv.{steps[-1]}"
        rest = rest.replace("conv_norm_out", "norm_out").replace("time_conv_out", "conv_out.time_mix_conv")
        tensors[f"{side}.{rest}"] = tensor
    return tensors


def _vae_resnet_name(rest: str, plain: dict[str, str]) -> str:
    if rest.startswith(("norm", "conv")):  # of the encoder, which has no temporal layers
        rest = f"spatial_res_block.{rest}"
    return _resnet_name(rest, plain).replace("time_mixer.", "")


def original_clip(encoder: nn.Module) -> dict[str, Tensor]:
    """The weights of an image encoder under the names of OpenCLIP."""
    weights = encoder.state_dict()
    tensors = {
        "class_embedding": weights["vision_model.embeddings.class_embedding"],
        "positional_embedding": weights["vision_model.embeddings.position_embedding.weight"],
        "conv1.weight": weights["vision_model.embeddings.patch_embedding.weight"],
        "proj": weights["visual_projection.weight"].T,
    }
    for kind in ("weight", "bias"):
        tensors[f"ln_pre.{kind}"] = weights[f"vision_model.pre_layrnorm.{kind}"]
        tensors[f"ln_post.{kind}"] = weights[f"vision_model.post_layernorm.{kind}"]
        for layer in range(encoder.config.num_hidden_layers):
            theirs, ours = f"transformer.resblocks.{layer}", f"vision_model.encoder.layers.{layer}"
            parts = [weights[f"{ours}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            tensors[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(parts)
            for inner, outer in CLIP_LAYER.items():
                tensors[f"{theirs}.{outer}.{kind}"] = weights[f"{ours}.{inner}.{kind}"]
    return tensors
