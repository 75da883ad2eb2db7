"""Measure how far videos drift from true clips as windows go on from each other, with and without perturbation.

    accelerate launch training/train_unconditional.py examples/lvdm/prediction.yaml --output_dir perturbed \
        --model_config_name_or_path examples/lvdm/unet.json --pretrained_vae_name_or_path autoencoder
    accelerate launch training/train_unconditional.py examples/lvdm/prediction.yaml --output_dir plain \
        --model_config_name_or_path examples/lvdm/unet.json --pretrained_vae_name_or_path autoencoder \
        --max_noise_level 0
    python examples/lvdm/drift.py --run "perturbation and guidance" perturbed 100 1.5 \
        --run neither plain 0 1 --output_file drift.json --plot drift.svg

Each run draws key latents, window after window, and all videos of a step are compared with true clips: the Frechet
distance of fixed features of `shapes`. Key latents are no neighbours, so each is decoded alone, those of true clips as
well. Beside it stands how far the colour of a video's object has moved since its first window, which the distance
between sets does not see. Objects circle or turn, motions that go on without an end: after the end of any other
motion, a window that goes on is unlike every clip of the training.
"""

import json
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffusers_video import KeyFramePredictionPipeline
from diffusers_video.data.files import write_json
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.metrics.frechet import frechet_distance
from diffusers_video.metrics.shapes_features import FEATURE_GROUPS, NUM_MOMENTS, measure_clip
from diffusers_video.metrics.statistics import FeatureStatistics
from diffusers_video.pipelines.latents import encode_video


# Shapes: B videos, C channels, F frames, H height, W width of pixels; N numbers of a video.

MOTIONS = ["left", "right", "up", "down", "circles"]
ENDLESS_MOTIONS = ["circles", "turns"]
CLIPS_AT_ONCE = 64
NUM_TRUE_CLIPS = 1024


def measure_each(videos_BCFHW: Tensor) -> Tensor:
    return torch.stack([torch.as_tensor(measure_clip(video.movedim(0, -1))) for video in videos_BCFHW])


def measure(videos_BCFHW: Tensor) -> FeatureStatistics:
    return FeatureStatistics.from_features(measure_each(videos_BCFHW))


def draw_true(num_videos: int, seed: int, motions: Sequence[str] = MOTIONS, **sizes: int) -> Tensor:
    clips = ShapesDataset(num_videos, seed=seed, motions=motions, **sizes)
    return torch.stack([clips[number]["pixel_values"] for number in range(num_videos)]) / 2 + 0.5


def decode_alone(pipeline: KeyFramePredictionPipeline, latents: Tensor) -> Tensor:
    return torch.cat([pipeline.decode_frames(latent) for latent in latents.split(1, dim=2)], dim=2)


@torch.no_grad()
def measure_true(
    pipeline: KeyFramePredictionPipeline, num_videos: int, seed: int, side: int, latent_stride: int
) -> Tensor:
    num_frames = pipeline.config.num_frames * latent_stride
    clips = draw_true(num_videos, seed, ENDLESS_MOTIONS, num_frames=num_frames, height=side, width=side) * 2 - 1
    generator = torch.Generator().manual_seed(seed)
    parts = [encode_video(pipeline.vae, part, generator) for part in clips.split(CLIPS_AT_ONCE)]
    keys = torch.cat(parts)[:, :, ::latent_stride]
    return torch.cat([measure_each(decode_alone(pipeline, part)) for part in keys.split(CLIPS_AT_ONCE)])


def object_colour(features_BN: Tensor) -> Tensor:
    return features_BN[:, FEATURE_GROUPS["colour"]].unflatten(1, (3, NUM_MOMENTS)).mean(2)


