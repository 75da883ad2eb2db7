"""Clip after clip, each drawn behind the one before it: videos of any length, as one stream."""

# Shapes: B videos, C channels, F frames, H height, W width; latents of any form.

import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoisers import reads_previous_clip
from diffusers_video.pipelines.frame_streams import limit_frames
from diffusers_video.pipelines.kept_clips import KeptClips
from diffusers_video.pipelines.latents import encode_mode, scale_latents
from diffusers_video.pipelines.scheduling import prepare_timesteps
from diffusers_video.pipelines.video_input import load_video, resize_video
from diffusers_video.pipelines.windows import check_flag
from diffusers_video.video_io import VideoWriter


class ClipChainMixin:
    """
    Videos longer than the clips of a model that reads the clip before, and streams of frames for every model.

    The class that inherits it has [`LatentVideoMixin`] and [`DenoisingMixin`] beside it, and `complete_arguments`,
    `check_inputs`, `prepare_conditions` and `show_frames`.

    Source:
        PVDM (arXiv:2302.07685), Algorithm 1: the condition is the clean latent of the clip before.
    """

    def plan_clips(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """
        Fill in how a video is divided into clips.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of a call by name, with `num_frames`, `height` and `width`.

        Returns:
            `dict[str, Any]`: `is_chain`, whether a clip goes on from another; `clip_frames`, `num_clips`,
            `num_next_inference_steps`, and `previous_clip` as a tensor `(batch_size, channels, clip_frames, any, any)`
            in [0, 1] if there is one.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or has no effect.
        """
        total, clip_frames, previous = arguments["num_frames"], arguments["num_frames"], arguments["previous_clip"]
        is_chain = reads_previous_clip(self.unet) and (total > self.config.num_frames or previous is not None)
        for name, default in (("num_next_inference_steps", None), ("previous_clip", None), ("reencode_clips", False)):
            if not is_chain and arguments[name] is not default:
                raise ValueError(
                    f"`{name}` has an effect only on a denoiser with `use_previous_clip`, on videos longer than the"
                    f" {self.config.num_frames} frames of its clips or behind a `previous_clip`. Leave it out."
                )
        if reads_previous_clip(self.unet):
            clip_frames = min(total, self.config.num_frames)
        if clip_frames < total and arguments["low_res"] is not None:
            raise ValueError("`low_res` has an effect on videos of one clip. Leave it out, or take fewer frames.")
        steps = arguments["num_next_inference_steps"]
        if steps is not None and (arguments["timesteps"] is not None or arguments["sigmas"] is not None):
            raise ValueError("`num_next_inference_steps` has no effect with `timesteps` or `sigmas`. Leave it out.")
        return {
            "is_chain": is_chain,
            "clip_frames": clip_frames,
            "num_clips": -(-total // clip_frames),
            "num_next_inference_steps": arguments["num_inference_steps"] if steps is None else steps,
            "previous_clip": None if previous is None else self._load_previous(arguments, clip_frames),
        }

    def _load_previous(self, arguments: Mapping[str, Any], clip_frames: int) -> Tensor:
        video, batch_size = load_video(arguments["previous_clip"]), arguments["batch_size"]
        if video.shape[2] < clip_frames or video.shape[0] not in (1, batch_size):
            raise ValueError(
                f"`previous_clip` must be one video of at least {clip_frames} frames, or one for each of {batch_size},"
                f" but holds {video.shape[0]} of {video.shape[2]} frames."
            )
        return video[:, :, -clip_frames:].repeat_interleave(batch_size // video.shape[0], dim=0)

    def check_clips(self, arguments: Mapping[str, Any]) -> None:
        """
        Refuse clips that the denoiser cannot halve as often as it has levels.

        Args:
            arguments (`Mapping[str, Any]`): From [`plan_clips`] and [`complete_arguments`].

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a side of the latents is no multiple, or steps are below 1.
        """
        checks.check_integer("num_next_inference_steps", arguments["num_next_inference_steps"])
        check_flag("reencode_clips", arguments["reencode_clips"])
        if not hasattr(self.vae, "latent_size_of"):
            return
        factor = 2 ** (len(self.unet.config.block_out_channels) - 1)
        patch = self.vae.spatial_scale_factor
        sides = {"num_frames": (arguments["clip_frames"], 1)}
        sides |= {name: (arguments[name], patch) for name in ("height", "width")}
        for name, (pixels, scale) in sides.items():
            if pixels % (factor * scale):
                raise ValueError(
                    f"`{name}` must be a multiple of {factor * scale} in each clip, which `unet` halves"
                    f" {len(self.unet.config.block_out_channels) - 1} times, but is {pixels}. Choose another one."
                )

    @torch.no_grad()
    def draw_clips(self, arguments: Mapping[str, Any], kept: KeptClips | None = None) -> Iterator[Tensor]:
        """
        Draw clip after clip; each lies in memory only until the next is asked for.

        Args:
            arguments (`Mapping[str, Any]`): Complete and checked arguments of a call.
            kept ([`KeptClips`], *optional*): Where finished clips are kept; those that it holds are not drawn again.

        Returns:
            `Iterator[torch.Tensor]`: From [`show_frames`]: the latents of each clip, or its frames
            `(batch_size, channels, any, height, width)` in [0, 1]. It ends early where a callback sets `_interrupt`.

        Raises:
            FloatingPointError: If a model gives a NaN or an infinity; the message names the stage.
        """
        get = arguments.__getitem__
        self._context_guidance_scale, self._interrupt = get("context_guidance_scale"), False
        clip, device = {**arguments, "num_frames": get("clip_frames")}, self._execution_device
        previous = None
        if get("previous_clip") is not None:
            previous = self._encode_clip(resize_video(get("previous_clip"), get("height"), get("width")))
        try:
            for number in range(get("num_clips")):
                latents = None if kept is None else kept.load(number)
                if latents is None:
                    latents = self._draw_clip(clip, get("latents") if number == 0 else None, previous)
                    if kept is not None and not self.interrupt:
                        kept.save(number, latents)
                latents = latents.to(device, self.unet.dtype)
                yield self.show_frames(latents, clip)
                if self.interrupt or number == get("num_clips") - 1:
                    return
                previous = latents
                if get("reencode_clips"):
                    previous = self._encode_clip(self.decode_frames(latents, latent_size=self.latent_size(clip)))
        finally:
            self.maybe_free_model_hooks()

    def _draw_clip(self, clip: Mapping[str, Any], given: Tensor | None, previous: Tensor | None) -> Tensor:
        get, device = clip.__getitem__, self._execution_device
        steps = get("num_inference_steps" if previous is None else "num_next_inference_steps")
        timesteps = prepare_timesteps(self.scheduler, steps, get("timesteps"), get("sigmas"), None, device)
        sizes = (get(name) for name in ("batch_size", "num_frames", "height", "width"))
        latents = self.prepare_latents(*sizes, self.unet.dtype, device, get("generator"), given)
        conditions = self.prepare_conditions(clip, latents)
        conditions.previous_latents = None if previous is None else previous.to(latents)
        return self.denoise(
            latents,
            timesteps,
            conditions,
            generator=get("generator"),
            eta=get("eta"),
            callback_on_step_end=get("callback_on_step_end"),
            callback_on_step_end_tensor_inputs=get("callback_on_step_end_tensor_inputs"),
        )

    def _encode_clip(self, video: Tensor) -> Tensor:
        return scale_latents(self.vae, encode_mode(self.vae, video * 2 - 1))

    def latent_size(self, arguments: Mapping[str, Any]) -> tuple[int, int, int] | None:
        """
        Say how latents without axes of their own are to be read.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of one clip, with `num_frames`, `height` and `width`.

        Returns:
            `tuple[int, int, int]`, *optional*: Frames, height and width of the latents of an [`AutoencoderTriplane`].
        """
        if not hasattr(self.vae, "latent_size_of"):
            return None
        return tuple(self.vae.latent_size_of(*(arguments[name] for name in ("num_frames", "height", "width"))))

    def join_clips(self, arguments: Mapping[str, Any]) -> Any:
        """
        Draw all clips and put them together.

        Args:
            arguments (`Mapping[str, Any]`): Complete and checked arguments of a call.

        Returns:
            `torch.Tensor`, `np.ndarray` or `list[list[PIL.Image.Image]]`: `frames` of [`VideoPipelineOutput`]; latents
            of several clips have these on a second axis.
        """
        pieces, output_type = self.draw_clips(arguments), arguments["output_type"]
        if output_type == "latent":
            latents = list(pieces)
            return latents[0] if arguments["num_clips"] == 1 else torch.stack(latents, dim=1)
        pieces = limit_frames(pieces, arguments["num_frames"])
        videos = [self.video_processor.postprocess_video(piece, output_type) for piece in pieces]
        if output_type == "pt":
            return torch.cat(videos, dim=1)
        if output_type == "np":
            return np.concatenate(videos, axis=1)
        return [[frame for piece in clips for frame in piece] for clips in zip(*videos, strict=True)]

    def stream(self, **arguments: Any) -> Iterator[Image.Image] | Iterator[np.ndarray] | Iterator[Tensor]:
        """
        Draw one video frame by frame; with a denoiser that reads the clip before, in memory that does not grow with
        its length.

        Args:
            arguments: Those of a call of the pipeline, but for `return_dict`. Wrong ones are refused at once.

        Returns:
            `Iterator`: Frames in order, each clip as soon as it is finished; by `output_type` an image, an array
            `(height, width, channels)` in [0, 1] or a tensor `(channels, height, width)` in [0, 1]. It ends early
            where a callback sets `_interrupt`.

        Raises:
            TypeError: If a type is wrong, or an argument is unknown.
            ValueError: If a value is, arguments do not fit together or the models, or there are several videos.
            FloatingPointError: If a model gives a NaN or an infinity; the message names the stage.
        """
        return self._frames(self.complete_stream(**arguments))

    def complete_stream(self, **arguments: Any) -> dict[str, Any]:
        """
        Complete and check the arguments of a stream.

        Args:
            arguments: Those of [`stream`].

        Returns:
            `dict[str, Any]`: What [`draw_clips`] takes.

        Raises:
            TypeError: If a type is wrong, or an argument is unknown.
            ValueError: If a value is, arguments do not fit together or the models, or there are several videos.
        """
        if "return_dict" in arguments:
            raise TypeError("`return_dict` has no effect on a stream. Leave it out.")
        bound = inspect.signature(type(self).__call__).bind(self, **arguments)
        bound.apply_defaults()
        full = self.complete_arguments({name: value for name, value in bound.arguments.items() if name != "self"})
        self.check_inputs(full)
        if full["batch_size"] != 1 or full["output_type"] == "latent":
            raise ValueError("A stream holds the frames of one video. Leave `batch_size` and 'latent' out, or call.")
        return full

    def _frames(self, arguments: Mapping[str, Any]) -> Iterator[Any]:
        for piece in limit_frames(self.draw_clips(arguments), arguments["num_frames"]):
            yield from self.video_processor.postprocess_video(piece, arguments["output_type"])[0]

    def write(
        self, path: str | os.PathLike, *, crf: float | None = None, overwrite: bool | None = None, **arguments: Any
    ) -> Path:
        """
        Draw one video into a file or a folder of images, clip after clip.

        The output appears under its name when it is complete.

        Args:
            path (`str` or `os.PathLike`): What to write, by its suffix; see [`VideoWriter`].
            crf (`float`, *optional*): Quality, see [`VideoWriter`].
            overwrite (`bool`, *optional*): Whether to replace what stands at `path`, see [`VideoWriter`].
            arguments: Those of a call of the pipeline, but for `output_type` and `return_dict`.

        Returns:
            `pathlib.Path`: Where the video lies.

        Raises:
            TypeError, ValueError, FloatingPointError, OSError: As [`stream`] and [`VideoWriter`].
            RuntimeError: If a callback sets `_interrupt`; nothing stands at `path` then.
        """
        if "output_type" in arguments:
            raise TypeError("`output_type` has no effect on a file. Leave it out, or call `stream`.")
        with VideoWriter(path, arguments.get("fps") or self.config.fps, crf=crf, overwrite=overwrite) as writer:
            arguments["fps"] = float(writer.fps)
            for frame in self.stream(output_type="np", **arguments):
                writer.write([frame])
            if self.interrupt:
                raise RuntimeError(
                    f"The run was interrupted after {writer.num_frames} frames, and nothing was written to {path}."
                )
            return writer.close()
