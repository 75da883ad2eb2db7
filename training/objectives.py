"""What a denoiser is trained on: targets, weights, noise offsets, dropped captions. Pure functions."""

# Shapes: B videos, C channels, F frames, H height, W width, of latents; L text tokens, D text width.

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.training_utils import compute_snr
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from diffusers_video.schedulers.log_snr import denoiser_timestep, is_continuous


LOSS_TYPES = ("l2", "l1")
NOISE_OFFSETS = ("frame", "clip")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def draw_noise_levels(
    scheduler: SchedulerMixin, batch_size: int, generator: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """
    Draw one noise level per video, as its scheduler counts them.

    Args:
        scheduler (`SchedulerMixin`): The noise schedule. In continuous time the times are uniform.
        batch_size (`int`): Number of videos.
        generator (`torch.Generator`): Source of randomness, on the CPU.
        weights (`torch.Tensor` of shape `(num_train_timesteps,)`, *optional*): See [`draw_timesteps`]; for a schedule
            with training timesteps.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: int64 timesteps, or float32 log-SNRs.

    Source:
        VDM (arXiv:2204.03458), Section 2: t is uniform in [0, 1].
    """
    if is_continuous(scheduler):
        return scheduler.log_snr(torch.rand(batch_size, generator=generator))
    return draw_timesteps(batch_size, scheduler.config.num_train_timesteps, generator, weights)


def spread_noise_levels(scheduler: SchedulerMixin, number: int) -> Tensor:
    """
    Noise levels at the middles of equal parts of a schedule.

    Args:
        scheduler (`SchedulerMixin`): The noise schedule.
        number (`int`): How many.

    Returns:
        `torch.Tensor` of shape `(number,)`: int64 timesteps, or float32 log-SNRs; the noise grows.
    """
    middles = (torch.arange(number) + 0.5) / number
    if is_continuous(scheduler):
        return scheduler.log_snr(middles)
    return (middles * scheduler.config.num_train_timesteps).long()


def draw_timesteps(
    batch_size: int, num_train_timesteps: int, generator: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """
    Draw one timestep per video, each equally likely unless there are weights.

    Args:
        batch_size (`int`): Number of videos.
        num_train_timesteps (`int`): Length of the noise schedule.
        generator (`torch.Generator`): Source of randomness, on the CPU.
        weights (`torch.Tensor` of shape `(num_train_timesteps,)`, *optional*): Of the timesteps, from
            [`timestep_weights`].

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: int64 in [0, num_train_timesteps).

    Source:
        VideoLDM (arXiv:2304.08818), Section 2: tau is uniform over the diffusion times; all frames share it.
    """
    if weights is not None:
        return torch.multinomial(weights, batch_size, replacement=True, generator=generator)
    return torch.randint(num_train_timesteps, (batch_size,), generator=generator)


def timestep_weights(num_train_timesteps: int, begin: int, end: int, multiplier: float) -> Tensor | None:
    """
    Weights that draw a range of timesteps more often, or more rarely, than the others.

    Args:
        num_train_timesteps (`int`): Length of the noise schedule.
        begin (`int`): First timestep of the range.
        end (`int`): The timestep behind its last one; a longer range ends with the schedule.
        multiplier (`float`): How many times as often a timestep of the range is drawn as one outside it.

    Returns:
        `torch.Tensor` of shape `(num_train_timesteps,)`: float32; `None` where all are equally likely.

    Source:
        Flags `timestep_bias_*` of diffusers' training scripts, with the strategy "range".
    """
    if multiplier == 1:
        return None
    weights = torch.ones(num_train_timesteps)
    weights[begin:end] *= multiplier
    return weights


def add_noise_offset(noise: Tensor, strength: float, *, per: str = "frame", generator: torch.Generator) -> Tensor:
    """
    Shift noise by a random constant per channel, so that a model learns to change the brightness of whole pictures.

    noise' = noise + strength * e, with e standard normal for each video, channel and (`per="frame"`) frame.

    Args:
        noise (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Noise.
        strength (`float`): At least 0; 0.05 to 0.1 is usual.
        per (`str`, *optional*, defaults to `"frame"`): `"frame"`, or `"clip"`: frames of a video share the constant.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        `torch.Tensor` of the shape of `noise`.

    Raises:
        ValueError: If `per` is unknown.

    Source:
        N. Guttenberg, "Diffusion With Offset Noise" (2023), https://www.crosslabs.org/blog/diffusion-with-offset-noise;
        flag `noise_offset` of diffusers' training scripts.
    """
    if per not in NOISE_OFFSETS:
        raise ValueError(f"`per` must be one of {NOISE_OFFSETS}, but is {per!r}. Choose one of them.")
    num_frames = noise.shape[2] if per == "frame" else 1
    shape = (*noise.shape[:2], num_frames, 1, 1)
    return noise + strength * randn_tensor(shape, generator=generator, device=noise.device, dtype=noise.dtype)


def draw_mask(batch_size: int, probability: float, generator: torch.Generator) -> Tensor:
    """
    Choose videos at random: those whose captions are dropped, or whose frames count as single images.

    Args:
        batch_size (`int`): Number of videos.
        probability (`float`): Chance of each, in [0, 1].
        generator (`torch.Generator`): Source of randomness, on the CPU.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: `torch.bool`.
    """
    return torch.rand(batch_size, generator=generator) < probability


def drop_captions(conditions: Mapping[str, Any], empty: Mapping[str, Any], mask: Tensor) -> dict[str, Any]:
    """
    Replace the text conditions of some videos by those of an empty caption.

    Args:
        conditions (`Mapping[str, Any]`): `encoder_hidden_states` `(batch_size, tokens, width)`, and perhaps
            `added_cond_kwargs` with `text_embeds` `(batch_size, width)`; anything else is handed on.
        empty (`Mapping[str, Any]`): The same of one empty caption, `(1, tokens, width)` and `(1, width)`.
        mask (`torch.Tensor` of shape `(batch_size,)`): `True` where the caption is dropped.

    Returns:
        `dict[str, Any]`: New conditions.

    Source:
        Classifier-free guidance (arXiv:2207.12598), Algorithm 1: c is replaced by the null token with p_uncond.
    """
    states = conditions["encoder_hidden_states"]
    dropped = {"encoder_hidden_states": _replace_rows(states, empty["encoder_hidden_states"], mask)}
    if "added_cond_kwargs" in conditions:
        added, empty_added = conditions["added_cond_kwargs"], empty["added_cond_kwargs"]
        text_embeds = _replace_rows(added["text_embeds"], empty_added["text_embeds"], mask)
        dropped["added_cond_kwargs"] = {**added, "text_embeds": text_embeds}
    return {**conditions, **dropped}


def prediction_target(scheduler: SchedulerMixin, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """
    What the denoiser should answer, by the scheduler's `prediction_type`.

    "epsilon": noise; "sample": latents; "v_prediction": sqrt(abar_t) noise - sqrt(1 - abar_t) latents.

    Args:
        scheduler (`SchedulerMixin`): With `get_velocity`, such as `DDPMScheduler`.
        latents (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Clean latents.
        noise (`torch.Tensor` of the same shape): What is added to them.
        timesteps (`torch.Tensor` of shape `(batch_size,)`): Noise levels.

    Returns:
        `torch.Tensor` of the same shape.

    Raises:
        ValueError: If the scheduler's `prediction_type` is another one.

    Source:
        DDPM (arXiv:2006.11239), Eq. 14 (epsilon); progressive distillation (arXiv:2202.00512), Section 4 (x and v).
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return latents
    if prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    raise ValueError(
        f"`scheduler` must have a `prediction_type` out of {PREDICTION_TYPES}, but has {prediction_type!r}. Set one."
    )


def min_snr_weights(scheduler: SchedulerMixin, timesteps: Tensor, gamma: float) -> Tensor:
    """
    Weights that keep nearly clean latents from dominating the loss.

    In terms of the error of the denoised sample the weight is min(SNR, gamma), with SNR = abar_t / (1 - abar_t). An
    error of that size is an error of epsilon times 1 / SNR, and of v times 1 / (SNR + 1), hence

    "sample": min(SNR, gamma); "epsilon": min(SNR, gamma) / SNR; "v_prediction": min(SNR, gamma) / (SNR + 1).

    Args:
        scheduler (`SchedulerMixin`): With `prediction_type`, and `alphas_cumprod` unless its levels are log-SNRs.
        timesteps (`torch.Tensor` of shape `(batch_size,)`): Noise levels.
        gamma (`float`): Above 0; 5 in the paper.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: float32.

    Source:
        Min-SNR (arXiv:2303.09556), Section 3.4.
    """
    snr = timesteps.exp() if is_continuous(scheduler) else compute_snr(scheduler, timesteps)
    clipped = snr.clamp(max=gamma)
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "sample":
        return clipped
    return clipped / (snr + 1 if prediction_type == "v_prediction" else snr)


def denoising_loss(
    model: nn.Module,
    scheduler: SchedulerMixin,
    latents: Tensor,
    conditions: Mapping[str, Any],
    *,
    noise: Tensor,
    timesteps: Tensor,
    snr_gamma: float | None = None,
    perturbation: Tensor | None = None,
    loss_type: str = "l2",
    context_noise: Tensor | None = None,
) -> Tensor:
    """
    Squared (or absolute) error of the denoiser, averaged over videos.

    L = mean_b w(t_b) mean | f(sqrt(abar_t) z + sqrt(1 - abar_t) noise; c, t) - target |^2

    Args:
        model (`torch.nn.Module`): Video denoiser, called as [`UNetVideoConditionModel`].
        scheduler (`SchedulerMixin`): The noise schedule, such as a `DDPMScheduler`, with the `prediction_type`.
        latents (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Clean latents.
        conditions (`Mapping[str, Any]`): Further arguments of the model.
        noise (`torch.Tensor` of the same shape): Noise, see [`diffusers_video.conditioning.noise.draw_noise`].
        timesteps (`torch.Tensor` of shape `(batch_size,)`): Noise levels, see [`draw_timesteps`].
        snr_gamma (`float`, *optional*): gamma of [`min_snr_weights`]; otherwise all weights are 1.
        perturbation (`torch.Tensor` of the same shape, *optional*): Added to the noise that the model sees, but not
            to the target (input perturbation, arXiv:2301.11706, Algorithm 1).
        loss_type (`str`, *optional*, defaults to `"l2"`): `"l2"` or `"l1"`, LVDM's.
        context_noise (`torch.Tensor` of the same shape, *optional*): Noise in the given frames of `conditions`, where
            these take the places of noisy ones: their targets are made of it. Frames that are given without noise do
            not count.

    Returns:
        `torch.Tensor`: Scalar, float32.

    Source:
        VideoLDM (arXiv:2304.08818), Eqs. 1 and 2; given frames: LVDM (arXiv:2211.13221), Section 3.3, and its code.
    """
    latents, noise = latents.float(), noise.float()
    noisy = scheduler.add_noise(latents, noise if perturbation is None else noise + perturbation, timesteps)
    if noisy.device.type == "cpu" and torch.is_grad_enabled():
        # PyTorch 2.13's group norm on the CPU crashes in a backward that wants gradients of its weights alone, as the
        # first temporal layer behind frozen ones does: its input must want one as well.
        noisy.requires_grad_()
    unet_config = getattr(getattr(model, "module", model), "config", {})  # a model on several processes is wrapped
    told = denoiser_timestep(unet_config, scheduler, timesteps)
    prediction = model(noisy, told, **conditions, return_dict=False)[0]
    target = prediction_target(scheduler, latents, noise, timesteps)
    counted = None
    if context_noise is not None:
        is_given, levels = conditions["frame_mask"], conditions.get("noise_level", torch.zeros_like(timesteps))
        told = prediction_target(scheduler, latents, context_noise.float(), levels)
        target = torch.where(is_given[:, None, :, None, None], told, target)
        counted = ~(is_given & (levels == 0)[:, None])
    difference = prediction.float() - target
    errors = _mean_over_frames(difference.abs() if loss_type == "l1" else difference.square(), counted)
    if snr_gamma is not None:
        errors = errors * min_snr_weights(scheduler, timesteps, snr_gamma)
    return errors.mean()


def _mean_over_frames(errors: Tensor, counted: Tensor | None) -> Tensor:
    if counted is None:
        return errors.flatten(1).mean(dim=1)
    of_frames = errors.mean(dim=(1, 3, 4)) * counted
    return of_frames.sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def _replace_rows(values: Tensor, row: Tensor, mask: Tensor) -> Tensor:
    mask = mask.to(values.device).reshape(-1, *[1] * (values.ndim - 1))
    return torch.where(mask, row.to(values), values)
