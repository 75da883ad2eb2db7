"""
The table of the `shapes` set: every system, every metric, with intervals.

Rows are the model in the package, frames that its image model draws alone, and further pipelines, given as
name=folder; and for comparison true clips of another seed than the reference, and these with their frames shuffled. No
published network is needed: distances are on seeded random features, which are not those of FVD, and on the fixed
features of the set.

    python examples/benchmarks/shapes_table.py --markdown docs/shapes_table.md
    python examples/benchmarks/shapes_table.py LVDM=runs/a VDM=runs/b --num-clips 64 --clip-model runs/clip

Stopped, the same command goes on: clips and scores lie in the work folder, under the hash of what they follow from.
Clips of other weights or settings lie in other folders, and are never taken for these.
"""

import hashlib
import inspect
import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from benchmark_tools import check_json_file, show, write_json
from diffusers import DiffusionPipeline
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

import diffusers_video.pipelines  # noqa: F401  (registers the pipelines)
from diffusers_video._cli_evaluate_shapes import TRUE_SEEDS, VIDEO_SEEDS
from diffusers_video._cli_records import hash_weights
from diffusers_video.data.files import replacing
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.data.shapes_check import read_clip
from diffusers_video.embedded import (
    SHAPES_GUIDANCE,
    SHAPES_STEPS,
    SHAPES_SUBSET,
    find_shapes_part,
    load_shapes_pipeline,
)
from diffusers_video.metrics import (
    ClipEmbedder,
    ClipSource,
    EvaluationSettings,
    FeatureNetwork,
    FeatureSet,
    MemoryClips,
    PipelineClips,
    evaluate_videos,
    extract_features,
    find_protocol,
    random_features,
)
from diffusers_video.metrics.results import VideoEvaluation
from diffusers_video.metrics.shapes_features import measure_clip
from diffusers_video.metrics.shapes_scores import score_shapes


# Shapes: B videos, C channels, F frames, H height, W width.

