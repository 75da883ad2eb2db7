"""The temporal residual block that stands behind every spatial residual block."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .context_embedding import fit_context
from .layout import images_to_videos
from .temporal_attention import zero_init


# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images.


class TemporalConv(nn.Conv3d):
    """
    A `Conv3d` whose kernel has no extent in space, computed as a 2D convolution over frames and positions.

    Takes the arguments and holds the weights of a `torch.nn.Conv3d`. PyTorch's own 3D convolution gathers its whole
    input into columns when it runs on one thread of a CPU: 1.05 to 1.7 times the time at Stable Diffusion's widths.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output = functional.conv2d(
            input.flatten(3), weight.flatten(3), bias, (self.stride[0], 1), (self.padding[0], 0), (self.dilation[0], 1)
        )
        return output.unflatten(3, input.shape[3:])


class TemporalResnetBlock(nn.Module):
    """
    Residual branch of two convolutions over three neighbouring frames; a new block adds nothing.

    Args:
        channels (`int`): Channels of input and output, a multiple of `num_groups`.
        temb_channels (`int`, *optional*): Width of the time embedding; `None` builds a block without one.
        num_groups (`int`, *optional*, defaults to 32): Groups of the normalisations.
        eps (`float`, *optional*, defaults to 1e-5): Epsilon of the normalisations.
        dropout (`float`, *optional*, defaults to 0.0): Dropout before the second convolution.
        context_channels (`int`, *optional*): Channels of the maps of given frames; `None` builds a block without.

    Source:
        VideoLDM (arXiv:2304.08818), Sections 3.1, 3.2 and Figure 4; parameter names and order of operations of Stable
        Video Diffusion's `VideoResBlock.time_stack` (arXiv:2311.15127, Appendix D).
    """

    def __init__(
        self,
        channels: int,
        temb_channels: int | None = None,
        *,
        num_groups: int = 32,
        eps: float = 1e-5,
        dropout: float = 0.0,
        context_channels: int | None = None,
    ) -> None:
        super().__init__()
        kernel = {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)}
        self.norm1 = nn.GroupNorm(num_groups, channels, eps=eps)
        self.conv1 = TemporalConv(channels, channels, **kernel)
        self.time_emb_proj = None if temb_channels is None else nn.Linear(temb_channels, channels)
        self.norm2 = nn.GroupNorm(num_groups, channels, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = TemporalConv(channels, channels, **kernel)
        self.nonlinearity = nn.SiLU()
        nn.init.zeros_(self.conv2.weight)  # so that a new video model draws exactly what its image model draws
        nn.init.zeros_(self.conv2.bias)
        self.context_proj = None
        if context_channels is not None:  # zero, so that trained temporal layers go on as they were
            self.context_proj = nn.Conv2d(context_channels, channels, kernel_size=1)
            zero_init(self.context_proj)

    def forward(self, hidden_states: Tensor, temb: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """
        Compute what the block adds to its input.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Features.
            temb (`torch.Tensor` of shape `(batch_size * num_frames, temb_channels)`, *optional*): Time embedding.
            context (`torch.Tensor` of shape `(batch_size * num_frames, context_channels, height, width)`, *optional*):
                Map of the given frames, for a block built with `context_channels`; resized where its size differs.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`: the residual, not yet added.
        """
        num_frames = hidden_states.shape[2]
        if torch.is_grad_enabled() and not hidden_states.requires_grad:
            # Behind frozen layers: PyTorch 2.13 crashes in the CPU's backward of a group norm whose channels-last
            # input needs no gradient while its weights do.
            hidden_states = hidden_states.contiguous()
        hidden_states = self.conv1(self.nonlinearity(self.norm1(hidden_states)))
        if self.time_emb_proj is not None:
            temb = self.time_emb_proj(self.nonlinearity(temb))
            hidden_states = hidden_states + images_to_videos(temb[:, :, None, None], num_frames)
        if self.context_proj is not None:
            context = fit_context(self.context_proj(context), hidden_states.shape[-2:])
            hidden_states = hidden_states + images_to_videos(context, num_frames)
        hidden_states = self.nonlinearity(self.norm2(hidden_states))
        return self.conv2(self.dropout(hidden_states))
