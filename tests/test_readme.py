"""README says only what runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from diffusers import DiffusionPipeline

from diffusers_video import video_io

from .tiny_pipelines import tiny_image_pipeline


ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block, with the HTML comment on the line above it and the line of the file on which it ends."""

    note: str | None
    language: str
    text: str
    last_line: int


BLOCKS = [
    Block(match[1], match[2], match[3].strip(), README[: match.end()].count("\n") + 1)
    for match in re.finditer(r"^(?:<!-- ([\w ]+) -->\n)?```(\w+)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
]
RUN_COMMAND, TEST_COMMAND = (block.text for block in BLOCKS if block.language == "bash")
PYTHON = [block for block in BLOCKS if block.language == "python"]


def test_a_snippet_on_random_weights_stands_within_the_first_thirty_lines() -> None:
    assert PYTHON[0].note is None and PYTHON[0].last_line <= 30


@pytest.mark.parametrize("block", [block for block in PYTHON if not block.note], ids=lambda b: f"line {b.last_line}")
def test_python_runs(block: Block) -> None:
    names: dict = {}
    exec(block.text, names)
    assert names["video"].shape == names["latents"].shape


@pytest.mark.parametrize("block", [block for block in PYTHON if block.note], ids=lambda b: f"line {b.last_line}")
def test_python_that_downloads_runs_on_a_tiny_model(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert block.note == "downloads a model"
    monkeypatch.chdir(tmp_path)
    tiny_image_pipeline().save_pretrained("tiny")
    code = re.sub(r'from_image_model\("[^"]+"', 'from_image_model("tiny"', block.text)
    exec(code.replace("num_frames=8", "num_frames=2, num_inference_steps=2"), {})
    clip = video_io.read_video("fox.mp4")
    assert (len(clip.frames), clip.fps) == (2, 8)
    assert type(DiffusionPipeline.from_pretrained("my-video-model")).__name__ == "TextToVideoPipeline"


def test_the_first_command_installs_and_writes_a_clip() -> None:
    install, command = RUN_COMMAND.split(" && ")[1:]
    assert install == ".venv/bin/pip install -c constraints.txt -e ."
    assert command.startswith(".venv/bin/diffusers-video generate ")


def test_the_generate_command_writes_a_playable_clip(tmp_path: Path) -> None:
    command = shlex.split(RUN_COMMAND.split(" && ")[-1])
    run = [sys.executable, "-c", "from diffusers_video.cli import main; main()", *command[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    few_steps = ["--num-inference-steps", "2"]
    result = subprocess.run([*run, *few_steps], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert "untrained" not in result.stdout + result.stderr
    assert len(video_io.read_video(tmp_path / "circle.mp4").frames) > 1


def test_ci_runs_the_test_command_word_for_word() -> None:
    printed = subprocess.run([ROOT / ".ci" / "run", "--dry-run"], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == TEST_COMMAND
    assert '".[test]"' in TEST_COMMAND and "-m pytest" in TEST_COMMAND


def test_links_to_files_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links and not [link for link in links if not (ROOT / link).exists()]
