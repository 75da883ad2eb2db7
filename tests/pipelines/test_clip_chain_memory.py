"""Memory of videos drawn clip after clip: 128 frames take no more than 16."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor

from diffusers_video import AutoencoderTriplane, PairedDDIMScheduler, UnconditionalVideoPipeline, UNetTriplaneModel
from diffusers_video.video_io import probe_video

from ..tiny_triplane import tiny_autoencoder_triplane, tiny_unet_triplane


def live_bytes() -> int:
    """Bytes of all tensors that anything holds."""
    tensors = [one for one in gc.get_objects() if type(one) is Tensor]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


@pytest.mark.slow
def test_what_is_held_does_not_grow_with_the_video() -> None:
    pipe = UnconditionalVideoPipeline(
        tiny_unet_triplane(), PairedDDIMScheduler(), tiny_autoencoder_triplane(), num_frames=2
    )
    pipe.set_progress_bar_config(disable=True)
    held = []
    for num_frames in (4, 16):
        for number, _ in enumerate(pipe.stream(num_frames=num_frames, num_inference_steps=1, output_type="pt")):
            if number == num_frames - 1:
                gc.collect()
                held.append(live_bytes())
    assert held[1] <= held[0] + 1024  # a clip has 2,304 bytes


MEASURE = """
import resource, sys
import torch
torch.set_num_threads(1)
import diffusers_video
kind, folder, num_frames, out = sys.argv[1:]
pipe = getattr(diffusers_video, kind).from_pretrained(folder)
pipe.set_progress_bar_config(disable=True)
pipe(num_frames=16, num_inference_steps=1, output_type="pt")
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
options = {"work_dir": out + "-run"} if kind == "LongVideoPipeline" else {}
pipe.write(
    out, num_frames=int(num_frames), num_inference_steps=1, generator=torch.Generator().manual_seed(0), **options
)
print(loaded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["UnconditionalVideoPipeline", "LongVideoPipeline"])
def test_peak_memory_of_128_frames_is_that_of_16(kind: str, tmp_path: Path) -> None:
    vae = AutoencoderTriplane(hidden_size=64, sample_size=128, num_layers=2, plane_num_layers=1, num_attention_heads=2)
    unet = UNetTriplaneModel(
        sample_size=16, block_out_channels=(32, 64), plane_attention=(True, True), norm_num_groups=8
    )
    UnconditionalVideoPipeline(unet, PairedDDIMScheduler(), vae, num_frames=16).save_pretrained(tmp_path / "model")
    peaks = {}
    for num_frames in (16, 128):  # into images: the encoder of an mp4 holds frames back
        arguments = [kind, str(tmp_path / "model"), str(num_frames), str(tmp_path / f"{num_frames}")]
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        peaks[num_frames] = [int(number) for number in result.stdout.split()]
        assert probe_video(tmp_path / f"{num_frames}").num_frames == num_frames
    assert peaks[128][1] <= 1.05 * peaks[16][1], peaks
