"""Plan the clips of a training set before training starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from diffusers_video.data.accounting import (
    BETWEEN_CLIPS,
    OUTSIDE_SPAN,
    OVER_LIMIT,
    REPEATS,
    RESAMPLED,
    TAIL,
    TOO_SHORT,
    UNREADABLE,
    UnusedPart,
)
from diffusers_video.data.buckets import Bucket, choose_bucket
from diffusers_video.data.checks import check_whole
from diffusers_video.data.clips import TimeLine, WindowRule, Windows, clip_times, cut_windows, select_span
from diffusers_video.data.plan import ClipPlan, PlannedClip, PlannedVideo
from diffusers_video.data.probing import (
    Measurement,
    ProbeCache,
    ProgressCallback,
    describe_error,
    folder_fps,
    map_in_order,
)
from diffusers_video.data.settings import PlanSettings
from diffusers_video.data.sources import VideoEntry, VideoSource, list_videos
from diffusers_video.video_io import probe_video, read_frames_at


# One video as planned: `None` if it cannot be read, its clips, and what of it is unused.
_VideoPlan = tuple[PlannedVideo | None, list[PlannedClip], list[UnusedPart]]


def plan_clips(
    source: VideoSource | str | Path,
    settings: PlanSettings,
    *,
    num_workers: int = 4,
    cache_file: str | Path | None = None,
    verify: bool = False,
    progress: ProgressCallback | None = None,
) -> ClipPlan:
    """
    Measure the videos of a training set and cut them into clips.

    Files are read as a whole, but decoded only with `verify`. Files that cannot be read do not stop it: they stand in
    the plan with the reason.

    Args:
        source ([`VideoSource`], `str` or `Path`): What [`list_videos`] returned, or a path for it.
        settings ([`PlanSettings`]): How to cut.
        num_workers (`int`, *optional*, defaults to 4): Threads that measure, at least 1.
        cache_file (`str` or `Path`, *optional*):
            A JSON file that keeps measurements; files that have not changed are then not read again.
        verify (`bool`, *optional*, defaults to `False`):
            Also decode every clip, so that damage inside a stream is found now and not in training.
        progress (`Callable[[int, int], None]`, *optional*): Called with the number of videos done, and of all.

    Returns:
        [`ClipPlan`]: It may hold no clip; then its `unused` parts say why.

    Raises:
        TypeError: If `settings` or `num_workers` is of the wrong type.
        FileNotFoundError: If `source` or the folder of `cache_file` does not exist.
        ValueError: If `source` is no training set, or an argument is out of range.
    """
    if not isinstance(settings, PlanSettings):
        raise TypeError(f"`settings` must be a PlanSettings, but is {type(settings).__name__}.")
    check_whole("num_workers", num_workers, 1)
    if cache_file is not None and not Path(cache_file).parent.is_dir():
        raise FileNotFoundError(
            f"`cache_file` must lie in a folder that exists, but is {cache_file}. Make the folder."
        )
    cache = ProbeCache(None if cache_file is None else Path(cache_file))
    if not isinstance(source, VideoSource):
        source = list_videos(source)
    videos, clips, unused = [], [], []
    plan_one = partial(_plan_entry, settings=settings, cache=cache, verify=verify)
    for video, own_clips, own_unused in map_in_order(plan_one, source.entries, num_workers, progress):
        clips += [replace(clip, video=len(videos)) for clip in own_clips]
        videos += [] if video is None else [video]
        unused += own_unused
    cache.save()
    return ClipPlan(str(source.root), settings, tuple(videos), tuple(clips), (*unused, *source.unused))


def _plan_entry(entry: VideoEntry, settings: PlanSettings, cache: ProbeCache, verify: bool) -> _VideoPlan:
    try:
        measured = cache.measure(entry.path, settings.image_fps)
    except Exception as error:
        return None, [], [UnusedPart(entry.name, UNREADABLE, describe_error(error))]
    fps = settings.fps or measured.fps
    end = measured.timestamps[0] + measured.duration
    line = select_span(measured.timestamps, end, settings.span)
    if line is None:
        return _leave_out(entry, measured, OUTSIDE_SPAN, f"no frame appears in {_span(settings)} of its length")
    size, count = (measured.width, measured.height), line.count_frames(fps)
    choice = choose_bucket(*size, count, settings.buckets, allow_upscale=settings.allow_upscale)
    if choice.bucket is None:
        at_rate = f" (at {_number(fps)} fps)" if choice.reason == TOO_SHORT else ""
        return _leave_out(entry, measured, choice.reason, choice.explanation + at_rate)
    windows = _cut(line, fps, choice.bucket, settings)
    clips = [PlannedClip(0, start, fps, choice.bucket) for start in windows.starts]
    try:
        _decode_all(entry.path, clips if verify else [], settings.image_fps)
    except Exception as error:
        return _leave_out(entry, measured, UNREADABLE, describe_error(error))
    unused = list(_explain(entry.name, windows, measured, fps, choice.bucket, settings))
    return _describe(entry, measured, windows.reasons.count(None)), clips, unused


def _cut(line: TimeLine, fps: Fraction, bucket: Bucket, settings: PlanSettings) -> Windows:
    rule = WindowRule(
        fps=fps,
        num_frames=bucket.num_frames,
        stride=settings.clip_stride or bucket.num_frames,
        limit=settings.clips_per_video,
        allow_repeat=settings.allow_repeat,
    )
    return cut_windows(line, rule)


def _decode_all(path: Path, clips: list[PlannedClip], image_fps: Fraction | None) -> None:
    info = probe_video(path, fps=folder_fps(path, image_fps)) if clips else None
    for clip in clips:
        read_frames_at(info, clip_times(clip.start, clip.fps, clip.bucket.num_frames))


def _leave_out(entry: VideoEntry, measured: Measurement, reason: str, explanation: str) -> _VideoPlan:
    start = measured.timestamps[0]
    part = UnusedPart(entry.name, reason, explanation, start, start + measured.duration, len(measured.timestamps))
    return _describe(entry, measured, 0), [], [part]


def _describe(entry: VideoEntry, measured: Measurement, num_used_frames: int) -> PlannedVideo:
    return PlannedVideo(
        path=str(entry.path),
        name=entry.name,
        text=entry.text,
        width=measured.width,
        height=measured.height,
        fps=measured.fps,
        is_constant_fps=measured.is_constant_fps,
        duration=measured.duration,
        num_frames=len(measured.timestamps),
        num_used_frames=num_used_frames,
        file_state=measured.file_state,
    )


def _explain(
    name: str, windows: Windows, measured: Measurement, fps: Fraction, bucket: Bucket, settings: PlanSettings
) -> Iterator[UnusedPart]:
    own = f"{_number(measured.fps)} fps{'' if measured.is_constant_fps else ' on average, not constant'}"
    explanations = {
        OUTSIDE_SPAN: f"`span` is {_span(settings)} of the length",
        REPEATS: f"clips of {_number(fps)} fps would show frames of this video of {own} twice: lower `fps`, or set"
        " `allow_repeat`",
        OVER_LIMIT: f"`clips_per_video` is {settings.clips_per_video}",
        TAIL: f"too little for {bucket.num_frames} frames at {_number(fps)} fps",
        BETWEEN_CLIPS: f"`clip_stride` is {settings.clip_stride}, a clip has {bucket.num_frames} frames",
    }
    times = (*measured.timestamps, measured.timestamps[0] + measured.duration)
    for reason, first, stop in windows.unused_runs():
        yield UnusedPart(name, reason, explanations[reason], times[first], times[stop], stop - first)
    resampled = windows.reasons.count(RESAMPLED)
    if resampled:
        yield UnusedPart(name, RESAMPLED, f"from {own} to {_number(fps)} fps", num_frames=resampled)


def _number(fps: Fraction) -> str:
    return f"{float(fps):.6g}"


def _span(settings: PlanSettings) -> str:
    return " to ".join(f"{float(part):.4g}" for part in settings.span)
