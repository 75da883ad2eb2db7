"""Continuous-time diffusion: the schedule, its steps against Bayes' rule, corrector steps, and bad input."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from torch import Tensor

from diffusers_video import PairedDDIMScheduler, VDMScheduler
from diffusers_video.conditioning.guidance import output_to_sample, sample_to_output, signal_and_noise
from diffusers_video.pipelines.scheduling import check_schedule, check_scheduler, prepare_timesteps, step_arguments
from diffusers_video.schedulers.log_snr import cosine_log_snr, denoiser_timestep, log_snr_at
from diffusers_video.schedulers.scheduling_vdm import ancestral_parts


LEVELS = [(-20.0, -19.0), (-6.0, -1.5), (-0.3, 0.4), (2.0, 9.0), (9.0, 20.0)]


def parts(log_snr: float) -> tuple[float, float]:
    """alpha and sigma by the definition of log-SNR, not by sigmoids."""
    ratio = math.exp(log_snr)
    return math.sqrt(ratio / (1 + ratio)), math.sqrt(1 / (1 + ratio))


def test_the_schedule_is_a_cosine_between_its_bounds() -> None:
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    log_snr = cosine_log_snr(times)
    assert log_snr[0] == pytest.approx(20) and log_snr[-1] == pytest.approx(-20)
    assert (log_snr.diff() < 0).all()
    signal, noise = VDMScheduler().signal_and_noise(log_snr)
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(11, dtype=torch.float64))
    first = math.atan(math.exp(-10))
    angles = first + (math.atan(math.exp(10)) - first) * times
    torch.testing.assert_close(signal, angles.cos())
    torch.testing.assert_close(noise, angles.sin())
    narrow = VDMScheduler(min_log_snr=-3, max_log_snr=5).log_snr(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(narrow, torch.tensor([5.0, -3.0]))


@pytest.mark.parametrize(("log_snr", "next_log_snr"), LEVELS)
def test_a_step_draws_from_the_posterior_of_bayes(log_snr: float, next_log_snr: float) -> None:
    (signal, noise), (next_signal, next_noise) = parts(log_snr), parts(next_log_snr)
    forward = -math.expm1(log_snr - next_log_snr) * noise**2  # Eq. 1: variance of z_t given z_s
    assert (signal / next_signal) ** 2 * next_noise**2 + forward == pytest.approx(noise**2)
    # z_s given x is N(alpha_s x, sigma_s^2); z_t given z_s is N((alpha_t / alpha_s) z_s, forward)
    slope = signal / next_signal
    variance = 1 / (1 / next_noise**2 + slope**2 / forward)
    of_sample, of_estimate, deviation = ancestral_parts(log_snr, next_log_snr)
    assert of_sample == pytest.approx(variance * slope / forward, rel=1e-9)
    assert of_estimate == pytest.approx(variance * next_signal / next_noise**2, rel=1e-9)
    assert deviation**2 == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize(("log_snr", "next_log_snr"), LEVELS)
def test_the_variance_goes_from_the_posteriors_to_the_forward_process(log_snr: float, next_log_snr: float) -> None:
    rest = 1 - math.exp(log_snr - next_log_snr)
    low, high = (rest * parts(level)[1] ** 2 for level in (next_log_snr, log_snr))
    for interpolation in (0.0, 0.3, 1.0):
        got = ancestral_parts(log_snr, next_log_snr, interpolation)
        assert got[:2] == ancestral_parts(log_snr, next_log_snr)[:2]
        assert got[2] ** 2 == pytest.approx(low ** (1 - interpolation) * high**interpolation)


def test_with_the_true_sample_known_every_step_keeps_the_marginal() -> None:
    scheduler, generator = VDMScheduler(prediction_type="sample"), torch.Generator().manual_seed(0)
    scheduler.set_timesteps(5)
    clean = torch.full((50_000,), 0.6, dtype=torch.float64)
    sample = torch.randn(50_000, generator=generator, dtype=torch.float64)
    for here, following in zip(scheduler.timesteps, scheduler.timesteps[1:], strict=False):
        sample = scheduler.step(clean, here, sample, generator=generator).prev_sample
        signal, noise = parts(float(following))
        assert float(sample.mean()) == pytest.approx(0.6 * signal, abs=0.02)
        assert float(sample.std()) == pytest.approx(noise, abs=0.015)
    assert torch.equal(scheduler.step(clean, scheduler.timesteps[-1], sample).prev_sample, clean)


def test_outputs_of_every_kind_stand_for_one_another() -> None:
    scheduler, levels = VDMScheduler(), torch.tensor([-8.0, 0.5, 6.0])
    clean, noise = torch.randn(2, 3, 4, 2, 5, 5, dtype=torch.float64)
    noisy, velocity = scheduler.add_noise(clean, noise, levels), scheduler.get_velocity(clean, noise, levels)
    for row, level in enumerate(levels):
        signal, noise_part = signal_and_noise(scheduler, level)
        assert (signal, noise_part) == pytest.approx(parts(float(level)))
        torch.testing.assert_close(noisy[row], signal * clean[row] + noise_part * noise[row])
        torch.testing.assert_close(velocity[row], signal * noise[row] - noise_part * clean[row])
        outputs = {"epsilon": noise, "sample": clean, "v_prediction": velocity}
        for kind, output in outputs.items():
            form = (kind, signal, noise_part)
            torch.testing.assert_close(output_to_sample(output[row], noisy[row], *form), clean[row])
            torch.testing.assert_close(sample_to_output(clean[row], noisy[row], *form), output[row])
            got = VDMScheduler(prediction_type=kind, clip_sample=False).estimate(output[row], level, noisy[row])
            torch.testing.assert_close(got, clean[row])
        # noise = sigma z + alpha v, the other half of the conversion
        torch.testing.assert_close(noise_part * noisy[row] + signal * velocity[row], noise[row])


def test_estimates_are_clipped_if_asked_to() -> None:
    output = torch.tensor([-3.0, 0.2, 1.5])
    for options, want in ({}, [-1, 0.2, 1]), ({"clip_sample_range": 2.0}, [-2, 0.2, 1.5]):
        scheduler = VDMScheduler(prediction_type="sample", **options)
        scheduler.set_timesteps(2)
        got = scheduler.step(output, scheduler.timesteps[0], torch.zeros(3)).pred_original_sample
        torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float32))


def test_a_corrector_step_is_one_of_langevin_dynamics() -> None:
    scheduler = VDMScheduler(prediction_type="epsilon", num_corrector_steps=1, clip_sample=False)
    scheduler.set_timesteps(4)
    levels = scheduler.timesteps.tolist()
    assert len(levels) == 7 and levels[1::2] == levels[2::2] and len(set(levels)) == 4
    sample, output, noise = torch.randn(3, 6, dtype=torch.float64)
    scheduler.step(output, levels[0], sample, variance_noise=noise)
    got = scheduler.step(output, levels[1], sample, variance_noise=noise).prev_sample
    sigma = parts(levels[1])[1]
    torch.testing.assert_close(got, sample - 0.05 * sigma * output + math.sqrt(0.1) * sigma * noise)
    got = scheduler.step(output, levels[2], sample, variance_noise=noise)
    of_sample, of_estimate, deviation = ancestral_parts(levels[2], levels[3])
    want = of_sample * sample + of_estimate * got.pred_original_sample + deviation * noise
    torch.testing.assert_close(got.prev_sample, want)


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({}, 0.26, 0.3),  # the posterior's variance is a lower bound
        ({"variance_interpolation": 1.0}, 0.3, 0.34),  # that of the forward process an upper one
        ({"num_corrector_steps": 1}, 0.265, 0.3),
    ],
)
def test_samples_of_a_gaussian_have_its_mean_and_deviation(options: dict[str, float], low: float, high: float) -> None:
    mean, deviation, generator = 0.5, 0.3, torch.Generator().manual_seed(0)
    scheduler = VDMScheduler(clip_sample=False, **options)
    scheduler.set_timesteps(50)
    sample = torch.randn(10_000, generator=generator, dtype=torch.float64)
    for level in scheduler.timesteps:
        signal, noise = parts(float(level))
        output = noise * (sample - signal * mean) / (signal**2 * deviation**2 + noise**2)  # the exact denoiser
        sample = scheduler.step(output, level, sample, generator=generator).prev_sample
    assert float(sample.mean()) == pytest.approx(mean, abs=0.015)
    assert low < float(sample.std()) < high


def test_runs_begun_inside_the_schedule_go_on_from_there() -> None:
    scheduler = VDMScheduler(num_corrector_steps=2)
    levels = prepare_timesteps(scheduler, 4)
    assert levels.tolist() == scheduler.timesteps.tolist() and len(levels) == 10
    rest = prepare_timesteps(scheduler, 4, strength=0.5)
    assert rest.tolist() == levels[6:].tolist() and scheduler.begin_index == 6
    sample = torch.randn(3)
    got = scheduler.step(sample, rest[0], sample, variance_noise=sample)
    want = ancestral_parts(float(rest[0]), float(rest[1]))
    torch.testing.assert_close(
        got.prev_sample, want[0] * sample + want[1] * got.pred_original_sample + want[2] * sample
    )
    assert scheduler.step_index == 7
    scheduler.set_timesteps(4)
    scheduler.step(sample, rest[0], sample)  # without a word on where it begins
    assert scheduler.step_index == 7


def test_noise_follows_generators_one_for_each_sample() -> None:
    scheduler, output, sample = VDMScheduler(), *torch.randn(2, 2, 3, 4)

    def draw(rows: slice, generator: object) -> Tensor:
        scheduler.set_timesteps(9)
        return scheduler.step(output[rows], scheduler.timesteps[0], sample[rows], generator, return_dict=False)[0]

    seeds = [torch.Generator().manual_seed(seed) for seed in (3, 7)]
    both = draw(slice(0, 2), seeds)
    assert torch.equal(both[1:], draw(slice(1, 2), torch.Generator().manual_seed(7)))
    assert not torch.equal(both[1:], draw(slice(1, 2), torch.Generator().manual_seed(8)))


def test_every_option_comes_back(tmp_path: Path) -> None:
    options = {
        "min_log_snr": -9.0,
        "max_log_snr": 7.0,
        "prediction_type": "v_prediction",
        "variance_interpolation": 0.3,
        "num_corrector_steps": 2,
        "corrector_step_size": 0.2,
        "clip_sample": False,
        "clip_sample_range": 3.0,
    }
    scheduler = VDMScheduler(**options)
    assert {name for name in scheduler.config if not name.startswith("_")} == options.keys()
    scheduler.save_pretrained(tmp_path)
    loaded = VDMScheduler.from_pretrained(tmp_path)
    assert {name: loaded.config[name] for name in options} == options
    assert loaded.order == 3 and loaded.init_noise_sigma == 1
    loaded.set_timesteps(3)
    scheduler.set_timesteps(3)
    assert torch.equal(loaded.timesteps, scheduler.timesteps)
    assert VDMScheduler.from_config(DDIMScheduler(prediction_type="sample").config).config.prediction_type == "sample"


@pytest.mark.parametrize("build", [DDPMScheduler, EulerDiscreteScheduler, PairedDDIMScheduler])
def test_log_snr_of_diffusers_timesteps_is_that_of_their_noise(build: Callable) -> None:
    scheduler = build()
    scheduler.set_timesteps(7)
    clean, noise = torch.ones(7, 1), torch.zeros(7, 1)
    timesteps = scheduler.timesteps
    got = log_snr_at(scheduler, timesteps)
    assert got.shape == timesteps.shape and (got.diff() > 0).all()
    discrete = DDPMScheduler.from_config(scheduler.config)
    signal = discrete.add_noise(clean, noise, timesteps.long()).double()[:, 0]
    want = (signal**2 / (1 - signal**2)).log()
    torch.testing.assert_close(got.double(), want, rtol=0.02, atol=2e-3)  # Euler's lie between integers
    config = {"timestep_type": "log_snr"}
    assert torch.equal(denoiser_timestep(config, scheduler, timesteps), got)
    assert denoiser_timestep({}, scheduler, timesteps) is timesteps
    continuous = torch.tensor(-3.5)
    assert denoiser_timestep(config, VDMScheduler(), continuous) == continuous
    zero = DDPMScheduler(rescale_betas_zero_snr=True)
    assert log_snr_at(zero, torch.tensor(999)) == -math.inf


def test_pipelines_take_it_for_models_that_read_log_snr() -> None:
    scheduler = VDMScheduler()
    check_scheduler(scheduler, takes_log_snr=True)
    assert step_arguments(scheduler, None, 0.0) == {"generator": None}
    with pytest.raises(ValueError, match="it tells the noise level as log-SNR, which this model does not read"):
        check_scheduler(scheduler)
    with pytest.raises(ValueError, match="`scheduler` VDMScheduler tells the noise level as log-SNR"):
        denoiser_timestep({"timestep_type": "discrete"}, scheduler, torch.tensor(1.0))
    with pytest.raises(ValueError, match="`timesteps` cannot be chosen with VDMScheduler"):
        check_schedule(scheduler, 5, [5, 3], None, None, 0.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_log_snr": 20}, ValueError, "`min_log_snr` must be below `max_log_snr`=20.0, but is 20"),
        ({"prediction_type": "flow"}, ValueError, "`prediction_type` must be one of"),
        ({"variance_interpolation": 1.5}, ValueError, r"`variance_interpolation` must lie in \[0, 1\], but is 1.5"),
        ({"num_corrector_steps": -1}, ValueError, "`num_corrector_steps` must be at least 0, but is -1"),
        ({"num_corrector_steps": 0.5}, TypeError, "`num_corrector_steps` must be an integer, but is 0.5"),
        ({"corrector_step_size": 0}, ValueError, "`corrector_step_size` must be above 0, but is 0"),
        ({"clip_sample_range": -1.0}, ValueError, "`clip_sample_range` must be above 0, but is -1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        VDMScheduler(**options)


def test_steps_out_of_turn_are_refused() -> None:
    scheduler, sample = VDMScheduler(), torch.zeros(1)
    with pytest.raises(ValueError, match="the one of the 0 `timesteps` whose turn it is, None, but is 1"):
        scheduler.step(sample, 1.0, sample)
    with pytest.raises(ValueError, match="`num_inference_steps` must be at least 1, but is 0"):
        scheduler.set_timesteps(0)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match="Only one of `generator` and `variance_noise`"):
        scheduler.step(sample, scheduler.timesteps[0], sample, torch.Generator(), sample)
    scheduler.set_timesteps(2)
    scheduler.step(sample, scheduler.timesteps[0], sample)
    with pytest.raises(ValueError, match="whose turn it is"):
        scheduler.step(sample, scheduler.timesteps[0], sample)
    scheduler.step(sample, scheduler.timesteps[1], sample)
    with pytest.raises(ValueError, match="Call `set_timesteps` before each run"):
        scheduler.step(sample, scheduler.timesteps[1], sample)
