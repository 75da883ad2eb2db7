"""Mean and covariance of features, gathered piece by piece and merged across processes."""

# Shapes: N samples, D features of each.

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..data.files import replacing


if TYPE_CHECKING:
    from accelerate import Accelerator


FORMAT = "diffusers_video.feature_statistics"
FORMAT_VERSION = "1"
_SHOWN_ROWS = 8


class FeatureStatistics:
    """
    Count, mean and summed outer products of feature vectors, in float64 on the CPU; memory does not grow with the
    number of samples.

    Outer products are of the differences from the mean, and two parts are merged by the exact formula for it, so that
    features far from zero lose no digits. In which order and in which parts samples come makes no difference beyond
    rounding.

    Args:
        num_features (`int`): Length of a feature vector, at least 1.
        metadata (`dict[str, Any]`, *optional*): A record of JSON values that is saved with the numbers, such as which
            network, clips and frames they are of. Nothing here reads it, and merging keeps the record of the first.

    Source:
        Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances (1982),
        equations 2.1.
    """

    def __init__(self, num_features: int, metadata: dict[str, Any] | None = None) -> None:
        if num_features < 1:
            raise ValueError(f"`num_features` must be at least 1, but is {num_features}.")
        self.num_samples = 0
        self.metadata = dict(metadata or {})
        self._mean_D = torch.zeros(num_features, dtype=torch.float64)
        self._scatter_DD = torch.zeros(num_features, num_features, dtype=torch.float64)

    @classmethod
    def from_features(cls, features: Tensor, metadata: dict[str, Any] | None = None) -> FeatureStatistics:
        """
        Take the statistics of features that are all at hand.

        Args:
            features (`torch.Tensor` of shape `(num_samples, num_features)`): As [`update`] takes them.
            metadata (`dict[str, Any]`, *optional*): As the constructor takes it.

        Returns:
            [`FeatureStatistics`]
        """
        check_features(features)
        statistics = cls(features.shape[1], metadata)
        statistics.update(features)
        return statistics

    @property
    def num_features(self) -> int:
        """Length of a feature vector."""
        return self._mean_D.shape[0]

    @property
    def mean(self) -> Tensor:
        """
        Mean of all samples, `(num_features,)`, float64.

        Raises:
            ValueError: If there are no samples.
        """
        self._check_count(1)
        return self._mean_D.clone()

    def covariance(self, ddof: int = 0) -> Tensor:
        """
        Return the covariance of the features.

        Args:
            ddof (`int`, *optional*, defaults to 0): What is taken off the number of samples before dividing by it: 0
                for the covariance of these samples, which StyleGAN-V's FVD uses, 1 for the unbiased estimate of
                `numpy.cov`, which most others use.

        Returns:
            `torch.Tensor` of shape `(num_features, num_features)`, float64, symmetric.

        Raises:
            ValueError: If `ddof` is neither, or there are not more samples than it.
        """
        if ddof not in (0, 1):
            raise ValueError(f"`ddof` must be 0 (these samples) or 1 (unbiased estimate), but is {ddof!r}.")
        self._check_count(1 + ddof)
        return self._scatter_DD / (self.num_samples - ddof)

    def update(self, features: Tensor, names: Sequence[str] | None = None) -> None:
        """
        Add samples.

        Args:
            features (`torch.Tensor` of shape `(num_samples, num_features)`): Finite values of any real type, on any
                device; computed with in float64. May have no rows.
            names (`Sequence[str]`, *optional*): What each row is of, such as its file, for errors.

        Raises:
            TypeError: If `features` is not a tensor of real numbers.
            ValueError: If its shape is another one, or a value is NaN or infinite; the message names the rows.
        """
        features_ND = check_features(features, self.num_features, names)
        mean_D = features_ND.mean(0) if len(features_ND) else torch.zeros_like(self._mean_D)
        # NumPy knows the product as symmetric and computes half of it; PyTorch computes all.
        centered_ND = (features_ND - mean_D).numpy()
        self._add(len(features_ND), mean_D, torch.from_numpy(centered_ND.T @ centered_ND))

    def merge(self, other: FeatureStatistics) -> None:
        """
        Add the samples of other statistics, which stay as they are.

        Args:
            other ([`FeatureStatistics`]): Of features of the same length.

        Raises:
            ValueError: If their features have another length.
        """
        if other.num_features != self.num_features:
            raise ValueError(
                f"`other` must be of {self.num_features} features, as these statistics are, but is of"
                f" {other.num_features}. Merge only what one network measured."
            )
        self._add(other.num_samples, other._mean_D, other._scatter_DD)

    def gather(self, accelerator: Accelerator) -> FeatureStatistics:
        """
        Merge the statistics of all processes; each of them must call it.

        Every sample counts as often as a process updated with it: let no process see the samples with which a data
        loader fills up its last batch.

        Args:
            accelerator (`Accelerator`): That of the run.

        Returns:
            [`FeatureStatistics`]: The same on every process, with the metadata of this one.
        """
        merged = FeatureStatistics(self.num_features, self.metadata)
        if accelerator.num_processes == 1:
            merged.merge(self)
            return merged
        own = (torch.tensor(self.num_samples), self._mean_D, self._scatter_DD)
        counts, means, scatters = (accelerator.gather(part[None].to(accelerator.device)).cpu() for part in own)
        for count, mean_D, scatter_DD in zip(counts.tolist(), means, scatters, strict=True):
            merged._add(count, mean_D, scatter_DD)
        return merged

    def save(self, path: str | os.PathLike) -> Path:
        """
        Write the statistics and their record to a safetensors file, whole or not at all.

        Args:
            path (`str` or `os.PathLike`): The file; its folder is made, a file of that name replaced.

        Returns:
            `pathlib.Path`: The file.
        """
        path = Path(path)
        tensors = {
            "num_samples": torch.tensor(self.num_samples),
            "mean": self._mean_D.contiguous(),
            "scatter": self._scatter_DD.contiguous(),
        }
        header = {"format": "pt", "kind": FORMAT, "version": FORMAT_VERSION}
        header["record"] = json.dumps(self.metadata, ensure_ascii=False, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=header)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> FeatureStatistics:
        """
        Read what [`save`] wrote.

        Args:
            path (`str` or `os.PathLike`): The file.

        Returns:
            [`FeatureStatistics`]

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or holds something else; the message names the file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"`path` must be a file of feature statistics, but there is none at {path}.")
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"{path} must be a safetensors file of feature statistics: {error}.") from error
        _check_file(path, header, tensors)
        statistics = cls(tensors["mean"].shape[0], json.loads(header["record"]))
        statistics._add(int(tensors["num_samples"]), tensors["mean"], tensors["scatter"])
        return statistics

    def _add(self, num_samples: int, mean_D: Tensor, scatter_DD: Tensor) -> None:
        """Merge with a part of which these are count, mean and sum of centered outer products."""
        if num_samples == 0:
            return
        if self.num_samples == 0:  # nothing changes these tensors in place
            self.num_samples, self._mean_D, self._scatter_DD = num_samples, mean_D, scatter_DD
            return
        total = self.num_samples + num_samples
        shift_D = mean_D - self._mean_D
        # Eq. 2.1b of Chan et al., for matrices.
        weight = self.num_samples * num_samples / total
        self._scatter_DD = self._scatter_DD + scatter_DD + weight * torch.outer(shift_D, shift_D)
        self._mean_D = self._mean_D + shift_D * (num_samples / total)
        self.num_samples = total

    def _check_count(self, least: int) -> None:
        if self.num_samples < least:
            raise ValueError(
                f"Statistics must be of at least {least} samples for this, but are of {self.num_samples}. Add more"
                " with `update`."
            )


def check_features(
    features: Tensor, num_features: int | None = None, names: Sequence[str] | None = None, argument: str = "features"
) -> Tensor:
    """
    Make sure that features can be computed with.

    Args:
        features (`torch.Tensor` of shape `(num_samples, num_features)`): Finite real values.
        num_features (`int`, *optional*): What their length must be; any if not given.
        names (`Sequence[str]`, *optional*): What each row is of, for the error.
        argument (`str`, *optional*, defaults to `"features"`): What the error calls them.

    Returns:
        `torch.Tensor`: The features in float64, on the CPU, outside of any graph.

    Raises:
        TypeError: If they are not a tensor of real numbers.
        ValueError: If their shape is another one, or a value is NaN or infinite; the message names the rows.
    """
    if not isinstance(features, Tensor) or features.is_complex() or features.dtype == torch.bool:
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"`{argument}` must be a tensor of real numbers, but is {kind}.")
    length = features.shape[1] if features.ndim == 2 else 0
    if length == 0 or num_features not in (None, length):
        wanted = "num_features" if num_features is None else num_features
        raise ValueError(
            f"`{argument}` must have shape (num_samples, {wanted}), one row for each sample, but has shape"
            f" {tuple(features.shape)}."
        )
    if names is not None and len(names) != len(features):
        raise ValueError(f"`names` must name {len(features)} rows of `{argument}`, but names {len(names)}.")
    features_ND = features.detach().to("cpu", torch.float64)
    is_finite = features_ND.sum().isfinite()  # one pass over what is most often right
    bad = [] if is_finite else (~features_ND.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        shown = ", ".join(str(row) if names is None else f"{row} ({names[row]})" for row in bad[:_SHOWN_ROWS])
        more = f" and {len(bad) - _SHOWN_ROWS} more" if len(bad) > _SHOWN_ROWS else ""
        raise ValueError(
            f"`{argument}` must be finite, but of {len(features_ND)} rows {len(bad)} hold NaN or infinity: row"
            f" {shown}{more}. Look at the clips behind them and at the precision of the feature network."
        )
    return features_ND


def _check_file(path: Path, header: dict[str, str], tensors: dict[str, Tensor]) -> None:
    if header.get("kind") != FORMAT or header.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} must hold feature statistics in version {FORMAT_VERSION} of {FORMAT!r}, but its header says"
            f" kind {header.get('kind')!r}, version {header.get('version')!r}. Write it with `FeatureStatistics.save`."
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    size = shapes.get("mean", ())
    if shapes != {"num_samples": (), "mean": size, "scatter": size * 2} or len(size) != 1:
        raise ValueError(f"{path} must hold `num_samples`, `mean` and `scatter` of one size, but holds {shapes}.")
    if not all(tensor.isfinite().all() for tensor in tensors.values()) or tensors["num_samples"] < 0:
        raise ValueError(f"{path} must hold finite numbers and a count of at least 0, but does not: it is damaged.")
