"""Flicker, warping error and motion: by hand, on motion that is known, and against a second derivation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diffusers_video.metrics import (
    estimate_flow,
    find_occlusion,
    flicker,
    measure_motion,
    temporal_flickering,
    warp_images,
)


def texture(height: int = 64, width: int = 72) -> Tensor:
    """A smooth random picture, `(1, 3, height, width)`, in [0, 1]."""
    coarse = torch.rand(1, 3, height // 8 + 1, width // 8 + 1, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True).clamp(0, 1)


def moving(shift: tuple[int, int], num_frames: int = 3) -> Tensor:
    """A window that slides over a picture, so that what it shows moves by `shift` pixels right and down."""
    picture = texture(100, 100)
    x, y = shift
    starts = [(20 - y * frame, 20 - x * frame) for frame in range(num_frames)]
    return torch.stack([picture[:, :, top : top + 48, left : left + 56] for top, left in starts], 2)


def inner(tensor: Tensor) -> Tensor:
    return tensor[..., 12:-12, 12:-12]


def test_flicker_by_hand() -> None:
    videos = torch.zeros(2, 1, 3, 1, 2)
    made = videos.clone()
    made[0] = torch.tensor([[0.0, 0.5], [0.2, 0.5], [0.0, 1.0]]).view(1, 3, 1, 2)
    assert flicker(made, videos).tolist() == pytest.approx([(0.2 + 0.0 + 0.2 + 0.5) / 4, 0])
    assert flicker(made, videos, value_range=(-1, 1)).tolist() == pytest.approx([0.225, 0])
    assert flicker(videos + 0.3, videos).tolist() == [0, 0]
    assert temporal_flickering(made).tolist() == pytest.approx([1 - 0.225, 1])
    assert temporal_flickering(made, value_range=(-1, 1)).tolist() == pytest.approx([1 - 0.1125, 1])


def test_warping_fetches_pixels_from_where_the_flow_points_to() -> None:
    images = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 1
    assert warp_images(images, flow)[0, 0].tolist() == [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]
    flow[:, 0], flow[:, 1] = 0.5, -1
    torch.testing.assert_close(warp_images(images, flow)[0, 0, 2], torch.tensor([4.5, 5.5, 6.5, 7.0]))


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -1), (3, -2), (6, 5)])
def test_flow_of_a_sliding_picture_is_its_motion(shift: tuple[int, int]) -> None:
    video = moving(shift, num_frames=2)
    flow = estimate_flow(video[:, :, 0], video[:, :, 1])
    want = torch.tensor(shift, dtype=torch.float32).view(1, 2, 1, 1)
    assert (inner(flow) - want).norm(dim=1).mean() < 0.1


def test_flow_follows_an_object_and_leaves_a_flat_ground_still() -> None:
    first = torch.full((1, 3, 64, 64), 0.2)
    second = first.clone()
    first[:, :, 20:36, 20:36] = second[:, :, 22:38, 23:39] = 0.9
    flow = estimate_flow(first, second)
    assert flow[0, :, 20:36, 20:36].mean((1, 2)).tolist() == pytest.approx([3, 2], abs=0.6)
    assert flow[..., :8, :8].abs().max() < 0.05


def test_pixels_without_a_counterpart_are_those_of_the_reference() -> None:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(2, 2, 2, 3, 4, generator=generator)
    shifts = (functional.interpolate(flow, (24, 32), mode="bicubic") for flow in coarse)
    there, back = (sign * 3 + shift for sign, shift in zip((1, -1), shifts, strict=True))
    returned = warp_images(back, there)
    want = np.zeros((2, 24, 32), dtype=bool)
    for image in range(2):  # fast_blind_video_consistency, utils.detect_occlusion, in the frame of `there`
        w, b = returned[image].numpy(), there[image].numpy()
        squares = [(part**2).sum(0) for part in (w + b, w, b)]
        rise = np.zeros((24, 32))
        for part in b:
            rise[:, :-1] += (part[:, :-1] - part[:, 1:]) ** 2
            rise[:-1] += (part[:-1] - part[1:]) ** 2
        want[image] = (squares[0] > 0.01 * (squares[1] + squares[2]) + 0.5) | (rise > 0.01 * squares[2] + 0.002)
    found = find_occlusion(there, back)
    assert 0.05 < want.mean() < 0.95 and np.array_equal(found[:, 0].numpy(), want)


def test_still_videos_have_no_motion_and_no_warping_error() -> None:
    scores = measure_motion(texture()[:, :, None].expand(1, 3, 4, 64, 72))
    assert scores.warping_error.item() < 1e-10 and scores.magnitude.item() < 1e-3 and scores.visible.item() == 1


def test_motion_is_measured_in_pixels_and_explains_the_changes() -> None:
    video = moving((3, -2))
    scores = measure_motion(video)
    change = video.diff(dim=2).square().mean().item()
    assert scores.magnitude.item() == pytest.approx(13**0.5, rel=0.05)
    # What is left is at the border, over which pixels leave the picture.
    assert scores.warping_error.item() < 0.05 * change and scores.visible.item() > 0.9


def test_changes_that_no_motion_explains_are_a_warping_error() -> None:
    video = moving((2, 1), num_frames=4)
    noisy = (video + 0.1 * torch.randn_like(video)).clamp(0, 1)
    steady, shaken = measure_motion(video), measure_motion(noisy, flow_videos=video)
    assert shaken.warping_error.item() > 20 * steady.warping_error.item()
    assert torch.equal(shaken.magnitude, steady.magnitude) and torch.equal(shaken.visible, steady.visible)


def test_warping_error_by_hand_with_a_given_flow() -> None:
    videos = torch.zeros(2, 3, 3, 4, 5)
    videos[0, :, 1], videos[1, :, :, :, 2:] = 0.5, 1.0

    def flow(first: Tensor, second: Tensor) -> Tensor:
        assert first.shape == second.shape == (2, 3, 4, 5) and first.dtype == torch.float32
        return torch.zeros(2, 2, 4, 5)

    scores = measure_motion(videos, flow)
    assert scores.warping_error.tolist() == pytest.approx([0.25, 0]) and scores.magnitude.tolist() == [0, 0]
    hidden = measure_motion(videos, lambda first, second: torch.full((2, 2, 4, 5), 3.0))  # nothing comes back
    assert hidden.visible.tolist() == hidden.warping_error.tolist() == [0, 0]


def test_bad_input_is_refused() -> None:
    videos = torch.rand(1, 3, 3, 16, 16)
    for measure in (measure_motion, temporal_flickering):
        with pytest.raises(ValueError, match="`videos` must have at least 2 frames to compare, but have 1"):
            measure(videos[:, :, :1])
    with pytest.raises(ValueError, match="must have one shape"):
        flicker(videos, videos[:, :, :2])
    with pytest.raises(ValueError, match="`flow_videos` must have the videos, frames and pixels"):
        measure_motion(videos, flow_videos=videos[:, :, :2])
    with pytest.raises(ValueError, match=r"`flow` must return finite motion of shape \(2, 2, 16, 16\)"):
        measure_motion(videos, lambda first, second: first)
    with pytest.raises(ValueError, match="with NaN or infinite values"):
        measure_motion(videos, lambda first, second: torch.full((2, 2, 16, 16), torch.nan))
    with pytest.raises(ValueError, match="must be images of one shape"):
        estimate_flow(videos[:, :, 0], videos[:, :, 0, :8])
    with pytest.raises(ValueError, match="`window` must be above 0"):
        estimate_flow(videos[:, :, 0], videos[:, :, 1], window=0)