NUM_FRAMES, RESOLUTION = 16, 64
EMBEDDED, WITH_DECODER = "embedded model", "embedded model, decoder of videos"
TRUE, SHUFFLED, ALONE = "true clips, another seed", "true clips, frames shuffled", "frames by the image model alone"
OWN_ROWS = (EMBEDDED, ALONE)
OF_PIXELS = ("temporal_flickering", "warping_error", "motion_magnitude")
OF_CLIP = ("clip_similarity", "clip_frame_consistency")
CHECKED = ("colour", "shape", "motion", "together")
COLUMNS = {
    "random/frechet_distance": "Frechet, random features",
    "random/kernel_distance": "kernel, random features",
    "shapes/frechet_distance": "Frechet, shapes features",
    "shapes/kernel_distance": "kernel, shapes features",
    "clip_similarity": "CLIPSIM",
    "clip_frame_consistency": "CLIP consistency",
    "temporal_flickering": "flickering, 1 = none",
    "warping_error": "warping error",
    "motion_magnitude": "motion, pixels per frame",
    **{f"checker/{name}": f"checker: {name}" for name in CHECKED},
}
NOTES = (
    "In brackets 95 % intervals: bootstrap over clips, for the checker Wilson's. Lower is better in the distances,"
    " which compare rows of this table alone: random features are not those of FVD. Flickering, warping error and"
    " motion are to be near those of true clips, not small. The checker says which part of the clips has the colour,"
    " shape and motion that were asked for."
)
Scores = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What the clips of a pipeline follow from, beside its weights."""

    num_inference_steps: int = SHAPES_STEPS
    guidance_scale: float = SHAPES_GUIDANCE
    batch_size: int = 8


@dataclass(frozen=True, kw_only=True)
class System:
    """
    A row of the table.

    Args:
        name (`str`): What the table calls it.
        identity (`dict`): What its clips follow from; JSON values.
        open (`Callable[[], ClipSource]`): Makes the source of its clips.
    """

    name: str
    identity: dict[str, Any]
    open: Callable[[], ClipSource]


class StoredClips:
    """
    Clips that are kept in a folder as soon as they are drawn.

    Args:
        system ([`System`]): Whose clips.
        work_dir (`Path`): Where they are kept, in a folder of their own.
    """

    def __init__(self, system: System, work_dir: Path) -> None:
        identity = json.dumps(system.identity, sort_keys=True)
        name = re.sub(r"\W+", "-", system.name.lower())
        self.folder = work_dir / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "identity.json", system.identity)
        self._system = system

    @cached_property
    def source(self) -> ClipSource:
        """Where clips come from that are not kept yet."""
        return self._system.open()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)  # number, rates, captions and names of clips

    def read(self, numbers: Sequence[int]) -> list[Tensor]:
        """Clips `(F, 3, H, W)`, uint8; what is missing is drawn first."""
        paths = [self.folder / f"{number:06}.npy" for number in numbers]
        missing = [place for place, path in enumerate(paths) if not path.exists()]
        drawn = self.source.read([numbers[place] for place in missing]) if missing else []
        for place, clip in zip(missing, drawn, strict=True):
            with replacing(paths[place]) as temporary, temporary.open("wb") as file:
                np.save(file, clip.numpy())
        return [torch.from_numpy(np.load(path)) for path in paths]


class ShuffledClips:
    """
    Clips whose frames are put into a random order.

    Args:
        source ([`ClipSource`]): The clips.
        seed (`int`): Of the order.
    """

    def __init__(self, source: ClipSource, seed: int) -> None:
        self.source, self.seed = source, seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def read(self, numbers: Sequence[int]) -> list[Tensor]:
        """Clips `(F, 3, H, W)`, uint8."""
        orders = [np.random.default_rng([self.seed, number]).permutation(NUM_FRAMES) for number in numbers]
        return [clip[order] for clip, order in zip(self.source.read(numbers), orders, strict=True)]


class _Videos(Sequence):
    """Videos of a data set, as `MemoryClips` takes them."""

    def __init__(self, dataset: ShapesDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Tensor:
        return (self.dataset[number]["pixel_values"].transpose(0, 1) / 2 + 0.5).clamp(0, 1)


def make_dataset(num_clips: int, seed: int) -> ShapesDataset:
    """The part of the `shapes` set that the model in the package knows."""
    size = {"height": RESOLUTION, "width": RESOLUTION}
    return ShapesDataset(num_clips, num_frames=NUM_FRAMES, seed=seed, **size, **SHAPES_SUBSET)


def make_protocol(num_clips: int) -> Any:
    """Whole clips, in their order."""
    options = {"num_frames": NUM_FRAMES, "order": "sorted", "reference_clips": "first", "resize": "none"}
    return find_protocol("custom", num_generated=num_clips, num_reference=num_clips, **options)


def open_true(dataset: ShapesDataset) -> MemoryClips:
    """True clips with their captions."""
    captions = [dataset.scene(number).caption for number in range(len(dataset))]
    protocol = make_protocol(len(dataset))
    return MemoryClips(_Videos(dataset), protocol, is_generated=True, fps=dataset.fps, captions=captions)


def open_pipeline(
    load: Callable[[], DiffusionPipeline],
    dataset: ShapesDataset,
    sampling: Sampling,
    seed: int,
    options: dict[str, Any],
) -> PipelineClips:
    """Clips of a pipeline, which is asked for the scenes of a data set if it takes prompts."""
    pipeline = load()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    taken = inspect.signature(pipeline.__call__).parameters
    captions = [dataset.scene(number).caption for number in range(len(dataset))] if "prompt" in taken else None
    wanted = {"height": RESOLUTION, "width": RESOLUTION, **asdict(sampling), **options}
    arguments = {name: value for name, value in wanted.items() if name in taken and name != "batch_size"}
    return PipelineClips(pipeline, make_protocol(len(dataset)), prompts=captions, seed=seed, **arguments)


def find_systems(
    models: Sequence[str], num_clips: int, seed: int, sampling: Sampling, own_rows: Sequence[str] = OWN_ROWS
) -> list[System]:
    """The rows: those of the package that are named, further models, then what they are compared with."""
    asked = make_dataset(num_clips, VIDEO_SEEDS + seed)
    of_clips = {"num_frames": NUM_FRAMES, "resolution": RESOLUTION, "seed": seed}
    of_models = {**of_clips, "num_inference_steps": sampling.num_inference_steps,
                 "guidance_scale": sampling.guidance_scale}  # fmt: skip

    def system(name: str, folders: Sequence[Path], load: Callable[[], DiffusionPipeline], **options: Any) -> System:
        identity = {**of_models, "weights_sha256": hash_weights(folders), **options}
        return System(name=name, identity=identity, open=lambda: open_pipeline(load, asked, sampling, seed, options))

    systems = []
    load = partial(load_shapes_pipeline, dtype=torch.float32)
    for name in own_rows:
        parts = [find_shapes_part(part) for part in ("text_to_video", *(("decoder",) if name == WITH_DECODER else ()))]
        options = {"image_only": True} if name == ALONE else {}
        systems.append(system(name, parts, partial(load, temporal_decoder=name == WITH_DECODER), **options))
    for name, folder in _read_models(models).items():
        systems.append(system(name, [folder], partial(DiffusionPipeline.from_pretrained, folder, dtype=torch.float32)))
    systems.append(System(name=TRUE, identity=of_clips, open=lambda: open_true(asked)))
    shuffled = System(name=SHUFFLED, identity=of_clips, open=lambda: ShuffledClips(open_true(asked), seed))
    return [*systems, shuffled]


def _read_models(models: Sequence[str]) -> dict[str, Path]:
    """Folders of pipelines by name."""
    folders: dict[str, Path] = {}
    for model in models:
        name, _, folder = model.partition("=")
        if not (Path(folder) / "model_index.json").is_file() or name in (
            *folders,
            *OWN_ROWS,
            WITH_DECODER,
            TRUE,
            SHUFFLED,
        ):
            raise typer.BadParameter(
                f"models must be name=folder of a pipeline, each name once, but one is {model!r}."
            )
        folders[name] = Path(folder)
    return folders


def _measure_shapes(videos: Tensor) -> Tensor:
    """BCFHW in [-1, 1] -> BD."""
    return torch.stack([torch.from_numpy(measure_clip(video.movedim(0, -1) / 2 + 0.5)) for video in videos]).float()


def make_networks(seed: int) -> dict[str, FeatureNetwork]:
    """Whose features distances compare, by the name of their columns."""
    shapes = FeatureNetwork(name="fixed features of the shapes set", function=_measure_shapes)
    return {"random": random_features(seed), "shapes": shapes}


@dataclass(frozen=True, kw_only=True)
class Judge:
    """
    What all rows are measured by.

    Args:
        reference (`dict[str, FeatureSet]`): Features of the reference, by network.
        networks (`dict[str, FeatureNetwork]`): The networks.
        asked (`ShapesDataset`): Whose scenes were asked for.
        embedder (`ClipEmbedder`, *optional*): Which CLIP.
        num_resamples (`int`): Behind each interval.
        batch_size (`int`): Clips at once.
    """

    reference: dict[str, FeatureSet]
    networks: dict[str, FeatureNetwork]
    asked: ShapesDataset
    embedder: ClipEmbedder | None
    num_resamples: int
    batch_size: int

    def measure(self, clips: ClipSource, progress: Callable[[int, int], None]) -> tuple[Scores, list[str]]:
        """All scores of a row by their columns, and what a reader must know."""
        protocol = make_protocol(len(self.asked))
        run = {"batch_size": self.batch_size, "progress": progress}
        scores: Scores = {}
        warnings: list[str] = []
        metrics = OF_PIXELS + (OF_CLIP if self.embedder and clips.captions else OF_CLIP[1:] if self.embedder else ())
        found = evaluate_videos(clips, None, protocol, settings=self._settings(metrics), clip=self.embedder, **run)
        scores |= _scores_of(found)
        for name, network in self.networks.items():
            settings = self._settings(("frechet_distance", "kernel_distance"))
            found = evaluate_videos(clips, self.reference[name], protocol, network=network, settings=settings, **run)
            scores |= _scores_of(found, f"{name}/")
            warnings += found.warnings
        if clips.captions:
            scores |= self._check(clips)
        return scores, warnings

    def _settings(self, metrics: Sequence[str]) -> EvaluationSettings:
        allowed = {"allows_small_sets": True, "allows_other_fps": True}  # clips are compared frame by frame
        return EvaluationSettings(metrics=metrics, num_resamples=self.num_resamples, **allowed)

    def _check(self, clips: ClipSource) -> Scores:
        seen = []
        for number in range(clips.num_clips):
            video = clips.read([number])[0].movedim(1, -1).numpy() / 255
            seen.append(read_clip(video, shapes=SHAPES_SUBSET["shapes"]))
        found = score_shapes(seen, [self.asked.scene(number) for number in range(len(seen))])
        return {
            f"checker/{name}": {"value": getattr(found, name), "interval": found.intervals[name]} for name in CHECKED
        }


def _scores_of(result: VideoEvaluation, prefix: str = "") -> Scores:
    return {
        f"{prefix}{score.metric}": {"value": score.value, "interval": score.interval, "details": score.details}
        for score in result.scores
    }


def show_score(score: dict[str, Any] | None, is_part: bool) -> str:
    """A cell of the table."""
    if score is None:
        return "-"
    numbers = [score["value"], *(score["interval"] or ())]
    texts = [f"{number:.1%}".replace("%", " %") if is_part else f"{number:.3g}" for number in numbers]
    return texts[0] if len(texts) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"


def make_rows(table: dict[str, Scores]) -> tuple[list[str], list[list[str]]]:
    """Titles of the columns that some row has, and the cells."""
    columns = [name for name in COLUMNS if any(name in scores for scores in table.values())]
    rows = [
        [name, *(show_score(scores.get(column), column.startswith("checker/")) for column in columns)]
        for name, scores in table.items()
    ]
    return ["system", *(COLUMNS[column] for column in columns)], rows


def render_markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], about: str, warnings: Sequence[str]) -> str:
    """The page."""
    lines = [titles, ["---"] * len(titles), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(["", *(f"- {warning}" for warning in warnings), ""]) if warnings else ""
    return f"# The shapes set: systems and scores\n\n{about}\n\n{table}\n\n{NOTES}\n{notes}"


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Further pipelines: name=folder.")] = None,
    embedded: Annotated[bool, typer.Option(help="Rows of the model in the package.")] = True,
    temporal_decoder: Annotated[bool, typer.Option(help="One more of them, with the decoder of videos.")] = False,
    num_clips: Annotated[int, typer.Option(min=2, help="Clips of each row, and of the reference.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Decides scenes, noise and random features.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = SHAPES_STEPS,
    guidance_scale: Annotated[float, typer.Option(min=0, help="Of pipelines that take prompts.")] = SHAPES_GUIDANCE,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips at once.")] = 8,
    clip_model: Annotated[str | None, typer.Option(help="CLIP: a folder or Hub id; else no scores by CLIP.")] = None,
    num_resamples: Annotated[int, typer.Option(min=2, help="Behind each interval.")] = 100,
    work_dir: Annotated[Path, typer.Option(help="Where clips and scores are kept.")] = Path("runs/shapes_table"),
    markdown: Annotated[Path | None, typer.Option(help="Also write the table to this file.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Measure every system on the shapes set."""
    check_json_file(json_file)
    if markdown is not None and not markdown.absolute().parent.is_dir():
        raise typer.BadParameter("`--markdown` must name a file in an existing folder.")
    sampling = Sampling(num_inference_steps=steps, guidance_scale=guidance_scale, batch_size=batch_size)
    own_rows = (*(OWN_ROWS if embedded else ()), *((WITH_DECODER,) if temporal_decoder else ()))
    systems = find_systems(models or [], num_clips, seed, sampling, own_rows)
    measuring = {"num_clips": num_clips, "seed": seed, "clip_model": clip_model, "num_resamples": num_resamples}
    table, warnings = measure_all(systems, work_dir, measuring, batch_size)
    titles, rows = make_rows(table)
    shown = Table(*titles, title=f"{num_clips} clips of each system")
    for row in rows:
        shown.add_row(*row)
    show(Console(width=260), shown, warnings)
    if json_file is not None:
        write_json(json_file, {"settings": {**measuring, **asdict(sampling)}, "systems": table, "warnings": warnings})
    if markdown is not None:
        command = ["python", "examples/benchmarks/shapes_table.py", *(models or []), "--num-clips", num_clips]
        command += ["--steps", steps, "--seed", seed, "--guidance-scale", f"{guidance_scale:g}"]
        command += ["--num-resamples", num_resamples, *(("--clip-model", clip_model) if clip_model else ())]
        command += [*(() if embedded else ("--no-embedded",)), *(("--temporal-decoder",) if temporal_decoder else ())]
        command += ["--markdown", markdown]
        about = (
            f"Written by `{shlex.join(map(str, command))}`."
            f" {num_clips} clips of {NUM_FRAMES} frames of {RESOLUTION}x{RESOLUTION} pixels for each row and for the"
            f" reference; pipelines by {steps} steps, guidance {guidance_scale:g}; seed {seed}."
        )
        with replacing(markdown) as temporary:
            temporary.write_text(render_markdown(titles, rows, about, warnings), encoding="utf-8")


