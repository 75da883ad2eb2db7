"""The scheduler with explicit pairs of steps: PVDM's numbers, diffusers' where they agree, and bad input."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from diffusers_video import PairedDDIMScheduler
from diffusers_video.conditioning.guidance import chain_guidance
from diffusers_video.pipelines.scheduling import check_scheduler, prepare_timesteps, step_arguments


RUNS = ["eta1", "eta0", "eta1_cond", "eta05_cond_w2"]


def toy(weights: list[float], sample: Tensor, condition: Tensor | None, timestep: int | Tensor) -> Tensor:
    """The stand-in for a denoiser that the golden numbers were made with."""
    output = weights[0] * sample + weights[1] * math.cos(timestep / 150.0)
    return output if condition is None else output + weights[2] * condition.roll(1, -1)


@pytest.mark.parametrize("run", RUNS)
def test_golden_samples_of_pvdm(load_golden: Callable, run: str) -> None:
    tensors, config = load_golden("pvdm_ddpm")
    settings, noise = config["runs"][run], tensors["inputs.noise"]
    scheduler = PairedDDIMScheduler()
    scheduler.set_timesteps(settings["steps"])
    assert [*scheduler.timesteps.tolist(), -1] == tensors[f"outputs.timesteps_{run}"].long().tolist()
    sample = noise[0]
    for index, timestep in enumerate(scheduler.timesteps):
        outputs = [toy(config["toy"], sample, None, int(timestep))]
        if settings["cond"]:
            outputs = [
                toy(config["toy"], sample, part, int(timestep)) for part in (0 * sample, tensors["inputs.cond"])
            ]
        output = chain_guidance(outputs, [1 + settings["w"]] * (len(outputs) - 1))
        draw = noise[index + 1] if index + 1 < settings["steps"] else None
        sample = scheduler.step(output, timestep, sample, eta=settings["eta"], variance_noise=draw).prev_sample
    # measured: at most 5e-7
    torch.testing.assert_close(sample, tensors[f"outputs.ddim_{run}"], rtol=0, atol=1e-5)


def test_golden_schedule_and_training_of_pvdm(load_golden: Callable) -> None:
    tensors, config = load_golden("pvdm_ddpm")
    scheduler = PairedDDIMScheduler()
    torch.testing.assert_close(scheduler.betas, tensors["outputs.schedule_betas"], rtol=1e-5, atol=0)
    torch.testing.assert_close(scheduler.alphas_cumprod, tensors["outputs.schedule_alphas_cumprod"], rtol=1e-4, atol=0)
    clean, noise = tensors["inputs.x_start"], tensors["inputs.noise"][0]
    timesteps = tensors["inputs.train_timesteps"].long()
    noisy = scheduler.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(noisy, tensors["outputs.q_sample"], rtol=0, atol=1e-5)
    for name, conditions in (("conditional", tensors["inputs.cond"]), ("unconditional", (None, None))):
        rows = zip(noisy, conditions, timesteps, strict=True)
        outputs = torch.stack([toy(config["toy"], *row) for row in rows])
        loss = (outputs - noise).square().mean()
        torch.testing.assert_close(loss, tensors[f"outputs.loss_{name}"], rtol=1e-4, atol=0)


def test_golden_ancestral_step_is_that_of_diffusers(load_golden: Callable) -> None:
    tensors, config = load_golden("pvdm_ddpm")
    ancestral = DDPMScheduler.from_config(PairedDDIMScheduler().config, timestep_spacing="leading")
    rows = []
    for index, timestep in enumerate(tensors["inputs.train_timesteps"].long().tolist()):
        sample, condition = tensors["inputs.noise"][0][index], tensors["inputs.cond"][index]
        ancestral.set_timesteps(1000)
        output = toy(config["toy"], sample, condition, timestep)
        mean = ancestral.step(output, timestep, sample, generator=torch.Generator().manual_seed(0)).prev_sample
        drawn = torch.randn(sample.shape, generator=torch.Generator().manual_seed(0))
        deviation = float(ancestral._get_variance(timestep)) ** 0.5
        rows.append(mean + deviation * (tensors["inputs.noise"][1][index] - drawn))
    torch.testing.assert_close(torch.stack(rows), tensors["outputs.ddpm_step"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_steps", [5, 8, 100])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_it_is_diffusers_scheduler_where_steps_divide_those_of_training(num_steps: int, kind: str) -> None:
    ours = PairedDDIMScheduler(prediction_type=kind)
    theirs = DDIMScheduler.from_config(ours.config, timestep_spacing="trailing")
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(num_steps)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    sample = torch.randn(2, 3, 4)
    for timestep in ours.timesteps[:3]:
        output, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
        for options in ({"eta": 1.0, "variance_noise": noise}, {"eta": 0.0, "use_clipped_model_output": True}):
            got, want = (scheduler.step(output, timestep, sample, **options) for scheduler in (ours, theirs))
            torch.testing.assert_close(got.prev_sample, want.prev_sample, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(got.pred_original_sample, want.pred_original_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spacing", ["truncated", "trailing", "leading", "linspace"])
def test_every_step_leads_to_the_next_one_visited(spacing: str) -> None:
    scheduler = PairedDDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    noise, clean = torch.randn(1, 2, 8), torch.randn(1, 2, 8).clamp(-1, 1)
    for num_steps in (1, 6, 7, 400, 1000):
        scheduler.set_timesteps(num_steps)
        steps = scheduler.timesteps.tolist()
        assert len(steps) == num_steps and all(a > b for a, b in zip(steps, steps[1:], strict=False))
        for index in {0, num_steps // 2, num_steps - 1}:
            here = scheduler.add_noise(clean, noise, torch.tensor([steps[index]]))
            got = scheduler.step(noise, steps[index], here, eta=0).prev_sample
            last = index + 1 == num_steps
            want = clean if last else scheduler.add_noise(clean, noise, torch.tensor([steps[index + 1]]))
            torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_noise_follows_the_generator_and_chosen_timesteps_are_visited() -> None:
    scheduler = PairedDDIMScheduler()
    scheduler.set_timesteps(timesteps=[900, 500, 3])
    assert scheduler.timesteps.tolist() == [900, 500, 3] and scheduler.num_inference_steps == 3
    sample = torch.randn(1, 2, 8)
    draws = [
        scheduler.step(sample, 500, sample, generator=torch.Generator().manual_seed(seed), return_dict=False)[0]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    last = [scheduler.step(sample, 3, sample).prev_sample for _ in range(2)]
    assert torch.equal(*last)  # the last step draws none


def test_pipelines_take_it(tmp_path: Path) -> None:
    scheduler = PairedDDIMScheduler(num_train_timesteps=100, prediction_type="sample", clip_sample_range=2.0)
    check_scheduler(scheduler)
    assert prepare_timesteps(scheduler, 6, strength=0.5).tolist() == [49, 32, 15]
    assert step_arguments(scheduler, None, 0.5) == {"eta": 0.5, "generator": None}
    scheduler.save_pretrained(tmp_path)
    loaded = PairedDDIMScheduler.from_pretrained(tmp_path)
    for name in scheduler._get_init_keys(type(scheduler)) - {"self"}:
        assert loaded.config[name] == scheduler.config[name], name
    assert torch.equal(loaded.alphas_cumprod, scheduler.alphas_cumprod)
    assert PairedDDIMScheduler.from_config(DDIMScheduler(beta_end=0.01).config).config.beta_end == 0.01
    assert DDIMScheduler.from_config(PairedDDIMScheduler().config).config.beta_end == 0.0195


def test_bad_input_is_refused() -> None:
    scheduler = PairedDDIMScheduler()
    sample = torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match="`timestep` must be one of the 0 that `set_timesteps` chose, but is 3"):
        scheduler.step(sample, 3, sample)
    scheduler.set_timesteps(6)
    with pytest.raises(ValueError, match="one of the 6 .* but is 998"):
        scheduler.step(sample, 998, sample)
    with pytest.raises(ValueError, match="Only one of `generator` and `variance_noise`"):
        scheduler.step(sample, 999, sample, generator=torch.Generator(), variance_noise=sample)
    for number in (0, 1001):
        with pytest.raises(ValueError, match=rf"`num_inference_steps` must lie in \[1, 1000\], but is {number}"):
            scheduler.set_timesteps(number)
    for timesteps in ([], [3, 500], [5, 5], [1000, 3], [5, -1]):
        with pytest.raises(ValueError, match="`timesteps` must descend within"):
            scheduler.set_timesteps(timesteps=timesteps)
    for arguments in ({}, {"num_inference_steps": 3, "timesteps": [5]}):
        with pytest.raises(ValueError, match="One of `num_inference_steps` and `timesteps` must be given"):
            scheduler.set_timesteps(**arguments)
