"""Measure everything that the model in the package must show, and print one table of bars and values.

    python examples/shapes/measure.py --work_dir runs/measure

Stopped, the same command goes on; what is finished lies in the work folder, all of it in `results.json`. Prompts and
noise follow from --seed, whose default is kept for this script: choose settings with other seeds.
"""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers_video.embedded import EMBEDDED_FOLDER


CLI = [sys.executable, "-m", "diffusers_video.cli"]
PROMPT = "a red circle moves right"
SEED = 1000
RUNS = {  # arguments of `evaluate shapes`
    "text-to-video": [],
    "true videos": ["--true"],
    "shuffled frames": ["--true", "--shuffled"],
    "independent frames": ["--independent-frames"],
    **{task: ["--task", task] for task in ("key-frames", "interpolation", "super-resolution", "long")},
}
BARS = {  # colour, shape, motion, all three together, of generated videos
    "cpu": (0.97, 0.80, 0.75, 0.60),
    "gpu": (0.97, 0.92, 0.92, 0.85),
}
CHANCE = 1 / 6  # of the motions of the subset
Results = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: a value of some runs, and what it must reach."""

    text: str
    value: Callable[[Results], float]
    runs: tuple[str, ...]
    bar: float
    is_least: bool = True
    unit: str = "%"

    def show(self, number: float) -> str:
        return f"{number:.1%}".replace("%", " %") if self.unit == "%" else f"{number:.2f} {self.unit}"

    def read(self, results: Results) -> dict[str, Any]:
        """The line as it is printed; without a value if a run is missing."""
        line = {"line": self.text, "bar": f"{'>=' if self.is_least else '<='} {self.show(self.bar)}"}
        if not all(run in results for run in self.runs):
            return {**line, "value": None, "shown": "not measured", "met": None}
        value = self.value(results)
        is_met = value >= self.bar if self.is_least else value <= self.bar
        return {**line, "value": value, "shown": self.show(value), "met": bool(is_met)}


def score(text: str, run: str, name: str, bar: float, is_least: bool = True, unit: str = "%") -> Line:
    """A line that is a score of one run."""

    def read(results: Results) -> float:
        return results[run][name]

    return Line(text=text, value=read, runs=(run,), bar=bar, is_least=is_least, unit=unit)


def change(text: str, name: str) -> Line:
    """A line on what temporal layers do to single frames."""
    runs = ("text-to-video", "independent frames")
    return Line(text=text, value=lambda results: results[runs[0]][name] - results[runs[1]][name], runs=runs, bar=-0.01)


def choose_lines(bars: str) -> list[Line]:
    """All lines, with the bars of a model that was trained on a CPU or on a GPU."""
    parts = ("colour", "shape", "motion", "together")
    return [
        *(score(f"generated: {part}", "text-to-video", part, bar)
          for part, bar in zip(parts, BARS[bars], strict=True)),
        *(score(f"true videos: {part}", "true videos", part, 0.99) for part in parts[:3]),
        score("shuffled frames: motion", "shuffled frames", "motion", 0.10, is_least=False),
        score("independent frames: motion", "independent frames", "motion", CHANCE, is_least=False),
        change("single frames with temporal layers less without: colour", "frame_colour"),
        change("single frames with temporal layers less without: shape", "frame_shape"),
        score("key frames from one: colour, shape and motion", "key-frames", "together", 0.90),
        score("interpolation: mean distance from the path", "interpolation", "deviation", 3, False, "pixels"),
        score("interpolation: that of 95 % of the frames", "interpolation", "deviation_95", 3, False, "pixels"),
        score("super-resolution: gain over bicubic", "super-resolution", "gain", 0, True, "dB"),
        score("long videos: object kept throughout", "long", "kept", 0.80),
        score("generate, imports included: time", "command", "seconds", 20, False, "s"),
        score("generate: peak memory", "command", "gigabytes", 1.5, False, "GB"),
        score("weights in the package", "files", "megabytes", 25, False, "MB"),
        score("weights that are those of their model cards", "files", "as_in_cards", 1),
    ]  # fmt: skip


def measure_command(work: Path) -> dict[str, Any]:
    """Seconds and peak memory of `generate` with the model in the package."""
    start = time.monotonic()
    process = subprocess.Popen([*CLI, "generate", PROMPT, "--output", work / "clip.mp4", "--overwrite", "--seed", "0"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"`generate` ended with {process.returncode}.")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of a unit of `ru_maxrss`
    return {"seconds": time.monotonic() - start, "gigabytes": usage.ru_maxrss * unit / 1e9, "cpus": os.cpu_count()}


def measure_files(folder: Path) -> dict[str, Any]:
    """Size of all weights, and the part of them whose hash stands in the README.md of a folder above."""
    files, hashes, known = sorted(folder.rglob("*.safetensors")), {}, 0
    for path in files:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        hashes[str(path.relative_to(folder))] = digest
        cards = [parent / "README.md" for parent in path.parents if parent.is_relative_to(folder)]
        known += any(card.is_file() and re.search(rf"\b{digest}\b", card.read_text("utf-8")) for card in cards)
    size = sum(path.stat().st_size for path in files)
    return {"megabytes": size / 1e6, "as_in_cards": known / max(len(files), 1), "hashes": hashes}


def measure_run(name: str, options: Namespace) -> dict[str, Any]:
    """The scores of one run of `evaluate shapes`."""
    stem = name.replace(" ", "-")
    arguments = [*RUNS[name], "--seed", options.seed, "--records", options.work_dir / f"{stem}.jsonl"]
    arguments += ["--json", options.work_dir / f"{stem}.json"]
    if options.num_videos is not None:
        arguments += ["--num-videos", options.num_videos]
    if "--true" not in arguments:
        if options.steps is not None:
            arguments += ["--steps", options.steps]
        if options.models_dir is not None:
            arguments += ["--model", options.models_dir / (name if "--task" in arguments else "text-to-video")]
    subprocess.run([*CLI, "evaluate", "shapes", *map(str, arguments)], check=True)
    return json.loads((options.work_dir / f"{stem}.json").read_text("utf-8"))


def show_table(lines: list[dict[str, Any]]) -> str:
    """A table in Markdown."""
    rows = ["| line | bar | value | met |", "|---|---|---|---|"]
    words = {True: "yes", False: "no", None: ""}
    return "\n".join([*rows, *(f"| {line['line']} | {line['bar']} | {line['shown']} | {words[line['met']]} |"
                               for line in lines)])  # fmt: skip


def main(options: Namespace) -> None:
    options.work_dir.mkdir(parents=True, exist_ok=True)
    path = options.work_dir / "results.json"
    runs: Results = json.loads(path.read_text("utf-8"))["runs"] if path.exists() else {}
    files = measure_files(options.models_dir or EMBEDDED_FOLDER)
    if runs and runs["files"]["hashes"] != files["hashes"]:
        raise ValueError(f"{path} holds results of other weights. Name another --work_dir.")
    runs["files"] = files
    for name in options.only or [*RUNS, "command"]:
        if name not in runs:
            logging.info(f"{name}:")
            runs[name] = measure_command(options.work_dir) if name == "command" else measure_run(name, options)
        lines = [line.read(runs) for line in choose_lines(options.bars)]
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"lines": lines, "runs": runs}, indent=2) + "\n", "utf-8")
        partial.replace(path)
    print(show_table(lines))


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work_dir", type=Path, default=Path("runs/measure"))
    parser.add_argument(
        "--models_dir", type=Path, help="Folder of a pipeline for each task, by name; else the package's"
    )
    parser.add_argument("--bars", choices=list(BARS), default="cpu", help="Of training on a CPU, or on a GPU")
    parser.add_argument("--only", nargs="+", choices=[*RUNS, "command"], help="Runs, all by default")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--num_videos", type=int, help="Of each run, instead of its default")
    parser.add_argument("--steps", type=int, help="Denoising steps, instead of the defaults")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(parser.parse_args())
