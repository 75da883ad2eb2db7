"""Measure how far windows that go on from each other drift from true clips, step by step.

    accelerate launch training/train_unconditional.py examples/lvdm/prediction.yaml --output_dir prediction \
        --model_config_name_or_path examples/lvdm/unet.json --pretrained_vae_name_or_path autoencoder
    python examples/lvdm/drift.py --model prediction --noise_level 100 --context_guidance_scale 1.1

The Frechet distance of fixed features of `shapes`, between the windows of all videos at a step and true clips.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffusers_video import KeyFramePredictionPipeline
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.metrics.frechet import frechet_distance
from diffusers_video.metrics.shapes_features import measure_clip
from diffusers_video.metrics.statistics import FeatureStatistics


MOTIONS = ["left", "right", "up", "down", "circles"]


def measure(videos_BCFHW: Tensor) -> FeatureStatistics:
    features = [torch.as_tensor(measure_clip(video.movedim(0, -1))) for video in videos_BCFHW]
    return FeatureStatistics.from_features(torch.stack(features))


def draw_true(num_videos: int, seed: int, **sizes: int) -> Tensor:
    clips = ShapesDataset(num_videos, seed=seed, motions=MOTIONS, **sizes)
    return torch.stack([clips[number]["pixel_values"] for number in range(num_videos)]) / 2 + 0.5


def main(model: Path, num_videos: int, num_steps: int, seed: int, **options: float) -> list[float]:
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
    side = latents.shape[-1] * pipeline.vae_scale_factor
    sizes = {"num_frames": pipeline.config.num_frames, "height": side, "width": side}
    true = measure(draw_true(num_videos, seed, **sizes))
    windows = tqdm([latents[:, :, start : start + length] for start in range(0, latents.shape[2] - 1, length - 1)])
    return [frechet_distance(measure(pipeline.decode_frames(window)), true) for window in windows]


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="What `train_unconditional.py` left.")
    parser.add_argument("--num_videos", type=int, default=64)
    parser.add_argument("--num_steps", type=int, default=20)
    parser.add_argument("--num_inference_steps", type=int, default=25)
    parser.add_argument("--noise_level", type=int)
    parser.add_argument("--context_guidance_scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(main(**vars(parser.parse_args()))))
