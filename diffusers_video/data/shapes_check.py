"""What a clip of the `shapes` set shows, found by plain image processing: colour, shape, motion, smoothness."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from torch import Tensor

from .shapes import COLOURS, SHAPES


# Shapes: F frames, H height, W width. Lengths are in units of the shorter side of the picture, x to the right and y
# downwards; angles are in radians, clockwise on the screen; time runs from -1 to 1.

SYMMETRIES = {"circle": 0.0, "ring": 0.0, "square": 90.0, "triangle": 120.0, "star": 72.0, "cross": 90.0}  # degrees
COMPASS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")  # clockwise from 0
LEAST_CHROMA, FULL_CHROMA = 0.15, 0.65  # backgrounds are grey, objects are not
LEAST_AREA = 10  # pixels
LEAST_TRAVEL = 0.2  # of the shorter side, between the ends of a move, hop or circle
LEAST_GROWTH = 0.35  # of the logarithm of the radius
LEAST_TURN = 0.75 * math.pi
LARGEST_ERROR = 0.035  # root mean square distance from the motion that fits best
LEAST_SEEN = 0.8  # part of the frames that must show an object
_PIXELS, _DEGREES = 24, 6  # sides of the templates, steps of their rotation


@dataclass(frozen=True, kw_only=True)
class SeenClip:
    """
    What one clip shows.

    Args:
        colours (`tuple`): Name of the nearest of `COLOURS` for each frame; `None` where no object is seen.
        shapes (`tuple`): Name of the nearest of `SHAPES` for each frame, likewise.
        motion (`str`, *optional*): Name of the motion; `None` if there is none that explains the clip.
        roughness (`float`): Mean distance of each frame's centre from the middle of its neighbours' centres, as a part
            of the picture's shorter side; NaN if there are no three frames.
        centres (`tuple`, *optional*): Column and row of the object's middle in each frame, in pixels; `None` where no
            object is seen.
    """

    colours: tuple[str | None, ...]
    shapes: tuple[str | None, ...]
    motion: str | None
    roughness: float
    centres: tuple[tuple[float, float] | None, ...] = ()

    @property
    def colour(self) -> str | None:
        """`str`, *optional*: The colour of most frames."""
        return Counter(self.colours).most_common(1)[0][0]

    @property
    def shape(self) -> str | None:
        """`str`, *optional*: The shape of most frames."""
        return Counter(self.shapes).most_common(1)[0][0]


@dataclass(frozen=True)
class _Frame:
    colour: str
    shape: str
    x: float
    y: float
    log_radius: float
    angle: float


def read_clip(frames: Tensor | np.ndarray, *, shapes: Sequence[str] = tuple(SHAPES)) -> SeenClip:
    """
    Tell what a clip with one object shows.

    Args:
        frames (`torch.Tensor` or `numpy.ndarray` of shape `(num_frames, height, width, 3)`): Colours in [0, 1].
        shapes (`Sequence[str]`, *optional*): Names of `SHAPES` that are known to the set; all by default.

    Returns:
        [`SeenClip`]

    Raises:
        ValueError: If `frames` has another shape, or a shape is unknown.
    """
    frames = np.asarray(frames, dtype=np.float64)
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            f"`frames` must have the shape (num_frames, height, width, 3), but has {frames.shape}. Pass one clip."
        )
    unknown = [name for name in shapes if name not in SHAPES]
    if unknown or not shapes:
        raise ValueError(f"`shapes` must be out of {list(SHAPES)}, but is {list(shapes)}.")
    seen = [_read_frame(frame, tuple(shapes)) for frame in frames]
    path = np.array([(frame.x, frame.y) for frame in seen if frame is not None])
    side = min(frames.shape[1:3])
    bends = np.hypot(*(path[1:-1] - (path[:-2] + path[2:]) / 2).T) if len(path) > 2 else np.array([np.nan])
    return SeenClip(
        colours=tuple(frame and frame.colour for frame in seen),
        shapes=tuple(frame and frame.shape for frame in seen),
        motion=_find_motion(seen),
        roughness=float(bends.mean()),
        centres=tuple(frame and (frame.x * side, frame.y * side) for frame in seen),
    )


def measure_cover(frames: np.ndarray) -> np.ndarray:
    """
    Tell how far each pixel belongs to an object.

    Args:
        frames (`numpy.ndarray` of shape `(..., height, width, 3)`): Colours in [0, 1].

    Returns:
        `numpy.ndarray` of shape `(..., height, width)`: 0 for grey, which backgrounds are, to 1 for a strong colour.
    """
    return np.clip((np.ptp(frames, axis=-1) - LEAST_CHROMA) / (FULL_CHROMA - LEAST_CHROMA), 0, 1)


def _read_frame(frame: np.ndarray, shapes: tuple[str, ...]) -> _Frame | None:
    cover = measure_cover(frame)
    if cover.sum() < LEAST_AREA:
        return None
    core = cover >= 0.8 * cover.max()
    mean = frame[core].mean(0)
    colour = min(COLOURS, key=lambda name: np.linalg.norm(np.array(COLOURS[name]) - mean))
    cover = np.minimum(cover / cover[core].mean(), 1)
    rows, columns = np.indices(cover.shape)
    area = cover.sum()
    x, y = (columns * cover).sum() / area, (rows * cover).sum() / area
    window = _cut_out(cover, x, y, math.sqrt(area))
    names, angles, templates = _make_templates(shapes)
    best = int(np.abs(templates - window).mean((1, 2)).argmin())
    side = min(cover.shape)
    log_radius = 0.5 * math.log(area / side**2)
    return _Frame(colour, names[best], x / side, y / side, log_radius, angles[best])


def _cut_out(cover: np.ndarray, x: float, y: float, size: float) -> np.ndarray:
    """Sample a window around a centre, twice as wide as a square of the object's area."""
    offsets = ((np.arange(_PIXELS) + 0.5) / _PIXELS - 0.5) * 2 * size
    rows = np.clip(y + offsets, -1, cover.shape[0])[:, None] + 1
    columns = np.clip(x + offsets, -1, cover.shape[1])[None] + 1
    padded = np.pad(cover, 1)
    top, left = (np.minimum(np.floor(part).astype(int), limit) for part, limit in zip(
        (rows, columns), (cover.shape[0], cover.shape[1]), strict=True))  # fmt: skip
    down, right = rows - top, columns - left
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


