"""Small training sets for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from diffusers_video.data.plan import ClipPlan
from diffusers_video.data.planning import plan_clips
from diffusers_video.data.settings import PlanSettings
from diffusers_video.video_io import write_video
from tests.video_files import GROUPS_OF_12, encode, moving_frames


VARIABLE = tuple(sum([2, 3, 4, 3, 5][: k % 5]) + 17 * (k // 5) for k in range(40))  # uneven steps, in 1/30 s
ODD_RATE = {"time_base": Fraction(1001, 30000), "fps": Fraction(30000, 1001)}
MAKERS: dict[str, Callable[[Path], Path]] = {
    "constant.mp4": lambda path: encode(path, options=GROUPS_OF_12),
    "variable.mkv": lambda path: encode(path, VARIABLE, options=GROUPS_OF_12),
    "odd.mp4": lambda path: encode(path, options=GROUPS_OF_12, **ODD_RATE),
    "late.mp4": lambda path: encode(path, range(45, 85), options=GROUPS_OF_12),
}


def write_small(path: Path, num_frames: int = 8, *, size: tuple[int, int] = (48, 64), fps: int = 8) -> Path:
    """Write a moving video of `size` (height, width); a `.gif` is made fastest."""
    return write_video(moving_frames(num_frames, *size), path, fps)


def write_jsonl(folder: Path, captions: Mapping[str, str]) -> Path:
    """Write `metadata.jsonl` for files and their captions."""
    rows = [{"file_name": name, "text": text} for name, text in captions.items()]
    path = folder / "metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_plan(folder: Path, buckets: str | Sequence[str] = "32x24@4", **settings: object) -> ClipPlan:
    """Plan the clips of a folder."""
    return plan_clips(folder, PlanSettings(buckets=buckets, **settings))
