"""Attention over frames with relative positions, against loops over its equations."""

import pytest
import torch
from torch import Tensor

from diffusers_video.layers.factorised_attention import isolate_images
from diffusers_video.layers.frame_attention import RELATIVE_POSITIONS, FrameAttention


def shaken(relative_positions: str, **options: object) -> FrameAttention:
    layer = FrameAttention(6, 2, 4, max_distance=2, relative_positions=relative_positions, **options).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def loop(layer: FrameAttention, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
    """Eq. 3 and 4 of arXiv:1803.02155, one query at a time; the released form departs where it says so."""
    num_frames, width = tokens.shape[0], layer.dim_head
    query, key, value = (
        projection(tokens).unflatten(-1, (2, width)) for projection in (layer.to_q, layer.to_k, layer.to_v)
    )
    output = torch.zeros_like(query)

    def vector(table: Tensor | None, distance: int) -> Tensor:
        row = min(max(distance, -2), 2) + 2
        return torch.zeros(width, dtype=tokens.dtype) if table is None else table[row]

    for head in range(2):
        for i in range(num_frames):
            scores = []
            for j in range(num_frames):
                score = query[i, head] @ key[j, head] / width**0.5
                if layer.relative_positions == "released":
                    score = score + query[j, head] @ vector(layer.relative_keys, i - j) / width**0.25
                else:
                    score = score + query[i, head] @ vector(layer.relative_keys, j - i) / width**0.5
                scores.append(score if visible is None or visible[i, j] else score - torch.inf)
            weights = torch.stack(scores).softmax(0)
            for j in range(num_frames):
                output[i, head] += weights[j] * (value[j, head] + vector(layer.relative_values, j - i))
    return layer.to_out[0](output.flatten(1))


@pytest.mark.parametrize("relative_positions", RELATIVE_POSITIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_equations(relative_positions: str, bias: bool) -> None:
    layer, tokens = shaken(relative_positions, bias=bias), torch.randn(2, 5, 3, 6, dtype=torch.float64)
    visible = isolate_images(torch.tensor([[False, False, False, True, True], [False] * 5]))
    with torch.no_grad():
        for mask in (None, visible):
            got = layer(tokens, mask)
            for video in range(2):
                for position in range(3):
                    want = loop(layer, tokens[video, :, position], None if mask is None else mask[video])
                    torch.testing.assert_close(got[video, :, position], want, rtol=1e-6, atol=1e-6)


def test_a_new_layer_returns_zeros() -> None:
    layer, tokens = FrameAttention(6, 2, 4), torch.randn(1, 4, 1, 6)
    assert not layer(tokens).any()


def test_images_are_isolated() -> None:
    visible = isolate_images(torch.tensor([[False, False, True, True]]))
    assert visible[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
