"""Videos beside what they should be, frame by frame: PSNR, SSIM, and LPIPS by a given network."""

# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..layers.layout import videos_to_images


PSNR_CAP = 100.0
_CAPPED_ERROR = 1e-10  # squared error, for values in [0, 1], below which the cap stands
_SSIM_WINDOW = 11
_ROUNDING = 1e-4  # how far values may lie outside of their range


@dataclass(frozen=True, kw_only=True)
class FrameScores:
    """
    Averages of a score that every frame of every video has.

    Args:
        mean (`float`): Over all frames of all videos: the mean of the scores, not the score of a mean error.
        std (`float`): Standard deviation over the same, divided by their number.
        per_video (`tuple[float, ...]`): Mean over the frames of each video.
        per_frame (`tuple[float, ...]`): Mean over the videos at each place in time.
        per_frame_std (`tuple[float, ...]`): Standard deviation over the videos at each place in time.
        averaging (`str`): What was averaged, in words, for reports.
    """

    mean: float
    std: float
    per_video: tuple[float, ...]
    per_frame: tuple[float, ...]
    per_frame_std: tuple[float, ...]
    averaging: str = "mean of the scores of single frames, all frames of all videos alike"


def average_frames(scores: Tensor) -> FrameScores:
    """
    Average scores of frames.

    Args:
        scores (`torch.Tensor` of shape `(batch_size, num_frames)`): As [`psnr`], [`ssim`] and [`lpips`] return them.

    Returns:
        [`FrameScores`]

    Raises:
        ValueError: If the shape is another one.
    """
    if scores.ndim != 2 or not scores.numel():
        raise ValueError(f"`scores` must have shape (batch_size, num_frames), but has shape {tuple(scores.shape)}.")
    scores_BF = scores.double()
    return FrameScores(
        mean=scores_BF.mean().item(),
        std=scores_BF.std(correction=0).item(),
        per_video=tuple(scores_BF.mean(1).tolist()),
        per_frame=tuple(scores_BF.mean(0).tolist()),
        per_frame_std=tuple(scores_BF.std(0, correction=0).tolist()),
    )


