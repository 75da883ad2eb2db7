"""Reading weight files without running code, and comparing what they hold with what a model wants."""

import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor


NAMES_SHOWN = 3


@contextmanager
def whole_safetensors(path: Path) -> Iterator[None]:
    """
    Say which file it is that safetensors cannot read.

    Args:
        path (`Path`): The file that is read in the `with` block.

    Raises:
        ValueError: If it is truncated or no such file.
    """
    try:
        yield
    except SafetensorError as error:
        raise ValueError(
            f"'{path}' must be a whole safetensors file, but cannot be read ({error}). Save or download it again."
        ) from error


def unpickle_tensors(path: Path, device: str) -> dict[str, Tensor]:
    """
    Read the tensors of a PyTorch file without running code (`weights_only`).

    Args:
        path (`Path`): A state dict, or a checkpoint that holds one as `state_dict`.
        device (`str`): Where tensors go; on `"meta"` they have no values.

    Returns:
        `dict[str, torch.Tensor]`: Tensors by name; what is no tensor is passed over.

    Raises:
        ValueError: If the file is damaged, or holds more than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"'{path}' must be a PyTorch file that holds tensors only, but cannot be read ({reason}). Convert it to"
            " safetensors."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    items = content.items() if isinstance(content, dict) else ()
    return {name: tensor for name, tensor in items if isinstance(tensor, Tensor)}


def check_names(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], class_name: str, origin: str
) -> None:
    """
    Refuse weights that are not those of a model.

    Args:
        wanted (`Mapping[str, tuple[int, ...]]`): Shapes of the weights of the model, by name.
        found (`Mapping[str, tuple[int, ...]]`): Shapes of the weights at hand.
        class_name (`str`): Class of the model, for the message.
        origin (`str`): What the weights were read from, likewise.

    Raises:
        ValueError: If weights are missing, left over or of another shape.
    """
    misfits = {
        "lacks": wanted.keys() - found.keys(),
        "has left over": found.keys() - wanted.keys(),
        "has in another shape": {name for name in wanted.keys() & found.keys() if wanted[name] != found[name]},
    }
    parts = [f"{verb} {_show_names(names)}" for verb, names in misfits.items() if names]
    if parts:
        raise ValueError(
            f"'{origin}' must hold the weights of a {class_name} and no others, but it {', and '.join(parts)}. Fetch"
            " it again, or convert the checkpoint as it was published."
        )


def _show_names(names: Iterable[str]) -> str:
    names = sorted(names)
    more = len(names) - NAMES_SHOWN
    return ", ".join(map(repr, names[:NAMES_SHOWN])) + (f" and {more} more" if more > 0 else "")
