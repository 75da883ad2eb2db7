"""Training clips, decoded when they are asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor
from torch.utils.data import Dataset

from diffusers_video.data.checks import check_whole
from diffusers_video.data.frames import (
    INTERPOLATIONS,
    ClipReader,
    ClipReadError,
    crop,
    draw_augmentation,
    names_a_side,
    resize_to_cover,
    to_pixel_values,
)
from diffusers_video.data.plan import ClipPlan, PlannedClip


logger = logging.get_logger(__name__)


class VideoClipDataset(Dataset):
    """
    The clips of a plan. Nothing is kept of a clip once it has been handed out.

    Crops and flips depend on `seed`, the epoch and the index of a clip alone, so that a run that is resumed sees what
    it would have seen. The epoch comes with the indices of [`BucketBatchSampler`]; plain ones mean epoch 0. Pixels are
    resized to 8 bits, so that an exported clip equals the one that is trained on.

    Args:
        plan ([`ClipPlan`]): What to read.
        seed (`int`, *optional*, defaults to 0): Seed of crops and flips, at least 0.
        random_crop (`bool`, *optional*, defaults to `False`): Crop anywhere instead of in the centre.
        random_flip (`bool`, *optional*, defaults to `False`):
            Mirror every second clip, left to right. Clips whose captions name a side (left, clockwise, ...) are not.
        flip_any_caption (`bool`, *optional*, defaults to `False`): With `random_flip`: mirror those as well.
        interpolation (`str`, *optional*, defaults to `"bicubic"`): `"bicubic"`, `"bilinear"` or `"area"`.
        on_error (`str`, *optional*, defaults to `"raise"`):
            What to do with a clip that cannot be read any more: `"raise"` a [`ClipReadError`], or `"skip"`: log its
            name, and give the next readable clip of its bucket in its place.

    Raises:
        TypeError: If `seed` is no whole number.
        ValueError: If the plan holds no clip, or an argument is out of its range or without effect.
    """

    def __init__(
        self,
        plan: ClipPlan,
        *,
        seed: int = 0,
        random_crop: bool = False,
        random_flip: bool = False,
        flip_any_caption: bool = False,
        interpolation: str = "bicubic",
        on_error: str = "raise",
    ) -> None:
        if not plan.clips:
            reasons = sorted({part.reason for part in plan.unused})
            raise ValueError(f"`plan` must hold at least one clip, but all of {plan.root} is unused: {reasons}.")
        check_whole("seed", seed, 0)
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"`interpolation` must be one of {INTERPOLATIONS}, but is {interpolation!r}.")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip', but is {on_error!r}.")
        if flip_any_caption and not random_flip:
            raise ValueError("`flip_any_caption` must be False without `random_flip`, but is True. Set both, or none.")
        self.plan, self.seed, self.on_error = plan, seed, on_error
        self.random_crop, self.random_flip, self.flip_any_caption = random_crop, random_flip, flip_any_caption
        self.interpolation = interpolation
        self._reader = ClipReader(plan.settings.image_fps)
        self._report_captions_with_sides()

    def _report_captions_with_sides(self) -> None:
        if not self.random_flip or self.flip_any_caption:
            return
        sided = sum(names_a_side(self.plan.videos[clip.video].text) for clip in self.plan.clips)
        if sided:
            logger.warning(f"{sided} of {len(self)} clips are never flipped, because their captions name a side.")

    def __len__(self) -> int:
        return len(self.plan.clips)

    @property
    def buckets(self) -> list[str]:
        """The bucket of each clip, for [`BucketBatchSampler`]."""
        return [str(clip.bucket) for clip in self.plan.clips]

    def describe(self) -> dict[str, Any]:
        """
        Say what the clips depend on.

        Returns:
            `dict`: JSON values; equal for equal clips.
        """
        names = ("random_crop", "random_flip", "flip_any_caption", "interpolation")
        options = {name: getattr(self, name) for name in names}
        seed = self.seed if self.random_crop or self.random_flip else None
        return {"plan": self.plan.fingerprint(), "seed": seed, **options}

    def read_frames(self, index: int) -> Tensor:
        """
        Read, resize and crop a clip.

        Args:
            index (`int`): Which one; from [`BucketBatchSampler`] with its epoch.

        Returns:
            `torch.Tensor` of shape `(num_frames, 3, height, width)`: uint8.

        Raises:
            ClipReadError: If it cannot be read any more, whatever `on_error` is.
            IndexError: If there is no such clip.
        """
        number = self._check_index(index)
        clip = self.plan.clips[number]
        frames = self._reader.read(self.plan.videos[clip.video], clip)
        place, is_mirrored = draw_augmentation(self.seed, getattr(index, "epoch", 0), number)
        frames = resize_to_cover(frames, clip.bucket, self.interpolation)
        frames = crop(frames, clip.bucket, place if self.random_crop else (0.5, 0.5))
        return frames.flip(-1) if is_mirrored and self._may_mirror(clip) else frames

    def _check_index(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be below {len(self)} (the number of clips), but is {index}.")
        return int(index) % len(self)

    def _may_mirror(self, clip: PlannedClip) -> bool:
        text = self.plan.videos[clip.video].text
        return self.random_flip and (self.flip_any_caption or not names_a_side(text))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Read a clip.

        Args:
            index (`int`): Which one; from [`BucketBatchSampler`] with its epoch.

        Returns:
            `dict`: `pixel_values` (`torch.Tensor` of shape `(3, num_frames, height, width)`, float32 in [-1, 1]),
            `text` (`str`), `fps` (`float`) and `index` (`int`, of the clip that was read).

        Raises:
            ClipReadError: If it cannot be read any more, with `on_error="raise"`, or no clip of its bucket can.
            IndexError: If there is no such clip.
        """
        number, frames = self._read_or_skip(index)
        clip = self.plan.clips[number]
        return {
            "pixel_values": to_pixel_values(frames),
            "text": self.plan.videos[clip.video].text,
            "fps": float(clip.fps),
            "index": number,
        }

    def _read_or_skip(self, index: int) -> tuple[int, Tensor]:
        number = self._check_index(index)
        try:
            return number, self.read_frames(index)
        except ClipReadError as error:
            if self.on_error == "raise":
                raise
            logger.warning(f"{error} Another clip takes its place.")
            first_error = error
        bucket = self.plan.clips[number].bucket
        for other in chain(range(number + 1, len(self)), range(number)):
            if self.plan.clips[other].bucket == bucket:
                try:
                    return other, self.read_frames(EpochIndex(other, getattr(index, "epoch", 0)))
                except ClipReadError as error:
                    logger.warning(f"{error} Another clip takes its place.")
        raise ClipReadError(f"{first_error} No other clip of bucket {bucket} can be read either.") from first_error


