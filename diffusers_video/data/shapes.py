"""The synthetic `shapes` set: captioned shapes that move, drawn on the fly from a seed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


# Shapes: C = 3 colour channels, F frames, H height, W width. Lengths are in units of the shorter side of the picture,
# with the origin in its centre, x to the right and y downwards; angles are in radians, clockwise on the screen.

COLOURS = {
    "red": (0.90, 0.10, 0.12),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.93, 0.10),
    "green": (0.10, 0.75, 0.20),
    "cyan": (0.10, 0.85, 0.90),
    "blue": (0.12, 0.25, 0.95),
    "purple": (0.60, 0.15, 0.85),
    "pink": (1.00, 0.50, 0.75),
}
MOTIONS = {
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "up-left": "moves up and to the left",
    "up-right": "moves up and to the right",
    "down-left": "moves down and to the left",
    "down-right": "moves down and to the right",
    "grows": "grows",
    "shrinks": "shrinks",
    "turns": "turns",
    "bounces": "bounces",
    "circles": "goes around in a circle",
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
ROUND_SHAPES = ("circle", "ring")  # nobody can see them turn
BACKGROUNDS = ("plain", "gradient")
NUM_PLACES = 64  # that are tried for two objects which meet
WORDINGS = ("{noun} {verb}", "a video of {noun} that {verb}", "{noun} {verb} on a {background} background")


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.72) - 0.28


def _polygon(points: Sequence[tuple[float, float]]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Make the signed distance to a polygon: negative inside, in the unit of its points."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        nearest = np.full_like(x, np.inf)
        is_inside = np.zeros(x.shape, dtype=bool)
        for (x1, y1), (x2, y2) in zip(points, (*points[1:], points[0]), strict=True):
            edge_x, edge_y = x2 - x1, y2 - y1
            along = np.clip(((x - x1) * edge_x + (y - y1) * edge_y) / (edge_x**2 + edge_y**2), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - x1 - along * edge_x, y - y1 - along * edge_y))
            if edge_y:
                is_crossed = ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * edge_x / edge_y)
                is_inside ^= is_crossed
        return np.where(is_inside, -nearest, nearest)

    return distance


def _corners(count: int, radii: Sequence[float]) -> list[tuple[float, float]]:
    angles = [2 * math.pi * index / count - math.pi / 2 for index in range(count)]
    return [
        (radii[index % len(radii)] * math.cos(angle), radii[index % len(radii)] * math.sin(angle))
        for index, angle in enumerate(angles)
    ]


_ARM, _TIP = 0.32, 0.95
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "ring": _ring,
    "square": _polygon([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]),
    "triangle": _polygon(_corners(3, [1.15])),
    "star": _polygon(_corners(10, [1.2, 0.5])),
    "cross": _polygon(
        [(-_ARM, -_TIP), (_ARM, -_TIP), (_ARM, -_ARM), (_TIP, -_ARM), (_TIP, _ARM), (_ARM, _ARM)]
        + [(_ARM, _TIP), (-_ARM, _TIP), (-_ARM, _ARM), (-_TIP, _ARM), (-_TIP, -_ARM), (-_ARM, -_ARM)]
    ),
}


@dataclass(frozen=True, kw_only=True)
class ShapeObject:
    """
    One moving object.

    Args:
        shape (`str`): A key of `SHAPES`.
        colour (`str`): A key of `COLOURS`.
        motion (`str`): A key of `MOTIONS`.
        radius (`float`): Size at the start, as a part of the picture's shorter side.
        travel (`float`): How far the motion goes: a distance for moves, a part of the radius for growth.
        centre (`tuple[float, float]`): Middle of the path.
        phase (`float`): Where a turn or a circle starts.
    """

    shape: str
    colour: str
    motion: str
    radius: float
    travel: float
    centre: tuple[float, float]
    phase: float

    def place(self, progress: float) -> tuple[float, float, float, float]:
        """
        Tell where the object is.

        Args:
            progress (`float`): Part of the clip that has passed, in [0, 1].

        Returns:
            `tuple` of four `float`: x and y of the centre, radius and angle.
        """
        x, y = self.centre
        radius, angle = self.radius, 0.0
        if self.motion == "grows":
            radius *= 1 + self.travel * progress
        elif self.motion == "shrinks":
            radius *= 1 + self.travel * (1 - progress)
        elif self.motion == "turns":
            angle = self.phase + 1.5 * math.pi * progress
        elif self.motion == "bounces":  # two hops; between them the object touches the same ground
            x += self.travel * (progress - 0.5) * math.copysign(1.0, self.phase - math.pi)
            y -= self.travel * (abs(math.sin(2 * math.pi * progress)) - 0.5)
        elif self.motion == "circles":
            turn = self.phase + 2 * math.pi * progress
            x, y = x + self.travel / 2 * math.cos(turn), y + self.travel / 2 * math.sin(turn)
        else:
            steps = [DIRECTIONS[name] for name in self.motion.split("-")]
            x += self.travel * (progress - 0.5) * sum(step[0] for step in steps)
            y += self.travel * (progress - 0.5) * sum(step[1] for step in steps)
        return x, y, radius, angle


@dataclass(frozen=True, kw_only=True)
class Scene:
    """
    Everything that is seen in one clip.

    Args:
        objects (`tuple[ShapeObject, ...]`): Later ones lie in front.
        background (`str`): `"plain"` or `"gradient"`.
        greys (`tuple[float, float]`): Brightness of the background at both ends of the gradient, in [0, 1].
        gradient_angle (`float`): Direction of the gradient.
        moment (`float`): Part of the clip that has passed when it is shown as a single picture, in [0, 1].
        caption (`str`): What a person would say of it.
    """

    objects: tuple[ShapeObject, ...]
    background: str
    greys: tuple[float, float]
    gradient_angle: float
    moment: float
    caption: str


class ShapesDataset(Dataset):
    """
    Captioned videos of moving shapes, drawn when they are asked for.

    The clip of an index depends on the seed and the index alone: lengths, sizes and frame rates show the same scene.

    Args:
        num_clips (`int`, *optional*, defaults to 1000): Length of the set, at least 1.
        num_frames (`int`, *optional*, defaults to 16): Frames per clip, at least 1; a single one shows the scene
            at a moment of its own.
        fps (`float`, *optional*, defaults to 8.0): Frames per second of the clips, above 0. A motion takes the whole
            clip, whatever its length.
        height (`int`, *optional*, defaults to 64): Height in pixels, at least 16.
        width (`int`, *optional*, defaults to 64): Width in pixels, at least 16.
        seed (`int`, *optional*, defaults to 0): Seed of the set, at least 0.
        shapes (`Sequence[str]`, *optional*): Which of `SHAPES`; all by default.
        colours (`Sequence[str]`, *optional*): Which of `COLOURS`; all by default.
        motions (`Sequence[str]`, *optional*): Which of `MOTIONS`; all by default.
        num_objects (`int`, *optional*, defaults to 1): Objects per clip, 1 or 2; two differ in shape, colour, motion,
            and neither hides the other where there is room for both.
        backgrounds (`Sequence[str]`, *optional*): Which of `"plain"` and `"gradient"`; both by default.
        num_wordings (`int`, *optional*, defaults to 3): How many of the wordings captions are taken from.

    Raises:
        ValueError: If an argument is out of its range, or no visible pair of shape and motion is left.
    """

    def __init__(
        self,
        num_clips: int = 1000,
        *,
        num_frames: int = 16,
        fps: float = 8.0,
        height: int = 64,
        width: int = 64,
        seed: int = 0,
        shapes: Sequence[str] | None = None,
        colours: Sequence[str] | None = None,
        motions: Sequence[str] | None = None,
        num_objects: int = 1,
        backgrounds: Sequence[str] | None = None,
        num_wordings: int = len(WORDINGS),
    ) -> None:
        _check_range("num_clips", num_clips, 1)
        _check_range("num_frames", num_frames, 1)
        _check_range("height", height, 16)
        _check_range("width", width, 16)
        _check_range("seed", seed, 0)
        _check_range("num_objects", num_objects, 1, 2)
        _check_range("num_wordings", num_wordings, 1, len(WORDINGS))
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"`fps` must be a finite number above 0, but is {fps}. Pass frames per second.")
        self.num_clips, self.num_frames, self.fps, self.seed = num_clips, num_frames, float(fps), seed
        self.height, self.width = height, width
        self.shapes = _check_names("shapes", shapes, SHAPES)
        self.colours = _check_names("colours", colours, COLOURS)
        self.motions = _check_names("motions", motions, MOTIONS)
        self.backgrounds = _check_names("backgrounds", backgrounds, BACKGROUNDS)
        self.num_objects, self.num_wordings = num_objects, num_wordings
        self.pairs = visible_pairs(self.shapes, self.motions)
        needed = min(len({pair[part] for pair in self.pairs}) for part in (0, 1)) if self.pairs else 0
        if needed < num_objects or len(self.colours) < num_objects:
            raise ValueError(
                f"`shapes`, `colours` and `motions` must leave at least {num_objects} visible choice(s) of each, but"
                f" {self.shapes}, {self.colours} and {self.motions} do not (round shapes cannot be seen to turn). Add"
                " more."
            )

    def __len__(self) -> int:
        return self.num_clips

    def scene(self, index: int) -> Scene:
        """
        Return what the clip of an index shows.

        Args:
            index (`int`): From 0 to the length of the set less one; negative ones count from the end.

        Returns:
            [`Scene`]: The scene.

        Raises:
            IndexError: If there is no such clip.
        """
        if not -self.num_clips <= index < self.num_clips:
            raise IndexError(f"`index` must be below {self.num_clips} (the number of clips), but is {index}.")
        random = np.random.default_rng([self.seed, index % self.num_clips])
        objects = []
        while len(objects) < self.num_objects:
            shape, motion = self.pairs[random.integers(len(self.pairs))]
            colour = self.colours[random.integers(len(self.colours))]
            if all(shape != o.shape and motion != o.motion and colour != o.colour for o in objects):
                objects.append(_place_object(random, shape, colour, motion, is_alone=self.num_objects == 1))
        if self.num_objects > 1:
            objects = _keep_apart(objects, np.random.default_rng([self.seed, index % self.num_clips, 1]))
        background = self.backgrounds[random.integers(len(self.backgrounds))]
        greys = random.uniform(0.05, 0.45, size=2) if background == "gradient" else [random.uniform(0.05, 0.45)] * 2
        return Scene(
            objects=tuple(objects),
            background=background,
            greys=(float(greys[0]), float(greys[1])),
            gradient_angle=float(random.uniform(0, 2 * math.pi)),
            caption=_write_caption(objects, background, WORDINGS[random.integers(self.num_wordings)]),
            moment=float(random.uniform()),
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Draw a clip.

        Args:
            index (`int`): Which one.

        Returns:
            `dict`: `pixel_values` (`torch.Tensor` of shape `(3, num_frames, height, width)`, float32 in [-1, 1]),
            `text` (`str`) and `fps` (`float`).
        """
        scene = self.scene(index)
        return {"pixel_values": draw_scene(scene, self.num_frames, self.height, self.width) * 2 - 1,
                "text": scene.caption, "fps": self.fps}  # fmt: skip


