"""Settings of `train_video_unet.py`, as flags or as a YAML file."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from diffusers.optimization import SchedulerType
from transformers import HfArgumentParser

from diffusers_video.data.buckets import Bucket
from diffusers_video.models.unet_video_condition import PRESETS
from diffusers_video.training.objectives import NOISE_OFFSETS, NOISE_PRIORS, PREDICTION_TYPES


TRAINED_PARTS = ("temporal", "all", "lora", "spatial")
TRACKERS = ("tensorboard", "wandb", "trackio")
SHAPES = "shapes"


def _option(default: Any, text: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass(kw_only=True)
class VideoUNetConfig:
    """
    Settings of `train_video_unet.py`: flags that are known from diffusers' training scripts, and those of videos.

    Every field has its help text. Steps count optimizer updates, batch sizes are per process.

    Raises:
        ValueError: If a value is out of its range, or settings contradict each other.
    """

    pretrained_model_name_or_path: str = _option(
        dataclasses.MISSING,
        "Folder or Hub id of an image pipeline (SD 1.x, 2.x, XL), or of a video pipeline to go on.",
    )
    train_data_dir: str = _option(
        dataclasses.MISSING,
        "Folder of videos, CSV file, folder of packed latents, or `shapes`: clips made on the fly.",
    )
    output_dir: str = _option(dataclasses.MISSING, "Where checkpoints, logs and the final pipeline are written.")
    train: str = _option("temporal", "What trains: temporal, all, lora, or spatial (on single frames).")
    revision: str | None = _option(None, "Revision of the model on the Hub.")
    variant: str | None = _option(None, "Variant of the weight files, such as fp16.")
    preset: str | None = _option(None, "Temporal layers of a new video model: videoldm (default) or light.")
    fps_conditioning: bool = _option(False, "Tell a new video model the frame rate of every clip.")
    rank: int = _option(8, "Rank of the LoRA layers.")
    lora_alpha: float | None = _option(None, "Scale of the LoRA layers times their rank; the rank by default.")
    lora_target_modules: list[str] = _option(
        ["to_q", "to_k", "to_v", "to_out.0"], "Layers that get LoRA, by the end of their names."
    )

    num_frames: int | None = _option(None, "Frames per clip: 16, or 1 with `train=spatial`.")
    fps: float | None = _option(None, "Frames per second of the clips: 8 by default.")
    resolution: int | None = _option(None, "Height and width of the clips in pixels; 512 by default, 64 for shapes.")
    height: int | None = _option(None, "Height in pixels, instead of `resolution`.")
    width: int | None = _option(None, "Width in pixels, instead of `resolution`.")
    buckets: list[str] = _option([], "Several sizes and lengths instead, such as 512x320@16 320x512@8.")
    video_column: str | None = _option(None, "Column of the file names in metadata.jsonl or the CSV file.")
    caption_column: str | None = _option(None, "Column of the captions there.")
    clips_per_video: int | None = _option(None, "The most clips per video; as many as fit by default.")
    allow_upscale: bool = _option(False, "Enlarge videos that are smaller than every bucket.")
    allow_repeat: bool = _option(False, "Repeat frames of videos slower than `fps`.")
    random_crop: bool = _option(False, "Crop anywhere instead of in the centre.")
    random_flip: bool = _option(False, "Mirror every second clip, unless its caption names a side.")
    max_train_samples: int | None = _option(None, "The most clips to train on.")
    num_shapes_clips: int = _option(1000, "Clips of the `shapes` set.")
    shapes_options: str | None = _option(
        None, 'Further options of the `shapes` set as JSON, such as \'{"colours": ["red"]}\'.'
    )
    posterior: str = _option("sample", "Latents: sample from the autoencoder's posterior, or its mode.")
    dataloader_num_workers: int = _option(0, "Processes that read clips, per training process.")

    heldout_data_dir: str | None = _option(None, "Videos or packed latents for the held-out loss.")
    heldout_fraction: float = _option(0.0, "Hold out this last part of every training video instead.")
    num_heldout_clips: int = _option(16, "Clips of the held-out loss, at most.")
    num_heldout_timesteps: int = _option(4, "Timesteps per held-out clip, spread evenly.")
    validation_steps: int | None = _option(None, "Updates between validations; only before and after by default.")
    validation_prompts: list[str] = _option([], "Videos drawn at every validation.")
    num_validation_inference_steps: int = _option(25, "Steps of the sampler for these.")

    max_train_steps: int | None = _option(None, "Optimizer updates.")
    num_train_epochs: int | None = _option(None, "Passes over the clips instead.")
    train_batch_size: int = _option(1, "Clips per process and micro-batch.")
    gradient_accumulation_steps: int = _option(1, "Micro-batches per update.")
    gradient_checkpointing: bool = _option(False, "Trade time for memory in the backward pass.")
    learning_rate: float = _option(1e-4, "Highest learning rate.")
    scale_lr: bool = _option(False, "Multiply it by batch size, accumulation steps and processes.")
    lr_scheduler: str = _option("constant", "Schedule of the learning rate, as diffusers' `get_scheduler`.")
    lr_warmup_steps: int = _option(0, "Updates of warm-up.")
    lr_num_cycles: int = _option(1, "Restarts of `cosine_with_restarts`.")
    use_8bit_adam: bool = _option(False, "8-bit AdamW of bitsandbytes.")
    adam_beta1: float = _option(0.9, "AdamW's beta1.")
    adam_beta2: float = _option(0.999, "AdamW's beta2.")
    adam_weight_decay: float = _option(1e-2, "AdamW's weight decay.")
    adam_epsilon: float = _option(1e-8, "AdamW's epsilon.")
    max_grad_norm: float = _option(1.0, "Gradients are clipped to this norm; 0 does not clip.")
    mixed_precision: str | None = _option(None, "no, fp16 or bf16; what `accelerate config` says by default.")
    allow_tf32: bool = _option(False, "TF32 matrix products on NVIDIA GPUs.")
    use_ema: bool = _option(False, "Validate and save an exponential moving average of the trained weights.")
    ema_decay: float = _option(0.9999, "Its decay, reached by warm-up.")
    seed: int = _option(0, "Seed of everything random.")

    prediction_type: str | None = _option(None, "epsilon, v_prediction or sample; the model's own by default.")
    snr_gamma: float | None = _option(None, "Min-SNR weighting; 5 is usual.")
    noise_offset: float = _option(0.0, "Strength of the noise offset; 0.05 to 0.1 is usual.")
    noise_offset_per: str = _option("frame", "One offset per frame or per clip.")
    input_perturbation: float = _option(0.0, "Strength of the input perturbation; 0.1 is usual.")
    noise_prior: str = _option("independent", "Noise across frames: independent, mixed or progressive.")
    noise_prior_strength: float = _option(1.0, "alpha of mixed and progressive noise.")
    rescale_betas_zero_snr: bool = _option(False, "Zero terminal SNR; with v_prediction or sample.")
    caption_dropout: float = _option(0.1, "Chance of training a clip without its caption.")
    image_probability: float = _option(0.0, "Chance that the frames of a clip are trained on as single images.")

    checkpointing_steps: int = _option(500, "Updates between checkpoints; 0: only when stopped and at the end.")
    checkpoints_total_limit: int | None = _option(None, "Checkpoints to keep.")
    resume_from_checkpoint: str | None = _option(None, "`latest`, or a checkpoint folder.")
    report_to: list[str] = _option([], "Trackers: tensorboard, wandb, trackio.")
    tracker_project_name: str = _option("diffusers-video", "Project of the trackers.")
    process_timeout: int = _option(7200, "Seconds that processes wait for each other.")
    push_to_hub: bool = _option(False, "Upload the final pipeline.")
    hub_model_id: str | None = _option(None, "Repository to upload it to; the name of `output_dir` by default.")

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)
        _check_clips(self)
        _check_contradictions(self)

    @property
    def is_shapes(self) -> bool:
        """`bool`: Whether the clips are the synthetic `shapes`."""
        return self.train_data_dir == SHAPES

    @property
    def frames_per_clip(self) -> int:
        """`int`: Frames per clip where no buckets are named."""
        return self.num_frames or (1 if self.train == "spatial" else 16)

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


def parse_config(arguments: Sequence[str] | None = None) -> VideoUNetConfig:
    """
    Make settings of a command line: flags, a YAML file, or a YAML file and flags that overrule it.

    Args:
        arguments (`Sequence[str]`, *optional*): Command line without the program; that of the process by default.

    Returns:
        [`VideoUNetConfig`].

    Raises:
        FileNotFoundError: If the YAML file does not exist.
        ValueError: If it is no mapping, names an unknown setting, or a setting is wrong.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(VideoUNetConfig)
    if not arguments or not arguments[0].endswith((".yaml", ".yml")):
        return parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)[0]
    settings = read_yaml(arguments[0])
    if arguments[1:]:
        settings |= _read_flags(parser, arguments[1:])
    for item in dataclasses.fields(VideoUNetConfig):
        if item.name not in settings and item.default is item.default_factory:  # both are missing
            raise ValueError(f"`{item.name}` must be given, in {arguments[0]!r} or as a flag, but is not.")
    return VideoUNetConfig(**settings)


