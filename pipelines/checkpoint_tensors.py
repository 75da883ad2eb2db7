"""What a weight file holds: names, shapes and types of tensors from its header alone, or the tensors themselves."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffusers_video.layers.weights import unpickle_tensors, whole_safetensors


SAFETENSORS_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
_INDEX = ".index"  # of the file that lists shards: `model.safetensors.index.json` or `.index.fp16.json`


@dataclass(frozen=True)
class TensorEntry:
    """
    One tensor of a weight file.

    Args:
        shape (`tuple[int, ...]`): Its shape.
        dtype (`str`): Its type as PyTorch calls it, such as `"float16"`; integer types may be of any name.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def num_elements(self) -> int:
        """Numbers in the tensor."""
        return math.prod(self.shape)

    @property
    def is_parameter(self) -> bool:
        """Whether it counts as a parameter; tables of positions and counters are of integer type and do not."""
        return "float" in self.dtype


@dataclass(frozen=True)
class TensorTable:
    """
    The tensors of one model, from one or several files.

    Args:
        entries (`dict[str, TensorEntry]`): Tensors by name.
        metadata (`dict[str, str]`): Metadata of a safetensors file; empty for others.
        files (`tuple[Path, ...]`): The files that were read.
    """

    entries: dict[str, TensorEntry]
    metadata: dict[str, str]
    files: tuple[Path, ...]

    def count_parameters(self, is_counted: Callable[[str], bool] = bool) -> int:
        """
        Count parameters.

        Args:
            is_counted (`Callable`, *optional*): Takes a tensor's name; counts all unless given.

        Returns:
            `int`: Sum of their elements.
        """
        return sum(e.num_elements for name, e in self.entries.items() if e.is_parameter and is_counted(name))

    def parameters_by_dtype(self) -> dict[str, int]:
        """
        Count parameters by type.

        Returns:
            `dict[str, int]`: Number of parameters of each type, the most frequent first.
        """
        counts: Counter[str] = Counter()
        for entry in self.entries.values():
            if entry.is_parameter:
                counts[entry.dtype] += entry.num_elements
        return dict(counts.most_common())

    def select(self, prefixes: Iterable[str]) -> "TensorTable":
        """
        Keep the tensors whose names begin in one of several ways.

        Args:
            prefixes (`Iterable[str]`): Beginnings of names.

        Returns:
            [`TensorTable`]: Of the same files.
        """
        kept = {name: entry for name, entry in self.entries.items() if name.startswith(tuple(prefixes))}
        return TensorTable(kept, self.metadata, self.files)


def read_tensor_table(path: Path) -> TensorTable:
    """
    Read names, shapes and types of the tensors in a file.

    Args:
        path (`Path`): A `.safetensors` file, of which the header is read, or a PyTorch file, which is unpickled
            without its weights and without running code (`weights_only`).

    Returns:
        [`TensorTable`]

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is truncated, damaged or no weight file.
    """
    _check_weight_file(path)
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def read_folder_table(folder: Path) -> TensorTable:
    """
    Read the table of the model whose weights lie in a folder, in one file or in shards.

    Args:
        folder (`Path`): Folder of a saved model. Of several variants the plain one is read, else the first by name.

    Returns:
        [`TensorTable`]

    Raises:
        FileNotFoundError: If the folder holds no weights, or a shard is missing.
        ValueError: If a file is truncated or damaged.
    """
    tables = [read_tensor_table(file) for file in find_weight_files(folder)]
    entries = {name: entry for table in tables for name, entry in table.entries.items()}
    metadata = tables[0].metadata if len(tables) == 1 else {}
    return TensorTable(entries, metadata, tuple(file for table in tables for file in table.files))


def find_weight_files(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """
    Find the files that hold the weights of the model in a folder: one, or several shards.

    Args:
        folder (`Path`): Folder of a saved model.
        variant (`str`, *optional*): Variant wanted, such as `"fp16"`; by default the plain one, else the first by
            name. safetensors come before pickles.

    Returns:
        `tuple[Path, ...]`: The files; a shard may be missing.

    Raises:
        FileNotFoundError: If the folder holds no weights, or none of the variant.
        ValueError: If the list of shards is damaged.
    """
    indexes = list(folder.glob(f"*{_INDEX}*.json"))
    singles = [path for path in folder.glob("*") if path.suffix in WEIGHT_SUFFIXES and "-of-" not in path.name]
    candidates = sorted([*indexes, *singles], key=_preference)
    if not candidates:
        raise FileNotFoundError(
            f"'{folder}' must hold the weights of a model, but holds none. Save or fetch it again."
        )
    if variant is not None:
        candidates = [path for path in candidates if f".{variant}." in path.name]
        if not candidates:
            raise FileNotFoundError(
                f"'{folder}' must hold the weights of variant {variant!r}, but holds none. Leave the variant out, or"
                " fetch it."
            )
    chosen = candidates[0]
    if chosen.suffix != ".json":
        return (chosen,)
    try:
        shards = sorted(set(json.loads(chosen.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{chosen}' must list the shards of a model, but cannot be read ({error!r}).") from error
    return tuple(folder / shard for shard in shards)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """
    Read the tensors of a weight file.

    Args:
        path (`Path`): A `.safetensors` file, or a PyTorch file, which is unpickled without running code
            (`weights_only`).

    Returns:
        `dict[str, torch.Tensor]`: Tensors by name, on the CPU and of the types they have in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is truncated, damaged or no weight file.
    """
    _check_weight_file(path)
    return _load_safetensors(path) if path.suffix == ".safetensors" else unpickle_tensors(path, "cpu")


def _preference(path: Path) -> tuple[bool, int, str]:
    # safetensors before pickles; a name without variant has the fewest dots.
    name = path.name.removesuffix(".json").replace(_INDEX, "")
    return (".safetensors" not in name, name.count("."), name)


def _check_weight_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"`path` must name a weight file, but '{path}' does not exist.")
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ValueError(f"`path` must end in one of {WEIGHT_SUFFIXES}, but is '{path}'.")


def _read_safetensors(path: Path) -> TensorTable:
    with whole_safetensors(path), safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        entries = {
            name: TensorEntry(tuple(part.get_shape()), SAFETENSORS_TYPES.get(part.get_dtype(), part.get_dtype()))
            for name, part in slices.items()
        }
        return TensorTable(entries, file.metadata() or {}, (path,))


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with whole_safetensors(path):
        return load_file(path)


def _read_pickle(path: Path) -> TensorTable:
    entries = {
        name: TensorEntry(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in unpickle_tensors(path, "meta").items()
    }
    return TensorTable(entries, {}, (path,))
