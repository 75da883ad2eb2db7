"""Settings of `train_video_unet.py`."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers_video.conditioning.frames import INTERPOLATION_RATE, MAX_CONTEXT_FRAMES
from diffusers_video.conditioning.noise import NOISE_PRIORS
from diffusers_video.data.buckets import Bucket
from diffusers_video.training.base_config import option
from diffusers_video.training.denoiser_config import DenoiserConfig


TRAINED_PARTS = ("temporal", "all", "lora", "spatial")
TASKS = ("text-to-video", "key-frames", "interpolation")


@dataclass(kw_only=True)
class VideoUNetConfig(DenoiserConfig):
    """
    Settings of `train_video_unet.py`: those of [`DenoiserConfig`], of its tasks, of LoRA and of the noise prior.

    Raises:
        ValueError: If a value is out of its range, or settings contradict each other.
    """

    pretrained_model_name_or_path: str = option(
        dataclasses.MISSING,
        "Folder or Hub id of an image pipeline (SD 1.x, 2.x, XL), or of a video pipeline to go on.",
    )
    task: str = option("text-to-video", "What the model learns: text-to-video, key-frames or interpolation.")
    train: str = option("temporal", "What trains: temporal, all, lora, or spatial (on single frames).")
    fps_conditioning: bool = option(False, "Tell a new video model the frame rate of every clip.")
    temporal_options: str | None = option(
        None, "Options of a new video model beside its preset as JSON, such as '{\"temporal_cross_attention\": true}'."
    )
    rank: int = option(8, "Rank of the LoRA layers.")
    lora_alpha: float | None = option(None, "Scale of the LoRA layers times their rank; the rank by default.")
    lora_target_modules: list[str] = option(
        ["to_q", "to_k", "to_v", "to_out.0"], "Layers that get LoRA, by the end of their names."
    )

    validation_prompts: list[str] = option([], "Videos drawn at every validation.")
    noise_prior: str = option("independent", "Noise across frames: independent, mixed or progressive.")
    noise_prior_strength: float = option(1.0, "alpha of mixed and progressive noise.")
    num_given_probabilities: list[float] = option(
        [], "Chances of 0, 1 and 2 given first frames with `task=key-frames`; equal by default."
    )
    context_dropout: float | None = option(
        None, "Chance that no frame is given with `task=interpolation`, for context guidance; 0.1 by default."
    )
    interpolation_rate: int | None = option(
        None, "Frames of the result for each given one with `task=interpolation`, the new ones and 1; 4 by default."
    )
    max_noise_level: int = option(0, "Highest timestep of the noise on given frames, which the model is told; or 0.")

    choices: ClassVar[dict[str, tuple[str, ...]]] = DenoiserConfig.choices | {
        "task": TASKS,
        "train": TRAINED_PARTS,
        "noise_prior": NOISE_PRIORS,
    }
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = DenoiserConfig.ranges | {
        "rank": (1, None, False),
        "lora_alpha": (0, None, True),
        "noise_prior_strength": (0, None, True),
        "context_dropout": (0, 1, False),
        "interpolation_rate": (2, None, False),
        "max_noise_level": (0, 999, False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_task(self)
        _check_lengths(self)
        _check_lora(self)
        _check_noise_prior(self)
        self.read_temporal_options()

    def read_temporal_options(self) -> dict[str, Any]:
        """
        Read `temporal_options`.

        Returns:
            `dict[str, Any]`: Options of [`UNetVideoConditionModel`], whose names are checked when it is made.

        Raises:
            ValueError: If they are no JSON object, or name what has a flag.
        """
        if self.temporal_options is None:
            return {}
        try:
            options = json.loads(self.temporal_options)
        except json.JSONDecodeError as error:
            raise ValueError(f"`temporal_options` must be JSON, but is {self.temporal_options!r}: {error}.") from error
        if not isinstance(options, dict) or "added_time_ids" in options:
            raise ValueError(
                "`temporal_options` must be an object without `added_time_ids`, which follow from other flags, but is"
                f" {self.temporal_options!r}."
            )
        return options

    @property
    def rate(self) -> int:
        """`int`: Frames of an interpolated video for each given one."""
        return self.interpolation_rate or INTERPOLATION_RATE

    @property
    def frames_per_clip(self) -> int:
        """`int`: Frames per clip where no buckets are named."""
        if self.task == "interpolation":
            return self.num_frames or self.rate**2 + 1  # windows of both rates, see `draw_windows`
        return self.num_frames or (1 if self.train == "spatial" else 16)

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Settings without effect on this run; a checkpoint may have been written without them."""
        idle = super().idle_settings + tuple(
            name for name in ("interpolation_rate", "temporal_options") if getattr(self, name) is None
        )
        if self.task != "text-to-video":
            return idle
        return (*idle, "task", "num_given_probabilities", "context_dropout", "max_noise_level")


