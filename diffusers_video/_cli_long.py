"""
The command `long`: a video of any length, which can be stopped and continued.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from diffusers_video._cli_command import note
from diffusers_video._cli_frames import GIVEN, read_start
from diffusers_video._cli_options import (
    LARGEST_PLAIN_GUIDANCE,
    LOADING,
    RUN,
    SamplingOptions,
    embedded_arguments,
    option,
)
from diffusers_video._cli_pipeline import (
    check_name,
    check_scheduler_name,
    check_sizes,
    choose_dtype,
    choose_run_device,
    choose_seed,
    open_output,
    place_pipeline,
    read_index,
    read_pixels_per_latent,
)
from diffusers_video.embedded import SHAPES_TASKS, find_shapes_part, load_shapes_pipeline


if TYPE_CHECKING:
    import torch

    from diffusers_video.pipelines.long_video import LongVideoPipeline


ANY_FPS = 1  # to look at --output before the model says its rate
LONG, PREDICTION = "LongVideoPipeline", "KeyFramePredictionPipeline"
OTHER_MODELS = {
    "interpolation_model": "FrameInterpolationPipeline",
    "super_resolution_model": "VideoSuperResolutionPipeline",
}


@dataclass(kw_only=True)
class LongOptions(SamplingOptions):
    """Arguments of `long`."""

    prompt: Annotated[
        str | None, typer.Argument(help="What the video shows; there may be none.", show_default=False)
    ] = None
    model: Annotated[
        str | None,
        option(
            "--model",
            help="Pipeline for long videos, or for predicting key frames: a folder or Hub id. By default `shapes`,"
            " which is in the package.",
        ),
    ] = None
    interpolation_model: Annotated[
        str | None,
        option("--interpolation-model", help="Interpolation pipeline beside one for prediction.", panel=LOADING),
    ] = None
    super_resolution_model: Annotated[
        str | None, option("--super-resolution-model", help="Upscaler beside one for prediction.", panel=LOADING)
    ] = None
    num_frames: Annotated[int | None, option("--num-frames", min=1, help="Frames of the video.")] = None
    num_passes: Annotated[
        int | None,
        option("--passes", min=0, help="How often the rate of key frames is raised; by default 2 if the model can."),
    ] = None
    work_dir: Annotated[
        Path | None,
        option(
            "--work-dir",
            help="Folder for what is finished: the same command goes on from there after a stop, to the same video.",
        ),
    ] = None
    frames: Annotated[
        Path | None, option("--frames", help="Image, or video whose end is gone on from.", panel=GIVEN)
    ] = None
    num_given: Annotated[
        int | None,
        option(
            "--num-given", min=1, max=2, help="Last key frames of that video that are given; default 2.", panel=GIVEN
        ),
    ] = None
    context_guidance_scale: Annotated[
        float | None,
        option(
            "--context-guidance-scale",
            min=0,
            help="How closely windows follow the frames they go on from; by default 1.5, and 1 is none.",
            panel=GIVEN,
        ),
    ] = None
    interpolation_batch_size: Annotated[
        int | None,
        option("--interpolation-batch-size", min=1, help="Windows interpolated at once; by default 1.", panel=RUN),
    ] = None

    pipeline_arguments_names: ClassVar[tuple[str, ...]] = (
        *(name for name in SamplingOptions.pipeline_arguments_names if name != "guidance_rescale"),
        *("num_frames", "num_passes", "context_guidance_scale", "interpolation_batch_size", "work_dir"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("--model", self.model, (*OTHER_MODELS, "revision", "variant", "token"))
        self.require("--frames", self.frames, ("num_given",))
        self.require("a prompt", self.prompt, ("negative_prompt", "guidance_rescale"))
        if self.guidance_scale is not None and self.guidance_scale > LARGEST_PLAIN_GUIDANCE:
            self.require("a prompt", self.prompt, ("guidance_scale",))

    def pipeline_arguments(self) -> dict[str, Any]:
        """
        Collect what a call of the pipeline takes over.

        Returns:
            `dict[str, Any]`: The arguments that were given, and what the models in the package sample best with.
        """
        arguments = (embedded_arguments(self.prompt) if self.model is None else {}) | super().pipeline_arguments()
        if self.guidance_rescale is not None:
            rescale = {"guidance_rescale": self.guidance_rescale}
            arguments["stage_arguments"] = dict.fromkeys(("image", "prediction", "interpolation"), rescale)
        return arguments


def long(options: LongOptions) -> None:
    """
    Draw a video of any length, in memory that does not grow with it.

    A first frame, key frames that go on from the last ones, and frames between them. With --work-dir the command can
    be stopped at any moment; the same command goes on. The folder is kept; delete it when the video is there.
    """
    import torch

    from diffusers_video.pipelines.work_folder import WorkFolder
    from diffusers_video.video_io import probe_video

    _check_models(options)
    open_output(options, options.fps or ANY_FPS)
    is_begun = options.work_dir is not None and WorkFolder(options.work_dir).plan is not None
    device = choose_run_device(options)
    pipeline = _load(options, device)
    fps = open_output(options, options.fps or pipeline.default_fps(options.num_passes)).fps
    arguments = {"fps": float(fps), **options.pipeline_arguments()}
    if options.frames is not None:
        spacing = pipeline.default_fps(options.num_passes) / pipeline.default_fps(0)
        arguments["frames"] = read_start(options, fps / round(spacing))
    seed = None
    if is_begun and options.seed is None:
        note(f"Continuing the run in {options.work_dir}, with its own seed.")
    else:
        seed = choose_seed(options)
        arguments["generator"] = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
    pipeline.set_progress_bar_config(desc="Windows")
    try:
        output = {"crf": options.crf, "overwrite": options.overwrite or None}
        pipeline.write(options.output, options.prompt, **output, **arguments)
    except KeyboardInterrupt:
        if options.work_dir is not None:
            note(f"What is finished lies in {options.work_dir}. The same command goes on from there.")
        raise
    info = probe_video(options.output)
    size, told = f"{info.width}x{info.height} pixels", "" if seed is None else f", seed {seed}"
    typer.echo(f"Wrote {options.output}: {info.num_frames} frames, {size}, {info.fps} fps{told}")


def _check_models(options: LongOptions) -> None:
    """Look at what the models consist of, before weights are fetched and loaded."""
    check_scheduler_name(options)
    if options.model is None:
        parts = [find_shapes_part(name) for name in SHAPES_TASKS["long"]]
        check_sizes(options, read_pixels_per_latent(str(parts[0]), {}))
        return
    check_name("--model", options.model)
    class_name = read_index("--model", options.model, options.load_arguments()).get("_class_name")
    if class_name not in (LONG, PREDICTION):
        raise ValueError(
            f"`--model` must be a {LONG} or a {PREDICTION}, but {options.model!r} is a {class_name}. Key frames are"
            " drawn by a model of `diffusers-video train` with the task key-frames."
        )
    for name, wanted in OTHER_MODELS.items():
        value, flag = getattr(options, name), f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if class_name == LONG:
            raise ValueError(f"`{flag}` has no effect with a `--model` that has all its parts. Leave it out.")
        check_name(flag, value)
        found = read_index(flag, value, {}).get("_class_name")
        if found != wanted:
            raise ValueError(f"`{flag}` must be a {wanted}, but {value!r} is a {found}.")
    check_sizes(options, read_pixels_per_latent(options.model, options.load_arguments()))


def _load(options: LongOptions, device: torch.device) -> LongVideoPipeline:
    import diffusers_video

    load = {"dtype": choose_dtype(options, device), **options.load_arguments()}
    main = LONG
    if options.model is None:
        pipeline = load_shapes_pipeline("long", dtype=load["dtype"])
    else:
        main = read_index("--model", options.model, options.load_arguments())["_class_name"]
        pipeline = getattr(diffusers_video, main).from_pretrained(options.model, **load)
    if main == PREDICTION:
        load.pop("revision", None)
        others = [
            getattr(options, name) and getattr(diffusers_video, wanted).from_pretrained(getattr(options, name), **load)
            for name, wanted in OTHER_MODELS.items()
        ]
        pipeline = diffusers_video.LongVideoPipeline.from_pipelines(pipeline, *others)
    pipeline = place_pipeline(pipeline, options, device)
    if options.scheduler is not None and pipeline.interpolation_scheduler is not None:
        former = pipeline.interpolation_scheduler
        pipeline.interpolation_scheduler = type(pipeline.scheduler).from_config(former.config)
    return pipeline
