"""A scale and a shift per frame, behind convolutions that all frames of a video share."""

from typing import Any

import torch
from torch import Tensor, nn

from .clip import Clip
from .layout import match_strides


# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images.


class FrameAdaptor(nn.Module):
    """
    Scale and shift the channels of each frame by weights of its own; a new layer is the identity, to the bit.

    Frames are counted from the start of the clip. A clip shorter than those of the training takes the first rows; over
    a longer one the rows are spread by linear interpolation, from its first frame to its last.

    Args:
        num_frames (`int`): Frames of the clips it is trained on.
        channels (`int`): Channels of the convolution before it.

    Source:
        MagicVideo (arXiv:2211.11018), Section 3.2.1: one adaptor for each 2D convolution. That scale and shift have
        one number per frame and channel, and what other lengths do, is not told there.
    """

    def __init__(self, num_frames: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_frames, channels))
        self.shift = nn.Parameter(torch.zeros(num_frames, channels))

    def forward(self, hidden_states: Tensor, clip: Clip) -> Tensor:
        """
        Adapt the frames.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.
            clip ([`Clip`]): The clip they belong to; its independent images are left as they are.

        Returns:
            `torch.Tensor` of the shape and memory order of `hidden_states`.
        """
        scale, shift = (
            fit_rows(rows, clip.num_frames).to(hidden_states.dtype)[..., None, None]
            for rows in (self.scale, self.shift)
        )
        if clip.image_only is not None:
            is_image = clip.image_only[..., None, None, None]
            scale, shift = (
                torch.where(is_image, torch.full_like(rows, neutral), rows)
                for rows, neutral in ((scale, 1), (shift, 0))
            )
        hidden_BFCHW = hidden_states.unflatten(0, (-1, clip.num_frames))
        return match_strides(torch.addcmul(shift, hidden_BFCHW, scale).flatten(0, 1), hidden_states)


def fit_rows(rows: Tensor, num_frames: int) -> Tensor:
    """
    Give each frame of a clip its row of per-frame weights.

    Args:
        rows (`torch.Tensor` of shape `(trained_frames, channels)`): The weights.
        num_frames (`int`): Frames of the clip.

    Returns:
        `torch.Tensor` of shape `(num_frames, channels)`: The first rows, or all of them spread over a longer clip.
    """
    trained_frames = len(rows)
    if num_frames <= trained_frames:
        return rows[:num_frames]
    places = torch.arange(num_frames, device=rows.device) * ((trained_frames - 1) / (num_frames - 1))
    before = places.long().clamp(max=max(trained_frames - 2, 0))
    after = (before + 1).clamp(max=trained_frames - 1)
    return torch.lerp(rows[before], rows[after], (places - before)[:, None].to(rows.dtype))


class AdaptedBlock:
    """
    A residual block of diffusers as its own forward sees it for one call: behind its convolutions stand adaptors.

    The block passes them no clip, so that it is handed over here; nothing is kept in the block itself.

    Args:
        block (`torch.nn.Module`): The block, with `conv1`, `conv2` and a `frame_adaptor`.
        clip ([`Clip`]): The clip of the call.
    """

    def __init__(self, block: nn.Module, clip: Clip) -> None:
        self._block = block
        self._clip = clip

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def conv1(self, hidden_states: Tensor) -> Tensor:
        """
        Run the first convolution and its adaptor.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.

        Returns:
            `torch.Tensor` of shape `(batch_size * num_frames, out_channels, height, width)`.
        """
        return self._block.frame_adaptor["after_conv1"](self._block.conv1(hidden_states), self._clip)

    def conv2(self, hidden_states: Tensor) -> Tensor:
        """
        Run the second convolution and its adaptor.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.

        Returns:
            `torch.Tensor` of shape `(batch_size * num_frames, out_channels, height, width)`.
        """
        return self._block.frame_adaptor["after_conv2"](self._block.conv2(hidden_states), self._clip)
