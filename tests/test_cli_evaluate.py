"""`diffusers-video evaluate`: the checker's scores of true, shuffled and generated videos."""

import json
from pathlib import Path

import pytest

from .test_cli import error_of, run
from .tiny_pipelines import tiny_text_to_video


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scores_of(*arguments: object) -> dict[str, float]:
    result = run("evaluate", "shapes", *arguments, "--json", "scores.json")
    assert result.exit_code == 0, result.output
    scores = json.loads(Path("scores.json").read_text())
    assert f"{scores['num_clips']} videos: colour {scores['colour']:.1%}" in result.stdout
    return scores


def test_true_videos_are_read_without_an_error() -> None:
    scores = scores_of("--true", "--num-videos", 40)
    assert [scores[name] for name in ("num_clips", "colour", "shape", "motion", "together")] == [40, 1, 1, 1, 1]
    assert scores["roughness"] < 0.01


def test_shuffled_frames_have_no_motion() -> None:
    scores = scores_of("--true", "--shuffled", "--num-videos", 40)
    assert scores["colour"] == scores["shape"] == 1 and scores["motion"] <= 0.1
    assert scores["roughness"] > 0.05


def test_each_video_depends_on_its_own_number_alone() -> None:
    tiny_text_to_video().save_pretrained("model")
    options = ("--model", "model", "--steps", 1, "--num-videos", 3)
    assert scores_of(*options, "--batch-size", 1) == pytest.approx(scores_of(*options, "--batch-size", 2), nan_ok=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--true", "--steps", 3), "`--num-inference-steps` has no effect with `--true`"),
        (("--true", "--model", "x"), "`--model` has no effect with `--true`"),
        (("--json", "nowhere/scores.json"), "`--json` must name a file in a folder that exists"),
    ],
)
def test_contradictions_are_refused(arguments: tuple[object, ...], message: str) -> None:
    assert message in error_of(run("evaluate", "shapes", *arguments))
