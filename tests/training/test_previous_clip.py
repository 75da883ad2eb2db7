"""Joint training with and without the clip before: what is cut, told and measured, and that a run goes on exactly."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from diffusers_video import AutoencoderKL3D, PairedDDIMScheduler, UnconditionalVideoPipeline
from diffusers_video.conditioning.noise import make_generator
from diffusers_video.training import objectives
from diffusers_video.training.previous_clip import ClipAfterClipLoss, build_loss, cut_clips
from diffusers_video.training.train_unconditional import main
from diffusers_video.training.unconditional_config import UnconditionalConfig

from ..tiny_triplane import tiny_autoencoder_triplane, tiny_unet_triplane
from .tiny_runs import assert_equal_runs, losses, read_log


UNET = {
    "_class_name": "UNetTriplaneModel",
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "plane_attention": [True, False],
    "num_attention_heads": 2,
    "norm_num_groups": 4,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    tiny_autoencoder_triplane(sample_size=16, patch_size=4).save_pretrained(folder / "vae")
    (folder / "unet.json").write_text(json.dumps(UNET))
    return {"model_config_name_or_path": str(folder / "unet.json"), "pretrained_vae_name_or_path": str(folder / "vae")}


def settings(output_dir: Path, **changes: object) -> dict[str, object]:
    return {
        "train_data_dir": "shapes",
        "output_dir": str(output_dir),
        "resolution": 16,
        "num_frames": 4,
        "num_shapes_clips": 6,
        "num_heldout_clips": 2,
        "num_heldout_timesteps": 2,
        "num_validation_inference_steps": 1,
        "train_batch_size": 2,
        "max_train_steps": 2,
        "checkpointing_steps": 0,
        "learning_rate": 1e-3,
        **changes,
    }


def train(output_dir: Path, **changes: object) -> Path:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    main(UnconditionalConfig(**settings(output_dir, **changes)))
    return output_dir


def make_loss(tmp_path: Path, **changes: object) -> ClipAfterClipLoss:
    torch.manual_seed(0)
    pipeline = UnconditionalVideoPipeline(tiny_unet_triplane(), PairedDDIMScheduler(), tiny_autoencoder_triplane())
    config = UnconditionalConfig(**settings(tmp_path, model_config_name_or_path="a.json", **changes))
    return build_loss(pipeline, config, torch.device("cpu"))


def some_clips(batch_size: int = 3) -> dict[str, object]:
    videos = torch.rand(batch_size, 3, 4, 8, 12, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return {"pixel_values": videos, "fps": torch.full((batch_size,), 8.0)}


@pytest.mark.slow
def test_both_held_out_losses_fall_and_the_pipeline_draws_longer_videos(
    folders: dict[str, str], tmp_path: Path
) -> None:
    out = train(tmp_path, **folders, max_train_steps=30, train_batch_size=4, learning_rate=3e-3)
    first, last = (line for line in read_log(out) if "heldout_loss" in line)
    for name in ("heldout_loss", "heldout_loss_without_previous"):
        assert last[name] < 0.95 * first[name]
    assert last["heldout_loss"] != last["heldout_loss_without_previous"]
    pipeline = UnconditionalVideoPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    assert (pipeline.config.num_frames, pipeline.unet.config.num_frames, pipeline.config.height) == (2, 2, 16)
    assert isinstance(pipeline.scheduler, PairedDDIMScheduler)
    assert pipeline(num_frames=5, num_inference_steps=2, output_type="pt").frames.shape == (1, 5, 3, 16, 16)


def test_resumed_run_equals_an_uninterrupted_one(folders: dict[str, str], tmp_path: Path) -> None:
    options = {**folders, "previous_clip_probability": 0.5, "use_ema": True, "validation_steps": 1}
    whole = train(tmp_path / "whole", **options)
    for more in ({"max_train_steps": 1}, {"resume_from_checkpoint": "latest"}):
        parts = train(tmp_path / "parts", **options, **more)
    assert losses(whole) == losses(parts)
    assert_equal_runs(whole, parts, 2)


@pytest.mark.parametrize(("chance", "is_told"), [(0.0, False), (1.0, True)])
def test_clips_are_cut_as_they_are_told(tmp_path: Path, chance: float, is_told: bool) -> None:
    loss_fn, batch = make_loss(tmp_path, previous_clip_probability=chance), some_clips(20)
    cut = loss_fn.draw_window(batch, torch.Generator().manual_seed(0))
    videos = batch["pixel_values"]
    starts = set()
    for whole, part in zip(videos, cut["pixel_values"], strict=True):
        starts |= {start for start in range(3) if torch.equal(part, whole[:, start : start + 2])}
    assert cut["is_told"].tolist() == [is_told] * 20 and starts == ({2} if is_told else {0, 1, 2})
    posterior, conditions = loss_fn.encode(cut)
    vae = loss_fn.pipeline.vae
    want = vae.encode(videos[:, :, :2]).latents if is_told else torch.zeros(20, 2, 44)
    torch.testing.assert_close(conditions["previous_latents"], want)
    assert conditions["latent_size"] == (2, 4, 6)
    assert torch.equal(posterior["latents_mean"], vae.encode(cut["pixel_values"]).latents)


def test_each_clip_has_its_own_coin(tmp_path: Path) -> None:
    cut = make_loss(tmp_path).draw_window(some_clips(200), torch.Generator().manual_seed(0))
    assert 0.2 < cut["is_told"].float().mean() < 0.4
    batch = cut_clips(some_clips(2), torch.tensor([True, False]), [2, 1])
    previous = make_loss(tmp_path).encode(batch)[1]["previous_latents"]
    assert previous[0].any() and not previous[1].any()


def test_loss_is_that_of_both_terms(tmp_path: Path) -> None:
    loss_fn, batch = make_loss(tmp_path, previous_clip_probability=0.5), some_clips(8)
    unet = loss_fn.pipeline.unet
    got = loss_fn(unet, batch, make_generator(0, 0))
    generator = make_generator(0, 0)
    cut = loss_fn.draw_window(batch, generator)
    posterior, conditions = loss_fn.encode(cut)
    latents = posterior["latents_mean"]
    torch.randn(latents.shape, generator=generator)  # of a posterior that has no spread
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = objectives.draw_timesteps(8, 1000, generator)
    noisy = loss_fn.scheduler.add_noise(latents, noise, timesteps)
    errors = []
    for row, is_told in enumerate(cut["is_told"]):
        previous = conditions["previous_latents"][row : row + 1] if is_told else None
        output = unet(noisy[row : row + 1], timesteps[row], previous).sample
        errors.append((output - noise[row : row + 1]).square().mean())
    assert cut["is_told"].any() and not cut["is_told"].all()
    torch.testing.assert_close(got, torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 5}, "`num_frames` must be even for a denoiser that reads the clip before"),
        ({"num_frames": 6}, "`num_frames` must be a multiple of 1 in \\[1, 2\\], but is 3"),
        ({"task": "key-frames"}, "`task=key-frames` needs"),
        ({"latent_stride": 2}, "`latent_stride` needs latents with an axis of frames"),
        ({"previous_clip_probability": 1.5}, "`previous_clip_probability` must be at least 0 and at most 1"),
        ({"model_options": '{"use_previous_clip": false}', "num_frames": 4}, "`num_frames` must be a multiple of 1"),
        (
            {"model_options": '{"use_previous_clip": false}', "num_frames": 2, "previous_clip_probability": 0.3},
            "`previous_clip_probability` has an effect only on a denoiser with `use_previous_clip`",
        ),
    ],
)
def test_bad_settings_are_refused(
    folders: dict[str, str], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(tmp_path, **folders, **changes)


@pytest.mark.slow
def test_a_denoiser_that_reads_no_clip_trains_on_single_ones(folders: dict[str, str], tmp_path: Path) -> None:
    out = train(tmp_path, **folders, num_frames=2, model_options='{"use_previous_clip": false}', max_train_steps=1)
    lines = [line for line in read_log(out) if "heldout_loss" in line]
    assert lines and not any("heldout_loss_without_previous" in line for line in lines)


def test_another_autoencoder_does_not_fit(folders: dict[str, str], tmp_path: Path) -> None:
    vae = AutoencoderKL3D(block_out_channels=(4, 8, 16), downsample_factors=(2, 4, 4), norm_num_groups=4)
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match="an AutoencoderTriplane and a UNetTriplaneModel go together"):
        train(tmp_path / "out", **{**folders, "pretrained_vae_name_or_path": str(tmp_path / "vae")})
