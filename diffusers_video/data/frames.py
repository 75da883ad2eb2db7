"""From the frames of a video to the pixels of a training clip: read, resize, crop, flip."""

from __future__ import annotations

import re
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from diffusers_video.data.buckets import Bucket, enlargement
from diffusers_video.data.plan import PlannedClip, PlannedVideo
from diffusers_video.data.probing import describe_error, folder_fps
from diffusers_video.video_io import VideoInfo, probe_video, read_frames_at


# Shapes: F frames, C = 3 colour channels, H height, W width.

INTERPOLATIONS = ("bicubic", "bilinear", "area")
_SIDED = re.compile(
    r"\b(?:(?:left|right)\w*|(?:anti|counter)?-?clockwise|(?:east|west)(?:ern|wards?)?)\b", re.IGNORECASE
)
# Measurements that are kept: at most so many videos, and frames in all (about 50 MB of timestamps).
_KEPT_VIDEOS, _KEPT_FRAMES = 32, 200_000


class ClipReadError(ValueError):
    """A clip of the plan cannot be read any more; the text names its file."""


def names_a_side(text: str) -> bool:
    """
    Tell whether a caption would be wrong for a mirrored clip.

    Args:
        text (`str`): The caption.

    Returns:
        `bool`: Whether it has a word such as left, rightwards, clockwise or western.
    """
    return _SIDED.search(text) is not None


class ClipReader:
    """
    Reads clips of a plan; measurements of the last few videos are kept, pixels never.

    Args:
        image_fps (`Fraction`, *optional*): The rate of folders of images that do not state their own.
    """

    def __init__(self, image_fps: Fraction | None = None) -> None:
        self.image_fps = image_fps
        self._infos: OrderedDict[str, VideoInfo] = OrderedDict()

    def read(self, video: PlannedVideo, clip: PlannedClip) -> Tensor:
        """
        Decode exactly the frames of a clip.

        Args:
            video ([`PlannedVideo`]): Its video.
            clip ([`PlannedClip`]): Which times to show.

        Returns:
            `torch.Tensor` of shape `(num_frames, 3, height, width)`: uint8, in the size of the file.

        Raises:
            ClipReadError: If the file is gone, damaged, or another one than when the plan was made.
        """
        try:
            info = self._infos.get(video.path) or probe_video(
                video.path, fps=folder_fps(Path(video.path), self.image_fps)
            )
            if info.file_state != video.file_state:
                raise ValueError("it has changed since the plan was made. Plan again")
            frames = read_frames_at(info, clip.times)
        except Exception as error:
            self._infos.pop(video.path, None)
            raise ClipReadError(
                f"The clip of '{video.name}' at {float(clip.start):.3f} s cannot be read from {video.path}:"
                f" {describe_error(error)}"
            ) from error
        self._keep(video.path, info)
        return frames

    def _keep(self, path: str, info: VideoInfo) -> None:
        self._infos[path] = info
        self._infos.move_to_end(path)
        while len(self._infos) > 1 and self._is_over_limit():
            self._infos.popitem(last=False)

    def _is_over_limit(self) -> bool:
        num_frames = sum(kept.num_frames for kept in self._infos.values())
        return len(self._infos) > _KEPT_VIDEOS or num_frames > _KEPT_FRAMES

    def __getstate__(self) -> dict[str, Fraction | None]:
        return {"image_fps": self.image_fps}

    def __setstate__(self, state: dict[str, Fraction | None]) -> None:
        self.__init__(state["image_fps"])


def resize_to_cover(frames: Tensor, bucket: Bucket, interpolation: str) -> Tensor:
    """
    Scale frames, with their aspect ratio kept, until they just cover a bucket.

    Args:
        frames (`torch.Tensor` of shape `(F, 3, H, W)`): uint8.
        bucket ([`Bucket`]): What to cover.
        interpolation (`str`):
            `"bicubic"` or `"bilinear"`, with a filter as wide as a shrunk pixel, or `"area"`, the mean over it.

    Returns:
        `torch.Tensor` of shape `(F, 3, new height, new width)`: uint8, rounded; `frames` itself if nothing changes.
    """
    height, width = frames.shape[-2:]
    scale = enlargement(width, height, bucket)
    size = (max(bucket.height, round(height * scale)), max(bucket.width, round(width * scale)))
    if size == (height, width):
        return frames
    options = {} if interpolation == "area" else {"antialias": True, "align_corners": False}
    resized = torch.empty(len(frames), 3, *size, dtype=torch.uint8)
    for target, frame in zip(resized, frames, strict=True):  # one by one: in float32 a frame takes four times as much
        picture = functional.interpolate(frame[None].float(), size=size, mode=interpolation, **options)[0]
        target.copy_(picture.round_().clamp_(0, 255))
    return resized


def crop(frames: Tensor, bucket: Bucket, place: tuple[float, float]) -> Tensor:
    """
    Cut a bucket's size out of frames.

    Args:
        frames (`torch.Tensor` of shape `(F, 3, H, W)`): At least as large as the bucket.
        bucket ([`Bucket`]): The size.
        place (`tuple[float, float]`): Where, from top to bottom and from left to right, in [0, 1]; 0.5 is the centre.

    Returns:
        `torch.Tensor` of shape `(F, 3, bucket.height, bucket.width)`: a view.
    """
    room = (frames.shape[-2] - bucket.height, frames.shape[-1] - bucket.width)
    top, left = (min(int(part * (free + 1)), free) for part, free in zip(place, room, strict=True))
    return frames[..., top : top + bucket.height, left : left + bucket.width]


def draw_augmentation(seed: int, epoch: int, index: int) -> tuple[tuple[float, float], bool]:
    """
    Draw where a clip is cropped and whether it is mirrored; a function of its arguments alone.

    Args:
        seed (`int`): Of the run, at least 0.
        epoch (`int`): How often the set has been seen.
        index (`int`): Of the clip.

    Returns:
        `tuple` of the place for [`crop`] and a `bool`.
    """
    top, left, mirror = np.random.default_rng([seed, epoch, index]).random(3)
    return (float(top), float(left)), bool(mirror < 0.5)


def to_pixel_values(frames: Tensor) -> Tensor:
    """
    Frames as models take them.

    Args:
        frames (`torch.Tensor` of shape `(F, 3, H, W)`): uint8.

    Returns:
        `torch.Tensor` of shape `(3, F, H, W)`: float32 in [-1, 1], contiguous.
    """
    return frames.transpose(0, 1).contiguous().to(torch.float32).div_(127.5).sub_(1)
