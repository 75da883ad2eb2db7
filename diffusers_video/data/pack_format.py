"""The files of a packed set: an index, and shards that say of themselves what they hold."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


INDEX_NAME = "index.json"
SHARD_SUFFIX = ".safetensors"
PACK_VERSION = 1


def shard_name(number: int) -> str:
    """
    Name a shard.

    Args:
        number (`int`): Which one, from 0.

    Returns:
        `str`
    """
    return f"shard-{number:05}{SHARD_SUFFIX}"


def read_index(folder: Path) -> dict[str, Any]:
    """
    Read the index of a packed set.

    Args:
        folder (`Path`): Where it lies.

    Returns:
        `dict`: `settings`, `fingerprint`, `is_complete`; of a complete one also `shards`, `clips` and `skipped`.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise ValueError(
            f"`folder` must hold a packed set, but {folder} has no {INDEX_NAME}. Pack it by `pack_clips`."
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if {"settings", "fingerprint", "is_complete"} <= index.keys():
            return index
    except (ValueError, AttributeError):
        pass  # the error below says it
    raise ValueError(f"`folder` must hold a packed set, but {path} is damaged. Delete the folder and pack it again.")


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """
    A CRC-32 of the values of tensors.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Contiguous, on the CPU.

    Returns:
        `int`
    """
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), value)
    return value


def read_notes(path: Path) -> dict[str, Any]:
    """
    Read what a shard says of itself.

    Args:
        path (`Path`): The shard.

    Returns:
        `dict`: `fingerprint`, `clips` and `skipped`.

    Raises:
        ValueError: If it is damaged; the text names it.
    """
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})["notes"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"Shard {path} is damaged or missing ({error}).") from error
