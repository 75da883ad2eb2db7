"""What is known of a video before its frames are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from diffusers_video._video_values import measure_fps


class FrameReader(Protocol):
    """Decodes frames of one file by their number in display order."""

    def fetch(self, positions: Sequence[int], keep_alpha: bool) -> Iterator[np.ndarray]:
        """Frames `(H, W, 3)`, or `(H, W, 4)` with `keep_alpha`, uint8, at the strictly increasing `positions`."""


@dataclass(frozen=True)
class VideoInfo:
    """
    A video file, GIF, WebP animation or folder of images, measured from its container without decoding all of it.

    Pass it in place of the path to the reading functions: the file is then not measured again. It can be pickled.

    Args:
        path (`Path`): Where it lies.
        width (`int`): Pixels per row as shown, i.e. after the rotation that the file asks for.
        height (`int`): Rows as shown.
        num_frames (`int`): Frames that a full decode gives, counted.
        fps (`Fraction`): Frames per second: the rate if it is constant, else the average
            `(num_frames - 1) / (last timestamp - first timestamp)`.
        is_constant_fps (`bool`): Whether one rate explains all timestamps.
        duration (`Fraction`): Seconds from the first frame's appearance to the last one's end.
        codec (`str`): FFmpeg's name of the codec, or `"gif"`, `"webp"`, `"images"`.
        timestamps (`tuple[Fraction, ...]`): When each frame appears, in seconds on the file's own clock (the first
            need not be 0). Where the rate is constant and the container rounds (WebM to 1/1000 s, GIF to 1/100 s),
            these are the times that were rounded: `timestamps[0] + k / fps`.
    """

    path: Path
    width: int
    height: int
    num_frames: int
    fps: Fraction
    is_constant_fps: bool
    duration: Fraction
    codec: str
    timestamps: tuple[Fraction, ...] = field(repr=False)
    reader: FrameReader = field(repr=False, compare=False)
    file_state: tuple[int, int] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Timing:
    """
    When the frames of a file are shown, as stored in it.

    Args:
        times (`Sequence[Fraction]`): When each frame appears, in seconds.
        tick (`Fraction`): The unit of time that `times` are rounded to, in seconds.
        last_duration (`Fraction`, *optional*): How long the last frame stays, in seconds.
        written_fps (`Fraction`, *optional*): The rate that the writer of the file noted down.
        stated_fps (`Sequence[Fraction | None]`): Rates that the container states or its reader estimates.
    """

    times: Sequence[Fraction]
    tick: Fraction
    last_duration: Fraction | None = None
    written_fps: Fraction | None = None
    stated_fps: Sequence[Fraction | None] = ()


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change of a file, to notice that it is another one by now."""
    stat = path.stat()
    return (stat.st_size if path.is_file() else 0, stat.st_mtime_ns)


def build_info(path: Path, size: tuple[int, int], codec: str, timing: Timing, reader: FrameReader) -> VideoInfo:
    """
    Put together a [`VideoInfo`].

    Args:
        path (`Path`): Where the video lies.
        size (`tuple[int, int]`): Width and height as shown.
        codec (`str`): See [`VideoInfo`].
        timing (`Timing`): When its frames are shown, as stored.
        reader (`FrameReader`): Decodes its frames.

    Returns:
        [`VideoInfo`]

    Raises:
        ValueError: If there are no frames, no rate, or the timestamps do not increase.
    """
    times = timing.times
    if not times:
        raise ValueError(f"`path` {path} holds no frames. Choose another file.")
    if any(later <= sooner for sooner, later in zip(times, times[1:], strict=False)):
        raise ValueError(f"`path` {path} must have timestamps that increase from frame to frame. Re-encode it.")
    if len(times) > 1:
        fps, is_constant = measure_fps(times, timing.tick, timing.written_fps, timing.stated_fps)
    else:
        measured = timing.last_duration and 1 / timing.last_duration
        fps, is_constant = next(filter(None, [timing.written_fps, *timing.stated_fps, measured]), None), True
        if fps is None:
            raise ValueError(f"`path` {path} holds a single frame and no rate. Choose a video or an animation.")
    if is_constant:
        times, last_duration = [times[0] + k / fps for k in range(len(times))], 1 / fps
    else:
        last_duration = timing.last_duration or 1 / fps
    return VideoInfo(
        path=path,
        width=size[0],
        height=size[1],
        num_frames=len(times),
        fps=fps,
        is_constant_fps=is_constant,
        duration=times[-1] + last_duration - times[0],
        codec=codec,
        timestamps=tuple(times),
        reader=reader,
        file_state=file_state(path),
    )
