"""Reasons why a part of a training set is not used, so that nothing is left out in silence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeVar


# Reasons: about whole files, ...
NOT_A_VIDEO = "not a video"
NOT_LISTED = "not listed"
MISSING = "missing file"
DUPLICATE = "duplicate"
UNREADABLE = "unreadable"
TOO_SMALL = "too small"
TOO_SHORT = "too short"
# ... and about frames of a file that gives clips.
OUTSIDE_SPAN = "outside span"
REPEATS = "would repeat frames"
OVER_LIMIT = "over clips_per_video"
TAIL = "tail shorter than a clip"
BETWEEN_CLIPS = "between clips"
RESAMPLED = "left out by resampling"


@dataclass(frozen=True, slots=True)
class UnusedPart:
    """
    Something in a training set that no clip is made of.

    Args:
        name (`str`): The file, as the set calls it.
        reason (`str`): One of the reasons above.
        explanation (`str`): The numbers behind it, and what would change it.
        start (`Fraction`, *optional*): Where the part begins, in seconds on the file's clock; `None`: all of it.
        end (`Fraction`, *optional*): Where it ends.
        num_frames (`int`, *optional*): Frames of the file in it; `None` if they cannot be counted.
    """

    name: str
    reason: str
    explanation: str
    start: Fraction | None = None
    end: Fraction | None = None
    num_frames: int | None = None


class Named(Protocol):
    """A row of a list of videos."""

    path: os.PathLike
    name: str


Entry = TypeVar("Entry", bound=Named)


def find_unavailable(entries: Sequence[Entry]) -> tuple[list[Entry], list[UnusedPart]]:
    """
    Take out what names no file, or a file that was named before.

    Args:
        entries (`Sequence` of objects with `path` and `name`): Rows of a list.

    Returns:
        `tuple` of the rows that are left, in order, and [`UnusedPart`]s for the others.
    """
    left, unused, first_names = [], [], {}
    for entry in entries:
        place = os.path.realpath(entry.path)
        if not os.path.exists(place):
            unused.append(UnusedPart(entry.name, MISSING, f"{entry.path} does not exist"))
        elif place in first_names:
            unused.append(UnusedPart(entry.name, DUPLICATE, f"the same file as '{first_names[place]}' before it"))
        else:
            first_names[place] = entry.name
            left.append(entry)
    return left, unused