def measure_drift(
    model: Path, num_videos: int, num_steps: int, latent_stride: int, seed: int, **options: Any
) -> dict[str, list[float]]:
    pipeline = KeyFramePredictionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    factor = pipeline.vae.temporal_scale_factor
    length = pipeline.config.num_frames // factor  # latent frames of a window, of which each step adds all but one
    latents = pipeline(
        num_frames=(length + num_steps * (length - 1)) * factor,
        num_context_frames=1,
        num_videos_per_prompt=num_videos,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **options,
    ).frames
    starts = range(0, latents.shape[2] - 1, length - 1)
    windows = [measure_each(decode_alone(pipeline, latents[:, :, start : start + length])) for start in tqdm(starts)]
    side = latents.shape[-1] * pipeline.vae_scale_factor
    true, others = (
        measure_true(pipeline, number, seed + place, side, latent_stride)
        for place, number in enumerate((NUM_TRUE_CLIPS, num_videos))
    )
    statistics = FeatureStatistics.from_features(true)
    distances = [frechet_distance(FeatureStatistics.from_features(one), statistics) for one in (others, *windows)]
    colours = [object_colour(one) for one in windows]
    unlike = (object_colour(others) - object_colour(true[:num_videos])).norm(dim=1).mean()
    return {
        "frechet": distances[1:],
        "frechet_of_true": distances[0],
        "colour_change": [float((colour - colours[0]).norm(dim=1).mean()) for colour in colours],
        "colour_change_of_unrelated": float(unlike),
    }


def plot(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    titles = {"frechet": "Frechet distance to true clips", "colour_change": "change of the object's colour"}
    names = list(dict.fromkeys(run["name"] for run in runs))
    for axes, (number, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for run in runs:
            is_first = next(one for one in runs if one["name"] == run["name"]) is run
            label = run["name"] if is_first else None
            axes.plot(run[number], color=f"C{names.index(run['name'])}", label=label)
        axes.set(title=title, xlabel="steps that went on", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "drift"}):  # so that equal numbers give an equal file
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def check(runs: Sequence[Sequence[str]], output_file: Path, plot_file: Path | None) -> None:
    for name, model, noise_level, scale in runs:
        if not Path(model).is_dir():
            raise ValueError(f"`MODEL` of {name!r} must be a folder with a pipeline, but {model!r} is none. Train it.")
        try:
            int(noise_level), float(scale)
        except ValueError as error:
            raise ValueError(
                f"`NOISE_LEVEL` and `GUIDANCE` of {name!r} must be a whole number and a number, but are"
                f" {noise_level!r} and {scale!r}. 0 and 1 are none."
            ) from error
    for path in filter(None, (output_file, plot_file)):
        if not path.parent.is_dir():
            raise ValueError(f"`{path}` must lie in an existing folder, but {str(path.parent)!r} is none. Make it.")
    if plot_file is not None and find_spec("matplotlib") is None:
        raise ImportError('The plot needs matplotlib: `pip install -c constraints.txt -e ".[docs]"`.')


def main(runs: Sequence[Sequence[str]], output_file: Path, plot_file: Path | None, **options: Any) -> None:
    check(runs, output_file, plot_file)
    measured = json.loads(output_file.read_text()) if output_file.exists() else []
    for name, model, noise_level, scale in runs:
        told = {"noise_level": int(noise_level) or None, "context_guidance_scale": float(scale)}
        numbers = measure_drift(Path(model), **told, **options)
        measured.append({"name": name, "model": Path(model).name} | told | options | numbers)
        write_json(output_file, measured)
    if plot_file is not None:
        plot(measured, plot_file)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    words = ("NAME", "MODEL", "NOISE_LEVEL", "GUIDANCE")
    parser.add_argument("--run", dest="runs", nargs=4, action="append", default=[], metavar=words)
    parser.add_argument("--output_file", type=Path, required=True, help="JSON; runs are added to those it holds.")
    parser.add_argument("--plot", dest="plot_file", type=Path, help="Picture of all runs of the file.")
    parser.add_argument("--num_videos", type=int, default=64)
    parser.add_argument("--num_steps", type=int, default=20)
    parser.add_argument("--num_inference_steps", type=int, default=15)
    parser.add_argument("--latent_stride", type=int, default=4, help="That of the training.")
    parser.add_argument("--seed", type=int, default=1)
    main(**vars(parser.parse_args()))
