"""Tables and plot of the ablation, from its numbers."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ablation_variants import VARIANTS, YARDSTICK

from diffusers_video.metrics.shapes_scores import NORMAL_95, wilson_interval


PARTS = ("colour", "shape", "motion", "together", "kept")
BUDGETS = {"updates": "Equal updates", "time": "Equal processor time"}
EXPLANATION = """\
Temporal layers of several kinds, trained in one frozen image model by the package's own loop, on the same clips in the
same order, with the same noise. Written by `examples/benchmarks/ablation.py`.

- Cost: a call is the denoiser on one clip; an update is that of the training loop, in seconds of processor time, the
  median of updates that ran in turn; its peak of memory leaves out weights and the state of the optimizer.
- Held-out loss: mean error of the averaged weights on {clips} clips at {timesteps} fixed timesteps each, with fixed
  noise. Differences are taken clip by clip; behind the +- stands half of their 95 % interval, as that of clips drawn
  anew: it leaves out what another seed of the training would change.
- Motion word: {word_clips} true clips, noisy to {word_timestep:g} of the schedule: those that are denoised best with
  their own motion in the caption, out of {motions} motions; {chance:.0%} is chance.
- Colour, shape, motion, together, kept: {videos} drawn videos ({steps} steps, guidance {guidance:g}) under the checker
  of `diffusers-video evaluate shapes`; kept is an object that stays what it is. Roughness: how far its path bends from
  frame to frame, as a part of the side.
