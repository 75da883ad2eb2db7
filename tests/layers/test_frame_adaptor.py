"""Scales and shifts per frame: what they compute, for clips of every length, and what they leave alone."""

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from diffusers_video.layers.clip import Clip
from diffusers_video.layers.frame_adaptor import FrameAdaptor, fit_rows
from diffusers_video.layers.video_layers import TemporalOptions, make_video_layer


def random_adaptor(num_frames: int = 4, channels: int = 3) -> FrameAdaptor:
    adaptor = FrameAdaptor(num_frames, channels)
    for parameter in adaptor.parameters():
        torch.nn.init.normal_(parameter)
    return adaptor


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_each_frame_and_channel_has_its_scale_and_its_shift(layout: torch.memory_format) -> None:
    adaptor = random_adaptor()
    images = torch.randn(8, 3, 5, 2).to(memory_format=layout)
    adapted = adaptor(images, Clip(None, 4))
    assert adapted.stride() == images.stride()
    for video in range(2):
        for frame in range(4):
            for channel in range(3):
                row = 4 * video + frame
                want = images[row, channel] * adaptor.scale[frame, channel] + adaptor.shift[frame, channel]
                torch.testing.assert_close(adapted[row, channel], want)


@pytest.mark.parametrize("num_frames", [1, 3, 4, 7, 16])
@torch.no_grad()
def test_a_new_adaptor_is_the_identity_for_clips_of_every_length(num_frames: int) -> None:
    images = torch.randn(2 * num_frames, 3, 2, 2)
    assert torch.equal(FrameAdaptor(4, 3)(images, Clip(None, num_frames)), images)


def test_shorter_clips_take_the_first_rows_and_longer_ones_all_of_them_interpolated() -> None:
    rows = torch.randn(4, 3)
    assert torch.equal(fit_rows(rows, 2), rows[:2]) and torch.equal(fit_rows(rows, 4), rows)
    torch.testing.assert_close(fit_rows(rows, 7)[::2], rows)
    torch.testing.assert_close(fit_rows(rows, 7)[1::2], (rows[:-1] + rows[1:]) / 2)
    for num_frames in (5, 6, 11, 64):
        want = torch.nn.functional.interpolate(rows.T[None], num_frames, mode="linear", align_corners=True)[0].T
        torch.testing.assert_close(fit_rows(rows, num_frames), want)
    assert torch.equal(fit_rows(rows[:1], 3), rows[:1].expand(3, 3))


@torch.no_grad()
def test_independent_images_are_left_as_they_are() -> None:
    adaptor, images = random_adaptor(), torch.randn(8, 3, 2, 2)
    image_only = torch.tensor([[True, False, True, False], [False, False, False, True]])
    adapted = adaptor(images, Clip(None, 4, image_only=image_only))
    assert torch.equal(adapted[image_only.flatten()], images[image_only.flatten()])
    assert torch.equal(adapted[~image_only.flatten()], adaptor(images, Clip(None, 4))[~image_only.flatten()])


def test_images_alone_still_give_every_weight_a_gradient() -> None:
    adaptor = random_adaptor()
    adaptor(torch.randn(4, 3, 2, 2), Clip(None, 4, image_only=torch.ones(1, 4, dtype=torch.bool))).sum().backward()
    assert not adaptor.scale.grad.any() and not adaptor.shift.grad.any()


@torch.no_grad()
def test_a_residual_block_adapts_what_both_of_its_convolutions_give() -> None:
    layer = ResnetBlock2D(in_channels=4, out_channels=8, temb_channels=6, groups=2).eval()
    make_video_layer(layer, TemporalOptions(conv=False, frame_adaptor=2), 6)
    for parameter in layer.frame_adaptor.parameters():
        torch.nn.init.normal_(parameter)
    images, temb, clip = torch.randn(4, 4, 3, 3), torch.randn(4, 6), Clip(torch.randn(4, 6), 2)
    clip = clip._replace(temb=temb)
    first, second = layer.frame_adaptor["after_conv1"], layer.frame_adaptor["after_conv2"]
    hidden_states = first(layer.conv1(layer.nonlinearity(layer.norm1(images))), clip)
    hidden_states = hidden_states + layer.time_emb_proj(layer.nonlinearity(temb))[:, :, None, None]
    hidden_states = second(layer.conv2(layer.nonlinearity(layer.norm2(hidden_states))), clip)
    torch.testing.assert_close(layer(images, clip), layer.conv_shortcut(images) + hidden_states)
