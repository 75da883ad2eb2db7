"""The script of upscalers: patches, low-resolution frames and their noise, exact resuming, and what it leaves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from diffusers_video import VideoSuperResolutionPipeline
from diffusers_video.conditioning.low_res import shrink_video
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.training.clip_loss import prepare_heldout
from diffusers_video.training.models import select_trained
from diffusers_video.training.super_resolution import (
    SuperResolutionLoss,
    choose_patch_size,
    cut_patches,
    load_upscaler,
    preview_video,
)
from diffusers_video.training.super_resolution_config import SuperResolutionConfig
from diffusers_video.training.train_super_resolution import main
from diffusers_video.training.training_data import load_clips

from ..pipelines.test_video_super_resolution import joint_ratio
from ..tiny_models import shake_temporal_layers
from ..tiny_pipelines import tiny_image_pipeline, tiny_text_to_video
from ..tiny_upscalers import KINDS, tiny_image_upscaler, tiny_upscaler
from .tiny_runs import SETTINGS, assert_equal_runs, assert_equal_tensors, losses, read_log


UNET = "unet/diffusion_pytorch_model.safetensors"
CPU = torch.device("cpu")
each_kind = pytest.mark.parametrize("kind", KINDS)
latent_slow = pytest.mark.parametrize("kind", [pytest.param("latent", marks=pytest.mark.slow), "pixel"])
pixel_slow = pytest.mark.parametrize("kind", ["latent", pytest.param("pixel", marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of an image upscaler in latents and of a new video upscaler in pixels."""
    folder = tmp_path_factory.mktemp("upscalers")
    tiny_image_upscaler().save_pretrained(folder / "latent")
    tiny_upscaler("pixel", trained=False).save_pretrained(folder / "pixel")
    return {kind: str(folder / kind) for kind in KINDS}


def config(model: str, output_dir: Path | str = "unused", **settings: object) -> SuperResolutionConfig:
    preset = {"preset": "light"} if model.endswith("latent") else {"preset": None}
    own = {"num_frames": 3, "patch_size": 8, **preset, "output_dir": str(output_dir)}
    return SuperResolutionConfig(pretrained_model_name_or_path=model, **{**SETTINGS, **own, **settings})


def train(model: str, output_dir: Path, **settings: object) -> Path:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    main(config(model, output_dir, **settings))
    return output_dir


def build(model: str, **settings: object) -> tuple[VideoSuperResolutionPipeline, SuperResolutionLoss]:
    chosen = config(model, **settings)
    pipeline = load_upscaler(chosen, 3, 8.0)
    select_trained(pipeline, chosen)
    return pipeline, SuperResolutionLoss.build(pipeline, chosen, CPU, chosen.patch_size)


