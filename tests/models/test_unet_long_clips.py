"""Clips longer than those of the training: attention reaches as far as it is told; short clips stay as they are."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusers_video.layers.clip import get_frame_visibility
from diffusers_video.layers.temporal_attention import TemporalAttention
from diffusers_video.layers.temporal_transformer import FramePositionEmbedding, TemporalTransformerBlock
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from tests.tiny_models import shake_temporal_layers, tiny_unet2d, video_inputs


def attention_unet(family: str = "sd15", **options: object) -> UNetVideoConditionModel:
    """Where nothing but attention mixes frames."""
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(family), "light", temporal_conv=False, **options)
    return shake_temporal_layers(unet, scale=0.5)


def influence(unet: UNetVideoConditionModel, num_frames: int) -> Tensor:
    """For each frame of the output (row) whether it changes with a frame of the input (column)."""
    inputs = video_inputs(unet, 1, num_frames)
    before = unet(**inputs).sample
    columns = []
    for frame in range(num_frames):
        sample = inputs["sample"].clone()
        sample[:, :, frame] += 1
        changed = unet(**{**inputs, "sample": sample}).sample
        columns.append((changed - before).abs().amax((0, 1, 3, 4)) > 0)
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(("family", "max_distance"), [("sd15", 1), ("sd15", 2), ("sdxl", 1)])
@pytest.mark.parametrize("temporal_attention", ["full", "causal"])
@torch.no_grad()
def test_frames_reach_each_other_through_as_many_steps_as_there_are_layers(
    family: str, max_distance: int, temporal_attention: str
) -> None:
    unet = attention_unet(family, temporal_attention=temporal_attention, temporal_max_distance=max_distance)
    depth, num_frames = sum(isinstance(module, TemporalTransformerBlock) for module in unet.modules()), 10
    neighbours = torch.zeros(num_frames, num_frames, dtype=torch.int64)
    for row in range(num_frames):
        for column in range(num_frames):
            is_seen = temporal_attention == "full" or column <= row
            neighbours[row, column] = abs(row - column) <= max_distance and is_seen
    reached = torch.linalg.matrix_power(neighbours.double(), depth) > 0
    assert not reached.all()
    assert torch.equal(influence(unet, num_frames), reached)


def test_limited_attention_is_attention_over_the_window_of_each_frame() -> None:
    layer = TemporalAttention(8, heads=2, dim_head=4)
    torch.nn.init.normal_(layer.to_out[0].weight)
    tokens = torch.randn(1, 20, 3, 8)
    got = layer(tokens, get_frame_visibility(20, is_causal=False, max_distance=8, device="cpu"))
    query, key, value = (
        projection(tokens).unflatten(-1, (2, 4)) for projection in (layer.to_q, layer.to_k, layer.to_v)
    )
    for frame in range(20):
        window = slice(max(frame - 8, 0), frame + 9)
        scores = torch.einsum("bsad,bfsad->bsaf", query[:, frame], key[:, window]) / 4**0.5
        attended = torch.einsum("bsaf,bfsad->bsad", scores.softmax(-1), value[:, window]).flatten(2)
        torch.testing.assert_close(got[:, frame], layer.to_out[0](attended))


@pytest.mark.parametrize("preset", ["videoldm", "light"])
@torch.no_grad()
def test_a_clip_within_the_distance_is_drawn_exactly_as_without_a_limit(preset: str) -> None:
    unet = shake_temporal_layers(UNetVideoConditionModel.from_unet2d(tiny_unet2d(), preset))
    inputs = {num_frames: video_inputs(unet, 2, num_frames) for num_frames in (4, 5)}
    want = {num_frames: unet(**one).sample for num_frames, one in inputs.items()}
    unet.set_temporal_max_distance(3)
    assert torch.equal(unet(**inputs[4]).sample, want[4])
    assert not torch.isclose(unet(**inputs[5]).sample, want[5]).all()
    unet.set_temporal_max_distance(None)
    assert torch.equal(unet(**inputs[5]).sample, want[5])


@torch.no_grad()
def test_a_long_clip_begins_as_a_short_one_as_far_as_its_end_is_out_of_reach() -> None:
    unet = attention_unet(temporal_max_distance=2)
    long = video_inputs(unet, 1, 20)
    short = {**long, "sample": long["sample"][:, :, :12]}
    first, second = unet(**long).sample[:, :, :12], unet(**short).sample
    near = 12 - 4 * 2  # four layers, two frames each
    torch.testing.assert_close(first[:, :, :near], second[:, :, :near], atol=1e-6, rtol=0)
    assert not torch.isclose(first[:, :, near], second[:, :, near]).all()


@torch.no_grad()
def test_positions_are_counted_from_the_start_of_the_clip_whatever_its_length() -> None:
    embedding = FramePositionEmbedding(8)
    torch.nn.init.normal_(embedding.linear_2.weight)
    tokens = torch.zeros(1)
    torch.testing.assert_close(embedding(64, tokens)[:16], embedding(16, tokens), atol=1e-6, rtol=0)


def test_the_distance_is_kept_with_the_model_and_chosen_anew_when_it_is_loaded(tmp_path: Path) -> None:
    unet = attention_unet()
    assert unet.config.temporal_max_distance is None
    unet.set_temporal_max_distance()
    assert unet.config.temporal_max_distance == 8  # VideoLDM, appendix
    unet.save_pretrained(tmp_path)
    assert UNetVideoConditionModel.from_pretrained(tmp_path).config.temporal_max_distance == 8
    chosen = UNetVideoConditionModel.from_pretrained(tmp_path, temporal_max_distance=1)
    unet.set_temporal_max_distance(1)
    inputs = video_inputs(unet, 1, 4)
    with torch.no_grad():
        assert torch.equal(chosen(**inputs).sample, unet(**inputs).sample)


@pytest.mark.parametrize(
    ("max_distance", "options", "error", "message"),
    [
        (0, {}, ValueError, "`max_distance` must be at least 1 or `None`, but is 0"),
        (-8, {}, ValueError, "but is -8"),
        (8.0, {}, TypeError, "`max_distance` must be an integer or `None`, but is 8.0"),
        ("8", {}, TypeError, "but is '8'"),
        (True, {}, TypeError, "but is True"),
        (8, {"temporal_attention": "none"}, ValueError, "no effect on this model: its `temporal_attention` is 'none'"),
    ],
)
def test_a_wrong_distance_is_refused_and_changes_nothing(
    max_distance: object, options: dict[str, object], error: type[Exception], message: str
) -> None:
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), **options)
    with pytest.raises(error, match=message):
        unet.set_temporal_max_distance(max_distance)
    assert unet.config.temporal_max_distance is None
