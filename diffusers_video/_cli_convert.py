"""
The command `convert`: checkpoints of other layouts -> pipelines of this library.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffusers_video._cli_command import progress_bar
from diffusers_video._cli_options import DType, option


if TYPE_CHECKING:
    import torch

LatentsOf = Literal["sky", "ucf", "taichi"]  # keys of `conversion.lvdm.RELEASED_LATENTS`


@dataclass(kw_only=True)
class ConvertOptions:
    """Arguments of `convert`."""

    source: Annotated[
        Path,
        typer.Argument(
            help="Stable Video Diffusion: the original file, or a folder in diffusers' layout. PVDM: the file of its"
            " autoencoder or U-Net, or a folder with one of each. LVDM or VideoCrafter: the file.",
            show_default=False,
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
    num_attention_heads: Annotated[
        int | None,
        option("--num-attention-heads", min=1, help="PVDM: heads of the U-Net, which its file does not tell; 8."),
    ] = None
    trained_on: Annotated[
        LatentsOf | None,
        option("--trained-on", help="LVDM: data of its 3D autoencoder, whose scale its file does not tell."),
    ] = None
    ema: Annotated[
        bool | None,
        option("--ema/--no-ema", help="LVDM: take averaged weights where there are some; that is so by default."),
    ] = None
    fps: Annotated[
        float | None, option("--fps", min=0.01, help="VideoCrafter 2: frame rate that the U-Net is set to; 16.")
    ] = None


def convert(options: ConvertOptions) -> None:
    """
    Convert a checkpoint of Stable Video Diffusion into a folder that ImageToVideoPipeline.from_pretrained loads.

    Or checkpoints of PVDM and LVDM into folders of their models: vae, unet, text_encoder and scheduler; of
    VideoCrafter the unet. Pickles are read without running code. The folder appears when it is complete.
    """
    import torch

    from diffusers_video.conversion.lvdm import holds_lvdm
    from diffusers_video.conversion.pvdm import holds_pvdm
    from diffusers_video.conversion.stable_video_diffusion import convert_stable_video_diffusion

    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    if holds_lvdm(options.source):
        _convert_lvdm(options, dtype)
        return
    _refuse(options, ("trained_on", "ema", "fps"), "has an effect on checkpoints of LVDM and VideoCrafter only")
    if holds_pvdm(options.source):
        _convert_pvdm(options, dtype)
        return
    if options.num_attention_heads is not None:
        raise ValueError(
            "`--num-attention-heads` has an effect on checkpoints of PVDM only, but '"
            f"{options.source}' is none. Leave it out."
        )
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


def _convert_pvdm(options: ConvertOptions, dtype: torch.dtype | None) -> None:
    from diffusers_video.conversion.pvdm import convert_pvdm

    for flag, value in (("--variant", options.variant), ("--num-frames", options.num_frames)):
        if value is not None:
            raise ValueError(f"`{flag}` has no effect on checkpoints of PVDM, but is {value!r}. Leave it out.")
    heads = {} if options.num_attention_heads is None else {"num_attention_heads": options.num_attention_heads}
    with progress_bar("Models") as show:
        folders = convert_pvdm(options.source, options.output, dtype=dtype, progress=show, **heads)
    names = {"vae": "AutoencoderTriplane", "unet": "UNetTriplaneModel", "scheduler": "PairedDDIMScheduler"}
    ways = ", ".join(f'{names[folder]}.from_pretrained(..., subfolder="{folder}")' for folder in folders)
    typer.echo(f"Wrote {options.output}: load it with {ways}")


def _convert_lvdm(options: ConvertOptions, dtype: torch.dtype | None) -> None:
    from diffusers_video.conversion.lvdm import convert_lvdm

    _refuse(options, ("variant", "num_frames", "num_attention_heads"), "has no effect on checkpoints of LVDM")
    chosen = {"use_ema": options.ema, "fps": options.fps, "trained_on": options.trained_on}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    with progress_bar("Models") as show:
        folders = convert_lvdm(options.source, options.output, dtype=dtype, progress=show, **chosen)
    typer.echo(f"Wrote {options.output}: its folders are {', '.join(folders)}; load each by its from_pretrained")


def _refuse(options: ConvertOptions, names: tuple[str, ...], reason: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None:
            raise ValueError(f"`--{name.replace('_', '-')}` {reason}, but is {value!r}. Leave it out.")
