"""The command `upscale`: what it writes, and what it refuses before any model is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from diffusers_video import VideoSuperResolutionPipeline, video_io

from .test_cli import error_of, run
from .tiny_pipelines import tiny_text_to_video
from .tiny_upscalers import tiny_upscaler


CLIP = torch.randint(0, 256, (7, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upscalers `latent` and `pixel`, a model `video` from text, and the folders of frames `clip` and `bare`."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("latent", "pixel"):
        tiny_upscaler(kind).save_pretrained(folder / kind)
    tiny_text_to_video().save_pretrained(folder / "video")
    video_io.write_video(CLIP, folder / "clip", fps="30000/1001")
    video_io.write_video(CLIP, folder / "bare", fps=8)
    (folder / "bare" / "video.json").unlink()
    return folder


def upscale(folder: Path, *arguments: Any, video: str = "clip", model: str = "latent") -> Result:
    return run("upscale", folder / video, "--model", folder / model, "--steps", 1, "--seed", 3, *arguments)


@pytest.mark.parametrize(
    ("model", "flags", "arguments"),
    [
        ("latent", ("--prompt", "a fox", "--negative-prompt", "b"), {"prompt": "a fox", "negative_prompt": "b"}),
        ("pixel", ("--noise-level", 200, "--chunk-size", 3, "--chunk-overlap", 2), {}),
        ("latent", ("--image-only", "--num-frames", 5, "--scheduler", "euler"), {}),
    ],
)
def test_the_file_holds_the_frames_of_the_pipeline_at_the_rate_of_the_video(
    model: str, flags: tuple, arguments: dict, folder: Path, tmp_path: Path
) -> None:
    result = upscale(folder, *flags, "-o", tmp_path / "out", model=model)
    assert result.exit_code == 0, result.output
    if "--noise-level" in flags:
        arguments = {"noise_level": 200, "chunk_size": 3, "chunk_overlap": 2}
    frames = CLIP[:5] if "--num-frames" in flags else CLIP
    pipeline = VideoSuperResolutionPipeline.from_pretrained(folder / model)
    if "--image-only" in flags:
        from diffusers import EulerDiscreteScheduler

        arguments = {"image_only": True}
        pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    generator = torch.Generator().manual_seed(3)
    want = pipeline(frames, num_inference_steps=1, generator=generator, output_type="pt", **arguments).frames[0]
    assert torch.equal(video_io.read_video(tmp_path / "out").frames, (want * 255).round().to(torch.uint8))
    text = f"Wrote {tmp_path / 'out'}: {len(frames)} frames, 24x16 pixels, 30000/1001 fps, seed 3\n"
    assert result.stdout == text


def test_a_folder_without_a_rate_gets_one(folder: Path, tmp_path: Path) -> None:
    assert "Add --fps" in error_of(upscale(folder, video="bare"))
    result = upscale(folder, "--fps", 5, "-o", tmp_path / "out", video="bare", model="pixel")
    assert result.exit_code == 0 and video_io.probe_video(tmp_path / "out").fps == 5


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"video": "nowhere"}, (), "does not exist"),
        ({"model": "./nowhere"}, (), "does not exist|has no model_index.json"),
        ({"model": "video"}, (), "`--model` must be an upscaler of videos, but .* is a TextToVideoPipeline"),
        ({}, ("--negative-prompt", "a"), "`--negative-prompt` has no effect without --prompt"),
        ({}, ("--guidance-scale", 5), "`--guidance-scale` has no effect without --prompt"),
        ({}, ("--output", "out.txt"), "must end in .mp4"),
        ({}, ("--offload", "model", "--device", "cpu"), "`--offload` model has no effect on the CPU"),
        ({"model": "latent"}, ("--noise-level", 351), "`noise_level` must be at most 350"),
        ({"model": "latent"}, ("--chunk-overlap", 4), "`chunk_overlap` must be below"),
        ({"model": "pixel"}, ("--prompt", "a"), "`prompt` needs a `tokenizer`"),
    ],
)
def test_a_wrong_call_is_one_line_and_leaves_no_file(
    changes: dict, flags: tuple, message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(message, error_of(upscale(folder, *flags, **changes)))
    assert not list(tmp_path.iterdir())
