"""Blocks of a factorised space-time U-Net: convolutions in space only, attention in space and in time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from .clip import Clip
from .factorised_attention import AttentionOptions, VideoGroupNorm, build_attention
from .temporal_attention import zero_init


# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images.


@dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """
    What the blocks of a factorised U-Net are like.

    Args:
        temb_channels (`int`): Width of the time embedding.
        time_scale_shift (`str`): How residual blocks read it: `"default"` (added) or `"scale_shift"`.
        num_groups (`int`): Groups of the normalisations.
        norm_eps (`float`): Their epsilon in residual blocks.
        is_joint (`bool`): Whether the frames of a video share statistics in residual blocks.
        dropout (`float`): Dropout in residual blocks.
        attention ([`AttentionOptions`]): What attention layers are like.
    """

    temb_channels: int
    time_scale_shift: str
    num_groups: int
    norm_eps: float
    is_joint: bool
    dropout: float
    attention: AttentionOptions


class SpaceTimeResnetBlock(ResnetBlock2D):
    """
    A residual block of 2D convolutions whose normalisations may take in all frames; a new one adds nothing.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        options ([`BlockOptions`]): What it is like.

    Source:
        VDM (arXiv:2204.03458), Section 3: convolutions of 1x3x3; LVDM (arXiv:2211.13221) and its released code, where
        statistics are shared by all frames.
    """

    def __init__(self, in_channels: int, out_channels: int, options: BlockOptions) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            dropout=options.dropout,
            temb_channels=options.temb_channels,
            groups=options.num_groups,
            eps=options.norm_eps,
            time_embedding_norm=options.time_scale_shift,
        )
        self.norm1, self.norm2 = (
            VideoGroupNorm(options.num_groups, channels, options.norm_eps, options.is_joint)
            for channels in (in_channels, out_channels)
        )
        zero_init(self.conv2)

    def forward(self, hidden_states: Tensor, clip: Clip) -> Tensor:
        """
        Add the residual.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, in_channels, height, width)`): Features.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `torch.Tensor` of shape `(batch_size * num_frames, out_channels, height, width)`.
        """
        residual = self.conv1(self.nonlinearity(self.norm1(hidden_states, clip.num_frames)))
        temb = self.time_emb_proj(self.nonlinearity(clip.temb))[:, :, None, None]
        if self.time_embedding_norm == "scale_shift":
            scale, shift = temb.chunk(2, dim=1)
            residual = self.norm2(residual, clip.num_frames) * (1 + scale) + shift
        else:
            residual = self.norm2(residual + temb, clip.num_frames)
        residual = self.conv2(self.dropout(self.nonlinearity(residual)))
        return residual + (hidden_states if self.conv_shortcut is None else self.conv_shortcut(hidden_states))


class SpaceTimeBlockBase(nn.Module):
    """
    Residual blocks, each with attention behind it where the level has attention.

    Args:
        widths (`Iterable[tuple[int, int]]`): Channels of input and output of each residual block.
        options ([`BlockOptions`]): What they are like.
        attention_after (`Iterable[bool]`): For each of them, whether attention stands behind it.
    """

    def __init__(
        self, widths: Iterable[tuple[int, int]], options: BlockOptions, attention_after: Iterable[bool]
    ) -> None:
        super().__init__()
        widths = list(widths)
        self.resnets = nn.ModuleList(SpaceTimeResnetBlock(*pair, options) for pair in widths)
        self.attentions = nn.ModuleList(
            build_attention(width, options.attention)
            for (_, width), is_attending in zip(widths, attention_after, strict=True)
            if is_attending
        )
        self.gradient_checkpointing = False

    @property
    def run_layer(self) -> Callable[..., Tensor]:
        """`Callable`: Runs a layer, saving the memory of its activations where checkpointing is on."""
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func
        return _call

    def run_layers(self, index: int, hidden_states: Tensor, clip: Clip) -> Tensor:
        """
        Run a residual block and the attention behind it.

        Args:
            index (`int`): Which one.
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `torch.Tensor` of shape `(batch_size * num_frames, out_channels, height, width)`.
        """
        hidden_states = self.run_layer(self.resnets[index], hidden_states, clip)
        if index < len(self.attentions):
            hidden_states = self.run_layer(self.attentions[index], hidden_states, clip)
        return hidden_states


class SpaceTimeDownBlock(SpaceTimeBlockBase):
    """
    A level of the way down.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        num_layers (`int`): Residual blocks.
        options ([`BlockOptions`]): What they are like.
        has_attention (`bool`): Whether each has attention behind it.
        has_downsampler (`bool`): Whether a convolution at the end halves height and width.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_layers: int,
        options: BlockOptions,
        *,
        has_attention: bool,
        has_downsampler: bool,
    ) -> None:
        widths = [(in_channels, out_channels), *[(out_channels, out_channels)] * (num_layers - 1)]
        super().__init__(widths, options, [has_attention] * num_layers)
        self.downsamplers = nn.ModuleList()
        if has_downsampler:
            self.downsamplers.append(Downsample2D(out_channels, use_conv=True, padding=1, name="op"))

    def forward(self, hidden_states: Tensor, clip: Clip) -> tuple[Tensor, list[Tensor]]:
        """
        Run the level.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, in_channels, height, width)`): Features.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `tuple[torch.Tensor, list[torch.Tensor]]`: Features of `out_channels`, and those for the way up.
        """
        skips = []
        for index in range(len(self.resnets)):
            hidden_states = self.run_layers(index, hidden_states, clip)
            skips.append(hidden_states)
        for downsampler in self.downsamplers:
            hidden_states = downsampler(hidden_states)
            skips.append(hidden_states)
        return hidden_states, skips


class SpaceTimeMidBlock(SpaceTimeBlockBase):
    """
    A residual block, attention, and a residual block.

    Args:
        channels (`int`): Channels of input and output.
        options ([`BlockOptions`]): What they are like.
    """

    def __init__(self, channels: int, options: BlockOptions) -> None:
        super().__init__([(channels, channels)] * 2, options, [True, False])

    def forward(self, hidden_states: Tensor, clip: Clip) -> Tensor:
        """
        Run the block.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `torch.Tensor` of the same shape.
        """
        return self.run_layers(1, self.run_layers(0, hidden_states, clip), clip)


class SpaceTimeUpBlock(SpaceTimeBlockBase):
    """
    A level of the way up.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        skip_channels (`list[int]`): Channels of what comes from the way down, for each residual block.
        options ([`BlockOptions`]): What they are like.
        has_attention (`bool`): Whether each has attention behind it.
        has_upsampler (`bool`): Whether height and width are doubled at the end.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        skip_channels: list[int],
        options: BlockOptions,
        *,
        has_attention: bool,
        has_upsampler: bool,
    ) -> None:
        inputs = [in_channels, *[out_channels] * (len(skip_channels) - 1)]
        widths = [(width + skip, out_channels) for width, skip in zip(inputs, skip_channels, strict=True)]
        super().__init__(widths, options, [has_attention] * len(widths))
        self.upsamplers = nn.ModuleList()
        if has_upsampler:
            self.upsamplers.append(Upsample2D(out_channels, use_conv=True))

    def forward(
        self, hidden_states: Tensor, skips: list[Tensor], clip: Clip, size: tuple[int, int] | None = None
    ) -> Tensor:
        """
        Run the level.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, in_channels, height, width)`): Features.
            skips (`list[torch.Tensor]`): From the way down, the latest last.
            clip ([`Clip`]): The clip they belong to.
            size (`tuple[int, int]`, *optional*): Height and width to come out, where they are not twice as large.

        Returns:
            `torch.Tensor` of shape `(batch_size * num_frames, out_channels, height, width)`.
        """
        for index, skip in enumerate(reversed(skips)):
            hidden_states = self.run_layers(index, torch.cat([hidden_states, skip], dim=1), clip)
        for upsampler in self.upsamplers:
            hidden_states = upsampler(hidden_states, size)
        return hidden_states


def _call(layer: nn.Module, *arguments: object) -> Tensor:
    return layer(*arguments)
