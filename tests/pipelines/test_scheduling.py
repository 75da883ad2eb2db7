"""Schedulers that fit, and those that are refused."""

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler, SchedulerMixin
from torch import Tensor

from diffusers_video import TextToVideoPipeline
from diffusers_video.pipelines.scheduling import (
    UNSUITED_SCHEDULERS,
    check_scheduler,
    prepare_timesteps,
    repeatable_noise,
    step_arguments,
)

from ..tiny_pipelines import tiny_text_to_video


pytestmark = pytest.mark.filterwarnings("ignore")  # torchsde alone gives thousands

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SUITED = {
    "DDIMScheduler": {"clip_sample": False},
    "DDPMScheduler": {"clip_sample": False},
    "PNDMScheduler": {"skip_prk_steps": True},
    "LMSDiscreteScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {"lower_order_final": True},
    "DPMSolverSDEScheduler": {},
    "UniPCMultistepScheduler": {},
    "DEISMultistepScheduler": {},
    "KDPM2DiscreteScheduler": {},
    "KDPM2AncestralDiscreteScheduler": {},
    "LCMScheduler": {},
    "TCDScheduler": {},
    "SASolverScheduler": {},
    "CogVideoXDDIMScheduler": {"clip_sample": False},
    "DDIMParallelScheduler": {"clip_sample": False},
    "DDPMParallelScheduler": {"clip_sample": False},
}
STOCHASTIC = (
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
    "SASolverScheduler",
)
REFUSED = [name for name in UNSUITED_SCHEDULERS if hasattr(diffusers, name)]
OPTIONS_OF_REFUSED = {
    "AmusedScheduler": {"mask_token_id": 1},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "1/t", "tsr_k": 1.0, "tsr_sigma": 1.0},
    "VQDiffusionScheduler": {"num_vec_classes": 4},
}


def make(name: str, **options) -> SchedulerMixin:
    return getattr(diffusers, name)(**{**SCHEDULE, **SUITED.get(name, {}), **options})


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="module")
def pipeline() -> TextToVideoPipeline:
    return tiny_text_to_video(dtype=torch.float64)


def run(pipeline: TextToVideoPipeline, prompt: str | list[str], seeds: tuple[int, ...], **arguments) -> Tensor:
    arguments = {"num_inference_steps": 3, "output_type": "pt", **arguments}
    return pipeline(prompt, generator=seeded(*seeds), **arguments).frames


@pytest.mark.parametrize("name", SUITED)
def test_frames_are_finite_repeatable_and_the_same_in_a_batch(pipeline: TextToVideoPipeline, name: str) -> None:
    pipeline.scheduler = make(name)
    batch = run(pipeline, ["a", "b"], (0, 1))
    assert torch.isfinite(batch).all() and batch.std() > 0
    assert torch.equal(batch, run(pipeline, ["a", "b"], (0, 1)))
    # Most schedulers keep their schedule, some also the sample, in float32.
    torch.testing.assert_close(run(pipeline, "b", (1,))[0], batch[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_added_in_a_step_follows_the_generator(name: str) -> None:
    sample = torch.randn(2, 4, 3, 4, 4)
    results = []
    for seeds in ((0, 1), (0, 2)):
        scheduler, generator = make(name), seeded(*seeds)
        timesteps = prepare_timesteps(scheduler, 4)
        with repeatable_noise(scheduler, generator, 2):
            scaled = scheduler.scale_model_input(sample, timesteps[0])
            latents = sample
            for timestep in timesteps[:3]:
                extra = step_arguments(scheduler, generator, 0.0)
                latents = scheduler.step(scaled, timestep, latents, **extra, return_dict=False)[0]
        results.append(latents)
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1], results[1][1])


