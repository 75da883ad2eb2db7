"""From clips and captions to what a denoiser trains on, with the frozen models of a pipeline."""

# Shapes: B videos, C channels, F frames, H height, W width; c, h, w of the latents; L text tokens, D text width.

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from diffusers_video.layers.layout import images_to_videos, videos_to_images
from diffusers_video.pipelines.denoisers import told_numbers
from diffusers_video.pipelines.latents import is_video_autoencoder, scale_latents
from diffusers_video.pipelines.text_to_video import TextToVideoPipeline
from diffusers_video.training.checkpoints import fingerprint_weights


FRAMES_AT_ONCE = 16
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


@torch.no_grad()
def encode_posterior(
    vae: nn.Module, pixel_values: Tensor, frames_at_once: int = FRAMES_AT_ONCE
) -> tuple[Tensor, Tensor]:
    """
    Encode videos to the mean and the standard deviation of their latents.

    Args:
        vae (`torch.nn.Module`): An autoencoder of images or of videos.
        pixel_values (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): In [-1, 1].
        frames_at_once (`int`, *optional*, defaults to 16): Frames encoded together by an autoencoder of images.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]` of shape `(batch_size, c, num_frames, h, w)`: float32, times the
        `scaling_factor`; the deviation of an autoencoder without posterior is 0.
    """
    pixel_values = pixel_values.to(vae.device, vae.dtype)
    if is_video_autoencoder(vae):
        encoded = [vae.encode(pixel_values)]
    else:
        encoded = [vae.encode(chunk) for chunk in videos_to_images(pixel_values).split(frames_at_once)]
    if hasattr(encoded[0], "latent_dist"):
        mean = torch.cat([part.latent_dist.mean for part in encoded]).float()
        std = torch.cat([part.latent_dist.std for part in encoded]).float()
    else:
        mean = torch.cat([part.latents for part in encoded]).float()
        std = torch.zeros_like(mean)
    if not is_video_autoencoder(vae):
        mean, std = (images_to_videos(part, pixel_values.shape[2]) for part in (mean, std))
    scaled_mean = scale_latents(vae, mean)
    return scaled_mean, scale_latents(vae, mean + std) - scaled_mean


def sample_latents(mean: Tensor, std: Tensor, posterior: str, generator: torch.Generator) -> Tensor:
    """
    Draw latents from their posterior, or take its mode.

    Args:
        mean (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): Mean.
        std (`torch.Tensor` of the same shape): Standard deviation.
        posterior (`str`): `"sample"` or `"mode"`.
        generator (`torch.Generator`): Source of randomness; `"mode"` leaves it alone.

    Returns:
        `torch.Tensor` of the same shape.
    """
    if posterior == "mode":
        return mean
    return mean + std * randn_tensor(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)


@torch.no_grad()
def encode_captions(pipeline: TextToVideoPipeline, texts: Sequence[str]) -> dict[str, Tensor]:
    """
    Encode captions as the pipeline encodes prompts.

    Args:
        pipeline ([`TextToVideoPipeline`]): Its tokenizers and text encoders are used.
        texts (`Sequence[str]`): One caption per video.

    Returns:
        `dict[str, torch.Tensor]`: `prompt_embeds` `(batch_size, tokens, width)`; of XL also `pooled_prompt_embeds`
        `(batch_size, width)`.
    """
    device = pipeline.text_encoder.device
    embeds, _, pooled, _ = pipeline.encode_prompt(list(texts), device=device, do_classifier_free_guidance=False)
    return {"prompt_embeds": embeds} | ({} if pooled is None else {"pooled_prompt_embeds": pooled})


@torch.no_grad()
def encode_empty_caption(pipeline: TextToVideoPipeline) -> dict[str, Tensor]:
    """
    Encode what guidance puts against the prompt when sampling: the missing negative prompt.

    Args:
        pipeline ([`TextToVideoPipeline`]): Its tokenizers and text encoders are used.

    Returns:
        `dict[str, torch.Tensor]`: As of [`encode_captions`], with one row.
    """
    _, embeds, _, pooled = pipeline.encode_prompt("", device=pipeline.text_encoder.device)
    return {"prompt_embeds": embeds} | ({} if pooled is None else {"pooled_prompt_embeds": pooled})


def encode_clips(pipeline: TextToVideoPipeline, batch: dict[str, Any]) -> dict[str, Tensor]:
    """
    Encode a batch of clips; what comes out can be packed and trained on in its stead.

    Args:
        pipeline ([`TextToVideoPipeline`]): Its autoencoder and text encoders are used.
        batch (`dict[str, Any]`): As from [`collate_clips`], with `pixel_values` and `text`.

    Returns:
        `dict[str, torch.Tensor]`: `latents_mean` and `latents_std` `(batch_size, c, num_frames, h, w)`,
        `prompt_embeds` `(batch_size, tokens, width)`, and of XL `pooled_prompt_embeds` `(batch_size, width)`; no text
        where the pipeline reads none.
    """
    mean, std = encode_posterior(pipeline.vae, batch["pixel_values"])
    captions = encode_captions(pipeline, batch["text"]) if hasattr(pipeline, "text_encoder") else {}
    return {"latents_mean": mean, "latents_std": std, **captions}


def check_packable(vae: nn.Module) -> None:
    """
    Refuse an autoencoder whose latents cannot be cut to the clips that a denoiser is trained on.

    Args:
        vae (`torch.nn.Module`): The autoencoder.

    Raises:
        ValueError: If its latents have no axes of frames, height and width.
    """
    if hasattr(vae, "latent_size_of"):
        raise ValueError(
            f"Latents of an {type(vae).__name__} cannot be packed: they do not show their frames and size, and clips"
            " to train on are cut in two for a denoiser that reads the clip before. Train on the videos."
        )


def encoding_identity(pipeline: TextToVideoPipeline) -> dict[str, str]:
    """
    Tell what encoded clips depend on: packed sets are refused by other models.

    Args:
        pipeline ([`TextToVideoPipeline`]): Its autoencoder and text encoders are looked at.

    Returns:
        `dict[str, str]`: Fingerprints by component.
    """
    modules = {name: getattr(pipeline, name, None) for name in ("vae", *_TEXT_ENCODERS)}
    return {name: fingerprint_weights(module) for name, module in modules.items() if module is not None}


def model_conditions(
    pipeline: TextToVideoPipeline, encoded: dict[str, Tensor], fps: Tensor | None, size: tuple[int, int]
) -> dict[str, Any]:
    """
    Bring encoded captions and the numbers of a clip into the form that the denoiser takes.

    Args:
        pipeline ([`TextToVideoPipeline`]): Its denoiser says what it wants.
        encoded (`dict[str, torch.Tensor]`): From [`encode_captions`] or [`encode_clips`].
        fps (`torch.Tensor` of shape `(batch_size,)`, *optional*): Frames per second, for a denoiser told of it.
        size (`tuple[int, int]`): Height and width in pixels, which XL is told.

    Returns:
        `dict[str, Any]`: Keyword arguments of the denoiser.
    """
    conditions: dict[str, Any] = {"encoder_hidden_states": encoded["prompt_embeds"]}
    if pipeline.is_sdxl:
        pooled = encoded["pooled_prompt_embeds"]
        time_ids = pipeline.prepare_time_ids(size, (0, 0), size, like=pooled)
        conditions["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids}
    if "fps" in told_numbers(pipeline.unet):
        conditions["fps"] = fps
    return conditions
