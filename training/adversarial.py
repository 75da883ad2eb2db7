"""Adversarial training of video autoencoders: the two networks in one call, their losses, and how they are weighed."""

# Shapes: B videos, C channels, F frames, H height, W width.

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from diffusers_video.models.autoencoder_kl_video import AutoencoderKLVideo
from diffusers_video.models.discriminators import VideoPatchDiscriminator
from diffusers_video.models.inflation import ChannelsLastMixin


_LARGEST_WEIGHT = 1e4


class Judged(NamedTuple):
    """
    Reconstructions, and what the discriminator says.

    Args:
        reconstructions (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Videos.
        to_fool (`torch.Tensor`, *optional*): Judgement of them, with gradients for the autoencoder alone.
        of_made (`torch.Tensor`, *optional*): The same numbers, with gradients for the discriminator alone.
        of_real (`torch.Tensor`, *optional*): Judgement of the originals, likewise.
        idle (`torch.Tensor`, *optional*): Scalar 0 that depends on the discriminator, which judged nothing.
    """

    reconstructions: Tensor
    to_fool: Tensor | None = None
    of_made: Tensor | None = None
    of_real: Tensor | None = None
    idle: Tensor | None = None


class AdversarialAutoencoder(ChannelsLastMixin, nn.Module):
    """
    A video autoencoder and its discriminator in one call, which is what distributed training wraps.

    Args:
        vae ([`AutoencoderKLVideo`]): Its encoder does not train.
        discriminator ([`VideoPatchDiscriminator`], *optional*): Without one nothing is judged.
    """

    def __init__(self, vae: AutoencoderKLVideo, discriminator: VideoPatchDiscriminator | None) -> None:
        super().__init__()
        self.vae, self.discriminator = vae, discriminator

    def forward(self, videos: Tensor, generator: torch.Generator | None = None, is_judged: bool = True) -> Judged:
        """
        Reconstruct videos and judge them.

        Args:
            videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Values in [-1, 1].
            generator (`torch.Generator`, *optional*): Draws the latents; without one their mode is decoded and
                nothing is judged, as held-out clips are measured.
            is_judged (`bool`, *optional*, defaults to `True`): Whether the discriminator works already. Distributed
                training asks for gradients of all parameters in every update; while it does not, they are 0.

        Returns:
            [`Judged`]
        """
        with torch.no_grad():
            posterior = self.vae.encode(videos).latent_dist
            latents = posterior.mode() if generator is None else posterior.sample(generator)
        reconstructions = self.vae.decode(latents).sample
        if self.discriminator is None or generator is None:
            return Judged(reconstructions)
        if not is_judged:
            return Judged(reconstructions, idle=0 * sum(weight.sum() for weight in self.discriminator.parameters()))
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        to_fool = functional_call(self.discriminator, frozen, (reconstructions,))
        of_made, of_real = self.discriminator(torch.cat([reconstructions.detach(), videos])).chunk(2)
        return Judged(reconstructions, to_fool, of_made, of_real)


def hinge_loss(of_made: Tensor, of_real: Tensor) -> Tensor:
    """
    What the discriminator minimises.

    Args:
        of_made (`torch.Tensor`): Its judgement of reconstructions.
        of_real (`torch.Tensor`): Its judgement of originals.

    Returns:
        `torch.Tensor`: Scalar; 0 where it says at most -1 to the first and at least 1 to the second.

    Source:
        Geometric GAN (arXiv:1705.02894); halved as in the code of VQGAN (arXiv:2012.09841).
    """
    return 0.5 * (functional.relu(1 + of_made.float()).mean() + functional.relu(1 - of_real.float()).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """
    Weigh the adversarial loss so that it pulls at the last layer as hard as the reconstruction loss does.

    Args:
        reconstruction (`torch.Tensor`): Scalar loss of the reconstruction.
        adversarial (`torch.Tensor`): Scalar loss that fools the discriminator.
        last_layer (`torch.nn.Parameter`): Weights of the decoder's last layer; both losses depend on them.

    Returns:
        `torch.Tensor`: Scalar without gradient, at most 10,000.

    Source:
        VQGAN (arXiv:2012.09841), Equation 7 and the text behind it, with delta = 1e-4 as in its code; taken over by
        Latent Diffusion Models (arXiv:2112.10752), Section 3.1.
    """
    pulls = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float().norm()
        for loss in (reconstruction, adversarial)
    ]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(max=_LARGEST_WEIGHT).detach()
