"""Which components fit together in a pipeline with a text-conditioned video denoiser."""

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, SchedulerMixin
from torch import nn

from diffusers_video.models.unet_space_time import UNetSpaceTimeModel
from diffusers_video.models.unet_triplane import UNetTriplaneModel
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.pipelines.denoisers import needs_text, pools_text, reads_log_snr, told_numbers
from diffusers_video.pipelines.latents import (
    PIXEL_CHANNELS,
    frames_per_latent,
    is_video_autoencoder,
    latents_shape,
    vae_scale_factor,
)
from diffusers_video.pipelines.scheduling import check_scheduler


def check_components(vae: nn.Module | None, unet: nn.Module | None, scheduler: SchedulerMixin | None) -> None:
    """
    Refuse components of a kind that a video pipeline cannot use; `None` is accepted.

    Args:
        vae (`torch.nn.Module`, *optional*): The autoencoder.
        unet (`torch.nn.Module`, *optional*): The denoiser.
        scheduler (`SchedulerMixin`, *optional*): The scheduler.

    Raises:
        TypeError: If one is of another kind.
        ValueError: If the denoiser is an image model, or the scheduler does not fit.
    """
    unet, vae = (getattr(module, "_orig_mod", module) for module in (unet, vae))
    if unet is not None and not isinstance(unet, (UNetVideoConditionModel, UNetSpaceTimeModel)):
        raise ValueError(
            f"`unet` must be a UNetVideoConditionModel, but is a {type(unet).__name__}. Make a video pipeline of an"
            " image pipeline by `TextToVideoPipeline.from_image_model`, or a video U-Net of a UNet2DConditionModel by"
            " `UNetVideoConditionModel.from_unet2d`."
        )
    _check_autoencoder(vae)
    if scheduler is not None:
        check_scheduler(scheduler, reads_log_snr(unet))


def check_text_width(unet: nn.Module | None, text_encoder: nn.Module | None) -> None:
    """
    Refuse a text encoder whose tokens are of another width than a denoiser pools; `None` is accepted.

    Args:
        unet (`torch.nn.Module`, *optional*): The denoiser; any that does not pool text is accepted.
        text_encoder (`torch.nn.Module`, *optional*): A text encoder of transformers.

    Raises:
        ValueError: If the widths differ.
    """
    if text_encoder is None or not pools_text(unet):
        return
    width, wanted = text_encoder.config.hidden_size, unet.config.pooled_text_dim
    if width != wanted:
        raise ValueError(
            f"`text_encoder` must give tokens as wide as the `pooled_text_dim` of `unet`, {wanted}, but gives {width}"
            " numbers for each. Take another one, or build the denoiser with that width."
        )


def _check_autoencoder(vae: nn.Module | None) -> None:
    if vae is not None and not (isinstance(vae, (AutoencoderKL, AutoencoderTiny)) or is_video_autoencoder(vae)):
        raise TypeError(
            f"`vae` must be an AutoencoderKL, an AutoencoderTiny or an autoencoder of videos, but is a"
            f" {type(vae).__name__}."
        )


def latent_channels(vae: nn.Module | None) -> int:
    """
    Count the channels of latents.

    Args:
        vae (`torch.nn.Module`, *optional*): The autoencoder; without one latents are pixels.

    Returns:
        `int`
    """
    if vae is None:
        return PIXEL_CHANNELS
    if not is_video_autoencoder(vae):
        return vae.config.latent_channels
    factor = vae_scale_factor(vae)
    return latents_shape(vae, frames_per_latent(vae), factor, factor)[0]


def check_unconditional(
    unet: nn.Module | None, vae: nn.Module | None, scheduler: SchedulerMixin | None, name: str = "`unet`"
) -> None:
    """
    Refuse components that do not draw videos without text; `None` is accepted.

    Args:
        unet (`torch.nn.Module`, *optional*): The denoiser.
        vae (`torch.nn.Module`, *optional*): The autoencoder; there is none where pixels are denoised.
        scheduler (`SchedulerMixin`, *optional*): The scheduler.
        name (`str`, *optional*, defaults to ``"`unet`"``): What messages call the denoiser.

    Raises:
        TypeError: If one is of another kind.
        ValueError: If the denoiser wants text or other channels, or the scheduler does not fit.
    """
    unet, vae = (getattr(module, "_orig_mod", module) for module in (unet, vae))
    _check_autoencoder(vae)
    if scheduler is not None:
        check_scheduler(scheduler, reads_log_snr(unet))
    if unet is None:
        return
    if not isinstance(unet, (UNetSpaceTimeModel, UNetTriplaneModel)):
        raise TypeError(
            f"{name} must be a UNetSpaceTimeModel or a UNetTriplaneModel, but is a {type(unet).__name__}. Models made"
            " of an image model have pipelines of their own, such as TextToVideoPipeline."
        )
    if needs_text(unet):
        raise ValueError(
            f"{name} must not need text, but was built with"
            f" `cross_attention_dim`={unet.config.cross_attention_dim}. Take TextToVideoPipeline for it."
        )
    is_triplane = isinstance(unet, UNetTriplaneModel)
    if is_triplane != hasattr(vae, "latent_size_of"):
        raise ValueError(
            f"{name} is a {type(unet).__name__} and does not fit `vae`, a {type(vae).__name__}: an AutoencoderTriplane"
            " and a UNetTriplaneModel go together."
        )
    channels = latent_channels(vae)
    if (unet.config.in_channels, unet.config.out_channels) != (channels, channels):
        raise ValueError(
            f"{name} must have as many channels as {'pixels' if vae is None else 'the latents of `vae`'}, {channels},"
            f" but takes {unet.config.in_channels} and gives {unet.config.out_channels}."
        )


