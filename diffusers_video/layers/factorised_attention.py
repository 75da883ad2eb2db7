"""Attention in space, then in time: the forms that stand behind the residual blocks of a factorised U-Net."""

from dataclasses import dataclass

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from .clip import Clip
from .frame_attention import FrameAttention
from .layout import (
    frames_to_sequences,
    images_to_videos,
    maps_to_tokens,
    sequences_to_frames,
    tokens_to_maps,
    videos_to_images,
)
from .temporal_attention import PerVideoAttention, zero_init


# Shapes: B videos, F frames, S = H * W positions, C channels, L text tokens, D text width; N = B * F images.

ATTENTION_TYPES = ("pair", "interleaved", "sequential")


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """
    What attention layers of a factorised U-Net are like.

    Args:
        kind (`str`): `"pair"` (an attention layer in space, then one in time), `"interleaved"` (transformer blocks
            that alternate between the two) or `"sequential"` (a transformer in space, then one in time).
        num_heads (`int`, *optional*): Heads of every layer, or `None` to have as many as `dim_head` asks for.
        dim_head (`int`, *optional*): Channels of a head, or `None` to have as many as `num_heads` asks for.
        cross_attention_dim (`int`, *optional*): Width of the text that transformers attend to.
        depth (`int`): Blocks of a transformer.
        relative_positions (`str`): See [`~diffusers_video.layers.frame_attention.FrameAttention`].
        max_distance (`int`): Likewise.
        num_groups (`int`): Groups of the normalisations.
        is_joint (`bool`): Whether frames share statistics in interleaved transformers.
        is_temporal_joint (`bool`): Whether they do in layers that attend in time only.
        dropout (`float`): Dropout in the attention and feed-forward layers.
    """

    kind: str
    num_heads: int | None
    dim_head: int | None
    cross_attention_dim: int | None
    depth: int
    relative_positions: str
    max_distance: int
    num_groups: int
    is_joint: bool
    is_temporal_joint: bool
    dropout: float

    def heads_of(self, channels: int) -> dict[str, int]:
        """
        Share channels out between heads.

        Args:
            channels (`int`): Channels of a layer.

        Returns:
            `dict[str, int]`: `heads` and `dim_head`.
        """
        heads = self.num_heads or channels // self.dim_head
        return {"heads": heads, "dim_head": self.dim_head or channels // heads}

    def temporal(self) -> dict[str, object]:
        """
        Arguments of a [`~diffusers_video.layers.frame_attention.FrameAttention`].

        Returns:
            `dict[str, Any]`
        """
        return {
            "relative_positions": self.relative_positions,
            "max_distance": self.max_distance,
            "dropout": self.dropout,
        }


class VideoGroupNorm(nn.GroupNorm):
    """
    Group normalisation of frames: each on its own, or with statistics of the whole video.

    Args:
        num_groups (`int`): Groups.
        channels (`int`): Channels, a multiple of `num_groups`.
        eps (`float`): Epsilon.
        is_joint (`bool`): Whether all frames of a video share statistics.
    """

    def __init__(self, num_groups: int, channels: int, eps: float, is_joint: bool) -> None:
        super().__init__(num_groups, channels, eps=eps)
        self.is_joint = is_joint

    def forward(self, images: Tensor, num_frames: int) -> Tensor:
        """
        Normalise.

        Args:
            images (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.
            num_frames (`int`): Frames per video.

        Returns:
            `torch.Tensor` of the same shape.
        """
        if not self.is_joint:
            return super().forward(images)
        return videos_to_images(super().forward(images_to_videos(images, num_frames)))


class PixelGroupNorm(nn.GroupNorm):
    """
    Group normalisation of each position on its own, over all its frames or frame by frame.

    Args:
        num_groups (`int`): Groups.
        channels (`int`): Channels, a multiple of `num_groups`.
        eps (`float`): Epsilon.
        is_joint (`bool`): Whether the frames of a position share statistics.
    """

    def __init__(self, num_groups: int, channels: int, eps: float, is_joint: bool) -> None:
        super().__init__(num_groups, channels, eps=eps)
        self.is_joint = is_joint

    def forward(self, tokens: Tensor) -> Tensor:
        """
        Normalise.

        Args:
            tokens (`torch.Tensor` of shape `(batch_size, num_frames, positions, channels)`): Tokens.

        Returns:
            `torch.Tensor` of the same shape.
        """
        if not self.is_joint:
            return super().forward(tokens.flatten(0, 2)).view(tokens.shape)
        sequences = frames_to_sequences(tokens)
        return sequences_to_frames(super().forward(sequences.transpose(1, 2)).transpose(1, 2), tokens.shape[0])


class AttentionPair(nn.Module):
    """
    An attention layer over the positions of each frame, then one over the frames of each position; a new pair is the
    identity.

    Args:
        channels (`int`): Channels of input and output.
        options ([`AttentionOptions`]): What the layers are like.

    Source:
        VDM (arXiv:2204.03458), Section 3; LVDM (arXiv:2211.13221), `STAttentionBlock` of its released code.
    """

    def __init__(self, channels: int, options: AttentionOptions) -> None:
        super().__init__()
        heads = options.heads_of(channels)
        self.spatial_attention = Attention(
            query_dim=channels,
            **heads,
            bias=True,
            dropout=options.dropout,
            norm_num_groups=options.num_groups,
            eps=1e-5,
            residual_connection=True,
        )
        zero_init(self.spatial_attention.to_out[0])
        self.temporal_norm = PixelGroupNorm(options.num_groups, channels, 1e-5, options.is_temporal_joint)
        self.temporal_attention = FrameAttention(channels, **heads, bias=True, **options.temporal())

    def forward(self, hidden_states: Tensor, clip: Clip) -> Tensor:
        """
        Attend within frames, then between frames.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `torch.Tensor` of the same shape.
        """
        tokens = self.spatial_attention(maps_to_tokens(hidden_states))
        tokens_BFSC = tokens.unflatten(0, (-1, clip.num_frames))
        mixed = self.temporal_attention(self.temporal_norm(tokens_BFSC), clip.frame_visibility)
        return tokens_to_maps((tokens_BFSC + mixed).flatten(0, 1), hidden_states.shape[-2])


class FactorisedTransformerBlock(nn.Module):
    """
    Self-attention in space, in time, to the text, in time again, and a feed-forward layer; without the steps of an
    axis that it does not have.

    Args:
        channels (`int`): Channels of input and output.
        options ([`AttentionOptions`]): What the layers are like.
        has_space (`bool`): Whether it attends in space and to the text.
        has_time (`bool`): Whether it attends in time.
        heads (`dict[str, int]`): `heads` and `dim_head` of the attention layers.

    Source:
        LVDM (arXiv:2211.13221), `SpatialTemporalTransformer` of its released code.
    """

    def __init__(
        self, channels: int, options: AttentionOptions, has_space: bool, has_time: bool, heads: dict[str, int]
    ) -> None:
        super().__init__()
        self.norm1 = self.attn1 = self.norm2 = self.attn2 = None
        self.temporal_norm1 = self.temporal_attn1 = self.temporal_norm2 = self.temporal_attn2 = None
        if has_space:
            self.norm1 = nn.LayerNorm(channels)
            self.attn1 = Attention(query_dim=channels, **heads, dropout=options.dropout)
        if has_space and options.cross_attention_dim is not None:
            self.norm2 = nn.LayerNorm(channels)
            self.attn2 = PerVideoAttention(
                query_dim=channels,
                cross_attention_dim=options.cross_attention_dim,
                **heads,
                dropout=options.dropout,
            )
        if has_time:
            self.temporal_norm1, self.temporal_norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
            self.temporal_attn1 = FrameAttention(channels, **heads, **options.temporal())
            self.temporal_attn2 = FrameAttention(channels, **heads, **options.temporal())
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, dropout=options.dropout, activation_fn="geglu")

    def forward(self, hidden_states: Tensor, clip: Clip) -> Tensor:
        """
        Run the steps, each added to its input.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, positions, channels)`): Tokens.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `torch.Tensor` of the same shape.
        """
        if self.attn1 is not None:
            hidden_states = hidden_states + self.attn1(self.norm1(hidden_states))
        if self.temporal_attn1 is not None:
            hidden_states = self._attend_in_time(hidden_states, self.temporal_norm1, self.temporal_attn1, clip)
        if self.attn2 is not None:
            text, mask = clip.encoder_hidden_states, clip.encoder_attention_mask
            hidden_states = hidden_states + self.attn2(self.norm2(hidden_states), text, mask)
        if self.temporal_attn2 is not None:
            hidden_states = self._attend_in_time(hidden_states, self.temporal_norm2, self.temporal_attn2, clip)
        return hidden_states + self.ff(self.norm3(hidden_states))

    def _attend_in_time(self, tokens: Tensor, norm: nn.LayerNorm, attention: FrameAttention, clip: Clip) -> Tensor:
        tokens_BFSC = norm(tokens).unflatten(0, (-1, clip.num_frames))
        return tokens + attention(tokens_BFSC, clip.frame_visibility).flatten(0, 1)


