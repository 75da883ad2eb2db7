"""Running a layer over overlapping windows of one axis: frames in chunks, images in tiles."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from typing import TypeVar

import torch
from torch import Tensor


Item = TypeVar("Item")


def window_starts(length: int, size: int, overlap: int) -> list[int]:
    """
    Place windows of equal size so that they cover an axis; the last one ends where the axis ends.

    Args:
        length (`int`): Length of the axis.
        size (`int`): Length of a window; an axis that is no longer is one window.
        overlap (`int`): The least that neighbours share, at least 0 and below `size`.

    Returns:
        `list[int]`: Where they start: 0, 6 and 9 for a length of 17, a size of 8 and an overlap of 2.
    """
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def map_windows(
    function: Callable[[Tensor], Tensor],
    tensor: Tensor,
    dim: int,
    *,
    size: int,
    overlap: int,
    scale: int = 1,
    shrink: int = 1,
) -> Tensor:
    """
    Apply a function to overlapping windows of a tensor, and fade from each result into the next where they overlap.

    Args:
        function (`Callable`): Takes a window; its result is `scale` times as long along the axis, and `shrink` times
            shorter.
        tensor (`torch.Tensor`): What is cut into windows.
        dim (`int`): The axis, whose length is a multiple of `shrink`.
        size (`int`): Length of a window, over `shrink`.
        overlap (`int`): The least that neighbours share, over `shrink`.
        scale (`int`, *optional*, defaults to 1): See `function`.
        shrink (`int`, *optional*, defaults to 1): See `function`; one of the two is 1.

    Returns:
        `torch.Tensor`: The joined results; where two equal each other, they are unchanged.
    """

    def apply(start: int, stop: int) -> Tensor:
        return function(tensor.narrow(dim, start * shrink, (stop - start) * shrink))

    length = tensor.shape[dim] // shrink
    parts = list(iter_windows(apply, length, dim, size=size, overlap=overlap, scale=scale))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def iter_windows(
    function: Callable[[int, int], Tensor], length: int, dim: int, *, size: int, overlap: int, scale: int = 1
) -> Iterator[Tensor]:
    """
    Do the work of [`map_windows`] piece by piece, in memory that does not grow with the axis.

    Args:
        function (`Callable`): Called with the start and the end of each window, in order; its result is `scale` times
            as long along the axis.
        length (`int`): Length of the axis.
        dim (`int`): The axis of the results.
        size (`int`): Length of a window.
        overlap (`int`): The least that neighbours share.
        scale (`int`, *optional*, defaults to 1): See `function`.

    Returns:
        `Iterator[torch.Tensor]`: Pieces that, joined along `dim`, are the whole result; one for each window, as soon
        as no other window changes it.
    """
    starts = window_starts(length, size, overlap)
    steps = [(following - start) * scale for start, following in pairwise(starts)]
    windows = (function(start, min(start + size, length)) for start in starts)
    return fade_windows(zip(windows, [*steps, None], strict=True), dim)


def fade_windows(windows: Iterable[tuple[Tensor, int | None]], dim: int) -> Iterator[Tensor]:
    """
    Join windows, and fade from each into the next where they overlap.

    Args:
        windows (`Iterable[tuple[torch.Tensor, int | None]]`): Windows in order, each with the number of places from
            its beginning to that of the next; `None` for the last one.
        dim (`int`): The axis.

    Returns:
        `Iterator[torch.Tensor]`: See [`iter_windows`].
    """
    held = None  # the end of the last window, which the next one begins in
    for window, step in windows:
        if held is not None:
            shared = held.shape[dim]
            after, rest = window.split([shared, window.shape[dim] - shared], dim)
            window = torch.cat([torch.lerp(held, after, _ramp(shared, dim, window)), rest], dim)
        if step is None:
            yield window
        else:
            # A copy, so that what is held does not keep the whole window in memory.
            held = window.narrow(dim, step, window.shape[dim] - step).clone()
            yield window.narrow(dim, 0, step)


def slide_windows(items: Iterable[Item], size: int, overlap: int) -> Iterator[tuple[int, list[Item], int | None]]:
    """
    Cut a sequence whose length is not known into the windows of [`window_starts`], holding one window at a time.

    Args:
        items (`Iterable`): The sequence; of it no more is read than one window and the step to the next.
        size (`int`): Length of a window.
        overlap (`int`): The least that neighbours share, at least 0 and below `size`.

    Returns:
        `Iterator[tuple[int, list, int | None]]`: Where a window starts, what it holds, and the step from there to the
        next; `None` for the last one. Nothing for an empty sequence.
    """
    items = iter(items)
    start, window = 0, list(islice(items, size))
    while window:
        following = list(islice(items, size - overlap))
        yield start, window, len(following) or None
        start += len(following)
        window = (window + following)[-size:] if following else []


def first_window(place: int, size: int, overlap: int) -> int:
    """
    Find the window from which on a sequence must be worked through again to continue it at a place.

    Args:
        place (`int`): The first place that is wanted, at least 0.
        size (`int`): Length of a window.
        overlap (`int`): The least that neighbours share.

    Returns:
        `int`: Where this window starts. Windows laid from there on are those of the whole sequence, if that reaches
        beyond `place`, and no window before them changes anything from `place` on.
    """
    step = size - overlap
    # One window further back than the fades ask for, because the last window is not laid on the grid.
    return max(0, (place - overlap) // step - 1) * step


def _ramp(length: int, dim: int, like: Tensor) -> Tensor:
    weights = torch.arange(1, length + 1, device=like.device, dtype=torch.float32) / (length + 1)
    return weights.to(like.dtype).view([-1 if axis == dim % like.ndim else 1 for axis in range(like.ndim)])
