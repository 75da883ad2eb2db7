"""How a training set is cut into clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from diffusers_video._video_values import as_fps
from diffusers_video.data.buckets import Bucket
from diffusers_video.data.checks import check_whole


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """
    How videos become training clips.

    Args:
        buckets (`Sequence[str]` or `str`): Sizes and lengths, such as `"512x320@16"` (width, height, frames).
        fps (`Fraction`, `int`, `float` or `str`, *optional*):
            Frames per second of the clips; by default each video's own, the average where its rate varies.
        clips_per_video (`int`, *optional*): The most clips per video, spread evenly; by default as many as fit.
        clip_stride (`int`, *optional*):
            Frames, at `fps`, from one clip's start to the next one's; by default the clip's length, so that clips meet
            without overlap.
        span (`tuple` of two numbers, *optional*, defaults to `(0, 1)`):
            The part of each video's length to use, from the first number (included) to the second (excluded). Plans
            with (0, 3/4) and (3/4, 1) share no frame.
        allow_repeat (`bool`, *optional*, defaults to `False`):
            Whether a clip may show a frame twice in a row, as clips faster than their video do.
        allow_upscale (`bool`, *optional*, defaults to `False`): Whether videos may be enlarged to fill a bucket.
        image_fps (`Fraction`, `int`, `float` or `str`, *optional*):
            Frames per second of folders of images that do not state their own in `video.json`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If one is out of its range, or a bucket is named twice.
    """

    buckets: Sequence[Bucket | str] | str
    fps: Fraction | float | str | None = None
    clips_per_video: int | None = None
    clip_stride: int | None = None
    span: tuple[Fraction | float, Fraction | float] = (0, 1)
    allow_repeat: bool = False
    allow_upscale: bool = False
    image_fps: Fraction | float | str | None = None

    def __post_init__(self) -> None:
        named = [self.buckets] if isinstance(self.buckets, (str, Bucket)) else list(self.buckets)
        buckets = tuple(map(Bucket.parse, named))
        if not buckets or len(set(buckets)) != len(buckets):
            raise ValueError(f"`buckets` must be one or more different buckets, but is {[str(b) for b in buckets]}.")
        object.__setattr__(self, "buckets", buckets)
        for name in ("fps", "image_fps"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else as_fps(value, name))
        for name in ("clips_per_video", "clip_stride"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        for name in ("allow_repeat", "allow_upscale"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}` must be True or False, but is {getattr(self, name)!r}.")
        object.__setattr__(self, "span", _as_span(self.span))

    def to_json(self) -> dict[str, Any]:
        """
        Make it plain; `PlanSettings(**plain)` is the inverse.

        Returns:
            `dict`: JSON values.
        """
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["buckets"] = [str(bucket) for bucket in self.buckets]
        plain["span"] = [str(part) for part in self.span]
        return plain | {name: plain[name] and str(plain[name]) for name in ("fps", "image_fps")}


def _as_span(span: Sequence[Fraction | float | str]) -> tuple[Fraction, Fraction]:
    try:
        start, end = (Fraction(part).limit_denominator(1_000_000) for part in span)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        raise ValueError(f"`span` must be two numbers such as (0, 0.75), but is {span!r}.") from None
    if not 0 <= start < end <= 1:
        raise ValueError(f"`span` must increase within [0, 1], but is {span!r}. (0, 1) is the whole video.")
    return start, end