class FactorisedTransformer(nn.Module):
    """
    Normalisation, blocks of transformers between two projections, and the input added; a new one is the identity.

    Args:
        channels (`int`): Channels of input and output.
        options ([`AttentionOptions`]): What the layers are like.
        has_space (`bool`, *optional*, defaults to `True`): Whether it attends in space and to the text.
        has_time (`bool`, *optional*, defaults to `True`): Whether it attends in time.
        num_heads (`int`, *optional*): Heads of `dim_head` channels each, where they are not to fill the channels.

    Source:
        LVDM (arXiv:2211.13221), `SpatialTemporalTransformer` of its released code; with one axis VideoCrafter
        (arXiv:2310.19512), `SpatialTransformer` and `TemporalTransformer`.
    """

    def __init__(
        self,
        channels: int,
        options: AttentionOptions,
        *,
        has_space: bool = True,
        has_time: bool = True,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        heads = options.heads_of(channels)
        if num_heads is not None:
            heads["heads"] = num_heads
        inner = heads["heads"] * heads["dim_head"]
        is_joint = has_time and (options.is_joint if has_space else options.is_temporal_joint)
        self.norm = VideoGroupNorm(options.num_groups, channels, 1e-6, is_joint)
        self.proj_in = nn.Linear(channels, inner)
        self.transformer_blocks = nn.ModuleList(
            FactorisedTransformerBlock(inner, options, has_space, has_time, heads) for _ in range(options.depth)
        )
        self.proj_out = nn.Linear(inner, channels)
        zero_init(self.proj_out)

    def forward(self, hidden_states: Tensor, clip: Clip) -> Tensor:
        """
        Add what the blocks compute.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `torch.Tensor` of the same shape.
        """
        tokens = self.proj_in(maps_to_tokens(self.norm(hidden_states, clip.num_frames)))
        for block in self.transformer_blocks:
            tokens = block(tokens, clip)
        return hidden_states + tokens_to_maps(self.proj_out(tokens), hidden_states.shape[-2])


class TransformerPair(nn.Module):
    """
    A transformer in space, then one in time.

    Args:
        channels (`int`): Channels of input and output.
        options ([`AttentionOptions`]): What the layers are like.

    Source:
        VideoCrafter (arXiv:2310.19512) and its released U-Net.
    """

    def __init__(self, channels: int, options: AttentionOptions) -> None:
        super().__init__()
        self.spatial_transformer = FactorisedTransformer(channels, options, has_time=False)
        self.temporal_transformer = FactorisedTransformer(channels, options, has_space=False)

    def forward(self, hidden_states: Tensor, clip: Clip) -> Tensor:
        """
        Attend within frames, then between frames.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `torch.Tensor` of the same shape.
        """
        return self.temporal_transformer(self.spatial_transformer(hidden_states, clip), clip)


def build_attention(channels: int, options: AttentionOptions) -> nn.Module:
    """
    Build what stands behind a residual block.

    Args:
        channels (`int`): Channels of the block.
        options ([`AttentionOptions`]): Of which kind.

    Returns:
        `torch.nn.Module`: Called with features `(batch_size * num_frames, channels, height, width)` and the clip.
    """
    kinds = {"pair": AttentionPair, "interleaved": FactorisedTransformer, "sequential": TransformerPair}
    return kinds[options.kind](channels, options)


def isolate_images(image_only: Tensor) -> Tensor:
    """
    Let frames that are independent images see themselves only, and be seen by no other frame.

    Args:
        image_only (`torch.Tensor` of shape `(batch_size, num_frames)` and type `torch.bool`): `True` for images.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames, num_frames)`: `True` where the frame of the row may see the
        frame of the column.

    Source:
        VDM (arXiv:2204.03458), Section 3: independent images behind the frames of a video.
    """
    of_video = ~image_only
    itself = torch.eye(image_only.shape[1], dtype=torch.bool, device=image_only.device)
    return (of_video[:, :, None] & of_video[:, None, :]) | itself
