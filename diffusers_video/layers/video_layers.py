"""
diffusers' leaf layers with temporal layers standing on them.

Each class subclasses a layer of diffusers and takes its place inside diffusers' unchanged blocks. A built layer is
turned into its video class in place by [`make_video_layer`], so that no weight moves and no weight is renamed.
"""

from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import KAttentionBlock
from torch import Tensor, nn

from .clip import Clip
from .context_embedding import fit_context
from .frame_adaptor import AdaptedBlock, FrameAdaptor
from .layout import images_to_videos, maps_to_tokens, match_strides, tokens_to_maps
from .temporal_attention import PerVideoAttention, repeat_rows, zero_init
from .temporal_resnet import TemporalResnetBlock
from .temporal_transformer import FramePositionEmbedding, TemporalTransformerBlock, apply_temporal_block
from .time_mixer import TimeMixer, add_residual


# Shapes: B videos, C channels, F frames, H height, W width, S = H * W positions; N = B * F images.

TEMPORAL_MODULES = frozenset(
    {
        "temporal_res_block",
        "temporal_transformer_blocks",
        "time_pos_embed",
        "time_mixer",
        "clip_embedding",
        "context_embedding",
        "context_proj",
        "time_conv_out",
        "frame_adaptor",
        "sampler_adaptors",
    }
)


@dataclass(frozen=True, kw_only=True)
class TemporalOptions:
    """
    What stands on the layers of an image model.

    Args:
        conv (`bool`, *optional*, defaults to `True`): Temporal residual blocks behind spatial residual blocks.
        self_attention (`bool`, *optional*, defaults to `True`): Attention over time behind spatial attention.
        second_self_attention (`bool`, *optional*, defaults to `False`): Another one where text would be attended to.
        cross_attention (`bool`, *optional*, defaults to `True`): Attention of the temporal layers to the text.
        feed_forward (`bool`, *optional*, defaults to `True`): Feed-forward layers around the temporal attention.
        mixing (`str`, *optional*, defaults to `"learned"`): See [`TimeMixer`].
        norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the group norms of the temporal residual blocks.
        dropout (`float`, *optional*, defaults to 0.0): Dropout in the temporal layers.
        upcast_attention (`bool`, *optional*, defaults to `False`): Attention scores in float32, as the image model.
        context_widths (`tuple[int, ...]`, *optional*, defaults to `()`): Channels of the maps of given frames that the
            temporal residual blocks read, one per level; empty for layers that read none. Without these blocks the
            temporal attention layers read them.
        frame_adaptor (`int`, *optional*): Frames of the clips that scales and shifts per frame are trained on, which
            stand behind convolutions; `None` builds none.
    """

    conv: bool = True
    self_attention: bool = True
    second_self_attention: bool = False
    cross_attention: bool = True
    feed_forward: bool = True
    mixing: str = "learned"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    upcast_attention: bool = False
    context_widths: tuple[int, ...] = ()
    frame_adaptor: int | None = None


