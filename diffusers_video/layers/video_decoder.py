"""The decoder of an image autoencoder with temporal layers standing on its layers."""

from collections.abc import Collection

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder
from torch import Tensor, nn

from .clip import Clip
from .layout import images_to_videos, match_strides, tokens_to_maps, videos_to_images
from .temporal_resnet import TemporalConv
from .temporal_transformer import apply_temporal_block
from .video_layers import TemporalAttentionLayer, TemporalOptions, VideoLayerWithAttention, make_video_layer


# Shapes: B videos, C channels, F frames, H height, W width, S = H * W positions, A heads; N = B * F images.


class VideoDecoderAttention(VideoLayerWithAttention, Attention):
    """
    The decoder's attention over the positions of a frame, and attention over time before its output projection.

    Source:
        The `VideoBlock` of Stable Video Diffusion's autoencoder (arXiv:2311.15127), whose two attention layers both
        look over time, because there is no text.
    """

    def forward(self, hidden_states: Tensor, temb: Clip) -> Tensor:
        """
        Attend within frames, then between frames.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Features.
            temb ([`Clip`]): The clip, which travels where blocks pass the time embedding.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`.
        """
        tokens = self.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        query, key, value = (
            projection(tokens).unflatten(-1, (self.heads, -1)) for projection in (self.to_q, self.to_k, self.to_v)
        )
        backend = getattr(self.processor, "_attention_backend", None)
        tokens = dispatch_attention_fn(query, key, value, backend=backend).flatten(2)
        embedded = self._embed_frames(tokens, temb, hidden_states.shape[-2])
        for block in self.temporal_transformer_blocks:
            tokens = apply_temporal_block(block, tokens, embedded, self.time_mixer, temb)
        output = tokens_to_maps(self.to_out[1](self.to_out[0](tokens)), hidden_states.shape[-2])
        return match_strides((output + hidden_states) / self.rescale_output_factor, hidden_states)


class VideoDecoder(Decoder):
    """`Decoder` whose layers read the clip, with a convolution over time behind its last layer."""

    def forward(self, sample: Tensor, clip: Clip) -> Tensor:
        """
        Decode the frames of videos.

        Args:
            sample (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`): Latents.
            clip ([`Clip`]): The clip they belong to.

        Returns:
            `torch.Tensor` of shape `(batch_size * num_frames, out_channels, scale * height, scale * width)`: Frames.
        """
        is_checkpointed = torch.is_grad_enabled() and self.gradient_checkpointing
        sample = self.conv_in(sample)
        for block in (self.mid_block, *self.up_blocks):
            sample = self._gradient_checkpointing_func(block, sample, clip) if is_checkpointed else block(sample, clip)
        sample = self.conv_out(self.conv_act(self.conv_norm_out(sample)))
        if self.time_conv_out is None:
            return sample
        return videos_to_images(self.time_conv_out(images_to_videos(sample, clip.num_frames)))


def make_video_decoder(
    decoder: Decoder, options: TemporalOptions, *, attention_blocks: Collection[str] = ("mid",), has_conv_out: bool
) -> None:
    """
    Turn the decoder of an image autoencoder into that of a video autoencoder, in place; no weight is renamed.

    Args:
        decoder (`Decoder`): A built decoder. It decodes as before until it is trained.
        options ([`TemporalOptions`]): What is put onto its layers.
        attention_blocks (`Collection[str]`, *optional*, defaults to `("mid",)`): Where attention over time stands, if
            the options have it: `"mid"`, inside the attention of the middle block, or behind its last residual block
            if it has none, and `"up"`, behind the last residual block of the lowest resolution.
        has_conv_out (`bool`): Whether to put a convolution over time behind its last layer.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.1.1; `VideoDecoder` of Stable Video Diffusion (arXiv:2311.15127);
        MagicVideo (arXiv:2211.11018), whose VideoVAE has directed attention in its decoder.
    """
    for layer in list(decoder.modules()):
        if type(layer) is not Attention:
            make_video_layer(layer, options, None)
        elif options.self_attention and "mid" in attention_blocks:
            layer.__class__ = VideoDecoderAttention
            layer.add_temporal_layers(
                options,
                channels=layer.inner_dim,
                heads=layer.heads,
                dim_head=layer.inner_dim // layer.heads,
                text_dim=None,
                depth=1,
            )
    if options.self_attention:
        has_attention = any(attention is not None for attention in decoder.mid_block.attentions)
        if "mid" in attention_blocks and not has_attention:
            _attend_behind(decoder.mid_block.resnets[-1], options)
        if "up" in attention_blocks:
            _attend_behind(decoder.up_blocks[0].resnets[-1], options)
    decoder.__class__ = VideoDecoder
    decoder.time_conv_out = None
    if has_conv_out:
        channels = decoder.conv_out.out_channels
        decoder.time_conv_out = TemporalConv(channels, channels, kernel_size=(3, 1, 1), padding=(1, 0, 0))
        nn.init.dirac_(decoder.time_conv_out.weight)  # so that a new video model decodes as its image model does
        nn.init.zeros_(decoder.time_conv_out.bias)


def _attend_behind(resnet: nn.Module, options: TemporalOptions) -> None:
    channels = resnet.conv2.out_channels
    resnet.temporal_attention = TemporalAttentionLayer()
    resnet.temporal_attention.add_temporal_layers(
        options, channels=channels, heads=1, dim_head=channels, text_dim=None, depth=1
    )
