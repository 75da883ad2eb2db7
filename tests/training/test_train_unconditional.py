"""The script of denoisers without text: latents, pixels, given frames with noise, exact resuming, what it leaves."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from torch import Tensor

from diffusers_video import TextToVideoPipeline, UnconditionalVideoPipeline
from diffusers_video.training.base_config import parse_config
from diffusers_video.training.clip_loss import prepare_heldout
from diffusers_video.training.objectives import denoising_loss
from diffusers_video.training.train_unconditional import main
from diffusers_video.training.training_data import load_clips
from diffusers_video.training.unconditional import UnconditionalLoss, draw_given, fix_given, load_unconditional
from diffusers_video.training.unconditional_config import UnconditionalConfig

from ..tiny_pipelines import tiny_image_pipeline, tiny_vae
from ..tiny_space_time import _BASE as TINY_UNET
from ..tiny_space_time import tiny_space_time
from ..tiny_unconditional import FRAMES, tiny_autoencoder_kl_3d, tiny_unconditional
from .tiny_runs import SETTINGS, assert_equal_runs, losses, read_log
from .tiny_runs import train as train_text_to_video


CPU = torch.device("cpu")
KINDS = ("video", "image", "pixel")
each_kind = pytest.mark.parametrize("kind", KINDS)
# The rest of a tiny U-Net follows from the autoencoder, the clips and the task.
MODEL = {name: value for name, value in TINY_UNET.items() if name != "sample_size"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of tiny autoencoders and configurations of denoisers."""
    folder = tmp_path_factory.mktemp("models")
    tiny_autoencoder_kl_3d().save_pretrained(folder / "video")
    tiny_vae().save_pretrained(folder / "image")
    (folder / "space_time.json").write_text(json.dumps(MODEL))
    return folder


def settings_of(models: Path, kind: str = "video", **settings: object) -> dict:
    own = {**SETTINGS, "num_frames": FRAMES[kind], "preset": None}
    own["model_config_name_or_path"] = str(models / "space_time.json")
    if kind != "pixel":
        own["pretrained_vae_name_or_path"] = str(models / kind)
    return own | settings


def config(
    models: Path, kind: str = "video", output: Path | str = "unused", **settings: object
) -> UnconditionalConfig:
    return UnconditionalConfig(output_dir=str(output), **settings_of(models, kind, **settings))


def train(models: Path, output: Path, kind: str = "video", **settings: object) -> Path:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    main(config(models, kind, output, **settings))
    return output


def build(models: Path, kind: str = "pixel", **settings: object) -> UnconditionalLoss:
    chosen = config(models, kind, **settings)
    return UnconditionalLoss.build(load_unconditional(chosen, load_clips(chosen)[0]), chosen, CPU)


def batch(loss: UnconditionalLoss, size: int = 2) -> dict[str, object]:
    sizes = [loss.pipeline.config[name] for name in ("num_frames", "height", "width")]
    sizes[0] *= loss.config.latent_stride
    videos = torch.rand(size, 3, *sizes, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return {"pixel_values": videos, "fps": torch.full((size,), 8.0)}


def seen_by(loss: UnconditionalLoss, seed: int = 0, size: int = 2) -> tuple[Tensor, dict]:
    calls = []
    hook = loss.pipeline.unet.register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    loss(loss.pipeline.unet, batch(loss, size), torch.Generator().manual_seed(seed))
    hook.remove()
    return calls[0][0][0], calls[0][1]


@pytest.mark.parametrize(
    "kind", ["pixel", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("video", "image"))]
)
def test_a_trained_pipeline_loads_and_draws_what_it_was_trained_on(kind: str, models: Path, tmp_path: Path) -> None:
    out = train(models, tmp_path / "first", kind, fps=12.0)
    pipeline = DiffusionPipeline.from_pretrained(out)
    assert type(pipeline) is UnconditionalVideoPipeline
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(2, num_inference_steps=1, output_type="pt")
    drawn = pipeline.config
    assert output.frames.shape == (2, FRAMES[kind], 3, drawn.height, drawn.width) and output.fps == 12.0
    assert len(losses(out)) == 2 and "heldout_loss" in read_log(out)[0] and (out / "preview.mp4").stat().st_size
    assert "trained from scratch" in (out / "README.md").read_text()
    if kind == "video":
        new = {"model_config_name_or_path": None, "pretrained_vae_name_or_path": None}
        again = train(models, tmp_path / "second", kind, pretrained_model_name_or_path=str(out), **new)
        assert losses(again) != losses(out)


