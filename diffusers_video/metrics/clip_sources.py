"""Where the clips of an evaluation come from: a folder of videos, a pipeline, or videos in memory."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .._video_values import as_fps, frame_to_array, split_frames
from ..data.accounting import MISSING
from ..data.clips import TimeLine, clip_times
from ..data.probing import ProgressCallback, describe_error, folder_fps, map_in_order
from ..data.sources import VIDEO_SUFFIXES, VideoEntry, list_videos
from ..video_io import VideoInfo, probe_video, read_frames_at
from .preprocessing import quantise, resize_frames
from .protocols import ClipPlace, EvaluationProtocol, choose_clips, rate_of


# Shapes: F frames, C = 3 colour channels, H height, W width.


class ClipSource(Protocol):
    """
    Clips by number, read when they are asked for.

    Attributes:
        num_clips (`int`): How many there are.
        rates (`frozenset[Fraction]`): Frames per second of the videos; empty if not known.
        record (`dict`): What a result says of the set: JSON values.
        captions (`Sequence[str]`, *optional*): What each clip should show; `None` or empty texts where nobody said.
    """

    num_clips: int
    rates: frozenset[Fraction]
    record: dict[str, Any]
    captions: Sequence[str] | None

    def read(self, numbers: Sequence[int]) -> list[Tensor]:
        """Clips `(F, 3, H, W)`, uint8, by number."""

    def name_of(self, number: int) -> str:
        """What errors call a clip."""


class StoredClips(ClipSource, Protocol):
    """
    Clips that are places in videos: what [`FolderClips`] and [`MemoryClips`] share.

    Attributes:
        protocol ([`EvaluationProtocol`]): How frames are stored.
        places (`Sequence[ClipPlace]`): Of each clip.
    """

    protocol: EvaluationProtocol
    places: Sequence[ClipPlace]

    def read(self, numbers: Sequence[int]) -> list[Tensor]:
        """
        Read clips.

        Args:
            numbers (`Sequence[int]`): Which.

        Returns:
            `list[torch.Tensor]`: `(F, 3, H, W)`, uint8.

        Raises:
            ValueError: If a video is damaged, has changed or has another length than the others in memory, or a value
                is out of range; the message names it.
        """
        return [self.read_place(self.places[number]) for number in numbers]

    def read_place(self, place: ClipPlace) -> Tensor:
        """
        Read one clip.

        Args:
            place ([`~metrics.protocols.ClipPlace`]): Which frames of which video.

        Returns:
            `torch.Tensor` of shape `(F, 3, H, W)`: uint8.

        Raises:
            ValueError: As [`read`].
        """
        return store_frames(self._frames_of(place), self.protocol)

    def name_of(self, number: int) -> str:
        """
        What errors call a clip.

        Args:
            number (`int`): Of the clip.

        Returns:
            `str`: The path or number of its video, and its first frame.
        """
        place = self.places[number]
        return f"{self._name_of_video(place.video)}, frame {place.frames[0]}"

    def _frames_of(self, place: ClipPlace) -> Tensor:
        """Frames `(F, 3, H, W)`: uint8, or floating point from 0 to 255."""

    def _name_of_video(self, video: int) -> str:
        """What errors call a video."""


class _Measured(NamedTuple):
    """What is kept of a video in a folder."""

    length: int
    fps: Fraction
    is_constant_fps: bool
    codec: str
    size: tuple[int, int]


class FolderClips(StoredClips):
    """
    Clips of a folder of videos, or of a list of them; one clip is in memory at a time.

    Args:
        path (`str` or `Path`): What [`~data.sources.list_videos`] reads: videos and folders of images at any depth,
            `metadata.jsonl` or a .csv file.
        protocol ([`EvaluationProtocol`]): Which clips are taken.
        is_generated (`bool`): Whether this is the generated set, or the reference.
        image_fps (`Fraction`, `float` or `str`, *optional*): The rate of folders of images that do not state theirs.
        num_workers (`int`, *optional*, defaults to 4): Threads that measure videos.
        progress (`Callable[[int, int], None]`, *optional*): Called with how many are measured, and of how many.

    Raises:
        FileNotFoundError: If there is nothing at `path`, or a listed video does not exist.
        ValueError: If a video is damaged, all are too short, or there are too few; the message names the file.
    """

    def __init__(
        self,
        path: str | Path,
        protocol: EvaluationProtocol,
        *,
        is_generated: bool,
        image_fps: Fraction | float | str | None = None,
        num_workers: int = 4,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.protocol, self._fps = protocol, rate_of(protocol)
        self._image_fps = None if image_fps is None else as_fps(image_fps, "image_fps")
        source = list_videos(path)
        for part in source.unused:
            if part.reason == MISSING:
                raise FileNotFoundError(
                    f"`path` {path} lists '{part.name}', but {part.explanation}. Correct the list."
                )
        self._entries: Sequence[VideoEntry] = source.entries
        measured = list(map_in_order(self._measure, self._entries, num_workers, progress))
        self.places, short = choose_clips([m.length for m in measured], protocol, is_generated=is_generated)
        self.num_clips = len(self.places)
        used = {place.video for place in self.places}
        self.rates = frozenset(self._fps or measured[video].fps for video in used)
        self._check_rates(measured, used)
        self.video_lengths = [m.length for m in measured]
        self.video_names = [_without_ending(entry) for entry in self._entries]
        self.captions = [self._entries[place.video].text for place in self.places]
        self.record = {
            "kind": "videos",
            "path": str(path),
            "num_videos": len(used),
            "num_videos_found": len(self._entries),
            "num_videos_too_short": len(short),
            "codecs": dict(Counter(measured[video].codec for video in sorted(used))),
            "sizes": dict(Counter("x".join(map(str, measured[video].size)) for video in sorted(used))),
        }

    def _probe(self, entry: VideoEntry) -> VideoInfo:
        try:
            return probe_video(entry.path, fps=folder_fps(entry.path, self._image_fps))
        except Exception as error:  # decoders meet damage in ways that nobody foresaw
            raise ValueError(
                f"`path` must hold videos that can be read, but {entry.path} cannot: {describe_error(error)}"
            ) from error

    def _measure(self, entry: VideoEntry) -> _Measured:
        info = self._probe(entry)
        length = info.num_frames if self._fps is None else _line_of(info).count_frames(self._fps)
        return _Measured(length, info.fps, info.is_constant_fps, info.codec, (info.width, info.height))

    def _check_rates(self, measured: Sequence[_Measured], used: Iterable[int]) -> None:
        if self._fps is not None:
            return
        for video in sorted(used):
            if not measured[video].is_constant_fps:
                raise ValueError(
                    f"`path` must hold videos of constant rate, but {self._entries[video].path} has none"
                    f" ({float(measured[video].fps):.4g} frames per second on average). Pass `fps` to read all videos"
                    " at one rate."
                )
        if len(self.rates) > 1:
            by_rate = {measured[video].fps: self._entries[video].path for video in sorted(used, reverse=True)}
            shown = "; ".join(f"{rate} in {path}" for rate, path in sorted(by_rate.items())[:3])
            raise ValueError(
                f"`path` must hold videos of one rate, but there are {len(by_rate)} rates: {shown}. Pass `fps` to read"
                " all videos at one rate."
            )

    def _frames_of(self, place: ClipPlace) -> Tensor:
        entry = self._entries[place.video]
        info = self._probe(entry)
        positions: Sequence[int] = place.frames
        if self._fps is not None:
            times = clip_times(info.timestamps[0], self._fps, place.frames[-1] + 1)
            positions = _line_of(info).shown_at([times[k] for k in place.frames])
        try:
            return read_frames_at(info, [info.timestamps[k] for k in positions])
        except Exception as error:
            raise ValueError(
                f"`path` must hold videos that can be read, but {entry.path} cannot: {describe_error(error)}"
            ) from error

    def _name_of_video(self, video: int) -> str:
        return str(self._entries[video].path)


def _without_ending(entry: VideoEntry) -> str:
    name = PurePosixPath(entry.name)
    return str(name.with_suffix("") if name.suffix.lower() in VIDEO_SUFFIXES else name)


def _line_of(info: VideoInfo) -> TimeLine:
    return TimeLine(info.timestamps, info.timestamps[0] + info.duration, 0, info.num_frames)


def store_frames(frames: Tensor, protocol: EvaluationProtocol) -> Tensor:
    """
    Bring frames to the size and the 8 bits that a protocol stores them with.

    Args:
        frames (`torch.Tensor` of shape `(F, 3, H, W)`): uint8, or floating point from 0 to 255.
        protocol ([`EvaluationProtocol`]): With `frame_size`, `frame_resize`, `frame_antialias` and `quantisation`.

    Returns:
        `torch.Tensor` of shape `(F, 3, H, W)`: uint8.

    Raises:
        ValueError: If a value is not finite.
    """
    if protocol.frame_size is not None:
        options = {"antialias": protocol.frame_antialias}
        frames = resize_frames(frames, protocol.frame_size, protocol.frame_resize, **options)
    return quantise(frames, protocol.quantisation)


class PipelineClips:
    """
    Clips that a pipeline draws when they are asked for, each from a seed of its own.

    Args:
        pipeline (`Callable`): A pipeline of ours: called with prompts, `num_frames`, a list of generators and
            `output_type="pt"`, it returns an object with `frames` `(B, F, 3, H, W)` in [0, 1] and `fps`.
        protocol ([`EvaluationProtocol`]): `num_generated` says how many, unless there are `prompts`.
        prompts (`Sequence[str]`, *optional*): Clip k is drawn from prompt k modulo their number; `None`: the pipeline
            is called without.
        seed (`int`, *optional*, defaults to 0): Clip k is drawn from `seed + k`.
        arguments: Further arguments of the pipeline, such as `num_inference_steps`.

    Raises:
        ValueError: If it is not known how many clips to draw, or the pipeline needs prompts.
    """

    def __init__(
        self,
        pipeline: Callable[..., Any],
        protocol: EvaluationProtocol,
        *,
        prompts: Sequence[str] | None = None,
        seed: int = 0,
        **arguments: Any,
    ) -> None:
        num_clips = protocol.num_generated or len(prompts or ())
        if not num_clips:
            raise ValueError("`num_generated` of the protocol must say how many clips to draw, or `prompts` must.")
        self.pipeline, self.protocol, self.prompts = pipeline, protocol, prompts
        self.num_clips, self.seed, self.arguments = num_clips, seed, arguments
        self.captions = None if prompts is None else [prompts[k % len(prompts)] for k in range(num_clips)]
        if prompts is None and not _takes(pipeline, "batch_size"):
            raise ValueError(
                f"`prompts` must be given for a {type(pipeline).__name__}, which draws from prompts. Pass some."
            )
        fps = protocol.fps or getattr(getattr(pipeline, "config", None), "fps", None)
        self.rates = frozenset() if fps is None else frozenset({as_fps(fps)})
        self.record = {
            "kind": "pipeline",
            "class": type(pipeline).__name__,
            "num_videos": num_clips,
            "num_prompts": None if prompts is None else len(prompts),
            "seed": seed,
            "arguments": {
                name: value if isinstance(value, (int, float, str)) else repr(value)
                for name, value in arguments.items()
            },
        }

    def read(self, numbers: Sequence[int]) -> list[Tensor]:
        """
        Draw clips.

        Args:
            numbers (`Sequence[int]`): Which.

        Returns:
            `list[torch.Tensor]`: `(F, 3, H, W)`, uint8.

        Raises:
            ValueError: If the pipeline returns too few frames, or values that are not finite.
        """
        prompts = () if self.captions is None else ([self.captions[number] for number in numbers],)
        fps = {} if self.protocol.fps is None else {"fps": float(rate_of(self.protocol))}
        options = {**fps, **self.arguments}
        if self.prompts is None:
            options["batch_size"] = len(numbers)
        output = self.pipeline(
            *prompts,
            num_frames=self.protocol.span,
            generator=[torch.Generator().manual_seed(self.seed + number) for number in numbers],
            output_type="pt",
            **options,
        )
        return [self._pick(video, number) for video, number in zip(output.frames, numbers, strict=True)]

    def _pick(self, video: Tensor, number: int) -> Tensor:
        if len(video) < self.protocol.span:
            raise ValueError(
                f"`num_frames` x `frame_stride` of the protocol needs {self.protocol.span} frames, but"
                f" {self.name_of(number)} has {len(video)}. Lower them."
            )
        frames = video[: self.protocol.span : self.protocol.frame_stride].float().cpu()
        return store_frames(frames * 255, self.protocol)

    def name_of(self, number: int) -> str:
        """
        What errors call a clip.

        Args:
            number (`int`): Of the clip.

        Returns:
            `str`: Pipeline and seed.
        """
        return f"the clip of {type(self.pipeline).__name__} with seed {self.seed + number}"


def _takes(function: Callable[..., Any], argument: str) -> bool:
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(item.kind is item.VAR_KEYWORD for item in parameters.values())


class MemoryClips(StoredClips):
    """
    Clips of videos that a sequence gives: a list, or a data set that makes them when asked.

    Args:
        videos (`Sequence`): Videos in the layouts of [`~video_io`]: `(F, C, H, W)` tensors, `(F, H, W, C)` arrays or
            lists of images; floating point is [0, 1]. All have as many frames as the first.
        protocol ([`EvaluationProtocol`]): Which clips are taken.
        is_generated (`bool`): Whether this is the generated set, or the reference.
        fps (`Fraction`, `float` or `str`, *optional*): Their frames per second; `None`: not known.
        name (`str`, *optional*, defaults to `"video"`): What errors and results call them.
        captions (`Sequence[str]`, *optional*): What each video should show.

    Raises:
        ValueError: If there are none, they are too short, or too few; or the protocol has another `fps`; or captions
            are not as many.
    """

    def __init__(
        self,
        videos: Sequence[Any],
        protocol: EvaluationProtocol,
        *,
        is_generated: bool,
        fps: Fraction | float | str | None = None,
        name: str = "video",
        captions: Sequence[str] | None = None,
    ) -> None:
        if len(videos) == 0:
            raise ValueError("`videos` must hold at least one video, but is empty.")
        if captions is not None and len(captions) != len(videos):
            raise ValueError(f"`captions` must be one for each of {len(videos)} videos, but are {len(captions)}.")
        self.rates = frozenset() if fps is None else frozenset({as_fps(fps)})
        if protocol.fps is not None and self.rates != {rate_of(protocol)}:
            raise ValueError(
                f"`fps` of the protocol is {protocol.fps}, but the videos in memory have {fps}, and only files can be"
                " read at another rate. Leave it out of the protocol, or pass the same."
            )
        self.protocol, self._videos, self._name = protocol, videos, name
        self._length = sum(1 for _ in split_frames(videos[0]))
        self.places, short = choose_clips([self._length] * len(videos), protocol, is_generated=is_generated)
        self.num_clips = len(self.places)
        self.captions = captions and [captions[place.video] for place in self.places]
        self.video_names = [str(number) for number in range(len(videos))]
        self.video_lengths = [self._length] * len(videos)
        self.record = {
            "kind": "memory",
            "path": name,
            "num_videos": len({place.video for place in self.places}),
            "num_videos_found": len(videos),
            "num_videos_too_short": len(short),
        }

    def _frames_of(self, place: ClipPlace) -> Tensor:
        frames = list(split_frames(self._videos[place.video]))
        if len(frames) != self._length:
            raise ValueError(
                f"`videos` must all have the {self._length} frames of the first, but {self._name} {place.video} has"
                f" {len(frames)}. Group them by length."
            )
        return torch.stack([_as_pixels(frames[k], k) for k in place.frames])

    def _name_of_video(self, video: int) -> str:
        return f"{self._name} {video}"


def _as_pixels(frame: Any, number: int) -> Tensor:
    """A frame in a layout of `video_io` -> CHW from 0 to 255, not rounded."""
    array = frame_to_array(frame, number)  # checks it
    if isinstance(frame, Tensor) and frame.is_floating_point():
        pixels = frame.detach().float().cpu() * 255
    elif isinstance(frame, np.ndarray) and frame.dtype != np.uint8:
        pixels = torch.from_numpy(frame).float().movedim(-1, 0) * 255
    else:
        pixels = torch.from_numpy(array.copy()).movedim(-1, 0)
    return pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels[:3]
