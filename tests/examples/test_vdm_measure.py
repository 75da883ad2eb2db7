"""The measure of VDM's example: it tells kept clips from others, and runs on any pipeline in pixels."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from diffusers_video import UnconditionalVideoPipeline, UNetSpaceTimeModel, VDMScheduler
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.training.unconditional_config import UnconditionalConfig


FOLDER = Path(__file__).resolve().parents[2] / "examples" / "vdm"


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vdm_measure", FOLDER / "measure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_true_clips_are_kept_and_still_or_recoloured_ones_are_not(measure: ModuleType) -> None:
    clips = ShapesDataset(6, num_frames=8, height=16, width=16, **measure.SUBSET)
    true = torch.stack([clips[number]["pixel_values"] for number in range(6)]).transpose(1, 2) / 2 + 0.5
    assert measure.share_kept(true, clips) == (1.0, 1.0, 1.0)
    assert measure.share_kept(true[:, :1].expand(-1, 8, -1, -1, -1), clips) == (1.0, 0.0, 0.0)
    recoloured = torch.cat([true[:, :4], true[:, 4:].roll(1, dims=2)], dim=1)
    assert measure.share_kept(recoloured, clips)[::2] == (0.0, 0.0)


def test_the_settings_are_settings_of_the_script_and_the_measure_runs(measure: ModuleType, tmp_path: Path) -> None:
    settings = yaml.safe_load((FOLDER / "shapes.yaml").read_text())
    config = UnconditionalConfig(output_dir="unused", **settings)
    assert config.shapes_arguments() == measure.SUBSET and config.num_joint_images == 4
    assert settings["model_config_name_or_path"] == "examples/vdm/unet.json"
    options = json.loads((FOLDER / "unet.json").read_text())
    assert options.pop("_class_name") == "UNetSpaceTimeModel"
    unet = UNetSpaceTimeModel(**options, in_channels=3, out_channels=3, sample_size=16)
    scheduler = VDMScheduler(prediction_type="v_prediction")
    UnconditionalVideoPipeline(unet, scheduler, num_frames=8, height=16, width=16).save_pretrained(tmp_path)
    results = measure.main(tmp_path, num_clips=1, steps=1, scales=[2.0], seed=0)
    assert len(results) == 6 and results["true clips: colour, direction, both"] == (1.0, 1.0, 1.0)
    mean, largest, _ = results["x4, guided and kept: error of small copies (mean, largest), PSNR"]
    assert mean <= largest < 0.004
