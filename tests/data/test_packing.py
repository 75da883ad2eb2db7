"""Packed latents: equal to what the encoder gives, resumable, and refused when they are of something else."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_video.data.dataset import VideoClipDataset, collate_clips
from diffusers_video.data.packed import PackedClipDataset
from diffusers_video.data.packing import pack_clips
from diffusers_video.data.plan import ClipPlan
from diffusers_video.data.sampler import BucketBatchSampler, build_loader
from diffusers_video.data.shapes import ShapesDataset
from tests.data.video_sets import make_plan, write_small


IDENTITY = {"model": "mean of blocks", "dtype": "float32"}


class Encoder:
    """Means over blocks of pixels and letters as text; counts what it has encoded."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.num_encoded, self.stop_after = 0, stop_after

    def __call__(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        if self.num_encoded == self.stop_after:
            raise KeyboardInterrupt
        self.num_encoded += len(batch["text"])
        mean = torch.nn.functional.avg_pool3d(batch["pixel_values"], (1, 8, 8))
        letters = [[float(ord(letter)) for letter in text[:4].ljust(4)] for text in batch["text"]]
        return {"mean": mean, "std": mean.abs().half(), "encoder_hidden_states": torch.tensor(letters)}


def test_packed_clips_equal_what_the_encoder_gives(small_plan: ClipPlan, tmp_path: Path) -> None:
    dataset = VideoClipDataset(small_plan)
    path = pack_clips(dataset, Encoder(), tmp_path / "packed", identity=IDENTITY, clips_per_shard=4)
    packed = PackedClipDataset(tmp_path / "packed", identity=IDENTITY)
    assert path == tmp_path / "packed" / "index.json" and len(packed) == len(dataset) and not packed.skipped
    assert packed.buckets == dataset.buckets
    for index in (9, 0, 4, 3):
        want, item = Encoder()(collate_clips([dataset[index]])), packed[index]
        assert item.keys() == want.keys() | {"text", "fps", "index"}
        assert (item["text"], item["fps"], item["index"]) == (dataset[index]["text"], 8.0, index)
        for name, value in want.items():
            assert torch.equal(item[name], value[0]) and item[name].dtype == value.dtype


def test_batches_join_neighbours_of_one_bucket(small_plan: ClipPlan, tmp_path: Path) -> None:
    sizes = []

    def encode(batch: dict[str, Any]) -> dict[str, Tensor]:
        sizes.append(len(batch["text"]))
        return Encoder()(batch)

    dataset = VideoClipDataset(small_plan)
    pack_clips(dataset, encode, tmp_path / "three", identity={}, batch_size=3)
    pack_clips(dataset, Encoder(), tmp_path / "one", identity={})
    assert sizes == [3, 3, 1, 3]
    three, one = PackedClipDataset(tmp_path / "three"), PackedClipDataset(tmp_path / "one")
    assert all(torch.equal(three[k]["mean"], one[k]["mean"]) for k in range(10))


def test_a_loader_takes_packed_clips_as_it_takes_videos(small_plan: ClipPlan, tmp_path: Path) -> None:
    dataset = VideoClipDataset(small_plan)
    pack_clips(dataset, Encoder(), tmp_path, identity=IDENTITY, clips_per_shard=3)
    packed = PackedClipDataset(tmp_path)

    def batches(source: Any, num_workers: int) -> list[dict[str, Any]]:
        return list(build_loader(source, BucketBatchSampler(source.buckets, 2, seed=2), num_workers=num_workers))

    for clip, *latents in zip(batches(dataset, 0), batches(packed, 0), batches(packed, 1), strict=True):
        for batch in latents:
            assert torch.equal(batch["mean"], Encoder()(clip)["mean"]) and batch["text"] == clip["text"]
            assert torch.equal(batch["index"], clip["index"]) and torch.equal(batch["fps"], clip["fps"])


def test_an_interrupted_pack_goes_on_where_it_stopped(small_plan: ClipPlan, tmp_path: Path) -> None:
    dataset = VideoClipDataset(small_plan)
    with pytest.raises(KeyboardInterrupt):
        pack_clips(dataset, Encoder(stop_after=7), tmp_path, identity=IDENTITY, clips_per_shard=3)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "index.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    with pytest.raises(ValueError, match="was interrupted. Call `pack_clips` again"):
        PackedClipDataset(tmp_path)
    (tmp_path / ".shard-00002.safetensors-0.tmp").write_bytes(b"left by a kill")
    encoder, calls = Encoder(), []
    pack_clips(dataset, encoder, tmp_path, identity=IDENTITY, clips_per_shard=3, progress=lambda *c: calls.append(c))
    assert encoder.num_encoded == 4 and len(PackedClipDataset(tmp_path)) == 10
    assert calls == [(count, 10) for count in (3, 6, 7, 8, 9, 10)]
    assert not list(tmp_path.glob("*.tmp"))
    again = Encoder()
    pack_clips(dataset, again, tmp_path, identity=IDENTITY, clips_per_shard=3)
    assert again.num_encoded == 0


def test_several_processes_share_the_shards(small_plan: ClipPlan, tmp_path: Path) -> None:
    dataset, counts = VideoClipDataset(small_plan), []
    for options in ({"num_processes": 2, "process_index": 1}, {"num_processes": 2}, {}):
        encoder = Encoder()
        path = pack_clips(dataset, encoder, tmp_path, identity=IDENTITY, clips_per_shard=2, **options)
        counts.append(encoder.num_encoded)
        assert (path is None) == bool(options)
    assert counts == [4, 6, 0]
    assert [PackedClipDataset(tmp_path)[k]["index"] for k in range(10)] == list(range(10))


def test_a_set_of_something_else_is_not_reused(small_folder: Path, small_plan: ClipPlan, tmp_path: Path) -> None:
    dataset = VideoClipDataset(small_plan)
    pack_clips(dataset, Encoder(), tmp_path, identity=IDENTITY)
    for other, options, changed in (
        (dataset, {"identity": {"model": "another"}}, "identity"),
        (VideoClipDataset(small_plan, interpolation="area"), {"identity": IDENTITY}, "dataset"),
        (VideoClipDataset(make_plan(small_folder, "32x24@2")), {"identity": IDENTITY}, "dataset"),
        (dataset, {"identity": IDENTITY, "clips_per_shard": 5}, "clips_per_shard"),
    ):
        with pytest.raises(ValueError, match=f"was packed with another {changed}. Name another folder"):
            pack_clips(other, Encoder(), tmp_path, **options)
    with pytest.raises(ValueError, match="`identity` must be that of the packed set"):
        PackedClipDataset(tmp_path, identity={"model": "another"})


def test_a_clip_that_cannot_be_read_is_left_out_and_named(tmp_path: Path, capture_log: Callable[[], str]) -> None:
    for name in "abc":
        write_small(tmp_path / f"{name}.gif", 4)
    plan = make_plan(tmp_path)
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    for on_error in ("raise", "skip"):
        pack_clips(VideoClipDataset(plan, on_error=on_error), Encoder(), tmp_path / on_error, identity={})
        packed = PackedClipDataset(tmp_path / on_error)
        assert [packed[k]["index"] for k in range(len(packed))] == [0, 2]
        assert [clip["index"] for clip in packed.skipped] == [1] and "b.gif" in packed.skipped[0]["reason"]
        assert "b.gif" in capture_log()


@pytest.mark.parametrize("damage", ["cut off", "gone", "one bit"])
def test_a_damaged_shard_is_named_and_can_be_packed_again(small_plan: ClipPlan, tmp_path: Path, damage: str) -> None:
    dataset = VideoClipDataset(small_plan)
    pack_clips(dataset, Encoder(), tmp_path, identity=IDENTITY, clips_per_shard=4)
    shard = tmp_path / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    if damage == "gone":
        shard.unlink()
    elif damage == "cut off":
        shard.write_bytes(data[:-10])
    else:
        data[-10] ^= 1
        shard.write_bytes(data)
    with pytest.raises(ValueError, match="shard-00001.safetensors (is|has).*Delete it and call `pack_clips` again"):
        packed = PackedClipDataset(tmp_path)  # notices at once what a file's size tells
        assert damage == "one bit"
        [packed[k] for k in range(len(packed))]
    shard.unlink(missing_ok=True)
    encoder = Encoder()
    pack_clips(dataset, encoder, tmp_path, identity=IDENTITY, clips_per_shard=4)
    assert encoder.num_encoded == 4 and len(PackedClipDataset(tmp_path)) == 10


def test_the_shapes_set_can_be_packed(tmp_path: Path) -> None:
    shapes = ShapesDataset(5, num_frames=2, height=16, width=16, seed=1)
    pack_clips(shapes, Encoder(), tmp_path, identity=IDENTITY)
    packed = PackedClipDataset(tmp_path)
    assert packed[3]["text"] == shapes[3]["text"] and packed.buckets == ["16x16@2"] * 5
    with pytest.raises(ValueError, match="another dataset"):
        pack_clips(ShapesDataset(5, num_frames=2, height=16, width=16), Encoder(), tmp_path, identity=IDENTITY)


def test_a_packed_set_travels_to_workers_and_keeps_few_files_open(small_plan: ClipPlan, tmp_path: Path) -> None:
    pack_clips(VideoClipDataset(small_plan), Encoder(), tmp_path, identity={}, clips_per_shard=1)
    packed = PackedClipDataset(tmp_path)
    clips = [packed[k] for k in range(10)]
    assert len(packed._open) == 8
    copy = pickle.loads(pickle.dumps(packed))
    assert not copy._open and torch.equal(copy[9]["mean"], clips[9]["mean"])


BAD_RESULTS = {
    "no tensors": (lambda batch: {}, "must return tensors by name"),
    "a tensor": (lambda batch: torch.zeros(1), "must return tensors by name, but returned Tensor"),
    "another batch size": (lambda batch: {"mean": torch.zeros(2, 3)}, r"'mean' has shape \(2, 3\)"),
    "text": (lambda batch: {"mean": "x"}, "'mean' has str"),
    "a name of the clip": (lambda batch: {"fps": torch.zeros(1)}, "must not return 'fps'"),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_what_an_encoder_must_not_return_is_an_error(small_plan: ClipPlan, tmp_path: Path, case: str) -> None:
    encode, message = BAD_RESULTS[case]
    with pytest.raises(ValueError, match=message):
        pack_clips(VideoClipDataset(small_plan), encode, tmp_path, identity={})


def test_random_clips_and_foreign_folders_are_refused(small_plan: ClipPlan, tmp_path: Path) -> None:
    dataset = VideoClipDataset(small_plan)
    with pytest.raises(ValueError, match="`random_crop` and `random_flip` off"):
        pack_clips(VideoClipDataset(small_plan, random_crop=True), Encoder(), tmp_path, identity={})
    with pytest.raises(TypeError, match="`identity` must hold JSON values"):
        pack_clips(dataset, Encoder(), tmp_path, identity={"dtype": torch.float16})
    with pytest.raises(TypeError, match="must have a method `describe"):
        pack_clips(torch.utils.data.TensorDataset(torch.zeros(2)), Encoder(), tmp_path, identity={})
    with pytest.raises(ValueError, match="`process_index` must be from 0 to 0"):
        pack_clips(dataset, Encoder(), tmp_path, identity={}, process_index=1)
    (tmp_path / "holiday.txt").touch()
    with pytest.raises(ValueError, match="holds other files. Name another"):
        pack_clips(dataset, Encoder(), tmp_path, identity={})
    with pytest.raises(ValueError, match="has no index.json. Pack it by `pack_clips`"):
        PackedClipDataset(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"clips": []}))
    with pytest.raises(ValueError, match="index.json is damaged"):
        PackedClipDataset(tmp_path)
