"""Rates, times and frames as callers give them, turned into the exact values that video files are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from numbers import Rational, Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


# Containers keep rates as two signed 32-bit numbers.
LARGEST_TERM = 2**31 - 1
NTSC_RATES = tuple(Fraction(1000 * rate, 1001) for rate in (15, 24, 30, 48, 60, 120, 240))
PIL_MODES = {"L": 1, "RGB": 3, "RGBA": 4}


def named_rate(fps: float) -> Fraction:
    """
    The exact rate meant by a rounded one.

    Args:
        fps (`float`): Frames per second, positive and finite.

    Returns:
        `Fraction`: The NTSC rate `n * 1000 / 1001` for n in 15, 24, 30, 48, 60, 120, 240 when `fps` is within 0.005
        of it (29.97 gives 30000/1001, 23.976 and 23.98 give 24000/1001), else the nearest fraction with a
        denominator of at most 1001 (12.5 gives 25/2, 8.333333 gives 25/3).
    """
    for rate in NTSC_RATES:
        if abs(fps - rate) < 0.005:
            return rate
    return Fraction(fps).limit_denominator(1001)


def as_fps(fps: Fraction | float | str, name: str = "fps") -> Fraction:
    """
    The exact number of frames per second that a caller asks for.

    Args:
        fps (`Fraction`, `int`, `float` or `str`):
            A fraction, whole number or `"30000/1001"` is taken as it is; a float or decimal text goes through
            [`named_rate`].
        name (`str`, *optional*, defaults to `"fps"`): The argument to name in errors.

    Returns:
        `Fraction`: Frames per second, greater than 0.

    Raises:
        TypeError: If `fps` is no number or text (a `bool` is neither).
        ValueError: If `fps` is not positive and finite, or too large or small for a file.
    """
    way_out = "Pass a positive number of frames per second, such as 8, 12.5, Fraction(30000, 1001) or '30000/1001'."
    if isinstance(fps, (bool, np.bool_)) or not isinstance(fps, (Real, str)):
        raise TypeError(f"`{name}` must be a Fraction, int, float or str, but is {fps!r}. {way_out}")
    try:
        number = fps if not isinstance(fps, str) else Fraction(fps) if "/" in fps else float(fps)
        if isinstance(number, Rational):
            exact = Fraction(int(number.numerator), int(number.denominator))
        else:
            exact = named_rate(float(number))
    except (ValueError, ZeroDivisionError, OverflowError):  # no number, a zero denominator, NaN, infinity
        raise ValueError(f"`{name}` must be a finite number greater than 0, but is {fps!r}. {way_out}") from None
    if exact <= 0:
        raise ValueError(f"`{name}` must be a finite number greater than 0, but is {fps!r}. {way_out}")
    if max(exact.numerator, exact.denominator) > LARGEST_TERM:
        raise ValueError(f"`{name}` must be a fraction of terms below 2**31, but is {exact}. Round it.")
    return exact


def as_seconds(value: Fraction | float, name: str) -> Fraction:
    """
    An exact time in seconds.

    Args:
        value (`Fraction`, `int` or `float`):
            A float is taken to the nearest fraction with a denominator of at most 1,000,000, so that 0.3 means 3/10
            and `k / 29.97...` computed in floats finds frame k.
        name (`str`): The argument to name in errors.

    Returns:
        `Fraction`: Seconds, at least 0.

    Raises:
        TypeError: If `value` is no number.
        ValueError: If `value` is negative or not finite.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a time in seconds, but is {value!r}. Pass a Fraction, int or float.")
    if not isinstance(value, Rational) and not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite, but is {value!r}. Pass a time in seconds.")
    if value < 0:
        raise ValueError(f"`{name}` must be at least 0, but is {value!r}. Pass a time in seconds.")
    if isinstance(value, Rational):
        return Fraction(int(value.numerator), int(value.denominator))
    return Fraction(float(value)).limit_denominator(1_000_000)


def measure_fps(
    times: Sequence[Fraction], tick: Fraction, written: Fraction | None, stated: Iterable[Fraction | None]
) -> tuple[Fraction, bool]:
    """
    The rate of a video from its timestamps.

    Args:
        times (`Sequence[Fraction]`): Timestamps in seconds, strictly increasing, two at least.
        tick (`Fraction`): The file's unit of time in seconds; its timestamps are rounded to it.
        written (`Fraction`, *optional*): The rate that the writer of the file noted down.
        stated (`Iterable[Fraction | None]`): Rates that the container states or its reader estimates.

    Returns:
        `tuple[Fraction, bool]`: The rate, and whether it is constant, that is, whether one rate explains every
        timestamp: to the tick if it is `written`, `stated` or well known, else exactly. Else the average rate
        `(F - 1) / (last - first)`.
    """
    average = (len(times) - 1) / (times[-1] - times[0])
    stated = [rate for rate in stated if rate]
    known = sorted({Fraction(round(average)), *NTSC_RATES}, key=lambda rate: abs(rate - average))[:2]
    likely = [rate for rate in (*stated, *known, named_rate(float(average))) if rate]
    # Whole and NTSC rates first: an estimate such as 24701/824 fits a short clip of 30000/1001 as well.
    likely.sort(key=lambda rate: rate.denominator > 1 and rate not in NTSC_RATES)
    exact, rounded = (average, Fraction(0)), [(rate, tick) for rate in likely]
    trials = [exact, *rounded] if average in stated else [*rounded, exact]
    for rate, tolerance in [(written, tick), *trials] if written else trials:
        is_fine_enough = not tolerance or 2 * rate * tick <= 1
        if is_fine_enough and all(abs(time - times[0] - k / rate) <= tolerance for k, time in enumerate(times)):
            return rate, True
    return average, False


