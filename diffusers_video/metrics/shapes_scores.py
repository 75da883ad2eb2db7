"""How often clips of the `shapes` set show what they should: the scores of the checker."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.shapes import Scene
from ..data.shapes_check import SeenClip


@dataclass(frozen=True, kw_only=True)
class ShapesScores:
    """
    Parts of a set of clips, in [0, 1], unless said otherwise.

    Args:
        num_clips (`int`): Size of the set.
        colour (`float`): Clips of the right colour.
        shape (`float`): Clips of the right shape.
        motion (`float`): Clips of the right motion.
        together (`float`): Clips of which all three are right.
        roughness (`float`): Mean of [`SeenClip`]'s roughness over the clips in which an object is seen, as a part of
            the picture's shorter side.
    """

    num_clips: int
    colour: float
    shape: float
    motion: float
    together: float
    roughness: float


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
            (clip.colour == item.colour, clip.shape == item.shape, clip.motion == item.motion)
            for clip, item in zip(seen, asked, strict=True)
        ]
    )
    colour, shape, motion = right.mean(0).tolist()
    measured = [clip.roughness for clip in seen if np.isfinite(clip.roughness)]
    return ShapesScores(
        num_clips=len(seen),
        colour=colour,
        shape=shape,
        motion=motion,
        together=float(right.all(1).mean()),
        roughness=float(np.mean(measured)) if measured else float("nan"),
    )
