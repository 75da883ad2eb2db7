"""Which frames of a clip are given: what a user hands over, and the masks that models are trained on."""

# Shapes: B videos, F frames.

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


MECHANISMS = ("context", "reconstruction", "replacement")
MAX_CONTEXT_FRAMES = 2
INTERPOLATION_RATE = 4


@dataclass(frozen=True)
class FrameCondition:
    """
    Frames that are given, and where in the clip they stand.

    A list of these serves every combination: a first frame, first and last, every fourth, two of a video.

    Args:
        frames (`PIL.Image.Image`, `list`, `np.ndarray` or `torch.Tensor`): One image or video, or one for each video
            of a batch, in any form that pipelines take: uint8, or float in [0, 1]. With `is_latent` a tensor of shape
            `(batch_size, c, num_given, h, w)`, times the `scaling_factor` of the autoencoder.
        indices (`int` or `Sequence[int]`): Place of each frame in the clip, at least 0; with `is_latent` its place
            among the latents, which are fewer where an autoencoder compresses time.
        strength (`float`, *optional*, defaults to 1.0): Part of the sampling run, from its noisy end on, over which
            the frames are in force, in (0, 1]. With 1 they come out exactly as given; with less the model finishes
            them.
        noise_level (`int`, *optional*): Timestep of the noise added to what a model with context is told, for models
            that are told the level as well.
        is_latent (`bool`, *optional*, defaults to `False`): Whether `frames` are latents.

    Raises:
        TypeError: If a type is wrong.
        ValueError: If places are doubled or negative, or `strength` or `noise_level` is out of range.

    Source:
        VideoLDM (arXiv:2304.08818), Sections 3.2 and 3.3, of which it covers both kinds of masks.
    """

    frames: Any
    indices: int | Sequence[int]
    strength: float = 1.0
    noise_level: int | None = None
    is_latent: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        places = [self.indices] if isinstance(self.indices, int) else self.indices
        if isinstance(places, str) or not isinstance(places, Sequence) or not all(map(_is_integer, places)):
            raise TypeError(f"`indices` must be an integer or a list of integers, but is {self.indices!r}.")
        if not places or min(places) < 0 or len(set(places)) < len(places):
            raise ValueError(
                f"`indices` must hold at least one place, each at least 0 and none twice, but is {self.indices!r}."
                " Count from the first frame of the clip."
            )
        object.__setattr__(self, "indices", tuple(places))
        if isinstance(self.strength, bool) or not isinstance(self.strength, (int, float)):
            raise TypeError(f"`strength` must be a number, but is {self.strength!r}.")
        if not 0 < self.strength <= 1:
            raise ValueError(
                f"`strength` must be above 0 and at most 1, but is {self.strength}. Leave the condition out for 0."
            )
        if self.noise_level is not None and not _is_integer(self.noise_level):
            raise TypeError(f"`noise_level` must be an integer or `None`, but is {self.noise_level!r}.")
        if self.noise_level is not None and self.noise_level < 0:
            raise ValueError(f"`noise_level` must be at least 0, but is {self.noise_level}. Take 0 for clean frames.")
        if self.is_latent and (not isinstance(self.frames, Tensor) or self.frames.ndim != 5):
            raise TypeError(
                "`frames` must be a tensor of shape (batch_size, c, num_given, h, w) with `is_latent`, but is"
                f" {tuple(self.frames.shape) if isinstance(self.frames, Tensor) else type(self.frames).__name__}."
            )


def first_frames_mask(num_given: Tensor, num_frames: int) -> Tensor:
    """
    Mark the first frames of each clip as given, as a prediction model is trained.

    Args:
        num_given (`torch.Tensor` of shape `(batch_size,)`): How many, of each clip.
        num_frames (`int`): Frames of a clip.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames)`: `torch.bool`, `True` for given frames.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.2: m_S.
    """
    return torch.arange(num_frames, device=num_given.device) < num_given[:, None]


def ends_mask(is_given: Tensor, num_frames: int = INTERPOLATION_RATE + 1) -> Tensor:
    """
    Mark the first and the last frame of each clip as given, as an interpolation model is trained.

    Args:
        is_given (`torch.Tensor` of shape `(batch_size,)` and type `torch.bool`): `False` for clips of which none is.
        num_frames (`int`, *optional*, defaults to 5): Frames of a clip.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames)`: `torch.bool`, `True` for given frames.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.3: three frames are predicted between two given ones.
    """
    frames = torch.arange(num_frames, device=is_given.device)
    return is_given[:, None] & ((frames == 0) | (frames == num_frames - 1))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
