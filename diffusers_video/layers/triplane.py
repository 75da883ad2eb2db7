"""A video as three planes: the sizes of the planes, and the ways between a flat row of latents and each of them."""

# Shapes: B videos, C channels, f, h, w frames, height and width of the latent volume; L = h w + f w + f h positions;
# a group is K neighbouring planes of one shape, (B * K, C, rows, columns), the planes of a video side by side.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .layout import maps_to_tokens, tokens_to_maps


class TriplaneSize(NamedTuple):
    """
    Size of the volume that three planes stand for.

    Args:
        num_frames (`int`): Frames of the volume.
        height (`int`): Its rows.
        width (`int`): Its columns.
    """

    num_frames: int
    height: int
    width: int

    @property
    def planes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Rows and columns of the planes: height and width, frames and width, frames and height."""
        return (self.height, self.width), (self.num_frames, self.width), (self.num_frames, self.height)

    @property
    def lengths(self) -> list[int]:
        """Positions of each plane."""
        return [rows * columns for rows, columns in self.planes]

    @property
    def groups(self) -> list[tuple[int, int, int]]:
        """Number, rows and columns of neighbouring planes of one shape."""
        groups = []
        for rows, columns in self.planes:
            if groups and groups[-1][1:] == (rows, columns):
                groups[-1] = (groups[-1][0] + 1, rows, columns)
            else:
                groups.append((1, rows, columns))
        return groups


def split_planes(latents: Tensor, size: TriplaneSize) -> tuple[Tensor, Tensor, Tensor]:
    """
    Show a flat row of latents as three planes.

    Args:
        latents (`torch.Tensor` of shape `(batch_size, channels, positions)`): Planes one after another, row by row.
        size ([`TriplaneSize`]): What they stand for.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: Views `(batch_size, channels, h, w)`, projected over time;
        `(batch_size, channels, f, w)`, projected over the height; `(batch_size, channels, f, h)`, over the width.
    """
    parts = latents.split(size.lengths, dim=2)
    return tuple(part.unflatten(2, shape) for part, shape in zip(parts, size.planes, strict=True))


def join_planes(planes: Sequence[Tensor]) -> Tensor:
    """
    Put three planes into one flat row; the inverse of [`split_planes`].

    Args:
        planes (`Sequence[torch.Tensor]`): Planes `(batch_size, channels, rows, columns)`, in the order of
            [`split_planes`].

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, positions)`.
    """
    return torch.cat([plane.flatten(2) for plane in planes], dim=2)


def tokens_to_groups(tokens: Tensor, groups: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """
    Cut a row of tokens into planes, and stack those of one shape; the inverse of [`groups_to_tokens`].

    Args:
        tokens (`torch.Tensor` of shape `(batch_size, positions, channels)`): Planes one after another, row by row.
        groups (`Sequence[tuple[int, int, int]]`): Number, rows and columns of the planes of each group.

    Returns:
        `list[torch.Tensor]`: One of shape `(batch_size * count, channels, rows, columns)` for each group, in the
        channels-last order of memory.
    """
    parts = tokens.split([count * rows * columns for count, rows, columns in groups], dim=1)
    return [
        tokens_to_maps(part.reshape(-1, rows * columns, part.shape[2]), rows)
        for part, (_, rows, columns) in zip(parts, groups, strict=True)
    ]


def groups_to_tokens(planes: Sequence[Tensor], batch_size: int) -> Tensor:
    """
    Put the positions of all planes of a video into one row of tokens; the inverse of [`tokens_to_groups`].

    Args:
        planes (`Sequence[torch.Tensor]`): Groups of planes, `(batch_size * count, channels, rows, columns)` each.
        batch_size (`int`): Number of videos.

    Returns:
        `torch.Tensor` of shape `(batch_size, positions, channels)`.
    """
    return torch.cat([maps_to_tokens(group).reshape(batch_size, -1, group.shape[1]) for group in planes], dim=1)
