"""
The command `evaluate videos`: FVD and the like of generated videos against a reference.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffusers_video._cli_command import choose_device, note, progress_bar
from diffusers_video._cli_options import DType, flag_of, option
from diffusers_video._cli_pipeline import check_name
from diffusers_video._cli_train import LaunchOptions, launcher_of, run_launcher


if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from diffusers_video.metrics.clip_sources import ClipSource
    from diffusers_video.metrics.feature_sets import FeatureSet
    from diffusers_video.metrics.protocols import EvaluationProtocol
    from diffusers_video.metrics.results import VideoEvaluation


NETWORK, PROTOCOL, PIPELINE, OUTPUT, RUN = "Networks", "Protocol", "Pipeline", "Output", "Run"
SAVED = ".safetensors"
OF_PIPELINES = ("prompts", "num_inference_steps", "guidance_scale", "height", "width", "dtype")
OF_PROTOCOL = (
    *("num_frames", "frame_stride", "fps", "num_reference", "num_generated", "frame_size"),
    *("resize", "quantisation", "ddof"),
)
RANDOM_NOTICE = (
    "Note: without --weights clips are compared on random features. That ranks models on one set of videos; it is not"
    " FVD, and no published number can be compared with it."
)

RANDOM_FRAMES_NOTICE = (
    "Note: without --frame-weights frames are compared on random features. That is not FID, and no published number"
    " can be compared with it."
)

DISTANCES = ("fvd", "kvd", "frechet_distance", "kernel_distance")
OF_FRAMES = ("fid", "frame_frechet_distance")
OF_CLIP = ("clip_similarity", "clip_frame_consistency")
PAIRED = ("psnr", "ssim", "lpips")
METRIC_NAMES = (
    *(*DISTANCES, *OF_FRAMES, "inception_score", *OF_CLIP),
    *("temporal_flickering", "warping_error", "motion_magnitude", *PAIRED),
)


@dataclass(kw_only=True)
class EvaluateVideosOptions:
    """Arguments of `evaluate videos`."""

    generated: Annotated[
        str,
        typer.Argument(
            help="A folder of videos, saved features (.safetensors), or a pipeline: its folder or Hub id.",
            show_default=False,
        ),
    ]
    reference: Annotated[
        str | None, typer.Argument(help="A folder or list of videos, or saved features.", show_default=False)
    ] = None
    metric: Annotated[
        list[str] | None,
        option(
            "--metric",
            metavar="NAME",
            help="What to measure, once for each: fvd and kvd (the default with --weights), frechet_distance and"
            " kernel_distance (the default without), fid and frame_frechet_distance (all frames), inception_score,"
            " clip_similarity (CLIPSIM), clip_frame_consistency, temporal_flickering, warping_error,"
            " motion_magnitude; psnr, ssim and lpips (videos of one name).",
        ),
    ] = None
    weights: Annotated[
        str | None,
        option("--weights", help="I3D with the weights of FVD: a file, or user/name/file on the Hub.", panel=NETWORK),
    ] = None
    random_seed: Annotated[
        int, option("--random-seed", min=0, help="Of random features, without --weights; by default 0.", panel=NETWORK)
    ] = 0
    frame_weights: Annotated[
        str | None,
        option("--frame-weights", help="Inception with the weights of FID: a TorchScript file.", panel=NETWORK),
    ] = None
    clip_model: Annotated[
        str | None,
        option(
            "--clip-model",
            help="CLIP: a folder or Hub id; of published CLIPSIM openai/clip-vit-base-patch32.",
            panel=NETWORK,
        ),
    ] = None
    lpips: Annotated[
        str | None,
        option("--lpips", help="LPIPS: a TorchScript file that takes two batches of images.", panel=NETWORK),
    ] = None
    classifier: Annotated[
        str | None,
        option("--classifier", help="C3D for the Inception Score: a file, or user/name/file.", panel=NETWORK),
    ] = None
    classifier_mean: Annotated[
        Path | None, option("--classifier-mean", help="Mean clip of an npz file of C3D.", panel=NETWORK)
    ] = None
    protocol: Annotated[
        str,
        option(
            "--protocol",
            metavar="NAME",
            help="stylegan-v, videogpt, content-debiased or custom (the default); what follows changes it.",
            panel=PROTOCOL,
        ),
    ] = "custom"
    num_frames: Annotated[int | None, option("--num-frames", min=1, help="Frames of a clip.", panel=PROTOCOL)] = None
    frame_stride: Annotated[
        int | None, option("--frame-stride", min=1, help="Frames from one of a clip to the next.", panel=PROTOCOL)
    ] = None
    fps: Annotated[
        str | None, option("--fps", metavar="RATE", help="Read all videos at this rate.", panel=PROTOCOL)
    ] = None
    num_reference: Annotated[
        int | None, option("--num-reference", min=1, help="Clips of the reference at most.", panel=PROTOCOL)
    ] = None
    num_generated: Annotated[int | None, option("--num-generated", min=1, help="Generated clips.", panel=PROTOCOL)] = (
        None
    )
    frame_size: Annotated[
        int | None, option("--frame-size", min=1, help="Side that frames are brought to first.", panel=PROTOCOL)
    ] = None
    resize: Annotated[
        Literal["none", "stretch", "cover", "crop"] | None,
        option("--resize", help="How frames become as large as the network wants.", panel=PROTOCOL),
    ] = None
    quantisation: Annotated[
        Literal["round", "truncate"] | None, option("--quantisation", help="How 8 bits are made.", panel=PROTOCOL)
    ] = None
    ddof: Annotated[
        int | None, option("--ddof", min=0, max=1, help="Covariance over n (0) or n - 1 (1).", panel=PROTOCOL)
    ] = None
    clip_seed: Annotated[
        int | None, option("--clip-seed", min=0, help="Of random clips of videos.", panel=PROTOCOL)
    ] = None
    allow_small_sets: Annotated[
        bool, option("--allow-small-sets", help="Measure Frechet distances of few clips, too.", panel=PROTOCOL)
    ] = False
    allow_other_fps: Annotated[
        bool, option("--allow-other-fps", help="Let both sets have different rates.", panel=PROTOCOL)
    ] = False
    image_fps: Annotated[
        str | None,
        option("--image-fps", metavar="RATE", help="Rate of folders of images without one.", panel=PROTOCOL),
    ] = None
    prompts: Annotated[
        Path | None, option("--prompts", help="Text file with a prompt in each line.", panel=PIPELINE)
    ] = None
    num_inference_steps: Annotated[
        int | None, option("--num-inference-steps", "--steps", min=1, help="Denoising steps.", panel=PIPELINE)
    ] = None
    guidance_scale: Annotated[
        float | None, option("--guidance-scale", min=0, help="How closely prompts are followed.", panel=PIPELINE)
    ] = None
    height: Annotated[int | None, option("--height", min=1, help="Pixels.", panel=PIPELINE)] = None
    width: Annotated[int | None, option("--width", min=1, help="Pixels.", panel=PIPELINE)] = None
    dtype: Annotated[
        DType | None,
        option("--dtype", help="Type of weights; by default float16 on CUDA, else float32.", panel=PIPELINE),
    ] = None
    seed: Annotated[
        int, option("--seed", min=0, help="Clip k of a pipeline is drawn from seed + k; by default 0.", panel=PIPELINE)
    ] = 0
    json_file: Annotated[
        Path | None, option("--json-file", "--json", help="Write the result to this file as well.", panel=OUTPUT)
    ] = None
    model_card: Annotated[
        Path | None,
        option("--model-card", help="Folder of a model: write the scores into its card.", panel=OUTPUT),
    ] = None
    dataset_name: Annotated[
        str | None, option("--dataset-name", help="What the card calls the reference.", panel=OUTPUT)
    ] = None
    save_generated: Annotated[
        Path | None, option("--save-generated", help="Keep features of the generated clips.", panel=OUTPUT)
    ] = None
    save_reference: Annotated[
        Path | None, option("--save-reference", help="Keep features of the reference.", panel=OUTPUT)
    ] = None
    num_resamples: Annotated[
        int | None,
        option("--num-resamples", min=0, help="Behind each interval; by default 100, 0: no intervals.", panel=OUTPUT),
    ] = None
    batch_size: Annotated[
        int | None, option("--batch-size", min=1, help="Clips at once, by default 8.", panel=RUN)
    ] = None
    num_processes: Annotated[
        int | None, option("--num-processes", min=1, help="Share the clips between processes.", panel=RUN)
    ] = None
    device: Annotated[str | None, option("--device", help="cpu, cuda, cuda:1, ...", panel=RUN)] = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.metric or () if name not in METRIC_NAMES]:
            raise ValueError(f"`--metric` must be one of {list(METRIC_NAMES)}, but is {unknown[0]!r}.")
        for name in ("json_file", "save_generated", "save_reference"):
            path = getattr(self, name)
            if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
                raise ValueError(f"`{flag_of(name)}` must name a file in a folder that exists, but is {str(path)!r}.")
        for name in ("save_generated", "save_reference"):
            path, source = getattr(self, name), getattr(self, name.removeprefix("save_"))
            if path is not None and (path.suffix != SAVED or source is None or source.endswith(SAVED)):
                raise ValueError(
                    f"`{flag_of(name)}` must be a {SAVED} file for clips that are measured now, but is {str(path)!r}"
                    f" for {source!r}."
                )
        given = [name for name in OF_PIPELINES if getattr(self, name) is not None]
        if given and not self.is_pipeline:
            raise ValueError(f"`{flag_of(given[0])}` has no effect on {self.generated!r}, which is no pipeline.")
        is_of_one = set(self.metrics) <= set(DISTANCES) or set(self.metrics) <= set(OF_FRAMES)
        if (self.save_generated or self.save_reference) and not is_of_one:
            raise ValueError(
                f"`--save-generated` and `--save-reference` keep what {', '.join(DISTANCES)}, or what"
                f" {', '.join(OF_FRAMES)} need, but --metric is {', '.join(self.metrics)}. Measure them one after the"
                " other."
            )
        if (self.model_card is None) != (self.dataset_name is None):
            raise ValueError("`--model-card` and `--dataset-name` must be given together, but one is missing.")
        if self.device is not None and (self.num_processes or 1) > 1 and self.device != "cpu":
            raise ValueError(f"`--device` must be cpu with several processes, or not given, but is {self.device!r}.")

    @property
    def is_pipeline(self) -> bool:
        """Whether the generated clips are yet to be drawn."""
        path = Path(self.generated)
        return (path / "model_index.json").is_file() or (not path.exists() and path.suffix != SAVED)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured."""
        if self.metric:
            return tuple(dict.fromkeys(self.metric))
        return ("fvd", "kvd") if self.weights else ("frechet_distance", "kernel_distance")

    def arguments(self) -> list[str]:
        """Write the options as a command line again, without the number of processes."""
        words = [self.generated, *([self.reference] if self.reference else [])]
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name in ("generated", "reference", "num_processes") or value is None or value is False:
                continue
            for part in value if isinstance(value, list) else [value]:
                words += [flag_of(item.name)] if part is True else [flag_of(item.name), str(part)]
        return words


