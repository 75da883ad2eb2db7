"""
Whether clips drawn one behind another go on with the motion: what the checker of `shapes` sees inside clips, and in
windows of the same length over their joints.

    python examples/pvdm/joints.py --model OUT --num-videos 32 --num-clips 8
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from diffusers_video import UnconditionalVideoPipeline
from diffusers_video.data.shapes_check import read_clip


BAR = 0.8  # of what is seen inside clips
MOTION = "circles"  # the one that `loops.py` writes


def see_motion(video: np.ndarray, starts: range, length: int) -> list[bool]:
    """Tell of each window of a video `(num_frames, height, width, 3)` whether the motion is seen in it."""
    return [read_clip(video[start : start + length]).motion == MOTION for start in starts]


def main(
    model: Annotated[Path, typer.Option(help="Output of train_unconditional.py.")],
    num_videos: Annotated[int, typer.Option(min=1, help="Videos to draw.")] = 32,
    num_clips: Annotated[int, typer.Option(min=2, help="Clips of each.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the first clip.")] = 50,
    next_steps: Annotated[int, typer.Option(min=1, help="Steps of each further clip.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the videos.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Draw videos and compare what is seen inside clips and over their joints."""
    pipe = UnconditionalVideoPipeline.from_pretrained(model)
    length = pipe.config.num_frames
    options = {"num_inference_steps": steps, "num_next_inference_steps": next_steps, "output_type": "np"}
    generator = torch.Generator().manual_seed(seed)
    videos = pipe(num_videos, num_clips * length, generator=generator, **options).frames
    inside = [see_motion(video, range(0, num_clips * length, length), length) for video in videos]
    over = [see_motion(video, range(length // 2, (num_clips - 1) * length, length), length) for video in videos]
    scores = {"inside": float(np.mean(inside)), "over_joints": float(np.mean(over))}
    scores["of_each_clip"] = np.mean(inside, axis=0).tolist()
    ratio = scores["over_joints"] / max(scores["inside"], 1e-9)
    typer.echo(f"{MOTION} inside clips: {scores['inside']:.3f}, over joints: {scores['over_joints']:.3f}")
    typer.echo("by clip: " + ", ".join(f"{part:.2f}" for part in scores["of_each_clip"]))
    typer.echo(f"over joints / inside: {ratio:.3f}, bar {BAR:.2f}: {'holds' if ratio >= BAR else 'MISSED'}")
    if json_file is not None:
        json_file.write_text(json.dumps({**scores, "ratio": ratio, "num_videos": num_videos}, indent=1))


if __name__ == "__main__":
    typer.run(main)
