"""Checkpoints of Stable Video Diffusion, as published or in diffusers' layout -> [`ImageToVideoPipeline`]."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    ModelMixin,
    SchedulerMixin,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from diffusers.models.modeling_utils import no_init_weights
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from ..layers.clip_embedding import ADDED_TIME_IDS
from ..layers.weights import NAMES_SHOWN
from ..models.autoencoder_kl_video import AutoencoderKLVideo
from ..models.unet_video_condition import UNetVideoConditionModel
from ..pipelines.checkpoint_info import read_json
from ..pipelines.checkpoint_tensors import (
    WEIGHT_SUFFIXES,
    TensorTable,
    find_weight_files,
    read_tensor_table,
    read_tensors,
)
from ..pipelines.checks import check_integer
from ..pipelines.image_to_video import ImageToVideoPipeline
from ..pipelines.scheduling import check_sigma_scheduler
from . import svd_original
from .spatio_temporal_unet import rename_spatio_temporal_unet, spatio_temporal_options
from .temporal_decoder import convert_temporal_decoder
from .weights import build_model


Progress = Callable[[int, int], None]

TRAINED_SIZE = (576, 1024)  # pixels; what the published pipeline makes unless told otherwise
TRAINED_NUM_FRAMES = 14
NUM_PARTS = 4  # three models and the writing: what progress is counted in
SCHEDULER = {  # as Stability AI publishes it: EDM's noise levels, and v-prediction
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "interpolation_type": "linear",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}
_WAYS_OUT = {  # by class of the U-Net
    UNet2DConditionModel.__name__: "A video model is made of an image model by `TextToVideoPipeline.from_image_model`",
    UNetVideoConditionModel.__name__: "It is a pipeline of this library already: load it with `from_pretrained`",
}
_POSITION_IDS = "vision_model.embeddings.position_ids"  # a table of integers that older files carry


def convert_stable_video_diffusion(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    num_frames: int | None = None,
    progress: Progress | None = None,
) -> None:
    """
    Convert a checkpoint and save it, as a folder that [`ImageToVideoPipeline.from_pretrained`] loads.

    Args:
        source (`str` or `os.PathLike`): See [`load_stable_video_diffusion`].
        output (`str` or `os.PathLike`): Folder to write, new or empty. It appears when it is complete.
        dtype (`torch.dtype`, *optional*): See [`load_stable_video_diffusion`].
        variant (`str`, *optional*): Likewise.
        num_frames (`int`, *optional*): Likewise.
        progress (`Callable[[int, int], None]`, *optional*): Called with the parts that are done, and their number.

    Raises:
        FileExistsError: If there is something at `output`.
        FileNotFoundError, TypeError, ValueError: See [`load_stable_video_diffusion`].
    """
    output = Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise FileExistsError(f"`output` must be a new or empty folder, but '{output}' exists. Choose another name.")
    pipeline = load_stable_video_diffusion(
        source, dtype=dtype, variant=variant, num_frames=num_frames, progress=progress
    )
    pipeline.save_pretrained(output)
    _show(progress, NUM_PARTS)


def load_stable_video_diffusion(
    source: str | os.PathLike,
    *,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    num_frames: int | None = None,
    progress: Progress | None = None,
) -> ImageToVideoPipeline:
    """
    Make a pipeline of a checkpoint of Stable Video Diffusion.

    Args:
        source (`str` or `os.PathLike`): Folder of a `StableVideoDiffusionPipeline` of diffusers, in one file or in
            shards, or the single file of the original checkpoint. Pickles are read without running code.
        dtype (`torch.dtype`, *optional*): Floating-point type of the models; by default that of the checkpoint.
        variant (`str`, *optional*): Variant of a folder's weight files, such as `"fp16"`; by default the plain one,
            or the only one there is.
        num_frames (`int`, *optional*): Frames of a video unless a call says otherwise; by default those that a folder
            names, and 14 for a single file, which does not tell (the XT checkpoints were trained with 25).
        progress (`Callable[[int, int], None]`, *optional*): Called with the parts that are done, and their number.

    Returns:
        [`ImageToVideoPipeline`]: On the CPU.

    Raises:
        FileNotFoundError: If `source` does not exist, or files of it are missing.
        TypeError: If `num_frames` is no integer, or `dtype` no floating-point type.
        ValueError: If `source` is something else, is damaged, or weights are missing or left over.

    Source:
        Stable Video Diffusion (arXiv:2311.15127), and the configurations published with it.
    """
    source = Path(source)
    if num_frames is not None:
        check_integer("num_frames", num_frames)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"`dtype` must be a floating-point type of PyTorch, but is {dtype!r}.")
    if not source.exists():
        raise FileNotFoundError(
            f"`source` must be a folder or a file, but '{source}' does not exist. A model of the Hub is fetched by"
            " `hf download`, which prints its folder."
        )
    if source.is_file() and variant is not None:
        raise ValueError(f"`variant` has no effect on a single file, but is {variant!r}. Leave it out.")
    parts = _read_folder(source, variant) if source.is_dir() else _read_original(source)
    check_sigma_scheduler(parts.scheduler)
    models = {}
    for done, (name, build) in enumerate(parts.models.items(), start=1):
        models[name] = build()
        if dtype is not None:
            models[name] = nn.Module.to(models[name], dtype=dtype)
        _show(progress, done)
    return ImageToVideoPipeline(
        **models,
        scheduler=parts.scheduler,
        feature_extractor=parts.feature_extractor,
        num_frames=num_frames or parts.num_frames,
    )


@dataclass(frozen=True)
class _Parts:
    models: dict[str, Callable[[], nn.Module]]  # by name in the pipeline; each reads its weights when it is called
    scheduler: SchedulerMixin
    feature_extractor: CLIPImageProcessor
    num_frames: int


def _read_folder(folder: Path, variant: str | None) -> _Parts:
    index = _check_folder(folder)
    unet, vae, image_encoder = (folder / name for name in ("unet", "vae", "image_encoder"))
    files = {part: find_weight_files(part, variant) for part in (unet, vae, image_encoder)}
    unet_config = _complete_config(UNetSpatioTemporalConditionModel, unet)
    vae_config = _complete_config(AutoencoderKLTemporalDecoder, vae)
    options = _with_trained_size(spatio_temporal_options(unet_config), vae_config["block_out_channels"])

    def build_vae() -> nn.Module:
        build = partial(AutoencoderKLTemporalDecoder.from_config, vae_config)
        return convert_temporal_decoder(build_model(build, _read_all(files[vae]), str(vae)))

    def build_unet() -> nn.Module:
        weights = rename_spatio_temporal_unet(_read_all(files[unet]))
        return build_model(partial(UNetVideoConditionModel, **options), weights, str(unet))

    def build_image_encoder() -> nn.Module:
        config = CLIPVisionConfig.from_pretrained(image_encoder)
        weights = _read_all(files[image_encoder])
        weights.pop(_POSITION_IDS, None)
        return build_model(partial(CLIPVisionModelWithProjection, config), weights, str(image_encoder))

    return _Parts(
        models={"vae": build_vae, "unet": build_unet, "image_encoder": build_image_encoder},
        scheduler=getattr(diffusers, index["scheduler"][1]).from_pretrained(folder / "scheduler"),
        feature_extractor=CLIPImageProcessor.from_pretrained(folder / "feature_extractor"),
        num_frames=unet_config["num_frames"],
    )


def _check_folder(folder: Path) -> dict[str, Any]:
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"`source` must be the folder of a saved pipeline, or one file, but the folder '{folder}' has no"
            " model_index.json."
        )
    index = read_json(folder / "model_index.json")
    unet_class = (index.get("unet") or (None, None))[1]
    if unet_class != UNetSpatioTemporalConditionModel.__name__:
        name = index.get("_class_name")
        way_out = _WAYS_OUT.get(unet_class, "Nothing is known to convert it")
        raise ValueError(f"`source` must be a Stable Video Diffusion pipeline, but '{folder}' is a {name}. {way_out}.")
    for name in ("unet", "vae", "image_encoder", "scheduler", "feature_extractor"):
        if name not in index or not (folder / name).is_dir():
            raise FileNotFoundError(f"'{folder}' must hold a folder '{name}', but has none. Fetch the pipeline again.")
    if not hasattr(diffusers, str(index["scheduler"][1])):
        raise ValueError(f"`source` must have a scheduler of diffusers, but '{folder}' names {index['scheduler']}.")
    return index


def _complete_config(model_class: type[ModelMixin], folder: Path) -> dict[str, Any]:
    with no_init_weights(), init_empty_weights():
        return dict(model_class.from_config(read_json(folder / "config.json")).config)


def _read_all(files: Iterable[Path]) -> dict[str, Tensor]:
    return {name: tensor for file in files for name, tensor in read_tensors(file).items()}


def _with_trained_size(options: dict[str, Any], vae_widths: Sequence[int]) -> dict[str, Any]:
    factor = 2 ** (len(vae_widths) - 1)
    return {**options, "sample_size": tuple(pixels // factor for pixels in TRAINED_SIZE)}


def _read_original(path: Path) -> _Parts:
    shapes = {name: entry.shape for name, entry in _check_original(path).entries.items()}
    unet, vae, image_encoder = (
        svd_original.select(shapes, part) for part in (svd_original.UNET, svd_original.VAE, svd_original.IMAGE_ENCODER)
    )
    try:
        vae_options = svd_original.vae_options(vae)
        unet_options = _with_trained_size(svd_original.unet_options(unet), vae_options["block_out_channels"])
        vision = svd_original.image_encoder_options(image_encoder)
    except KeyError as error:
        raise ValueError(
            f"`source` must hold U-Net, autoencoder and image encoder, but '{path}' lacks the weight {error}. Fetch"
            " the whole checkpoint as it was published."
        ) from error
    tensors = cache(lambda: read_tensors(path))

    def part_builder(
        build: Callable[[], nn.Module], part: tuple, rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    ) -> Callable[[], nn.Module]:
        return lambda: build_model(build, rename(svd_original.select(tensors(), part)), str(path))

    size = vision["image_size"]
    return _Parts(
        models={
            "vae": part_builder(
                partial(AutoencoderKLVideo, **vae_options), svd_original.VAE, svd_original.vae_weights
            ),
            "unet": part_builder(
                partial(UNetVideoConditionModel, **unet_options), svd_original.UNET, svd_original.unet_weights
            ),
            "image_encoder": part_builder(
                partial(CLIPVisionModelWithProjection, CLIPVisionConfig(**vision)),
                svd_original.IMAGE_ENCODER,
                svd_original.image_encoder_weights,
            ),
        },
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
        num_frames=TRAINED_NUM_FRAMES,
    )


def _check_original(path: Path) -> TensorTable:
    """Tell from the header of a file whether it is what can be converted."""
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ValueError(f"`source` must be a folder, or a file ending in one of {WEIGHT_SUFFIXES}, but is '{path}'.")
    table = read_tensor_table(path)
    unet = svd_original.select(table.entries, svd_original.UNET)
    wrong = None
    if not unet:
        wrong = "holds no U-Net under the names of the original code. Pass the folder of the pipeline it belongs to"
    elif not any(svd_original.TEMPORAL_MARK in name for name in unet):
        wrong = f"is an image model: its U-Net has no temporal layers. {_WAYS_OUT[UNet2DConditionModel.__name__]}"
    elif _has_other_inputs({name: entry.shape for name, entry in unet.items()}):
        wrong = "is another model of the family, with other inputs than an image, frame rate, motion and noise"
    if wrong is not None:
        raise ValueError(
            f"`source` must be an image-to-video checkpoint of Stable Video Diffusion, but '{path}' {wrong}."
        )
    if strangers := svd_original.left_over(table.entries):
        raise ValueError(
            f"'{path}' must hold an image-to-video checkpoint of Stable Video Diffusion and no more, but"
            f" {len(strangers)} weights are left over: {', '.join(map(repr, strangers[:NAMES_SHOWN]))}."
        )
    return table


def _has_other_inputs(unet: Mapping[str, tuple[int, ...]]) -> bool:
    widths = [unet.get(name, (0, 0)) for name in ("input_blocks.0.0.weight", "out.2.weight", "label_emb.0.0.weight")]
    return widths[0][1] != 2 * widths[1][0] or widths[2][1] % len(ADDED_TIME_IDS) != 0 or widths[2][1] == 0


def _show(progress: Progress | None, done: int) -> None:
    if progress is not None:
        progress(done, NUM_PARTS)