def evaluate_videos(options: EvaluateVideosOptions) -> None:
    """
    Compare generated videos with a reference: FVD, KVD, FID, or such distances on random features; Inception Score,
    CLIPSIM, flicker and motion; PSNR, SSIM and LPIPS of videos with their targets.

    Captions for CLIPSIM are the prompts of a pipeline, or stand in metadata.jsonl or in text files beside the videos.
    Clips are read one batch at a time. The result says by which protocol, network and versions it was measured.
    """
    if (options.num_processes or 1) > 1 and "WORLD_SIZE" not in os.environ:
        launch = LaunchOptions(num_processes=options.num_processes, cpu=options.device == "cpu", main_process_port=0)
        launcher, environment = launcher_of(launch)
        command = [*launcher, "-m", "diffusers_video.cli", "evaluate", "videos", *options.arguments()]
        raise typer.Exit(run_launcher(command, environment))
    accelerator = _start_accelerator()
    is_main = accelerator is None or accelerator.is_main_process
    result = _evaluate(options, accelerator, is_main)
    if not is_main:
        return
    if options.json_file is not None:
        result.save(options.json_file)
    if options.model_card is not None:
        from diffusers_video.hub import add_evaluation_results

        add_evaluation_results(options.model_card, result.card_results(dataset_name=options.dataset_name))
    for warning in result.warnings:
        note(f"Warning: {warning}")
    typer.echo(result.summary())


