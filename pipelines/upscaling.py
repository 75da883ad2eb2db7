"""Upscaling of videos chunk by chunk: what a super-resolution pipeline does between its arguments and its output."""

# Shapes: B videos, C channels, F frames, H height, W width of the low-resolution video; N = B * F images; latents
# (B, c, F, h, w).

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from diffusers_video.conditioning.low_res import (
    DEFAULT_NOISE_LEVEL,
    check_low_res_scheduler,
    enlarge_images,
    noise_low_res,
    tell_noise_levels,
)
from diffusers_video.conditioning.noise import draw_seeds, frame_generators
from diffusers_video.layers.layout import images_to_videos, videos_to_images
from diffusers_video.layers.windows import fade_windows, first_window, slide_windows
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoising import DenoiserConditions
from diffusers_video.pipelines.frame_streams import check_streaming
from diffusers_video.pipelines.latents import is_video_autoencoder
from diffusers_video.pipelines.model_checks import check_upscaler
from diffusers_video.pipelines.scheduling import prepare_timesteps
from diffusers_video.pipelines.text_encoding import text_width
from diffusers_video.pipelines.text_video import OPTIONAL_ARGUMENTS


DEFAULT_GUIDANCE_SCALE = 9.0
TASK = "Super-resolution"


@dataclass(frozen=True)
class UpscalingRun:
    """
    What all chunks of a run share.

    Args:
        arguments (`Mapping[str, Any]`): Complete and checked arguments of the call.
        conditions (`DenoiserConditions`): Text and numbers, with rows for B videos.
        seeds (`list[int]`): One for each video, from which the noise of all its frames follows.
    """

    arguments: Mapping[str, Any]
    conditions: DenoiserConditions
    seeds: list[int]


