"""Train the decoder of an autoencoder on videos: temporal layers in it, or all of it. The encoder stays as it is.

    accelerate launch training/train_video_decoder.py --pretrained_model_name_or_path MODEL --train_data_dir CLIPS \
        --resolution 256 --num_frames 8 --output_dir OUT --max_train_steps 10000

`--help` lists the settings; a YAML file with them may come first, and flags overrule it.
"""

import logging
from functools import partial
from typing import Any

from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import Tensor, nn

from diffusers_video.training.adversarial import AdversarialAutoencoder, describe_opponent, warn_of_late_start
from diffusers_video.training.autoencoders import check_whole, load_frames, log_results, save_autoencoder, spread
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.decoder_loss import DecoderLoss
from diffusers_video.training.loop import count_updates, fit
from diffusers_video.training.models import count_parameters
from diffusers_video.training.perceptual import load_distance
from diffusers_video.training.reconstruction import heldout_reconstruction
from diffusers_video.training.run_start import describe_run, finish_setup, run_identity, start_run
from diffusers_video.training.training_data import build_clip_loader, describe_clips
from diffusers_video.training.video_decoder import build_discriminator, load_video_autoencoder, select_trained
from diffusers_video.training.video_decoder_config import VideoDecoderConfig


logger = get_logger(__name__)


def main(config: VideoDecoderConfig) -> None:
    """
    Train and save an autoencoder of videos.

    Args:
        config ([`VideoDecoderConfig`]): Settings.
    """
    accelerator = start_run(config)
    check_whole(accelerator)
    num_processes = accelerator.num_processes
    vae = load_video_autoencoder(config)
    dataset, heldout = load_frames(config, vae)
    model = AdversarialAutoencoder(vae, build_discriminator(config, vae, dataset))
    identity = run_identity(config, model, dataset, num_processes)
    distance = load_distance(config.perceptual_model, accelerator.device, identity)
    select_trained(vae, config, describe_clips(dataset)[0])
    loader = build_clip_loader(dataset, config, num_processes, accelerator.process_index)
    what = {"temporal": "temporal layers of a decoder", "decoder": "a decoder"}[config.train]
    max_train_steps = count_updates(config, loader)
    for line in [
        *describe_run(config, what, max_train_steps, num_processes, dataset),
        "vae: {:,} parameters train, {:,} are frozen".format(*count_parameters(vae)),
        "discriminator: {:,} parameters train, {:,} are frozen".format(*count_parameters(model.discriminator)),
    ]:
        logger.info(line)
    warn_of_late_start(config, max_train_steps)
    loss_fn = DecoderLoss(config, accelerator.device, vae, distance)
    clips = [] if heldout is None else spread(heldout, config.num_heldout_clips)
    finish_setup(accelerator, config)
    model = fit(
        accelerator,
        model,
        loader,
        loss_fn,
        config,
        identity=identity,
        validate=partial(validate, accelerator, loss_fn, clips),
        opponent=describe_opponent(model.discriminator, config.disc_learning_rate, weight_decay=0.0),
    )
    finish(accelerator, model, config)


def validate(
    accelerator: Accelerator, loss_fn: DecoderLoss, clips: list[dict[str, Any]], model: nn.Module, step: int
) -> dict[str, float]:
    """
    Measure the reconstruction of held-out clips.

    Args:
        accelerator (`Accelerator`): Where training runs.
        loss_fn ([`DecoderLoss`]): Its loss of reconstructions is measured, without the adversarial part.
        clips (`list[dict[str, Any]]`): Held-out clips; with none nothing is measured.
        model (`torch.nn.Module`): The prepared [`AdversarialAutoencoder`].
        step (`int`): Updates done.

    Returns:
        `dict[str, float]`: See [`heldout_reconstruction`].
    """

    def reconstruct(videos: Tensor) -> Tensor:
        return model(videos).reconstructions

    return heldout_reconstruction(reconstruct, loss_fn.of_reconstruction, clips, accelerator.device)


def finish(accelerator: Accelerator, model: nn.Module, config: VideoDecoderConfig) -> None:
    """
    Save the autoencoder, complete or not at all; push it if asked for.

    Args:
        accelerator (`Accelerator`): Where training ran.
        model (`torch.nn.Module`): What was trained.
        config ([`VideoDecoderConfig`]): Where to save it.
    """
    if accelerator.is_main_process:
        save_autoencoder(model.vae.to("cpu").eval(), config)
        log_results(config)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(parse_config(VideoDecoderConfig))
