"""Run the commands of a recipe one after the other: skip what is finished, go on with the rest, keep the costs."""

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType


HERE = Path(__file__).parent
CLI = [sys.executable, "-m", "diffusers_video.cli"]
COSTS = "costs.json"


def read_costs(work: Path) -> dict[str, dict[str, float]]:
    """What commands cost so far, by name; nothing of those that ran before this was kept."""
    path = work / COSTS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def add_cost(work: Path, name: str, seconds: float, cpu_seconds: float, peak_mib: float) -> dict[str, float]:
    """Add a run to the costs of its command: times add up over resumed runs, of the memory the highest counts."""
    costs = read_costs(work)
    former = costs.get(name, {"seconds": 0.0, "cpu_seconds": 0.0, "peak_mib": 0.0, "runs": 0})
    costs[name] = {
        "seconds": round(former["seconds"] + seconds, 1),
        "cpu_seconds": round(former["cpu_seconds"] + cpu_seconds, 1),
        "peak_mib": round(max(former["peak_mib"], peak_mib)),
        "runs": former["runs"] + 1,
    }
    unfinished = work / f".{COSTS}.partial"
    unfinished.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, work / COSTS)
    return costs[name]


def wait_for(command: Sequence[str]) -> tuple[int, float, float]:
    """Run a command and hand it signals on, so that it saves what it has; exit status, CPU seconds and peak MiB."""
    process = subprocess.Popen(command)

    def hand_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    former = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _, status, usage = os.wait4(process.pid, 0)  # with all processes that the command started
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit


class Recipe:
    """Stages in a work folder, each of which is finished when the file that it writes last is there."""

    def __init__(self, work: Path, quick: bool = False, subset: dict[str, list[str]] | None = None) -> None:
        self.work, self.quick = work, quick
        self.few = ["--max_train_steps", "2"] if quick else []
        self.subset = json.dumps(subset or {})

    def run(self, name: str, done: Path, command: Sequence[str | Path]) -> None:
        """Run a command unless it is finished; say and keep what it cost."""
        if done.exists():
            logging.info(f"{name}: there already")
            return
        command = list(map(str, command))
        logging.info(f"{name}: {shlex.join(command)}")
        self.work.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        status, cpu_seconds, peak_mib = self.wait_for(command)
        cost = add_cost(self.work, name, time.monotonic() - start, cpu_seconds, peak_mib)
        told = "{seconds:.0f} s, {cpu_seconds:.0f} s of CPU time, {peak_mib} MiB at most, in {runs} run(s)"
        logging.info(f"{name}: {told.format(**cost)}")
        if status:
            raise SystemExit(f"{name}: ended with status {status}. The same command goes on from what is finished.")

    def wait_for(self, command: Sequence[str]) -> tuple[int, float, float]:
        """See [`wait_for`]; for recipes that wait otherwise."""
        return wait_for(command)

    def train(self, name: str, script: str, last: str, *arguments: str | Path) -> None:
        """Train a stage with the settings of its YAML file, from its last checkpoint if there is one."""
        out = self.work / name
        settings = [HERE / f"{name}.yaml", *arguments, "--output_dir", out, *self.few]
        if any(out.glob("checkpoint-*")):
            settings += ["--resume_from_checkpoint", "latest"]
        self.run(name, out / last, [*CLI, "train", "--script", script, *settings])

    def pack(self, name: str, model: Path, clips: int, *arguments: str, heldout: int = 64) -> list[str | Path]:
        """Encode clips to train on and others to hold out, once; the arguments of a training that name them."""
        sets, numbers = [], (32, 4) if self.quick else (clips, heldout)
        for seed, (part, number) in enumerate(zip(("clips", "heldout"), numbers, strict=True)):
            out = self.work / f"{name}_{part}"
            shapes = ["--num-shapes-clips", str(number), "--shapes-options", self.subset, "--seed", str(seed)]
            command = [*CLI, "data", "pack", "shapes", out, "--model", model, *shapes, *arguments]
            self.run(f"{name} {part}", out / "index.json", command)
            sets.append(out)
        return ["--train_data_dir", sets[0], "--heldout_data_dir", sets[1]]

    def find(self, stage: str, last: str = "model_index.json") -> Path:
        """The folder of a stage that another one starts from."""
        if not (self.work / stage / last).exists():
            raise SystemExit(f"The stage {stage} must be finished first, but {self.work / stage} holds no {last}.")
        return self.work / stage