@pytest.mark.parametrize("kind", ["pixel", pytest.param("video", marks=pytest.mark.slow)])
def test_a_resumed_run_equals_an_uninterrupted_one(kind: str, models: Path, tmp_path: Path) -> None:
    options = {"max_train_steps": 3, "use_ema": True, "train_batch_size": 2, "task": "key-frames", "loss_type": "l1"}
    options |= {"max_noise_level": 10}
    whole = train(models, tmp_path / "whole", kind, **options)
    train(models, tmp_path / "parts", kind, **options, checkpointing_steps=2)
    for path in (tmp_path / "parts" / "checkpoint-3").iterdir():
        path.unlink()  # what a kill between the checkpoints leaves
    parts = train(models, tmp_path / "parts", kind, **options, resume_from_checkpoint="latest")
    assert len(losses(whole)) == 3
    assert_equal_runs(whole, parts, step=3)


@each_kind
def test_the_denoiser_sees_latents_with_the_noise_of_the_sampler(kind: str, models: Path) -> None:
    loss = build(models, kind, posterior="mode")
    sample, _ = seen_by(loss)
    posterior, _ = loss.encode(batch(loss))
    clean = posterior["latents_mean"]
    assert sample.shape == clean.shape and posterior["latents_std"].any() == (kind in ("video", "image"))
    assert torch.equal(loss.scheduler.alphas_cumprod, loss.pipeline.scheduler.alphas_cumprod)
    assert not torch.equal(sample, clean) and not torch.equal(sample[0], seen_by(loss, seed=1)[0][0])
    if kind == "video":
        inner = loss.pipeline.vae.encode(batch(loss)["pixel_values"]).latent_dist.mode()
        torch.testing.assert_close(clean, (inner - 0.25) * 0.5)


def test_every_fourth_latent_is_trained_on(models: Path) -> None:
    loss, whole = build(models, "video", latent_stride=2, num_frames=16), build(models, "video", num_frames=16)
    assert loss.pipeline.config.num_frames == 8 and loss.pipeline.config.fps == 4.0
    clip = batch(whole)
    strided, all_of_them = (one.encode(clip)[0]["latents_mean"] for one in (loss, whole))
    assert torch.equal(strided, all_of_them[:, :, ::2])


def test_given_first_frames_follow_their_chances(models: Path) -> None:
    chosen = config(models, "pixel", task="key-frames", num_given_probabilities=[1, 0, 3], num_frames=4)
    mask = draw_given(chosen, 4000, 4, torch.Generator().manual_seed(0))
    assert set(mask.sum(1).tolist()) == {0, 2} and 0.7 < mask[:, 1].float().mean() < 0.8
    assert torch.equal(mask[:, 0], mask[:, 1]) and not mask[:, 2:].any()
    assert [int(fix_given(chosen, place, 4).sum()) for place in range(3)] == [2, 0, 2]


def test_both_ends_are_given_but_for_the_clips_that_have_none(models: Path) -> None:
    chosen = config(models, "pixel", task="interpolation", num_frames=4)
    mask = draw_given(chosen, 4000, 4, torch.Generator().manual_seed(0))
    assert 0.88 < mask[:, 0].float().mean() < 0.92  # nine of ten
    assert torch.equal(mask[:, 0], mask[:, 3]) and not mask[:, 1:3].any()
    assert fix_given(chosen, 0, 4).tolist() == [[True, False, False, True]]


