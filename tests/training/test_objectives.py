"""Objectives: each equation against a second derivation."""

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from diffusers_video.models.unet_video_condition import UNetVideoConditionOutput
from diffusers_video.training import objectives


SHAPE = (2, 3, 4, 5, 5)
TIMESTEPS = torch.tensor([3, 900])


def make_scheduler(prediction_type: str = "epsilon", **options: object) -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction_type, **options)


def signal_and_noise(scheduler: DDPMScheduler) -> tuple[Tensor, Tensor]:
    """alpha and sigma of the two timesteps, from the product of 1 - beta."""
    alpha_bar = torch.stack([torch.prod(1 - scheduler.betas[: t + 1]) for t in TIMESTEPS])
    return alpha_bar.sqrt().view(2, 1, 1, 1, 1), (1 - alpha_bar).sqrt().view(2, 1, 1, 1, 1)


class Answer(nn.Module):
    """A denoiser that answers with what it is told, and remembers what it was given."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool, **conditions: object) -> tuple[Tensor]:
        self.sample, self.timestep, self.conditions = sample, timestep, conditions
        return tuple(UNetVideoConditionOutput(sample=self.answer).values())


@pytest.mark.parametrize("prediction_type", objectives.PREDICTION_TYPES)
def test_a_perfect_prediction_gives_back_latents_and_noise(prediction_type: str) -> None:
    scheduler = make_scheduler(prediction_type)
    latents, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    alpha, sigma = signal_and_noise(scheduler)
    noisy = alpha * latents + sigma * noise
    target = objectives.prediction_target(scheduler, latents, noise, TIMESTEPS)
    recovered = {
        "epsilon": (noisy - sigma * target) / alpha,
        "sample": target,
        "v_prediction": alpha * noisy - sigma * target,
    }[prediction_type]
    torch.testing.assert_close(recovered, latents, atol=1e-4, rtol=1e-4)  # epsilon divides by a small alpha


@pytest.mark.parametrize("prediction_type", objectives.PREDICTION_TYPES)
def test_loss_equals_a_loop_over_videos(prediction_type: str) -> None:
    scheduler = make_scheduler(prediction_type)
    latents, noise, answer = torch.randn(SHAPE), torch.randn(SHAPE), torch.randn(SHAPE)
    alpha, sigma = signal_and_noise(scheduler)
    targets = {"epsilon": noise, "sample": latents, "v_prediction": alpha * noise - sigma * latents}
    model = Answer(answer)
    loss = objectives.denoising_loss(model, scheduler, latents, {"fps": 8}, noise=noise, timesteps=TIMESTEPS)
    wanted = sum(((answer[b] - targets[prediction_type][b]) ** 2).mean() for b in range(2)) / 2
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(model.sample, alpha * latents + sigma * noise)
    assert model.conditions == {"fps": 8}


@pytest.mark.parametrize("prediction_type", objectives.PREDICTION_TYPES)
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_weighs_the_error_of_the_sample_by_the_clipped_snr(prediction_type: str, gamma: float) -> None:
    scheduler = make_scheduler(prediction_type)
    alpha, sigma = (part.flatten().double() for part in signal_and_noise(scheduler))
    # An error d of the prediction moves the denoised sample by d sigma / alpha (epsilon), d (sample) or d sigma (v).
    error_of_sample = {"epsilon": sigma / alpha, "sample": torch.ones(2), "v_prediction": sigma}[prediction_type]
    wanted = (alpha**2 / sigma**2).clamp(max=gamma) * error_of_sample**2
    weights = objectives.min_snr_weights(scheduler, TIMESTEPS, gamma)
    torch.testing.assert_close(weights.double(), wanted.double(), rtol=1e-4, atol=1e-7)


def test_min_snr_weights_enter_the_loss_per_video() -> None:
    scheduler, (latents, noise, answer) = make_scheduler(), torch.randn(3, *SHAPE)
    arguments = {"noise": noise, "timesteps": TIMESTEPS, "snr_gamma": 5.0}
    loss = objectives.denoising_loss(Answer(answer), scheduler, latents, {}, **arguments)
    weights = objectives.min_snr_weights(scheduler, TIMESTEPS, 5.0)
    wanted = sum(weights[b] * ((answer[b] - noise[b]) ** 2).mean() for b in range(2)) / 2
    torch.testing.assert_close(loss, wanted)


def test_min_snr_is_finite_at_zero_terminal_snr() -> None:
    scheduler = make_scheduler("v_prediction", rescale_betas_zero_snr=True)
    assert objectives.min_snr_weights(scheduler, torch.tensor([999]), 5.0).item() == pytest.approx(0, abs=1e-6)


def test_input_perturbation_reaches_the_model_but_not_the_target() -> None:
    scheduler, (latents, noise) = make_scheduler(), torch.randn(2, *SHAPE)
    model, extra = Answer(noise), torch.randn(SHAPE)
    arguments = {"noise": noise, "timesteps": TIMESTEPS, "perturbation": extra}
    assert objectives.denoising_loss(model, scheduler, latents, {}, **arguments) == 0
    alpha, sigma = signal_and_noise(scheduler)
    torch.testing.assert_close(model.sample, alpha * latents + sigma * (noise + extra))


@pytest.mark.parametrize(("per", "frames_differ"), [("frame", True), ("clip", False)])
def test_noise_offset_is_one_number_per_picture(per: str, frames_differ: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    offset = objectives.add_noise_offset(torch.zeros(SHAPE), 0.1, per=per, generator=generator)
    assert torch.equal(offset, offset[..., :1, :1].expand(SHAPE))
    assert bool((offset[:, :, 0] != offset[:, :, 1]).any()) == frames_differ
    assert offset.unique().numel() == (2 * 3 * 4 if frames_differ else 2 * 3)


def test_captions_are_dropped_where_the_mask_says() -> None:
    conditions = {
        "encoder_hidden_states": torch.ones(3, 4, 5),
        "added_cond_kwargs": {"text_embeds": torch.ones(3, 6), "time_ids": torch.ones(3, 6)},
        "fps": 8,
    }
    empty = {"encoder_hidden_states": torch.zeros(1, 4, 5), "added_cond_kwargs": {"text_embeds": torch.zeros(1, 6)}}
    dropped = objectives.drop_captions(conditions, empty, torch.tensor([True, False, True]))
    assert dropped["encoder_hidden_states"].mean(dim=(1, 2)).tolist() == [0, 1, 0]
    assert dropped["added_cond_kwargs"]["text_embeds"].mean(dim=1).tolist() == [0, 1, 0]
    assert dropped["added_cond_kwargs"]["time_ids"].min() == 1 and dropped["fps"] == 8


def test_masks_have_their_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    assert objectives.draw_mask(100_000, 0.1, generator).float().mean().item() == pytest.approx(0.1, abs=0.005)
    assert not objectives.draw_mask(100, 0.0, generator).any() and objectives.draw_mask(100, 1.0, generator).all()


def test_timesteps_cover_the_schedule_evenly() -> None:
    timesteps = objectives.draw_timesteps(100_000, 10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(timesteps.bincount(minlength=10) / 1e5, torch.full((10,), 0.1), atol=0.005, rtol=0)


def test_timesteps_of_a_range_are_drawn_more_often() -> None:
    weights = objectives.timestep_weights(10, 6, 10, 3.5)
    timesteps = objectives.draw_timesteps(100_000, 10, torch.Generator().manual_seed(0), weights)
    want = torch.tensor([1.0] * 6 + [3.5] * 4) / 20
    torch.testing.assert_close(timesteps.bincount(minlength=10) / 1e5, want, atol=0.005, rtol=0)
    assert timesteps.dtype is torch.int64


def test_without_a_bias_the_same_timesteps_are_drawn_as_without_weights() -> None:
    assert objectives.timestep_weights(10, 0, 10, 1.0) is None


def test_other_predictions_and_offsets_are_refused() -> None:
    scheduler, values = make_scheduler("flow"), torch.zeros(SHAPE)
    with pytest.raises(ValueError, match="`prediction_type` out of"):
        objectives.prediction_target(scheduler, values, values, TIMESTEPS)
    with pytest.raises(ValueError, match="`per` must be one of"):
        objectives.add_noise_offset(values, 0.1, per="video", generator=torch.Generator())
