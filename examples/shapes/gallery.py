"""Draw a gallery: a grid of labelled clips by the model in the package, with fixed prompts and seeds.

    python examples/shapes/gallery.py --output docs/gallery.webp

Columns are motions; shapes and colours change from clip to clip.
"""

import logging
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from diffusers_video import TextToVideoPipeline
from diffusers_video.data.shapes import MOTIONS
from diffusers_video.embedded import SHAPES_GUIDANCE, SHAPES_MODEL, SHAPES_STEPS, SHAPES_SUBSET


LABEL_HEIGHT, GAP = 28, 6  # pixels
PAPER, INK = (255, 255, 255), (40, 40, 40)
LARGEST_FILE = 3_000_000  # bytes: what a page loads at once
LAST_FRAME_FACTOR = 4  # how much longer the end of a clip is shown


def choose_labels(num_rows: int) -> list[tuple[str, str]]:
    """What each clip shows, row by row: an object, and what it does."""
    shapes, colours, motions = (SHAPES_SUBSET[part] for part in ("shapes", "colours", "motions"))
    labels = []
    for row in range(num_rows):
        for column, motion in enumerate(motions):
            colour = colours[(2 * row + column) % len(colours)]
            labels.append((f"{colour} {shapes[(row + column) % len(shapes)]}", MOTIONS[motion]))
    return labels


def draw_clips(model: Path, labels: Sequence[tuple[str, str]], steps: int, seed: int) -> tuple[np.ndarray, float]:
    """Clips (clips, frames, height, width, 3) in 8 bits, and their frames per second."""
    pipeline = TextToVideoPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    clips = []
    for number, (noun, verb) in enumerate(tqdm(labels, desc="Clips")):
        article = "an" if noun[0] in "aeiou" else "a"
        output = pipeline(f"{article} {noun} {verb}", num_inference_steps=steps, guidance_scale=SHAPES_GUIDANCE,
                          generator=torch.Generator().manual_seed(seed + number), output_type="np")  # fmt: skip
        clips.append((output.frames[0] * 255).round().astype(np.uint8))
    return np.stack(clips), output.fps


def compose(clips: np.ndarray, labels: Sequence[tuple[str, str]], num_columns: int, scale: int) -> list[Image.Image]:
    """The frames of the grid."""
    num_frames, height, width = clips.shape[1:4]
    cell = (width * scale + GAP, height * scale + LABEL_HEIGHT + GAP)
    size = (num_columns * cell[0] + GAP, -(-len(clips) // num_columns) * cell[1] + GAP)
    font, pages = ImageFont.load_default(size=11), []
    for frame in range(num_frames):
        page = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(page)
        for number, (clip, label) in enumerate(zip(clips, labels, strict=True)):
            left, top = GAP + number % num_columns * cell[0], GAP + number // num_columns * cell[1]
            picture = Image.fromarray(clip[frame]).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
            page.paste(picture, (left, top))
            where = (left + width * scale / 2, top + height * scale + 1)
            draw.multiline_text(where, "\n".join(label), INK, font, anchor="ma", spacing=1, align="center")
        pages.append(page)
    return pages


def main(output: Path, model: Path, num_rows: int, scale: int, steps: int, seed: int) -> None:
    labels = choose_labels(num_rows)
    clips, fps = draw_clips(model, labels, steps, seed)
    pages = compose(clips, labels, len(SHAPES_SUBSET["motions"]), scale)
    durations = [round(1000 / fps)] * len(pages)
    durations[-1] *= LAST_FRAME_FACTOR
    quality = {"quality": 80, "method": 6} if output.suffix == ".webp" else {}
    pages[0].save(output, save_all=True, append_images=pages[1:], duration=durations, loop=0, **quality)
    size = output.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"`output` must be below {LARGEST_FILE} bytes, but has {size}. Lower --scale or --num_rows.")
    logging.info(f"Wrote {output}: {len(clips)} clips, {pages[0].width}x{pages[0].height} pixels, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("gallery.webp"), help=".webp or .gif")
    parser.add_argument("--model", type=Path, default=SHAPES_MODEL)
    parser.add_argument("--num_rows", type=int, default=4)
    parser.add_argument("--scale", type=int, default=2, help="Pixels of the gallery for each of a clip")
    parser.add_argument("--steps", type=int, default=SHAPES_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(**vars(parser.parse_args()))
