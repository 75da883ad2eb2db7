"""Kernel distance: against reference implementations and a loop over pairs; unequal counts, chunks and subsets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from diffusers_video.metrics import kernel, kernel_distance_of_subsets, polynomial_kernel_distance

from ..conftest import Golden


def by_hand(first: torch.Tensor, second: torch.Tensor, degree: int, gamma: float, coef0: float) -> float:
    def mean(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
        return sum(float((gamma * (x @ y) + coef0) ** degree) for x, y in pairs) / len(pairs)

    within = [
        mean([(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]) for rows in (first, second)
    ]
    return sum(within) - 2 * mean([(x, y) for x in first for y in second])


def test_reference_implementations_agree(load_golden: Callable[[str], Golden]) -> None:
    golden = load_golden("polynomial_mmd")
    fake, real = golden.tensors["inputs.fake"], golden.tensors["inputs.real"]
    wants = golden.config["values_float64"]
    assert polynomial_kernel_distance(fake, real) == pytest.approx(wants["lvdm_polynomial_mmd_float64"], rel=1e-12)
    assert polynomial_kernel_distance(fake, real) == pytest.approx(wants["lvdm_polynomial_mmd_float32"], rel=1e-6)
    count = min(len(fake), len(real))
    equal = polynomial_kernel_distance(fake[:count], real[:count])
    assert 1000 * equal == pytest.approx(wants["stylegan_v_kid_x1000_full_subset"], rel=1e-12)


def test_torchmetrics_divides_unequal_sets_by_one_count(load_golden: Callable[[str], Golden]) -> None:
    from torchmetrics.image.kid import poly_mmd

    golden = load_golden("polynomial_mmd")
    fake, real = (golden.tensors[f"inputs.{name}"].double() for name in ("fake", "real"))
    count = len(fake)
    want = polynomial_kernel_distance(real[:count], fake)
    assert poly_mmd(real[:count], fake).item() == pytest.approx(want, rel=1e-12)
    assert poly_mmd(real, fake).item() == pytest.approx(0.396, abs=1e-3)
    assert polynomial_kernel_distance(real, fake) == pytest.approx(0.622, abs=1e-3)


@pytest.mark.parametrize(("degree", "gamma", "coef0"), [(3, None, 1.0), (2, 0.3, 0.5), (1, 2.0, 0.0)])
def test_kernel_is_that_of_the_formula(degree: int, gamma: float | None, coef0: float) -> None:
    first, second = torch.randn(7, 5).double(), torch.randn(4, 5).double() + 0.5
    want = by_hand(first, second, degree, gamma or 1 / 5, coef0)
    assert polynomial_kernel_distance(first, second, degree, gamma, coef0) == pytest.approx(want, rel=1e-10)


def test_chunks_and_order_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.randn(50, 6), torch.randn(37, 6) + 0.2
    want = polynomial_kernel_distance(first, second)
    monkeypatch.setattr(kernel, "CHUNK_SIZE", 8)
    got = polynomial_kernel_distance(second[torch.randperm(37)], first[torch.randperm(50)])
    assert got == pytest.approx(want, rel=1e-11)


def test_few_samples_of_one_distribution_have_no_bias() -> None:
    distances = torch.tensor([polynomial_kernel_distance(torch.randn(8, 4), torch.randn(12, 4)) for _ in range(400)])
    assert distances.mean().abs() < 3 * distances.std() / 20 and (distances < 0).any()


def test_subsets_of_the_whole_sets_are_the_whole() -> None:
    first, second = torch.randn(20, 3), torch.randn(20, 3) + 1
    found = kernel_distance_of_subsets(first, second, num_subsets=4, subset_size=20)
    assert found.mean == pytest.approx(polynomial_kernel_distance(first, second), rel=1e-12)
    assert found.std == pytest.approx(0, abs=1e-12) and (found.num_subsets, found.subset_size) == (4, 20)


def test_subsets_estimate_the_same_distance_and_depend_on_their_seed_alone() -> None:
    first, second = torch.randn(300, 3), torch.randn(200, 3) + 1
    found = kernel_distance_of_subsets(first, second, num_subsets=50, subset_size=60)
    assert found.mean == pytest.approx(polynomial_kernel_distance(first, second), abs=4 * found.std / 50**0.5)
    assert found == kernel_distance_of_subsets(first, second, num_subsets=50, subset_size=60)
    assert found != kernel_distance_of_subsets(first, second, num_subsets=50, subset_size=60, seed=1)


def test_bad_input_is_refused() -> None:
    good = torch.randn(5, 3)
    with pytest.raises(ValueError, match="at least 2 samples each.* but have 5 and 1"):
        polynomial_kernel_distance(good, good[:1])
    with pytest.raises(ValueError, match=r"`second` must have shape \(num_samples, 3\)"):
        polynomial_kernel_distance(good, torch.randn(5, 4))
    with pytest.raises(ValueError, match="`first` must be finite, but of 5 rows 5 hold NaN"):
        polynomial_kernel_distance(good * torch.nan, good)
    with pytest.raises(ValueError, match="`degree` must be at least 1 and `gamma` above 0, but are 3 and 0"):
        polynomial_kernel_distance(good, good, gamma=0)
    with pytest.raises(ValueError, match="between 2 and the smaller set of 5 samples, but are 100 and 1000"):
        kernel_distance_of_subsets(good, good)
