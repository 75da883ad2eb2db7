"""Single frames of other clips beside each clip."""

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from diffusers_video.data.dataset import EpochIndex, collate_clips
from diffusers_video.data.joint_images import JointImageDataset


class CountedClips(Dataset):
    """Clips whose pixels say which clip and which frame they are of: 10 * clip + frame."""

    def __init__(self, *lengths: int) -> None:
        self.lengths, self.buckets = lengths, [f"4x4@{length}" for length in lengths]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        frames = 10.0 * int(index) + torch.arange(self.lengths[index])
        return {"pixel_values": frames[None, :, None, None].expand(3, -1, 4, 4), "index": int(index)}


def places(item: dict[str, Any]) -> list[tuple[int, int]]:
    return [divmod(int(value), 10) for value in item["images"][0, :, 0, 0]]


def test_images_are_frames_of_other_clips_of_the_same_size() -> None:
    dataset = JointImageDataset(CountedClips(3, 2, 3, 3, 2), num_images=2)
    assert len(dataset) == 5 and dataset.buckets[1] == "4x4@2"
    for index, others in ((0, {2, 3}), (1, {4}), (4, {1})):
        item = dataset[index]
        assert item["images"].shape == (3, 2, 4, 4) and torch.equal(
            item["pixel_values"][0, 0], item["index"] * 10.0 + torch.zeros(4, 4)
        )
        assert {clip for clip, _ in places(item)} <= others
    assert {clip for clip, _ in places(dataset[0])} == {2, 3}  # none twice while there are enough
    assert collate_clips([dataset[0], dataset[2]])["images"].shape == (2, 3, 2, 4, 4)


def test_the_choice_follows_seed_epoch_and_index() -> None:
    clips = CountedClips(*[9] * 9)
    dataset = JointImageDataset(clips, 4, seed=1)
    assert places(dataset[3]) == places(JointImageDataset(clips, 4, seed=1)[EpochIndex(3, 0)])
    others = [JointImageDataset(clips, 4, seed=2)[3], dataset[EpochIndex(3, 1)], dataset[4]]
    assert all(places(item) != places(dataset[3]) for item in others)
    seen = {place for epoch in range(200) for place in places(dataset[EpochIndex(3, epoch)])}
    assert seen == {(clip, frame) for clip in range(9) if clip != 3 for frame in range(9)}


def test_images_come_with_the_captions_of_their_own_clips() -> None:
    class CaptionedClips(CountedClips):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**super().__getitem__(index), "text": f"clip {int(index)}"}

    dataset = JointImageDataset(CaptionedClips(*[3] * 6), num_images=3)
    items = [dataset[2], dataset[5]]
    for item in items:
        assert (
            item["image_texts"] == [f"clip {clip}" for clip, _ in places(item)]
            and item["text"] not in item["image_texts"]
        )
    assert collate_clips(items)["image_texts"] == [item["image_texts"] for item in items]
    assert "image_texts" not in JointImageDataset(CountedClips(3, 3), 1)[0]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_images` must be at least 1, but is 0"):
        JointImageDataset(CountedClips(3, 3), 0)
    with pytest.raises(ValueError, match="at least 2 clips of each size, .* but has one of 4x4@2"):
        JointImageDataset(CountedClips(3, 2, 3), 1)
