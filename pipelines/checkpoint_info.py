"""What a checkpoint is: its kind, classes, sizes and options, read from configurations and headers alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import infer_diffusers_model_type

from diffusers_video._registration import with_our_library
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.temporal_checkpoint import FORMAT, TEMPORAL_WEIGHTS_NAME
from diffusers_video.models.unet_video_condition import STRUCTURAL_OPTIONS, matching_preset
from diffusers_video.pipelines.checkpoint_tensors import (
    WEIGHT_SUFFIXES,
    TensorTable,
    read_folder_table,
    read_tensor_table,
)


VIDEO_PIPELINE = "video pipeline"
IMAGE_PIPELINE = "image pipeline"
OTHER_PIPELINE = "pipeline of another kind"
VIDEO_UNET = "video U-Net"
IMAGE_UNET = "image U-Net"
OTHER_MODEL = "model of another kind"
TEMPORAL_LAYERS = "temporal layers"
LORA = "LoRA layers"
IMAGE_FILE = "image model in one file"
SVD_FILE = "Stable Video Diffusion in one file, for `diffusers-video convert`"

VIDEO_UNET_CLASS, IMAGE_UNET_CLASS = "UNetVideoConditionModel", "UNet2DConditionModel"
LORA_WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
COMPONENT_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
_LORA_MARKS = (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.down.", ".lora.up.")
_FILE_PARTS = {  # components of a single file by the beginning of their tensors' names
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
_SVD_MARK = ".time_stack."  # in the names of its temporal layers
_SVD_PARTS = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.", "conditioner.embedders.3."),
    "image_encoder": ("conditioner.embedders.0.",),
}
_UNET_OPTIONS = ("sample_size", "in_channels", "cross_attention_dim")
_SCHEDULER_OPTIONS = ("prediction_type", "rescale_betas_zero_snr")


@dataclass(frozen=True)
class ComponentInfo:
    """
    One part of a checkpoint.

    Args:
        name (`str`): Its name in the pipeline, or the kind of the checkpoint where that has one part.
        class_name (`str`, *optional*): Its class, as far as the checkpoint says.
        bytes_on_disk (`int`): Size of its files, all variants.
        num_parameters (`int`): Its parameters; 0 for a part without weights.
        num_temporal_parameters (`int`): Those of them in temporal layers.
        dtypes (`dict[str, int]`): Parameters by type.
        config (`dict[str, Any]`): Its configuration; empty where the checkpoint holds none.
    """

    name: str
    class_name: str | None
    bytes_on_disk: int
    num_parameters: int = 0
    num_temporal_parameters: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class CheckpointInfo:
    """
    What a checkpoint is.

    Args:
        path (`Path`): Where it lies.
        kind (`str`): One of the kinds that this module names, such as `"video pipeline"`.
        class_name (`str`, *optional*): Class of the whole, as far as the checkpoint says.
        components (`tuple[ComponentInfo, ...]`): Its parts.
        bytes_on_disk (`int`): Size of all its files.
        options (`dict[str, Any]`): What sampling depends on, by name: preset, prediction type, frames, fps and so on.
    """

    path: Path
    kind: str
    class_name: str | None
    components: tuple[ComponentInfo, ...]
    bytes_on_disk: int
    options: dict[str, Any]

    @property
    def num_parameters(self) -> int:
        """Parameters of all components."""
        return sum(component.num_parameters for component in self.components)

    def component(self, name: str) -> ComponentInfo | None:
        """
        Find a component.

        Args:
            name (`str`): Its name in the pipeline.

        Returns:
            [`ComponentInfo`] or `None`.
        """
        return next((component for component in self.components if component.name == name), None)


def describe_checkpoint(path: str | Path) -> CheckpointInfo:
    """
    Tell what a checkpoint is, without loading weights.

    Args:
        path (`str` or `Path`): Folder of a saved pipeline or model, or a weight file: an image model, temporal layers
            or LoRA layers.

    Returns:
        [`CheckpointInfo`]

    Raises:
        FileNotFoundError: If there is nothing at `path`, or files that a folder must hold are missing.
        ValueError: If a file is damaged, or is no checkpoint of a known kind.
    """
    path = Path(path)
    if path.is_file():
        return _describe_file(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"`path` must be a folder or a weight file, but '{path}' does not exist. A model of the Hub is fetched by"
            " `hf download`, which prints its folder."
        )
    if (path / "model_index.json").is_file():
        return _describe_pipeline(path)
    if (path / "config.json").is_file():
        return _describe_model(path)
    for name in (TEMPORAL_WEIGHTS_NAME, LORA_WEIGHTS_NAME):
        if (path / name).is_file():
            return _describe_file(path / name)
    raise ValueError(
        f"`path` must be a checkpoint, but the folder '{path}' has neither model_index.json, nor config.json, nor"
        f" {TEMPORAL_WEIGHTS_NAME}, nor {LORA_WEIGHTS_NAME}."
    )


def _describe_pipeline(folder: Path) -> CheckpointInfo:
    index = with_our_library(read_json(folder / "model_index.json"))
    components = tuple(
        _describe_component(name, value[1], folder / name)
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and value[1] is not None
    )
    classes = {component.name: component.class_name for component in components}
    kind = {VIDEO_UNET_CLASS: VIDEO_PIPELINE, IMAGE_UNET_CLASS: IMAGE_PIPELINE}.get(
        classes.get("unet"), OTHER_PIPELINE
    )
    names = ("num_frames", "fps", "noise_prior", "noise_prior_strength")
    options = {name: index[name] for name in names if name in index}
    for component in components:
        options |= _options_of(component.class_name, component.name, component.config)
    class_name = index.get("_class_name")
    return CheckpointInfo(folder, kind, class_name, components, _size(folder), options)


def _describe_component(name: str, class_name: str, folder: Path) -> ComponentInfo:
    config_file = next((folder / file for file in COMPONENT_CONFIGS if (folder / file).is_file()), None)
    if config_file is None:
        raise FileNotFoundError(
            f"'{folder.parent}' must hold a folder '{name}' with the {class_name} that its model_index.json lists, but"
            " has none that is complete. Save or fetch the pipeline again."
        )
    config = read_json(config_file)
    if config_file.name != "config.json":
        return ComponentInfo(name, class_name, _size(folder), config=config)
    return _component(name, class_name, _size(folder), read_folder_table(folder), config)


def _describe_model(folder: Path) -> CheckpointInfo:
    config = read_json(folder / "config.json")
    class_name = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    kind = {VIDEO_UNET_CLASS: VIDEO_UNET, IMAGE_UNET_CLASS: IMAGE_UNET}.get(class_name, OTHER_MODEL)
    name = "unet" if kind in (VIDEO_UNET, IMAGE_UNET) else "model"
    component = _component(name, class_name, _size(folder), read_folder_table(folder), config)
    options = _options_of(class_name, name, config)
    return CheckpointInfo(folder, kind, class_name, (component,), _size(folder), options)


def _describe_file(path: Path) -> CheckpointInfo:
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ValueError(f"`path` must be a weight file, ending in one of {WEIGHT_SUFFIXES}, but is '{path}'.")
    table = read_tensor_table(path)
    size = path.stat().st_size
    kind, options = _kind_of_file(table)
    if kind is None:
        raise ValueError(
            f"`path` must be a checkpoint of a known kind, but the {len(table.entries)} tensors in '{path}'"
            f" ({list(table.entries)[:3]}, ...) belong to none."
        )
    components = (_component(kind, None, size, table, {}),)
    if kind in (IMAGE_FILE, SVD_FILE):
        options = {"family": infer_diffusers_model_type(table.entries)} if kind == IMAGE_FILE else {}
        file_parts = _FILE_PARTS if kind == IMAGE_FILE else _SVD_PARTS
        parts = {name: table.select(prefixes) for name, prefixes in file_parts.items()}
        components = tuple(_component(name, None, 0, part, {}) for name, part in parts.items() if part.entries)
    return CheckpointInfo(path, kind, None, components, size, options)


def _kind_of_file(table: TensorTable) -> tuple[str | None, dict[str, Any]]:
    names = table.entries
    if table.metadata.get("kind") == FORMAT:
        options = json.loads(table.metadata.get("options", "{}"))
        return TEMPORAL_LAYERS, {"preset": matching_preset(options), **options}
    if any(mark in name for name in names for mark in _LORA_MARKS):
        ranks = {
            min(entry.shape[:2]) for name, entry in names.items() if len(entry.shape) > 1 and "lora" in name.lower()
        }
        return LORA, {"rank": sorted(ranks)}
    if any(name.startswith(_FILE_PARTS["unet"]) for name in names):
        return (SVD_FILE if any(_SVD_MARK in name for name in names) else IMAGE_FILE), {}
    if "conv_in.weight" in names and any(name.startswith("time_embedding.") for name in names):
        return (VIDEO_UNET if any(map(is_temporal, names)) else IMAGE_UNET), {}
    return (TEMPORAL_LAYERS, {}) if names and all(map(is_temporal, names)) else (None, {})


def _component(
    name: str, class_name: str | None, size: int, table: TensorTable, config: dict[str, Any]
) -> ComponentInfo:
    temporal = table.count_parameters(is_temporal)
    return ComponentInfo(
        name, class_name, size, table.count_parameters(), temporal, table.parameters_by_dtype(), config
    )


def _options_of(class_name: str | None, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    if class_name == VIDEO_UNET_CLASS:
        temporal = {key: config[key] for key in (*STRUCTURAL_OPTIONS, "added_time_ids") if key in config}
        spatial = {key: config[key] for key in _UNET_OPTIONS if key in config}
        return {"preset": matching_preset(config), **temporal, **spatial}
    if class_name == IMAGE_UNET_CLASS:
        return {key: config[key] for key in _UNET_OPTIONS if key in config}
    if name == "scheduler":
        return {"scheduler": class_name, **{key: config[key] for key in _SCHEDULER_OPTIONS if config.get(key)}}
    return {}


def check_pipeline_folder(folder: str | Path) -> CheckpointInfo:
    """
    Refuse a folder that is not a complete video pipeline of ours.

    Args:
        folder (`str` or `Path`): Folder that `save_pretrained` of one of our pipelines wrote.

    Returns:
        [`CheckpointInfo`]: What it holds.

    Raises:
        FileNotFoundError: If it does not exist, or a component or its weights are missing.
        ValueError: If it holds something else, or a file is truncated or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"`folder` must be the folder of a saved pipeline, but '{folder}' is no folder.")
    if not (folder / "model_index.json").is_file():
        raise ValueError(
            f"`folder` must hold a saved pipeline, but '{folder}' has no model_index.json. Pass the folder that a"
            " pipeline's `save_pretrained` wrote."
        )
    info = _describe_pipeline(folder)
    if info.kind != VIDEO_PIPELINE:
        raise ValueError(
            f"`folder` must hold a video pipeline, but '{folder}' holds a {info.class_name} ({info.kind})."
        )
    return info


def read_json(path: Path) -> dict[str, Any]:
    """
    Read a configuration.

    Args:
        path (`Path`): A JSON file.

    Returns:
        `dict[str, Any]`

    Raises:
        ValueError: If it holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' must be valid JSON, but is not ({error}). Save or fetch it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' must hold a JSON object, but holds {type(content).__name__}. Save it again.")
    return content


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
