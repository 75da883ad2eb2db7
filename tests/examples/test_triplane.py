"""The benchmark of PVDM's clips does the original's work, and runs from the command line at tiny size."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer
from typer.testing import CliRunner

from diffusers_video.layers.triplane import TriplaneSize


@pytest.fixture(scope="module")
def triplane(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("triplane")


def test_tiny_run_prints_both_bars_and_writes_the_numbers(triplane: ModuleType, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(triplane.main)
    size = ["--num-frames", "8", "--latent-size", "8", "--steps", "2", "--pairs", "1"]
    result = CliRunner().invoke(app, ["--tiny", *size, "--json", str(tmp_path / "cost.json")])
    assert result.exit_code == 0, result.output
    assert result.output.count(", bar ") == 2 and "largest difference" in result.output
    numbers = json.loads((tmp_path / "cost.json").read_text())
    assert numbers["difference"] < 1e-4 and len(numbers["seconds"]) == 1 and numbers["times_faster"] > 0
    assert CliRunner().invoke(app, ["--json", str(tmp_path / "no" / "cost.json")]).exit_code == 2


def test_the_original_runs_twice_a_step_and_every_plane_alone(triplane: ModuleType) -> None:
    unet = triplane.build(None, TriplaneSize(2, 4, 4))
    planes = []
    unet.conv_in.register_forward_pre_hook(lambda _, inputs: planes.append(tuple(inputs[0].shape)))
    previous = torch.rand(1, 4, 32)
    ours = triplane.sample_clip(unet, previous, 2, is_original=False)
    assert planes == [(1, 8, 4, 4), (2, 8, 2, 4)] * 2
    planes.clear()
    original = triplane.sample_clip(unet, previous, 2, is_original=True)
    assert planes == [(1, 8, 4, 4), (1, 8, 2, 4), (1, 8, 2, 4)] * 4
    assert not torch.equal(ours, triplane.sample_clip(unet, -previous, 2, is_original=False))
    torch.testing.assert_close(ours, original, rtol=0, atol=1e-4)
