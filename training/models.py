"""Which model trains, and which of its weights."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from diffusers.utils import logging
from peft import LoraConfig
from torch import nn

from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.unet_space_time import UNetSpaceTimeModel
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.pipelines.denoisers import told_numbers
from diffusers_video.pipelines.frame_interpolation import FrameInterpolationPipeline
from diffusers_video.pipelines.image_models import is_single_file
from diffusers_video.pipelines.key_frame_prediction import KeyFramePredictionPipeline
from diffusers_video.pipelines.model_checks import check_denoiser
from diffusers_video.pipelines.text_to_video import TextToVideoPipeline
from diffusers_video.pipelines.windows import MET_NUMBERS
from diffusers_video.schedulers.log_snr import is_continuous
from diffusers_video.schedulers.scheduling_vdm import VDMScheduler
from diffusers_video.training.config import VideoUNetConfig
from diffusers_video.training.denoiser_config import DenoiserConfig


logger = logging.get_logger(__name__)

TASK_PIPELINES = {
    "text-to-video": TextToVideoPipeline,
    "key-frames": KeyFramePredictionPipeline,
    "interpolation": FrameInterpolationPipeline,
}
_FROZEN_COMPONENTS = ("vae", "text_encoder", "text_encoder_2", "image_encoder")


def load_pipeline(config: VideoUNetConfig, num_frames: int, fps: float) -> DiffusionPipeline:
    """
    Load the model to train: an image model as a new video model, or a video pipeline to go on with.

    Args:
        config ([`VideoUNetConfig`]): Settings.
        num_frames (`int`): Frames of the longest training clips; what the pipeline draws by default.
        fps (`float`): Frames per second of the clips, likewise.

    Returns:
        `DiffusionPipeline`: That of the task, such as [`TextToVideoPipeline`]; its configuration holds the choices
        that sampling depends on.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it cannot be trained, or settings of new temporal layers come with trained ones.
    """
    name = config.pretrained_model_name_or_path
    num_frames = config.rate + 1 if config.task == "interpolation" else num_frames
    load_options = {key: getattr(config, key) for key in ("revision", "variant") if getattr(config, key)}
    if is_video_pipeline(name, config.revision):
        refuse_new_layers(config, ("preset", "temporal_options", "fps_conditioning"))
        pipeline = _load_video_pipeline(config, name, load_options)
        _check_from_scratch(pipeline, config)
    else:
        added = _told_numbers(config)
        options = config.read_temporal_options() | ({"added_time_ids": added} if added else {})
        load_options |= {} if config.train == "spatial" else {"num_frames": num_frames}
        pipeline_class = TASK_PIPELINES[config.task]
        pipeline = pipeline_class.from_image_model(name, config.preset, temporal_options=options, **load_options)
    _check_trainable(pipeline, name, config.task)
    if config.train != "spatial":
        prior = {"noise_prior": config.noise_prior, "noise_prior_strength": config.noise_prior_strength}
        pipeline.register_to_config(num_frames=num_frames, fps=float(fps), **prior)
    if config.task != "text-to-video":
        pipeline.register_to_config(max_noise_level=config.max_noise_level)
    set_noise_schedule(pipeline, config)
    return pipeline


def _check_from_scratch(pipeline: DiffusionPipeline, config: VideoUNetConfig) -> None:
    if isinstance(pipeline.unet, UNetSpaceTimeModel) and config.train != "all":
        raise ValueError(
            f"`train` must be all with a {type(pipeline.unet).__name__}, which was not made of an image model, but is"
            f" {config.train}."
        )


def _told_numbers(config: VideoUNetConfig) -> tuple[str, ...]:
    """Numbers per clip that the model of a task is told."""
    fps = ("fps",) if config.fps_conditioning or config.task == "interpolation" else ()
    return (*fps, "noise_level") if config.max_noise_level else fps


def _load_video_pipeline(config: VideoUNetConfig, name: str, load_options: dict[str, Any]) -> DiffusionPipeline:
    if config.task == "text-to-video":
        return TextToVideoPipeline.from_pretrained(name, **load_options)
    pipeline_class = TASK_PIPELINES[config.task]
    pipeline = DiffusionPipeline.from_pretrained(name, **load_options)
    if not isinstance(pipeline.unet, UNetVideoConditionModel):
        raise ValueError(
            f"`task` must be text-to-video with a {type(pipeline.unet).__name__}, but is {config.task}. Without text,"
            " `train_unconditional.py` trains it on given frames."
        )
    pipeline.unet = add_context(pipeline.unet, pipeline.vae.config.latent_channels + 1, _told_numbers(config))
    if config.task == "interpolation" and pipeline.unet.is_causal:
        logger.warning(
            "Temporal attention of this model saw earlier frames only. From now on it sees all, because the second of"
            " two given frames tells about those between them."
        )
        pipeline.unet.register_to_config(temporal_attention="full")
    return pipeline if isinstance(pipeline, pipeline_class) else pipeline_class.from_pipe(pipeline)


def add_context(
    unet: UNetVideoConditionModel, context_channels: int, added_time_ids: tuple[str, ...]
) -> UNetVideoConditionModel:
    """
    Give a trained video model ears for given frames; until they are trained it computes what it did.

    Args:
        unet ([`UNetVideoConditionModel`]): The model.
        context_channels (`int`): Channels of the latents and one.
        added_time_ids (`tuple[str, ...]`): Numbers per clip that it must be told.

    Returns:
        [`UNetVideoConditionModel`]: The model itself if it has all that.

    Raises:
        ValueError: If it is told other numbers, or reads given frames of other channels.
    """
    missing = [one for one in added_time_ids if one not in unet.config.added_time_ids]
    if not missing and unet.config.context_channels == context_channels:
        return unet
    if missing and unet.config.added_time_ids:
        raise ValueError(
            f"`pretrained_model_name_or_path` must be told `{missing[0]}` of a clip, but its denoiser is told"
            f" {list(unet.config.added_time_ids)} alone, which cannot be added to. Begin with an image model."
        )
    if unet.config.context_channels not in (None, context_channels):
        raise ValueError(
            f"`pretrained_model_name_or_path` must read given frames of {context_channels} channels, but reads"
            f" {unet.config.context_channels}."
        )
    ids = added_time_ids if missing else unet.config.added_time_ids
    # Options that its file did not name are otherwise left at their defaults, whatever they are set to here.
    model = UNetVideoConditionModel.from_config(
        {**unet.config, "_use_default_values": [], "context_channels": context_channels, "added_time_ids": ids}
    )
    model.load_state_dict(unet.state_dict(), strict=False)
    return model.to(unet.dtype).eval()


def refuse_new_layers(config: DenoiserConfig, names: tuple[str, ...]) -> None:
    """
    Refuse settings of new temporal layers where trained ones go on.

    Args:
        config ([`DenoiserConfig`]): Settings.
        names (`tuple[str, ...]`): Which of them are for new layers.

    Raises:
        ValueError: If one is given.
    """
    for name in names:
        if getattr(config, name):
            model = config.pretrained_model_name_or_path
            raise ValueError(f"`{name}` is for new temporal layers, but {model!r} has its own. Leave it out.")


def is_video_pipeline(name: str, revision: str | None) -> bool:
    """
    Tell whether a model is one of videos already.

    Args:
        name (`str`): Folder, single file or Hub id.
        revision (`str`, *optional*): Revision on the Hub.

    Returns:
        `bool`: `False` for an image model.

    Raises:
        FileNotFoundError: If there is no such folder or file.
    """
    if is_single_file(name) or (os.path.isdir(name) and not os.path.isfile(os.path.join(name, "model_index.json"))):
        return False
    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise FileNotFoundError(
            f"`pretrained_model_name_or_path` must be a folder, a file or a Hub id, but {name!r} does not exist."
        )
    index = DiffusionPipeline.load_config(name, revision=revision)
    return (index.get("unet") or [None, None])[1] in (UNetVideoConditionModel.__name__, UNetSpaceTimeModel.__name__)


def _check_trainable(pipeline: DiffusionPipeline, name: str, task: str) -> None:
    if pipeline.vae is None:
        raise ValueError(
            f"`pretrained_model_name_or_path` must have an autoencoder, but {name!r} has none. In pixels,"
            " `train_unconditional.py` trains it."
        )
    met = ("fps",) if task == "text-to-video" else MET_NUMBERS
    check_denoiser(pipeline.unet, pipeline.vae, pipeline.text_encoder_2, "Training from text", met)
    refuse_distilled(pipeline, name)
    unknown = set(told_numbers(pipeline.unet)) - set(met)
    if unknown:
        raise ValueError(f"{name!r} wants `{sorted(unknown)[0]}` of every clip, which training clips do not have.")


def refuse_distilled(pipeline: DiffusionPipeline, name: str) -> None:
    """
    Refuse a model that the loss of denoisers would spoil.

    Args:
        pipeline (`DiffusionPipeline`): With the denoiser.
        name (`str`): What it is called.

    Raises:
        ValueError: If guidance is built into it.
    """
    if pipeline.unet.config.get("time_cond_proj_dim") is not None:
        raise ValueError(
            f"`pretrained_model_name_or_path` must not be distilled, but {name!r} has guidance built in"
            " (`time_cond_proj_dim`), which this loss would undo. Train the model it was distilled from."
        )


def set_noise_schedule(pipeline: DiffusionPipeline, config: DenoiserConfig) -> None:
    """
    Put the choices that sampling must follow into the pipeline.

    Zero terminal SNR wants a sampler that starts at the last timestep ("trailing" spacing), a prediction other than
    epsilon, and a scheduler that knows it; others are replaced by DDIM with the same schedule.

    Args:
        pipeline (`DiffusionPipeline`): Its scheduler and configuration are changed.
        config ([`DenoiserConfig`]): Settings.

    Raises:
        ValueError: If zero terminal SNR comes with epsilon prediction.

    Source:
        Common Diffusion Noise Schedules and Sample Steps are Flawed (arXiv:2305.08891), Sections 3.1 to 3.3.
    """
    scheduler = pipeline.scheduler
    changes: dict[str, Any] = {}
    if config.prediction_type is not None:
        changes["prediction_type"] = config.prediction_type
    if config.rescale_betas_zero_snr:
        if changes.get("prediction_type", scheduler.config.prediction_type) == "epsilon":
            raise ValueError(
                "`rescale_betas_zero_snr` must not be used with a model that predicts epsilon: at zero SNR that"
                " teaches nothing. Add `prediction_type=v_prediction`."
            )
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if "rescale_betas_zero_snr" not in scheduler.config:
            scheduler = DDIMScheduler.from_config(scheduler.config, clip_sample=False)
    pipeline.scheduler = type(scheduler).from_config(scheduler.config, **changes)


def training_scheduler(pipeline: DiffusionPipeline) -> DDPMScheduler | VDMScheduler:
    """
    The noise schedule of a pipeline, in the form that training wants.

    Args:
        pipeline (`DiffusionPipeline`): Its scheduler says betas and prediction type.

    Returns:
        `DDPMScheduler`: With `add_noise` and `get_velocity`. A schedule in continuous time stays as it is.
    """
    if is_continuous(pipeline.scheduler):
        return pipeline.scheduler
    return DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, thresholding=False)


def select_trained(pipeline: DiffusionPipeline, config: DenoiserConfig) -> None:
    """
    Freeze everything but what the settings name.

    Args:
        pipeline (`DiffusionPipeline`): `requires_grad` of its weights is set; with `train=lora` LoRA layers are
            added to the denoiser, on its spatial and temporal attention unless told otherwise.
        config ([`DenoiserConfig`]): `train` and the settings of LoRA.

    Raises:
        ValueError: If nothing would train.
    """
    for name in _FROZEN_COMPONENTS:
        module = getattr(pipeline, name, None)
        if module is not None:
            module.requires_grad_(False).eval()
    unet = pipeline.unet
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(_trains(name, config.train))
    if config.train == "lora":
        _add_lora(unet, config)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if not any(parameter.requires_grad for parameter in unet.parameters()):
        raise ValueError(f"`train={config.train}` leaves nothing to train: the model has no such layers.")


def _trains(name: str, part: str) -> bool:
    return {"temporal": is_temporal(name), "spatial": not is_temporal(name), "all": True, "lora": False}[part]


def detach_temporal_layers(unet: UNetVideoConditionModel) -> dict[str, nn.Module]:
    """
    Take the temporal layers out of a model whose images alone are trained: they would take time and do nothing.

    Args:
        unet ([`UNetVideoConditionModel`]): It is left with its spatial layers, and computes what they compute.

    Returns:
        `dict[str, torch.nn.Module]`: What was taken out, by name, for [`attach_temporal_layers`].
    """
    detached = {}
    for name, module in list(unet.named_modules()):
        for child, layer in list(module.named_children()) if name else []:
            if is_temporal(child):
                detached[f"{name}.{child}"] = layer
                setattr(module, child, None)
    return detached


def attach_temporal_layers(unet: UNetVideoConditionModel, layers: Mapping[str, nn.Module]) -> None:
    """
    Put temporal layers back, the inverse of [`detach_temporal_layers`].

    Args:
        unet ([`UNetVideoConditionModel`]): The model they were taken out of.
        layers (`Mapping[str, torch.nn.Module]`): The layers by name.
    """
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(unet.get_submodule(parent), child, layer)


def _add_lora(unet: UNetVideoConditionModel, config: VideoUNetConfig) -> None:
    targets = config.lora_target_modules
    names = [name for name, _ in unet.named_modules()]
    missing = [
        target for target in targets if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if missing:
        raise ValueError(
            f"`lora_target_modules` must name layers of the model, but no layer's name ends in {missing[0]!r}."
        )
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.rank if config.lora_alpha is None else config.lora_alpha,
        init_lora_weights="gaussian",
        target_modules=targets,
    )
    unet.add_adapter(lora)


def place_frozen_models(pipeline: TextToVideoPipeline, device: torch.device, mixed_precision: str) -> None:
    """
    Bring the frozen models to the device, in half precision where that is asked for.

    Args:
        pipeline ([`TextToVideoPipeline`]): Its models, but the denoiser.
        device (`torch.device`): Where they run.
        mixed_precision (`str`): `"no"`, `"fp16"` or `"bf16"`. An autoencoder that overflows in float16
            (`force_upcast`) stays in float32.
    """
    dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[mixed_precision]
    for name in _FROZEN_COMPONENTS:
        module = getattr(pipeline, name, None)
        if module is not None:
            upcast = name == "vae" and dtype == torch.float16 and module.config.get("force_upcast", False)
            nn.Module.to(module, device=device, dtype=torch.float32 if upcast else dtype)


def count_parameters(module: nn.Module | None) -> tuple[int, int]:
    """
    Count weights.

    Args:
        module (`torch.nn.Module`, *optional*): A model; `None` has none.

    Returns:
        `tuple[int, int]`: Trained and frozen ones.
    """
    parameters = [] if module is None else list(module.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return trained, sum(parameter.numel() for parameter in parameters) - trained


def describe_models(pipeline: TextToVideoPipeline) -> list[str]:
    """
    Say what trains and what does not.

    Args:
        pipeline ([`TextToVideoPipeline`]): After [`select_trained`].

    Returns:
        `list[str]`: One line per model.
    """
    lines = []
    for name in ("unet", *_FROZEN_COMPONENTS):
        trained, frozen = count_parameters(getattr(pipeline, name, None))
        if trained + frozen:
            lines.append(f"{name}: {trained:,} parameters train, {frozen:,} are frozen")
    return lines
