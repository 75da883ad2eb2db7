"""The recipe of the embedded model: every stage runs, and what it leaves is a pipeline that can be shipped."""

import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_video import TextToVideoPipeline


FOLDER = Path(__file__).resolve().parents[2] / "examples" / "shapes"


def run(*arguments: str | Path) -> str:
    result = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stderr


@pytest.mark.slow
def test_the_recipe_runs_from_nothing_goes_on_and_is_exported(tmp_path: Path) -> None:
    work = tmp_path / "work"
    run(FOLDER / "recipe.py", "--work_dir", work, "--quick")
    (work / "text_to_video" / "model_index.json").unlink()  # as if it had been stopped before it saved the pipeline
    log = run(FOLDER / "recipe.py", "--work_dir", work, "--quick")
    assert "image: there already" in log and "--resume_from_checkpoint latest" in log
    run(FOLDER / "export.py", "--work_dir", work, "--output_dir", tmp_path / "shapes")
    pipeline = TextToVideoPipeline.from_pretrained(tmp_path / "shapes")
    assert (pipeline.config.num_frames, pipeline.config.fps) == (16, 8.0)
    assert (tmp_path / "shapes" / "preview.gif").is_file()