def batch(size: int = 2, side: int = 16) -> dict[str, object]:
    videos = torch.rand(size, 3, 3, side, side, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return {"pixel_values": videos, "text": ["a", "b"][:size], "fps": torch.full((size,), 8.0)}


def seen_by(pipeline: VideoSuperResolutionPipeline, loss: SuperResolutionLoss, clips: dict, seed: int = 0) -> list:
    calls = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    loss(pipeline.unet, clips, torch.Generator().manual_seed(seed))
    hook.remove()
    return calls[0]


def test_patches_are_cut_anywhere_and_the_same_in_all_frames() -> None:
    rows = torch.arange(10.0).view(1, 1, 1, 10, 1) * 100
    videos = (rows + torch.arange(12.0)).expand(500, 3, 2, 10, 12)
    places = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    patches = cut_patches({"pixel_values": videos, "text": []}, 8, places)["pixel_values"]
    assert patches.shape == (500, 3, 2, 8, 8)
    corners = patches[:, 0, :, 0, 0]
    assert torch.equal(corners[:, 0], corners[:, 1])
    assert set(corners[:, 0].tolist()) == {100.0 * top + left for top in range(3) for left in range(5)}
    assert torch.equal(patches[0, 0, 0] - patches[0, 0, 0, 0, 0], videos[0, 0, 0, :8, :8])


def test_training_patches_lie_anywhere_in_the_clips(models: dict) -> None:
    _, loss = build(models["pixel"])
    clips = batch()
    patches = [loss.draw_window(clips, torch.Generator().manual_seed(seed))["pixel_values"] for seed in range(8)]
    assert len(torch.stack(patches).flatten(1).unique(dim=0)) == 8
    assert torch.equal(loss.draw_window(clips, torch.Generator().manual_seed(3))["pixel_values"], patches[3])


def test_low_resolution_frames_are_filtered_and_keep_their_range() -> None:
    video = torch.rand(1, 3, 2, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    small = shrink_video(video, 4)
    assert small.shape == (1, 3, 2, 2, 3) and small.abs().max() <= 1
    torch.testing.assert_close(shrink_video(torch.full_like(video, 0.3), 4), torch.full_like(small, 0.3))
    stripes = torch.ones(1, 1, 1, 32, 32)
    stripes[..., ::4] = stripes[..., 3::4] = -1
    assert shrink_video(stripes, 4)[..., 1:-1].abs().max() < 0.3  # without a filter they would become 1


@each_kind
def test_the_denoiser_sees_the_shrunk_patch_with_the_noise_it_is_told(kind: str, models: dict) -> None:
    pipeline, loss = build(models[kind], patch_size=16, caption_dropout=0.0)
    sample, keywords = seen_by(pipeline, loss, batch())[0][0], seen_by(pipeline, loss, batch())[1]
    side = 4 if kind == "latent" else 16
    assert sample.shape == (2, 7 if kind == "latent" else 6, 3, side, side)
    small = shrink_video(batch()["pixel_values"], 4)
    if kind == "pixel":
        images = small.transpose(1, 2).flatten(0, 1)
        images = torch.nn.functional.interpolate(images, scale_factor=4, mode="bicubic")
        small = images.unflatten(0, (2, 3)).transpose(1, 2)
    levels = keywords["class_labels"]
    assert levels.shape == (2,) and levels[0] != levels[1]
    for row, level in enumerate(levels):
        signal = pipeline.low_res_scheduler.alphas_cumprod[level]
        added = sample[row, -3:] - signal.sqrt() * small[row]
        torch.testing.assert_close(added.std(), (1 - signal).sqrt(), rtol=0.2, atol=0)


@latent_slow
def test_levels_are_drawn_from_the_whole_range_and_captions_dropped(kind: str, models: dict) -> None:
    pipeline, loss = build(models[kind], max_noise_level=40, caption_dropout=0.5)
    drawn = []
    for seed in range(150):
        told = loss.draw_conditions(batch(1, 8), torch.zeros(1), torch.Generator().manual_seed(seed))
        drawn.append(told["class_labels"].item())
    assert min(drawn) == 0 and max(drawn) == 40 and 15 < np.mean(drawn) < 25
    texts = [seen_by(pipeline, loss, batch(1), seed)[1]["encoder_hidden_states"] for seed in range(40)]
    empty = sum(torch.equal(text, loss.empty["prompt_embeds"]) for text in texts)
    assert (10 < empty < 30) if kind == "latent" else empty == 40


def test_noise_on_low_resolution_frames_is_drawn_anew(models: dict) -> None:
    _, loss = build(models["pixel"], max_noise_level=0)
    sources = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    first, again, other = (loss.draw_conditions(batch(), torch.zeros(2), source)["low_res"] for source in sources)
    assert torch.equal(first, again) and not torch.equal(first, other)


@each_kind
@pytest.mark.parametrize("part", ["temporal", "all"])
def test_gradients_reach_exactly_what_trains(kind: str, part: str, models: dict) -> None:
    pipeline, loss = build(models[kind], train=part)
    with torch.no_grad():  # zeros at the start, which hold back the gradients of what is before them
        for parameter in pipeline.unet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    loss(pipeline.unet.train(), batch(), torch.Generator().manual_seed(0)).backward()
    for name, parameter in pipeline.unet.named_parameters():
        wanted = part == "all" or is_temporal(name)
        is_label = name.startswith("class_embedding")  # an embedding of levels: two of them were drawn
        assert (parameter.grad is not None and bool(parameter.grad.any())) == wanted or is_label and wanted, name


@pixel_slow
def test_a_trained_pipeline_loads_and_upscales(kind: str, models: dict, tmp_path: Path) -> None:
    out = train(models[kind], tmp_path / "first", max_noise_level=77, fps=12.0)
    pipeline = DiffusionPipeline.from_pretrained(out)
    assert type(pipeline) is VideoSuperResolutionPipeline
    expected = {"num_frames": 3, "chunk_overlap": 1, "fps": 12.0, "max_noise_level": 77, "scale": 4}
    assert {name: pipeline.config[name] for name in expected} == expected
    pipeline.set_progress_bar_config(disable=True)
    frames = np.random.default_rng(0).random((5, 3, 4, 3))
    output = pipeline(frames, num_inference_steps=1, output_type="np")
    assert output.frames.shape == (1, 5, 12, 16, 3) and output.fps == 12.0
    assert (out / "preview.mp4").stat().st_size > 0 and "- super-resolution" in (out / "README.md").read_text()
    before, after = load_file(Path(models[kind]) / UNET), load_file(out / UNET)
    spatial = {name: value for name, value in after.items() if not is_temporal(name)}
    assert_equal_tensors(spatial, {name: value for name, value in before.items() if not is_temporal(name)})
    again = train(str(out), tmp_path / "second", train="all", preset=None)
    assert VideoSuperResolutionPipeline.from_pretrained(again).config.max_noise_level == 77


@latent_slow
def test_a_resumed_run_equals_an_uninterrupted_one(kind: str, models: dict, tmp_path: Path) -> None:
    options = {"max_train_steps": 3, "use_ema": True, "train_batch_size": 2, "noise_offset": 0.1, "snr_gamma": 5.0}
    whole = train(models[kind], tmp_path / "whole", **options)
    train(models[kind], tmp_path / "parts", **options, checkpointing_steps=2)
    for path in (tmp_path / "parts" / "checkpoint-3").iterdir():
        path.unlink()  # what a kill between the checkpoints leaves
    parts = train(models[kind], tmp_path / "parts", **options, resume_from_checkpoint="latest")
    assert len(losses(whole)) == 3
    assert_equal_runs(whole, parts, step=3)


@pixel_slow
def test_the_heldout_loss_falls(kind: str, models: dict, tmp_path: Path) -> None:
    options = {"max_train_steps": 15, "learning_rate": 1e-2, "num_heldout_clips": 2, "train": "all"}
    records = read_log(train(models[kind], tmp_path, **options, num_heldout_timesteps=2))
    measured = [record["heldout_loss"] for record in records if "heldout_loss" in record]
    assert measured[-1] < 0.95 * measured[0]


@each_kind
def test_heldout_clips_are_middles_at_fixed_levels(kind: str, models: dict) -> None:
    _, loss = build(models[kind], num_heldout_clips=5)
    heldout = load_clips(config(models[kind], num_heldout_clips=5))[1]
    first, second = prepare_heldout(loss, heldout), prepare_heldout(loss, heldout)
    levels = [clip.conditions["class_labels"].item() for clip in first]
    assert levels == [43, 131, 218, 306, 43]
    for one, two in zip(first, second, strict=True):
        assert_equal_tensors(one.conditions, two.conditions)
    if kind == "pixel":
        assert torch.equal(first[0].latents[0], heldout[0]["pixel_values"][..., 4:12, 4:12])


def test_the_loss_is_that_of_its_parts(models: dict) -> None:
    pipeline, loss = build(models["pixel"], patch_size=16, caption_dropout=0.0)
    shake_temporal_layers(pipeline.unet)
    (sample, timesteps), _ = seen_by(pipeline, loss, batch())
    clean = batch()["pixel_values"]
    signal = loss.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1, 1)
    noise = (sample[:, :3] - signal.sqrt() * clean) / (1 - signal).sqrt()
    conditions = seen_by(pipeline, loss, batch())[1]
    output = pipeline.unet(sample, timesteps, **{**conditions, "return_dict": False})[0]
    want = (output - noise).square().mean()
    torch.testing.assert_close(loss(pipeline.unet, batch(), torch.Generator().manual_seed(0)), want)


@pytest.mark.parametrize(
    ("buckets", "chosen", "size"),
    [(["600x400@8"], None, 320), (["70x90@8", "99x83@8"], None, 68), (["70x90@8"], 64, 64)],
)
def test_patches_are_320_pixels_or_what_the_clips_have(buckets: list, chosen: int | None, size: int) -> None:
    dataset = type("Clips", (), {"buckets": buckets})
    assert choose_patch_size(config("model", patch_size=chosen), dataset, 4) == size


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 10}, "`patch_size` must be a multiple of 4"),
        ({"patch_size": 20}, "`patch_size` must be at most 16"),
        ({"max_noise_level": 1000}, "`max_noise_level` must be below 1000"),
        ({"train_data_dir": "nowhere"}, "nowhere"),
        ({"pretrained_model_name_or_path": "./nowhere"}, "'./nowhere' does not exist"),
    ],
)
def test_what_does_not_fit_the_model_or_clips_is_refused(
    settings: dict, message: str, models: dict, tmp_path: Path
) -> None:
    model = settings.pop("pretrained_model_name_or_path", models["latent"])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(model, tmp_path, **settings)


