"""The checker of shapes: it reads true clips without an error, and no motion out of shuffled ones."""

import numpy as np
import pytest
import torch

from diffusers_video.data.shapes import MOTIONS, ShapesDataset
from diffusers_video.data.shapes_check import read_clip


def frames_of(dataset: ShapesDataset, index: int) -> np.ndarray:
    return ((dataset[index]["pixel_values"] + 1) / 2).permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize("motion", list(MOTIONS))
def test_true_clips_are_read_and_shuffled_ones_are_not(motion: str) -> None:
    dataset = ShapesDataset(12, seed=9, motions=[motion])
    random = np.random.default_rng(0)
    num_shuffled = 0
    for index in range(len(dataset)):
        item, frames = dataset.scene(index).objects[0], frames_of(dataset, index)
        seen = read_clip(frames)
        assert (seen.colour, seen.shape, seen.motion) == (item.colour, item.shape, item.motion), index
        assert set(seen.colours) == {item.colour}
        num_shuffled += read_clip(random.permutation(frames)).motion == motion
    assert num_shuffled <= 1


@pytest.mark.parametrize(("num_frames", "side"), [(5, 64), (33, 64), (16, 128)])
def test_length_and_size_do_not_matter(num_frames: int, side: int) -> None:
    dataset = ShapesDataset(
        8, seed=3, num_frames=num_frames, height=side, width=side, motions=["left", "grows", "down"]
    )
    for index in range(len(dataset)):
        item, seen = dataset.scene(index).objects[0], read_clip(frames_of(dataset, index))
        assert (seen.colour, seen.shape, seen.motion) == (item.colour, item.shape, item.motion), index


def test_reversed_moves_are_the_opposite_ones() -> None:
    pairs = {"left": "right", "up": "down", "grows": "shrinks", "up-left": "down-right"}
    for motion, opposite in pairs.items():
        dataset = ShapesDataset(3, motions=[motion])
        assert {read_clip(frames_of(dataset, index)[::-1]).motion for index in range(3)} == {opposite}


def test_a_still_clip_has_no_motion_and_no_roughness() -> None:
    frames = np.repeat(frames_of(ShapesDataset(1), 0)[:1], 16, axis=0)
    seen = read_clip(frames)
    assert seen.motion is None and seen.roughness == pytest.approx(0, abs=1e-12)


def test_roughness_is_the_distance_from_the_neighbours_middle() -> None:
    frames = np.repeat(frames_of(ShapesDataset(1, motions=["turns"], shapes=["square"]), 0)[:1], 9, axis=0)
    frames[1::2] = np.roll(frames[1::2], 2, axis=2)  # every second frame is two pixels to the right
    assert read_clip(frames).roughness == pytest.approx(2 / 64, rel=1e-6)


def test_centres_are_those_of_the_objects() -> None:
    dataset = ShapesDataset(4, seed=5, motions=["down-left", "grows"], height=64, width=96)
    for index in range(len(dataset)):
        item, seen = dataset.scene(index).objects[0], read_clip(frames_of(dataset, index))
        for place, centre in enumerate(seen.centres):
            x, y = (part * 64 for part in item.place(place / 15)[:2])
            assert centre == pytest.approx((x + 47.5, y + 31.5), abs=0.35)  # pixels


def test_an_empty_clip_shows_nothing() -> None:
    seen = read_clip(torch.full((4, 32, 32, 3), 0.3))
    assert (seen.colour, seen.shape, seen.motion) == (None, None, None) and np.isnan(seen.roughness)
    assert seen.centres == (None,) * 4


@pytest.mark.parametrize(
    ("frames", "shapes", "message"),
    [
        (torch.zeros(3, 4, 8, 8), ["circle"], "`frames` must have the shape"),
        (torch.zeros(4, 8, 8, 3), ["blob"], "`shapes` must be out of"),
        (torch.zeros(4, 8, 8, 3), [], "`shapes` must be out of"),
    ],
)
def test_bad_input_is_refused(frames: torch.Tensor, shapes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_clip(frames, shapes=shapes)
