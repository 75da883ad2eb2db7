"""Every form of a video that users hand over becomes the same tensor."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_video.pipelines.video_input import load_video, resize_video


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 6, 3), dtype=np.uint8)  # B F H W C
WANT = torch.from_numpy(PIXELS).permute(0, 4, 1, 2, 3) / 255  # B C F H W
FLOATS = PIXELS.astype(np.float32) / 255
TENSOR = torch.from_numpy(FLOATS).permute(0, 1, 4, 2, 3)  # B F C H W
IMAGES = [[Image.fromarray(frame) for frame in video] for video in PIXELS]

FORMS = {
    "uint8 array": PIXELS,
    "float array": FLOATS,
    "float tensor": TENSOR,
    "uint8 tensor": torch.from_numpy(PIXELS).permute(0, 1, 4, 2, 3),
    "list of lists of images": IMAGES,
    "list of arrays": list(PIXELS),
    "list of tensors": list(TENSOR),
    "list of lists of arrays": [list(video) for video in PIXELS],
    "list of lists of tensors": [list(video) for video in TENSOR],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_in_any_form_becomes_one_tensor(form: str) -> None:
    torch.testing.assert_close(load_video(FORMS[form]), WANT)


@pytest.mark.parametrize("form", FORMS)
def test_a_single_video_in_any_form_becomes_a_batch_of_one(form: str) -> None:
    torch.testing.assert_close(load_video(FORMS[form][0]), WANT[:1])


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_images_of_other_modes_become_colour(mode: str) -> None:
    frames = [Image.new("RGB", (6, 4), "red").convert(mode)] * 2
    assert load_video(frames).shape == (1, 3, 2, 4, 6)


def test_double_precision_is_kept() -> None:
    assert load_video(TENSOR.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("video", "error", "message"),
    [
        ([[]], ValueError, "`video` must hold at least one frame in each video"),
        ([1, 2], TypeError, "`video` must hold images, arrays or tensors, but holds int"),
        (np.zeros((4, 6)), TypeError, "`video` must hold images"),
        (torch.zeros(4, 6), ValueError, "frames of 3 axes or videos of 4"),
        (np.zeros((0, 4, 6, 3), dtype=np.uint8), ValueError, "at least one frame"),
        ([np.zeros((2, 4, 6, 3)), np.zeros((3, 4, 6, 3))], ValueError, "videos of one length and size"),
        ({"a": 1}, TypeError, "but is dict"),
    ],
)
def test_what_is_no_video_is_refused(video: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_video(video)


def test_a_video_that_has_the_size_is_not_touched() -> None:
    assert resize_video(WANT, 4, 6) is WANT


def test_resizing_keeps_frames_apart_and_colours_in_range() -> None:
    video = torch.zeros(1, 3, 2, 8, 8)
    video[:, :, 1] = 1
    resized = resize_video(video, 5, 12)
    assert resized.shape == (1, 3, 2, 5, 12)
    assert (resized[:, :, 0] == 0).all()
    torch.testing.assert_close(resized[:, :, 1], torch.ones(1, 3, 5, 12))
    noisy = resize_video(torch.rand(1, 3, 2, 8, 8).round(), 16, 16)
    assert 0 <= noisy.min() and noisy.max() <= 1
