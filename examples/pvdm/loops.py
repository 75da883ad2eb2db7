"""
Write videos of the `shapes` set whose motion has no end: objects that go around in a circle, several turns each.

Clips cut out of them can be prolonged for ever, as a chain of clips must do.

    python examples/pvdm/loops.py --folder loops/train --num-videos 2000
    python examples/pvdm/loops.py --folder loops/heldout --num-videos 64 --seed 1
"""

from pathlib import Path
from typing import Annotated

import typer
from tqdm.auto import tqdm

from diffusers_video import write_video
from diffusers_video.data.shapes import ShapesDataset


def main(
    folder: Annotated[Path, typer.Option(help="Where the videos go.")],
    num_videos: Annotated[int, typer.Option(min=1, help="How many.")] = 2000,
    num_frames: Annotated[int, typer.Option(min=2, help="Frames of a turn; the last is the first again.")] = 8,
    turns: Annotated[int, typer.Option(min=1, help="Turns of a video.")] = 3,
    size: Annotated[int, typer.Option(min=16, help="Height and width in pixels.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the set.")] = 0,
) -> None:
    """Write the videos."""
    options = {"num_frames": num_frames, "height": size, "width": size, "motions": ["circles"], "seed": seed}
    dataset = ShapesDataset(num_videos, **options)
    folder.mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(num_videos)):
        turn = dataset[index]["pixel_values"][:, :-1]
        frames = (turn.repeat(1, turns, 1, 1) * 0.5 + 0.5).transpose(0, 1)
        write_video(frames, folder / f"{index:05d}.mp4", fps=8.0, crf=5, overwrite=True)


if __name__ == "__main__":
    typer.run(main)
