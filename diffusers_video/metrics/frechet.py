"""Frechet distance between two sets of features, and what a small number of samples does to it."""

# Shapes: D features; K, L ranks of two covariances.

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.utils import logging
from torch import Tensor

from .statistics import FeatureStatistics, check_features


logger = logging.get_logger(__name__)

Moments = tuple[Tensor, Tensor]  # mean (D,) and covariance (D, D)

EPSILON = torch.finfo(torch.float64).eps
_FAST_FORM_LIMIT = 1e-8  # largest bound on the rounding error of the fast form, as a part of the traces
_SMALL_BIAS = 0.1  # an expected bias of at most this part of the distance is not worth a warning
DEFAULT_FRACTIONS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


@dataclass(frozen=True, kw_only=True)
class FrechetMeasurement:
    """
    A Frechet distance and what it depends on.

    Args:
        distance (`float`): As [`frechet_distance`] gives it.
        num_samples (`tuple[int, int]`): Samples of both sets.
        num_features (`int`): Length of a feature vector.
        ddof (`int`): Convention of the covariance.
        expected_bias (`float`): As [`frechet_bias`] gives it.
    """

    distance: float
    num_samples: tuple[int, int]
    num_features: int
    ddof: int
    expected_bias: float


@dataclass(frozen=True, kw_only=True)
class FrechetExtrapolation:
    """
    Frechet distances of parts of two sets, and the line through them.

    Args:
        limit (`float`): Where the line meets infinitely many samples.
        slope (`float`): How much `1 / fraction` adds: about the bias of the whole sets.
        fractions (`tuple[float, ...]`): Parts of both sets.
        distances (`tuple[float, ...]`): Their distances.
    """

    limit: float
    slope: float
    fractions: tuple[float, ...]
    distances: tuple[float, ...]


def frechet_distance(first: FeatureStatistics | Moments, second: FeatureStatistics | Moments, ddof: int = 0) -> float:
    """
    Compute the squared Frechet distance between the normal distributions that fit two sets of features:
    `|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))`.

    All of it is symmetric and in float64. The last trace is the sum of the roots of the eigenvalues of `L^T S2 L`,
    with the Cholesky factor `L` of `S1`. Where those roots would lose digits, as for covariances of few samples, it is
    the sum of the singular values of the product of factors of both covariances, whose null spaces are left out.

    Args:
        first ([`FeatureStatistics`] or `tuple[torch.Tensor, torch.Tensor]`): A set of features, or its mean
            `(num_features,)` and covariance `(num_features, num_features)`.
        second ([`FeatureStatistics`] or `tuple[torch.Tensor, torch.Tensor]`): The other one.
        ddof (`int`, *optional*, defaults to 0): Convention of the covariance, see [`FeatureStatistics.covariance`];
            given moments are taken as they are.

    Returns:
        `float`: At least 0; exactly 0 for equal sets, and wherever the rest is rounding.

    Raises:
        ValueError: If the sets have features of different lengths or too few samples, or moments are not finite, not
            of these shapes, or not those of a distribution.

    Source:
        Dowson, Landau: The Frechet distance between multivariate normal distributions (1982); FVD (arXiv:1812.01717),
        Section 3.
    """
    mean_D, covariance_DD = _moments(first, ddof, "first")
    other_mean_D, other_covariance_DD = _moments(second, ddof, "second")
    if mean_D.shape != other_mean_D.shape:
        raise ValueError(
            f"`first` and `second` must be features of one length, but are of {len(mean_D)} and {len(other_mean_D)}."
            " Compare only what one network measured."
        )
    if torch.equal(mean_D, other_mean_D) and torch.equal(covariance_DD, other_covariance_DD):
        return 0.0
    traces = (covariance_DD.trace() + other_covariance_DD.trace()).item()
    spread = traces - 2 * _trace_of_root(covariance_DD, other_covariance_DD, traces)
    distance = (mean_D - other_mean_D).square().sum().item() + spread
    return distance if distance > len(mean_D) * EPSILON * traces else 0.0