def visible_pairs(shapes: Sequence[str], motions: Sequence[str]) -> list[tuple[str, str]]:
    """
    List the pairs of shape and motion that can be told from a video.

    Args:
        shapes (`Sequence[str]`): Names out of `SHAPES`.
        motions (`Sequence[str]`): Names out of `MOTIONS`.

    Returns:
        `list` of (shape, motion): all but round shapes that turn.
    """
    pairs = [(shape, motion) for shape in shapes for motion in motions]
    return [(shape, motion) for shape, motion in pairs if motion != "turns" or shape not in ROUND_SHAPES]


def draw_scene(scene: Scene, num_frames: int, height: int, width: int) -> Tensor:
    """
    Draw the frames of a scene, with edges smoothed over one pixel.

    Args:
        scene ([`Scene`]): What to draw.
        num_frames (`int`): Number of frames; the first shows the start of the motion, the last its end. A single one
            shows the scene's moment.
        height (`int`): Height in pixels.
        width (`int`): Width in pixels.

    Returns:
        `torch.Tensor` of shape `(3, num_frames, height, width)`: colours in [0, 1], float32.
    """
    side = min(height, width)
    x = (np.arange(width) + 0.5 - width / 2)[None, :] / side
    y = (np.arange(height) + 0.5 - height / 2)[:, None] / side
    along = x * math.cos(scene.gradient_angle) + y * math.sin(scene.gradient_angle) + 0.5
    grey = scene.greys[0] + (scene.greys[1] - scene.greys[0]) * np.clip(along, 0, 1)
    frames = np.broadcast_to(grey, (num_frames, 3, height, width)).astype(np.float32)
    for index in range(num_frames):
        for item in scene.objects:
            progress = index / (num_frames - 1) if num_frames > 1 else scene.moment
            centre_x, centre_y, radius, angle = item.place(progress)
            cos, sin = math.cos(angle) / radius, math.sin(angle) / radius
            own_x, own_y = np.broadcast_arrays(x - centre_x, y - centre_y)
            distance = SHAPES[item.shape](own_x * cos + own_y * sin, own_y * cos - own_x * sin)
            cover = np.clip(0.5 - distance * radius * side, 0, 1)
            colour = np.array(COLOURS[item.colour])[:, None, None]
            frames[index] += cover * (colour - frames[index])
    return torch.from_numpy(frames).transpose(0, 1).contiguous()


