"""Settings of `train_autoencoder.py`."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from diffusers_video.training.adversarial_config import AdversarialConfig
from diffusers_video.training.base_config import option


TRAINED_PARTS = ("all", "decoder")
_CLIP_PREFIXES = ("disc_", "perceptual_")


@dataclass(kw_only=True)
class AutoencoderConfig(AdversarialConfig):
    """
    Settings of `train_autoencoder.py`: those of [`AdversarialConfig`], and those of the model.

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

    kl_scale: float = option(1e-6, "Weight of the KL divergence, summed over the latents of an image.")
    num_scaling_images: int = option(256, "Training frames that the scale of the latents is measured on.")

    perceptual_model: str | None = option(
        None, "Of autoencoders of clips: network of the perceptual loss, as transformers' AutoBackbone reads it."
    )
    disc_weight: float = option(
        0.0, "Of autoencoders of clips: weight of the adversarial loss; LVDM 0.5, PVDM 0.25. 0: no discriminators."
    )

    choices: ClassVar[dict[str, tuple[str, ...]]] = AdversarialConfig.choices | {"train": TRAINED_PARTS}
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = AdversarialConfig.ranges | {
        "kl_scale": (0, None, False),
        "num_scaling_images": (2, None, False),
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

    def _check_decoder(self) -> None:
        if self.pretrained_model_name_or_path is None:
            raise ValueError("`train=decoder` keeps the encoder of a trained model. Name one, or train all.")
        for name in self.of_posteriors:
            raise ValueError(f"`{name}` has no effect with `train=decoder`, where latents stay. Leave it out.")

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Settings without effect on this run; a checkpoint may have been written without them."""
        of_clips = {item.name for item in dataclasses.fields(self) if item.name.startswith(_CLIP_PREFIXES)}
        return (*(("train",) if self.train == "all" else ()), *sorted(of_clips - set(self.of_clips)))

    @property
    def of_clips(self) -> list[str]:
        """`list[str]`: Settings of autoencoders of clips that are given."""
        return self.changed(*_CLIP_PREFIXES)

    @property
    def of_posteriors(self) -> list[str]:
        """`list[str]`: Settings of how latents spread that are given."""
        return self.changed("kl_scale", "num_scaling_images")

    @property
    def frames_per_clip(self) -> int:
        """`int`: Frames per clip where no buckets are named."""
        return self.num_frames or 1
