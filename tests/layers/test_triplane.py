"""Planes: their sizes, and the ways between flat latents, planes, groups of planes and tokens."""

import pytest
import torch

from diffusers_video.layers.rotary import frame_rotary, map_rotary
from diffusers_video.layers.space_time_transformer import AxisAttention, AxisProjection, SpaceTimeTransformer
from diffusers_video.layers.triplane import TriplaneSize, groups_to_tokens, join_planes, split_planes, tokens_to_groups


@pytest.mark.parametrize(
    ("size", "groups"),
    [
        ((2, 4, 6), [(1, 4, 6), (1, 2, 6), (1, 2, 4)]),
        ((2, 4, 4), [(1, 4, 4), (2, 2, 4)]),
        ((4, 4, 6), [(2, 4, 6), (1, 4, 4)]),
        ((4, 4, 4), [(3, 4, 4)]),
    ],
)
def test_planes_of_one_shape_are_stacked_and_come_back(size: tuple[int, int, int], groups: list) -> None:
    size = TriplaneSize(*size)
    assert size.groups == groups
    latents = torch.randn(2, 3, sum(size.lengths))
    stacked = tokens_to_groups(latents.transpose(1, 2), size.groups)
    assert [tuple(group.shape) for group in stacked] == [(2 * count, 3, *shape) for count, *shape in groups]
    each = [plane for group in stacked for plane in group.unflatten(0, (2, -1)).unbind(1)]
    assert all(torch.equal(*pair) for pair in zip(each, split_planes(latents, size), strict=True))
    assert torch.equal(groups_to_tokens(stacked, 2).transpose(1, 2), latents)


def test_planes_are_views_in_the_order_of_the_latents() -> None:
    size = TriplaneSize(2, 4, 6)
    latents = torch.randn(1, 3, sum(size.lengths))
    planes = split_planes(latents, size)
    assert [tuple(plane.shape[2:]) for plane in planes] == [(4, 6), (2, 6), (2, 4)]
    assert planes[1].data_ptr() == latents[:, :, 24:].data_ptr()
    assert torch.equal(join_planes(planes), latents)


def test_maps_turn_neighbouring_channels_as_pairs_and_frames_do_not() -> None:
    cosines, sines = map_rotary(3, 5, 8, 10.0)
    assert cosines.shape == (15, 8)
    assert torch.equal(cosines[:, 0::2], cosines[:, 1::2]) and torch.equal(sines[:, 0::2], sines[:, 1::2])
    assert torch.equal(cosines[:5, :4], cosines[:1, :4].expand(5, -1))  # of one row
    assert torch.equal(cosines[0::5, 4:], cosines[:1, 4:].expand(3, -1))  # of one column
    angles = torch.tensor([-1.0, 0.0, 1.0])[:, None] * torch.pi * torch.tensor([1.0, 5.0])
    torch.testing.assert_close(cosines[0::5, 0:4:2], angles.cos())
    cosines, sines = frame_rotary(3, 4)
    angles = torch.arange(3.0)[:, None] * torch.tensor([1.0, 0.01, 1.0, 0.01])
    torch.testing.assert_close(cosines, angles.cos())
    torch.testing.assert_close(sines, angles.sin())


def test_attention_along_an_axis_is_that_of_each_sequence_alone() -> None:
    attention, tokens = AxisAttention(8, 2, 4), torch.randn(2, 5, 3, 8)
    together = attention(tokens)
    alone = torch.cat([attention(tokens[:, :, index : index + 1]) for index in range(3)], dim=2)
    torch.testing.assert_close(together, alone)


def test_a_transformer_mixes_time_and_space() -> None:
    transformer = SpaceTimeTransformer(8, 1, heads=2, dim_head=4, ff_mult=2, max_freq=10.0)
    tokens = torch.randn(1, 3, 2, 2, 8)
    changed = tokens.clone()
    changed[0, 0, 0, 0] = torch.randn(8)
    moved = (transformer(tokens) - transformer(changed)).abs().amax(-1) > 1e-7
    assert moved.all()  # one layer: over time at its position, then over the frames it has reached


def test_a_projection_reads_its_first_token_and_shorter_axes_keep_their_positions() -> None:
    project = AxisProjection(8, 4, num_layers=2, heads=2, dim_head=4, mlp_dim=6)
    tokens = torch.randn(2, 3, 5, 8)
    assert project(tokens).shape == (2, 5, 8)
    short = AxisProjection(8, 3, num_layers=2, heads=2, dim_head=4, mlp_dim=6)
    kept = torch.cat([project.positions[:, :3], project.positions[:, -1:]], dim=1)
    short.load_state_dict({**project.state_dict(), "positions": kept})
    torch.testing.assert_close(short(tokens), project(tokens))
