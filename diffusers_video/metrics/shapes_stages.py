"""Scores of the stages after text to video on the `shapes` set: how far frames between others lie from the true path,
and how much nearer to the true frames an upscaler comes than a bicubic filter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..data.shapes_check import SeenClip
from .bootstrap import bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class PathScores:
    """
    Distances of the object's middle from the true one, in pixels, over all frames that were drawn.

    Args:
        num_clips (`int`): Size of the set.
        num_frames (`int`): Frames that were drawn, of all clips.
        deviation (`float`): Mean distance.
        deviation_95 (`float`): Distance that 95 % of the frames do not exceed.
        deviation_max (`float`): Largest distance.
        lost (`float`): Part of the frames in which no object is seen; they count with a whole side.
    """

    num_clips: int
    num_frames: int
    deviation: float
    deviation_95: float
    deviation_max: float
    lost: float


@dataclass(frozen=True, kw_only=True)
class UpscalingScores:
    """
    Peak signal-to-noise ratios against the true clips, in decibels, each the mean over clips.

    Args:
        num_clips (`int`): Size of the set.
        psnr (`float`): Of the upscaler.
        bicubic_psnr (`float`): Of a bicubic filter on the same small frames.
        gain (`float`): Mean difference.
        better (`float`): Part of the clips, in [0, 1], in which the upscaler is nearer.
        intervals (`dict[str, tuple[float, float]]`): Where the gain lies with 95 % confidence, by
            [`bootstrap_interval`]; not a number with a single clip.
    """

    num_clips: int
    psnr: float
    bicubic_psnr: float
    gain: float
    better: float
    intervals: dict[str, tuple[float, float]]


def measure_deviations(seen: SeenClip, true: SeenClip, side: float) -> list[float | None]:
    """
    Measure how far the object of each frame is from where it should be.

    Args:
        seen (`SeenClip`): What [`read_clip`] found in the frames that were drawn.
        true (`SeenClip`): What it found in the true ones, as many.
        side (`float`): Shorter side of the picture in pixels.

    Returns:
        `list`: Distance in pixels for each frame, at most `side`; `None` where no object is seen.

    Raises:
        ValueError: If the numbers of frames differ, or no object is seen in a true frame.
    """
    if len(seen.centres) != len(true.centres) or None in true.centres:
        raise ValueError(
            "`true` must show an object in as many frames as `seen` has, but they have"
            f" {len(true.centres)} and {len(seen.centres)}. Pass the true clip of the same scene."
        )
    return [
        None if found is None else min(float(np.hypot(found[0] - wanted[0], found[1] - wanted[1])), side)
        for found, wanted in zip(seen.centres, true.centres, strict=True)
    ]


def score_paths(deviations: Sequence[Sequence[float | None]], side: float) -> PathScores:
    """
    Sum up the distances of a set of clips.

    Args:
        deviations (`Sequence[Sequence[float | None]]`): From [`measure_deviations`], for each clip; at least one
            distance.
        side (`float`): What a frame counts in which no object is seen.

    Returns:
        [`PathScores`]

    Raises:
        ValueError: If there are none.
    """
    found = [one for clip in deviations for one in clip]
    if not found:
        raise ValueError("`deviations` must hold at least one distance, but holds none. Measure a clip first.")
    distances = np.array([side if one is None else one for one in found])
    return PathScores(
        num_clips=len(deviations),
        num_frames=len(found),
        deviation=float(distances.mean()),
        deviation_95=float(np.percentile(distances, 95)),
        deviation_max=float(distances.max()),
        lost=float(np.mean([one is None for one in found])),
    )


def score_upscaling(psnr: Sequence[float], bicubic_psnr: Sequence[float]) -> UpscalingScores:
    """
    Compare an upscaler with a bicubic filter.

    Args:
        psnr (`Sequence[float]`): Of each clip from the upscaler, at least one.
        bicubic_psnr (`Sequence[float]`): Of the same clips from the filter.

    Returns:
        [`UpscalingScores`]

    Raises:
        ValueError: If the numbers differ, or there are none.
    """
    if not psnr or len(psnr) != len(bicubic_psnr):
        raise ValueError(
            "`psnr` and `bicubic_psnr` must be equally many, at least one, but are"
            f" {len(psnr)} and {len(bicubic_psnr)}."
        )
    gains = np.subtract(psnr, bicubic_psnr, dtype=np.float64)
    low = high = float("nan")
    if len(gains) > 1:
        interval = bootstrap_interval(lambda rows: rows.mean().item(), torch.from_numpy(gains))
        low, high = interval.low, interval.high
    return UpscalingScores(
        num_clips=len(gains),
        psnr=float(np.mean(psnr)),
        bicubic_psnr=float(np.mean(bicubic_psnr)),
        gain=float(gains.mean()),
        better=float((gains > 0).mean()),
        intervals={"gain": (low, high)},
    )