def _place_object(random: np.random.Generator, shape: str, colour: str, motion: str, *, is_alone: bool) -> ShapeObject:
    radius = random.uniform(0.14, 0.20) if is_alone else random.uniform(0.11, 0.15)
    travel = random.uniform(0.45, 0.6)
    if motion in ("grows", "shrinks"):
        radius, travel = radius * 0.75, random.uniform(0.9, 1.3)
    centre = tuple(float(random.uniform(-1, 1) * room) for room in _find_room(motion, radius, travel))
    phase = float(random.uniform(0, 2 * math.pi))
    return ShapeObject(shape=shape, colour=colour, motion=motion, radius=float(radius), travel=float(travel),
                       centre=centre, phase=phase)  # fmt: skip


def _find_room(motion: str, radius: float, travel: float) -> tuple[float, float]:
    """How far from the middle of the picture the middle of a path may lie, in x and in y, for all of it to be seen."""
    if motion in ("grows", "shrinks"):
        reaches = (radius * (1 + travel),) * 2
    elif motion == "turns":
        reaches = (radius,) * 2
    else:
        are_moving = (motion not in ("up", "down"), motion not in ("left", "right"))
        reaches = tuple(radius + travel / 2 * is_moving for is_moving in are_moving)
    return tuple(max(0.5 - 1.1 * reach, 0) for reach in reaches)


