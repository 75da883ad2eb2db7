"""Guidance by one more evaluation of the denoiser, and what an output of a denoiser says of the sample."""

# Shapes: B videos, C channels, F frames, H height, W width, of latents.

from collections.abc import Sequence

import torch
from diffusers import SchedulerMixin
from torch import Tensor


def chain_guidance(outputs: Sequence[Tensor], scales: Sequence[float | Tensor]) -> Tensor:
    """
    Go from the least informed output to the most informed one, and beyond it.

    f = f_0 + s_1 (f_1 - f_0) + s_2 (f_2 - f_1) + ...

    With f_0 of no condition, f_1 of given frames and f_2 of given frames and text, s_1 is the context guidance scale
    and s_2 the text guidance scale. With two outputs it is classifier-free guidance.

    Args:
        outputs (`Sequence[torch.Tensor]`): Outputs of one shape, each with one more condition than the one before.
        scales (`Sequence[float]`): One for each step between them; a tensor holds one for each frame, see
            [`guidance_over_frames`].

    Returns:
        `torch.Tensor` of the shape of the outputs.

    Source:
        Classifier-free guidance (arXiv:2207.12598), Eq. 6, in the form of a scale of 1 + w; VideoLDM
        (arXiv:2304.08818), Eq. 4 (context guidance). The paper never has both at once; the chain is that of
        InstructPix2Pix (arXiv:2211.09800), Eq. 3.
    """
    guided = outputs[0]
    for scale, lower, higher in zip(scales, outputs[:-1], outputs[1:], strict=True):
        guided = guided + scale * (higher - lower)
    return guided


def guidance_over_frames(
    min_guidance_scale: float, max_guidance_scale: float, num_frames: int, *, like: Tensor
) -> Tensor:
    """
    Guidance scales that go in equal steps from the first frame to the last.

    Args:
        min_guidance_scale (`float`): That of the first frame.
        max_guidance_scale (`float`): That of the last frame.
        num_frames (`int`): Number of frames.
        like (`torch.Tensor`): Type and place wanted.

    Returns:
        `torch.Tensor` of shape `(num_frames, 1, 1)`: To be multiplied with latents `(B, c, F, h, w)`; a single frame
        gets that of the first.

    Source:
        `LinearPredictionGuider` of Stable Video Diffusion (arXiv:2311.15127, Appendix D.3): guidance grows with the
        distance from the given frame, where too much of it shows first.
    """
    return torch.linspace(min_guidance_scale, max_guidance_scale, num_frames).to(like)[:, None, None]


def signal_and_noise(scheduler: SchedulerMixin, timestep: Tensor) -> tuple[float, float]:
    """
    Parts of sample and noise in what a denoiser sees at a timestep, after `scheduler.scale_model_input`.

    Args:
        scheduler (`SchedulerMixin`): With `alphas_cumprod`, or with a `signal_and_noise` of its own.
        timestep (`torch.Tensor`): One number in [0, num_train_timesteps); between integers it is interpolated. With a
            [`VDMScheduler`] it is a log-SNR.

    Returns:
        `tuple[float, float]`: sqrt(abar_t) and sqrt(1 - abar_t).
    """
    if hasattr(scheduler, "signal_and_noise"):
        return tuple(float(part) for part in scheduler.signal_and_noise(torch.as_tensor(timestep)))
    alphas = scheduler.alphas_cumprod.double()
    place = float(timestep)
    low = min(int(place), len(alphas) - 1)
    high = min(low + 1, len(alphas) - 1)
    alpha = float(alphas[low] + (place - low) * (alphas[high] - alphas[low]))
    return alpha**0.5, (1 - alpha) ** 0.5


def output_to_sample(output: Tensor, noisy: Tensor, prediction_type: str, signal: float, noise: float) -> Tensor:
    """
    The denoised estimate that an output of a denoiser stands for; the inverse of [`sample_to_output`].

    "epsilon": (z - sigma f) / alpha; "v_prediction": alpha z - sigma f; "sample": f.

    Args:
        output (`torch.Tensor`): f, of any shape.
        noisy (`torch.Tensor` of the same shape): z, what the denoiser saw.
        prediction_type (`str`): `"epsilon"`, `"sample"` or `"v_prediction"`.
        signal (`float`): alpha, above 0 for `"epsilon"`.
        noise (`float`): sigma, with alpha^2 + sigma^2 = 1.

    Returns:
        `torch.Tensor` of the same shape.

    Source:
        DDPM (arXiv:2006.11239), Eq. 15 (epsilon); progressive distillation (arXiv:2202.00512), Appendix D (v).
    """
    if prediction_type == "sample":
        return output
    if prediction_type == "v_prediction":
        return signal * noisy - noise * output
    return (noisy - noise * output) / signal


def sample_to_output(sample: Tensor, noisy: Tensor, prediction_type: str, signal: float, noise: float) -> Tensor:
    """
    The output of a denoiser that stands for a denoised estimate; the inverse of [`output_to_sample`].

    Args:
        sample (`torch.Tensor`): The estimate, of any shape.
        noisy (`torch.Tensor` of the same shape): What the denoiser saw.
        prediction_type (`str`): `"epsilon"`, `"sample"` or `"v_prediction"`.
        signal (`float`): alpha.
        noise (`float`): sigma, above 0 unless `"sample"` is predicted.

    Returns:
        `torch.Tensor` of the same shape.
    """
    if prediction_type == "sample":
        return sample
    if prediction_type == "v_prediction":
        return (signal * noisy - sample) / noise
    return (noisy - signal * sample) / noise
