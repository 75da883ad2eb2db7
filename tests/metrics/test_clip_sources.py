"""Clips of folders, pipelines and videos in memory."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusers_video.metrics.clip_sources import FolderClips, MemoryClips, PipelineClips, store_frames
from diffusers_video.metrics.protocols import EvaluationProtocol, find_protocol
from diffusers_video.video_io import read_video, write_video

from ..video_files import moving_frames


CLIPS_OF_4 = find_protocol("custom", num_frames=4, order="sorted", reference_clips="first")


def folder_of_images(path: Path, num_frames: int, fps: int | str = 8) -> Tensor:
    frames = (moving_frames(num_frames, 16, 24) * 255).to(torch.uint8)
    write_video(frames, path, fps)
    return frames


def reference(path: Path, protocol: EvaluationProtocol, **options: Any) -> FolderClips:
    return FolderClips(path, protocol, is_generated=False, **options)


def test_clips_are_the_frames_of_the_protocol(tmp_path: Path) -> None:
    frames = {name: folder_of_images(tmp_path / name, length) for name, length in (("b", 9), ("a", 12), ("c", 3))}
    source = reference(tmp_path, CLIPS_OF_4.changed(frame_stride=2))
    assert source.num_clips == 2 and source.rates == {Fraction(8)}
    for clip, name in zip(source.read([0, 1]), "ab", strict=True):
        assert torch.equal(clip, frames[name][:8:2])
    assert source.name_of(1) == f"{tmp_path / 'b'}, frame 0"
    assert source.record == {
        "kind": "videos",
        "path": str(tmp_path),
        "num_videos": 2,
        "num_videos_found": 3,
        "num_videos_too_short": 1,
        "codecs": {"images": 2},
        "sizes": {"24x16": 2},
    }


def test_videos_are_decoded_exactly(tmp_path: Path) -> None:
    write_video(moving_frames(10, 48, 64), tmp_path / "x.mp4", 24)
    (clip,) = reference(tmp_path, CLIPS_OF_4.changed(reference_clips="random", seed=3)).read([0])
    whole = read_video(tmp_path / "x.mp4").frames
    assert any(torch.equal(clip, whole[start : start + 4]) for start in range(1, 7))


def test_one_rate_for_all_videos_picks_frames_by_their_time(tmp_path: Path) -> None:
    slow, fast = folder_of_images(tmp_path / "a", 8, 8), folder_of_images(tmp_path / "b", 24, 24)
    with pytest.raises(ValueError, match=f"one rate, but there are 2 rates: 8 in {tmp_path}/a; 24 in {tmp_path}/b"):
        reference(tmp_path, CLIPS_OF_4)
    source = reference(tmp_path, CLIPS_OF_4.changed(fps="8"))
    assert source.rates == {Fraction(8)}
    clips = source.read([0, 1])
    assert torch.equal(clips[0], slow[:4]) and torch.equal(clips[1], fast[:12:3])


def test_short_videos_at_another_rate_are_counted_by_their_time(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "a", 9, 24), folder_of_images(tmp_path / "b", 24, 24)
    source = reference(tmp_path, CLIPS_OF_4.changed(fps="8"))  # three frames at 8 per second are too few
    assert source.num_clips == 1 and source.record["num_videos_too_short"] == 1


def test_a_damaged_video_is_named(tmp_path: Path) -> None:
    write_video(moving_frames(6, 16, 16), tmp_path / "good.mp4", 8)
    (tmp_path / "bad.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:600])
    with pytest.raises(ValueError, match=f"must hold videos that can be read, but {tmp_path}/bad.mp4 cannot"):
        reference(tmp_path, CLIPS_OF_4)


def test_a_video_that_breaks_later_is_named(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "a", 6)
    source = reference(tmp_path, CLIPS_OF_4)
    (tmp_path / "a" / "000002.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"but {tmp_path}/a cannot"):
        source.read([0])


def test_a_listed_video_that_is_missing_is_named(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "a", 6)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a", "text": ""}\n{"file_name": "gone.mp4", "text": ""}\n')
    with pytest.raises(FileNotFoundError, match="lists 'gone.mp4'"):
        reference(tmp_path, CLIPS_OF_4)


def test_frames_are_stored_as_the_protocol_says() -> None:
    frames = torch.full((1, 3, 4, 6), 99.7)
    assert store_frames(frames, CLIPS_OF_4).unique().tolist() == [100]
    assert store_frames(frames, CLIPS_OF_4.changed(quantisation="truncate")).unique().tolist() == [99]
    noise = torch.randint(0, 256, (1, 3, 32, 40), dtype=torch.uint8)
    sizes = CLIPS_OF_4.changed(frame_size=8)
    plain, smooth = store_frames(noise, sizes), store_frames(noise, sizes.changed(frame_antialias=True))
    assert plain.shape == (1, 3, 8, 8) and smooth.float().std() < plain.float().std()


class Recorder:
    """Stands where a pipeline does, and draws noise from the generators."""

    config = SimpleNamespace(fps=8)

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, prompt: list[str] | None = None, **options: Any) -> SimpleNamespace:
        self.calls.append({"prompt": prompt, **options})
        shape = (3, 8, 8)
        videos = [torch.rand(options["num_frames"], *shape, generator=source) for source in options["generator"]]
        return SimpleNamespace(frames=torch.stack(videos))


def test_a_pipeline_draws_each_clip_from_its_own_seed_and_prompt() -> None:
    protocol = CLIPS_OF_4.changed(num_generated=5, frame_stride=2)
    pipeline = Recorder()
    source = PipelineClips(pipeline, protocol, prompts=["a", "b"], seed=10, num_inference_steps=2)
    clips = source.read([3, 4])
    assert source.num_clips == 5 and source.rates == {Fraction(8)}
    assert pipeline.calls[0]["prompt"] == ["b", "a"] and pipeline.calls[0]["num_inference_steps"] == 2
    assert pipeline.calls[0]["num_frames"] == 7
    want = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(14))[::2]
    assert torch.equal(clips[1], (want * 255 + 0.5).to(torch.uint8))
    assert torch.equal(source.read([4])[0], clips[1])
    assert source.name_of(4) == "the clip of Recorder with seed 14"


def test_a_pipeline_without_prompts_is_told_how_many() -> None:
    pipeline = Recorder()
    PipelineClips(pipeline, CLIPS_OF_4.changed(num_generated=3)).read([0, 1])
    assert pipeline.calls[0]["prompt"] is None and pipeline.calls[0]["batch_size"] == 2
    with pytest.raises(ValueError, match="`num_generated` of the protocol must say how many"):
        PipelineClips(pipeline, CLIPS_OF_4)


def test_a_pipeline_of_too_few_frames_is_refused() -> None:
    source = PipelineClips(
        lambda **options: SimpleNamespace(frames=torch.rand(1, 2, 3, 8, 8)), CLIPS_OF_4, prompts="a"
    )
    with pytest.raises(TypeError):
        source.read([0])
    source = PipelineClips(
        lambda prompt, **options: SimpleNamespace(frames=torch.rand(1, 2, 3, 8, 8)), CLIPS_OF_4, prompts=["a"]
    )
    with pytest.raises(ValueError, match="needs 4 frames, but the clip of function with seed 0 has 2"):
        source.read([0])


@pytest.mark.parametrize("kind", ["tensor", "array", "bytes", "grey"])
def test_videos_in_memory_come_in_every_layout(kind: str) -> None:
    pixels = torch.randint(0, 256, (2, 6, 3, 8, 8), dtype=torch.uint8)
    if kind == "grey":
        pixels = pixels[:, :, :1].expand(-1, -1, 3, -1, -1)
    videos = {
        "tensor": pixels.double() / 255,
        "array": (pixels.movedim(2, -1).numpy() / 255).astype(np.float64),
        "bytes": list(pixels.movedim(2, -1).numpy()),
        "grey": pixels[:, :, :1],
    }[kind]
    source = MemoryClips(videos, CLIPS_OF_4, is_generated=True, fps=8)
    assert torch.equal(torch.stack(source.read([0, 1])), pixels[:, :4])
    assert source.rates == {Fraction(8)}


def test_videos_in_memory_are_not_rounded_before_the_protocol_says_how() -> None:
    source = MemoryClips(
        torch.full((1, 4, 3, 8, 8), 0.5), CLIPS_OF_4.changed(quantisation="truncate"), is_generated=True
    )
    assert source.read([0])[0].unique().tolist() == [127]


def test_bad_videos_in_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="`videos` must hold at least one"):
        MemoryClips([], CLIPS_OF_4, is_generated=True)
    with pytest.raises(ValueError, match="`fps` of the protocol is 8, but the videos in memory have None"):
        MemoryClips(torch.zeros(1, 4, 3, 8, 8), CLIPS_OF_4.changed(fps="8"), is_generated=True)
    uneven = MemoryClips([torch.zeros(4, 3, 8, 8), torch.zeros(5, 3, 8, 8)], CLIPS_OF_4, is_generated=True)
    with pytest.raises(ValueError, match="must all have the 4 frames of the first, but video 1 has 5"):
        uneven.read([1, 0])
