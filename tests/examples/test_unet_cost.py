"""The benchmark of U-Nets measures what it says, and runs from the command line at tiny size."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import typer
from torch import Tensor, nn
from typer.testing import CliRunner


TINY_RUN = ["--tiny", "--pairs", "1", "--num-frames", "2", "--latent-size", "8"]


class OnlyAttention(nn.Module):
    """A network that is one call of attention with one head."""

    def __init__(self, cross_attention_dim: int) -> None:
        super().__init__()

    def forward(self, sample: Tensor, timestep: int, text: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(text[:, None], text[:, None], text[:, None])


@pytest.fixture(scope="module")
def unet_cost(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("unet_cost")


@pytest.fixture
def command(unet_cost: ModuleType) -> typer.Typer:
    app = typer.Typer()
    app.command()(unet_cost.main)
    return app


def test_tiny_run_prints_every_bar_and_writes_the_numbers(
    command: typer.Typer, unet_cost: ModuleType, tmp_path: Path
) -> None:
    result = CliRunner().invoke(command, [*TINY_RUN, "--json", str(tmp_path / "cost.json")])
    assert result.exit_code == 0, result.output
    assert result.output.count(", bar ") == 6
    numbers = json.loads((tmp_path / "cost.json").read_text())
    assert set(numbers["flops"]["networks"]) == set(unet_cost.NETWORKS)
    assert all(count > 0 for count in numbers["flops"]["networks"].values())
    for run in numbers["runs"]["presets"].values():
        assert len(run["seconds"]) == 1 and min(run["peak_bytes"]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]


def test_a_measure_can_be_taken_alone(command: typer.Typer) -> None:
    result = CliRunner().invoke(command, [*TINY_RUN, "--only", "time"])
    assert result.exit_code == 0 and "wall time" in result.output
    assert "FLOPs" not in result.output and "memory" not in result.output


def test_numbers_are_refused_a_folder_that_does_not_exist(command: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [*TINY_RUN, "--json", str(tmp_path / "missing" / "cost.json")])
    assert result.exit_code == 2 and "existing folder" in result.output


def test_attention_is_counted(unet_cost: ModuleType) -> None:
    network = unet_cost.Network(model_class=OnlyAttention, arrange=unet_cost.as_video)
    tokens, width = unet_cost.Clip().make()[1].shape[1], 16
    assert unet_cost.count_flops(network, unet_cost.Clip(text_dim=width)) == 2 * (2 * tokens * tokens * width)


def test_verdict_says_whether_the_bar_holds(unet_cost: ModuleType) -> None:
    flops = dict.fromkeys(unet_cost.NETWORKS, 100) | {"videoldm": 169, "light": 120}
    _, verdicts = unet_cost.flops_table(flops, unet_cost.Clip())
    assert verdicts[0].endswith("MISSED") and verdicts[1].endswith("holds")


def test_ratio_is_the_median_of_the_pairs(unet_cost: ModuleType) -> None:
    runs = {"light": {"seconds": [(1.0, 2.0), (9.0, 10.0), (6.0, 10.0)]}}
    _, verdicts = unet_cost.runs_table(runs, unet_cost.Clip())
    assert "0.600" in verdicts[0] and verdicts[0].endswith("holds")
