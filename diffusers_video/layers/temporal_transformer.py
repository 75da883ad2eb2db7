"""Temporal transformer blocks and the stack of them that one spatial layer carries."""

from collections.abc import Callable

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from .clip import Clip
from .temporal_attention import PerVideoAttention, TemporalAttention, zero_init
from .time_mixer import TimeMixer, blend


# Shapes: B videos, F frames, S positions, C channels, L text tokens, D text width.


class TemporalTransformerBlock(nn.Module):
    """
    Feed-forward, self-attention over time, cross-attention to text, feed-forward; a new block is the identity.

    Args:
        channels (`int`): Channels of input and output.
        heads (`int`): Number of attention heads.
        dim_head (`int`): Channels of a head.
        cross_attention_dim (`int`, *optional*): Width of the text; `None` builds no cross-attention.
        use_self_attention (`bool`, *optional*, defaults to `True`): Build the attention over time.
        use_second_self_attention (`bool`, *optional*, defaults to `False`): Build another one in place of the
            cross-attention, as autoencoders have it.
        use_feed_forward (`bool`, *optional*, defaults to `True`): Build both feed-forward layers.
        dropout (`float`, *optional*, defaults to 0.0): Dropout in attention and feed-forward layers.
        upcast_attention (`bool`, *optional*, defaults to `False`): As in the image model.

    Source:
        Structure recovered from VideoLDM's parameter counts (arXiv:2304.08818, appendix "Number of Model Parameters")
        and Stable Video Diffusion's `VideoTransformerBlock`, whose parameter names are kept.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        dim_head: int,
        *,
        cross_attention_dim: int | None = None,
        use_self_attention: bool = True,
        use_second_self_attention: bool = False,
        use_feed_forward: bool = True,
        dropout: float = 0.0,
        upcast_attention: bool = False,
    ) -> None:
        super().__init__()
        self.norm_in = self.ff_in = self.norm1 = self.attn1 = self.norm2 = self.attn2 = self.norm3 = self.ff = None
        if use_feed_forward:
            self.norm_in = nn.LayerNorm(channels)
            self.ff_in = FeedForward(channels, dropout=dropout, activation_fn="geglu")
            self.norm3 = nn.LayerNorm(channels)
            self.ff = FeedForward(channels, dropout=dropout, activation_fn="geglu")
            zero_init(self.ff_in.net[2])
            zero_init(self.ff.net[2])
        if use_self_attention:
            self.norm1 = nn.LayerNorm(channels)
            self.attn1 = TemporalAttention(channels, heads, dim_head, dropout, upcast_attention=upcast_attention)
        if use_second_self_attention:
            self.norm2 = nn.LayerNorm(channels)
            self.attn2 = TemporalAttention(channels, heads, dim_head, dropout, upcast_attention=upcast_attention)
        elif cross_attention_dim is not None:
            self.norm2 = nn.LayerNorm(channels)
            self.attn2 = PerVideoAttention(
                query_dim=channels,
                cross_attention_dim=cross_attention_dim,
                heads=heads,
                dim_head=dim_head,
                dropout=dropout,
                upcast_attention=upcast_attention,
            )
            zero_init(self.attn2.to_out[0])

    def forward(self, hidden_states: Tensor, clip: Clip) -> Tensor:
        """
        Mix the frames of each video.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, num_frames, positions, channels)`): Tokens.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`.
        """
        if self.ff_in is not None:
            hidden_states = hidden_states + self.ff_in(self.norm_in(hidden_states))
        if self.attn1 is not None:
            hidden_states = hidden_states + self.attn1(self.norm1(hidden_states), clip.frame_visibility)
        if isinstance(self.attn2, TemporalAttention):
            hidden_states = hidden_states + self.attn2(self.norm2(hidden_states), clip.frame_visibility)
        elif self.attn2 is not None:
            queries = self.norm2(hidden_states).flatten(1, 2)
            attended = self.attn2(queries, clip.encoder_hidden_states)
            hidden_states = hidden_states + attended.view(hidden_states.shape)
        if self.ff is not None:
            hidden_states = hidden_states + self.ff(self.norm3(hidden_states))
        return hidden_states


class FramePositionEmbedding(TimestepEmbedding):
    """
    Learned map of the sinusoid of the frame index, counted from the start of the clip; a new one returns zeros.

    Args:
        channels (`int`): Width of sinusoid and output; the hidden layer is four times as wide.

    Source:
        Stable Video Diffusion's `time_pos_embed` (arXiv:2311.15127): sinusoid with periods up to 10,000, cosines
        first, then Linear, SiLU, Linear.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, time_embed_dim=4 * channels, out_dim=channels)
        self.sinusoid = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        zero_init(self.linear_2)

    def forward(self, num_frames: int, features: Tensor) -> Tensor:
        """
        Embed the frames 0 to `num_frames - 1`.

        Args:
            num_frames (`int`): Frames per video.
            features (`torch.Tensor`): The features it is for; the embedding takes their type and place.

        Returns:
            `torch.Tensor` of shape `(num_frames, channels)`.
        """
        sinusoid = self.sinusoid(torch.arange(num_frames, device=features.device))
        return super().forward(sinusoid.to(features.dtype))


def apply_temporal_block(
    block: TemporalTransformerBlock,
    spatial: Tensor,
    embedded: Tensor,
    time_mixer: TimeMixer,
    clip: Clip,
    checkpoint: Callable[..., Tensor] | None = None,
) -> Tensor:
    """
    Run one temporal block behind one spatial block and blend the two.

    Args:
        block ([`TemporalTransformerBlock`]): The temporal block.
        spatial (`torch.Tensor` of shape `(batch_size * num_frames, positions, channels)`): Spatial tokens.
        embedded (`torch.Tensor` of shape `(num_frames, 1, channels)`, or
            `(batch_size, num_frames, positions, channels)`): What the block is told of each frame, its index at least;
            it is added to the tokens.
        time_mixer ([`TimeMixer`]): How the two are blended.
        clip ([`Clip`]): The clip.
        checkpoint (`Callable`, *optional*): diffusers' gradient checkpointing function, when it is switched on.

    Returns:
        `torch.Tensor` of the shape of `spatial`.
    """
    spatial_BFSC = spatial.unflatten(0, (-1, clip.num_frames))
    temporal_BFSC = spatial_BFSC + embedded
    temporal_BFSC = block(temporal_BFSC, clip) if checkpoint is None else checkpoint(block, temporal_BFSC, clip)
    return blend(spatial_BFSC, temporal_BFSC, time_mixer(spatial_BFSC, clip.image_only)).flatten(0, 1)
