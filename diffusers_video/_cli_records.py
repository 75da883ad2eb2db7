"""
Results of a run on disk: what was kept of each video, so that a stopped run goes on, and scores as JSON.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class RecordFile:
    """
    One line of JSON for each video, behind a line that says what the videos follow from.

    Args:
        path (`Path`, *optional*): The file; without one, records are kept in memory alone.
        identity (`Mapping[str, Any]`): What the videos follow from, as plain JSON.

    Raises:
        ValueError: If the file is that of other videos, or no such file.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path, self.records = path, {}
        if path is None:
            return
        first = json.dumps({"identity": dict(identity)}, sort_keys=True)
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        whole = lines[:-1]  # what a stop left behind the last line break is half a line
        if whole and whole[0] != first:
            raise ValueError(
                f"`--records` {path} holds what was seen of other videos: it begins with {whole[0][:300]}, but this"
                f" run is {first}. Name another file, or delete it."
            )
        for line in whole[1:]:
            record = json.loads(line)
            self.records[record.pop("number")] = record
        _write_text(path, "".join(f"{line}\n" for line in whole or [first]))

    def keep(self, number: int, record: Mapping[str, Any]) -> None:
        """
        Keep a record, at once.

        Args:
            number (`int`): Number of the video.
            record (`Mapping[str, Any]`): Plain JSON.
        """
        self.records[number] = dict(record)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"number": number, **record}) + "\n")


def hash_weights(folders: Sequence[Path]) -> str:
    """
    Compute what weights are recognised by.

    Args:
        folders (`Sequence[Path]`): With `.safetensors` files, in folders of their own or not.

    Returns:
        `str`: SHA-256 of the names and contents of all of them.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.safetensors")):
            digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def write_scores(path: Path, scores: Mapping[str, Any]) -> None:
    """
    Write a file of JSON for people and programs, whole or not at all.

    Args:
        path (`Path`): The file; what stands there is replaced.
        scores (`Mapping[str, Any]`): Its contents; numbers that are not finite become `null`.
    """
    _write_text(path, json.dumps(_finite(scores), indent=2, allow_nan=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    from diffusers_video.data.files import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
