"""Which schedulers fit the video pipelines, and how a sampling run is set up on one."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import (
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from torch import Tensor

from diffusers_video.conditioning.noise import draw_seeds
from diffusers_video.schedulers.log_snr import is_continuous


SIGMA_SCHEDULERS = (EulerDiscreteScheduler, EDMEulerScheduler, EDMDPMSolverMultistepScheduler)
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")

_FLOW = "it follows a flow-matching velocity, while this pipeline's model predicts noise, the sample or v"
_INVERSE = "it walks from a sample to noise"
_SIGMA_MODEL = "it rescales the model's inputs, outputs and timesteps for a network trained in EDM form"
_SCORE = "its `step` wants a score and a predictor-corrector loop"
_TOKENS = "it samples discrete tokens"
_STEP = "its `step` needs more than the model's output, a timestep and the sample"
_CONTINUOUS = "it gives the model continuous times in [0, 1] instead of training timesteps"

UNSUITED_SCHEDULERS = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "CMStochasticIterativeScheduler": "it is made for consistency models trained in sigma space",
    "CogVideoXDPMScheduler": _STEP,
    "ConsistencyDecoderScheduler": "it is made for the consistency decoder of an autoencoder",
    "CosineDPMSolverMultistepScheduler": _SIGMA_MODEL,
    "DDIMInverseScheduler": _INVERSE,
    "DDPMWuerstchenScheduler": _CONTINUOUS,
    "DPMSolverMultistepInverseScheduler": _INVERSE,
    "DiscreteDDIMScheduler": _TOKENS,
    "EDMDPMSolverMultistepScheduler": _SIGMA_MODEL,
    "EDMEulerScheduler": _SIGMA_MODEL,
    "EntropyBoundScheduler": _TOKENS,
    "FlowMapEulerDiscreteScheduler": _FLOW,
    "FlowMatchEulerDiscreteScheduler": _FLOW,
    "FlowMatchHeunDiscreteScheduler": _FLOW,
    "FlowMatchLCMScheduler": _FLOW,
    "HeliosDMDScheduler": _FLOW,
    "HeliosScheduler": _FLOW,
    "IPNDMScheduler": _CONTINUOUS,
    "KarrasVeScheduler": _SCORE,
    "LTXEulerAncestralRFScheduler": _FLOW,
    "MiniMaxH3Scheduler": _FLOW,
    "PiflowScheduler": _FLOW,
    "RFD4ProteinaScheduler": _FLOW,
    "RePaintScheduler": "its `step` repaints an image and wants the original and a mask",
    "SCMScheduler": _CONTINUOUS,
    "ScoreSdeVeScheduler": _SCORE,
    "ScoreSdeVpScheduler": _SCORE,
    "UnCLIPScheduler": "it is made for the prior and decoder of unCLIP",
    "VQDiffusionScheduler": _TOKENS,
}
WITHOUT_SAMPLE_PREDICTION = (
    "DPMSolverSDEScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "PNDMScheduler",
)


def check_scheduler(scheduler: SchedulerMixin, takes_log_snr: bool = False) -> None:
    """
    Refuse a scheduler that cannot denoise the latents of a noise-predicting video model.

    Args:
        scheduler (`SchedulerMixin`): The scheduler a pipeline is to sample with.
        takes_log_snr (`bool`, *optional*, defaults to `False`): Whether the model is told log-SNRs, which it then is
            with any scheduler. With `VDMScheduler` there is nothing else.

    Raises:
        ValueError: If the scheduler is of a kind that does not fit, or is configured so that it does not.
    """
    name = type(scheduler).__name__
    way_out = "Pass one that does, for instance `DDIMScheduler.from_config(pipeline.scheduler.config)`."
    for base in type(scheduler).__mro__:
        if base.__name__ in UNSUITED_SCHEDULERS:
            raise ValueError(f"`scheduler` {name} does not fit: {UNSUITED_SCHEDULERS[base.__name__]}. {way_out}")
    if is_continuous(scheduler) and not takes_log_snr:
        raise ValueError(
            f"`scheduler` {name} does not fit: it tells the noise level as log-SNR, which this model does not read."
            f" {way_out}"
        )
    missing = [part for part in ("set_timesteps", "scale_model_input", "step") if not hasattr(scheduler, part)]
    if missing:
        raise ValueError(f"`scheduler` {name} does not fit: it has no `{missing[0]}`. {way_out}")
    if not {"model_output", "timestep", "sample"} <= _parameters(scheduler.step):
        raise ValueError(f"`scheduler` {name} does not fit: {_STEP}. {way_out}")
    prediction_type = scheduler.config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES or scheduler.config.get("use_flow_sigmas"):
        raise ValueError(
            f"`scheduler` {name} must have a `prediction_type` among {PREDICTION_TYPES} and no flow sigmas, but is"
            f" configured for flow matching: prediction_type={prediction_type!r},"
            f" use_flow_sigmas={scheduler.config.get('use_flow_sigmas', False)}."
        )
    if prediction_type == "sample" and name in WITHOUT_SAMPLE_PREDICTION:
        raise ValueError(f"`scheduler` {name} cannot use the prediction_type 'sample' of this model. {way_out}")
    if str(scheduler.config.get("variance_type", "")).startswith("learned"):
        raise ValueError(
            f"`scheduler` {name} expects the model to predict a variance"
            f" (variance_type={scheduler.config.variance_type!r}), which video models do not. Use 'fixed_small'."
        )


def check_sigma_scheduler(scheduler: SchedulerMixin) -> None:
    """
    Refuse a scheduler that does not sample from a denoiser trained in EDM's form with v-prediction.

    Such a denoiser sees z / sqrt(sigma^2 + 1) and the time ln(sigma) / 4, and gives v: the denoised sample is
    z / (sigma^2 + 1) - v sigma / sqrt(sigma^2 + 1).

    Args:
        scheduler (`SchedulerMixin`): The scheduler a pipeline is to sample with.

    Raises:
        ValueError: If the scheduler is of a kind that does not do so, or is configured so that it does not.

    Source:
        Stable Video Diffusion (arXiv:2311.15127), Appendix D: EDM's preconditioning (arXiv:2206.00364, Table 1) with
        a data deviation of 1.
    """
    name = type(scheduler).__name__
    if not isinstance(scheduler, SIGMA_SCHEDULERS):
        names = ", ".join(kind.__name__ for kind in SIGMA_SCHEDULERS)
        raise ValueError(
            f"`scheduler` must tell the denoiser ln(sigma) / 4, as one of {names} does, but is a {name}. Pass"
            " `EDMDPMSolverMultistepScheduler(sigma_max=700.0, sigma_data=1.0, prediction_type='v_prediction')`, or"
            " the scheduler the model came with."
        )
    is_euler = isinstance(scheduler, EulerDiscreteScheduler)
    wanted = {"prediction_type": "v_prediction"}
    wanted |= {"timestep_type": "continuous"} if is_euler else {"sigma_data": 1.0}
    for option, value in wanted.items():
        if scheduler.config[option] != value:
            raise ValueError(
                f"`scheduler` {name} must be configured with {option}={value!r}, but has"
                f" {option}={scheduler.config[option]!r}. Build it again with `from_config(..., {option}={value!r})`."
            )


def check_schedule(
    scheduler: SchedulerMixin,
    num_inference_steps: int,
    timesteps: list[int] | None,
    sigmas: list[float] | None,
    strength: float | None,
    eta: float,
) -> None:
    """
    Refuse a sampling schedule that `scheduler` cannot follow.

    Args:
        scheduler (`SchedulerMixin`): A scheduler that passed [`check_scheduler`].
        num_inference_steps (`int`): Steps of the whole schedule, at least 1; unused where `timesteps` or `sigmas` is.
        timesteps (`list[int]`, *optional*): Training timesteps to visit, from noise to sample.
        sigmas (`list[float]`, *optional*): Noise levels to visit, from noise to sample.
        strength (`float`, *optional*): Part of the schedule to run, in (0, 1]; `None` for all of it.
        eta (`float`): Share of fresh noise in each step of a scheduler that takes it.

    Raises:
        ValueError: If two schedules are given, one is not descending, or the scheduler does not take what is given.
    """
    name = type(scheduler).__name__
    if timesteps is not None and sigmas is not None:
        raise ValueError("Only one of `timesteps` and `sigmas` may be given, but both are. Leave one out.")
    for argument, values in (("timesteps", timesteps), ("sigmas", sigmas)):
        if values is None:
            continue
        if argument not in _parameters(scheduler.set_timesteps):
            raise ValueError(
                f"`{argument}` cannot be chosen with {name}: its `set_timesteps` does not take them. Pass"
                " `num_inference_steps`, or use another scheduler."
            )
        _check_descending(argument, values)
    if eta > 0 and "eta" not in _parameters(scheduler.step):
        raise ValueError(f"`eta` must be 0 with {name}, whose `step` does not take it, but is {eta}.")
    if strength is None:
        return
    if isinstance(scheduler, PNDMScheduler) and not scheduler.config.skip_prk_steps:
        raise ValueError(
            "`strength` needs a scheduler that can start part-way, but PNDMScheduler with `skip_prk_steps=False` must"
            " run its first steps. Load it with `skip_prk_steps=True`."
        )
    total = len(timesteps or sigmas or range(num_inference_steps))
    if int(total * strength) < 1:
        raise ValueError(
            f"`strength`={strength} of {total} steps leaves no step to run. Raise `strength` or `num_inference_steps`."
        )


def prepare_timesteps(
    scheduler: SchedulerMixin,
    num_inference_steps: int,
    timesteps: list[int] | None = None,
    sigmas: list[float] | None = None,
    strength: float | None = None,
    device: str | torch.device | None = None,
) -> Tensor:
    """
    Set `scheduler` to the first step of a run.

    Args:
        scheduler (`SchedulerMixin`): Changed in place.
        num_inference_steps (`int`): Steps of the whole schedule.
        timesteps (`list[int]`, *optional*): Training timesteps to visit instead.
        sigmas (`list[float]`, *optional*): Noise levels to visit instead.
        strength (`float`, *optional*): Part of the schedule to run, in (0, 1]; the last `int(strength * steps)` steps.
        device (`str` or `torch.device`, *optional*): Where the timesteps are wanted.

    Returns:
        `torch.Tensor` of shape `(num_model_calls,)`: The timesteps to run, in order.
    """
    all_timesteps, num_steps = retrieve_timesteps(scheduler, num_inference_steps, device, timesteps, sigmas)
    skipped = 0
    if strength is not None:
        skipped = num_steps - min(int(num_steps * strength), num_steps)
    order = getattr(scheduler, "order", 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped * order)
    if skipped and isinstance(scheduler, PNDMScheduler):
        # PLMS visits its second timestep twice wherever it starts; a plain slice would leave the last one out.
        rest = torch.unique_consecutive(all_timesteps)[skipped:]
        return torch.cat([rest[:1], rest[1:2], rest[1:]])
    return all_timesteps[skipped * order :]


def step_arguments(
    scheduler: SchedulerMixin, generator: torch.Generator | list[torch.Generator] | None, eta: float
) -> dict[str, Any]:
    """
    Choose what the coming `scheduler.step` takes besides the model's output.

    Args:
        scheduler (`SchedulerMixin`): The scheduler in use.
        generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of the noise added in a step.
        eta (`float`): Share of fresh noise in each step.

    Returns:
        `dict[str, Any]`: `eta` and `generator`, as far as `step` has them, and the order of a linear multistep.
    """
    accepted = _parameters(scheduler.step)
    arguments = {name: value for name, value in (("eta", eta), ("generator", generator)) if name in accepted}
    if isinstance(scheduler, LMSDiscreteScheduler):
        # Its own count of past steps is the position in the whole schedule, which is wrong for a run begun part-way.
        arguments["order"] = min(len(scheduler.derivatives) + 1, 4)
    return arguments


def default_eta(scheduler: SchedulerMixin) -> float:
    """
    Tell how much fresh noise a scheduler adds where a call does not say it.

    Args:
        scheduler (`SchedulerMixin`): The scheduler in use.

    Returns:
        `float`: What its `step` has by default: 0 for DDIM, 1 for [`PairedDDIMScheduler`], 0 where there is no `eta`.
    """
    parameter = inspect.signature(scheduler.step).parameters.get("eta")
    return 0.0 if parameter is None else parameter.default


@contextmanager
def repeatable_noise(
    scheduler: SchedulerMixin, generator: torch.Generator | list[torch.Generator] | None, batch_size: int
) -> Iterator[None]:
    """
    Let a scheduler that draws its noise from a Brownian tree follow `generator`, one tree for each video.

    Other schedulers are left alone, and so is one whose configuration names a `noise_sampler_seed`.

    Args:
        scheduler (`SchedulerMixin`): The scheduler in use.
        generator (`torch.Generator` or `list[torch.Generator]`, *optional*): One for all videos, or one for each.
        batch_size (`int`): Number of videos.
    """
    if generator is None or getattr(scheduler, "noise_sampler_seed", 0) is not None:
        yield
        return
    scheduler.noise_sampler_seed = draw_seeds(generator, batch_size)
    try:
        yield
    finally:
        scheduler.noise_sampler_seed = None


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _check_descending(name: str, values: list[int] | list[float]) -> None:
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"`{name}` must be a list of at least one number, but is {values!r}.")
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not numbers or not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"`{name}` must hold finite numbers of at least 0, but is {values!r}.")
    if any(later >= earlier for earlier, later in zip(values[:-1], values[1:], strict=True)):
        raise ValueError(f"`{name}` must descend from noise to sample, but is {values!r}. Sort it the other way.")
