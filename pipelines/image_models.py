"""From an image pipeline of diffusers to a video pipeline."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers import (
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders import FromSingleFileMixin
from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint
from transformers import CLIPTextModel, CLIPTokenizer

from diffusers_video.models.temporal_checkpoint import read_temporal_options
from diffusers_video.models.unet_video_condition import (
    DEFAULT_PRESET,
    PRESETS,
    UNetVideoConditionModel,
    matching_preset,
)
from diffusers_video.pipelines.checks import check_integer, check_number
from diffusers_video.pipelines.model_checks import check_components


SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
SINGLE_FILE_CLASSES = {
    "v1": StableDiffusionPipeline,
    "v2": StableDiffusionPipeline,
    "inpainting": StableDiffusionPipeline,
    "inpainting_v2": StableDiffusionPipeline,
    "xl_base": StableDiffusionXLPipeline,
    "xl_inpaint": StableDiffusionXLPipeline,
    "playground-v2-5": StableDiffusionXLPipeline,
}
_FIRST_CONVOLUTION = "model.diffusion_model.input_blocks.0.0.weight"
_REQUIRED = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
_OPTIONAL = ("text_encoder_2", "tokenizer_2", "image_encoder", "feature_extractor", "controlnet", "low_res_scheduler")
_SETTINGS = ("force_zeros_for_empty_prompt", "max_noise_level")


class ImageModelMixin(FromSingleFileMixin):
    """Constructors of a video pipeline from an image model; stands before `DiffusionPipeline` among the bases."""

    single_file_classes: ClassVar[dict[str, type[DiffusionPipeline]]] = SINGLE_FILE_CLASSES

    @classmethod
    def from_image_model(
        cls,
        model: str | os.PathLike | DiffusionPipeline,
        preset: str | None = None,
        *,
        temporal_options: dict[str, Any] | None = None,
        temporal_layers: str | os.PathLike | None = None,
        temporal_text_encoder: CLIPTextModel | None = None,
        temporal_tokenizer: CLIPTokenizer | None = None,
        num_frames: int = 16,
        fps: float = 8.0,
        **load_options: Any,
    ) -> DiffusionPipeline:
        """
        Make a video pipeline of an image pipeline. Until its temporal layers are trained it draws every frame as the
        image model does. With `temporal_layers` that were trained on another image model of the same shape, a tuned
        image model (DreamBooth) is set in motion without training.

        Args:
            model (`str`, `os.PathLike` or `DiffusionPipeline`): Hub id, folder, single file (`.safetensors`, `.ckpt`),
                or a loaded pipeline with a `UNet2DConditionModel`, whose other components are then shared.
            preset (`str`, *optional*): Preset of [`UNetVideoConditionModel.from_unet2d`]; `"light"`, or what
                `temporal_layers` were trained with.
            temporal_options (`dict[str, Any]`, *optional*): Its options, which overrule others.
            temporal_layers (`str` or `os.PathLike`, *optional*): File that
                [`~UNetVideoConditionModel.save_temporal_layers`] wrote, or its folder.
            temporal_text_encoder ([`~transformers.CLIPTextModel`], *optional*): Text encoder that the temporal layers
                were trained with, where that of `model` was tuned. Stable Diffusion XL takes
                `temporal_prompt_embeds` in its calls instead.
            temporal_tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
            num_frames (`int`, *optional*, defaults to 16): Frames of a video unless a call says otherwise, and those
                that new weights per frame (`frame_adaptor`) are made for.
            fps (`float`, *optional*, defaults to 8.0): Frames per second unless a call says otherwise.
            load_options: How `model` is loaded, as in `from_pretrained` and `from_single_file` of diffusers (`dtype`,
                `variant`, `revision`, `config`, ...); none with a loaded pipeline.

        Returns:
            `DiffusionPipeline`: Of this class.

        Raises:
            FileNotFoundError: If a file or folder does not exist.
            OSError: If a file cannot be read.
            TypeError: If `model` is something else, or options come with a loaded pipeline.
            ValueError: If it is no image model with a 2D U-Net, `preset` is unknown, or `temporal_layers` or
                `temporal_text_encoder` do not fit.

        Source:
            VideoLDM (arXiv:2304.08818), Section 4.2.1 and appendix: temporal layers are inserted into a model that
            DreamBooth tuned, unchanged.
        """
        check_integer("num_frames", num_frames)
        check_number("fps", fps, above_minimum=True)
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {sorted(PRESETS)}, but is {preset!r}.")
        known = inspect.signature(cls.__init__).parameters
        if temporal_text_encoder is not None and "temporal_text_encoder" not in known:
            raise TypeError(f"`temporal_text_encoder` is no component of a {cls.__name__}. Leave it out.")
        recorded = {} if temporal_layers is None else _recorded_options(temporal_layers, preset)
        named = isinstance(model, (str, os.PathLike))
        if load_options and not named:
            raise TypeError(
                f"`{sorted(load_options)[0]}` says how to load a model, and has no effect on one that is loaded."
            )
        if named:
            image_pipeline = load_image_pipeline(model, cls.single_file_classes, **load_options)
        else:
            image_pipeline = model
        lengths = {"frame_adaptor": num_frames} if "frame_adaptor" in PRESETS[preset or DEFAULT_PRESET] else {}
        options = {**lengths, **cls.temporal_defaults(image_pipeline), **recorded, **(temporal_options or {})}
        components = video_components(image_pipeline, preset or DEFAULT_PRESET, options)
        if temporal_layers is not None:
            components["unet"].load_temporal_layers(temporal_layers)
        components |= {"temporal_text_encoder": temporal_text_encoder, "temporal_tokenizer": temporal_tokenizer}
        missing = [name for name, item in known.items() if name in _OPTIONAL and item.default is item.empty]
        if missing and missing[0] not in components:
            raise ValueError(f"`model` must have a {missing[0]}, but this {type(image_pipeline).__name__} has none.")
        components = {name: value for name, value in components.items() if name in known}
        pipeline = cls(**components, num_frames=num_frames, fps=fps)
        if named and not os.path.exists(model) and "://" not in str(model):
            pipeline.base_model = str(model)
        return pipeline

    @classmethod
    def temporal_defaults(cls, pipeline: DiffusionPipeline) -> dict[str, Any]:
        """
        Options that new temporal layers of this task have unless a call says otherwise.

        Args:
            pipeline (`DiffusionPipeline`): The image pipeline.

        Returns:
            `dict[str, Any]`: Options of [`UNetVideoConditionModel`].
        """
        return {}

    @classmethod
    def from_single_file(cls, pretrained_model_link_or_path: str | os.PathLike, **kwargs: Any) -> DiffusionPipeline:
        """
        Make a video pipeline of an image model in one file.

        Args:
            pretrained_model_link_or_path (`str` or `os.PathLike`): A `.safetensors` or `.ckpt` file, or its address.
            kwargs: See [`from_image_model`].

        Returns:
            `DiffusionPipeline`: Of this class.
        """
        return cls.from_image_model(pretrained_model_link_or_path, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> DiffusionPipeline:
        """
        Make a pipeline of the components of another one that has a video U-Net.

        Args:
            pipeline (`DiffusionPipeline`): The other pipeline. Its components are shared and keep their types.
            kwargs: Components and configuration to replace, and `dtype`; see [`~DiffusionPipeline.from_pipe`].

        Returns:
            `DiffusionPipeline`: Of this class.

        Raises:
            ValueError: If there is no video U-Net.
        """
        unet = kwargs.get("unet", getattr(pipeline, "unet", None))
        if unet is None:
            raise ValueError(f"`pipeline` must have a video U-Net, but this {type(pipeline).__name__} has no `unet`.")
        check_components(None, unet, None)
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs["dtype"] = pipeline.dtype
        return super().from_pipe(pipeline, **kwargs)


def _recorded_options(temporal_layers: str | os.PathLike, preset: str | None) -> dict[str, Any]:
    recorded = read_temporal_options(temporal_layers)
    of_file = matching_preset(recorded)
    if preset not in (None, of_file):
        raise ValueError(
            f"`preset` must be that of `temporal_layers`, but is {preset!r}, and {str(temporal_layers)!r} is of preset"
            f" {of_file!r}. Leave it out."
        )
    return recorded


def is_single_file(model: str | os.PathLike) -> bool:
    """
    Tell whether a model is named by one file rather than by a folder or a Hub id.

    Args:
        model (`str` or `os.PathLike`): Path, address or Hub id.

    Returns:
        `bool`: `True` for a file that exists and for a name that ends like one.
    """
    return os.path.isfile(model) or str(model).lower().endswith(SINGLE_FILE_SUFFIXES)


def load_image_pipeline(
    model: str | os.PathLike,
    single_file_classes: Mapping[str, type[DiffusionPipeline]] = SINGLE_FILE_CLASSES,
    **load_options: Any,
) -> DiffusionPipeline:
    """
    Load an image pipeline from the Hub, a folder or a single file, without its safety checker.

    Args:
        model (`str` or `os.PathLike`): Hub id, folder of a saved pipeline, or a `.safetensors` or `.ckpt` file.
        single_file_classes (`Mapping[str, type]`, *optional*): Pipeline of each kind of checkpoint in a single file.
        load_options: Passed to `from_pretrained` or `from_single_file` of diffusers (`dtype`, `variant`, `config`,
            ...).

    Returns:
        `DiffusionPipeline`: With a `UNet2DConditionModel`.

    Raises:
        FileNotFoundError: If a file or folder does not exist, or the folder holds no pipeline.
        ValueError: If it is no image model with a 2D U-Net.
        OSError: If a file cannot be read.
    """
    local = os.path.exists(model)
    looks_local = str(model).startswith((".", "/", "~")) or str(model).count("/") > 1
    if not local and "://" not in str(model) and (is_single_file(model) or looks_local):
        raise FileNotFoundError(f"`model` must be a Hub id, a folder or a file, but {str(model)!r} does not exist.")
    if is_single_file(model):
        return _load_single_file(model, single_file_classes, load_options)
    if local and not (Path(model) / "model_index.json").is_file():
        raise FileNotFoundError(
            f"`model` must be a saved pipeline, but the folder {str(model)!r} has no model_index.json. A single"
            " U-Net is made a video model by `UNetVideoConditionModel.from_unet2d`."
        )
    names = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
    index = DiffusionPipeline.load_config(
        model, **{name: load_options[name] for name in names if name in load_options}
    )
    unet = index.get("unet") or (None, None)
    if unet[1] != UNet2DConditionModel.__name__:
        _refuse(index.get("_class_name"), unet[1])
    if "safety_checker" in index:
        load_options = {"safety_checker": None, **load_options}
        if index.get("_class_name") != StableDiffusionUpscalePipeline.__name__:  # it has no such option
            load_options = {"requires_safety_checker": False, **load_options}
    return DiffusionPipeline.from_pretrained(model, **load_options)


def video_components(
    pipeline: DiffusionPipeline, preset: str, temporal_options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """
    Take over the components of an image pipeline, its U-Net as a video U-Net.

    Args:
        pipeline (`DiffusionPipeline`): Image pipeline with a `UNet2DConditionModel`; it is not changed, and shares all
            components but the U-Net and the scheduler with what is returned.
        preset (`str`): Preset of [`UNetVideoConditionModel.from_unet2d`].
        temporal_options (`dict[str, Any]`, *optional*): Its options.

    Returns:
        `dict[str, Any]`: Arguments of a video pipeline's constructor.

    Raises:
        TypeError: If `pipeline` is no pipeline.
        ValueError: If it has no 2D U-Net, lacks a component, or carries adapters.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        raise TypeError(
            f"`model` must be a Hub id, a folder, a file or an image pipeline, but is {type(pipeline).__name__}. A"
            " single U-Net is made a video model by `UNetVideoConditionModel.from_unet2d`."
        )
    unet = getattr(pipeline, "unet", None)
    unet = getattr(unet, "_orig_mod", unet)
    if not isinstance(unet, UNet2DConditionModel) or isinstance(unet, UNetVideoConditionModel):
        _refuse(type(pipeline).__name__, type(unet).__name__)
    missing = [name for name in _REQUIRED if getattr(pipeline, name, None) is None]
    if missing:
        raise ValueError(f"`model` must have a {missing[0]}, but this {type(pipeline).__name__} has none.")
    if getattr(unet, "peft_config", None) or unet.config.encoder_hid_dim_type == "ip_image_proj":
        raise ValueError(
            "`model` must not carry LoRA layers or an IP-Adapter, but its U-Net does. Unload them, and load them into"
            " the video pipeline."
        )
    components = {name: getattr(pipeline, name) for name in _REQUIRED}
    components |= {name: getattr(pipeline, name) for name in _OPTIONAL if getattr(pipeline, name, None) is not None}
    components["unet"] = UNetVideoConditionModel.from_unet2d(unet, preset=preset, **(temporal_options or {}))
    components["scheduler"] = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    return components | {name: pipeline.config[name] for name in _SETTINGS if name in pipeline.config}


