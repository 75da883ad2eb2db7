"""Kernel distance between two sets of features: an estimate without bias, also for few samples."""

# Shapes: N, M samples of two sets, D features of each; K samples of a chunk.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .statistics import check_features


CHUNK_SIZE = 1024


@dataclass(frozen=True, kw_only=True)
class KernelSubsets:
    """
    Kernel distances of random subsets.

    Args:
        mean (`float`): Their mean.
        std (`float`): Their standard deviation, divided by their number (not one less).
        num_subsets (`int`): Their number.
        subset_size (`int`): Samples of each set in a subset.
    """

    mean: float
    std: float
    num_subsets: int
    subset_size: int


def polynomial_kernel_distance(
    first: Tensor,
    second: Tensor,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
) -> float:
    """
    Estimate the squared maximum mean discrepancy between two sets of features under the kernel
    `k(x, y) = (gamma x.y + coef0)^degree`. With logits of I3D and the default kernel it is the kernel video distance.

    It is the mean of `k` over pairs of different samples of the first set, plus that of the second, minus twice that
    over pairs across. Its expectation is the true value for any number of samples, so it may be negative. Memory
    grows with the number of samples, not with its square.

    Args:
        first (`torch.Tensor` of shape `(num_samples, num_features)`): Features, at least 2 samples.
        second (`torch.Tensor` of shape `(num_other_samples, num_features)`): Features, at least 2 samples.
        degree (`int`, *optional*, defaults to 3): Of the polynomial, at least 1.
        gamma (`float`, *optional*): Above 0; `1 / num_features` if not given.
        coef0 (`float`, *optional*, defaults to 1): What is added.

    Returns:
        `float`: The estimate itself; image papers report it times 1000.

    Raises:
        TypeError: If the features are not tensors of real numbers.
        ValueError: If they have NaN or infinite values, different lengths or fewer than 2 samples, or `degree` or
            `gamma` is out of range.

    Source:
        Demystifying MMD GANs (arXiv:1801.01401), Section 3.2 (kernel) and the unbiased estimate of Gretton et al.: A
        Kernel Two-Sample Test (2012), equation 3.
    """
    first_ND = check_features(first, argument="first")
    second_MD = check_features(second, first_ND.shape[1], argument="second")
    if min(len(first_ND), len(second_MD)) < 2:
        raise ValueError(
            "`first` and `second` must have at least 2 samples each, because pairs of different ones are compared,"
            f" but have {len(first_ND)} and {len(second_MD)}."
        )
    if degree < 1 or (gamma is not None and gamma <= 0):
        raise ValueError(f"`degree` must be at least 1 and `gamma` above 0, but are {degree} and {gamma}.")
    kernel = (degree, 1 / first_ND.shape[1] if gamma is None else gamma, coef0)
    within = _mean_of_pairs(first_ND, kernel) + _mean_of_pairs(second_MD, kernel)
    across = _sum_of_kernel(first_ND, second_MD, kernel) / (len(first_ND) * len(second_MD))
    return within - 2 * across


def kernel_distance_of_subsets(
    first: Tensor, second: Tensor, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelSubsets:
    """
    Estimate the kernel distance from random subsets of both sets, as the kernel inception distance is.

    Args:
        first (`torch.Tensor` of shape `(num_samples, num_features)`): Features.
        second (`torch.Tensor` of shape `(num_other_samples, num_features)`): Features.
        num_subsets (`int`, *optional*, defaults to 100): Subsets drawn, at least 1.
        subset_size (`int`, *optional*, defaults to 1000): Samples of each set in a subset, drawn without putting them
            back; at least 2 and at most the smaller set.
        seed (`int`, *optional*, defaults to 0): Draws the subsets.

    Returns:
        [`KernelSubsets`]: With the default kernel of [`polynomial_kernel_distance`], not multiplied by 1000.

    Raises:
        TypeError: If the features are not tensors of real numbers.
        ValueError: If `num_subsets` or `subset_size` is out of range, or the features do not fit.

    Source:
        Demystifying MMD GANs (arXiv:1801.01401), Section 4.
    """
    first_ND = check_features(first, argument="first")
    second_MD = check_features(second, first_ND.shape[1], argument="second")
    smaller = min(len(first_ND), len(second_MD))
    if num_subsets < 1 or not 2 <= subset_size <= smaller:
        raise ValueError(
            f"`num_subsets` must be at least 1 and `subset_size` between 2 and the smaller set of {smaller} samples,"
            f" but are {num_subsets} and {subset_size}."
        )
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(num_subsets):
        rows, other_rows = (
            torch.randperm(len(samples), generator=generator)[:subset_size] for samples in (first_ND, second_MD)
        )
        distances.append(polynomial_kernel_distance(first_ND[rows], second_MD[other_rows]))
    found = torch.tensor(distances, dtype=torch.float64)
    return KernelSubsets(
        mean=found.mean().item(),
        std=found.std(correction=0).item(),
        num_subsets=num_subsets,
        subset_size=subset_size,
    )


def _mean_of_pairs(samples_ND: Tensor, kernel: tuple[int, float, float]) -> float:
    """Mean of the kernel over pairs of different samples."""
    degree, gamma, coef0 = kernel
    count = len(samples_ND)
    diagonal = (gamma * samples_ND.square().sum(1) + coef0).pow(degree).sum().item()
    return (_sum_of_kernel(samples_ND, samples_ND, kernel) - diagonal) / (count * (count - 1))


def _sum_of_kernel(first_ND: Tensor, second_MD: Tensor, kernel: tuple[int, float, float]) -> float:
    degree, gamma, coef0 = kernel
    return sum(
        (gamma * (chunk_KD @ second_MD.T) + coef0).pow(degree).sum().item() for chunk_KD in first_ND.split(CHUNK_SIZE)
    )
