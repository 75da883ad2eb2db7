"""The training plan: every clip of a training set, and the reason for whatever gives none."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from diffusers_video.data.accounting import UnusedPart
from diffusers_video.data.buckets import Bucket
from diffusers_video.data.clips import clip_times
from diffusers_video.data.files import fingerprint, write_json
from diffusers_video.data.settings import PlanSettings


_PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class PlannedVideo:
    """
    A readable video of the training set.

    Args:
        path (`str`): Where it lies.
        name (`str`): What the set calls it.
        text (`str`): Its caption.
        width (`int`): Pixels per row as shown.
        height (`int`): Rows as shown.
        fps (`Fraction`): Its frames per second, the average if the rate varies.
        is_constant_fps (`bool`): Whether one rate explains all its timestamps.
        duration (`Fraction`): Its length in seconds.
        num_frames (`int`): Its frames, counted.
        num_used_frames (`int`): Those that at least one clip shows.
        file_state (`tuple[int, int]`): Size and time of change when it was measured.
    """

    path: str
    name: str
    text: str
    width: int
    height: int
    fps: Fraction
    is_constant_fps: bool
    duration: Fraction
    num_frames: int
    num_used_frames: int
    file_state: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PlannedClip:
    """
    A training clip.

    Args:
        video (`int`): Number of its video in the plan.
        start (`Fraction`): When its first frame is asked for, in seconds on the file's clock.
        fps (`Fraction`): Its frames per second: frame k is what the video shows at `start + k / fps`.
        bucket ([`Bucket`]): Its size and length.
    """

    video: int
    start: Fraction
    fps: Fraction
    bucket: Bucket

    @property
    def times(self) -> list[Fraction]:
        """When its frames are asked for, in seconds on the file's clock."""
        return clip_times(self.start, self.fps, self.bucket.num_frames)


@dataclass(frozen=True)
class ClipPlan:
    """
    Every clip of a training set, and every part that no clip is made of.

    For each video, `num_used_frames` and the frames of its `unused` parts add up to `num_frames`. Files that cannot be
    read, and rows without a file, stand in `unused` alone.

    Args:
        root (`str`): The folder of the training set.
        settings ([`PlanSettings`]): How it was cut.
        videos (`tuple` of [`PlannedVideo`]): The readable videos, whether they give clips or not.
        clips (`tuple` of [`PlannedClip`]): The clips, by video and start.
        unused (`tuple` of [`UnusedPart`]): The rest.
    """

    root: str
    settings: PlanSettings
    videos: tuple[PlannedVideo, ...]
    clips: tuple[PlannedClip, ...]
    unused: tuple[UnusedPart, ...]

    def to_json(self) -> dict[str, Any]:
        """
        Make it plain.

        Returns:
            `dict`: JSON values; fractions and buckets as text.
        """
        return {
            "version": _PLAN_VERSION,
            "root": self.root,
            "settings": self.settings.to_json(),
            "videos": [_to_plain(asdict(video)) for video in self.videos],
            "clips": [_to_plain(_clip_fields(clip)) for clip in self.clips],
            "unused": [_to_plain(asdict(part)) for part in self.unused],
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> ClipPlan:
        """
        The inverse of [`ClipPlan.to_json`].

        Args:
            plain (`dict`): What it returned.

        Returns:
            [`ClipPlan`]

        Raises:
            ValueError: If `plain` is something else.
        """
        try:
            if plain["version"] != _PLAN_VERSION:
                raise ValueError(f"it is of version {plain['version']}, not {_PLAN_VERSION}")
            return cls(
                plain["root"],
                PlanSettings(**plain["settings"]),
                tuple(_load_video(**video) for video in plain["videos"]),
                tuple(_load_clip(**clip) for clip in plain["clips"]),
                tuple(_load_unused(**part) for part in plain["unused"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"`plain` must be a plan of clips, but cannot be read ({error}). Plan again.") from error

    def save(self, path: str | Path) -> None:
        """
        Write the plan to a JSON file.

        Args:
            path (`str` or `Path`): Where to; its folder must exist.
        """
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> ClipPlan:
        """
        Read a plan that [`ClipPlan.save`] wrote.

        Args:
            path (`str` or `Path`): The file.

        Returns:
            [`ClipPlan`]: That videos have not changed is checked as they are read.

        Raises:
            ValueError: If it is no plan.
        """
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"`path` must be a plan of clips, but {path} is no JSON: {error}.") from None
        return cls.from_json(plain)

    def fingerprint(self) -> str:
        """
        A hash of what training sees of the plan: clips, captions, sizes of files; not of where the set lies.

        Returns:
            `str`: 64 hexadecimal digits.
        """
        plain = self.to_json()
        used = {clip.video for clip in self.clips}
        videos = [
            {"number": number, "name": video.name, "text": video.text, "state": _portable_state(video)}
            for number, video in enumerate(self.videos)
            if number in used
        ]
        return fingerprint([videos, plain["clips"], plain["settings"]])


def _portable_state(video: PlannedVideo) -> list[int]:
    size, changed = video.file_state
    return [size] if size else [video.num_frames, changed]  # a folder's size says nothing


def _clip_fields(clip: PlannedClip) -> dict[str, Any]:
    return {"video": clip.video, "start": clip.start, "fps": clip.fps, "bucket": clip.bucket}


def _to_plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, (Fraction, Bucket)) else value for name, value in fields.items()}


def _load_video(*, fps: str, duration: str, file_state: list[int], **fields: Any) -> PlannedVideo:
    size, changed = file_state
    return PlannedVideo(fps=Fraction(fps), duration=Fraction(duration), file_state=(size, changed), **fields)


def _load_clip(*, video: int, start: str, fps: str, bucket: str) -> PlannedClip:
    return PlannedClip(video, Fraction(start), Fraction(fps), Bucket.parse(bucket))


def _load_unused(*, start: str | None, end: str | None, **fields: Any) -> UnusedPart:
    times = [None if time is None else Fraction(time) for time in (start, end)]
    return UnusedPart(start=times[0], end=times[1], **fields)