def _load_single_file(
    model: str | os.PathLike, classes: Mapping[str, type[DiffusionPipeline]], load_options: dict[str, Any]
) -> DiffusionPipeline:
    names = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token", "disable_mmap")
    options = {name: load_options[name] for name in names if name in load_options}
    checkpoint = load_single_file_checkpoint(str(model), **options)
    if _FIRST_CONVOLUTION not in checkpoint:
        raise ValueError(
            f"`model` must be a whole Stable Diffusion checkpoint, but {str(model)!r} has no {_FIRST_CONVOLUTION!r}."
            " LoRA files are loaded by `load_lora_weights`."
        )
    kind = infer_diffusers_model_type(checkpoint)
    del checkpoint
    if kind not in classes:
        known = "Stable Diffusion 1.x, 2.x or XL checkpoint" if "v1" in classes else f"checkpoint of {sorted(classes)}"
        raise ValueError(f"`model` must be a {known}, but {str(model)!r} is of kind {kind!r}.")
    if classes[kind] is StableDiffusionPipeline:
        load_options = {"requires_safety_checker": False, **load_options}
    return classes[kind].from_single_file(str(model), **load_options)


def _refuse(pipeline_class: str | None, unet_class: str | None) -> None:
    if unet_class == UNetVideoConditionModel.__name__:
        raise ValueError(
            f"`model` must be an image model, but this {pipeline_class} is a video model already. Load it with"
            " `from_pretrained`."
        )
    raise ValueError(
        f"`model` must be an image model with a UNet2DConditionModel, such as StableDiffusionPipeline or"
        f" StableDiffusionXLPipeline, but this {pipeline_class} has"
        f" {'no U-Net' if unet_class in (None, 'NoneType') else unet_class}."
    )
