"""What video decoders are trained on."""

# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images.

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_video.layers.layout import videos_to_images
from diffusers_video.layers.temporal_attention import TemporalAttention
from diffusers_video.models.autoencoder_kl_video import AutoencoderKLVideo
from diffusers_video.training.frame_and_clip_judges import add_adversarial
from diffusers_video.training.perceptual import PerceptualDistance
from diffusers_video.training.reconstruction import reconstruction_loss
from diffusers_video.training.video_decoder_config import VideoDecoderConfig


@dataclass(frozen=True)
class DecoderLoss:
    """
    Losses of a video decoder and of its discriminator.

    Args:
        config ([`VideoDecoderConfig`]): Weights of the parts.
        device (`torch.device`): Where the model runs.
        vae ([`AutoencoderKLVideo`]): Its last layer balances the adversarial loss.
        distance ([`PerceptualDistance`], *optional*): The perceptual loss, if there is one.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.1.1, names a video discriminator and no other term; the rest is how
        Latent Diffusion Models (arXiv:2112.10752), Section 3.1 and Appendix G, train autoencoders. The encoder does
        not train, so there is no KL term. Decoder and discriminator take their steps at the same time.
    """

    config: VideoDecoderConfig
    device: torch.device
    vae: AutoencoderKLVideo
    distance: PerceptualDistance | None = None

    def __call__(self, model: nn.Module, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """
        Compute the losses of a batch.

        Args:
            model (`torch.nn.Module`): A prepared [`AdversarialAutoencoder`].
            batch (`dict[str, Any]`): With `pixel_values` `(batch_size, channels, num_frames, height, width)` and
                `step`, the updates done.
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `dict[str, torch.Tensor]`: Scalars: `loss` for the decoder, and, with a discriminator,
            `discriminator_loss` for that.
        """
        videos = batch["pixel_values"].to(self.device)
        judged = model(videos, generator, batch["step"] >= self.config.disc_start)
        loss = self.of_reconstruction(judged.reconstructions, videos)
        layer = None if self.config.fixed_disc_weight else last_layer(self.vae)
        return add_adversarial(loss, judged, self.config.disc_weight, last_layer=layer)

    def of_reconstruction(self, reconstructions: Tensor, videos: Tensor) -> Tensor:
        """
        Compare reconstructions with what they should be, frame by frame.

        Args:
            reconstructions (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Videos.
            videos (`torch.Tensor` of the same shape): The originals.

        Returns:
            `torch.Tensor`: Scalar.
        """
        loss = reconstruction_loss(reconstructions, videos, self.config.rec_loss)
        if self.distance is None:
            return loss
        distances = self.distance(videos_to_images(reconstructions), videos_to_images(videos))
        return loss + self.config.perceptual_weight * distances.mean()


def last_layer(vae: AutoencoderKLVideo) -> nn.Parameter:
    """
    Find the last layer of a decoder that trains: its last convolution, or the last of the temporal attention.

    Args:
        vae ([`AutoencoderKLVideo`]): The autoencoder.

    Returns:
        `torch.nn.Parameter`: Its weight; that of the last convolution, if neither trains.
    """
    conv = vae.decoder.conv_out if vae.decoder.time_conv_out is None else vae.decoder.time_conv_out
    blocks = (vae.decoder.mid_block, *vae.decoder.up_blocks)  # in the order they run
    attentions = [module for block in blocks for module in block.modules() if isinstance(module, TemporalAttention)]
    if conv.weight.requires_grad or vae.config.temporal_conv or not attentions:
        return conv.weight
    return attentions[-1].to_out[0].weight
