"""Measure whether a model of text draws the colour that it is asked for.

    accelerate launch training/train_unconditional.py examples/vdm/text.yaml --output_dir vdm-text
    python examples/vdm/measure_text.py --model vdm-text

Every prompt is a caption that was not trained on; the checker names the colour of most frames.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

import torch
import yaml

from diffusers_video import TextToVideoPipeline
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.data.shapes_check import read_clip


RECIPE = Path(__file__).with_name("text.yaml")


def main(model: Path, num_clips: int, steps: int, scales: list[float], seed: int) -> dict[float, tuple[float, float]]:
    """Parts of the clips, by guidance scale, that show a coloured object at all, and one of the right colour."""
    pipeline = TextToVideoPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    subset = json.loads(yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["shapes_options"])
    clips = ShapesDataset(num_clips, seed=seed, **subset)
    scenes = [clips.scene(number) for number in range(num_clips)]
    results = {}
    for scale in scales:
        seeds = [torch.Generator().manual_seed(seed + number) for number in range(num_clips)]
        options = {"num_inference_steps": steps, "guidance_scale": scale, "generator": seeds, "output_type": "np"}
        videos = pipeline([scene.caption for scene in scenes], **options).frames
        colours = [read_clip(video).colour for video in videos]
        right = [seen == scene.objects[0].colour for seen, scene in zip(colours, scenes, strict=True)]
        results[scale] = (sum(seen is not None for seen in colours) / num_clips, sum(right) / num_clips)
    return results


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="Folder of the trained pipeline.")
    parser.add_argument("--num_clips", type=int, default=64, help="Prompts.")
    parser.add_argument("--steps", type=int, default=50, help="Steps of the sampler.")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 4.0, 8.0], help="Guidance scales.")
    parser.add_argument("--seed", type=int, default=77_000_003, help="Seed of the prompts and of the noise.")
    for scale, (seen, right) in main(**vars(parser.parse_args())).items():
        print(f"guidance scale {scale:g}: an object in {seen:.0%} of the clips, of the right colour in {right:.0%}")