def frechet_bias(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """
    Estimate the distance that two sets of these sizes show although they come from one distribution.

    To leading order in `1/n` it is `(1/n1 + 1/n2) (5/4 tr S + 1/2 sum_ij l_i l_j / (l_i + l_j))` with the eigenvalues
    `l` of the covariance `S`: the mean's error, and the second-order term of the distance in the covariance's error,
    which for normal features has variance `l_i l_j (1 + [i = j]) / n`. Here `S` is that of both sets, each around its
    own mean.

    Args:
        first ([`FeatureStatistics`]): A set, of at least 2 samples.
        second ([`FeatureStatistics`]): The other one, of at least 2 samples.

    Returns:
        `float`: At least 0. With fewer samples than features it is an order of magnitude, no more.

    Raises:
        ValueError: If a set has fewer samples, or features are of different lengths.
    """
    if first.num_features != second.num_features:
        raise ValueError(
            f"`first` and `second` must be features of one length, but are of {first.num_features} and"
            f" {second.num_features}."
        )
    counts = (first.num_samples, second.num_samples)
    scatter_DD = first.covariance(1) * (counts[0] - 1) + second.covariance(1) * (counts[1] - 1)
    eigenvalues_D = torch.linalg.eigvalsh(scatter_DD / (sum(counts) - 2)).clamp(min=0)
    sums_DD = eigenvalues_D[:, None] + eigenvalues_D
    pairs_DD = torch.outer(eigenvalues_D, eigenvalues_D) / sums_DD.clamp(min=torch.finfo(torch.float64).tiny)
    return (1 / counts[0] + 1 / counts[1]) * (1.25 * eigenvalues_D.sum() + 0.5 * pairs_DD.sum()).item()


def measure_frechet(first: FeatureStatistics, second: FeatureStatistics, ddof: int = 0) -> FrechetMeasurement:
    """
    Compute a Frechet distance, and warn if the number of samples is too small for it to mean much: not more than
    there are features, or so small that more than a tenth of the distance is to be expected for equal distributions.

    Args:
        first ([`FeatureStatistics`]): A set, of at least 2 samples.
        second ([`FeatureStatistics`]): The other one, of at least 2 samples.
        ddof (`int`, *optional*, defaults to 0): As [`frechet_distance`] takes it.

    Returns:
        [`FrechetMeasurement`]

    Raises:
        ValueError: As [`frechet_distance`] and [`frechet_bias`] do.
    """
    measured = FrechetMeasurement(
        distance=frechet_distance(first, second, ddof),
        num_samples=(first.num_samples, second.num_samples),
        num_features=first.num_features,
        ddof=ddof,
        expected_bias=frechet_bias(first, second),
    )
    few = min(measured.num_samples) <= measured.num_features
    if few or measured.expected_bias > _SMALL_BIAS * measured.distance:
        logger.warning(
            f"A Frechet distance of {measured.distance:.4g} between {measured.num_samples[0]} and"
            f" {measured.num_samples[1]} samples of {measured.num_features} features depends much on how many there"
            f" are: two sets of these sizes from one distribution would be about {measured.expected_bias:.4g} apart."
            " Compare it only with distances of as many samples, or measure more; kernel distances have no such bias."
        )
    return measured


def extrapolate_frechet(
    first: Tensor,
    second: Tensor,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    ddof: int = 0,
    seed: int = 0,
) -> FrechetExtrapolation:
    """
    Estimate the Frechet distance of infinitely many samples: distances of random parts of both sets are fitted by a
    line in one over the size.

    Args:
        first (`torch.Tensor` of shape `(num_samples, num_features)`): A set of features.
        second (`torch.Tensor` of shape `(num_other_samples, num_features)`): The other one.
        fractions (`Sequence[float]`, *optional*): Parts of both sets, in (0, 1], at least two different ones. The line
            holds where parts have more samples than features.
        ddof (`int`, *optional*, defaults to 0): As [`frechet_distance`] takes it.
        seed (`int`, *optional*, defaults to 0): Draws the parts.

    Returns:
        [`FrechetExtrapolation`]

    Raises:
        ValueError: If `fractions` are not these, or the sets do not fit each other.

    Source:
        Effectively Unbiased FID and Inception Score (arXiv:1911.07023), Section 4, with random parts instead of
        quasi-random samples of the generator.
    """
    if len(set(fractions)) < 2 or not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(f"`fractions` must be at least two different parts in (0, 1], but are {tuple(fractions)}.")
    features = [check_features(first, argument="first"), check_features(second, argument="second")]
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for fraction in fractions:
        parts = []
        for samples_ND in features:
            size = max(2, round(fraction * len(samples_ND)))
            chosen = torch.randperm(len(samples_ND), generator=generator)[:size]
            parts.append(FeatureStatistics.from_features(samples_ND[chosen]))
        distances.append(frechet_distance(*parts, ddof=ddof))
    inverse = [1 / fraction for fraction in fractions]
    slope, limit = statistics.linear_regression(inverse, distances)
    return FrechetExtrapolation(limit=limit, slope=slope, fractions=tuple(fractions), distances=tuple(distances))


def _moments(features: FeatureStatistics | Moments, ddof: int, argument: str) -> Moments:
    if isinstance(features, FeatureStatistics):
        return features.mean, features.covariance(ddof)
    mean, covariance = features
    covariance_DD = check_features(covariance, argument=f"{argument}[1]")
    size = len(covariance_DD)
    mean_D = check_features(mean[None], covariance_DD.shape[1], argument=f"{argument}[0]")[0]
    if covariance_DD.shape != (size, size):
        raise ValueError(f"`{argument}[1]` must be a square covariance, but has shape {tuple(covariance_DD.shape)}.")
    transposed_DD = covariance_DD.T.contiguous()
    difference = (covariance_DD - transposed_DD).abs().max()
    if difference > 1e-4 * covariance_DD.abs().max():
        raise ValueError(f"`{argument}[1]` must be symmetric, as a covariance is, but entries differ by {difference}.")
    return mean_D, (covariance_DD + transposed_DD) / 2


def _trace_of_root(first_DD: Tensor, second_DD: Tensor, traces: float) -> float:
    """Return `tr((S1 S2)^(1/2))` of two covariances, of which `traces` is the sum of the traces."""
    factor_DD, failed = torch.linalg.cholesky_ex(first_DD)
    if not failed:
        eigenvalues_D = torch.linalg.eigvalsh(factor_DD.T @ second_DD @ factor_DD)
        # An eigenvalue is wrong by at most about D times the rounding of the largest, and its root by the following.
        error = len(first_DD) * EPSILON * eigenvalues_D[-1]
        if eigenvalues_D[0] > 0 and (error / (2 * eigenvalues_D.sqrt())).sum() < _FAST_FORM_LIMIT * traces:
            return eigenvalues_D.sqrt().sum().item()
    return torch.linalg.svdvals(_factor(first_DD).T @ _factor(second_DD)).sum().item()


def _factor(covariance_DD: Tensor) -> Tensor:
    """Return `F` of shape `(num_features, rank)` with `F F^T` = the covariance."""
    factor_DD, failed = torch.linalg.cholesky_ex(covariance_DD)
    rounding = len(covariance_DD) * EPSILON
    if not failed and factor_DD.diagonal().square().min() > rounding * covariance_DD.diagonal().max():
        return factor_DD
    eigenvalues_D, vectors_DD = torch.linalg.eigh(covariance_DD)
    largest = eigenvalues_D[-1].clamp(min=0)
    if eigenvalues_D[0] < -1e-5 * largest or (largest == 0 and eigenvalues_D[0] < 0):
        raise ValueError(
            f"A covariance must have no negative eigenvalue, but one is {eigenvalues_D[0].item():.4g}, and the largest"
            f" {eigenvalues_D[-1].item():.4g}."
        )
    kept = eigenvalues_D > rounding * largest
    return vectors_DD[:, kept] * eigenvalues_D[kept].sqrt()
