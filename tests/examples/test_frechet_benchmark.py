"""The benchmark of the Frechet distance compares equal values, and runs from the command line at small size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner


def test_both_ways_lead_to_one_value(load_benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
    benchmark = load_benchmark("frechet")
    first, second = benchmark.make_features(80, 12)
    want = benchmark.from_features_by_sqrtm(first.numpy(), second.numpy())
    assert benchmark.from_features(first, second) == pytest.approx(want, rel=1e-9)
    app = typer.Typer()
    app.command()(benchmark.main)
    options = ["--num-samples", "80", "--num-features", "12", "--pairs", "1", "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(app, options, catch_exceptions=False)
    assert result.exit_code == 0 and result.output.count("bar 1e-06: holds") == 2
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert numbers["distance"]["relative_difference"] < 1e-6 and len(numbers["from features"]["ms"]) == 2
