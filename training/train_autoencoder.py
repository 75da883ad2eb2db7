"""Train an autoencoder: of frames (`AutoencoderKL`), or of clips (`AutoencoderKL3D`, `AutoencoderTriplane`).

    accelerate launch training/train_autoencoder.py --model_config_name_or_path vae.json --train_data_dir CLIPS \
        --resolution 256 --output_dir OUT --max_train_steps 10000

A new one, one to go on with, or the decoder of one; those of clips also against discriminators (`--disc_weight`).
`--help` lists the settings; a YAML file with them may come first, and flags overrule it.
"""

import logging
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffusers_video.layers.layout import videos_to_images
from diffusers_video.training.adversarial import describe_opponent, warn_of_late_start
from diffusers_video.training.autoencoder_config import AutoencoderConfig
from diffusers_video.training.autoencoders import (
    check_whole,
    freeze_encoder,
    is_of_clips,
    load_autoencoder,
    load_frames,
    log_results,
    save_autoencoder,
    spread,
)
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.clip_autoencoder import build_clip_autoencoder, reconstruct_held_out
from diffusers_video.training.clip_autoencoder_loss import ClipAutoencoderLoss
from diffusers_video.training.loop import LossFunction, count_updates, fit
from diffusers_video.training.models import count_parameters
from diffusers_video.training.perceptual import load_distance
from diffusers_video.training.reconstruction import (
    FrameAutoencoder,
    heldout_reconstruction,
    measure_scaling_factor,
    reconstruct_frames,
    reconstruction_loss,
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
    model = build_clip_autoencoder(config, vae, accelerator) if is_of_clips(vae) else FrameAutoencoder(vae)
    identity = run_identity(config, model, dataset, num_processes)
    loss_fn = choose_loss(accelerator, vae, config, identity)
    if config.train == "decoder":
        freeze_encoder(vae)
    loader = build_clip_loader(dataset, config, num_processes, accelerator.process_index)
    what = {"all": "an autoencoder", "decoder": "a decoder"}[config.train]
    num_updates = count_updates(config, loader)
    for line in [
        *describe_run(config, what, num_updates, num_processes, dataset),
        "vae: {:,} parameters train, {:,} are frozen".format(*count_parameters(vae)),
    ]:
        logger.info(line)
    warn_of_late_start(config, num_updates)
    clips = [] if heldout is None else spread(heldout, config.num_heldout_clips)
    finish_setup(accelerator, config)
    model = fit(
        accelerator,
        model,
        loader,
        loss_fn,
        config,
        identity=identity,
        validate=partial(validate, accelerator, clips),
        opponent=describe_opponent(getattr(model, "judges", None), config.disc_learning_rate),
    )
    finish(accelerator, model, dataset, config)


def choose_loss(
    accelerator: Accelerator, vae: nn.Module, config: AutoencoderConfig, identity: dict[str, Any]
) -> LossFunction:
    """
    Choose what an autoencoder trains on.

    Args:
        accelerator (`Accelerator`): Where training runs.
        vae (`torch.nn.Module`): The autoencoder.
        config ([`AutoencoderConfig`]): Weights of the parts.
        identity (`dict[str, Any]`): Of the run; a perceptual network enters by its weights.

    Returns:
        `Callable`: See [`fit`].
    """
    if not is_of_clips(vae):
        return partial(autoencoder_loss, config, accelerator.device)
    distance = load_distance(config.perceptual_model, accelerator.device, identity)
    return ClipAutoencoderLoss(config, accelerator.device, vae, distance)


def autoencoder_loss(
    config: AutoencoderConfig,
    device: torch.device,
    model: nn.Module,
    batch: dict[str, Any],
    generator: torch.Generator,
) -> Tensor:
    """
    Compute the loss of an autoencoder of frames: the reconstruction's, and the latents' distance from a normal one.

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
        model (`torch.nn.Module`): The prepared [`FrameAutoencoder`] or [`ClipAutoencoder`].
        step (`int`): Updates done.

    Returns:
        `dict[str, float]`: See [`heldout_reconstruction`]; the loss is the mean absolute error.
    """
    loss_fn = partial(reconstruction_loss, kind="l1")
    reconstruct = reconstruct_held_out if is_of_clips(accelerator.unwrap_model(model).vae) else reconstruct_frames
    return heldout_reconstruction(partial(reconstruct, model), loss_fn, clips, accelerator.device)


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
        if config.train == "all" and "scaling_factor" in vae.config:
            frames = len(dataset[0]["pixel_values"][0])
            clips = spread(dataset, -(-config.num_scaling_images // frames))
            vae.register_to_config(scaling_factor=measure_scaling_factor(vae, clips))
        save_autoencoder(vae, config)
        logger.info(f"Scaling factor {vae.scaling_factor if is_of_clips(vae) else vae.config.scaling_factor:.4f}")
        log_results(config)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(parse_config(AutoencoderConfig))