def test_models_that_are_no_upscalers_are_refused(models: dict, tmp_path: Path) -> None:
    tiny_image_pipeline().save_pretrained(tmp_path / "image")
    with pytest.raises(ValueError, match="must have a low_res_scheduler"):
        load_upscaler(config(str(tmp_path / "image")), 3, 8.0)
    tiny_text_to_video().save_pretrained(tmp_path / "video")
    with pytest.raises(ValueError, match="must be an upscaler, but .* is a TextToVideoPipeline"):
        load_upscaler(config(str(tmp_path / "video")), 3, 8.0)
    with pytest.raises(ValueError, match="`preset` is for new temporal layers"):
        load_upscaler(config(models["pixel"], preset="light"), 3, 8.0)


@pytest.mark.slow
@each_kind
def test_a_trained_upscaler_leaves_no_seam_between_chunks(kind: str, models: dict, tmp_path: Path) -> None:
    options = {"num_frames": 8, "resolution": 32, "patch_size": 32, "train_batch_size": 2, "num_shapes_clips": 32}
    options |= {"max_train_steps": 60, "learning_rate": 1e-2, "train": "all"}
    pipeline = VideoSuperResolutionPipeline.from_pretrained(train(models[kind], tmp_path, **options))
    pipeline.set_progress_bar_config(disable=True)
    video = preview_video(ShapesDataset(1, num_frames=64, fps=24, height=48, width=48, seed=9)[0], 4)

    def upscale(**arguments: object) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipeline(video, num_inference_steps=6, generator=generator, output_type="pt", **arguments).frames[0]

    frames = upscale(chunk_overlap=2)
    assert (frames - upscale(image_only=True)).abs().mean() > 0.003  # the temporal layers do something
    assert joint_ratio(frames, 8, 2) <= 1.1


