"""I3D: the network whose outputs Frechet and kernel video distances compare."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


# Shapes: B videos, C channels, F frames, H height, W width.

CHANNELS = 1024  # of the last block, which is what is pooled
SMALLEST_FRAMES, SMALLEST_SIDE, LARGEST_SIDE = 9, 193, 224


class Convention(NamedTuple):
    """What tells the two networks of one architecture apart."""

    eps: float
    averages_time: bool


CONVENTIONS = {"fvd": Convention(1e-5, True), "original": Convention(1e-3, False)}

# Channels of the branches of each block: 1x1; 1x1 then 3x3x3; 1x1 then 3x3x3; pooling then 1x1.
_BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
ENDPOINTS = (
    "Conv3d_1a_7x7",
    "MaxPool3d_2a_3x3",
    "Conv3d_2b_1x1",
    "Conv3d_2c_3x3",
    "MaxPool3d_3a_3x3",
    "Mixed_3b",
    "Mixed_3c",
    "MaxPool3d_4a_3x3",
    *(name for name in _BLOCKS if name.startswith("Mixed_4")),
    "MaxPool3d_5a_2x2",
    "Mixed_5b",
    "Mixed_5c",
)


def pad_same(hidden_states: Tensor, kernel_size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """
    Pad a video with zeros as TensorFlow's rule "SAME" does, by its own size.

    Args:
        hidden_states (`torch.Tensor` of shape `(B, C, F, H, W)`): What a convolution or pooling is to see.
        kernel_size (`tuple[int, int, int]`): Of that layer.
        stride (`tuple[int, int, int]`): Of that layer.

    Returns:
        `torch.Tensor`: So large that the layer gives size / stride values, rounded up, on each axis; where the padding
        is odd, the later side has one more.
    """
    pads: list[int] = []
    for length, kernel, step in zip(hidden_states.shape[2:], kernel_size, stride, strict=True):
        total = max(kernel - (step if length % step == 0 else length % step), 0)
        pads = [total // 2, total - total // 2, *pads]  # `pad` wants the last axis first
    return functional.pad(hidden_states, pads) if any(pads) else hidden_states


class Unit3D(nn.Module):
    """
    Convolution with padding "SAME", then batch normalisation and ReLU.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        kernel_size (`int`, *optional*, defaults to 1): Along each of the three axes.
        stride (`int`, *optional*, defaults to 1): Along each of the three axes.
        eps (`float`, *optional*): Of the batch normalisation; `None`: a convolution with bias alone.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, stride: int = 1, eps: float | None
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel_size, stride, bias=eps is None)
        self.bn = nn.Identity() if eps is None else nn.BatchNorm3d(out_channels, eps=eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """BCFHW -> BCFHW, of size / stride."""
        hidden_states = pad_same(hidden_states, self.conv3d.kernel_size, self.conv3d.stride)
        hidden_states = self.bn(self.conv3d(hidden_states))
        return hidden_states if isinstance(self.bn, nn.Identity) else functional.relu_(hidden_states)


class MaxPool3DSame(nn.MaxPool3d):
    """Maximum over windows with padding "SAME"; what is padded counts as zeros, not as nothing."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """BCFHW -> BCFHW, of size / stride."""
        return super().forward(pad_same(hidden_states, self.kernel_size, self.stride))


class InceptionBlock(nn.Module):
    """
    Four branches on one input, side by side.

    Args:
        in_channels (`int`): Channels of the input.
        channels (`tuple[int, ...]`): Six numbers: of the first branch; of both layers of the second; of both layers of
            the third; of the fourth.
        eps (`float`): Of the batch normalisations.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], eps: float) -> None:
        super().__init__()
        first, second_a, second_b, third_a, third_b, fourth = channels
        self.b0 = Unit3D(in_channels, first, eps=eps)
        self.b1a = Unit3D(in_channels, second_a, eps=eps)
        self.b1b = Unit3D(second_a, second_b, 3, eps=eps)
        self.b2a = Unit3D(in_channels, third_a, eps=eps)
        self.b2b = Unit3D(third_a, third_b, 3, eps=eps)
        self.b3a = MaxPool3DSame((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(in_channels, fourth, eps=eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """BCFHW -> BCFHW."""
        branches = (
            self.b0(hidden_states),
            self.b1b(self.b1a(hidden_states)),
            self.b2b(self.b2a(hidden_states)),
            self.b3b(self.b3a(hidden_states)),
        )
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """
    Inception-v1 with its filters inflated over time. Modules bear the names of the public weight files.

    Args:
        num_classes (`int`, *optional*, defaults to 400): Logits; 400 for Kinetics.
        convention (`str`, *optional*, defaults to `"fvd"`):
            `"fvd"`: normalisations with eps 1e-5, logits averaged over time; what the weights published for FVD need.
            `"original"`: eps 1e-3, logits for each step in time; the first PyTorch port of I3D.

    A new network has random weights and is in evaluation mode.

    Raises:
        ValueError: If `convention` is neither.

    Source:
        Quo Vadis, Action Recognition? (arXiv:1705.07750), Section 2.4 and Figure 3. Unlike there, dropout before the
        logits is left out: it does nothing in evaluation.
    """

    def __init__(self, num_classes: int = 400, *, convention: Literal["fvd", "original"] = "fvd") -> None:
        super().__init__()
        if convention not in CONVENTIONS:
            raise ValueError(f"`convention` must be one of {list(CONVENTIONS)}, but is {convention!r}.")
        self.convention = CONVENTIONS[convention]
        eps = self.convention.eps
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, stride=2, eps=eps)
        self.MaxPool3d_2a_3x3 = MaxPool3DSame((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64, eps=eps)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3, eps=eps)
        self.MaxPool3d_3a_3x3 = MaxPool3DSame((1, 3, 3), (1, 2, 2))
        self.MaxPool3d_4a_3x3 = MaxPool3DSame((3, 3, 3), (2, 2, 2))
        self.MaxPool3d_5a_2x2 = MaxPool3DSame((2, 2, 2), (2, 2, 2))
        in_channels = 192
        for name, channels in _BLOCKS.items():
            self.add_module(name, InceptionBlock(in_channels, channels, eps))
            in_channels = channels[0] + channels[2] + channels[4] + channels[5]
        self.logits = Unit3D(in_channels, num_classes, eps=None)
        self.eval()

    def iter_endpoints(self, videos: Tensor) -> Iterator[tuple[str, Tensor]]:
        """
        Run the network block by block; only the last block's output is kept.

        Args:
            videos (`torch.Tensor` of shape `(B, 3, F, H, W)`): In [-1, 1], of any size.

        Returns:
            `Iterator[tuple[str, torch.Tensor]]`: Name and output of each of `ENDPOINTS`.
        """
        hidden_states = videos
        for name in ENDPOINTS:
            hidden_states = self.get_submodule(name)(hidden_states)
            yield name, hidden_states

    def pool(self, videos: Tensor) -> Tensor:
        """
        The features before the logits.

        Args:
            videos (`torch.Tensor` of shape `(B, 3, F, H, W)`): In [-1, 1]; at least 9 frames, sides of 193 to 224.

        Returns:
            `torch.Tensor` of shape `(B, 1024, T, 1, 1)`: T is the frames over 8, rounded up, less 1.

        Raises:
            ValueError: If the shape is another.
        """
        sides = tuple(videos.shape[-2:])
        if videos.dim() != 5 or videos.shape[1] != 3 or videos.shape[2] < SMALLEST_FRAMES:
            raise ValueError(
                f"`videos` must have the shape (B, 3, F, H, W) with at least {SMALLEST_FRAMES} frames, but has"
                f" {tuple(videos.shape)}. Take longer clips."
            )
        if min(sides) < SMALLEST_SIDE or max(sides) > LARGEST_SIDE:
            raise ValueError(
                f"`videos` must have a height and width of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, but have"
                f" {sides[0]} and {sides[1]}. Resize them to {LARGEST_SIDE}."
            )
        _, last_block = deque(self.iter_endpoints(videos), maxlen=1)[0]
        return functional.avg_pool3d(last_block, (2, 7, 7), stride=1)

    def forward(self, videos: Tensor) -> Tensor:
        """
        Logits of videos: the features of FVD.

        Args:
            videos (`torch.Tensor` of shape `(B, 3, F, H, W)`): As for [`I3D.pool`].

        Returns:
            `torch.Tensor`: `(B, num_classes)`, averaged over time; `(B, num_classes, T)` in the original convention.

        Raises:
            ValueError: As [`I3D.pool`].
        """
        logits = self.logits(self.pool(videos)).flatten(2)
        return logits.mean(2) if self.convention.averages_time else logits
