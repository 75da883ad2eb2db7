"""I3D: equal to the reference implementations, endpoint by endpoint."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffusers_video.metrics.i3d import ENDPOINTS, I3D, InceptionBlock, MaxPool3DSame, Unit3D, pad_same

from ..conftest import Golden


LoadGolden = Callable[[str], Golden]


def part(golden: Golden, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in golden.tensors.items() if name.startswith(prefix)}


@pytest.mark.parametrize(("eps", "suffix"), [(1e-3, ""), (1e-5, "_eps1e5")])
def test_blocks_equal_the_reference(load_golden: LoadGolden, eps: float, suffix: str) -> None:
    golden = load_golden("i3d_blocks")
    blocks = {
        "stem": Unit3D(3, 10, 7, stride=2, eps=eps),
        "inception": InceptionBlock(12, (4, 6, 8, 3, 5, 7), eps),
        "head": Unit3D(12, 9, eps=None),
    }
    for name, block in blocks.items():
        unread = block.eval().load_state_dict(part(golden, f"weights.{name}."), strict=False)
        assert not unread.unexpected_keys and all(key.endswith("num_batches_tracked") for key in unread.missing_keys)
        want = golden.tensors[f"outputs.{name}{suffix if name != 'head' else ''}"]
        torch.testing.assert_close(block(golden.tensors[f"inputs.{name}"]), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("number", "kernel_size", "stride"),
    [(0, (1, 3, 3), (1, 2, 2)), (1, (3, 3, 3), (2, 2, 2)), (2, (2, 2, 2), (2, 2, 2))],
)
def test_pooling_counts_its_padding_as_zeros(
    load_golden: LoadGolden, number: int, kernel_size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    tensors = load_golden("i3d_blocks").tensors
    got = MaxPool3DSame(kernel_size, stride)(tensors[f"inputs.pool_{number}"])
    assert torch.equal(got, tensors[f"outputs.pool_{number}"])


@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize(("kernel", "step"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 2)])
def test_padding_is_that_of_tensorflow(size: int, kernel: int, step: int) -> None:
    video = torch.ones(1, 1, 4, 4, size)
    padded = pad_same(video, (1, 1, kernel), (1, 1, step))
    outputs = (padded.shape[-1] - kernel) // step + 1
    before = int(padded[0, 0, 0, 0].argmax())
    assert outputs == -(-size // step)
    assert (padded.shape[-1] - size) // 2 == before


def closed_form_weights(network: nn.Module) -> dict[str, Tensor]:
    weights = {}
    names = sorted(name for name in network.state_dict() if not name.endswith("num_batches_tracked"))
    for k, name in enumerate(names):
        shape = network.state_dict()[name].shape
        a = np.sin(np.arange(1, shape.numel() + 1) * 12.9898 + (k + 1) * 78.233) * 43758.5453
        u = 2 * (a - np.floor(a)) - 1
        if name.endswith("conv3d.weight"):
            u *= np.sqrt(6 / shape[1:].numel())
        elif name.endswith(("bn.weight", "running_var")):
            u = 1 + 0.2 * u
        else:
            u *= 0.1
        weights[name] = torch.from_numpy(u.reshape(shape)).float()
    return weights


def closed_form_video() -> Tensor:
    b, c, t, y, x = np.ogrid[:1, :3, :9, :193, :193]
    wave = 0.6 * np.sin(0.35 * (c + 1) * t + 0.11 * y + 0.07 * x * (c + 1) + b)
    return torch.from_numpy(wave + 0.4 * np.cos(0.023 * x * y + 0.5 * t * (b + 1))).float()


@pytest.mark.parametrize(
    ("convention", "name"), [("fvd", "videogpt"), pytest.param("original", "pytorch_i3d", marks=pytest.mark.slow)]
)
def test_network_equals_the_reference(load_golden: LoadGolden, convention: str, name: str) -> None:
    golden = load_golden("i3d")
    network = I3D(convention=convention)
    weights = closed_form_weights(network)
    assert sum(weight.numel() for weight in weights.values()) == golden.config["n_values"]
    network.load_state_dict(weights, strict=False)
    want = part(golden, f"outputs.{name}.")
    with torch.no_grad():
        for endpoint, features in network.iter_endpoints(closed_form_video()):
            assert list(features.shape) == golden.config["endpoint_shapes"][endpoint]
            torch.testing.assert_close(
                torch.stack([features.mean(), features.std()]), want[f"endpoint_stats.{endpoint}"], rtol=1e-4, atol=0
            )
        network.iter_endpoints = lambda _: iter([("Mixed_5c", features)])  # what follows starts at the last block
        pooled, logits = network.pool(closed_form_video()), network(closed_form_video())
    torch.testing.assert_close(pooled, want["avg_pool_features"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, want["logits"], rtol=1e-4, atol=1e-4)


def test_endpoints_are_named_as_in_the_reference(load_golden: LoadGolden) -> None:
    assert list(ENDPOINTS) == list(load_golden("i3d").config["endpoint_shapes"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 224, 224), "at least 9 frames"),
        ((1, 1, 9, 224, 224), r"`videos` must have the shape \(B, 3, F, H, W\)"),
        ((1, 3, 9, 192, 224), "height and width of 193 to 224 pixels, but have 192 and 224"),
        ((1, 3, 9, 224, 225), "but have 224 and 225"),
    ],
)
def test_clips_of_a_wrong_size_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        I3D(num_classes=2)(torch.zeros(shape))


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(ValueError, match="`convention` must be one of"):
        I3D(convention="tf")