WRONG = [
    ({"train": "spatial"}, "`train` must be one of"),
    ({"train": "lora"}, "`train` must be one of"),
    ({"num_frames": 1}, "`num_frames` must be at least 2"),
    ({"patch_size": 0}, "`patch_size` must be at least 1"),
    ({"max_noise_level": -1}, "`max_noise_level` must be at least 0"),
    ({"caption_dropout": 1.5}, "`caption_dropout` must be"),
    ({"image_probability": 0.5}, "`image_probability` must be 0 with `train=temporal`"),
    ({"noise_offset_per": "clip"}, "`noise_offset_per` has no effect"),
    ({"timestep_bias_multiplier": 5.0}, "a range of timesteps"),
    ({"prediction_type": "flow"}, "`prediction_type` must be one of"),
    ({"rescale_betas_zero_snr": True, "prediction_type": "epsilon"}, "`rescale_betas_zero_snr` must not be used"),
    ({"preset": "large"}, "`preset` must be one of"),
    ({"posterior": "mean"}, "`posterior` must be one of"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config("model", **settings)


def test_a_preview_is_drawn_from_the_shrunk_clip() -> None:
    clip = {"pixel_values": torch.rand(3, 2, 8, 12) * 2 - 1}
    video = preview_video(clip, 4)
    assert video.shape == (2, 3, 2, 3) and 0 <= video.min() and video.max() <= 1
