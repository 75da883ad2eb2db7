"""Measure many videos at once, and remember the results by the state of the files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from diffusers.utils import logging

from diffusers_video.data.files import write_json
from diffusers_video.video_io import VideoInfo, probe_video


logger = logging.get_logger(__name__)

ProgressCallback = Callable[[int, int], None]
_CACHE_VERSION = 1
_IN_FLIGHT = 64  # measurements that wait to be used; a long video's timestamps take megabytes


@dataclass(frozen=True)
class Measurement:
    """
    What planning needs of a video: [`VideoInfo`] without the means to decode it.

    Args:
        width (`int`): Pixels per row as shown.
        height (`int`): Rows as shown.
        fps (`Fraction`): Frames per second, the average if the rate varies.
        is_constant_fps (`bool`): Whether one rate explains all timestamps.
        duration (`Fraction`): Seconds from the first frame's appearance to the last one's end.
        timestamps (`tuple[Fraction, ...]`): When each frame appears.
        file_state (`tuple[int, int]`): Size and time of change of the file.
    """

    width: int
    height: int
    fps: Fraction
    is_constant_fps: bool
    duration: Fraction
    timestamps: tuple[Fraction, ...]
    file_state: tuple[int, int]

    @classmethod
    def from_info(cls, info: VideoInfo) -> Measurement:
        """
        Keep what planning needs.

        Args:
            info ([`VideoInfo`]): Of the video.

        Returns:
            [`Measurement`]
        """
        return cls(**{name: getattr(info, name) for name in cls.__dataclass_fields__})

    def to_json(self) -> dict[str, Any]:
        """
        Make it plain.

        Returns:
            `dict`: JSON values; fractions as text, timestamps of constant rate as the first one and their number.
        """
        times = [str(time) for time in (self.timestamps[:1] if self.is_constant_fps else self.timestamps)]
        return {
            "width": self.width,
            "height": self.height,
            "fps": str(self.fps),
            "is_constant_fps": self.is_constant_fps,
            "duration": str(self.duration),
            "num_frames": len(self.timestamps),
            "timestamps": times,
            "file_state": list(self.file_state),
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Measurement:
        """
        The inverse of [`Measurement.to_json`].

        Args:
            plain (`dict`): What it returned.

        Returns:
            [`Measurement`]

        Raises:
            KeyError, TypeError, ValueError: If `plain` is something else.
        """
        fps, times = Fraction(plain["fps"]), tuple(map(Fraction, plain["timestamps"]))
        if plain["is_constant_fps"]:
            times = tuple(times[0] + k / fps for k in range(plain["num_frames"]))
        size, changed = plain["file_state"]
        return cls(
            width=int(plain["width"]),
            height=int(plain["height"]),
            fps=fps,
            is_constant_fps=bool(plain["is_constant_fps"]),
            duration=Fraction(plain["duration"]),
            timestamps=times,
            file_state=(int(size), int(changed)),
        )


class ProbeCache:
    """
    Measurements by path in a JSON file; one that no longer fits its file is not used.

    Args:
        path (`Path`, *optional*): Where it lies; made by [`ProbeCache.save`]. `None`: nothing is remembered.

    Raises:
        ValueError: If there is something else at `path`.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._entries: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            self._entries = self._read(path)
        self._is_changed = False

    @staticmethod
    def _read(path: Path) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] == _CACHE_VERSION:
                return {str(key): dict(value) for key, value in content["videos"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"`cache_file` must be a cache of measurements, but {path} is something else. Name another file."
            ) from None
        return {}

    def measure(self, path: Path, image_fps: Fraction | None) -> Measurement:
        """
        Measure a video, or recall it.

        Args:
            path (`Path`): A video or folder of images.
            image_fps (`Fraction`, *optional*): The rate of a folder of images that does not state its own.

        Returns:
            [`Measurement`]

        Raises:
            ValueError, OSError: If it cannot be read.
        """
        if self.path is None or path.is_dir():  # the state of a folder does not tell of a change inside its files
            return Measurement.from_info(probe_video(path, fps=folder_fps(path, image_fps)))
        key, stat = os.path.abspath(path), path.stat()
        entry = self._entries.get(key, {})
        if entry.get("file_state") == [stat.st_size, stat.st_mtime_ns]:
            try:
                return Measurement.from_json(entry)
            except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
                logger.warning(f"What {self.path} says of {path} is damaged; the video is measured again.")
        measurement = Measurement.from_info(probe_video(path))
        self._entries[key] = measurement.to_json()
        self._is_changed = True
        return measurement

    def save(self) -> None:
        """Write it, if there is something new in it."""
        if self.path is not None and self._is_changed:
            write_json(self.path, {"version": _CACHE_VERSION, "videos": self._entries})


def folder_fps(path: Path, image_fps: Fraction | None) -> Fraction | None:
    """
    The rate to pass on to [`probe_video`]: only for folders of images that do not state their own.

    Args:
        path (`Path`): The video.
        image_fps (`Fraction`, *optional*): The rate of such folders.

    Returns:
        `Fraction`, *optional*
    """
    return image_fps if path.is_dir() and not (path / "video.json").is_file() else None


def describe_error(error: Exception) -> str:
    """
    Say why a file cannot be read. Decoders meet damage in ways that nobody foresaw, so any error may be a reason.

    Args:
        error (`Exception`): What reading it raised.

    Returns:
        `str`: Its text, after its type unless the text was written for the user.
    """
    return str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"


def map_in_order(function: Callable, items: Sequence, num_workers: int, progress: ProgressCallback | None) -> Iterator:
    """
    Apply a function to items in a pool of threads; results come in order, and few wait.

    Args:
        function (`Callable`): Takes an item.
        items (`Sequence`): The items.
        num_workers (`int`): Threads, at least 1.
        progress (`Callable[[int, int], None]`, *optional*): Called with how many are done, and of how many.

    Returns:
        `Iterator` of results.
    """
    with ThreadPoolExecutor(num_workers) as pool:
        left = iter(items)
        waiting = [pool.submit(function, item) for item in islice(left, _IN_FLIGHT)]
        for done in range(1, len(items) + 1):
            result = waiting.pop(0).result()
            waiting += [pool.submit(function, item) for item in islice(left, 1)]
            if progress is not None:
                progress(done, len(items))
            yield result