class EpochIndex(int):
    """
    An index that also says how often the set has been seen; to any dataset it is a plain number.

    Args:
        value (`int`): The index.
        epoch (`int`): The epoch.
    """

    epoch: int

    def __new__(cls, value: int, epoch: int) -> EpochIndex:
        index = super().__new__(cls, value)
        index.epoch = epoch
        return index

    def __getnewargs__(self) -> tuple[int, int]:
        return int(self), self.epoch


def collate_clips(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Join clips to a batch.

    Args:
        items (`Sequence[Mapping[str, Any]]`): Items of one dataset, of one size and length.

    Returns:
        `dict`: Tensors stacked along a new first axis (`pixel_values`: `(B, 3, F, H, W)`), whole numbers as int64
        `(B,)`, other numbers as float32 `(B,)`, anything else as a list.

    Raises:
        ValueError: If there is no item, or items differ in their keys or sizes.
    """
    if not items:
        raise ValueError("`items` must hold at least one clip, but is empty.")
    values = defaultdict(list)
    for item in items:
        if item.keys() != items[0].keys():
            raise ValueError(f"`items` must have the same keys, but have {list(items[0])} and {list(item)}.")
        for name, value in item.items():
            values[name].append(value)
    return {name: _join(name, column) for name, column in values.items()}


def _join(name: str, column: list[Any]) -> Any:
    if isinstance(column[0], Tensor):
        shapes = {tuple(value.shape) for value in column}
        if len(shapes) > 1:
            raise ValueError(
                f"`items` must be of one size and length, but `{name}` has shapes {sorted(shapes)}. Batch them by a"
                " BucketBatchSampler."
            )
        return torch.stack(column)
    if all(isinstance(value, int) and not isinstance(value, bool) for value in column):
        return torch.tensor(column, dtype=torch.int64)
    return torch.tensor(column, dtype=torch.float32) if isinstance(column[0], float) else column
