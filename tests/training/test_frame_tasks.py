"""Training on given frames: the masks of the paper, what the denoiser is told, and pipelines that load."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline

from diffusers_video import FrameInterpolationPipeline, KeyFramePredictionPipeline, TextToVideoPipeline
from diffusers_video.conditioning.frames import first_frames_mask
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.training.clip_loss import ClipLoss, prepare_heldout
from diffusers_video.training.context import (
    context_conditions,
    draw_frame_mask,
    draw_windows,
    heldout_frame_mask,
    heldout_window,
    preview_arguments,
)
from diffusers_video.training.models import load_pipeline, select_trained
from diffusers_video.training.objectives import denoising_loss
from diffusers_video.training.run_start import run_identity
from diffusers_video.training.training_data import load_clips

from ..tiny_models import shake_temporal_layers, tiny_unet2d
from .tiny_runs import ModelFolder, assert_equal_runs, losses, read_log, tiny_config, train


KEY_FRAMES = {"task": "key-frames", "num_frames": 4}
INTERPOLATION = {"task": "interpolation", "num_frames": 17, "max_noise_level": 250}
TASKS = {"key-frames": KEY_FRAMES, "interpolation": INTERPOLATION}
FIRST_IS_SLOW = [pytest.param("key-frames", marks=pytest.mark.slow), "interpolation"]
SECOND_IS_SLOW = ["key-frames", pytest.param("interpolation", marks=pytest.mark.slow)]
PIPELINES = {"key-frames": KeyFramePredictionPipeline, "interpolation": FrameInterpolationPipeline}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config(**settings: object):
    return tiny_config("model", "out", **settings)


@pytest.mark.parametrize(("chances", "shares"), [([], [1 / 3] * 3), ([1.0, 0.0, 3.0], [0.25, 0.0, 0.75])])
def test_none_one_or_two_first_frames_are_given(chances: list[float], shares: list[float]) -> None:
    mask = draw_frame_mask(config(**KEY_FRAMES, num_given_probabilities=chances), 3000, 5, generator())
    counts = mask.sum(1)
    assert torch.equal(mask, torch.arange(5) < counts[:, None])
    for number, share in enumerate(shares):
        assert abs((counts == number).float().mean().item() - share) < 0.03


@pytest.mark.parametrize(("dropout", "share"), [(None, 0.9), (0.0, 1.0), (0.5, 0.5)])
def test_both_ends_are_given_to_interpolation(dropout: float | None, share: float) -> None:
    mask = draw_frame_mask(config(**INTERPOLATION, context_dropout=dropout), 3000, 5, generator())
    given = mask[mask.any(1)]
    assert torch.equal(given, torch.tensor([True, False, False, False, True]).expand(len(given), 5))
    assert abs(len(given) / 3000 - share) < 0.03


@pytest.mark.parametrize("names", [("pixel_values",), ("latents_mean", "latents_std")])
def test_windows_of_interpolation_have_both_rates_and_every_place(names: tuple[str, ...]) -> None:
    frames = torch.arange(19.0).view(1, 1, 19, 1, 1).expand(600, 3, 19, 2, 2)
    batch = {**dict.fromkeys(names, frames), "fps": torch.full((600,), 30.0), "text": ["a"] * 600}
    taken = draw_windows(batch, generator())
    for name in names:
        places = taken[name][:, 0, :, 0, 0]
        strides = places[:, 1] - places[:, 0]
        assert torch.equal(places, places[:, :1] + strides[:, None] * torch.arange(5))
        assert torch.equal(taken["fps"], 30 / strides)
        assert set(places[strides == 1, 0].tolist()) == set(range(15))
        assert set(places[strides == 4, 0].tolist()) == {0, 1, 2}
        assert 0.4 < (strides == 4).float().mean() < 0.6
    short = draw_windows({"pixel_values": frames[:, :, :16], "fps": batch["fps"]}, generator())
    assert torch.equal(short["fps"], batch["fps"])


@pytest.mark.parametrize("rate", [2, 3])
def test_windows_of_interpolation_are_as_long_as_the_rate_asks_for(rate: int) -> None:
    settings = config(task="interpolation", num_frames=None, interpolation_rate=rate)
    assert settings.frames_per_clip == rate**2 + 1
    frames = torch.arange(rate**2 + 1.0).view(1, 1, -1, 1, 1).expand(200, 3, -1, 2, 2)
    taken = draw_windows({"pixel_values": frames, "fps": torch.full((200,), 12.0)}, generator(), settings.rate)
    places = taken["pixel_values"][:, 0, :, 0, 0]
    assert places.shape[1] == rate + 1 and set((places[:, 1] - places[:, 0]).tolist()) == {1, rate}
    slow = heldout_window({"pixel_values": frames[:1], "fps": torch.tensor([12.0])}, 1, rate)
    assert slow["fps"].item() == 12 / rate and slow["pixel_values"][0, 0, -1, 0, 0] == rate**2
    shown = preview_arguments("interpolation", {"latents_mean": torch.zeros(4, 2 * rate + 1, 2, 2)}, rate)
    assert shown["frame_latents"].shape[2] == 3


def test_a_causal_model_sees_all_frames_once_it_learns_to_interpolate(
    image_model: ModelFolder, tmp_path: Path
) -> None:
    first = load_pipeline(tiny_config(image_model("sd15"), "unused", preset="magicvideo"), 3, 8.0)
    assert first.unet.is_causal and first.unet.config.frame_adaptor == 3
    first.save_pretrained(tmp_path)
    settings = tiny_config(str(tmp_path), "unused", **INTERPOLATION, preset=None, interpolation_rate=2)
    pipeline = load_pipeline(settings, 17, 8.0)
    assert not pipeline.unet.is_causal and pipeline.unet.config.context_channels == 5 and pipeline.rate == 2
    prediction = load_pipeline(tiny_config(str(tmp_path), "unused", **KEY_FRAMES, preset=None), 4, 8.0)
    assert prediction.unet.is_causal  # first frames are seen by all others


def test_heldout_clips_have_fixed_masks_and_rates() -> None:
    counts = [int(heldout_frame_mask(config(**KEY_FRAMES), place, 5).sum()) for place in range(4)]
    assert counts == [1, 2, 0, 1]
    clip = {"pixel_values": torch.zeros(1, 3, 17, 2, 2), "fps": torch.tensor([30.0])}
    assert [heldout_window(clip, place)["fps"].item() for place in range(3)] == [30.0, 7.5, 30.0]
    assert heldout_frame_mask(config(**INTERPOLATION), 0, 5).tolist() == [[True, False, False, False, True]]


def test_noise_on_given_frames_has_the_level_that_is_told() -> None:
    scheduler = DDPMScheduler()
    latents, mask = torch.randn(400, 2, 3, 4, 4, generator=generator(1)), torch.ones(400, 3, dtype=torch.bool)
    told = context_conditions(
        latents, mask, ("fps", "noise_level"), scheduler=scheduler, max_noise_level=250, generator=generator()
    )
    levels = told["noise_level"]
    assert levels.min() <= 5 and 245 <= levels.max() <= 250
    signal = scheduler.alphas_cumprod[levels]
    added = (told["context_latents"] - signal.sqrt().view(-1, 1, 1, 1, 1) * latents).flatten(1).var(1)
    for low, high in ((1, 80), (80, 160), (160, 251)):
        chosen = (levels >= low) & (levels < high)
        torch.testing.assert_close(added[chosen].mean(), (1 - signal)[chosen].mean(), rtol=0.1, atol=0)
    clean = context_conditions(latents, mask, ("fps",))
    assert torch.equal(clean["context_latents"], latents) and "noise_level" not in clean


@pytest.mark.parametrize("task", TASKS)
def test_the_denoiser_is_told_the_given_frames_alone(task: str, image_model: ModelFolder) -> None:
    settings = tiny_config(image_model("sd15"), "unused", **TASKS[task], caption_dropout=0.0)
    pipeline = load_pipeline(settings, 4, 8.0)
    assert type(pipeline) is PIPELINES[task] and pipeline.unet.config.context_channels == 5
    select_trained(pipeline, settings)
    shake_temporal_layers(pipeline.unet)
    seen = []
    pipeline.unet.register_forward_pre_hook(lambda _, __, keywords: seen.append(keywords), with_kwargs=True)
    batch = {"pixel_values": torch.rand(2, 3, settings.num_frames, 16, 16), "text": ["a", "b"]}
    batch["fps"] = torch.tensor([8.0, 8.0])
    ClipLoss.build(pipeline, settings)(pipeline.unet.train(), batch, generator()).backward()
    assert seen[0]["frame_mask"].shape == (2, pipeline.config.num_frames)
    assert ("noise_level" in seen[0]) == (task == "interpolation") == ("fps" in seen[0])
    for name, parameter in pipeline.unet.named_parameters():
        assert (parameter.grad is not None) == is_temporal(name), name


@pytest.mark.parametrize("task", SECOND_IS_SLOW)
def test_a_trained_pipeline_loads_and_goes_on_from_frames(task: str, image_model: ModelFolder, tmp_path: Path) -> None:
    out = train(image_model("sd15"), tmp_path / "first", **TASKS[task], fps=30.0)
    pipeline = DiffusionPipeline.from_pretrained(out)
    assert type(pipeline) is PIPELINES[task]
    assert (pipeline.config.num_frames, pipeline.config.fps) == (4 if task == "key-frames" else 5, 30.0)
    assert pipeline.config.max_noise_level == TASKS[task].get("max_noise_level", 0)
    pipeline.set_progress_bar_config(disable=True)
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    result = pipeline(frames, "a", num_inference_steps=1, output_type="pil")
    assert np.array_equal(result.frames[0][0], frames[0]) and result.fps == 30.0
    assert (out / "preview.mp4").stat().st_size > 0 and f"- {task}" in (out / "README.md").read_text()
    again = train(str(out), tmp_path / "second", **TASKS[task], preset=None)
    assert type(DiffusionPipeline.from_pretrained(again)) is PIPELINES[task]


@pytest.mark.parametrize("task", TASKS)
def test_a_text_to_video_model_is_given_ears_and_draws_as_before(
    task: str, image_model: ModelFolder, tmp_path: Path
) -> None:
    first = load_pipeline(tiny_config(image_model("sd15"), "unused"), 3, 8.0)
    shake_temporal_layers(first.unet)
    first.save_pretrained(tmp_path)
    pipeline = load_pipeline(tiny_config(str(tmp_path), "unused", **TASKS[task], preset=None), 5, 8.0)
    assert type(pipeline) is PIPELINES[task]
    sample, text = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 7, 12)
    ids = dict.fromkeys(pipeline.unet.config.added_time_ids, 7.0)
    given = {"context_latents": sample, "frame_mask": torch.ones(1, 3, dtype=torch.bool)}
    with torch.no_grad():
        assert torch.equal(pipeline.unet(sample, 5, text, **ids, **given).sample, first.unet(sample, 5, text).sample)


def test_numbers_cannot_be_added_to_a_model_that_is_told_others(image_model: ModelFolder, tmp_path: Path) -> None:
    load_pipeline(tiny_config(image_model("sd15"), "unused", fps_conditioning=True), 3, 8.0).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must be told `noise_level`"):
        load_pipeline(tiny_config(str(tmp_path), "unused", **INTERPOLATION, preset=None), 5, 8.0)


@pytest.mark.parametrize("task", SECOND_IS_SLOW)
def test_a_resumed_run_equals_an_uninterrupted_one(task: str, image_model: ModelFolder, tmp_path: Path) -> None:
    options = {**TASKS[task], "max_train_steps": 3, "use_ema": True, "train_batch_size": 2}
    whole = train(image_model("sd15"), tmp_path / "whole", **options)
    train(image_model("sd15"), tmp_path / "parts", **options, checkpointing_steps=2)
    for path in (tmp_path / "parts" / "checkpoint-3").iterdir():
        path.unlink()  # what a kill between the checkpoints leaves
    parts = train(image_model("sd15"), tmp_path / "parts", **options, resume_from_checkpoint="latest")
    assert len(losses(whole)) == 3
    assert_equal_runs(whole, parts, step=3)


@pytest.mark.parametrize("task", FIRST_IS_SLOW)
def test_the_heldout_loss_falls(task: str, image_model: ModelFolder, tmp_path: Path) -> None:
    options = {**TASKS[task], "max_train_steps": 20, "learning_rate": 1e-2, "num_heldout_clips": 2, "train": "all"}
    records = read_log(train(image_model("sd15"), tmp_path, **options, num_heldout_timesteps=4))
    measured = [record["heldout_loss"] for record in records if "heldout_loss" in record]
    assert measured[-1] < measured[0]


@pytest.mark.slow
def test_a_trained_model_reads_what_it_is_given() -> None:
    source = generator()
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "light", context_channels=5)
    text = torch.zeros(8, 7, unet.config.cross_attention_dim)

    def loss(latents: torch.Tensor, num_given: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(latents.shape, generator=source)
        given = context_conditions(latents, first_frames_mask(num_given, latents.shape[2]), ())
        conditions = {"encoder_hidden_states": text, **given}
        return denoising_loss(unet, scheduler, latents, conditions, noise=noise, timesteps=timesteps)

    def still_clips() -> torch.Tensor:  # of noise: what one frame shows, nothing but another frame can tell
        return torch.randn(8, 4, 1, 8, 8, generator=source).expand(-1, -1, 4, -1, -1).contiguous()

    optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        num_given, timesteps = (torch.randint(top, (8,), generator=source) for top in (3, 1000))
        loss(still_clips(), num_given, timesteps).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        clips = still_clips()
        none, one, two = (
            sum(loss(clips, torch.full((8,), count), torch.full((8,), time)) for time in (100, 300, 500))
            for count in range(3)
        )
    assert two < one < 0.9 * none


def test_given_frames_enter_the_heldout_loss(image_model: ModelFolder) -> None:
    settings = tiny_config(image_model("sd15"), "unused", **KEY_FRAMES)
    pipeline = load_pipeline(settings, 4, 8.0)
    clips = prepare_heldout(ClipLoss.build(pipeline, settings), load_clips(settings)[1])
    assert clips[0].conditions["frame_mask"].tolist() == [[True, False, False, False]]
    assert torch.equal(clips[0].conditions["context_latents"], clips[0].latents)


def test_settings_of_frames_do_not_part_text_to_video_runs_from_their_checkpoints(image_model: ModelFolder) -> None:
    settings = tiny_config(image_model("sd15"), "unused")
    pipeline, (dataset, _) = load_pipeline(settings, 3, 8.0), load_clips(settings)
    names = {"task", "max_noise_level", "context_dropout", "num_given_probabilities"}
    assert names.isdisjoint(run_identity(settings, pipeline.unet, dataset))
    frames = tiny_config(image_model("sd15"), "unused", **KEY_FRAMES)
    assert names <= run_identity(frames, pipeline.unet, dataset).keys()


@pytest.mark.parametrize("task", ["text-to-video", *TASKS])
@pytest.mark.parametrize("is_packed", [False, True])
def test_previews_go_on_from_the_first_clip(task: str, is_packed: bool) -> None:
    clip = {"latents_mean": torch.randn(4, 9, 2, 2)} if is_packed else {"pixel_values": torch.rand(3, 9, 4, 4) * 2 - 1}
    given = preview_arguments(task, clip)
    if task == "text-to-video":
        assert given == {}
    elif task == "key-frames":
        assert given["conditions"][0].indices == (0, 1) and given["conditions"][0].is_latent == is_packed
    else:
        shape = (1, 4, 3, 2, 2) if is_packed else (3, 3, 4, 4)
        assert given["frame_latents" if is_packed else "frames"].shape == shape


WRONG = [
    ({"task": "video-to-text"}, "`task` must be one of"),
    ({"max_noise_level": 250}, "`max_noise_level` has an effect only with task key-frames or interpolation"),
    ({"context_dropout": 0.5}, "`context_dropout` has an effect only with task interpolation"),
    ({**KEY_FRAMES, "context_dropout": 0.5}, "`context_dropout` has an effect only with task interpolation"),
    ({**INTERPOLATION, "num_given_probabilities": [1.0, 1.0, 1.0]}, "only with task key-frames"),
    ({**KEY_FRAMES, "num_given_probabilities": [1.0, 1.0]}, "`num_given_probabilities` must be 3 numbers"),
    ({**KEY_FRAMES, "num_given_probabilities": [0.0, 0.0, 0.0]}, "`num_given_probabilities` must be 3 numbers"),
    ({**KEY_FRAMES, "num_given_probabilities": [1.0, -1.0, 1.0]}, "`num_given_probabilities` must be 3 numbers"),
    ({**KEY_FRAMES, "train": "lora"}, "`train` must be temporal or all"),
    ({**KEY_FRAMES, "num_frames": None, "train": "spatial"}, "`train` must be temporal or all"),
    ({**KEY_FRAMES, "train": "all", "image_probability": 0.5}, "`image_probability` must be 0"),
    ({**KEY_FRAMES, "num_frames": 2}, "`num_frames` must be at least 3"),
    ({**INTERPOLATION, "num_frames": 4}, "`num_frames` must be at least 5"),
    ({**INTERPOLATION, "num_frames": 6, "interpolation_rate": 6}, "`num_frames` must be at least 7"),
    ({**INTERPOLATION, "interpolation_rate": 1}, "`interpolation_rate` must be"),
    ({**KEY_FRAMES, "interpolation_rate": 2}, "`interpolation_rate` has an effect only with task interpolation"),
    ({**INTERPOLATION, "validation_prompts": ["a"]}, "`validation_prompts` must be empty"),
    ({**INTERPOLATION, "max_noise_level": 1000}, "`max_noise_level` must be"),
    ({**INTERPOLATION, "context_dropout": 1.5}, "`context_dropout` must be"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_a_prediction_model_serves_text_to_video_too(image_model: ModelFolder, tmp_path: Path) -> None:
    load_pipeline(tiny_config(image_model("sd15"), "unused", **KEY_FRAMES), 4, 8.0).save_pretrained(tmp_path)
    pipeline = TextToVideoPipeline.from_pipe(DiffusionPipeline.from_pretrained(tmp_path))
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a", num_inference_steps=1, output_type="pt").frames.shape[1] == 4


def test_a_model_saved_before_given_frames_were_known_learns_of_them(image_model: ModelFolder, tmp_path: Path) -> None:
    load_pipeline(tiny_config(image_model("sd15"), "unused"), 4, 8.0).save_pretrained(tmp_path)
    path = tmp_path / "unet" / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    del settings["context_channels"], settings["added_time_ids"]
    path.write_text(json.dumps(settings), encoding="utf-8")
    unet = load_pipeline(tiny_config(str(tmp_path), "unused", preset=None, **INTERPOLATION), 17, 8.0).unet
    assert unet.config.context_channels == 5 and list(unet.config.added_time_ids) == ["fps", "noise_level"]
