"""Adversarial losses with one discriminator or several, which see frames or whole clips."""

# Shapes: B videos, C channels, F frames, H height, W width.

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusers_video.models.discriminators import PatchJudgement
from diffusers_video.training.adversarial import Judged, adaptive_weight, hinge_loss


def pick_frames(videos: Tensor, indices: Tensor) -> Tensor:
    """
    Take one frame out of each clip.

    Args:
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Clips.
        indices (`torch.Tensor` of shape `(batch_size,)` and type `torch.int64`): Which frame of each.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, height, width)`.
    """
    return videos[torch.arange(len(videos), device=videos.device), :, indices]


def feature_matching_loss(of_made: PatchJudgement, of_real: PatchJudgement) -> Tensor:
    """
    Distance between what a discriminator sees in reconstructions and in originals.

    Args:
        of_made ([`PatchJudgement`]): Its judgement of reconstructions, with gradients for the autoencoder.
        of_real ([`PatchJudgement`]): Its judgement of the originals; no gradient flows to it.

    Returns:
        `torch.Tensor`: Scalar; the mean absolute differences of all layers but the last, summed.

    Source:
        pix2pixHD (arXiv:1711.11585), Eq. 4, without its weights of layers.
    """
    pairs = zip(of_made.features, of_real.features, strict=True)
    return sum((made.float() - real.detach().float()).abs().mean() for made, real in pairs)


def fooling_loss(
    of_made: Sequence[PatchJudgement], of_real: Sequence[PatchJudgement], feature_weight: float = 4.0
) -> Tensor:
    """
    The adversarial part of what the autoencoder minimises in the second stage of its training.

    Args:
        of_made (`Sequence[PatchJudgement]`): What each discriminator says of reconstructions.
        of_real (`Sequence[PatchJudgement]`): What each says of the originals.
        feature_weight (`float`, *optional*, defaults to 4.0): Weight of [`feature_matching_loss`].

    Returns:
        `torch.Tensor`: Scalar.

    Source:
        PVDM's code (arXiv:2302.07685): no adaptive weight, unlike VQGAN.
    """
    pairs = list(zip(of_made, of_real, strict=True))
    fooled = sum(made.logits.float().mean() for made, _ in pairs)
    return feature_weight * sum(feature_matching_loss(made, real) for made, real in pairs) - fooled


def judging_loss(of_made: Sequence[PatchJudgement], of_real: Sequence[PatchJudgement]) -> Tensor:
    """
    What the discriminators minimise.

    Args:
        of_made (`Sequence[PatchJudgement]`): What each says of reconstructions, which are detached.
        of_real (`Sequence[PatchJudgement]`): What each says of the originals.

    Returns:
        `torch.Tensor`: Scalar; the sum of their hinge losses.
    """
    return sum(hinge_loss(made.logits, real.logits) for made, real in zip(of_made, of_real, strict=True))


def add_adversarial(
    loss: Tensor,
    judged: Judged,
    weight: float,
    *,
    last_layer: nn.Parameter | None = None,
    feature_weight: float = 0.0,
) -> dict[str, Tensor]:
    """
    Add the adversarial loss to that of the reconstruction, and put the discriminators' beside it.

    Args:
        loss (`torch.Tensor`): Scalar loss of the reconstruction.
        judged ([`Judged`]): What the discriminators say.
        weight (`float`): Weight of the adversarial loss.
        last_layer (`torch.nn.Parameter`, *optional*): The layer that balances it; see [`adaptive_weight`].
        feature_weight (`float`, *optional*, defaults to 0.0): See [`fooling_loss`].

    Returns:
        `dict[str, torch.Tensor]`: Scalars: `loss` for the autoencoder, and, with discriminators, `discriminator_loss`
        for those.
    """
    if judged.idle is not None:
        return {"loss": loss, "discriminator_loss": judged.idle}
    if judged.to_fool is None:
        return {"loss": loss}
    adversarial = fooling_loss(judged.to_fool, judged.of_real, feature_weight)
    if last_layer is not None:
        weight = weight * adaptive_weight(loss, adversarial, last_layer)
    return {"loss": loss + weight * adversarial, "discriminator_loss": judging_loss(judged.of_made, judged.of_real)}
