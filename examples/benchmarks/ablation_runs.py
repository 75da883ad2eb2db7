"""What the ablation trains, on which clips, and what an update of each kind of temporal layers costs."""

import dataclasses
import itertools
import json
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ablation_variants import YARDSTICK, build_variant, count_trained
from accelerate import Accelerator
from benchmark_tools import counting_flops, peak_bytes, write_json
from diffusers import UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import Dataset

from diffusers_video.data.buckets import Bucket
from diffusers_video.pipelines.text_to_video import TextToVideoPipeline
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.clip_loss import ClipLoss
from diffusers_video.training.config import VideoUNetConfig
from diffusers_video.training.loop import TrainingState, build_optimizer, fit, train_update
from diffusers_video.training.models import place_frozen_models, select_trained
from diffusers_video.training.run_start import finish_setup, run_identity, start_run
from diffusers_video.training.train_video_unet import load_models_and_clips
from diffusers_video.training.training_data import build_clip_loader


logger = logging.getLogger(__name__)

LAYER_SETTINGS = ("preset", "temporal_options")
WARM_UP_ROUNDS = 1
TIMED_CALLS = 3
SETTINGS_NAME = "settings.json"


@dataclass(frozen=True, kw_only=True)
class Base:
    """
    What all runs share.

    Args:
        config ([`VideoUNetConfig`]): Settings of every run but for seed, length and folder.
        pipeline ([`TextToVideoPipeline`]): Its frozen models encode captions and decode latents.
        unet2d ([`~diffusers.UNet2DConditionModel`]): The image model.
        dataset (`Dataset`): Clips to train on.
        heldout (`Dataset`): Clips to measure on.
    """

    config: VideoUNetConfig
    pipeline: TextToVideoPipeline
    unet2d: UNet2DConditionModel
    dataset: Dataset
    heldout: Dataset

    @property
    def bucket(self) -> Bucket:
        """[`Bucket`]: Size and length of the clips."""
        return Bucket.parse(self.dataset.buckets[0])

    @property
    def work_dir(self) -> Path:
        """`Path`: Where everything is kept."""
        return Path(self.config.output_dir)

    def build(self, variant: str) -> nn.Module:
        """Make the model of a variant; its new weights depend on PyTorch's seed."""
        return build_variant(variant, self.unet2d, self.bucket.num_frames)

    def clip_loss(self, config: VideoUNetConfig, accelerator: Accelerator) -> ClipLoss:
        """Set up the loss where a run computes."""
        place_frozen_models(self.pipeline, accelerator.device, accelerator.mixed_precision)
        return ClipLoss.build(self.pipeline, config)


def read_settings(arguments: Sequence[str], **settings: str) -> VideoUNetConfig:
    """
    Read the settings that all runs share.

    Args:
        arguments (`Sequence[str]`): YAML file and flags of `train_video_unet.py`.
        settings (`str`): Further ones, which overrule the YAML file.

    Returns:
        [`VideoUNetConfig`]: Runs made with it can be resumed, and keep their last checkpoint only.

    Raises:
        ValueError: If they are not those of temporal layers on text, or count passes instead of updates.
    """
    file, *flags = arguments
    given = [part for name, value in settings.items() for part in (f"--{name}", value)]
    config = parse_config(VideoUNetConfig, [file, *given, *flags])
    for name, wanted in (("train", "temporal"), ("task", "text-to-video"), ("fps_conditioning", False)):
        value = getattr(config, name)
        if value != wanted:
            raise ValueError(f"`{name}` must be {wanted} in an ablation, but is {value!r}. Leave it out.")
    for name in LAYER_SETTINGS:
        if getattr(config, name) is not None:
            logger.info(f"`{name}` is left out: the layers are what is compared")
    if config.max_train_steps is None:
        raise ValueError("`max_train_steps` must be given: runs are equal in updates. Take it instead of epochs.")
    for_runs = {"checkpoints_total_limit": 1, "resume_from_checkpoint": "latest", "push_to_hub": False}
    return dataclasses.replace(config, **for_runs, **dict.fromkeys(LAYER_SETTINGS))


