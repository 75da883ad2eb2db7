"""Inception score from what a classifier says of each sample."""

# Shapes: N samples, K classes.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .statistics import check_features


@dataclass(frozen=True, kw_only=True)
class InceptionScore:
    """
    An inception score and how it was taken.

    Args:
        mean (`float`): Mean over the splits; with one split, the score of the whole set.
        std (`float`): Standard deviation over the splits; 0 with one split.
        ddof (`int`): What was taken off the number of splits in `std`.
        scores (`tuple[float, ...]`): Score of each split.
        num_samples (`int`): Samples in all splits together.
        shuffle_seed (`int`, *optional*): How samples were shuffled before splitting; not at all if `None`.
    """

    mean: float
    std: float
    ddof: int
    scores: tuple[float, ...]
    num_samples: int
    shuffle_seed: int | None


def video_inception_score(
    logits: Tensor | None = None,
    probabilities: Tensor | None = None,
    num_splits: int = 1,
    shuffle_seed: int | None = None,
    ddof: int = 0,
) -> InceptionScore:
    """
    Compute `exp(mean_i KL(p_i || mean_i p_i))`, over the whole set or over splits of it.

    The score grows with the size of a split, up to a bound: scores of different sizes cannot be compared.

    Args:
        logits (`torch.Tensor` of shape `(num_samples, num_classes)`, *optional*): What the classifier gives before its
            softmax. Exact for any confidence, so to be preferred to probabilities.
        probabilities (`torch.Tensor` of shape `(num_samples, num_classes)`, *optional*): Its softmax instead; zeros
            are taken for what they are. Exactly one of both is given.
        num_splits (`int`, *optional*, defaults to 1): Parts in a row that are scored on their own, at least 1 and at
            most `num_samples`; their sizes differ by at most one. StyleGAN-V takes 10 of 2048 samples, TGANv2 one.
        shuffle_seed (`int`, *optional*): Shuffle the samples before as `numpy.random.RandomState(seed).shuffle` does;
            StyleGAN-V's is 42. Samples are left in their order if not given.
        ddof (`int`, *optional*, defaults to 0): 0 divides the squared deviations of the splits by their number, as
            StyleGAN-V does, 1 by one less.

    Returns:
        [`InceptionScore`]

    Raises:
        TypeError: If the values are not a tensor of real numbers.
        ValueError: If not exactly one input is given, it holds NaN, infinite or, for probabilities, negative values or
            rows that do not add up to 1, or `num_splits` or `ddof` does not fit.

    Source:
        Improved Techniques for Training GANs (arXiv:1606.03498), Section 4; splits as StyleGAN-V (arXiv:2112.14683).
    """
    if (logits is None) == (probabilities is None):
        raise ValueError("Exactly one of `logits` and `probabilities` must be given.")
    if logits is not None:
        log_NK = torch.log_softmax(check_features(logits, argument="logits"), dim=1)
        rows_NK = log_NK.exp()
    else:
        rows_NK = _check_probabilities(probabilities)
        log_NK = rows_NK.clamp(
            min=torch.finfo(torch.float64).tiny
        ).log()  # where it counts 0 times, any number will do
    num_samples = len(rows_NK)
    if not 1 <= num_splits <= num_samples:
        raise ValueError(f"`num_splits` must be between 1 and {num_samples}, the samples, but is {num_splits}.")
    if ddof not in (0, 1):
        raise ValueError(f"`ddof` must be 0 or 1, but is {ddof!r}.")
    order = _shuffled(num_samples, shuffle_seed)
    edges = [split * num_samples // num_splits for split in range(num_splits + 1)]
    splits = [order[start:stop] for start, stop in zip(edges[:-1], edges[1:], strict=True)]
    scores = [_score(rows_NK[rows], log_NK[rows]) for rows in splits]
    return InceptionScore(
        mean=float(np.mean(scores)),
        std=float(np.std(scores, ddof=ddof)) if num_splits > 1 else 0.0,
        ddof=ddof,
        scores=tuple(scores),
        num_samples=num_samples,
        shuffle_seed=shuffle_seed,
    )


def _score(rows_NK: Tensor, log_NK: Tensor) -> float:
    log_mean_K = rows_NK.mean(0).clamp(min=torch.finfo(torch.float64).tiny).log()
    return (rows_NK * (log_NK - log_mean_K)).sum(1).mean().exp().item()


def _shuffled(num_samples: int, seed: int | None) -> Tensor:
    order = np.arange(num_samples)
    if seed is not None:
        np.random.RandomState(seed).shuffle(order)
    return torch.from_numpy(order)


def _check_probabilities(probabilities: Tensor) -> Tensor:
    rows_NK = check_features(probabilities, argument="probabilities")
    wrong = ((rows_NK.sum(1) - 1).abs() > 1e-3) | (rows_NK < 0).any(1)
    if wrong.any():
        row = wrong.nonzero()[0].item()
        raise ValueError(
            f"`probabilities` must be at least 0 and add up to 1 in each row, but row {row} adds up to"
            f" {rows_NK[row].sum().item():.6g} with a least value of {rows_NK[row].min().item():.6g}. Give values"
            " before the softmax as `logits`."
        )
    return rows_NK
