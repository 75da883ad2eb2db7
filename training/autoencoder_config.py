"""Settings of `train_autoencoder.py`."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from diffusers_video.training.base_config import TrainingConfig, option


RECONSTRUCTION_LOSSES = ("l1", "l2", "l1+l2")
TRAINED_PARTS = ("all", "decoder")


@dataclass(kw_only=True)
class AutoencoderConfig(TrainingConfig):
    """
    Settings of `train_autoencoder.py`: those of [`TrainingConfig`], and those of autoencoders.

    Raises:
        ValueError: If a value is out of its range, or settings contradict each other.
    """

    pretrained_model_name_or_path: str | None = option(
        None, "Autoencoder to go on with: a folder or Hub id of it, or of a pipeline that has one."
    )
    model_config_name_or_path: str | None = option(
        None, "Configuration of a new autoencoder: a JSON file, or a folder or Hub id that holds one."
    )
    revision: str | None = option(None, "Revision of the model on the Hub.")
    train: str = option("all", "What trains: all, or decoder (the latents, and models trained on them, stay).")
    zero_init_residuals: bool = option(False, "Begin a new model with residual blocks that add nothing.")

    rec_loss: str = option("l1", "Loss of the reconstruction: l1, l2 or l1+l2.")
    kl_scale: float = option(1e-6, "Weight of the KL divergence, summed over the latents of an image.")
    num_scaling_images: int = option(256, "Training frames that the scale of the latents is measured on.")

    perceptual_model: str | None = option(
        None, "Of autoencoders of clips: network of the perceptual loss, as transformers' AutoBackbone reads it."
    )
    perceptual_weight: float = option(1.0, "Weight of the perceptual loss, if a network is named.")
    disc_weight: float = option(
        0.0, "Of autoencoders of clips: weight of the adversarial loss; LVDM 0.5, PVDM 0.25. 0: no discriminators."
    )
    disc_start: int = option(0, "Updates before the adversarial losses set in; LVDM 50001.")
    disc_learning_rate: float | None = option(
        None, "Highest learning rate of discriminators, never scaled; that of the autoencoder by default."
    )
    disc_base_channels: int = option(64, "Channels of a discriminator's first layer.")
    disc_num_layers: int = option(3, "Layers of a discriminator that halve its input.")

    choices: ClassVar[dict[str, tuple[str, ...]]] = TrainingConfig.choices | {
        "train": TRAINED_PARTS,
        "rec_loss": RECONSTRUCTION_LOSSES,
    }
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = TrainingConfig.ranges | {
        "kl_scale": (0, None, False),
        "num_scaling_images": (2, None, False),
        "perceptual_weight": (0, None, True),
        "disc_weight": (0, None, False),
        "disc_start": (0, None, False),
        "disc_learning_rate": (0, None, True),
        "disc_base_channels": (1, None, False),
        "disc_num_layers": (1, None, False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.pretrained_model_name_or_path is None) == (self.model_config_name_or_path is None):
            raise ValueError(
                "Either `pretrained_model_name_or_path` or `model_config_name_or_path` must be given, and not both."
            )
        if self.zero_init_residuals and self.pretrained_model_name_or_path is not None:
            raise ValueError("`zero_init_residuals` is for new models and would undo a trained one. Leave it out.")
        if self.train == "decoder":
            self._check_decoder()
        if self.perceptual_weight != 1.0 and self.perceptual_model is None:
            raise ValueError("`perceptual_weight` has an effect only with `perceptual_model`. Name a network.")
        changed = [name for name in self.of_clips if name.startswith("disc_")]
        if changed and self.disc_weight == 0:
            raise ValueError(f"`{changed[0]}` has no effect with `disc_weight=0`. Leave it out.")

    def _check_decoder(self) -> None:
        if self.pretrained_model_name_or_path is None:
            raise ValueError("`train=decoder` keeps the encoder of a trained model. Name one, or train all.")
        for name in self.of_posteriors:
            raise ValueError(f"`{name}` has no effect with `train=decoder`, where latents stay. Leave it out.")

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Settings without effect on this run; a checkpoint may have been written without them."""
        idle = {item.name for item in _clip_settings()} - set(self.of_clips)
        return (*(("train",) if self.train == "all" else ()), *sorted(idle))

    @property
    def of_clips(self) -> list[str]:
        """`list[str]`: Settings of autoencoders of clips that are given."""
        return [item.name for item in _clip_settings() if getattr(self, item.name) != item.default]

    @property
    def of_posteriors(self) -> list[str]:
        """`list[str]`: Settings of how latents spread that are given."""
        items = [item for item in dataclasses.fields(self) if item.name in ("kl_scale", "num_scaling_images")]
        return [item.name for item in items if getattr(self, item.name) != item.default]

    @property
    def frames_per_clip(self) -> int:
        """`int`: Frames per clip where no buckets are named."""
        return self.num_frames or 1


def _clip_settings() -> list[dataclasses.Field]:
    prefixes = ("disc_", "perceptual_")
    return [item for item in dataclasses.fields(AutoencoderConfig) if item.name.startswith(prefixes)]
