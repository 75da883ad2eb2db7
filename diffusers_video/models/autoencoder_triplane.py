"""The autoencoder of PVDM: a video as three image-like planes of latents."""

# Shapes: B videos, C channels, F frames, H height, W width; c, f, h, w of the latents, L = h w + f w + f h positions.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from ..layers.layout import images_to_videos, maps_to_tokens, tokens_to_maps, videos_to_images
from ..layers.space_time_transformer import AxisProjection, SpaceTimeTransformer
from ..layers.triplane import TriplaneSize
from .video_autoencoder import check_videos


@dataclass
class AutoencoderTriplaneOutput(BaseOutput):
    """
    What the encoder gives; there is no posterior to draw from.

    Args:
        latents (`torch.Tensor` of shape `(batch_size, c, positions)`): Three planes, one after another, in (-1, 1);
            [`~diffusers_video.layers.triplane.split_planes`] shows them.
    """

    latents: Tensor


class AutoencoderTriplane(ModelMixin, AutoencoderMixin, AttentionMixin, ConfigMixin):
    """
    An autoencoder of videos whose latents are three planes: the video projected over time, height and width.

    Defaults are those of the paper, for 16 frames of 256x256 pixels: 62.1M parameters.

    Args:
        in_channels (`int`, *optional*, defaults to 3): Channels of a frame.
        latent_channels (`int`, *optional*, defaults to 4): Channels of the latents.
        hidden_size (`int`, *optional*, defaults to 384): Channels of the tokens.
        patch_size (`int`, *optional*, defaults to 8): Pixels of a token, in height and in width.
        sample_size (`int` or `tuple[int, int]`, *optional*, defaults to 256): Largest height and width of a frame,
            multiples of `patch_size`.
        num_frames (`int`, *optional*, defaults to 16): Largest number of frames of a video.
        num_layers (`int`, *optional*, defaults to 8): Layers of the encoder, and of the decoder.
        num_attention_heads (`int`, *optional*, defaults to 8): Attention heads of these layers.
        attention_head_dim (`int`, *optional*, defaults to 64): Channels of such a head, a multiple of 4.
        ff_mult (`int`, *optional*, defaults to 4): Width of their feed-forward networks over `hidden_size`.
        rotary_max_freq (`float`, *optional*, defaults to 10.0): Highest frequency of their positions in space.
        plane_num_layers (`int`, *optional*, defaults to 4): Layers of each of the three projections.
        plane_num_attention_heads (`int`, *optional*, defaults to 4): Attention heads of these layers.
        plane_attention_head_dim (`int`, *optional*): Channels of such a head; by default `hidden_size // 8`.
        plane_mlp_dim (`int`, *optional*, defaults to 512): Width of their feed-forward networks.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        PVDM (arXiv:2302.07685), Section 3.2. As in its code, and unlike in the paper, the decoder takes the sum of the
        planes, not their concatenation, and a projection is read from its first token.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["SpaceTimeBlock", "ProjectionBlock"]
    _repeated_blocks = ["SpaceTimeBlock", "ProjectionBlock"]
    _skip_layerwise_casting_patterns = ["norm", "patch_embedding"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        *,
        hidden_size: int = 384,
        patch_size: int = 8,
        sample_size: int | Sequence[int] = 256,
        num_frames: int = 16,
        num_layers: int = 8,
        num_attention_heads: int = 8,
        attention_head_dim: int = 64,
        ff_mult: int = 4,
        rotary_max_freq: float = 10.0,
        plane_num_layers: int = 4,
        plane_num_attention_heads: int = 4,
        plane_attention_head_dim: int | None = None,
        plane_mlp_dim: int = 512,
    ) -> None:
        super().__init__()
        size = _trained_size(sample_size, num_frames, patch_size)
        plane_dim = hidden_size // 8 if plane_attention_head_dim is None else plane_attention_head_dim
        _check_numbers(
            latent_channels=latent_channels,
            num_layers=num_layers,
            plane_num_layers=plane_num_layers,
            plane_attention_head_dim=plane_dim,
        )
        if attention_head_dim < 4 or attention_head_dim % 4:
            raise ValueError(
                f"`attention_head_dim` must be a multiple of 4, but is {attention_head_dim}: rows and columns turn"
                " half of a head each, two channels at a time. The paper has 64."
            )
        layers = {"heads": num_attention_heads, "dim_head": attention_head_dim, "ff_mult": ff_mult}
        layers["max_freq"] = rotary_max_freq
        self.patch_embedding = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)
        self.encoder = SpaceTimeTransformer(hidden_size, num_layers, **layers)
        self.projections = nn.ModuleList(
            AxisProjection(
                hidden_size,
                length,
                num_layers=plane_num_layers,
                heads=plane_num_attention_heads,
                dim_head=plane_dim,
                mlp_dim=plane_mlp_dim,
            )
            for length in size
        )
        self.to_latents = nn.ModuleList(nn.Linear(hidden_size, latent_channels) for _ in size)
        self.from_latents = nn.ModuleList(nn.Linear(latent_channels, hidden_size) for _ in size)
        self.decoder = SpaceTimeTransformer(hidden_size, num_layers, **layers)
        self.to_pixels = nn.ConvTranspose2d(hidden_size, in_channels, kernel_size=patch_size, stride=patch_size)
        self.use_slicing = False

    @property
    def scaling_factor(self) -> float:
        """`float`: What latents are multiplied by for the denoiser; they lie in (-1, 1) as they are."""
        return 1.0

    @property
    def spatial_scale_factor(self) -> int:
        """`int`: Pixels of a frame for each position of the latents, in height and in width alike."""
        return self.config.patch_size

    @property
    def latent_size(self) -> TriplaneSize:
        """[`~diffusers_video.layers.triplane.TriplaneSize`]: The volume of the largest videos."""
        return _trained_size(self.config.sample_size, self.config.num_frames, self.config.patch_size)

    def latent_size_of(self, num_frames: int, height: int, width: int) -> TriplaneSize:
        """
        Size of the volume that the latents of one video stand for.

        Args:
            num_frames (`int`): Frames of the video, at most those of the configuration.
            height (`int`): Height in pixels, a multiple of `patch_size` and at most that of the configuration.
            width (`int`): Width in pixels, likewise.

        Returns:
            [`~diffusers_video.layers.triplane.TriplaneSize`]

        Raises:
            ValueError: If the video is too large or no multiple.
        """
        patch, largest = self.config.patch_size, self.latent_size
        limits = (largest.num_frames, largest.height * patch, largest.width * patch)
        for name, value, limit, step in zip(
            ("num_frames", "height", "width"), (num_frames, height, width), limits, (1, patch, patch), strict=True
        ):
            if not 1 <= value <= limit or value % step:
                raise ValueError(
                    f"`{name}` must be a multiple of {step} in [1, {limit}], but is {value}: this autoencoder has no"
                    " positions for more. Resize or cut the video, or train one with a larger `sample_size` or"
                    " `num_frames`."
                )
        return TriplaneSize(num_frames, height // patch, width // patch)

    def latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int]:
        """
        Shape of the latents of one video.

        Args:
            num_frames (`int`): Frames of the video.
            height (`int`): Height in pixels.
            width (`int`): Width in pixels.

        Returns:
            `tuple[int, int]`: `(c, positions)`.

        Raises:
            ValueError: See [`~AutoencoderTriplane.latent_size_of`].
        """
        return (self.config.latent_channels, sum(self.latent_size_of(num_frames, height, width).lengths))

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderTriplaneOutput | tuple[Tensor]:
        """
        Encode videos.

        Args:
            x (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Videos in [-1, 1].
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.

        Returns:
            [`AutoencoderTriplaneOutput`] or `tuple`: Latents of shape `(batch_size, c, positions)` in (-1, 1).

        Raises:
            ValueError: If `x` is no batch of videos, or they are too large.
        """
        check_videos("x", x, self.config.in_channels)
        size = self.latent_size_of(*x.shape[2:])
        videos = x.split(1) if self.use_slicing else [x]
        latents = torch.cat([self._encode(video, size) for video in videos])
        return AutoencoderTriplaneOutput(latents=latents) if return_dict else (latents,)

    def _encode(self, videos: Tensor, size: TriplaneSize) -> Tensor:
        tokens = maps_to_tokens(self.patch_embedding(videos_to_images(videos)))
        tokens = self.encoder(tokens.view(-1, *size, tokens.shape[-1]))
        # Each axis in turn becomes that of the sequences; those before it count as videos.
        axes = (tokens.flatten(2, 3), tokens.flatten(0, 1), tokens.flatten(0, 2).unsqueeze(2))
        planes = [
            to_latents(project(axis)).view(videos.shape[0], -1, self.config.latent_channels)
            for project, to_latents, axis in zip(self.projections, self.to_latents, axes, strict=True)
        ]
        return torch.cat(planes, dim=1).transpose(1, 2).tanh()

    @apply_forward_hook
    def decode(
        self,
        z: Tensor,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        latent_size: Sequence[int] | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """
        Decode latents to videos.

        Args:
            z (`torch.Tensor` of shape `(batch_size, c, positions)`): Latents as the encoder gives them.
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.
            generator (`torch.Generator`, *optional*): Not used; pipelines of diffusers pass it to every autoencoder.
            latent_size (`tuple[int, int, int]`, *optional*): Frames, height and width of the latents, as
                [`~AutoencoderTriplane.latent_size_of`] gives them; by default those of the configuration.

        Returns:
            [`~diffusers.models.autoencoders.vae.DecoderOutput`] or `tuple`: Videos of shape
            `(batch_size, in_channels, num_frames, height, width)` in (-1, 1).

        Raises:
            ValueError: If `z` is no batch of latents of that size.
        """
        size = self.latent_size if latent_size is None else TriplaneSize(*latent_size)
        wanted = (self.config.latent_channels, sum(size.lengths))
        if z.dim() != 3 or tuple(z.shape[1:]) != wanted:
            raise ValueError(
                f"`z` must have the shape (batch_size, {wanted[0]}, {wanted[1]}) for latents of {size.num_frames}"
                f" frames of {size.height}x{size.width}, but has shape {tuple(z.shape)}. Pass the `latent_size` that"
                " the video was encoded with."
            )
        videos = z.split(1) if self.use_slicing else [z]
        sample = torch.cat([self._decode(video, size) for video in videos])
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _decode(self, latents: Tensor, size: TriplaneSize) -> Tensor:
        frames, height, width = size
        shapes = ((1, height, width), (frames, 1, width), (frames, height, 1))  # of the planes, to be spread
        parts = latents.transpose(1, 2).split(size.lengths, dim=1)
        spatial, rows, columns = (
            from_latents(part).unflatten(1, shape)
            for from_latents, part, shape in zip(self.from_latents, parts, shapes, strict=True)
        )
        tokens = self.decoder(spatial + rows + columns)
        images = self.to_pixels(tokens_to_maps(tokens.view(-1, height * width, tokens.shape[-1]), height))
        return images_to_videos((images / 2).tanh(), frames)

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """
        Encode videos and decode them again.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Videos in [-1, 1].
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.

        Returns:
            [`~diffusers.models.autoencoders.vae.DecoderOutput`] or `tuple`: Videos of the shape of `sample`.
        """
        latents = self.encode(sample).latents
        return self.decode(latents, return_dict, latent_size=self.latent_size_of(*sample.shape[2:]))


def _trained_size(sample_size: int | Sequence[int], num_frames: int, patch_size: int) -> TriplaneSize:
    sides = [sample_size] * 2 if isinstance(sample_size, int) else list(sample_size)
    _check_numbers(num_frames=num_frames, patch_size=patch_size)
    if len(sides) != 2 or any(side < 1 or side % patch_size for side in sides):
        raise ValueError(
            f"`sample_size` must be one multiple of `patch_size`={patch_size} or two, height and width, but is"
            f" {sample_size}. Choose such pixels."
        )
    return TriplaneSize(num_frames, *(side // patch_size for side in sides))


def _check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {number}. Leave it out for that of the paper.")
