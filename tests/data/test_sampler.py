"""The order of clips: whole, equal in all processes, and resumable at any batch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice

import pytest
import torch

from diffusers_video.data.dataset import VideoClipDataset
from diffusers_video.data.plan import ClipPlan
from diffusers_video.data.sampler import BucketBatchSampler, build_loader, endless_batches
from diffusers_video.data.shapes import ShapesDataset


BUCKETS = ["a"] * 11 + ["b"] * 6 + ["c"]


def epoch_of(sampler: BucketBatchSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return [[int(index) for index in batch] for batch in sampler]


def test_an_epoch_shows_every_clip_once_in_batches_of_one_bucket() -> None:
    sampler = BucketBatchSampler(BUCKETS, 4)
    batches = epoch_of(sampler)
    assert Counter(sum(batches, [])) == Counter(range(18)) and len(batches) == len(sampler) == 6
    assert all(len({BUCKETS[k] for k in batch}) == 1 for batch in batches)
    assert sorted(map(len, batches)) == [1, 2, 3, 4, 4, 4] and sampler.num_dropped == sampler.num_repeated == 0


def test_order_follows_seed_and_epoch_alone() -> None:
    sampler = BucketBatchSampler(BUCKETS, 4, seed=3)
    first = [epoch_of(sampler, epoch) for epoch in (0, 1, 2)]
    assert first[0] != first[1] != first[2]
    assert [epoch_of(BucketBatchSampler(BUCKETS, 4, seed=3), epoch) for epoch in (2, 1, 0)] == first[::-1]
    assert epoch_of(BucketBatchSampler(BUCKETS, 4, seed=4)) != first[0]


def test_shuffling_mixes_the_buckets() -> None:
    sampler = BucketBatchSampler(BUCKETS, 2)
    orders = {"".join(BUCKETS[batch[0]] for batch in epoch_of(sampler, epoch)) for epoch in range(10)}
    assert len(orders) > 5


def test_without_shuffling_clips_come_in_order() -> None:
    sampler = BucketBatchSampler(BUCKETS, 8, shuffle=False)
    assert epoch_of(sampler) == epoch_of(sampler, 1) == [[*range(8)], [8, 9, 10], [*range(11, 17)], [17]]


def test_incomplete_batches_are_left_out_only_if_asked_and_are_counted(capture_log: Callable[[], str]) -> None:
    sampler = BucketBatchSampler(BUCKETS, 4, drop_last=True)
    assert sampler.num_dropped == 6 and len(sampler) == 3
    assert "leaves out 6 of 18 clips" in capture_log()
    assert len(sum(epoch_of(sampler), [])) == 12
    seen = {index for epoch in range(20) for batch in epoch_of(sampler, epoch) for index in batch}
    assert seen == set(range(17))  # others are left out in each epoch; bucket c never makes a batch


@pytest.mark.parametrize("num_processes", [2, 3, 5])
def test_processes_share_each_step_equally(num_processes: int) -> None:
    samplers = [
        BucketBatchSampler(BUCKETS, 2, num_processes=num_processes, process_index=k) for k in range(num_processes)
    ]
    batches = [epoch_of(sampler, 7) for sampler in samplers]
    assert {len(own) for own in batches} == {len(samplers[0])}
    for step in zip(*batches, strict=True):
        assert len({len(batch) for batch in step}) == 1 and step[0]
        assert len({BUCKETS[k] for batch in step for k in batch}) == 1
    counts = Counter(k for own in batches for batch in own for k in batch)
    assert set(counts) == set(range(18)) and counts.total() == 18 + samplers[0].num_repeated


def test_two_processes_together_see_what_one_sees_with_twice_the_batch() -> None:
    whole = epoch_of(BucketBatchSampler(["a"] * 12, 4))
    parts = [epoch_of(BucketBatchSampler(["a"] * 12, 2, num_processes=2, process_index=k)) for k in range(2)]
    assert [sorted(batch) for batch in whole] == [sorted(one + two) for one, two in zip(*parts, strict=True)]


def test_processes_leave_out_what_fills_no_step_with_drop_last() -> None:
    samplers = [BucketBatchSampler(BUCKETS, 2, drop_last=True, num_processes=2, process_index=k) for k in range(2)]
    shown = [index for sampler in samplers for batch in epoch_of(sampler) for index in batch]
    assert len(shown) == len(set(shown)) == 12 and samplers[0].num_dropped == 6 and samplers[0].num_repeated == 0


@pytest.mark.parametrize("stop", range(0, 20, 3))
def test_a_resumed_sampler_goes_on_at_the_next_batch(stop: int) -> None:
    dataset = ShapesDataset(18, num_frames=1, height=16, width=16)

    class Indices(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> dict[str, int]:
            return {"index": int(index), "epoch": index.epoch}

    def run(num_batches: int, state: dict | None = None) -> tuple[list[list[int]], dict]:
        sampler = BucketBatchSampler(BUCKETS, 4, seed=1)
        if state is not None:
            sampler.load_state_dict(state)
        batches = endless_batches(build_loader(Indices(), sampler))
        shown = [batch["index"].tolist() + batch["epoch"].tolist() for batch in islice(batches, num_batches)]
        return shown, json.loads(json.dumps(sampler.state_dict()))

    whole, _ = run(20)
    begin, state = run(stop)
    assert begin + run(20 - stop, state)[0] == whole


def test_what_a_loader_fetches_in_advance_does_not_count(small_plan: ClipPlan) -> None:
    dataset = VideoClipDataset(small_plan)
    sampler = BucketBatchSampler(dataset.buckets, 2)
    batches = endless_batches(build_loader(dataset, sampler, num_workers=1, prefetch_factor=4))
    next(batches)
    assert sampler.num_used == 1 and sampler.epoch == 0
    batches.close()


def test_a_loader_leaves_the_global_random_state_alone(small_plan: ClipPlan) -> None:
    dataset = VideoClipDataset(small_plan, random_crop=True)
    before = torch.get_rng_state()
    list(build_loader(dataset, BucketBatchSampler(dataset.buckets, 2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_of_other_clips_or_settings_is_refused() -> None:
    state = BucketBatchSampler(BUCKETS, 4).state_dict()
    with pytest.raises(ValueError, match="batch_size was 4, is 2"):
        BucketBatchSampler(BUCKETS, 2).load_state_dict(state)
    with pytest.raises(ValueError, match="same clips and settings, but buckets was"):
        BucketBatchSampler(BUCKETS[::-1], 4).load_state_dict(state)
    with pytest.raises(ValueError, match="num_processes was 1, is 2"):
        BucketBatchSampler(BUCKETS, 4, num_processes=2).load_state_dict(state)
    with pytest.raises(ValueError, match="must be the state of a BucketBatchSampler"):
        BucketBatchSampler(BUCKETS, 4).load_state_dict({"num_used": 3})


def test_a_state_fits_every_process() -> None:
    first, second = (BucketBatchSampler(BUCKETS, 2, num_processes=2, process_index=k) for k in range(2))
    first.advance(5)
    second.load_state_dict(first.state_dict())
    assert second.num_used == 5


def test_a_loader_needs_the_sampler_of_its_dataset(small_plan: ClipPlan) -> None:
    with pytest.raises(ValueError, match="for the 10 clips of `dataset`, but is for 18"):
        build_loader(VideoClipDataset(small_plan), BucketBatchSampler(BUCKETS, 2))
    with pytest.raises(TypeError, match="must have a BucketBatchSampler, but has BatchSampler"):
        endless_batches(torch.utils.data.DataLoader(VideoClipDataset(small_plan)))
