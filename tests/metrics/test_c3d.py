"""C3D, against the operations of its reference written out one by one."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diffusers_video.metrics.c3d import C3D


def resize_by_corners(frame: np.ndarray, side: int) -> np.ndarray:
    """Bilinear, corner on corner, as Chainer's `resize_images`: HW -> side x side."""
    rows, columns = (np.linspace(0, length - 1, side) for length in frame.shape)
    by_row = np.stack([np.interp(rows, np.arange(frame.shape[0]), column) for column in frame.T], axis=1)
    return np.stack([np.interp(columns, np.arange(frame.shape[1]), row) for row in by_row])


def cut_off_pool(values: Tensor, window: tuple[int, ...]) -> Tensor:
    """Maximum over windows that may be cut off at the end."""
    pads = [pad for length, size in zip(values.shape[:1:-1], window[::-1], strict=True) for pad in (0, -length % size)]
    return functional.max_pool3d(functional.pad(values, pads, value=-torch.inf), window)


def reference_logits(network: C3D, video: Tensor) -> Tensor:
    weights = network.state_dict()
    blue_first = video[0, [2, 1, 0]].double().numpy() * 128
    resized = np.stack([[resize_by_corners(frame, 112) for frame in channel] for channel in blue_first])
    values = torch.from_numpy(resized).float()[None] + (128 - weights["mean"])
    for number, names in enumerate((["1a"], ["2a"], ["3a", "3b"], ["4a", "4b"], ["5a", "5b"])):
        for name in names:
            weight, bias = weights[f"conv{name}.weight"], weights[f"conv{name}.bias"]
            values = functional.conv3d(values, weight, bias, padding=1).relu()
        values = cut_off_pool(values, (2 if number else 1, 2, 2))
    values = values.flatten(1)
    for name in ("fc6", "fc7", "fc8"):
        values = values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        values = values if name == "fc8" else values.relu()
    return values


def test_network_does_what_its_reference_does() -> None:
    network = C3D(num_classes=5, base_channels=2, num_hidden=7)
    network.mean.copy_(torch.rand(network.mean.shape) * 255)
    video = torch.rand(1, 3, 16, 20, 24) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(network(video), reference_logits(network, video), rtol=1e-4, atol=1e-4)


def test_layers_bear_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        network = C3D()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    layers = ["conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b", "fc6", "fc7", "fc8"]
    assert set(shapes) == {"mean", *(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))}
    assert shapes["fc6.weight"] == (4096, 512 * 4 * 4) and shapes["fc8.weight"] == (101, 4096)
    assert shapes["conv5b.weight"] == (512, 512, 3, 3, 3) and shapes["mean"] == (3, 16, 112, 112)


@pytest.mark.parametrize("shape", [(1, 3, 15, 32, 32), (1, 1, 16, 32, 32), (3, 16, 32, 32)])
def test_other_clips_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`videos` must have the shape \(B, 3, 16, H, W\)"):
        C3D(num_classes=2, base_channels=1, num_hidden=2)(torch.zeros(shape))
