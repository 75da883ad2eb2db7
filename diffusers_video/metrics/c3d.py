"""C3D: the network whose class probabilities the Inception Score of UCF-101 videos is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


# Shapes: B videos, C channels, F frames, H height, W width.

NUM_FRAMES, SIDE = 16, 112
# Convolutions by stage, each with its channels as a multiple of the first one's; pooling follows each stage.
_STAGES = (
    (("conv1a", 1),),
    (("conv2a", 2),),
    (("conv3a", 4), ("conv3b", 4)),
    (("conv4a", 8), ("conv4b", 8)),
    (("conv5a", 8), ("conv5b", 8)),
)


class C3D(nn.Module):
    """
    Eight convolutions over space and time, and three layers on the whole. Layers bear the names of the public weights.

    Args:
        num_classes (`int`, *optional*, defaults to 101): Logits; 101 for UCF-101.
        base_channels (`int`, *optional*, defaults to 64): Channels of the first convolution.
        num_hidden (`int`, *optional*, defaults to 4096): Values between the last layers.

    The buffer `mean` of shape `(3, 16, 112, 112)` is the mean clip of the training set, blue first, 0 to 255; in a new
    network it is grey. A new network has random weights and is in evaluation mode.

    Source:
        Learning Spatiotemporal Features with 3D Convolutional Networks (arXiv:1412.0767), Section 3.2, in the form
        that TGAN2 (arXiv:1811.09245) measures Inception Scores with: input of any size scaled to 112 x 112 with its
        corners kept in place, scaled by 128, less the mean clip; pooling counts windows that are cut off.
    """

    def __init__(self, num_classes: int = 101, *, base_channels: int = 64, num_hidden: int = 4096) -> None:
        super().__init__()
        in_channels = 3
        for stage in _STAGES:
            for name, factor in stage:
                self.add_module(name, nn.Conv3d(in_channels, base_channels * factor, 3, padding=1))
                in_channels = base_channels * factor
        self.fc6 = nn.Linear(in_channels * 4 * 4, num_hidden)
        self.fc7 = nn.Linear(num_hidden, num_hidden)
        self.fc8 = nn.Linear(num_hidden, num_classes)
        self.register_buffer("mean", torch.full((3, NUM_FRAMES, SIDE, SIDE), 128.0))
        self.eval()

    def forward(self, videos: Tensor) -> Tensor:
        """
        Logits of videos.

        Args:
            videos (`torch.Tensor` of shape `(B, 3, 16, H, W)`): In [-1, 1], red first.

        Returns:
            `torch.Tensor` of shape `(B, num_classes)`: Before the softmax.

        Raises:
            ValueError: If the shape is another.
        """
        if videos.dim() != 5 or tuple(videos.shape[1:3]) != (3, NUM_FRAMES):
            raise ValueError(
                f"`videos` must have the shape (B, 3, {NUM_FRAMES}, H, W), but has {tuple(videos.shape)}. Take"
                f" clips of {NUM_FRAMES} frames."
            )
        hidden_states = self._normalise(videos)
        for number, stage in enumerate(_STAGES):
            for name, _ in stage:
                hidden_states = functional.relu_(self.get_submodule(name)(hidden_states))
            window = (1, 2, 2) if number == 0 else (2, 2, 2)
            hidden_states = functional.max_pool3d(hidden_states, window, ceil_mode=True)
        hidden_states = functional.relu_(self.fc6(hidden_states.flatten(1)))
        return self.fc8(functional.relu_(self.fc7(hidden_states)))

    def _normalise(self, videos: Tensor) -> Tensor:
        size = (videos.shape[2], SIDE, SIDE)
        videos = functional.interpolate(videos.flip(1) * 128, size=size, mode="trilinear", align_corners=True)
        return videos + (128 - self.mean)
