"""Feature statistics: parts merge into the whole, files give back what was saved, and bad features are named."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

import diffusers_video
from diffusers_video.metrics import FeatureStatistics


# A process sees rows `start` to `stop` of features that every process makes alike.
SCRIPT = """
import sys
import torch
from accelerate import Accelerator
from diffusers_video.metrics import FeatureStatistics

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
features = torch.randn(19, 5, generator=torch.Generator().manual_seed(3)) + 100
statistics = FeatureStatistics(5, {"rank": accelerator.process_index})
edges = [int(edge) for edge in sys.argv[2:]]
for start, stop in zip(edges[:-1], edges[1:]):
    if start % 2 == accelerator.process_index:
        statistics.update(features[start:stop])
merged = statistics.gather(accelerator)
merged.save(f"{sys.argv[1]}/{accelerator.process_index}.safetensors")
accelerator.end_training()
"""


def make_features(num_samples: int = 50, num_features: int = 6) -> torch.Tensor:
    """Features far from zero, of very different spread."""
    return 1e3 + torch.randn(num_samples, num_features).double() * torch.logspace(-2, 1, num_features)


def assert_equal(first: FeatureStatistics, second: FeatureStatistics) -> None:
    assert first.num_samples == second.num_samples
    torch.testing.assert_close(first.mean, second.mean, rtol=1e-10, atol=0)
    largest = second.covariance().abs().max().item()
    torch.testing.assert_close(first.covariance(), second.covariance(), rtol=1e-10, atol=1e-10 * largest)


def test_mean_and_covariance_are_those_of_numpy() -> None:
    features = make_features()
    statistics = FeatureStatistics.from_features(features)
    assert (statistics.num_samples, statistics.num_features) == (50, 6)
    np.testing.assert_allclose(statistics.mean, features.numpy().mean(0), rtol=1e-13)
    for ddof in (0, 1):
        np.testing.assert_allclose(statistics.covariance(ddof), np.cov(features.numpy().T, ddof=ddof), rtol=1e-9)
    assert torch.equal(statistics.covariance(), statistics.covariance().T)


def test_any_split_in_any_order_merges_into_the_whole() -> None:
    features = make_features()
    whole, source = FeatureStatistics.from_features(features), random.Random(0)
    for _ in range(20):
        edges = sorted(source.choices(range(51), k=source.randrange(8)))  # parts without rows among them
        parts, order = [FeatureStatistics(6) for _ in range(3)], torch.randperm(50)
        for start, stop in zip([0, *edges], [*edges, 50], strict=True):
            source.choice(parts).update(features[order[start:stop]])
        source.shuffle(parts)
        merged = FeatureStatistics(6)
        for part in parts:
            merged.merge(part)
        assert_equal(merged, whole)


def test_digits_survive_a_mean_that_is_far_larger_than_the_spread() -> None:
    centered = torch.randn(64, 3).double()
    centered -= centered.mean(0)
    statistics = FeatureStatistics(3)
    for rows in (1e6 + centered).split(5):
        statistics.update(rows)
    torch.testing.assert_close(statistics.covariance(), centered.T @ centered / 64, rtol=0, atol=1e-8)


def test_merging_leaves_the_other_as_it_was() -> None:
    first, second = (FeatureStatistics.from_features(make_features(5, 2)) for _ in range(2))
    before = (second.num_samples, second.mean, second.covariance())
    first.merge(second)
    first.update(make_features(5, 2))
    assert second.num_samples == before[0]
    assert torch.equal(second.mean, before[1]) and torch.equal(second.covariance(), before[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_features_of_any_type_are_summed_in_float64(dtype: torch.dtype) -> None:
    features = (torch.randn(40, 3) * 7).to(dtype).requires_grad_(dtype.is_floating_point)
    statistics = FeatureStatistics.from_features(features)
    assert statistics.mean.dtype == torch.float64 and not statistics.mean.requires_grad
    torch.testing.assert_close(statistics.mean, features.detach().double().mean(0))


def test_a_file_gives_back_numbers_and_record_bit_by_bit(tmp_path: Path) -> None:
    record = {"network": "ünderground", "frames": 16, "sizes": [1, 2.5], "none": None}
    saved = FeatureStatistics.from_features(make_features(), record)
    path = saved.save(tmp_path / "new" / "real.safetensors")
    loaded = FeatureStatistics.load(path)
    assert loaded.num_samples == 50 and loaded.metadata == record
    assert torch.equal(loaded.mean, saved.mean) and torch.equal(loaded.covariance(1), saved.covariance(1))
    loaded.merge(saved)
    assert loaded.save(path) == path and FeatureStatistics.load(path).num_samples == 100
    assert [file.name for file in path.parent.iterdir()] == ["real.safetensors"]


def test_a_record_that_cannot_be_saved_leaves_the_old_file(tmp_path: Path) -> None:
    path = FeatureStatistics.from_features(make_features(), {"kept": 1}).save(tmp_path / "a.safetensors")
    with pytest.raises(TypeError):
        FeatureStatistics.from_features(make_features(), {"bad": object()}).save(path)
    assert FeatureStatistics.load(path).metadata == {"kept": 1}


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = FeatureStatistics.from_features(make_features()).save(tmp_path / "good.safetensors")
    with pytest.raises(FileNotFoundError, match="there is none at .*none.safetensors"):
        FeatureStatistics.load(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cut.safetensors must be a safetensors file"):
        FeatureStatistics.load(tmp_path / "cut.safetensors")
    save_file(load_file(path), tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="plain.safetensors must hold feature statistics in version 1"):
        FeatureStatistics.load(tmp_path / "plain.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scatter": torch.zeros(5, 6)}, "of one size, but holds"),
        ({"mean": torch.full((6,), torch.nan, dtype=torch.float64)}, "it is damaged"),
        ({"num_samples": torch.tensor(-1)}, "a count of at least 0"),
    ],
)
def test_damaged_numbers_are_refused(change: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    path = FeatureStatistics.from_features(make_features()).save(tmp_path / "a.safetensors")
    header = {"format": "pt", "kind": "diffusers_video.feature_statistics", "version": "1", "record": "{}"}
    save_file({**load_file(path), **change}, path, metadata=header)
    with pytest.raises(ValueError, match=message):
        FeatureStatistics.load(path)


def test_rows_that_are_not_finite_are_named() -> None:
    features = torch.zeros(12, 2)
    features[3, 1], features[11, 0] = torch.nan, -torch.inf
    statistics = FeatureStatistics(2)
    with pytest.raises(
        ValueError, match=r"`features` must be finite, but of 12 rows 2 hold NaN or infinity: row 3, 11\."
    ):
        statistics.update(features)
    with pytest.raises(ValueError, match=r"row 3 \(clip-3.mp4\), 11 \(clip-11.mp4\)"):
        statistics.update(features, names=[f"clip-{index}.mp4" for index in range(12)])
    with pytest.raises(ValueError, match="row 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"):
        statistics.update(torch.full((10, 2), torch.nan))
    assert statistics.num_samples == 0


def test_features_of_another_shape_or_kind_are_refused() -> None:
    statistics = FeatureStatistics(4)
    for shape in ((3,), (2, 5), (2, 4, 1)):
        with pytest.raises(ValueError, match=r"must have shape \(num_samples, 4\)"):
            statistics.update(torch.zeros(shape))
    with pytest.raises(TypeError, match="`features` must be a tensor of real numbers, but is ndarray"):
        statistics.update(np.zeros((2, 4)))
    with pytest.raises(TypeError, match="complex64"):
        statistics.update(torch.zeros(2, 4, dtype=torch.complex64))
    with pytest.raises(ValueError, match="`names` must name 2 rows of `features`, but names 1"):
        statistics.update(torch.zeros(2, 4), names=["one"])
    with pytest.raises(ValueError, match="`other` must be of 4 features"):
        statistics.merge(FeatureStatistics(3))
    with pytest.raises(ValueError, match="`num_features` must be at least 1"):
        FeatureStatistics(0)


def test_too_few_samples_are_refused() -> None:
    statistics = FeatureStatistics(2)
    with pytest.raises(ValueError, match="at least 1 samples for this, but are of 0"):
        statistics.mean  # noqa: B018
    statistics.update(torch.ones(1, 2))
    assert torch.equal(statistics.covariance(), torch.zeros(2, 2).double())
    with pytest.raises(ValueError, match="at least 2 samples for this, but are of 1"):
        statistics.covariance(ddof=1)
    with pytest.raises(ValueError, match="`ddof` must be 0 .* or 1"):
        statistics.covariance(ddof=2)


def test_gathering_in_one_process_gives_a_copy() -> None:
    statistics = FeatureStatistics.from_features(make_features(), {"kept": True})
    gathered = statistics.gather(Accelerator(cpu=True))
    assert_equal(gathered, statistics)
    gathered.update(make_features())
    assert statistics.num_samples == 50 and gathered.metadata == {"kept": True}


@pytest.mark.slow
@pytest.mark.parametrize("edges", [(0, 6, 7, 16, 19), (0, 19)], ids=["uneven", "all in one"])
def test_two_processes_equal_one(edges: tuple[int, ...], tmp_path: Path) -> None:
    script = tmp_path / "gather.py"
    script.write_text(SCRIPT)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, *launch, str(script), str(tmp_path), *map(str, edges)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(diffusers_video.__file__).parents[1])
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    features = torch.randn(19, 5, generator=torch.Generator().manual_seed(3)) + 100
    merged = [FeatureStatistics.load(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    assert torch.equal(merged[0].covariance(), merged[1].covariance())
    assert [part.metadata["rank"] for part in merged] == [0, 1]
    assert_equal(merged[0], FeatureStatistics.from_features(features))