class _VideoResnet(nn.Module):
    """A residual block that reads the clip where its blocks pass the time embedding."""

    spatial_class: type[nn.Module]

    def add_temporal_layers(self, options: TemporalOptions, temb_channels: int | None, level: int) -> None:
        self.temporal_res_block = self.time_mixer = self.frame_adaptor = self.temporal_attention = None
        self.context_level = level if options.context_widths else None
        if options.frame_adaptor is not None:
            self.frame_adaptor = nn.ModuleDict(
                {
                    "after_conv1": FrameAdaptor(options.frame_adaptor, self.conv1.out_channels),
                    "after_conv2": FrameAdaptor(options.frame_adaptor, self.conv2.out_channels),
                }
            )
        if options.conv and not (self.up or self.down):  # residual blocks used as down- or up-samplers stay spatial
            self.temporal_res_block = TemporalResnetBlock(
                self.conv2.out_channels,
                temb_channels,
                num_groups=self.norm2.num_groups,
                eps=options.norm_eps,
                dropout=options.dropout,
                context_channels=options.context_widths[level] if options.context_widths else None,
            )
            self.time_mixer = TimeMixer(options.mixing)

    def forward(self, input_tensor: Tensor, temb: Clip) -> Tensor:
        clip = temb
        block = self if self.frame_adaptor is None else AdaptedBlock(self, clip)
        hidden_states = self.spatial_class.forward(block, input_tensor, clip.temb)
        if self.temporal_res_block is not None:
            hidden_states = self._mix_neighbours(hidden_states, clip)
        return hidden_states if self.temporal_attention is None else self.temporal_attention(hidden_states, clip)

    def _mix_neighbours(self, hidden_states: Tensor, clip: Clip) -> Tensor:  # NCHW -> NCHW
        hidden_BCFHW = images_to_videos(hidden_states, clip.num_frames)
        context = None if self.context_level is None else clip.context[self.context_level]
        residual_BCFHW = self.temporal_res_block(hidden_BCFHW, clip.temb, context)
        weight = self.time_mixer(hidden_states, clip.image_only)
        mixed = add_residual(hidden_BCFHW.transpose(1, 2), residual_BCFHW.transpose(1, 2), weight).flatten(0, 1)
        return match_strides(mixed, hidden_states)


class VideoResnetBlock2D(_VideoResnet, ResnetBlock2D):
    """`ResnetBlock2D` followed by a temporal residual block (VideoLDM, arXiv:2304.08818, Figure 4)."""

    spatial_class = ResnetBlock2D


class VideoResnetBlockCondNorm2D(_VideoResnet, ResnetBlockCondNorm2D):
    """`ResnetBlockCondNorm2D` followed by a temporal residual block."""

    spatial_class = ResnetBlockCondNorm2D


