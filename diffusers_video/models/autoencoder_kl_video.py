"""The autoencoder of VideoLDM: any `AutoencoderKL`, its encoder untouched, with temporal layers in its decoder."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from ..layers.clip import Clip, get_frame_visibility
from ..layers.layout import images_to_videos, videos_to_images
from ..layers.time_mixer import MIXINGS
from ..layers.video_decoder import make_video_decoder
from ..layers.video_layers import TemporalOptions
from ..layers.windows import map_windows
from .inflation import InflatedModelMixin, check_choice, with_parameters_of
from .temporal_checkpoint import TemporalCheckpointMixin
from .video_autoencoder import WindowedCodingMixin, check_chunks, check_videos


# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images; c, h, w of the latents.

TEMPORAL_ATTENTIONS = ("full", "causal", "none")
TEMPORAL_ATTENTION_BLOCKS = ("mid", "up")
FRAMES_ENCODED_AT_ONCE = 16

DECODER_PRESETS = {
    "videoldm": {},
    "videovae": {
        "temporal_conv": False,
        "temporal_attention": "causal",
        "temporal_attention_blocks": ("mid", "up"),
        "temporal_feed_forward": False,
        "temporal_conv_out": False,
        "mixing": "residual",
    },
}


class AutoencoderKLVideo(InflatedModelMixin, TemporalCheckpointMixin, WindowedCodingMixin, AutoencoderKL):
    """
    An autoencoder of videos: the layers of an `AutoencoderKL`, under the names they have there, and in the decoder
    temporal layers that mix the frames. A new model decodes each frame exactly as the image model does.

    Frames are encoded one by one, so that latents stay those of the image model. Most models are made by
    [`~AutoencoderKLVideo.from_autoencoder_kl`]. Takes every parameter of [`~diffusers.AutoencoderKL`] and these:

    Args:
        temporal_conv (`bool`, *optional*, defaults to `True`):
            Put a temporal residual block of convolutions behind every spatial residual block of the decoder.
        temporal_attention (`str`, *optional*, defaults to `"none"`):
            Attention over time in the decoder: `"full"`, `"causal"` (a frame sees itself and earlier frames) or
            `"none"`.
        temporal_attention_blocks (`tuple[str]`, *optional*, defaults to `("mid",)`):
            Where it stands: `"mid"`, inside the attention of the middle block, or behind its last residual block if it
            has none, or `"up"`, behind the last residual block of the lowest resolution, or both.
        temporal_feed_forward (`bool`, *optional*, defaults to `True`):
            Give its blocks their two feed-forward layers.
        temporal_max_distance (`int`, *optional*):
            Farthest frame that temporal attention sees, at least 1; `None` sets no limit.
        temporal_conv_out (`bool`, *optional*, defaults to `True`):
            Put a convolution over time behind the decoder's last layer.
        mixing (`str`, *optional*, defaults to `"learned"`):
            How temporal layers are blended in: `"learned"` (a scalar per layer), `"fixed"` or `"residual"` (added).
        temporal_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the group normalisations in the temporal residual blocks.
        decode_chunk_size (`int`, *optional*, defaults to 16):
            Frames decoded at once; `None` decodes a video whole. Every frame depends on the others of its chunk, so
            this and the next number are part of the result. `vae.register_to_config(decode_chunk_size=8)` changes it.
            With causal attention alone, as in the preset "videovae", a frame depends on none behind it in chunks
            either, and the first chunk, up to where the next begins, comes out as of the video decoded whole.
        decode_chunk_overlap (`int`, *optional*, defaults to 4):
            The least number of frames that neighbouring chunks share; there one fades into the other.

    Raises:
        ValueError: If an option has a value that is not listed here, or no temporal layer is asked for.
        TypeError: If an option is unknown.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.1.1; layers as in Stable Video Diffusion's decoder (arXiv:2311.15127),
        which has `temporal_attention="none"`. MagicVideo (arXiv:2211.11018): directed attention in the decoder, its
        VideoVAE; where it stands is not told there.
    """

    image_class = AutoencoderKL
    maker = "from_autoencoder_kl"

    _no_split_modules = ["BasicTransformerBlock", "ResnetBlock2D", "VideoResnetBlock2D", "VideoDecoderAttention"]
    _skip_layerwise_casting_patterns = ["norm", "time_mixer"]

    @register_to_config
    @with_parameters_of(AutoencoderKL)
    def __init__(
        self,
        *args: Any,
        temporal_conv: bool = True,
        temporal_attention: str = "none",
        temporal_attention_blocks: tuple[str, ...] = ("mid",),
        temporal_feed_forward: bool = True,
        temporal_max_distance: int | None = None,
        temporal_conv_out: bool = True,
        mixing: str = "learned",
        temporal_norm_eps: float = 1e-5,
        decode_chunk_size: int | None = 16,
        decode_chunk_overlap: int = 4,
        **autoencoder_kl_options: Any,
    ) -> None:
        check_choice("temporal_attention", temporal_attention, TEMPORAL_ATTENTIONS)
        check_choice("mixing", mixing, MIXINGS)
        has_attention = temporal_attention != "none"
        _check_attention_blocks(temporal_attention_blocks, has_attention)
        if temporal_max_distance is not None and (temporal_max_distance < 1 or not has_attention):
            raise ValueError(
                "`temporal_max_distance` must be at least 1 and needs `temporal_attention`, but is"
                f" {temporal_max_distance} with {temporal_attention!r}. With 1 a frame sees its two neighbours."
            )
        check_chunks(decode_chunk_size, decode_chunk_overlap)
        super().__init__(*args, **autoencoder_kl_options)
        if not (temporal_conv or has_attention or temporal_conv_out):
            raise ValueError(
                "One of `temporal_conv`, `temporal_attention` and `temporal_conv_out` must be on, but all are off."
                " For an autoencoder without temporal layers take the `AutoencoderKL` itself."
            )
        options = TemporalOptions(
            conv=temporal_conv,
            self_attention=has_attention,
            second_self_attention=has_attention,
            feed_forward=temporal_feed_forward,
            mixing=mixing,
            norm_eps=temporal_norm_eps,
        )
        places = temporal_attention_blocks if has_attention else ()
        make_video_decoder(self.decoder, options, attention_blocks=places, has_conv_out=temporal_conv_out)

    @classmethod
    def from_autoencoder_kl(cls, vae: AutoencoderKL, preset: str = "videoldm", **options: Any) -> "AutoencoderKLVideo":
        """
        Make a video autoencoder of an image autoencoder; each frame comes out as the image model decodes it.

        Args:
            vae ([`~diffusers.AutoencoderKL`]): The image model; it is copied and left as it is.
            preset (`str`, *optional*, defaults to `"videoldm"`): `"videoldm"` (convolutions over time) or `"videovae"`
                (attention to earlier frames, in the middle block and at the lowest resolution).
            options: Options of this class, which overrule the preset.

        Returns:
            [`AutoencoderKLVideo`] of the same type, place and mode as `vae`.

        Raises:
            TypeError: If `vae` is no `AutoencoderKL`, or an option is unknown.
            ValueError: If the preset is unknown, or adapters are loaded into `vae`.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.1.1. The decoder is that of the image model at the start, because
            every temporal branch ends in a projection initialised to zero, and the last convolution in the identity.
        """
        check_choice("preset", preset, tuple(DECODER_PRESETS))
        return cls._inflate("vae", vae, DECODER_PRESETS[preset], options)

    @property
    def scaling_factor(self) -> float:
        """`float`: What latents are multiplied by for the denoiser."""
        return self.config.scaling_factor

    @property
    def spatial_scale_factor(self) -> int:
        """`int`: Pixels of a frame for each latent, in height and in width alike."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """
        Shape of the latents of one video.

        Args:
            num_frames (`int`): Frames of the video.
            height (`int`): Height in pixels, a multiple of `spatial_scale_factor`.
            width (`int`): Width in pixels, likewise.

        Returns:
            `tuple[int, int, int, int]`: `(c, num_frames, h, w)`.
        """
        factor = self.spatial_scale_factor
        return (self.config.latent_channels, num_frames, height // factor, width // factor)

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """
        Encode videos, frame by frame, as the image model does.

        Args:
            x (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Videos in [-1, 1].
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.

        Returns:
            [`~diffusers.models.modeling_outputs.AutoencoderKLOutput`] or `tuple`: The posterior of the latents, of
            shape `(batch_size, c, num_frames, h, w)`.

        Raises:
            ValueError: If `x` is no batch of videos.
        """
        check_videos("x", x, self.config.in_channels)
        size = 1 if self.use_slicing else FRAMES_ENCODED_AT_ONCE
        moments = torch.cat([self._encode(images) for images in videos_to_images(x).split(size)])
        posterior = DiagonalGaussianDistribution(images_to_videos(moments, x.shape[2]))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """
        Decode latents to videos, in overlapping chunks of frames.

        Args:
            z (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): Latents as the encoder gives them.
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
        sample = torch.cat([self._decode_chunks(video) for video in videos])
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _decode_chunks(self, latents: Tensor) -> Tensor:
        size, overlap = self.config.decode_chunk_size, self.config.decode_chunk_overlap
        check_chunks(size, overlap)
        return map_windows(self._decode, latents, 2, size=size or latents.shape[2], overlap=overlap)

    def _decode(self, z: Tensor) -> Tensor:
        size = self.tile_latent_min_size
        if self.use_tiling and max(z.shape[-2:]) > size:
            options = {"size": size, "overlap": int(size * self.tile_overlap_factor)}
            options["scale"] = self.spatial_scale_factor
            return map_windows(lambda rows: map_windows(self._decode_tile, rows, 4, **options), z, 3, **options)
        return self._decode_tile(z)

    def _decode_tile(self, latents: Tensor) -> Tensor:
        num_frames = latents.shape[2]
        visibility = get_frame_visibility(
            num_frames,
            is_causal=self.config.temporal_attention == "causal",
            max_distance=self.config.temporal_max_distance,
            device=latents.device,
        )
        images = videos_to_images(latents)
        if self.post_quant_conv is not None:
            images = self.post_quant_conv(images)
        clip = Clip(temb=None, num_frames=num_frames, frame_visibility=visibility)
        return images_to_videos(self.decoder(images, clip), num_frames)


def _check_attention_blocks(places: tuple[str, ...], has_attention: bool) -> None:
    for place in places:
        check_choice("temporal_attention_blocks", place, TEMPORAL_ATTENTION_BLOCKS)
    if has_attention and not places:
        raise ValueError(
            "`temporal_attention_blocks` must name a block where there is `temporal_attention`, but is empty. Take"
            f" some of {TEMPORAL_ATTENTION_BLOCKS}."
        )
