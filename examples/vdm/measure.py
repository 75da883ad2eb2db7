"""Measure what guidance adds to a model that was never told given frames: extension, and enlarging four times.

    accelerate launch training/train_unconditional.py examples/vdm/extension.yaml --output_dir vdm
    python examples/vdm/measure.py --model vdm --num_clips 64 --scales 2 4 8

Clips held out of the training begin the videos that are drawn. The checker says which keep colour and direction.
"""

from argparse import ArgumentParser
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffusers_video import FrameCondition, UnconditionalVideoPipeline
from diffusers_video.conditioning.reconstruction import shrink_linearly
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.data.shapes_check import read_clip


SUBSET = {
    "shapes": ["circle", "square"],
    "colours": ["red", "green", "blue", "yellow"],
    "motions": ["left", "right", "up", "down"],
    "backgrounds": ["plain"],
}
NUM_GIVEN, FACTOR = 3, 4


def share_kept(videos: Tensor, clips: ShapesDataset) -> tuple[float, float, float]:
    """Parts of videos (B, F, C, H, W) whose drawn frames keep the colour, which keep the direction, and both."""
    kept = []
    for number, video in enumerate(videos):
        seen, wanted = read_clip(video.movedim(1, -1)), clips.scene(number).objects[0]
        colour = all(one == wanted.colour for one in seen.colours[NUM_GIVEN:])
        kept.append((colour, seen.motion == wanted.motion, colour and seen.motion == wanted.motion))
    return tuple(torch.tensor(kept).float().mean(dim=0).tolist())


def main(model: Path, num_clips: int, steps: int, scales: list[float], seed: int) -> dict[str, tuple[float, ...]]:
    pipeline = UnconditionalVideoPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    sizes = {name: pipeline.config[name] for name in ("num_frames", "height", "width")}
    clips = ShapesDataset(num_clips, seed=seed, **sizes, **SUBSET)
    true = torch.stack([clips[number]["pixel_values"] for number in range(num_clips)]).transpose(1, 2) / 2 + 0.5
    given = FrameCondition(true[:, :NUM_GIVEN], list(range(NUM_GIVEN)))
    options = {"batch_size": num_clips, "num_inference_steps": steps, "output_type": "pt"}
    results = {"true clips: colour, direction, both": share_kept(true, clips)}
    for scale in tqdm([0.0, *scales], desc="Extension"):
        how = {"mechanism": "reconstruction", "reconstruction_scale": scale} if scale else {"mechanism": "replacement"}
        seeds = [torch.Generator().manual_seed(seed + number) for number in range(num_clips)]
        frames = pipeline(conditions=[given], generator=seeds, **how, **options).frames
        name = f"guidance, w = {scale:g}" if scale else "replacement"
        results[f"{name}: colour, direction, both"] = share_kept(frames, clips)
    size = (sizes["height"] // FACTOR, sizes["width"] // FACTOR)
    low_res = shrink_linearly(true.transpose(1, 2), size).transpose(1, 2).clamp(0, 1)
    runs = {"not guided": {"low_res_scale": 0.0, "decode_given_frames": True}}
    runs |= {"guided": {"decode_given_frames": True}, "guided and kept": {}}
    for name, how in runs.items():
        seeds = [torch.Generator().manual_seed(seed + number) for number in range(num_clips)]
        frames = pipeline(low_res=low_res, generator=seeds, **how, **options).frames
        small = shrink_linearly(frames.transpose(1, 2), size).transpose(1, 2)
        errors = (small - low_res).abs()
        decibels = -10 * (frames - true).square().mean(dim=(1, 2, 3, 4)).log10().mean()
        results[f"x{FACTOR}, {name}: error of small copies (mean, largest), PSNR"] = (
            errors.mean().item(), errors.max().item(), decibels.item(),
        )  # fmt: skip
    return results


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="Folder of the trained pipeline.")
    parser.add_argument("--num_clips", type=int, default=32, help="Clips that are begun.")
    parser.add_argument("--steps", type=int, default=50, help="Steps of the sampler.")
    parser.add_argument("--scales", type=float, nargs="+", default=[2.0, 8.0], help="Weights of the guidance.")
    parser.add_argument("--seed", type=int, default=77_000_003, help="Seed of the clips and of the noise.")
    for name, numbers in main(**vars(parser.parse_args())).items():
        print(f"{name}: {', '.join(f'{number:.4g}' for number in numbers)}")
