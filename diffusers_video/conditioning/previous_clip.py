"""Guidance by the clip before: one denoiser that knows it or not, and no evaluation that changes nothing."""

# Shapes: B videos, C channels; latents of any further axes.

from typing import Any

import torch
from torch import Tensor, nn

from .guidance import chain_guidance


def predict_after_clip(
    unet: nn.Module,
    sample: Tensor,
    timestep: float | Tensor,
    previous_latents: Tensor | None = None,
    guidance_scale: float = 1.0,
    **unet_options: Any,
) -> Tensor:
    """
    Evaluate a denoiser that may read the latents of the clip before.

    f = f(z, 0, t) + s (f(z, z', t) - f(z, 0, t)), with z' of the clip before. At s = 1, and without such a clip, the
    denoiser runs once; otherwise both parts run as one batch.

    Args:
        unet (`torch.nn.Module`): Takes `sample`, `timestep` and `previous_latents`, as [`UNetTriplaneModel`] does.
        sample (`torch.Tensor` of shape `(batch_size, channels, ...)`): Noisy latents.
        timestep (`float` or `torch.Tensor` of shape `(batch_size,)`): Noise level.
        previous_latents (`torch.Tensor` of the shape of `sample`, *optional*): Clean latents of the clip before.
        guidance_scale (`float`, *optional*, defaults to 1.0): s; it has no effect without `previous_latents`.
        unet_options: Further arguments of the denoiser, the same for both parts.

    Returns:
        `torch.Tensor` of the shape of `sample`.

    Source:
        Classifier-free guidance (arXiv:2207.12598), Eq. 6 with a scale of 1 + w; PVDM (arXiv:2302.07685), Section 3.4.
        Its code evaluates both parts at w = 0 too.
    """
    if previous_latents is None or guidance_scale == 1:
        return unet(sample, timestep, previous_latents, **unet_options).sample
    conditions = torch.cat([torch.zeros_like(previous_latents), previous_latents])
    if isinstance(timestep, Tensor) and timestep.dim() == 1 and len(timestep) > 1:
        timestep = timestep.repeat(2)
    outputs = unet(torch.cat([sample, sample]), timestep, conditions, **unet_options).sample
    return chain_guidance(outputs.chunk(2), [guidance_scale])
