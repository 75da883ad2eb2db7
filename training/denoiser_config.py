"""Settings that the scripts of denoisers share."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers_video.data.buckets import Bucket
from diffusers_video.models.unet_video_condition import PRESETS
from diffusers_video.training.base_config import TrainingConfig, option
from diffusers_video.training.objectives import LOSS_TYPES, NOISE_OFFSETS, PREDICTION_TYPES


_TIMESTEP_BIAS = ("timestep_bias_begin", "timestep_bias_end", "timestep_bias_multiplier")


@dataclass(kw_only=True)
class DenoiserConfig(TrainingConfig):
    """
    Settings that the scripts of denoisers share: those of [`TrainingConfig`], of the model and of the objective.

    A subclass has `train`, which says what trains, and `task`.

    Raises:
        ValueError: If a value is out of its range, or settings contradict each other.
    """

    revision: str | None = option(None, "Revision of the model on the Hub.")
    variant: str | None = option(None, "Variant of the weight files, such as fp16.")
    preset: str | None = option(None, "Temporal layers of a new video model: light (default), videoldm or magicvideo.")

    posterior: str = option("sample", "Latents: sample from the autoencoder's posterior, or its mode.")
    num_heldout_timesteps: int = option(4, "Timesteps per held-out clip, spread evenly.")
    num_validation_inference_steps: int = option(25, "Steps of the sampler for videos that are drawn.")

    prediction_type: str | None = option(None, "epsilon, v_prediction or sample; the model's own by default.")
    loss_type: str = option("l2", "Error of the prediction: l2 (squared) or l1 (absolute).")
    timestep_bias_begin: int = option(0, "First of the timesteps that `timestep_bias_multiplier` is for.")
    timestep_bias_end: int = option(1000, "The timestep behind the last of them.")
    timestep_bias_multiplier: float = option(1.0, "How many times as often those timesteps are drawn as the others.")
    snr_gamma: float | None = option(None, "Min-SNR weighting; 5 is usual.")
    noise_offset: float = option(0.0, "Strength of the noise offset; 0.05 to 0.1 is usual.")
    noise_offset_per: str = option("frame", "One offset per frame or per clip.")
    input_perturbation: float = option(0.0, "Strength of the input perturbation; 0.1 is usual.")
    rescale_betas_zero_snr: bool = option(False, "Zero terminal SNR; with v_prediction or sample.")
    caption_dropout: float = option(0.1, "Chance of training a clip without its caption.")
    image_probability: float = option(0.0, "Chance that the frames of a clip are trained on as single images.")

    choices: ClassVar[dict[str, tuple[str, ...]]] = TrainingConfig.choices | {
        "posterior": ("sample", "mode"),
        "noise_offset_per": NOISE_OFFSETS,
        "loss_type": LOSS_TYPES,
    }
    optional_choices: ClassVar[dict[str, tuple[str, ...]]] = TrainingConfig.optional_choices | {
        "preset": tuple(PRESETS),
        "prediction_type": PREDICTION_TYPES,
    }
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = TrainingConfig.ranges | {
        "num_heldout_timesteps": (1, None, False),
        "num_validation_inference_steps": (1, None, False),
        "timestep_bias_begin": (0, 998, False),
        "timestep_bias_end": (1, 1000, False),
        "timestep_bias_multiplier": (0, None, True),
        "snr_gamma": (0, None, True),
        "noise_offset": (0, None, False),
        "input_perturbation": (0, None, False),
        "caption_dropout": (0, 1, False),
        "image_probability": (0, 1, False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_denoiser_lengths()
        self._check_denoiser_objective()
        self._check_timestep_bias()

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Settings without effect on this run; a checkpoint may have been written without them."""
        idle = () if self.timestep_bias_multiplier != 1 else _TIMESTEP_BIAS
        return idle if self.loss_type != "l2" else (*idle, "loss_type")

    @classmethod
    def default_of(cls, name: str) -> Any:
        """
        Default of a setting.

        Args:
            name (`str`): The setting.

        Returns:
            Its default.
        """
        field = cls.__dataclass_fields__[name]
        return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()

    def _check_denoiser_lengths(self) -> None:
        for name in self.bucket_names():
            num_frames = Bucket.parse(name).num_frames
            if self.train != "spatial" and num_frames < 2:
                raise ValueError(
                    f"`num_frames` must be at least 2 with `train={self.train}`, but is {num_frames}, and one frame"
                    " trains no temporal layer. Take 8 or 16."
                )

    def _check_denoiser_objective(self) -> None:
        if self.image_probability and self.train in ("temporal", "spatial"):
            raise ValueError(
                f"`image_probability` must be 0 with `train={self.train}`, but is {self.image_probability}: single"
                " images train no temporal layer, and `spatial` trains on nothing else."
            )
        if not self.noise_offset and self.noise_offset_per != "frame":
            raise ValueError("`noise_offset_per` has no effect without `noise_offset`. Set it, or leave both out.")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "`rescale_betas_zero_snr` must not be used with `prediction_type=epsilon`: at zero SNR the input is"
                " the noise, and predicting it teaches nothing (arXiv:2305.08891, Section 3.2). Take v_prediction."
            )

    def _check_timestep_bias(self) -> None:
        begin, end = self.timestep_bias_begin, self.timestep_bias_end
        if begin >= end:
            raise ValueError(
                f"`timestep_bias_begin` must be below `timestep_bias_end`, but is {begin}, the end {end}."
            )
        is_range_given = (begin, end) != (0, 1000)
        if is_range_given != (self.timestep_bias_multiplier != 1):
            raise ValueError(
                "`timestep_bias_multiplier` has an effect only with a range of timesteps, and a range only with it,"
                f" but they are {self.timestep_bias_multiplier:g} and {begin} to {end}. Give both, or none."
            )
