"""The sampling loop of pipelines with a video denoiser."""

# Shapes: B videos, L text tokens, D text width; latents (B, c, F, h, w).

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from diffusers_video.conditioning.guidance import (
    chain_guidance,
    output_to_sample,
    sample_to_output,
    signal_and_noise,
)
from diffusers_video.conditioning.previous_clip import predict_after_clip
from diffusers_video.conditioning.reconstruction import Observation, guide_estimate, observe_frames
from diffusers_video.pipelines.controlnet import ControlCondition, control_residuals
from diffusers_video.pipelines.given_frames import GivenFrames
from diffusers_video.pipelines.scheduling import repeatable_noise, step_arguments
from diffusers_video.schedulers.log_snr import denoiser_timestep


StepCallback = Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks


@dataclass
class DenoiserConditions:
    """
    What the denoiser reads beside the latents: one row for each of B videos, the negative ones apart.

    Args:
        prompt_embeds (`torch.Tensor` of shape `(B, L, D)`, *optional*): Text embeddings, for a denoiser that reads
            text.
        negative_prompt_embeds (`torch.Tensor` of shape `(B, L, D)`, *optional*): Needed for guidance.
        add_text_embeds (`torch.Tensor` of shape `(B, width)`, *optional*): Pooled text embeddings of XL.
        negative_pooled_prompt_embeds (`torch.Tensor` of shape `(B, width)`, *optional*): Their negative ones.
        add_time_ids (`torch.Tensor` of shape `(B, 6)`, *optional*): Size conditions of XL.
        negative_add_time_ids (`torch.Tensor` of shape `(B, 6)`, *optional*): Their negative ones.
        image_embeds (`list[torch.Tensor]`, *optional*): One for each IP-Adapter; with guidance 2B rows, the negative
            ones first.
        timestep_cond (`torch.Tensor` of shape `(B, width)`, *optional*): Embedded guidance scale of LCM-type models.
        fps (`float`, *optional*): For a denoiser that is conditioned on it.
        control (`ControlCondition`, *optional*): Frames for the ControlNets.
        given ([`GivenFrames`], *optional*): Frames of the videos that are given.
        known (`tuple[Observation, ...]`, *optional*): What else is known of the clean latents, and guides them.
        noise_level (`float`, *optional*): Noise on what is told of them, for a denoiser that is conditioned on it.
        beside (`torch.Tensor` of shape `(B, channels, F, h, w)`, *optional*): What the denoiser sees in further
            channels beside the latents.
        rows (`dict[str, torch.Tensor]`, *optional*): Further arguments of the denoiser by name, with one row for each
            video, whatever the guidance.
        temporal_prompt_embeds (`torch.Tensor` of shape `(B, L, D)`, *optional*): Text of the temporal layers, where
            it is another one.
        negative_temporal_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Its negative.
        negative_beside (`torch.Tensor` of shape `(B, channels, F, h, w)`, *optional*): `beside` of the negative rows,
            where it is another one.
        previous_latents (`torch.Tensor` of the shape of the latents, *optional*): Clean latents of the clip before,
            for a denoiser that reads it.
        options (`dict[str, Any]`, *optional*): Further arguments of the denoiser by name, the same for all videos.
    """

    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    add_text_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    add_time_ids: Tensor | None = None
    negative_add_time_ids: Tensor | None = None
    image_embeds: list[Tensor] | None = None
    timestep_cond: Tensor | None = None
    fps: float | None = None
    control: ControlCondition | None = None
    given: GivenFrames | None = None
    known: tuple[Observation, ...] = ()
    noise_level: float | None = None
    beside: Tensor | None = None
    rows: dict[str, Tensor] = field(default_factory=dict)
    temporal_prompt_embeds: Tensor | None = None
    negative_temporal_prompt_embeds: Tensor | None = None
    negative_beside: Tensor | None = None
    previous_latents: Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def denoiser_sample(self, latents: Tensor, texts: Sequence[bool]) -> Tensor:
        """
        Lay the latents out as the denoiser takes them.

        Args:
            latents (`torch.Tensor` of shape `(B, c, F, h, w)`): Noisy latents, scaled.
            texts (`Sequence[bool]`): For each group of B rows, whether it is that of the prompt or the negative one.

        Returns:
            `torch.Tensor` of shape `(groups * B, channels, F, h, w)`.
        """
        sample = torch.cat([latents] * len(texts)) if len(texts) > 1 else latents
        if self.beside is None:
            return sample
        negative = self.beside if self.negative_beside is None else self.negative_beside
        return torch.cat([sample, torch.cat([self.beside if text else negative for text in texts])], dim=1)

    def denoiser_arguments(self, texts: Sequence[bool]) -> dict[str, Any]:
        """
        Lay the rows out as the denoiser takes them.

        Args:
            texts (`Sequence[bool]`): For each group of B rows, whether it is that of the prompt or the negative one.

        Returns:
            `dict[str, Any]`: Arguments of the denoiser's forward.
        """

        def grouped(rows: Tensor, negative_rows: Tensor | None) -> Tensor:
            return torch.cat([rows if text else negative_rows for text in texts]) if len(texts) > 1 else rows

        added = {}
        if self.add_text_embeds is not None:
            added["text_embeds"] = grouped(self.add_text_embeds, self.negative_pooled_prompt_embeds)
            added["time_ids"] = grouped(self.add_time_ids, self.negative_add_time_ids)
        if self.image_embeds is not None:
            # A callback may end guidance half way, and then the negative rows are no longer wanted.
            rows = len(self.prompt_embeds)
            added["image_embeds"] = [grouped(one[-rows:], one[:rows]) for one in self.image_embeds]
        arguments = {"added_cond_kwargs": added} if added else {}
        if self.prompt_embeds is not None:
            arguments["encoder_hidden_states"] = grouped(self.prompt_embeds, self.negative_prompt_embeds)
        if self.timestep_cond is not None:
            arguments["timestep_cond"] = grouped(self.timestep_cond, None)
        if self.temporal_prompt_embeds is not None:
            temporal = (self.temporal_prompt_embeds, self.negative_temporal_prompt_embeds)
            arguments["temporal_encoder_hidden_states"] = grouped(*temporal)
        for name in ("fps", "noise_level"):
            if getattr(self, name) is not None:
                arguments[name] = getattr(self, name)
        return arguments | {name: grouped(rows, rows) for name, rows in self.rows.items()} | self.options


