"""Settings that every training script shares, as flags or as a YAML file."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from diffusers.optimization import SchedulerType
from transformers import HfArgumentParser

from diffusers_video.data.buckets import Bucket


TRACKERS = ("tensorboard", "wandb", "trackio")
SHAPES = "shapes"


def option(default: Any, text: str) -> Any:
    """
    Declare a setting.

    Args:
        default (`Any`): Its default; `dataclasses.MISSING` if it must be given.
        text (`str`): What `--help` says.

    Returns:
        The field of the dataclass.
    """
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass(kw_only=True)
class TrainingConfig:
    """
    Settings that every training script shares: flags that are known from diffusers' scripts, and those of clips.

    Every field has its help text. Steps count optimizer updates, batch sizes are per process.

    Raises:
        ValueError: If a value is out of its range, or settings contradict each other.
    """

    train_data_dir: str = option(
        dataclasses.MISSING,
        "Folder of videos, CSV file, folder of packed latents, or `shapes`: clips made on the fly.",
    )
    output_dir: str = option(dataclasses.MISSING, "Where checkpoints, logs and the final pipeline are written.")

    num_frames: int | None = option(None, "Frames per clip: 16, or 1 with `train=spatial`.")
    fps: float | None = option(None, "Frames per second of the clips: 8 by default.")
    resolution: int | None = option(None, "Height and width of the clips in pixels; 512 by default, 64 for shapes.")
    height: int | None = option(None, "Height in pixels, instead of `resolution`.")
    width: int | None = option(None, "Width in pixels, instead of `resolution`.")
    buckets: list[str] = option([], "Several sizes and lengths instead, such as 512x320@16 320x512@8.")
    video_column: str | None = option(None, "Column of the file names in metadata.jsonl or the CSV file.")
    caption_column: str | None = option(None, "Column of the captions there.")
    clips_per_video: int | None = option(None, "The most clips per video; as many as fit by default.")
    allow_upscale: bool = option(False, "Enlarge videos that are smaller than every bucket.")
    allow_repeat: bool = option(False, "Repeat frames of videos slower than `fps`.")
    random_crop: bool = option(False, "Crop anywhere instead of in the centre.")
    random_flip: bool = option(False, "Mirror every second clip, unless its caption names a side.")
    max_train_samples: int | None = option(None, "The most clips to train on.")
    num_shapes_clips: int = option(1000, "Clips of the `shapes` set.")
    shapes_options: str | None = option(
        None, 'Further options of the `shapes` set as JSON, such as \'{"colours": ["red"]}\'.'
    )
    dataloader_num_workers: int = option(0, "Processes that read clips, per training process.")

    heldout_data_dir: str | None = option(None, "Videos or packed latents for the held-out loss.")
    heldout_fraction: float = option(0.0, "Hold out this last part of every training video instead.")
    num_heldout_clips: int = option(16, "Clips of the held-out loss, at most.")
    validation_steps: int | None = option(None, "Updates between validations; only before and after by default.")

    max_train_steps: int | None = option(None, "Optimizer updates.")
    num_train_epochs: int | None = option(None, "Passes over the clips instead.")
    train_batch_size: int = option(1, "Clips per process and micro-batch.")
    gradient_accumulation_steps: int = option(1, "Micro-batches per update.")
    gradient_checkpointing: bool = option(False, "Trade time for memory in the backward pass.")
    learning_rate: float = option(1e-4, "Highest learning rate.")
    scale_lr: bool = option(False, "Multiply it by batch size, accumulation steps and processes.")
    lr_scheduler: str = option("constant", "Schedule of the learning rate, as diffusers' `get_scheduler`.")
    lr_warmup_steps: int = option(0, "Updates of warm-up.")
    lr_num_cycles: int = option(1, "Restarts of `cosine_with_restarts`.")
    use_8bit_adam: bool = option(False, "8-bit AdamW of bitsandbytes.")
    adam_beta1: float = option(0.9, "AdamW's beta1.")
    adam_beta2: float = option(0.999, "AdamW's beta2.")
    adam_weight_decay: float = option(1e-2, "AdamW's weight decay.")
    adam_epsilon: float = option(1e-8, "AdamW's epsilon.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; 0 does not clip.")
    mixed_precision: str | None = option(None, "no, fp16 or bf16; what `accelerate config` says by default.")
    channels_last: bool = option(False, "Keep images with their channels last: faster convolutions on many devices.")
    allow_tf32: bool = option(False, "TF32 matrix products on NVIDIA GPUs.")
    use_ema: bool = option(False, "Validate and save an exponential moving average of the trained weights.")
    ema_decay: float = option(0.9999, "Its decay, reached by warm-up.")
    seed: int = option(0, "Seed of everything random.")

    checkpointing_steps: int = option(500, "Updates between checkpoints; 0: only when stopped and at the end.")
    checkpoints_total_limit: int | None = option(None, "Checkpoints to keep.")
    resume_from_checkpoint: str | None = option(None, "`latest`, or a checkpoint folder.")
    report_to: list[str] = option([], "Trackers: tensorboard, wandb, trackio.")
    tracker_project_name: str = option("diffusers-video", "Project of the trackers.")
    process_timeout: int = option(7200, "Seconds that processes wait for each other.")
    push_to_hub: bool = option(False, "Upload the final pipeline.")
    hub_model_id: str | None = option(None, "Repository to upload it to; the name of `output_dir` by default.")

    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "lr_scheduler": tuple(item.value for item in SchedulerType if item.value != "piecewise_constant"),
    }
    optional_choices: ClassVar[dict[str, tuple[str, ...]]] = {"mixed_precision": ("no", "fp16", "bf16")}
    # Lowest and highest value, and whether the lowest is excluded; `None` is let through where it is the default.
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = {
        "num_frames": (1, None, False),
        "fps": (0, None, True),
        "resolution": (8, None, False),
        "height": (8, None, False),
        "width": (8, None, False),
        "clips_per_video": (1, None, False),
        "max_train_samples": (1, None, False),
        "num_shapes_clips": (1, None, False),
        "dataloader_num_workers": (0, None, False),
        "heldout_fraction": (0, 0.9, False),
        "num_heldout_clips": (1, None, False),
        "validation_steps": (1, None, False),
        "max_train_steps": (1, None, False),
        "num_train_epochs": (1, None, False),
        "train_batch_size": (1, None, False),
        "gradient_accumulation_steps": (1, None, False),
        "learning_rate": (0, None, True),
        "lr_warmup_steps": (0, None, False),
        "lr_num_cycles": (1, None, False),
        "adam_beta1": (0, 0.99999999, False),
        "adam_beta2": (0, 0.99999999, False),
        "adam_weight_decay": (0, None, False),
        "adam_epsilon": (0, None, True),
        "max_grad_norm": (0, None, False),
        "ema_decay": (0, 1, False),
        "seed": (0, 2**31 - 1, False),
        "checkpointing_steps": (0, None, False),
        "checkpoints_total_limit": (1, None, False),
        "process_timeout": (1, None, False),
    }

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)
        _check_clips(self)
        _check_contradictions(self)

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Settings without effect on this run; a checkpoint may have been written without them."""
        return ()

    @property
    def is_shapes(self) -> bool:
        """`bool`: Whether the clips are the synthetic `shapes`."""
        return self.train_data_dir == SHAPES

    @property
    def frames_per_clip(self) -> int:
        """`int`: Frames per clip where no buckets are named."""
        return self.num_frames or 16

    def bucket_names(self) -> list[str]:
        """
        Name the sizes and lengths of clips.

        Returns:
            `list[str]`: Such as `["512x320@16"]`: width, height, frames.
        """
        if self.buckets:
            return self.buckets
        side = self.resolution or (64 if self.is_shapes else 512)
        return [f"{self.width or side}x{self.height or side}@{self.frames_per_clip}"]

    def shapes_arguments(self) -> dict[str, Any]:
        """
        Read `shapes_options`.

        Returns:
            `dict[str, Any]`: Arguments of [`ShapesDataset`].
        """
        return json.loads(self.shapes_options) if self.shapes_options else {}


