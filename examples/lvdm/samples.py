"""Compare what a trained denoiser draws, and one with new weights, with true clips.

    accelerate launch training/train_unconditional.py examples/lvdm/denoiser.yaml --output_dir denoiser \
        --model_config_name_or_path examples/lvdm/unet.json --pretrained_vae_name_or_path autoencoder
    python examples/lvdm/samples.py --model denoiser

Frechet distances on fixed features of `shapes` and on seeded random features; true clips of another seed beside them.
"""

from argparse import ArgumentParser
from pathlib import Path

import torch
from drift import draw_true, measure
from torch import Tensor

from diffusers_video import UnconditionalVideoPipeline
from diffusers_video.metrics import FeatureStatistics, frechet_distance, random_features


def measure_at_random(videos_BCFHW: Tensor) -> FeatureStatistics:
    clips = (videos_BCFHW.transpose(1, 2).clamp(0, 1) * 255).round().to(torch.uint8)
    return FeatureStatistics.from_features(random_features(seed=0)(list(clips)))


@torch.no_grad()
def main(model: Path, num_videos: int, num_inference_steps: int, seed: int) -> dict[str, tuple[float, float]]:
    pipeline = UnconditionalVideoPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    options = {"batch_size": num_videos, "num_inference_steps": num_inference_steps, "output_type": "pt"}
    drawn = {"trained": pipeline(generator=torch.Generator().manual_seed(seed), **options).frames}
    torch.manual_seed(seed)
    pipeline.unet = type(pipeline.unet).from_config(pipeline.unet.config).eval()
    drawn["new weights"] = pipeline(generator=torch.Generator().manual_seed(seed), **options).frames
    videos = {name: frames.transpose(1, 2) for name, frames in drawn.items()}
    sizes = dict(zip(("num_frames", "height", "width"), videos["trained"].shape[2:], strict=True))
    videos["true clips of another seed"] = draw_true(num_videos, seed + 1, **sizes)
    true = draw_true(num_videos, seed, **sizes)
    measures = (measure, measure_at_random)
    return {name: tuple(frechet_distance(one(clips), one(true)) for one in measures) for name, clips in videos.items()}


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="What `train_unconditional.py` left.")
    parser.add_argument("--num_videos", type=int, default=128)
    parser.add_argument("--num_inference_steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    for name, (simple, random) in main(**vars(parser.parse_args())).items():
        print(f"{name}: {simple:.4f} (features of shapes), {random:.4f} (random features)")
