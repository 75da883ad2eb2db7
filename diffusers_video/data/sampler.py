"""In which order clips are seen: batches of one bucket, the same in every process, resumable anywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from torch.utils.data import DataLoader, Dataset, Sampler

from diffusers_video.data.checks import check_whole
from diffusers_video.data.dataset import EpochIndex, collate_clips
from diffusers_video.data.files import fingerprint


logger = logging.get_logger(__name__)


class BucketBatchSampler(Sampler[list[int]]):
    """
    Batches of clips of one bucket, for the `batch_sampler` of a `DataLoader` in each of several processes.

    Every step takes `batch_size * num_processes` clips of one bucket, a part for each process, so all processes see
    equally many batches and, at a step, equally many clips of one size. The order is a function of `seed` and the
    epoch. What an epoch leaves over in a bucket makes a smaller step, evened out over the processes by showing up to
    `num_processes - 1` clips twice (`num_repeated`); with `drop_last` it is left out of that epoch (`num_dropped`).
    Both are logged.

    The sampler does not count what a loader has fetched in advance: call [`BucketBatchSampler.advance`] for each batch
    that was used, or iterate by [`endless_batches`], which does. Do not hand a loader with it to
    `Accelerator.prepare`, which would divide the batches once more.

    Args:
        buckets (`Sequence[str]`): The bucket of each clip, such as `VideoClipDataset.buckets`.
        batch_size (`int`): Clips per batch and process, at least 1.
        seed (`int`, *optional*, defaults to 0): Seed of the order, at least 0.
        shuffle (`bool`, *optional*, defaults to `True`): Whether to shuffle clips and steps, anew in every epoch.
        drop_last (`bool`, *optional*, defaults to `False`): Whether to leave out incomplete steps.
        num_processes (`int`, *optional*, defaults to 1): How many processes share the clips.
        process_index (`int`, *optional*, defaults to 0): Which of them this is.

    Raises:
        TypeError: If a number is no whole number.
        ValueError: If there are no clips, an argument is out of its range, or `drop_last` leaves nothing.
    """

    def __init__(
        self,
        buckets: Sequence[str],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        num_processes: int = 1,
        process_index: int = 0,
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        check_whole("seed", seed, 0)
        check_whole("num_processes", num_processes, 1)
        check_whole("process_index", process_index, 0, num_processes - 1)
        self.batch_size, self.seed, self.shuffle, self.drop_last = batch_size, seed, shuffle, drop_last
        self.num_processes, self.process_index = num_processes, process_index
        self._members: dict[str, list[int]] = defaultdict(list)
        for index, bucket in enumerate(buckets):
            self._members[bucket].append(index)
        if not self._members:
            raise ValueError("`buckets` must name the bucket of at least one clip, but is empty.")
        self.num_clips = len(buckets)
        self._fingerprint = fingerprint([str(bucket) for bucket in buckets])
        self._num_used = 0
        self._count_left_over()

    def _count_left_over(self) -> None:
        step = self.batch_size * self.num_processes
        left = [len(members) % step for members in self._members.values()]
        self.num_dropped = sum(left) if self.drop_last else 0
        self.num_repeated = 0 if self.drop_last else sum(-count % self.num_processes for count in left)
        steps = [len(members) // step for members in self._members.values()]
        self._length = sum(steps) + (0 if self.drop_last else sum(count > 0 for count in left))
        if not self._length:
            raise ValueError(
                f"`batch_size` must leave a batch, but {self.batch_size} clips for each of {self.num_processes}"
                f" processes are more than any of the {len(self._members)} buckets holds. Lower it, or set `drop_last`"
                " to False."
            )
        if self.num_dropped:
            logger.warning(
                f"Every epoch leaves out {self.num_dropped} of {self.num_clips} clips, which fill no batch"
                " (`drop_last`)."
            )
        if self.num_repeated:
            logger.warning(
                f"Every epoch shows {self.num_repeated} clips twice, so that all processes get equally many."
            )

    def __len__(self) -> int:
        """Batches per epoch, equal in all processes."""
        return self._length

    @property
    def epoch(self) -> int:
        """How often the whole set has been used."""
        return self._num_used // self._length

    @property
    def num_used(self) -> int:
        """Batches used since the beginning."""
        return self._num_used

    def set_epoch(self, epoch: int) -> None:
        """
        Go to the beginning of an epoch.

        Args:
            epoch (`int`): Which one, at least 0.
        """
        check_whole("epoch", epoch, 0)
        self._num_used = epoch * self._length

    def advance(self, num_batches: int = 1) -> None:
        """
        Count batches as used.

        Args:
            num_batches (`int`, *optional*, defaults to 1): How many, at least 0.
        """
        check_whole("num_batches", num_batches, 0)
        self._num_used += num_batches

    def __iter__(self) -> Iterator[list[int]]:
        """The rest of the current epoch: lists of [`EpochIndex`], from the first batch that was not used."""
        epoch, position = divmod(self._num_used, self._length)
        for step in self._plan_epoch(epoch)[position:]:
            own = step[self.process_index :: self.num_processes]
            yield [EpochIndex(index, epoch) for index in own]

    def _plan_epoch(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng([self.seed, epoch])
        size = self.batch_size * self.num_processes
        steps = []
        for members in self._members.values():
            order = random.permutation(members).tolist() if self.shuffle else members
            cut = [order[first : first + size] for first in range(0, len(order), size)]
            if len(cut[-1]) < size:
                last = cut.pop()
                short = -len(last) % self.num_processes
                extra = [order[k % len(order)] for k in range(short)]
                cut += [] if self.drop_last else [last + extra]
            steps += cut
        return [steps[k] for k in random.permutation(len(steps))] if self.shuffle else steps

    def state_dict(self) -> dict[str, Any]:
        """
        What [`BucketBatchSampler.load_state_dict`] needs to go on from here.

        Returns:
            `dict`: JSON values.
        """
        return {"num_used": self._num_used, **self._identity()}

    def _identity(self) -> dict[str, Any]:
        names = ("batch_size", "seed", "shuffle", "drop_last", "num_processes", "num_clips")
        return {**{name: getattr(self, name) for name in names}, "buckets": self._fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go on where another sampler was.

        Args:
            state (`dict`): What its [`BucketBatchSampler.state_dict`] returned; it may be of another process.

        Raises:
            ValueError: If it is not such a state, or that sampler had other clips or settings.
        """
        own = self._identity()
        if not isinstance(state, dict) or state.keys() != {"num_used", *own}:
            raise ValueError(f"`state` must be the state of a BucketBatchSampler, but is {state!r}.")
        changed = [f"{name} was {state[name]}, is {value}" for name, value in own.items() if state[name] != value]
        if changed:
            raise ValueError(
                f"`state` must be of a sampler with the same clips and settings, but {'; '.join(changed)}. Resume with"
                " the same ones, or start anew."
            )
        check_whole("state['num_used']", state["num_used"], 0)
        self._num_used = state["num_used"]


