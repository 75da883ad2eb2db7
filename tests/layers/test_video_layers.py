"""Temporal layers against Stable Video Diffusion's and diffusers', and against second derivations."""

from collections.abc import Callable

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from diffusers_video.layers.clip import Clip, get_frame_visibility
from diffusers_video.layers.temporal_attention import TemporalAttention
from diffusers_video.layers.temporal_resnet import TemporalConv, TemporalResnetBlock
from diffusers_video.layers.temporal_transformer import TemporalTransformerBlock
from diffusers_video.layers.video_layers import TemporalOptions, is_temporal, make_video_layer, repeat_for_frames


SVD_RESNET_NAMES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "time_stack": "temporal_res_block",
}
SVD_TRANSFORMER_NAMES = {
    "time_stack": "temporal_transformer_blocks",
    "time_pos_embed.0": "time_pos_embed.linear_1",
    "time_pos_embed.2": "time_pos_embed.linear_2",
}


def load_weights(layer: nn.Module, tensors: dict[str, Tensor], names: dict[str, str]) -> None:
    state_dict = {}
    for key, tensor in tensors.items():
        if key.startswith("weights."):
            key = key.removeprefix("weights.").replace("spatial_res_block.", "")
            for theirs, ours in names.items():
                key = key.replace(theirs, ours)
            state_dict[key] = tensor
    layer.load_state_dict(state_dict)


def video_resnet(in_channels: int, out_channels: int, temb_channels: int) -> ResnetBlock2D:
    layer = ResnetBlock2D(in_channels=in_channels, out_channels=out_channels, temb_channels=temb_channels, eps=1e-5)
    make_video_layer(layer, TemporalOptions(), temb_channels)
    return layer.eval()


def video_transformer(**options: object) -> Transformer2DModel:
    layer = Transformer2DModel(2, 16, 32, cross_attention_dim=24, use_linear_projection=True)
    make_video_layer(layer, TemporalOptions(**options), None)
    return layer.eval()


@pytest.mark.parametrize(
    ("golden", "names", "sample", "temb", "temb_channels"),
    [
        ("videoldm_svd_video_res_block", SVD_RESNET_NAMES, "x", "emb", 64),
        ("videoldm_diffusers_spatio_temporal_res_block", {}, "hidden_states", "temb", 48),
    ],
)
@torch.no_grad()
def test_residual_block_equals_the_reference(
    load_golden: Callable, golden: str, names: dict[str, str], sample: str, temb: str, temb_channels: int
) -> None:
    tensors = load_golden(golden).tensors
    layer = video_resnet(32, 64, temb_channels)
    load_weights(layer, tensors, names)
    clip = Clip(tensors[f"inputs.{temb}"], 4, image_only=tensors["inputs.image_only_indicator"].bool())
    torch.testing.assert_close(layer(tensors[f"inputs.{sample}"], clip), tensors["outputs.out"], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("golden", "names", "sample", "text"),
    [
        ("videoldm_svd_spatial_video_transformer", SVD_TRANSFORMER_NAMES, "x", "context"),
        ("videoldm_diffusers_transformer_spatio_temporal", {}, "hidden_states", "encoder_hidden_states"),
    ],
)
@torch.no_grad()
def test_transformer_equals_the_reference(
    load_golden: Callable, golden: str, names: dict[str, str], sample: str, text: str
) -> None:
    tensors = load_golden(golden).tensors
    layer = video_transformer()
    load_weights(layer, tensors, names)
    text = tensors[f"inputs.{text}"]  # one row per frame: the temporal layers read that of the first frame
    image_only = tensors["inputs.image_only_indicator"].bool()
    clip = Clip(None, 4, encoder_hidden_states=text[::4], image_only=image_only)
    got = layer(tensors[f"inputs.{sample}"], text, cross_attention_kwargs={"clip": clip}).sample
    torch.testing.assert_close(got, tensors["outputs.out"], atol=2e-5, rtol=0)


def test_attention_over_time_is_softmax_of_scaled_products_at_each_position() -> None:
    layer = TemporalAttention(8, heads=2, dim_head=4)
    nn.init.normal_(layer.to_out[0].weight)
    hidden_states = torch.randn(2, 5, 3, 8)
    visibility = get_frame_visibility(5, is_causal=True, max_distance=2, device="cpu")
    got = layer(hidden_states, visibility)
    for video in range(2):
        for position in range(3):
            frames = hidden_states[video, :, position]
            heads = []
            for head in range(2):
                rows = slice(4 * head, 4 * head + 4)
                query, key, value = (frames @ p.weight[rows].T for p in (layer.to_q, layer.to_k, layer.to_v))
                scores = (query @ key.T / 4**0.5).masked_fill(~visibility, -torch.inf)
                heads.append(scores.softmax(-1) @ value)
            want = layer.to_out[0](torch.cat(heads, dim=-1))
            torch.testing.assert_close(got[video, :, position], want)