def _check_task(config: VideoUNetConfig) -> None:
    owners = {"num_given_probabilities": ("key-frames",), "context_dropout": ("interpolation",)}
    owners["interpolation_rate"] = ("interpolation",)
    owners["max_noise_level"] = ("key-frames", "interpolation")
    for name, tasks in owners.items():
        if config.task not in tasks and getattr(config, name) != VideoUNetConfig.default_of(name):
            raise ValueError(f"`{name}` has an effect only with task {' or '.join(tasks)}, but it is {config.task}.")
    chances = config.num_given_probabilities
    if chances and (len(chances) != MAX_CONTEXT_FRAMES + 1 or min(chances) < 0 or not sum(chances) > 0):
        raise ValueError(
            f"`num_given_probabilities` must be {MAX_CONTEXT_FRAMES + 1} numbers of at least 0, not all 0, but is"
            f" {chances}. They need not add up to 1."
        )
    if config.task == "text-to-video":
        return
    if config.train not in ("temporal", "all"):
        raise ValueError(
            f"`train` must be temporal or all with `task={config.task}`, which given frames reach through temporal"
            f" layers, but is {config.train}."
        )
    if config.image_probability:
        raise ValueError(
            f"`image_probability` must be 0 with `task={config.task}`, but is {config.image_probability}. Leave it"
            " out."
        )
    if config.task == "interpolation" and config.validation_prompts:
        raise ValueError(
            "`validation_prompts` must be empty with `task=interpolation`, which needs frames beside them. Leave them"
            " out; the preview is drawn from the first clip."
        )
    least = MAX_CONTEXT_FRAMES + 1 if config.task == "key-frames" else config.rate + 1
    for name in config.bucket_names():
        if Bucket.parse(name).num_frames < least:
            raise ValueError(
                f"`num_frames` must be at least {least} with `task={config.task}`, but is"
                f" {Bucket.parse(name).num_frames}."
            )


def _check_lengths(config: VideoUNetConfig) -> None:
    for name in config.bucket_names():
        num_frames = Bucket.parse(name).num_frames
        if config.train == "spatial" and num_frames != 1:
            raise ValueError(f"`num_frames` must be 1 with `train=spatial`, but is {num_frames}. Leave it out.")


def _check_lora(config: VideoUNetConfig) -> None:
    if config.train != "lora":
        for name in ("rank", "lora_alpha", "lora_target_modules"):
            if getattr(config, name) != VideoUNetConfig.default_of(name):
                raise ValueError(f"`{name}` has an effect only with `train=lora`, but `train` is {config.train!r}.")
    elif not config.lora_target_modules:
        raise ValueError("`lora_target_modules` must name at least one layer with `train=lora`, but is empty.")


def _check_noise_prior(config: VideoUNetConfig) -> None:
    if config.train == "spatial" and config.noise_prior != "independent":
        raise ValueError("`noise_prior` must be 'independent' with `train=spatial`: there is one frame.")
    if config.noise_prior == "independent" and config.noise_prior_strength != 1.0:
        raise ValueError(
            "`noise_prior_strength` has no effect on independent noise. Set `noise_prior`, or leave it out."
        )
