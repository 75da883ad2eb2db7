"""Guidance by given frames against closed forms."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from diffusers_video.conditioning.guidance import (
    chain_guidance,
    output_to_sample,
    sample_to_output,
    signal_and_noise,
)


def test_the_chain_adds_each_conditions_share_by_its_scale() -> None:
    nothing, frames, both = torch.randn(3, 2, 4, 3, 5, 5, dtype=torch.float64)
    got = chain_guidance([nothing, frames, both], [1.5, 7.5])
    torch.testing.assert_close(got, -0.5 * nothing + (1.5 - 7.5) * frames + 7.5 * both)
    assert torch.equal(chain_guidance([nothing], []), nothing)
    torch.testing.assert_close(chain_guidance([nothing, frames, both], [1.0, 1.0]), both)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_estimates_are_those_of_the_scheduler_and_go_back(prediction_type: str) -> None:
    scheduler = DDIMScheduler(prediction_type=prediction_type, clip_sample=False)
    scheduler.set_timesteps(10)
    noisy, output = torch.randn(2, 1, 4, 3, 5, 5, dtype=torch.float64)
    timestep = scheduler.timesteps[4]
    form = (prediction_type, *signal_and_noise(scheduler, timestep))
    estimate = output_to_sample(output, noisy, *form)
    want = scheduler.step(output, timestep, noisy).pred_original_sample
    torch.testing.assert_close(estimate, want, atol=1e-5, rtol=1e-5)  # its schedule is kept in float32
    torch.testing.assert_close(sample_to_output(estimate, noisy, *form), output)


def test_what_a_denoiser_sees_has_these_parts_in_every_schedulers_scale() -> None:
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(7)
    clean, noise = torch.randn(2, 1, 4, 3, 5, 5)
    for timestep in scheduler.timesteps:
        noisy = scheduler.add_noise(clean, noise, timestep.reshape(1))
        seen = scheduler.scale_model_input(noisy, timestep)
        signal, noise_part = signal_and_noise(scheduler, timestep)
        torch.testing.assert_close(seen, signal * clean + noise_part * noise, atol=2e-3, rtol=0)
        scheduler.step(noise, timestep, noisy)
