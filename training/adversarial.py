"""Adversarial training of autoencoders: both networks in one call, their losses, and how these are weighed."""

# Shapes: B videos, C channels, F frames, H height, W width.

from typing import Any, NamedTuple

import torch
from accelerate.logging import get_logger
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from diffusers_video.models.autoencoder_kl_video import AutoencoderKLVideo
from diffusers_video.models.discriminators import PatchJudgement, VideoPatchDiscriminator
from diffusers_video.models.inflation import ChannelsLastMixin
from diffusers_video.training.adversarial_config import AdversarialConfig


logger = get_logger(__name__)

_LARGEST_WEIGHT = 1e4


class Judged(NamedTuple):
    """
    Reconstructions, and what the discriminators say.

    Args:
        reconstructions (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Videos.
        to_fool (`list[PatchJudgement]`, *optional*): What each discriminator says of them, with gradients for the
            autoencoder alone.
        of_made (`list[PatchJudgement]`, *optional*): The same numbers, with gradients for the discriminators alone.
        of_real (`list[PatchJudgement]`, *optional*): What each says of the originals, likewise.
        idle (`torch.Tensor`, *optional*): Scalar 0 that depends on the discriminators, which judged nothing.
        divergence (`torch.Tensor` of shape `(batch_size,)`, *optional*): KL divergence of each posterior from a
            standard normal distribution, summed over its latents, where there is a posterior that trains.
    """

    reconstructions: Tensor
    to_fool: list[PatchJudgement] | None = None
    of_made: list[PatchJudgement] | None = None
    of_real: list[PatchJudgement] | None = None
    idle: Tensor | None = None
    divergence: Tensor | None = None


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
            return Judged(reconstructions, idle=idle_loss(self.discriminator))
        to_fool = judge_frozen(self.discriminator, reconstructions)
        of_made, of_real = self.discriminator(torch.cat([reconstructions.detach(), videos])).chunk(2)
        return Judged(reconstructions, *([PatchJudgement(logits, [])] for logits in (to_fool, of_made, of_real)))


def judge_frozen(discriminator: nn.Module, sample: Tensor) -> Any:
    """
    Judge without gradients for the discriminator.

    Args:
        discriminator (`torch.nn.Module`): It.
        sample (`torch.Tensor`): What it judges; gradients flow to it.

    Returns:
        What the discriminator returns.
    """
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return functional_call(discriminator, frozen, (sample,))


def idle_loss(discriminators: nn.Module) -> Tensor:
    """
    Loss of discriminators that judged nothing.

    Args:
        discriminators (`torch.nn.Module`): One, or a list of them.

    Returns:
        `torch.Tensor`: Scalar 0; its gradients are 0 for each of their parameters.
    """
    return 0 * sum(weight.sum() for weight in discriminators.parameters())


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


def describe_opponent(
    discriminators: nn.Module | None, learning_rate: float | None = None, **options: float
) -> dict[str, Any] | None:
    """
    Say how discriminators train.

    Args:
        discriminators (`torch.nn.Module`, *optional*): One, or a list of them.
        learning_rate (`float`, *optional*): Their highest learning rate; that of the autoencoder by default.
        options (`float`): Further options of their optimizer, such as `weight_decay`; those of the autoencoder by
            default.

    Returns:
        `dict[str, Any]`, *optional*: See [`fit`]; nothing without a discriminator.

    Source:
        Adam with betas 0.5 and 0.9, as in the codes of Latent Diffusion Models (arXiv:2112.10752), LVDM
        (arXiv:2211.13221) and PVDM (arXiv:2302.07685).
    """
    weights = [] if discriminators is None else list(discriminators.parameters())
    if not weights:
        return None
    opponent = {"params": weights, "betas": (0.5, 0.9), **options}
    return opponent if learning_rate is None else {**opponent, "lr": learning_rate}


def warn_of_late_start(config: AdversarialConfig, num_updates: int) -> None:
    """
    Warn of a run that ends before its discriminators start.

    Args:
        config ([`AdversarialConfig`]): `disc_weight` and `disc_start`.
        num_updates (`int`): Optimizer updates of the run.
    """
    if config.disc_weight and num_updates <= config.disc_start:
        logger.warning(
            f"The run ends after {num_updates} updates, before the adversarial losses set in (`disc_start`="
            f"{config.disc_start}): nothing is trained against the discriminators."
        )
