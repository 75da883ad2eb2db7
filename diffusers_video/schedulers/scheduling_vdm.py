"""Diffusion in continuous time: a cosine schedule of log-SNR, ancestral steps and Langevin corrector steps."""

import math

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..conditioning.guidance import output_to_sample, sample_to_output
from .log_snr import cosine_log_snr


PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
_TEXT = {"variance_interpolation": 0.3}
_PREDICTION = {"prediction_type": "v_prediction", "num_corrector_steps": 1}
# Options by the preset of the model; arXiv:2204.03458, Appendix A
VDM_SCHEDULES = {
    "vdm_ucf101": {"variance_interpolation": 0.1},
    "vdm_bair": _PREDICTION,
    "vdm_kinetics": _PREDICTION,
    "vdm_text_small": _TEXT,
    "vdm_text": _TEXT,
    "vdm_text_128": _TEXT,
}


class VDMScheduler(SchedulerMixin, ConfigMixin):
    """
    Diffusion in continuous time, whose timesteps are log-SNRs.

    z = alpha x + sigma noise, with alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda) and the log-SNR lambda. What
    stands in `timesteps` is what a denoiser with `timestep_type="log_snr"` is told, so any loop of diffusers runs it.

    With `num_corrector_steps` each level but the first stands in `timesteps` as often as the denoiser is evaluated
    there: [`~VDMScheduler.step`] first corrects the sample and then goes on to the next level. The state of a run is
    the number of its calls.

    Args:
        min_log_snr (`float`, *optional*, defaults to -20.0): Log-SNR at the noisy end.
        max_log_snr (`float`, *optional*, defaults to 20.0): Log-SNR at the clean end.
        prediction_type (`str`, *optional*, defaults to `"epsilon"`): What the denoiser gives: `"epsilon"`, `"sample"`
            or `"v_prediction"`.
        variance_interpolation (`float`, *optional*, defaults to 0.0): Where the logarithm of a step's variance lies
            between that of the posterior (0) and that of the forward process (1).
        num_corrector_steps (`int`, *optional*, defaults to 0): Langevin steps at each level that a step has reached.
        corrector_step_size (`float`, *optional*, defaults to 0.1): Size of a Langevin step.
        clip_sample (`bool`, *optional*, defaults to `True`): Clip the denoised estimate, which suits pixels; the paper
            does not say whether it does.
        clip_sample_range (`float`, *optional*, defaults to 1.0): Largest absolute value of the clipped estimate.

    Raises:
        ValueError: If an option is out of its range.

    Source:
        VDM (arXiv:2204.03458), Section 2 and Appendix A. The paper's variance interpolation is 0 for BAIR and
        Kinetics, 0.1 for UCF101 and 0.3 for models of text. The last step gives the denoised estimate.
    """

    _compatibles = []
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        min_log_snr: float = -20.0,
        max_log_snr: float = 20.0,
        prediction_type: str = "epsilon",
        variance_interpolation: float = 0.0,
        num_corrector_steps: int = 0,
        corrector_step_size: float = 0.1,
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
    ) -> None:
        if not min_log_snr < max_log_snr:
            raise ValueError(
                f"`min_log_snr` must be below `max_log_snr`={max_log_snr}, but is {min_log_snr}. The paper takes -20"
                " and 20."
            )
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"`prediction_type` must be one of {PREDICTION_TYPES}, but is {prediction_type!r}.")
        if not 0 <= variance_interpolation <= 1:
            raise ValueError(
                f"`variance_interpolation` must lie in [0, 1], but is {variance_interpolation}. Take 0 for the"
                " posterior's variance."
            )
        if isinstance(num_corrector_steps, bool) or not isinstance(num_corrector_steps, int):
            raise TypeError(f"`num_corrector_steps` must be an integer, but is {num_corrector_steps!r}.")
        if num_corrector_steps < 0:
            raise ValueError(f"`num_corrector_steps` must be at least 0, but is {num_corrector_steps}. Take 0 or 1.")
        for name, value in (("corrector_step_size", corrector_step_size), ("clip_sample_range", clip_sample_range)):
            if value <= 0:
                raise ValueError(f"`{name}` must be above 0, but is {value}. Leave it at its default.")
        self.order = 1 + num_corrector_steps
        self.num_inference_steps: int | None = None
        self.timesteps = torch.empty(0)
        self._levels: list[float] = []
        self._step_index: int | None = None
        self._begin_index: int | None = None

    @property
    def step_index(self) -> int | None:
        """`int` or `None`: Calls of [`~VDMScheduler.step`] that are done, counted from the start of the schedule."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """`int` or `None`: Place in `timesteps` where a run begins."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """
        Begin the run inside the schedule.

        Args:
            begin_index (`int`, *optional*, defaults to 0): Place in `timesteps` of the first step.
        """
        self._begin_index = begin_index

    def log_snr(self, times: Tensor) -> Tensor:
        """
        Log-SNR of times of the diffusion.

        Args:
            times (`torch.Tensor`): Times in [0, 1], of any shape; 1 is noise. Uniform ones are what is trained on.

        Returns:
            `torch.Tensor` of the same shape: float32.
        """
        return cosine_log_snr(times, self.config.min_log_snr, self.config.max_log_snr).float()

    def signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """
        Parts of sample and noise at log-SNRs.

        Args:
            timesteps (`torch.Tensor`): Log-SNRs, of any shape.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: alpha and sigma, float64 and of the same shape.
        """
        log_snr = timesteps.double()
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """
        Space levels evenly in time, from noise on.

        Args:
            num_inference_steps (`int`): Number of levels, at least 1; the denoiser is evaluated
                `num_inference_steps + (num_inference_steps - 1) * num_corrector_steps` times.
            device (`str` or `torch.device`, *optional*): Where the timesteps are wanted.

        Raises:
            ValueError: If it is below 1.
        """
        if num_inference_steps < 1:
            raise ValueError(
                f"`num_inference_steps` must be at least 1, but is {num_inference_steps}. The paper takes 256."
            )
        times = 1 - torch.arange(num_inference_steps, dtype=torch.float64) / num_inference_steps
        levels = self.log_snr(times)
        self.num_inference_steps = num_inference_steps
        self._levels = levels.tolist()
        self.timesteps = torch.cat([levels[:1], levels[1:].repeat_interleave(self.order)]).to(device)
        self._step_index = self._begin_index = None

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """
        Return the sample as it is: denoisers see z.

        Args:
            sample (`torch.Tensor`): Noisy sample.
            timestep (`torch.Tensor`, *optional*): Its log-SNR.

        Returns:
            `torch.Tensor`: The same.
        """
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """
        Correct the sample at its level, as long as corrector steps are left there, or go on to the next level.

        Args:
            model_output (`torch.Tensor`): Output of the denoiser, as `prediction_type` says.
            timestep (`torch.Tensor` or `float`): The one of `timesteps` whose turn it is.
            sample (`torch.Tensor`): The noisy sample that the denoiser saw.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Draws the fresh noise.
            variance_noise (`torch.Tensor`, *optional*): Fresh noise to use instead.
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.

        Returns:
            [`~diffusers.schedulers.scheduling_ddpm.DDPMSchedulerOutput`] or `tuple`: `prev_sample` and
            `pred_original_sample`.

        Raises:
            ValueError: If it is not the turn of the timestep, or noise is given in two ways.
        """
        index = self._take_turn(float(timestep))
        if variance_noise is not None and generator is not None:
            raise ValueError("Only one of `generator` and `variance_noise` may be given, but both are. Leave one out.")
        level, place = -(-index // self.order), index % self.order
        is_last = level == len(self._levels) - 1 and place == 0
        if variance_noise is None and not is_last:
            variance_noise = randn_tensor(model_output.shape, generator, model_output.device, model_output.dtype)
        estimate = self.estimate(model_output, timestep, sample)
        if is_last:
            prev_sample = estimate
        elif place:
            prev_sample = self._correct(estimate, self._levels[level], sample, variance_noise)
        else:
            pair = (self._levels[level], self._levels[level + 1])
            parts = ancestral_parts(*pair, self.config.variance_interpolation)
            prev_sample = parts[0] * sample + parts[1] * estimate + parts[2] * variance_noise
        return (prev_sample, estimate) if not return_dict else DDPMSchedulerOutput(prev_sample, estimate)

    def estimate(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor) -> Tensor:
        """
        Denoised estimate that an output of the denoiser stands for, clipped if `clip_sample` is on.

        Args:
            model_output (`torch.Tensor`): Output of the denoiser, as `prediction_type` says.
            timestep (`torch.Tensor` or `float`): Log-SNR, one number.
            sample (`torch.Tensor`): The noisy sample that the denoiser saw.

        Returns:
            `torch.Tensor` of the shape of `sample`.
        """
        signal, noise = _parts(float(timestep))
        estimate = output_to_sample(model_output, sample, self.config.prediction_type, signal, noise)
        limit = self.config.clip_sample_range
        return estimate.clamp(-limit, limit) if self.config.clip_sample else estimate

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """
        Noise samples: alpha x + sigma noise.

        Args:
            original_samples (`torch.Tensor` of shape `(batch_size, ...)`): Clean samples.
            noise (`torch.Tensor` of the same shape): Unit noise.
            timesteps (`torch.Tensor` of shape `(batch_size,)` or `(1,)`): Log-SNRs.

        Returns:
            `torch.Tensor` of the same shape.
        """
        signal, noise_part = self._parts_like(timesteps, original_samples)
        return signal * original_samples + noise_part * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """
        What a denoiser of `prediction_type="v_prediction"` is trained to give: alpha noise - sigma x.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, ...)`): Clean samples.
            noise (`torch.Tensor` of the same shape): Unit noise.
            timesteps (`torch.Tensor` of shape `(batch_size,)` or `(1,)`): Log-SNRs.

        Returns:
            `torch.Tensor` of the same shape.
        """
        signal, noise_part = self._parts_like(timesteps, sample)
        return signal * noise - noise_part * sample

    def _parts_like(self, timesteps: Tensor, sample: Tensor) -> list[Tensor]:
        shape = (-1, *[1] * (sample.dim() - 1))
        return [part.to(sample).reshape(shape) for part in self.signal_and_noise(timesteps)]

    def _take_turn(self, level: float) -> int:
        if self._step_index is None:
            begin = self._begin_index
            if begin is None and level in self._levels:  # where a level is entered, its corrector steps are over
                begin = self._levels.index(level) * self.order
            self._step_index = begin
        index, turns = self._step_index, self.timesteps
        wanted = None if index is None or index >= len(turns) else self._levels[-(-index // self.order)]
        if level != wanted:
            raise ValueError(
                f"`timestep` must be the one of the {len(turns)} `timesteps` whose turn it is, {wanted}, but is"
                f" {level}. Call `set_timesteps` before each run, and step through `timesteps` in order."
            )
        self._step_index += 1
        return index

    def _correct(self, estimate: Tensor, level: float, sample: Tensor, noise: Tensor) -> Tensor:
        signal, noise_part = _parts(level)
        size = self.config.corrector_step_size
        predicted_noise = sample_to_output(estimate, sample, "epsilon", signal, noise_part)
        # Eq. 5: one step of Langevin dynamics at the level itself
        return sample - 0.5 * size * noise_part * predicted_noise + size**0.5 * noise_part * noise


def ancestral_parts(
    log_snr: float, next_log_snr: float, variance_interpolation: float = 0.0
) -> tuple[float, float, float]:
    """
    Parts of a step from a level to a cleaner one: z_s = p z_t + q x + r noise.

    With c = exp(lambda_t - lambda_s): p = c alpha_s / alpha_t, q = (1 - c) alpha_s, and r^2 between (1 - c) sigma_s^2
    (the posterior's variance) and (1 - c) sigma_t^2 (that of the forward process).

    Args:
        log_snr (`float`): lambda_t.
        next_log_snr (`float`): lambda_s, above lambda_t.
        variance_interpolation (`float`, *optional*, defaults to 0.0): Place between the logarithms of the variances.

    Returns:
        `tuple[float, float, float]`: p, q and r.

    Source:
        VDM (arXiv:2204.03458), Eqs. 3 and 4.
    """
    (signal, noise), (next_signal, next_noise) = _parts(log_snr), _parts(next_log_snr)
    rest = -math.expm1(log_snr - next_log_snr)  # 1 - c
    of_sample = (1 - rest) * next_signal / signal
    low, high = math.log(next_noise), math.log(noise)
    deviation = math.sqrt(rest) * math.exp(low + variance_interpolation * (high - low))
    return of_sample, rest * next_signal, deviation


def _parts(log_snr: float) -> tuple[float, float]:
    return (1 + math.exp(-log_snr)) ** -0.5, (1 + math.exp(log_snr)) ** -0.5
