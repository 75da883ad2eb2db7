"""Optical flow between frames: a small estimator of our own, warping, and where flow has no counterpart."""

# Shapes: N pairs of images, C channels, H height, W width. A flow is N2HW: to the right and down, in pixels.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


Flow = Callable[[Tensor, Tensor], Tensor]

_SMALLEST_SIDE = 16  # of the coarsest level of the pyramid
_DAMPING = 1e-5  # weight of no motion, beside squared slopes of values in [0, 1]
_LARGEST_STEP = 2.0  # pixels


@torch.no_grad()
def estimate_flow(first: Tensor, second: Tensor, window: float = 2.0, num_iterations: int = 5) -> Tensor:
    """
    Estimate where each pixel of one image lies in another one, by the method of Lucas and Kanade on a pyramid.

    It follows textured regions to a fraction of a pixel. Flat regions do not move, and the edges of moving objects are
    soft: for numbers to be published pass a trained network, such as RAFT, wherever a flow is taken.

    Args:
        first (`torch.Tensor` of shape `(num_images, channels, height, width)`): Values in [0, 1].
        second (`torch.Tensor` of the same shape): Values in [0, 1].
        window (`float`, *optional*, defaults to 2): Standard deviation of the Gaussian window in which pixels move
            alike, in pixels, above 0.
        num_iterations (`int`, *optional*, defaults to 5): Steps on each level, at least 1.

    Returns:
        `torch.Tensor` of shape `(num_images, 2, height, width)`: Motion from `first` to `second`, to the right and
        down, in pixels, float32.

    Raises:
        ValueError: If shapes differ or are others, or `window` or `num_iterations` is out of range.

    Source:
        Lucas, Kanade: An Iterative Image Registration Technique with an Application to Stereo Vision (1981); the
        pyramid after Bouguet: Pyramidal Implementation of the Lucas Kanade Feature Tracker (2000).
    """
    if first.ndim != 4 or first.shape != second.shape:
        raise ValueError(
            "`first` and `second` must be images of one shape (num_images, channels, height, width), but have shapes"
            f" {tuple(first.shape)} and {tuple(second.shape)}."
        )
    if window <= 0 or num_iterations < 1:
        raise ValueError(f"`window` must be above 0, `num_iterations` at least 1, but are {window}, {num_iterations}.")
    pyramid = [(first.float(), second.float())]
    while min(pyramid[-1][0].shape[2:]) >= 2 * _SMALLEST_SIDE:
        pyramid.append(tuple(functional.avg_pool2d(image, 2) for image in pyramid[-1]))
    flow_N2HW = first.new_zeros(len(first), 2, *pyramid[-1][0].shape[2:], dtype=torch.float32)
    for level, (image, other) in enumerate(reversed(pyramid)):
        if level:
            flow_N2HW = 2 * functional.interpolate(flow_N2HW, image.shape[2:], mode="bilinear", align_corners=False)
        flow_N2HW = _refine(flow_N2HW, image, other, window, num_iterations)
    return flow_N2HW


def warp_images(images: Tensor, flow: Tensor) -> Tensor:
    """
    Fetch each pixel from where the flow points to, between pixels by bilinear interpolation.

    Args:
        images (`torch.Tensor` of shape `(num_images, channels, height, width)`): What is sampled.
        flow (`torch.Tensor` of shape `(num_images, 2, height, width)`): To the right and down, in pixels.

    Returns:
        `torch.Tensor` of the shape of `images`. With a flow from a frame to the next, the next frame's pixels where
        they were before; outside of the picture, those of its border.
    """
    height, width = images.shape[2:]
    rows, columns = (torch.arange(size, device=flow.device, dtype=flow.dtype) for size in (height, width))
    x_NHW = (columns + flow[:, 0]) * (2 / max(width - 1, 1)) - 1
    y_NHW = (rows[:, None] + flow[:, 1]) * (2 / max(height - 1, 1)) - 1
    grid_NHW2 = torch.stack([x_NHW, y_NHW], -1).to(images.dtype)
    return functional.grid_sample(images, grid_NHW2, padding_mode="border", align_corners=True)


def find_occlusion(flow: Tensor, backward_flow: Tensor) -> Tensor:
    """
    Find the pixels of a frame that the other frame does not show, or that lie at the edge of a motion.

    Args:
        flow (`torch.Tensor` of shape `(num_images, 2, height, width)`): From the frame to the other one.
        backward_flow (`torch.Tensor` of the same shape): From the other one to the frame.

    Returns:
        `torch.Tensor` of shape `(num_images, 1, height, width)`, `torch.bool`: `True` where there is no counterpart.

    Source:
        Fast Blind Video Temporal Consistency (arXiv:1808.00449), `utils.detect_occlusion` of its code, after
        Sundaram et al.: Dense point trajectories by GPU-accelerated large displacement optical flow (2010).
    """
    returned = warp_images(backward_flow, flow)
    mismatch, there, back = (_squared_length(part) for part in (returned + flow, flow, returned))
    change = (
        functional.pad(flow.diff(dim=3), (0, 1)).square() + functional.pad(flow.diff(dim=2), (0, 0, 0, 1)).square()
    )
    is_edge = change.sum(1, keepdim=True) > 0.01 * there + 0.002
    return (mismatch > 0.01 * (there + back) + 0.5) | is_edge


def _squared_length(flow: Tensor) -> Tensor:
    return flow.square().sum(1, keepdim=True)


def _refine(flow_N2HW: Tensor, first: Tensor, second: Tensor, window: float, num_iterations: int) -> Tensor:
    """Improve a flow on one level of the pyramid; pixels that it sends out of the picture say nothing."""
    slope_x, slope_y = torch.gradient(first, dim=(3, 2))
    products = (slope_x.square(), slope_x * slope_y, slope_y.square())
    for _ in range(num_iterations):
        error = warp_images(second, flow_N2HW) - first
        terms = torch.stack([*products, slope_x * error, slope_y * error], 1).sum(2) * _lands_inside(flow_N2HW)
        xx, xy, yy, x, y = _blur(terms.flatten(0, 1)[:, None], window).view_as(terms).split(1, dim=1)
        xx, yy = xx + _DAMPING, yy + _DAMPING
        x, y = x + _DAMPING * flow_N2HW[:, :1], y + _DAMPING * flow_N2HW[:, 1:]
        step = torch.cat([xy * y - yy * x, xy * x - xx * y], 1) / (xx * yy - xy.square())
        flow_N2HW = flow_N2HW + step.clamp(-_LARGEST_STEP, _LARGEST_STEP)
    return flow_N2HW


def _lands_inside(flow_N2HW: Tensor) -> Tensor:
    """Whether each pixel stays in the picture, `(num_images, 1, height, width)`."""
    height, width = flow_N2HW.shape[2:]
    x = torch.arange(width, device=flow_N2HW.device) + flow_N2HW[:, :1]
    y = torch.arange(height, device=flow_N2HW.device)[:, None] + flow_N2HW[:, 1:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _blur(images: Tensor, deviation: float) -> Tensor:
    """Blur images of one channel by a Gaussian that is cut at three standard deviations."""
    radius = max(1, round(3 * deviation))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.softmax(-offsets.square() / (2 * deviation**2), 0)
    for shape, padding in (((1, 1, 1, -1), (radius, radius, 0, 0)), ((1, 1, -1, 1), (0, 0, radius, radius))):
        images = functional.conv2d(functional.pad(images, padding, mode="replicate"), kernel.view(shape))
    return images
