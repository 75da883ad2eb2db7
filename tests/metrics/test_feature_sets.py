"""Features of sets of clips: streamed, saved, read again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_video.metrics.clip_sources import MemoryClips
from diffusers_video.metrics.feature_networks import FeatureNetwork
from diffusers_video.metrics.feature_sets import FeatureSet, extract_features
from diffusers_video.metrics.protocols import find_protocol
from diffusers_video.metrics.statistics import FeatureStatistics


PROTOCOL = find_protocol("custom", num_frames=2, resize="none")
MEAN_COLOUR = FeatureNetwork(name="mean colour", function=lambda videos: videos.mean((2, 3, 4)))


def clips(count: int = 11, seed: int = 0) -> MemoryClips:
    generator = torch.Generator().manual_seed(seed)
    videos = torch.rand(count, 2, 3, 8, 8, generator=generator)
    return MemoryClips(videos, PROTOCOL, is_generated=True, fps=8)


def extract(source: MemoryClips, **options: Any) -> FeatureSet:
    return extract_features(source, [MEAN_COLOUR], PROTOCOL, **options)[0]


def test_features_come_in_the_order_of_the_clips() -> None:
    source = clips()
    want = MEAN_COLOUR(source.read(range(11)), "none")
    for batch_size in (1, 4, 20):
        torch.testing.assert_close(extract(source, batch_size=batch_size).features, want)


def test_statistics_alone_are_those_of_the_features() -> None:
    source = clips()
    kept, streamed = extract(source), extract(source, keeps_features=False, batch_size=3)
    assert streamed.features is None and streamed.statistics.num_samples == 11
    torch.testing.assert_close(streamed.statistics.mean, kept.statistics.mean)
    torch.testing.assert_close(streamed.statistics.covariance(), kept.statistics.covariance())


def test_several_networks_share_one_reading() -> None:
    source, read = clips(), []
    original = source.read
    source.read = lambda numbers: read.append(list(numbers)) or original(numbers)
    other = FeatureNetwork(name="first frame", function=lambda videos: videos[:, :, 0].mean((2, 3)))
    sets = extract_features(source, [MEAN_COLOUR, other], PROTOCOL, batch_size=4)
    assert read == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [features.record["network"]["name"] for features in sets] == ["mean colour", "first frame"]


class _Share:
    """One of several processes, as far as the share of the clips goes."""

    def __init__(self, index: int, count: int) -> None:
        self.process_index, self.num_processes, self.device = index, count, torch.device("cpu")


def test_processes_share_the_batches_of_a_single_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("accelerate.utils.gather_object", lambda parts: seen.extend(parts) or seen)
    source = clips()
    whole = extract(source, batch_size=2)
    for rank in range(3):
        together = extract(source, batch_size=2, accelerator=_Share(rank, 3))
    assert [numbers for numbers, _ in seen] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10]]
    assert torch.equal(together.features, whole.features)
    assert torch.equal(together.statistics.covariance(), whole.statistics.covariance())


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    extract(clips(), batch_size=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 11), (8, 11), (11, 11)]


@pytest.mark.parametrize("keeps_features", [True, False])
def test_features_that_are_not_finite_are_named(keeps_features: bool) -> None:
    def broken(videos: Tensor) -> Tensor:
        features = videos.mean((2, 3, 4))
        features[-1, 0] = torch.nan
        return features

    network = FeatureNetwork(name="broken", function=broken)
    with pytest.raises(ValueError, match=r"hold NaN or infinity: row 2 \(video 2, frame 0\)"):
        extract_features(ordered(3), [network], PROTOCOL, keeps_features=keeps_features)


def ordered(count: int) -> MemoryClips:
    protocol = PROTOCOL.changed(order="sorted")
    return MemoryClips(torch.rand(count, 2, 3, 8, 8), protocol, is_generated=True)


def test_clips_of_several_sizes_are_measured_one_by_one() -> None:
    sizes = (8, 12, 8)

    class Mixed:
        num_clips, rates, record = 3, frozenset(), {}

        def read(self, numbers: Sequence[int]) -> list[Tensor]:
            return [torch.full((2, 3, sizes[k], sizes[k]), 10 * k, dtype=torch.uint8) for k in numbers]

        def name_of(self, number: int) -> str:
            return str(number)

    features = extract_features(Mixed(), [MEAN_COLOUR], PROTOCOL)[0].features
    torch.testing.assert_close(features[:, 0], torch.tensor([0.0, 10, 20]) / 127.5 - 1)


@pytest.mark.parametrize("keeps_features", [True, False])
def test_a_saved_set_is_the_same_when_loaded(tmp_path: Path, keeps_features: bool) -> None:
    saved = extract(clips(), keeps_features=keeps_features)
    loaded = FeatureSet.load(saved.save(tmp_path / "set.safetensors"))
    assert loaded.record == saved.record and loaded.record["rates"] == ["8"]
    assert torch.equal(loaded.statistics.mean, saved.statistics.mean)
    assert torch.equal(loaded.statistics.covariance(), saved.statistics.covariance())
    assert (loaded.features is None) == (not keeps_features)
    if keeps_features:
        assert torch.equal(loaded.features, saved.features)


def test_statistics_saved_by_themselves_are_read(tmp_path: Path) -> None:
    statistics = FeatureStatistics.from_features(torch.rand(5, 3), {"network": {"name": "x"}})
    loaded = FeatureSet.load(statistics.save(tmp_path / "x.safetensors"))
    assert loaded.features is None and loaded.record["network"] == {"name": "x"}


def test_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="there is none at"):
        FeatureSet.load(tmp_path / "no.safetensors")
    save_file({"features": torch.rand(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="must hold features in version 1"):
        FeatureSet.load(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        FeatureSet.load(tmp_path / "cut.safetensors")


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        extract(clips(), batch_size=0)