def measure_all(
    systems: Sequence[System], work_dir: Path, measuring: dict[str, Any], batch_size: int
) -> tuple[dict[str, Scores], list[str]]:
    """Scores of all rows; those that are known already are read from the work folder."""
    table: dict[str, Scores] = {}
    warnings: list[str] = []
    judge = None
    with Progress(console=Console(stderr=True)) as bars:
        for system in systems:
            clips = StoredClips(system, work_dir)
            path, settings = clips.folder / "scores.json", {**system.identity, **measuring}
            known = json.loads(path.read_text("utf-8")) if path.exists() else {}
            if known.get("settings") != settings:
                judge = judge or make_judge(measuring, batch_size)
                bar = bars.add_task(system.name)
                scores, found = judge.measure(
                    clips, lambda done, of, bar=bar: bars.update(bar, completed=done, total=of)
                )
                known = {"settings": settings, "scores": scores, "warnings": found}
                write_json(path, known)
            table[system.name] = known["scores"]
            warnings += [f"{system.name}: {warning}" for warning in known["warnings"]]
    return table, warnings


def make_judge(measuring: dict[str, Any], batch_size: int) -> Judge:
    """Measure the reference, which all rows are compared with."""
    num_clips, seed = measuring["num_clips"], measuring["seed"]
    networks, true = make_networks(seed), open_true(make_dataset(num_clips, TRUE_SEEDS + seed))
    found = extract_features(true, list(networks.values()), make_protocol(num_clips), batch_size=batch_size)
    model = measuring["clip_model"]
    return Judge(
        reference=dict(zip(networks, found, strict=True)),
        networks=networks,
        asked=make_dataset(num_clips, VIDEO_SEEDS + seed),
        embedder=None if model is None else ClipEmbedder.from_pretrained(model),
        num_resamples=measuring["num_resamples"],
        batch_size=batch_size,
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    typer.run(main)
