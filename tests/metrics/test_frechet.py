"""Frechet distance: against reference implementations and closed forms; what few samples do to it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from diffusers.utils import logging as diffusers_logging

from diffusers_video.metrics import (
    FeatureStatistics,
    extrapolate_frechet,
    frechet_bias,
    frechet_distance,
    measure_frechet,
)

from ..conftest import Golden


CASES = ("well_conditioned", "rank_deficient", "identical", "low_rank_plus_noise")


def normal(num_samples: int, variances: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, len(variances), generator=generator, dtype=torch.float64) * variances.sqrt()


def random_covariance(size: int, rank: int, seed: int) -> torch.Tensor:
    factor = torch.randn(size, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("implementation", "ddof"),
    [("stylegan_v", 0), ("cd_fvd", 0), ("eigh_population_cov", 0), ("common_metrics_styleganv", 1)]
    + [("videogpt_float64", 1), ("pvdm_float64", 1), ("eigh_unbiased_cov", 1)],
)
def test_reference_implementations_in_float64_agree(
    case: str, implementation: str, ddof: int, load_golden: Callable[[str], Golden]
) -> None:
    golden = load_golden("frechet_distance")
    real, fake = (
        FeatureStatistics.from_features(golden.tensors[f"inputs.{case}.{name}"]) for name in ("real", "fake")
    )
    want = golden.config["values_float64"][f"{case}.{implementation}"]
    # Matrix roots of rank-deficient products carry noise of 1e-8 of the traces; identical sets give +-3e-14 there.
    assert frechet_distance(real, fake, ddof) == pytest.approx(
        want, rel=1e-6 if "eigh" not in implementation else 1e-7, abs=1e-12
    )


@pytest.mark.parametrize("case", CASES)
def test_reference_implementations_in_float32_agree_as_far_as_they_can(
    case: str, load_golden: Callable[[str], Golden]
) -> None:
    golden = load_golden("frechet_distance")
    real, fake = (
        FeatureStatistics.from_features(golden.tensors[f"inputs.{case}.{name}"]) for name in ("real", "fake")
    )
    want = golden.config["values_float64"][f"{case}.lvdm_float32"]
    assert frechet_distance(real, fake, ddof=1) == pytest.approx(want, rel=3e-3, abs=1e-4)


def test_distance_of_commuting_covariances_is_a_closed_form() -> None:
    turn = torch.linalg.qr(torch.randn(30, 30).double()).Q
    variances = torch.rand(2, 30).double() + 0.01
    means = torch.randn(2, 30).double()
    first, second = ((mean, turn @ torch.diag(values) @ turn.T) for mean, values in zip(means, variances, strict=True))
    want = (means[0] - means[1]).square().sum() + (variances[0].sqrt() - variances[1].sqrt()).square().sum()
    assert frechet_distance(first, second) == pytest.approx(want.item(), rel=1e-12)
    assert frechet_distance(second, first) == pytest.approx(want.item(), rel=1e-12)


@pytest.mark.parametrize(("rank", "other_rank"), [(40, 40), (40, 7), (7, 40), (7, 5), (40, 0), (0, 0)])
def test_distance_is_right_for_any_rank(rank: int, other_rank: int) -> None:
    mean = torch.zeros(40).double()
    first, second = random_covariance(40, rank, seed=1), random_covariance(40, other_rank, seed=2)
    factors = [
        torch.randn(40, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed, size in ((1, rank), (2, other_rank))
    ]
    # tr (S1 S2)^(1/2) is the nuclear norm of F1^T F2.
    root = torch.linalg.matrix_norm(factors[0].T @ factors[1], "nuc").item() if min(rank, other_rank) else 0.0
    want = (first.trace() + second.trace()).item() - 2 * root
    assert frechet_distance((mean, first), (mean, second)) == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("num_samples", [2, 10, 30, 200])
def test_equal_sets_have_distance_zero_in_any_order_and_parts(num_samples: int) -> None:
    features = 1e2 + torch.randn(num_samples, 24) * torch.logspace(-3, 1, 24)
    whole, parts = FeatureStatistics.from_features(features), FeatureStatistics(24)
    for rows in features[torch.randperm(num_samples)].split(7):
        parts.update(rows)
    assert frechet_distance(whole, whole) == 0
    assert frechet_distance(whole, parts) == 0


def test_covariances_of_small_variances_keep_their_digits() -> None:
    variances = torch.logspace(-14, 0, 60).double()
    mean, turn = torch.zeros(60).double(), torch.linalg.qr(torch.randn(60, 60).double()).Q
    first, second = (turn @ torch.diag(values) @ turn.T for values in (variances, 4 * variances))
    assert frechet_distance((mean, first), (mean, second)) == pytest.approx(variances.sum().item(), rel=1e-8)


def test_order_of_samples_and_sets_makes_no_difference() -> None:
    first, second = normal(90, torch.rand(20), seed=1), normal(70, torch.rand(20), seed=2) + 0.1
    distances = [
        frechet_distance(
            FeatureStatistics.from_features(a[torch.randperm(len(a))]), FeatureStatistics.from_features(b)
        )
        for a, b in ((first, second), (first, second), (second, first))
    ]
    assert distances == pytest.approx([distances[0]] * 3, rel=1e-12)


def test_the_convention_of_the_covariance_makes_the_difference_that_it_should() -> None:
    first, second = (FeatureStatistics.from_features(normal(16, torch.ones(4), seed)) for seed in (1, 2))
    means = (first.mean - second.mean).square().sum().item()
    biased, unbiased = (frechet_distance(first, second, ddof) - means for ddof in (0, 1))
    assert unbiased == pytest.approx(biased * 16 / 15, rel=1e-9)


@pytest.mark.parametrize("num_samples", [200, 800])
def test_expected_bias_is_what_sets_of_one_distribution_show(num_samples: int) -> None:
    variances = torch.logspace(-2, 1, 40)
    pairs = [
        tuple(FeatureStatistics.from_features(normal(num_samples, variances, 2 * seed + k)) for k in range(2))
        for seed in range(12)
    ]
    shown = sum(frechet_distance(*pair) for pair in pairs) / len(pairs)
    assert frechet_bias(*pairs[0]) == pytest.approx(shown, rel=0.12)


def test_expected_bias_of_unequal_sets() -> None:
    variances = torch.logspace(-2, 1, 30)
    pairs = [
        (
            FeatureStatistics.from_features(normal(200, variances, seed)),
            FeatureStatistics.from_features(normal(1600, variances, 100 + seed)),
        )
        for seed in range(12)
    ]
    shown = sum(frechet_distance(*pair) for pair in pairs) / len(pairs)
    assert frechet_bias(*pairs[0]) == pytest.approx(shown, rel=0.12)


@pytest.fixture
def warnings_of_metrics(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    diffusers_logging.enable_propagation()
    caplog.set_level(logging.WARNING)
    yield caplog
    diffusers_logging.disable_propagation()


@pytest.mark.parametrize(
    ("num_samples", "shift", "warns"),
    [(400, 3.0, False), (400, 0.0, True), (12, 30.0, True)],
    ids=["many", "bias is most of it", "fewer than features"],
)
def test_few_samples_are_warned_of_with_the_expected_bias(
    num_samples: int, shift: float, warns: bool, warnings_of_metrics: pytest.LogCaptureFixture
) -> None:
    first = FeatureStatistics.from_features(normal(num_samples, torch.ones(20), seed=1))
    second = FeatureStatistics.from_features(normal(num_samples, torch.ones(20), seed=2) + shift)
    found = measure_frechet(first, second)
    assert found.num_samples == (num_samples, num_samples) and found.num_features == 20 and found.ddof == 0
    assert found.distance == frechet_distance(first, second) and found.expected_bias == frechet_bias(first, second)
    said = f"between {num_samples} and {num_samples} samples of 20 features" in warnings_of_metrics.text
    assert said == warns and (f"about {found.expected_bias:.4g} apart" in warnings_of_metrics.text) == warns


def test_extrapolation_takes_most_of_the_bias_off() -> None:
    variances = torch.logspace(-2, 1, 30)
    first, second = normal(900, variances, seed=1), normal(700, variances, seed=2)
    found = extrapolate_frechet(first, second)
    biased = frechet_distance(*map(FeatureStatistics.from_features, (first, second)))
    assert found.distances[-1] == pytest.approx(biased, rel=1e-9) and found.fractions[-1] == 1
    assert abs(found.limit) < 0.15 * biased and found.slope == pytest.approx(biased, rel=0.2)
    assert found == extrapolate_frechet(first, second) != extrapolate_frechet(first, second, seed=1)


@pytest.mark.parametrize("fractions", [(1.0,), (0.5, 0.5), (0.5, 1.5), (0.0, 1.0)])
def test_extrapolation_refuses_fractions_without_a_line(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="`fractions` must be at least two different parts"):
        extrapolate_frechet(torch.randn(20, 3), torch.randn(20, 3), fractions=fractions)


def test_moments_that_are_none_are_refused() -> None:
    good = (torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match="must be features of one length, but are of 3 and 2"):
        frechet_distance(good, (torch.zeros(2), torch.eye(2)))
    with pytest.raises(ValueError, match=r"`second\[0\]` must have shape \(num_samples, 3\)"):
        frechet_distance(good, (torch.zeros(2), torch.eye(3)))
    with pytest.raises(ValueError, match=r"`second\[1\]` must be a square covariance"):
        frechet_distance(good, (torch.zeros(3), torch.ones(2, 3)))
    with pytest.raises(ValueError, match=r"`first\[1\]` must be symmetric"):
        frechet_distance((torch.zeros(3), torch.arange(9.0).view(3, 3)), good)
    with pytest.raises(ValueError, match=r"`first\[1\]` must be finite"):
        frechet_distance((torch.zeros(3), torch.full((3, 3), torch.nan)), good)
    with pytest.raises(ValueError, match="must have no negative eigenvalue, but one is -1"):
        frechet_distance((torch.zeros(3), torch.diag(torch.tensor([1.0, 1.0, -1.0]))), good)


def test_statistics_that_do_not_fit_are_refused() -> None:
    first, second = (
        FeatureStatistics.from_features(torch.randn(5, 3)),
        FeatureStatistics.from_features(torch.randn(5, 2)),
    )
    with pytest.raises(ValueError, match="features of one length, but are of 3 and 2"):
        frechet_distance(first, second)
    with pytest.raises(ValueError, match="features of one length, but are of 3 and 2"):
        frechet_bias(first, second)
    with pytest.raises(ValueError, match="at least 1 samples"):
        frechet_distance(first, FeatureStatistics(3))
