"""The example of personalisation writes a clip, and its pieces do what they are there for."""

import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_video import read_video

from ..pipelines.test_personalisation import tuned_image_pipeline, write_lora
from ..tiny_pipelines import tiny_text_to_video


SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "personalise.py"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["videoldm", "light"])
def test_a_tuned_model_and_a_lora_are_set_in_motion(preset: str, tmp_path: Path) -> None:
    tuned_image_pipeline().save_pretrained(tmp_path / "tuned")
    video = tiny_text_to_video(preset=preset)
    video.register_to_config(noise_prior="mixed")
    video.save_pretrained(tmp_path / "video")
    write_lora(tmp_path / "lora")
    options = ["--lora", "lora", "--num-frames", "12", "--max-distance", "8", "--num-inference-steps", "2"]
    command = [sys.executable, SCRIPT, "tuned", "video", "a red fox", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    clip = read_video(tmp_path / "personal.mp4")
    assert (len(clip.frames), clip.fps) == (12, 4.0)