Config = TypeVar("Config", bound=TrainingConfig)


def parse_config(config_class: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """
    Make settings of a command line: flags, a YAML file, or a YAML file and flags that overrule it.

    Args:
        config_class (`type`): Subclass of [`TrainingConfig`].
        arguments (`Sequence[str]`, *optional*): Command line without the program; that of the process by default.

    Returns:
        The settings, a `config_class`.

    Raises:
        FileNotFoundError: If the YAML file does not exist.
        ValueError: If it is no mapping, names an unknown setting, or a setting is wrong.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(config_class)
    if not arguments or not arguments[0].endswith((".yaml", ".yml")):
        return parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)[0]
    settings = read_yaml(arguments[0], config_class)
    if arguments[1:]:
        settings |= _read_flags(parser, arguments[1:])
    for item in dataclasses.fields(config_class):
        if item.name not in settings and item.default is item.default_factory:  # both are missing
            raise ValueError(f"`{item.name}` must be given, in {arguments[0]!r} or as a flag, but is not.")
    return config_class(**settings)


def _read_flags(parser: HfArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    for action in parser._actions:
        action.required, action.default = False, argparse.SUPPRESS
    return vars(parser.parse_args(arguments))


def read_yaml(path: str | Path, config_class: type[TrainingConfig]) -> dict[str, Any]:
    """
    Read settings from a YAML file.

    Args:
        path (`str` or `Path`): The file.
        config_class (`type`): Whose settings they must be.

    Returns:
        `dict[str, Any]`: Settings by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as YAML, is no mapping, or names an unknown setting.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The settings must be a YAML file, but {str(path)!r} does not exist.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{str(path)!r} must be a YAML file, but cannot be read: {error}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{str(path)!r} must hold lines `name: value`, but holds {settings!r}.")
    known = {item.name: item for item in dataclasses.fields(config_class)}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{str(path)!r} sets `{name}`, which is no setting. The settings are {sorted(known)}.")
        if known[name].type is float or known[name].type == float | None:
            settings[name] = _as_float(name, value)  # YAML 1.1 reads 1e-4 as text
    return settings


def _as_float(name: str, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be a number, but is {value!r}.") from None


def _check_choices(config: TrainingConfig) -> None:
    for name, values in (config.choices | config.optional_choices).items():
        value = getattr(config, name)
        if value not in values and not (name in config.optional_choices and value is None):
            raise ValueError(f"`{name}` must be one of {values}, but is {value!r}. Choose one of them.")
    for tracker in config.report_to:
        if tracker not in TRACKERS:
            raise ValueError(f"`report_to` must be out of {TRACKERS}, but names {tracker!r}. Leave it out for none.")


def _check_ranges(config: TrainingConfig) -> None:
    for item in dataclasses.fields(config):
        if item.name not in config.ranges:
            continue
        value, (lowest, highest, is_open) = getattr(config, item.name), config.ranges[item.name]
        if value is None and item.default is None:
            continue
        whole = item.type in (int, int | None)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise ValueError(f"`{item.name}` must be a {'whole ' if whole else ''}number, but is {value!r}.")
        too_low = value <= lowest if is_open else value < lowest
        if too_low or value != value or value in (float("inf"),) or (highest is not None and value > highest):
            rule = f"{'above' if is_open else 'at least'} {lowest}" + (f" and at most {highest}" if highest else "")
            raise ValueError(f"`{item.name}` must be {rule}, but is {value}.")


def _check_clips(config: TrainingConfig) -> None:
    sizes = [name for name in ("resolution", "height", "width", "num_frames") if getattr(config, name) is not None]
    if config.buckets and sizes:
        raise ValueError(f"`{sizes[0]}` and `buckets` must not both be given. Buckets name sizes and lengths.")
    if config.resolution and len(sizes) > 1 + (config.num_frames is not None):
        raise ValueError("`resolution` must not be given with `height` or `width`. Give one or the other.")
    if config.is_shapes and len(config.buckets) > 1:
        raise ValueError("`buckets` must name one size and length for `shapes`, but names several.")
    for name in config.bucket_names():
        Bucket.parse(name)
    if config.shapes_options is not None:
        _check_shapes_options(config)
    of_files = ["video_column", "caption_column", "clips_per_video", "heldout_data_dir"]
    of_files += ["allow_upscale", "allow_repeat", "random_crop", "random_flip", "heldout_fraction"]
    given = [name for name in of_files if config.is_shapes and getattr(config, name)]
    if given:
        raise ValueError(f"`{given[0]}` has no effect on `shapes`, which are made on the fly. Leave it out.")
    if config.heldout_fraction and config.heldout_data_dir:
        raise ValueError("Only one of `heldout_fraction` and `heldout_data_dir` may be given, but both are.")


def _check_shapes_options(config: TrainingConfig) -> None:
    if not config.is_shapes:
        raise ValueError("`shapes_options` has an effect only with `train_data_dir=shapes`. Leave it out.")
    try:
        options = config.shapes_arguments()
    except json.JSONDecodeError as error:
        raise ValueError(f"`shapes_options` must be JSON, but {config.shapes_options!r} is not: {error}.") from error
    own = {"num_clips", "num_frames", "fps", "height", "width", "seed"}
    if not isinstance(options, dict) or own & options.keys():
        raise ValueError(
            f"`shapes_options` must be an object without {sorted(own)}, which have flags, but is {options!r}."
        )


def _check_contradictions(config: TrainingConfig) -> None:
    if (config.max_train_steps is None) == (config.num_train_epochs is None):
        raise ValueError("Either `max_train_steps` or `num_train_epochs` must be given, and not both.")
    if config.lr_scheduler == "constant" and config.lr_warmup_steps:
        raise ValueError("`lr_warmup_steps` has no effect on `lr_scheduler=constant`. Take constant_with_warmup.")
    if config.lr_scheduler not in ("cosine_with_restarts", "polynomial") and config.lr_num_cycles != 1:
        raise ValueError("`lr_num_cycles` has an effect only with `lr_scheduler=cosine_with_restarts`. Leave it out.")
    if config.hub_model_id and not config.push_to_hub:
        raise ValueError("`hub_model_id` has an effect only with `push_to_hub`. Set it, or leave both out.")
    if config.ema_decay != 0.9999 and not config.use_ema:
        raise ValueError("`ema_decay` has an effect only with `use_ema`. Set it, or leave both out.")
