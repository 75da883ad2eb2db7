"""Train a denoiser from scratch: in latents of videos or images, or in pixels; without text, or with pooled text.

    accelerate launch training/train_unconditional.py --preset lvdm --pretrained_vae_name_or_path AUTOENCODER \
        --train_data_dir CLIPS --resolution 256 --output_dir OUT --max_train_steps 100000

`--task` says whether frames are given: none, first ones, or both ends; each also trains without them. A denoiser of
the class `UNetTriplaneModel` trains with and without the clip before: its training clips hold two of its own.

`--pretrained_text_encoder_name_or_path` makes it a model of text: captions reach it as one vector each.

`--help` lists the settings; a YAML file with them may come first, and flags overrule it.
"""

import logging
from functools import partial

from accelerate import Accelerator
from accelerate.logging import get_logger
from diffusers import DiffusionPipeline
from torch import nn
from torch.utils.data import Dataset

from diffusers_video.data.buckets import Bucket
from diffusers_video.training.autoencoders import log_results
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.clip_loss import HeldoutClip, prepare_heldout
from diffusers_video.training.encoding import encoding_identity
from diffusers_video.training.joint_images import add_images
from diffusers_video.training.loop import count_updates, fit
from diffusers_video.training.models import describe_models, place_frozen_models, select_trained
from diffusers_video.training.previous_clip import build_loss, heldout_losses
from diffusers_video.training.run_log import read_results
from diffusers_video.training.run_start import describe_run, finish_setup, run_identity, start_run
from diffusers_video.training.saving import gather_unet, save_pipeline
from diffusers_video.training.text_models import reads_captions
from diffusers_video.training.training_data import build_clip_loader, is_packed, load_clips
from diffusers_video.training.unconditional import UnconditionalLoss, load_unconditional
from diffusers_video.training.unconditional_config import UnconditionalConfig


logger = get_logger(__name__)


def main(config: UnconditionalConfig) -> None:
    """
    Train and save a pipeline.

    Args:
        config ([`UnconditionalConfig`]): Settings.
    """
    accelerator = start_run(config)
    num_processes, device = accelerator.num_processes, accelerator.device
    pipeline, dataset, heldout = load_model_and_clips(config)
    identity = run_identity(config, pipeline.unet, dataset, num_processes)
    select_trained(pipeline, config)
    place_frozen_models(pipeline, device, accelerator.mixed_precision)
    clips_and_images = add_images(dataset, pipeline, config)
    loader = build_clip_loader(clips_and_images, config, num_processes, accelerator.process_index)
    for line in [
        *describe_run(config, "a denoiser", count_updates(config, loader), num_processes, dataset),
        *describe_models(pipeline),
    ]:
        logger.info(line)
    loss_fn = build_loss(pipeline, config, device)
    clips = prepare_heldout(loss_fn, heldout)
    finish_setup(accelerator, config)
    validation = partial(validate, loss_fn, clips)
    model = fit(accelerator, pipeline.unet, loader, loss_fn, config, identity=identity, validate=validation)
    pipeline.unet = gather_unet(accelerator, model, {})
    finish(accelerator, pipeline, dataset, config)


def load_model_and_clips(config: UnconditionalConfig) -> tuple[DiffusionPipeline, Dataset, Dataset | None]:
    """
    Load the model and find the clips, each in the light of the other.

    Args:
        config ([`UnconditionalConfig`]): Settings.

    Returns:
        `tuple`: Pipeline, training clips, and held-out clips if there are some.

    Raises:
        ValueError: If the clips are packed latents of another autoencoder, or pixels are denoised.
    """
    dataset, heldout = load_clips(config)
    pipeline = load_unconditional(config, dataset)
    packed = [path for path in (config.train_data_dir, config.heldout_data_dir) if path and is_packed(path)]
    if packed and pipeline.vae is None:
        raise ValueError(f"{packed[0]!r} must hold videos, but holds packed latents: this model trains on pixels.")
    if packed:
        dataset, heldout = load_clips(config, encoding_identity(pipeline))
    return pipeline, dataset, heldout


def validate(loss_fn: UnconditionalLoss, clips: list[HeldoutClip], model: nn.Module, step: int) -> dict[str, float]:
    """
    Measure the held-out loss.

    Args:
        loss_fn ([`UnconditionalLoss`]): Its noise schedule.
        clips (`list[HeldoutClip]`): Held-out clips; with none there is no loss.
        model (`torch.nn.Module`): The prepared denoiser.
        step (`int`): Updates done.

    Returns:
        `dict[str, float]`: See [`heldout_losses`].
    """
    return heldout_losses(model, loss_fn, clips)


def finish(
    accelerator: Accelerator, pipeline: DiffusionPipeline, dataset: Dataset, config: UnconditionalConfig
) -> None:
    """
    Save the pipeline.

    Args:
        accelerator (`Accelerator`): Where training ran.
        pipeline (`DiffusionPipeline`): With the trained denoiser.
        dataset (`Dataset`): The clips; the first caption is drawn by a model of text.
        config ([`UnconditionalConfig`]): Settings.
    """
    unet = pipeline.unet
    if accelerator.is_main_process:
        if accelerator.mixed_precision != "no":  # the autoencoder is in half precision; save it as it was
            pipeline = load_unconditional(config, dataset)
        pipeline.unet = unet
        bucket = Bucket.parse(dataset.buckets[0])
        size = f"{bucket.width}x{bucket.height}@{pipeline.config.num_frames}"
        prompt = dataset[0]["text"] if reads_captions(pipeline) else None
        results = read_results(config.output_dir)
        save_pipeline(pipeline.to("cpu"), config, size=size, prompt=prompt, results=results)
        log_results(config)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(parse_config(UnconditionalConfig))
