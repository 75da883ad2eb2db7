"""Videos longer than the clips of a model: block after block on either side, or frames between frames."""

# Shapes: B videos, C channels, F frames, H height, W width.

from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from diffusers_video.conditioning.frames import FrameCondition
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.video_input import VideoInput, load_video


def extend_video(
    pipeline: DiffusionPipeline,
    video: VideoInput,
    num_new_frames: int,
    *,
    num_given: int | None = None,
    backward: bool = False,
    low_res: VideoInput | None = None,
    **options: Any,
) -> Tensor:
    """
    Go on with a video, or draw what was before it, in blocks that each know the last frames of those before.

    The last block is told as many more frames as it takes to be as long as the others.

    Args:
        pipeline ([`UnconditionalVideoPipeline`]): Draws blocks of `config.num_frames` frames.
        video (`VideoInput`): One video or several, in any form that pipelines take.
        num_new_frames (`int`): Frames to draw, at least 1.
        num_given (`int`, *optional*): Frames of a block that are given; by default half of it, as many as there are.
        backward (`bool`, *optional*, defaults to `False`): Whether the new frames come before the video.
        low_res (`VideoInput`, *optional*): A smaller copy of the whole video with its new frames, which guides them
            too.
        options: Further arguments of the pipeline's call, such as `generator` and `reconstruction_scale`.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames + num_new_frames, channels, height, width)`: In [0, 1], the
        frames of `video` as they are.

    Raises:
        ValueError: If a number of frames is out of its range, or `low_res` has another one.

    Source:
        VDM (arXiv:2204.03458), Section 3.1 and Figure 2. How many frames its blocks share is not published.
    """
    checks.check_integer("num_new_frames", num_new_frames)
    frames = _load(video, backward)
    small = None if low_res is None else _load(low_res, backward)
    block, total = pipeline.config.num_frames, frames.shape[1] + num_new_frames
    num_given = min(max(block // 2, 1), frames.shape[1]) if num_given is None else num_given
    checks.check_integer("num_given", num_given)
    if num_given > min(frames.shape[1], block - 1):
        raise ValueError(
            f"`num_given` must be at most {min(frames.shape[1], block - 1)}, the frames of the video and fewer than"
            f" the {block} of a block, but is {num_given}."
        )
    if small is not None and small.shape[1] != total:
        raise ValueError(f"`low_res` must have {total} frames, those of the whole, but has {small.shape[1]}.")
    while (missing := total - frames.shape[1]) > 0:
        given = min(frames.shape[1], max(num_given, block - missing))
        start, length = frames.shape[1] - given, min(block, given + missing)
        known = {} if small is None else {"low_res": _turn(small[:, start : start + length], backward)}
        places = [length - 1 - place if backward else place for place in range(given)]
        condition = FrameCondition(_turn(frames[:, start:], backward), sorted(places))
        drawn = _draw(pipeline, [condition], frames, length, known | options)
        frames = torch.cat([frames, _turn(drawn, backward)[:, given:].to(frames)], dim=1)
    return _turn(frames, backward)


def fill_between(pipeline: DiffusionPipeline, video: VideoInput, rate: int, **options: Any) -> Tensor:
    """
    Draw the frames between those of a video, in blocks that share one of its frames.

    Args:
        pipeline ([`UnconditionalVideoPipeline`]): Draws blocks of at most `config.num_frames` frames.
        video (`VideoInput`): One video or several of at least 2 frames, such as those of a model with a larger
            frame stride.
        rate (`int`): Frame stride of the video in that of the result: `rate - 1` frames are drawn between two.
        options: Further arguments of the pipeline's call, such as `generator` and `reconstruction_scale`.

    Returns:
        `torch.Tensor` of shape `(batch_size, (num_frames - 1) * rate + 1, channels, height, width)`: In [0, 1], the
        frames of `video` as they are.

    Raises:
        ValueError: If a block is too short for two frames of the video, or there are fewer.

    Source:
        VDM (arXiv:2204.03458), Section 3.1: temporal super-resolution.
    """
    frames = _load(video)
    checks.check_integer("rate", rate, minimum=2)
    gaps, gaps_of_block = frames.shape[1] - 1, (pipeline.config.num_frames - 1) // rate
    if gaps < 1 or gaps_of_block < 1:
        raise ValueError(
            f"`rate`={rate} needs a video of at least 2 frames and blocks of at least {rate + 1}, but they have"
            f" {frames.shape[1]} and {pipeline.config.num_frames}. Take a smaller rate or a model of longer clips."
        )
    parts = [frames[:, :1]]
    for start in range(0, gaps, gaps_of_block):
        given = frames[:, start : start + gaps_of_block + 1]
        length = (given.shape[1] - 1) * rate + 1
        condition = FrameCondition(given, list(range(0, length, rate)))
        parts.append(_draw(pipeline, [condition], frames, length, options)[:, 1:].to(frames))
    return torch.cat(parts, dim=1)


def _load(video: VideoInput, backward: bool = False) -> Tensor:  # BFCHW
    return _turn(load_video(video).transpose(1, 2), backward)


def _turn(frames: Tensor, backward: bool) -> Tensor:
    return frames.flip(1) if backward else frames


def _draw(
    pipeline: DiffusionPipeline,
    conditions: list[FrameCondition],
    frames: Tensor,
    num_frames: int,
    options: dict[str, Any],
) -> Tensor:
    size = {"height": frames.shape[-2], "width": frames.shape[-1], "num_frames": num_frames}
    return pipeline(len(frames), conditions=conditions, output_type="pt", **size, **options).frames
