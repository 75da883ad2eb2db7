"""Exported clips are what training sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from diffusers_video.data.dataset import VideoClipDataset
from diffusers_video.data.export import export_clips
from diffusers_video.data.plan import ClipPlan
from diffusers_video.video_io import read_video
from tests.data.video_sets import make_plan, write_small


def test_exported_images_equal_what_the_loader_yields(rates_folder: Path, tmp_path: Path) -> None:
    dataset = VideoClipDataset(make_plan(rates_folder, "32x32@5", fps="24000/1001"), random_crop=True, seed=3)
    calls = []
    paths = export_clips(dataset, tmp_path / "clips", file_format="png", progress=lambda *call: calls.append(call))
    assert len(paths) == len(dataset) > 8 and calls == [(k + 1, len(dataset)) for k in range(len(dataset))]
    for index, path in enumerate(paths):
        clip = read_video(path)
        assert torch.equal(clip.frames.transpose(0, 1).float() / 127.5 - 1, dataset[index]["pixel_values"])
        assert clip.fps == Fraction(24000, 1001)


def test_exported_images_are_a_training_set_of_the_same_clips(small_plan: ClipPlan, tmp_path: Path) -> None:
    export_clips(small_plan, tmp_path / "clips", file_format="png")
    again = VideoClipDataset(make_plan(tmp_path / "clips", ["32x24@4", "24x32@4"]))
    first = VideoClipDataset(small_plan)
    assert len(again) == len(first)
    for index in range(len(first)):
        assert torch.equal(again[index]["pixel_values"], first[index]["pixel_values"])
        assert again[index]["text"] == first[index]["text"] and again[index]["fps"] == first[index]["fps"]


def test_exported_videos_are_close_and_keep_captions(small_plan: ClipPlan, tmp_path: Path) -> None:
    paths = export_clips(small_plan, tmp_path)
    dataset = VideoClipDataset(small_plan)
    assert {path.suffix for path in paths} == {".mp4"}
    for index in (0, 9):
        clip, want = read_video(paths[index]), dataset.read_frames(index)
        assert clip.frames.shape == want.shape and clip.fps == 8
        assert (
            clip.frames.float() - want.float()
        ).abs().mean() < 6  # .mp4 halves the size of colours, and .gif has dithered them
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [dataset[k]["text"] for k in range(10)]
    assert rows[2] == {"file_name": "000002.mp4", "text": "clip 1", "source": "1.gif", "start": "1/2"}


def test_a_clip_that_cannot_be_read_is_left_out_and_named(tmp_path: Path, capture_log: Callable[[], str]) -> None:
    for name in "ab":
        write_small(tmp_path / f"{name}.gif", 4)
    plan = make_plan(tmp_path)
    (tmp_path / "a.gif").unlink()
    paths = export_clips(plan, tmp_path / "out", file_format="png")
    assert [path.name for path in paths] == ["000001"] and "a.gif" in capture_log()
    (tmp_path / "b.gif").unlink()
    with pytest.raises(ValueError, match="none of 2 can be read any more"):
        export_clips(plan, tmp_path / "other")


def test_a_folder_that_is_not_empty_is_refused(small_plan: ClipPlan, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for folder in (tmp_path, tmp_path / "a"):
        with pytest.raises(ValueError, match="`folder` must be new or empty"):
            export_clips(small_plan, folder)
    with pytest.raises(ValueError, match="`file_format` must be one of .*'avi'"):
        export_clips(small_plan, tmp_path / "b", file_format="avi")
