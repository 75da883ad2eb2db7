"""Clips as training gets them: exact frames, resized, cropped and flipped repeatably, in bounded memory."""

from __future__ import annotations

import gc
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from diffusers_video.data.buckets import Bucket
from diffusers_video.data.dataset import EpochIndex, VideoClipDataset, collate_clips
from diffusers_video.data.frames import ClipReadError, crop, draw_augmentation, names_a_side, resize_to_cover
from diffusers_video.data.plan import ClipPlan
from diffusers_video.data.sampler import BucketBatchSampler, build_loader
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.video_io import read_video, write_video
from tests.data.video_sets import make_plan, write_jsonl, write_small
from tests.video_files import moving_frames


def test_an_item_has_the_keys_and_ranges_of_the_shapes_set(small_plan: ClipPlan) -> None:
    dataset = VideoClipDataset(small_plan)
    item, model = dataset[1], ShapesDataset(1)[0]
    assert item.keys() == model.keys() | {"index"} and item["index"] == 1
    assert item["pixel_values"].shape == (3, 4, 24, 32) and item["pixel_values"].dtype == torch.float32
    assert -1 <= item["pixel_values"].min() < -0.2 < 0.2 < item["pixel_values"].max() <= 1
    assert (item["text"], item["fps"]) == ("clip 1", 8.0)
    assert len(dataset) == len(dataset.buckets) == 10


def test_without_resizing_the_frames_are_those_of_the_file(small_folder: Path) -> None:
    dataset = VideoClipDataset(make_plan(small_folder, "64x48@3", clips_per_video=1))
    frames = read_video(small_folder / "1.gif").frames[:3]
    assert torch.equal(dataset.read_frames(1), frames)
    assert torch.equal(dataset[1]["pixel_values"], frames.transpose(0, 1).float() / 127.5 - 1)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "area"])
def test_resizing_keeps_the_aspect_covers_the_bucket_and_filters(mode: str) -> None:
    fine = (torch.arange(120)[None, :] + torch.arange(80)[:, None]) % 2 * 255  # a chequered picture: grey from afar
    resized = resize_to_cover(fine.to(torch.uint8).expand(2, 3, 80, 120), Bucket(20, 16, 2), mode)
    assert resized.shape == (2, 3, 16, 24) and resized.dtype == torch.uint8
    assert (resized[..., 1:-1, 1:-1].float() - 127.5).abs().max() < 20


def test_area_resizing_is_the_mean_of_blocks() -> None:
    frames = (moving_frames(2, 12, 16) * 255).to(torch.uint8)
    want = functional.avg_pool2d(frames.double(), 4)
    assert (resize_to_cover(frames, Bucket(4, 3, 2), "area").double() - want).abs().max() <= 0.5 + 1e-4


def test_crops_reach_every_place_and_the_centre_by_default() -> None:
    frames = torch.arange(5 * 9).view(1, 1, 5, 9)
    assert torch.equal(crop(frames, Bucket(3, 5, 1), (0.5, 0.5)), frames[..., 3:6])
    places = {crop(frames, Bucket(3, 4, 1), draw_augmentation(0, 0, k)[0])[0, 0, 0, 0].item() for k in range(200)}
    assert places == {9 * top + left for top in range(2) for left in range(7)}


def test_augmentation_is_a_function_of_seed_epoch_and_index(small_plan: ClipPlan) -> None:
    options = {"random_crop": True, "random_flip": True}
    plan = make_plan(Path(small_plan.root), "24x24@4")

    def clips(seed: int, epoch: int) -> list[torch.Tensor]:
        dataset = VideoClipDataset(plan, seed=seed, **options)
        return [dataset[EpochIndex(k, epoch)]["pixel_values"] for k in range(len(dataset))]

    first = clips(0, 3)
    assert all(map(torch.equal, first, clips(0, 3)))
    assert not all(map(torch.equal, first, clips(0, 4))) and not all(map(torch.equal, first, clips(1, 3)))


def test_random_crops_move_with_the_epoch_and_centre_crops_do_not(small_folder: Path) -> None:
    plan = make_plan(small_folder, "24x24@4")
    for random_crop, count in ((False, 1), (True, 5)):
        dataset = VideoClipDataset(plan, random_crop=random_crop)
        clips = {dataset.read_frames(EpochIndex(0, epoch)).contiguous().numpy().tobytes() for epoch in range(30)}
        assert count <= len(clips) <= 9 * random_crop + 1  # 32 pixels leave 9 places for 24


