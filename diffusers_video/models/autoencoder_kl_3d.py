"""The autoencoder of LVDM: 3D convolutions that compress frames, height and width."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from ..layers.replicate_conv import ReplicateConv3d, ReplicateDownBlock, ReplicateUpBlock
from ..layers.windows import map_windows
from .inflation import ChannelsLastMixin
from .video_autoencoder import WindowedCodingMixin, check_chunks, check_videos


# Shapes: B videos, C channels, F frames, H height, W width; c, f, h, w of the latents.

Stride = tuple[int, int, int]


class Encoder3D(nn.Module):
    """
    Videos -> features of the size of the latents.

    Args:
        in_channels (`int`): Channels of a frame.
        out_channels (`int`): Channels of the output.
        widths (`tuple[int, ...]`): Channels behind the first layer and of each level.
        strides (`list[tuple[int, int, int]]`): Of each level, over frames, height and width.
        num_groups (`int`): Groups of the normalisations.
    """

    def __init__(
        self, in_channels: int, out_channels: int, widths: tuple[int, ...], strides: list[Stride], num_groups: int
    ) -> None:
        super().__init__()
        self.conv_in = ReplicateConv3d(in_channels, widths[0], 3)
        self.down_blocks = nn.ModuleList(
            ReplicateDownBlock(width, next_width, stride, num_groups)
            for width, next_width, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.conv_norm_out = nn.GroupNorm(num_groups, widths[-1], eps=1e-6)
        self.conv_act = nn.SiLU()
        self.conv_out = ReplicateConv3d(widths[-1], out_channels, 3)
        self.gradient_checkpointing = False

    def forward(self, sample: Tensor) -> Tensor:
        """
        Encode.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Videos.

        Returns:
            `torch.Tensor` of shape `(batch_size, out_channels, f, h, w)`.
        """
        is_checkpointed = torch.is_grad_enabled() and self.gradient_checkpointing
        sample = self.conv_in(sample)
        for block in self.down_blocks:
            sample = self._gradient_checkpointing_func(block, sample) if is_checkpointed else block(sample)
        return self.conv_out(self.conv_act(self.conv_norm_out(sample)))


class Decoder3D(nn.Module):
    """
    Latents -> videos. Its last layer follows the last block directly, as in the released code.

    Args:
        in_channels (`int`): Channels of the latents.
        out_channels (`int`): Channels of a frame.
        widths (`tuple[int, ...]`): Channels of each level, in the decoder's order.
        strides (`list[tuple[int, int, int]]`): Of each level, over frames, height and width.
        num_groups (`int`): Groups of the normalisations.
    """

    def __init__(
        self, in_channels: int, out_channels: int, widths: tuple[int, ...], strides: list[Stride], num_groups: int
    ) -> None:
        super().__init__()
        self.up_blocks = nn.ModuleList(
            ReplicateUpBlock(width, next_width, stride, num_groups)
            for width, next_width, stride in zip((in_channels, *widths[:-1]), widths, strides, strict=True)
        )
        self.conv_out = ReplicateConv3d(widths[-1], out_channels, 3)
        self.gradient_checkpointing = False

    def forward(self, sample: Tensor) -> Tensor:
        """
        Decode.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, in_channels, f, h, w)`): Latents.

        Returns:
            `torch.Tensor` of shape `(batch_size, out_channels, num_frames, height, width)`.
        """
        is_checkpointed = torch.is_grad_enabled() and self.gradient_checkpointing
        for block in self.up_blocks:
            sample = self._gradient_checkpointing_func(block, sample) if is_checkpointed else block(sample)
        return self.conv_out(sample)


class AutoencoderKL3D(ChannelsLastMixin, WindowedCodingMixin, ModelMixin, AutoencoderMixin, ConfigMixin):
    """
    An autoencoder of videos that compresses time as well as space; every latent depends on frames around it.

    Defaults are those of the released models, for 256x256 pixels: 19.45M parameters.

    Args:
        in_channels (`int`, *optional*, defaults to 3): Channels of a frame.
        out_channels (`int`, *optional*, defaults to 3): Channels of a decoded frame.
        block_out_channels (`tuple[int, ...]`, *optional*, defaults to `(32, 64, 128, 256)`): Channels behind the first
            layer, and of each level of the encoder; the decoder has those of the levels in reverse. Those of the
            levels are multiples of `norm_num_groups`.
        downsample_factors (`tuple[int, int, int]`, *optional*, defaults to `(4, 8, 8)`): Frames, and pixels in height
            and width, for each latent: powers of 2. An axis is halved in the first levels, of the encoder and of the
            decoder alike.
        latent_channels (`int`, *optional*, defaults to 4): Channels of the latents.
        norm_num_groups (`int`, *optional*, defaults to 32): Groups of the normalisations.
        sample_size (`int`, *optional*, defaults to 256): Height and width of the training, in pixels; those of a tile
            where `enable_tiling` was called.
        scaling_factor (`float`, *optional*, defaults to 1.0): What latents are multiplied by for the denoiser.
        shift_factor (`float`, *optional*, defaults to 0.0): What is subtracted from them before.
        decode_chunk_size (`int`, *optional*, defaults to 16):
            Latent frames coded at once; `None` codes a video whole. Every frame depends on the others of its chunk, so
            this and the next number are part of the result. `vae.register_to_config(decode_chunk_size=8)` changes it.
        decode_chunk_overlap (`int`, *optional*, defaults to 4):
            The least number of latent frames that neighbouring chunks share; there one fades into the other.

    Raises:
        ValueError: If an option is out of its range.

    Source:
        LVDM (arXiv:2211.13221), Section 3.1; layers as in its released code. That code normalises latents by
        `scale * (z + shift)`, so that its shift is minus ours.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ReplicateDownBlock", "ReplicateUpBlock"]
    _repeated_blocks = ["ReplicateResnetBlock"]
    _skip_layerwise_casting_patterns = ["norm"]
    _group_offload_block_modules = ["quant_conv", "post_quant_conv", "encoder", "decoder"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        *,
        block_out_channels: tuple[int, ...] = (32, 64, 128, 256),
        downsample_factors: Stride = (4, 8, 8),
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 256,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        decode_chunk_size: int | None = 16,
        decode_chunk_overlap: int = 4,
    ) -> None:
        check_chunks(decode_chunk_size, decode_chunk_overlap)
        _check_levels(block_out_channels, downsample_factors, norm_num_groups)
        super().__init__()
        widths = tuple(block_out_channels)
        strides = [
            tuple(2 if 2**level < factor else 1 for factor in downsample_factors) for level in range(len(widths) - 1)
        ]
        moments = 2 * latent_channels
        self.encoder = Encoder3D(in_channels, moments, widths, strides, norm_num_groups)
        self.quant_conv = ReplicateConv3d(moments, moments, 1)
        self.post_quant_conv = ReplicateConv3d(latent_channels, latent_channels, 1)
        self.decoder = Decoder3D(latent_channels, out_channels, widths[:0:-1], strides, norm_num_groups)
        self.use_slicing = self.use_tiling = False
        self.tile_latent_min_size = max(sample_size // self.spatial_scale_factor, 1)
        self.tile_overlap_factor = 0.25

    @property
    def scaling_factor(self) -> float:
        """`float`: What latents are multiplied by for the denoiser, after `shift_factor` was subtracted."""
        return self.config.scaling_factor

    @property
    def spatial_scale_factor(self) -> int:
        """`int`: What height and width of a video must be multiples of."""
        return max(self.config.downsample_factors[1:])

    @property
    def temporal_scale_factor(self) -> int:
        """`int`: Frames for each latent frame."""
        return self.config.downsample_factors[0]

    def latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """
        Shape of the latents of one video.

        Args:
            num_frames (`int`): Frames of the video, a multiple of the first of `downsample_factors`.
            height (`int`): Height in pixels, a multiple of the second.
            width (`int`): Width in pixels, a multiple of the third.

        Returns:
            `tuple[int, int, int, int]`: `(c, f, h, w)`.

        Raises:
            ValueError: If a length is no multiple.
        """
        lengths = {"num_frames": num_frames, "height": height, "width": width}
        for (name, length), factor in zip(lengths.items(), self.config.downsample_factors, strict=True):
            if length < factor or length % factor:
                raise ValueError(
                    f"`{name}` must be a multiple of {factor}, but is {length}: so many stand for one latent. Cut the"
                    " video, or repeat its outermost frames or pixels."
                )
        sizes = zip(lengths.values(), self.config.downsample_factors, strict=True)
        return (self.config.latent_channels, *(length // factor for length, factor in sizes))

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """
        Encode videos, in overlapping chunks of frames.

        Args:
            x (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Videos in [-1, 1].
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.

        Returns:
            [`~diffusers.models.modeling_outputs.AutoencoderKLOutput`] or `tuple`: The posterior of the latents, of
            shape `(batch_size, c, f, h, w)`.

        Raises:
            ValueError: If `x` is no batch of videos, their size is no multiple of `downsample_factors`, or the chunks
                in the configuration are impossible.
        """
        check_videos("x", x, self.config.in_channels)
        self.latents_shape(*x.shape[2:])
        videos = x.split(1) if self.use_slicing else [x]
        moments = torch.cat([self._map_windows(self._encode, video, "shrink") for video in videos])
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """
        Decode latents to videos, in overlapping chunks of latent frames.

        Args:
            z (`torch.Tensor` of shape `(batch_size, c, f, h, w)`): Latents as the encoder gives them.
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.
            generator (`torch.Generator`, *optional*): Not used; pipelines of diffusers pass it to every autoencoder.

        Returns:
            [`~diffusers.models.autoencoders.vae.DecoderOutput`] or `tuple`: Videos of shape
            `(batch_size, out_channels, num_frames, height, width)`, about [-1, 1], not clamped.

        Raises:
            ValueError: If `z` is no batch of latents of videos, or the chunks in the configuration are impossible.
        """
        check_videos("z", z, self.config.latent_channels)
        videos = z.split(1) if self.use_slicing else [z]
        sample = torch.cat([self._map_windows(self._decode, video, "scale") for video in videos])
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """
        Encode videos and decode them again.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Videos in [-1, 1].
            sample_posterior (`bool`, *optional*, defaults to `False`): Draw the latents instead of taking the mode.
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.
            generator (`torch.Generator`, *optional*): Source of the noise that latents are drawn with.

        Returns:
            [`~diffusers.models.autoencoders.vae.DecoderOutput`] or `tuple`: Videos of the shape of `sample`.
        """
        posterior = self.encode(sample).latent_dist
        latents = posterior.sample(generator=generator) if sample_posterior else posterior.mode()
        return self.decode(latents, return_dict)

    def _encode(self, videos: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(videos))

    def _decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))

    def _map_windows(self, function: Callable[[Tensor], Tensor], tensor: Tensor, direction: str) -> Tensor:
        """Code chunks of frames and, where tiling is on, tiles; `direction` is an option of [`map_windows`]."""
        chunk, chunk_overlap = self.config.decode_chunk_size, self.config.decode_chunk_overlap
        check_chunks(chunk, chunk_overlap)
        windows = {2: (chunk or tensor.shape[2], chunk_overlap)}
        if self.use_tiling:
            tile = self.tile_latent_min_size
            windows |= dict.fromkeys((3, 4), (tile, int(tile * self.tile_overlap_factor)))
        for dim, (size, overlap) in windows.items():
            factor = {direction: self.config.downsample_factors[dim - 2]}
            function = partial(map_windows, function, dim=dim, size=size, overlap=overlap, **factor)
        return function(tensor)


def _check_levels(widths: Sequence[int], factors: Sequence[int], num_groups: int) -> None:
    levels = len(widths) - 1
    if levels < 1 or any(width < 1 or width % num_groups for width in widths[1:]):
        raise ValueError(
            f"`block_out_channels` must be two numbers or more, all but the first multiples of"
            f" `norm_num_groups`={num_groups}, but is {tuple(widths)}. The released models have (32, 64, 128, 256)."
        )
    if len(factors) != 3 or any(factor not in [2**level for level in range(levels + 1)] for factor in factors):
        raise ValueError(
            f"`downsample_factors` must be three powers of 2, at most {2**levels} for {levels} levels, but is"
            f" {tuple(factors)}. The released models have (4, 8, 8) with 3 levels."
        )