def psnr(
    videos: Tensor,
    targets: Tensor,
    per: Literal["frame", "video"] = "frame",
    cap: float | None = PSNR_CAP,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """
    Compute the peak signal-to-noise ratio; the peak is the length of the range of values.

    Args:
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): What is measured.
        targets (`torch.Tensor` of the same shape): What it should be.
        per (`str`, *optional*, defaults to `"frame"`): `"frame"` takes one error for each frame, over its channels and
            pixels; `"video"` one for each video, which gives less than the mean of the frames wherever they differ.
        cap (`float`, *optional*, defaults to 100): In dB, for errors too small to count: below 1e-10 on the range
            [0, 1]. `None` leaves them as they are, infinite for equal frames.
        value_range (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): Least and largest value of a pixel.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames)`, or `(batch_size,)` for videos: in dB, float64.

    Raises:
        ValueError: If shapes differ, values are outside of the range or not finite, or `per` is neither.

    Source:
        Frames and cap as in common_metrics_on_video_quality, videos without a cap as in PVDM.
    """
    if per not in ("frame", "video"):
        raise ValueError(f"`per` must be 'frame' or 'video', but is {per!r}.")
    videos, targets = _unit_range(videos, targets, value_range)
    error = (videos - targets).square().mean((1, 3, 4) if per == "frame" else (1, 2, 3, 4))
    decibels = -10 * error.log10()
    return decibels if cap is None else decibels.masked_fill(error < _CAPPED_ERROR, cap)


def ssim(videos: Tensor, targets: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """
    Compute the structural similarity of frames, each channel on its own, with a Gaussian window of 11x11 pixels and
    standard deviation 1.5.

    Only places where the whole window lies inside of the picture count: a border of 5 pixels does not. That is the
    mean of torchmetrics' map without its border; torchmetrics' own mean counts windows over mirrored borders as well,
    and its SSIM of a tensor with five axes has a window over time.

    Args:
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): What is measured, at
            least 11 pixels high and wide.
        targets (`torch.Tensor` of the same shape): What it should be.
        value_range (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): Least and largest value of a pixel.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames)`: Mean over channels and pixels, float64; 1 for equal frames.

    Raises:
        ValueError: If shapes differ, frames are too small, or values are outside of the range or not finite.
        ImportError: If torchmetrics is not installed.

    Source:
        Wang et al.: Image Quality Assessment: From Error Visibility to Structural Similarity (2004), equation 13 with
        K1 = 0.01, K2 = 0.03; per channel as in common_metrics_on_video_quality.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise ImportError("SSIM needs torchmetrics: pip install 'diffusers-video[metrics]'.") from error
    videos, targets = _unit_range(videos, targets, value_range)
    if min(videos.shape[3:]) < _SSIM_WINDOW:
        raise ValueError(
            f"`videos` must be at least {_SSIM_WINDOW} pixels high and wide for SSIM, but are"
            f" {videos.shape[3]}x{videos.shape[4]}."
        )
    border = _SSIM_WINDOW // 2
    scores = []
    for video, target in zip(videos.split(1), targets.split(1), strict=True):
        _, map_NCHW = structural_similarity_index_measure(
            videos_to_images(video),
            videos_to_images(target),
            sigma=1.5,
            kernel_size=_SSIM_WINDOW,
            data_range=1.0,
            k1=0.01,
            k2=0.03,
            reduction="none",
            return_full_image=True,
        )
        scores.append(map_NCHW[:, :, border:-border, border:-border].mean((1, 2, 3)))
    return torch.stack(scores)


@torch.no_grad()
def lpips(
    network: Callable[[Tensor, Tensor], Tensor],
    videos: Tensor,
    targets: Tensor,
    value_range: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 16,
) -> Tensor:
    """
    Compute the perceptual distance of frames by a network such as `lpips.LPIPS(net="alex")`.

    Args:
        network (`Callable`): Takes two batches of images `(num_images, channels, height, width)` with values in
            [-1, 1], float32, on the device of `videos`, and returns a distance for each, `(num_images,)`, with any
            further axes (of length 1, or those of a map): their mean is taken. The caller has put it into evaluation.
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): What is measured.
        targets (`torch.Tensor` of the same shape): What it should be.
        value_range (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): Least and largest value of a pixel.
        batch_size (`int`, *optional*, defaults to 16): Frames at once, at least 1.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames)`: float64.

    Raises:
        ValueError: If shapes differ, values are outside of the range or not finite, or the network returns anything
            but one finite distance, or map of them, for each image.

    Source:
        The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (arXiv:1801.03924), equation 1.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, but is {batch_size}.")
    size = videos.shape
    images = [
        videos_to_images(part * 2 - 1).float().split(batch_size) for part in _unit_range(videos, targets, value_range)
    ]
    distances = []
    for batch, target_batch in zip(*images, strict=True):
        distance = network(batch, target_batch)
        if distance.ndim == 0 or len(distance) != len(batch) or not distance.isfinite().all():
            raise ValueError(
                f"`network` must return one finite distance for each of {len(batch)} images, but returned shape"
                f" {tuple(distance.shape)}. Let it not average over images."
            )
        distances.append(distance.double().flatten(1).mean(1) if distance.ndim > 1 else distance.double())
    return torch.cat(distances).view(size[0], size[2])


def check_videos(videos: Tensor, value_range: tuple[float, float] = (0.0, 1.0), argument: str = "videos") -> Tensor:
    """
    Make sure that videos can be measured, and bring their values to [0, 1].

    Args:
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Floating-point values.
        value_range (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): Least and largest value of a pixel.
        argument (`str`, *optional*, defaults to `"videos"`): What the error calls them.

    Returns:
        `torch.Tensor` of the same shape, float64 where the device has it.

    Raises:
        TypeError: If they are not a floating-point tensor.
        ValueError: If their shape, a value or the range is wrong.
    """
    if not isinstance(videos, Tensor) or not videos.is_floating_point():
        kind = videos.dtype if isinstance(videos, Tensor) else type(videos).__name__
        raise TypeError(f"`{argument}` must be a floating-point tensor, but is {kind}. Divide bytes by 255 first.")
    if videos.ndim != 5 or not videos.numel():
        raise ValueError(
            f"`{argument}` must have shape (batch_size, channels, num_frames, height, width), but has shape"
            f" {tuple(videos.shape)}."
        )
    low, high = value_range
    if not low < high:
        raise ValueError(f"`value_range` must rise, but is {value_range}.")
    least, largest = videos.detach().aminmax()
    room = _ROUNDING * (high - low)
    if not (low - room <= least and largest <= high + room):  # NaN compares as false
        raise ValueError(
            f"`{argument}` must have finite values in [{low:g}, {high:g}], but they reach from {least.item():.6g} to"
            f" {largest.item():.6g}. Name their range as `value_range`, or clamp what a decoder overshoots."
        )
    dtype = torch.float32 if videos.device.type == "mps" else torch.float64  # which Apple's GPUs do not have
    return (videos.detach().to(dtype) - low) / (high - low)


def check_same_shape(videos: Tensor, targets: Tensor) -> None:
    """
    Make sure that every video has its target.

    Args:
        videos (`torch.Tensor`): Videos.
        targets (`torch.Tensor`): What they should be.

    Raises:
        ValueError: If their shapes differ.
    """
    if videos.shape != targets.shape:
        raise ValueError(
            f"`videos` and `targets` must have one shape, but have {tuple(videos.shape)} and {tuple(targets.shape)}."
        )


def _unit_range(videos: Tensor, targets: Tensor, value_range: tuple[float, float]) -> tuple[Tensor, Tensor]:
    videos, targets = check_videos(videos, value_range), check_videos(targets, value_range, "targets")
    check_same_shape(videos, targets)
    return videos, targets
