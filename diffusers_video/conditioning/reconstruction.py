"""Guidance of any denoiser by what is known of the clip: the gradient through its denoised estimate."""

# Shapes: B videos, C channels, F frames, H height, W width, of latents or pixels; h, w of low-resolution frames.

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers.layout import images_to_videos, videos_to_images


FITTING_ROUNDS = 20


@dataclass(frozen=True)
class Observation:
    """
    Something that is known of clean clips.

    Args:
        given (`torch.Tensor` of shape `(batch_size, ...)`): x_a, what is known.
        observe (`Callable`): Makes of clips what is known of them; differentiable, and each clip for itself.
        scale (`float`): w, weight of the guidance, at least 0. 1 is that of the derivation, and larger ones work
            better.
    """

    given: Tensor
    observe: Callable[[Tensor], Tensor]
    scale: float


def observe_frames(given: Tensor, frame_mask: Tensor, scale: float) -> Observation:
    """
    Frames that are known.

    Args:
        given (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): The frames at their
            places; other places are ignored.
        frame_mask (`torch.Tensor` of shape `(num_frames,)` and type `torch.bool`): `True` for given frames.
        scale (`float`): Weight of the guidance.

    Returns:
        [`Observation`]
    """
    return Observation(given[:, :, frame_mask], lambda video: video[:, :, frame_mask], scale)


def guide_estimate(
    denoise: Callable[[Tensor], Tensor],
    noisy: Tensor,
    observations: Sequence[Observation],
    *,
    signal: float,
    held: Tensor | None = None,
) -> Tensor:
    """
    Move a denoised estimate to where all that is known is reconstructed better.

    x~ = x^ - (alpha / 2) d/dz sum_k w_k || x_k - D_k(x^(z)) ||^2. The squares are summed over all numbers of x_k, and
    the gradient goes through the denoiser. With weights of 0 nothing is guided, which leaves the replacement method.

    Args:
        denoise (`Callable`): Denoised estimate x^ of z, differentiable.
        noisy (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): z.
        observations (`Sequence[Observation]`): x_k, D_k and w_k.
        signal (`float`): alpha.
        held (`torch.Tensor` of shape `(num_frames,)` and type `torch.bool`, *optional*): `True` for frames of z that
            are given, whose estimate stays as it is.

    Returns:
        `torch.Tensor` of the shape of `noisy`: x~.

    Source:
        VDM (arXiv:2204.03458), Eqs. 7 and 8.
    """
    with torch.enable_grad():
        noisy = noisy.detach().requires_grad_()
        estimate = denoise(noisy)
        total = sum(
            known.scale * _float32((known.given - known.observe(estimate)).square()).sum() for known in observations
        )
        (gradient,) = torch.autograd.grad(total, noisy)
    guided = estimate - 0.5 * signal * gradient
    return (guided if held is None else torch.where(held[:, None, None], estimate, guided)).detach()


def shrink_linearly(video: Tensor, size: tuple[int, int]) -> Tensor:
    """
    Make a video smaller, each frame by a linear filter as wide as a shrunk pixel.

    Args:
        video (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Any values.
        size (`tuple[int, int]`): Height and width wanted.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, num_frames, h, w)`: Linear in `video`.

    Source:
        VDM (arXiv:2204.03458), Section 3.1: a differentiable downsampling such as bilinear interpolation.
    """
    images = nn.functional.interpolate(videos_to_images(video), size=size, mode="bilinear", antialias=True)
    return images_to_videos(images, video.shape[2])


def fit_low_res(video: Tensor, low_res: Tensor, limits: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """
    Change a video by the least that makes its shrunk copy the given one, within limits.

    The least change in squares, and clipping, take turns, which ends in the nearest videos that satisfy both if there
    are any: copies shrunk of a video within the limits have one.

    Args:
        video (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): The video.
        low_res (`torch.Tensor` of shape `(batch_size, channels, num_frames, h, w)`): What [`shrink_linearly`] should
            give.
        limits (`tuple[float, float]`, *optional*, defaults to `(-1.0, 1.0)`): Smallest and largest value.

    Returns:
        `torch.Tensor` of the shape of `video`: float32 at least.

    Source:
        Projections onto convex sets (Youla and Webb, 1982). No part of VDM.
    """
    video, low_res = _float32(video), _float32(low_res)
    size = (low_res.shape[-2], low_res.shape[-1])
    of_rows, of_columns = (
        torch.linalg.pinv(_shrinking_matrix(*sides).to(video)) for sides in zip(video.shape[-2:], size, strict=True)
    )
    for _ in range(FITTING_ROUNDS):
        missing = low_res - shrink_linearly(video, size)
        video = (video + of_rows @ missing @ of_columns.T).clamp(*limits)
    return video


def _shrinking_matrix(side: int, small_side: int) -> Tensor:  # (small_side, side)
    rows = torch.eye(side, dtype=torch.float64)[None, None, None]
    return shrink_linearly(rows, (side, small_side))[0, 0, 0].T


def _float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