class DenoisingMixin:
    """
    Guidance, progress and callbacks of a sampling run.

    The class that inherits it has `unet`, `scheduler`, `controlnet` and `progress_bar`.
    """

    _guidance_scale = 1.0
    _guidance_rescale = 0.0
    _context_guidance_scale = 1.0
    _clip_skip = None
    _cross_attention_kwargs = None
    _num_timesteps = 0
    _interrupt = False

    @property
    def guidance_scale(self) -> float:
        """`float`: Scale of classifier-free guidance of the present run; above 1 there is guidance."""
        return self._guidance_scale

    @property
    def context_guidance_scale(self) -> float:
        """`float`: Scale of guidance by given frames of the present run; 1 is none."""
        return self._context_guidance_scale

    @property
    def guidance_rescale(self) -> float:
        """`float`: Share, in [0, 1], of the guided output brought back to the spread of the conditional one."""
        return self._guidance_rescale

    @property
    def clip_skip(self) -> int | None:
        """`int` or `None`: Last layers of the text encoder left out in the present run."""
        return self._clip_skip

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        """`dict` or `None`: What the attention layers are given in the present run."""
        return self._cross_attention_kwargs

    @property
    def num_timesteps(self) -> int:
        """`int`: Denoiser calls of the present run."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """`bool`: Set `_interrupt` in a callback to leave out the remaining steps."""
        return self._interrupt

    @property
    def do_classifier_free_guidance(self) -> bool:
        """`bool`: Whether each step evaluates the denoiser with and without the prompt."""
        return self._guidance_scale > 1 and self.unet.config.get("time_cond_proj_dim") is None

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditions: DenoiserConditions,
        span: tuple[float, float] | None = None,
    ) -> Tensor:
        """
        Evaluate the denoiser once, with guidance by text, by given frames, by what else is known, or by all of it.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): Noisy latents.
            timestep (`torch.Tensor`): Their timestep, one number.
            conditions (`DenoiserConditions`): Rows for `batch_size` videos.
            span (`tuple[float, float]`, *optional*): Part of the run, in [0, 1], that this step covers; for
                ControlNets and given frames that act on a part of it.

        Returns:
            `torch.Tensor` of the shape of `latents`: What `scheduler.step` takes as `model_output`.
        """
        given = conditions.given
        in_force = None if given is None else given.in_force(0.0 if span is None else span[0])
        sample = self.scheduler.scale_model_input(latents, timestep)
        known = list(conditions.known)
        if in_force is not None and given.mechanism == "reconstruction":
            known.append(observe_frames(given.latents, in_force, given.scale))
        if not known:
            return self._evaluate(sample, timestep, conditions, span, in_force)
        form = (self.scheduler.config.prediction_type, *signal_and_noise(self.scheduler, timestep))

        def estimate(noisy: Tensor) -> Tensor:
            return output_to_sample(self._evaluate(noisy, timestep, conditions, span, in_force), noisy, *form)

        guided = guide_estimate(estimate, sample, known, signal=form[1], held=in_force)
        return sample_to_output(guided, sample, *form)

    def _evaluate(
        self,
        sample: Tensor,
        timestep: Tensor,
        conditions: DenoiserConditions,
        span: tuple[float, float] | None,
        in_force: Tensor | None,
    ) -> Tensor:
        told = denoiser_timestep(self.unet.config, self.scheduler, timestep)
        if conditions.previous_latents is not None:
            clip = (conditions.previous_latents, self.context_guidance_scale)
            return predict_after_clip(self.unet, sample, told, *clip, **conditions.denoiser_arguments([True]))
        is_told = in_force is not None and conditions.given.mechanism == "context"
        by_text, by_context = self.do_classifier_free_guidance, is_told and self.context_guidance_scale != 1
        branches, scales = [(not by_text, not by_context)], []  # whether the text, and whether the frames, are seen
        if by_context:
            branches.append((not by_text, True))
            scales.append(self.context_guidance_scale)
        if by_text:
            branches.append((True, True))
            scales.append(self.guidance_scale)
        texts = [text for text, _ in branches]
        arguments = conditions.denoiser_arguments(texts)
        if is_told:
            arguments |= conditions.given.denoiser_arguments([context for _, context in branches], in_force)
        sample = conditions.denoiser_sample(sample, texts)
        if conditions.control is not None:
            residuals = control_residuals(self.controlnet, conditions.control, sample, timestep, arguments, span)
            if residuals is not None:
                arguments["down_block_additional_residuals"] = residuals[0]
                arguments["mid_block_additional_residual"] = residuals[1]
        if self.cross_attention_kwargs is not None:
            arguments["cross_attention_kwargs"] = self.cross_attention_kwargs
        model_output = self.unet(sample, told, return_dict=False, **arguments)[0]
        if not scales:
            return model_output
        outputs = model_output.chunk(len(branches))
        model_output = chain_guidance(outputs, scales)
        if self.guidance_rescale > 0:
            model_output = rescale_noise_cfg(model_output, outputs[-1], self.guidance_rescale)
        return model_output

    def step(self, model_output: Tensor, timestep: Tensor, latents: Tensor, **options: Any) -> Tensor:
        """
        Let the scheduler go one step.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): From [`predict`].
            timestep (`torch.Tensor`): Where the latents are, one number.
            latents (`torch.Tensor` of the same shape): Noisy latents.
            options: From [`step_arguments`].

        Returns:
            `torch.Tensor` of the shape and type of `latents`: Less noisy ones.
        """
        return self.scheduler.step(model_output, timestep, latents, **options, return_dict=False)[0].to(latents.dtype)

    def denoise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        conditions: DenoiserConditions,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        eta: float = 0.0,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> Tensor:
        """
        Run the steps of a schedule.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): Latents at the first timestep.
            timesteps (`torch.Tensor` of shape `(num_model_calls,)`): From [`prepare_timesteps`].
            conditions (`DenoiserConditions`): Rows for `batch_size` videos; a callback may change them.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of noise added in a step.
            eta (`float`, *optional*, defaults to 0.0): Share of fresh noise, for schedulers that take it.
            callback_on_step_end (`Callable`, *optional*): Called as `callback(pipeline, step, timestep, tensors)`
                after each step; what it returns takes the place of the tensors.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`): Tensors handed to
                it, among `_callback_tensor_inputs`.

        Returns:
            `torch.Tensor` of the shape of `latents`: Denoised latents; frames that are given for the whole run are
            exactly as given.
        """
        given = conditions.given
        unit_noise = None if given is None else latents / self.scheduler.init_noise_sigma
        self._num_timesteps = num_timesteps = len(timesteps)
        names = ["latents"] if callback_on_step_end_tensor_inputs is None else callback_on_step_end_tensor_inputs
        noise = repeatable_noise(self.scheduler, generator, latents.shape[0])
        with noise, self.progress_bar(total=num_timesteps) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                span = (step / num_timesteps, (step + 1) / num_timesteps)
                if given is not None:
                    latents = given.hold(latents, unit_noise, timestep, self.scheduler, given.in_force(span[0]))
                model_output = self.predict(latents, timestep, conditions, span)
                extra = step_arguments(self.scheduler, generator, eta)
                latents = self.step(model_output, timestep, latents, **extra)
                if callback_on_step_end is not None:
                    tensors = {name: latents if name == "latents" else getattr(conditions, name) for name in names}
                    changed = callback_on_step_end(self, step, timestep, tensors) or {}
                    latents = changed.pop("latents", latents)
                    for name in changed.keys() & set(self._callback_tensor_inputs):
                        setattr(conditions, name, changed[name])
                progress_bar.update()
        return latents if given is None else given.put_back(latents)
