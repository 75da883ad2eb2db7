"""Clips for training with single frames of other clips beside them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from diffusers_video.data.checks import check_whole
from diffusers_video.data.dataset import EpochIndex


class JointImageDataset(Dataset):
    """
    The clips of a set, each with single frames of other clips of its size.

    Which frames depends on `seed`, the epoch and the index of the clip alone, so that a run that is resumed sees what
    it would have seen. Each frame costs the reading of its clip.

    Args:
        dataset (`Dataset`): Clips with `pixel_values`, and `buckets`.
        num_images (`int`): Frames beside each clip, at least 1.
        seed (`int`, *optional*, defaults to 0): Seed of their choice, at least 0.

    Raises:
        TypeError: If a number is no whole one.
        ValueError: If a number is out of its range, or a clip is the only one of its size.

    Source:
        VDM (arXiv:2204.03458), Section 3: independent frames, from random other videos of the same set.
    """

    def __init__(self, dataset: Dataset, num_images: int, seed: int = 0) -> None:
        check_whole("num_images", num_images, 1)
        check_whole("seed", seed, 0)
        self.dataset, self.num_images, self.seed, self.buckets = dataset, num_images, seed, list(dataset.buckets)
        self._of_bucket: dict[str, list[int]] = defaultdict(list)
        for index, bucket in enumerate(self.buckets):
            self._of_bucket[bucket].append(index)
        alone = [bucket for bucket, indices in self._of_bucket.items() if len(indices) < 2]
        if alone:
            raise ValueError(
                "`dataset` must have at least 2 clips of each size, whose frames go beside one another, but has one"
                f" of {alone[0]}. Leave that size out, or add clips."
            )

    def __len__(self) -> int:
        return len(self.buckets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Read a clip and the frames beside it.

        Args:
            index (`int`): Which one; from [`BucketBatchSampler`] with its epoch.

        Returns:
            `dict`: The item of the set, and `images`, a `torch.Tensor` of shape `(3, num_images, height, width)`; with
            `image_texts`, a `list[str]` of their own captions, if clips have a `text`.
        """
        item, epoch, number = self.dataset[index], getattr(index, "epoch", 0), int(index) % len(self)
        random = np.random.default_rng([self.seed, epoch, number])
        others = [other for other in self._of_bucket[self.buckets[number]] if other != number]
        chosen = random.choice(others, self.num_images, replace=len(others) < self.num_images)
        frames, texts = [], []
        for other in chosen:
            clip = self.dataset[EpochIndex(int(other), epoch)]
            frames.append(clip["pixel_values"][:, random.integers(clip["pixel_values"].shape[1])])
            texts += [clip["text"]] if "text" in clip else []
        return {**item, "images": torch.stack(frames, dim=1)} | ({"image_texts": texts} if texts else {})