def _start_accelerator() -> Accelerator | None:
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    from accelerate import Accelerator

    return Accelerator()


def _evaluate(options: EvaluateVideosOptions, accelerator: Accelerator | None, is_main: bool) -> VideoEvaluation:
    from diffusers_video.metrics.evaluation import evaluate_videos
    from diffusers_video.metrics.evaluation_settings import EvaluationSettings
    from diffusers_video.metrics.feature_sets import extract_features
    from diffusers_video.metrics.protocols import find_protocol

    changes = {name: getattr(options, name) for name in OF_PROTOCOL if getattr(options, name) is not None}
    if options.clip_seed is not None:
        changes["seed"] = options.clip_seed
    protocol = find_protocol(options.protocol, **changes)
    settings = EvaluationSettings(
        metrics=options.metrics,
        num_resamples=100 if options.num_resamples is None else options.num_resamples,
        allows_small_sets=options.allow_small_sets,
        allows_other_fps=options.allow_other_fps,
    )
    device = choose_device(options.device) if accelerator is None else accelerator.device
    networks = _load_networks(options, device, is_main)
    sources = {
        "generated": _find_generated(options, protocol, device, is_main),
        "reference": _find_videos(options.reference, False, options, protocol, is_main),
    }
    with _bar("Clips", is_main) as show:
        run = {"batch_size": options.batch_size or 8, "accelerator": accelerator, "progress": show}
        for name in sources:
            path = getattr(options, f"save_{name}")
            if path is not None:
                network = networks.get("network") or networks["frame_network"]
                sources[name] = extract_features(sources[name], [network], protocol, **run)[0]
                if is_main:
                    sources[name].save(path)
        return evaluate_videos(*sources.values(), protocol, **networks, settings=settings, **run)


