"""The stages of a long video, each a generator that draws a window when its frames are asked for."""

# Shapes: B windows, C channels, F frames, H height, W width; latents (B, c, F, h, w).

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from diffusers_video.conditioning.frames import FrameCondition
from diffusers_video.conditioning.noise import make_generator
from diffusers_video.layers.windows import window_starts
from diffusers_video.pipelines.checks import check_finite
from diffusers_video.pipelines.denoising import StepCallback
from diffusers_video.pipelines.frame_interpolation import FrameInterpolationPipeline
from diffusers_video.pipelines.frame_streams import FrameReader, limit_frames
from diffusers_video.pipelines.key_frame_prediction import KeyFramePredictionPipeline
from diffusers_video.pipelines.latents import frames_per_latent
from diffusers_video.pipelines.long_video_plan import LongVideoPlan
from diffusers_video.pipelines.upscaling import skip_frames
from diffusers_video.pipelines.video_super_resolution import VideoSuperResolutionPipeline
from diffusers_video.pipelines.windows import WindowSamplingMixin
from diffusers_video.pipelines.work_folder import WorkFolder


IMAGE, PREDICTION, INTERPOLATION, SUPER_RESOLUTION = "image", "prediction", "interpolation", "super_resolution"
GIVEN, FRAMES = "given", "frames"
STAGES = (IMAGE, PREDICTION, INTERPOLATION, SUPER_RESOLUTION)
IMAGE_ARGUMENTS = (
    "num_inference_steps",
    "guidance_scale",
    "eta",
    "timesteps",
    "sigmas",
    "guidance_rescale",
    "cross_attention_kwargs",
)
GIVEN_ARGUMENTS = ("context_guidance_scale", "mechanism", "reconstruction_scale", "noise_level")
WINDOW_ARGUMENTS = (*IMAGE_ARGUMENTS, *GIVEN_ARGUMENTS)
SUPER_RESOLUTION_ARGUMENTS = (
    *IMAGE_ARGUMENTS,
    "prompt",
    "negative_prompt",
    "prompt_embeds",
    "negative_prompt_embeds",
    "noise_level",
    "chunk_size",
    "chunk_overlap",
    "decode_chunk_size",
    "image_only",
)
STAGE_ARGUMENTS = {
    IMAGE: IMAGE_ARGUMENTS,
    PREDICTION: WINDOW_ARGUMENTS,
    INTERPOLATION: WINDOW_ARGUMENTS,
    SUPER_RESOLUTION: SUPER_RESOLUTION_ARGUMENTS,
}
ADVICE = "Load the denoiser in float32 or bfloat16, or try another scheduler or a lower `guidance_scale`."


class RunInterruptedError(Exception):
    """A callback set `_interrupt`."""


def complete_call(
    pipeline: WindowSamplingMixin, arguments: Mapping[str, Any], conditions: list[FrameCondition]
) -> dict[str, Any]:
    """
    Check a call of one window as the pipeline itself would, before any model runs.

    Args:
        pipeline ([`KeyFramePredictionPipeline`] or [`FrameInterpolationPipeline`]): The pipeline.
        arguments (`Mapping[str, Any]`): Arguments of its call; the others keep their defaults.
        conditions (`list[FrameCondition]`): Latents of the given frames.

    Returns:
        `dict[str, Any]`: All arguments, from [`~WindowSamplingMixin.complete_arguments`].

    Raises:
        TypeError: If a type is wrong.
        ValueError: If a value is, or arguments do not fit together or the models.
    """
    parameters = inspect.signature(type(pipeline).__call__).parameters
    defaults = {name: item.default for name, item in parameters.items() if name != "self"}
    loaded = [condition.frames for condition in conditions]
    full = pipeline.complete_arguments({**defaults, **arguments}, loaded, has_context=bool(conditions))
    given = conditions[0] if isinstance(pipeline, FrameInterpolationPipeline) else conditions
    pipeline.check_inputs(full, given, loaded)
    return full


