"""Videos as users hand them over, brought to one tensor."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from diffusers_video.layers.layout import images_to_videos, videos_to_images


Frame = Image.Image | np.ndarray | torch.Tensor
VideoInput = list[Frame] | list[list[Frame]] | np.ndarray | torch.Tensor


def load_video(video: VideoInput, name: str = "video") -> Tensor:
    """
    Bring one or more videos, in any form that diffusers' video pipelines take, to one tensor.

    Args:
        video (`list[PIL.Image.Image]`, `np.ndarray`, `torch.Tensor`, or a list of such):
            One video: a list of frames, an array of shape `(num_frames, height, width, channels)`, or a tensor of
            shape `(num_frames, channels, height, width)`, as `VideoPipelineOutput.frames[0]` is. Several of one size:
            a list of such videos, or an array or a tensor with one axis more in front. Integers are `uint8` in
            [0, 255], floats in [0, 1].
        name (`str`, *optional*, defaults to `"video"`): What errors call the argument.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`: In [0, 1].

    Raises:
        TypeError: If a frame is neither an image, nor an array, nor a tensor.
        ValueError: If the shapes do not fit together, or values lie outside their range.
    """
    if isinstance(video, (np.ndarray, torch.Tensor)):
        videos = list(video) if video.ndim == 5 else [video]
    elif isinstance(video, (list, tuple)) and len(video):
        first = video[0]
        several = isinstance(first, (list, tuple)) or getattr(first, "ndim", 3) == 4
        videos = list(video) if several else [video]
    elif isinstance(video, (list, tuple)):
        raise ValueError(f"`{name}` must hold at least one frame, but is empty.")
    else:
        raise TypeError(
            f"`{name}` must be a list of frames, an array or a tensor, but is {type(video).__name__}. Read a file with"
            " `diffusers_video.video_io` first."
        )
    stacks = [_stack_frames(one, name) for one in videos]
    if len({stack.shape for stack in stacks}) > 1:
        shapes = sorted({tuple(stack.shape) for stack in stacks})
        raise ValueError(f"`{name}` must hold videos of one length and size, but they are {shapes} (F, C, H, W).")
    return images_to_videos(torch.cat(stacks), stacks[0].shape[0])


def load_frames(frames: Frame | VideoInput) -> Tensor:
    """
    Bring given frames to one tensor: a video as [`load_video`] takes it, or a single image.

    Args:
        frames (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list): An image of 3 axes is a video of one frame.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`: In [0, 1].

    Raises:
        TypeError: If a frame is neither an image, nor an array, nor a tensor.
        ValueError: If the shapes do not fit together, or values lie outside their range.
    """
    is_image = isinstance(frames, Image.Image) or getattr(frames, "ndim", None) == 3
    return load_video([frames] if is_image else frames, "frames")


def resize_video(video: Tensor, height: int, width: int) -> Tensor:
    """
    Resize frames, each on its own.

    Args:
        video (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): In [0, 1].
        height (`int`): Height wanted, in pixels.
        width (`int`): Width wanted, in pixels.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`: In [0, 1]; `video` itself where it
        has the size already.
    """
    if tuple(video.shape[-2:]) == (height, width):
        return video
    images = nn.functional.interpolate(videos_to_images(video), size=(height, width), mode="bicubic", antialias=True)
    return images_to_videos(images.clamp(0, 1), video.shape[2])


def _stack_frames(video: list[Frame] | np.ndarray | torch.Tensor, name: str) -> Tensor:
    if isinstance(video, (np.ndarray, torch.Tensor)):
        frames = [video]
    elif isinstance(video, (list, tuple)) and len(video):
        frames = list(video)
    else:
        raise ValueError(f"`{name}` must hold at least one frame in each video, but one is {video!r}.")
    stacks = []
    for frame in frames:
        if isinstance(frame, Image.Image):
            frame = np.asarray(frame.convert("RGB"))
        if isinstance(frame, np.ndarray) and frame.ndim in (3, 4):
            frame = torch.from_numpy(np.ascontiguousarray(frame)).movedim(-1, -3)
        elif not isinstance(frame, torch.Tensor):
            raise TypeError(f"`{name}` must hold images, arrays or tensors, but holds {type(frame).__name__}.")
        if frame.ndim not in (3, 4):
            raise ValueError(
                f"`{name}` must hold frames of 3 axes or videos of 4, but one has shape {tuple(frame.shape)}."
            )
        stacks.append(_to_unit_range(frame if frame.ndim == 4 else frame[None], name))
    if len({stack.shape[1:] for stack in stacks}) > 1:
        raise ValueError(
            f"`{name}` must hold frames of one size, but they are {sorted({tuple(s.shape[1:]) for s in stacks})}."
        )
    return torch.cat(stacks)


def _to_unit_range(frames: Tensor, name: str) -> Tensor:
    if not frames.numel():
        raise ValueError(f"`{name}` must hold at least one frame, but has shape {tuple(frames.shape)}.")
    if frames.dtype == torch.uint8:
        return frames.to(torch.float32) / 255
    if not frames.is_floating_point():
        raise ValueError(f"`{name}` must be uint8 in [0, 255] or float in [0, 1], but is {frames.dtype}.")
    if not torch.isfinite(frames).all() or frames.min() < 0 or frames.max() > 1:
        raise ValueError(
            f"`{name}` must be uint8 in [0, 255] or float in [0, 1], but its floats reach from {frames.min():.4g} to"
            f" {frames.max():.4g}. Map [-1, 1] by `video / 2 + 0.5`."
        )
    return frames
