"""
The commands `predict` and `interpolate`: frames that go on from given ones, and frames between given ones.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from diffusers_video._cli_command import progress_bar
from diffusers_video._cli_options import (
    LARGEST_PLAIN_GUIDANCE,
    SAMPLING,
    SamplingOptions,
    embedded_arguments,
    flag_of,
    option,
)
from diffusers_video._cli_pipeline import (
    check_name,
    check_scheduler_name,
    check_sizes,
    choose_dtype,
    choose_run_device,
    choose_seed,
    has_fps,
    open_output,
    place_pipeline,
    read_index,
    read_pixels_per_latent,
)
from diffusers_video.embedded import find_shapes_part, load_shapes_pipeline, read_shapes_settings


if TYPE_CHECKING:
    from fractions import Fraction

    import torch
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from diffusers_video._cli_long import LongOptions
    from diffusers_video.video_io import VideoWriter


GIVEN = "Given frames"
MAX_GIVEN = 2
EMBEDDED_TASKS = {"KeyFramePredictionPipeline": "key-frames", "FrameInterpolationPipeline": "interpolation"}
UNSTATED_FPS = 1  # to read a folder of images that does not say its rate, where the rate does not matter

Mechanism = Literal["context", "reconstruction", "replacement"]


@dataclass(kw_only=True)
class FrameOptions(SamplingOptions):
    """Arguments that `predict` and `interpolate` share."""

    prompt: Annotated[str | None, option("--prompt", help="What the video shows; there may be none.")] = None
    context_guidance_scale: Annotated[
        float | None,
        option(
            "--context-guidance-scale",
            min=0,
            help="How closely given frames are followed; by default 1.5, and 1 is none.",
            panel=GIVEN,
        ),
    ] = None
    mechanism: Annotated[
        Mechanism | None,
        option(
            "--mechanism",
            help="How the denoiser learns of given frames: context (the default of models trained for it),"
            " reconstruction (the default of others) or replacement.",
            panel=GIVEN,
            metavar="NAME",
        ),
    ] = None
    reconstruction_scale: Annotated[
        float | None,
        option("--reconstruction-scale", min=0, help="Weight of reconstruction guidance; by default 2.", panel=GIVEN),
    ] = None
    noise_level: Annotated[
        int | None,
        option(
            "--noise-level",
            min=0,
            help="Noise on what a model trained with it is told of them; by default 0.",
            panel=GIVEN,
        ),
    ] = None
    decode_given_frames: Annotated[
        bool,
        option("--decode-given-frames", help="Show them as the autoencoder decodes them, not as given.", panel=GIVEN),
    ] = False

    pipeline_arguments_names: ClassVar[tuple[str, ...]] = (
        *SamplingOptions.pipeline_arguments_names,
        *("context_guidance_scale", "mechanism", "reconstruction_scale", "noise_level", "decode_given_frames"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("--model", self.model, ("revision", "variant", "token"))
        for name in ("context_guidance_scale", "reconstruction_scale"):
            if getattr(self, name) is not None and not -float("inf") < getattr(self, name) < float("inf"):
                raise ValueError(f"`{flag_of(name)}` must be a finite number, but is {getattr(self, name)}.")
        self.require("--prompt", self.prompt, ("negative_prompt", "guidance_rescale"))
        if self.guidance_scale is not None and self.guidance_scale > LARGEST_PLAIN_GUIDANCE:
            self.require("--prompt", self.prompt, ("guidance_scale",))
        if self.mechanism not in (None, "reconstruction") and self.reconstruction_scale is not None:
            raise ValueError(
                f"`--reconstruction-scale` has no effect on mechanism {self.mechanism}. Leave one of them out."
            )
        if self.mechanism not in (None, "context") and (self.context_guidance_scale not in (None, 1)):
            raise ValueError(
                f"`--context-guidance-scale` has no effect on mechanism {self.mechanism}. Leave one of them out."
            )

    def pipeline_arguments(self) -> dict[str, Any]:
        """
        Collect what a call of the pipeline takes over unchanged.

        Returns:
            `dict[str, Any]`: The arguments that were given, and what the models in the package sample best with.
        """
        return (embedded_arguments(self.prompt) if self.model is None else {}) | super().pipeline_arguments()


@dataclass(kw_only=True)
class PredictOptions(FrameOptions):
    """Arguments of `predict`."""

    frames: Annotated[
        Path | None,
        typer.Argument(help="Image, or video whose end is gone on from; without it all is drawn.", show_default=False),
    ] = None
    num_frames: Annotated[
        int | None, option("--num-frames", min=1, help="Frames of the result, given ones included.")
    ] = None
    num_given: Annotated[
        int | None,
        option(
            "--num-given",
            min=1,
            max=2,
            help="Last frames of the video that are given, --fps apart; by default 2.",
            panel=GIVEN,
        ),
    ] = None
    window_frames: Annotated[
        int | None,
        option("--window-frames", min=2, help="Frames drawn at once; by default as in training.", panel=SAMPLING),
    ] = None
    num_context_frames: Annotated[
        int | None,
        option(
            "--num-context-frames",
            min=1,
            max=2,
            help="Frames that the next window goes on from; by default 2.",
            panel=SAMPLING,
        ),
    ] = None

    pipeline_arguments_names: ClassVar[tuple[str, ...]] = (
        *FrameOptions.pipeline_arguments_names,
        *("num_frames", "window_frames", "num_context_frames"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("a video to go on from", self.frames, ("num_given",))


@dataclass(kw_only=True)
class InterpolateOptions(FrameOptions):
    """Arguments of `interpolate`."""

    frames: Annotated[
        Path, typer.Argument(help="Video, or folder of images, with at least two key frames.", show_default=False)
    ]
    fps: Annotated[
        str | None,
        option(
            "--fps",
            help="Frames per second of the result; by default the rate of FRAMES, 4 times in each pass.",
            metavar="RATE",
        ),
    ] = None
    num_passes: Annotated[
        int,
        option("--passes", min=1, help="How often the rate is raised: 8 frames become 29, then 113; by default 1."),
    ] = 1

    pipeline_arguments_names: ClassVar[tuple[str, ...]] = (*FrameOptions.pipeline_arguments_names, "num_passes")


def predict(options: PredictOptions) -> None:
    """
    Draw frames that go on from an image or the end of a video.

    The given frames come first in the result, which has the model's frame rate unless --fps says otherwise.
    """
    from diffusers_video.pipelines.key_frame_prediction import KeyFramePredictionPipeline

    index, pixels_per_latent = _check_model(options, "key_frames")
    writer = open_output(options, options.fps or _saved(index, "fps", KeyFramePredictionPipeline))
    device = choose_run_device(options)
    arguments = options.pipeline_arguments()
    if options.frames is not None:
        arguments["frames"] = read_start(options, writer.fps)
    size = tuple(arguments["frames"].shape[-2:]) if options.frames is not None else None
    check_sizes(options, pixels_per_latent, size, "FRAMES")
    pipeline = _load(KeyFramePredictionPipeline, options, device)
    num_windows = pipeline.count_windows(options.num_frames, options.window_frames, options.num_context_frames)
    _write(pipeline, writer, options, num_windows, fps=float(writer.fps), **arguments)


def interpolate(options: InterpolateOptions) -> None:
    """
    Draw frames between the frames of a video: three between two, and as often again as --passes says.

    The given frames keep their places, and come out as they are.
    """
    from diffusers_video.conditioning.frames import INTERPOLATION_RATE
    from diffusers_video.pipelines.frame_interpolation import FrameInterpolationPipeline
    from diffusers_video.video_io import probe_video, read_video

    index, pixels_per_latent = _check_model(options, "interpolation")
    window_frames = INTERPOLATION_RATE + 1
    if index.get("_class_name") == FrameInterpolationPipeline.__name__:
        window_frames = _saved(index, "num_frames", FrameInterpolationPipeline)
    factor = (window_frames - 1) ** options.num_passes
    is_rated = has_fps(options.frames)
    info = probe_video(options.frames, fps=None if is_rated else UNSTATED_FPS)
    if info.num_frames < 2:
        raise ValueError(f"`FRAMES` must be at least two, but {options.frames} holds {info.num_frames}.")
    if options.fps is None and not info.is_constant_fps:
        raise ValueError(f"`FRAMES` must have one frame rate, but {options.frames} has several. Choose one by --fps.")
    fps = info.fps * factor if is_rated else _saved(index, "fps", FrameInterpolationPipeline)
    writer = open_output(options, options.fps or fps)
    device = choose_run_device(options)
    frames = read_video(info).frames
    check_sizes(options, pixels_per_latent, tuple(frames.shape[-2:]), "FRAMES")
    pipeline = _load(FrameInterpolationPipeline, options, device, num_frames=window_frames)
    given_fps = float(writer.fps) / factor
    num_windows = pipeline.count_windows(len(frames), options.num_passes)
    _write(pipeline, writer, options, num_windows, frames=frames, fps=given_fps, **options.pipeline_arguments())


def _check_model(options: FrameOptions, part: str) -> tuple[dict[str, Any], int]:
    """Its index, and the pixels of a frame for each latent, before weights are fetched and loaded."""
    check_scheduler_name(options)
    if options.model is None:
        return read_shapes_settings(part), read_pixels_per_latent(str(find_shapes_part("text_to_video")), {})
    check_name("--model", options.model)
    index = read_index("--model", options.model, options.load_arguments())
    unet_class = (index.get("unet") or [None, None])[1]
    if unet_class != "UNetVideoConditionModel":
        raise ValueError(
            f"`--model` must be a video model, but the denoiser of {options.model!r} is a {unet_class}. Make it one by"
            " `diffusers-video train`."
        )
    return index, read_pixels_per_latent(options.model, options.load_arguments())


def _saved(index: Mapping[str, Any], name: str, pipeline_class: type[DiffusionPipeline]) -> Any:
    """What a pipeline will have in its configuration once it is loaded."""
    return index.get(name, inspect.signature(pipeline_class).parameters[name].default)


def read_start(options: PredictOptions | LongOptions, fps: Fraction) -> Tensor:
    """
    Read the frames to go on from: an image, or the end of a video at the rate of key frames.

    Args:
        options ([`PredictOptions`] or [`LongOptions`]): With `frames` and `num_given`.
        fps (`Fraction`): Frames per second.

    Returns:
        `torch.Tensor` of shape `(num_given, 3, height, width)`: uint8.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is too short, or cannot be read.
    """
    from diffusers_video.video_io import probe_video, read_frames_at

    image = _read_image(options.frames)
    if image is not None:
        if options.num_given == 2:
            raise ValueError(f"`--num-given` must be 1 with an image, but is 2. Leave it out for {options.frames}.")
        return image
    info = probe_video(options.frames, fps=None if has_fps(options.frames) else fps)
    count = options.num_given or MAX_GIVEN
    times = [info.timestamps[-1] - back / fps for back in reversed(range(count))]
    if times[0] < info.timestamps[0]:
        raise ValueError(
            f"`FRAMES` must show {count} frames that are {float(1 / fps):.4g} s apart, but {options.frames} is too"
            " short for that. Take --num-given 1, or raise --fps."
        )
    return read_frames_at(info, times)


def _read_image(path: Path) -> Tensor | None:
    """A still image as a video of one frame; `None` for anything else."""
    import numpy as np
    import torch

    from diffusers_video._video_images import IMAGE_SUFFIXES, opened_image

    if path.is_dir() or path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    if not path.is_file():
        raise FileNotFoundError(f"`FRAMES` must be an image or a video, but {path} does not exist.")
    with opened_image(path) as image:
        if getattr(image, "is_animated", False):
            return None
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


def _load(
    pipeline_class: type[DiffusionPipeline], options: FrameOptions, device: torch.device, **settings: Any
) -> DiffusionPipeline:
    dtype = choose_dtype(options, device)
    if options.model is None:
        pipeline = load_shapes_pipeline(EMBEDDED_TASKS[pipeline_class.__name__], dtype=dtype)
    else:
        pipeline = pipeline_class.from_pretrained(options.model, dtype=dtype, **options.load_arguments(), **settings)
    return place_pipeline(pipeline, options, device)


def _write(
    pipeline: DiffusionPipeline, writer: VideoWriter, options: FrameOptions, num_windows: int, **arguments: Any
) -> None:
    import torch

    seed, steps = choose_seed(options), itertools.count(1)
    pipeline.set_progress_bar_config(disable=True)  # one bar for all windows instead
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
    with writer, progress_bar("Steps") as show:

        def count(pipeline: DiffusionPipeline, *_: Any) -> dict[str, Any]:
            show(next(steps), num_windows * pipeline.num_timesteps)
            return {}

        arguments |= {"generator": generator, "output_type": "np", "callback_on_step_end": count}
        output = pipeline(prompt=options.prompt, **arguments)
        writer.write(output.frames[0])
    num_frames, height, width = output.frames[0].shape[:3]
    typer.echo(f"Wrote {options.output}: {num_frames} frames, {width}x{height} pixels, {writer.fps} fps, seed {seed}")