def test_skipping_stays_within_the_bucket(tmp_path: Path) -> None:
    for name, size in (("a", (48, 64)), ("b", (48, 64)), ("c", (64, 48))):
        write_small(tmp_path / f"{name}.gif", 4, size=size)
    dataset = VideoClipDataset(make_plan(tmp_path, ["32x24@4", "24x32@4"]), on_error="skip")
    (tmp_path / "b.gif").unlink()
    assert dataset[1]["index"] == 0


def test_half_of_the_clips_are_mirrored_but_none_whose_caption_names_a_side(small_plan: ClipPlan) -> None:
    plain, flipped = VideoClipDataset(small_plan), VideoClipDataset(small_plan, random_flip=True)
    forced = VideoClipDataset(small_plan, random_flip=True, flip_any_caption=True)
    sided = next(k for k in range(10) if "left" in plain[k]["text"])
    counts = {"plain": 0, "mirrored": 0}
    for epoch in range(4):
        for k in range(10):
            want, got = plain.read_frames(k), flipped.read_frames(EpochIndex(k, epoch))
            assert torch.equal(got, want) or torch.equal(got, want.flip(-1))
            counts["plain" if torch.equal(got, want) else "mirrored"] += k != sided
            assert k != sided or torch.equal(got, want)
    assert 9 <= counts["mirrored"] <= 27
    forced_clips = [forced.read_frames(EpochIndex(sided, epoch)) for epoch in range(8)]
    assert any(torch.equal(clip, plain.read_frames(sided).flip(-1)) for clip in forced_clips)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("turns LEFT", True), ("a right-handed man", True), ("rolls leftwards", True), ("spins counter-clockwise", True),
     ("a westward wind", True), ("a bright day", False), ("copyright", False), ("cleft rock", False), ("", False)],
)  # fmt: skip
def test_captions_that_name_a_side_are_known(text: str, expected: bool) -> None:
    assert names_a_side(text) is expected


@pytest.fixture
def spoilt(tmp_path: Path) -> tuple[ClipPlan, Path]:
    """A plan of three videos, and one of its files, to be damaged."""
    for name in "abc":
        write_small(tmp_path / f"{name}.gif", 4)
    return make_plan(tmp_path), tmp_path / "b.gif"


SPOIL: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "another video": lambda path: write_small(path, 9),
}


@pytest.mark.parametrize("damage", SPOIL)
def test_a_file_that_turns_bad_after_planning_is_named(spoilt: tuple[ClipPlan, Path], damage: str) -> None:
    plan, path = spoilt
    dataset = VideoClipDataset(plan)
    dataset[1]
    SPOIL[damage](path)
    for _ in range(2):
        with pytest.raises(ClipReadError, match="'b.gif' at 0.000 s cannot be read from .*b.gif"):
            dataset[1]
    assert dataset[0]["index"] == 0 and dataset[2]["index"] == 2


def test_skipping_logs_the_name_and_gives_the_next_clip(
    spoilt: tuple[ClipPlan, Path], capture_log: Callable[[], str]
) -> None:
    plan, path = spoilt
    path.unlink()
    dataset = VideoClipDataset(plan, on_error="skip")
    assert dataset[1]["index"] == 2
    assert "b.gif" in capture_log() and "Another clip takes its place" in capture_log()
    (path.parent / "c.gif").unlink()
    assert dataset[1]["index"] == 0
    (path.parent / "a.gif").unlink()
    with pytest.raises(ClipReadError, match="b.gif.* No other clip of bucket 32x24@4 can be read either"):
        dataset[1]


def test_a_file_that_was_copied_anew_is_another_one_until_planned_again(spoilt: tuple[ClipPlan, Path]) -> None:
    plan, path = spoilt
    shutil.copyfile(path, path.with_suffix(".bak"))
    shutil.copyfile(path.with_suffix(".bak"), path)
    with pytest.raises(ClipReadError, match="changed since the plan was made. Plan again"):
        VideoClipDataset(plan)[1]


def test_folders_of_images_are_read_like_files(tmp_path: Path) -> None:
    frames = (moving_frames(4, 24, 32) * 255).to(torch.uint8)
    write_video(frames, tmp_path / "a", 8)
    (tmp_path / "a" / "video.json").unlink()
    dataset = VideoClipDataset(make_plan(tmp_path, image_fps=Fraction(5)))
    assert torch.equal(dataset.read_frames(0), frames) and dataset[0]["fps"] == 5


def test_indices_count_from_the_end_and_no_further(small_plan: ClipPlan) -> None:
    dataset = VideoClipDataset(small_plan)
    assert dataset[-1]["index"] == 9
    with pytest.raises(IndexError, match="below 10"):
        dataset[10]


