"""The measure of VDM's example: it tells kept clips from others, and runs on any pipeline in pixels."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from diffusers_video import TextToVideoPipeline, UnconditionalVideoPipeline, UNetSpaceTimeModel, VDMScheduler
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.pipelines.pipeline_output import VideoPipelineOutput
from diffusers_video.training.training_data import load_clips
from diffusers_video.training.unconditional import load_unconditional
from diffusers_video.training.unconditional_config import UnconditionalConfig


FOLDER = Path(__file__).resolve().parents[2] / "examples" / "vdm"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"vdm_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    return load("measure")


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


def test_the_recipe_of_text_trains_what_its_measure_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parents[1])
    settings = yaml.safe_load((FOLDER / "text.yaml").read_text())
    config = UnconditionalConfig(output_dir="unused", **{**settings, "num_shapes_clips": 2})
    pipeline = load_unconditional(config, load_clips(config)[0])
    assert type(pipeline) is TextToVideoPipeline and pipeline.unet.config.pooled_text_dim == 64
    pipeline.save_pretrained(tmp_path)
    (seen, right), *others = (
        load("measure_text").main(tmp_path, num_clips=2, steps=1, scales=[1.0, 4.0], seed=0).values()
    )
    assert 0 <= right <= seen <= 1 and len(others) == 1


def test_the_measure_of_text_knows_true_clips_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_text = load("measure_text")
    subset = json.loads(yaml.safe_load((FOLDER / "text.yaml").read_text())["shapes_options"])
    clips = ShapesDataset(4, num_frames=8, height=16, width=16, seed=5, **subset)
    true = torch.stack([clips[number]["pixel_values"] for number in range(4)]).movedim(1, -1) / 2 + 0.5

    class Drawer:
        """A pipeline that draws the true clips, or with a large scale others."""

        set_progress_bar_config = from_pretrained = lambda self, *_, **__: self

        def __call__(self, prompts: list[str], guidance_scale: float, **_: object) -> VideoPipelineOutput:
            assert prompts == [clips.scene(number).caption for number in range(4)]
            videos = true if guidance_scale == 1 else true.roll(1, dims=-1)
            return VideoPipelineOutput(frames=videos.numpy(), fps=8.0)

    monkeypatch.setattr(measure_text, "TextToVideoPipeline", Drawer())
    assert measure_text.main(tmp_path, 4, 1, [1.0, 2.0], seed=5) == {1.0: (1.0, 1.0), 2.0: (1.0, 0.0)}
