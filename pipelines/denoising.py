"""The sampling loop of pipelines with a text-conditioned denoiser."""

# Shapes: B videos, L text tokens, D text width; latents (B, c, F, h, w).

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from diffusers_video.pipelines.controlnet import ControlCondition, control_residuals
from diffusers_video.pipelines.scheduling import repeatable_noise, step_arguments


StepCallback = Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks


@dataclass
class DenoiserConditions:
    """
    What the denoiser reads beside the latents: one row for each of B videos, the negative ones apart.

    Args:
        prompt_embeds (`torch.Tensor` of shape `(B, L, D)`): Text embeddings.
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
    """

    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor | None = None
    add_text_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    add_time_ids: Tensor | None = None
    negative_add_time_ids: Tensor | None = None
    image_embeds: list[Tensor] | None = None
    timestep_cond: Tensor | None = None
    fps: float | None = None
    control: ControlCondition | None = None

    def denoiser_arguments(self, guided: bool) -> dict[str, Any]:
        """
        Lay the rows out as the denoiser takes them.

        Args:
            guided (`bool`): Whether the unguided half goes before the guided one, 2B rows in all.

        Returns:
            `dict[str, Any]`: Arguments of the denoiser's forward.
        """

        def both(rows: Tensor, negative_rows: Tensor | None) -> Tensor:
            return torch.cat([negative_rows, rows]) if guided else rows

        added = {}
        if self.add_text_embeds is not None:
            added["text_embeds"] = both(self.add_text_embeds, self.negative_pooled_prompt_embeds)
            added["time_ids"] = both(self.add_time_ids, self.negative_add_time_ids)
        if self.image_embeds is not None:
            # A callback may end guidance half way, and then the negative rows are no longer wanted.
            rows = len(self.prompt_embeds)
            added["image_embeds"] = [one if guided else one[-rows:] for one in self.image_embeds]
        arguments = {
            "encoder_hidden_states": both(self.prompt_embeds, self.negative_prompt_embeds),
            "added_cond_kwargs": added or None,
        }
        if self.timestep_cond is not None:
            arguments["timestep_cond"] = self.timestep_cond
        if self.fps is not None:
            arguments["fps"] = self.fps
        return arguments


class DenoisingMixin:
    """
    Guidance, progress and callbacks of a sampling run.

    The class that inherits it has `unet`, `scheduler`, `controlnet` and `progress_bar`.
    """

    _guidance_scale = 1.0
    _guidance_rescale = 0.0
    _clip_skip = None
    _cross_attention_kwargs = None
    _num_timesteps = 0
    _interrupt = False

    @property
    def guidance_scale(self) -> float:
        """`float`: Scale of classifier-free guidance of the present run; above 1 there is guidance."""
        return self._guidance_scale

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
        return self._guidance_scale > 1 and self.unet.config.time_cond_proj_dim is None

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditions: DenoiserConditions,
        span: tuple[float, float] | None = None,
    ) -> Tensor:
        """
        Evaluate the denoiser once, with guidance.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): Noisy latents.
            timestep (`torch.Tensor`): Their timestep, one number.
            conditions (`DenoiserConditions`): Rows for `batch_size` videos.
            span (`tuple[float, float]`, *optional*): Part of the run, in [0, 1], that this step covers; for
                ControlNets that act on a part of it.

        Returns:
            `torch.Tensor` of the shape of `latents`: What `scheduler.step` takes as `model_output`.
        """
        guided = self.do_classifier_free_guidance
        sample = self.scheduler.scale_model_input(latents, timestep)
        sample = torch.cat([sample, sample]) if guided else sample
        arguments = conditions.denoiser_arguments(guided)
        if conditions.control is not None:
            residuals = control_residuals(self.controlnet, conditions.control, sample, timestep, arguments, span)
            if residuals is not None:
                arguments["down_block_additional_residuals"] = residuals[0]
                arguments["mid_block_additional_residual"] = residuals[1]
        model_output = self.unet(
            sample, timestep, cross_attention_kwargs=self.cross_attention_kwargs, return_dict=False, **arguments
        )[0]
        if not guided:
            return model_output
        unconditional, conditional = model_output.chunk(2)
        model_output = unconditional + self.guidance_scale * (conditional - unconditional)
        if self.guidance_rescale > 0:
            model_output = rescale_noise_cfg(model_output, conditional, self.guidance_rescale)
        return model_output

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
            `torch.Tensor` of the shape of `latents`: Denoised latents.
        """
        self._num_timesteps = num_timesteps = len(timesteps)
        names = ["latents"] if callback_on_step_end_tensor_inputs is None else callback_on_step_end_tensor_inputs
        noise = repeatable_noise(self.scheduler, generator, latents.shape[0])
        with noise, self.progress_bar(total=num_timesteps) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                span = (step / num_timesteps, (step + 1) / num_timesteps)
                model_output = self.predict(latents, timestep, conditions, span)
                extra = step_arguments(self.scheduler, generator, eta)
                stepped = self.scheduler.step(model_output, timestep, latents, **extra, return_dict=False)[0]
                latents = stepped.to(latents.dtype)
                if callback_on_step_end is not None:
                    tensors = {name: latents if name == "latents" else getattr(conditions, name) for name in names}
                    changed = callback_on_step_end(self, step, timestep, tensors) or {}
                    latents = changed.pop("latents", latents)
                    for name in changed.keys() & set(self._callback_tensor_inputs):
                        setattr(conditions, name, changed[name])
                progress_bar.update()
        return latents