class VideoLayerWithAttention(nn.Module):
    """An attention layer with a stack of temporal transformer blocks."""

    def add_temporal_layers(
        self,
        options: TemporalOptions,
        *,
        channels: int,
        heads: int,
        dim_head: int,
        text_dim: int | None,
        depth: int,
        level: int = 0,
    ) -> None:
        """
        Put temporal transformer blocks onto the layer; new ones change nothing.

        Args:
            options ([`TemporalOptions`]): What the blocks are made of; with nothing in them there will be none.
            channels (`int`): Channels of the tokens.
            heads (`int`): Number of attention heads.
            dim_head (`int`): Channels of a head.
            text_dim (`int`, *optional*): Width of the text, where the layer reads one.
            depth (`int`): Number of blocks.
            level (`int`, *optional*, defaults to 0): Level of the U-Net that the layer stands on.
        """
        self.temporal_transformer_blocks = self.time_pos_embed = self.time_mixer = self.context_proj = None
        self.context_level = level
        text_dim = text_dim if options.cross_attention else None
        if options.self_attention or options.feed_forward or text_dim is not None:
            self.temporal_transformer_blocks = nn.ModuleList(
                TemporalTransformerBlock(
                    channels,
                    heads,
                    dim_head,
                    cross_attention_dim=text_dim,
                    use_self_attention=options.self_attention,
                    use_second_self_attention=options.second_self_attention,
                    use_feed_forward=options.feed_forward,
                    dropout=options.dropout,
                    upcast_attention=options.upcast_attention,
                )
                for _ in range(depth)
            )
            self.time_pos_embed = FramePositionEmbedding(channels)
            self.time_mixer = TimeMixer(options.mixing)
            if options.context_widths and not options.conv:
                self.context_proj = nn.Conv2d(options.context_widths[level], channels, kernel_size=1)
                zero_init(self.context_proj)

    def _embed_frames(self, tokens: Tensor, clip: Clip, height: int) -> Tensor:
        """What temporal blocks are told of each frame, `(F, 1, C)` or `(B, F, S, C)`: its place, and what is given."""
        embedded = self.time_pos_embed(clip.num_frames, tokens)[:, None]
        if self.context_proj is None:
            return embedded
        context = fit_context(self.context_proj(clip.context[self.context_level]), (height, tokens.shape[1] // height))
        return embedded + maps_to_tokens(context).unflatten(0, (-1, clip.num_frames))

    def _mix_maps(self, maps: Tensor, clip: Clip) -> Tensor:  # NCHW -> NCHW, behind a layer that returns maps
        if self.temporal_transformer_blocks is None:
            return maps
        tokens = maps_to_tokens(maps)
        embedded = self._embed_frames(tokens, clip, maps.shape[-2])
        for block in self.temporal_transformer_blocks:
            tokens = apply_temporal_block(block, tokens, embedded, self.time_mixer, clip)
        return match_strides(tokens_to_maps(tokens, maps.shape[-2]), maps)


class TemporalAttentionLayer(VideoLayerWithAttention):
    """Temporal transformer blocks on the maps of a layer that has no attention of its own."""

    def forward(self, maps: Tensor, clip: Clip) -> Tensor:
        """
        Mix the frames.

        Args:
            maps (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `torch.Tensor` of the shape of `maps`.
        """
        return self._mix_maps(maps, clip)


class VideoTransformer2DModel(VideoLayerWithAttention, Transformer2DModel):
    """
    `Transformer2DModel` with a temporal block behind each of its spatial blocks, inside its own projections.

    Source:
        Stable Video Diffusion's `SpatialVideoTransformer` (arXiv:2311.15127); one mixing scalar serves all depths.
    """

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        class_labels: Tensor | None = None,
        cross_attention_kwargs: dict[str, object] | None = None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        clip, cross_attention_kwargs = split_clip(cross_attention_kwargs)
        images, _, height, width = hidden_states.shape
        residual = hidden_states
        tokens, inner_dim = self._operate_on_continuous_inputs(hidden_states)
        embedded = None
        checkpoint = (
            self._gradient_checkpointing_func if torch.is_grad_enabled() and self.gradient_checkpointing else None
        )
        for index, block in enumerate(self.transformer_blocks):
            arguments = (tokens, attention_mask, encoder_hidden_states, encoder_attention_mask, timestep)
            arguments += (cross_attention_kwargs, class_labels)
            tokens = block(*arguments) if checkpoint is None else checkpoint(block, *arguments)
            if self.temporal_transformer_blocks is not None:
                if embedded is None:  # made here: the peak of memory lies in the spatial block
                    embedded = self._embed_frames(tokens, clip, height)
                temporal_block = self.temporal_transformer_blocks[index]
                tokens = apply_temporal_block(temporal_block, tokens, embedded, self.time_mixer, clip, checkpoint)
        output = self._get_output_for_continuous_inputs(tokens, residual, images, height, width, inner_dim)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)


class VideoKAttentionBlock(VideoLayerWithAttention, KAttentionBlock):
    """`KAttentionBlock` (latent upscaler) followed by a temporal transformer block."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        emb: Clip | None = None,
        attention_mask: Tensor | None = None,
        cross_attention_kwargs: dict[str, object] | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        clip, cross_attention_kwargs = split_clip(cross_attention_kwargs)
        hidden_states = super().forward(
            hidden_states,
            encoder_hidden_states,
            clip.temb,
            attention_mask,
            cross_attention_kwargs,
            encoder_attention_mask,
        )
        return self._mix_maps(hidden_states, clip)


class VideoAttention(VideoLayerWithAttention, PerVideoAttention):
    """Plain `Attention` on maps (DeepFloyd IF's blocks) followed by a temporal transformer block."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **cross_attention_kwargs: object,
    ) -> Tensor:
        clip, cross_attention_kwargs = split_clip(cross_attention_kwargs)
        hidden_states = super().forward(
            hidden_states, encoder_hidden_states, attention_mask, **(cross_attention_kwargs or {})
        )
        return self._mix_maps(hidden_states, clip)


def split_clip(cross_attention_kwargs: dict[str, object]) -> tuple[Clip, dict[str, object] | None]:
    """
    Take the clip out of the keyword arguments that diffusers' blocks hand to attention layers.

    Args:
        cross_attention_kwargs (`dict`): Keyword arguments with the entry `"clip"`; left unchanged.

    Returns:
        `tuple` of [`Clip`] and `dict`: the clip, and the arguments meant for attention processors, `None` if none.
    """
    others = {key: value for key, value in cross_attention_kwargs.items() if key != "clip"}
    return cross_attention_kwargs["clip"], others or None


def make_video_layer(layer: nn.Module, options: TemporalOptions, temb_channels: int | None, level: int = 0) -> None:
    """
    Turn a layer of diffusers into its video class, in place; layers of other types are left alone.

    Args:
        layer (`torch.nn.Module`): A built layer of an image model.
        options ([`TemporalOptions`]): What is put onto it.
        temb_channels (`int`, *optional*): Width of the time embedding; `None` for models without one.
        level (`int`, *optional*, defaults to 0): Level of the U-Net that the layer stands on, 0 being the finest.
    """
    if type(layer) in (ResnetBlock2D, ResnetBlockCondNorm2D):
        layer.__class__ = VideoResnetBlock2D if type(layer) is ResnetBlock2D else VideoResnetBlockCondNorm2D
        layer.add_temporal_layers(options, temb_channels, level)
    elif type(layer) is Transformer2DModel:
        layer.__class__ = VideoTransformer2DModel
        _make_attention_per_video(layer)
        layer.add_temporal_layers(
            options,
            channels=layer.inner_dim,
            heads=layer.num_attention_heads,
            dim_head=layer.attention_head_dim,
            text_dim=layer.config.cross_attention_dim,
            depth=len(layer.transformer_blocks),
            level=level,
        )
    elif type(layer) is KAttentionBlock:
        layer.__class__ = VideoKAttentionBlock
        _make_attention_per_video(layer)
        _add_to_attention(layer, layer.attn2, options, level)
    elif type(layer) is Attention:
        layer.__class__ = VideoAttention
        _add_to_attention(layer, layer, options, level)


def _make_attention_per_video(layer: nn.Module) -> None:
    for module in layer.modules():
        if type(module) is Attention:
            module.__class__ = PerVideoAttention


def _add_to_attention(
    layer: VideoLayerWithAttention, attention: Attention, options: TemporalOptions, level: int
) -> None:
    is_text_read = attention.is_cross_attention or attention.added_kv_proj_dim is not None
    layer.add_temporal_layers(
        options,
        channels=attention.query_dim,
        heads=attention.heads,
        dim_head=attention.inner_dim // attention.heads,
        text_dim=(attention.added_kv_proj_dim or attention.cross_attention_dim) if is_text_read else None,
        depth=1,
        level=level,
    )


def is_temporal(name: str) -> bool:
    """
    Tell whether a parameter belongs to the temporal layers.

    Args:
        name (`str`): Dotted name of a parameter, buffer or module of a video model.

    Returns:
        `bool`: `True` for temporal layers, `False` for those of the image model.
    """
    return not TEMPORAL_MODULES.isdisjoint(name.split("."))


def repeat_for_frames(value: object, batch_size: int, num_frames: int, name: str = "") -> object:
    """
    Give every frame its row of a condition that may come once per video or once per frame.

    Args:
        value (`torch.Tensor`, `tuple`, `list`, `dict` or `None`): Condition with one row per video or per frame.
        batch_size (`int`): Number of videos.
        num_frames (`int`): Frames per video.
        name (`str`, *optional*): Name of the argument, for the error.

    Returns:
        The condition with `batch_size * num_frames` rows.

    Raises:
        ValueError: If a tensor has another number of rows.
    """
    if isinstance(value, dict):
        return {key: repeat_for_frames(item, batch_size, num_frames, key) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(repeat_for_frames(item, batch_size, num_frames, name) for item in value)
    if not isinstance(value, Tensor) or value.shape[0] == batch_size * num_frames:
        return value
    if value.shape[0] != batch_size:
        raise ValueError(
            f"`{name}` must have one row per video ({batch_size}) or per frame ({batch_size * num_frames}), but has"
            f" {value.shape[0]}. Pass one row per video; the model repeats it."
        )
    return repeat_rows(value, num_frames)
