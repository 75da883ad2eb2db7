"""Train a video model on clips: temporal layers of an image model, all of it, LoRA layers, or single frames.

    accelerate launch training/train_video_unet.py --pretrained_model_name_or_path MODEL --train_data_dir CLIPS \
        --output_dir OUT --max_train_steps 1000

`--task` says what it learns: videos from text, key frames that go on from given ones, or frames between given ones.
`--help` lists the settings; a YAML file with them may come first, and flags overrule it.
"""

import logging
from functools import partial

from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import nn
from torch.utils.data import Dataset

from diffusers_video.pipelines.text_to_video import TextToVideoPipeline
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.clip_loss import ClipLoss, HeldoutClip, heldout_loss, prepare_heldout
from diffusers_video.training.config import VideoUNetConfig
from diffusers_video.training.context import preview_arguments
from diffusers_video.training.encoding import encoding_identity
from diffusers_video.training.loop import count_updates, fit
from diffusers_video.training.models import (
    describe_models,
    detach_temporal_layers,
    load_pipeline,
    place_frozen_models,
    select_trained,
)
from diffusers_video.training.run_log import read_results
from diffusers_video.training.run_start import describe_run, finish_setup, run_identity, start_run
from diffusers_video.training.saving import gather_unet, is_sharded, save_pipeline, save_samples
from diffusers_video.training.training_data import build_clip_loader, describe_clips, is_packed, load_clips


logger = get_logger(__name__)


def main(config: VideoUNetConfig) -> None:
    """
    Train and save a pipeline.

    Args:
        config ([`VideoUNetConfig`]): Settings.
    """
    accelerator = start_run(config)
    num_processes = accelerator.num_processes
    pipeline, dataset, heldout = load_models_and_clips(config)
    identity = run_identity(config, pipeline.unet, dataset, num_processes)
    select_trained(pipeline, config)
    detached = detach_temporal_layers(pipeline.unet) if config.train == "spatial" else {}
    place_frozen_models(pipeline, accelerator.device, accelerator.mixed_precision)
    loader = build_clip_loader(dataset, config, num_processes, accelerator.process_index)
    for line in [
        *describe_run(config, f"`{config.train}`", count_updates(config, loader), num_processes, dataset),
        *describe_models(pipeline),
    ]:
        logger.info(line)
    clip_loss = ClipLoss.build(pipeline, config)
    heldout_clips = prepare_heldout(clip_loss, heldout)
    validation = partial(validate, accelerator, clip_loss, heldout_clips, dataset)
    finish_setup(accelerator, config)
    model = fit(accelerator, pipeline.unet, loader, clip_loss, config, identity=identity, validate=validation)
    pipeline.unet = gather_unet(accelerator, model, detached)
    finish(accelerator, pipeline, dataset, config)


def load_models_and_clips(config: VideoUNetConfig) -> tuple[TextToVideoPipeline, Dataset, Dataset | None]:
    """
    Load the model and find the clips, each in the light of the other.

    Args:
        config ([`VideoUNetConfig`]): Settings.

    Returns:
        `tuple`: Pipeline, training clips, and held-out clips if there are some.
    """
    needs_identity = is_packed(config.train_data_dir) or (
        config.heldout_data_dir and is_packed(config.heldout_data_dir)
    )
    dataset, heldout = load_clips(config)
    pipeline = load_pipeline(config, *describe_clips(dataset))
    if needs_identity:
        dataset, heldout = load_clips(config, encoding_identity(pipeline))
    return pipeline, dataset, heldout


def validate(
    accelerator: Accelerator,
    clip_loss: ClipLoss,
    clips: list[HeldoutClip],
    dataset: Dataset,
    model: nn.Module,
    step: int,
) -> dict[str, float]:
    """
    Measure the held-out loss and draw the validation prompts.

    Args:
        accelerator (`Accelerator`): Where training runs.
        clip_loss ([`ClipLoss`]): Its noise schedule and settings.
        clips (`list[HeldoutClip]`): Held-out clips; with none there is no loss.
        dataset (`Dataset`): The first of its sizes is drawn.
        model (`torch.nn.Module`): The prepared denoiser.
        step (`int`): Updates done.

    Returns:
        `dict[str, float]`: `heldout_loss`, or nothing.
    """
    config, pipeline = clip_loss.config, clip_loss.pipeline
    if config.validation_prompts and not is_sharded(accelerator) and accelerator.is_main_process:
        pipeline.unet = accelerator.unwrap_model(model)
        with accelerator.autocast():
            save_samples(pipeline, config, dataset.buckets[0], f"{config.output_dir}/samples", step)
    accelerator.wait_for_everyone()
    return {"heldout_loss": heldout_loss(model, clip_loss.scheduler, clips)} if clips else {}


def finish(
    accelerator: Accelerator,
    pipeline: TextToVideoPipeline,
    dataset: Dataset,
    config: VideoUNetConfig,
) -> None:
    """
    Save the pipeline.

    Args:
        accelerator (`Accelerator`): Where training ran.
        pipeline ([`TextToVideoPipeline`]): With the trained denoiser.
        dataset (`Dataset`): The clips; the first caption is drawn where there are no validation prompts.
        config ([`VideoUNetConfig`]): Settings.
    """
    unet = pipeline.unet
    if accelerator.is_main_process:
        if accelerator.mixed_precision != "no":  # the frozen models are in half precision; save them as they were
            pipeline = load_pipeline(config, *describe_clips(dataset))
        pipeline.unet = unet
        clip = dataset[0]
        prompt = config.validation_prompts[0] if config.validation_prompts else clip["text"]
        given = preview_arguments(config.task, clip, config.rate)
        results = read_results(config.output_dir)
        save_pipeline(pipeline.to("cpu"), config, size=dataset.buckets[0], prompt=prompt, results=results, given=given)
        for name, value in results.items():
            logger.info(f"{name}: {value:.6g}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(parse_config(VideoUNetConfig))
