"""Runs of `train_autoencoder.py` on clips that are killed, of one process and of two: slow."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from diffusers_video import AutoencoderKL3D

from .test_train_clip_autoencoder import KL_3D
from .test_video_decoder_processes import ONE, TWO, finish, kill_at
from .tiny_runs import assert_equal_runs, losses, read_log


SETTINGS = {
    "train_data_dir": "shapes",
    "resolution": 16,
    "num_frames": 4,
    "num_shapes_clips": 7,
    "num_heldout_clips": 2,
    "num_scaling_images": 8,
    "learning_rate": 1e-3,
    "max_train_steps": 12,
    "checkpointing_steps": 2,
    "validation_steps": 3,
    "gradient_accumulation_steps": 2,
    "use_ema": True,
    "disc_weight": 0.5,
    "disc_base_channels": 4,
    "disc_num_layers": 1,
    "disc_start": 3,
    "resume_from_checkpoint": "latest",
}


def start(out: Path, launcher: Sequence[str]) -> subprocess.Popen:
    model, settings = out.with_name("model.json"), out.with_suffix(".yaml")
    model.write_text(json.dumps(KL_3D))
    settings.write_text(json.dumps({**SETTINGS, "model_config_name_or_path": str(model), "output_dir": str(out)}))
    command = [sys.executable, "-m", "diffusers_video.cli", "train", *launcher, "--script", "autoencoder"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(settings)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [ONE, TWO], ids=["one process", "two processes"])
def test_a_3d_autoencoder_killed_three_times_ends_as_an_uninterrupted_one(
    launcher: Sequence[str], tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, launcher))
    source = random.Random(0)
    for attempt in range(3):
        kill_at(start(killed, launcher), killed / "log.jsonl", 4 + 4 * attempt + source.randrange(4))
    assert not (killed / "config.json").exists()
    finish(start(killed, launcher))
    assert len(losses(whole)) == 12
    assert_equal_runs(whole, killed, step=12, part="")
    weights = load_file(whole / "checkpoint-12" / "trained_weights.safetensors")
    assert any("judge" in name for name in weights)
    judged = [line["discriminator_loss"] for line in read_log(killed) if "discriminator_loss" in line]
    assert not any(judged[:3]) and all(loss > 0 for loss in judged[3:]) and len(judged) == 12
    assert AutoencoderKL3D.from_pretrained(killed).config.scaling_factor != 1
