"""How frames are brought to the size that a feature network takes: the rules behind published numbers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


# Shapes: F frames, C channels, H height, W width.

ResizeRule = Literal["none", "stretch", "cover", "crop"]
RESIZE_RULES = ("none", "stretch", "cover", "crop")
Quantisation = Literal["round", "truncate"]
QUANTISATIONS = ("round", "truncate")


def resize_frames(frames: Tensor, size: int, rule: ResizeRule, *, antialias: bool = False) -> Tensor:
    """
    Bring frames to a square by one of the rules that published numbers were made with.

    Args:
        frames (`torch.Tensor` of shape `(F, C, H, W)`): Floating point, in any range, or uint8.
        size (`int`): Side of the square in pixels, at least 1.
        rule (`str`):
            `"stretch"`: both sides become `size`, the aspect ratio is lost; `"cover"`: the shorter side becomes `size`
            and the other one, rounded up, is cropped at its centre; `"crop"`: the central square is cut out first and
            then scaled; `"none"`: frames stay as they are.
        antialias (`bool`, *optional*, defaults to `False`): Whether shrinking averages over whole pixels.

    Returns:
        `torch.Tensor` of shape `(F, C, size, size)`: float32 in the range of `frames`, bilinear with
        `align_corners=False`; with `"none"`, of the shape of `frames`.

    Raises:
        ValueError: If `rule`, `size` or the shape is none of these.

    Source:
        `"stretch"`: LVDM and content-debiased FVD; `"cover"`: VideoGPT, TATS, the tools of PVDM's evaluation;
        `"crop"`: PVDM's reading of training data. None of them uses `antialias` before the network.
    """
    _check_rule(rule)
    if frames.dim() != 4 or size < 1:
        raise ValueError(
            "`frames` must have the shape (F, C, H, W) and `size` must be at least 1, but they are"
            f" {tuple(frames.shape)} and {size}."
        )
    frames = frames.float()
    height, width = frames.shape[-2:]
    if rule == "none":
        return frames
    if rule == "crop":
        side = min(height, width)
        frames, target = _crop_centre(frames, side), (size, size)
    elif rule == "stretch":
        target = (size, size)
    else:
        scale = size / min(height, width)
        target = (size, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), size)
    if tuple(frames.shape[-2:]) != target:
        frames = functional.interpolate(frames, size=target, mode="bilinear", align_corners=False, antialias=antialias)
    return _crop_centre(frames, size)


def _crop_centre(frames: Tensor, side: int) -> Tensor:
    top, left = ((length - side) // 2 for length in frames.shape[-2:])
    return frames[..., top : top + side, left : left + side]


def _check_rule(rule: str) -> None:
    if rule not in RESIZE_RULES:
        raise ValueError(f"`rule` must be one of {list(RESIZE_RULES)}, but is {rule!r}. Choose one of them.")


def quantise(frames: Tensor, quantisation: Quantisation) -> Tensor:
    """
    Turn frames into what a file of 8 bits per channel would hold.

    Args:
        frames (`torch.Tensor`): Floating point, 0 to 255; values outside are clamped. uint8 is returned as it is.
        quantisation (`str`): `"round"`: to the nearest number, halves upwards; `"truncate"`: downwards.

    Returns:
        `torch.Tensor`: uint8, of the same shape.

    Raises:
        ValueError: If `quantisation` is neither, or a value is not finite.

    Source:
        `"round"` is StyleGAN-V's `x * 127.5 + 128`, cut to whole numbers, for x in [-1, 1]; `"truncate"` is what
        VideoGPT and content-debiased FVD do. Half a level of brightness lies between them.
    """
    if quantisation not in QUANTISATIONS:
        raise ValueError(
            f"`quantisation` must be one of {list(QUANTISATIONS)}, but is {quantisation!r}. Choose one of them."
        )
    if frames.dtype == torch.uint8:
        return frames
    if not torch.isfinite(frames).all():
        raise ValueError("`frames` must be finite, but hold NaN or infinity. Look for the step that made them.")
    shifted = frames + 0.5 if quantisation == "round" else frames
    return shifted.clamp(0, 255).to(torch.uint8)


def prepare_clip(frames: Tensor, size: int | None, rule: ResizeRule) -> Tensor:
    """
    Bring one clip into the form that feature networks take.

    Args:
        frames (`torch.Tensor` of shape `(F, 3, H, W)`): uint8, or floating point from 0 to 255.
        size (`int`, *optional*): Side in pixels that the network takes; `None`: any, frames are not resized.
        rule (`str`): How frames become that large, see [`resize_frames`].

    Returns:
        `torch.Tensor` of shape `(3, F, size, size)`: float32, 0 to 255 becomes -1 to 1.

    Raises:
        ValueError: As [`resize_frames`].
    """
    _check_rule(rule)
    resized = frames.float() if size is None else resize_frames(frames, size, rule)
    return resized.transpose(0, 1) / 127.5 - 1
