"""
The command `upscale`: a larger video from a small one.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from diffusers_video._cli_command import progress_bar
from diffusers_video._cli_options import DEFAULT_STEPS, LARGEST_PLAIN_GUIDANCE, SAMPLING, RunOptions, option
from diffusers_video._cli_pipeline import (
    check_name,
    check_scheduler_name,
    choose_dtype,
    choose_run_device,
    choose_seed,
    has_fps,
    open_output,
    place_pipeline,
    read_index,
)
from diffusers_video.embedded import SHAPES_UPSCALING_STEPS, find_shapes_part


if TYPE_CHECKING:
    from torch import Tensor

    from diffusers_video.video_io import VideoInfo


CHUNKS = "Chunks of frames"


@dataclass(kw_only=True)
class UpscaleOptions(RunOptions):
    """Arguments of `upscale`."""

    video: Annotated[Path, typer.Argument(help="Video, or folder of images, of any size.", show_default=False)]
    prompt: Annotated[str | None, option("--prompt", help="What the video shows; there may be none.")] = None
    num_frames: Annotated[
        int | None, option("--num-frames", min=1, help="Upscale no more than these first frames.")
    ] = None
    noise_level: Annotated[
        int | None,
        option(
            "--noise-level", min=0, help="Noise on the small frames; more gives the model more freedom. Default 20."
        ),
    ] = None
    chunk_size: Annotated[
        int | None,
        option("--chunk-size", min=1, help="Frames upscaled at once; by default the model's.", panel=CHUNKS),
    ] = None
    chunk_overlap: Annotated[
        int | None,
        option("--chunk-overlap", min=0, help="Frames that chunks share, to fade into each other.", panel=CHUNKS),
    ] = None
    num_inference_steps: Annotated[
        int | None,
        option(
            "--steps",
            "--num-inference-steps",
            min=1,
            help=f"Denoising steps; by default {DEFAULT_STEPS}, of `shapes` {SHAPES_UPSCALING_STEPS}.",
            panel=SAMPLING,
        ),
    ] = None
    image_only: Annotated[bool, option("--image-only", help="Upscale each frame as an image.", panel=CHUNKS)] = False

    pipeline_arguments_names: ClassVar[tuple[str, ...]] = (
        *RunOptions.pipeline_arguments_names,
        *("noise_level", "chunk_size", "chunk_overlap", "image_only"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("--model", self.model, ("revision", "variant", "token"))
        self.require("--prompt", self.prompt, ("negative_prompt", "guidance_rescale"))
        if self.guidance_scale is not None and self.guidance_scale > LARGEST_PLAIN_GUIDANCE:
            self.require("--prompt", self.prompt, ("guidance_scale",))
        if self.model is None and self.prompt is not None:
            raise ValueError("`--prompt` has no effect on the model in the package, which reads none. Leave it out.")

    def pipeline_arguments(self) -> dict[str, Any]:
        """
        Collect what a call of the pipeline takes over unchanged.

        Returns:
            `dict[str, Any]`: The arguments that were given, and what the model in the package samples best with.
        """
        own = {"num_inference_steps": SHAPES_UPSCALING_STEPS} if self.model is None else {}
        return own | super().pipeline_arguments()


def upscale(options: UpscaleOptions) -> None:
    """
    Enlarge a video, four times with most models, in memory that does not grow with its length.

    The result has the frame rate of the video.
    """
    import torch

    from diffusers_video.pipelines.video_super_resolution import VideoSuperResolutionPipeline

    model = _check_model(options)
    info = _measure(options)
    writer = open_output(options, options.fps or info.fps)
    device = choose_run_device(options)
    load = {"dtype": choose_dtype(options, device), **options.load_arguments()}
    pipeline = place_pipeline(VideoSuperResolutionPipeline.from_pretrained(model, **load), options, device)
    pipeline.set_progress_bar_config(disable=True)
    seed, total = choose_seed(options), min(info.num_frames, options.num_frames or info.num_frames)
    arguments = {"fps": float(writer.fps), **options.pipeline_arguments()}
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
    pieces = pipeline.stream(_read(info, total), options.prompt, generator=generator, **arguments)
    with writer, progress_bar("Frames") as show:
        for piece in pieces:
            writer.write(piece[0].transpose(0, 1).float().cpu())
            show(writer.num_frames, total)
    height, width = piece.shape[-2:]
    typer.echo(f"Wrote {options.output}: {total} frames, {width}x{height} pixels, {writer.fps} fps, seed {seed}")


def _check_model(options: UpscaleOptions) -> str:
    """Its name, after a look at what it consists of, before weights are fetched and loaded."""
    check_scheduler_name(options)
    if options.model is None:
        return str(find_shapes_part("super_resolution"))
    check_name("--model", options.model)
    class_name = read_index("--model", options.model, options.load_arguments()).get("_class_name")
    if class_name != "VideoSuperResolutionPipeline":
        raise ValueError(
            f"`--model` must be an upscaler of videos, but {options.model!r} is a {class_name}. Make one of an image"
            " upscaler: `diffusers-video train --script super-resolution`."
        )
    return options.model


def _measure(options: UpscaleOptions) -> VideoInfo:
    from diffusers_video.video_io import probe_video

    is_rated = has_fps(options.video)
    if not is_rated and options.fps is None:
        raise ValueError(f"`VIDEO` {options.video} is a folder that does not say its rate. Add --fps.")
    return probe_video(options.video, fps=None if is_rated else options.fps)


def _read(info: VideoInfo, num_frames: int) -> Iterator[Tensor]:
    from diffusers_video.video_io import iter_frames

    frames: Iterator[Any] = islice(iter_frames(info), num_frames)
    return (frame for _, frame in frames)