def test_given_frames_have_the_noise_that_the_denoiser_is_told(models: Path) -> None:
    loss = build(models, task="key-frames", num_given_probabilities=[0, 1], max_noise_level=100, num_frames=2)
    assert loss.pipeline.unet.config.num_noise_levels == 101 and loss.pipeline.unet.config.use_frame_mask
    levels = []
    for seed in range(40):
        _, told = seen_by(loss, seed)
        signal = loss.scheduler.alphas_cumprod[told["noise_level"]].sqrt()
        clean = batch(loss)["pixel_values"]
        for row in range(2):
            noise = told["context_latents"][row, :, 0] - signal[row] * clean[row, :, 0]
            level = told["noise_level"][row]
            wanted = (1 - signal[row] ** 2).sqrt() if level else torch.tensor(0.0)
            torch.testing.assert_close(noise.std(), wanted, rtol=0.25, atol=1e-6)
            levels.append(int(level))
    assert min(levels) < 12 and max(levels) > 88


def test_the_loss_counts_given_frames_with_noise_and_no_others(models: Path) -> None:
    loss = build(models, task="key-frames", max_noise_level=10)
    latents, noise, told_noise = (torch.randn(2, 3, 3, 8, 8) for _ in range(3))
    timesteps, levels = torch.tensor([500, 300]), torch.tensor([5, 0])
    mask = torch.tensor([[True, False, False], [True, True, False]])
    answer = torch.randn(2, 3, 3, 8, 8)
    arguments = {"noise": noise, "timesteps": timesteps, "context_noise": told_noise, "loss_type": "l1"}

    def model(*_: object, **__: object) -> tuple[Tensor]:
        return (answer,)

    got = denoising_loss(model, loss.scheduler, latents, {"frame_mask": mask, "noise_level": levels}, **arguments)
    first = torch.stack([answer[0, :, 0] - told_noise[0, :, 0], *(answer - noise)[0, :, 1:].unbind(1)]).abs().mean()
    second = (answer - noise)[1, :, 2].abs().mean()  # the other two are given without noise
    torch.testing.assert_close(got, (first + second) / 2)


def test_heldout_clips_stay_the_same_and_have_clean_given_frames(models: Path) -> None:
    loss = build(models, task="interpolation", max_noise_level=10, num_heldout_clips=2)
    clips = prepare_heldout(loss, load_clips(loss.config)[1])
    again = prepare_heldout(loss, load_clips(loss.config)[1])
    for one, other in zip(clips, again, strict=True):
        assert torch.equal(one.noise, other.noise) and torch.equal(one.latents, other.latents)
        assert not one.conditions["noise_level"].any() and not one.context_noise.any()
        assert torch.equal(one.conditions["context_latents"], one.latents)


def test_gradients_reach_the_denoiser_and_nothing_else(models: Path) -> None:
    loss = build(models, "video", task="key-frames", max_noise_level=10)
    pipeline = tiny_unconditional("video", use_frame_mask=True, num_noise_levels=11)
    pipeline.vae.requires_grad_(False)
    loss(pipeline.unet.train(), batch(loss), torch.Generator().manual_seed(0)).backward()
    unused = {name for name, value in pipeline.unet.named_parameters() if value.grad is None or not value.grad.any()}
    assert not unused and all(value.grad is None for value in pipeline.vae.parameters())


def test_a_scheduler_of_another_class_is_taken_from_its_file(models: Path, tmp_path: Path) -> None:
    EulerDiscreteScheduler(beta_end=0.013).save_pretrained(tmp_path)
    loss = build(models, scheduler_config_name_or_path=str(tmp_path), prediction_type="v_prediction")
    scheduler = loss.pipeline.scheduler
    assert type(scheduler) is EulerDiscreteScheduler and scheduler.config.beta_end == 0.013
    assert loss.scheduler.config.prediction_type == scheduler.config.prediction_type == "v_prediction"


