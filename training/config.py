"""Settings of `train_video_unet.py`."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from diffusers_video.conditioning.noise import NOISE_PRIORS
from diffusers_video.data.buckets import Bucket
from diffusers_video.models.unet_video_condition import PRESETS
from diffusers_video.training.base_config import TrainingConfig, option
from diffusers_video.training.objectives import NOISE_OFFSETS, PREDICTION_TYPES


TRAINED_PARTS = ("temporal", "all", "lora", "spatial")


@dataclass(kw_only=True)
class VideoUNetConfig(TrainingConfig):
    """
    Settings of `train_video_unet.py`: those of [`TrainingConfig`], and those of models and of the objective.

    Raises:
        ValueError: If a value is out of its range, or settings contradict each other.
    """

    pretrained_model_name_or_path: str = option(
        dataclasses.MISSING,
        "Folder or Hub id of an image pipeline (SD 1.x, 2.x, XL), or of a video pipeline to go on.",
    )
    train: str = option("temporal", "What trains: temporal, all, lora, or spatial (on single frames).")
    revision: str | None = option(None, "Revision of the model on the Hub.")
    variant: str | None = option(None, "Variant of the weight files, such as fp16.")
    preset: str | None = option(None, "Temporal layers of a new video model: videoldm (default) or light.")
    fps_conditioning: bool = option(False, "Tell a new video model the frame rate of every clip.")
    rank: int = option(8, "Rank of the LoRA layers.")
    lora_alpha: float | None = option(None, "Scale of the LoRA layers times their rank; the rank by default.")
    lora_target_modules: list[str] = option(
        ["to_q", "to_k", "to_v", "to_out.0"], "Layers that get LoRA, by the end of their names."
    )

    posterior: str = option("sample", "Latents: sample from the autoencoder's posterior, or its mode.")
    num_heldout_timesteps: int = option(4, "Timesteps per held-out clip, spread evenly.")
    validation_prompts: list[str] = option([], "Videos drawn at every validation.")
    num_validation_inference_steps: int = option(25, "Steps of the sampler for these.")

    prediction_type: str | None = option(None, "epsilon, v_prediction or sample; the model's own by default.")
    snr_gamma: float | None = option(None, "Min-SNR weighting; 5 is usual.")
    noise_offset: float = option(0.0, "Strength of the noise offset; 0.05 to 0.1 is usual.")
    noise_offset_per: str = option("frame", "One offset per frame or per clip.")
    input_perturbation: float = option(0.0, "Strength of the input perturbation; 0.1 is usual.")
    noise_prior: str = option("independent", "Noise across frames: independent, mixed or progressive.")
    noise_prior_strength: float = option(1.0, "alpha of mixed and progressive noise.")
    rescale_betas_zero_snr: bool = option(False, "Zero terminal SNR; with v_prediction or sample.")
    caption_dropout: float = option(0.1, "Chance of training a clip without its caption.")
    image_probability: float = option(0.0, "Chance that the frames of a clip are trained on as single images.")

    choices: ClassVar[dict[str, tuple[str, ...]]] = TrainingConfig.choices | {
        "train": TRAINED_PARTS,
        "posterior": ("sample", "mode"),
        "noise_prior": NOISE_PRIORS,
        "noise_offset_per": NOISE_OFFSETS,
    }
    optional_choices: ClassVar[dict[str, tuple[str, ...]]] = TrainingConfig.optional_choices | {
        "preset": tuple(PRESETS),
        "prediction_type": PREDICTION_TYPES,
    }
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = TrainingConfig.ranges | {
        "rank": (1, None, False),
        "lora_alpha": (0, None, True),
        "num_heldout_timesteps": (1, None, False),
        "num_validation_inference_steps": (1, None, False),
        "snr_gamma": (0, None, True),
        "noise_offset": (0, None, False),
        "input_perturbation": (0, None, False),
        "noise_prior_strength": (0, None, True),
        "caption_dropout": (0, 1, False),
        "image_probability": (0, 1, False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_lengths(self)
        _check_lora(self)
        _check_objective(self)

    @property
    def frames_per_clip(self) -> int:
        """`int`: Frames per clip where no buckets are named."""
        return self.num_frames or (1 if self.train == "spatial" else 16)


def _check_lengths(config: VideoUNetConfig) -> None:
    for name in config.bucket_names():
        num_frames = Bucket.parse(name).num_frames
        if config.train == "spatial" and num_frames != 1:
            raise ValueError(f"`num_frames` must be 1 with `train=spatial`, but is {num_frames}. Leave it out.")
        if config.train in ("temporal", "lora", "all") and num_frames < 2:
            raise ValueError(
                f"`num_frames` must be at least 2 with `train={config.train}`, but is {num_frames}. For single frames"
                " take `train=spatial`."
            )


def _check_lora(config: VideoUNetConfig) -> None:
    lora = VideoUNetConfig.__dataclass_fields__
    if config.train != "lora":
        for name in ("rank", "lora_alpha", "lora_target_modules"):
            default = lora[name].default_factory() if name == "lora_target_modules" else lora[name].default
            if getattr(config, name) != default:
                raise ValueError(f"`{name}` has an effect only with `train=lora`, but `train` is {config.train!r}.")
    elif not config.lora_target_modules:
        raise ValueError("`lora_target_modules` must name at least one layer with `train=lora`, but is empty.")


def _check_objective(config: VideoUNetConfig) -> None:
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
