"""Given frames as feature maps for the temporal residual blocks, one map per resolution of a U-Net."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layout import videos_to_images


# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images.


class ContextEmbedding(nn.Module):
    """
    Learned downsampling of given frames to every resolution of a U-Net, frame by frame.

    Args:
        context_channels (`int`): Channels of the input: those of the latents, and one for the mask.
        widths (`Sequence[int]`): Channels of each level of the U-Net, from the finest on.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.2: c_S = (m_S * E(x), m_S) is given to the temporal layers after a
        learned downsampling. Its layout is not described there; here it is a convolution, then SiLU and a convolution
        of stride 2 for each further level.
    """

    def __init__(self, context_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(context_channels, widths[0], kernel_size=3, padding=1)
        self.downsamplers = nn.ModuleList(
            nn.Conv2d(width, next_width, kernel_size=3, stride=2, padding=1)
            for width, next_width in zip(widths[:-1], widths[1:], strict=True)
        )
        self.nonlinearity = nn.SiLU()

    def forward(self, context: Tensor) -> tuple[Tensor, ...]:
        """
        Make one map per level.

        Args:
            context (`torch.Tensor` of shape `(batch_size * num_frames, context_channels, height, width)`):
                From [`mask_context`].

        Returns:
            `tuple[torch.Tensor, ...]`: Maps of shape `(batch_size * num_frames, width, height, width)`, each half as
            high and wide as the one before, rounded up.
        """
        maps = [self.nonlinearity(self.conv_in(context))]
        for downsampler in self.downsamplers:
            maps.append(self.nonlinearity(downsampler(maps[-1])))
        return tuple(maps)


def fit_context(context: Tensor, size: Sequence[int]) -> Tensor:
    """
    Bring a map of given frames to the size of the features it is for: odd sizes are halved in different ways.

    Args:
        context (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): The map.
        size (`Sequence[int]`): Height and width wanted.

    Returns:
        `torch.Tensor` of that size: the map itself where it has it.
    """
    size = tuple(size)
    return context if tuple(context.shape[-2:]) == size else functional.interpolate(context, size=size)


def mask_context(context_latents: Tensor | None, frame_mask: Tensor | None, like: Tensor, channels: int) -> Tensor:
    """
    Put given frames and the mask that tells them apart side by side; no context is a context of zeros.

    Args:
        context_latents (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`, *optional*):
            Latents of the given frames at their places; what stands at other places is ignored.
        frame_mask (`torch.Tensor` of shape `(batch_size, num_frames)` and type `torch.bool`, *optional*): `True` for
            given frames.
        like (`torch.Tensor` of shape `(batch_size, any, num_frames, height, width)`): The noisy videos.
        channels (`int`): Channels of the latents.

    Returns:
        `torch.Tensor` of shape `(batch_size * num_frames, channels + 1, height, width)`, with the type of `like`.

    Raises:
        ValueError: If only one of the two is given, or shapes or types do not fit.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.2.
    """
    batch_size, _, num_frames, height, width = like.shape
    check_context(context_latents, frame_mask, like, channels)
    if context_latents is None:
        return like.new_zeros(batch_size * num_frames, channels + 1, height, width)
    mask = frame_mask[:, None, :, None, None]
    masked = torch.where(mask, context_latents.to(like.dtype), torch.zeros((), dtype=like.dtype, device=like.device))
    mask = mask.to(like.dtype).expand(-1, -1, -1, height, width)
    return videos_to_images(torch.cat([masked, mask], dim=1))


def place_context(sample: Tensor, context_latents: Tensor | None, frame_mask: Tensor | None) -> Tensor:
    """
    Put given frames in the places of noisy ones, and the mask that tells them apart behind the channels.

    Args:
        sample (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): The noisy videos.
        context_latents (`torch.Tensor` of the shape of `sample`, *optional*): As in [`mask_context`], with the noise
            that the model was trained with.
        frame_mask (`torch.Tensor` of shape `(batch_size, num_frames)` and type `torch.bool`, *optional*): Likewise.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels + 1, num_frames, height, width)`.

    Raises:
        ValueError: If only one of the two is given, or shapes or types do not fit.

    Source:
        LVDM (arXiv:2211.13221), Section 3.3.
    """
    check_context(context_latents, frame_mask, sample, sample.shape[1])
    if context_latents is None:
        return torch.cat([sample, torch.zeros_like(sample[:, :1])], dim=1)
    mask = frame_mask[:, None, :, None, None]
    sample = torch.where(mask, context_latents.to(sample.dtype), sample)
    return torch.cat([sample, mask.to(sample.dtype).expand_as(sample[:, :1])], dim=1)


def check_context(context_latents: Tensor | None, frame_mask: Tensor | None, like: Tensor, channels: int) -> None:
    """
    Refuse given frames that do not fit the noisy videos.

    Args:
        context_latents (`torch.Tensor`, *optional*): As in [`mask_context`].
        frame_mask (`torch.Tensor`, *optional*): Likewise.
        like (`torch.Tensor` of shape `(batch_size, any, num_frames, height, width)`): The noisy videos.
        channels (`int`): Channels of the latents.

    Raises:
        ValueError: If only one of the two is given, or shapes or types do not fit.
    """
    batch_size, _, num_frames, height, width = like.shape
    if (context_latents is None) != (frame_mask is None):
        raise ValueError("`context_latents` and `frame_mask` must be given together, but only one of them is.")
    if context_latents is None:
        return
    if tuple(context_latents.shape) != (batch_size, channels, num_frames, height, width):
        raise ValueError(
            f"`context_latents` must have the shape {(batch_size, channels, num_frames, height, width)}, but has"
            f" {tuple(context_latents.shape)}. Put zeros in the places of frames that are not given."
        )
    if frame_mask.dtype is not torch.bool or tuple(frame_mask.shape) != (batch_size, num_frames):
        raise ValueError(
            f"`frame_mask` must be a boolean tensor of shape {(batch_size, num_frames)}, but is {frame_mask.dtype} of"
            f" shape {tuple(frame_mask.shape)}. Mark given frames with `True`."
        )
