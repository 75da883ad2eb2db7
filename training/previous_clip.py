"""Joint training with and without the clip before: PVDM's denoiser learns first clips and those behind another."""

# Shapes: B videos, C channels, F frames, H height, W width; latents (B, c, ...).

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from diffusers_video.pipelines.denoisers import reads_previous_clip
from diffusers_video.training import objectives
from diffusers_video.training.clip_loss import HeldoutClip, heldout_loss
from diffusers_video.training.encoding import check_packable, encode_posterior
from diffusers_video.training.pooled_text import CaptionedClipLoss
from diffusers_video.training.text_models import reads_captions
from diffusers_video.training.training_data import is_packed
from diffusers_video.training.unconditional import UnconditionalLoss
from diffusers_video.training.unconditional_config import PREVIOUS_CLIP_PROBABILITY, UnconditionalConfig


_LEFT_OUT = {"previous_latents": "previous", "encoder_hidden_states": "text"}


@dataclass(frozen=True, kw_only=True)
class ClipAfterClipLoss(UnconditionalLoss):
    """
    The loss of a denoiser that reads the clip before: L = lambda L(z2 | z1) + (1 - lambda) L(z2 | 0).

    Training clips are twice as long as those of the model. With a chance of lambda the first half of one is given and
    its second half is learned; otherwise half of it from anywhere is learned and nothing is given.

    Source:
        PVDM (arXiv:2302.07685), Section 3.3. Its code tosses the coin for a whole batch; here every clip has its own.
    """

    def draw_window(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """
        Draw which clips know the one before them, and where the others begin.

        Args:
            batch (`dict[str, Any]`): Clips with `pixel_values` of twice the length.
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `dict[str, Any]`: With `pixel_values` to learn, `previous_pixel_values` and `is_told`, a mask over both.
        """
        videos, chance = batch["pixel_values"], self.config.previous_clip_probability
        chance = PREVIOUS_CLIP_PROBABILITY if chance is None else chance
        length = videos.shape[2] // 2
        is_told = objectives.draw_mask(len(videos), chance, generator)
        starts = torch.randint(length + 1, (len(videos),), generator=generator)
        return cut_clips(batch, is_told, torch.where(is_told, length, starts).tolist())

    def fix_window(self, batch: dict[str, Any], place: int) -> dict[str, Any]:
        """
        Measure on the second half of a held-out clip, behind the first one.

        Args:
            batch (`dict[str, Any]`): One clip of twice the length.
            place (`int`): Number of the clip.

        Returns:
            `dict[str, Any]`: See [`draw_window`].
        """
        return cut_clips(batch, torch.ones(1, dtype=torch.bool), [batch["pixel_values"].shape[2] // 2])

    def encode(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """
        Encode clips, and those before them where they are told.

        Args:
            batch (`dict[str, Any]`): From [`draw_window`].

        Returns:
            `tuple`: Mean and deviation of the latents by name, and arguments of the denoiser.
        """
        encoded, conditions = super().encode(batch)
        previous, is_told = torch.zeros_like(encoded["latents_mean"]), batch["is_told"]
        if is_told.any():
            told, _ = encode_posterior(self.pipeline.vae, batch["previous_pixel_values"][is_told].to(self.device))
            previous[is_told.to(self.device)] = told
        return encoded, {**conditions, "previous_latents": previous}


def cut_clips(batch: dict[str, Any], is_told: Tensor, starts: Sequence[int]) -> dict[str, Any]:
    """
    Cut the clips of a model out of those that are twice as long.

    Args:
        batch (`dict[str, Any]`): With `pixel_values` `(batch_size, channels, 2 * num_frames, height, width)`.
        is_told (`torch.Tensor` of shape `(batch_size,)` and type `torch.bool`): Whether the first half is given.
        starts (`Sequence[int]`): Frame that each begins at.

    Returns:
        `dict[str, Any]`: With both halves as [`ClipAfterClipLoss.draw_window`] says.
    """
    videos = batch["pixel_values"]
    length = videos.shape[2] // 2
    windows = [video[:, start : start + length] for video, start in zip(videos, starts, strict=True)]
    cut = {"pixel_values": torch.stack(windows), "previous_pixel_values": videos[:, :, :length], "is_told": is_told}
    return {**batch, **cut}


def build_loss(pipeline: DiffusionPipeline, config: UnconditionalConfig, device: torch.device) -> UnconditionalLoss:
    """
    Choose the loss that fits a denoiser.

    Args:
        pipeline (`DiffusionPipeline`): Its denoiser says whether it reads the clip before, and its class whether text.
        config ([`UnconditionalConfig`]): Settings of the objective.
        device (`torch.device`): Where it runs.

    Returns:
        [`UnconditionalLoss`]

    Raises:
        ValueError: If `previous_clip_probability` has no effect, or clips are packed that cannot be.
    """
    loss_class = CaptionedClipLoss if reads_captions(pipeline) else UnconditionalLoss
    loss_class = ClipAfterClipLoss if reads_previous_clip(pipeline.unet) else loss_class
    if loss_class is not ClipAfterClipLoss and config.previous_clip_probability is not None:
        raise ValueError(
            "`previous_clip_probability` has an effect only on a denoiser with `use_previous_clip`, but this"
            f" {type(pipeline.unet).__name__} reads no clip before. Leave it out."
        )
    if any(path and is_packed(path) for path in (config.train_data_dir, config.heldout_data_dir)):
        check_packable(pipeline.vae)
    return loss_class.build(pipeline, config, device)


def heldout_losses(model: nn.Module, loss_fn: UnconditionalLoss, clips: list[HeldoutClip]) -> dict[str, float]:
    """
    Measure the denoising error on held-out clips, and of a denoiser that reads text or the clip before without it too.

    Args:
        model (`torch.nn.Module`): The denoiser, in evaluation mode.
        loss_fn ([`UnconditionalLoss`]): Its noise schedule.
        clips (`list[HeldoutClip]`): From [`prepare_heldout`]; with none nothing is measured.

    Returns:
        `dict[str, float]`: `heldout_loss`, and `heldout_loss_without_previous` or `heldout_loss_without_text` of the
        same clips.
    """
    if not clips:
        return {}
    losses = {"heldout_loss": heldout_loss(model, loss_fn.scheduler, clips)}
    for name, left_out in _LEFT_OUT.items():
        if name in clips[0].conditions:
            alone = [dataclasses.replace(clip, conditions={**clip.conditions, name: None}) for clip in clips]
            losses[f"heldout_loss_without_{left_out}"] = heldout_loss(model, loss_fn.scheduler, alone)
    return losses
