"""Checkpoints of PVDM, as its code saves them -> autoencoder, denoiser and scheduler of this library."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..hub import complete_or_absent
from ..layers.triplane import TriplaneSize
from ..models.autoencoder_triplane import AutoencoderTriplane
from ..models.unet_triplane import UNetTriplaneModel
from ..pipelines.checkpoint_tensors import WEIGHT_SUFFIXES, read_tensor_table, read_tensors
from ..schedulers.scheduling_paired_ddim import PairedDDIMScheduler
from . import pvdm_original
from .weights import build_model


Progress = Callable[[int, int], None]

RELEASED_SIZE = TriplaneSize(16, 32, 32)  # of the latents of 16 frames of 256x256
AUTOENCODER, UNET = "vae", "unet"  # kinds of file, and the folders they are saved in
_EMA = "ema"  # in the names of the trainer's files with averaged weights


def convert_pvdm(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    dtype: torch.dtype | None = None,
    num_attention_heads: int = pvdm_original.NUM_HEADS,
    progress: Progress | None = None,
) -> list[str]:
    """
    Convert checkpoints and save them, each in a folder of its own: `vae`, `unet` and, beside it, `scheduler`.

    Args:
        source (`str` or `os.PathLike`): A file with an autoencoder or a U-Net, or a folder with one of each. Of a
            U-Net's plain and averaged weights the averaged ones are taken, whose file has "ema" in its name.
        output (`str` or `os.PathLike`): Folder to write, new or empty. It appears when it is complete.
        dtype (`torch.dtype`, *optional*): Floating-point type of the models; by default that of the checkpoint.
        num_attention_heads (`int`, *optional*, defaults to 8): Attention heads of the U-Net, which its weights do not
            tell; the released ones have 8.
        progress (`Callable[[int, int], None]`, *optional*): Called with the models that are done, and their number.

    Returns:
        `list[str]`: Names of the folders in `output`.

    Raises:
        FileExistsError: If there is something at `output`.
        FileNotFoundError: If `source` does not exist.
        ValueError: If it holds something else, several files of a kind, or weights are missing or left over.
    """
    output = Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise FileExistsError(f"`output` must be a new or empty folder, but '{output}' exists. Choose another name.")
    files = find_pvdm_files(source)
    models: dict[str, nn.Module] = {}
    size = None
    for kind, path in files.items():
        if kind == AUTOENCODER:
            models[kind] = load_pvdm_autoencoder(path)
            size = models[kind].latent_size
        else:
            models[kind] = load_pvdm_unet(path, num_attention_heads=num_attention_heads, latent_size=size)
        if dtype is not None:
            models[kind] = nn.Module.to(models[kind], dtype=dtype)
        if progress is not None:
            progress(len(models), len(files))
    parts = {**models, **({"scheduler": PairedDDIMScheduler()} if UNET in models else {})}
    with complete_or_absent(output) as folder:
        for name, part in parts.items():
            part.save_pretrained(Path(folder) / name)
    return list(parts)


def find_pvdm_files(source: str | os.PathLike) -> dict[str, Path]:
    """
    Find the files of PVDM's models.

    Args:
        source (`str` or `os.PathLike`): A weight file, or a folder with some.

    Returns:
        `dict[str, Path]`: `"vae"` for the autoencoder's and `"unet"` for the U-Net's, in this order; one may be
        missing.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If there is none, or several of a kind.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"`source` must be a file or folder of PVDM's weights, but '{source}' does not exist.")
    found: dict[str, list[Path]] = {AUTOENCODER: [], UNET: []}
    for path in [source] if source.is_file() else sorted(source.iterdir()):
        kind = pvdm_kind(path)
        if kind is not None:
            found[kind].append(path)
    averaged = [path for path in found[UNET] if _EMA in path.name.lower()]
    found[UNET] = averaged or found[UNET]
    for kind, candidates in found.items():
        if len(candidates) > 1:
            names = ", ".join(repr(path.name) for path in candidates)
            raise ValueError(
                f"`source` must hold one file of a kind, but '{source}' holds {len(candidates)} for '{kind}': {names}."
                " Pass the file itself, or a folder with the ones you mean."
            )
    files = {kind: candidates[0] for kind, candidates in found.items() if candidates}
    if not files:
        raise ValueError(
            f"`source` must be a file or folder with an autoencoder or a U-Net of PVDM, but '{source}' holds none."
            f" Files end in one of {WEIGHT_SUFFIXES}; PVDM's trainer writes model_last.pth and ema_model_<step>.pth."
        )
    return files


