"""Buckets: how they are written and which one a video gets."""

from __future__ import annotations

import pytest

from diffusers_video.data.accounting import TOO_SHORT, TOO_SMALL
from diffusers_video.data.buckets import Bucket, choose_bucket


ALL = [Bucket.parse(text) for text in ("512x512@16", "768x432@16", "768x432@32", "384x216@32", "320x576@16")]


def test_a_bucket_is_read_and_written_as_width_height_frames() -> None:
    bucket = Bucket.parse(" 512x320@16 ")
    assert (bucket.width, bucket.height, bucket.num_frames) == (512, 320, 16)
    assert str(bucket) == "512x320@16" and Bucket.parse(bucket) is bucket


@pytest.mark.parametrize(
    ("video", "bucket"),
    [
        ((1920, 1080, 100), "768x432@32"),  # nearest in aspect; of two lengths the longer; of two sizes the larger
        ((1920, 1080, 31), "768x432@16"),  # the same shape, shorter
        ((600, 600, 500), "512x512@16"),
        ((500, 281, 40), "384x216@32"),  # too small for 768x432
        ((1080, 1920, 20), "320x576@16"),
    ],
)
def test_the_nearest_shape_wins_then_the_longest_then_the_largest(video: tuple[int, ...], bucket: str) -> None:
    choice = choose_bucket(*video, ALL)
    assert str(choice.bucket) == bucket and choice.reason is None


def test_a_small_video_is_enlarged_only_if_asked() -> None:
    refused = choose_bucket(300, 200, 99, ALL)
    assert refused.bucket is None and refused.reason == TOO_SMALL
    assert "300x200" in refused.explanation and "1.28 times (`allow_upscale`" in refused.explanation
    assert str(choose_bucket(300, 200, 99, ALL, allow_upscale=True).bucket) == "768x432@32"


def test_a_video_just_as_large_as_a_bucket_fits_it() -> None:
    assert choose_bucket(768, 432, 16, ALL).bucket == ALL[1]
    assert choose_bucket(768, 431, 16, ALL[1:2]).reason == TOO_SMALL


def test_a_short_video_says_how_short() -> None:
    refused = choose_bucket(1920, 1080, 15, ALL)
    assert refused.bucket is None and refused.reason == TOO_SHORT
    assert refused.explanation.startswith("15 frames; the shortest bucket of its size has 16")
