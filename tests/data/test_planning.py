"""The plan: right frames for every rate, everything accounted for, the same when it is saved, cached or shown."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusers_video.data import probing
from diffusers_video.data.accounting import (
    DUPLICATE,
    MISSING,
    NOT_LISTED,
    OUTSIDE_SPAN,
    TOO_SHORT,
    TOO_SMALL,
    UNREADABLE,
)
from diffusers_video.data.frames import ClipReader
from diffusers_video.data.plan import ClipPlan
from diffusers_video.data.planning import plan_clips
from diffusers_video.data.report import format_plan, summarize_plan
from diffusers_video.data.settings import PlanSettings
from diffusers_video.data.sources import list_videos
from diffusers_video.video_io import write_video
from tests.data.video_sets import MAKERS, make_plan, write_jsonl, write_small
from tests.video_files import decode, moving_frames


def assert_everything_is_accounted_for(plan: ClipPlan) -> None:
    for number, video in enumerate(plan.videos):
        parts = [part for part in plan.unused if part.name == video.name and part.num_frames is not None]
        assert video.num_used_frames + sum(part.num_frames for part in parts) == video.num_frames
        assert (video.num_used_frames > 0) == any(clip.video == number for clip in plan.clips)
    total = summarize_plan(plan)
    assert total["used_frames"] + sum(part["frames"] for part in total["unused"].values()) == total["frames"]
    unused_seconds = sum(part["seconds"] for part in total["unused"].values())
    assert total["used_seconds"] + unused_seconds == pytest.approx(total["seconds"])


@pytest.mark.parametrize("fps", [Fraction(8), Fraction(30000, 1001), Fraction(5, 2), None], ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_frames_are_those_on_screen_at_the_asked_times(rates_folder: Path, name: str, fps: Fraction | None) -> None:
    source = list_videos(rates_folder)
    entry = next(entry for entry in source.entries if entry.name == name)
    plan = plan_clips(
        type(source)(source.root, source.kind, (entry,)), PlanSettings(buckets="64x48@3", fps=fps, allow_repeat=True)
    )
    assert_everything_is_accounted_for(plan)
    times, pictures = zip(*decode(rates_folder / name), strict=True)  # from the first to the last, nothing else
    asked_fps = fps or (len(times) - 1) / (times[-1] - times[0])
    reader = ClipReader()
    assert plan.clips
    for number, clip in enumerate(plan.clips):
        asked = [times[0] + (3 * number + k) / asked_fps for k in range(3)]
        want = torch.stack([pictures[bisect_right(times, time) - 1] for time in asked])
        assert torch.equal(reader.read(plan.videos[0], clip), want)


@pytest.mark.parametrize(
    "settings",
    [
        {"fps": 8},
        {"fps": 8, "clip_stride": 2},
        {"fps": 8, "clip_stride": 9},
        {"fps": 30},
        {"clips_per_video": 2},
        {"span": (0.25, 0.75), "fps": "30000/1001"},
        {"fps": 60, "allow_repeat": True},
        {"fps": 60},
    ],
    ids=str,
)
def test_used_and_unused_frames_and_seconds_add_up(rates_folder: Path, settings: dict) -> None:
    plan = make_plan(rates_folder, ["32x24@4", "64x48@13"], **settings)
    assert_everything_is_accounted_for(plan)
    assert {video.name for video in plan.videos} == set(MAKERS)


@pytest.fixture
def mixed_folder(tmp_path: Path) -> Path:
    """A set with everything that may go wrong with its files."""
    write_small(tmp_path / "good.gif")
    write_small(tmp_path / "short.gif", 3)
    write_small(tmp_path / "tiny.gif", size=(16, 16))
    write_small(tmp_path / "stray.gif")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.gif").write_bytes((tmp_path / "good.gif").read_bytes()[:-700])
    names = ["good.gif", "short.gif", "tiny.gif", "empty.mp4", "text.mp4", "cut.gif", "gone.mp4"]
    rows = [{"file_name": name, "text": "x"} for name in [*names, "good.gif"]]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_each_bad_file_is_named_with_its_reason_and_stops_nothing(mixed_folder: Path) -> None:
    plan = make_plan(mixed_folder)
    assert_everything_is_accounted_for(plan)
    assert {plan.videos[clip.video].name for clip in plan.clips} == {"good.gif"} and len(plan.clips) == 2
    assert sorted((part.name, part.reason) for part in plan.unused) == [
        ("cut.gif", UNREADABLE),
        ("empty.mp4", UNREADABLE),
        ("gone.mp4", MISSING),
        ("good.gif", DUPLICATE),
        ("short.gif", TOO_SHORT),
        ("stray.gif", NOT_LISTED),
        ("text.mp4", UNREADABLE),
        ("tiny.gif", TOO_SMALL),
    ]
    assert "3 frames" in next(part.explanation for part in plan.unused if part.name == "short.gif")


def test_the_report_names_every_clip_and_every_reason(mixed_folder: Path) -> None:
    plan = make_plan(mixed_folder)
    text = format_plan(plan, width=200)
    for part in plan.unused:
        assert part.name in text and part.reason in text
    assert "2 clips (2 of 32x24@4) from 1 of 3 readable videos; 6 other files or rows give none" in text
    assert "... and 6 more" in format_plan(plan, max_rows=2)


def test_a_caption_is_shown_as_it_is(tmp_path: Path) -> None:
    write_small(tmp_path / "a.gif", 4)
    write_jsonl(tmp_path, {"a.gif": "[bold]a\\[/red] :smile: caption"})
    assert "[bold]a\\[/red] :smile: caption" in format_plan(make_plan(tmp_path), width=200)


def test_damage_inside_a_stream_is_found_by_verify(rates_folder: Path, tmp_path: Path) -> None:
    data = bytearray((rates_folder / "constant.mp4").read_bytes())
    middle = data.index(b"mdat") + 900
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / "damaged.mp4").write_bytes(data)
    settings = PlanSettings(buckets="64x48@8")
    plan = plan_clips(tmp_path, settings, verify=True)
    assert not plan.clips and plan.unused[0].reason == UNREADABLE and "damaged.mp4" in plan.unused[0].explanation
    assert_everything_is_accounted_for(plan)


def test_no_damage_is_fatal(rates_folder: Path, tmp_path: Path) -> None:
    data, random = (rates_folder / "odd.mp4").read_bytes(), np.random.default_rng(0)
    (tmp_path / "unknown_codec.mp4").write_bytes(data.replace(b"avc1", b"zzzz"))
    for number in range(30):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[random.integers(len(data), size=5)] = random.integers(256, size=5)
        (tmp_path / f"{number}.mp4").write_bytes(damaged[: None if number % 3 else -number])
    plan = plan_clips(tmp_path, PlanSettings(buckets="64x48@8"), verify=True)
    assert_everything_is_accounted_for(plan)
    named = {video.name for video in plan.videos} | {part.name for part in plan.unused}
    assert len(named) == 31 and "unknown_codec.mp4" in named


def test_a_span_without_a_frame_is_reported(tmp_path: Path) -> None:
    write_small(tmp_path / "a.gif", 4)
    plan = make_plan(tmp_path, span=(0.3, 0.4), fps=4)
    assert [part.reason for part in plan.unused] == [OUTSIDE_SPAN] and not plan.clips
    assert_everything_is_accounted_for(plan)


def test_folders_of_images_take_the_rate_that_is_given(tmp_path: Path) -> None:
    write_video(moving_frames(4, 24, 32), tmp_path / "stated", 5)
    write_video(moving_frames(4, 24, 32), tmp_path / "silent", 5)
    (tmp_path / "silent" / "video.json").unlink()
    assert [(part.name, part.reason) for part in make_plan(tmp_path).unused] == [("silent", UNREADABLE)]
    plan = make_plan(tmp_path, image_fps=10)
    assert {plan.videos[clip.video].name: clip.fps for clip in plan.clips} == {"stated": 5, "silent": 10}


def test_a_plan_comes_back_from_its_file(small_plan: ClipPlan, mixed_folder: Path, tmp_path: Path) -> None:
    for plan in (small_plan, make_plan(mixed_folder, fps="24000/1001")):
        plan.save(tmp_path / "plan.json")
        assert ClipPlan.load(tmp_path / "plan.json") == plan


def test_the_fingerprint_follows_captions_and_settings_but_not_the_place(small_folder: Path, tmp_path: Path) -> None:
    for file in small_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    plan = make_plan(small_folder)
    assert make_plan(tmp_path).fingerprint() == plan.fingerprint()
    assert make_plan(tmp_path, fps=4).fingerprint() != plan.fingerprint()
    longer_file = replace(plan.videos[0], file_state=(plan.videos[0].file_state[0] + 1, 0))
    assert replace(plan, videos=(longer_file, *plan.videos[1:])).fingerprint() != plan.fingerprint()
    write_jsonl(tmp_path, {f"{k}.gif": "another caption" for k in range(7)})
    assert make_plan(tmp_path).fingerprint() != plan.fingerprint()


def test_the_cache_spares_files_that_have_not_changed(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in small_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings, cache = PlanSettings(buckets="32x24@4"), tmp_path / "probes.json"
    plan = plan_clips(tmp_path, settings, cache_file=cache)
    measured = []
    real_probe = probing.probe_video
    monkeypatch.setattr(probing, "probe_video", lambda path, **rest: measured.append(path.name) or real_probe(path))
    assert plan_clips(tmp_path, settings, cache_file=cache) == plan and not measured
    write_small(tmp_path / "2.gif", 12)
    changed = plan_clips(tmp_path, settings, cache_file=cache)
    assert measured == ["2.gif"] and changed == plan_clips(tmp_path, settings)


def test_variable_rates_come_back_from_the_cache(rates_folder: Path, tmp_path: Path) -> None:
    settings, cache = PlanSettings(buckets="64x48@4", fps=8), tmp_path / "probes.json"
    plans = [plan_clips(rates_folder, settings, cache_file=cache) for _ in range(2)]
    assert plans[0] == plans[1] == plan_clips(rates_folder, settings)


def test_progress_and_order_do_not_depend_on_the_number_of_threads(small_folder: Path) -> None:
    settings, calls = PlanSettings(buckets="32x24@4"), []
    plans = [
        plan_clips(small_folder, settings, num_workers=count, progress=lambda *call: calls.append(call))
        for count in (1, 3)
    ]
    assert plans[0] == plans[1] and calls == [(k, 7) for k in range(1, 8)] * 2


def test_the_working_folder_does_not_matter(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_folder.parent)
    plan = make_plan(Path(small_folder.name))
    assert os.path.isabs(plan.root) and all(os.path.isabs(video.path) for video in plan.videos)
