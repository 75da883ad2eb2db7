"""How videos become the clips that a metric sees: the part of a metric that makes numbers comparable, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np

from .._video_values import as_fps
from .preprocessing import QUANTISATIONS, RESIZE_RULES, Quantisation, ResizeRule


ClipChoice = Literal["first", "random", "any"]
_CLIP_CHOICES = ("first", "random", "any")
_ORDERS = ("sorted", "shuffled")


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """
    All that decides which frames of which videos are compared, and how they are brought to the network.

    Args:
        name (`str`, *optional*, defaults to `"custom"`): What results call it.
        num_frames (`int`, *optional*, defaults to 16): Frames of a clip.
        frame_stride (`int`, *optional*, defaults to 1): Frames of the video from one frame of a clip to the next.
        fps (`str`, *optional*): Frames per second that all videos are read at, such as `"8"` or `"30000/1001"`, by the
            times at which frames are shown; strides count at this rate. `None`: every frame of the file.
        num_reference (`int`, *optional*): Clips of the reference at most; `None`: as many as there are.
        num_generated (`int`, *optional*): Generated clips; `None`: as many as there are.
        reference_clips (`str`, *optional*, defaults to `"random"`): Which clip stands for a video: `"first"`: from its
            first frame; `"random"`: one random window; `"any"`: windows drawn from all windows of all videos, none
            twice, so that long videos give more.
        generated_clips (`str`, *optional*, defaults to `"first"`): The same for the generated set.
        order (`str`, *optional*, defaults to `"shuffled"`): Which videos are taken where there are more than needed:
            `"sorted"`: the first by name, `"shuffled"`: random ones.
        reuses_generated (`bool`, *optional*, defaults to `False`): Whether generated videos are used again, by other
            windows, when they are fewer than `num_generated`; if not, that is an error.
        frame_size (`int`, *optional*): Side in pixels that frames are brought to before anything else, as some data
            loaders do, and are then stored with 8 bits again; `None`: the size of the file.
        frame_resize (`str`, *optional*, defaults to `"cover"`): How, see
            [`~metrics.preprocessing.resize_frames`].
        frame_antialias (`bool`, *optional*, defaults to `False`): Whether shrinking then averages over pixels.
        quantisation (`str`, *optional*, defaults to `"round"`): How 8 bits are made of numbers, `"round"` or
            `"truncate"`.
        resize (`str`, *optional*, defaults to `"stretch"`): How frames become as large as the network wants.
        ddof (`int`, *optional*, defaults to 0): 0: covariance over n; 1: over n - 1.
        seed (`int`, *optional*, defaults to 0): Of everything random above.

    Raises:
        ValueError: If a value is out of its range.
    """

    name: str = "custom"
    num_frames: int = 16
    frame_stride: int = 1
    fps: str | None = None
    num_reference: int | None = None
    num_generated: int | None = None
    reference_clips: ClipChoice = "random"
    generated_clips: ClipChoice = "first"
    order: Literal["sorted", "shuffled"] = "shuffled"
    reuses_generated: bool = False
    frame_size: int | None = None
    frame_resize: ResizeRule = "cover"
    frame_antialias: bool = False
    quantisation: Quantisation = "round"
    resize: ResizeRule = "stretch"
    ddof: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride", "num_reference", "num_generated", "frame_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {value}.")
        choices = {
            "reference_clips": _CLIP_CHOICES,
            "generated_clips": _CLIP_CHOICES,
            "order": _ORDERS,
            "frame_resize": RESIZE_RULES,
            "resize": RESIZE_RULES,
            "quantisation": QUANTISATIONS,
            "ddof": (0, 1),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {list(allowed)}, but is {getattr(self, name)!r}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must be at least 0, but is {self.seed}.")

    @property
    def span(self) -> int:
        """Frames of the video from the first to the last of a clip."""
        return (self.num_frames - 1) * self.frame_stride + 1

    @property
    def smallest_length(self) -> int:
        """Frames that a video needs to be used: whole strides, as StyleGAN-V and content-debiased FVD count."""
        return self.num_frames * self.frame_stride

    def changed(self, **changes: Any) -> EvaluationProtocol:
        """
        The protocol with some values replaced; its name then says so.

        Args:
            changes: Values by the names above. Those that are as before do not count.

        Returns:
            [`EvaluationProtocol`]

        Raises:
            TypeError: If there is no such value.
            ValueError: If one is out of range.
        """
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - known):
            raise TypeError(f"`{unknown[0]}` is no value of a protocol. There are {sorted(known)}.")
        real = {name: value for name, value in changes.items() if value != getattr(self, name)}
        if real and "name" not in real:
            real["name"] = f"{self.name}, changed: {', '.join(sorted(real))}"
        return dataclasses.replace(self, **real)

    def describe(self) -> dict[str, Any]:
        """
        What a result says of it.

        Returns:
            `dict`: JSON values, enough to make it again.
        """
        return dataclasses.asdict(self)


# What no protocol can say: which data set, split and frame files a number was measured on.
PROTOCOLS = {
    "stylegan-v": EvaluationProtocol(
        name="stylegan-v", num_reference=2048, num_generated=2048, order="sorted", quantisation="round"
    ),
    "videogpt": EvaluationProtocol(
        name="videogpt",
        num_reference=2048,
        num_generated=2048,
        reference_clips="any",
        quantisation="truncate",
        resize="cover",
        ddof=1,
    ),
    "content-debiased": EvaluationProtocol(
        name="content-debiased",
        num_generated=2048,
        generated_clips="random",
        reuses_generated=True,
        frame_size=256,
        frame_antialias=True,
        quantisation="truncate",
        seed=42,
    ),
}


PROTOCOL_NAMES = (*PROTOCOLS, "custom")


def find_protocol(name: str, **changes: Any) -> EvaluationProtocol:
    """
    Look up a protocol, and change it where asked to.

    Args:
        name (`str`): `"stylegan-v"`, `"videogpt"`, `"content-debiased"` or `"custom"`, which has all defaults.
        changes: Values of [`EvaluationProtocol`].

    Returns:
        [`EvaluationProtocol`]

    Raises:
        ValueError: If there is none of this name.

    Source:
        stylegan-v: FVD of 16 frames; with `num_frames=128` FVD 128, with `frame_stride=8` its `subsample8f`. The first
        2048 videos by name that are long enough, a random window of each; generated ones from frame 0. Give folders
        random names where names tell classes. Its TorchScript file resizes by itself; here `"stretch"` stands for
        that. videogpt: VideoGPT, TATS, LVDM's tables; windows of all clips of the test set, LVDM takes
        `resize="stretch"`, VideoGPT's own script 256 clips. content-debiased: the package of that name.
    """
    if name not in PROTOCOL_NAMES:
        raise ValueError(f"`name` must be one of {list(PROTOCOL_NAMES)}, but is {name!r}. Choose one of them.")
    return EvaluationProtocol(**changes) if name == "custom" else PROTOCOLS[name].changed(**changes)


class ClipPlace(NamedTuple):
    """
    Which frames of which video make a clip.

    Args:
        video (`int`): Number of the video.
        frames (`tuple[int, ...]`): Numbers of its frames, at the protocol's rate.
    """

    video: int
    frames: tuple[int, ...]


def choose_clips(
    lengths: Sequence[int], protocol: EvaluationProtocol, *, is_generated: bool
) -> tuple[list[ClipPlace], list[int]]:
    """
    Choose the clips of a set.

    Args:
        lengths (`Sequence[int]`): Frames of each video, at the protocol's rate, videos in the order of their names.
        protocol ([`EvaluationProtocol`]): The rules.
        is_generated (`bool`): Whether this is the generated set, or the reference.

    Returns:
        `tuple` of [`ClipPlace`]s, and the numbers of videos that are too short. The clip of a video depends on the
        seed and its number alone.

    Raises:
        ValueError: If no video is long enough, or generated ones are fewer than the protocol asks for.
    """
    usable = [number for number, length in enumerate(lengths) if length >= protocol.smallest_length]
    short = [number for number, length in enumerate(lengths) if length < protocol.smallest_length]
    if not usable:
        raise ValueError(
            f"`num_frames` x `frame_stride` must be at most the length of some video, but is"
            f" {protocol.smallest_length}, and the longest of {len(lengths)} has {max(lengths, default=0)} frames."
            " Lower them."
        )
    choice = protocol.generated_clips if is_generated else protocol.reference_clips
    wanted = protocol.num_generated if is_generated else protocol.num_reference
    if choice == "any":
        places = list(_choose_any(lengths, usable, wanted, protocol))
    else:
        order = (
            usable
            if protocol.order == "sorted"
            else [usable[k] for k in _random(protocol, 0).permutation(len(usable))]
        )
        count = (
            len(order)
            if wanted is None
            else wanted
            if _may_repeat(protocol, is_generated)
            else min(wanted, len(order))
        )
        places = [_choose_one(lengths, order[k % len(order)], k // len(order), choice, protocol) for k in range(count)]
    if is_generated and wanted is not None and len(places) < wanted:
        raise ValueError(
            f"`num_generated` of the protocol is {wanted}, but there are only {len(places)} generated clips"
            f" ({len(short)} videos are too short). Scores of fewer clips are higher: generate more, or pass"
            f" num_generated={len(places)}, which the result will say."
        )
    return places, short


def _may_repeat(protocol: EvaluationProtocol, is_generated: bool) -> bool:
    return is_generated and protocol.reuses_generated


def _random(protocol: EvaluationProtocol, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([protocol.seed, *numbers])


def _choose_one(
    lengths: Sequence[int], video: int, turn: int, choice: ClipChoice, protocol: EvaluationProtocol
) -> ClipPlace:
    room = lengths[video] - protocol.span
    start = 0 if choice == "first" else int(_random(protocol, 1, video, turn).integers(room + 1))
    return ClipPlace(video, _frames_from(start, protocol))


def _choose_any(
    lengths: Sequence[int], usable: Sequence[int], wanted: int | None, protocol: EvaluationProtocol
) -> Iterator[ClipPlace]:
    ends = np.cumsum([lengths[video] - protocol.span + 1 for video in usable])
    count = int(ends[-1]) if wanted is None else min(wanted, int(ends[-1]))
    for window in _random(protocol, 0).choice(int(ends[-1]), size=count, replace=False):
        position = int(np.searchsorted(ends, window, side="right"))
        start = int(window) - (int(ends[position - 1]) if position else 0)
        yield ClipPlace(usable[position], _frames_from(start, protocol))


def _frames_from(start: int, protocol: EvaluationProtocol) -> tuple[int, ...]:
    return tuple(range(start, start + protocol.span, protocol.frame_stride))


def rate_of(protocol: EvaluationProtocol) -> Fraction | None:
    """
    The rate that a protocol reads videos at.

    Args:
        protocol ([`EvaluationProtocol`]): It.

    Returns:
        `Fraction`, *optional*: Frames per second; `None`: each file's own.

    Raises:
        ValueError: If `fps` is no rate.
    """
    return None if protocol.fps is None else as_fps(protocol.fps)
