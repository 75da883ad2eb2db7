"""How steady videos are over time: flicker, the error of frames warped along their motion, and how much moves."""

# Shapes: B videos, C channels, F frames, H height, W width; N = F - 1 pairs of frames. A flow is N2HW.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..layers.layout import videos_to_images
from .flow import Flow, estimate_flow, find_occlusion, warp_images
from .frames import check_same_shape, check_videos


class MotionScores(NamedTuple):
    """
    What moves in videos, and how well frames agree along it. One says little without the others: a still video has no
    warping error.

    Args:
        warping_error (`torch.Tensor` of shape `(batch_size,)`): Mean squared difference between each frame and the
            next one, warped back, over the pixels that both show, for values in [0, 1]; then the mean over pairs.
        visible (`torch.Tensor` of shape `(batch_size,)`): Part of the pixels that was compared.
        magnitude (`torch.Tensor` of shape `(batch_size,)`): Mean length of the motion from a frame to the next, in
            pixels.
    """

    warping_error: Tensor
    visible: Tensor
    magnitude: Tensor


def flicker(videos: Tensor, targets: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """
    Measure how much videos change from frame to frame where their targets do not, or less or otherwise.

    Args:
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): What is measured, at
            least 2 frames.
        targets (`torch.Tensor` of the same shape): What it should be.
        value_range (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): Least and largest value of a pixel.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: Mean absolute difference between the changes of both, in units of the
        given values: twice as much for [-1, 1] as for [0, 1].

    Raises:
        ValueError: If shapes differ, there is one frame, or values are outside of the range or not finite.
    """
    videos, targets = _check_pairs(videos, value_range), check_videos(targets, value_range, "targets")
    check_same_shape(videos, targets)
    low, high = value_range
    return (high - low) * (videos.diff(dim=2) - targets.diff(dim=2)).abs().mean((1, 2, 3, 4))


def temporal_flickering(videos: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """
    Measure how alike neighbouring frames are; meant for scenes in which nothing should move.

    Args:
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): At least 2 frames.
        value_range (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): Least and largest value of a pixel.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: 1 minus the mean absolute change from frame to frame as a part of the
        range; 1 for a still video.

    Raises:
        ValueError: If there is one frame, or values are outside of the range or not finite.

    Source:
        VBench (arXiv:2311.17982), dimension temporal flickering: `(255 - mean |I_t - I_(t+1)|) / 255` of bytes.
    """
    return 1 - _check_pairs(videos, value_range).diff(dim=2).abs().mean((1, 2, 3, 4))


@torch.no_grad()
def measure_motion(
    videos: Tensor,
    flow: Flow = estimate_flow,
    flow_videos: Tensor | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> MotionScores:
    """
    Measure motion and the warping error along it.

    Args:
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): What is measured, at
            least 2 frames.
        flow (`Callable`, *optional*, defaults to [`estimate_flow`]): Takes two batches of images `(num_images,
            channels, height, width)`, float32 in [0, 1] on the device of the videos, and returns the motion from the
            first to the second, `(num_images, 2, height, width)`, to the right and down in pixels.
        flow_videos (`torch.Tensor`, *optional*): Videos whose motion is taken, of as many videos, frames and pixels;
            for processed videos these are the originals. The videos themselves if not given.
        value_range (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): Least and largest value of a pixel.

    Returns:
        [`MotionScores`]

    Raises:
        ValueError: If there is one frame, shapes differ, values are outside of the range or not finite, or `flow`
            returns anything but a finite flow of each pair.

    Source:
        Fast Blind Video Temporal Consistency (arXiv:1808.00449), Section 4.2, as its code computes it: a pair whose
        pixels are all hidden adds an error of 0. The mean of `warping_error` over videos is that of a set.
    """
    videos = _check_pairs(videos, value_range)
    sources = videos if flow_videos is None else _check_pairs(flow_videos, value_range, "flow_videos")
    if sources.shape[0] != videos.shape[0] or sources.shape[2:] != videos.shape[2:]:
        raise ValueError(
            f"`flow_videos` must have the videos, frames and pixels of `videos`, {tuple(videos.shape)}, but have shape"
            f" {tuple(sources.shape)}."
        )
    scores = [_score_motion(*parts, flow) for parts in zip(videos.split(1), sources.split(1), strict=True)]
    return MotionScores(*(torch.stack(values) for values in zip(*scores, strict=True)))


def _score_motion(video: Tensor, source: Tensor, flow: Flow) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of one video, in the order of [`MotionScores`]."""
    images, sources = videos_to_images(video), videos_to_images(source).float()
    there_N2HW, back_N2HW = (
        _checked_flow(flow, first, second)
        for first, second in ((sources[:-1], sources[1:]), (sources[1:], sources[:-1]))
    )
    visible_N1HW = (~find_occlusion(there_N2HW, back_N2HW)).to(images.dtype)
    error_N1HW = (warp_images(images[1:], there_N2HW) - images[:-1]).square().mean(1, keepdim=True)
    compared_N = visible_N1HW.sum((1, 2, 3))
    error_N = (error_N1HW * visible_N1HW).sum((1, 2, 3)) / compared_N.clamp(min=1)
    return error_N.mean(), visible_N1HW.mean(), there_N2HW.norm(dim=1).mean()


def _checked_flow(flow: Flow, first: Tensor, second: Tensor) -> Tensor:
    found = flow(first, second)
    wanted = (len(first), 2, *first.shape[2:])
    if found.shape != wanted or not found.isfinite().all():
        raise ValueError(
            f"`flow` must return finite motion of shape {wanted}, but returned shape {tuple(found.shape)}"
            f"{'' if found.shape != wanted else ' with NaN or infinite values'}."
        )
    return found.to(first.device)


def _check_pairs(videos: Tensor, value_range: tuple[float, float], argument: str = "videos") -> Tensor:
    videos = check_videos(videos, value_range, argument)
    if videos.shape[2] < 2:
        raise ValueError(f"`{argument}` must have at least 2 frames to compare, but have {videos.shape[2]}.")
    return videos
