"""Settings that the scripts of autoencoders share."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from diffusers_video.training.base_config import TrainingConfig, option


RECONSTRUCTION_LOSSES = ("l1", "l2", "l1+l2")


@dataclass(kw_only=True)
class AdversarialConfig(TrainingConfig):
    """
    Settings that the scripts of autoencoders share: those of [`TrainingConfig`], and those of the losses.

    Raises:
        ValueError: If a value is out of its range, or settings contradict each other.
    """

    rec_loss: str = option("l1", "Loss of the reconstruction: l1, l2 or l1+l2.")
    perceptual_model: str | None = option(
        None, "Network of the perceptual loss: a folder or Hub id that transformers' AutoBackbone reads."
    )
    perceptual_weight: float = option(1.0, "Weight of the perceptual loss, if a network is named.")
    disc_weight: float = option(0.0, "Weight of the adversarial loss; 0 trains without a discriminator.")
    disc_start: int = option(0, "Updates before the adversarial losses set in; LVDM 50001.")
    disc_learning_rate: float | None = option(
        None, "Highest learning rate of discriminators, never scaled; that of the autoencoder by default."
    )
    disc_base_channels: int = option(64, "Channels of a discriminator's first layer.")
    disc_num_layers: int = option(3, "Layers of a discriminator that halve its input.")

    choices: ClassVar[dict[str, tuple[str, ...]]] = TrainingConfig.choices | {"rec_loss": RECONSTRUCTION_LOSSES}
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = TrainingConfig.ranges | {
        "perceptual_weight": (0, None, True),
        "disc_weight": (0, None, False),
        "disc_start": (0, None, False),
        "disc_learning_rate": (0, None, True),
        "disc_base_channels": (1, None, False),
        "disc_num_layers": (1, None, False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.perceptual_weight != 1.0 and self.perceptual_model is None:
            raise ValueError("`perceptual_weight` has an effect only with `perceptual_model`. Name a network.")
        changed = [name for name in self.changed("disc_", "fixed_disc_") if name != "disc_weight"]
        if changed and self.disc_weight == 0:
            raise ValueError(f"`{changed[0]}` has no effect with `disc_weight=0`. Leave it out.")

    def changed(self, *prefixes: str) -> list[str]:
        """
        Name the settings that are not at their defaults.

        Args:
            prefixes (`str`): Beginnings of names; other settings are left out.

        Returns:
            `list[str]`: In the order of the fields.
        """
        items = [item for item in dataclasses.fields(self) if item.name.startswith(prefixes)]
        return [item.name for item in items if getattr(self, item.name) != item.default]
