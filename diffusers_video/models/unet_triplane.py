"""The denoiser of PVDM: one 2D U-Net that the three planes share, joined by attention across them."""

# Shapes: B videos, C channels, L positions of all planes; f, h, w frames, height and width of the latents; a group is
# K neighbouring planes of one shape, (B * K, C, rows, columns).

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from ..layers.temporal_attention import zero_init
from ..layers.triplane import TriplaneSize, groups_to_tokens, tokens_to_groups
from ..layers.triplane_layer import TriplaneLayer, TriplaneLayerOptions, join_skips


class UNetTriplaneModel(ModelMixin, AttentionMixin, ConfigMixin):
    """
    A U-Net that denoises the three planes of a video, given those of the clip before it or none.

    Every layer is applied to each plane, then the positions of all planes attend to each other. Planes of one shape
    are computed together. Defaults are those of the paper's large model: 528M parameters; the small one has 128
    channels where this has 256, and 132M.

    Args:
        in_channels (`int`, *optional*, defaults to 4): Channels of the latents.
        out_channels (`int`, *optional*, defaults to 4): Channels of the output.
        sample_size (`int` or `tuple[int, int]`, *optional*, defaults to 32): Height and width of the latents, unless
            a call says otherwise.
        num_frames (`int`, *optional*, defaults to 16): Frames of the latents, unless a call says otherwise.
        block_out_channels (`tuple[int, ...]`, *optional*, defaults to `(256, 512, 1024, 1024)`): Channels of each
            level.
        layers_per_block (`int`, *optional*, defaults to 2): Layers of each level, one more on the way up.
        plane_attention (`tuple[bool, ...]`, *optional*, defaults to `(True, True, True, False)`): Whether planes
            attend to themselves on each level; in the middle they always do.
        num_attention_heads (`int`, *optional*, defaults to 8): Attention heads, a divisor of all widths.
        norm_num_groups (`int`, *optional*, defaults to 32): Groups of the normalisations, likewise.
        norm_eps (`float`, *optional*, defaults to 1e-5): Their epsilon.
        use_previous_clip (`bool`, *optional*, defaults to `True`): Whether the latents of the clip before are read,
            as `in_channels` further input channels.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        PVDM (arXiv:2302.07685), Section 3.3, and the configuration of its code.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["TriplaneLayer"]
    _repeated_blocks = ["TriplaneLayer"]
    _skip_layerwise_casting_patterns = ["norm", "time_embedding"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        *,
        sample_size: int | Sequence[int] = 32,
        num_frames: int = 16,
        block_out_channels: Sequence[int] = (256, 512, 1024, 1024),
        layers_per_block: int = 2,
        plane_attention: Sequence[bool] = (True, True, True, False),
        num_attention_heads: int = 8,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        use_previous_clip: bool = True,
    ) -> None:
        super().__init__()
        _check_levels(block_out_channels, plane_attention, num_attention_heads, norm_num_groups)
        if layers_per_block < 1:
            raise ValueError(f"`layers_per_block` must be at least 1, but is {layers_per_block}. The paper has 2.")
        base = block_out_channels[0]
        self.time_proj = Timesteps(base, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(base, 4 * base)
        options = TriplaneLayerOptions(
            temb_channels=4 * base,
            num_attention_heads=num_attention_heads,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
        )
        self.conv_in = nn.Conv2d(in_channels * (2 if use_previous_clip else 1), base, kernel_size=3, padding=1)
        levels = list(zip(block_out_channels, plane_attention, strict=True))
        self.down_layers, skips = _make_down_layers(levels, layers_per_block, options)
        width = block_out_channels[-1]
        self.mid_layer = TriplaneLayer(width, width, options, has_attention=True, resnet_out="plain")
        self.up_layers = _make_up_layers(levels, layers_per_block, options, skips)
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, base, eps=norm_eps)
        self.conv_out = nn.Conv2d(base, out_channels, kernel_size=3, padding=1)
        zero_init(self.conv_out)
        self.gradient_checkpointing = False

    @property
    def latent_size(self) -> TriplaneSize:
        """[`~diffusers_video.layers.triplane.TriplaneSize`]: Size of the latents unless a call says otherwise."""
        size = self.config.sample_size
        return TriplaneSize(self.config.num_frames, *([size] * 2 if isinstance(size, int) else size))

    def forward(
        self,
        sample: Tensor,
        timestep: float | Tensor,
        previous_latents: Tensor | None = None,
        *,
        latent_size: Sequence[int] | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """
        Predict the noise of latents.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, in_channels, positions)`): Noisy planes, one after another.
            timestep (`float` or `torch.Tensor` of shape `(batch_size,)`): Noise level.
            previous_latents (`torch.Tensor` of the shape of `sample`, *optional*): Clean latents of the clip before;
                by default zeros, which stand for none.
            latent_size (`tuple[int, int, int]`, *optional*): Frames, height and width of the latents, multiples of 2
                to the number of levels less 1; by default those of the configuration.
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.

        Returns:
            [`~diffusers.models.unets.unet_2d.UNet2DOutput`] or `tuple`: `(batch_size, out_channels, positions)`.

        Raises:
            ValueError: If shapes do not fit, or `previous_latents` is given to a model that does not read it.
        """
        size = self.latent_size if latent_size is None else TriplaneSize(*latent_size)
        self._check_inputs(sample, previous_latents, size)
        if self.config.use_previous_clip:
            previous_latents = torch.zeros_like(sample) if previous_latents is None else previous_latents
            sample = torch.cat([sample, previous_latents], dim=1)
        planes = tokens_to_groups(sample.transpose(1, 2), size.groups)
        planes = self._denoise_planes(planes, self._embed_timestep(timestep, sample), len(sample))
        output = groups_to_tokens(planes, len(sample)).transpose(1, 2)
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _embed_timestep(self, timestep: float | Tensor, sample: Tensor) -> Tensor:
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        return self.time_embedding(self.time_proj(timesteps).to(sample.dtype))

    def _denoise_planes(self, planes: list[Tensor], temb: Tensor, batch_size: int) -> list[Tensor]:
        tembs = [temb.repeat_interleave(len(group) // batch_size, dim=0, output_size=len(group)) for group in planes]
        planes = [self.conv_in(group) for group in planes]
        skips = [planes]
        for layer in self.down_layers:
            planes = self._run(layer, planes, tembs, batch_size)
            skips.append(planes)
        planes = self._run(self.mid_layer, planes, tembs, batch_size)
        for layer in self.up_layers:
            planes = self._run(layer, join_skips(planes, skips.pop()), tembs, batch_size)
        return [self.conv_out(nn.functional.silu(self.conv_norm_out(group))) for group in planes]

    def _run(self, layer: TriplaneLayer, planes: list[Tensor], tembs: list[Tensor], batch_size: int) -> list[Tensor]:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(layer, planes, tembs, batch_size)
        return layer(planes, tembs, batch_size)

    def _check_inputs(self, sample: Tensor, previous_latents: Tensor | None, size: TriplaneSize) -> None:
        factor = 2 ** (len(self.config.block_out_channels) - 1)
        if any(side < 1 or side % factor for side in size):
            raise ValueError(
                f"`latent_size` must hold multiples of {factor} for {len(self.config.block_out_channels)} levels, but"
                f" is {tuple(size)}. Choose other frames, height or width."
            )
        wanted = (self.config.in_channels, sum(size.lengths))
        if sample.dim() != 3 or tuple(sample.shape[1:]) != wanted:
            raise ValueError(
                f"`sample` must have the shape (batch_size, {wanted[0]}, {wanted[1]}) for latents of"
                f" {size.num_frames} frames of {size.height}x{size.width}, but has shape {tuple(sample.shape)}. Pass"
                " the `latent_size` of the latents."
            )
        if previous_latents is None:
            return
        if not self.config.use_previous_clip:
            raise ValueError(
                "`previous_latents` was given, but this model does not read it: its `use_previous_clip` is off. Leave"
                " it out, or build the model with `use_previous_clip`."
            )
        if previous_latents.shape != sample.shape:
            raise ValueError(
                f"`previous_latents` must have the shape of `sample`, {tuple(sample.shape)}, but has shape"
                f" {tuple(previous_latents.shape)}. Pass the latents of one clip for each."
            )


def _check_levels(widths: Sequence[int], plane_attention: Sequence[bool], heads: int, groups: int) -> None:
    if not widths or len(plane_attention) != len(widths):
        raise ValueError(
            "`block_out_channels` and `plane_attention` must have one entry for each level, but have"
            f" {len(widths)} and {len(plane_attention)}."
        )
    for name, divisor in (("num_attention_heads", heads), ("norm_num_groups", groups)):
        if divisor < 1 or any(width < 1 or width % divisor for width in widths):
            raise ValueError(
                f"`block_out_channels` must hold multiples of `{name}`={divisor}, but is {tuple(widths)}. Choose"
                f" other widths or another `{name}`."
            )


def _make_down_layers(
    levels: Sequence[tuple[int, bool]], layers_per_block: int, options: TriplaneLayerOptions
) -> tuple[nn.ModuleList, list[int]]:
    """Make the layers on the way down; also return the widths of what they and the first convolution give."""
    layers, skips = nn.ModuleList(), [levels[0][0]]
    for level, (width, has_attention) in enumerate(levels):
        for _ in range(layers_per_block):
            layers.append(TriplaneLayer(skips[-1], width, options, has_attention=has_attention))
            skips.append(width)
        if level < len(levels) - 1:
            layers.append(TriplaneLayer(width, width, options, is_down=True))
            skips.append(width)
    return layers, skips


def _make_up_layers(
    levels: Sequence[tuple[int, bool]], layers_per_block: int, options: TriplaneLayerOptions, skips: list[int]
) -> nn.ModuleList:
    layers, skips, width_in = nn.ModuleList(), list(skips), levels[-1][0]
    for level, (width, has_attention) in reversed(list(enumerate(levels))):
        for index in range(layers_per_block + 1):
            resnet_out = "up" if level > 0 and index == layers_per_block else None
            width_in += skips.pop()
            layers.append(TriplaneLayer(width_in, width, options, has_attention=has_attention, resnet_out=resnet_out))
            width_in = width
    return layers
