"""`diffusers-video evaluate shapes`: the checker's scores of true, shuffled and generated videos, stage by stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from diffusers_video import FrameInterpolationPipeline, KeyFramePredictionPipeline
from diffusers_video._cli_evaluate_shapes import EvaluateShapesOptions, _identify, _measure_distance
from diffusers_video._cli_shapes_tasks import TASKS
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.embedded import SHAPES_SUBSET
from diffusers_video.metrics.frechet import frechet_distance
from diffusers_video.metrics.shapes_features import measure_clip
from diffusers_video.metrics.statistics import FeatureStatistics

from .test_cli import error_of, run
from .tiny_long_videos import tiny_long
from .tiny_pipelines import tiny_given, tiny_text_to_video
from .tiny_upscalers import tiny_upscaler


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scores_of(*arguments: object) -> dict[str, Any]:
    result = run("evaluate", "shapes", *arguments, "--json", "scores.json")
    assert result.exit_code == 0, result.output
    scores = json.loads(Path("scores.json").read_text())
    assert result.stdout.startswith(f"{scores['num_clips']} videos: ")
    return scores


def test_true_videos_are_read_without_an_error() -> None:
    scores = scores_of("--true", "--num-videos", 12)
    assert [scores[name] for name in ("num_clips", "colour", "shape", "motion", "together")] == [12, 1, 1, 1, 1]
    assert scores["roughness"] < 0.01 and scores["intervals"]["motion"][0] == pytest.approx(0.7575, abs=1e-4)
    assert scores["frechet_distance"] < 2 and scores["frechet_interval"] == [None, None]
    assert scores["settings"] == {"task": "text-to-video", "true": True, "seed": 0}


def test_shuffled_frames_have_no_motion() -> None:
    scores = scores_of("--true", "--shuffled", "--num-videos", 12)
    assert scores["colour"] == scores["shape"] == 1 and scores["motion"] <= 0.1
    assert scores["roughness"] > 0.05


def test_the_frechet_distance_is_that_to_other_true_videos() -> None:
    options = EvaluateShapesOptions()
    sets = [
        ShapesDataset(64, num_frames=2, height=16, width=16, seed=seed, **SHAPES_SUBSET) for seed in (1, 3_000_017)
    ]
    drawn, true = (
        [measure_clip(dataset[index]["pixel_values"].movedim(0, -1) / 2 + 0.5) for index in range(64)]
        for dataset in sets
    )
    records = [{"features": features.tolist(), "size": [2, 16, 16]} for features in drawn]
    found = _measure_distance(options, records)
    wanted = [FeatureStatistics.from_features(torch.from_numpy(np.array(part))) for part in (drawn, true)]
    assert found["frechet_distance"] == pytest.approx(frechet_distance(*wanted))
    low, high = found["frechet_interval"]
    assert 0 < high - low < 1 and low < found["frechet_distance"] < high
    assert set(found["frechet_groups"]) == {"path", "size", "colour", "pixels"}
    assert sum(found["frechet_groups"].values()) < found["frechet_distance"]  # which also sees how they go together


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("key-frames", {"together": 1, "kept": 1, "frame_shape": 1}),
        ("interpolation", {"deviation": 0, "deviation_95": 0, "lost": 0, "num_frames": 24}),
        ("long", {"kept": 1, "colour": 1, "shape": 1}),
    ],
)
def test_true_videos_pass_every_stage(task: str, wanted: dict[str, float]) -> None:
    frames = ("--num-frames", 33) if task == "long" else ()
    scores = scores_of("--task", task, "--true", "--num-videos", 2, *frames)
    assert {name: scores[name] for name in wanted} == wanted


def test_each_video_depends_on_its_own_number_alone() -> None:
    tiny_text_to_video().save_pretrained("model")
    options = ("--model", "model", "--steps", 1, "--num-videos", 3)
    alone, together = scores_of(*options, "--batch-size", 1), scores_of(*options, "--batch-size", 2)
    assert alone["frechet_distance"] == pytest.approx(together["frechet_distance"], rel=1e-5)
    independent = scores_of(*options, "--independent-frames")
    assert independent["frechet_distance"] != pytest.approx(alone["frechet_distance"], rel=2e-5)


def test_nothing_is_an_option_of_its_own_beside_what_was_not_given() -> None:
    told, untold = (
        _identify(EvaluateShapesOptions(model="nowhere", **given)) for given in ({"guidance_scale": 0}, {})
    )
    assert (told["guidance_scale"], untold["guidance_scale"]) == (0, 3)
    told = _identify(EvaluateShapesOptions(model="nowhere", task="super-resolution", noise_level=0))
    assert told["noise_level"] == 0 and "noise_level" not in untold


def test_a_stopped_run_goes_on_from_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_text_to_video().save_pretrained("model")
    options = ("--model", "model", "--steps", 1, "--batch-size", 1, "--records", "seen.jsonl")
    whole = scores_of(*options, "--num-videos", 3)
    first, *lines = Path("seen.jsonl").read_text().splitlines(keepends=True)
    Path("seen.jsonl").write_text(first + lines[0] + lines[1][:50])  # killed while it wrote
    assert scores_of(*options, "--num-videos", 3) == whole
    assert Path("seen.jsonl").read_text() == first + "".join(lines)
    monkeypatch.setattr("diffusers_video._cli_evaluate_shapes._load_pipeline", None)  # nothing is left to draw
    assert scores_of(*options, "--num-videos", 2)["num_clips"] == 2
    assert "`--records` seen.jsonl holds what was seen of other videos" in error_of(
        run("evaluate", "shapes", *options, "--seed", 1)
    )


@pytest.mark.parametrize(
    ("task", "make", "options", "names"),
    [
        (
            "key-frames",
            lambda: tiny_given(KeyFramePredictionPipeline),
            ("--num-frames", 5, "--resolution", 16, "--context-guidance-scale", 1),
            ("together", "kept", "frechet_distance"),
        ),
        (
            "interpolation",
            lambda: tiny_given(FrameInterpolationPipeline),
            ("--num-frames", 5, "--resolution", 16, "--context-guidance-scale", 1),
            ("deviation", "deviation_95", "lost"),
        ),
        (
            "super-resolution",
            lambda: tiny_upscaler("pixel"),
            ("--num-frames", 2, "--resolution", 32, "--noise-level", 3),
            ("psnr", "bicubic_psnr", "gain", "better"),
        ),
        ("long", tiny_long, ("--num-frames", 3, "--passes", 1), ("kept",)),
    ],
)
def test_every_stage_is_drawn_and_measured(
    task: str, make: Callable[[], DiffusionPipeline], options: tuple[object, ...], names: tuple[str, ...]
) -> None:
    make().save_pretrained("model")
    scores = scores_of("--task", task, "--model", "model", "--steps", 1, "--num-videos", 2, *options)
    assert all(np.isfinite(scores[name]) for name in names)
    assert scores["settings"]["task"] == task and len(scores["settings"]["weights_sha256"]) == 64


def true_clip(num_frames: int, side: int = 64) -> torch.Tensor:
    dataset = ShapesDataset(1, seed=8, num_frames=num_frames, height=side, width=side, **SHAPES_SUBSET)
    return (dataset[0]["pixel_values"] / 2 + 0.5).clamp(0, 1).transpose(0, 1)


def test_interpolation_is_judged_by_the_frames_that_were_drawn() -> None:
    true = true_clip(9)
    moved = torch.roll(true, (3, 4), dims=(2, 3))  # 5 pixels
    moved[::4] = true[::4]  # given
    task = TASKS["interpolation"]
    record = task.judge(moved.movedim(1, -1).numpy(), true, true[::4])
    assert record["deviations"] == pytest.approx([5] * 6, abs=1e-6)


def test_prediction_is_judged_by_the_frames_that_were_not_given() -> None:
    true = true_clip(5)
    drawn = torch.full_like(true, 0.3)
    drawn[0] = true[0]
    record = TASKS["key-frames"].judge(drawn.movedim(1, -1).numpy(), true, true[:1])
    assert record["seen"]["colours"] == (None,) * 4


def test_super_resolution_is_compared_with_a_bicubic_filter() -> None:
    task, true = TASKS["super-resolution"], true_clip(2, 64)
    small = task.give(true[None], tiny_upscaler("pixel"), None)
    assert small.shape == (1, 2, 3, 16, 16)
    bicubic = torch.nn.functional.interpolate(small[0], scale_factor=4, mode="bicubic").clamp(0, 1)
    record = task.judge(bicubic.movedim(1, -1).numpy(), true, small[0])
    assert record["psnr"] == pytest.approx(record["bicubic_psnr"], rel=1e-6)
    assert 15 < record["psnr"] < 40
    assert task.judge(true.movedim(1, -1).numpy(), true, small[0])["psnr"] == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--true", "--steps", 3), "`--num-inference-steps` has no effect with `--true`"),
        (("--true", "--model", "x"), "`--model` has no effect with `--true`"),
        (("--true", "--independent-frames"), "`--independent-frames` has no effect with `--true`"),
        (("--true", "--task", "super-resolution"), "`--true` has no effect on super-resolution"),
        (("--shuffled", "--task", "long"), "`--shuffled` has no effect on long"),
        (("--passes", 2), "`--passes` has no effect on text-to-video"),
        (("--noise-level", 0), "`--noise-level` has no effect on text-to-video"),
        (("--true", "--guidance-scale", 0), "`--guidance-scale` has no effect with `--true`"),
        (("--json", "nowhere/scores.json"), "`--json` must name a file in a folder that exists"),
        (("--records", "nowhere/seen"), "`--records` must name a file in a folder that exists"),
        (("--true", "--task", "interpolation", "--num-frames", 16), "`--num-frames` must be 1 more than a multiple"),
        (("--model", "./nowhere"), "`--model` must be a folder, a file or a Hub id"),
    ],
)
def test_contradictions_are_refused(arguments: tuple[object, ...], message: str) -> None:
    assert message in error_of(run("evaluate", "shapes", *arguments))
