"""The command `long`: what it writes, how it goes on after a stop, and what it refuses before a model is loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import Result

from diffusers_video import KeyFramePredictionPipeline, LongVideoPipeline, video_io

from .test_cli import error_of, run
from .tiny_long_videos import tiny_long
from .tiny_pipelines import SIZE, tiny_text_to_video
from .tiny_upscalers import tiny_upscaler


CLIP = torch.randint(0, 256, (9, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pipelines `long` and its `prediction` and `interpolation`, an `upscaler` and a `video`, and given frames."""
    folder = tmp_path_factory.mktemp("models")
    pipeline = tiny_long()
    pipeline.save_pretrained(folder / "long")
    pipeline.make_prediction().save_pretrained(folder / "prediction")
    pipeline.make_interpolation().save_pretrained(folder / "interpolation")
    tiny_upscaler("pixel").save_pretrained(folder / "upscaler")
    tiny_text_to_video().save_pretrained(folder / "video")
    video_io.write_video(CLIP, folder / "clip", fps=7.5)
    Image.fromarray(CLIP[0].permute(1, 2, 0).numpy()).save(folder / "image.png")
    return folder


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def in_memory() -> LongVideoPipeline:
    return tiny_long()


@pytest.fixture
def loaded(in_memory: LongVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test the loading of `long`: it gets a pipeline of equal parts."""
    monkeypatch.setattr(LongVideoPipeline, "from_pretrained", lambda *_, **__: LongVideoPipeline.from_pipe(in_memory))


def long(models: Path, *arguments: Any, model: str = "long", steps: int = 1) -> Result:
    return run("long", *arguments, "--model", models / model, "--steps", steps)


def test_help_loads_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys\nfrom diffusers_video import cli\n"
        "try: cli.app(['long', '--help'])\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and "--work-dir" in result.stdout, result.stderr


def test_a_video_of_any_length_is_written(inside: Path, models: Path) -> None:
    result = long(models, "a fox", "-o", "out.mp4", "--num-frames", 6, "--seed", 7)
    assert result.exit_code == 0, result.output
    assert result.stdout == "Wrote out.mp4: 6 frames, 16x16 pixels, 30 fps, seed 7\n"
    info = video_io.probe_video("out.mp4")
    assert (info.num_frames, info.fps) == (6, 30) and [path.name for path in inside.iterdir()] == ["out.mp4"]


def test_a_pipeline_is_composed_of_single_ones(inside: Path, models: Path) -> None:
    options = ("--num-frames", 3, "--seed", 0)
    parts = ("--interpolation-model", models / "interpolation")
    assert long(models, "a fox", *options, "-o", "whole").exit_code == 0
    assert long(models, "a fox", *options, *parts, "-o", "parts", model="prediction").exit_code == 0
    assert torch.equal(video_io.read_video("whole").frames, video_io.read_video("parts").frames)
    upscaler = ("--super-resolution-model", models / "upscaler", "--num-frames", 2, "-o", "large")
    result = long(models, *upscaler, model="prediction")
    assert result.exit_code == 0, result.output
    assert video_io.probe_video("large").height == 4 * SIZE and video_io.probe_video("large").fps == 1.875


@pytest.mark.slow
def test_options_reach_the_pipeline(inside: Path, models: Path, loaded: None) -> None:
    base = ("a fox", "--seed", 0, "--num-frames", 2, "--passes", 1)
    changes = {
        "plain": (),
        "rescale": ("--guidance-rescale", 0.7),
        "negative": ("--negative-prompt", "blue"),
        "context": ("--context-guidance-scale", 4),
        "scheduler": ("--scheduler", "euler"),
        "start": ("--frames", models / "image.png"),
    }
    frames = []
    for name, change in changes.items():
        assert long(models, *base, *change, "-o", name).exit_code == 0
        frames.append(video_io.read_video(name).frames)
    for one in range(len(frames)):
        assert not any(torch.equal(frames[one], other) for other in frames[:one]), list(changes)[one]
    assert long(models, *base, "--interpolation-batch-size", 2, "-o", "batch", "--fps", 5).exit_code == 0
    assert video_io.probe_video("batch").fps == 5


def test_a_video_goes_on_from_the_end_of_another_at_the_rate_of_key_frames(
    inside: Path, models: Path, loaded: None
) -> None:
    assert long(models, "--frames", models / "clip", "--num-frames", 6, "--passes", 1, "-o", "out").exit_code == 0
    frames = video_io.read_video("out").frames
    assert torch.equal(frames[[0, 4]], CLIP[[4, 8]])
    both = ("--frames", models / "clip", "--num-frames", 5, "--passes", 1, "--seed", 0, "--fps", 15)
    assert long(models, *both, "-o", "fast").exit_code == 0
    assert long(models, *both, "--scheduler", "euler", "-o", "euler").exit_code == 0
    fast, euler = (video_io.read_video(name).frames for name in ("fast", "euler"))
    assert torch.equal(fast[[0, 4]], CLIP[[6, 8]]) and torch.equal(euler[[0, 4]], fast[[0, 4]])
    assert not torch.equal(euler, fast)  # the scheduler is that of interpolation, too
    assert long(models, *both, "--num-given", 1, "-o", "one").exit_code == 0
    assert torch.equal(video_io.read_video("one").frames[0], CLIP[-1])


def test_a_stopped_run_goes_on_to_the_same_video(
    inside: Path, models: Path, loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("a fox", "--num-frames", 5, "--passes", 1)
    assert long(models, *options, "--seed", 5, "-o", "whole").exit_code == 0
    draw = LongVideoPipeline.write

    def stop_early(pipeline: LongVideoPipeline, *arguments: Any, **keywords: Any) -> None:
        def stop(stage: Any, *_: Any) -> dict[str, Any]:
            if not isinstance(stage, KeyFramePredictionPipeline):
                raise KeyboardInterrupt
            return {}

        draw(pipeline, *arguments, **keywords, callback_on_step_end=stop)

    with monkeypatch.context() as patch:
        patch.setattr(LongVideoPipeline, "write", stop_early)
        result = long(models, *options, "--seed", 5, "-o", "out", "--work-dir", "run")
    assert result.exit_code == 130 and "The same command goes on" in result.stderr and not Path("out").exists()
    result = long(models, *options, "-o", "out", "--work-dir", "run")
    assert result.exit_code == 0 and "Continuing the run in run, with its own seed" in result.stderr
    assert result.stdout == "Wrote out: 5 frames, 16x16 pixels, 15/2 fps\n"
    assert torch.equal(video_io.read_video("out").frames, video_io.read_video("whole").frames)
    result = long(models, "a dog", *options[1:], "-o", "other", "--work-dir", "run")
    assert "holds a run with other settings: `prompt` was 'a fox' and is 'a dog'" in error_of(result)
    result = long(models, *options, "-o", "other", "--work-dir", "run", "--seed", 6)
    assert "holds a run with other settings: `seed` was" in error_of(result)


@pytest.mark.parametrize(
    ("arguments", "model", "message"),
    [
        (("--num-given", 1), "long", "`--num-given` has no effect without --frames"),
        (("--guidance-scale", 3), "long", "`--guidance-scale` has no effect without a prompt"),
        (("--negative-prompt", "b"), "long", "`--negative-prompt` has no effect without a prompt"),
        (("-o", "out.avi"), "long", "`path` must end in"),
        (("--work-dir", "."), "long", "`work_dir` must be a new or empty folder"),
        (("--work-dir", "no/run"), "long", "`work_dir` must lie in a folder that exists"),
        (("--height", 15), "long", "`--height` must be a multiple of 2"),
        ((), "video", "`--model` must be a LongVideoPipeline or a KeyFramePredictionPipeline, but .* a TextToVideo"),
        ((), "nowhere", "`--model` must be a folder, a file or a Hub id"),
        (("--interpolation-model", "{}/video"), "prediction", "`--interpolation-model` must be a FrameInterpolation"),
        (("--interpolation-model", "{}/interpolation"), "long", "`--interpolation-model` has no effect with"),
        (("--super-resolution-model", "{}/no"), "prediction", "`--super-resolution-model` must be a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    inside: Path, models: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple, model: str, message: str
) -> None:
    import re

    from diffusers import DiffusionPipeline

    Path("something").touch()
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", None)
    given = [str(argument).format(models) for argument in arguments]
    assert re.search(message, error_of(long(models, *given, model=model)))
    assert [path.name for path in inside.iterdir()] == ["something"]


@pytest.mark.slow
def test_the_command_killed_again_and_again_goes_on_to_the_same_video(inside: Path, models: Path) -> None:
    options = ["a fox", "--model", models / "long", "--num-frames", 65, "--steps", 4, "--seed", 3, "--device", "cpu"]
    command = [sys.executable, "-m", "diffusers_video.cli", "long", *options]
    quiet = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
    }
    subprocess.run([*map(str, command), "-o", "whole"], check=True, **quiet)
    total = 2 + 4 + 16  # the image, four more key frames, and the windows of both interpolations
    kills = 0
    for wanted in (1, 3, 8, 14, 19):
        process = subprocess.Popen([*map(str, command), "-o", "out", "--work-dir", "run"], **quiet)
        while len(list(Path("run").glob("*.safetensors"))) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 5 and not Path("out").exists() and len(list(Path("run").glob("*.safetensors"))) < total
    subprocess.run([*map(str, command), "-o", "out", "--work-dir", "run"], check=True, **quiet)
    assert torch.equal(video_io.read_video("out").frames, video_io.read_video("whole").frames)
