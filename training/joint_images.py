"""Training on single images beside each clip, and what training in continuous time cannot have."""

# Shapes: B videos, C channels, F frames, H height, W width; K images behind the F frames of a clip.

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.utils.data import Dataset

from diffusers_video.data.joint_images import JointImageDataset
from diffusers_video.data.packed import PackedClipDataset
from diffusers_video.pipelines.latents import is_video_autoencoder
from diffusers_video.training.unconditional_config import UnconditionalConfig


_OF_TIMESTEPS = ("timestep_bias_multiplier", "rescale_betas_zero_snr", "max_noise_level")


def check_continuous(config: UnconditionalConfig) -> None:
    """
    Refuse settings that need training timesteps.

    Args:
        config ([`UnconditionalConfig`]): Settings of a run in continuous time.

    Raises:
        ValueError: If there is one.
    """
    for name in _OF_TIMESTEPS:
        if getattr(config, name) != config.default_of(name):
            raise ValueError(
                f"`{name}` needs a schedule with training timesteps, but a VDMScheduler has log-SNRs. Leave it out."
            )


def add_images(dataset: Dataset, pipeline: DiffusionPipeline, config: UnconditionalConfig) -> Dataset:
    """
    Put single images beside the clips of a set, if the settings ask for it.

    Args:
        dataset (`Dataset`): The clips, with `buckets`.
        pipeline (`DiffusionPipeline`): The model that is trained.
        config ([`UnconditionalConfig`]): `num_joint_images` and `seed`.

    Returns:
        `Dataset`: The set itself, or a [`JointImageDataset`].

    Raises:
        ValueError: If frames would mix, or there are none of other clips.
    """
    if not config.num_joint_images:
        return dataset
    model = pipeline.unet.config
    if model.get("joint_norm", True) or model.get("joint_temporal_norm", True):
        raise ValueError(
            "`num_joint_images` needs a denoiser whose normalisations do not join frames, such as VDM's, but this"
            " one's do. Build it with `joint_norm` and `joint_temporal_norm` off."
        )
    if is_video_autoencoder(pipeline.vae):
        raise ValueError(
            f"`num_joint_images` needs pixels or an autoencoder of images, but `vae` is a"
            f" {type(pipeline.vae).__name__}, which joins frames. Leave it out."
        )
    if isinstance(dataset, PackedClipDataset):
        raise ValueError("`num_joint_images` needs videos, but the clips are packed latents. Leave it out.")
    return JointImageDataset(dataset, config.num_joint_images, seed=config.seed)


def append_images(batch: dict[str, Any]) -> dict[str, Any]:
    """
    Make the images of a batch further frames of its clips.

    Args:
        batch (`dict[str, Any]`): Clips with `pixel_values` `(B, C, F, H, W)`, and perhaps `images` `(B, C, K, H, W)`.

    Returns:
        `dict[str, Any]`: The batch itself where there are no images.
    """
    if "images" not in batch:
        return batch
    return {**batch, "pixel_values": torch.cat([batch["pixel_values"], batch["images"]], dim=2)}


def mark_images(batch: Mapping[str, Any], latents: Tensor) -> dict[str, Tensor]:
    """
    Tell a denoiser which frames are single images.

    Args:
        batch (`Mapping[str, Any]`): From [`append_images`].
        latents (`torch.Tensor` of shape `(B, c, F + K, h, w)`): Its clips, encoded frame by frame.

    Returns:
        `dict[str, torch.Tensor]`: `image_only` of shape `(B, F + K)`; nothing where there are no images.

    Source:
        VDM (arXiv:2204.03458), Section 3: all frames count alike in the loss, which is the plain reading.
    """
    if "images" not in batch:
        return {}
    is_image = torch.arange(latents.shape[2], device=latents.device) >= latents.shape[2] - batch["images"].shape[2]
    return {"image_only": is_image.expand(len(latents), -1)}
