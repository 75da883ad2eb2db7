"""The loss of a batch of clips, in training and on held-out clips."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.logging import get_logger
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffusers_video.conditioning.noise import draw_noise, make_generator
from diffusers_video.data.dataset import collate_clips
from diffusers_video.pipelines.text_to_video import TextToVideoPipeline
from diffusers_video.training import objectives
from diffusers_video.training.config import VideoUNetConfig
from diffusers_video.training.context import (
    context_conditions,
    draw_frame_mask,
    draw_windows,
    heldout_frame_mask,
    heldout_window,
)
from diffusers_video.training.encoding import encode_clips, encode_empty_caption, model_conditions, sample_latents
from diffusers_video.training.models import training_scheduler


logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClipLoss:
    """
    What the loss of clips depends on, besides the denoiser.

    Args:
        pipeline ([`TextToVideoPipeline`]): Its frozen models encode clips and captions.
        scheduler (`DDPMScheduler`): The noise schedule.
        empty (`dict[str, torch.Tensor]`): An empty caption, encoded.
        config ([`VideoUNetConfig`]): Settings of the objective.
    """

    pipeline: TextToVideoPipeline
    scheduler: DDPMScheduler
    empty: dict[str, Tensor]
    config: VideoUNetConfig

    @classmethod
    def build(cls, pipeline: TextToVideoPipeline, config: VideoUNetConfig) -> "ClipLoss":
        """
        Set up the loss, when the frozen models are where they run.

        Args:
            pipeline ([`TextToVideoPipeline`]): See [`ClipLoss`].
            config ([`VideoUNetConfig`]): See [`ClipLoss`].

        Returns:
            [`ClipLoss`]
        """
        empty = encode_empty_caption(pipeline)
        return cls(pipeline=pipeline, scheduler=training_scheduler(pipeline), empty=empty, config=config)

    def encode(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """
        Encode clips, unless they are packed.

        Args:
            batch (`dict[str, Any]`): Clips from [`collate_clips`], with `pixel_values` and `text` or with what
                [`encode_clips`] makes of them.

        Returns:
            `tuple`: Mean and deviation of the latents by name, and arguments of the denoiser.
        """
        device = self.pipeline.vae.device
        is_packed = "latents_mean" in batch
        encoded = batch if is_packed else encode_clips(self.pipeline, batch)
        encoded = {name: value.to(device) for name, value in encoded.items() if isinstance(value, Tensor)}
        factor = self.pipeline.vae_scale_factor if is_packed else 1
        height, width = (
            (side * factor for side in encoded["latents_mean"].shape[-2:])
            if is_packed
            else (batch["pixel_values"].shape[-2:])
        )
        conditions = model_conditions(self.pipeline, encoded, batch["fps"].to(device), (height, width))
        return {name: encoded[name] for name in ("latents_mean", "latents_std")}, conditions

    def __call__(self, model: nn.Module, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """
        Compute the loss that is trained on.

        Args:
            model (`torch.nn.Module`): The denoiser.
            batch (`dict[str, Any]`): See [`ClipLoss.encode`].
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `torch.Tensor`: Scalar.
        """
        config = self.config
        batch = self.draw_window(batch, generator)
        posterior, conditions = self.encode(batch)
        latents = sample_latents(*posterior.values(), config.posterior, generator)
        size, device = len(latents), latents.device
        conditions = self.drop_captions(conditions, size, generator)
        image_only = self._draw_images(size, generator)
        if image_only is not None:
            conditions["image_only"] = image_only.to(device)
        conditions |= self.draw_conditions(batch, latents, generator)
        noise = draw_noise(
            latents.shape,
            config.noise_prior,
            config.noise_prior_strength,
            generator=generator,
            device=device,
            image_only=image_only,
        )
        if config.noise_offset:
            per = config.noise_offset_per
            noise = objectives.add_noise_offset(noise, config.noise_offset, per=per, generator=generator)
        perturbation = None
        if config.input_perturbation:
            own = draw_noise(latents.shape, generator=generator, device=device)
            perturbation = config.input_perturbation * own
        weights = None
        if config.timestep_bias_multiplier != 1:
            bias = (config.timestep_bias_begin, config.timestep_bias_end, config.timestep_bias_multiplier)
            weights = objectives.timestep_weights(self.scheduler.config.num_train_timesteps, *bias)
        timesteps = objectives.draw_noise_levels(self.scheduler, size, generator, weights).to(device)
        context_noise = conditions.pop("context_noise", None)
        return objectives.denoising_loss(
            model,
            self.scheduler,
            latents,
            conditions,
            noise=noise,
            timesteps=timesteps,
            snr_gamma=config.snr_gamma,
            perturbation=perturbation,
            loss_type=config.loss_type,
            context_noise=context_noise,
        )

    def drop_captions(self, conditions: dict[str, Any], batch_size: int, generator: torch.Generator) -> dict[str, Any]:
        """
        Take the captions from some clips.

        Args:
            conditions (`dict[str, Any]`): Arguments of the denoiser.
            batch_size (`int`): Number of clips.
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `dict[str, Any]`: New ones.
        """
        dropped = objectives.draw_mask(batch_size, self.config.caption_dropout, generator)
        return objectives.drop_captions(conditions, self._empty_conditions(conditions), dropped)

    def draw_window(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """
        Draw the part of each clip that is trained on.

        Args:
            batch (`dict[str, Any]`): See [`ClipLoss.encode`].
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `dict[str, Any]`: The batch itself but for interpolation.
        """
        return draw_windows(batch, generator, self.config.rate) if self.config.task == "interpolation" else batch

    def fix_window(self, batch: dict[str, Any], place: int) -> dict[str, Any]:
        """
        Fix the part of a held-out clip that is measured on.

        Args:
            batch (`dict[str, Any]`): One clip, see [`ClipLoss.encode`].
            place (`int`): Number of the clip.

        Returns:
            `dict[str, Any]`: The batch itself but for interpolation.
        """
        return heldout_window(batch, place, self.config.rate) if self.config.task == "interpolation" else batch

    def draw_conditions(
        self, batch: Mapping[str, Any], latents: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """
        Draw what the denoiser is told beside text and numbers.

        Args:
            batch (`Mapping[str, Any]`): See [`ClipLoss.encode`].
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): The clips, encoded.
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `dict[str, torch.Tensor]`: Arguments of the denoiser, and perhaps the `context_noise` of
            [`~training.objectives.denoising_loss`].
        """
        if self.config.task == "text-to-video":
            return {}
        return context_conditions(
            latents,
            draw_frame_mask(self.config, len(latents), latents.shape[2], generator),
            self.pipeline.unet.config.added_time_ids,
            scheduler=self.scheduler,
            max_noise_level=self.config.max_noise_level,
            generator=generator,
        )

    def fix_conditions(self, batch: Mapping[str, Any], latents: Tensor, place: int) -> dict[str, Tensor]:
        """
        Fix what the denoiser is told of a held-out clip beside text and numbers.

        Args:
            batch (`Mapping[str, Any]`): One clip, see [`ClipLoss.encode`].
            latents (`torch.Tensor` of shape `(1, c, num_frames, h, w)`): It, encoded.
            place (`int`): Number of the clip.

        Returns:
            `dict[str, torch.Tensor]`: Arguments of the denoiser.
        """
        if self.config.task == "text-to-video":
            return {}
        frame_mask = heldout_frame_mask(self.config, place, latents.shape[2])
        return context_conditions(latents, frame_mask, self.pipeline.unet.config.added_time_ids)

    def _empty_conditions(self, conditions: Mapping[str, Any]) -> dict[str, Any]:
        empty: dict[str, Any] = {"encoder_hidden_states": self.empty["prompt_embeds"]}
        if "added_cond_kwargs" in conditions:
            empty["added_cond_kwargs"] = {"text_embeds": self.empty["pooled_prompt_embeds"]}
        return empty

    def _draw_images(self, batch_size: int, generator: torch.Generator) -> Tensor | None:
        if self.config.train == "spatial":
            return torch.ones(batch_size, dtype=torch.bool)
        if not self.config.image_probability:
            return None
        return objectives.draw_mask(batch_size, self.config.image_probability, generator)


@dataclass(frozen=True)
class HeldoutClip:
    """
    A clip, noise and timesteps that stay the same, so that losses of different steps can be compared.

    Args:
        latents (`torch.Tensor` of shape `(1, c, num_frames, h, w)`): The mode of the posterior.
        conditions (`dict[str, Any]`): Arguments of the denoiser.
        noise (`torch.Tensor` of shape `(num_timesteps, c, num_frames, h, w)`): Noise for each timestep.
        timesteps (`torch.Tensor` of shape `(num_timesteps,)`): Noise levels.
        context_noise (`torch.Tensor` of the shape of `latents`, *optional*): See
            [`~training.objectives.denoising_loss`].
    """

    latents: Tensor
    conditions: dict[str, Any]
    noise: Tensor
    timesteps: Tensor
    context_noise: Tensor | None = None


def prepare_heldout(clip_loss: ClipLoss, dataset: Dataset | None) -> list[HeldoutClip]:
    """
    Choose clips spread evenly over a set, and fix their timesteps and noise.

    Args:
        clip_loss ([`ClipLoss`]): Encodes the clips; its settings say how many.
        dataset (`Dataset`, *optional*): The held-out clips; without any the log says so.

    Returns:
        `list[HeldoutClip]`: Timesteps are the middles of equal parts of the schedule.
    """
    config = clip_loss.config
    number = 0 if dataset is None else min(config.num_heldout_clips, len(dataset))
    if number == 0:
        logger.info("No clips are held out: give `heldout_fraction` or `heldout_data_dir` to see what is learned.")
    levels = objectives.spread_noise_levels(clip_loss.scheduler, config.num_heldout_timesteps)
    clips = []
    for place in range(number):
        batch = collate_clips([dataset[place * len(dataset) // number]])
        batch = clip_loss.fix_window(batch, place)
        posterior, conditions = clip_loss.encode(batch)
        latents = posterior["latents_mean"]
        conditions |= clip_loss.fix_conditions(batch, latents, place)
        if config.train == "spatial":
            conditions["image_only"] = torch.ones(1, dtype=torch.bool, device=latents.device)
        noise = draw_noise(
            (len(levels), *latents.shape[1:]),
            config.noise_prior,
            config.noise_prior_strength,
            generator=make_generator(config.seed, place),
            device=latents.device,
        )
        timesteps, context_noise = levels.to(latents.device), conditions.pop("context_noise", None)
        clips.append(HeldoutClip(latents, conditions, noise, timesteps, context_noise))
    return clips


def heldout_loss(model: nn.Module, scheduler: DDPMScheduler, clips: list[HeldoutClip]) -> float:
    """
    Denoising error on held-out clips: no weights, no dropped captions, nothing random.

    Args:
        model (`torch.nn.Module`): The denoiser, in evaluation mode.
        scheduler (`DDPMScheduler`): The noise schedule.
        clips (`list[HeldoutClip]`): From [`prepare_heldout`], at least one.

    Returns:
        `float`: Mean over clips and timesteps.
    """
    return heldout_errors(model, scheduler, clips).mean().item()


@torch.no_grad()
def heldout_errors(model: nn.Module, scheduler: DDPMScheduler, clips: list[HeldoutClip]) -> Tensor:
    """
    Denoising errors on held-out clips, one by one; [`heldout_loss`] is their mean.

    Args:
        model (`torch.nn.Module`): The denoiser, in evaluation mode.
        scheduler (`DDPMScheduler`): The noise schedule.
        clips (`list[HeldoutClip]`): From [`prepare_heldout`], at least one.

    Returns:
        `torch.Tensor` of shape `(clips, timesteps)`: float64.
    """
    losses = []
    for clip in clips:
        for noise, timestep in zip(clip.noise.split(1), clip.timesteps.split(1), strict=True):
            loss = objectives.denoising_loss(
                model,
                scheduler,
                clip.latents,
                clip.conditions,
                noise=noise,
                timesteps=timestep,
                context_noise=clip.context_noise,
            )
            losses.append(loss)
    return torch.stack(losses).double().unflatten(0, (len(clips), -1))
