"""Training of denoisers that read no text: which model, which frames are given, and the loss of a batch."""

# Shapes: B videos, C channels, F frames, H height, W width; latents (B, c, F, h, w), or of any form.

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ModelMixin, SchedulerMixin
from torch import Tensor, nn
from torch.utils.data import Dataset

import diffusers_video
from diffusers_video.conditioning.frames import ends_mask, first_frames_mask
from diffusers_video.data.buckets import Bucket
from diffusers_video.models.autoencoder_triplane import AutoencoderTriplane
from diffusers_video.models.space_time_options import PRESETS
from diffusers_video.models.unet_space_time import UNetSpaceTimeModel
from diffusers_video.models.unet_triplane import UNetTriplaneModel
from diffusers_video.pipelines.denoisers import reads_given_frames, reads_previous_clip, told_numbers
from diffusers_video.pipelines.latents import frames_per_latent, latents_shape, vae_scale_factor
from diffusers_video.pipelines.model_checks import latent_channels
from diffusers_video.pipelines.unconditional_video import UnconditionalVideoPipeline
from diffusers_video.schedulers.log_snr import is_continuous
from diffusers_video.schedulers.scheduling_paired_ddim import PairedDDIMScheduler
from diffusers_video.schedulers.scheduling_vdm import VDM_SCHEDULES, VDMScheduler
from diffusers_video.training.autoencoders import find_autoencoder
from diffusers_video.training.clip_loss import ClipLoss
from diffusers_video.training.context import context_conditions
from diffusers_video.training.encoding import encode_posterior
from diffusers_video.training.joint_images import append_images, check_continuous, mark_images
from diffusers_video.training.models import set_noise_schedule, training_scheduler
from diffusers_video.training.text_models import (
    check_text_denoiser,
    load_text_models,
    make_text_pipeline,
    reads_captions,
)
from diffusers_video.training.training_data import describe_clips
from diffusers_video.training.unconditional_config import CONTEXT_DROPOUT, UnconditionalConfig