def _load_networks(options: EvaluateVideosOptions, device: torch.device, is_main: bool) -> dict[str, Any]:
    """Networks that are named or needed, as `evaluate_videos` takes them."""
    from diffusers_video.metrics.clip_scores import ClipEmbedder
    from diffusers_video.metrics.feature_networks import load_c3d, load_i3d, random_features
    from diffusers_video.metrics.frame_networks import load_inception, random_frame_features
    from diffusers_video.metrics.paired_clips import load_lpips

    networks: dict[str, Any] = {}
    notices = []
    if set(options.metrics) & set(DISTANCES):
        networks["network"] = load_i3d(options.weights) if options.weights else random_features(options.random_seed)
        notices += [] if options.weights else [RANDOM_NOTICE]
    if options.frame_weights is not None:
        networks["frame_network"] = load_inception(options.frame_weights)
    elif set(options.metrics) & set(OF_FRAMES):
        networks["frame_network"] = random_frame_features(options.random_seed)
        notices.append(RANDOM_FRAMES_NOTICE)
    if options.classifier is not None:
        networks["classifier"] = load_c3d(options.classifier, mean=options.classifier_mean)
    if options.lpips is not None:
        networks["lpips"] = load_lpips(options.lpips)
    networks = {role: network.to(device) for role, network in networks.items()}
    if options.clip_model is not None:
        networks["clip"] = ClipEmbedder.from_pretrained(options.clip_model)
        networks["clip"].model.to(device)
    for notice in notices if is_main else ():
        note(notice)
    return networks


def _find_generated(
    options: EvaluateVideosOptions, protocol: EvaluationProtocol, device: torch.device, is_main: bool
) -> ClipSource | FeatureSet:
    if not options.is_pipeline:
        return _find_videos(options.generated, True, options, protocol, is_main)
    import torch
    from diffusers import DiffusionPipeline

    import diffusers_video.pipelines  # noqa: F401
    from diffusers_video.metrics.clip_sources import PipelineClips

    check_name("GENERATED", options.generated)
    prompts = None if options.prompts is None else _read_prompts(options.prompts)
    dtype = getattr(torch, options.dtype or ("float16" if device.type == "cuda" else "float32"))
    pipeline = DiffusionPipeline.from_pretrained(options.generated, dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    names = ("num_inference_steps", "guidance_scale", "height", "width")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return PipelineClips(pipeline, protocol, prompts=prompts, seed=options.seed, **given)


def _read_prompts(path: Path) -> list[str]:
    prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"`--prompts` must hold a prompt in each line, but {path} is empty.")
    return prompts


def _find_videos(
    path: str | None, is_generated: bool, options: EvaluateVideosOptions, protocol: EvaluationProtocol, is_main: bool
) -> ClipSource | FeatureSet | None:
    from diffusers_video.metrics.clip_sources import FolderClips
    from diffusers_video.metrics.feature_sets import FeatureSet

    if path is None:
        return None
    if path.endswith(SAVED):
        return FeatureSet.load(path)
    with _bar("Videos measured", is_main) as show:
        return FolderClips(path, protocol, is_generated=is_generated, image_fps=options.image_fps, progress=show)


@contextmanager
def _bar(title: str, is_main: bool) -> Iterator[Callable[[int, int], None] | None]:
    if not is_main:
        yield None
        return
    with progress_bar(title) as show:
        yield show
