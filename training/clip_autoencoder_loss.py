"""What autoencoders of clips are trained on: reconstruction first, then also against discriminators."""

# Shapes: B videos, C channels, F frames, H height, W width.

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_video.training.adversarial import Judged
from diffusers_video.training.autoencoder_config import AutoencoderConfig
from diffusers_video.training.clip_autoencoder import judging_of, see_frames
from diffusers_video.training.frame_and_clip_judges import add_adversarial
from diffusers_video.training.perceptual import PerceptualDistance
from diffusers_video.training.reconstruction import reconstruction_loss


@dataclass(frozen=True)
class ClipAutoencoderLoss:
    """
    Losses of an autoencoder of clips and of its discriminators.

    Args:
        config ([`AutoencoderConfig`]): Weights of the parts.
        device (`torch.device`): Where the model runs.
        vae ([`AutoencoderKL3D`] or [`AutoencoderTriplane`]): Its class says how it is judged; see [`judging_of`].
        distance ([`PerceptualDistance`], *optional*): The perceptual loss, if there is one.

    Source:
        The codes of LVDM (arXiv:2211.13221) and PVDM (arXiv:2302.07685); PVDM's weights are those here times 4, with a
        `disc_weight` of 0.25. Unlike PVDM, autoencoder and discriminators take their steps at the same time.
    """

    config: AutoencoderConfig
    device: torch.device
    vae: nn.Module
    distance: PerceptualDistance | None = None

    def __call__(self, model: nn.Module, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """
        Compute the losses of a batch.

        Args:
            model (`torch.nn.Module`): A prepared [`ClipAutoencoder`].
            batch (`dict[str, Any]`): With `pixel_values` `(batch_size, channels, num_frames, height, width)` and
                `step`, the updates done.
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `dict[str, torch.Tensor]`: Scalars: `loss` for the autoencoder, and, with discriminators,
            `discriminator_loss` for those.
        """
        videos = batch["pixel_values"].to(self.device)
        judging, frame_indices = judging_of(self.vae), None
        if judging.is_one_frame:
            frame_indices = torch.randint(videos.shape[2], (len(videos),), generator=generator).to(self.device)
        judged = model(videos, generator, frame_indices, batch["step"] >= self.config.disc_start)
        loss = self.of_reconstruction(judged, videos, frame_indices)
        layer = self.vae.decoder.conv_out.weight if judging.is_balanced else None
        weight, feature_weight = self.config.disc_weight, judging.feature_weight
        return add_adversarial(loss, judged, weight, last_layer=layer, feature_weight=feature_weight)

    def of_reconstruction(self, judged: Judged, videos: Tensor, frame_indices: Tensor | None = None) -> Tensor:
        """
        Compare reconstructions with what they should be, and a posterior with a normal distribution.

        Args:
            judged ([`Judged`]): Reconstructions, and the divergence of their posteriors.
            videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): The originals.
            frame_indices (`torch.Tensor` of shape `(batch_size,)`, *optional*): The frame of each clip whose features
                are compared; by default all.

        Returns:
            `torch.Tensor`: Scalar.
        """
        loss = reconstruction_loss(judged.reconstructions, videos, self.config.rec_loss)
        if judged.divergence is not None and self.config.train == "all":
            loss = loss + self.config.kl_scale * judged.divergence.mean()
        if self.distance is None:
            return loss
        made, wanted = (see_frames(clips, frame_indices) for clips in (judged.reconstructions, videos))
        return loss + self.config.perceptual_weight * self.distance(made, wanted).mean()
