"""Settings of `train_video_decoder.py`."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from diffusers_video.data.buckets import Bucket
from diffusers_video.models.autoencoder_kl_video import DECODER_PRESETS, TEMPORAL_ATTENTIONS
from diffusers_video.training.autoencoder_config import RECONSTRUCTION_LOSSES
from diffusers_video.training.base_config import TrainingConfig, option


TRAINED_PARTS = ("temporal", "decoder")


@dataclass(kw_only=True)
class VideoDecoderConfig(TrainingConfig):
    """
    Settings of `train_video_decoder.py`: those of [`TrainingConfig`], and those of the decoder and its losses.

    Raises:
        ValueError: If a value is out of its range, or settings contradict each other.
    """

    pretrained_model_name_or_path: str = option(
        dataclasses.MISSING,
        "Autoencoder of images or of videos: a folder or Hub id of it, or of a pipeline that has one.",
    )
    revision: str | None = option(None, "Revision of the model on the Hub.")
    train: str = option("temporal", "What trains: temporal (the temporal layers) or decoder (all of the decoder).")
    preset: str | None = option(None, "Temporal layers of a new video autoencoder: videoldm (default) or videovae.")
    temporal_attention: str | None = option(
        None, "Attention over time in a new video autoencoder: none, full or causal; what the preset has by default."
    )
    decode_chunk_overlap: int | None = option(
        None, "Frames that chunks share when decoding: a quarter of a clip by default; chunks are as long as clips."
    )

    rec_loss: str = option("l1", "Loss of the reconstruction: l1, l2 or l1+l2.")
    perceptual_model: str | None = option(
        None, "Network of the perceptual loss: a folder or Hub id that transformers' AutoBackbone reads."
    )
    perceptual_weight: float = option(1.0, "Weight of the perceptual loss, if a network is named.")
    disc_weight: float = option(0.5, "Weight of the adversarial loss; 0 trains without a discriminator.")
    disc_start: int = option(
        50_001, "Updates before the adversarial losses set in; those of Latent Diffusion Models by default."
    )
    disc_learning_rate: float | None = option(
        None, "Highest learning rate of the discriminator, never scaled; that of the decoder by default."
    )
    disc_base_channels: int = option(64, "Channels of the discriminator's first layer, a multiple of 8.")
    disc_num_layers: int = option(3, "Layers of the discriminator that halve frames, height and width.")
    fixed_disc_weight: bool = option(False, "Do not balance the adversarial loss by gradients of the last layer.")

    choices: ClassVar[dict[str, tuple[str, ...]]] = TrainingConfig.choices | {
        "train": TRAINED_PARTS,
        "rec_loss": RECONSTRUCTION_LOSSES,
    }
    optional_choices: ClassVar[dict[str, tuple[str, ...]]] = TrainingConfig.optional_choices | {
        "preset": tuple(DECODER_PRESETS),
        "temporal_attention": TEMPORAL_ATTENTIONS,
    }
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = TrainingConfig.ranges | {
        "decode_chunk_overlap": (0, None, False),
        "perceptual_weight": (0, None, True),
        "disc_weight": (0, None, False),
        "disc_start": (0, None, False),
        "disc_learning_rate": (0, None, True),
        "disc_base_channels": (8, None, False),
        "disc_num_layers": (1, None, False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(Bucket.parse(name).num_frames for name in self.bucket_names()) == 1:
            raise ValueError("Clips must have at least 2 `num_frames` to train on videos, but have 1. Take 8 to 16.")
        if self.disc_base_channels % 8:
            raise ValueError(f"`disc_base_channels` must be a multiple of 8, but is {self.disc_base_channels}.")
        if self.perceptual_weight != 1.0 and self.perceptual_model is None:
            raise ValueError("`perceptual_weight` has an effect only with `perceptual_model`. Name a network.")
        defaults = {item.name: item.default for item in dataclasses.fields(self) if item.name.startswith("disc_")}
        changed = [name for name, value in defaults.items() if getattr(self, name) != value and name != "disc_weight"]
        changed += ["fixed_disc_weight"] if self.fixed_disc_weight else []
        if changed and self.disc_weight == 0:
            raise ValueError(f"`{changed[0]}` has no effect with `disc_weight=0`. Leave it out.")

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Settings without effect on this run; a checkpoint may have been written without them."""
        return ("preset",) if self.preset is None else ()
