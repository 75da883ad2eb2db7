"""
The command `evaluate shapes`: generate videos and measure whether they show what was asked for.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffusers_video._cli_command import choose_device, progress_bar
from diffusers_video._cli_options import DType, flag_of, option
from diffusers_video._cli_pipeline import check_name
from diffusers_video._cli_records import RecordFile, hash_weights, write_scores
from diffusers_video._cli_shapes_tasks import TASKS, Answers, Record
from diffusers_video.embedded import (
    SHAPES_GUIDANCE,
    SHAPES_STEPS,
    SHAPES_SUBSET,
    SHAPES_TASKS,
    SHAPES_UPSCALING_STEPS,
    find_shapes_part,
    load_shapes_pipeline,
)


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline
    from torch import Tensor

    from diffusers_video.data.shapes import ShapesDataset


WHAT, SAMPLING, GIVEN, OUTPUT = "Videos", "Sampling", "Given frames", "Output"
FRAME_TASKS = ("key-frames", "interpolation", "long")
ONLY_FOR = {  # options that have an effect on some tasks only
    "independent_frames": ("text-to-video",),
    "shuffled": ("text-to-video", "key-frames"),
    "context_guidance_scale": FRAME_TASKS,
    "num_passes": ("interpolation", "long"),
    "noise_level": ("super-resolution",),
    "true": ("text-to-video", *FRAME_TASKS),
}
OF_MODELS = (
    *("model", "num_inference_steps", "guidance_scale", "context_guidance_scale", "batch_size"),
    *("independent_frames", "device", "dtype"),
)
NOT_OF_RECORDS = ("json_file", "records", "device", "batch_size", "num_videos")  # what videos do not depend on
VIDEO_SEEDS, TRUE_SEEDS = 2_000_003, 3_000_017  # training uses seeds from 0 and from 1,000,003 on

STEPS_HELP = f"By default {SHAPES_STEPS}; {SHAPES_UPSCALING_STEPS} for super-resolution."

Task = Literal[tuple(TASKS)]


@dataclass(kw_only=True)
class EvaluateShapesOptions:
    """Arguments of `evaluate shapes`."""

    task: Annotated[Task, option("--task", help="The stage: text-to-video unless another is named.", panel=WHAT)] = (
        "text-to-video"
    )
    model: Annotated[
        str | None,
        option("--model", help="Pipeline of that stage: a folder or Hub id; by default the one in the package."),
    ] = None
    true: Annotated[
        bool, option("--true", help="Measure the true videos instead: what the checker itself is worth.", panel=WHAT)
    ] = False
    shuffled: Annotated[
        bool,
        option("--shuffled", help="Shuffle the frames first: motion must then be found no more.", panel=WHAT),
    ] = False
    independent_frames: Annotated[
        bool,
        option("--independent-frames", help="Draw every frame by the image model alone.", panel=WHAT),
    ] = False
    num_videos: Annotated[
        int | None,
        option(
            "--num-videos",
            min=1,
            help="Videos, each with a prompt; by default "
            + ", ".join(f"{task.num_videos} ({name})" for name, task in TASKS.items())
            + ".",
            panel=WHAT,
        ),
    ] = None
    num_frames: Annotated[
        int | None,
        option(
            "--num-frames",
            min=1,
            help="Frames of a video; by default those of the model, or "
            + ", ".join(f"{task.num_frames} ({name})" for name, task in TASKS.items() if task.num_frames)
            + ".",
            panel=WHAT,
        ),
    ] = None
    resolution: Annotated[
        int | None,
        option("--resolution", min=16, help="Height and width; by default 64, super-resolution 256.", panel=WHAT),
    ] = None
    seed: Annotated[int, option("--seed", min=0, help="Decides prompts and noise; by default 0.", panel=SAMPLING)] = 0
    num_inference_steps: Annotated[
        int | None,
        option("--steps", "--num-inference-steps", min=1, help=STEPS_HELP, panel=SAMPLING),
    ] = None
    guidance_scale: Annotated[
        float | None,
        option(
            "--guidance-scale",
            min=0,
            help=f"By default {SHAPES_GUIDANCE:g}; 1, which is none, for super-resolution.",
            panel=SAMPLING,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        option("--batch-size", min=1, help="Videos at once; by default 8, or 1 if they are large.", panel=SAMPLING),
    ] = None
    context_guidance_scale: Annotated[
        float | None,
        option(
            "--context-guidance-scale",
            min=0,
            help="How closely given frames are followed; by default 1.5, and 1 is none.",
            panel=GIVEN,
        ),
    ] = None
    num_passes: Annotated[
        int | None,
        option("--passes", min=1, help="Interpolations; by default 1, for long videos 2.", panel=GIVEN),
    ] = None
    noise_level: Annotated[
        int | None,
        option("--noise-level", min=0, help="Noise on the small frames; by default 20.", panel=GIVEN),
    ] = None
    device: Annotated[str | None, option("--device", help="cpu, cuda, cuda:1, ...")] = None
    dtype: Annotated[
        DType | None, option("--dtype", help="Type of weights; by default float16 on CUDA, else float32.")
    ] = None
    json_file: Annotated[
        Path | None, option("--json", help="Write the scores to this file as well.", panel=OUTPUT)
    ] = None
    records: Annotated[
        Path | None,
        option(
            "--records",
            help="File that keeps what was seen of each video: the same command, stopped and started again, goes on.",
            panel=OUTPUT,
        ),
    ] = None

    def __post_init__(self) -> None:
        given = [name for name in OF_MODELS if self.true and _is_given(getattr(self, name))]
        if given:
            raise ValueError(f"`{_flag(given[0])}` has no effect with `--true`. Leave one of them out.")
        for name, tasks in ONLY_FOR.items():
            if _is_given(getattr(self, name)) and self.task not in tasks:
                raise ValueError(
                    f"`{_flag(name)}` has no effect on {self.task}, but on {', '.join(tasks)}. Leave it out."
                )
        for name in ("json_file", "records"):
            path = getattr(self, name)
            if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
                raise ValueError(f"`{_flag(name)}` must name a file in a folder that exists, but is {str(path)!r}.")


def _is_given(value: object) -> bool:
    return value is not None and value is not False  # 0 is a value, though it equals `False`


def _flag(name: str) -> str:
    return {"num_passes": "--passes", "json_file": "--json"}.get(name) or flag_of(name)


def evaluate_shapes(options: EvaluateShapesOptions) -> None:
    """
    Measure by plain image processing whether clips of the `shapes` set have the colour, shape and motion asked for.

    Prompts are those of the subset that the model in the package knows, and not of its training clips. With --task the
    other stages of a cascade are measured: --task key-frames gives one true frame, interpolation every fourth,
    super-resolution small frames, and long draws a long video of which the object must be kept.
    """
    from diffusers_video.data.shapes import ShapesDataset

    task = TASKS[options.task]
    dataset = ShapesDataset(
        options.num_videos or task.num_videos,
        num_frames=options.num_frames or task.num_frames or 16,
        height=options.resolution or task.resolution,
        width=options.resolution or task.resolution,
        seed=VIDEO_SEEDS + options.seed,
        **SHAPES_SUBSET,
    )
    identity = _identify(options)
    file = RecordFile(options.records, identity)
    missing = [number for number in range(len(dataset)) if number not in file.records]
    with progress_bar("Videos") as show:
        show(len(dataset) - len(missing), len(dataset))
        for count, (number, record) in enumerate(_measure(options, dataset, missing), start=1):
            file.keep(number, record)
            show(len(dataset) - len(missing) + count, len(dataset))
    kept = [file.records[number] for number in range(len(dataset))]
    scores = task.score(kept, [dataset.scene(number) for number in range(len(dataset))])
    told = task.summary(scores)
    if "features" in kept[0] and len(kept) > 1:
        scores |= _measure_distance(options, kept)
        told += f"; Frechet distance {scores['frechet_distance']:.4f}"
    if options.json_file is not None:
        write_scores(options.json_file, {**scores, "settings": identity})
    typer.echo(f"{len(kept)} videos: {told}")


def _identify(options: EvaluateShapesOptions) -> Record:
    """What the videos follow from: options, and the weights if they are on this machine."""
    known = {name: value for name, value in vars(options).items() if name not in NOT_OF_RECORDS}
    identity = {name: value for name, value in known.items() if _is_given(value)}
    if options.true:
        return identity
    folders = [Path(options.model)] if options.model else list(map(find_shapes_part, SHAPES_TASKS[options.task]))
    if folders[0].is_dir():
        identity["weights_sha256"] = hash_weights(folders)
    return {**identity, **_choose_sampling(options)}


def _choose_sampling(options: EvaluateShapesOptions) -> dict[str, float]:
    task, scale = TASKS[options.task], options.guidance_scale
    return {
        "num_inference_steps": options.num_inference_steps or task.num_inference_steps,
        "guidance_scale": task.guidance_scale if scale is None else scale,
    }


def _measure(
    options: EvaluateShapesOptions, dataset: ShapesDataset, numbers: Sequence[int]
) -> Iterator[tuple[int, Record]]:
    import numpy as np

    if not numbers:
        return
    task = TASKS[options.task]
    pipeline = None if options.true else _load_pipeline(options)
    size = options.batch_size or task.batch_size
    for start in range(0, len(numbers), size):
        batch = numbers[start : start + size]
        true_BFCHW = _draw_true(dataset, batch) if options.true or task.give else None
        given_BFCHW = task.give(true_BFCHW, pipeline, options) if task.give else None
        if options.true:
            videos = true_BFCHW.movedim(2, -1).numpy()
        else:
            videos = task.draw(pipeline, _ask(options, dataset, batch, given_BFCHW), options)
        for place, number in enumerate(batch):
            video = videos[place]
            if options.shuffled:
                video = np.random.default_rng([options.seed, number]).permutation(video)
            true_FCHW, given_FCHW = (None if part is None else part[place] for part in (true_BFCHW, given_BFCHW))
            yield number, task.judge(video, true_FCHW, given_FCHW)


def _draw_true(dataset: ShapesDataset, numbers: Sequence[int]) -> Tensor:
    import torch

    clips = [dataset[number]["pixel_values"].transpose(0, 1) for number in numbers]
    return (torch.stack(clips) / 2 + 0.5).clamp(0, 1)


def _ask(
    options: EvaluateShapesOptions, dataset: ShapesDataset, batch: Sequence[int], given_BFCHW: Tensor | None
) -> Answers:
    import torch

    task = TASKS[options.task]
    generators = [torch.Generator().manual_seed(options.seed + number) for number in batch]
    return Answers(
        captions=[dataset.scene(number).caption for number in batch],
        num_frames=options.num_frames or task.num_frames,
        given_BFCHW=given_BFCHW,
        arguments={**_choose_sampling(options), "generator": generators, "output_type": "np"},
    )


def _load_pipeline(options: EvaluateShapesOptions) -> DiffusionPipeline:
    import torch

    import diffusers_video

    device = choose_device(options.device)
    dtype = getattr(torch, options.dtype or ("float16" if device.type == "cuda" else "float32"))
    if options.model is None:
        pipeline = load_shapes_pipeline(options.task, dtype=dtype)
    else:
        check_name("--model", options.model)
        pipeline_class = getattr(diffusers_video, TASKS[options.task].pipeline)
        pipeline = pipeline_class.from_pretrained(options.model, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _measure_distance(options: EvaluateShapesOptions, records: Sequence[Record]) -> Record:
    """The Frechet distance to as many other true videos, of all features and of each kind of them."""
    import numpy as np
    import torch

    from diffusers_video.data.shapes import ShapesDataset
    from diffusers_video.metrics.bootstrap import bootstrap_interval
    from diffusers_video.metrics.frechet import frechet_distance
    from diffusers_video.metrics.shapes_features import FEATURE_GROUPS, NUM_FEATURES, measure_clip
    from diffusers_video.metrics.statistics import FeatureStatistics

    num_frames, height, width = records[0]["size"]
    true = ShapesDataset(
        len(records),
        num_frames=num_frames,
        height=height,
        width=width,
        seed=TRUE_SEEDS + options.seed,
        **SHAPES_SUBSET,
    )
    wanted = []
    with progress_bar("True videos") as show:
        for number in range(len(true)):
            wanted.append(measure_clip(true[number]["pixel_values"].movedim(0, -1) / 2 + 0.5))
            show(len(wanted), len(true))
    drawn = np.array([record["features"] for record in records])
    features = [torch.from_numpy(part) for part in (drawn, np.array(wanted))]

    def distance(*sets: Tensor) -> float:
        return frechet_distance(*map(FeatureStatistics.from_features, sets))

    low = high = float("nan")  # of fewer videos than features it would mean nothing
    if len(records) > NUM_FEATURES:
        interval = bootstrap_interval(distance, *features)
        low, high = interval.low, interval.high
    groups = {name: distance(*(part[:, places] for part in features)) for name, places in FEATURE_GROUPS.items()}
    return {"frechet_distance": distance(*features), "frechet_interval": (low, high), "frechet_groups": groups}
