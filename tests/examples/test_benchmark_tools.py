"""What the benchmarks measure with."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="module")
def tools(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("benchmark_tools")


def test_peak_counts_what_is_alive_at_once_and_not_what_was_there_before(tools: ModuleType) -> None:
    kilobyte = torch.ones(256)

    def call() -> Tensor:
        doubled = kilobyte * 2
        del doubled
        return kilobyte * 3 + kilobyte * 5

    assert 3 * 1024 <= tools.peak_bytes(call) < 4 * 1024


def test_pairs_are_timed_in_turn_after_one_that_does_not_count(tools: ModuleType) -> None:
    calls = []
    seconds = tools.time_pairs(lambda: calls.append("ours"), lambda: calls.append("peer"), 2)
    assert calls == ["ours", "peer"] * 3
    assert len(seconds) == 2 and all(len(pair) == 2 for pair in seconds)
