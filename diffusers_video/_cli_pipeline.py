"""
What the commands that sample from a pipeline have in common: a look at it before it is loaded, and its placement.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusers_video._cli_command import choose_device
from diffusers_video._cli_options import SCHEDULERS, RunOptions, SamplingOptions


if TYPE_CHECKING:
    from fractions import Fraction
    from pathlib import Path

    import torch
    from diffusers import DiffusionPipeline

    from diffusers_video.video_io import VideoWriter


RANDOM_SEEDS = 2**32
SIDECAR = "video.json"  # says the rate of a folder of images
UNKNOWN_BLOCK_COUNT = 4  # of every autoencoder of Stable Diffusion: 8 pixels to a latent


def choose_seed(options: RunOptions) -> int:
    """
    Choose the seed of a run.

    Args:
        options ([`RunOptions`]): With `--seed`, or without.

    Returns:
        `int`: At least 0.
    """
    return secrets.randbelow(RANDOM_SEEDS) if options.seed is None else options.seed


def choose_run_device(options: RunOptions) -> torch.device:
    """
    Find the device to run on.

    Args:
        options ([`RunOptions`]): With `--device` and `--offload`.

    Returns:
        `torch.device`

    Raises:
        ValueError: If it is not on this machine, or nothing can be offloaded from it.
    """
    device = choose_device(options.device)
    if device.type == "cpu" and options.offload != "none":
        raise ValueError(
            f"`--offload` {options.offload} has no effect on the CPU. Leave it out, or name an accelerator."
        )
    return device


def open_output(options: RunOptions, fps: Fraction | float | str) -> VideoWriter:
    """
    Begin the file or folder that a run writes; nothing is written before there are frames.

    Args:
        options ([`RunOptions`]): With `--output`, `--crf` and `--overwrite`.
        fps (`Fraction`, `float` or `str`): Frames per second.

    Returns:
        [`VideoWriter`]

    Raises:
        FileExistsError: If something stands there that is not to be replaced.
        ValueError: If a value does not fit the kind of file.
    """
    from diffusers_video.video_io import VideoWriter

    if options.output.is_file() and not options.overwrite:
        raise FileExistsError(f"`--output` {options.output} exists. Choose another name, or add --overwrite.")
    return VideoWriter(options.output, fps, crf=options.crf, overwrite=options.overwrite)


def has_fps(path: Path) -> bool:
    """
    Tell whether a video says its rate, as all do but some folders of images.

    Args:
        path (`Path`): The video.

    Returns:
        `bool`
    """
    return not path.is_dir() or (path / SIDECAR).is_file()


def check_name(flag: str, name: str) -> None:
    """
    Refuse a path to a model that does not exist.

    Args:
        flag (`str`): The option that names it.
        name (`str`): A folder, a file or a Hub id.

    Raises:
        FileNotFoundError: If it is a path, and nothing is there.
    """
    from diffusers_video.pipelines.image_models import is_single_file

    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or is_single_file(name)
    if is_path and "://" not in name and not os.path.exists(name):
        raise FileNotFoundError(f"`{flag}` must be a folder, a file or a Hub id, but {name!r} does not exist.")


def check_scheduler_name(options: RunOptions) -> None:
    """
    Refuse a scheduler that needs a package which is missing.

    Args:
        options ([`RunOptions`]): With `--scheduler`, or without.

    Raises:
        ImportError: If it does.
    """
    import diffusers

    if options.scheduler is not None:
        getattr(diffusers, SCHEDULERS[options.scheduler])()


def read_index(flag: str, name: str, load: Mapping[str, Any]) -> dict[str, Any]:
    """
    Read what a saved pipeline consists of, before weights are fetched and loaded.

    Args:
        flag (`str`): The option that names it.
        name (`str`): Folder or Hub id.
        load (`Mapping[str, Any]`): Arguments of the loaders.

    Returns:
        `dict[str, Any]`: Its `model_index.json`.

    Raises:
        FileNotFoundError: If it is a folder without one.
        ValueError: If an option of the Hub is given for a folder.
    """
    from diffusers import DiffusionPipeline

    where = _of_hub(load)
    if where and os.path.exists(name):
        raise ValueError(f"`--{next(iter(where))}` has no effect on {name!r}, which is on this machine. Leave it out.")
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "model_index.json")):
        raise FileNotFoundError(f"`{flag}` must be a saved pipeline, but the folder {name!r} has no model_index.json.")
    return DiffusionPipeline.load_config(name, **where)


def read_pixels_per_latent(name: str, load: Mapping[str, Any]) -> int:
    """
    Read what height and width of a saved pipeline's videos are multiples of.

    Args:
        name (`str`): Folder or Hub id.
        load (`Mapping[str, Any]`): Arguments of the loaders.

    Returns:
        `int`: A power of 2.
    """
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.load_config(name, subfolder="vae", **_of_hub(load))
    return 2 ** (len(vae.get("block_out_channels", range(UNKNOWN_BLOCK_COUNT))) - 1)


def check_sizes(
    options: SamplingOptions, pixels_per_latent: int, given: tuple[int, int] | None = None, of: str = ""
) -> None:
    """
    Refuse a height or width that the autoencoder cannot halve often enough.

    Args:
        options ([`SamplingOptions`]): With `--height` and `--width`, or without.
        pixels_per_latent (`int`): What they must be multiples of.
        given (`tuple[int, int]`, *optional*): Height and width of given frames, which count where there is no option.
        of (`str`, *optional*): What to call the given frames.

    Raises:
        ValueError: If one is not.
    """
    from diffusers_video.pipelines.checks import check_integer

    for name, own in zip(("height", "width"), given or (None, None), strict=True):
        asked = getattr(options, name)
        if asked is not None:
            check_integer(f"--{name}", asked, multiple_of=pixels_per_latent)
        elif own is not None:
            check_integer(f"--{name} of {of}", own, multiple_of=pixels_per_latent)


def choose_dtype(options: RunOptions, device: torch.device) -> torch.dtype:
    """
    Choose the type of the weights.

    Args:
        options ([`RunOptions`]): With `--dtype`, or without.
        device (`torch.device`): Where they run.

    Returns:
        `torch.dtype`
    """
    import torch

    return getattr(torch, options.dtype or ("float16" if device.type == "cuda" else "float32"))


def place_pipeline(pipeline: DiffusionPipeline, options: RunOptions, device: torch.device) -> DiffusionPipeline:
    """
    Give a loaded pipeline its scheduler and its place.

    Args:
        pipeline (`DiffusionPipeline`): As loaded.
        options ([`RunOptions`]): With `--scheduler` and `--offload`.
        device (`torch.device`): Where it runs.

    Returns:
        `DiffusionPipeline`: It.
    """
    import diffusers

    if options.scheduler is not None:
        scheduler_class = getattr(diffusers, SCHEDULERS[options.scheduler])
        pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config)
    if options.offload == "none":
        return pipeline.to(device)
    if options.offload == "group":
        pipeline.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
    elif options.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.enable_model_cpu_offload(device=device)
    return pipeline


def _of_hub(load: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in load.items() if key in ("revision", "token")}
