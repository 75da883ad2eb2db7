"""Sizes and lengths of training clips: what fits a video without enlarging it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from diffusers_video.data.accounting import TOO_SHORT, TOO_SMALL


_PATTERN = re.compile(r"([0-9]+)x([0-9]+)@([0-9]+)")


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """
    Size and length that clips of one batch share; written `512x320@16` (width, height, frames).

    Args:
        width (`int`): Pixels per row, at least 1.
        height (`int`): Rows, at least 1.
        num_frames (`int`): Frames per clip, at least 1.

    Raises:
        ValueError: If one of them is below 1.
    """

    width: int
    height: int
    num_frames: int

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.num_frames) < 1:
            raise ValueError(f"`buckets` must have width, height and frames of at least 1, but one is {self}.")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}@{self.num_frames}"

    @classmethod
    def parse(cls, text: str | Bucket) -> Bucket:
        """
        Read a bucket.

        Args:
            text (`str`): Such as `"512x320@16"`; a [`Bucket`] is returned as it is.

        Returns:
            [`Bucket`]

        Raises:
            TypeError: If `text` is no text.
            ValueError: If it is written otherwise, or a number is 0.
        """
        if isinstance(text, Bucket):
            return text
        if not isinstance(text, str):
            raise TypeError(f"`buckets` must be texts such as '512x320@16', but one is {text!r}.")
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"`buckets` must be written WIDTHxHEIGHT@FRAMES, such as '512x320@16', but one is {text!r}."
            )
        return cls(*map(int, match.groups()))


@dataclass(frozen=True, slots=True)
class BucketChoice:
    """
    The bucket of a video, or why it has none.

    Args:
        bucket ([`Bucket`], *optional*): `None` if none fits.
        reason (`str`, *optional*): Why none fits: too small or too short.
        explanation (`str`): The numbers behind the choice.
    """

    bucket: Bucket | None
    reason: str | None
    explanation: str


def enlargement(width: int, height: int, bucket: Bucket) -> float:
    """
    By how much a picture is scaled to cover a bucket; what then reaches over it is cropped.

    Args:
        width (`int`): Of the picture.
        height (`int`): Of the picture.
        bucket ([`Bucket`]): To be covered.

    Returns:
        `float`: Above 1 if the picture is enlarged.
    """
    return max(bucket.width / width, bucket.height / height)


def choose_bucket(
    width: int, height: int, num_frames: int, buckets: Sequence[Bucket], *, allow_upscale: bool = False
) -> BucketChoice:
    """
    Choose the bucket of a video: nearest in aspect ratio; of several, the longest; of several, the largest.

    Args:
        width (`int`): Of the video, in pixels.
        height (`int`): Of the video, in pixels.
        num_frames (`int`): Frames that the video gives at the asked rate.
        buckets (`Sequence[Bucket]`): What there is, at least one.
        allow_upscale (`bool`, *optional*, defaults to `False`): Also take buckets that the video must be enlarged for.

    Returns:
        [`BucketChoice`]
    """
    large_enough = [b for b in buckets if allow_upscale or enlargement(width, height, b) <= 1]
    if not large_enough:
        least = min(buckets, key=lambda b: enlargement(width, height, b))
        need = f"{width}x{height} pixels; the nearest bucket {least} would enlarge it"
        way_out = f"{enlargement(width, height, least):.2f} times (`allow_upscale` permits that)"
        return BucketChoice(None, TOO_SMALL, f"{need} {way_out}")
    fitting = [b for b in large_enough if b.num_frames <= num_frames]
    if not fitting:
        least = min(b.num_frames for b in large_enough)
        return BucketChoice(None, TOO_SHORT, f"{num_frames} frames; the shortest bucket of its size has {least}")
    ratio = width / height
    best = min(fitting, key=lambda b: (_distance(ratio, b), -b.num_frames, -b.width * b.height))
    scale = enlargement(width, height, best)
    cropped = 1 - best.width * best.height / (width * height * scale**2)
    return BucketChoice(best, None, f"{width}x{height} scaled by {scale:.3g}, {cropped:.0%} cropped")


def _distance(ratio: float, bucket: Bucket) -> float:
    """How far a bucket's aspect ratio is off; rounded so that equal ratios of different sizes compare as equal."""
    return round(abs(math.log(bucket.width / bucket.height / ratio)), 6)
