"""The benchmark of training steps trains the same thing twice, and runs from the command line at tiny size."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from diffusers_video.layers.video_layers import is_temporal


TINY_RUN = ["--tiny", "--pairs", "1", "--num-frames", "2", "--latent-size", "8"]


@pytest.fixture(scope="module")
def training_step(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("training_step")


@pytest.fixture
def command(training_step: ModuleType) -> typer.Typer:
    app = typer.Typer()
    app.command()(training_step.main)
    return app


@pytest.fixture
def clip() -> tuple[Tensor, Tensor, Tensor]:
    """Latents, noise and text of a video of two frames."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 1, 4, 2, 8, 8, generator=generator)
    return latents, noise, torch.randn(1, 77, 16, generator=generator)


def test_tiny_run_prints_the_bar_and_writes_the_numbers(command: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [*TINY_RUN, "--json", str(tmp_path / "step.json")])
    assert result.exit_code == 0, result.output
    assert result.output.count(", bar 0.85") == 1
    numbers = json.loads((tmp_path / "step.json").read_text())
    assert set(numbers["presets"]) == {"light", "videoldm"}
    for run in numbers["presets"].values():
        assert len(run["seconds"]) == 1 and min(run["seconds"][0]) > 0
        assert min(run["peak_bytes"]) > 4 * min(run["trained_parameters"]) > 0  # the gradients, in float32, and more


def test_a_preset_can_be_measured_alone(command: typer.Typer) -> None:
    result = CliRunner().invoke(command, [*TINY_RUN, "--preset", "videoldm"])
    assert result.exit_code == 0 and "videoldm" in result.output
    assert "light" not in result.output


@pytest.mark.parametrize(
    ("flags", "message"), [(["--full"], "must not both"), (["--json", "/missing/step.json"], "existing folder")]
)
def test_flags_that_cannot_be_followed_are_refused(command: typer.Typer, flags: list[str], message: str) -> None:
    result = CliRunner().invoke(command, [*TINY_RUN, *flags])
    assert result.exit_code == 2 and message in result.output


def test_both_networks_hold_the_same_frozen_weights(training_step: ModuleType) -> None:
    ours, peer = training_step.build_pair("light", "tiny", 16)
    frozen = {name: weight for name, weight in ours.named_parameters() if not weight.requires_grad}
    others = {name: weight for name, weight in peer.named_parameters() if not weight.requires_grad}
    assert frozen.keys() == others.keys() and not any(map(is_temporal, frozen))
    assert all(weight.data_ptr() == others[name].data_ptr() for name, weight in frozen.items())


def test_a_step_trains_the_temporal_layers_of_both_and_nothing_else(
    training_step: ModuleType, clip: tuple[Tensor, Tensor, Tensor]
) -> None:
    latents, noise, text = clip
    models = training_step.build_pair("videoldm", "tiny", 16)
    for model, own_text in zip(models, (text, text.repeat(2, 1, 1)), strict=True):
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        step = training_step.make_step(model, latents, noise, own_text)
        losses = [step() for _ in range(3)]
        changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
        assert changed == {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert losses[-1] < losses[0]
        assert all(weight.grad is None for weight in model.parameters())


def test_ratio_is_the_median_of_the_pairs(training_step: ModuleType) -> None:
    run = {
        "trained_parameters": (1, 2),
        "peak_bytes": (1, 2),
        "seconds": [(1.0, 2.0), (9.0, 10.0), (6.0, 10.0)],
    }
    clip = training_step.Clip()
    _, verdicts = training_step.steps_table({"light": run}, clip, "tiny")
    assert "0.600" in verdicts[0] and verdicts[0].endswith("holds")
    run["seconds"] = [(9.0, 10.0)]
    _, verdicts = training_step.steps_table({"light": run, "videoldm": run}, clip, "tiny")
    assert len(verdicts) == 1 and verdicts[0].endswith("MISSED")
