"""How many frames, windows and frames per second each stage of a long video has."""

from dataclasses import dataclass
from functools import cached_property

from diffusers_video.pipelines.checks import check_integer, check_number


@dataclass(frozen=True)
class LongVideoPlan:
    """
    The lengths of a long video, from its key frames to its last frame.

    N key frames become rate (N - 1) + 1 frames by one interpolation and as many again by the next. As many key frames
    are taken as the result needs; each stage draws its last window whole and drops what reaches beyond.

    Args:
        num_frames (`int`): Frames of the result.
        num_passes (`int`): Interpolations, at least 0.
        fps (`float`): Frames per second of the result.
        window_frames (`int`): Frames of a window of key frames, at least 2.
        num_context_frames (`int`): Last frames that such a window goes on from, 1 or 2, below `window_frames`.
        num_given (`int`, *optional*, defaults to 0): Key frames that are given.
        rate (`int`, *optional*, defaults to 4): Frames of an interpolation's result for each of its input, at least 2.
        interpolation_batch_size (`int`, *optional*, defaults to 1): Windows interpolated at once.
        num_first (`int`, *optional*, defaults to 1): Key frames that are drawn first where none are given: one, or a
            whole window.

    Raises:
        TypeError: If a type is wrong.
        ValueError: If a value is.

    Source:
        VideoLDM (arXiv:2304.08818), Sections 3.2 and 3.3; LVDM (arXiv:2211.13221), Section 3.3, whose frames are
        those of the latents.
    """

    num_frames: int
    num_passes: int
    fps: float
    window_frames: int
    num_context_frames: int
    num_given: int = 0
    rate: int = 4
    interpolation_batch_size: int = 1
    num_first: int = 1

    def __post_init__(self) -> None:
        check_integer("num_frames", self.num_frames)
        check_integer("num_passes", self.num_passes, minimum=0)
        check_number("fps", self.fps, above_minimum=True)
        check_integer("window_frames", self.window_frames, minimum=2)
        check_integer("num_context_frames", self.num_context_frames)
        if self.num_context_frames > min(2, self.window_frames - 1):
            raise ValueError(
                "`num_context_frames` must be at most 2 and below the frames of a window of key frames,"
                f" {self.window_frames}, but is {self.num_context_frames}."
            )
        check_integer("interpolation_batch_size", self.interpolation_batch_size)
        if self.num_passes:
            check_integer("rate", self.rate, minimum=2)
        if self.num_given > self.lengths[0]:
            raise ValueError(
                f"`frames` must be at most the {self.lengths[0]} key frames of {self.num_frames} frames after"
                f" {self.num_passes} interpolations, but are {self.num_given}. Give fewer, or raise `num_frames`."
            )

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """`tuple[int, ...]`: Key frames, then frames after each interpolation; the last is `num_frames`."""
        lengths = [self.num_frames]
        for _ in range(self.num_passes):
            lengths.insert(0, -(-(lengths[0] - 1) // self.rate) + 1)
        return tuple(lengths)

    @property
    def rates(self) -> tuple[float, ...]:
        """`tuple[float, ...]`: Frames per second of the key frames, then after each interpolation."""
        return tuple(self.fps / self.rate ** (self.num_passes - number) for number in range(self.num_passes + 1))

    @property
    def spacing(self) -> int:
        """`int`: Frames of the result from one key frame to the next."""
        return self.rate**self.num_passes

    @property
    def num_windows(self) -> int:
        """`int`: Windows that are drawn in all stages, interpolations in batches counted once."""
        known = self.num_given or self.num_first
        windows = int(not self.num_given)
        while known < self.lengths[0]:
            known += self.window_frames - min(known, self.num_context_frames)
            windows += 1
        return windows + sum(-(-(length - 1) // self.interpolation_batch_size) for length in self.lengths[:-1])