def build_loader(dataset: Dataset, sampler: BucketBatchSampler, **options: Any) -> DataLoader:
    """
    A `DataLoader` of clips that leaves the global random state alone, so that a run can be resumed exactly.

    Args:
        dataset (`Dataset`): [`VideoClipDataset`], [`ShapesDataset`], [`PackedClipDataset`] or one of the same items.
        sampler ([`BucketBatchSampler`]): Its order.
        options (*optional*): `num_workers`, `pin_memory` and others of `DataLoader`.

    Returns:
        `DataLoader` of batches as from [`collate_clips`].

    Raises:
        ValueError: If the sampler is for another number of clips.
    """
    if len(dataset) != sampler.num_clips:
        raise ValueError(
            f"`sampler` must be for the {len(dataset)} clips of `dataset`, but is for {sampler.num_clips}. Make it of"
            " the buckets of `dataset`."
        )
    return DataLoader(
        dataset, batch_sampler=sampler, collate_fn=collate_clips, generator=torch.Generator().manual_seed(0), **options
    )


def endless_batches(loader: DataLoader) -> Iterator[Any]:
    """
    Batches without end, epoch after epoch, from where the sampler is; each counts as used when it is handed out.

    Args:
        loader (`DataLoader`): Its `batch_sampler` is a [`BucketBatchSampler`].

    Returns:
        `Iterator` of what the loader gives.

    Raises:
        TypeError: If it has another sampler.
    """
    sampler = loader.batch_sampler
    if not isinstance(sampler, BucketBatchSampler):
        raise TypeError(f"`loader` must have a BucketBatchSampler, but has {type(sampler).__name__}.")
    return _endless(loader, sampler)


def _endless(loader: DataLoader, sampler: BucketBatchSampler) -> Iterator[Any]:
    while True:
        for batch in loader:
            sampler.advance()
            yield batch
