"""Published weights of I3D and C3D, in the forms in which they circulate, from a path or from the Hub."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..layers.weights import check_names, unpickle_tensors, whole_safetensors


FileKind = Literal["torchscript", "state dict", "safetensors", "npz"]
_COUNTER = "num_batches_tracked"  # of batch normalisations; some files have it, and evaluation does not read it
_CROP = slice(8, 8 + 112)  # of both sides of the mean clip, 128 x 171: what TGAN2 cuts out, though not its centre


class WeightFile(NamedTuple):
    """
    A file of weights on this machine.

    Args:
        path (`Path`): Where it lies.
        kind (`str`): `"torchscript"`, `"state dict"`, `"safetensors"` or `"npz"`.
        sha256 (`str`): Hash of its content, 64 hexadecimal digits.
    """

    path: Path
    kind: FileKind
    sha256: str


def find_weights(weights: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> WeightFile:
    """
    Find a file of weights, and fetch it where it is on the Hub.

    Args:
        weights (`str` or `Path`): A file, or `"user/name/file.pt"`: a file in a repository of the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        token (`str` or `bool`, *optional*): Hub token; `None` takes the stored one.

    Returns:
        [`WeightFile`]

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the Hub cannot be reached, or has no such file.
        ValueError: If it is no file of weights, or `revision` is given for a file on this machine.
    """
    path = Path(weights)
    parts = str(weights).split("/")
    is_address = len(parts) > 2 and parts[0] not in ("", ".", "..", "~") and not path.exists()
    if is_address:
        path = _fetch("/".join(parts[:2]), "/".join(parts[2:]), revision, token)
    elif revision is not None:
        raise ValueError(f"`revision` has no effect on {str(weights)!r}, which is on this machine. Leave it out.")
    if not path.is_file():
        raise FileNotFoundError(
            f"`weights` must be a file of weights or an address on the Hub such as 'user/name/file.pt', but"
            f" {str(weights)!r} does not exist."
        )
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return WeightFile(path, _tell_kind(path), sha256)


def _fetch(repo_id: str, name: str, revision: str | None, token: str | bool | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repo_id, name, revision=revision, token=token))
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"`weights` must be a file on this machine or on the Hub, but {name!r} of {repo_id!r} cannot be fetched"
            f" ({reason}). Check the name and the connection."
        ) from error


def _tell_kind(path: Path) -> FileKind:
    if path.suffix == ".safetensors":
        return "safetensors"
    if not zipfile.is_zipfile(path):
        return "state dict"  # as PyTorch wrote them until 1.5, or damaged, which reading it shows
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("constants.pkl") for name in names):
        return "torchscript"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "state dict"


def read_script(file: WeightFile) -> torch.jit.ScriptModule:
    """
    Load a TorchScript file.

    Args:
        file ([`WeightFile`]): Of this kind.

    Returns:
        `torch.jit.ScriptModule`: On the CPU, in evaluation mode.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        return torch.jit.load(str(file.path), map_location="cpu").eval()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"'{file.path}' must be a TorchScript file, but cannot be read ({reason}).") from error


def load_weights(module: nn.Module, file: WeightFile, mean: str | Path | None = None) -> None:
    """
    Put the weights of a file into a network.

    Args:
        module (`torch.nn.Module`): The network, changed in place.
        file ([`WeightFile`]): Of any kind but TorchScript.
        mean (`str` or `Path`, *optional*): The mean clip that belongs to an npz file of C3D.

    Raises:
        ValueError: If the file is damaged, or is not of this network; the message names what is missing or left over.
    """
    if file.kind == "npz":
        tensors = _from_chainer(_read_npz(file.path))
        if mean is not None:
            tensors["mean"] = _read_mean(Path(mean))
    elif file.kind == "safetensors":
        with whole_safetensors(file.path):
            tensors = load_file(file.path)
    else:
        tensors = unpickle_tensors(file.path, "cpu")
    wanted, found = _shapes(module.state_dict()), _shapes(tensors)
    check_names(wanted, found, type(module).__name__, str(file.path))
    module.load_state_dict({name: tensors[name].float() for name in wanted}, strict=False)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith(_COUNTER)}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{path}' must be an npz file of numbers, but cannot be read ({error}).") from error


def _from_chainer(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Rename `conv1a/W` and `conv1a/b` of Chainer to `conv1a.weight` and `conv1a.bias`; the axes are the same."""
    endings = {"W": "weight", "b": "bias"}
    tensors = {}
    for name, array in arrays.items():
        layer, _, ending = name.rpartition("/")
        tensors[f"{layer}.{endings[ending]}" if ending in endings else name] = torch.from_numpy(array)
    return tensors


def _read_mean(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"`mean` must be the npz file of the mean clip, but {str(path)!r} does not exist.")
    arrays = _read_npz(path)
    if "mean" not in arrays or arrays["mean"].shape[-4:] != (3, 16, 128, 171):
        found = {name: array.shape for name, array in arrays.items()}
        raise ValueError(
            f"`mean` must hold an array 'mean' of shape (3, 16, 128, 171), but {str(path)!r} holds {found}. Take"
            " `mean2.npz` of TGAN2."
        )
    return torch.from_numpy(arrays["mean"]).float().reshape(3, 16, 128, 171)[..., _CROP, _CROP]