@pytest.mark.parametrize("name", SUITED)
@pytest.mark.parametrize(("strength", "prediction_type"), [(None, "epsilon"), (0.5, "v_prediction"), (0.1, "epsilon")])
def test_a_perfect_denoiser_is_led_to_the_sample(name: str, strength: float | None, prediction_type: str) -> None:
    scheduler = make(name, prediction_type=prediction_type)
    want = torch.randn(2, 4, 3, 4, 4)
    noise = torch.randn(2, 4, 3, 4, 4)
    alphas = scheduler.alphas_cumprod
    log_sigmas = ((1 - alphas) / alphas).log() / 2
    timesteps = prepare_timesteps(scheduler, 10, strength=strength)
    if strength is None:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(want, noise, timesteps[:1].repeat(2))
    generator = seeded(0, 1)
    with repeatable_noise(scheduler, generator, 2):
        for timestep in timesteps:
            sample = scheduler.scale_model_input(latents, timestep)
            lower = int(timestep)
            sigma = torch.lerp(log_sigmas[lower], log_sigmas[min(lower + 1, 999)], float(timestep) - lower).exp()
            alpha = 1 / (1 + sigma**2)
            epsilon = (sample - alpha.sqrt() * want) / (1 - alpha).sqrt()
            output = epsilon
            if prediction_type == "v_prediction":
                output = alpha.sqrt() * epsilon - (1 - alpha).sqrt() * want
            extra = step_arguments(scheduler, generator, 0.0)
            latents = scheduler.step(output, timestep, latents, **extra, return_dict=False)[0]
    # What is left is the noise of the last training timestep, sigma 0.029, where a scheduler stops there.
    left = (latents - want).square().mean().sqrt()
    assert left < (
        0.036 if name in ("DEISMultistepScheduler", "PNDMScheduler", "SASolverScheduler", "TCDScheduler") else 1e-3
    )


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "SASolverScheduler"])
def test_thresholding_copes_with_videos(pipeline: TextToVideoPipeline, name: str) -> None:
    pipeline.scheduler = make(name, thresholding=True, sample_max_value=2.0)
    frames = run(pipeline, ["a", "b"], (0, 1))
    torch.testing.assert_close(run(pipeline, "b", (1,))[0], frames[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_schedulers_that_do_not_fit_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"`scheduler` {name} does not fit"):
        check_scheduler(getattr(diffusers, name)(**OPTIONS_OF_REFUSED.get(name, {})))


def test_every_scheduler_of_diffusers_is_either_run_here_or_refused() -> None:
    names = {name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")}
    assert names == {*SUITED, *REFUSED}


def test_a_subclass_of_an_unsuited_scheduler_is_refused() -> None:
    class Mine(diffusers.FlowMatchEulerDiscreteScheduler):
        pass

    with pytest.raises(ValueError, match="Mine does not fit: it follows a flow-matching velocity"):
        check_scheduler(Mine())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "flow matching"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "flow matching"),
        ("DDPMScheduler", {"variance_type": "learned_range"}, "variance"),
        ("EulerAncestralDiscreteScheduler", {"prediction_type": "sample"}, "'sample'"),
        ("PNDMScheduler", {"prediction_type": "sample"}, "'sample'"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_scheduler(make(name, **options))


def test_an_object_that_is_no_scheduler_is_refused() -> None:
    with pytest.raises(ValueError, match="has no `set_timesteps`"):
        check_scheduler(torch.nn.Linear(1, 1))


def test_a_scheduler_is_refused_when_the_pipeline_is_made_and_when_it_is_exchanged() -> None:
    pipeline = tiny_text_to_video()
    unsuited = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler does not fit"):
        TextToVideoPipeline(**{**pipeline.components, "scheduler": unsuited})
    pipeline.scheduler = unsuited
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler does not fit"):
        pipeline("a", num_inference_steps=1)


@pytest.mark.parametrize("seed", [None, 5])
def test_the_seed_of_a_noise_sampler_is_as_it_was_after_a_run(pipeline: TextToVideoPipeline, seed: int | None) -> None:
    pipeline.scheduler = make("DPMSolverSDEScheduler", noise_sampler_seed=seed)
    run(pipeline, "a", (0,))
    assert pipeline.scheduler.noise_sampler_seed == seed


def test_plms_started_part_way_visits_its_second_timestep_twice() -> None:
    scheduler = make("PNDMScheduler")
    every = prepare_timesteps(scheduler, 10).tolist()
    assert prepare_timesteps(scheduler, 10, strength=1.0).tolist() == every
    assert prepare_timesteps(scheduler, 10, strength=0.3).tolist() == [every[-3], every[-2], every[-2], every[-1]]


def test_second_order_schedulers_started_part_way_start_at_a_whole_step() -> None:
    scheduler = make("HeunDiscreteScheduler")
    every = prepare_timesteps(scheduler, 10).tolist()
    assert prepare_timesteps(scheduler, 10, strength=0.2).tolist() == every[-3:]
    assert scheduler.begin_index == 16


def test_the_order_of_a_linear_multistep_counts_the_steps_run() -> None:
    scheduler = make("LMSDiscreteScheduler")
    timesteps = prepare_timesteps(scheduler, 10, strength=0.6)
    orders = []
    latents = torch.randn(1, 4, 2, 4, 4)
    for timestep in timesteps:
        extra = step_arguments(scheduler, None, 0.0)
        orders.append(extra["order"])
        latents = scheduler.step(scheduler.scale_model_input(latents, timestep), timestep, latents, **extra)[0]
    assert orders == [1, 2, 3, 4, 4, 4]


def test_custom_timesteps_and_sigmas_are_followed(pipeline: TextToVideoPipeline) -> None:
    seen = []
    pipeline.scheduler = make("EulerDiscreteScheduler")
    hook = pipeline.unet.register_forward_pre_hook(lambda _, arguments: seen.append(float(arguments[1])))
    run(pipeline, "a", (0,), timesteps=[900, 500, 100])
    assert seen == [900.0, 500.0, 100.0]
    seen.clear()
    run(pipeline, "a", (0,), sigmas=[10.0, 1.0, 0.0])
    hook.remove()
    assert len(seen) == 2 and seen[0] > seen[1]


def test_steps_take_only_what_they_accept() -> None:
    assert set(step_arguments(DDIMScheduler(), None, 0.5)) == {"eta", "generator"}
    assert set(step_arguments(PNDMScheduler(), None, 0.0)) == set()
    assert set(step_arguments(LMSDiscreteScheduler(), None, 0.0)) == {"order"}
