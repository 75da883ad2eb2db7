"""DDIM whose step before is the next one that is visited, whatever the number of steps."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..conditioning.guidance import output_to_sample


class PairedDDIMScheduler(DDIMScheduler):
    """
    `DDIMScheduler` that steps from each timestep to the next one it visits.

    diffusers' scheduler takes `num_train_timesteps // num_inference_steps` for the distance of two steps, so it leaves
    the visited timesteps where the number of steps does not divide that of training, as 400 of 1000, which is PVDM's
    best setting. Takes every parameter of [`~diffusers.DDIMScheduler`]; other defaults than there, which are PVDM's,
    have:

    Args:
        beta_start (`float`, *optional*, defaults to 0.0015): First variance of the noise schedule.
        beta_end (`float`, *optional*, defaults to 0.0195): Last variance of the noise schedule.
        beta_schedule (`str`, *optional*, defaults to `"scaled_linear"`): Equal steps of the square root.
        timestep_spacing (`str`, *optional*, defaults to `"truncated"`): Which timesteps are visited: `"truncated"`
            for PVDM's, N equal steps from -1 to the last one, truncated to integers; or one of diffusers' choices.

    Source:
        DDIM (arXiv:2010.02502), Eq. 12 and 16; PVDM (arXiv:2302.07685) and the sampler of its code.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
        beta_schedule: str = "scaled_linear",
        trained_betas: list[float] | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "truncated",
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        options: dict[str, Any] = {name: self.config[name] for name in self._get_init_keys(type(self)) - {"self"}}
        super().__init__(**options)
        # Schedulers made of this configuration take its values, those that are defaults here as well.
        self.register_to_config(_use_default_values=[])
        self._previous: dict[int, int] = {}

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """
        Choose the timesteps to visit.

        Args:
            num_inference_steps (`int`, *optional*): Number of steps, in [1, `num_train_timesteps`].
            device (`str` or `torch.device`, *optional*): Where the timesteps are wanted.
            timesteps (`Sequence[int]`, *optional*): The timesteps themselves, from noise to sample.

        Raises:
            ValueError: If not exactly one of the two is given, or it is out of its range.
        """
        total = self.config.num_train_timesteps
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("One of `num_inference_steps` and `timesteps` must be given, and not both.")
        if timesteps is not None:
            steps = [int(timestep) for timestep in timesteps]
            ordered = all(earlier > later for earlier, later in zip(steps, steps[1:], strict=False))
            if not steps or not ordered or not 0 <= steps[-1] <= steps[0] < total:
                raise ValueError(
                    f"`timesteps` must descend within [0, {total - 1}], but is {steps}. Sort them, each once."
                )
            self.num_inference_steps = len(steps)
            self.timesteps = torch.tensor(steps, device=device)
        else:
            if not 1 <= num_inference_steps <= total:
                raise ValueError(
                    f"`num_inference_steps` must lie in [1, {total}], but is {num_inference_steps}. Choose another"
                    " number."
                )
            self._space_timesteps(num_inference_steps, device)
        steps = self.timesteps.tolist()
        self._previous = dict(zip(steps, [*steps[1:], -1], strict=True))

    def _space_timesteps(self, num_inference_steps: int, device: str | torch.device | None) -> None:
        if self.config.timestep_spacing != "truncated":
            super().set_timesteps(num_inference_steps, device)
            return
        edges = torch.linspace(-1, self.config.num_train_timesteps - 1, num_inference_steps + 1)
        self.num_inference_steps = num_inference_steps
        self.timesteps = edges.long()[1:].flip(0).to(device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 1.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """
        Go from a timestep to the next one that is visited, or from the last one to the denoised sample.

        Args:
            model_output (`torch.Tensor`): Output of the denoiser, as `prediction_type` says.
            timestep (`int`): One of `timesteps`.
            sample (`torch.Tensor`): The noisy sample that the denoiser saw.
            eta (`float`, *optional*, defaults to 1.0): Share of fresh noise; with 0 the step is deterministic.
            use_clipped_model_output (`bool`, *optional*, defaults to `False`): Derive the noise anew from the clipped
                estimate of the sample.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Draws the fresh noise.
            variance_noise (`torch.Tensor`, *optional*): Fresh noise to use instead.
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.

        Returns:
            [`~diffusers.schedulers.scheduling_ddim.DDIMSchedulerOutput`] or `tuple`: `prev_sample` and
            `pred_original_sample`.

        Raises:
            ValueError: If the timestep is none of `timesteps`, or noise is given in two ways.
        """
        timestep = int(timestep)
        if timestep not in self._previous:
            raise ValueError(
                f"`timestep` must be one of the {len(self._previous)} that `set_timesteps` chose, but is {timestep}."
                " Call `set_timesteps` and step through `timesteps`."
            )
        if variance_noise is not None and generator is not None:
            raise ValueError("Only one of `generator` and `variance_noise` may be given, but both are. Leave one out.")
        previous = self._previous[timestep]
        alpha = float(self.alphas_cumprod[timestep])
        alpha_previous = float(self.alphas_cumprod[previous] if previous >= 0 else self.final_alpha_cumprod)
        signal, noise = alpha**0.5, (1 - alpha) ** 0.5
        kind = self.config.prediction_type
        estimate = output_to_sample(model_output, sample, kind, signal, noise)
        predicted_noise = model_output if kind == "epsilon" else (sample - signal * estimate) / noise
        if self.config.thresholding:
            estimate = self._threshold_sample(estimate)
        elif self.config.clip_sample:
            estimate = estimate.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        if use_clipped_model_output:
            predicted_noise = (sample - signal * estimate) / noise
        deviation = eta * float(self._get_variance(timestep, previous)) ** 0.5  # Eq. 16
        # Eq. 12: the estimate, the direction to the noisy sample, and fresh noise
        direction = max(1 - alpha_previous - deviation**2, 0.0) ** 0.5 * predicted_noise
        prev_sample = alpha_previous**0.5 * estimate + direction
        if deviation > 0:
            if variance_noise is None:
                shape = model_output.shape
                variance_noise = randn_tensor(shape, generator, model_output.device, model_output.dtype)
            prev_sample = prev_sample + deviation * variance_noise
        if not return_dict:
            return (prev_sample, estimate)
        return DDIMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=estimate)
