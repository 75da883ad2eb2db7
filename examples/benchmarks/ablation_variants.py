"""
The temporal layers that the ablation compares: ours, and those of two peers, each on the same frozen image U-Net.

Every model is called as [`UNetVideoConditionModel`], with latents (B, C, F, H, W) and one text per video, has
gradients for its temporal layers alone, and starts as the image model: AnimateDiff and ModelScope begin their training
with the last projection of each temporal transformer at zero. diffusers' classes, made for trained weights, leave it
random and are not the identity; the adapters set it to zero.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, UNetMotionOutput
from torch import Tensor, nn

from diffusers_video.layers.temporal_attention import repeat_rows
from diffusers_video.layers.video_layers import VideoResnetBlock2D, VideoTransformer2DModel
from diffusers_video.models.unet_video_condition import PRESETS, UNetVideoConditionModel


# Shapes: B videos, C channels, F frames, H height, W width, L text tokens, D text width.

NO_TEMPORAL_LAYERS = {
    "temporal_conv": False,
    "temporal_attention": "none",
    "temporal_cross_attention": False,
    "temporal_feed_forward": False,
}
MIN_MOTION_FRAMES = 32  # positions of AnimateDiff's motion modules, in diffusers
MODELSCOPE_HEADS = 8  # of the transformer behind the first convolution
MODELSCOPE_DROPOUT = 0.1
MODELSCOPE_LAYERS = frozenset({"temp_conv", "temp_attention", "transformer_in"})


@dataclass(frozen=True, kw_only=True)
class Variant:
    """
    A kind of temporal layers.

    Args:
        what (`str`): Says in the report what the layers are.
        build (`Callable`): `(unet2d, num_frames) -> model`, for clips of that many frames.
        is_preset (`bool`, *optional*, defaults to `False`): Whether it is a preset of the package.
    """

    what: str
    build: Callable[[UNet2DConditionModel, int], nn.Module]
    is_preset: bool = False


def build_ours(
    unet2d: UNet2DConditionModel, num_frames: int, *, preset: str = "videoldm", **options: Any
) -> UNetVideoConditionModel:
    """Make our video U-Net; a preset with layers of one length gets that of the clips."""
    if PRESETS[preset].get("frame_adaptor"):
        options = {"frame_adaptor": num_frames, **options}
    model = UNetVideoConditionModel.from_unet2d(unet2d, preset, **options)
    model.freeze_spatial_layers()
    return model


class TimeAndText(nn.Module):
    """The time embedding of an image U-Net with `addition_embed_type="text"`, which reads the text as well."""

    def __init__(self, time_embedding: nn.Module, add_embedding: nn.Module) -> None:
        super().__init__()
        self.time_embedding, self.add_embedding = time_embedding, add_embedding

    def forward(self, time: Tensor, text: Tensor) -> Tensor:  # (B, width), (B, L, D) -> (B, embedding)
        return self.time_embedding(time) + self.add_embedding(text)


class MotionUNet(UNetMotionModel):
    """
    AnimateDiff's model in diffusers, called as ours: with one text per video, which also reaches the time embedding
    where the image model has it so. `UNetMotionModel` alone takes `addition_embed_type="text"` and ignores it.
    """

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        encoder_hidden_states: Tensor,
        *,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> UNetMotionOutput | tuple[Tensor]:
        return super().forward(
            sample,
            timestep,
            repeat_rows(encoder_hidden_states, sample.shape[2]),
            timestep_cond=encoder_hidden_states if isinstance(self.time_embedding, TimeAndText) else None,
            added_cond_kwargs=added_cond_kwargs,
            cross_attention_kwargs=cross_attention_kwargs,
            return_dict=return_dict,
        )


def build_animatediff(unet2d: UNet2DConditionModel, num_frames: int) -> MotionUNet:
    """
    Make AnimateDiff's model of an image U-Net, with new motion modules of the image U-Net's widths and heads.

    Args:
        unet2d ([`~diffusers.UNet2DConditionModel`]): With text alone as its condition; it is left as it is.
        num_frames (`int`): Frames of the clips.

    Returns:
        [`MotionUNet`]: Its motion modules train.

    Source:
        AnimateDiff (arXiv:2307.04725), Section 4.2: the output projections of new motion modules are zero.
    """
    config = unet2d.config
    adapter = MotionAdapter(
        block_out_channels=config.block_out_channels,
        motion_layers_per_block=config.layers_per_block,
        motion_num_attention_heads=config.num_attention_heads or config.attention_head_dim,
        motion_norm_num_groups=config.norm_num_groups,
        motion_max_seq_length=max(MIN_MOTION_FRAMES, num_frames),
    )
    model = MotionUNet.from_unet2d(unet2d, adapter)
    if config.addition_embed_type == "text":
        model.time_embedding = TimeAndText(model.time_embedding, copy.deepcopy(unet2d.add_embedding))
    for layer in model.modules():
        if isinstance(layer, AnimateDiffTransformer3D):
            zero(layer.proj_out)
    model.freeze_unet2d_params()
    model.register_to_config(added_time_ids=(), class_embed_type=None, num_class_embeds=None)  # pipelines ask for them
    return model


class ModelScopeResnet(VideoResnetBlock2D):
    """A spatial residual block, then ModelScope's block of four temporal convolutions."""

    def add_peer_layers(self) -> None:
        """Put the new layer behind the block."""
        channels, groups = self.conv2.out_channels, self.norm2.num_groups
        self.temp_conv = TemporalConvLayer(channels, channels, dropout=MODELSCOPE_DROPOUT, norm_num_groups=groups)

    def forward(self, input_tensor: Tensor, temb: Any) -> Tensor:
        return self.temp_conv(super().forward(input_tensor, temb), num_frames=temb.num_frames)


