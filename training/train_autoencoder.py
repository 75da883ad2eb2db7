"""Train an image autoencoder on frames: a new `AutoencoderKL`, or one to go on with.

    accelerate launch training/train_autoencoder.py --model_config_name_or_path vae.json --train_data_dir CLIPS \
        --resolution 256 --output_dir OUT --max_train_steps 10000

`--help` lists the settings; a YAML file with them may come first, and flags overrule it.
"""

import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffusers_video.layers.layout import videos_to_images
from diffusers_video.training.autoencoder_config import AutoencoderConfig
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.loop import count_updates, fit
from diffusers_video.training.reconstruction import (
    FrameAutoencoder,
    heldout_reconstruction,
    measure_scaling_factor,
    reconstruction_loss,
    zero_init_residuals,
)
from diffusers_video.training.run_log import read_results
from diffusers_video.training.run_start import describe_run, finish_setup, run_identity, start_run
from diffusers_video.training.saving import is_sharded, move_into
from diffusers_video.training.training_data import build_clip_loader, is_packed, load_clips


logger = get_logger(__name__)


def main(config: AutoencoderConfig) -> None:
    """
    Train and save an autoencoder.

    Args:
        config ([`AutoencoderConfig`]): Settings.
    """
    accelerator = start_run(config)
    if is_sharded(accelerator):
        raise ValueError("Autoencoders are trained whole: start the run without FSDP or DeepSpeed.")
    num_processes = accelerator.num_processes
    vae = load_autoencoder(config)
    dataset, heldout = load_frames(config, vae)
    if config.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    model = FrameAutoencoder(vae)
    identity = run_identity(config, model, dataset, num_processes)
    loader = build_clip_loader(dataset, config, num_processes, accelerator.process_index)
    count = sum(parameter.numel() for parameter in vae.parameters())
    lines = describe_run(config, "an autoencoder", count_updates(config, loader), num_processes, dataset)
    for line in [*lines, f"vae: {count:,} parameters train, 0 are frozen"]:
        logger.info(line)
    clips = [] if heldout is None else spread(heldout, config.num_heldout_clips)
    finish_setup(accelerator, config)
    loss_fn = partial(autoencoder_loss, config, accelerator.device)
    validation = partial(validate, accelerator, clips)
    model = fit(accelerator, model, loader, loss_fn, config, identity=identity, validate=validation)
    finish(accelerator, model, dataset, config)


def load_autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    """
    Load the autoencoder to train, or make a new one.

    Args:
        config ([`AutoencoderConfig`]): Settings.

    Returns:
        `AutoencoderKL`: In float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the configuration is of another class.
    """
    name = config.pretrained_model_name_or_path or config.model_config_name_or_path
    if not os.path.exists(name) and (name.startswith((".", "/", "~")) or name.endswith(".json")):
        raise FileNotFoundError(f"The autoencoder must be a folder, a JSON file or a Hub id, but {name!r} is missing.")
    subfolder = "vae" if _is_pipeline(name, config.revision) else None
    options = {} if config.revision is None else {"revision": config.revision}
    settings = AutoencoderKL.load_config(name, subfolder=subfolder, **options)
    if settings.get("_class_name", AutoencoderKL.__name__) != AutoencoderKL.__name__:
        raise ValueError(f"{name!r} must describe an `AutoencoderKL`, but describes a `{settings['_class_name']}`.")
    if config.pretrained_model_name_or_path is not None:
        return AutoencoderKL.from_pretrained(name, subfolder=subfolder, **options)
    vae = AutoencoderKL.from_config(settings)
    if config.zero_init_residuals:
        zero_init_residuals(vae)
    return vae


def _is_pipeline(name: str, revision: str | None) -> bool:
    if os.path.exists(name):
        return os.path.isfile(os.path.join(name, DiffusionPipeline.config_name))
    try:
        DiffusionPipeline.load_config(name, revision=revision)
    except OSError:  # no index, as in the repository of a model
        return False
    return True


def load_frames(config: AutoencoderConfig, vae: AutoencoderKL) -> tuple[Dataset, Dataset | None]:
    """
    Find the clips whose frames are trained on, and those held out.

    Args:
        config ([`AutoencoderConfig`]): Settings.
        vae (`AutoencoderKL`): The autoencoder, which says what sizes it can halve.

    Returns:
        `tuple[Dataset, Dataset | None]`

    Raises:
        ValueError: If the clips are packed latents, or of a size that the autoencoder cannot reconstruct.
    """
    for path in (config.train_data_dir, config.heldout_data_dir):
        if path is not None and is_packed(path):
            raise ValueError(f"{path!r} must hold videos, but holds packed latents: an autoencoder trains on pixels.")
    dataset, heldout = load_clips(config)
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


def autoencoder_loss(
    config: AutoencoderConfig,
    device: torch.device,
    model: nn.Module,
    batch: dict[str, Any],
    generator: torch.Generator,
) -> Tensor:
    """
    Compute the loss that is trained on: of the reconstruction, and of the latents' distance from a normal one.

    Args:
        config ([`AutoencoderConfig`]): Weights of both.
        device (`torch.device`): Where the model runs.
        model (`torch.nn.Module`): A prepared [`FrameAutoencoder`].
        batch (`dict[str, Any]`): With `pixel_values` `(batch_size, channels, num_frames, height, width)`.
        generator (`torch.Generator`): Source of all randomness.

    Returns:
        `torch.Tensor`: Scalar.

    Source:
        Latent Diffusion Models (arXiv:2112.10752), Section 3.1 and Appendix G, without the adversarial part.
    """
    images = videos_to_images(batch["pixel_values"]).to(device)
    reconstructions, divergence = model(images, generator)
    return reconstruction_loss(reconstructions, images, config.rec_loss) + config.kl_scale * divergence.mean()


def validate(accelerator: Accelerator, clips: list[dict[str, Any]], model: nn.Module, step: int) -> dict[str, float]:
    """
    Measure the reconstruction of held-out clips.

    Args:
        accelerator (`Accelerator`): Where training runs.
        clips (`list[dict[str, Any]]`): Held-out clips; with none nothing is measured.
        model (`torch.nn.Module`): The prepared [`FrameAutoencoder`].
        step (`int`): Updates done.

    Returns:
        `dict[str, float]`: See [`heldout_reconstruction`].
    """
    return heldout_reconstruction(model, clips, accelerator.device) if clips else {}


def finish(accelerator: Accelerator, model: nn.Module, dataset: Dataset, config: AutoencoderConfig) -> None:
    """
    Set the scale of the latents and save the autoencoder, complete or not at all; push it if asked for.

    Args:
        accelerator (`Accelerator`): Where training ran.
        model (`torch.nn.Module`): What was trained.
        dataset (`Dataset`): The clips, on which the scale is measured.
        config ([`AutoencoderConfig`]): Where to save it.
    """
    if accelerator.is_main_process:
        vae = model.vae.to("cpu").eval()
        frames = len(dataset[0]["pixel_values"][0])
        vae.register_to_config(
            scaling_factor=measure_scaling_factor(vae, spread(dataset, -(-config.num_scaling_images // frames)))
        )
        target = Path(config.output_dir)
        scratch = target / ".model.partial"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            vae.save_pretrained(scratch)
            move_into(target, scratch, last=vae.config_name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        logger.info(f"Saved the autoencoder in {target}, scaling factor {vae.config.scaling_factor:.4f}")
        if config.push_to_hub:
            vae.push_to_hub(config.hub_model_id or target.absolute().name)
        for name, value in read_results(config.output_dir).items():
            logger.info(f"{name}: {value:.6g}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(parse_config(AutoencoderConfig))