def _keep_apart(objects: Sequence[ShapeObject], random: np.random.Generator) -> list[ShapeObject]:
    """Move two objects if they meet: to the first places where they do not, or to those where they meet least."""
    rooms = np.array([_find_room(item.motion, item.radius, item.travel) for item in objects])
    centres = np.concatenate(
        [np.array([[item.centre for item in objects]]), random.uniform(-1, 1, size=(NUM_PLACES, 2, 2)) * rooms]
    )
    moments = np.linspace(0, 1, 17)
    first, second = (np.array([item.place(moment)[:3] for moment in moments]) for item in objects)
    moved = (centres - centres[0])[:, :, None] + np.stack([first, second])[
        :, :, :2
    ]  # places, objects, moments, (x, y)
    gaps = np.linalg.norm(moved[:, 0] - moved[:, 1], axis=-1) - (first[:, 2] + second[:, 2])
    nearest = gaps.min(1)
    best = int(np.argmax(nearest >= 0) if (nearest >= 0).any() else np.argmax(nearest))
    return [replace(item, centre=tuple(place.tolist())) for item, place in zip(objects, centres[best], strict=True)]


def _write_caption(objects: Sequence[ShapeObject], background: str, wording: str) -> str:
    clauses = []
    for item in objects:
        article = "an" if item.colour[0] in "aeiou" else "a"
        clauses.append((f"{article} {item.colour} {item.shape}", MOTIONS[item.motion]))
    (noun, verb), others = clauses[0], clauses[1:]
    verb += "".join(f" and {other} {other_verb}" for other, other_verb in others)
    return wording.format(noun=noun, verb=verb, background=background)


def _check_range(name: str, value: int, minimum: int, maximum: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer, but is {value!r}. Pass a whole number.")
    if value < minimum or (maximum is not None and value > maximum):
        bounds = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"`{name}` must be {bounds}, but is {value}. Choose another.")


def _check_names(name: str, chosen: Sequence[str] | None, known: Sequence[str] | dict[str, Any]) -> list[str]:
    chosen = list(known) if chosen is None else list(chosen)
    unknown = [item for item in chosen if item not in known]
    if unknown or not chosen:
        raise ValueError(f"`{name}` must be one or more of {list(known)}, but is {chosen}. Choose from these.")
    return chosen