def test_heads_beyond_the_limit_of_a_kernel_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = TemporalAttention(8, heads=2, dim_head=4)
    nn.init.normal_(layer.to_out[0].weight)
    hidden_states = torch.randn(2, 5, 7, 8)
    whole = layer(hidden_states)
    monkeypatch.setattr("diffusers_video.layers.temporal_attention.MAX_HEADS_PER_CALL", 4)
    torch.testing.assert_close(layer(hidden_states), whole)


def test_causal_attention_passes_nothing_backwards_in_time() -> None:
    layer = TemporalAttention(8, heads=2, dim_head=4)
    nn.init.normal_(layer.to_out[0].weight)
    hidden_states = torch.randn(1, 6, 3, 8)
    changed = hidden_states.clone()
    changed[:, 3] += 1
    visibility = get_frame_visibility(6, is_causal=True, max_distance=None, device="cpu")
    assert torch.equal(layer(hidden_states, visibility)[:, :3], layer(changed, visibility)[:, :3])
    assert not torch.isclose(layer(hidden_states)[:, :3], layer(changed)[:, :3]).any()


def test_a_frame_farther_than_the_limit_is_not_seen() -> None:
    layer = TemporalAttention(8, heads=2, dim_head=4)
    nn.init.normal_(layer.to_out[0].weight)
    hidden_states = torch.randn(1, 6, 3, 8)
    changed = hidden_states.clone()
    changed[:, 5] += 1
    visibility = get_frame_visibility(6, is_causal=False, max_distance=2, device="cpu")
    got, want = layer(changed, visibility), layer(hidden_states, visibility)
    assert torch.equal(got[:, :3], want[:, :3])
    assert not torch.equal(got[:, 3], want[:, 3])


def test_temporal_convolutions_reach_two_frames_on_each_side() -> None:
    block = TemporalResnetBlock(8, num_groups=8)
    nn.init.normal_(block.conv2.weight)
    block.norm1 = block.norm2 = nn.Identity()  # group norm sees the whole clip, by design
    hidden_states = torch.randn(1, 8, 9, 2, 2)
    changed = hidden_states.clone()
    changed[:, :, 4] += 1
    difference = (block(changed) - block(hidden_states)).abs().amax((0, 1, 3, 4))
    assert (difference > 0).tolist() == [False, False, True, True, True, True, True, False, False]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_temporal_convolution_is_a_3d_convolution(layout: torch.memory_format) -> None:
    ours = TemporalConv(6, 4, kernel_size=(3, 1, 1), padding=(1, 0, 0)).to(memory_format=layout)
    theirs = nn.Conv3d(6, 4, kernel_size=(3, 1, 1), padding=(1, 0, 0))
    theirs.load_state_dict(ours.state_dict())
    hidden_states = torch.randn(2, 6, 5, 3, 7).to(memory_format=layout).requires_grad_()
    got, want = ours(hidden_states), theirs(hidden_states)
    torch.testing.assert_close(got, want)
    ours_grad = torch.autograd.grad(got.square().sum(), [hidden_states, *ours.parameters()])
    theirs_grad = torch.autograd.grad(want.square().sum(), [hidden_states, *theirs.parameters()])
    for ours_one, theirs_one in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(ours_one, theirs_one)


def test_a_new_block_is_the_identity_and_learns_everywhere_after_one_step() -> None:
    block = TemporalTransformerBlock(8, heads=2, dim_head=4, cross_attention_dim=6)
    clip = Clip(None, 5, encoder_hidden_states=torch.randn(2, 7, 6))
    hidden_states, target = torch.randn(2, 5, 3, 8), torch.randn(2, 5, 3, 8)
    assert torch.equal(block(hidden_states, clip), hidden_states)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (block(hidden_states, clip) - target).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.abs().max() > 1e-9 for parameter in block.parameters())


def test_names_of_temporal_layers_are_told_from_spatial_ones() -> None:
    layer = video_transformer()
    spatial = {name for name, _ in layer.named_parameters() if not is_temporal(name)}
    assert spatial == {
        name
        for name, _ in Transformer2DModel(
            2, 16, 32, cross_attention_dim=24, use_linear_projection=True
        ).named_parameters()
    }


def test_rows_are_repeated_per_frame_and_wrong_counts_are_refused() -> None:
    rows = torch.arange(2)
    assert repeat_for_frames({"a": [rows]}, 2, 3)["a"][0].tolist() == [0, 0, 0, 1, 1, 1]
    per_frame = torch.arange(6)
    assert repeat_for_frames(per_frame, 2, 3) is per_frame
    with pytest.raises(ValueError, match="`class_labels` must have one row per video .2. or per frame .6., but has 4"):
        repeat_for_frames({"class_labels": torch.arange(4)}, 2, 3)