def split_frames(frames: Any) -> Iterator[Any]:
    """
    Single frames of a batch, list or generator, in order; the frames themselves are not looked at.

    Args:
        frames: `torch.Tensor` `(F, C, H, W)`, `np.ndarray` `(F, H, W, C)`, or an iterable of single frames.

    Returns:
        `Iterator`: One frame after the other.

    Raises:
        TypeError: If `frames` is nothing of these, e.g. a single image.
        ValueError: If a tensor or array has another number of axes.
    """
    if isinstance(frames, (Tensor, np.ndarray)):
        order = "(F, C, H, W)" if isinstance(frames, Tensor) else "(F, H, W, C)"
        if frames.ndim != 4:
            hint = {3: "Put a single frame into a list.", 5: "Write a batch video by video: `frames[0]`."}
            raise ValueError(
                f"`frames` must have the four axes {order}, but has shape {tuple(frames.shape)}."
                f" {hint.get(frames.ndim, 'Pass one video.')}"
            )
    elif isinstance(frames, (Image.Image, str, bytes, dict)) or not isinstance(frames, Iterable):
        raise TypeError(
            "`frames` must be a torch tensor (F, C, H, W), a NumPy array (F, H, W, C) or an iterable of frames, but is"
            f" {type(frames).__name__}. Put a single image into a list."
        )
    return iter(frames)


def frame_to_array(frame: Any, index: int) -> np.ndarray:
    """
    One frame as bytes.

    Args:
        frame: `torch.Tensor` `(C, H, W)`, `np.ndarray` `(H, W, C)` or `PIL.Image.Image` (L, RGB, RGBA), C = 1, 3 or 4.
            Floating point is [0, 1] and is rounded to 255 steps; uint8 is 0 to 255 and is taken as it is.
        index (`int`): The number of the frame in its video, for errors.

    Returns:
        `np.ndarray` of shape `(H, W, C)`, uint8, contiguous.

    Raises:
        TypeError: If the frame is of another type or dtype.
        ValueError: If shape, channels, colour mode or values are not as above.
    """
    if isinstance(frame, Image.Image):
        if frame.mode not in PIL_MODES:
            raise ValueError(
                f"`frames` must hold images of mode L, RGB or RGBA, but frame {index} is {frame.mode}."
                " Call `.convert('RGB')`."
            )
        return np.asarray(frame).reshape(frame.height, frame.width, PIL_MODES[frame.mode])
    if isinstance(frame, Tensor):
        _check_shape(frame, 0, "(C, H, W)", index)
        floating = frame.is_floating_point()
        array = (frame.detach().to("cpu", torch.float32) if floating else frame.cpu()).movedim(0, -1).numpy()
    elif isinstance(frame, np.ndarray):
        _check_shape(frame, 2, "(H, W, C)", index)
        array = frame
    else:
        raise TypeError(
            f"`frames` must hold torch tensors, NumPy arrays or PIL images, but frame {index} is a"
            f" {type(frame).__name__}. For a batch of videos pass one of them: `frames[0]`."
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(
            f"`frames` must be uint8 (0 to 255) or floating point ([0, 1]), but frame {index} is {frame.dtype}."
            " Convert it first."
        )
    _check_range(array, index)
    return np.ascontiguousarray((array * 255).round().astype(np.uint8))


def _check_shape(frame: Tensor | np.ndarray, axis: int, order: str, index: int) -> None:
    shape = tuple(frame.shape)
    if len(shape) != 3 or shape[axis] not in (1, 3, 4):
        raise ValueError(
            f"`frames` must hold {type(frame).__name__} frames of shape {order} with 1, 3 or 4 channels, but frame"
            f" {index} has shape {shape}. Tensors are (F, C, H, W), arrays (F, H, W, C): permute the axes."
        )
    if 0 in shape:
        raise ValueError(f"`frames` must have a height and a width, but frame {index} has shape {shape}.")


def _check_range(array: np.ndarray, index: int) -> None:
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"`frames` must be finite, but frame {index} holds NaN or infinity. Look at the step that made it: nothing"
            " sensible can be written."
        )
    if low < 0 or high > 1:
        way_out = "Call `.clip(0, 1)` first if that is a rounding error."
        if high > 2:
            way_out = "This looks like 0 to 255: pass uint8, or divide by 255."
        elif low < -0.1:
            way_out = "This looks like [-1, 1]: pass `frames / 2 + 0.5`."
        raise ValueError(
            f"`frames` of floating point must lie in [0, 1], but frame {index} spans {low:.4g} to {high:.4g}."
            f" {way_out}"
        )