def _read_flags(parser: HfArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    for action in parser._actions:
        action.required, action.default = False, argparse.SUPPRESS
    return vars(parser.parse_args(arguments))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """
    Read settings from a YAML file.

    Args:
        path (`str` or `Path`): The file.

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
    known = {item.name: item for item in dataclasses.fields(VideoUNetConfig)}
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


def _check_choices(config: VideoUNetConfig) -> None:
    choices = {
        "train": TRAINED_PARTS,
        "posterior": ("sample", "mode"),
        "noise_prior": NOISE_PRIORS,
        "noise_offset_per": NOISE_OFFSETS,
        "lr_scheduler": tuple(item.value for item in SchedulerType if item.value != "piecewise_constant"),
    }
    optional = {
        "preset": tuple(PRESETS),
        "prediction_type": PREDICTION_TYPES,
        "mixed_precision": ("no", "fp16", "bf16"),
    }
    for name, values in (choices | optional).items():
        value = getattr(config, name)
        if value not in values and not (name in optional and value is None):
            raise ValueError(f"`{name}` must be one of {values}, but is {value!r}. Choose one of them.")
    for tracker in config.report_to:
        if tracker not in TRACKERS:
            raise ValueError(f"`report_to` must be out of {TRACKERS}, but names {tracker!r}. Leave it out for none.")


# Lowest and highest value, and whether the lowest is excluded; `None` is let through where it is the default.
_RANGES = {
    "rank": (1, None, False),
    "lora_alpha": (0, None, True),
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
    "num_heldout_timesteps": (1, None, False),
    "validation_steps": (1, None, False),
    "num_validation_inference_steps": (1, None, False),
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
    "snr_gamma": (0, None, True),
    "noise_offset": (0, None, False),
    "input_perturbation": (0, None, False),
    "noise_prior_strength": (0, None, True),
    "caption_dropout": (0, 1, False),
    "image_probability": (0, 1, False),
    "checkpointing_steps": (0, None, False),
    "checkpoints_total_limit": (1, None, False),
    "process_timeout": (1, None, False),
}


def _check_ranges(config: VideoUNetConfig) -> None:
    for item in dataclasses.fields(config):
        if item.name not in _RANGES:
            continue
        value, (lowest, highest, is_open) = getattr(config, item.name), _RANGES[item.name]
        if value is None and item.default is None:
            continue
        whole = item.type in (int, int | None)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise ValueError(f"`{item.name}` must be a {'whole ' if whole else ''}number, but is {value!r}.")
        too_low = value <= lowest if is_open else value < lowest
        if too_low or value != value or value in (float("inf"),) or (highest is not None and value > highest):
            rule = f"{'above' if is_open else 'at least'} {lowest}" + (f" and at most {highest}" if highest else "")
            raise ValueError(f"`{item.name}` must be {rule}, but is {value}.")


def _check_clips(config: VideoUNetConfig) -> None:
    sizes = [name for name in ("resolution", "height", "width", "num_frames") if getattr(config, name) is not None]
    if config.buckets and sizes:
        raise ValueError(f"`{sizes[0]}` and `buckets` must not both be given. Buckets name sizes and lengths.")
    if config.resolution and len(sizes) > 1 + (config.num_frames is not None):
        raise ValueError("`resolution` must not be given with `height` or `width`. Give one or the other.")
    if config.is_shapes and len(config.buckets) > 1:
        raise ValueError("`buckets` must name one size and length for `shapes`, but names several.")
    for name in config.bucket_names():
        num_frames = Bucket.parse(name).num_frames
        if config.train == "spatial" and num_frames != 1:
            raise ValueError(f"`num_frames` must be 1 with `train=spatial`, but is {num_frames}. Leave it out.")
        if config.train in ("temporal", "lora", "all") and num_frames < 2:
            raise ValueError(
                f"`num_frames` must be at least 2 with `train={config.train}`, but is {num_frames}. For single frames"
                " take `train=spatial`."
            )
    if config.shapes_options is not None:
        _check_shapes_options(config)
    of_files = ["video_column", "caption_column", "clips_per_video", "heldout_data_dir"]
    of_files += ["allow_upscale", "allow_repeat", "random_crop", "random_flip", "heldout_fraction"]
    given = [name for name in of_files if config.is_shapes and getattr(config, name)]
    if given:
        raise ValueError(f"`{given[0]}` has no effect on `shapes`, which are made on the fly. Leave it out.")
    if config.heldout_fraction and config.heldout_data_dir:
        raise ValueError("Only one of `heldout_fraction` and `heldout_data_dir` may be given, but both are.")


def _check_shapes_options(config: VideoUNetConfig) -> None:
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


def _check_contradictions(config: VideoUNetConfig) -> None:
    lora = VideoUNetConfig.__dataclass_fields__
    if config.train != "lora":
        for name in ("rank", "lora_alpha", "lora_target_modules"):
            default = lora[name].default_factory() if name == "lora_target_modules" else lora[name].default
            if getattr(config, name) != default:
                raise ValueError(f"`{name}` has an effect only with `train=lora`, but `train` is {config.train!r}.")
    elif not config.lora_target_modules:
        raise ValueError("`lora_target_modules` must name at least one layer with `train=lora`, but is empty.")
    if config.image_probability and config.train in ("temporal", "spatial"):
        raise ValueError(
            f"`image_probability` must be 0 with `train={config.train}`, but is {config.image_probability}: single"
            " images train no temporal layer, and `spatial` trains on nothing else."
        )
    if config.train == "spatial" and config.noise_prior != "independent":
        raise ValueError("`noise_prior` must be 'independent' with `train=spatial`: there is one frame.")
    if config.noise_prior == "independent" and config.noise_prior_strength != 1.0:
        raise ValueError(
            "`noise_prior_strength` has no effect on independent noise. Set `noise_prior`, or leave it out."
        )
    if not config.noise_offset and config.noise_offset_per != "frame":
        raise ValueError("`noise_offset_per` has no effect without `noise_offset`. Set it, or leave both out.")
    if config.rescale_betas_zero_snr and config.prediction_type == "epsilon":
        raise ValueError(
            "`rescale_betas_zero_snr` must not be used with `prediction_type=epsilon`: at zero SNR the input is the"
            " noise, and predicting it teaches nothing (arXiv:2305.08891, Section 3.2). Take v_prediction."
        )
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
