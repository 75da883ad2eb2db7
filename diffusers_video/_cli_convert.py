"""
The command `convert`: checkpoints of other layouts -> pipelines of this library.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from diffusers_video._cli_command import progress_bar
from diffusers_video._cli_options import DType, option


@dataclass(kw_only=True)
class ConvertOptions:
    """Arguments of `convert`."""

    source: Annotated[
        Path,
        typer.Argument(
            help="Stable Video Diffusion: the original file, or a folder in diffusers' layout.", show_default=False
        ),
    ]
    output: Annotated[Path, typer.Argument(help="Folder to write, new or empty.", show_default=False)]
    dtype: Annotated[DType | None, option("--dtype", help="Type of weights; by default that of the source.")] = None
    variant: Annotated[str | None, option("--variant", help="Variant of a folder's weight files, such as fp16.")] = (
        None
    )
    num_frames: Annotated[
        int | None,
        option(
            "--num-frames",
            min=1,
            help="Frames of a video unless a call says otherwise; by default those a folder names, 14 for a file.",
        ),
    ] = None


def convert(options: ConvertOptions) -> None:
    """
    Convert a checkpoint of Stable Video Diffusion into a folder that ImageToVideoPipeline.from_pretrained loads.

    Pickles are read without running code. The folder appears when it is complete.
    """
    import torch

    from diffusers_video.conversion.stable_video_diffusion import convert_stable_video_diffusion

    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    with progress_bar("Parts") as show:
        convert_stable_video_diffusion(
            options.source,
            options.output,
            dtype=dtype,
            variant=options.variant,
            num_frames=options.num_frames,
            progress=show,
        )
    typer.echo(f"Wrote {options.output}: load it with ImageToVideoPipeline.from_pretrained")
