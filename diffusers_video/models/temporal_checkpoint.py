"""Saving and loading the temporal layers alone: a small file that fits any image model of the same shape."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers.models.attention_processor import Attention
from safetensors import SafetensorError, safe_open
from torch import nn

from ..layers.video_layers import is_temporal


TEMPORAL_WEIGHTS_NAME = "temporal_layers.safetensors"
FORMAT = "diffusers_video.temporal_layers"
FREE_OPTIONS = ("temporal_max_distance", "decode_chunk_size", "decode_chunk_overlap")  # any weights go with any value
UNET_CLASS = "UNetVideoConditionModel"


@dataclass(frozen=True)
class TemporalLoadReport:
    """
    What [`UNetVideoConditionModel.load_temporal_layers`] found.

    Args:
        matched (`list[str]`): Tensors that were loaded.
        missing (`list[str]`): Temporal tensors of the model that the file does not hold; they keep their values.
        unexpected (`list[str]`): Tensors of the file that the model does not have.
        mismatched (`dict[str, tuple]`): Tensors of another shape, as name to (shape in the file, shape in the model).
        options (`dict[str, tuple]`, *optional*, defaults to `{}`): Options that differ, as name to (in the file, in
            the model), as far as the file says. Equal tensors mean something else under other options.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    options: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether file and model hold exactly the same temporal tensors, under the same options."""
        return not (self.missing or self.unexpected or self.mismatched or self.options)

    def __str__(self) -> str:
        differences = [*self.options.items(), *((f"`{name}`", shapes) for name, shapes in self.mismatched.items())]
        shown = [f"{name} is {one} in the file and {other} in the model" for name, (one, other) in differences[:4]]
        counts = (
            f"{len(self.matched)} tensors matched, {len(self.missing)} missing from the file {self.missing[:3]},"
            f" {len(self.unexpected)} unknown to the model {self.unexpected[:3]}, {len(self.mismatched)} of another"
            " shape"
        )
        return "; ".join([*shown, counts])


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

    @classmethod
    def preset_of(cls, options: Mapping[str, Any]) -> str | None:
        """
        Find the preset with given options.

        Args:
            options (`Mapping[str, Any]`): Those of [`temporal_options`], or a whole configuration.

        Returns:
            `str` or `None`: Its name; `None` where the options are those of no preset.
        """
        return None

    def _temporal_heads(self) -> dict[str, int]:
        """Heads of the temporal attention layers, which the shapes of their weights do not tell."""
        layers = ((name, module) for name, module in self.named_modules() if isinstance(module, Attention))
        return {name: module.heads for name, module in layers if is_temporal(name)}

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
        metadata = {"format": "pt", "kind": FORMAT, "model": type(self).__name__}
        metadata |= {"options": json.dumps(self.temporal_options, sort_keys=True)}
        metadata |= {"heads": json.dumps(self._temporal_heads(), sort_keys=True)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
            unfinished = Path(folder) / path.name
            safetensors.torch.save_file(state_dict, unfinished, metadata=metadata)
            _sort_metadata(unfinished)
            os.replace(unfinished, path)
        return path

    def load_temporal_layers(self, path: str | os.PathLike, strict: bool = True) -> TemporalLoadReport:
        """
        Load temporal layers that were saved alone, or those of a whole video model's weight file.

        Args:
            path (`str` or `os.PathLike`): A `.safetensors` file, or a folder holding `temporal_layers.safetensors`.
            strict (`bool`, *optional*, defaults to `True`): Refuse a file that does not match the model tensor by
                tensor, or was saved from a model of other options or heads of attention; with `False` whatever
                matches in name and shape is loaded, and the report says what does not. `temporal_max_distance` may
                always differ.

        Returns:
            [`TemporalLoadReport`]: What matched and what did not.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no readable safetensors file, holds no temporal layers, or does not match.
        """
        own = self._temporal_state_dict()
        with _opened(path) as file:
            names = [name for name in file.keys() if is_temporal(name)]
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            options = self._differing_options(file.metadata() or {})
            report = _compare(shapes, {name: tuple(tensor.shape) for name, tensor in own.items()}, options)
            self._check_report(report, path, file.metadata() or {}, strict)
            loaded = {name: file.get_tensor(name) for name in report.matched}
        with torch.no_grad():
            for name, tensor in loaded.items():
                own[name].copy_(tensor)
        return report

    def _differing_options(self, metadata: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
        """Options of file and model that differ; a file that says nothing, such as that of a whole model, has none."""
        sides = [
            (json.loads(metadata.get("options", "{}")), json.loads(json.dumps(self.temporal_options))),
            (json.loads(metadata.get("heads", "{}")), self._temporal_heads()),
        ]
        names = ("`{}`", "the number of heads of `{}`")
        return {
            shown.format(name): (in_file[name], in_model[name])
            for shown, (in_file, in_model) in zip(names, sides, strict=True)
            for name in in_model
            if name in in_file and in_file[name] != in_model[name] and name not in FREE_OPTIONS
        }

    def _check_report(
        self, report: TemporalLoadReport, path: str | os.PathLike, metadata: Mapping[str, str], strict: bool
    ) -> None:
        has_fit = bool(report.matched)
        if has_fit and (report.is_complete or not strict):
            return
        of_model, of_file = (
            self.preset_of(options) for options in (self.temporal_options, json.loads(metadata.get("options", "{}")))
        )
        presets = ""
        if "options" in metadata and of_file != of_model:
            presets = f"they are of preset {of_file!r}, and the model is of preset {of_model!r}; "
        other = metadata.get("model", type(self).__name__)
        if other != type(self).__name__:
            presets = f"they are those of a `{other}`, and this is a `{type(self).__name__}`; "
        if not has_fit:
            raise ValueError(
                f"`path` must hold temporal layers of this model, but in {str(path)!r} none fit: {presets}{report}."
                " Load it into a model built with the same options on an image model of the same shape."
            )
        raise ValueError(
            f"The temporal layers in {str(path)!r} do not fit this model: {presets}{report}. Build the model on an"
            " image model of the same shape with the options of the file, as a pipeline's `from_image_model` does with"
            " `temporal_layers`, or pass `strict=False` to load only what matches."
        )


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file, whose order is that of chance, in order: equal weights, equal files."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        file.seek(8)
        file.write(text.ljust(length))


def read_temporal_options(path: str | os.PathLike) -> dict[str, Any]:
    """
    Read the options of the video U-Net that a file of temporal layers was saved from.

    Args:
        path (`str` or `os.PathLike`): A `.safetensors` file, or a folder holding `temporal_layers.safetensors`.

    Returns:
        `dict[str, Any]`: Options for [`UNetVideoConditionModel.from_unet2d`].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no readable file of temporal layers, or those are not of a U-Net.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if metadata.get("kind") != FORMAT:
        raise ValueError(
            f"`path` must name a file that `save_temporal_layers` wrote, but {str(path)!r} does not say what its"
            " tensors are. For the weights of a whole video model: `UNetVideoConditionModel.from_pretrained(...)"
            ".save_temporal_layers(path)` first."
        )
    if metadata.get("model", UNET_CLASS) != UNET_CLASS:
        raise ValueError(
            f"`path` must hold temporal layers of a `{UNET_CLASS}`, but {str(path)!r} holds those of a"
            f" `{metadata['model']}`."
        )
    return json.loads(metadata["options"])


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
    path = _weights_file(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`path` must name a file of temporal layers, but {str(path)!r} does not exist. Write one with"
            " `save_temporal_layers`."
        )
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"`path` must name a whole safetensors file, but {str(path)!r} cannot be read ({error}). Save or download"
            " it again."
        ) from error


def _weights_file(path: str | os.PathLike) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / TEMPORAL_WEIGHTS_NAME


def _compare(
    in_file: dict[str, tuple[int, ...]],
    in_model: dict[str, tuple[int, ...]],
    options: dict[str, tuple[Any, Any]],
) -> TemporalLoadReport:
    common = [name for name in in_model if name in in_file]
    return TemporalLoadReport(
        matched=[name for name in common if in_file[name] == in_model[name]],
        missing=[name for name in in_model if name not in in_file],
        unexpected=[name for name in in_file if name not in in_model],
        mismatched={name: (in_file[name], in_model[name]) for name in common if in_file[name] != in_model[name]},
        options=options,
    )
