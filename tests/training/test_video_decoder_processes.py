"""Runs of `train_video_decoder.py` that are killed, and runs of two processes, through the command line: slow."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from diffusers_video import AutoencoderKLVideo
from diffusers_video.layers.video_layers import is_temporal

from .tiny_runs import ModelFolder, assert_equal_runs, losses


ONE = ("--cpu",)
TWO = ("--cpu", "--num-processes", "2", "--main-process-port", "0")
SETTINGS = {
    "train_data_dir": "shapes",
    "resolution": 16,
    "num_frames": 3,
    "num_shapes_clips": 7,
    "num_heldout_clips": 2,
    "learning_rate": 1e-3,
    "max_train_steps": 12,
    "checkpointing_steps": 2,
    "validation_steps": 3,
    "gradient_accumulation_steps": 2,
    "use_ema": True,
    "disc_base_channels": 8,
    "disc_num_layers": 2,
    "disc_start": 3,
    "resume_from_checkpoint": "latest",
}


def start(model: str, out: Path, launcher: Sequence[str]) -> subprocess.Popen:
    settings = out.with_suffix(".yaml")
    settings.write_text(json.dumps({**SETTINGS, "pretrained_model_name_or_path": model, "output_dir": str(out)}))
    command = [sys.executable, "-m", "diffusers_video.cli", "train", *launcher, "--script", "video-decoder"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(settings)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-3000:]


def kill_at(process: subprocess.Popen, log: Path, num_lines: int) -> None:
    """Kill the command and everything that it started, once the log has so many lines."""
    while process.poll() is None and (not log.is_file() or len(log.read_bytes().splitlines()) < num_lines):
        time.sleep(0.005)
    if process.poll() is None:
        for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            child.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [ONE, TWO], ids=["one process", "two processes"])
def test_a_run_killed_three_times_ends_as_an_uninterrupted_one(
    launcher: Sequence[str], image_model: ModelFolder, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(image_model("sd15"), whole, launcher))
    source = random.Random(0)
    for attempt in range(3):
        kill_at(
            start(image_model("sd15"), killed, launcher), killed / "log.jsonl", 4 + 4 * attempt + source.randrange(4)
        )
    assert not (killed / "config.json").exists()
    finish(start(image_model("sd15"), killed, launcher))
    assert len(losses(whole)) == 12
    assert len(list((whole / "checkpoint-12").glob("random_states_*"))) == (2 if launcher is TWO else 1)
    assert_equal_runs(whole, killed, step=12, part="")
    weights = load_file(whole / "checkpoint-12" / "trained_weights.safetensors")
    assert {name.split(".")[0] for name in weights} == {"vae", "discriminator"}
    assert isinstance(AutoencoderKLVideo.from_pretrained(killed), AutoencoderKLVideo)
    before = load_file(Path(image_model("sd15")) / "vae" / "diffusion_pytorch_model.safetensors")
    after = load_file(killed / "diffusion_pytorch_model.safetensors")
    assert {name for name in after if not is_temporal(name)} == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
