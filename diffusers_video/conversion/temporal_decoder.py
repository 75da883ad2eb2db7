"""The autoencoder of Stable Video Diffusion -> [`AutoencoderKLVideo`]."""

from collections.abc import Mapping

from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from ..models.autoencoder_kl_video import AutoencoderKLVideo


_LAYERS_PER_BLOCK = 2  # the middle block of diffusers' class has one attention layer less than this


def convert_temporal_decoder(vae: AutoencoderKLTemporalDecoder) -> AutoencoderKLVideo:
    """
    Make a video autoencoder of one in diffusers' layout; it encodes and decodes as that one does.

    Args:
        vae ([`~diffusers.AutoencoderKLTemporalDecoder`]): The model; it is copied and left as it is.

    Returns:
        [`AutoencoderKLVideo`] of the same type, place and mode.

    Raises:
        TypeError: If `vae` is of another class.
        ValueError: If its blocks do not have two layers, which no published checkpoint lacks.

    Source:
        Stable Video Diffusion (arXiv:2311.15127), the decoder "conv-only" of its released checkpoints.
    """
    if not isinstance(vae, AutoencoderKLTemporalDecoder):
        raise TypeError(
            f"`vae` must be an `AutoencoderKLTemporalDecoder`, but is a `{type(vae).__name__}`. An `AutoencoderKL` is"
            " turned into a video model by `AutoencoderKLVideo.from_autoencoder_kl`."
        )
    config = vae.config
    if config.layers_per_block != _LAYERS_PER_BLOCK:
        raise ValueError(
            f"`vae` must have {_LAYERS_PER_BLOCK} layers per block, but has {config.layers_per_block}: the middle"
            " blocks of `AutoencoderKL` have a fixed number of layers. Convert a model of Stable Video Diffusion."
        )
    model = AutoencoderKLVideo(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple(config.down_block_types),
        up_block_types=("UpDecoderBlock2D",) * len(config.block_out_channels),
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        sample_size=config.sample_size,
        scaling_factor=config.scaling_factor,
        force_upcast=config.force_upcast,
        use_post_quant_conv=False,
    )
    model.load_state_dict(rename_temporal_decoder(vae.state_dict()))
    return nn.Module.to(model, device=vae.device, dtype=vae.dtype).train(vae.training)


def rename_temporal_decoder(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Rename the weights of an `AutoencoderKLTemporalDecoder`.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): Its weights.

    Returns:
        `dict[str, torch.Tensor]`: Those of an [`AutoencoderKLVideo`]. The mixing scalars change sign, because in the
        reference decoder they weigh the temporal path: sigmoid(-x) = 1 - sigmoid(x).
    """
    return {
        name.replace(".spatial_res_block.", "."): -tensor if name.endswith(".mix_factor") else tensor
        for name, tensor in state_dict.items()
    }
