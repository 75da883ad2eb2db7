"""A layer of the triplane U-Net: residual blocks and attention within each plane, then attention across the planes."""

# Shapes: B videos, C channels, L positions of all planes, D time embedding; a group is K neighbouring planes of one
# shape, (B * K, C, rows, columns), the planes of a video side by side.

from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from .attention_backend import DispatchedAttnProcessor
from .layout import maps_to_tokens, tokens_to_maps
from .temporal_attention import zero_init
from .triplane import groups_to_tokens, tokens_to_groups


@dataclass(frozen=True, kw_only=True)
class TriplaneLayerOptions:
    """
    What all layers of a triplane U-Net have in common.

    Args:
        temb_channels (`int`): Width of the time embedding.
        num_attention_heads (`int`): Attention heads, of both kinds of attention.
        norm_num_groups (`int`): Groups of the normalisations.
        norm_eps (`float`): Their epsilon.
    """

    temb_channels: int
    num_attention_heads: int
    norm_num_groups: int
    norm_eps: float


class NormedAttention(nn.Module):
    """
    Self-attention over tokens behind a group normalisation, added to its input; a new one adds nothing.

    Args:
        channels (`int`): Channels of input and output.
        options ([`TriplaneLayerOptions`]): Heads and normalisation.
    """

    def __init__(self, channels: int, options: TriplaneLayerOptions) -> None:
        super().__init__()
        heads = options.num_attention_heads
        self.norm = nn.GroupNorm(options.norm_num_groups, channels, eps=options.norm_eps)
        self.attn = Attention(
            query_dim=channels, heads=heads, dim_head=channels // heads, bias=True, processor=DispatchedAttnProcessor()
        )
        zero_init(self.attn.to_out[0])

    def forward(self, tokens: Tensor) -> Tensor:
        """
        Let tokens attend to each other.

        Args:
            tokens (`torch.Tensor` of shape `(batch_size, positions, channels)`): One row each.

        Returns:
            `torch.Tensor` of the shape of `tokens`.
        """
        # As a map of one column, which is normalised in the order of memory that it has.
        normed = maps_to_tokens(self.norm(tokens_to_maps(tokens, tokens.shape[1])))
        return tokens + self.attn(normed)


class TriplaneLayer(nn.Module):
    """
    One layer: a residual block, attention, perhaps a second residual block, and attention across the planes.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        options ([`TriplaneLayerOptions`]): What all layers have in common.
        has_attention (`bool`, *optional*, defaults to `False`): Whether planes attend to themselves.
        resnet_out (`str`, *optional*): A second residual block behind that: `"plain"`, or `"up"`, which doubles rows
            and columns.
        is_down (`bool`, *optional*, defaults to `False`): Whether the first residual block halves rows and columns.

    Source:
        PVDM (arXiv:2302.07685), Section 3.3 and its code: blocks of ADM (arXiv:2105.05233) shared by the planes, and
        after each of them attention over the positions of all planes, which have no embedding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: TriplaneLayerOptions,
        *,
        has_attention: bool = False,
        resnet_out: str | None = None,
        is_down: bool = False,
    ) -> None:
        super().__init__()
        self.resnet = _make_resnet(in_channels, out_channels, options, down=is_down)
        self.attention = NormedAttention(out_channels, options) if has_attention else None
        self.resnet_out = None
        if resnet_out is not None:
            self.resnet_out = _make_resnet(out_channels, out_channels, options, up=resnet_out == "up")
        self.cross_attention = NormedAttention(out_channels, options)

    def forward(self, planes: list[Tensor], tembs: list[Tensor], batch_size: int) -> list[Tensor]:
        """
        Work on all planes of the videos.

        Args:
            planes (`list[torch.Tensor]`): Groups of planes, `(batch_size * count, in_channels, rows, columns)` each.
            tembs (`list[torch.Tensor]`): Time embeddings, `(batch_size * count, temb_channels)` for each group.
            batch_size (`int`): Number of videos.

        Returns:
            `list[torch.Tensor]`: Groups of shape `(batch_size * count, out_channels, rows, columns)`.
        """
        planes = [self._within(group, temb) for group, temb in zip(planes, tembs, strict=True)]
        tokens = self.cross_attention(groups_to_tokens(planes, batch_size))
        return tokens_to_groups(tokens, [(len(group) // batch_size, *group.shape[2:]) for group in planes])

    def _within(self, group: Tensor, temb: Tensor) -> Tensor:
        group = self.resnet(group, temb)
        if self.attention is not None:
            group = tokens_to_maps(self.attention(maps_to_tokens(group)), group.shape[2])
        return group if self.resnet_out is None else self.resnet_out(group, temb)


def join_skips(planes: list[Tensor], skips: list[Tensor]) -> list[Tensor]:
    """
    Put the channels of an earlier layer behind those of the planes.

    Args:
        planes (`list[torch.Tensor]`): Groups of planes.
        skips (`list[torch.Tensor]`): The same groups of an earlier layer.

    Returns:
        `list[torch.Tensor]`: Groups with the channels of both.
    """
    return [torch.cat(pair, dim=1) for pair in zip(planes, skips, strict=True)]


def _make_resnet(
    in_channels: int, out_channels: int, options: TriplaneLayerOptions, *, down: bool = False, up: bool = False
) -> ResnetBlock2D:
    resnet = ResnetBlock2D(
        in_channels=in_channels,
        out_channels=out_channels,
        temb_channels=options.temb_channels,
        groups=options.norm_num_groups,
        eps=options.norm_eps,
        time_embedding_norm="scale_shift",
        down=down,
        up=up,
    )
    zero_init(resnet.conv2)
    return resnet
