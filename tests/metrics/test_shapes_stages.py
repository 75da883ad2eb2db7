"""Scores of interpolation and super-resolution on clips of shapes."""

import math

import pytest

from diffusers_video.data.shapes_check import SeenClip
from diffusers_video.metrics.shapes_stages import measure_deviations, score_paths, score_upscaling


def seen_at(*centres: tuple[float, float] | None) -> SeenClip:
    names = tuple(centre and "red" for centre in centres)
    return SeenClip(colours=names, shapes=names, motion=None, roughness=0.0, centres=centres)


def test_deviations_are_distances_in_pixels() -> None:
    found = measure_deviations(seen_at((3, 4), (5, 5), None, (99, 0)), seen_at((0, 0), (5, 6), (1, 1), (0, 0)), 64)
    assert found == [5, 1, None, 64]


def test_paths_count_a_lost_frame_as_a_whole_side() -> None:
    scores = score_paths([[1.0] * 19, [None]], 64)
    assert (scores.num_clips, scores.num_frames, scores.lost, scores.deviation_max) == (2, 20, 0.05, 64)
    assert scores.deviation == pytest.approx((19 + 64) / 20)
    assert scores.deviation_95 == pytest.approx(1 + 0.05 * 63)  # between the two largest of 20


def test_upscaling_is_compared_clip_by_clip() -> None:
    scores = score_upscaling([30.0, 32.0, 31.0, 20.0], [29.0, 30.0, 30.0, 22.0])
    assert (scores.psnr, scores.bicubic_psnr, scores.gain, scores.better) == (28.25, 27.75, 0.5, 0.75)
    reach = 1.959964 * math.sqrt((0.25 + 2.25 + 0.25 + 6.25) / 3 / 4)
    low, high = scores.intervals["gain"]  # of four clips: about that of the normal distribution
    assert (low, high) == (pytest.approx(0.5 - reach, abs=0.7), pytest.approx(0.5 + reach, abs=0.7))
    assert math.isnan(score_upscaling([1.0], [2.0]).intervals["gain"][0])


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="`true` must show an object in as many frames"):
        measure_deviations(seen_at((1, 1)), seen_at((1, 1), (2, 2)), 64)
    with pytest.raises(ValueError, match="`true` must show an object"):
        measure_deviations(seen_at((1, 1)), seen_at(None), 64)
    with pytest.raises(ValueError, match="`deviations` must hold at least one distance"):
        score_paths([[]], 64)
    with pytest.raises(ValueError, match="`psnr` and `bicubic_psnr` must be equally many"):
        score_upscaling([1.0], [])
