"""What the scripts of autoencoders share: finding a model, the clips in pixels, and saving."""

import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers import AutoencoderKL, DiffusionPipeline
from torch.utils.data import Dataset

from diffusers_video.training.base_config import TrainingConfig
from diffusers_video.training.run_log import read_results
from diffusers_video.training.saving import is_sharded, move_into
from diffusers_video.training.training_data import load_pixel_clips


logger = get_logger(__name__)


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
    source = {"subfolder": "vae"} if _is_pipeline(name, revision) else {}
    source |= {} if revision is None else {"revision": revision}
    return AutoencoderKL.load_config(name, **source), source


def _is_pipeline(name: str, revision: str | None) -> bool:
    if os.path.exists(name):
        return os.path.isfile(os.path.join(name, DiffusionPipeline.config_name))
    try:
        DiffusionPipeline.load_config(name, revision=revision)
    except OSError:  # no index, as in the repository of a model
        return False
    return True


def load_frames(config: TrainingConfig, vae: AutoencoderKL) -> tuple[Dataset, Dataset | None]:
    """
    Find the clips that an autoencoder is trained on, and those held out.

    Args:
        config ([`TrainingConfig`]): Settings.
        vae (`AutoencoderKL`): The autoencoder, which says what sizes it can halve.

    Returns:
        `tuple[Dataset, Dataset | None]`

    Raises:
        ValueError: If the clips are packed latents, or of a size that the autoencoder cannot reconstruct.
    """
    dataset, heldout = load_pixel_clips(config)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    for name in sorted(set(dataset.buckets)):
        width, height = (int(side) for side in name.split("@")[0].split("x"))
        if width % factor or height % factor:
            raise ValueError(
                f"Height and width must be multiples of {factor} (the factor of the autoencoder), but are {height} and"
                f" {width}. Choose others."
            )
    return dataset, heldout


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


def save_autoencoder(vae: AutoencoderKL, config: TrainingConfig) -> None:
    """
    Save an autoencoder, complete or not at all; push it if asked for.

    Args:
        vae (`AutoencoderKL`): The autoencoder, on the CPU.
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