def holds_pvdm(source: str | os.PathLike) -> bool:
    """
    Tell whether something is what [`convert_pvdm`] takes.

    Args:
        source (`str` or `os.PathLike`): Anything.

    Returns:
        `bool`: `True` for a weight file of PVDM, and for a folder of such files that is no saved pipeline.

    Raises:
        ValueError: If a weight file is damaged.
    """
    source = Path(source)
    if source.is_dir():
        return not (source / "model_index.json").exists() and any(map(pvdm_kind, source.iterdir()))
    return source.is_file() and pvdm_kind(source) is not None


def pvdm_kind(path: Path) -> str | None:
    """
    Tell from the names of its weights what a file holds.

    Args:
        path (`Path`): A weight file.

    Returns:
        `str`, *optional*: `"vae"`, `"unet"`, or `None` for something else, such as the state of an optimizer.

    Raises:
        ValueError: If it is damaged.
    """
    if path.suffix not in WEIGHT_SUFFIXES or not path.is_file():
        return None
    names = pvdm_original.strip_prefixes(read_tensor_table(path).entries).values()
    if pvdm_original.AUTOENCODER_MARK in names:
        return AUTOENCODER
    is_unet = pvdm_original.UNET_MARK in names and any(name.startswith("output_attns.") for name in names)
    return UNET if is_unet else None


def load_pvdm_autoencoder(source: str | os.PathLike) -> AutoencoderTriplane:
    """
    Make an autoencoder of a checkpoint of PVDM.

    Args:
        source (`str` or `os.PathLike`): The file. Pickles are read without running code.

    Returns:
        [`AutoencoderTriplane`]: On the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else, or weights are missing or left over.
    """
    tensors = _read(Path(source), AUTOENCODER)
    try:
        options = pvdm_original.autoencoder_options(_shapes(tensors))
    except KeyError as error:
        raise _incomplete(source, error) from error
    weights = pvdm_original.autoencoder_weights(tensors, options["patch_size"])
    return build_model(partial(AutoencoderTriplane, **options), weights, str(source))


def load_pvdm_unet(
    source: str | os.PathLike,
    *,
    num_attention_heads: int = pvdm_original.NUM_HEADS,
    latent_size: tuple[int, int, int] | None = None,
) -> UNetTriplaneModel:
    """
    Make a denoiser of a checkpoint of PVDM.

    Args:
        source (`str` or `os.PathLike`): The file, with plain or averaged weights. Pickles are read without running
            code.
        num_attention_heads (`int`, *optional*, defaults to 8): Attention heads, which the weights do not tell; the
            released ones have 8. Another number gives another model without any error.
        latent_size (`tuple[int, int, int]`, *optional*): Frames, height and width of the latents; by default those of
            16 frames of 256x256 pixels, (16, 32, 32).

    Returns:
        [`UNetTriplaneModel`]: On the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else, or weights are missing or left over.
    """
    tensors = _read(Path(source), UNET)
    size = RELEASED_SIZE if latent_size is None else TriplaneSize(*latent_size)
    zeros = tensors.get(pvdm_original.ZEROS)
    if zeros is not None and zeros.shape[-1] != sum(size.lengths):
        raise ValueError(
            f"`latent_size`={tuple(size)} has {sum(size.lengths)} positions, but '{source}' was made for"
            f" {zeros.shape[-1]}. Pass the frames, height and width of its latents, or convert it in one folder with"
            " its autoencoder."
        )
    try:
        options = pvdm_original.unet_options(_shapes(tensors), num_attention_heads, size)
    except KeyError as error:
        raise _incomplete(source, error) from error
    build = partial(UNetTriplaneModel, **options)
    with torch.device("meta"):
        build()  # refuses impossible heads before weights are cut by them
    return build_model(build, pvdm_original.unet_weights(tensors, num_attention_heads), str(source))


def _read(path: Path, kind: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"`source` must be a weight file, but '{path}' does not exist.")
    if pvdm_kind(path) != kind:
        wanted = {AUTOENCODER: "an autoencoder", UNET: "a U-Net"}[kind]
        raise ValueError(
            f"`source` must hold {wanted} of PVDM in one file ending in one of {WEIGHT_SUFFIXES}, but '{path}' does"
            " not. Pass the file that PVDM's code saved."
        )
    tensors = read_tensors(path)
    names = pvdm_original.strip_prefixes(tensors)
    return {names[name]: tensor for name, tensor in tensors.items()}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _incomplete(source: str | os.PathLike, error: KeyError) -> ValueError:
    return ValueError(f"'{source}' must hold a whole model of PVDM, but lacks the weight {error}. Fetch it again.")
