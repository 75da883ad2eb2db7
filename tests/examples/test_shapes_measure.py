"""The script that measures the embedded model: its table says what was found, and a stopped run goes on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diffusers_video import FrameInterpolationPipeline, KeyFramePredictionPipeline

from ..tiny_long_videos import tiny_long
from ..tiny_pipelines import tiny_given, tiny_text_to_video
from ..tiny_upscalers import tiny_upscaler


SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "shapes" / "measure.py"


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shapes_measure", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def results_of(part: float) -> dict[str, Any]:
    clips = dict.fromkeys(("colour", "shape", "motion", "together", "frame_colour", "frame_shape", "kept"), part)
    return {
        "text-to-video": clips,
        "independent frames": {**clips, "motion": 0.1},
        "interpolation": {"deviation": 2.5, "deviation_95": 3.5},
        "command": {"seconds": 19.0, "gigabytes": 1.6},
    }


def test_lines_are_met_on_their_own_side_of_the_bar(measure: ModuleType) -> None:
    lines = {line["line"]: line for line in (one.read(results_of(0.75)) for one in measure.choose_lines("cpu"))}
    assert [lines[f"generated: {part}"]["met"] for part in ("colour", "shape", "motion", "together")] == [
        False,
        False,
        True,
        True,
    ]
    assert lines["independent frames: motion"]["met"] and not lines["generate: peak memory"]["met"]
    assert lines["interpolation: mean distance from the path"]["met"]
    assert not lines["interpolation: that of 95 % of the frames"]["met"]
    assert lines["single frames with temporal layers less without: shape"]["value"] == 0
    assert lines["long videos: object kept throughout"]["met"] is None  # not measured
    gpu = [line.bar for line in measure.choose_lines("gpu")[:4]]
    assert gpu == [0.97, 0.92, 0.92, 0.85]


def test_the_table_shows_bars_and_values(measure: ModuleType) -> None:
    table = measure.show_table([line.read(results_of(0.984)) for line in measure.choose_lines("cpu")])
    assert "| generated: colour | >= 97.0 % | 98.4 % | yes |" in table.splitlines()
    assert "| interpolation: that of 95 % of the frames | <= 3.00 pixels | 3.50 pixels | no |" in table
    assert "| long videos: object kept throughout | >= 80.0 % | not measured |  |" in table


def test_weights_are_looked_up_in_their_cards(measure: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    for name in ("a", "b"):
        (tmp_path / "unet" / f"{name}.safetensors").write_bytes(name.encode())
    digests = [*measure.measure_files(tmp_path)["hashes"].values()]
    (tmp_path / "README.md").write_text(f"| unet/a.safetensors | `{digests[0]}` |")
    found = measure.measure_files(tmp_path)
    assert found["as_in_cards"] == 0.5 and found["megabytes"] == 2e-6


@pytest.mark.slow
def test_every_line_is_measured_once(tmp_path: Path) -> None:
    tiny_text_to_video().save_pretrained(tmp_path / "m" / "text-to-video")
    tiny_given(KeyFramePredictionPipeline).save_pretrained(tmp_path / "m" / "key-frames")
    tiny_given(FrameInterpolationPipeline).save_pretrained(tmp_path / "m" / "interpolation")
    tiny_upscaler("pixel").save_pretrained(tmp_path / "m" / "super-resolution")
    tiny_long().save_pretrained(tmp_path / "m" / "long")
    command = [sys.executable, SCRIPT, "--work_dir", tmp_path / "work", "--models_dir", tmp_path / "m"]
    command += ["--num_videos", "2", "--steps", "1"]
    first = subprocess.run([*command, "--only", "true videos"], capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-3000:]
    results = json.loads((tmp_path / "work" / "results.json").read_text())
    assert set(results["runs"]) == {"files", "true videos"}
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr[-3000:]
    assert "not measured" not in second.stdout and "true videos:" not in second.stderr
    results = json.loads((tmp_path / "work" / "results.json").read_text())
    assert all(line["value"] is not None for line in results["lines"])
