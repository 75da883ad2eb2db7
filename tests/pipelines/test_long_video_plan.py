"""Lengths of long videos: every number of frames is met, and the rates follow."""

import pytest

from diffusers_video.pipelines.long_video_plan import LongVideoPlan


def plan(num_frames: int = 113, num_passes: int = 2, **options: object) -> LongVideoPlan:
    options = {"fps": 30.0, "window_frames": 8, "num_context_frames": 2, **options}
    return LongVideoPlan(num_frames=num_frames, num_passes=num_passes, **options)


@pytest.mark.parametrize("number", [1, 2, 8, 65])
def test_n_key_frames_become_four_times_and_sixteen_times_as_many_and_one(number: int) -> None:
    assert plan(number, 0).lengths == (number,)
    assert plan(4 * (number - 1) + 1, 1).lengths == (number, 4 * (number - 1) + 1)
    assert plan(16 * (number - 1) + 1).lengths == (number, 4 * (number - 1) + 1, 16 * (number - 1) + 1)


@pytest.mark.parametrize("num_passes", [0, 1, 2, 3])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 16, 17, 18, 100, 1025])
@pytest.mark.parametrize("rate", [2, 4])
def test_no_stage_has_too_few_frames_or_a_needless_one(num_frames: int, num_passes: int, rate: int) -> None:
    lengths = plan(num_frames, num_passes, rate=rate).lengths
    assert lengths[-1] == num_frames and len(lengths) == num_passes + 1
    for before, after in zip(lengths, lengths[1:], strict=False):
        assert rate * (before - 1) + 1 >= after
        assert before == 1 or rate * (before - 2) + 1 < after


def test_rates_follow_from_that_of_the_result() -> None:
    assert plan().rates == (1.875, 7.5, 30.0) and plan().spacing == 16
    assert plan(num_passes=0).rates == (30.0,) and plan(num_passes=0).spacing == 1


@pytest.mark.parametrize(
    ("options", "windows"),
    [
        ({"num_frames": 1, "num_passes": 0}, 1),
        ({"num_frames": 8, "num_passes": 0}, 2),  # the image, and 7 frames that go on from it
        ({"num_frames": 9, "num_passes": 0}, 3),
        ({"num_frames": 14, "num_passes": 0}, 3),  # 1 + 7 + 6
        ({"num_frames": 15, "num_passes": 0}, 4),
        ({"num_frames": 8, "num_passes": 0, "num_given": 2}, 1),
        ({"num_frames": 8, "num_passes": 0, "num_given": 8}, 0),
        ({"num_frames": 113}, 2 + 7 + 28),
        ({"num_frames": 112}, 2 + 7 + 28),
        ({"num_frames": 97}, 2 + 6 + 24),
        ({"num_frames": 113, "interpolation_batch_size": 4}, 2 + 2 + 7),
    ],
)
def test_windows_are_counted(options: dict[str, int], windows: int) -> None:
    assert plan(**options).num_windows == windows
