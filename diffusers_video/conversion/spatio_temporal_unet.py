"""The U-Net of Stable Video Diffusion in diffusers' layout -> [`UNetVideoConditionModel`]."""

from collections.abc import Mapping
from typing import Any

from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor

from ..layers.clip_embedding import ADDED_TIME_IDS
from ..models.unet_video_condition import UNetVideoConditionModel
from .weights import build_model


def convert_spatio_temporal_unet(
    unet: UNetSpatioTemporalConditionModel, *, norm_eps: float = 1e-5
) -> UNetVideoConditionModel:
    """
    Make a video U-Net of one in diffusers' layout.

    Args:
        unet ([`~diffusers.UNetSpatioTemporalConditionModel`]): The model; it is copied and left as it is.
        norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the group normalisations in residual blocks.
            Stable Video Diffusion was trained with 1e-5 everywhere. diffusers' class has 1e-6 in its upper blocks and
            in blocks with attention, so that its output differs from the original's by about 1e-4 in a tiny model.

    Returns:
        [`UNetVideoConditionModel`] of the same type, place and mode.

    Raises:
        TypeError: If `unet` is of another class.
        ValueError: If it is told other numbers per clip than Stable Video Diffusion.

    Source:
        Stable Video Diffusion (arXiv:2311.15127), Appendix D.
    """
    if not isinstance(unet, UNetSpatioTemporalConditionModel):
        raise TypeError(
            f"`unet` must be a `UNetSpatioTemporalConditionModel`, but is a `{type(unet).__name__}`. A"
            " `UNet2DConditionModel` is turned into a video model by `UNetVideoConditionModel.from_unet2d`."
        )
    options = spatio_temporal_options(unet.config)
    options |= {"norm_eps": norm_eps, "temporal_norm_eps": norm_eps}
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    model = build_model(lambda: UNetVideoConditionModel(**options), rename_spatio_temporal_unet(weights), "unet")
    return model.train(unet.training)


def spatio_temporal_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """
    Translate the configuration of a `UNetSpatioTemporalConditionModel`.

    Args:
        config (`Mapping[str, Any]`): Its configuration, complete.

    Returns:
        `dict[str, Any]`: Arguments of [`UNetVideoConditionModel`].

    Raises:
        ValueError: If the model is told other numbers per clip than frame rate, motion bucket and noise level.
    """
    width, total = config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
    if total != width * len(ADDED_TIME_IDS):
        raise ValueError(
            f"`unet` must be told {len(ADDED_TIME_IDS)} numbers per clip, {ADDED_TIME_IDS}, of {width} channels each,"
            f" but reads {total} channels. Only image-to-video models of Stable Video Diffusion can be converted."
        )
    same = ("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block")
    same += ("cross_attention_dim", "transformer_layers_per_block")
    types = ("down_block_types", "up_block_types")
    return {
        **{name: config[name] for name in same},
        **{name: tuple(kind.replace("SpatioTemporal", "2D") for kind in config[name]) for name in types},
        "attention_head_dim": config["num_attention_heads"],  # `UNet2DConditionModel` calls the number of heads so
        "use_linear_projection": True,
        "added_time_ids": ADDED_TIME_IDS,
        "added_time_embed_dim": width,
    }


def rename_spatio_temporal_unet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Rename the weights of a `UNetSpatioTemporalConditionModel`.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): Its weights.

    Returns:
        `dict[str, torch.Tensor]`: Those of a [`UNetVideoConditionModel`].
    """
    return {
        name.replace(".spatial_res_block.", ".").replace("add_embedding.", "clip_embedding."): tensor
        for name, tensor in state_dict.items()
    }