AUTOENCODERS = ("AutoencoderKL3D", "AutoencoderTriplane", "AutoencoderKLVideo", "AutoencoderKL", "AutoencoderTiny")
# LVDM's released noise schedule (arXiv:2211.13221) and the sampler of its code.
LVDM_SCHEDULE = {
    "beta_start": 0.0015,
    "beta_end": 0.0155,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def load_unconditional(config: UnconditionalConfig, dataset: Dataset) -> DiffusionPipeline:
    """
    Load the model to train, or make a new one.

    Args:
        config ([`UnconditionalConfig`]): Settings.
        dataset (`Dataset`): The clips, with `buckets`: what the pipeline draws by default.

    Returns:
        [`UnconditionalVideoPipeline`], or [`TextToVideoPipeline`] for a denoiser that pools text: Its configuration
        holds the choices that sampling depends on.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If something is of another class.
        ValueError: If the parts do not fit each other, the task or the clips.
    """
    name = config.pretrained_model_name_or_path
    if name is not None:
        load_options = {key: getattr(config, key) for key in ("revision", "variant") if getattr(config, key)}
        pipeline = DiffusionPipeline.from_pretrained(name, **load_options)
        if reads_captions(pipeline):
            check_text_denoiser(pipeline.unet, pipeline.vae, config)
        elif not isinstance(pipeline, UnconditionalVideoPipeline):
            raise TypeError(
                f"`pretrained_model_name_or_path` must be an UnconditionalVideoPipeline, but {name!r} is a"
                f" {type(pipeline).__name__}. Train that by the script of its task."
            )
    else:
        pipeline = _make_pipeline(config, dataset)
    if is_continuous(pipeline.scheduler):
        check_continuous(config)
    bucket = Bucket.parse(dataset.buckets[0])
    num_frames, fps = describe_clips(dataset)
    num_frames = frames_of_model(pipeline.unet, num_frames)
    pipeline.register_to_config(num_frames=num_frames // config.latent_stride, fps=fps / config.latent_stride)
    height, width, factor = bucket.height, bucket.width, pipeline.vae_scale_factor
    if reads_captions(pipeline):
        pipeline.unet.register_to_config(sample_size=(height // factor, width // factor))
    else:
        config.check_no_text()
        pipeline.register_to_config(height=height, width=width, max_noise_level=config.max_noise_level)
    set_noise_schedule(pipeline, config)
    _check_task(pipeline, config, dataset)
    return pipeline


def _make_pipeline(config: UnconditionalConfig, dataset: Dataset) -> DiffusionPipeline:
    vae, text_models = load_autoencoder(config), load_text_models(config)
    unet = make_denoiser(config, vae, dataset, text_models.get("text_encoder"))
    scheduler = make_scheduler(config, vae, unet)
    if text_models:
        return make_text_pipeline(config, vae=vae, unet=unet, scheduler=scheduler, **text_models)
    return UnconditionalVideoPipeline(unet, scheduler, vae)


def load_autoencoder(config: UnconditionalConfig) -> ModelMixin | None:
    """
    Load the autoencoder of a new model.

    Args:
        config ([`UnconditionalConfig`]): Settings.

    Returns:
        `ModelMixin`, *optional*: `None` where pixels are denoised.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no autoencoder.
    """
    name = config.pretrained_vae_name_or_path
    if name is None:
        return None
    settings, source = find_autoencoder(name)
    class_name = settings.get("_class_name")
    if class_name not in AUTOENCODERS:
        raise ValueError(
            f"`pretrained_vae_name_or_path` must be one of {AUTOENCODERS}, but {name!r} is {class_name!r}."
        )
    library = diffusers_video if hasattr(diffusers_video, class_name) else diffusers
    return getattr(library, class_name).from_pretrained(name, **source)


def make_denoiser(
    config: UnconditionalConfig, vae: nn.Module | None, dataset: Dataset, text_encoder: nn.Module | None = None
) -> UNetSpaceTimeModel | UNetTriplaneModel:
    """
    Make a new denoiser: what its options leave open follows from the autoencoder, the clips and the task.

    Args:
        config ([`UnconditionalConfig`]): Settings.
        vae (`torch.nn.Module`, *optional*): The autoencoder; without one pixels are denoised.
        dataset (`Dataset`): The clips, with `buckets`.
        text_encoder (`torch.nn.Module`, *optional*): The text encoder, where there is text.

    Returns:
        [`UNetSpaceTimeModel`] or [`UNetTriplaneModel`]

    Raises:
        FileNotFoundError: If there is no such configuration.
        ValueError: If it is of another class, or has options that do not exist.
    """
    model_class, given = UNetSpaceTimeModel, PRESETS.get(config.preset, {})
    if config.model_config_name_or_path is not None:
        given = read_json(config.model_config_name_or_path, "model_config_name_or_path", ModelMixin.config_name)
        class_name = given.get("_class_name", UNetSpaceTimeModel.__name__)
        classes = {one.__name__: one for one in (UNetSpaceTimeModel, UNetTriplaneModel)}
        if class_name not in classes:
            raise ValueError(
                f"`model_config_name_or_path` must describe one of {list(classes)}, but is a {class_name}."
            )
        model_class = classes[class_name]
    asked = {name: value for name, value in given.items() if not name.startswith("_")} | config.read_model_options()
    known = set(model_class._get_init_keys(model_class))
    unknown = sorted(asked.keys() - known)
    if unknown:
        raise ValueError(f"`{unknown[0]}` is no option of {model_class.__name__}. Take one of {sorted(known)}.")
    options = {**_derived_options(model_class, config, vae, dataset), **asked}
    if "pooled_text_dim" in known and text_encoder is not None and not asked.get("cross_attention_dim"):
        options = {"pooled_text_dim": text_encoder.config.hidden_size, **options}
    if model_class is UNetTriplaneModel:
        num_clips = 2 if options.get("use_previous_clip", True) else 1
        options = {"num_frames": Bucket.parse(dataset.buckets[0]).num_frames // num_clips, **options}
    return model_class(**options)


def frames_of_model(unet: nn.Module, num_frames: int) -> int:
    """
    Count the frames of a clip that the denoiser sees.

    Args:
        unet (`torch.nn.Module`): The denoiser.
        num_frames (`int`): Frames of a training clip, which holds two for a denoiser that reads the clip before.

    Returns:
        `int`
    """
    return num_frames // 2 if reads_previous_clip(unet) else num_frames


def _derived_options(
    model_class: type[ModelMixin], config: UnconditionalConfig, vae: nn.Module | None, dataset: Dataset
) -> dict[str, Any]:
    bucket = Bucket.parse(dataset.buckets[0])
    channels, factor = latent_channels(vae), 1 if vae is None else vae_scale_factor(vae)
    derived: dict[str, Any] = {"in_channels": channels, "out_channels": channels}
    if model_class is UNetTriplaneModel:
        size = (bucket.height // factor, bucket.width // factor)
        return derived | {"sample_size": size}
    derived["sample_size"] = bucket.height // factor
    if config.task != "unconditional":
        derived["use_frame_mask"] = True
    if config.max_noise_level:
        derived["num_noise_levels"] = config.max_noise_level + 1
    return derived


def make_scheduler(config: UnconditionalConfig, vae: nn.Module | None, unet: nn.Module) -> SchedulerMixin:
    """
    Make the scheduler of a new model.

    Args:
        config ([`UnconditionalConfig`]): Settings.
        vae (`torch.nn.Module`, *optional*): The autoencoder; pixels are kept in [-1, 1] while sampling, latents not.
        unet (`torch.nn.Module`): The denoiser.

    Returns:
        [`SchedulerMixin`]

    Raises:
        FileNotFoundError: If there is no such configuration.
        ValueError: If it names no scheduler.
    """
    if config.scheduler_config_name_or_path is None:
        if isinstance(vae, AutoencoderTriplane):
            return PairedDDIMScheduler()
        if unet.config.get("timestep_type") == "log_snr":
            return VDMScheduler(**VDM_SCHEDULES.get(config.preset, {}), clip_sample=vae is None)
        return DDIMScheduler(**LVDM_SCHEDULE, clip_sample=vae is None)
    name = "scheduler_config_name_or_path"
    settings = read_json(config.scheduler_config_name_or_path, name, SchedulerMixin.config_name)
    class_name = str(settings.get("_class_name"))
    library = diffusers_video if class_name in diffusers_video.LOADABLE_NAMES else diffusers
    scheduler_class = getattr(library, class_name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        raise ValueError(f"`{name}` must name a scheduler as `_class_name`, but names {class_name!r}.")
    return scheduler_class.from_config(settings)


def read_json(name: str, argument: str, file_name: str) -> dict[str, Any]:
    """
    Read a configuration.

    Args:
        name (`str`): A JSON file, or a folder that holds one.
        argument (`str`): The setting, for messages.
        file_name (`str`): Name of the file in a folder.

    Returns:
        `dict[str, Any]`

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no JSON object.
    """
    path = Path(name, file_name) if os.path.isdir(name) else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"`{argument}` must be a JSON file or a folder with one, but {str(path)!r} is missing."
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{argument}` must be JSON, but {str(path)!r} cannot be read: {error}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"`{argument}` must hold a JSON object, but {str(path)!r} holds {type(settings).__name__}.")
    return settings


def _check_task(pipeline: UnconditionalVideoPipeline, config: UnconditionalConfig, dataset: Dataset) -> None:
    unet, factor = pipeline.unet, frames_per_latent(pipeline.vae)
    for name in sorted(set(dataset.buckets)):
        bucket = Bucket.parse(name)
        num_frames = frames_of_model(unet, bucket.num_frames)
        if reads_previous_clip(unet) and bucket.num_frames % 2:
            raise ValueError(
                f"`num_frames` must be even for a denoiser that reads the clip before, whose training clips hold two,"
                f" but is {bucket.num_frames}."
            )
        shape = latents_shape(pipeline.vae, num_frames, bucket.height, bucket.width)
        length = -(-shape[1] // config.latent_stride)
        least = len(config.given_chances) if config.task == "key-frames" else 3
        if config.task != "unconditional" and length < least:
            raise ValueError(
                f"`num_frames` must give at least {least} latent frames with `task={config.task}`, but clips of"
                f" {bucket.num_frames} frames give {length}. Take {least * factor * config.latent_stride}."
            )
        if bucket.num_frames % (factor * config.latent_stride):
            raise ValueError(
                f"`num_frames` must be a multiple of {factor * config.latent_stride}, the frames from one trained"
                f" latent frame to the next, but is {bucket.num_frames}."
            )
    if config.task != "unconditional" and not reads_given_frames(unet):
        raise ValueError(
            f"`task={config.task}` needs a denoiser that reads given frames, but this {type(unet).__name__} was built"
            " without `use_frame_mask`."
        )
    levels = unet.config.get("num_noise_levels") or 1
    if config.max_noise_level >= levels:
        raise ValueError(
            f"`max_noise_level` must be below {levels}, the `num_noise_levels` of the denoiser, but is"
            f" {config.max_noise_level}."
        )
    if config.latent_stride > 1 and isinstance(unet, UNetTriplaneModel):
        raise ValueError("`latent_stride` needs latents with an axis of frames, which those of triplanes have not.")


def draw_given(config: UnconditionalConfig, batch_size: int, num_frames: int, generator: torch.Generator) -> Tensor:
    """
    Draw which latent frames are given.

    Args:
        config ([`UnconditionalConfig`]): `task` and its chances.
        batch_size (`int`): Number of videos.
        num_frames (`int`): Latent frames of each.
        generator (`torch.Generator`): Source of randomness, on the CPU.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames)`: `torch.bool`.

    Source:
        LVDM (arXiv:2211.13221), Section 3.3, and its released configurations: prediction from one frame half of the
        time, interpolation between two nine times out of ten.
    """
    if config.task == "key-frames":
        chances = torch.tensor(config.given_chances, dtype=torch.float32)
        num_given = torch.multinomial(chances, batch_size, replacement=True, generator=generator)
        return first_frames_mask(num_given, num_frames)
    dropout = CONTEXT_DROPOUT if config.context_dropout is None else config.context_dropout
    return ends_mask(torch.rand(batch_size, generator=generator) >= dropout, num_frames)


def fix_given(config: UnconditionalConfig, place: int, num_frames: int) -> Tensor:
    """
    Fix which latent frames of a held-out clip are given: the numbers of first ones that are trained on take turns.

    Args:
        config ([`UnconditionalConfig`]): `task` and its chances.
        place (`int`): Number of the clip.
        num_frames (`int`): Its latent frames.

    Returns:
        `torch.Tensor` of shape `(1, num_frames)`: `torch.bool`.
    """
    if config.task == "key-frames":
        numbers = [number for number, chance in enumerate(config.given_chances) if chance][::-1]
        return first_frames_mask(torch.tensor([numbers[place % len(numbers)]]), num_frames)
    return ends_mask(torch.tensor([True]), num_frames)


@dataclass(frozen=True, kw_only=True)
class UnconditionalLoss(ClipLoss):
    """
    What the loss of clips without text depends on, besides the denoiser.

    Args:
        device (`torch.device`): Where it runs.
    """

    device: torch.device

    @classmethod
    def build(
        cls, pipeline: UnconditionalVideoPipeline, config: UnconditionalConfig, device: torch.device
    ) -> "UnconditionalLoss":
        """
        Set up the loss, when the frozen models are where they run.

        Args:
            pipeline ([`UnconditionalVideoPipeline`]): Its autoencoder encodes clips.
            config ([`UnconditionalConfig`]): Settings of the objective.
            device (`torch.device`): Where it runs.

        Returns:
            [`UnconditionalLoss`]
        """
        return cls(pipeline=pipeline, scheduler=training_scheduler(pipeline), empty={}, config=config, device=device)

    def encode(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """
        Encode clips, unless they are packed or pixels are denoised.

        Args:
            batch (`dict[str, Any]`): Clips with `fps`, and `pixel_values` or what [`encode_clips`] makes of them.

        Returns:
            `tuple`: Mean and deviation of the latents by name, and arguments of the denoiser.
        """
        pipeline, stride = self.pipeline, self.config.latent_stride
        if "latents_mean" in batch:
            mean, std = (batch[name].to(self.device) for name in ("latents_mean", "latents_std"))
        elif pipeline.vae is None:
            mean = batch["pixel_values"].to(self.device)
            std = torch.zeros_like(mean)
        else:
            mean, std = encode_posterior(pipeline.vae, batch["pixel_values"].to(self.device))
        if stride > 1:
            mean, std = mean[:, :, ::stride], std[:, :, ::stride]
        conditions: dict[str, Any] = {}
        if "fps" in told_numbers(pipeline.unet):
            conditions["fps"] = batch["fps"].to(self.device) / stride
        if hasattr(pipeline.vae, "latent_size_of") and "pixel_values" in batch:
            conditions["latent_size"] = tuple(pipeline.vae.latent_size_of(*batch["pixel_values"].shape[2:]))
        return {"latents_mean": mean, "latents_std": std}, conditions

    def drop_captions(self, conditions: dict[str, Any], batch_size: int, generator: torch.Generator) -> dict[str, Any]:
        """
        Leave the conditions as they are: there is no text.

        Args:
            conditions (`dict[str, Any]`): Arguments of the denoiser.
            batch_size (`int`): Number of clips.
            generator (`torch.Generator`): Left alone.

        Returns:
            `dict[str, Any]`: The same.
        """
        return conditions

    def draw_window(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """
        Train on whole clips, and on the single images that came with them.

        Args:
            batch (`dict[str, Any]`): Clips, and perhaps `images` from [`JointImageDataset`].
            generator (`torch.Generator`): Left alone.

        Returns:
            `dict[str, Any]`: The batch itself, or one whose clips have the images as further frames.
        """
        return append_images(batch)

    def fix_window(self, batch: dict[str, Any], place: int) -> dict[str, Any]:
        """
        Measure on whole clips.

        Args:
            batch (`dict[str, Any]`): One clip.
            place (`int`): Number of the clip.

        Returns:
            `dict[str, Any]`: The batch itself.
        """
        return batch

    def draw_conditions(
        self, batch: Mapping[str, Any], latents: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """
        Draw which frames are given, and the noise on them, and tell single images from clips.

        Args:
            batch (`Mapping[str, Any]`): Clips.
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): They, encoded.
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `dict[str, torch.Tensor]`: Arguments of the denoiser, and `context_noise` where frames may be given.

        Source:
            LVDM (arXiv:2211.13221), Section 3.3: conditional latent perturbation, with its level drawn for clips
            without given frames as well.
        """
        if self.config.task == "unconditional":
            return mark_images(batch, latents)
        return context_conditions(
            latents,
            draw_given(self.config, len(latents), latents.shape[2], generator),
            told_numbers(self.pipeline.unet),
            scheduler=self.scheduler,
            max_noise_level=self.config.max_noise_level,
            generator=generator,
            is_in_place=True,
        )

    def fix_conditions(self, batch: Mapping[str, Any], latents: Tensor, place: int) -> dict[str, Tensor]:
        """
        Fix which frames of a held-out clip are given; there is no noise on them, and they do not count.

        Args:
            batch (`Mapping[str, Any]`): One clip.
            latents (`torch.Tensor` of shape `(1, c, num_frames, h, w)`): It, encoded.
            place (`int`): Number of the clip.

        Returns:
            `dict[str, torch.Tensor]`: See [`draw_conditions`].
        """
        if self.config.task == "unconditional":
            return {}
        frame_mask = fix_given(self.config, place, latents.shape[2])
        return context_conditions(latents, frame_mask, told_numbers(self.pipeline.unet), is_in_place=True)