def test_batches_hold_videos_first_and_captions_as_a_list(small_plan: ClipPlan) -> None:
    dataset = VideoClipDataset(small_plan)
    batch = collate_clips([dataset[0], dataset[2]])
    assert batch["pixel_values"].shape == (2, 3, 4, 24, 32) and batch["text"] == [
        dataset[0]["text"],
        dataset[2]["text"],
    ]
    assert (
        batch["fps"].tolist() == [8, 8] and batch["index"].tolist() == [0, 2] and batch["index"].dtype == torch.int64
    )
    shapes = ShapesDataset(3)
    assert collate_clips([shapes[0], shapes[1]])["pixel_values"].shape == (2, 3, 16, 64, 64)


def test_clips_of_two_sizes_make_no_batch(small_plan: ClipPlan) -> None:
    dataset = VideoClipDataset(small_plan)
    with pytest.raises(ValueError, match="`pixel_values` has shapes .*24, 32.*32, 24.* BucketBatchSampler"):
        collate_clips([dataset[0], dataset[9]])


def test_an_index_keeps_its_epoch_on_the_way_to_a_worker() -> None:
    index = pickle.loads(pickle.dumps(EpochIndex(7, epoch=3)))
    assert index == 7 and index.epoch == 3 and isinstance(index, EpochIndex)


def test_workers_give_the_same_batches(small_plan: ClipPlan) -> None:
    def batches(num_workers: int) -> list[dict]:
        dataset = VideoClipDataset(small_plan, seed=5, random_crop=True, random_flip=True)
        return list(build_loader(dataset, BucketBatchSampler(dataset.buckets, 2, seed=5), num_workers=num_workers))

    for one, other in zip(batches(0), batches(1), strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"]) and torch.equal(one["index"], other["index"])


def held_by_an_epoch(plan: ClipPlan) -> tuple[int, int]:
    """Bytes of Python and NumPy at most, and of tensors at the end, while every clip is read."""
    dataset = VideoClipDataset(plan)
    dataset[0]
    tracemalloc.start()
    try:
        for k in range(len(dataset)):
            dataset[k]
        return tracemalloc.get_traced_memory()[1], bytes_of_tensors()
    finally:
        tracemalloc.stop()


def bytes_of_tensors() -> int:
    gc.collect()
    return sum(item.nbytes for item in gc.get_objects() if type(item) is torch.Tensor)


def test_memory_does_not_grow_with_the_number_of_videos(tmp_path: Path) -> None:
    write_small(tmp_path / "0.gif", 8)
    data = (tmp_path / "0.gif").read_bytes()
    held = []
    for count in (20, 120):
        for k in range(count):
            (tmp_path / f"{k}.gif").write_bytes(data)
        held.append(held_by_an_epoch(make_plan(tmp_path, "64x48@8")))
    assert held[1][0] < held[0][0] + 400_000  # measurements of 32 videos at most; 100 clips would be far more
    assert held[1][1] == held[0][1]


@pytest.mark.slow
def test_resident_memory_is_the_same_with_20_and_400_videos(tmp_path: Path) -> None:
    """Tensors are invisible to tracemalloc; the process is not."""
    write_small(tmp_path / "0.mp4", 24, size=(120, 160))
    data = (tmp_path / "0.mp4").read_bytes()
    code = (
        "import sys, gc; from pathlib import Path\n"
        "from tests.data.video_sets import make_plan\n"
        "from diffusers_video.data.dataset import VideoClipDataset\n"
        "from diffusers_video.data.sampler import BucketBatchSampler, build_loader\n"
        "dataset = VideoClipDataset(make_plan(Path(sys.argv[1]), '160x120@24'))\n"
        "rss = lambda: int(Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "loader = build_loader(dataset, BucketBatchSampler(dataset.buckets, 2))\n"
        "for step, batch in enumerate(loader):\n    start = rss() if step == 5 else (start if step > 5 else 0)\n"
        "gc.collect(); print(len(dataset), rss() - start)"
    )
    growth = {}
    for count in (20, 400):
        for k in range(count):
            (tmp_path / f"{k}.mp4").write_bytes(data)
        root = Path(__file__).parents[2]
        found = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, check=True, cwd=root)
        growth.update([tuple(map(int, found.stdout.split()))])
    assert growth[400] < growth[20] + 30e6, growth  # a clip has 5.5 MB as floats: 380 of them would be 2 GB


def test_captions_with_sides_are_reported_once(tmp_path: Path, capture_log: Callable[[], str]) -> None:
    write_small(tmp_path / "a.gif", 4)
    write_jsonl(tmp_path, {"a.gif": "to the left"})
    VideoClipDataset(make_plan(tmp_path), random_flip=True)
    assert "1 of 1 clips are never flipped" in capture_log()
