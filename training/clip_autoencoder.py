"""Autoencoders of clips and their discriminators in one call: what is judged, and by how many."""

# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from diffusers_video.layers.layout import videos_to_images
from diffusers_video.models.autoencoder_triplane import AutoencoderTriplane
from diffusers_video.models.discriminators import PatchFeatureDiscriminator
from diffusers_video.models.inflation import ChannelsLastMixin
from diffusers_video.training.adversarial import Judged, idle_loss, judge_frozen
from diffusers_video.training.autoencoder_config import AutoencoderConfig
from diffusers_video.training.frame_and_clip_judges import pick_frames


class Judging(NamedTuple):
    """
    How an autoencoder of clips is trained against discriminators.

    Args:
        num_dims (`tuple[int, ...]`): Of each discriminator: 2 judges frames, 3 judges clips.
        is_one_frame (`bool`): Whether one frame of each clip, drawn at random, is judged and compared by its features,
            or all.
        is_balanced (`bool`): Whether the adversarial loss is weighed by gradients of the last layer.
        feature_weight (`float`): Weight of feature matching beside fooling the discriminators.
    """

    num_dims: tuple[int, ...]
    is_one_frame: bool
    is_balanced: bool
    feature_weight: float


LVDM_JUDGING = Judging(num_dims=(2,), is_one_frame=False, is_balanced=True, feature_weight=0.0)
PVDM_JUDGING = Judging(num_dims=(2, 3), is_one_frame=True, is_balanced=False, feature_weight=4.0)


def judging_of(vae: nn.Module) -> Judging:
    """
    Say how an autoencoder is judged.

    Args:
        vae ([`AutoencoderKL3D`] or [`AutoencoderTriplane`]): The autoencoder.

    Returns:
        [`Judging`]

    Source:
        The codes of LVDM (arXiv:2211.13221), a discriminator of all frames with an adaptive weight, and of PVDM
        (arXiv:2302.07685), one of a frame and one of the clip with features and fixed weights.
    """
    return PVDM_JUDGING if isinstance(vae, AutoencoderTriplane) else LVDM_JUDGING


class ClipAutoencoder(ChannelsLastMixin, nn.Module):
    """
    An autoencoder of clips and its discriminators in one call, which is what distributed training wraps.

    Args:
        vae ([`AutoencoderKL3D`] or [`AutoencoderTriplane`]): The autoencoder.
        judges (`Sequence[PatchFeatureDiscriminator]`, *optional*): Of frames or of clips; without any nothing is
            judged.
    """

    def __init__(self, vae: nn.Module, judges: Sequence[PatchFeatureDiscriminator] = ()) -> None:
        super().__init__()
        self.vae, self.judges = vae, nn.ModuleList(judges)

    def forward(
        self,
        videos: Tensor,
        generator: torch.Generator | None = None,
        frame_indices: Tensor | None = None,
        is_judged: bool = True,
    ) -> Judged:
        """
        Reconstruct clips and judge them.

        Args:
            videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Values in [-1, 1].
            generator (`torch.Generator`, *optional*): Draws the latents; without one their mode is decoded and
                nothing is judged, as held-out clips are measured.
            frame_indices (`torch.Tensor` of shape `(batch_size,)`, *optional*): The frame of each clip that is judged;
                by default all.
            is_judged (`bool`, *optional*, defaults to `True`): Whether the discriminators work already. Distributed
                training asks for gradients of all parameters in every update; while they do not, those are 0.

        Returns:
            [`Judged`]
        """
        reconstructions, divergence = reconstruct(self.vae, videos, generator)
        if not self.judges or generator is None:
            return Judged(reconstructions, divergence=divergence)
        if not is_judged:
            return Judged(reconstructions, divergence=divergence, idle=idle_loss(self.judges))
        made = [_part_for(judge, reconstructions, frame_indices) for judge in self.judges]
        real = [_part_for(judge, videos, frame_indices) for judge in self.judges]
        to_fool = [judge_frozen(judge, part) for judge, part in zip(self.judges, made, strict=True)]
        of_made = [judge(part.detach()) for judge, part in zip(self.judges, made, strict=True)]
        of_real = [judge(part) for judge, part in zip(self.judges, real, strict=True)]
        return Judged(reconstructions, to_fool, of_made, of_real, divergence=divergence)


def reconstruct(vae: nn.Module, videos: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
    """
    Encode and decode clips.

    Args:
        vae ([`AutoencoderKL3D`] or [`AutoencoderTriplane`]): The autoencoder.
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Values in [-1, 1].
        generator (`torch.Generator`, *optional*): Draws the latents from their posterior, where there is one; without
            it the mode is decoded.

    Returns:
        `tuple[torch.Tensor, torch.Tensor | None]`: Reconstructions, and the divergence as in [`Judged`].
    """
    if isinstance(vae, AutoencoderTriplane):
        return vae(videos).sample, None
    posterior = vae.encode(videos).latent_dist
    latents = posterior.mode() if generator is None else posterior.sample(generator)
    mean, logvar = posterior.mean, posterior.logvar
    # diffusers' `kl` leaves the last axis of videos.
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
    return vae.decode(latents).sample, divergence


def reconstruct_held_out(model: nn.Module, videos: Tensor) -> Tensor:
    """
    Reconstruct clips with nothing at random.

    Args:
        model (`torch.nn.Module`): A prepared [`ClipAutoencoder`].
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Values in [-1, 1].

    Returns:
        `torch.Tensor`: Of the same shape.
    """
    return model(videos).reconstructions


def see_frames(videos: Tensor, frame_indices: Tensor | None) -> Tensor:
    """
    Take one frame of each clip, or all.

    Args:
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Clips.
        frame_indices (`torch.Tensor` of shape `(batch_size,)`, *optional*): Which frame of each; by default all.

    Returns:
        `torch.Tensor` of shape `(num_images, channels, height, width)`.
    """
    return videos_to_images(videos) if frame_indices is None else pick_frames(videos, frame_indices)


def build_clip_autoencoder(config: AutoencoderConfig, vae: nn.Module, accelerator: Accelerator) -> ClipAutoencoder:
    """
    Put an autoencoder and the new discriminators that the settings ask for together.

    Args:
        config ([`AutoencoderConfig`]): `disc_weight`, and the size of discriminators.
        vae ([`AutoencoderKL3D`] or [`AutoencoderTriplane`]): The autoencoder.
        accelerator (`Accelerator`): Where training runs: between GPUs the discriminators share their normalisations.

    Returns:
        [`ClipAutoencoder`]
    """
    if config.disc_weight == 0:
        return ClipAutoencoder(vae)
    judges = [
        PatchFeatureDiscriminator(
            vae.config.in_channels, config.disc_base_channels, config.disc_num_layers, num_dims=number
        )
        for number in judging_of(vae).num_dims
    ]
    model = ClipAutoencoder(vae, judges)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model.judges = nn.SyncBatchNorm.convert_sync_batchnorm(model.judges)
    return model


def _part_for(judge: PatchFeatureDiscriminator, videos: Tensor, frame_indices: Tensor | None) -> Tensor:
    return videos if judge.config.num_dims == 3 else see_frames(videos, frame_indices)
