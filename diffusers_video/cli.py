"""
The command `diffusers-video`: prepare clips, train, generate, look at checkpoints, push pipelines to the Hub.

Importing this module loads neither PyTorch nor diffusers, so that `--help` is there at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusers_video import __version__
from diffusers_video._cli_command import EITHER_DASH, BucketsCommand, PassingCommand, command, note
from diffusers_video._cli_convert import ConvertOptions, convert
from diffusers_video._cli_data import PackOptions, PlanOptions, pack, plan
from diffusers_video._cli_evaluate_shapes import EvaluateShapesOptions, evaluate_shapes
from diffusers_video._cli_evaluate_videos import EvaluateVideosOptions, evaluate_videos
from diffusers_video._cli_frames import InterpolateOptions, PredictOptions, interpolate, predict
from diffusers_video._cli_long import LongOptions, long
from diffusers_video._cli_options import GenerateOptions, InfoOptions, PushOptions
from diffusers_video._cli_pipeline import (
    UNKNOWN_BLOCK_COUNT,
    check_name,
    check_scheduler_name,
    check_sizes,
    choose_dtype,
    choose_run_device,
    choose_seed,
    place_pipeline,
    read_index,
    read_pixels_per_latent,
)
from diffusers_video._cli_train import TrainOptions, train
from diffusers_video._cli_upscale import UpscaleOptions, upscale
from diffusers_video.embedded import SHAPES_MODEL


if TYPE_CHECKING:
    from fractions import Fraction

    import torch

    from diffusers_video.pipelines.checkpoint_info import CheckpointInfo
    from diffusers_video.pipelines.memory import ClipMemory
    from diffusers_video.pipelines.text_to_video import TextToVideoPipeline
    from diffusers_video.video_io import VideoInfo


BYTES_PER_PARAMETER = {"float32": 4, "float16 or bfloat16": 2}
NEW_LAYERS_NOTICE = (
    "Note: the temporal layers put into --image-model are new and untrained. Every frame is an image of its own until"
    " they are trained."
)

app = typer.Typer(
    name="diffusers-video",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(name="data", no_args_is_help=True, help="Look at training clips, and prepare them.")
evaluate_app = typer.Typer(name="evaluate", no_args_is_help=True, help="Measure what models generate.")


def main() -> None:
    """Run the command line; the console script calls this."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no remarks on optional packages at import
    app()


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"diffusers-video {__version__}")
        raise typer.Exit(0)


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn pretrained image diffusion models into video diffusion models."""


@command(app, GenerateOptions)
def generate(options: GenerateOptions) -> None:
    """Generate a video from a prompt and write it to a file that plays."""
    _check_outputs(options, fps=options.fps or 1)
    source = _measure_video(options)
    device = choose_run_device(options)
    _check_model(options, source)

    pipeline = _load_pipeline(options, device)
    fps = options.fps or (source.fps if source else pipeline.config.fps)
    _check_outputs(options, fps)
    arguments = options.pipeline_arguments()
    if source:
        arguments["video"] = _read_frames(source, options.num_frames)
    first_seed = choose_seed(options)
    for number, path in enumerate(options.outputs()):
        pipeline.set_progress_bar_config(desc=f"Video {number + 1} of {options.num_videos}")
        _write_one(pipeline, options.prompt, path, fps, first_seed + number, arguments, options)


def _write_one(
    pipeline: TextToVideoPipeline,
    prompt: str,
    path: Path,
    fps: Fraction | float | str,
    seed: int,
    arguments: dict[str, Any],
    options: GenerateOptions,
) -> None:
    import torch

    from diffusers_video.video_io import VideoWriter

    with VideoWriter(path, fps, crf=options.crf, overwrite=options.overwrite) as writer:
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
        output = pipeline(prompt, fps=float(writer.fps), generator=generator, output_type="np", **arguments)
        writer.write(output.frames[0])
    num_frames, height, width = output.frames[0].shape[:3]
    typer.echo(f"Wrote {path}: {num_frames} frames, {width}x{height} pixels, {writer.fps} fps, seed {seed}")


def _check_outputs(options: GenerateOptions, fps: Fraction | float | str) -> None:
    from diffusers_video.video_io import VideoWriter

    for path in options.outputs():
        if path.is_file() and not options.overwrite:
            raise FileExistsError(f"`--output` {path} exists. Choose another name, or add --overwrite.")
        VideoWriter(path, fps, crf=options.crf, overwrite=options.overwrite)


def _measure_video(options: GenerateOptions) -> VideoInfo | None:
    from diffusers_video.video_io import probe_video

    if options.video is None:
        return None
    info = probe_video(options.video)
    if (options.num_frames or 0) > info.num_frames:
        raise ValueError(
            f"`--num-frames` must be at most the {info.num_frames} frames of {options.video}, but is"
            f" {options.num_frames}."
        )
    return info


def _read_frames(source: VideoInfo, num_frames: int | None) -> torch.Tensor:
    import torch

    from diffusers_video.video_io import iter_frames

    return torch.stack([frame for _, frame in islice(iter_frames(source), num_frames)])


def _check_model(options: GenerateOptions, source: VideoInfo | None) -> None:
    """Look at the configuration of a model, and at what depends on it, before weights are fetched and loaded."""
    from diffusers_video.pipelines.image_models import is_single_file

    check_scheduler_name(options)
    flag, name = ("--model", options.model or str(SHAPES_MODEL))
    if options.image_model is not None:
        flag, name = ("--image-model", options.image_model)
    check_name(flag, name)
    if options.config is not None and not is_single_file(name):
        raise ValueError(f"`--config` has no effect on {name!r}, which is not a single file. Leave it out.")
    if options.variant is not None and is_single_file(name):
        raise ValueError(f"`--variant` has no effect on {name!r}, which is a single file. Leave it out.")
    pixels_per_latent = 2 ** (UNKNOWN_BLOCK_COUNT - 1)
    if not is_single_file(name):
        index = read_index(flag, name, options.load_arguments())
        _check_kind(flag, name, index)
        in_pixels = index.get("vae") == [None, None]
        pixels_per_latent = 1 if in_pixels else read_pixels_per_latent(name, options.load_arguments())
    elif flag == "--model":
        raise ValueError(f"`--model` must be a folder or Hub id, but is the file {name!r}. Is it an --image-model?")
    given = None if source is None else (source.height, source.width)
    check_sizes(options, pixels_per_latent, given, "--video")


def _check_kind(flag: str, name: str, index: dict[str, Any]) -> None:
    unet_class = (index.get("unet") or [None, None])[1]
    if index.get("_class_name") == "UnconditionalVideoPipeline":
        raise ValueError(
            f"`{flag}` must read text, but {name!r} draws without it. Load it by"
            " `diffusers_video.UnconditionalVideoPipeline.from_pretrained`."
        )
    if flag == "--model" and unet_class == "UNet2DConditionModel":
        raise ValueError(f"`--model` must be a video model, but {name!r} is an image model. Pass it as --image-model.")
    if flag == "--image-model" and unet_class == "UNetVideoConditionModel":
        raise ValueError(f"`--image-model` must be an image model, but {name!r} is a video model. Pass it as --model.")


def _load_pipeline(options: GenerateOptions, device: torch.device) -> TextToVideoPipeline:
    from diffusers_video.pipelines.text_to_video import TextToVideoPipeline

    dtype, load = choose_dtype(options, device), options.load_arguments()
    if options.image_model is not None:
        note(NEW_LAYERS_NOTICE)
        load |= {"dtype": dtype}
        pipeline = TextToVideoPipeline.from_image_model(options.image_model, options.preset, **load)
    else:
        pipeline = TextToVideoPipeline.from_pretrained(options.model or SHAPES_MODEL, dtype=dtype, **load)
    return place_pipeline(pipeline, options, device)


@command(app, InfoOptions)
def info(options: InfoOptions) -> None:
    """Say what a checkpoint is, how large, and what memory a clip would need; loads no weights."""
    import torch

    from diffusers_video.pipelines.checkpoint_info import describe_checkpoint
    from diffusers_video.pipelines.memory import METHOD, estimate_checkpoint_memory

    checkpoint = describe_checkpoint(options.checkpoint)
    clip = options.clip_arguments()
    if "dtype" in clip:
        clip["dtype"] = getattr(torch, clip["dtype"])
    memory, obstacle = None, ""
    try:
        memory = estimate_checkpoint_memory(checkpoint, **clip)
    except ValueError as error:
        if clip:
            raise
        obstacle = str(error)
    if options.as_json:
        typer.echo(json.dumps(_as_plain(checkpoint, memory), indent=2))
        return
    typer.echo("\n".join(_checkpoint_lines(checkpoint)))
    typer.echo("\n".join(_memory_lines(memory, METHOD) if memory else [f"Memory of a clip: not known. {obstacle}"]))


def _as_plain(checkpoint: CheckpointInfo, memory: ClipMemory | None) -> dict[str, Any]:
    plain = {**dataclasses.asdict(checkpoint), "path": str(checkpoint.path)}
    for component in plain["components"]:
        del component["config"]
    if memory is not None:
        peaks = {"peak": memory.peak, "peak_with_model_offload": memory.peak_with_model_offload}
        plain["memory"] = {**dataclasses.asdict(memory), **peaks}
    return plain


def _checkpoint_lines(checkpoint: CheckpointInfo) -> list[str]:
    class_name = f" ({checkpoint.class_name})" if checkpoint.class_name else ""
    lines = [f"{checkpoint.path}: {checkpoint.kind}{class_name}", ""]
    rows = [("component", "class", "parameters", "temporal", "on disk", "type")]
    for part in checkpoint.components:
        counts = (
            f"{count:,}" if part.num_parameters else ""
            for count in (part.num_parameters, part.num_temporal_parameters)
        )
        size = _bytes(part.bytes_on_disk) if part.bytes_on_disk else ""
        rows.append((part.name, part.class_name or "", *counts, size, ", ".join(part.dtypes)))
    temporal = sum(part.num_temporal_parameters for part in checkpoint.components)
    rows.append(("total", "", f"{checkpoint.num_parameters:,}", f"{temporal:,}", _bytes(checkpoint.bytes_on_disk), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if 2 <= i <= 4 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    sizes = ", ".join(
        f"{_bytes(checkpoint.num_parameters * size)} in {name}" for name, size in BYTES_PER_PARAMETER.items()
    )
    options = ", ".join(f"{name}={value}" for name, value in checkpoint.options.items())
    return [*lines, "", f"Weights: {sizes}", *([f"Options: {options}"] if options else [])]


def _memory_lines(memory: ClipMemory, method: str) -> list[str]:
    clips = "1 clip" if memory.batch_size == 1 else f"{memory.batch_size} clips"
    lines = [
        "",
        f"Memory for {clips} of {memory.num_frames} frames, {memory.width}x{memory.height} pixels, {memory.dtype}:",
        f"  weights    {_bytes(sum(memory.weights.values())):>10}",
        f"  denoising  {_bytes(memory.denoising):>10} more",
    ]
    if memory.decoding:
        lines.append(f"  decoding   {_bytes(memory.decoding):>10} more")
    lines.append(f"  peak       {_bytes(memory.peak):>10}")
    if len(memory.weights) > 1:
        lines.append(f"  peak       {_bytes(memory.peak_with_model_offload):>10} with --offload model")
    return [*lines, method]


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


@command(app, PushOptions)
def push(options: PushOptions) -> None:
    """Upload the folder of a saved video pipeline to the Hub."""
    from diffusers_video.hub import push_pipeline_to_hub
    from diffusers_video.pipelines.checkpoint_info import check_pipeline_folder

    check_pipeline_folder(options.folder)
    address = push_pipeline_to_hub(
        options.folder,
        options.repo_id,
        commit_message=options.message,
        private=options.private,
        token=options.token,
        create_pr=options.create_pr,
        subfolder=options.subfolder,
        self_contained=options.self_contained,
        overwrite_card=options.overwrite_card,
    )
    typer.echo(f"Pushed {options.folder}: {address}")


command(app, PredictOptions)(predict)
command(app, InterpolateOptions)(interpolate)
command(app, UpscaleOptions)(upscale)
command(app, LongOptions)(long)
command(app, TrainOptions, cls=PassingCommand, context_settings=EITHER_DASH)(train)
command(data_app, PlanOptions, cls=BucketsCommand, context_settings=EITHER_DASH)(plan)
command(data_app, PackOptions, cls=BucketsCommand, context_settings=EITHER_DASH)(pack)
command(evaluate_app, EvaluateShapesOptions, name="shapes")(evaluate_shapes)
command(evaluate_app, EvaluateVideosOptions, name="videos")(evaluate_videos)
command(app, ConvertOptions)(convert)
app.add_typer(data_app)
app.add_typer(evaluate_app)


if __name__ == "__main__":
    main()
