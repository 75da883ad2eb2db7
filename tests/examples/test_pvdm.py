"""The experiment of PVDM on `shapes`: its settings hold, its videos have no end, and its measure sees the motion."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from typer import Typer
from typer.testing import CliRunner

from diffusers_video import AutoencoderTriplane, PairedDDIMScheduler, UnconditionalVideoPipeline, UNetTriplaneModel
from diffusers_video.training.autoencoder_config import AutoencoderConfig
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.unconditional_config import UnconditionalConfig
from diffusers_video.video_io import read_video

from ..tiny_triplane import tiny_autoencoder_triplane, tiny_unet_triplane


FOLDER = Path(__file__).parents[2] / "examples" / "pvdm"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pvdm_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, *arguments: object) -> str:
    app = Typer()
    app.command()(module.main)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_settings_hold_and_the_models_fit_each_other() -> None:
    model = ["--model_config_name_or_path", "a.json", "--output_dir", "out"]
    for name in ("autoencoder", "adversarial"):
        parse_config(AutoencoderConfig, [str(FOLDER / f"{name}.yaml"), *model])
    config = parse_config(UnconditionalConfig, [str(FOLDER / "denoiser.yaml"), *model, "--train_data_dir", "loops"])
    options = [json.loads((FOLDER / f"{name}.json").read_text()) for name in ("autoencoder", "unet")]
    vae, unet = (
        kind.from_config(one) for kind, one in zip((AutoencoderTriplane, UNetTriplaneModel), options, strict=True)
    )
    assert config.num_frames == 2 * vae.config.num_frames
    assert vae.latents_shape(config.num_frames // 2, config.resolution, config.resolution) == (8, 80)
    assert unet.config.use_previous_clip


def test_loops_go_on_for_ever_and_the_motion_is_seen_anywhere(tmp_path: Path) -> None:
    run(load("loops"), "--folder", tmp_path, "--num-videos", 2, "--size", 32)
    joints = load("joints")
    for path in sorted(tmp_path.iterdir()):
        video = read_video(path).frames.permute(0, 2, 3, 1).numpy() / 255
        assert len(video) == 21 and np.abs(video[:7] - video[14:]).mean() < 0.02
        assert all(joints.see_motion(video, range(0, 14, 5), 8))
        assert not any(joints.see_motion(np.repeat(video[:1], 8, axis=0), range(1), 8))


def test_clips_that_do_not_go_on_are_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipe = UnconditionalVideoPipeline(
        tiny_unet_triplane(), PairedDDIMScheduler(), tiny_autoencoder_triplane(), num_frames=2
    )
    pipe.save_pretrained(tmp_path / "model")
    options = ("--num-videos", 1, "--num-clips", 2, "--steps", 1, "--next-steps", 1)
    output = run(load("joints"), "--model", tmp_path / "model", *options, "--json", tmp_path / "joints.json")
    assert "over joints / inside" in output and "MISSED" in output
    numbers = json.loads((tmp_path / "joints.json").read_text())
    assert numbers["inside"] == numbers["over_joints"] == 0 and len(numbers["of_each_clip"]) == 2
