"""What the scripts of autoencoders share: finding a model, the clips in pixels, and saving."""

import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import nn
from torch.utils.data import Dataset

from diffusers_video.data.buckets import Bucket
from diffusers_video.models.autoencoder_kl_3d import AutoencoderKL3D
from diffusers_video.models.autoencoder_triplane import AutoencoderTriplane
from diffusers_video.training.autoencoder_config import AutoencoderConfig
from diffusers_video.training.base_config import TrainingConfig
from diffusers_video.training.reconstruction import zero_init_residuals
from diffusers_video.training.run_log import read_results
from diffusers_video.training.saving import is_sharded, move_into
from diffusers_video.training.training_data import load_pixel_clips


logger = get_logger(__name__)

CLIP_AUTOENCODERS = (AutoencoderKL3D, AutoencoderTriplane)


def is_of_clips(vae: nn.Module) -> bool:
    """
    Tell whether an autoencoder is trained on clips as a whole.

    Args:
        vae (`torch.nn.Module`): An autoencoder.

    Returns:
        `bool`: `False` for autoencoders of images, and for those made of one.
    """
    return isinstance(vae, CLIP_AUTOENCODERS)


def check_whole(accelerator: Accelerator) -> None:
    """
    Refuse to train where each process holds only a part of the model.

    Args:
        accelerator (`Accelerator`): Where training runs.

    Raises:
        ValueError: If it is so.
    """
    if is_sharded(accelerator):
        raise ValueError("Autoencoders are trained whole: start the run without FSDP or DeepSpeed.")


def find_autoencoder(name: str, revision: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Find the configuration of an autoencoder.

    Args:
        name (`str`): A JSON file; or a folder or Hub id of an autoencoder, or of a pipeline that has one.
        revision (`str`, *optional*): Revision on the Hub.

    Returns:
        `tuple[dict[str, Any], dict[str, Any]]`: The configuration, and the arguments of `from_pretrained` that lead to
        its weights.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not os.path.exists(name) and (name.startswith((".", "/", "~")) or name.endswith(".json")):
        raise FileNotFoundError(f"The autoencoder must be a folder, a JSON file or a Hub id, but {name!r} is missing.")
    source = {"subfolder": "vae"} if is_pipeline(name, revision) else {}
    source |= {} if revision is None else {"revision": revision}
    return AutoencoderKL.load_config(name, **source), source


def is_pipeline(name: str, revision: str | None = None) -> bool:
    """
    Tell a pipeline from a single model.

    Args:
        name (`str`): Folder or Hub id.
        revision (`str`, *optional*): Revision on the Hub.

    Returns:
        `bool`
    """
    if os.path.exists(name):
        return os.path.isfile(os.path.join(name, DiffusionPipeline.config_name))
    try:
        DiffusionPipeline.load_config(name, revision=revision)
    except OSError:  # no index, as in the repository of a model
        return False
    return True


def load_autoencoder(config: AutoencoderConfig) -> nn.Module:
    """
    Load the autoencoder to train, or make a new one.

    Args:
        config ([`AutoencoderConfig`]): Settings.

    Returns:
        `AutoencoderKL`, [`AutoencoderKL3D`] or [`AutoencoderTriplane`]: In float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the configuration is of another class, or settings have no effect on this one.
    """
    name = config.pretrained_model_name_or_path or config.model_config_name_or_path
    settings, source = find_autoencoder(name, config.revision)
    classes = {one.__name__: one for one in (AutoencoderKL, *CLIP_AUTOENCODERS)}
    kind = settings.get("_class_name", AutoencoderKL.__name__)
    if kind not in classes:
        raise ValueError(f"{name!r} must describe one of {', '.join(classes)}, but describes a `{kind}`.")
    _check_effects(config, classes[kind])
    if config.pretrained_model_name_or_path is not None:
        return classes[kind].from_pretrained(name, **source)
    vae = classes[kind].from_config(settings)
    if config.zero_init_residuals:
        zero_init_residuals(vae)
    return vae


def _check_effects(config: AutoencoderConfig, kind: type[nn.Module]) -> None:
    idle = config.of_clips if kind is AutoencoderKL else []
    if kind in CLIP_AUTOENCODERS and config.zero_init_residuals:
        idle = ["zero_init_residuals"]
    if kind is AutoencoderTriplane:  # it has no posterior, and its latents lie in (-1, 1) as they are
        idle += config.of_posteriors
    if idle:
        raise ValueError(f"`{idle[0]}` has no effect on an `{kind.__name__}`. Leave it out.")


def freeze_encoder(vae: nn.Module) -> None:
    """
    Let only the decoder train, so that latents stay.

    Args:
        vae (`torch.nn.Module`): `requires_grad` of its weights is set.
    """
    parts = ("from_latents", "decoder", "to_pixels") if isinstance(vae, AutoencoderTriplane) else ("decoder",)
    vae.requires_grad_(False)
    for name in parts:
        getattr(vae, name).requires_grad_(True)


def load_frames(config: TrainingConfig, vae: nn.Module) -> tuple[Dataset, Dataset | None]:
    """
    Find the clips that an autoencoder is trained on, and those held out.

    Args:
        config ([`TrainingConfig`]): Settings.
        vae (`torch.nn.Module`): The autoencoder, which says what sizes it can reconstruct.

    Returns:
        `tuple[Dataset, Dataset | None]`

    Raises:
        ValueError: If the clips are packed latents, or of a size that the autoencoder cannot reconstruct.
    """
    dataset, heldout = load_pixel_clips(config)
    if is_of_clips(vae):
        _check_clips(dataset, vae)
        return dataset, heldout
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    for name in sorted(set(dataset.buckets)):
        width, height = (int(side) for side in name.split("@")[0].split("x"))
        if width % factor or height % factor:
            raise ValueError(
                f"Height and width must be multiples of {factor} (the factor of the autoencoder), but are {height} and"
                f" {width}. Choose others."
            )
    return dataset, heldout


def _check_clips(dataset: Dataset, vae: nn.Module) -> None:
    for bucket in map(Bucket.parse, sorted(set(dataset.buckets))):
        if bucket.num_frames == 1:
            raise ValueError("Clips must have at least 2 `num_frames` for an autoencoder of clips, but have 1.")
        vae.latents_shape(bucket.num_frames, bucket.height, bucket.width)


def spread(dataset: Dataset, number: int) -> list[dict[str, Any]]:
    """
    Choose clips spread evenly over a set.

    Args:
        dataset (`Dataset`): The set.
        number (`int`): How many, at most.

    Returns:
        `list[dict[str, Any]]`
    """
    number = min(number, len(dataset))
    return [dataset[place * len(dataset) // number] for place in range(number)]


def save_autoencoder(vae: nn.Module, config: TrainingConfig) -> None:
    """
    Save an autoencoder, complete or not at all; push it if asked for.

    Args:
        vae (`torch.nn.Module`): The autoencoder, on the CPU.
        config ([`TrainingConfig`]): Where to save it.
    """
    target = Path(config.output_dir)
    scratch = target / ".model.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        vae.save_pretrained(scratch)
        move_into(target, scratch, last=vae.config_name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    logger.info(f"Saved the autoencoder in {target}")
    if config.push_to_hub:
        vae.push_to_hub(config.hub_model_id or target.absolute().name)


def log_results(config: TrainingConfig) -> None:
    """
    Show what a run came to.

    Args:
        config ([`TrainingConfig`]): Its settings.
    """
    for name, value in read_results(config.output_dir).items():
        logger.info(f"{name}: {value:.6g}")