@cache
def _make_templates(shapes: tuple[str, ...]) -> tuple[list[str], list[float], np.ndarray]:
    names, angles, templates = [], [], []
    axis = (np.arange(96) + 0.5) / 48 - 1
    x, y = np.meshgrid(axis, axis)
    for shape in shapes:
        for degrees in np.arange(0, max(SYMMETRIES[shape], 1), _DEGREES):
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            cover = np.clip(0.5 - SHAPES[shape]((x * cos + y * sin) * 1.4, (y * cos - x * sin) * 1.4) * 24, 0, 1)
            rows, columns = np.indices(cover.shape)
            area = cover.sum()
            centre = (columns * cover).sum() / area, (rows * cover).sum() / area
            names.append(shape)
            angles.append(math.radians(degrees))
            templates.append(_cut_out(cover, *centre, math.sqrt(area)))
    return names, angles, np.stack(templates)


def _find_motion(seen: Sequence[_Frame | None]) -> str | None:
    """Fit each kind of motion to the path of the object; the best that goes far enough is what is seen."""
    chosen = [index for index, frame in enumerate(seen) if frame is not None]
    if len(chosen) < max(3, LEAST_SEEN * len(seen)):
        return None
    progress = np.array(chosen) / (len(seen) - 1)
    path = np.array([(seen[index].x, seen[index].y, seen[index].log_radius) for index in chosen])
    one, time = np.ones_like(progress), 2 * progress - 1
    cos, sin = np.cos(2 * math.pi * progress), np.sin(2 * math.pi * progress)
    hop = np.abs(np.sin(2 * math.pi * progress))
    still = np.stack([one], 1)
    fits = [  # bases of x, y and the logarithm of the radius
        ("still", [still, still, still]),
        ("line", [np.stack([one, time], 1)] * 2 + [still]),
        ("scale", [still, still, np.stack([one, time], 1)]),
        ("bounces", [np.stack([one, time], 1), np.stack([one, hop], 1), still]),
        ("circles", [np.stack([one, cos, sin], 1)] * 2 + [still]),
    ]
    found = []
    for kind, bases in fits:
        coefficients = [np.linalg.lstsq(basis, path[:, part], rcond=None)[0] for part, basis in enumerate(bases)]
        rest = [path[:, part] - basis @ coefficients[part] for part, basis in enumerate(bases)]
        rest[2] = rest[2] * math.exp(path[:, 2].mean())  # relative growth as a length
        error = math.sqrt(sum(float((part**2).mean()) for part in rest))
        found.append((error, kind, coefficients))
    frames = [seen[index] for index in chosen]
    for error, kind, coefficients in sorted(found, key=lambda item: item[0]):
        name = _name_motion(kind, coefficients, frames)
        if name is not None and error <= LARGEST_ERROR:
            return name
    return None


def _name_motion(kind: str, coefficients: list[np.ndarray], frames: Sequence[_Frame]) -> str | None:
    (x, y, size) = coefficients
    if kind == "line":
        if 2 * math.hypot(x[1], y[1]) < LEAST_TRAVEL:
            return None
        return COMPASS[round(math.atan2(y[1], x[1]) / (math.pi / 4)) % 8]
    if kind == "scale":
        growth = 2 * size[1]
        return None if abs(growth) < LEAST_GROWTH else "grows" if growth > 0 else "shrinks"
    if kind == "bounces":
        return "bounces" if -y[1] > LEAST_TRAVEL else None
    if kind == "circles":
        radii = np.linalg.norm(x[1:]), np.linalg.norm(y[1:])
        return "circles" if 2 * min(radii) > LEAST_TRAVEL else None
    period = math.radians(SYMMETRIES[Counter(frame.shape for frame in frames).most_common(1)[0][0]])
    turned = np.unwrap([frame.angle for frame in frames], period=period)[-1] - frames[0].angle if period else 0.0
    return "turns" if turned > LEAST_TURN else None
