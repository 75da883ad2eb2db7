"""How often clips of the `shapes` set show what they should: the scores of the checker, and how sure they are."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.shapes import Scene
from ..data.shapes_check import SeenClip


PARTS = ("colour", "shape", "motion")
NORMAL_95 = 1.959964  # standard deviations within which 95 % of a normal distribution lie
LEAST_KEPT = 0.95  # part of the frames in which an object that is kept has its colour and shape
LONGEST_LOSS = 8  # frames one after the other in which it may lack them
NOTHING = "nothing"  # what is seen where nothing is

Counts = dict[str, float | int]


@dataclass(frozen=True, kw_only=True)
class ShapesScores:
    """
    Parts of a set of clips, in [0, 1], unless said otherwise.

    Args:
        num_clips (`int`): Size of the set.
        colour (`float`): Clips of the right colour: that of most of their frames.
        shape (`float`): Clips of the right shape, likewise.
        motion (`float`): Clips of the right motion.
        together (`float`): Clips of which all three are right.
        roughness (`float`): Mean of [`SeenClip`]'s roughness over the clips in which an object is seen, as a part of
            the picture's shorter side.
        frame_colour (`float`): Frames of the right colour.
        frame_shape (`float`): Frames of the right shape.
        kept (`float`): Clips whose object is kept throughout, see [`is_kept`].
        intervals (`dict[str, tuple[float, float]]`): Where each part of clips lies with 95 % confidence, see
            [`wilson_interval`].
        breakdown (`dict[str, dict[str, dict]]`): For each colour, shape and motion that was asked for: how many clips,
            and which parts of them are right.
        seen_motions (`dict[str, dict[str, int]]`): For each motion that was asked for, how often which one is seen.
    """

    num_clips: int
    colour: float
    shape: float
    motion: float
    together: float
    roughness: float
    frame_colour: float
    frame_shape: float
    kept: float
    intervals: dict[str, tuple[float, float]]
    breakdown: dict[str, dict[str, Counts]]
    seen_motions: dict[str, dict[str, int]]


def score_shapes(seen: Sequence[SeenClip], scenes: Sequence[Scene]) -> ShapesScores:
    """
    Compare what clips show with what was asked for.

    Args:
        seen (`Sequence[SeenClip]`): What [`read_clip`] found, at least one.
        scenes (`Sequence[Scene]`): What it should be, one object each.

    Returns:
        [`ShapesScores`]

    Raises:
        ValueError: If the numbers differ, there are none, or a scene has two objects.
    """
    if not seen or len(seen) != len(scenes):
        raise ValueError(
            f"`seen` and `scenes` must be equally many, at least one, but are {len(seen)}, {len(scenes)}."
        )
    if any(len(scene.objects) != 1 for scene in scenes):
        raise ValueError("`scenes` must have one object each, which is all that the checker can follow.")
    asked = [scene.objects[0] for scene in scenes]
    right = np.array(
        [
            [getattr(clip, part) == getattr(item, part) for part in PARTS]
            for clip, item in zip(seen, asked, strict=True)
        ]
    )
    kept = [is_kept(clip, item.colour, item.shape) for clip, item in zip(seen, asked, strict=True)]
    breakdown = {}
    for part in PARTS:
        names = np.array([getattr(item, part) for item in asked])
        breakdown[part] = {str(name): _count_parts(right[names == name]) for name in np.unique(names)}
    motions: dict[str, Counter] = {item.motion: Counter() for item in asked}
    for clip, item in zip(seen, asked, strict=True):
        motions[item.motion][clip.motion or NOTHING] += 1
    measured = [clip.roughness for clip in seen if np.isfinite(clip.roughness)]
    total = _count_parts(right)
    return ShapesScores(
        **total,
        roughness=float(np.mean(measured)) if measured else float("nan"),
        frame_colour=_part_of_frames(seen, asked, "colour"),
        frame_shape=_part_of_frames(seen, asked, "shape"),
        kept=float(np.mean(kept)),
        intervals={
            **{name: wilson_interval(total[name], len(seen)) for name in (*PARTS, "together")},
            "kept": wilson_interval(float(np.mean(kept)), len(seen)),
        },
        breakdown=breakdown,
        seen_motions={name: dict(counts.most_common()) for name, counts in motions.items()},
    )


def is_kept(clip: SeenClip, colour: str, shape: str) -> bool:
    """
    Tell whether an object stays what it is through a clip.

    Args:
        clip (`SeenClip`): What [`read_clip`] found.
        colour (`str`): Its colour.
        shape (`str`): Its shape.

    Returns:
        `bool`: Whether 95 % of the frames show this colour and shape, and never more than 8 frames running do not.
    """
    is_right = [pair == (colour, shape) for pair in zip(clip.colours, clip.shapes, strict=True)]
    longest = run = 0
    for frame_is_right in is_right:
        run = 0 if frame_is_right else run + 1
        longest = max(longest, run)
    return sum(is_right) >= LEAST_KEPT * len(is_right) and longest <= LONGEST_LOSS


def wilson_interval(part: float, total: int) -> tuple[float, float]:
    """
    Say where a part of all cases lies with 95 % confidence, when it was counted in a few of them.

    Args:
        part (`float`): Part of the counted cases, in [0, 1].
        total (`int`): How many were counted, at least 1.

    Returns:
        `tuple[float, float]`: Lowest and highest, in [0, 1].

    Raises:
        ValueError: If nothing was counted, or `part` is out of its range.

    Source:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if total < 1 or not 0 <= part <= 1:
        raise ValueError(
            f"`part` must be in [0, 1] and `total` at least 1, but they are {part} and {total}. Count something."
        )
    spread = NORMAL_95**2 / total
    middle = (part + spread / 2) / (1 + spread)
    reach = math.sqrt(part * (1 - part) * spread + spread**2 / 4) / (1 + spread)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def _count_parts(right: np.ndarray) -> Counts:
    parts = dict(zip(PARTS, right.mean(0).tolist(), strict=True))
    return {"num_clips": len(right), **parts, "together": float(right.all(1).mean())}


def _part_of_frames(seen: Sequence[SeenClip], asked: Sequence, part: str) -> float:
    right = [
        name == getattr(item, part)
        for clip, item in zip(seen, asked, strict=True)
        for name in getattr(clip, f"{part}s")
    ]
    return float(np.mean(right))
