"""Write small files whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    Name a temporary file that takes the place of another one when the block ends without an error.

    Args:
        path (`Path`): The file to be made.

    Returns:
        `Path` to write to, in a `with` block. It is deleted if the block raises.
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """
    Write a JSON file.

    Args:
        path (`Path`): Where to; its folder must exist.
        content (`Any`): JSON values.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def fingerprint(content: Any) -> str:
    """
    A hash of JSON values that tells whether two of them are equal.

    Args:
        content (`Any`): JSON values; dicts are equal in any order.

    Returns:
        `str`: 64 hexadecimal digits.

    Raises:
        TypeError: If `content` holds something else.
        ValueError: If it holds NaN or infinity.
    """
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