def test_settings_come_from_a_file_and_flags(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("preset: lvdm\ntrain_data_dir: shapes\nmax_train_steps: 5\ntask: key-frames\n")
    chosen = parse_config(UnconditionalConfig, [str(path), "--output_dir", "out", "--max_noise_level", "249"])
    assert (chosen.preset, chosen.task, chosen.max_noise_level, chosen.given_chances) == (
        "lvdm",
        "key-frames",
        249,
        [1, 1],
    )


BAD_SETTINGS = [
    ({"preset": "lvdm"}, "Exactly one of `pretrained_model_name_or_path`, `model_config_name_or_path`, `preset`"),
    ({"model_config_name_or_path": None, "preset": "huge"}, "`preset` must be one of"),
    ({"task": "text-to-video"}, "`task` must be one of"),
    ({"loss_type": "huber"}, "`loss_type` must be one of"),
    ({"caption_dropout": 0.5}, "`caption_dropout` has no effect on a model that reads no text"),
    ({"image_probability": 0.5}, "`image_probability` has no effect on a model that reads no text"),
    ({"max_noise_level": 5}, "`max_noise_level` has an effect only with task key-frames or interpolation"),
    ({"context_dropout": 0.5}, "`context_dropout` has an effect only with task interpolation"),
    ({"task": "key-frames", "num_given_probabilities": [0.0]}, "`num_given_probabilities` must be numbers"),
    ({"latent_stride": 0}, "`latent_stride` must be at least 1"),
    ({"model_options": "{"}, "`model_options` must be JSON"),
    ({"model_options": "[1]"}, "`model_options` must be a JSON object"),
    (
        {"model_config_name_or_path": None, "pretrained_model_name_or_path": "a", "model_options": "{}"},
        "`model_options` is for new models",
    ),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_wrong_settings_are_refused(models: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(models, "pixel", **settings)


BAD_MODELS = [
    ({"model_config_name_or_path": "/missing.json"}, FileNotFoundError, "`model_config_name_or_path` must be a JSON"),
    ({"model_options": '{"depth": 3}'}, ValueError, "`depth` is no option of UNetSpaceTimeModel"),
    ({"model_options": '{"in_channels": 4}'}, ValueError, "as many channels as pixels, 3"),
    ({"model_options": '{"use_frame_mask": false}', "task": "key-frames"}, ValueError, "reads given frames"),
    (
        {"model_options": '{"num_noise_levels": 4}', "task": "key-frames", "max_noise_level": 4},
        ValueError,
        "`max_noise_level` must be below 4",
    ),
    ({"task": "interpolation", "num_frames": 2}, ValueError, "`num_frames` must give at least 3 latent frames"),
    ({"latent_stride": 2}, ValueError, "`num_frames` must be a multiple of 2"),
    ({"pretrained_vae_name_or_path": "/missing.json"}, FileNotFoundError, "The autoencoder must be a folder"),
    ({"scheduler_config_name_or_path": "/missing.json"}, FileNotFoundError, "`scheduler_config_name_or_path` must be"),
]


@pytest.mark.parametrize(("settings", "error", "message"), BAD_MODELS)
def test_models_that_do_not_fit_are_refused(models: Path, settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build(models, "pixel", **settings)


def test_a_model_with_text_trains_by_the_script_of_text_to_video(tmp_path: Path) -> None:
    parts = tiny_image_pipeline().components
    parts = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    unet = tiny_space_time("lvdm_text")
    TextToVideoPipeline(**parts, unet=unet, num_frames=3).save_pretrained(tmp_path / "model")
    options = {"preset": None, "train": "all", "loss_type": "l1"}
    out = train_text_to_video(str(tmp_path / "model"), tmp_path / "out", **options)
    trained = TextToVideoPipeline.from_pretrained(out).unet
    changed = [not torch.equal(one, other) for one, other in zip(unet.parameters(), trained.parameters(), strict=True)]
    assert all(changed) and len(losses(out)) == 2 and "heldout_loss" in read_log(out)[-1]
    for settings, message in (
        ({"train": "temporal"}, "`train` must be all"),
        ({"task": "key-frames"}, "`task` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            train_text_to_video(str(tmp_path / "model"), tmp_path / "bad", **{**options, **settings})
