"""Features of a set of clips: taken clip by clip on any number of processes, saved, and read again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..data.files import replacing
from ..layers.weights import whole_safetensors
from .clip_sources import ClipSource
from .feature_networks import FeatureNetwork
from .preprocessing import ResizeRule
from .protocols import EvaluationProtocol
from .statistics import FORMAT, FeatureStatistics, check_features


if TYPE_CHECKING:
    from accelerate import Accelerator


# Shapes: N clips, D features, K vectors of a clip: its frames, if the network is one of images.

ProgressCallback = Callable[[int, int], None]
KIND, VERSION = "diffusers_video.feature_set", "1"
# What of a protocol decides the features of a reference: sets that differ in one of these cannot be compared.
OF_FEATURES = (
    "num_frames",
    "frame_stride",
    "fps",
    "frame_size",
    "frame_resize",
    "frame_antialias",
    "quantisation",
    "resize",
)


@dataclass(frozen=True)
class FeatureSet:
    """
    Features of the clips of a set.

    Args:
        statistics ([`FeatureStatistics`]): Their number, mean and covariance; of a network of images, over frames.
        record (`dict`): What they are of: `source`, `protocol`, `network`, `rates`; JSON values.
        features (`torch.Tensor` of shape `(num_clips, num_features)`, *optional*): Each of them, float32, in the order
            of the clips; the kernel distance and intervals need them. Of a network of images they have the shape
            `(num_clips, num_frames, num_features)`.
    """

    statistics: FeatureStatistics
    record: dict[str, Any]
    features: Tensor | None = None

    @property
    def num_clips(self) -> int:
        """Clips that they are of."""
        return self.statistics.num_samples // self.record.get("vectors_per_clip", 1)

    def save(self, path: str | os.PathLike) -> Path:
        """
        Write it to a safetensors file, whole or not at all.

        Args:
            path (`str` or `os.PathLike`): The file; its folder must exist.

        Returns:
            `pathlib.Path`: The file. Without `features` it is one that [`FeatureStatistics.load`] reads, too.
        """
        path = Path(path)
        if self.features is None:
            self.statistics.metadata.update(self.record)
            return self.statistics.save(path)
        header = {"format": "pt", "kind": KIND, "version": VERSION}
        header["record"] = json.dumps(self.record, ensure_ascii=False, allow_nan=False)
        with replacing(path) as temporary:
            save_file({"features": self.features.contiguous()}, temporary, metadata=header)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> FeatureSet:
        """
        Read what [`FeatureSet.save`] or [`FeatureStatistics.save`] wrote.

        Args:
            path (`str` or `os.PathLike`): The file.

        Returns:
            [`FeatureSet`]

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or holds something else; the message names the file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"`path` must be a file of saved features, but there is none at {path}.")
        with whole_safetensors(path), safe_open(path, "pt") as file:
            header = file.metadata() or {}
            names = list(file.keys())
            features = file.get_tensor("features") if header.get("kind") == KIND and names == ["features"] else None
        if header.get("kind") == FORMAT:
            statistics = FeatureStatistics.load(path)
            return cls(statistics, statistics.metadata)
        if features is None or header.get("version") != VERSION:
            raise ValueError(
                f"{path} must hold features in version {VERSION} of {KIND!r}, but its header says kind"
                f" {header.get('kind')!r}, version {header.get('version')!r}. Write it with `FeatureSet.save`."
            )
        record = json.loads(header["record"])
        check_features(features.flatten(0, -2), argument=str(path))
        return cls(FeatureStatistics.from_features(features.flatten(0, -2), record), record, features)


