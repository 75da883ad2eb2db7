"""Settings of `train_video_decoder.py`."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from diffusers_video.data.buckets import Bucket
from diffusers_video.models.autoencoder_kl_video import DECODER_PRESETS, TEMPORAL_ATTENTIONS
from diffusers_video.training.adversarial_config import AdversarialConfig
from diffusers_video.training.base_config import option


TRAINED_PARTS = ("temporal", "decoder")


@dataclass(kw_only=True)
class VideoDecoderConfig(AdversarialConfig):
    """
    Settings of `train_video_decoder.py`: those of [`AdversarialConfig`], and those of the decoder.

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

    disc_weight: float = option(0.5, "Weight of the adversarial loss; 0 trains without a discriminator.")
    disc_start: int = option(
        50_001, "Updates before the adversarial losses set in; those of Latent Diffusion Models by default."
    )
    disc_base_channels: int = option(64, "Channels of the discriminator's first layer, a multiple of 8.")
    fixed_disc_weight: bool = option(False, "Do not balance the adversarial loss by gradients of the last layer.")

    choices: ClassVar[dict[str, tuple[str, ...]]] = AdversarialConfig.choices | {"train": TRAINED_PARTS}
    optional_choices: ClassVar[dict[str, tuple[str, ...]]] = AdversarialConfig.optional_choices | {
        "preset": tuple(DECODER_PRESETS),
        "temporal_attention": TEMPORAL_ATTENTIONS,
    }
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = AdversarialConfig.ranges | {
        "decode_chunk_overlap": (0, None, False),
        "disc_base_channels": (8, None, False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(Bucket.parse(name).num_frames for name in self.bucket_names()) == 1:
            raise ValueError("Clips must have at least 2 `num_frames` to train on videos, but have 1. Take 8 to 16.")
        if self.disc_base_channels % 8:
            raise ValueError(f"`disc_base_channels` must be a multiple of 8, but is {self.disc_base_channels}.")

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Settings without effect on this run; a checkpoint may have been written without them."""
        return ("preset",) if self.preset is None else ()
