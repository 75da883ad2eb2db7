"""What an evaluation can measure, on which networks, and how scores are computed from features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .clip_measures import MEASURES
from .paired_clips import PAIRED_MEASURES


FRECHET, KERNEL, INCEPTION = ("fvd", "frechet_distance"), ("kvd", "kernel_distance"), ("inception_score",)
OF_FRAMES = ("fid", "frame_frechet_distance")
OF_CLIP = {  # what results call them
    "clip_similarity": "CLIPSIM",
    "clip_frame_consistency": "CLIP consistency of consecutive frames",
}
LPIPS = {"lpips": "LPIPS, mean over frames"}
PAIRED = (*PAIRED_MEASURES, *LPIPS)
ROLES = {  # which network a metric is computed of
    **dict.fromkeys((*FRECHET, *KERNEL), "network"),
    **dict.fromkeys(OF_FRAMES, "frame_network"),
    **dict.fromkeys(INCEPTION, "classifier"),
    **dict.fromkeys(OF_CLIP, "clip"),
    **dict.fromkeys(MEASURES, "measures"),
    **dict.fromkeys(PAIRED_MEASURES, "pairs"),
    **dict.fromkeys(LPIPS, "lpips"),
}
METRICS = tuple(ROLES)
LABELS = {**MEASURES, **OF_CLIP, **PAIRED_MEASURES, **LPIPS}
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """
    How scores are computed from features; nothing here changes a score itself.

    Args:
        metrics (`Sequence[str]`, *optional*): Some of `"fvd"` and `"kvd"`, which need I3D with the weights of FVD;
            `"frechet_distance"` and `"kernel_distance"`, the same on any network; `"fid"`, which needs Inception with
            the weights of FID, and `"frame_frechet_distance"`, the same on any network of images, both over all frames
            of all clips; `"inception_score"`, which needs a classifier and no reference; `"clip_similarity"` and
            `"clip_frame_consistency"`, which need CLIP, the first one also captions of the generated clips;
            `"temporal_flickering"`, `"warping_error"` and `"motion_magnitude"`, means over clips; these and those of
            CLIP need no reference and are told of it, too, if its clips are at hand; `"psnr"`, `"ssim"` and
            `"lpips"`, which need a reference whose videos have the same names.
        num_resamples (`int`, *optional*, defaults to 100): Bootstrap samples of clips behind each interval; 0: no
            intervals, and then Frechet distances need memory that does not grow with the number of clips.
        num_splits (`int`, *optional*, defaults to 10): Splits of the Inception Score.
        allows_small_sets (`bool`, *optional*, defaults to `False`): Whether a Frechet distance may be measured on sets
            with no more clips (frames, of a network of images) than there are features.
        allows_other_fps (`bool`, *optional*, defaults to `False`): Whether both sets may have different rates.
        seed (`int`, *optional*, defaults to 0): Of the resampling.

    Raises:
        ValueError: If a value is out of its range.
    """

    metrics: Sequence[str] = ("fvd", "kvd")
    num_resamples: int = 100
    num_splits: int = 10
    allows_small_sets: bool = False
    allows_other_fps: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            raise ValueError(f"`metrics` must be some of {list(METRICS)}, but are {list(self.metrics)}.")
        if self.num_resamples < 0 or self.num_resamples == 1:
            raise ValueError(f"`num_resamples` must be 0 or at least 2, but is {self.num_resamples}.")
        if self.num_splits < 1:
            raise ValueError(f"`num_splits` must be at least 1, but is {self.num_splits}.")

    @property
    def roles(self) -> tuple[str, ...]:
        """Networks that the metrics are of."""
        return tuple(dict.fromkeys(ROLES[name] for name in self.metrics))

    def needs(self, names: Sequence[str]) -> bool:
        """
        Tell whether one of several metrics is asked for.

        Args:
            names (`Sequence[str]`): Metrics.

        Returns:
            `bool`
        """
        return any(name in names for name in self.metrics)