def extract_features(
    source: ClipSource,
    networks: Sequence[FeatureNetwork],
    protocol: EvaluationProtocol,
    *,
    keeps_features: bool = True,
    batch_size: int = 8,
    accelerator: Accelerator | None = None,
    progress: ProgressCallback | None = None,
) -> list[FeatureSet]:
    """
    Run networks on the clips of a set; each clip is read once, and dropped when its features are known.

    Args:
        source ([`~metrics.clip_sources.ClipSource`]): The clips.
        networks (`Sequence[FeatureNetwork]`): What to run on each.
        protocol ([`EvaluationProtocol`]): Says how frames are resized for a network.
        keeps_features (`bool`, *optional*, defaults to `True`): Whether each vector is kept, which takes 4 bytes per
            number and clip; if not, memory does not grow with the number of clips.
        batch_size (`int`, *optional*, defaults to 8): Clips at once, on each process.
        accelerator (`Accelerator`, *optional*): Shares the clips between its processes, batch by batch, so that any
            number of them gives the same features; every process must call this.
        progress (`Callable[[int, int], None]`, *optional*): Called with how many clips are done, and of how many.

    Returns:
        `list[FeatureSet]`: One for each network, the same on every process.

    Raises:
        ValueError: If a clip cannot be read, or its features are not finite; the message names the clip.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, but is {batch_size}.")
    rank, num_processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    batches = [
        range(start, min(start + batch_size, source.num_clips)) for start in range(0, source.num_clips, batch_size)
    ]
    networks = [network if accelerator is None else network.to(accelerator.device) for network in networks]
    own = batches[rank::num_processes]
    parts = [_Part(keeps_features, [number for batch in own for number in batch]) for _ in networks]
    for turn, batch in enumerate(own, start=1):
        clips = source.read(batch)
        names = [source.name_of(number) for number in batch]
        for network, part in zip(networks, parts, strict=True):
            part.add(_run(network, clips, protocol.resize), names)
        if progress is not None:
            progress(min(turn * num_processes * batch_size, source.num_clips), source.num_clips)
    sets = []
    for network, part in zip(networks, parts, strict=True):
        record = {
            "source": source.record,
            "protocol": protocol.describe(),
            "network": network.describe(),
            "rates": sorted(map(str, source.rates)),
        }
        sets.append(part.finish(accelerator, record))
    return sets


def _run(network: FeatureNetwork, clips: Sequence[Tensor], resize: ResizeRule) -> Tensor:
    if len({clip.shape for clip in clips}) == 1:
        return network(clips, resize)
    return torch.cat([network([clip], resize) for clip in clips])  # videos of several sizes


class _Part:
    """What one process has seen so far."""

    def __init__(self, keeps_features: bool, numbers: list[int]) -> None:
        self._keeps_features = keeps_features
        self._statistics: FeatureStatistics | None = None
        self._numbers, self._count = numbers, 0
        self._features_ND: Tensor | None = None
        self._vectors_per_clip = 0

    def add(self, features_ND: Tensor, names: Sequence[str]) -> None:
        """Take over the next batch, (N, D) or (N, K, D)."""
        rows = features_ND.flatten(0, -2)
        names = [name for name in names for _ in range(len(rows) // len(names))]
        self._vectors_per_clip = len(rows) // len(features_ND)
        if self._keeps_features:
            check_features(rows, names=names)
            if self._features_ND is None:  # at once, so that no small pieces keep freed clips' memory apart
                self._features_ND = torch.empty(len(self._numbers), *features_ND.shape[1:])
            self._features_ND[self._count : self._count + len(features_ND)] = features_ND
            self._count += len(features_ND)
            return
        if self._statistics is None:
            self._statistics = FeatureStatistics(rows.shape[1])
        self._statistics.update(rows, names)

    def finish(self, accelerator: Accelerator | None, record: dict[str, Any]) -> FeatureSet:
        """Put together what all processes have seen."""
        from accelerate.utils import gather_object

        if self._keeps_features:
            parts = [(self._numbers, self._features_ND)]
            if accelerator is not None and accelerator.num_processes > 1:
                parts = gather_object(parts)
            filled = [(numbers, rows) for numbers, rows in parts if numbers]
            order = torch.tensor([number for numbers, _ in filled for number in numbers]).argsort()
            features_ND = torch.cat([rows for _, rows in filled])[order]
            record["vectors_per_clip"] = features_ND.shape[1:-1].numel()
            return FeatureSet(FeatureStatistics.from_features(features_ND.flatten(0, -2), record), record, features_ND)
        statistics = self._statistics
        record["vectors_per_clip"] = self._vectors_per_clip
        if accelerator is not None and accelerator.num_processes > 1:
            sizes = gather_object([(statistics.num_features if statistics else 0, self._vectors_per_clip)])
            length, record["vectors_per_clip"] = max(sizes)
            statistics = (statistics or FeatureStatistics(length)).gather(accelerator)
        statistics.metadata.update(record)
        return FeatureSet(statistics, record)
