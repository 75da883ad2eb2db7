"""Fixed features of clips of the `shapes` set: simple measurements, nothing learned, for a Frechet distance."""

import numpy as np
from torch import Tensor

from ..data.shapes_check import measure_cover


# Shapes: F frames, H height, W width, C = 3 colour channels. Lengths are in units of the shorter side.

NUM_MOMENTS = 8  # at which the path of an object is read, whatever the number of frames
NUM_LEVELS = 4  # of the pyramid of pixels: sides of 1, 1/2, 1/4 and 1/8
FEATURE_GROUPS = {  # places of the features of one kind
    "path": slice(0, 2 * NUM_MOMENTS),
    "size": slice(2 * NUM_MOMENTS, 3 * NUM_MOMENTS),
    "colour": slice(3 * NUM_MOMENTS, 6 * NUM_MOMENTS),
    "pixels": slice(6 * NUM_MOMENTS, 6 * NUM_MOMENTS + 2 * NUM_LEVELS + 3),
}
NUM_FEATURES = FEATURE_GROUPS["pixels"].stop
_LITTLE = 1e-3  # weight of the whole picture beside that of an object, so that empty frames have features, too


def measure_clip(frames: Tensor | np.ndarray) -> np.ndarray:
    """
    Measure a clip: where its coloured pixels are, how many, of which colour; and how rough and restless its pixels.

    Args:
        frames (`torch.Tensor` or `numpy.ndarray` of shape `(num_frames, height, width, 3)`): Colours in [0, 1]; height
            and width of at least 16.

    Returns:
        `numpy.ndarray` of shape `(59,)`: float64; [`FEATURE_GROUPS`] names its parts. At 8 moments the centre (x, y),
        the square root of the area and the mean colour of the coloured pixels; at 4 levels of a pyramid the contrast
        and the change from frame to frame; the mean colour of the whole clip.

    Raises:
        ValueError: If `frames` has another shape.
    """
    frames = np.asarray(frames, dtype=np.float64)
    if frames.ndim != 4 or frames.shape[-1] != 3 or min(frames.shape[1:3]) < 2**NUM_LEVELS:
        raise ValueError(
            "`frames` must have the shape (num_frames, height, width, 3), with height and width of at least"
            f" {2**NUM_LEVELS}, but has {frames.shape}. Pass one clip."
        )
    return np.concatenate([_measure_objects(frames), _measure_pixels(frames)])


def _measure_objects(frames_FHWC: np.ndarray) -> np.ndarray:
    num_frames, height, width = frames_FHWC.shape[:3]
    side = min(height, width)
    cover = measure_cover(frames_FHWC)
    weights = (cover + _LITTLE) / (cover + _LITTLE).sum((1, 2), keepdims=True)
    x = (weights.sum(1) * (np.arange(width) + 0.5)).sum(1) / side
    y = (weights.sum(2) * (np.arange(height) + 0.5)).sum(1) / side
    size = np.sqrt(cover.sum((1, 2))) / side
    colours = np.einsum("fhw,fhwc->fc", weights, frames_FHWC)
    moments = np.linspace(0, num_frames - 1, NUM_MOMENTS)
    rows = [x, y, size, *colours.T]
    return np.concatenate([np.interp(moments, np.arange(num_frames), row) for row in rows])


def _measure_pixels(frames_FHWC: np.ndarray) -> np.ndarray:
    contrasts, changes = [], []
    level_FHWC = frames_FHWC
    for _ in range(NUM_LEVELS):
        height, width = (side // 2 * 2 for side in level_FHWC.shape[1:3])
        cut_FHWC = level_FHWC[:, :height, :width]
        blocks = cut_FHWC.reshape(len(cut_FHWC), height // 2, 2, width // 2, 2, 3)
        smaller = blocks.mean((2, 4), keepdims=True)
        contrasts.append(np.sqrt(((blocks - smaller) ** 2).mean()))
        changes.append(np.abs(np.diff(level_FHWC, axis=0)).mean() if len(level_FHWC) > 1 else 0.0)
        level_FHWC = smaller[:, :, 0, :, 0]
    return np.array([*contrasts, *changes, *frames_FHWC.mean((0, 1, 2))])
