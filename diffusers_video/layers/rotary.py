"""Rotary positions of space-time transformers: angles for frames, and for rows and columns of a frame."""

# Shapes: F frames, S = H * W positions, D channels of an attention head.

import math

import torch
from torch import Tensor


def frame_rotary(num_frames: int, dim_head: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """
    Cosines and sines of the positions of frames.

    Frame n has the angles n / 10000^(2 j / D) for j < D / 2, twice in a row. Neighbouring channels are turned as pairs
    elsewhere, so the two of a pair get different angles and no length is kept: released weights are trained so.

    Args:
        num_frames (`int`): Number of frames.
        dim_head (`int`): Channels of a head, an even number.
        device (`torch.device` or `str`, *optional*): Where the tables are made.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Cosines and sines, `(num_frames, dim_head)` each, in float32.

    Source:
        RoFormer (arXiv:2104.09864), Eq. 15; the repetition is that of PVDM's code (arXiv:2302.07685).
    """
    frequencies = 10000.0 ** (-torch.arange(0, dim_head, 2, dtype=torch.float32, device=device) / dim_head)
    angles = torch.arange(num_frames, dtype=torch.float32, device=device)[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos(), angles.sin()


def map_rotary(
    height: int, width: int, dim_head: int, max_freq: float, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """
    Cosines and sines of the positions of a feature map, row by row.

    Rows and columns lie at equal distances in [-1, 1] whatever their number, and are multiplied by pi and by D / 4
    scales from 1 to `max_freq / 2` at equal ratios. The first half of a head turns by rows, the second by columns.

    Args:
        height (`int`): Rows of the map.
        width (`int`): Columns of the map.
        dim_head (`int`): Channels of a head, a multiple of 4.
        max_freq (`float`): Twice the largest scale.
        device (`torch.device` or `str`, *optional*): Where the tables are made.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Cosines and sines, `(height * width, dim_head)` each, in float32.

    Source:
        RoFormer (arXiv:2104.09864) along two axes, as in PVDM's code (arXiv:2302.07685).
    """
    scales = torch.logspace(0.0, math.log2(max_freq / 2), dim_head // 4, base=2, device=device) * math.pi
    rows, columns = (torch.linspace(-1, 1, count, device=device)[:, None] * scales for count in (height, width))
    rows, columns = rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)
    angles = torch.cat([rows, columns], dim=2).flatten(0, 1).repeat_interleave(2, dim=1)
    return angles.cos(), angles.sin()
