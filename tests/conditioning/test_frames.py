"""What a user may say about given frames, and the masks that models are trained on."""

import pytest
import torch

from diffusers_video import FrameCondition
from diffusers_video.conditioning.frames import ends_mask, first_frames_mask


FRAMES = torch.zeros(2, 3, 8, 8)


def test_one_place_and_several_are_kept_as_a_tuple() -> None:
    assert FrameCondition(FRAMES[:1], 3).indices == (3,)
    assert FrameCondition(FRAMES, [4, 0]).indices == (4, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"indices": "0"}, TypeError, "`indices` must be an integer or a list"),
        ({"indices": [0.0]}, TypeError, "`indices` must be an integer or a list"),
        ({"indices": [True]}, TypeError, "`indices` must be an integer or a list"),
        ({"indices": []}, ValueError, "`indices` must hold at least one place"),
        ({"indices": -1}, ValueError, "each at least 0"),
        ({"indices": [1, 1]}, ValueError, "none twice"),
        ({"strength": 0.0}, ValueError, "`strength` must be above 0"),
        ({"strength": 1.5}, ValueError, "at most 1"),
        ({"strength": "1"}, TypeError, "`strength` must be a number"),
        ({"noise_level": 2.0}, TypeError, "`noise_level` must be an integer"),
        ({"noise_level": -1}, ValueError, "`noise_level` must be at least 0"),
        ({"is_latent": True}, TypeError, r"`frames` must be a tensor of shape .* but is \(2, 3, 8, 8\)"),
    ],
)
def test_wrong_conditions_are_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FrameCondition(**{"frames": FRAMES, "indices": [0, 1], **arguments})


def test_first_frames_are_given_as_many_as_asked_for() -> None:
    mask = first_frames_mask(torch.tensor([0, 1, 2]), 4)
    assert mask.tolist() == [[False] * 4, [True, False, False, False], [True, True, False, False]]


def test_both_ends_are_given_or_none() -> None:
    assert ends_mask(torch.tensor([True, False])).tolist() == [[True, False, False, False, True], [False] * 5]
