"""Measures that each clip has by itself, in the form of features, so that an evaluation takes them along."""

import torch
from torch import Tensor

from .consistency import measure_motion, temporal_flickering
from .feature_networks import FeatureNetwork


# Shapes: B videos, C channels, F frames, H height, W width.

RANGE = (-1.0, 1.0)  # what feature networks are given
MEASURES = {  # what results call them, in the order of the features
    "temporal_flickering": "Temporal flickering, 1 = none",
    "warping_error": "Warping error, built-in flow",
    "motion_magnitude": "Motion in pixels per frame, built-in flow",
}


def clip_measures() -> FeatureNetwork:
    """
    Make the function that measures clips.

    Returns:
        [`FeatureNetwork`]: Its features are those of `MEASURES`; it takes clips of any size, at least 2 frames.
    """
    return FeatureNetwork(name="measures of a clip, built-in flow", function=_measure)


def _measure(videos: Tensor) -> Tensor:
    """BCFHW in [-1, 1] -> B x 3."""
    motion = measure_motion(videos, value_range=RANGE)
    columns = (temporal_flickering(videos, RANGE), motion.warping_error, motion.magnitude)
    return torch.stack([column.to(torch.float32) for column in columns], dim=1)
