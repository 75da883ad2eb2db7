"""What the benchmarks share: clips, times and memory of calls on the CPU, and how numbers are shown and written."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode


# Shapes: B videos, C channels, F frames, H height, W width, L text tokens, D text width.

NUM_TOKENS = 77


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Size of the clip that every network is given."""

    num_frames: int = 16
    latent_size: int = 16
    text_dim: int = 768

    def make(self) -> tuple[Tensor, Tensor]:
        """Return noise of shape (1, 4, F, H, W) and text of shape (1, L, D)."""
        generator = torch.Generator().manual_seed(0)
        sample = torch.randn(1, 4, self.num_frames, self.latent_size, self.latent_size, generator=generator)
        return sample, torch.randn(1, NUM_TOKENS, self.text_dim, generator=generator)


def repeat_text(text: Tensor, sample: Tensor) -> Tensor:
    """Give every frame the text of its video, for networks that want it so."""
    return text.repeat_interleave(sample.shape[2], dim=0)


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """
    Count the floating point operations of what runs inside.

    PyTorch's counter has no formula for the CPU's fused attention and would count it as nothing: the unfused is taken.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def time_pairs(
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    pairs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """
    Time two calls in turn, so that whatever slows the machine down slows both.

    Args:
        ours (`Callable`): First call of each pair.
        peer (`Callable`): Second call of each pair.
        pairs (`int`): Number of pairs; one more pair is run before and not counted.
        clock (`Callable`, *optional*, defaults to `time.perf_counter`): `time.process_time` counts what processors
            did, which on a busy machine is steadier.

    Returns:
        `list[tuple[float, float]]`: Seconds of both calls, for each pair.
    """
    return [(_seconds(ours, clock), _seconds(peer, clock)) for _ in range(pairs + 1)][1:]


def _seconds(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def peak_bytes(call: Callable[[], Any]) -> int:
    """
    Measure how far the memory that PyTorch holds on the CPU rises during a call.

    Args:
        call (`Callable`): What to measure; what is allocated before it, such as weights, does not count.

    Returns:
        `int`: Peak of the allocated bytes, those inside operators included.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    allocated = peak = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        allocated += event["args"]["Bytes"]
        peak = max(peak, allocated)
    return peak


def verdict(what: str, value: float, bar: float) -> str:
    """Say whether a number is at most its bar."""
    return f"{what}: {value:.3f}, bar {bar:.2f}: {'holds' if value <= bar else 'MISSED'}"


def show(console: Console, table: Table, verdicts: Sequence[str]) -> None:
    """Print a table and, below it, a line for every bar."""
    console.print(table)
    for verdict in verdicts:
        console.print(verdict, highlight=False, markup=False, soft_wrap=True)


def write_json(path: Path, numbers: dict[str, Any]) -> None:
    """Write the numbers to a temporary file beside `path`, then move it into place."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def check_json_file(json_file: Path | None) -> None:
    """Refuse a file in a folder that does not exist, before anything is measured."""
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(
            f"`--json` must name a file in an existing folder, but {str(json_file.parent)!r} is none. Make it first."
        )


def describe_run() -> dict[str, Any]:
    """Return what a measurement depends on: versions, threads and what else the machine does."""
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    return {**versions, "threads": torch.get_num_threads(), "load_average": os.getloadavg()}


def describe_load() -> str:
    """Say how many threads ran, and how busy the machine is."""
    return f"{torch.get_num_threads()} threads; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
