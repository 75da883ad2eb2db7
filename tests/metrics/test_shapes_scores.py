"""Scores of the checker."""

import pytest
from scipy.stats import binomtest

from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.data.shapes_check import SeenClip
from diffusers_video.metrics.shapes_scores import is_kept, score_shapes, wilson_interval


DATASET = ShapesDataset(4, seed=2)
SCENES = [DATASET.scene(index) for index in range(4)]


def seen_as(index: int, roughness: float = 0.0, **changes: str | None) -> SeenClip:
    item = SCENES[index].objects[0]
    names = {"colour": item.colour, "shape": item.shape, "motion": item.motion, **changes}
    return SeenClip(
        colours=(names["colour"],) * 3, shapes=(names["shape"],) * 3, motion=names["motion"], roughness=roughness
    )


SEEN = [
    seen_as(0, 0.1),
    seen_as(1, 0.3, colour=None),
    seen_as(2, 0.2, shape=None),
    seen_as(3, float("nan"), motion=None),
]


def test_each_part_is_counted_by_itself_and_all_together() -> None:
    scores = score_shapes(SEEN, SCENES)
    assert scores.roughness == pytest.approx(0.2) and scores.num_clips == 4
    assert (scores.colour, scores.shape, scores.motion, scores.together) == (0.75, 0.75, 0.75, 0.25)
    assert (scores.frame_colour, scores.frame_shape, scores.kept) == (0.75, 0.75, 0.5)
    assert scores.intervals["together"] == wilson_interval(0.25, 4)


def test_frames_are_counted_beside_clips() -> None:
    item = SCENES[0].objects[0]
    seen = SeenClip(
        colours=(item.colour, item.colour, None), shapes=(item.shape, None, None), motion=None, roughness=0.0
    )
    scores = score_shapes([seen], SCENES[:1])
    assert (scores.frame_colour, scores.frame_shape) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (scores.colour, scores.shape, scores.kept) == (1, 0, 0)


def test_the_breakdown_says_what_was_asked_for_and_what_was_seen() -> None:
    scores = score_shapes([*SEEN, seen_as(3)], [*SCENES, SCENES[3]])
    item = SCENES[3].objects[0]
    counts = scores.breakdown["motion"][item.motion]
    assert counts["num_clips"] == sum(scene.objects[0].motion == item.motion for scene in [*SCENES, SCENES[3]])
    for part in ("colour", "shape", "motion"):
        assert sum(one["num_clips"] for one in scores.breakdown[part].values()) == 5
        for name, one in scores.breakdown[part].items():
            chosen = [k for k, scene in enumerate([*SCENES, SCENES[3]]) if getattr(scene.objects[0], part) == name]
            assert one["motion"] == sum(k != 3 for k in chosen) / len(chosen)
    assert scores.seen_motions[item.motion]["nothing"] == 1 and scores.seen_motions[item.motion][item.motion] >= 1


@pytest.mark.parametrize(
    ("is_right", "is_so"),
    [
        ([True] * 257, True),
        ([True] * 240 + [False] * 8 + [True] * 9, True),
        ([True] * 240 + [False] * 9 + [True] * 8, False),  # too long at once
        (([True] * 120 + [False] * 5) * 2, True),  # found again in between
        (([True] * 18 + [False]) * 13, False),  # too many in all
        ([False] * 5, False),
    ],
)
def test_an_object_is_kept_if_it_is_never_lost_for_long(is_right: list[bool], is_so: bool) -> None:
    clip = SeenClip(
        colours=tuple("red" if right else None for right in is_right),
        shapes=tuple("star" if right or index % 2 else "circle" for index, right in enumerate(is_right)),
        motion=None,
        roughness=0.0,
    )
    assert is_kept(clip, "red", "star") is is_so


@pytest.mark.parametrize(("count", "total"), [(0, 7), (3, 7), (251, 256), (256, 256)])
def test_intervals_are_those_of_scipy(count: int, total: int) -> None:
    want = binomtest(count, total).proportion_ci(method="wilson")
    assert wilson_interval(count / total, total) == pytest.approx((want.low, want.high), abs=1e-6)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="`seen` and `scenes` must be equally many"):
        score_shapes([seen_as(0)], SCENES)
    with pytest.raises(ValueError, match="`scenes` must have one object each"):
        score_shapes([seen_as(0)], [ShapesDataset(1, num_objects=2).scene(0)])
    for part, total in ((0.5, 0), (1.5, 3)):
        with pytest.raises(ValueError, match="`part` must be in"):
            wilson_interval(part, total)
