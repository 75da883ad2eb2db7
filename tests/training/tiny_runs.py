"""Training runs of a second: tiny models, 16 by 16 pixels, two or three frames."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file

from diffusers_video.training.config import VideoUNetConfig
from diffusers_video.training.train_video_unet import main

from ..tiny_pipelines import tiny_image_pipeline


SETTINGS = {
    "train_data_dir": "shapes",
    "resolution": 16,
    "preset": "light",
    "max_train_steps": 2,
    "num_heldout_clips": 1,
    "num_heldout_timesteps": 1,
    "num_validation_inference_steps": 1,
    "num_shapes_clips": 5,
    "checkpointing_steps": 0,
}

ModelFolder = Callable[[str], str]


def save_image_model(folder: Path, family: str) -> str:
    """Save a tiny image pipeline once, and name its folder."""
    path = folder / family
    if not path.exists():
        tiny_image_pipeline(family).save_pretrained(path)
    return str(path)


def tiny_config(model: str, output_dir: Path | str, **settings: Any) -> VideoUNetConfig:
    """Settings of a run of a second."""
    frames = {} if settings.get("train") == "spatial" or "buckets" in settings else {"num_frames": 3}
    if "buckets" in settings:
        frames["resolution"] = None
    return VideoUNetConfig(
        pretrained_model_name_or_path=model, output_dir=str(output_dir), **{**SETTINGS, **frames, **settings}
    )


def reset_accelerate() -> None:
    """Let the next run in this process be as the first."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def train(model: str, output_dir: Path | str, **settings: Any) -> Path:
    """Run the script in this process; return its output folder."""
    reset_accelerate()
    main(tiny_config(model, output_dir, **settings))
    return Path(output_dir)


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    """The training losses of a run."""
    return [record["loss"] for record in read_log(folder) if "loss" in record]


def assert_equal_runs(first: Path, second: Path, step: int, part: str = "unet/") -> None:
    """Bit for bit: loss log, trained weights, moving average, optimizer, random states, and what the run saved."""
    assert (first / "log.jsonl").read_bytes() == (second / "log.jsonl").read_bytes()
    for pattern in ("trained_weights.safetensors", "ema.safetensors"):
        one, two = (folder / f"checkpoint-{step}" / pattern for folder in (first, second))
        assert one.exists() == two.exists()
        if one.exists():
            assert_equal_tensors(load_file(one), load_file(two))
    one, two = (torch.load(folder / f"checkpoint-{step}/optimizer.bin") for folder in (first, second))
    for index, values in one["state"].items():
        assert_equal_tensors(values, two["state"][index])
    assert one["param_groups"] == two["param_groups"]
    saved = f"{part}diffusion_pytorch_model.safetensors"
    assert_equal_tensors(load_file(first / saved), load_file(second / saved))


def assert_equal_tensors(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Same names, same bits."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
