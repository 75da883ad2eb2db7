"""Train an upscaler of videos on patches of clips: the temporal layers of an image upscaler, or all of it.

    accelerate launch training/train_super_resolution.py --pretrained_model_name_or_path MODEL --train_data_dir CLIPS \
        --output_dir OUT --max_train_steps 1000

The model denoises latents beside low-resolution frames, or pixels where its pipeline has no autoencoder.

`--help` lists the settings; a YAML file with them may come first, and flags overrule it.
"""

import logging
from functools import partial

from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import nn
from torch.utils.data import Dataset

from diffusers_video.pipelines.video_super_resolution import VideoSuperResolutionPipeline
from diffusers_video.training.autoencoders import log_results
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.clip_loss import HeldoutClip, heldout_loss, prepare_heldout
from diffusers_video.training.loop import count_updates, fit
from diffusers_video.training.models import describe_models, place_frozen_models, select_trained
from diffusers_video.training.run_log import read_results
from diffusers_video.training.run_start import describe_run, finish_setup, run_identity, start_run
from diffusers_video.training.saving import gather_unet, save_pipeline
from diffusers_video.training.super_resolution import (
    SuperResolutionLoss,
    choose_patch_size,
    load_upscaler,
    preview_video,
    see_low_res,
)
from diffusers_video.training.super_resolution_config import SuperResolutionConfig
from diffusers_video.training.training_data import build_clip_loader, describe_clips, load_pixel_clips


logger = get_logger(__name__)


def main(config: SuperResolutionConfig) -> None:
    """
    Train and save a pipeline.

    Args:
        config ([`SuperResolutionConfig`]): Settings.
    """
    accelerator = start_run(config)
    num_processes, device = accelerator.num_processes, accelerator.device
    dataset, heldout = load_pixel_clips(config)
    pipeline = load_upscaler(config, *describe_clips(dataset))
    patch_size = choose_patch_size(config, dataset, pipeline.scale)
    identity = run_identity(config, pipeline.unet, dataset, num_processes)
    select_trained(pipeline, config)
    place_frozen_models(pipeline, device, accelerator.mixed_precision)
    loader = build_clip_loader(dataset, config, num_processes, accelerator.process_index)
    for line in [
        *describe_run(config, f"`{config.train}`", count_updates(config, loader), num_processes, dataset),
        *describe_models(pipeline),
        f"Patches of {patch_size} by {patch_size} pixels, from {patch_size // pipeline.scale} by"
        f" {patch_size // pipeline.scale}",
    ]:
        logger.info(line)
    loss_fn = SuperResolutionLoss.build(pipeline, config, device, patch_size)
    clips = prepare_heldout(loss_fn, heldout)
    finish_setup(accelerator, config)
    validation = partial(validate, loss_fn, clips)
    model = fit(accelerator, pipeline.unet, loader, loss_fn, config, identity=identity, validate=validation)
    pipeline.unet = gather_unet(accelerator, model, {})
    finish(accelerator, pipeline, dataset, config)


def validate(loss_fn: SuperResolutionLoss, clips: list[HeldoutClip], model: nn.Module, step: int) -> dict[str, float]:
    """
    Measure the held-out loss.

    Args:
        loss_fn ([`SuperResolutionLoss`]): Its noise schedule.
        clips (`list[HeldoutClip]`): Held-out clips; with none there is no loss.
        model (`torch.nn.Module`): The prepared denoiser.
        step (`int`): Updates done.

    Returns:
        `dict[str, float]`: `heldout_loss`, or nothing.
    """
    if not clips:
        return {}
    return {"heldout_loss": heldout_loss(partial(see_low_res, model), loss_fn.scheduler, clips)}


def finish(
    accelerator: Accelerator,
    pipeline: VideoSuperResolutionPipeline,
    dataset: Dataset,
    config: SuperResolutionConfig,
) -> None:
    """
    Save the pipeline.

    Args:
        accelerator (`Accelerator`): Where training ran.
        pipeline ([`VideoSuperResolutionPipeline`]): With the trained denoiser.
        dataset (`Dataset`): The clips; the first one is upscaled for the preview.
        config ([`SuperResolutionConfig`]): Settings.
    """
    unet = pipeline.unet
    if accelerator.is_main_process:
        if accelerator.mixed_precision != "no":  # the frozen models are in half precision; save them as they were
            pipeline = load_upscaler(config, *describe_clips(dataset))
        pipeline.unet = unet
        clip = dataset[0]
        given = {"video": preview_video(clip, pipeline.scale)}
        prompt = None if pipeline.text_encoder is None else clip["text"]
        results = read_results(config.output_dir)
        save_pipeline(pipeline.to("cpu"), config, size=dataset.buckets[0], prompt=prompt, results=results, given=given)
        log_results(config)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(parse_config(SuperResolutionConfig))
