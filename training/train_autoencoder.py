"""Train an image autoencoder on frames: a new `AutoencoderKL`, one to go on with, or the decoder of one.

    accelerate launch training/train_autoencoder.py --model_config_name_or_path vae.json --train_data_dir CLIPS \
        --resolution 256 --output_dir OUT --max_train_steps 10000

`--help` lists the settings; a YAML file with them may come first, and flags overrule it.
"""

import logging
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffusers_video.layers.layout import videos_to_images
from diffusers_video.training.autoencoder_config import AutoencoderConfig
from diffusers_video.training.autoencoders import (
    check_whole,
    find_autoencoder,
    load_frames,
    log_results,
    save_autoencoder,
    spread,
)
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.loop import count_updates, fit
from diffusers_video.training.models import count_parameters
from diffusers_video.training.reconstruction import (
    FrameAutoencoder,
    heldout_reconstruction,
    measure_scaling_factor,
    reconstruct_frames,
    reconstruction_loss,
    zero_init_residuals,
)
from diffusers_video.training.run_start import describe_run, finish_setup, run_identity, start_run
from diffusers_video.training.training_data import build_clip_loader


logger = get_logger(__name__)


def main(config: AutoencoderConfig) -> None:
    """
    Train and save an autoencoder.

    Args:
        config ([`AutoencoderConfig`]): Settings.
    """
    accelerator = start_run(config)
    check_whole(accelerator)
    num_processes = accelerator.num_processes
    vae = load_autoencoder(config)
    dataset, heldout = load_frames(config, vae)
    if config.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    model = FrameAutoencoder(vae)
    identity = run_identity(config, model, dataset, num_processes)
    if config.train == "decoder":
        vae.requires_grad_(False).decoder.requires_grad_(True)
    loader = build_clip_loader(dataset, config, num_processes, accelerator.process_index)
    what = {"all": "an autoencoder", "decoder": "a decoder"}[config.train]
    for line in [
        *describe_run(config, what, count_updates(config, loader), num_processes, dataset),
        "vae: {:,} parameters train, {:,} are frozen".format(*count_parameters(vae)),
    ]:
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
    settings, source = find_autoencoder(name, config.revision)
    if settings.get("_class_name", AutoencoderKL.__name__) != AutoencoderKL.__name__:
        raise ValueError(f"{name!r} must describe an `AutoencoderKL`, but describes a `{settings['_class_name']}`.")
    if config.pretrained_model_name_or_path is not None:
        return AutoencoderKL.from_pretrained(name, **source)
    vae = AutoencoderKL.from_config(settings)
    if config.zero_init_residuals:
        zero_init_residuals(vae)
    return vae


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
        `torch.Tensor`: Scalar; without the second part where only the decoder trains.

    Source:
        Latent Diffusion Models (arXiv:2112.10752), Section 3.1 and Appendix G, without the adversarial part.
    """
    images = videos_to_images(batch["pixel_values"]).to(device)
    reconstructions, divergence = model(images, generator)
    loss = reconstruction_loss(reconstructions, images, config.rec_loss)
    return loss if config.train == "decoder" else loss + config.kl_scale * divergence.mean()


def validate(accelerator: Accelerator, clips: list[dict[str, Any]], model: nn.Module, step: int) -> dict[str, float]:
    """
    Measure the reconstruction of held-out clips.

    Args:
        accelerator (`Accelerator`): Where training runs.
        clips (`list[dict[str, Any]]`): Held-out clips; with none nothing is measured.
        model (`torch.nn.Module`): The prepared [`FrameAutoencoder`].
        step (`int`): Updates done.

    Returns:
        `dict[str, float]`: See [`heldout_reconstruction`]; the loss is the mean absolute error.
    """
    loss_fn = partial(reconstruction_loss, kind="l1")
    return heldout_reconstruction(partial(reconstruct_frames, model), loss_fn, clips, accelerator.device)


def finish(accelerator: Accelerator, model: nn.Module, dataset: Dataset, config: AutoencoderConfig) -> None:
    """
    Set the scale of new latents; save the autoencoder, complete or not at all; push it if asked for.

    Args:
        accelerator (`Accelerator`): Where training ran.
        model (`torch.nn.Module`): What was trained.
        dataset (`Dataset`): The clips, on which the scale is measured.
        config ([`AutoencoderConfig`]): Where to save it.
    """
    if accelerator.is_main_process:
        vae = model.vae.to("cpu").eval()
        if config.train == "all":
            frames = len(dataset[0]["pixel_values"][0])
            clips = spread(dataset, -(-config.num_scaling_images // frames))
            vae.register_to_config(scaling_factor=measure_scaling_factor(vae, clips))
        save_autoencoder(vae, config)
        logger.info(f"Scaling factor {vae.config.scaling_factor:.4f}")
        log_results(config)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(parse_config(AutoencoderConfig))
