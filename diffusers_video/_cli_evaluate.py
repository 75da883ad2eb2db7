"""
The command `evaluate`: generate videos and measure whether they show what was asked for.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffusers_video._cli_command import choose_device, progress_bar
from diffusers_video._cli_options import DType, option
from diffusers_video.embedded import SHAPES_GUIDANCE, SHAPES_MODEL, SHAPES_STEPS, SHAPES_SUBSET


if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from diffusers_video.data.shapes import ShapesDataset


@dataclass(kw_only=True)
class EvaluateOptions:
    """Arguments of `evaluate`."""

    task: Annotated[Literal["shapes"], typer.Argument(help="What is measured.", show_default=False)]
    model: Annotated[
        str | None, option("--model", help="Video pipeline: a folder or Hub id; by default the one in the package.")
    ] = None
    true: Annotated[
        bool, option("--true", help="Measure the true videos instead: what the checker itself is worth.")
    ] = False
    num_videos: Annotated[int, option("--num-videos", min=1, help="Videos, each with a prompt; by default 256.")] = 256
    seed: Annotated[int, option("--seed", min=0, help="Decides prompts and noise; by default 0.")] = 0
    num_inference_steps: Annotated[
        int | None, option("--steps", "--num-inference-steps", min=1, help=f"By default {SHAPES_STEPS}.")
    ] = None
    guidance_scale: Annotated[
        float | None, option("--guidance-scale", min=0, help=f"By default {SHAPES_GUIDANCE:g}.")
    ] = None
    batch_size: Annotated[int | None, option("--batch-size", min=1, help="Videos at once; by default 8.")] = None
    shuffled: Annotated[
        bool, option("--shuffled", help="Shuffle the frames first: motion must then be found no more.")
    ] = False
    device: Annotated[str | None, option("--device", help="cpu, cuda, cuda:1, ...")] = None
    dtype: Annotated[
        DType | None, option("--dtype", help="Type of weights; by default float16 on CUDA, else float32.")
    ] = None
    json_file: Annotated[Path | None, option("--json", help="Write the scores to this file as well.")] = None

    def __post_init__(self) -> None:
        given = [
            name
            for name in ("model", "num_inference_steps", "guidance_scale", "batch_size", "device", "dtype")
            if self.true and getattr(self, name) is not None
        ]
        if given:
            raise ValueError(f"`--{given[0].replace('_', '-')}` has no effect with `--true`. Leave one of them out.")
        if self.json_file is not None and (self.json_file.is_dir() or not self.json_file.absolute().parent.is_dir()):
            raise ValueError(f"`--json` must name a file in a folder that exists, but is {str(self.json_file)!r}.")


def evaluate(options: EvaluateOptions) -> None:
    """
    Measure by plain image processing whether clips of the `shapes` set have the colour, shape and motion asked for.

    Prompts are those of the subset that the model in the package knows, and not of its training clips.
    """
    import numpy as np

    from diffusers_video.data.shapes import ShapesDataset
    from diffusers_video.data.shapes_check import read_clip
    from diffusers_video.metrics.shapes_scores import score_shapes

    dataset = ShapesDataset(options.num_videos, seed=_evaluation_seed(options.seed), **SHAPES_SUBSET)
    videos = _true_videos(dataset) if options.true else _generate(options, dataset)
    random = np.random.default_rng(options.seed)
    seen = []
    with progress_bar("Videos") as show:
        for video in videos:
            frames = random.permutation(video) if options.shuffled else video
            seen.append(read_clip(frames, shapes=SHAPES_SUBSET["shapes"]))
            show(len(seen), options.num_videos)
    scores = dataclasses.asdict(score_shapes(seen, [dataset.scene(index) for index in range(len(dataset))]))
    if options.json_file is not None:
        partial = options.json_file.with_name(f".{options.json_file.name}.partial")
        partial.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, options.json_file)
    parts = ("colour", "shape", "motion", "together")
    percentages = ", ".join(f"{name} {scores[name]:.1%}" for name in parts)
    typer.echo(f"{scores['num_clips']} videos: {percentages}; roughness {scores['roughness']:.4f} of the side")


def _evaluation_seed(seed: int) -> int:
    return 2_000_003 + seed  # training uses seeds from 0 and from 1,000,003 on


def _true_videos(dataset: ShapesDataset) -> Iterator[np.ndarray]:
    for index in range(len(dataset)):
        yield ((dataset[index]["pixel_values"] + 1) / 2).permute(1, 2, 3, 0).numpy()


def _generate(options: EvaluateOptions, dataset: ShapesDataset) -> Iterator[np.ndarray]:
    import torch

    from diffusers_video.pipelines.text_to_video import TextToVideoPipeline

    device = choose_device(options.device)
    dtype = getattr(torch, options.dtype or ("float16" if device.type == "cuda" else "float32"))
    pipeline = TextToVideoPipeline.from_pretrained(options.model or SHAPES_MODEL, dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    size = options.batch_size or 8
    for start in range(0, len(dataset), size):
        numbers = range(start, min(start + size, len(dataset)))
        yield from pipeline(
            [dataset.scene(number).caption for number in numbers],
            num_inference_steps=options.num_inference_steps or SHAPES_STEPS,
            guidance_scale=SHAPES_GUIDANCE if options.guidance_scale is None else options.guidance_scale,
            generator=[torch.Generator().manual_seed(options.seed + number) for number in numbers],
            output_type="np",
        ).frames
