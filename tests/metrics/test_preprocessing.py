"""Resize rules, against what the published evaluations do."""

from collections.abc import Callable

import pytest
import torch

from diffusers_video.metrics.preprocessing import prepare_clip, quantise, resize_frames

from ..conftest import Golden


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("videogpt_pvdm", "cover"),
        ("common_metrics_styleganv", "cover"),
        ("cd_fvd", "stretch"),
        ("lvdm", "stretch"),
    ],
)
def test_clips_before_the_network_equal_the_reference(
    load_golden: Callable[[str], Golden], name: str, rule: str
) -> None:
    golden = load_golden("video_preprocess")
    clips = golden.tensors["inputs.video_uint8"].permute(0, 1, 4, 2, 3).to(torch.uint8)
    got = torch.stack([prepare_clip(clip, golden.config["target_resolution"], rule) for clip in clips])
    torch.testing.assert_close(got, golden.tensors[f"outputs.{name}"], rtol=1e-4, atol=1e-6)


def test_square_crop_equals_the_reference(load_golden: Callable[[str], Golden]) -> None:
    golden = load_golden("video_preprocess")
    clips = golden.tensors["inputs.video_uint8"].permute(0, 1, 4, 2, 3)
    got = torch.stack([resize_frames(clip, 16, "crop").transpose(0, 1) for clip in clips])
    torch.testing.assert_close(got, golden.tensors["outputs.pvdm_resize_crop"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(20, 27), (27, 20), (16, 16), (8, 31)])
@pytest.mark.parametrize("rule", ["stretch", "cover", "crop"])
def test_every_rule_gives_a_square(height: int, width: int, rule: str) -> None:
    frames = torch.full((2, 3, height, width), 7.0)
    torch.testing.assert_close(resize_frames(frames, 16, rule), torch.full((2, 3, 16, 16), 7.0))


def test_frames_that_fit_are_not_touched() -> None:
    frames = torch.rand(2, 3, 16, 16) * 255
    assert torch.equal(resize_frames(frames, 16, "stretch"), frames)
    wide = torch.rand(2, 3, 16, 20) * 255
    assert torch.equal(resize_frames(wide, 8, "none"), wide)
    assert torch.equal(resize_frames(wide, 16, "cover"), wide[..., 2:18])


def test_rounding_and_truncation_differ_by_half_a_level() -> None:
    pixels = torch.tensor([-3.0, 0.4, 0.5, 254.6, 300.0])
    assert quantise(pixels, "round").tolist() == [0, 0, 1, 255, 255]
    assert quantise(pixels, "truncate").tolist() == [0, 0, 0, 254, 255]


def test_rounding_is_that_of_stylegan_v() -> None:
    x = torch.linspace(-1.2, 1.2, 4001, dtype=torch.float64)
    want = (x * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    assert torch.equal(quantise((x + 1) * 127.5, "round"), want)


def test_bytes_stay_as_they_are() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert quantise(pixels, "truncate") is pixels
    assert torch.equal(quantise(pixels.float(), "truncate"), pixels)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="`rule` must be one of"):
        resize_frames(torch.zeros(1, 3, 4, 4), 4, "fit")
    with pytest.raises(ValueError, match="`rule` must be one of"):
        prepare_clip(torch.zeros(1, 3, 4, 4), None, "fit")
    with pytest.raises(ValueError, match="`frames` must have the shape"):
        resize_frames(torch.zeros(3, 4, 4), 4, "cover")
    with pytest.raises(ValueError, match="`quantisation` must be one of"):
        quantise(torch.zeros(1), "floor")
    with pytest.raises(ValueError, match="`frames` must be finite"):
        quantise(torch.tensor([torch.nan]), "round")
