"""Checks of pipeline arguments: each function looks at one of them, before any model runs."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def check_integer(name: str, value: Any, minimum: int = 1, multiple_of: int = 1) -> None:
    """
    Refuse what is no integer of a range.

    Args:
        name (`str`): Argument that holds `value`.
        value (`Any`): What was passed.
        minimum (`int`, *optional*, defaults to 1): Smallest value allowed.
        multiple_of (`int`, *optional*, defaults to 1): What the value must be a multiple of.

    Raises:
        TypeError: If `value` is not an `int`.
        ValueError: If it is out of range or no such multiple.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer, but is {value!r} ({type(value).__name__}).")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, but is {value}.")
    if value % multiple_of:
        below = max(value - value % multiple_of, multiple_of)
        raise ValueError(f"`{name}` must be a multiple of {multiple_of}, but is {value}. Try {below}.")


def check_number(
    name: str, value: Any, minimum: float = 0.0, maximum: float = math.inf, above_minimum: bool = False
) -> None:
    """
    Refuse what is no finite number of a range.

    Args:
        name (`str`): Argument that holds `value`.
        value (`Any`): What was passed.
        minimum (`float`, *optional*, defaults to 0.0): Smallest value allowed.
        maximum (`float`, *optional*, defaults to infinity): Largest value allowed.
        above_minimum (`bool`, *optional*, defaults to `False`): Whether the value must exceed `minimum`.

    Raises:
        TypeError: If `value` is not a number.
        ValueError: If it is not finite or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` must be a number, but is {value!r} ({type(value).__name__}).")
    too_small = value <= minimum if above_minimum else value < minimum
    if not math.isfinite(value) or too_small or value > maximum:
        low = f"{'above' if above_minimum else 'at least'} {minimum:g}"
        high = "finite" if math.isinf(maximum) else f"at most {maximum:g}"
        raise ValueError(f"`{name}` must be {low} and {high}, but is {value}.")


def check_texts(name: str, value: Any, batch_size: int | None = None) -> None:
    """
    Refuse what is neither a string nor a list of strings.

    Args:
        name (`str`): Argument that holds `value`.
        value (`Any`): What was passed; `None` is accepted.
        batch_size (`int`, *optional*): Length that a list must have.

    Raises:
        TypeError: If `value` is something else.
        ValueError: If a list is empty or has another length.
    """
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"`{name}` must be a string or a list of strings, but is {value!r}.")
    if not value:
        raise ValueError(f"`{name}` must hold at least one string, but is an empty list.")
    if batch_size is not None and len(value) != batch_size:
        raise ValueError(f"`{name}` must hold one string for each of {batch_size} prompts, but holds {len(value)}.")


def check_tensor(name: str, value: Any, shape: Sequence[int | None]) -> None:
    """
    Refuse what is no finite floating-point tensor of a shape.

    Args:
        name (`str`): Argument that holds `value`.
        value (`Any`): What was passed.
        shape (`Sequence[int | None]`): Shape wanted; `None` leaves an axis free.

    Raises:
        TypeError: If `value` is not a floating-point tensor.
        ValueError: If it has another shape, or holds a NaN or an infinity.
    """
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(f"`{name}` must be a floating-point tensor, but is {kind}.")
    fits = value.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, value.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"`{name}` must have shape ({wanted}), but has {tuple(value.shape)}.")
    if not torch.isfinite(value).all():
        raise ValueError(f"`{name}` must hold finite numbers, but holds a NaN or an infinity.")


def check_finite(values: Tensor, stage: str, advice: str) -> None:
    """
    Stop where the numbers of a stage are no numbers any more, instead of writing black frames.

    Args:
        values (`torch.Tensor`): What the stage gave, of any shape.
        stage (`str`): Name of the stage.
        advice (`str`): A sentence that says what to try.

    Raises:
        FloatingPointError: If `values` holds a NaN or an infinity.
    """
    finite = torch.isfinite(values)
    if not finite.all():
        share = 1 - finite.float().mean().item()
        raise FloatingPointError(f"{stage} gave NaN or infinite values ({share:.1%} of {values.dtype}). {advice}")


def check_generator(generator: Any, batch_size: int) -> None:
    """
    Refuse generators that are none, or too few or too many.

    Args:
        generator (`Any`): What was passed: `None`, one for all videos, or a list with one for each.
        batch_size (`int`): Number of videos.

    Raises:
        TypeError: If something else was passed.
        ValueError: If the list has another length.
    """
    sources = generator if isinstance(generator, list) else [generator] * (generator is not None)
    if not all(isinstance(source, torch.Generator) for source in sources):
        raise TypeError(f"`generator` must be a `torch.Generator` or a list of them, but is {generator!r}.")
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(
            f"`generator` must hold one generator for each of {batch_size} videos (prompts times"
            f" `num_videos_per_prompt`), but holds {len(generator)}."
        )


def check_output(output_type: Any, return_dict: Any, decode_chunk_size: Any) -> None:
    """
    Refuse a form of output that does not exist.

    Args:
        output_type (`Any`): One of [`OUTPUT_TYPES`].
        return_dict (`Any`): A `bool`.
        decode_chunk_size (`Any`): `None` or an `int` of at least 1.

    Raises:
        TypeError: If a type is wrong.
        ValueError: If a value is.
    """
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, but is {output_type!r}.")
    if not isinstance(return_dict, bool):
        raise TypeError(f"`return_dict` must be a bool, but is {return_dict!r}.")
    if decode_chunk_size is not None:
        check_integer("decode_chunk_size", decode_chunk_size)


def check_callback(callback_on_step_end: Any, tensor_inputs: Any, allowed: Sequence[str]) -> None:
    """
    Refuse a callback that cannot be called, or tensors that the loop does not have.

    Args:
        callback_on_step_end (`Any`): `None` or something to call.
        tensor_inputs (`Any`): `None` or a list of names.
        allowed (`Sequence[str]`): Names of the tensors that the loop has.

    Raises:
        TypeError: If the callback cannot be called, or the names are no list of strings.
        ValueError: If a name is unknown.
    """
    if callback_on_step_end is not None and not callable(callback_on_step_end):
        raise TypeError(f"`callback_on_step_end` must be callable, but is {callback_on_step_end!r}.")
    if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
        tensor_inputs = callback_on_step_end.tensor_inputs
    if tensor_inputs is None:
        return
    if not isinstance(tensor_inputs, (list, tuple)):
        raise TypeError(f"`callback_on_step_end_tensor_inputs` must be a list of names, but is {tensor_inputs!r}.")
    unknown = [name for name in tensor_inputs if name not in allowed]
    if unknown:
        raise ValueError(
            f"`callback_on_step_end_tensor_inputs` must be among {list(allowed)}, but {unknown} are not in it."
        )


def check_video(name: str, video: Tensor, num_frames: int, batch_size: int, channels: int) -> None:
    """
    Refuse a video that does not fit the run.

    Args:
        name (`str`): Argument that holds `video`.
        video (`torch.Tensor` of shape `(videos, channels, num_frames, height, width)`): From [`load_video`].
        num_frames (`int`): Frames of the run.
        batch_size (`int`): Number of prompts.
        channels (`int`): Colour channels that the model takes.

    Raises:
        ValueError: If frames, videos or channels differ.
    """
    if video.shape[2] != num_frames:
        raise ValueError(
            f"`{name}` must have `num_frames`={num_frames} frames, but has {video.shape[2]}. Cut it, or pass"
            f" `num_frames={video.shape[2]}`."
        )
    if video.shape[0] not in (1, batch_size):
        raise ValueError(
            f"`{name}` must be one video, or one for each of {batch_size} prompts, but there are {video.shape[0]}."
        )
    if video.shape[1] != channels:
        raise ValueError(f"`{name}` must have {channels} colour channels, but has {video.shape[1]}.")


def check_pair(name: str, value: Any, minimum: int) -> None:
    """
    Refuse what is no pair of integers.

    Args:
        name (`str`): Argument that holds `value`.
        value (`Any`): What was passed; `None` is accepted.
        minimum (`int`): Smallest integer allowed.

    Raises:
        TypeError: If `value` is no pair of integers.
        ValueError: If one is too small.
    """
    if value is None:
        return
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"`{name}` must be a pair of integers (height, width), but is {value!r}.")
    for number in value:
        check_integer(name, number, minimum)
