"""
The Frechet distance of `diffusers_video.metrics` beside scipy's matrix square root, on the same features.

Two sets of random features, with variances that fall off exponentially as those of a trained network do. The distance
alone is timed, from statistics that are there already, in pairs of calls; then the whole way from features. Times are
those of the processor, which depend little on what else the machine does. scipy comes with the extra `test`.

    python examples/benchmarks/frechet.py
    python examples/benchmarks/frechet.py --threads 1 --json frechet.json
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from benchmark_tools import check_json_file, describe_load, describe_run, show, time_pairs, verdict, write_json
from rich.console import Console
from rich.table import Table
from scipy.linalg import sqrtm
from torch import Tensor

from diffusers_video.metrics import FeatureStatistics, frechet_distance


SPEED_BAR = 1 / 3  # of scipy's time
VALUE_BAR = 1e-6  # relative difference
DECAY = 5.0  # natural logarithm of the largest standard deviation by the smallest


def make_features(num_samples: int, num_features: int) -> tuple[Tensor, Tensor]:
    """Draw two sets, of shape (num_samples, num_features), whose means and variances differ a little."""
    generator = torch.Generator().manual_seed(0)
    deviations = torch.linspace(0, -DECAY, num_features, dtype=torch.float64).exp()
    first, second = torch.randn(2, num_samples, num_features, generator=generator, dtype=torch.float64)
    return first * deviations, second * deviations * 1.1 + 0.01


def distance_by_sqrtm(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Compute the distance as StyleGAN-V's code does."""
    root = sqrtm(covariance @ other_covariance).real
    return float(np.square(mean - other_mean).sum() + np.trace(covariance + other_covariance - 2 * root))


def from_features_by_sqrtm(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the distance from features, by numpy and scipy."""
    moments = ((rows.mean(0), np.cov(rows, rowvar=False, ddof=0)) for rows in (first, second))
    return distance_by_sqrtm(*(part for pair in moments for part in pair))


def from_features(first: Tensor, second: Tensor) -> float:
    """Compute the distance from features, by this package."""
    return frechet_distance(FeatureStatistics.from_features(first), FeatureStatistics.from_features(second))


def main(
    num_samples: Annotated[int, typer.Option(min=2, help="Samples of each set.")] = 2048,
    num_features: Annotated[int, typer.Option(min=2, help="Length of a feature vector.")] = 400,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of timed calls.")] = 9,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch; all if not given.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Compare the time and value of two ways to the Frechet distance."""
    check_json_file(json_file)
    if threads is not None:
        torch.set_num_threads(threads)
    features = make_features(num_samples, num_features)
    gathered = [FeatureStatistics.from_features(rows) for rows in features]
    arrays = [part.numpy() for one in gathered for part in (one.mean, one.covariance())]
    calls = {
        "distance": (partial(frechet_distance, *gathered), partial(distance_by_sqrtm, *arrays)),
        "from features": (
            partial(from_features, *features),
            partial(from_features_by_sqrtm, *(rows.numpy() for rows in features)),
        ),
    }
    numbers = {**describe_run(), "num_samples": num_samples, "num_features": num_features, "pairs": pairs}
    table = Table("", "ours, ms", "scipy, ms", "ours / scipy", title=f"Processor time, medians of {pairs} pairs")
    verdicts = []
    for name, (ours, peer) in calls.items():
        times = time_pairs(ours, peer, pairs, time.process_time)
        ratio = statistics.median(first / second for first, second in times)
        medians = [1e3 * statistics.median(column) for column in zip(*times, strict=True)]
        difference = abs(ours() / peer() - 1)
        numbers[name] = {"ms": medians, "ratio": ratio, "relative_difference": difference}
        table.add_row(name, *(f"{median:.1f}" for median in medians), f"{ratio:.3f}")
        same = "holds" if difference <= VALUE_BAR else "MISSED"
        verdicts.append(f"{name}: relative difference of the values {difference:.1e}, bar {VALUE_BAR:.0e}: {same}")
    verdicts.append(verdict("distance: time by scipy's", numbers["distance"]["ratio"], SPEED_BAR))
    console = Console()
    show(console, table, verdicts)
    console.print(describe_load())
    if json_file is not None:
        write_json(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
