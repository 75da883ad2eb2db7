"""Windows of frames by timestamps alone, and an account of every frame."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest

from diffusers_video.data.accounting import BETWEEN_CLIPS, OUTSIDE_SPAN, OVER_LIMIT, REPEATS, RESAMPLED, TAIL
from diffusers_video.data.clips import TimeLine, WindowRule, Windows, clip_times, cut_windows, select_span


WHOLE = (Fraction(0), Fraction(1))


def even(num_frames: int, fps: Fraction | int, start: Fraction | int = 0) -> TimeLine:
    times = [start + Fraction(k) / fps for k in range(num_frames)]
    line = select_span(times, times[-1] + 1 / Fraction(fps), WHOLE)
    assert line is not None
    return line


def cut(line: TimeLine, fps: Fraction | int, num_frames: int, stride: int | None = None, **rule: object) -> Windows:
    options = {"limit": None, "allow_repeat": False} | rule
    return cut_windows(
        line, WindowRule(fps=Fraction(fps), num_frames=num_frames, stride=stride or num_frames, **options)
    )


def test_own_rate_takes_every_frame_and_leaves_the_tail() -> None:
    windows = cut(even(35, 30), 30, 16)
    assert windows.starts == (0, Fraction(16, 30))
    assert windows.unused_runs() == [(TAIL, 32, 35)]


@pytest.mark.parametrize(("num_frames", "count"), [(15, 0), (16, 1), (31, 1), (32, 2)])
def test_a_video_of_exactly_a_clips_length_gives_it(num_frames: int, count: int) -> None:
    assert len(cut(even(num_frames, Fraction(30000, 1001)), Fraction(30000, 1001), 16).starts) == count


def test_resampled_clips_show_the_frame_that_is_on_screen() -> None:
    line = even(40, 30, start=Fraction(3, 2))
    windows = cut(line, 12, 5)  # frames 0, 2.5, 5, 7.5, 10, then 12.5, ...
    assert line.shown_at(clip_times(windows.starts[0], Fraction(12), 5)) == [0, 2, 5, 7, 10]
    assert line.shown_at(clip_times(windows.starts[1], Fraction(12), 5)) == [12, 15, 17, 20, 22]
    assert windows.starts[0] == Fraction(3, 2)
    shown = [number for number, reason in enumerate(windows.reasons) if reason is None]
    assert shown == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35]
    assert Counter(windows.reasons) == {None: 15, RESAMPLED: 23, TAIL: 2}


def test_the_last_frame_counts_as_long_as_it_is_shown() -> None:
    line = select_span([Fraction(0), Fraction(1), Fraction(2)], Fraction(5), WHOLE)
    assert line is not None and line.count_frames(Fraction(2)) == 10
    assert even(10, 30).count_frames(Fraction(8)) == 3  # at 0, 1/8 and 1/4 of a second; it ends at 1/3


def test_a_slow_video_is_left_out_unless_repeats_are_allowed() -> None:
    line = even(20, 5)
    refused = cut(line, 8, 8)
    assert refused.starts == () and refused.reasons == (REPEATS,) * 20
    assert len(cut(line, 8, 8, allow_repeat=True).starts) == 4


def test_only_the_clips_that_repeat_a_frame_are_left_out() -> None:
    times = [Fraction(k, 10) for k in (*range(10), *range(12, 22))]  # one frame stays for three tenths
    line = select_span(times, Fraction(22, 10), WHOLE)
    windows = cut(line, 10, 4)
    assert windows.starts == (0, Fraction(4, 10), Fraction(12, 10), Fraction(16, 10))
    assert windows.unused_runs() == [(REPEATS, 8, 10), (TAIL, 18, 20)]


def test_a_rate_hardly_above_the_videos_loses_hardly_anything() -> None:
    windows = cut(even(2002, Fraction(30000, 1001)), 30, 10)  # frame 0 is still shown at 1/30 s, frame 1000 likewise
    assert len(windows.starts) == 198
    assert windows.unused_runs() == [(REPEATS, 0, 9), (REPEATS, 1000, 1008), (TAIL, 1999, 2002)]
    assert cut(even(2000, 30), Fraction(30000, 1001), 10).unused_runs() == [(TAIL, 1992, 2000)]


def test_parts_of_a_video_that_meet_share_no_frame() -> None:
    times, end = [Fraction(k, 7) for k in range(31)], Fraction(31, 7)
    early = cut(select_span(times, end, (Fraction(0), Fraction(3, 4))), 5, 2)
    late = cut(select_span(times, end, (Fraction(3, 4), Fraction(1))), 5, 2)
    shown = [{k for k, reason in enumerate(part.reasons) if reason is None} for part in (early, late)]
    assert shown[0] and shown[1] and not shown[0] & shown[1]
    assert early.reasons[24:] == (OUTSIDE_SPAN,) * 7 and late.reasons[:24] == (OUTSIDE_SPAN,) * 24


def test_a_part_without_a_frame_is_none() -> None:
    assert select_span([Fraction(0), Fraction(1)], Fraction(2), (Fraction(1, 4), Fraction(1, 2))) is None


def test_the_stride_spaces_clips_and_a_limit_spreads_them() -> None:
    line = even(40, 10)
    assert cut(line, 10, 4, stride=2).starts == tuple(Fraction(2 * k, 10) for k in range(19))
    assert cut(line, 10, 4, stride=12).unused_runs() == [
        (BETWEEN_CLIPS, 4, 12),
        (BETWEEN_CLIPS, 16, 24),
        (BETWEEN_CLIPS, 28, 36),
    ]
    limited = cut(line, 10, 4, limit=3)
    assert limited.starts == (0, Fraction(16, 10), Fraction(36, 10))
    assert limited.unused_runs() == [(OVER_LIMIT, 4, 16), (OVER_LIMIT, 20, 36)]
    assert cut(line, 10, 4, limit=1).starts == (0,)