def load_base(config: VideoUNetConfig) -> Base:
    """
    Load the image model and find the clips.

    Args:
        config ([`VideoUNetConfig`]): From [`read_settings`].

    Returns:
        [`Base`]

    Raises:
        ValueError: If no clips are held out, or clips are of several sizes.
    """
    start_run(config)
    pipeline, dataset, heldout = load_models_and_clips(config)
    if heldout is None:
        raise ValueError(
            "`heldout_data_dir` or `heldout_fraction` must be given: losses are compared on held-out clips."
        )
    if len(set(dataset.buckets)) > 1:
        raise ValueError(
            f"The clips must be of one size, but are of {sorted(set(dataset.buckets))}. Take one of them."
        )
    select_trained(pipeline, config)
    pipeline.set_progress_bar_config(disable=True)
    unet2d = pipeline.unet.to_image_model()
    return Base(config=config, pipeline=pipeline, unet2d=unet2d, dataset=dataset, heldout=heldout)


def check_folder(base: Base) -> None:
    """
    Keep a folder to one ablation: runs of other settings would not be comparable.

    Args:
        base ([`Base`]): Image model, clips and settings; runs may differ in length.

    Raises:
        ValueError: If the folder holds runs of others.
    """
    identity = run_identity(base.config, base.unet2d, base.dataset)
    identity = json.loads(json.dumps({name: value for name, value in identity.items() if name != "max_train_steps"}))
    path = base.work_dir / SETTINGS_NAME
    if not path.is_file():
        base.work_dir.mkdir(parents=True, exist_ok=True)
        write_json(path, identity)
    former = json.loads(path.read_text(encoding="utf-8"))
    differing = [name for name in sorted(identity.keys() | former.keys()) if identity.get(name) != former.get(name)]
    if differing:
        name = differing[0]
        raise ValueError(
            f"`--work-dir` must hold runs of the same settings, but `{name}` was {former.get(name)!r} and is"
            f" {identity.get(name)!r}. Name another folder."
        )


def train(base: Base, variant: str, seed: int, num_updates: int) -> tuple[nn.Module, Path]:
    """
    Train the temporal layers of a variant by the package's own loop, from where an earlier run stopped.

    Args:
        base ([`Base`]): Image model, clips and settings.
        variant (`str`): A key of `VARIANTS`; that without temporal layers is only built.
        seed (`int`): Of weights, noise and the order of clips: variants of one seed see the same clips and noise.
        num_updates (`int`): Optimizer updates.

    Returns:
        `tuple[torch.nn.Module, Path]`: The averaged model in evaluation mode, and the folder of its run.
    """
    folder = base.work_dir / f"{variant}-seed-{seed}-updates-{num_updates}"
    config = dataclasses.replace(base.config, seed=seed, max_train_steps=num_updates, output_dir=str(folder))
    accelerator = start_run(config)
    model = base.build(variant)
    if variant == YARDSTICK:
        return model.to(accelerator.device).eval(), folder
    identity = run_identity(config, model, base.dataset) | {"variant": variant}
    loader, clip_loss = build_clip_loader(base.dataset, config), base.clip_loss(config, accelerator)
    finish_setup(accelerator, config)
    model = fit(accelerator, model, loader, clip_loss, config, identity=identity)
    accelerator.free_memory()
    return model.eval(), folder


