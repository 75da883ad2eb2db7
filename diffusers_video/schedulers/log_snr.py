"""Log-SNR: the noise level in continuous time, and how a denoiser is told that of any scheduler."""

import math
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ..conditioning.guidance import signal_and_noise


def cosine_log_snr(times: Tensor, min_log_snr: float = -20.0, max_log_snr: float = 20.0) -> Tensor:
    """
    Log-SNR of the cosine schedule: -2 log tan(a t + b), from its largest value at t = 0 to its smallest at t = 1.

    Args:
        times (`torch.Tensor`): t in [0, 1], of any shape.
        min_log_snr (`float`, *optional*, defaults to -20.0): Log-SNR at t = 1.
        max_log_snr (`float`, *optional*, defaults to 20.0): Log-SNR at t = 0.

    Returns:
        `torch.Tensor` of the same shape: float64.

    Source:
        VDM (arXiv:2204.03458), Appendix A, names the schedule and its bounds; the closed form is that of the
        authors' later work, so that alpha = cos(a t + b) and sigma = sin(a t + b).
    """
    first, last = math.atan(math.exp(-0.5 * max_log_snr)), math.atan(math.exp(-0.5 * min_log_snr))
    return -2 * torch.tan(first + (last - first) * times.double()).log()


def log_snr_at(scheduler: SchedulerMixin, timestep: Tensor) -> Tensor:
    """
    Log-SNR of what a denoiser sees at timesteps of a scheduler, after `scheduler.scale_model_input`.

    Args:
        scheduler (`SchedulerMixin`): [`VDMScheduler`], whose timesteps are log-SNRs already, or one of diffusers'
            with `alphas_cumprod`.
        timestep (`torch.Tensor`): Timesteps, of any shape; between integers it is interpolated.

    Returns:
        `torch.Tensor` of the same shape: float32; minus infinity where there is noise alone.

    Source:
        VDM (arXiv:2204.03458), Section 2: lambda = log(alpha^2 / sigma^2).
    """
    if is_continuous(scheduler):
        return timestep.float()
    levels = [signal_and_noise(scheduler, level) for level in timestep.flatten()]
    ratios = [2 * (math.log(signal) - math.log(noise)) if signal > 0 else -math.inf for signal, noise in levels]
    return torch.tensor(ratios, dtype=torch.float32, device=timestep.device).reshape(timestep.shape)


def is_continuous(scheduler: SchedulerMixin) -> bool:
    """
    Tell whether the timesteps of a scheduler are log-SNRs.

    Args:
        scheduler (`SchedulerMixin`): Any.

    Returns:
        `bool`: `True` for [`VDMScheduler`].
    """
    return hasattr(scheduler, "log_snr")


def denoiser_timestep(unet_config: Any, scheduler: SchedulerMixin, timestep: Tensor) -> Tensor:
    """
    Bring timesteps of a scheduler into the form that a denoiser is told them in.

    Args:
        unet_config (`Any`): Configuration of the denoiser. With `timestep_type="log_snr"` it is told log-SNRs.
        scheduler (`SchedulerMixin`): The scheduler in use.
        timestep (`torch.Tensor`): Its timesteps, of any shape.

    Returns:
        `torch.Tensor` of the same shape: Log-SNRs, or `timestep` itself.

    Raises:
        ValueError: If the scheduler has log-SNRs alone, and the denoiser reads none.
    """
    if unet_config.get("timestep_type") == "log_snr":
        return log_snr_at(scheduler, timestep)
    if is_continuous(scheduler):
        raise ValueError(
            f"`scheduler` {type(scheduler).__name__} tells the noise level as log-SNR, but this denoiser has"
            f" `timestep_type={unet_config.get('timestep_type', 'discrete')!r}`. Take a scheduler with training"
            " timesteps, such as `DDPMScheduler`, or build the denoiser with `timestep_type='log_snr'`."
        )
    return timestep
