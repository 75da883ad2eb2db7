"""Moving shapes: what the caption says is what is drawn, whenever and however it is asked for."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusers_video.data.shapes import (
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    ROUND_SHAPES,
    SHAPES,
    ShapesDataset,
    draw_scene,
    visible_pairs,
)


def mask_of(clip: Tensor, colour: str) -> Tensor:
    """Mark the pixels (F, H, W) that are nearer to the colour than to any grey."""
    rgb = (clip + 1) / 2
    target = torch.tensor(COLOURS[colour])[:, None, None, None]
    grey = rgb.mean(dim=0, keepdim=True)
    return (rgb - target).norm(dim=0) < (rgb - grey).norm(dim=0)


def track(clip: Tensor, colour: str) -> tuple[Tensor, Tensor]:
    """Measure centre (F, 2) as (x, y) in pixels and area (F,) of the coloured pixels."""
    mask = mask_of(clip, colour).float()
    area = mask.sum((1, 2))
    rows, columns = torch.arange(mask.shape[1]), torch.arange(mask.shape[2])
    x = (mask.sum(1) * columns).sum(1) / area
    y = (mask.sum(2) * rows).sum(1) / area
    return torch.stack([x, y], dim=1), area


@pytest.mark.parametrize("motion", [name for name in MOTIONS if name.split("-")[0] in DIRECTIONS])
def test_objects_move_where_the_caption_says(motion: str) -> None:
    data = ShapesDataset(6, motions=[motion])
    for index in range(6):
        scene, clip = data.scene(index), data[index]["pixel_values"]
        centres, _ = track(clip, scene.objects[0].colour)
        path = centres[-1] - centres[0]
        want = torch.tensor([DIRECTIONS[name] for name in motion.split("-")]).sum(0) * scene.objects[0].travel * 64
        torch.testing.assert_close(path, want.float(), atol=1.0, rtol=0)
        assert MOTIONS[motion] in scene.caption
        steps = centres.diff(dim=0)
        assert (steps - path / 15).abs().max() < 1.0  # evenly


def test_growth_and_turning_and_circling_are_seen() -> None:
    for motion, is_seen in {
        "grows": lambda centres, area: area[-1] > 2.5 * area[0],
        "shrinks": lambda centres, area: area[0] > 2.5 * area[-1],
        "circles": lambda centres, area: (centres - centres[:-1].mean(0)).norm(dim=1).std() < 1.0,
        "bounces": lambda centres, area: centres[:, 1].argmin() in (3, 4, 11, 12),
        "turns": lambda centres, area: (centres - centres[0]).norm(dim=1).max() < 1.0,
    }.items():
        data = ShapesDataset(5, motions=[motion])
        for index in range(5):
            centres, area = track(data[index]["pixel_values"], data.scene(index).objects[0].colour)
            assert is_seen(centres, area), (motion, index)


def test_a_turning_shape_changes_its_outline() -> None:
    data = ShapesDataset(12, motions=["turns"])
    for index in range(12):
        scene = data.scene(index)
        mask = mask_of(data[index]["pixel_values"], scene.objects[0].colour)
        assert scene.objects[0].shape not in ROUND_SHAPES
        assert max((mask[0] ^ frame).float().mean() for frame in mask) > 0.005


def test_objects_stay_in_the_picture() -> None:
    data = ShapesDataset(60)
    for index in range(60):
        mask = mask_of(data[index]["pixel_values"], data.scene(index).objects[0].colour)
        assert mask.flatten(1).any(1).all()
        border = torch.cat([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]], dim=1)
        assert border.float().mean() < 0.02


def test_a_clip_depends_on_seed_and_index_alone() -> None:
    one, two = ShapesDataset(50, seed=3), ShapesDataset(99, seed=3)
    assert torch.equal(one[7]["pixel_values"], two[7]["pixel_values"])
    assert one[7]["text"] == two[7]["text"]
    assert one.scene(-1) == one.scene(49)
    assert ShapesDataset(50, seed=4).scene(7) != one.scene(7)
    assert len({one.scene(index) for index in range(50)}) == 50


def test_more_frames_show_the_same_motion_more_often() -> None:
    few, many = ShapesDataset(4, num_frames=5, fps=2), ShapesDataset(4, num_frames=17, fps=8)
    for index in range(4):
        assert torch.equal(few[index]["pixel_values"], many[index]["pixel_values"][:, ::4])


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 64), (65, 97), (128, 64)])
def test_any_size_shows_the_scene_in_the_middle(height: int, width: int) -> None:
    clip = ShapesDataset(1, num_frames=2, height=height, width=width)[0]["pixel_values"]
    assert clip.shape == (3, 2, height, width)
    assert clip.dtype is torch.float32
    assert -1 <= clip.min()
    assert clip.max() <= 1


def test_area_of_a_circle_is_that_of_its_formula() -> None:
    data = ShapesDataset(1, shapes=["circle"], motions=["right"], backgrounds=["plain"], height=200, width=200)
    scene = data.scene(0)
    clip = draw_scene(scene, 1, 200, 200)
    grey, colour = scene.greys[0], np.array(COLOURS[scene.objects[0].colour])
    channel = int(np.abs(colour - grey).argmax())
    cover = (clip[channel, 0] - grey) / (colour[channel] - grey)  # anti-aliased
    want = math.pi * (scene.objects[0].radius * 200) ** 2
    assert abs(cover.sum().item() - want) < 0.01 * want


def test_two_objects_differ_in_everything_and_both_are_told() -> None:
    data = ShapesDataset(30, num_objects=2)
    for index in range(30):
        first, second = data.scene(index).objects
        assert first.shape != second.shape
        assert first.colour != second.colour
        assert first.motion != second.motion
        for item in (first, second):
            assert f"{item.colour} {item.shape} " in data.scene(index).caption.replace("that ", "")


def test_neither_of_two_objects_hides_the_other() -> None:
    data = ShapesDataset(24, num_objects=2, backgrounds=["plain"])
    least = []
    for index in range(len(data)):
        scene = data.scene(index)
        both, front, none = (
            draw_scene(replace(scene, objects=objects), 9, 64, 64)
            for objects in (scene.objects, scene.objects[1:], ())
        )
        alone = draw_scene(replace(scene, objects=scene.objects[:1]), 9, 64, 64)
        own = (alone - none).abs().amax(0) > 0.1
        hidden = own & ((front - none).abs().amax(0) > 0.1) & ((both - alone).abs().amax(0) > 0.1)
        least.append(1 - (hidden.sum((1, 2)) / own.sum((1, 2))).max().item())
    assert min(least) > 0.25  # of the object behind, at the worst moment
    assert np.mean(np.array(least) > 0.5) > 0.9
    captions = [data.scene(index).caption for index in range(2)]
    assert captions == [
        "a blue cross moves right and a cyan triangle bounces",
        "a pink triangle moves up and a purple ring moves down and to the right",
    ]


def test_clips_that_models_were_trained_on_stay_as_they_are() -> None:
    item = (scene := ShapesDataset(9, seed=1).scene(3)).objects[0]
    assert scene.caption == "a video of a red square that shrinks"
    numbers = (item.radius, item.travel, *item.centre, item.phase, *scene.greys, scene.gradient_angle, scene.moment)
    places = (0.111147369, 1.264805288, 0.150289797, -0.180238315, 3.158268884, 0.289615905, 0.289615905)
    assert numbers == pytest.approx((*places, 1.385548037, 0.793511676))


def test_the_set_is_as_large_as_it_says() -> None:
    assert len(SHAPES) >= 6
    assert len(COLOURS) >= 8
    assert len(MOTIONS) >= 10
    pairs = visible_pairs(list(SHAPES), list(MOTIONS))
    assert len(pairs) == len(SHAPES) * len(MOTIONS) - len(ROUND_SHAPES)
    seen = {(o.shape, o.colour, o.motion) for i in range(600) for o in ShapesDataset(600).scene(i).objects}
    assert len({shape for shape, _, _ in seen}) == len(SHAPES)
    assert len({motion for _, _, motion in seen}) == len(MOTIONS)


def test_articles_fit_their_colours() -> None:
    assert "an orange" in ShapesDataset(1, colours=["orange"]).scene(0).caption
    assert "a red" in ShapesDataset(1, colours=["red"]).scene(0).caption


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"num_clips": 0}, ValueError, "`num_clips` must be at least 1"),
    ({"num_frames": 0}, ValueError, "`num_frames` must be at least 1"),
    ({"num_frames": 2.0}, TypeError, "`num_frames` must be an integer"),
    ({"fps": 0}, ValueError, "`fps` must be a finite number above 0"),
    ({"fps": float("nan")}, ValueError, "`fps` must be a finite number above 0"),
    ({"height": 8}, ValueError, "`height` must be at least 16"),
    ({"seed": -1}, ValueError, "`seed` must be at least 0"),
    ({"num_objects": 3}, ValueError, "`num_objects` must be from 1 to 2"),
    ({"num_wordings": 9}, ValueError, "`num_wordings` must be from 1 to 3"),
    ({"shapes": ["heart"]}, ValueError, "`shapes` must be one or more of"),
    ({"colours": []}, ValueError, "`colours` must be one or more of"),
    ({"motions": ["jumps"]}, ValueError, "`motions` must be one or more of"),
    ({"shapes": ["circle"], "motions": ["turns"]}, ValueError, "must leave at least 1 visible"),
    ({"colours": ["red"], "num_objects": 2}, ValueError, "must leave at least 2 visible"),
])  # fmt: skip
def test_wrong_settings_are_refused(options: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ShapesDataset(**options)


def test_an_index_beyond_the_set_is_refused() -> None:
    with pytest.raises(IndexError, match="`index` must be below 5"):
        ShapesDataset(5)[5]
