"""Features of videos that need no weights: a small 3D convolutional network whose weights are drawn from a seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


# Shapes: B videos, C channels, F frames, H height, W width, D features.

_CHANNELS = (16, 32, 64)
_SMALLEST_SIDE = 2 ** len(_CHANNELS)


class RandomVideoFeatures(nn.Module):
    """
    A network of random weights; equal seeds give equal weights.

    Distances on its features tell apart sets that differ in colour, shape and motion, and serve tests and comparisons
    of models with each other. They are not FVD and cannot be compared with published numbers.

    Args:
        seed (`int`, *optional*, defaults to 0): Decides the weights.
        num_features (`int`, *optional*, defaults to 64): Features of a video, at most 224.

    Raises:
        ValueError: If `num_features` is out of range.

    Source:
        Untrained networks as features of images: Reliable Fidelity and Diversity Metrics for Generative Models
        (arXiv:2002.09797). The layers are ours: three convolutions over space and time; mean and spread of each
        channel after each of them; a random linear map that mixes these.
    """

    def __init__(self, seed: int = 0, num_features: int = 64) -> None:
        super().__init__()
        largest = 2 * sum(_CHANNELS)
        if not 1 <= num_features <= largest:
            raise ValueError(f"`num_features` must be from 1 to {largest}, but is {num_features}.")
        self.seed, self.num_features = seed, num_features
        generator = torch.Generator().manual_seed(seed)
        in_channels = 3
        self.layers = nn.ModuleList()
        for number, channels in enumerate(_CHANNELS):
            stride = (1, 2, 2) if number == 0 else 2
            layer = nn.Conv3d(in_channels, channels, 3, stride, padding=1)
            spread = math.sqrt(2 / layer.weight[0].numel())  # keeps the size of values through ReLU
            layer.weight.data = spread * torch.randn(layer.weight.shape, generator=generator)
            layer.bias.data = 0.1 * torch.randn(channels, generator=generator)
            self.layers.append(layer)
            in_channels = channels
        self.register_buffer("mixing", torch.randn(largest, num_features, generator=generator) / math.sqrt(largest))
        self.eval().requires_grad_(False)

    def forward(self, videos: Tensor) -> Tensor:
        """
        Features of videos.

        Args:
            videos (`torch.Tensor` of shape `(B, 3, F, H, W)`): In [-1, 1]; height and width at least 8.

        Returns:
            `torch.Tensor` of shape `(B, num_features)`

        Raises:
            ValueError: If the shape is another.
        """
        if videos.dim() != 5 or videos.shape[1] != 3 or min(videos.shape[-2:]) < _SMALLEST_SIDE:
            raise ValueError(
                f"`videos` must have the shape (B, 3, F, H, W) with sides of at least {_SMALLEST_SIDE} pixels, but has"
                f" {tuple(videos.shape)}."
            )
        hidden_states, features_BD = videos, []
        for layer in self.layers:
            hidden_states = functional.leaky_relu(layer(hidden_states), 0.2)
            values = hidden_states.flatten(2)
            features_BD += [values.mean(2), values.std(2, correction=0)]
        return torch.cat(features_BD, dim=1) @ self.mixing
