"""Runs that are killed, and runs of two processes: slow, because every run is a process of its own."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline

from diffusers_video.training import train_video_unet
from diffusers_video.training.checkpoints import find_checkpoints

from .tiny_runs import SETTINGS, ModelFolder, assert_equal_runs, losses


SCRIPT = Path(train_video_unet.__file__)
OPTIONS = {
    **SETTINGS,
    "num_frames": 3,
    "max_train_steps": 12,
    "checkpointing_steps": 2,
    "use_ema": True,
    "num_shapes_clips": 7,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "validation_steps": 3,
    "noise_prior": "mixed",
    "resume_from_checkpoint": "latest",
}
# On machines without GPUs this is how Accelerate starts several processes; `--cpu` alone starts one.
ONE = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
ONE += ["--mixed_precision", "no", "--dynamo_backend", "no"]
TWO = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
TWO += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def start(model: str, out: Path, launcher: Sequence[str] = (), **options: object) -> subprocess.Popen:
    settings = out.parent / f"{out.name}.yaml"
    content = {"pretrained_model_name_or_path": model, "output_dir": str(out), **OPTIONS, **options}
    settings.write_text(yaml.safe_dump(content))
    command = [sys.executable, *launcher, str(SCRIPT), str(settings)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-3000:]


def kill_at(process: subprocess.Popen, log: Path, num_lines: int, delay: float) -> None:
    while process.poll() is None and (not log.is_file() or len(log.read_bytes().splitlines()) < num_lines):
        time.sleep(0.005)
    time.sleep(delay)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), TWO], ids=["one process", "two processes"])
def test_run_killed_at_five_random_steps_ends_as_an_uninterrupted_one(
    launcher: Sequence[str], image_model: ModelFolder, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(image_model("sd15"), whole, launcher))
    source = random.Random(0)
    for attempt in range(5):
        process = start(image_model("sd15"), killed, launcher)
        kill_at(process, killed / "log.jsonl", 2 + 2 * attempt + source.randrange(4), source.random() * 0.05)
    finish(start(image_model("sd15"), killed, launcher))
    assert len(losses(whole)) == 12
    assert len(list((whole / "checkpoint-12").glob("random_states_*"))) == (2 if launcher else 1)
    assert_equal_runs(whole, killed, step=12)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [ONE, TWO], ids=["one process", "two processes"])
@pytest.mark.parametrize(
    "options",
    [
        {"task": "key-frames", "num_frames": 4},
        {"task": "interpolation", "num_frames": 17, "max_noise_level": 250, "train": "all"},
    ],
    ids=["key-frames", "interpolation"],
)
def test_a_task_of_given_frames_that_is_killed_ends_as_an_uninterrupted_run_and_draws(
    options: dict[str, object], launcher: Sequence[str], image_model: ModelFolder, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(image_model("sd15"), whole, launcher, **options))
    source = random.Random(1)
    for attempt in range(2):
        process = start(image_model("sd15"), killed, launcher, **options)
        kill_at(process, killed / "log.jsonl", 4 + 4 * attempt + source.randrange(4), source.random() * 0.05)
    finish(start(image_model("sd15"), killed, launcher, **options))
    assert len(losses(whole)) == 12
    assert_equal_runs(whole, killed, step=12)
    pipeline = DiffusionPipeline.from_pretrained(killed)
    frames = torch.rand(2, 3, 16, 16)
    drawn = pipeline(frames, num_inference_steps=1, output_type="pt").frames[0]
    last = 1 if options["task"] == "key-frames" else -1
    assert torch.equal(drawn[0], frames[0]) and torch.equal(drawn[last], frames[1])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["temporal", "all", "lora"])
@pytest.mark.parametrize("family", ["sd21", "sdxl"])
def test_two_processes_train(part: str, family: str, image_model: ModelFolder, tmp_path: Path) -> None:
    options = {"train": part, "max_train_steps": 2, "image_probability": 0.5 if part == "all" else 0.0}
    finish(start(image_model(family), tmp_path / "run", TWO, **options))
    assert len(losses(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "checkpoint-2" / "random_states_1.pkl").is_file()


@pytest.mark.slow
def test_two_processes_learn_what_one_does_from_the_same_clips(image_model: ModelFolder, tmp_path: Path) -> None:
    for name, launcher, size in (("one", (), 2), ("two", TWO, 1)):
        finish(start(image_model("sd15"), tmp_path / name, launcher, train_batch_size=size, max_train_steps=3))
    assert losses(tmp_path / "one") != losses(tmp_path / "two")  # each process draws noise of its own
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), TWO], ids=["one process", "two processes"])
def test_interrupt_as_from_a_terminal_saves_a_checkpoint(
    launcher: Sequence[str], image_model: ModelFolder, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(image_model("sd15"), out, launcher, max_train_steps=10_000, checkpointing_steps=0)
    while not (out / "log.jsonl").is_file() or len((out / "log.jsonl").read_bytes().splitlines()) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # to launcher and processes alike
    process.communicate(timeout=60)
    assert process.returncode == 130 if not launcher else process.returncode != 0
    assert len(find_checkpoints(out)) == 1