class ModelScopeTransformer(VideoTransformer2DModel):
    """A spatial transformer, then ModelScope's temporal one with two self-attentions."""

    def add_peer_layers(self) -> None:
        """Put the new layer behind the transformer, with its heads."""
        self.temp_attention = new_temporal_transformer(
            self.in_channels, self.num_attention_heads, self.attention_head_dim, self.norm.num_groups
        )

    def forward(
        self, hidden_states: Tensor, *, cross_attention_kwargs: dict[str, Any], **others: Any
    ) -> tuple[Tensor]:
        hidden_states = super().forward(hidden_states, cross_attention_kwargs=cross_attention_kwargs, **others)[0]
        num_frames = cross_attention_kwargs["clip"].num_frames
        return self.temp_attention(hidden_states, num_frames=num_frames, return_dict=False)


class ModelScopeUNet(UNetVideoConditionModel):
    """Our U-Net without temporal layers of its own, and with those of diffusers' `UNet3DConditionModel` instead."""

    def add_peer_layers(self) -> None:
        """Put the new layers behind the first convolution, every residual block and every transformer."""
        width = self.conv_in.out_channels
        self.transformer_in = new_temporal_transformer(
            width, MODELSCOPE_HEADS, max(width // MODELSCOPE_HEADS, 1), self.config.norm_num_groups
        )
        peers = {VideoResnetBlock2D: ModelScopeResnet, VideoTransformer2DModel: ModelScopeTransformer}
        for layer in list(self.modules()):
            if type(layer) in peers:
                layer.__class__ = peers[type(layer)]
                layer.add_peer_layers()

    def _run_blocks(self, images: Tensor, clip: Any, *others: Any) -> Tensor:
        images = self.transformer_in(images, num_frames=clip.num_frames, return_dict=False)[0]
        return super()._run_blocks(images, clip, *others)


def build_modelscope(unet2d: UNet2DConditionModel, num_frames: int) -> ModelScopeUNet:
    """
    Make a model with ModelScope's temporal layers of an image U-Net.

    Args:
        unet2d ([`~diffusers.UNet2DConditionModel`]): It is copied and left as it is.
        num_frames (`int`): Frames of the clips, which these layers need not know.

    Returns:
        [`ModelScopeUNet`]: Its temporal layers train.

    Source:
        ModelScopeT2V (arXiv:2308.06571), Section 3.2, with the layers and their places as in diffusers'
        `UNet3DConditionModel`.
    """
    model = ModelScopeUNet.from_unet2d(unet2d, **NO_TEMPORAL_LAYERS)
    model.add_peer_layers()
    nn.Module.to(model, unet2d.device, unet2d.dtype).train(unet2d.training)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not MODELSCOPE_LAYERS.isdisjoint(name.split(".")))
    return model


def new_temporal_transformer(channels: int, heads: int, dim_head: int, groups: int) -> TransformerTemporalModel:
    """Make ModelScope's temporal transformer, as the identity."""
    layer = TransformerTemporalModel(heads, dim_head, in_channels=channels, norm_num_groups=groups)
    zero(layer.proj_out)
    return layer


def zero(layer: nn.Linear) -> None:
    """Let a layer give zeros."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _preset(name: str, what: str) -> dict[str, Variant]:
    return {name: Variant(what=what, build=partial(build_ours, preset=name), is_preset=True)}


def _light(what: str, **options: Any) -> Variant:
    return Variant(what=what, build=partial(build_ours, preset="light", **options))


YARDSTICK = "image"
VARIANTS = {
    YARDSTICK: Variant(
        what="no temporal layers: the image model on each frame", build=partial(build_ours, **NO_TEMPORAL_LAYERS)
    ),
    **_preset("videoldm", 'preset "videoldm": convolution, self- and cross-attention, feed-forward'),
    **_preset("light", 'preset "light": convolution and self-attention'),
    **_preset("magicvideo", 'preset "magicvideo": frame adaptors and causal self-attention'),
    "attention": _light("self-attention only", temporal_conv=False),
    "convolution": _light("convolution only", temporal_attention="none"),
    "causal": _light('"light" with causal attention', temporal_attention="causal"),
    "text": _light('"light" with cross-attention to the text', temporal_cross_attention=True),
    "animatediff": Variant(what="AnimateDiff's motion modules (`UNetMotionModel`)", build=build_animatediff),
    "modelscope": Variant(what="ModelScope's layers, as in `UNet3DConditionModel`", build=build_modelscope),
}


def build_variant(name: str, unet2d: UNet2DConditionModel, num_frames: int) -> nn.Module:
    """
    Set an image U-Net in motion.

    Args:
        name (`str`): A key of `VARIANTS`.
        unet2d ([`~diffusers.UNet2DConditionModel`]): It is left as it is.
        num_frames (`int`): Frames of the clips.

    Returns:
        `torch.nn.Module`: Its new weights depend on PyTorch's seed.

    Raises:
        ValueError: If the image model wants more than text, or there is no such variant.
    """
    if name not in VARIANTS:
        raise ValueError(f"`name` must be one of {sorted(VARIANTS)}, but is {name!r}. Choose one of them.")
    if unet2d.config.addition_embed_type not in (None, "text") or unet2d.config.class_embed_type is not None:
        raise ValueError(
            "`unet2d` must read text alone, as Stable Diffusion 1.x and 2.x do, but has"
            f" addition_embed_type={unet2d.config.addition_embed_type!r} and"
            f" class_embed_type={unet2d.config.class_embed_type!r}. Take another image model."
        )
    return VARIANTS[name].build(unet2d, num_frames)


def count_trained(model: nn.Module) -> int:
    """Count the weights that train."""
    return sum(math.prod(value.shape) for value in model.parameters() if value.requires_grad)
