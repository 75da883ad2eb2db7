"""The account of costs counts what it says."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner


TINY = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


class Products(nn.Module):
    """A linear layer, then attention of its output with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.layer(tokens)
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.fixture(scope="module")
def cost(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("cost")


@pytest.fixture
def tiny_command(cost: ModuleType, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The command with one system of one small network."""
    system = cost.System(build=Products, sample=(1, 1, 5, 8), steps=10, calls_per_step=2, source="this test")
    monkeypatch.setattr(cost.System, "make_inputs", lambda self: (torch.randn(self.sample),))
    monkeypatch.setattr(cost, "SYSTEMS", {cost.REFERENCE: system})
    app = typer.Typer()
    app.command()(cost.main)
    return app


def test_layers_and_attention_are_counted_apart(cost: ModuleType) -> None:
    counted = cost.count_cost(Products, lambda: (torch.randn(1, 1, 5, 8),))
    assert counted.parameters == 64
    assert counted.weight_flops == 2 * 5 * 8 * 8
    assert counted.attention_flops == 2 * (2 * 5 * 5 * 8)
    assert counted.flops == counted.weight_flops + counted.attention_flops


def test_memory_is_what_lives_at_the_same_time(cost: ModuleType) -> None:
    class Chain(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            for _ in range(5):
                values = values + 1  # two of them live at once, never six
            return values.view(-1)  # a view takes nothing

    assert cost.count_cost(Chain, lambda: (torch.zeros(256),)).activation_bytes == 2 * 256 * 4


def test_weights_and_inputs_are_no_activations(cost: ModuleType) -> None:
    class Layer(nn.Linear):
        def forward(self, values: Tensor) -> Tensor:
            return super().forward(values.view(4, 32)).view(-1)

    assert cost.count_cost(lambda: Layer(32, 16), lambda: (torch.zeros(128),)).activation_bytes == 4 * 16 * 4


def test_latents_save_what_positions_save_and_attention_more(cost: ModuleType) -> None:
    latents, pixels = cost.count_latents_against_pixels(text_dim=16, size=8, **TINY)
    assert pixels.weight_flops / latents.weight_flops == pytest.approx(64, rel=0.06)  # text and time do not grow
    assert pixels.attention_flops / latents.attention_flops > 100
    assert cost.compare_latents(latents, pixels)[0].count("64 within 2 %") == 1


def test_a_missed_bar_is_said(cost: ModuleType) -> None:
    one, far = (
        cost.Cost(parameters=1, weight_flops=count, attention_flops=0, activation_bytes=1) for count in (1, 66)
    )
    assert cost.compare_latents(one, far)[0].endswith("MISSED")


def test_the_networks_of_the_table_are_of_the_published_sizes(cost: ModuleType) -> None:
    with torch.device("meta"):
        sizes = {name: sum(p.numel() for p in cost.SYSTEMS[name].build().parameters()) / 1e6 for name in
                 ("LVDM, unconditional", "LVDM, text", "PVDM-L", "PVDM-S")}  # fmt: skip
    assert {name: round(size, 1) for name, size in sizes.items()} == {
        "LVDM, unconditional": 548.9,
        "LVDM, text": 958.9,
        "PVDM-L": 528.3,
        "PVDM-S": 132.2,
    }


def test_the_command_prints_and_writes_what_it_counted(
    tiny_command: typer.Typer, cost: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cost, "compare_latents", lambda latents, pixels: ["a verdict"])
    monkeypatch.setattr(cost, "count_latents_against_pixels", lambda: (None, None))
    paths = tmp_path / "cost.json", tmp_path / "cost.md"
    result = CliRunner().invoke(tiny_command, ["--json", str(paths[0]), "--markdown", str(paths[1])])
    assert result.exit_code == 0 and "a verdict" in result.output
    assert '"calls": 20' in paths[0].read_text()
    page = paths[1].read_text()
    assert "| 10 x 2 |" in page and "- VDM, in pixels at 256x256: 10 steps, this test." in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost.json", "cost.md"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "VideoLMD"], "must be one of"),
        (["--markdown", "missing/cost.md"], "existing folder"),
        (["--json", "missing/cost.json"], "existing folder"),
    ],
)
def test_wrong_options_are_refused(tiny_command: typer.Typer, options: list[str], message: str) -> None:
    result = CliRunner().invoke(tiny_command, options)
    assert result.exit_code == 2 and message in " ".join(result.output.split())
