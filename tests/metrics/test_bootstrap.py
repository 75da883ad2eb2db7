"""Bootstrap intervals: of a mean they are what theory says, and of a distance they hold the estimate."""

from __future__ import annotations

import pytest
import torch

from diffusers_video.metrics import FeatureStatistics, bootstrap_interval, frechet_distance


def mean(values: torch.Tensor) -> float:
    return values.mean().item()


def test_interval_of_a_mean_is_two_standard_errors_wide() -> None:
    values = torch.randn(400).double() * 3 + 10
    found = bootstrap_interval(mean, values, num_resamples=1000)
    error = values.std().item() / 20
    assert found.estimate == values.mean().item() and abs(found.bias) < error / 10
    assert found.standard_error == pytest.approx(error, rel=0.05)
    assert (found.low, found.high) == pytest.approx(
        (found.estimate - 1.96 * error, found.estimate + 1.96 * error), abs=0.2 * error
    )
    narrow = bootstrap_interval(mean, values, num_resamples=1000, confidence=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.674 * error, rel=0.1)


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    held = 0
    for seed in range(60):
        values = torch.randn(50, generator=torch.Generator().manual_seed(seed))
        found = bootstrap_interval(mean, values, num_resamples=60, confidence=0.8, seed=seed)
        held += found.low <= 0 <= found.high
    assert 40 <= held <= 56  # 48 +- 2.6 standard deviations


def test_sets_are_drawn_on_their_own_and_the_interval_of_a_distance_holds_it() -> None:
    first, second = torch.randn(60, 10), torch.randn(40, 10)

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        assert (len(a), len(b)) == (60, 40)
        return frechet_distance(FeatureStatistics.from_features(a), FeatureStatistics.from_features(b))

    found = bootstrap_interval(distance, first, second, num_resamples=40)
    assert found.low < found.estimate < found.high and found.bias > 0


def test_equal_seeds_give_equal_intervals_and_progress_sees_every_resample() -> None:
    values, seen = torch.randn(30), []
    intervals = [
        bootstrap_interval(mean, values, seed=seed, progress=lambda steps: seen.extend(steps) or steps)
        for seed in (0, 0, 1)
    ]
    assert intervals[0] == intervals[1] != intervals[2] and seen == [*range(100)] * 3


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least one set of at least 2 rows each, but have \[5, 1\]"):
        bootstrap_interval(mean, torch.zeros(5), torch.zeros(1))
    with pytest.raises(ValueError, match=r"at least one set .* but have \[\]"):
        bootstrap_interval(mean)
    for options in ({"num_resamples": 1}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match="`num_resamples` must be at least 2 and `confidence` between 0 and 1"):
            bootstrap_interval(mean, torch.zeros(5), **options)