@dataclass
class LongVideoRun:
    """
    One run: what its stages draw with, and where finished windows are kept.

    Args:
        plan ([`LongVideoPlan`]): Lengths.
        prediction ([`KeyFramePredictionPipeline`]): Draws key frames, and the first one.
        interpolation ([`FrameInterpolationPipeline`], *optional*): Draws frames between.
        image (`DiffusionPipeline`, *optional*): Image pipeline that draws the first frame instead.
        super_resolution ([`VideoSuperResolutionPipeline`], *optional*): Enlarges the frames.
        calls (`Mapping[str, Mapping[str, Any]]`): For each stage arguments of its pipeline's call.
        text (`Mapping[str, torch.Tensor]`): Text embeddings of one row, by the name of their argument.
        like (`torch.Tensor`): Type and place of latents.
        seed (`int`): Decides all noise, from [`~diffusers_video.conditioning.noise.draw_seeds`].
        folder ([`WorkFolder`], *optional*): Where finished windows are kept.
        callback (`StepCallback`, *optional*): Called after each step of each window.
        callback_tensors (`list[str]`, *optional*): Tensors handed to it.
        on_window (`Callable`): Called when a window is finished.
    """

    plan: LongVideoPlan
    prediction: KeyFramePredictionPipeline
    interpolation: FrameInterpolationPipeline | None
    image: DiffusionPipeline | None
    super_resolution: VideoSuperResolutionPipeline | None
    calls: Mapping[str, Mapping[str, Any]]
    text: Mapping[str, Tensor]
    like: Tensor
    seed: int
    folder: WorkFolder | None
    callback: StepCallback | None
    callback_tensors: list[str] | None
    on_window: Callable[[], Any]

    @property
    def num_windows(self) -> int:
        """`int`: Windows of all stages."""
        if self.super_resolution is None:
            return self.plan.num_windows
        chunks = self.super_resolution.complete_chunks(*self._chunks())
        return self.plan.num_windows + len(window_starts(self.num_frames, *chunks))

    @property
    def num_frames(self) -> int:
        """`int`: Frames of the video; the plan counts those of the latents."""
        return self.plan.num_frames * frames_per_latent(self.prediction.vae)

    def _chunks(self) -> tuple[int | None, int | None]:
        call = self.calls[SUPER_RESOLUTION]
        return call.get("chunk_size"), call.get("chunk_overlap")

    def latents(self, given: Tensor | None) -> Iterator[Tensor]:
        """
        Draw the whole video in latents.

        Args:
            given (`torch.Tensor` of shape `(1, c, num_given, h, w)`, *optional*): Latents of the given key frames.

        Returns:
            `Iterator[torch.Tensor]`: Pieces of shape `(1, c, any, h, w)`, `plan.num_frames` frames in all. A window
            is drawn when a frame of it is asked for.
        """
        pieces = self.key_frames(given)
        for number in range(self.plan.num_passes):
            pieces = self.interpolate(pieces, number)
        return pieces

    def key_frames(self, given: Tensor | None) -> Iterator[Tensor]:
        """
        Draw key frames: the first one by the image model unless some are given, or the first window by a model that
        draws no images; then windows that go on from one frame, and from two as soon as there are two.

        Args:
            given (`torch.Tensor` of shape `(1, c, num_given, h, w)`, *optional*): Latents of the given key frames.

        Returns:
            `Iterator[torch.Tensor]`: Pieces of shape `(1, c, any, h, w)`, `plan.lengths[0]` frames in all.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.2; LVDM (arXiv:2211.13221), Section 3.3.
        """
        plan = self.plan
        number = 0
        if given is None and plan.num_first == 1:
            given = self._window(IMAGE, 0, 0, 1, lambda generators: self._draw_image(generators[0]))
        elif given is None:
            given = self._window(PREDICTION, 0, 0, 1, lambda generators: self._predict(None, generators))
            number = 1
        known = given.shape[2]
        context = given[:, :, -plan.num_context_frames :].clone()
        yield given[:, :, : plan.lengths[0]]
        while known < plan.lengths[0]:
            window = self._window(
                PREDICTION, 0, number, 1, lambda generators, context=context: self._predict(context, generators)
            )
            yield window[:, :, : plan.lengths[0] - known]
            context = torch.cat([context, window], dim=2)[:, :, -plan.num_context_frames :].clone()
            known, number = known + window.shape[2], number + 1

    def interpolate(self, pieces: Iterator[Tensor], number: int) -> Iterator[Tensor]:
        """
        Draw the frames between neighbours.

        Args:
            pieces (`Iterator[torch.Tensor]`): Pieces of shape `(1, c, any, h, w)`, `plan.lengths[number]` frames.
            number (`int`): Interpolations that were before.

        Returns:
            `Iterator[torch.Tensor]`: Likewise with `plan.lengths[number + 1]` frames, those of `pieces` among them.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.3.
        """
        return limit_frames(self._between(pieces, number), self.plan.lengths[number + 1])

    def _between(self, pieces: Iterator[Tensor], number: int) -> Iterator[Tensor]:
        reader, last = FrameReader(pieces), self.plan.lengths[number] - 1
        yield reader.read(0, 1)
        size = self.plan.interpolation_batch_size
        for first in range(0, last, size):
            count = min(size, last - first)
            frames = reader.read(first, first + count + 1)
            drawn = self._window(
                INTERPOLATION,
                number,
                first,
                count,
                lambda generators, frames=frames: self._interpolate(frames, number, generators),
            )
            windows = torch.cat([drawn, frames[:, :, 1:].transpose(0, 2)], dim=2)
            yield windows.transpose(0, 1).flatten(1, 2)[None]

    def upscale(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """
        Enlarge frames; those that are kept on disk are read, and the work goes on after the last of them.

        Args:
            pieces (`Iterator[torch.Tensor]`): Frames of shape `(1, channels, any, height, width)`, in [0, 1].

        Returns:
            `Iterator[torch.Tensor]`: Larger frames, likewise; rounded to 8 bits where they are kept.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.4.
        """
        done = 0
        while self.folder is not None and (kept := self.folder.load(f"{FRAMES}-{done:06d}")) is not None:
            self.on_window()
            yield kept.to(self.like.device) / 255
            done += kept.shape[2]
        if done >= self.num_frames:
            return
        pipeline = self.super_resolution
        needed = skip_frames(pieces, pipeline.first_needed_frame(done, *self._chunks()))
        (generator,) = self.window_generators(SUPER_RESOLUTION, 0, 0, 1)
        call = {**self.calls[SUPER_RESOLUTION], **self._watching()}
        for piece in pipeline.stream(needed, first_frame=done, generator=generator, **call):
            if self.folder is not None:
                kept = (piece.float() * 255).round().to(torch.uint8)
                self.folder.save(f"{FRAMES}-{done:06d}", kept)
                piece = kept / 255
            self.on_window()
            yield piece
            done += piece.shape[2]

    def window_name(self, stage: str, number: int, first: int) -> str:
        """
        Name the file of a window.

        Args:
            stage (`str`): One of [`STAGES`].
            number (`int`): Interpolations that were before.
            first (`int`): Number of the window, the first one of a batch, in its stage.

        Returns:
            `str`: Such as `"interpolation-2-000064"`.
        """
        return f"{stage}-{number + 1}-{first:06d}" if stage == INTERPOLATION else f"{stage}-{first:06d}"

    def window_generators(self, stage: str, number: int, first: int, count: int) -> list[torch.Generator]:
        """
        Make the sources of noise of neighbouring windows: of each from the seed, the stage and its number alone.

        Args:
            stage (`str`): One of [`STAGES`], or `"given"`.
            number (`int`): Interpolations that were before.
            first (`int`): Number of the first window in its stage.
            count (`int`): Windows.

        Returns:
            `list[torch.Generator]`: On the CPU, which gives the same noise on every device.
        """
        place = (GIVEN, *STAGES).index(stage)
        return [make_generator(self.seed, place, number, window) for window in range(first, first + count)]

    def _window(
        self, stage: str, number: int, first: int, count: int, draw: Callable[[list[torch.Generator]], Tensor]
    ) -> Tensor:
        name = self.window_name(stage, number, first)
        latents = None if self.folder is None else self.folder.load(name)
        if latents is None:
            latents = draw(self.window_generators(stage, number, first, count))
            check_finite(latents, f"The stage {stage!r}, window {first},", ADVICE)
            if self.folder is not None:
                self.folder.save(name, latents)
        self.on_window()
        return latents.to(self.like)

    def _draw_image(self, generator: torch.Generator) -> Tensor:
        call = {**self.calls[IMAGE], **self._watching()}
        if self.image is not None:
            call |= self._text(call["guidance_scale"], self.image, 1, is_image=True)
            return self.image(**call, generator=generator, output_type="latent").images[:, :, None]
        pipeline = self.prediction
        call |= self._text(call["guidance_scale"], pipeline, 1, is_image=True)
        call |= {"generator": generator, "num_frames": 1, "window_frames": 2, "fps": self.plan.rates[0]}
        call = complete_call(pipeline, {**call, "image_only": True}, [])
        with torch.no_grad():
            pipeline.start_call(call)
            conditions = pipeline.prepare_conditions(call, 1, self.like.device)
            nothing = self.like.new_zeros(pipeline.window_shape(call, 1, 1))
            return pipeline.sample_window(conditions, (nothing, [0.0]), call)

    def _predict(self, context: Tensor | None, generators: list[torch.Generator]) -> Tensor:
        call = {**self.calls[PREDICTION], **self._watching()}
        call |= self._text(call["guidance_scale"], self.prediction, 1)
        if context is None:  # what has an effect on given frames has none
            call = {name: value for name, value in call.items() if name not in GIVEN_ARGUMENTS}
            return self.prediction(**call, generator=generators, output_type="latent").frames
        kept = context.shape[2]
        condition = FrameCondition(context, tuple(range(kept)), is_latent=True)
        frames = self.prediction(**call, conditions=[condition], generator=generators, output_type="latent").frames
        return frames[:, :, kept:]

    def _interpolate(self, frames: Tensor, number: int, generators: list[torch.Generator]) -> Tensor:
        call = {**self.calls[INTERPOLATION], **self._watching()}
        call |= self._text(call["guidance_scale"], self.interpolation, len(generators))
        pairs = torch.cat([frames[:, :, index : index + 2] for index in range(len(generators))])
        return self.interpolation(
            **call,
            frame_latents=pairs,
            fps=self.plan.rates[number],
            generator=generators,
            output_type="latent",
        ).frames[:, :, 1:-1]

    def _text(
        self, guidance_scale: float, pipeline: DiffusionPipeline, batch_size: int, is_image: bool = False
    ) -> dict[str, Tensor]:
        guided = guidance_scale > 1 and pipeline.unet.config.get("time_cond_proj_dim") is None
        return {
            name: rows.repeat_interleave(batch_size, dim=0)
            for name, rows in self.text.items()
            if (guided or not name.startswith("negative")) and not (is_image and "temporal" in name)
        }

    def _watching(self) -> dict[str, Any]:
        if self.callback is None:
            return {}
        tensors = self.callback_tensors
        if isinstance(self.callback, (PipelineCallback, MultiPipelineCallbacks)):
            tensors = self.callback.tensor_inputs

        def call_and_look(pipeline: DiffusionPipeline, *arguments: Any) -> dict[str, Any]:
            changed = self.callback(pipeline, *arguments)
            if pipeline.interrupt:
                raise RunInterruptedError
            return changed

        return {"callback_on_step_end": call_and_look, "callback_on_step_end_tensor_inputs": tensors or ["latents"]}
