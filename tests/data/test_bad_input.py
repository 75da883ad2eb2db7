"""Wrong training sets and settings: each is one clear error, before any video is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diffusers_video.data.dataset import VideoClipDataset
from diffusers_video.data.plan import ClipPlan
from diffusers_video.data.planning import plan_clips
from diffusers_video.data.report import format_plan
from diffusers_video.data.sampler import BucketBatchSampler
from diffusers_video.data.settings import PlanSettings
from diffusers_video.data.sources import list_videos
from tests.data.video_sets import make_plan, write_small


ROW = '{"file_name": "a.mp4", "text": "x"}\n'
WRONG_SETS: dict[str, tuple[dict[str, str | bytes], dict[str, str], str]] = {
    "empty folder": ({}, {}, "`path` must hold at least one video .* holds 0 other files"),
    "no video": ({"a.zip": ""}, {}, "`path` must hold at least one video .* holds 1 other files"),
    "empty list": ({"metadata.jsonl": "\n"}, {}, "metadata.jsonl holds no row"),
    "csv without rows": ({"l.csv": "file_name,text\n"}, {}, "l.csv holds no row"),
    "empty csv": ({"l.csv": ""}, {}, "`video_column` must name a column.* Columns found: none"),
    "no video column": (
        {"metadata.jsonl": '{"video": "a.mp4", "text": "x"}'},
        {},
        "`video_column` .* line 1 has no 'file_name'. Columns found: 'video', 'text'. Pass the right one",
    ),
    "no caption column": ({"metadata.jsonl": '{"file_name": "a.mp4"}'}, {}, "`caption_column` .*no 'text'"),
    "a later row lacks it": (
        {"metadata.jsonl": ROW + '{"file_name": "b"}'},
        {},
        "metadata.jsonl, line 2 has no 'text'",
    ),
    "wrong column named": ({"metadata.jsonl": ROW}, {"video_column": "clip"}, "no 'clip'. Columns found: 'file_name'"),
    "csv lacks the caption": ({"l.csv": "videoid,page_dir\n1,b\n"}, {}, "`caption_column` .*l.csv has no 'name'"),
    "csv lacks the video": (
        {"l.csv": "id,name\n1,b\n"},
        {},
        "`video_column` .*no 'videoid'. Columns found: 'id', 'name'",
    ),
    "no json": ({"metadata.jsonl": ROW + "a.mp4: a cat\n"}, {}, "one JSON object per line, .* line 2 is none"),
    "a json list": ({"metadata.jsonl": '["a.mp4", "x"]'}, {}, 'one JSON object per line, .* line 1 is \'\\["a.mp4"'),
    "a json array over lines": ({"metadata.jsonl": "[\n{}\n]"}, {}, "line 1 is none"),
    "a caption that is a list": (
        {"metadata.jsonl": ROW.replace('"x"', '["x"]')},
        {},
        r"'text' in .*line 1 is \['x'\]",
    ),
    "a caption that is null": ({"metadata.jsonl": ROW.replace('"x"', "null")}, {}, "'text' in .*line 1 is None"),
    "an empty name": ({"metadata.jsonl": ROW.replace("a.mp4", " ")}, {}, "'file_name' in .*line 1 is empty"),
    "both lists": ({"metadata.jsonl": ROW, "l.csv": ""}, {}, "one list of videos, .* holds metadata.jsonl, l.csv"),
    "two csv files": ({"a.csv": "", "b.csv": ""}, {}, "one list of videos, .* holds a.csv, b.csv"),
    "a row that is too short": (
        {"l.csv": "file_name,text\na.mp4\n"},
        {},
        "2 cells in every row, but .*line 2 has not",
    ),
    "a row that is too long": ({"l.csv": "file_name,text\na.mp4,x,y\n"}, {}, "2 cells in every row, but .*line 2"),
    "an open quote": ({"l.csv": 'file_name,text\na.mp4,"x\n'}, {}, "must be a CSV file, but .*line [12], is none"),
    "a column twice": ({"l.csv": "file_name,text,text\na,b,c\n"}, {}, "columns of different names"),
    "a list in latin-1": ({"metadata.jsonl": '{"text": "\u00e9"}'.encode("latin-1")}, {}, "must be UTF-8 text"),
    "a caption in latin-1": ({"a.mp4": "", "a.txt": "\u00e9".encode("latin-1")}, {}, "no UTF-8 text: .*a.txt"),
    "columns of a plain folder": (
        {"a.mp4": ""},
        {"caption_column": "t"},
        "`caption_column` must be None for a folder",
    ),
    "no such root": ({"metadata.jsonl": ROW}, {"video_root": "/no/where"}, "`video_root` must be a folder, but"),
}


@pytest.mark.parametrize("case", WRONG_SETS)
def test_a_wrong_training_set_is_a_clear_error(tmp_path: Path, case: str) -> None:
    files, options, message = WRONG_SETS[case]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        list_videos(tmp_path, **options)


def test_a_path_that_is_no_training_set_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`path` must be a training set, but .*gone does not exist"):
        plan_clips(tmp_path / "gone", PlanSettings(buckets="8x8@1"))
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match="`path` must be a folder, a .jsonl or a .csv file, but is .*a.mp4"):
        list_videos(tmp_path / "a.mp4")


WRONG_SETTINGS: dict[str, tuple[dict[str, object], str]] = {
    "fps 0": ({"fps": 0}, "`fps` must be a finite number greater than 0, but is 0"),
    "negative fps": ({"fps": -8.0}, "`fps` must be a finite number greater than 0"),
    "fps in words": ({"fps": "fast"}, "`fps` must be a finite number"),
    "fps of images": ({"image_fps": float("nan")}, "`image_fps` must be a finite number"),
    "no bucket": ({"buckets": []}, "`buckets` must be one or more different buckets"),
    "a bucket twice": ({"buckets": ["8x8@2", "8x8@2"]}, "`buckets` must be one or more different buckets"),
    "a bucket without frames": ({"buckets": "512x512"}, "WIDTHxHEIGHT@FRAMES, .* but one is '512x512'"),
    "a bucket of 0 frames": ({"buckets": "512x512@0"}, "at least 1, but one is 512x512@0"),
    "a number as bucket": ({"buckets": [512]}, "must be texts such as '512x320@16', but one is 512"),
    "no clips per video": ({"clips_per_video": 0}, "`clips_per_video` must be at least 1, but is 0"),
    "a stride of a half": ({"clip_stride": 0.5}, "`clip_stride` must be a whole number"),
    "a span backwards": ({"span": (0.5, 0.25)}, "`span` must increase within"),
    "a span in seconds": ({"span": (0, 3)}, r"`span` must increase within \[0, 1\]"),
    "half a span": ({"span": 0.5}, "`span` must be two numbers"),
    "a truth in words": ({"allow_repeat": "no"}, "`allow_repeat` must be True or False, but is 'no'"),
}


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_a_wrong_setting_is_a_clear_error(case: str) -> None:
    settings, message = WRONG_SETTINGS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        PlanSettings(**({"buckets": "64x64@8"} | settings))


def test_wrong_arguments_of_planning_are_clear_errors(tmp_path: Path) -> None:
    write_small(tmp_path / "a.gif", 4)
    settings = PlanSettings(buckets="32x24@4")
    with pytest.raises(TypeError, match="`settings` must be a PlanSettings, but is dict"):
        plan_clips(tmp_path, {"buckets": "8x8@1"})
    with pytest.raises(ValueError, match="`num_workers` must be at least 1, but is 0"):
        plan_clips(tmp_path, settings, num_workers=0)
    with pytest.raises(FileNotFoundError, match="`cache_file` must lie in a folder that exists"):
        plan_clips(tmp_path, settings, cache_file=tmp_path / "no" / "cache.json")
    (tmp_path / "b.json").write_text('{"file_name": "b"}')
    with pytest.raises(ValueError, match="`cache_file` must be a cache of measurements, but .*b.json is something"):
        plan_clips(tmp_path, settings, cache_file=tmp_path / "b.json")
    with pytest.raises(ValueError, match="`plain` must be a plan of clips"):
        ClipPlan.load(tmp_path / "b.json")
    with pytest.raises(ValueError, match="`max_rows` must be at least 0"):
        format_plan(plan_clips(tmp_path, settings), max_rows=-1)


WRONG_DATASETS: dict[str, tuple[Callable[[ClipPlan], object], str]] = {
    "interpolation": (lambda plan: VideoClipDataset(plan, interpolation="lanczos"), "`interpolation` must be one of"),
    "seed": (lambda plan: VideoClipDataset(plan, seed=-1), "`seed` must be at least 0"),
    "on_error": (lambda plan: VideoClipDataset(plan, on_error="ignore"), "`on_error` must be 'raise' or 'skip'"),
    "a flag without effect": (
        lambda plan: VideoClipDataset(plan, flip_any_caption=True),
        "`flip_any_caption` must be False without `random_flip`",
    ),
    "batch size 0": (lambda plan: BucketBatchSampler(["a"], 0), "`batch_size` must be at least 1"),
    "no clips": (lambda plan: BucketBatchSampler([], 1), "`buckets` must name the bucket of at least one clip"),
    "process 2 of 2": (
        lambda plan: BucketBatchSampler(["a"], 1, num_processes=2, process_index=2),
        "`process_index` must be from 0 to 1, but is 2",
    ),
    "batches larger than all": (
        lambda plan: BucketBatchSampler(["a"] * 3 + ["b"] * 3, 4, drop_last=True),
        "`batch_size` must leave a batch, but 4 clips .* 2 buckets",
    ),
    "advancing backwards": (lambda plan: BucketBatchSampler(["a"], 1).advance(-1), "`num_batches` must be at least 0"),
}


@pytest.mark.parametrize("case", WRONG_DATASETS)
def test_a_wrong_argument_is_a_clear_error(small_plan: ClipPlan, case: str) -> None:
    make, message = WRONG_DATASETS[case]
    with pytest.raises(ValueError, match=message):
        make(small_plan)


def test_a_bucket_larger_than_every_clip_says_so_before_training(tmp_path: Path) -> None:
    write_small(tmp_path / "a.gif", 4)
    with pytest.raises(ValueError, match=r"`plan` must hold at least one clip, .* is unused: \['too small'\]"):
        VideoClipDataset(make_plan(tmp_path, "640x480@4"))
    with pytest.raises(ValueError, match=r"is unused: \['too short'\]"):
        VideoClipDataset(make_plan(tmp_path, "32x24@5"))
