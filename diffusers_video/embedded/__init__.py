"""
The models inside the package: where their files are, how they sample best, and how they are loaded.

Importing this module loads nothing else. Weights that tasks share are stored once, in `SHAPES_MODEL`; key-frame
prediction, interpolation and the decoder of videos are files of temporal layers beside it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, DiffusionPipeline

    from diffusers_video.models.autoencoder_kl_video import AutoencoderKLVideo
    from diffusers_video.models.unet_video_condition import UNetVideoConditionModel


EMBEDDED_FOLDER = Path(__file__).parent
SHAPES_MODEL = EMBEDDED_FOLDER / "shapes"
SHAPES_STEPS = 25
SHAPES_GUIDANCE = 3.0
SHAPES_UPSCALING_STEPS = 4

# What it was trained on, as arguments of `ShapesDataset`.
SHAPES_SUBSET = {
    "shapes": ["circle", "square", "triangle", "star"],
    "colours": ["red", "orange", "yellow", "green", "blue", "purple"],
    "motions": ["left", "right", "up", "down", "grows", "shrinks"],
}

# Folders and the file that makes each complete, by the stage of `examples/shapes/recipe.py` that trains it.
SHAPES_PARTS = {
    "text_to_video": ("shapes", "model_index.json"),
    "key_frames": ("shapes_key_frames", "settings.json"),
    "interpolation": ("shapes_interpolation", "settings.json"),
    "decoder": ("shapes_decoder", "settings.json"),
    "super_resolution": ("shapes_super_resolution", "model_index.json"),
}
SHAPES_TASKS = {
    "text-to-video": ("text_to_video",),
    "key-frames": ("text_to_video", "key_frames"),
    "interpolation": ("text_to_video", "interpolation"),
    "super-resolution": ("super_resolution",),
    "long": ("text_to_video", "key_frames", "interpolation"),
}


def find_shapes_part(part: str, folder: str | os.PathLike | None = None) -> Path:
    """
    Find the files of a part.

    Args:
        part (`str`): A key of `SHAPES_PARTS`.
        folder (`str` or `os.PathLike`, *optional*): Where the parts lie; by default in the package.

    Returns:
        `pathlib.Path`: Its folder.

    Raises:
        FileNotFoundError: If the part is not there.
    """
    name, last = SHAPES_PARTS[part]
    path = Path(EMBEDDED_FOLDER if folder is None else folder) / name
    if not (path / last).is_file():
        raise FileNotFoundError(
            f"The model of the stage {part!r} must lie in {str(path)!r}, but is not there: this copy of the package"
            f" has no trained weights of it. Train it by `python examples/shapes/recipe.py --stages {part}`, and put"
            " it there by `python examples/shapes/export.py`."
        )
    return path


def read_shapes_settings(part: str, folder: str | os.PathLike | None = None) -> dict[str, Any]:
    """
    Read the settings of a part that is stored as temporal layers.

    Args:
        part (`str`): `"key_frames"`, `"interpolation"` or `"decoder"`.
        folder (`str` or `os.PathLike`, *optional*): See [`find_shapes_part`].

    Returns:
        `dict[str, Any]`: `_class_name`, and arguments of that class.

    Raises:
        FileNotFoundError: If the part is not there.
    """
    path = find_shapes_part(part, folder) / SHAPES_PARTS[part][1]
    return json.loads(path.read_text(encoding="utf-8"))


def load_shapes_pipeline(
    task: str = "text-to-video",
    *,
    dtype: torch.dtype | None = None,
    temporal_decoder: bool = False,
    folder: str | os.PathLike | None = None,
) -> DiffusionPipeline:
    """
    Load the pipeline of a task.

    Args:
        task (`str`, *optional*, defaults to `"text-to-video"`): `"text-to-video"`, `"key-frames"`, `"interpolation"`,
            `"super-resolution"` or `"long"`.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Type of the weights, which are stored in
            float16.
        temporal_decoder (`bool`, *optional*, defaults to `False`): Whether frames are decoded by the decoder with
            temporal layers; not for `"super-resolution"`, which works on pixels.
        folder (`str` or `os.PathLike`, *optional*): Where the parts lie, as `examples/shapes/export.py` writes them;
            by default in the package.

    Returns:
        `DiffusionPipeline`: [`TextToVideoPipeline`], [`KeyFramePredictionPipeline`],
        [`FrameInterpolationPipeline`], [`VideoSuperResolutionPipeline`] or [`LongVideoPipeline`], the last one
        without super-resolution.

    Raises:
        FileNotFoundError: If a part that the task needs is not there.
        ValueError: If there is no such task, or `temporal_decoder` has no effect on it.
    """
    if task not in SHAPES_TASKS:
        raise ValueError(f"`task` must be one of {tuple(SHAPES_TASKS)}, but is {task!r}. Choose one of them.")
    if temporal_decoder and task == "super-resolution":
        raise ValueError("`temporal_decoder` has no effect on 'super-resolution', which has no decoder. Leave it out.")
    names = (*SHAPES_TASKS[task], *(("decoder",) if temporal_decoder else ()))
    parts = {name: find_shapes_part(name, folder) for name in names}

    import torch

    from diffusers_video import LongVideoPipeline, TextToVideoPipeline, VideoSuperResolutionPipeline

    dtype = torch.float32 if dtype is None else dtype  # text encoders come in the type of their file otherwise
    if task == "super-resolution":
        return VideoSuperResolutionPipeline.from_pretrained(parts["super_resolution"], dtype=dtype)
    pipeline = TextToVideoPipeline.from_pretrained(parts["text_to_video"], dtype=dtype)
    if temporal_decoder:
        pipeline.vae = _load_decoder(pipeline.vae, parts["decoder"], read_shapes_settings("decoder", folder))
    stages = [
        _turn_to(pipeline, parts[name], read_shapes_settings(name, folder))
        for name in ("key_frames", "interpolation")
        if name in parts
    ]
    if task == "long":
        return LongVideoPipeline.from_pipelines(*stages)
    return stages[0] if stages else pipeline


def _turn_to(pipeline: DiffusionPipeline, path: Path, settings: dict[str, Any]) -> DiffusionPipeline:
    """A pipeline of another task, with temporal layers of its own; all other components are shared."""
    import diffusers_video

    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    components = {"unet": _exchange_temporal_layers(pipeline.unet, path), "scheduler": scheduler}
    components["vae"] = pipeline.vae  # by name: `from_pipe` itself takes over no subclass of what it expects
    return getattr(diffusers_video, settings.pop("_class_name")).from_pipe(pipeline, **components, **settings)


def _exchange_temporal_layers(unet: UNetVideoConditionModel, path: Path) -> UNetVideoConditionModel:
    from diffusers_video.models.temporal_checkpoint import read_temporal_options

    model = type(unet).from_unet2d(unet.to_image_model(), **read_temporal_options(path))
    model.load_temporal_layers(path)
    return model


def _load_decoder(vae: AutoencoderKL, path: Path, settings: dict[str, Any]) -> AutoencoderKLVideo:
    import diffusers_video

    video_class = getattr(diffusers_video, settings.pop("_class_name"))
    video_vae = video_class.from_autoencoder_kl(vae, **settings)
    video_vae.load_temporal_layers(path)
    return video_vae
