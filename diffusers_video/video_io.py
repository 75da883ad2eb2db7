"""
Write and read videos with exact sizes, rates and timestamps: .mp4, .webm, .gif and folders of PNG images.

Layouts: a video is `(F, C, H, W)` as a torch tensor, `(F, H, W, C)` as a NumPy array, or a list of PIL images: what
one entry of `VideoPipelineOutput.frames` is. Floating point means [0, 1], uint8 means 0 to 255 and is never rescaled.
"""

from __future__ import annotations

import os
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusers_video._video_decode import probe_stream
from diffusers_video._video_encode import OutputSettings, Sink, check_target, delete, move_into_place, open_sink
from diffusers_video._video_images import probe_folder, probe_gif, probe_webp
from diffusers_video._video_info import VideoInfo, file_state
from diffusers_video._video_values import as_fps, as_seconds, frame_to_array, split_frames


__all__ = [
    "VideoClip",
    "VideoInfo",
    "VideoWriter",
    "iter_frames",
    "probe_video",
    "read_frames_at",
    "read_video",
    "write_video",
]


class VideoWriter:
    """
    Write a video piece by piece, in memory that does not grow with its length.

    Use it in a `with` block. The output is made under a temporary name beside `path` and moved into place when the
    block ends; if anything raises before, nothing is left behind.

    Args:
        path (`str` or `Path`):
            What to write, by its suffix: `.mp4` (H.264), `.webm` (VP9), `.gif`, or no suffix for a folder with
            `000000.png`, `000001.png`, ... and `video.json`. The folder that holds it must exist.
        fps (`Fraction`, `int`, `float` or `str`):
            Frames per second. Fractions, whole numbers and `"30000/1001"` are exact; a float within 0.005 of an NTSC
            rate means that rate (29.97 is 30000/1001, 23.976 is 24000/1001), any other the nearest fraction with a
            denominator of at most 1001. At most 50 for .gif and 500 for .webm. The .mp4 container holds every rate
            exactly; .webm and .gif round each timestamp to their unit and keep the exact rate beside it.
        crf (`float`, *optional*):
            Quality of .mp4 and .webm, 0 (best) to 51 (.mp4) or 63 (.webm, whole numbers). Defaults to 18 for libx264,
            20 for libx265, 24 for libvpx-vp9.
        codec (`str`, *optional*): `"libx264"` (default) or `"libx265"` for .mp4, `"libvpx-vp9"` for .webm.
        preset (`str`, *optional*):
            Speed against size: `"ultrafast"` to `"placebo"`, by default `"medium"`, for .mp4; `"best"`, `"good"`
            (default) or `"realtime"` for .webm.
        pixel_format (`str`, *optional*):
            `"yuv420p"`, `"yuv422p"` or `"yuv444p"`. Defaults to yuv420p, which plays everywhere; .mp4 files of odd
            width or height need and get yuv444p, which browsers and hardware may not play (.webm plays any size).
        overwrite (`bool`, *optional*):
            By default an existing file is replaced and a folder that is not empty is refused. `True` replaces a folder
            as well, if it holds nothing but a video written here; `False` refuses both.

    Frames are `(F, C, H, W)` tensors, `(F, H, W, C)` arrays or iterables of single frames (tensor, array, PIL image;
    a generator is read frame by frame), all of one size, with 1 or 3 channels; folders keep a fourth. Colours are
    converted and tagged as BT.709, limited range.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument breaks a rule above, or does not fit the file type.
        FileNotFoundError: If the folder that is to hold `path` does not exist.
        FileExistsError: If something stands at `path` that may not be replaced.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from diffusers_video.video_io import VideoWriter

        >>> with VideoWriter(tempfile.mkdtemp() + "/grey.mp4", fps=8) as writer:
        ...     for _ in range(3):
        ...         writer.write(torch.full((4, 3, 32, 32), 0.5))
        >>> writer.num_frames
        12
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float | str,
        *,
        crf: float | None = None,
        codec: str | None = None,
        preset: str | None = None,
        pixel_format: str | None = None,
        overwrite: bool | None = None,
    ) -> None:
        self.path = _as_path(path)
        self.num_frames = 0
        if not self.path.name:
            raise ValueError(f"`path` must end in the name of a file or folder, but is {str(path)!r}. Add one.")
        self._settings = OutputSettings(self.path.suffix.lower(), as_fps(fps), crf, codec, preset, pixel_format)
        if overwrite not in (None, True, False):
            raise TypeError(f"`overwrite` must be True, False or None, but is {overwrite!r}.")
        check_target(self.path, self._settings.suffix == "", overwrite)
        self._temporary = self.path.with_name(f".video-{secrets.token_hex(8)}.tmp")
        self._overwrite = overwrite
        self._sink: Sink | None = None
        self._shape: tuple[int, ...] | None = None
        self._is_open = True

    @property
    def fps(self) -> Fraction:
        """The exact frames per second."""
        return self._settings.fps

    def write(self, frames: Tensor | np.ndarray | Iterable[Any]) -> None:
        """
        Append frames.

        Args:
            frames (`torch.Tensor` `(F, C, H, W)`, `np.ndarray` `(F, H, W, C)` or iterable of single frames):
                The next frames, see [`VideoWriter`].

        Raises:
            TypeError: If frames are of another type or dtype.
            ValueError: If a frame has the wrong shape, size or channels, is not finite or leaves [0, 1], or the writer
                is closed. The output is given up then, and nothing of it is left.
        """
        self._check_open()
        try:
            for frame in split_frames(frames):
                self._write_one(frame_to_array(frame, self.num_frames))
        except BaseException:
            self.discard()
            raise

    def _write_one(self, array: np.ndarray) -> None:
        if self._sink is None:
            self._shape = array.shape
            self._sink = open_sink(self._temporary, self._settings, array.shape)
        elif array.shape != self._shape:
            raise ValueError(
                f"`frames` must all have the height, width and channels of the first, {self._shape}, but frame"
                f" {self.num_frames} has {array.shape}. Resize or convert them first."
            )
        self._sink.add(array)
        self.num_frames += 1

    def close(self) -> Path:
        """
        Complete the output and move it into place; a `with` block does this at its end.

        Returns:
            `Path`: Where it lies.

        Raises:
            ValueError: If no frame was written, or the writer is closed.
        """
        self._check_open()
        try:
            if self._sink is None:
                raise ValueError("`frames` must hold at least one frame, but none was written. Nothing was saved.")
            self._sink.finish()
            check_target(self.path, self._settings.suffix == "", self._overwrite)
            move_into_place(self._temporary, self.path)
        except BaseException:
            self.discard()
            raise
        self._is_open = False
        return self.path

    def discard(self) -> None:
        """Give the output up and delete what there is of it; an earlier file at `path` stays as it was."""
        self._is_open = False
        sink, self._sink = self._sink, None
        try:
            if sink is not None:
                sink.discard()
        finally:
            delete(self._temporary)

    def _check_open(self) -> None:
        if not self._is_open:
            raise ValueError(f"The writer of {self.path} is closed, or was given up after an error. Make a new one.")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        elif self._is_open:
            self.close()


def write_video(
    frames: Tensor | np.ndarray | Iterable[Any],
    path: str | Path,
    fps: Fraction | float | str,
    *,
    crf: float | None = None,
    codec: str | None = None,
    preset: str | None = None,
    pixel_format: str | None = None,
    overwrite: bool | None = None,
) -> Path:
    """
    Write a video to a .mp4, .webm or .gif file or a folder of PNG images.

    Args:
        frames (`torch.Tensor` `(F, C, H, W)`, `np.ndarray` `(F, H, W, C)` or iterable of single frames):
            The video. Floating point is [0, 1]; uint8 is 0 to 255 and is taken as it is.
        path (`str` or `Path`): What to write, by its suffix; see [`VideoWriter`], also for all other arguments.
        fps (`Fraction`, `int`, `float` or `str`): Frames per second.
        crf (`float`, *optional*): Quality, 0 is the best.
        codec (`str`, *optional*): FFmpeg's name of the encoder.
        preset (`str`, *optional*): Speed against size.
        pixel_format (`str`, *optional*): How colour is sampled.
        overwrite (`bool`, *optional*): Whether to replace what stands at `path`.

    Returns:
        `Path`: Where the video lies.

    Raises:
        TypeError, ValueError, FileNotFoundError, FileExistsError: As [`VideoWriter`]; nothing is left behind.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from diffusers_video.video_io import probe_video, write_video

        >>> path = write_video(torch.rand(5, 3, 35, 67), tempfile.mkdtemp() + "/noise.mp4", fps=29.97)
        >>> info = probe_video(path)
        >>> info.num_frames, info.height, info.width, str(info.fps)
        (5, 35, 67, '30000/1001')
    """
    writer = VideoWriter(
        path, fps, crf=crf, codec=codec, preset=preset, pixel_format=pixel_format, overwrite=overwrite
    )
    with writer:
        writer.write(frames)
    return writer.path


@dataclass(frozen=True)
class VideoClip:
    """
    Decoded frames and when they are shown.

    Args:
        frames (`torch.Tensor` of shape `(F, C, H, W)`): uint8, 0 to 255, full range RGB (RGBA if asked for).
        fps (`Fraction`): Frames per second of the video, as in [`VideoInfo`].
        timestamps (`tuple[Fraction, ...]`): When each frame appears, in seconds, as in [`VideoInfo`].
        is_constant_fps (`bool`): Whether one rate explains all timestamps of the video.
    """

    frames: Tensor = field(repr=False)
    fps: Fraction
    timestamps: tuple[Fraction, ...] = field(repr=False)
    is_constant_fps: bool


def probe_video(path: str | Path | VideoInfo, *, fps: Fraction | float | str | None = None) -> VideoInfo:
    """
    Measure a video without decoding all of it: size, exact frame count, rate, timestamps.

    Args:
        path (`str` or `Path`): A video file of any kind FFmpeg knows, a GIF or WebP animation, or a folder of images.
            Whole files are read, but only WebP, VP8 and streams with unusable timestamps are decoded throughout.
        fps (`Fraction`, `int`, `float` or `str`, *optional*):
            The rate of a folder of images that has no `video.json`; not allowed for anything else.

    Returns:
        [`VideoInfo`]: Hand it to the reading functions in place of the path to spare them this work. (A `VideoInfo`
        given as `path` is returned if its file is unchanged.)

    Raises:
        TypeError: If an argument is of the wrong type.
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is empty, truncated, damaged, a still image or without video stream, or `fps` does not fit.
    """
    if isinstance(path, VideoInfo):
        if fps is not None:
            raise ValueError(f"`fps` must be None for a measured video, but is {fps!r}. Pass it to `probe_video`.")
        if not path.path.exists() or file_state(path.path) != path.file_state:
            raise ValueError(f"`path` {path.path} has changed since it was measured. Call `probe_video` again.")
        return path
    path = _as_path(path)
    exact_fps = None if fps is None else as_fps(fps)
    if not path.exists():
        raise FileNotFoundError(f"`path` must be a video file or a folder of images, but {path} does not exist.")
    if path.is_dir():
        return probe_folder(path, exact_fps)
    if fps is not None:
        raise ValueError(f"`fps` must be None for a file, which has its own, but is {fps!r} for {path}. Leave it out.")
    with open(path, "rb") as file:
        magic = file.read(12)
    if not magic:
        raise ValueError(f"`path` {path} must be a video, but is an empty file. Fetch or encode it again.")
    if magic[:4] == b"GIF8":
        return probe_gif(path)
    return probe_webp(path) if magic[:4] + magic[8:] == b"RIFFWEBP" else probe_stream(path)


def iter_frames(
    path: str | Path | VideoInfo,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    fps: Fraction | float | str | None = None,
    keep_alpha: bool = False,
) -> Iterator[tuple[Fraction, Tensor]]:
    """
    Decode a video frame by frame, holding one frame at a time.

    Args:
        path (`str`, `Path` or [`VideoInfo`]): The video, as for [`probe_video`]. It is measured at once, and decoded
            as frames are asked for.
        start (`Fraction` or `float`, *optional*): Seconds; frames that appear earlier are left out.
        end (`Fraction` or `float`, *optional*): Seconds; frames that appear then or later are left out.
        fps (`Fraction`, `int`, `float` or `str`, *optional*): As for [`probe_video`].
        keep_alpha (`bool`, *optional*, defaults to `False`):
            Four channels, for GIF, WebP and folders. By default transparency is dropped, not blended.

    Returns:
        `Iterator[tuple[Fraction, torch.Tensor]]`: Timestamp in seconds, and frame `(3, H, W)` or `(4, H, W)`, uint8.

    Raises:
        TypeError: If an argument is of the wrong type.
        FileNotFoundError: If there is nothing at `path`.
        ValueError: As [`probe_video`], or if no frame lies between `start` and `end`, or decoding fails.
    """
    info = probe_video(path, fps=fps)
    positions = _positions_between(info, start, end)
    timestamps = info.timestamps[positions.start : positions.stop]
    return zip(timestamps, map(_to_tensor, info.reader.fetch(positions, keep_alpha)), strict=True)


def _to_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def read_video(
    path: str | Path | VideoInfo,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    fps: Fraction | float | str | None = None,
    keep_alpha: bool = False,
) -> VideoClip:
    """
    Decode a video, or the part of it from `start` to `end`.

    Colours become full range RGB by the file's own matrix. Untagged files are taken as limited range, and as BT.709
    if they are at least 1280 wide or more than 576 high, else BT.601. Rotation is applied; sound is ignored, and so is
    a pixel aspect other than square. More than 8 bits per channel are reduced to 8.

    Args:
        path (`str`, `Path` or [`VideoInfo`]): The video, as for [`probe_video`].
        start (`Fraction` or `float`, *optional*): Seconds; frames that appear earlier are left out.
        end (`Fraction` or `float`, *optional*): Seconds; frames that appear then or later are left out.
        fps (`Fraction`, `int`, `float` or `str`, *optional*): As for [`probe_video`].
        keep_alpha (`bool`, *optional*, defaults to `False`): As for [`iter_frames`].

    Returns:
        [`VideoClip`]

    Raises:
        TypeError, FileNotFoundError, ValueError: As [`iter_frames`].
    """
    info = probe_video(path, fps=fps)
    positions = _positions_between(info, start, end)
    frames = _fetch_stacked(info, positions, keep_alpha)
    timestamps = info.timestamps[positions.start : positions.stop]
    return VideoClip(frames, info.fps, timestamps, info.is_constant_fps)


def read_frames_at(
    path: str | Path | VideoInfo,
    timestamps: Iterable[Fraction | float],
    *,
    fps: Fraction | float | str | None = None,
    keep_alpha: bool = False,
) -> Tensor:
    """
    The frames that are shown at given times: for each time t the last frame whose timestamp is at most t.

    Only the groups of pictures that hold the frames are decoded; the result equals a full decode.

    Args:
        path (`str`, `Path` or [`VideoInfo`]): The video, as for [`probe_video`].
        timestamps (`Iterable[Fraction | float]`):
            Times in seconds on the file's clock, in any order, repeats allowed, from `info.timestamps[0]` until before
            `info.timestamps[0] + info.duration`. A float is taken to the nearest fraction with a denominator of at
            most 1,000,000, so that the float 0.3 means 3/10.
        fps (`Fraction`, `int`, `float` or `str`, *optional*): As for [`probe_video`].
        keep_alpha (`bool`, *optional*, defaults to `False`): As for [`iter_frames`].

    Returns:
        `torch.Tensor` of shape `(len(timestamps), C, H, W)`: uint8, in the order of `timestamps`.

    Raises:
        TypeError: If an argument is of the wrong type.
        FileNotFoundError: If there is nothing at `path`.
        ValueError: As [`probe_video`], or if there are no times, a time lies outside the video, or decoding fails.
    """
    if isinstance(timestamps, (str, bytes)) or not isinstance(timestamps, Iterable):
        raise TypeError(f"`timestamps` must be an iterable of seconds, but is {timestamps!r}. Put it into a list.")
    times = [as_seconds(time, "timestamps") for time in timestamps]
    if not times:
        raise ValueError("`timestamps` must hold at least one time in seconds, but is empty.")
    info = probe_video(path, fps=fps)
    first, end = info.timestamps[0], info.timestamps[0] + info.duration
    for time in times:
        if not first <= time < end:
            raise ValueError(
                f"`timestamps` must lie between {float(first):.6g} (included) and {float(end):.6g} s (excluded), where"
                f" {info.path} shows something, but one is {float(time):.6g} s. Use the timestamps of `probe_video`."
            )
    positions = [bisect_right(info.timestamps, time) - 1 for time in times]
    needed = sorted(set(positions))
    frames = _fetch_stacked(info, needed, keep_alpha)
    return frames if positions == needed else frames[[bisect_left(needed, position) for position in positions]]


def _fetch_stacked(info: VideoInfo, positions: range | list[int], keep_alpha: bool) -> Tensor:
    channels = 4 if keep_alpha else 3
    frames = torch.empty(len(positions), channels, info.height, info.width, dtype=torch.uint8)
    for target, array in zip(frames, info.reader.fetch(positions, keep_alpha), strict=True):
        target.copy_(_to_tensor(array))
    return frames


def _positions_between(info: VideoInfo, start: Fraction | float | None, end: Fraction | float | None) -> range:
    first = None if start is None else as_seconds(start, "start")
    stop = None if end is None else as_seconds(end, "end")
    if first is not None and stop is not None and first >= stop:
        raise ValueError(f"`start` must be less than `end`, but they are {start} and {end} s. Swap or drop them.")
    begin = 0 if first is None else bisect_left(info.timestamps, first)
    finish = info.num_frames if stop is None else bisect_left(info.timestamps, stop)
    if begin >= finish:
        raise ValueError(
            f"`start` and `end` must enclose a frame, but none of {info.path} appears between {start} and {end} s: its"
            f" frames appear from {float(info.timestamps[0]):.6g} to {float(info.timestamps[-1]):.6g} s."
        )
    return range(begin, finish)


def _as_path(path: str | Path) -> Path:
    if not isinstance(path, (str, os.PathLike)) or str(path) == "":
        raise TypeError(f"`path` must be a str or Path that is not empty, but is {path!r}. Name a file or folder.")
    return Path(path)
