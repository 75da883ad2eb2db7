"""The beginning of a run: where it runs, what it is called, and what it is about to do."""

import dataclasses
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration, set_seed
from torch import nn
from torch.utils.data import Dataset

from diffusers_video.training.base_config import TrainingConfig
from diffusers_video.training.checkpoints import fingerprint_weights
from diffusers_video.training.training_data import clips_identity


CONFIG_NAME = "training_config.yaml"

# A resumed run may differ in these, and in nothing else.
FREE_SETTINGS = (
    "output_dir",
    "pretrained_model_name_or_path",
    "train_data_dir",
    "heldout_data_dir",
    "revision",
    "variant",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "resume_from_checkpoint",
    "report_to",
    "tracker_project_name",
    "dataloader_num_workers",
    "process_timeout",
    "push_to_hub",
    "hub_model_id",
    "num_validation_inference_steps",
    "validation_prompts",
)
# A run may be made longer where the learning rate does not depend on its length.
_LENGTH = ("max_train_steps", "num_train_epochs")
_ENDLESS_SCHEDULES = ("constant", "constant_with_warmup")


def start_run(config: TrainingConfig) -> Accelerator:
    """
    Set up processes, seed, trackers and the output folder.

    Args:
        config ([`TrainingConfig`]): Settings; they are written into the output folder.

    Returns:
        `Accelerator`

    Raises:
        ImportError: If a tracker's package is missing.
        NotADirectoryError: If `output_dir` is a file.
        RuntimeError: If processes were launched that do not know of each other.
        ValueError: If float16 is asked for on a CPU.
    """
    available = {tracker if isinstance(tracker, str) else tracker.value for tracker in get_available_trackers()}
    for tracker in config.report_to:
        if tracker not in available:
            raise ImportError(f"`report_to` names {tracker!r}, whose package is missing: `pip install {tracker}`.")
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`output_dir` must be a folder, but {str(folder)!r} is a file. Name another one.")
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        log_with=config.report_to or None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "trackers")),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=config.process_timeout))],
    )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError(
            "`mixed_precision` must be no or bf16 on a CPU, but is fp16, which scales losses on GPUs only."
        )
    _check_processes(accelerator.num_processes)
    if config.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
    set_seed(config.seed)  # equal in all processes while models are made; `finish_setup` tells them apart
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        _write_config(config, folder / CONFIG_NAME)
    accelerator.wait_for_everyone()
    return accelerator


def finish_setup(accelerator: Accelerator, config: TrainingConfig) -> None:
    """
    Give each process random numbers of its own, and start the trackers.

    Args:
        accelerator (`Accelerator`): Where training runs.
        config ([`TrainingConfig`]): Settings.
    """
    set_seed(config.seed, device_specific=True)
    if config.report_to:
        plain = {
            name: value if isinstance(value, (int, float, str, bool)) else str(value)
            for name, value in dataclasses.asdict(config).items()
        }
        accelerator.init_trackers(config.tracker_project_name, config=plain)


def run_identity(config: TrainingConfig, model: nn.Module, dataset: Dataset, num_processes: int = 1) -> dict[str, Any]:
    """
    Say what a run must share with a checkpoint that it resumes.

    Args:
        config ([`TrainingConfig`]): Settings; those of `FREE_SETTINGS` do not count.
        model (`torch.nn.Module`): It, before training.
        dataset (`Dataset`): The clips.
        num_processes (`int`, *optional*, defaults to 1): Processes that train.

    Returns:
        `dict[str, Any]`: JSON values by the name that an error gives.
    """
    free = FREE_SETTINGS + (_LENGTH if config.lr_scheduler in _ENDLESS_SCHEDULES else ())
    free += config.idle_settings
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in free}
    return {
        **settings,
        "pretrained_model_name_or_path": f"weights {fingerprint_weights(model)}",
        "train_data_dir": f"clips {clips_identity(dataset)}",
        "num_processes": num_processes,
    }


def describe_run(
    config: TrainingConfig, what: str, num_updates: int, num_processes: int, dataset: Dataset
) -> list[str]:
    """
    Say what a run is about to do.

    Args:
        config ([`TrainingConfig`]): Settings.
        what (`str`): What trains, such as ``"`temporal`"``.
        num_updates (`int`): Optimizer updates.
        num_processes (`int`): Processes that train.
        dataset (`Dataset`): The clips.

    Returns:
        `list[str]`: Lines to show.
    """
    per_update = config.train_batch_size * config.gradient_accumulation_steps * num_processes
    buckets = ", ".join(f"{dataset.buckets.count(name)} of {name}" for name in sorted(set(dataset.buckets)))
    return [
        f"Training {what} for {num_updates} updates",
        f"{len(dataset)} clips: {buckets}",
        f"{per_update} clips per update: {config.train_batch_size} per process and micro-batch,"
        f" {config.gradient_accumulation_steps} micro-batches, {num_processes} processes",
        f"Learning rate {config.learning_rate:g}, {config.lr_scheduler}",
    ]


def _check_processes(num_processes: int) -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != num_processes:  # they would all write to the same folder, each training on everything
        raise RuntimeError(
            f"{launched} processes were launched, but do not know of each other, because there are no GPUs. Set"
            " ACCELERATE_USE_CPU=true in the environment to train on CPUs."
        )


def _write_config(config: TrainingConfig, path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_text(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False), encoding="utf-8")
    os.replace(unfinished, path)
