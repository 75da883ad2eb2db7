"""Transformers over a grid of tokens, one axis at a time."""

# Shapes: B videos, F frames, H height, W width, S = H * W positions, C channels; N = B * F images; L tokens of a
# sequence, P sequences side by side.

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from .rotary import frame_rotary, map_rotary
from .temporal_attention import TemporalAttnProcessor


Rotary = tuple[Tensor, Tensor]


class AxisAttention(Attention):
    """
    Self-attention along one axis of a grid of tokens; the axes beside it are left where they are.

    Args:
        channels (`int`): Channels of input and output.
        heads (`int`): Number of attention heads.
        dim_head (`int`): Channels of a head.
    """

    def __init__(self, channels: int, heads: int, dim_head: int) -> None:
        super().__init__(query_dim=channels, heads=heads, dim_head=dim_head, processor=TemporalAttnProcessor())

    def forward(self, hidden_states: Tensor, rotary: Rotary | None = None) -> Tensor:
        """
        Let the tokens of each sequence attend to each other.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, length, sequences, channels)`): Tokens.
            rotary (`tuple[torch.Tensor, torch.Tensor]`, *optional*): Cosines and sines of the positions,
                `(length, dim_head)` each.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`.
        """
        return self.processor(self, hidden_states, rotary=rotary)


class SpaceTimeBlock(nn.Module):
    """
    Attention over time at every position, attention over the positions of every frame, and a feed-forward network.

    Args:
        channels (`int`): Channels of the tokens.
        heads (`int`): Number of attention heads.
        dim_head (`int`): Channels of a head.
        ff_mult (`int`): Width of the feed-forward network over `channels`.

    Source:
        TimeSformer (arXiv:2102.05095), Section 3, "divided space-time attention", without a class token.
    """

    def __init__(self, channels: int, heads: int, dim_head: int, ff_mult: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = AxisAttention(channels, heads, dim_head)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = AxisAttention(channels, heads, dim_head)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, mult=ff_mult, activation_fn="geglu")

    def forward(self, hidden_states: Tensor, frames: Rotary, positions: Rotary) -> Tensor:
        """
        Mix tokens over time, then over space.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, num_frames, positions, channels)`): Tokens.
            frames (`tuple[torch.Tensor, torch.Tensor]`): Cosines and sines of the frames.
            positions (`tuple[torch.Tensor, torch.Tensor]`): Cosines and sines of the positions.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`.
        """
        hidden_states = hidden_states + self.attn1(self.norm1(hidden_states), frames)
        images_NSPC = self.norm2(hidden_states).flatten(0, 1).unsqueeze(2)
        hidden_states = hidden_states + self.attn2(images_NSPC, positions).view(hidden_states.shape)
        return hidden_states + self.ff(self.norm3(hidden_states))


class SpaceTimeTransformer(nn.Module):
    """
    Blocks of divided space-time attention with rotary positions, so that any number of frames and any size runs.

    Args:
        channels (`int`): Channels of the tokens.
        num_layers (`int`): Number of blocks.
        heads (`int`): Number of attention heads.
        dim_head (`int`): Channels of a head, a multiple of 4.
        ff_mult (`int`): Width of the feed-forward networks over `channels`.
        max_freq (`float`): Highest frequency of the positions in space; see [`map_rotary`].
    """

    def __init__(
        self, channels: int, num_layers: int, *, heads: int, dim_head: int, ff_mult: int, max_freq: float
    ) -> None:
        super().__init__()
        self.dim_head, self.max_freq = dim_head, max_freq
        self.blocks = nn.ModuleList(SpaceTimeBlock(channels, heads, dim_head, ff_mult) for _ in range(num_layers))
        self.gradient_checkpointing = False

    def forward(self, hidden_states: Tensor) -> Tensor:
        """
        Mix tokens over time and space.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, num_frames, height, width, channels)`): Tokens.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`, not normalised.
        """
        num_frames, height, width = hidden_states.shape[1:4]
        frames = frame_rotary(num_frames, self.dim_head, hidden_states.device)
        positions = map_rotary(height, width, self.dim_head, self.max_freq, hidden_states.device)
        is_checkpointed = torch.is_grad_enabled() and self.gradient_checkpointing
        hidden_states = hidden_states.flatten(2, 3)
        for block in self.blocks:
            if is_checkpointed:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states, frames, positions)
            else:
                hidden_states = block(hidden_states, frames, positions)
        return hidden_states.unflatten(2, (height, width))


class ProjectionBlock(nn.Module):
    """
    Attention along an axis and a feed-forward network.

    Args:
        channels (`int`): Channels of the tokens.
        heads (`int`): Number of attention heads.
        dim_head (`int`): Channels of a head.
        mlp_dim (`int`): Width of the feed-forward network.
    """

    def __init__(self, channels: int, heads: int, dim_head: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = AxisAttention(channels, heads, dim_head)
        self.norm2 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, inner_dim=mlp_dim, activation_fn="gelu")

    def forward(self, hidden_states: Tensor, num_wanted: int | None = None) -> Tensor:
        """
        Mix tokens along the axis.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, length, sequences, channels)`): Tokens.
            num_wanted (`int`, *optional*): Return the first tokens of each sequence only.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_wanted or length, sequences, channels)`.
        """
        hidden_states = (hidden_states + self.attn1(self.norm1(hidden_states)))[:, :num_wanted]
        return hidden_states + self.ff(self.norm2(hidden_states))


class AxisProjection(nn.Module):
    """
    Project a grid of tokens along one axis by a small transformer.

    A learned token stands behind those of a sequence, but the result is read from the first one: so PVDM's code does,
    and its weights are trained so.

    Args:
        channels (`int`): Channels of the tokens.
        max_length (`int`): Longest sequence, which is that of the training.
        num_layers (`int`): Number of blocks, at least 1.
        heads (`int`): Number of attention heads.
        dim_head (`int`): Channels of a head.
        mlp_dim (`int`): Width of the feed-forward networks.

    Source:
        PVDM (arXiv:2302.07685), Section 3.2.
    """

    def __init__(
        self, channels: int, max_length: int, *, num_layers: int, heads: int, dim_head: int, mlp_dim: int
    ) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, channels))
        self.positions = nn.Parameter(torch.randn(1, max_length + 1, channels))
        self.blocks = nn.ModuleList(ProjectionBlock(channels, heads, dim_head, mlp_dim) for _ in range(num_layers))
        self.gradient_checkpointing = False

    def forward(self, hidden_states: Tensor) -> Tensor:
        """
        Project sequences to one token each.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, length, sequences, channels)`): Tokens; `length` is
                at most `max_length`.

        Returns:
            `torch.Tensor` of shape `(batch_size, sequences, channels)`.
        """
        batch_size, length, sequences, _ = hidden_states.shape
        token = self.token[:, :, None].expand(batch_size, -1, sequences, -1)
        positions = torch.cat([self.positions[:, :length], self.positions[:, -1:]], dim=1)
        hidden_states = torch.cat([hidden_states, token], dim=1) + positions[:, :, None]
        is_checkpointed = torch.is_grad_enabled() and self.gradient_checkpointing
        for index, block in enumerate(self.blocks):
            num_wanted = 1 if index == len(self.blocks) - 1 else None  # the others are not read
            if is_checkpointed:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states, num_wanted)
            else:
                hidden_states = block(hidden_states, num_wanted)
        return hidden_states[:, 0]
