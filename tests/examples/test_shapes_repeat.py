"""The script that trains the beginning of a recipe once more: it stops in time, and sees when a loss is another."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest


FOLDER = Path(__file__).resolve().parents[2] / "examples" / "shapes"
TRAINING = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
path = pathlib.Path(sys.argv[1])
path.parent.mkdir()
for step in range(1000):
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "heldout_loss" if step == 0 else "loss": 1 / (step + 1)}) + "\\n")
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def repeat() -> Iterator[ModuleType]:
    names = ("repeat", "export", "recipe", "running")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield import_module("repeat")
    for name in names:
        sys.modules.pop(name, None)


def test_losses_are_compared_where_both_logs_have_them(repeat: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0, "heldout_loss": 2.0}\n{"step": 1, "loss": 1.0, "lr": 3.0}\n{"step": 2, "lo')
    losses = repeat.read_losses(path)
    assert losses == {(0, "heldout_loss"): 2.0, (1, "loss"): 1.0} and repeat.read_losses(tmp_path / "none") == {}
    assert repeat.compare({**losses, (2, "loss"): 0.5}, losses) == (2, None)
    assert repeat.compare(losses, {**losses, (1, "loss"): 1.0 + 1e-9}) == (2, 1)


@pytest.mark.parametrize("change", [0.0, 1e-7])
def test_a_stage_is_stopped_early_and_compared(
    change: float, repeat: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work, folder = tmp_path / "work", tmp_path / "repeat"
    for name in ("autoencoder", "decoder"):
        (work / name).mkdir(parents=True)
    entries = [{"step": step, "heldout_loss" if step == 0 else "loss": 1 / (step + 1)} for step in range(41)]
    entries[3]["loss"] += change
    (work / "decoder" / "log.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))

    def decoder(recipe: repeat.Beginning) -> None:
        assert (recipe.work / "autoencoder").is_dir() and not (recipe.work / "decoder").exists()
        out = recipe.work / "decoder"
        recipe.run("decoder", out / "config.json", [sys.executable, "-c", TRAINING, str(out / "log.jsonl")])

    monkeypatch.setattr(repeat.Beginning, "decoder", decoder)
    assert repeat.repeat("decoder", work, folder, 0.1) == (change == 0)
    found = repeat.read_losses(folder / "decoder" / "log.jsonl")
    assert 4 <= max(found)[0] < 40 and json.loads((folder / "costs.json").read_text())["decoder"]["runs"] == 1
