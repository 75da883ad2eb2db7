"""Training in continuous time, on clips with single images beside them."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor

from diffusers_video import VDMScheduler
from diffusers_video.data.dataset import collate_clips
from diffusers_video.training.clip_loss import heldout_loss, prepare_heldout
from diffusers_video.training.joint_images import add_images
from diffusers_video.training.objectives import (
    denoising_loss,
    draw_noise_levels,
    min_snr_weights,
    spread_noise_levels,
)
from diffusers_video.training.train_unconditional import main
from diffusers_video.training.training_data import load_clips
from diffusers_video.training.unconditional import UnconditionalLoss, load_unconditional
from diffusers_video.training.unconditional_config import UnconditionalConfig

from ..tiny_space_time import _BASE, KINDS, tiny_space_time
from ..tiny_unconditional import tiny_autoencoder_kl_3d
from .tiny_runs import SETTINGS, assert_equal_runs, losses


NUM_FRAMES, NUM_IMAGES = 3, 2
VDM = {
    name: value for name, value in {**_BASE, **KINDS["vdm"], "pooled_text_dim": None}.items() if name != "sample_size"
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "vdm.json").write_text(json.dumps(VDM))
    return folder


def config(models: Path, output: Path | str = "unused", **settings: object) -> UnconditionalConfig:
    own = {"preset": None, "model_config_name_or_path": str(models / "vdm.json"), "resolution": 16, "num_frames": 3}
    own |= {"num_joint_images": NUM_IMAGES, "prediction_type": "v_prediction", "train_batch_size": 2}
    return UnconditionalConfig(output_dir=str(output), **{**SETTINGS, **own, **settings})


def train(models: Path, output: Path, **settings: object) -> Path:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    main(config(models, output, **settings))
    return output


def build(models: Path, **settings: object) -> UnconditionalLoss:
    chosen = config(models, **settings)
    return UnconditionalLoss.build(load_unconditional(chosen, load_clips(chosen)[0]), chosen, torch.device("cpu"))


def batch(loss: UnconditionalLoss) -> dict[str, object]:
    dataset = add_images(load_clips(loss.config)[0], loss.pipeline, loss.config)
    return collate_clips([dataset[0], dataset[1]])


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one_and_its_pipeline_draws(models: Path, tmp_path: Path) -> None:
    options = {"max_train_steps": 3, "use_ema": True}
    whole = train(models, tmp_path / "whole", **options)
    train(models, tmp_path / "parts", **options, checkpointing_steps=2)
    for path in (tmp_path / "parts" / "checkpoint-3").iterdir():
        path.unlink()  # what a kill between the checkpoints leaves
    parts = train(models, tmp_path / "parts", **options, resume_from_checkpoint="latest")
    assert len(losses(whole)) == 3
    assert_equal_runs(whole, parts, step=3)
    pipeline = DiffusionPipeline.from_pretrained(whole)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline.scheduler) is VDMScheduler and pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline(num_inference_steps=1, output_type="pt").frames.shape == (1, NUM_FRAMES, 3, 16, 16)


def test_the_denoiser_sees_clips_with_images_behind_them(models: Path) -> None:
    loss, calls = build(models), []
    hook = loss.pipeline.unet.register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    clips = batch(loss)
    for seed in range(16):
        loss(loss.pipeline.unet, clips, torch.Generator().manual_seed(seed))
    hook.remove()
    whole = torch.cat([clips["pixel_values"], clips["images"]], dim=2)
    levels = torch.stack([arguments[1] for arguments, _ in calls])
    assert levels.min() < -4 and levels.max() > 4 and levels.dtype == torch.float32
    for (sample, level), told in calls[:9]:
        assert sample.shape == (2, 3, NUM_FRAMES + NUM_IMAGES, 16, 16)
        assert told["image_only"].tolist() == [[False] * NUM_FRAMES + [True] * NUM_IMAGES] * 2
        signal, noise = (part[:, None, None, None, None].float() for part in loss.scheduler.signal_and_noise(level))
        rest = (sample - signal * whole) / noise
        frames = rest.transpose(1, 2).flatten(2).std(dim=2)
        torch.testing.assert_close(frames, torch.ones_like(frames), rtol=0.25, atol=0)  # every frame has that noise


def test_images_and_clips_are_trained_on_without_seeing_each_other(models: Path) -> None:
    loss = build(models)
    unet = tiny_space_time("vdm", pooled_text_dim=None)
    clips, latents = batch(loss), []
    for part in ("images", "pixel_values"):
        changed = {**clips, part: clips[part] + 0.5}
        outputs: list[Tensor] = []
        hook = unet.register_forward_hook(lambda *call, outputs=outputs: outputs.append(call[2][0].detach()))
        for one in (clips, changed):
            loss(unet, one, torch.Generator().manual_seed(0))
        hook.remove()
        latents.append((outputs[0] - outputs[1]).abs().amax(dim=(0, 1, 3, 4)))
    assert not latents[0][:NUM_FRAMES].any() and (latents[0][NUM_FRAMES:] > 0).all()
    assert not latents[1][NUM_FRAMES:].any() and (latents[1][:NUM_FRAMES] > 0).all()


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_loss_is_the_error_of_what_is_predicted(kind: str) -> None:
    scheduler, levels = VDMScheduler(prediction_type=kind), torch.tensor([-2.0, 3.0])
    clean, noise, answer = torch.randn(3, 2, 3, 4, 5, 5)
    signal, noise_part = (part[:, None, None, None, None].float() for part in scheduler.signal_and_noise(levels))
    seen = []

    def model(sample: Tensor, level: Tensor, return_dict: bool) -> tuple[Tensor]:
        seen.append((sample, level))
        return (answer,)

    model.config = {"timestep_type": "log_snr"}
    got = denoising_loss(model, scheduler, clean, {}, noise=noise, timesteps=levels)
    wanted = {"epsilon": noise, "sample": clean, "v_prediction": signal * noise - noise_part * clean}[kind]
    torch.testing.assert_close(got, (answer - wanted).square().mean())
    torch.testing.assert_close(seen[0][0], signal * clean + noise_part * noise)
    assert torch.equal(seen[0][1], levels)
    weights = {"epsilon": [1.0, 5 / 20.0855], "sample": [0.1353, 5.0], "v_prediction": [0.1192, 5 / 21.0855]}[kind]
    torch.testing.assert_close(min_snr_weights(scheduler, levels, 5.0), torch.tensor(weights), rtol=1e-3, atol=0)


def test_levels_are_uniform_in_time() -> None:
    scheduler, generator = VDMScheduler(), torch.Generator().manual_seed(0)
    levels = draw_noise_levels(scheduler, 20_000, generator)
    quarters = scheduler.log_snr(torch.tensor([0.25, 0.5, 0.75]))
    shares = torch.stack([(levels > level).float().mean() for level in quarters])
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.5, 0.75]), rtol=0, atol=0.02)
    torch.testing.assert_close(spread_noise_levels(scheduler, 2), quarters[[0, 2]])
    assert spread_noise_levels(DDPMScheduler(), 4).tolist() == [125, 375, 625, 875]
    assert draw_noise_levels(DDPMScheduler(), 5, generator).dtype == torch.int64


def test_clips_held_out_are_measured_without_images(models: Path) -> None:
    loss = build(models, num_heldout_clips=2, num_heldout_timesteps=3)
    clips = prepare_heldout(loss, load_clips(loss.config)[1])
    assert [tuple(clip.latents.shape) for clip in clips] == [(1, 3, NUM_FRAMES, 16, 16)] * 2
    assert torch.equal(clips[0].timesteps, loss.scheduler.log_snr(torch.tensor([1, 3, 5]) / 6))
    assert not any(clip.conditions for clip in clips)
    unet = tiny_space_time("vdm", pooled_text_dim=None)
    assert heldout_loss(unet, loss.scheduler, clips) == heldout_loss(unet, loss.scheduler, clips) > 0


def test_ordinary_schedules_train_it_on_log_snr(models: Path, tmp_path: Path) -> None:
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path)
    loss, told = build(models, scheduler_config_name_or_path=str(tmp_path)), []
    hook = loss.pipeline.unet.register_forward_pre_hook(lambda _, arguments: told.append(arguments[1]))
    loss(loss.pipeline.unet, batch(loss), torch.Generator().manual_seed(0))
    hook.remove()
    assert type(loss.scheduler) is DDPMScheduler and told[0].dtype == torch.float32
    assert -11 < told[0].min() and told[0].max() < 10


def test_new_models_have_the_schedule_of_their_preset(models: Path) -> None:
    tiny = json.dumps(
        {name: VDM[name] for name in VDM.keys() & _BASE.keys()}
        | {"attention_head_dim": 8, "num_attention_heads": None, "time_embed_dim": 8}
    )
    options = {"model_config_name_or_path": None, "model_options": tiny, "prediction_type": None}
    schedules = {
        "vdm_ucf101": ("epsilon", 0.1, 0),
        "vdm_bair": ("v_prediction", 0.0, 1),
        "vdm_kinetics": ("v_prediction", 0.0, 1),
    }
    for preset, want in schedules.items():
        settings = build(models, preset=preset, **options).scheduler.config
        assert (settings.prediction_type, settings.variance_interpolation, settings.num_corrector_steps) == want


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_joint_images": -1}, "`num_joint_images` must be at least 0"),
        ({"task": "key-frames"}, "`num_joint_images` goes with `task=unconditional`"),
        ({"latent_stride": 3}, "`num_joint_images` goes with `task=unconditional` and `latent_stride=1` alone"),
        ({"rescale_betas_zero_snr": True}, "`rescale_betas_zero_snr` needs a schedule with training timesteps"),
        (
            {"timestep_bias_multiplier": 2.0, "timestep_bias_begin": 500},
            "`timestep_bias_multiplier` needs a schedule with training timesteps",
        ),
        ({"model_options": '{"joint_norm": true}'}, "whose normalisations do not join frames"),
        ({"num_shapes_clips": 1}, "at least 2 clips of each size"),
    ],
)
def test_wrong_settings_are_refused(models: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch(build(models, **settings))


def test_images_do_not_go_beside_latents_of_videos(models: Path) -> None:
    tiny_autoencoder_kl_3d().save_pretrained(models / "vae")
    options = {"pretrained_vae_name_or_path": str(models / "vae"), "num_frames": 4}
    options["model_options"] = '{"in_channels": 4, "out_channels": 4}'
    with pytest.raises(ValueError, match="`vae` is a AutoencoderKL3D, which joins frames"):
        batch(build(models, **options))
