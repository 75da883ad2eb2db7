"""The table of the shapes set: a row for each system, and a stopped run that goes on."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner, Result

from ..metrics.test_clip_scores import tiny_embedder
from ..tiny_pipelines import tiny_text_to_video


@pytest.fixture
def module(load_benchmark: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with smaller clips."""
    module = load_benchmark("shapes_table")
    monkeypatch.setattr(module, "NUM_FRAMES", 8)
    monkeypatch.setattr(module, "RESOLUTION", 32)
    return module


def invoke(module: ModuleType, *arguments: object) -> Result:
    app = typer.Typer()
    app.command()(module.main)
    settings = ("--num-clips", 3, "--steps", 1, "--num-resamples", 2, "--work-dir", "work", "--json", "table.json")
    return CliRunner().invoke(app, list(map(str, (*arguments, *settings))))


class Counting:
    """Clips of one value each; it counts how many were drawn."""

    num_clips, captions = 4, None

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def read(self, numbers: Sequence[int]) -> list[Tensor]:
        self.drawn += numbers
        return [torch.full((8, 3, 2, 2), number, dtype=torch.uint8) for number in numbers]


def test_the_table_has_every_row_and_a_second_run_draws_nothing(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_text_to_video().save_pretrained("tiny")
    embedder = tiny_embedder()
    for part in (embedder.model, embedder.image_processor, embedder.tokenizer):
        part.save_pretrained("clip")
    arguments = ("ours=tiny", "--no-embedded", "--clip-model", "clip", "--markdown", "table.md")
    result = invoke(module, *arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(Path("table.json").read_text())
    assert list(found["systems"]) == ["ours", module.TRUE, module.SHUFFLED]
    assert all(set(scores) == set(module.COLUMNS) for scores in found["systems"].values())
    true, shuffled = (found["systems"][name] for name in (module.TRUE, module.SHUFFLED))
    assert true["checker/colour"]["value"] == 1 and true["warping_error"]["value"] < 1e-3
    assert shuffled["temporal_flickering"]["value"] < true["temporal_flickering"]["value"]
    assert found["warnings"][0].startswith("ours: Frechet distance, random features")
    page = Path("table.md").read_text()
    assert page.count("\n| ours |") == 1 and "3 clips of 8 frames of 32x32 pixels" in page and "100.0 % (" in page
    assert "--num-resamples 2 --clip-model clip --no-embedded --markdown table.md`" in page
    monkeypatch.setattr(module, "make_judge", None)
    assert invoke(module, *arguments).exit_code == 0
    assert json.loads(Path("table.json").read_text()) == found


def test_clips_are_kept_as_they_are_drawn(module: ModuleType, tmp_path: Path) -> None:
    source = Counting()
    system = module.System(name="a", identity={"seed": 0}, open=lambda: source)
    module.StoredClips(system, tmp_path).read([0, 2])
    again = module.StoredClips(system, tmp_path).read([0, 1, 2])
    assert [int(clip.unique()) for clip in again] == [0, 1, 2] and source.drawn == [0, 2, 1]
    assert module.StoredClips(system, tmp_path).num_clips == 4


def test_frames_are_shuffled_and_none_is_lost(module: ModuleType) -> None:
    clip = torch.arange(8)[:, None, None, None].expand(-1, 3, 2, 2)
    source = Counting()
    source.read = lambda numbers: [clip for _ in numbers]
    first, second = module.ShuffledClips(source, 0).read([0, 1])
    assert not torch.equal(first, clip) and not torch.equal(first, second)
    assert torch.equal(first.sort(0).values, clip)
    assert torch.equal(module.ShuffledClips(source, 0).read([1])[0], second)


def test_clips_of_other_weights_or_settings_are_not_taken(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    sources: list[Counting] = []
    monkeypatch.setattr(module, "open_pipeline", lambda *_: sources.append(Counting()) or sources[-1])

    def drawn(weights: bytes, steps: int = 25, seed: int = 0, num_clips: int = 2) -> list[int]:
        (folder / "unet.safetensors").write_bytes(weights)
        sampling = module.Sampling(num_inference_steps=steps)
        system = module.find_systems([f"a={folder}"], num_clips, seed, sampling, own_rows=())[0]
        sources.clear()
        module.StoredClips(system, tmp_path / "work").read(range(num_clips))
        return sources[0].drawn if sources else []

    assert drawn(b"first") == [0, 1] and drawn(b"first") == []
    assert drawn(b"other") == [0, 1] and drawn(b"first", steps=24) == [0, 1] and drawn(b"first", seed=1) == [0, 1]
    assert drawn(b"first", num_clips=3) == [2]


def test_rows_of_the_package_come_first(module: ModuleType) -> None:
    own_rows = (*module.OWN_ROWS, module.WITH_DECODER)
    systems = module.find_systems([], 2, 0, module.Sampling(), own_rows)
    assert [system.name for system in systems] == [*own_rows, module.TRUE, module.SHUFFLED]
    assert len({json.dumps(system.identity) for system in systems}) == 4  # shuffled clips are true ones


@pytest.mark.parametrize("model", ["nothing", "a=nothing"])
def test_models_that_are_not_there_are_refused(module: ModuleType, model: str, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="models must be name=folder of a pipeline"):
        module.find_systems([model], 2, 0, module.Sampling(), own_rows=())


def test_a_cell_without_a_score_is_a_dash(module: ModuleType) -> None:
    assert module.show_score(None, False) == "-"
    assert module.show_score({"value": 0.5, "interval": None}, True) == "50.0 %"
    assert module.show_score({"value": 1.25, "interval": [1, 2]}, False) == "1.25 (1 to 2)"
