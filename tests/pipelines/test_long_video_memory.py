"""Memory of long videos: it does not grow with their length."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusers_video import AutoencoderKLVideo, LongVideoPipeline
from diffusers_video.pipelines.long_video_stages import LongVideoRun
from diffusers_video.video_io import probe_video

from ..tiny_long_videos import tiny_long
from ..tiny_pipelines import tiny_vae


def live_bytes() -> int:
    """Bytes of all tensors that anything holds."""
    tensors = [one for one in gc.get_objects() if type(one) is Tensor]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


def peak_bytes(pipeline: LongVideoPipeline, num_frames: int, **arguments: object) -> int:
    gc.collect()
    before, peak = live_bytes(), 0
    for number, _ in enumerate(
        pipeline.stream(num_frames=num_frames, generator=torch.Generator().manual_seed(0), **arguments)
    ):
        if number % 128 == 127:
            peak = max(peak, live_bytes() - before)
    return peak


@pytest.mark.parametrize(
    ("output_type", "chunks", "lengths"),
    [
        ("latent", None, (257, 1025)),
        pytest.param("pt", (8, 3), (257, 513), marks=pytest.mark.slow),
        pytest.param("pt", None, (257, 513), marks=pytest.mark.slow),
    ],
)
def test_what_is_held_does_not_grow_with_the_video(
    output_type: str,
    chunks: tuple[int, int] | None,
    lengths: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LongVideoRun, "_predict", lambda *_: torch.randn(1, 4, 3, 8, 8))
    monkeypatch.setattr(
        LongVideoRun, "_interpolate", lambda _, frames, *__: torch.randn(frames.shape[2] - 1, 4, 3, 8, 8)
    )
    vae = tiny_vae()
    if chunks is not None:
        vae = AutoencoderKLVideo.from_autoencoder_kl(vae, decode_chunk_size=chunks[0], decode_chunk_overlap=chunks[1])
    pipeline = tiny_long(vae=vae)
    options = {"output_type": output_type, "num_inference_steps": 1, "interpolation_batch_size": 8}
    short, long = (peak_bytes(pipeline, num_frames, **options) for num_frames in lengths)
    assert 0 < long <= 1.05 * short


MEASURE = """
import resource, sys
import torch
torch.set_num_threads(1)
from diffusers_video import LongVideoPipeline
folder, num_frames, size, out = sys.argv[1:]
pipe = LongVideoPipeline.from_pretrained(folder)
pipe.set_progress_bar_config(disable=True)
options = dict(num_inference_steps=1, height=int(size), width=int(size), generator=torch.Generator().manual_seed(0))
pipe.write(out, num_frames=int(num_frames), work_dir=out + "-run", **options)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("size", "name"), [(16, "frames"), (64, "video.mp4")])
def test_peak_memory_of_1025_frames_is_that_of_65(tmp_path: Path, size: int, name: str) -> None:
    tiny_long().save_pretrained(tmp_path / "model")
    peaks = []
    for num_frames in (65, 1025):
        out = tmp_path / f"{num_frames}-{name}"
        arguments = [tmp_path / "model", num_frames, size, out]
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, *map(str, arguments)],
            capture_output=True,
            check=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        peaks.append(int(result.stdout))
        assert probe_video(out).num_frames == num_frames
    assert peaks[1] <= 1.05 * peaks[0], peaks
