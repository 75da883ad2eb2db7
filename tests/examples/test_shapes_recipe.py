"""The recipe of the embedded models: every stage runs, and what they leave are pipelines that can be shipped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_video import TextToVideoPipeline
from diffusers_video.embedded import SHAPES_TASKS, load_shapes_pipeline


FOLDER = Path(__file__).resolve().parents[2] / "examples" / "shapes"


def run(*arguments: str | Path) -> str:
    result = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stderr


@pytest.mark.slow
def test_the_recipe_runs_from_nothing_goes_on_and_is_exported(tmp_path: Path) -> None:
    work, root = tmp_path / "work", tmp_path / "embedded"
    run(FOLDER / "recipe.py", "--work_dir", work, "--quick")
    (work / "text_to_video" / "model_index.json").unlink()  # as if it had been stopped before it saved the pipeline
    log = run(FOLDER / "recipe.py", "--work_dir", work, "--quick")
    assert "image: there already" in log and "--resume_from_checkpoint latest" in log
    costs = json.loads((work / "costs.json").read_text(encoding="utf-8"))
    assert costs["text_to_video"]["runs"] == 2 and costs["decoder"]["peak_mib"] > 100
    run(FOLDER / "export.py", "--work_dir", work, "--output_dir", root)
    run(FOLDER / "export.py", "--check", "--output_dir", root)
    pipeline = TextToVideoPipeline.from_pretrained(root / "shapes")
    assert (pipeline.config.num_frames, pipeline.config.fps) == (16, 8.0)
    assert (root / "shapes" / "preview.gif").is_file()
    for task in SHAPES_TASKS:
        load_shapes_pipeline(task, temporal_decoder=task != "super-resolution", folder=root)