def check_denoiser(
    unet: nn.Module,
    vae: nn.Module | None,
    text_encoder_2: nn.Module | None,
    task: str,
    met: tuple[str, ...] = ("fps",),
) -> None:
    """
    Refuse a denoiser that wants inputs which the pipeline does not have.

    Args:
        unet (`torch.nn.Module`): The denoiser.
        vae (`torch.nn.Module`, *optional*): The autoencoder; there is none where pixels are denoised.
        text_encoder_2 (`torch.nn.Module`, *optional*): Second text encoder of Stable Diffusion XL.
        task (`str`): What the pipeline does, for the message.
        met (`tuple[str, ...]`, *optional*, defaults to `("fps",)`): Numbers per clip that the pipeline has.

    Raises:
        ValueError: If channels differ or an input is wanted that there is none of.
    """
    config = unet.config
    channels = latent_channels(vae)
    if config.in_channels != channels or config.out_channels != channels:
        raise ValueError(
            f"{task} needs a `unet` with as many channels as {'pixels' if vae is None else 'the latents of `vae`'},"
            f" {channels}, but it takes {config.in_channels} channels and gives {config.out_channels}. Inpainting"
            " (9) and instruction (8 channels) models also take an image, which this pipeline has none of; use their"
            " text-to-image model."
        )
    unmet = {
        "class_embed_type": config.get("class_embed_type"),
        "num_class_embeds": config.num_class_embeds,
        "addition_embed_type": _unmet(config.get("addition_embed_type"), ("text", "text_time")),
        "encoder_hid_dim_type": _unmet(config.get("encoder_hid_dim_type"), ("ip_image_proj", "text_proj")),
        "added_time_ids": [name for name in told_numbers(unet) if name not in met] or None,
    }
    _check_met(unmet, task)
    if config.get("addition_embed_type") == "text_time" and text_encoder_2 is not None:
        expected = config.projection_class_embeddings_input_dim
        have = text_encoder_2.config.projection_dim + 6 * config.addition_time_embed_dim
        if have != expected:
            raise ValueError(
                f"{task} cannot use this `unet`: its size and text conditions have {expected} numbers, but"
                f" `text_encoder_2` and six sizes give {have}. A refiner takes a score instead; use its base model."
            )


def check_upscaler(unet: nn.Module, vae: nn.Module | None, task: str) -> None:
    """
    Refuse a denoiser that cannot be told a low-resolution video and the noise on it, or wants other inputs.

    Args:
        unet (`torch.nn.Module`): The denoiser.
        vae (`torch.nn.Module`, *optional*): The autoencoder; there is none where pixels are denoised.
        task (`str`): What the pipeline does, for the message.

    Raises:
        ValueError: If channels differ, or an input is wanted that there is none of.
    """
    config = unet.config
    channels = config.out_channels if vae is None else latents_shape(vae, 1, 8, 8)[0]
    colours = channels if vae is None else vae.config.get("in_channels", 3)
    if (config.in_channels, config.out_channels) != (channels + colours, channels):
        raise ValueError(
            f"{task} needs a `unet` that takes {channels} channels of noisy {'pixels' if vae is None else 'latents'}"
            f" and {colours} of the low-resolution frames, and gives {channels}, but this one takes"
            f" {config.in_channels} and gives {config.out_channels}. Take the `unet` of an upscaler."
        )
    if vae is not None and latents_shape(vae, 8, 8, 8)[1] != 8:
        raise ValueError(f"{task} needs one latent for each frame, but this `vae` compresses time. Take another one.")
    if config.num_class_embeds is None and "noise_level" not in config.added_time_ids:
        if config.class_embed_type != "timestep":
            raise ValueError(
                f"{task} needs a `unet` that is told the noise on the low-resolution frames: by `num_class_embeds`,"
                " `class_embed_type='timestep'` or `added_time_ids=('noise_level',)`, but this one has none of them."
            )
    unmet = {
        "class_embed_type": _unmet(config.class_embed_type, ("timestep",)),
        "addition_embed_type": _unmet(config.addition_embed_type, ("text",)),
        "encoder_hid_dim_type": _unmet(config.encoder_hid_dim_type, ("text_proj",)),
        "added_time_ids": [name for name in config.added_time_ids if name not in ("fps", "noise_level")] or None,
    }
    _check_met(unmet, task)


def _check_met(unmet: Mapping[str, Any], task: str) -> None:
    for option, value in unmet.items():
        if value is not None:
            raise ValueError(
                f"{task} cannot use this `unet`: its {option}={value!r} wants an input that the pipeline lacks."
            )


def _unmet(value: Any, met: tuple[str, ...]) -> Any:
    return None if value in met else value
