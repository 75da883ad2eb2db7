"""Scores of the checker."""

import dataclasses

import pytest

from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.data.shapes_check import SeenClip
from diffusers_video.metrics.shapes_scores import score_shapes


DATASET = ShapesDataset(4, seed=2)
SCENES = [DATASET.scene(index) for index in range(4)]


def seen_as(index: int, roughness: float = 0.0, **changes: str | None) -> SeenClip:
    item = SCENES[index].objects[0]
    names = {"colour": item.colour, "shape": item.shape, "motion": item.motion, **changes}
    return SeenClip(
        colours=(names["colour"],) * 3, shapes=(names["shape"],) * 3, motion=names["motion"], roughness=roughness
    )


def test_each_part_is_counted_by_itself_and_all_together() -> None:
    seen = [
        seen_as(0, 0.1),
        seen_as(1, 0.3, colour=None),
        seen_as(2, 0.2, shape=None),
        seen_as(3, float("nan"), motion=None),
    ]
    scores = dataclasses.asdict(score_shapes(seen, SCENES))
    assert scores.pop("roughness") == pytest.approx(0.2)
    assert scores == {"num_clips": 4, "colour": 0.75, "shape": 0.75, "motion": 0.75, "together": 0.25}


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="`seen` and `scenes` must be equally many"):
        score_shapes([seen_as(0)], SCENES)
    with pytest.raises(ValueError, match="`scenes` must have one object each"):
        score_shapes([seen_as(0)], [ShapesDataset(1, num_objects=2).scene(0)])
