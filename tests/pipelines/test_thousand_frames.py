"""1,060 frames by LVDM's hierarchy, all of them decoded: the paper's counts, and memory that does not grow."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from diffusers_video import FrameInterpolationPipeline, KeyFramePredictionPipeline, LongVideoPipeline
from diffusers_video.pipelines.memory import LiveBytes
from diffusers_video.video_io import probe_video

from ..tiny_unconditional import tiny_autoencoder_kl_3d, tiny_unconditional


LENGTHS = (356, 1060)  # frames; of the shorter one 23 keys, 22 gaps
# So that glibc gives back what is freed: its holes between live blocks are no memory of the pipeline.
STEADY = {"MALLOC_MMAP_THRESHOLD_": "65536"}
OPTIONS = {
    "num_passes": 1,
    "num_context_frames": 1,
    "interpolation_batch_size": 2,
    "num_inference_steps": 1,
    "context_guidance_scale": 1.0,
}


def make_hierarchy() -> LongVideoPipeline:
    """LVDM at tiny width: 4 frames, 8 by 8 pixels for each latent, windows of 4 key latents, and of 5 between two."""
    parts = tiny_unconditional("video", use_frame_mask=True, num_noise_levels=11).components
    sizes = {"block_out_channels": (4, 8, 8, 8), "downsample_factors": (4, 8, 8), "sample_size": 64}
    parts |= {"text_encoder": None, "tokenizer": None, "vae": tiny_autoencoder_kl_3d(**sizes, decode_chunk_size=8)}
    stages = [
        KeyFramePredictionPipeline(**parts, num_frames=16, fps=2.0, max_noise_level=10),
        FrameInterpolationPipeline(**parts, num_frames=20, max_noise_level=10),
    ]
    pipeline = LongVideoPipeline.from_pipelines(*stages, num_frames=1060)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.slow
def test_keys_gaps_and_frames_are_counted_and_what_is_held_does_not_grow() -> None:
    pipeline, peaks, drawn = make_hierarchy(), [], {}
    for num_frames in LENGTHS:
        windows, rows = Counter(), Counter()

        def count(stage: DiffusionPipeline, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
            windows[type(stage).__name__] += 1  # noqa: B023
            rows[type(stage).__name__] += len(tensors["latents"])  # noqa: B023
            return {}

        generator = torch.Generator().manual_seed(0)
        with LiveBytes([*pipeline.unet.parameters(), *pipeline.interpolation_unet.parameters()]) as memory:
            frames = pipeline.stream(
                num_frames=num_frames, output_type="pt", generator=generator, callback_on_step_end=count, **OPTIONS
            )
            shapes = Counter(tuple(frame.shape) for frame in frames)
        assert shapes == {(3, 64, 64): num_frames}
        drawn[num_frames] = (windows, rows["FrameInterpolationPipeline"])
        peaks.append(memory.peak)
    # 265 latents of 1,060 frames are 67 keys, of a first window and 21 that go on from it, and 66 gaps.
    assert drawn[1060] == ({"KeyFramePredictionPipeline": 22, "FrameInterpolationPipeline": 33}, 66)
    assert drawn[356] == ({"KeyFramePredictionPipeline": 8, "FrameInterpolationPipeline": 11}, 22)
    assert peaks[1] <= 1.01 * peaks[0], peaks


MEASURE = """
import resource, sys, time
import torch
torch.set_num_threads(1)
from diffusers_video import LongVideoPipeline
folder, num_frames, out, options = sys.argv[1:]
pipe = LongVideoPipeline.from_pretrained(folder)
pipe.set_progress_bar_config(disable=True)
start = time.perf_counter()
generator = torch.Generator().manual_seed(0)
pipe.write(out, num_frames=int(num_frames), work_dir=out + "-run", generator=generator, **eval(options))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter() - start)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frames", "video.mp4"])
def test_peak_memory_of_1060_frames_is_that_of_a_third(name: str, tmp_path: Path) -> None:
    make_hierarchy().save_pretrained(tmp_path / "model")
    peaks = []
    for num_frames in LENGTHS:
        out = tmp_path / f"{num_frames}-{name}"
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, *map(str, (tmp_path / "model", num_frames, out, OPTIONS))],
            capture_output=True,
            check=True,
            cwd=tmp_path,
            env={**os.environ, **STEADY, "OMP_NUM_THREADS": "1"},
        )
        peaks.append(float(result.stdout.split()[0]))
        assert probe_video(out).num_frames == num_frames
    assert len(list((tmp_path / f"1060-{name}-run").glob("prediction-*"))) == 22
    assert peaks[1] <= 1.02 * peaks[0], peaks  # the further 704 frames would be 35 MB, a twentieth
