"""Settings of `train_super_resolution.py`."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from diffusers_video.training.base_config import option
from diffusers_video.training.denoiser_config import DenoiserConfig


TRAINED_PARTS = ("temporal", "all")


@dataclass(kw_only=True)
class SuperResolutionConfig(DenoiserConfig):
    """
    Settings of `train_super_resolution.py`: those of [`DenoiserConfig`], and those of low-resolution frames.

    Raises:
        ValueError: If a value is out of its range, or settings contradict each other.
    """

    pretrained_model_name_or_path: str = option(
        dataclasses.MISSING,
        "Folder or Hub id of an image upscaler (Stable Diffusion x4), or of a video upscaler to go on.",
    )
    train: str = option("temporal", "What trains: temporal or all.")
    patch_size: int | None = option(
        None, "Side of the square patches cut out of the clips, in pixels: 320 by default, or the clips' lower side."
    )
    max_noise_level: int | None = option(
        None, "Highest timestep of the noise on low-resolution frames; the model's own by default, 350 of a new one."
    )

    task: ClassVar[str] = "super-resolution"
    noise_prior: ClassVar[str] = "independent"
    noise_prior_strength: ClassVar[float] = 1.0
    choices: ClassVar[dict[str, tuple[str, ...]]] = DenoiserConfig.choices | {"train": TRAINED_PARTS}
    ranges: ClassVar[dict[str, tuple[float, float | None, bool]]] = DenoiserConfig.ranges | {
        "patch_size": (1, None, False),
        "max_noise_level": (0, None, False),
    }

    @property
    def frames_per_clip(self) -> int:
        """`int`: Frames per clip where no buckets are named."""
        return self.num_frames or 8