def measure_costs(base: Base, variants: Sequence[str], reference: str, rounds: int) -> dict[str, dict[str, Any]]:
    """
    Measure what each variant costs; variants measured before are read from a file.

    Updates of all variants run in turn, so that whatever slows the machine down slows all of them.

    Args:
        base ([`Base`]): Image model, clips and settings.
        variants (`Sequence[str]`): Keys of `VARIANTS`.
        reference (`str`): Another one, or one of them: seconds of several sessions are brought to its first ones.
        rounds (`int`): Updates of each that are timed.

    Returns:
        `dict[str, dict[str, Any]]`: For each variant `trained` and `frozen` weights, `flops` and `call_seconds` of a
        call on one clip, and, if it has temporal layers, `seconds` and `peak_bytes` of an update. Seconds are those
        of the processor.
    """
    path = base.work_dir / "costs.json"
    costs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    missing = [name for name in variants if name not in costs]
    if missing:
        names = list(dict.fromkeys([*missing, reference]))
        new = _measure_updates(base, [name for name in names if name != YARDSTICK], rounds)
        scale = costs[reference]["seconds"] / new[reference]["seconds"] if reference in costs else 1
        for name in missing:
            seconds = {"seconds": new[name]["seconds"] * scale} if name in new else {}
            costs[name] = {**_count(base, name), **new.get(name, {}), **seconds}
        write_json(path, costs)
    return {name: costs[name] for name in variants}


def equal_time_updates(costs: dict[str, dict[str, Any]], variant: str, reference: str, num_updates: int) -> int:
    """Tell how many updates of a variant take the time of so many of the reference."""
    if "seconds" not in costs[variant]:
        return num_updates
    return max(1, round(num_updates * costs[reference]["seconds"] / costs[variant]["seconds"]))


def _measure_updates(base: Base, variants: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    config = dataclasses.replace(base.config, output_dir=str(base.work_dir / "costs"))
    accelerator = start_run(config)
    clip_loss = base.clip_loss(config, accelerator)
    batches = itertools.repeat(next(iter(build_clip_loader(base.dataset, config))))
    states = {name: _new_state(accelerator, base.build(name), config) for name in variants}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(WARM_UP_ROUNDS + rounds):
        for name, state in states.items():
            start = time.process_time()
            train_update(accelerator, state, batches, clip_loss, config)
            seconds[name].append(time.process_time() - start)
    peaks = {
        name: peak_bytes(lambda state=state: train_update(accelerator, state, batches, clip_loss, config))
        for name, state in states.items()
    }
    accelerator.free_memory()
    return {
        name: {"seconds": statistics.median(seconds[name][WARM_UP_ROUNDS:]), "peak_bytes": peaks[name]}
        for name in variants
    }


def _new_state(accelerator: Accelerator, model: nn.Module, config: VideoUNetConfig) -> TrainingState:
    model.train()
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    trained = [value for value in model.parameters() if value.requires_grad]
    model, optimizer = accelerator.prepare(model, build_optimizer(trained, config))
    schedule = get_scheduler("constant", optimizer)
    state = TrainingState(model=model, optimizer=optimizer, schedule=schedule, ema=None)
    if config.use_ema:
        state.ema = EMAModel(state.trained, decay=config.ema_decay, use_ema_warmup=True)
    return state


@torch.no_grad()
def _count(base: Base, variant: str) -> dict[str, Any]:
    model, bucket = base.build(variant).eval(), base.bucket
    factor, channels = base.pipeline.vae_scale_factor, base.unet2d.config.in_channels
    sample = torch.zeros(1, channels, bucket.num_frames, bucket.height // factor, bucket.width // factor)
    text = base.pipeline.encode_prompt("", device=base.pipeline.text_encoder.device)[0]
    seconds = []
    for _ in range(TIMED_CALLS):
        start = time.process_time()
        model(sample, 500, encoder_hidden_states=text.cpu())
        seconds.append(time.process_time() - start)
    with counting_flops() as counter:
        model(sample, 500, encoder_hidden_states=text.cpu())
    trained = count_trained(model)
    return {
        "trained": trained,
        "frozen": sum(value.numel() for value in model.parameters()) - trained,
        "flops": counter.get_total_flops(),
        "call_seconds": statistics.median(seconds),
    }
