"""
Memory of an evaluation of folders of videos, for few and for many clips.

Each number of clips is evaluated in a process of its own, whose peak is compared. What differs is what is kept of
clips. Twice: as processes run, and with an allocator that hands freed memory back at once, because the usual one keeps
some, and more the longer it runs.

    python examples/benchmarks/evaluation_memory.py
    python examples/benchmarks/evaluation_memory.py --few 64 --many 512 --num-resamples 10 --json memory.json
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from benchmark_tools import check_json_file, describe_load, describe_run, show, verdict, write_json
from rich.console import Console
from rich.progress import track
from rich.table import Table

from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.video_io import write_video


NUM_FRAMES, RESOLUTION = 16, 64
CLIP_BYTES = NUM_FRAMES * 3 * RESOLUTION**2
BAR = 0.05  # of what the clips themselves would take
# Settings of glibc: one arena, and whatever is not small is handed back.
RETURNING = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
ALLOCATORS = {"as processes run": {}, "freed memory handed back": RETURNING}
CODE = """
import logging, resource, sys
from diffusers_video import EvaluationSettings, FolderClips, evaluate_videos, find_protocol, random_features

logging.disable()  # a distance of few clips is warned of
protocol = find_protocol("custom", resize="none")
settings = EvaluationSettings(metrics=("frechet_distance",), num_resamples=int(sys.argv[3]))
sets = [FolderClips(path, protocol, is_generated=path == sys.argv[1]) for path in sys.argv[1:3]]
evaluate_videos(*sets, protocol, network=random_features(0, 32), settings=settings)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def make_folder(folder: Path, name: str, num_clips: int) -> Path:
    """Fill a folder with clips: few different ones, under many names."""
    dataset = ShapesDataset(8, num_frames=NUM_FRAMES, height=RESOLUTION, width=RESOLUTION, seed=0)
    originals = [folder / f"{number}.mp4" for number in range(len(dataset))]
    for number, path in enumerate(originals):
        if not path.exists():
            video = dataset[number]["pixel_values"].transpose(0, 1) / 2 + 0.5
            write_video(video.clamp(0, 1), path, dataset.fps)
    (folder / name).mkdir()
    for number in range(num_clips):
        os.link(originals[number % len(originals)], folder / name / f"{number:06}.mp4")
    return folder / name


def measure_peak(generated: Path, reference: Path, num_resamples: int, allocator: dict[str, str]) -> int:
    """Evaluate two folders in a process of its own; its peak in bytes."""
    command = [sys.executable, "-c", CODE, str(generated), str(reference), str(num_resamples)]
    environment = {**os.environ, **allocator}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return 1024 * int(done.stdout.split()[-1])


def measure_growth(
    num_clips: tuple[int, int], num_resamples: int, allocators: dict[str, dict[str, str]]
) -> dict[str, list[int]]:
    """Peaks in bytes for two numbers of generated clips, with as many of the reference as the first, by allocator."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generated = [make_folder(folder, f"of {number}", number) for number in num_clips]
        calls = [(label, path) for label in allocators for path in generated]
        peaks: dict[str, list[int]] = {label: [] for label in allocators}
        for label, path in track(calls, "Processes", console=Console(stderr=True)):
            peaks[label].append(measure_peak(path, generated[0], num_resamples, allocators[label]))
    return peaks


def main(
    few: Annotated[int, typer.Option(min=34, help="Clips of the reference, and of the smaller set.")] = 256,
    many: Annotated[int, typer.Option(min=35, help="Clips of the larger set.")] = 2048,
    num_resamples: Annotated[int, typer.Option(min=0, help="Behind the interval; if any, features are kept.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Compare the memory of evaluations of few and of many clips."""
    check_json_file(json_file)
    if many <= few:
        raise typer.BadParameter(f"`--many` must be more than `--few`={few}, but is {many}.")
    peaks = measure_growth((few, many), num_resamples, ALLOCATORS)
    clips = (many - few) * CLIP_BYTES
    table = Table("allocator", f"{few} clips, MB", f"{many} clips, MB", "growth, MB", "kB per clip", title="Peaks")
    verdicts = []
    for label, (first, second) in peaks.items():
        growth = second - first
        cells = (first / 1e6, second / 1e6, growth / 1e6, growth / (many - few) / 1e3)
        table.add_row(label, *(f"{cell:.1f}" for cell in cells))
        verdicts.append(verdict(f"{label}: growth by the size of the further clips", growth / clips, BAR))
    console = Console()
    show(console, table, [f"the further clips would take {clips / 1e6:.0f} MB as bytes", *verdicts])
    console.print(describe_load())
    if json_file is not None:
        numbers = {"few": few, "many": many, "num_resamples": num_resamples, "clips_bytes": clips, "peaks": peaks}
        write_json(json_file, {**describe_run(), **numbers})


if __name__ == "__main__":
    typer.run(main)
