"""Memory of an evaluation: slow, because it takes hundreds of videos to see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_video.video_io import write_video

from ..video_files import moving_frames


CODE = """
import json, resource, sys
from pathlib import Path
from diffusers_video import EvaluationSettings, FolderClips, evaluate_videos, find_protocol, random_features

folder, protocol = Path(sys.argv[1]), find_protocol("custom", resize="none")
settings = EvaluationSettings(metrics=("frechet_distance",), num_resamples=int(sys.argv[2]))
peaks = []
for name in ("few", "few", "many"):  # the first one fills what allocators keep
    sets = [FolderClips(folder / name, protocol, is_generated=side) for side in (True, False)]
    evaluate_videos(*sets, protocol, network=random_features(0, 32), settings=settings)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps(peaks))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads peaks of memory in the unit of Linux")
@pytest.mark.parametrize("num_resamples", [0, 2])
def test_clips_are_not_kept_in_memory(tmp_path: Path, num_resamples: int) -> None:
    originals = [tmp_path / f"{number}.mp4" for number in range(8)]
    for number, path in enumerate(originals):
        write_video(moving_frames(16, 64, 64).roll(5 * number, dims=-1), path, 8)
    for name, count in (("few", 64), ("many", 512)):
        (tmp_path / name).mkdir()
        for number in range(count):
            os.link(originals[number % 8], tmp_path / name / f"{number:03}.mp4")
    command = [sys.executable, "-c", CODE, str(tmp_path), str(num_resamples)]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    _, few, many = json.loads(output.splitlines()[-1])
    # 448 more clips in each set would take 88 MB as bytes, 352 MB as float32; their features take 57 kB. In four runs
    # the process grew by 10 to 23 MB.
    assert many - few < 32 * 1024