- In brackets stand 95 % intervals (Wilson). {seeds}
"""


def paired_difference(errors: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """
    By how much errors on the same clips differ.

    Args:
        errors (`numpy.ndarray` of shape `(clips,)`): Errors of one model.
        others (`numpy.ndarray` of the same shape): Those of another.

    Returns:
        `tuple[float, float]`: Mean difference, and half of its 95 % interval; that of one clip is infinite.
    """
    differences = errors - others
    if len(differences) < 2:
        return float(differences.mean()), math.inf
    return float(differences.mean()), float(NORMAL_95 * differences.std(ddof=1) / math.sqrt(len(differences)))


def clip_errors(runs: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """
    Average the errors of a variant over timesteps and seeds.

    Args:
        runs (`Sequence[Mapping[str, Any]]`): Numbers of its runs, one for each seed.

    Returns:
        `numpy.ndarray` of shape `(clips,)`.
    """
    return np.mean([np.mean(run["errors"], axis=1) for run in runs], axis=0)


def rate_of(runs: Sequence[Mapping[str, Any]], part: str) -> tuple[float, int] | None:
    """
    Bring the rates of a variant's runs together.

    Args:
        runs (`Sequence[Mapping[str, Any]]`): Numbers of its runs, one for each seed.
        part (`str`): One of `PARTS`, or `"words"`.

    Returns:
        `tuple[float, int]`: The rate, and how many clips it was taken from; `None` where no videos were drawn.
    """
    if part == "words":
        words = [right for run in runs for right in run["words"]]
        return statistics.fmean(words), len(words)
    scores = [run["scores"] for run in runs if run["scores"] is not None]
    if not scores:
        return None
    return statistics.fmean(score[part] for score in scores), sum(score["num_clips"] for score in scores)


def cost_table(numbers: Mapping[str, Any]) -> list[str]:
    """
    Lay out what the variants cost.

    Args:
        numbers (`Mapping[str, Any]`): What the ablation measured.

    Returns:
        `list[str]`: Lines of Markdown.
    """
    costs, reference = numbers["costs"], numbers["reference"]
    first = costs.get(YARDSTICK)
    lines = [
        "| | layers | weights that train | GFLOPs of a call | over the image model |"
        f" s per update | over {reference} | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        over = f"{cost['flops'] / first['flops']:.2f}" if first else ""
        timed = ("", "", "")
        if "seconds" in cost:
            ratio = cost["seconds"] / costs[reference]["seconds"]
            timed = (f"{cost['seconds']:.3f}", f"{ratio:.2f}", f"{cost['peak_bytes'] / 2**20:.0f}")
        cells = (name, VARIANTS[name].what, f"{cost['trained']:,}", f"{cost['flops'] / 1e9:.2f}", over, *timed)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def quality_table(runs: Mapping[str, Sequence[Mapping[str, Any]]], reference: str) -> list[str]:
    """
    Lay out what the variants learned within one kind of budget.

    Args:
        runs (`Mapping[str, Sequence[Mapping[str, Any]]]`): For each variant the numbers of its runs.
        reference (`str`): The variant that losses are compared with.

    Returns:
        `list[str]`: Lines of Markdown.
    """
    names = ("motion word", *PARTS)
    lines = [
        f"| | updates | held-out loss | minus that of {reference} | {' | '.join(names)} | roughness |",
        "|---|---|---|---|" + "---|" * (len(names) + 1),
    ]
    for name, one in runs.items():
        errors = clip_errors(one)
        difference = (
            "" if name == reference else _show_difference(*paired_difference(errors, clip_errors(runs[reference])))
        )
        rates = [_show_rate(rate_of(one, part)) for part in ("words", *PARTS)]
        roughness = _show_roughness([run["scores"]["roughness"] for run in one if run["scores"] is not None])
        cells = (name, str(one[0]["updates"]), _show_loss(one), difference, *rates, roughness)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def compare_presets(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """
    Say which preset has the lowest held-out loss, and how far behind the others are.

    Args:
        runs (`Mapping[str, Sequence[Mapping[str, Any]]]`): For each variant the numbers of its runs.

    Returns:
        `str`: One sentence; empty where there are no two presets.
    """
    errors = {name: clip_errors(one) for name, one in runs.items() if VARIANTS[name].is_preset}
    if len(errors) < 2:
        return ""
    first, *others = sorted(errors, key=lambda name: errors[name].mean())
    behind = [f"{name} {_show_difference(*paired_difference(errors[name], errors[first]))}" for name in others]
    return f"Presets: {first} has the lowest loss; behind it {', '.join(behind)}."


def render_report(numbers: Mapping[str, Any], plot: str | None = None) -> str:
    """
    Write the report.

    Args:
        numbers (`Mapping[str, Any]`): What the ablation measured.
        plot (`str`, *optional*): File name of the plot.

    Returns:
        `str`: Markdown.
    """
    settings = numbers["settings"]
    seeds = settings["seeds"]
    text = (
        "Numbers are of one seed." if seeds == 1 else f"Numbers are means over {seeds} seeds; in braces their losses."
    )
    head = EXPLANATION.format(**{**settings, "seeds": text, "chance": 1 / settings["motions"]})
    lines = ["# Which temporal layers", "", head]
    if plot is not None:
        lines += [f"![Held-out loss over the time of an update]({plot})", ""]
    lines += ["## Cost", "", *cost_table(numbers), ""]
    for budget, title in BUDGETS.items():
        runs = numbers["runs"][budget]
        sentence = compare_presets(runs)
        lines += [
            f"## {title}",
            "",
            *quality_table(runs, numbers["reference"]),
            "",
            *([sentence, ""] if sentence else []),
        ]
    trained = "batches of {train_batch_size}, learning rate {learning_rate:g}, {lr_scheduler}".format(**settings)
    versions = f"torch {numbers['torch']}, diffusers {numbers['diffusers']}, threads: {numbers['threads']}"
    return "\n".join([*lines, f"Training: {trained}. {versions}.", ""])


def plot_losses(numbers: Mapping[str, Any], path: Path) -> None:
    """
    Plot held-out losses over the time of an update.

    Args:
        numbers (`Mapping[str, Any]`): What the ablation measured.
        path (`Path`): The picture; its suffix says which format.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('The plot needs matplotlib: `pip install -c constraints.txt -e ".[docs]"`.') from error
    from matplotlib.figure import Figure

    reference, costs = numbers["reference"], numbers["costs"]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (budget, title) in zip(figure.subplots(1, 2, sharey=True), BUDGETS.items(), strict=True):
        runs = {name: one for name, one in numbers["runs"][budget].items() if "seconds" in costs[name]}
        middle = clip_errors(runs[reference])
        for name, one in runs.items():
            errors = clip_errors(one)
            half = paired_difference(errors, middle)[1]
            place = (costs[name]["seconds"] / costs[reference]["seconds"], float(errors.mean()))
            colour = "tab:blue" if VARIANTS[name].is_preset else "tab:gray"
            axes.errorbar(*place, yerr=half if math.isfinite(half) else None, fmt="o", color=colour, capsize=3)
            axes.annotate(name, place, textcoords="offset points", xytext=(6, 4), fontsize=8)
        axes.set(title=title, xlabel=f"time of an update, over {reference}")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("held-out loss")
    with matplotlib.rc_context({"svg.hashsalt": "ablation"}):  # so that equal numbers give an equal file
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _show_loss(runs: Sequence[Mapping[str, Any]]) -> str:
    each = [float(np.mean(run["errors"])) for run in runs]
    seeds = f" {{{', '.join(f'{loss:.4f}' for loss in each)}}}" if len(each) > 1 else ""
    return f"{statistics.fmean(each):.4f}{seeds}"


def _show_difference(mean: float, half: float) -> str:
    return f"{mean:+.4f}" + (f" +- {half:.4f}" if math.isfinite(half) else "")


def _show_rate(rate: tuple[float, int] | None) -> str:
    if rate is None:
        return ""
    low, high = wilson_interval(*rate)
    return f"{rate[0]:.0%} ({100 * low:.0f}-{100 * high:.0f})"


def _show_roughness(values: Sequence[float | None]) -> str:
    seen = [value for value in values if value is not None]
    return f"{statistics.fmean(seen):.4f}" if seen else "no object seen" if values else ""
