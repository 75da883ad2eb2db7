"""Which frames of a video make its clips, by presentation timestamps alone."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from diffusers_video.data.accounting import BETWEEN_CLIPS, OUTSIDE_SPAN, OVER_LIMIT, REPEATS, RESAMPLED, TAIL


@dataclass(frozen=True)
class TimeLine:
    """
    When the frames of a video, or of a part of it, are shown. A frame is shown until the next one appears.

    Args:
        timestamps (`Sequence[Fraction]`): When each frame appears, in seconds, increasing; all frames of the file.
        end (`Fraction`): When the last frame ends.
        first (`int`): The first frame that may be used.
        stop (`int`): One after the last frame that may be used; above `first`.
    """

    timestamps: Sequence[Fraction]
    end: Fraction
    first: int
    stop: int

    @property
    def start_time(self) -> Fraction:
        """When the first usable frame appears."""
        return self.timestamps[self.first]

    @property
    def end_time(self) -> Fraction:
        """When the last usable frame ends."""
        return self.end if self.stop == len(self.timestamps) else self.timestamps[self.stop]

    def count_frames(self, fps: Fraction) -> int:
        """
        How many of the times `start + k / fps`, k = 0, 1, ..., lie before the end.

        Args:
            fps (`Fraction`): Frames per second, above 0.

        Returns:
            `int`: At least 1.
        """
        return ceil((self.end_time - self.start_time) * fps)

    def shown_at(self, times: Iterable[Fraction]) -> list[int]:
        """
        The frames that are shown at given times: the last that appear at or before them.

        Args:
            times (`Iterable[Fraction]`): Seconds, not before the first frame.

        Returns:
            `list[int]`: Numbers of frames in display order.
        """
        return [bisect_right(self.timestamps, time) - 1 for time in times]


def select_span(timestamps: Sequence[Fraction], end: Fraction, span: tuple[Fraction, Fraction]) -> TimeLine | None:
    """
    The part of a video between two points of its length; parts that meet share no frame.

    Args:
        timestamps (`Sequence[Fraction]`): When each frame appears, in seconds, increasing.
        end (`Fraction`): When the last frame ends.
        span (`tuple[Fraction, Fraction]`): Start (included) and end (excluded) as parts of the length, in [0, 1]:
            frames belong to it by when they appear.

    Returns:
        [`TimeLine`], or `None` if no frame appears in it.
    """
    length = end - timestamps[0]
    first = bisect_left(timestamps, timestamps[0] + span[0] * length)
    stop = bisect_left(timestamps, timestamps[0] + span[1] * length)
    return TimeLine(timestamps, end, first, stop) if first < stop else None


def clip_times(start: Fraction, fps: Fraction, num_frames: int) -> list[Fraction]:
    """
    The times that the frames of a clip are asked for.

    Args:
        start (`Fraction`): Seconds on the file's clock.
        fps (`Fraction`): Frames per second.
        num_frames (`int`): How many.

    Returns:
        `list[Fraction]`: `start + k / fps`.
    """
    return [start + k / fps for k in range(num_frames)]


@dataclass(frozen=True, kw_only=True)
class WindowRule:
    """
    How a video is cut into clips.

    Args:
        fps (`Fraction`): Frames per second of the clips.
        num_frames (`int`): Frames per clip.
        stride (`int`): Frames, at `fps`, from one clip's start to the next one's.
        limit (`int`, *optional*): The most clips per video, spread evenly; `None`: all.
        allow_repeat (`bool`): Whether a clip may show a frame of the file twice in a row.
    """

    fps: Fraction
    num_frames: int
    stride: int
    limit: int | None
    allow_repeat: bool


@dataclass(frozen=True)
class Windows:
    """
    The clips of a video.

    Args:
        starts (`tuple[Fraction, ...]`): When each begins, in seconds on the file's clock.
        reasons (`tuple[str | None, ...]`): For each frame of the file, why no clip shows it; `None` if one does.
    """

    starts: tuple[Fraction, ...]
    reasons: tuple[str | None, ...]

    def unused_runs(self) -> list[tuple[str, int, int]]:
        """
        Frames that no clip shows, neighbours with one reason together.

        Returns:
            `list` of (reason, first frame, one after the last frame). Frames left out by resampling are one run.
        """
        runs: list[tuple[str, int, int]] = []
        for number, reason in enumerate(self.reasons):
            if reason is None or reason == RESAMPLED:
                continue
            if runs and runs[-1][0] == reason and runs[-1][2] == number:
                runs[-1] = (reason, runs[-1][1], number + 1)
            else:
                runs.append((reason, number, number + 1))
        return runs


def cut_windows(line: TimeLine, rule: WindowRule) -> Windows:
    """
    Cut a video into whole clips and say of every frame whether one shows it.

    Args:
        line ([`TimeLine`]): The part of the video to use.
        rule ([`WindowRule`]): How.

    Returns:
        [`Windows`]: Clip w begins at `line.start_time + w * stride / fps`.
    """
    count = max(0, (line.count_frames(rule.fps) - rule.num_frames) // rule.stride + 1)
    starts = [line.start_time + w * rule.stride / rule.fps for w in range(count)]
    shown = [line.shown_at(clip_times(start, rule.fps, rule.num_frames)) for start in starts]
    usable = [w for w in range(count) if rule.allow_repeat or not _has_repeat(shown[w])]
    chosen = _spread(usable, rule.limit)
    stops = [min(bisect_left(line.timestamps, start + rule.num_frames / rule.fps), line.stop) for start in starts]
    covers = [range(numbers[0], stop) for numbers, stop in zip(shown, stops, strict=True)]
    reasons = _cover(line, covers, set(usable), set(chosen))
    for w in chosen:
        for number in shown[w]:
            reasons[number] = None
    return Windows(tuple(starts[w] for w in chosen), tuple(reasons))


def _has_repeat(numbers: Sequence[int]) -> bool:
    return any(sooner == later for sooner, later in zip(numbers, numbers[1:], strict=False))


def _spread(items: list[int], limit: int | None) -> list[int]:
    if limit is None or len(items) <= limit:
        return items
    if limit == 1:
        return items[:1]
    return [items[round(Fraction(k * (len(items) - 1), limit - 1))] for k in range(limit)]


def _cover(line: TimeLine, covers: list[range], usable: set[int], chosen: set[int]) -> list[str | None]:
    """Give each frame the reason of the kind of clip whose time it lies in, chosen clips before others."""
    reasons: list[str | None] = [OUTSIDE_SPAN] * len(line.timestamps)
    tail = covers[-1].stop if covers else line.first
    reasons[line.first : tail] = [BETWEEN_CLIPS] * (tail - line.first)
    reasons[tail : line.stop] = [TAIL] * (line.stop - tail)
    unusable = set(range(len(covers))) - usable
    for reason, windows in ((REPEATS, unusable), (OVER_LIMIT, usable - chosen), (RESAMPLED, chosen)):
        for w in windows:
            reasons[covers[w].start : covers[w].stop] = [reason] * len(covers[w])
    return reasons
