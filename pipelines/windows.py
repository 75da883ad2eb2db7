"""Sampling of one window of frames, some of which are given: what prediction and interpolation share."""

# Shapes: B videos, F frames; latents (B, c, F, h, w).

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from diffusers_video.conditioning.frames import FrameCondition
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoisers import told_numbers
from diffusers_video.pipelines.denoising import DenoiserConditions
from diffusers_video.pipelines.given_frames import GivenFramesMixin, paste_frames
from diffusers_video.pipelines.latents import frames_per_latent, latents_shape
from diffusers_video.pipelines.scheduling import prepare_timesteps
from diffusers_video.pipelines.temporal_text import TEMPORAL_TEXT_COMPONENTS
from diffusers_video.pipelines.text_video import OPTIONAL_ARGUMENTS


DEFAULT_GUIDANCE_SCALE = 7.5
DEFAULT_CONTEXT_GUIDANCE_SCALE = 1.5
MET_NUMBERS = ("fps", "noise_level")


class WindowSamplingMixin(GivenFramesMixin):
    """
    Windows of frames, some of which are given.

    The class that inherits it has [`TextVideoMixin`], [`LatentVideoMixin`] and [`DenoisingMixin`] beside it, and
    `max_noise_level` in its configuration.
    """

    _optional_components = ["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", *TEMPORAL_TEXT_COMPONENTS]
    _exclude_from_cpu_offload = []

    @classmethod
    def temporal_defaults(cls, pipeline: DiffusionPipeline) -> dict[str, Any]:
        """
        Options that new temporal layers of this task have unless a call says otherwise.

        Args:
            pipeline (`DiffusionPipeline`): The image pipeline.

        Returns:
            `dict[str, Any]`: `context_channels`.
        """
        return {"context_channels": pipeline.vae.config.latent_channels + 1}

    def complete_arguments(
        self, arguments: Mapping[str, Any], loaded: Sequence[Tensor], has_context: bool
    ) -> dict[str, Any]:
        """
        Fill in what a call leaves open.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of a call by name.
            loaded (`Sequence[torch.Tensor]`): The given frames, from [`~GivenFramesMixin.load_conditions`].
            has_context (`bool`): Whether any window has a given frame.

        Returns:
            `dict[str, Any]`: Arguments for [`~TextVideoMixin.check_call`]; without a prompt the text is empty and
            there is no guidance by it.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If guidance has no effect.
        """
        full = {**dict.fromkeys(OPTIONAL_ARGUMENTS), **arguments}
        full["mechanism"] = self.choose_mechanism(full["mechanism"], full["reconstruction_scale"])
        is_told = has_context and full["mechanism"][0] == "context"
        if full["context_guidance_scale"] is None:
            full["context_guidance_scale"] = DEFAULT_CONTEXT_GUIDANCE_SCALE if is_told else 1.0
        checks.check_number("context_guidance_scale", full["context_guidance_scale"])
        if full["context_guidance_scale"] != 1 and not is_told:
            raise ValueError(
                "`context_guidance_scale` has an effect only where a model with context is told given frames. Leave it"
                " out, or give frames and take mechanism 'context'."
            )
        has_text = full["prompt"] is not None or full["prompt_embeds"] is not None
        if full["guidance_scale"] is None:
            full["guidance_scale"] = DEFAULT_GUIDANCE_SCALE if has_text else 1.0
        if not has_text:
            checks.check_number("guidance_scale", full["guidance_scale"])
            if full["guidance_scale"] > 1:
                raise ValueError("`guidance_scale` has no effect without a prompt. Leave it out, or pass `prompt`.")
            full["prompt"] = [""] * max([1, *(frames.shape[0] for frames in loaded)])
        callback = full["callback_on_step_end"]
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            full["callback_on_step_end_tensor_inputs"] = callback.tensor_inputs
        return full

    def default_size(
        self, conditions: Sequence[FrameCondition], loaded: Sequence[Tensor], height: int | None, width: int | None
    ) -> tuple[int | None, int | None]:
        """
        Fill in height and width: those of the given frames, else those the model was trained at.

        Args:
            conditions (`Sequence[FrameCondition]`): What is given.
            loaded (`Sequence[torch.Tensor]`): From [`~GivenFramesMixin.load_conditions`].
            height (`int`, *optional*): Height asked for, in pixels.
            width (`int`, *optional*): Width asked for, in pixels.

        Returns:
            `tuple[int | None, int | None]`: Height and width.
        """
        pixels = [frames for one, frames in zip(conditions, loaded, strict=True) if not one.is_latent]
        latents = [frames for one, frames in zip(conditions, loaded, strict=True) if one.is_latent]
        return self.default_shape(pixels[0] if pixels else None, latents[0] if latents else None, height, width, 1)[:2]

    def start_call(self, arguments: Mapping[str, Any]) -> None:
        """
        Let the properties of the pipeline tell about this run.

        Args:
            arguments (`Mapping[str, Any]`): From [`complete_arguments`].
        """
        self._guidance_scale, self._guidance_rescale = arguments["guidance_scale"], arguments["guidance_rescale"]
        self._context_guidance_scale, self._interrupt = arguments["context_guidance_scale"], False
        self._cross_attention_kwargs, self._clip_skip = arguments["cross_attention_kwargs"], arguments["clip_skip"]

    def latents_like(self, conditions: DenoiserConditions) -> Tensor:
        """
        Tell type and place of latents.

        Args:
            conditions (`DenoiserConditions`): Text and numbers.

        Returns:
            `torch.Tensor`: The text, or an empty tensor where the denoiser reads none.
        """
        if conditions.prompt_embeds is not None:
            return conditions.prompt_embeds
        return torch.empty(0, dtype=self.unet.dtype, device=self._execution_device)

    def window_shape(self, arguments: Mapping[str, Any], batch_size: int, num_frames: int) -> tuple[int, ...]:
        """
        Shape of the latents of a window.

        Args:
            arguments (`Mapping[str, Any]`): With `height` and `width`.
            batch_size (`int`): Number of videos.
            num_frames (`int`): Frames of the window.

        Returns:
            `tuple[int, ...]`: `(batch_size, c, f, h, w)`.
        """
        return (batch_size, *latents_shape(self.vae, num_frames, arguments["height"], arguments["width"]))

    def sample_window(
        self,
        conditions: DenoiserConditions,
        given: tuple[Tensor, Sequence[float]],
        arguments: Mapping[str, Any],
        *,
        noise_level: int | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """
        Draw one window.

        Args:
            conditions (`DenoiserConditions`): Text and numbers; left as they are.
            given (`tuple[torch.Tensor, Sequence[float]]`): Latents of the given frames at their places, and one
                strength per frame.
            arguments (`Mapping[str, Any]`): From [`complete_arguments`].
            noise_level (`int`, *optional*, defaults to 0): Timestep of the noise on what is told.
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`, *optional*): Unit noise to use.

        Returns:
            `torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`: Denoised latents.
        """
        get = arguments.__getitem__
        frames, strengths = given
        is_interrupted = self._interrupt
        self.start_call(arguments)  # a callback may have ended guidance in the window before
        self._interrupt = is_interrupted
        device = frames.device
        timesteps = prepare_timesteps(
            self.scheduler, get("num_inference_steps"), get("timesteps"), get("sigmas"), None, device
        )
        size = (get("height"), get("width"))
        num_frames = len(strengths) * frames_per_latent(self.vae)
        latents = self.prepare_latents(
            frames.shape[0], num_frames, *size, frames.dtype, device, get("generator"), latents
        )
        told = self.give_frames(frames, strengths, get("mechanism"), noise_level, get("generator"))
        is_asked = "noise_level" in told_numbers(self.unet)
        window = replace(conditions, given=told, noise_level=float(noise_level or 0) if is_asked else None)
        return self.denoise(
            latents,
            timesteps,
            window,
            generator=get("generator"),
            eta=get("eta"),
            callback_on_step_end=get("callback_on_step_end"),
            callback_on_step_end_tensor_inputs=get("callback_on_step_end_tensor_inputs"),
        )

    def show_frames(
        self,
        latents: Tensor,
        conditions: Sequence[FrameCondition],
        loaded: Sequence[Tensor],
        arguments: Mapping[str, Any],
    ) -> Tensor:
        """
        Decode latents, unless latents are wanted, and put the given frames back pixel by pixel, unless told not to.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): Denoised latents.
            conditions (`Sequence[FrameCondition]`): What was given.
            loaded (`Sequence[torch.Tensor]`): From [`~GivenFramesMixin.load_conditions`].
            arguments (`Mapping[str, Any]`): With `output_type`, `decode_chunk_size` and `decode_given_frames`.

        Returns:
            `torch.Tensor`: The latents, or frames `(batch_size, channels, num_frames, height, width)` in [0, 1].
        """
        if arguments["output_type"] == "latent":
            return latents
        videos = self.decode_frames(latents, arguments["decode_chunk_size"])
        return videos if arguments["decode_given_frames"] else paste_frames(videos, conditions, loaded)


def check_flag(name: str, value: Any) -> None:
    """
    Refuse what is no bool.

    Args:
        name (`str`): Argument that holds `value`.
        value (`Any`): What was passed.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be a bool, but is {value!r} ({type(value).__name__}).")
