"""Memory of the loader: it does not grow with the number of videos."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffusers_video.video_io import write_video


READ_ALL = """
import resource, sys
from diffusers_video.data.dataset import VideoClipDataset
from diffusers_video.data.planning import plan_clips
from diffusers_video.data.sampler import BucketBatchSampler, build_loader
from diffusers_video.data.settings import PlanSettings
from diffusers_video.data.sources import list_videos
plan = plan_clips(list_videos(sys.argv[1]), PlanSettings(buckets=["128x128@16"], fps=8))
dataset = VideoClipDataset(plan)
loader = build_loader(dataset, BucketBatchSampler(dataset.buckets, 2))
count = sum(len(batch["text"]) for _ in range(400 // len(dataset)) for batch in loader)
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_videos(tmp_path: Path) -> None:
    peaks = {}
    for number in (20, 400):
        folder = tmp_path / str(number)
        folder.mkdir()
        for index in range(number):
            write_video(torch.rand(16, 3, 144, 160), folder / f"{index}.mp4", fps=8)
        run = subprocess.run([sys.executable, "-c", READ_ALL, folder], capture_output=True, text=True, check=True)
        count, peaks[number] = map(int, run.stdout.split())
        assert count == 400  # as many clips are read of both
    assert peaks[400] < 1.05 * peaks[20], peaks