class UpscalingMixin:
    """
    Upscaling in overlapping chunks of frames.

    The class that inherits it has [`TextVideoMixin`], [`LatentDecodingMixin`] and [`DenoisingMixin`] beside it, the
    components `vae` and `low_res_scheduler`, and in its configuration `scale`, `num_frames`, `chunk_overlap`, `fps`
    and `max_noise_level`.
    """

    @property
    def scale(self) -> int:
        """`int`: How many times larger, in height and in width, the frames become."""
        return self.config.scale

    def complete_arguments(self, arguments: Mapping[str, Any], frames: Tensor) -> dict[str, Any]:
        """
        Fill in what a call leaves open.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of a call by name.
            frames (`torch.Tensor` of shape `(videos, channels, any, height, width)`): The low-resolution frames, or
                the first of them.

        Returns:
            `dict[str, Any]`: Arguments for [`check_upscaling`]; without a prompt the text is empty and there is no
            guidance by it.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If guidance has no effect.
        """
        full = {**dict.fromkeys(OPTIONAL_ARGUMENTS), **arguments}
        full |= {name: side * self.scale for name, side in zip(("height", "width"), frames.shape[-2:], strict=True)}
        full["num_frames"] = frames.shape[2]
        if full["noise_level"] is None:
            full["noise_level"] = min(DEFAULT_NOISE_LEVEL, self.config.max_noise_level)
        if full["fps"] is None:
            full["fps"] = self.config.fps
        full["chunk_size"], full["chunk_overlap"] = self.complete_chunks(full["chunk_size"], full["chunk_overlap"])
        has_text = full["prompt"] is not None or full["prompt_embeds"] is not None
        if full["guidance_scale"] is None:
            full["guidance_scale"] = DEFAULT_GUIDANCE_SCALE if has_text else 1.0
        if not has_text:
            checks.check_number("guidance_scale", full["guidance_scale"])
            if full["guidance_scale"] > 1:
                raise ValueError("`guidance_scale` has no effect without a prompt. Leave it out, or pass `prompt`.")
            full |= self.empty_prompt(frames.shape[0])
        callback = full["callback_on_step_end"]
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            full["callback_on_step_end_tensor_inputs"] = callback.tensor_inputs
        return full

    def empty_prompt(self, num_videos: int) -> dict[str, Any]:
        """
        What stands for a prompt where there is none.

        Args:
            num_videos (`int`): Number of videos.

        Returns:
            `dict[str, Any]`: Empty texts; without a text encoder `prompt_embeds` of one token of zeros.
        """
        if self.text_encoder is not None:
            return {"prompt": [""] * num_videos}
        return {"prompt_embeds": torch.zeros(num_videos, 1, text_width(self.unet.config))}

    def complete_chunks(self, chunk_size: int | None, chunk_overlap: int | None) -> tuple[int, int]:
        """
        Fill in and check how a video is cut.

        Args:
            chunk_size (`int`, *optional*, defaults to `config.num_frames`): Frames upscaled at once.
            chunk_overlap (`int`, *optional*, defaults to `config.chunk_overlap`): Frames that chunks share; by default
                less in chunks that are too small for it.

        Returns:
            `tuple[int, int]`: Both.

        Raises:
            TypeError: If one is no integer.
            ValueError: If one is out of range.
        """
        size = self.config.num_frames if chunk_size is None else chunk_size
        checks.check_integer("chunk_size", size)
        overlap = min(self.config.chunk_overlap, size - 1) if chunk_overlap is None else chunk_overlap
        checks.check_integer("chunk_overlap", overlap, minimum=0)
        if overlap >= size:
            raise ValueError(f"`chunk_overlap` must be below `chunk_size`={size}, but is {overlap}.")
        return size, overlap

    def check_upscaling(self, arguments: Mapping[str, Any], frames: Tensor) -> int:
        """
        Refuse arguments of a call that are wrong, contradict each other or have no effect, before any model runs.

        Args:
            arguments (`Mapping[str, Any]`): From [`complete_arguments`].
            frames (`torch.Tensor` of shape `(videos, channels, any, height, width)`): See there.

        Returns:
            `int`: Number of prompts.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
        """
        get, config = arguments.__getitem__, self.unet.config
        check_upscaler(self.unet, self.vae, TASK)
        check_low_res_scheduler(self.low_res_scheduler, self.config.max_noise_level, self.unet)
        batch_size = self.check_arguments(arguments)
        checks.check_video("video", frames, frames.shape[2], batch_size, config.in_channels - config.out_channels)
        checks.check_integer("noise_level", get("noise_level"), minimum=0)
        if get("noise_level") > self.config.max_noise_level:
            raise ValueError(
                f"`noise_level` must be at most {self.config.max_noise_level}, the highest the model was trained with,"
                f" but is {get('noise_level')}."
            )
        if not isinstance(get("image_only"), bool):
            raise TypeError(f"`image_only` must be a bool, but is {get('image_only')!r}.")
        self.check_steps(arguments)
        return batch_size

    def start_run(self, arguments: Mapping[str, Any], num_prompts: int) -> UpscalingRun:
        """
        Encode the text and draw the seeds of a run.

        Args:
            arguments (`Mapping[str, Any]`): Arguments that passed [`check_upscaling`].
            num_prompts (`int`): What it returned.

        Returns:
            [`UpscalingRun`]
        """
        batch_size = num_prompts * arguments["num_videos_per_prompt"]
        self._interrupt = False
        self._set_properties(arguments)
        conditions = self.prepare_conditions(arguments, batch_size, self._execution_device)
        return UpscalingRun(arguments, conditions, draw_seeds(arguments["generator"], batch_size))

    def _set_properties(self, arguments: Mapping[str, Any]) -> None:
        self._guidance_scale, self._guidance_rescale = arguments["guidance_scale"], arguments["guidance_rescale"]
        self._cross_attention_kwargs, self._clip_skip = arguments["cross_attention_kwargs"], arguments["clip_skip"]

    def upscale_latents(self, frames: Iterable[Tensor], first: int, run: UpscalingRun) -> Iterator[Tensor]:
        """
        Upscale a stream of frames, one chunk at a time; where chunks overlap, one fades into the next.

        Args:
            frames (`Iterable[torch.Tensor]`): Low-resolution frames of shape `(videos, channels, height, width)`, in
                [0, 1]; one video, or one for each row of the run.
            first (`int`): Place of the first of them in the video.
            run ([`UpscalingRun`]): What all chunks share.

        Returns:
            `Iterator[torch.Tensor]`: Latents (pixels in [-1, 1] without an autoencoder) of shape
            `(batch_size, c, any, h, w)`, piece by piece, in order.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.4: an upscaler works on chunks of frames. Overlaps are ours.
        """
        chunks = slide_windows(frames, run.arguments["chunk_size"], run.arguments["chunk_overlap"])
        upscaled = (
            (self.upscale_chunk(torch.stack(chunk, dim=2), first + place, run), step) for place, chunk, step in chunks
        )
        return fade_windows(upscaled, dim=2)

    def upscale_chunk(self, frames: Tensor, first: int, run: UpscalingRun) -> Tensor:
        """
        Upscale one chunk of frames.

        Args:
            frames (`torch.Tensor` of shape `(videos, channels, num_frames, height, width)`): In [0, 1].
            first (`int`): Place of the first frame in the video; the noise of a frame follows from its place.
            run ([`UpscalingRun`]): What all chunks share.

        Returns:
            `torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`: Denoised latents.

        Source:
            VideoLDM (arXiv:2304.08818), Eq. 5; order of draws as in diffusers' `StableDiffusionUpscalePipeline`: noise
            of the low-resolution frame, then that to start from.
        """
        get, embeds = run.arguments.__getitem__, run.conditions.prompt_embeds
        batch_size, num_frames = len(embeds), frames.shape[2]
        self._set_properties(run.arguments)  # a callback may have ended guidance in the chunk before
        timesteps = prepare_timesteps(
            self.scheduler, get("num_inference_steps"), get("timesteps"), get("sigmas"), None, embeds.device
        )
        generators = frame_generators(run.seeds, first, num_frames)
        source = {"generator": generators, "device": embeds.device, "dtype": embeds.dtype}
        frames = frames.repeat_interleave(batch_size // frames.shape[0], dim=0)
        images = enlarge_images(videos_to_images(frames * 2 - 1).to(embeds), self.scale // self.vae_scale_factor)
        level = torch.tensor([get("noise_level")], device=embeds.device)
        low_res = noise_low_res(images, randn_tensor(images.shape, **source), level, self.low_res_scheduler)
        if get("latents") is None:
            shape = (len(images), self.unet.config.out_channels, *images.shape[-2:])
            noise = images_to_videos(randn_tensor(shape, **source), num_frames)
        else:
            noise = get("latents")[:, :, first : first + num_frames].to(embeds)
        rows = tell_noise_levels(level.expand(batch_size), self.unet.config)
        if get("image_only"):
            rows["image_only"] = torch.ones(batch_size, dtype=torch.bool, device=embeds.device)
        return self.denoise(
            noise * self.scheduler.init_noise_sigma,
            timesteps,
            replace(run.conditions, beside=images_to_videos(low_res, num_frames), rows=rows),
            generator=generators,
            eta=get("eta"),
            callback_on_step_end=get("callback_on_step_end"),
            callback_on_step_end_tensor_inputs=get("callback_on_step_end_tensor_inputs"),
        )

    def step(self, model_output: Tensor, timestep: Tensor, latents: Tensor, **options: Any) -> Tensor:
        """
        Let the scheduler go one step on single frames, each with its own source of noise.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): From [`predict`].
            timestep (`torch.Tensor`): Where the latents are, one number.
            latents (`torch.Tensor` of the same shape): Noisy latents.
            options: From [`step_arguments`].

        Returns:
            `torch.Tensor` of the shape and type of `latents`: Less noisy ones.
        """
        images = super().step(videos_to_images(model_output), timestep, videos_to_images(latents), **options)
        return images_to_videos(images, latents.shape[2])

    def check_stream(self) -> None:
        """
        Refuse to work piece by piece with an autoencoder that cannot.

        Raises:
            ValueError: If it decodes a video only as a whole.
        """
        if self.vae is not None:
            check_streaming(self.vae)

    def stream_starts(self, first_frame: int, chunk_size: int, chunk_overlap: int) -> tuple[int, int]:
        """
        Tell from which frame on a stream must be worked through again to continue it.

        Args:
            first_frame (`int`): First frame that is wanted.
            chunk_size (`int`): Frames upscaled at once.
            chunk_overlap (`int`): Frames that chunks share.

        Returns:
            `tuple[int, int]`: First frame to upscale, and first frame to decode.
        """
        decoded = first_frame
        if self.vae is not None and is_video_autoencoder(self.vae):
            config = self.vae.config
            decoded = first_window(first_frame, config.decode_chunk_size, config.decode_chunk_overlap)
        return first_window(decoded, chunk_size, chunk_overlap), decoded

    def decode_stream(self, latents: Iterable[Tensor], decode_chunk_size: int | None) -> Iterator[Tensor]:
        """
        Decode a stream of latents to the frames that they would be decoded to as a whole.

        Args:
            latents (`Iterable[torch.Tensor]`): Latents of shape `(batch_size, c, any, h, w)`, in order; the first of
                them begins a chunk of the autoencoder.
            decode_chunk_size (`int`, *optional*, defaults to 16): Frames decoded at once by an autoencoder of images.

        Returns:
            `Iterator[torch.Tensor]`: Frames of shape `(batch_size, channels, any, height, width)`, about [-1, 1].
        """
        if self.vae is None or not is_video_autoencoder(self.vae):
            return (self.decode_latents(piece, decode_chunk_size) for piece in latents)
        frames = (frame for piece in latents for frame in piece.unbind(2))
        windows = slide_windows(frames, self.vae.config.decode_chunk_size, self.vae.config.decode_chunk_overlap)
        decoded = ((self.decode_latents(torch.stack(window, dim=2)), step) for _, window, step in windows)
        return fade_windows(decoded, dim=2)


def default_overlap(num_frames: int) -> int:
    """
    Choose how many frames neighbouring chunks share.

    Args:
        num_frames (`int`): Frames of a chunk, at least 1.

    Returns:
        `int`: A quarter, rounded up, and below `num_frames`: 2 of 8.
    """
    return min(-(-num_frames // 4), num_frames - 1)


def skip_frames(pieces: Iterable[Tensor], num_frames: int) -> Iterator[Tensor]:
    """
    Leave out the beginning of a stream.

    Args:
        pieces (`Iterable[torch.Tensor]`): Pieces of shape `(batch_size, channels, any, height, width)`.
        num_frames (`int`): Frames to leave out, at least 0.

    Returns:
        `Iterator[torch.Tensor]`: The rest, without empty pieces.
    """
    for piece in pieces:
        length = piece.shape[2]
        if num_frames < length:
            yield piece[:, :, num_frames:]
        num_frames = max(0, num_frames - length)
