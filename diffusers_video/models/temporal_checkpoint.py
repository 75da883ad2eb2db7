"""Saving and loading the temporal layers alone: a small file that fits any image model of the same shape."""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..layers.video_layers import is_temporal


TEMPORAL_WEIGHTS_NAME = "temporal_layers.safetensors"
FORMAT = "diffusers_video.temporal_layers"


@dataclass(frozen=True)
class TemporalLoadReport:
    """
    What [`UNetVideoConditionModel.load_temporal_layers`] found.

    Args:
        matched (`list[str]`): Tensors that were loaded.
        missing (`list[str]`): Temporal tensors of the model that the file does not hold; they keep their values.
        unexpected (`list[str]`): Tensors of the file that the model does not have.
        mismatched (`dict[str, tuple]`): Tensors of another shape, as name to (shape in the file, shape in the model).
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def is_complete(self) -> bool:
        """Whether file and model hold exactly the same temporal tensors."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} tensors matched, {len(self.missing)} missing from the file {self.missing[:3]},"
            f" {len(self.unexpected)} unknown to the model {self.unexpected[:3]}, {len(self.mismatched)} of another"
            f" shape {list(self.mismatched.items())[:3]}"
        )


class TemporalCheckpointMixin:
    """Access to the temporal layers of a model, and files that hold nothing else."""

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """
        Iterate over the parameters of the temporal layers.

        Returns:
            Iterator over `torch.nn.Parameter`, in the order of `named_parameters`.
        """
        return (parameter for name, parameter in self.named_parameters() if is_temporal(name))

    def freeze_spatial_layers(self) -> None:
        """
        Let only the temporal layers train: every other parameter stops requiring gradients.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.1: the image model's weights stay fixed.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_temporal(name))

    def _temporal_state_dict(self) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in self.state_dict().items() if is_temporal(name)}

    def save_temporal_layers(self, path: str | os.PathLike) -> Path:
        """
        Save the temporal layers alone.

        Args:
            path (`str` or `os.PathLike`): A file name ending in `.safetensors`, or a folder, in which the file is
                called `temporal_layers.safetensors`. Folders are made; a file of that name is replaced.

        Returns:
            `pathlib.Path`: The file that was written.

        Raises:
            ValueError: If the model has no temporal layers.
        """
        path = _weights_file(path)
        state_dict = {name: tensor.detach().contiguous().cpu() for name, tensor in self._temporal_state_dict().items()}
        if not state_dict:
            raise ValueError("The model has no temporal layers to save: its options switch all of them off.")
        metadata = {"format": "pt", "kind": FORMAT, "options": json.dumps(self.temporal_options)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
            unfinished = Path(folder) / path.name
            safetensors.torch.save_file(state_dict, unfinished, metadata=metadata)
            os.replace(unfinished, path)
        return path

    def load_temporal_layers(self, path: str | os.PathLike, strict: bool = True) -> TemporalLoadReport:
        """
        Load temporal layers that were saved alone, or those of a whole video model's weight file.

        Args:
            path (`str` or `os.PathLike`): A `.safetensors` file, or a folder holding `temporal_layers.safetensors`.
            strict (`bool`, *optional*, defaults to `True`): Refuse a file that does not match the model tensor by
                tensor; with `False` whatever matches in name and shape is loaded, and the report says what does not.

        Returns:
            [`TemporalLoadReport`]: What matched and what did not.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no readable safetensors file, holds no temporal layers, or does not match.
        """
        path = _weights_file(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"`path` must name a file of temporal layers, but {str(path)!r} does not exist. Write one with"
                " `save_temporal_layers`."
            )
        own = self._temporal_state_dict()
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if is_temporal(name)]
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
                report = _compare(shapes, {name: tuple(tensor.shape) for name, tensor in own.items()})
                _check_report(report, path, strict)
                loaded = {name: file.get_tensor(name) for name in report.matched}
        except SafetensorError as error:
            raise ValueError(
                f"`path` must name a whole safetensors file, but {str(path)!r} cannot be read ({error}). Save or"
                " download it again."
            ) from error
        with torch.no_grad():
            for name, tensor in loaded.items():
                own[name].copy_(tensor)
        return report


def _weights_file(path: str | os.PathLike) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / TEMPORAL_WEIGHTS_NAME


def _compare(in_file: dict[str, tuple[int, ...]], in_model: dict[str, tuple[int, ...]]) -> TemporalLoadReport:
    common = [name for name in in_model if name in in_file]
    return TemporalLoadReport(
        matched=[name for name in common if in_file[name] == in_model[name]],
        missing=[name for name in in_model if name not in in_file],
        unexpected=[name for name in in_file if name not in in_model],
        mismatched={name: (in_file[name], in_model[name]) for name in common if in_file[name] != in_model[name]},
    )


def _check_report(report: TemporalLoadReport, path: Path, strict: bool) -> None:
    if not report.matched:
        raise ValueError(
            f"`path` must hold temporal layers of this model, but in {str(path)!r} none fit: {report}. Load it into a"
            " model built with the same options on an image model of the same shape."
        )
    if strict and not report.is_complete:
        raise ValueError(
            f"The temporal layers in {str(path)!r} do not fit this model: {report}. Build the model with the same"
            " options, or pass `strict=False` to load only what matches."
        )
