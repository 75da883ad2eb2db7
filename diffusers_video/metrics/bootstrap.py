"""Intervals for scores, by drawing samples again."""

# Shapes: N samples.

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BootstrapInterval:
    """
    A score and how far it would move if other samples had been drawn.

    Args:
        estimate (`float`): The score of the samples.
        low (`float`): Lower end of the interval.
        high (`float`): Upper end.
        standard_error (`float`): Standard deviation of the scores of the resamples.
        bias (`float`): Mean of these scores minus `estimate`. For distances it is above 0: rows that are drawn twice
            move a set away from the other as few samples do.
        confidence (`float`): What part of such intervals is meant to hold the mean of the score over sets of this
            size.
        num_resamples (`int`): Resamples drawn.
        seed (`int`): What they were drawn by.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    bias: float
    confidence: float
    num_resamples: int
    seed: int


def bootstrap_interval(
    measure: Callable[..., float],
    *samples: Tensor,
    num_resamples: int = 100,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> BootstrapInterval:
    """
    Estimate how a score varies: it is computed again for rows drawn with replacement, from each set on its own.

    The interval is that between quantiles of the scores of the resamples, moved so that their mean falls on the
    estimate. Without that it need not hold the estimate: distances of resamples are larger, see
    [`BootstrapInterval`]. It speaks of sampling alone, not of the bias that a distance of few samples has.

    Args:
        measure (`Callable`): Takes as many tensors as `samples` holds, returns the score.
        samples (`torch.Tensor` of shape `(num_samples, ...)`): Sets of independent samples, such as features or a
            score of each video, at least 2 in each. Frames of one video are not independent: give one row per video.
        num_resamples (`int`, *optional*, defaults to 100): At least 2.
        confidence (`float`, *optional*, defaults to 0.95): In (0, 1).
        seed (`int`, *optional*, defaults to 0): Draws the resamples.
        progress (`Callable`, *optional*): Wraps the iterable of resamples, as `tqdm` does.

    Returns:
        [`BootstrapInterval`]

    Raises:
        ValueError: If there are no samples, fewer than 2 in a set, or a number is out of range.

    Source:
        Efron, Tibshirani: An Introduction to the Bootstrap (1993), Chapters 6, 10 and 13; the shift is ours.
    """
    if not samples or min(len(rows) for rows in samples) < 2:
        raise ValueError(
            f"`samples` must be at least one set of at least 2 rows each, but have {[len(rows) for rows in samples]}."
        )
    if num_resamples < 2 or not 0 < confidence < 1:
        raise ValueError(
            "`num_resamples` must be at least 2 and `confidence` between 0 and 1, but are"
            f" {num_resamples} and {confidence}."
        )
    generator = torch.Generator().manual_seed(seed)
    estimate = float(measure(*samples))
    scores = []
    for _ in range(num_resamples) if progress is None else progress(range(num_resamples)):
        drawn = [torch.randint(len(rows), (len(rows),), generator=generator) for rows in samples]
        scores.append(float(measure(*(rows[index] for rows, index in zip(samples, drawn, strict=True)))))
    bias = float(np.mean(scores)) - estimate
    low, high = np.quantile(scores, [(1 - confidence) / 2, (1 + confidence) / 2]) - bias
    return BootstrapInterval(
        estimate=estimate,
        low=float(low),
        high=float(high),
        standard_error=float(np.std(scores, ddof=1)),
        bias=bias,
        confidence=confidence,
        num_resamples=num_resamples,
        seed=seed,
    )
