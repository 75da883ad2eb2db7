"""`diffusers-video convert`: what it writes, what it says, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from diffusers_video import ImageToVideoPipeline, UNetTriplaneModel, cli

from .conversion.pvdm_names import original_autoencoder, original_unet
from .conversion.svd_names import original_svd
from .test_cli import error_of
from .tiny_pipelines import tiny_image_pipeline
from .tiny_svd import some_image, tiny_svd
from .tiny_triplane import LATENT_SIZE, tiny_autoencoder_triplane, tiny_unet_triplane


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def svd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint in each layout: `folder` and `file.safetensors`."""
    path = tmp_path_factory.mktemp("checkpoints")
    pipeline = tiny_svd()
    pipeline.save_pretrained(path / "folder")
    save_file(original_svd(pipeline), path / "file.safetensors")
    return path


def test_a_converted_file_loads_and_info_describes_it(svd: Path, tmp_path: Path) -> None:
    output = tmp_path / "svd"
    result = run("convert", svd / "file.safetensors", output, "--dtype", "float16", "--num-frames", 25)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Wrote {output}: load it with ImageToVideoPipeline.from_pretrained\n"
    assert "100%" in result.stderr and "4/4" in result.stderr
    pipeline = ImageToVideoPipeline.from_pretrained(output)
    assert pipeline.dtype == torch.float16 and pipeline.config.num_frames == 25

    result = run("info", output, "--height", 32, "--width", 48, "--num-frames", 4)
    assert result.exit_code == 0, result.output
    assert "video pipeline (ImageToVideoPipeline)" in result.stdout and "prediction_type=v_prediction" in result.stdout
    assert "num_frames=25, fps=7.0" in result.stdout and "motion_bucket_id" in result.stdout
    assert "Memory for 1 clip of 4 frames, 48x32 pixels, float16:" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("unet "))
    assert row.endswith("float16") and f" {sum(p.numel() for p in pipeline.unet.temporal_parameters()):,} " in row


def test_info_knows_a_file_that_can_be_converted(svd: Path) -> None:
    result = run("info", svd / "file.safetensors")
    assert result.exit_code == 0 and "Stable Video Diffusion in one file" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines()[3:6]] == ["unet", "vae", "image_encoder"]


def test_a_converted_folder_draws(svd: Path, tmp_path: Path) -> None:
    assert run("convert", svd / "folder", tmp_path / "svd").exit_code == 0
    pipeline = ImageToVideoPipeline.from_pretrained(tmp_path / "svd")
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(some_image(), height=16, width=16, num_inference_steps=1, output_type="pt").frames
    assert frames.shape == (1, 3, 3, 16, 16) and torch.isfinite(frames).all()


def test_what_cannot_be_converted_is_one_line_and_status_2(svd: Path, tmp_path: Path) -> None:
    tiny_image_pipeline().save_pretrained(tmp_path / "image")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work").touch()
    calls = {
        "`source` must be a folder or a file": (tmp_path / "nowhere", tmp_path / "out"),
        "is a StableDiffusionPipeline": (tmp_path / "image", tmp_path / "out"),
        "`output` must be a new or empty folder": (svd / "file.safetensors", tmp_path / "mine"),
        "`variant` has no effect on a single file": (svd / "file.safetensors", tmp_path / "out", "--variant", "fp16"),
        "must hold the weights of variant 'bf16'": (svd / "folder", tmp_path / "out", "--variant", "bf16"),
    }
    for message, arguments in calls.items():
        assert message in error_of(run("convert", *arguments))
    assert not (tmp_path / "out").exists()
    assert run("convert", svd / "folder", tmp_path / "out", "--dtype", "int8").exit_code == 2


@pytest.fixture(scope="module")
def pvdm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both models of PVDM: `model.pth` and `ema_model.pth`."""
    path = tmp_path_factory.mktemp("pvdm")
    torch.save(original_autoencoder(tiny_autoencoder_triplane(plane_attention_head_dim=2)), path / "model.pth")
    unet = tiny_unet_triplane(block_out_channels=(32, 32), norm_num_groups=32)
    torch.save(original_unet(unet, sum(LATENT_SIZE.lengths)), path / "ema_model.pth")
    return path


def test_checkpoints_of_pvdm_become_folders_of_models(pvdm: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run("convert", pvdm, output, "--num-attention-heads", 2, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert f"Wrote {output}: load it with AutoencoderTriplane.from_pretrained(..., subfolder=" in result.stdout
    assert "2/2" in result.stderr and {path.name for path in output.iterdir()} == {"vae", "unet", "scheduler"}
    unet = UNetTriplaneModel.from_pretrained(output, subfolder="unet", dtype=torch.bfloat16)
    assert unet.config.num_attention_heads == 2 and unet.latent_size == LATENT_SIZE
    assert run("convert", pvdm / "model.pth", tmp_path / "vae").exit_code == 0
    assert [path.name for path in (tmp_path / "vae").iterdir()] == ["vae"]


def test_options_of_other_checkpoints_are_refused(svd: Path, pvdm: Path, tmp_path: Path) -> None:
    calls = {
        "`--variant` has no effect on checkpoints of PVDM": (pvdm, "--variant", "fp16"),
        "`--num-frames` has no effect on checkpoints of PVDM": (pvdm, "--num-frames", 3),
        "`--num-attention-heads` has an effect on checkpoints of PVDM only": (
            svd / "file.safetensors",
            "--num-attention-heads",
            2,
        ),
        "multiples of `num_attention_heads`=3": (pvdm, "--num-attention-heads", 3),
    }
    for message, (source, *flags) in calls.items():
        assert message in error_of(run("convert", source, tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()
