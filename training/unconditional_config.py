"""Settings of `train_unconditional.py`."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers_video.models.space_time_options import PRESETS
from diffusers_video.training.base_config import option
from diffusers_video.training.denoiser_config import DenoiserConfig


TASKS = ("unconditional", "key-frames", "interpolation")
CONTEXT_DROPOUT = 0.1
PREVIOUS_CLIP_PROBABILITY = 0.3
_SOURCES = ("pretrained_model_name_or_path", "model_config_name_or_path", "preset")
_OF_NEW_MODELS = (
    "model_options",
    "pretrained_vae_name_or_path",
    "pretrained_text_encoder_name_or_path",
    "scheduler_config_name_or_path",
)


@dataclass(kw_only=True)
class UnconditionalConfig(DenoiserConfig):
    """
    Settings of `train_unconditional.py`: those of [`DenoiserConfig`], of a denoiser trained from scratch, and of the
    frames that it may be given.

    Raises:
        ValueError: If a value is out of its range, or settings contradict each other.
    """

    pretrained_model_name_or_path: str | None = option(
        None,
        "Pipeline to go on with: a folder or Hub id of an UnconditionalVideoPipeline, or of a TextToVideoPipeline"
        " whose denoiser pools text.",
    )
    model_config_name_or_path: str | None = option(
        None, "Configuration of a new denoiser: a JSON file, or a folder that holds one."
    )
    preset: str | None = option(None, "Published size of a new denoiser instead, such as lvdm or vdm_ucf101.")
    model_options: str | None = option(
        None, "Options of a new denoiser beside those as JSON, such as '{\"layers_per_block\": 2}'."
    )
    pretrained_vae_name_or_path: str | None = option(
        None, "Autoencoder of a new model, or a pipeline with one: a folder or Hub id; by default pixels are denoised."
    )
    pretrained_text_encoder_name_or_path: str | None = option(
        None,
        "Text encoder of a new model that reads captions as one vector each, or a pipeline with one: a folder or Hub"
        " id; by default there is no text. VDM's is BERT-large.",
    )
    scheduler_config_name_or_path: str | None = option(
        None,
        "Configuration of a new model's scheduler: a JSON file, or a folder with one; by default LVDM's DDIM, and for"
        " denoisers that are told log-SNRs the preset's VDMScheduler.",
    )
    task: str = option("unconditional", "What frames are given: none (unconditional), first ones, or both ends.")
    num_given_probabilities: list[float] = option(
        [], "Chances of 0, 1, 2, ... given first latent frames with `task=key-frames`; 0 and 1 alike by default."
    )
    context_dropout: float | None = option(
        None, "Chance that no frame is given with `task=interpolation`; 0.1 by default."
    )
    previous_clip_probability: float | None = option(
        None, "Chance that a denoiser with `use_previous_clip` knows the clip before: 0.3 by default, as in PVDM."
    )
    max_noise_level: int = option(0, "Highest timestep of the noise on given frames, which the model is told; or 0.")
    num_joint_images: int = option(
        0, "Single frames of other clips trained on beside each clip; 8 for VDM's clips of 16 frames."
    )
    latent_stride: int = option(1, "Of a clip's latent frames, every so-manyth is trained on; 4 for LVDM's keys.")

    train: ClassVar[str] = "all"
    noise_prior: ClassVar[str] = "independent"
    noise_prior_strength: ClassVar[float] = 1.0
    choices: ClassVar[dict[str, tuple[str, ...]]] = DenoiserConfig.choices | {"task": TASKS}
    optional_choices: ClassVar[dict[str, tuple[str, ...]]] = DenoiserConfig.optional_choices | {
        "preset": tuple(PRESETS),
    }
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = DenoiserConfig.ranges | {
        "context_dropout": (0, 1, False),
        "previous_clip_probability": (0, 1, False),
        "max_noise_level": (0, 999, False),
        "latent_stride": (1, None, False),
        "num_joint_images": (0, None, False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"Exactly one of {', '.join(f'`{name}`' for name in _SOURCES)} must be given, not {given}."
            )
        self._check_new_model()
        self._check_given_frames()
        self.read_model_options()
        self._check_text()

    def _check_text(self) -> None:
        if self.pretrained_text_encoder_name_or_path is None and self.pretrained_model_name_or_path is None:
            self.check_no_text()
        if self.image_probability:
            raise ValueError(
                "`image_probability` has no effect on a model that reads no text, and one that pools it takes"
                " `num_joint_images`. Leave it out."
            )

    def check_no_text(self) -> None:
        """
        Refuse settings that a model without text does not follow.

        Raises:
            ValueError: If there is one.
        """
        if self.caption_dropout != self.default_of("caption_dropout"):
            raise ValueError("`caption_dropout` has no effect on a model that reads no text. Leave it out.")

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Settings without effect on this run; a checkpoint may have been written without them."""
        name = "pretrained_text_encoder_name_or_path"
        return super().idle_settings if getattr(self, name) is not None else (*super().idle_settings, name)

    def _check_new_model(self) -> None:
        if self.pretrained_model_name_or_path is None:
            return
        for name in _OF_NEW_MODELS:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"`{name}` is for new models, but {self.pretrained_model_name_or_path!r} has its own. Leave it"
                    " out."
                )

    def _check_given_frames(self) -> None:
        owners = {"num_given_probabilities": ("key-frames",), "context_dropout": ("interpolation",)}
        owners["max_noise_level"] = ("key-frames", "interpolation")
        for name, tasks in owners.items():
            if self.task not in tasks and getattr(self, name) != self.default_of(name):
                raise ValueError(f"`{name}` has an effect only with task {' or '.join(tasks)}, but it is {self.task}.")
        if self.num_joint_images and (self.task != "unconditional" or self.latent_stride != 1):
            raise ValueError(
                "`num_joint_images` goes with `task=unconditional` and `latent_stride=1` alone, but they are"
                f" {self.task} and {self.latent_stride}. Leave it out."
            )
        chances = self.num_given_probabilities
        if chances and (min(chances) < 0 or not sum(chances) > 0):
            raise ValueError(
                f"`num_given_probabilities` must be numbers of at least 0, not all 0, but is {chances}. They need not"
                " add up to 1."
            )

    def read_model_options(self) -> dict[str, Any]:
        """
        Read `model_options`.

        Returns:
            `dict[str, Any]`: Options of the denoiser, whose names are checked when it is made.

        Raises:
            ValueError: If they are no JSON object.
        """
        if self.model_options is None:
            return {}
        try:
            options = json.loads(self.model_options)
        except json.JSONDecodeError as error:
            raise ValueError(f"`model_options` must be JSON, but is {self.model_options!r}: {error}.") from error
        if not isinstance(options, dict):
            raise ValueError(f"`model_options` must be a JSON object, but is {self.model_options!r}.")
        return options

    @property
    def given_chances(self) -> list[float]:
        """`list[float]`: Chances of 0, 1, 2, ... given first latent frames."""
        return self.num_given_probabilities or [1.0, 1.0]
