"""The script: what it trains, what it leaves alone, what it saves, and how it goes on after a stop."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from diffusers_video import TextToVideoPipeline
from diffusers_video.conditioning.noise import draw_noise
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.training.clip_loss import ClipLoss
from diffusers_video.training.models import (
    attach_temporal_layers,
    detach_temporal_layers,
    load_pipeline,
    select_trained,
)
from diffusers_video.training.saving import draw_video

from .tiny_runs import (
    ModelFolder,
    assert_equal_runs,
    assert_equal_tensors,
    losses,
    read_log,
    tiny_config,
    train,
)


EVERYTHING = {
    "use_ema": True,
    "gradient_accumulation_steps": 2,
    "train_batch_size": 2,
    "snr_gamma": 5.0,
    "noise_offset": 0.1,
    "input_perturbation": 0.1,
    "noise_prior": "progressive",
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 1,
    "validation_steps": 2,
    "max_train_steps": 4,
}


def unet_weights(folder: Path | str) -> dict[str, Tensor]:
    return load_file(Path(folder) / "unet" / "diffusion_pytorch_model.safetensors")


def spatial(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not is_temporal(name)}


def new_pipeline(model: str, **settings: object) -> TextToVideoPipeline:
    """The pipeline as the script makes it: with the temporal weights of seed 0."""
    torch.manual_seed(0)
    return load_pipeline(tiny_config(model, "unused", **settings), 3, 8.0)


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_temporal_training_changes_no_spatial_weight(family: str, image_model: ModelFolder, tmp_path: Path) -> None:
    out = train(image_model(family), tmp_path, preset="videoldm")
    assert_equal_tensors(spatial(unet_weights(out)), unet_weights(image_model(family)))
    torch.manual_seed(0)
    before = new_pipeline(image_model(family), preset="videoldm").unet.state_dict()
    changed = [name for name, value in unet_weights(out).items() if not torch.equal(value, before[name])]
    assert changed and all(map(is_temporal, changed))


@pytest.mark.parametrize("part", ["temporal", "all", "spatial", "lora"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_gradients_reach_exactly_what_trains(part: str, family: str, image_model: ModelFolder) -> None:
    config = tiny_config(image_model(family), "unused", train=part, caption_dropout=0.0)
    pipeline = load_pipeline(config, 3, 8.0)
    select_trained(pipeline, config)
    with torch.no_grad():  # zeros at the start, which hold back the gradients of what is before them
        for parameter in pipeline.unet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    num_frames = 1 if part == "spatial" else 3
    batch = {"pixel_values": torch.rand(2, 3, num_frames, 16, 16), "text": ["a", "b"], "fps": torch.tensor([8.0, 8.0])}
    ClipLoss.build(pipeline, config)(pipeline.unet.train(), batch, torch.Generator().manual_seed(0)).backward()
    wanted = {
        "temporal": is_temporal,
        "spatial": lambda name: not is_temporal(name),
        "all": lambda name: True,
        "lora": lambda name: ".lora_" in name,
    }[part]
    for name, parameter in pipeline.unet.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == wanted(name), name
    frozen = [pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2]
    assert all(p.grad is None for module in frozen if module is not None for p in module.parameters())


def test_lora_training_changes_no_base_weight(image_model: ModelFolder, tmp_path: Path) -> None:
    out = train(image_model("sd15"), tmp_path, train="lora", rank=2, learning_rate=1e-2)
    pipeline = new_pipeline(image_model("sd15"))
    pipeline.unet.load_temporal_layers(out / "lora")
    trained = load_file(out / "checkpoint-2" / "trained_weights.safetensors")
    assert trained and all(".lora_" in name for name in trained)
    pipeline.load_lora_weights(out / "lora")
    pipeline.fuse_lora()
    merged = {key.replace(".base_layer.", "."): value for key, value in pipeline.unet.state_dict().items()}
    saved = unet_weights(out)
    for name, value in saved.items():
        torch.testing.assert_close(value, merged[name])
    base = unet_weights(image_model("sd15"))
    changed = {name for name in base if not torch.equal(base[name], saved[name])}
    assert changed and all("attn" in name and ".to_" in name for name in changed)


@pytest.mark.parametrize("part", ["all", "spatial"])
def test_other_parts_change_spatial_weights(part: str, image_model: ModelFolder, tmp_path: Path) -> None:
    out = train(image_model("sd15"), tmp_path, train=part)
    before, after = unet_weights(image_model("sd15")), unet_weights(out)
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_every_prediction_type_trains_and_is_saved(
    prediction_type: str, image_model: ModelFolder, tmp_path: Path
) -> None:
    out = train(image_model("sdxl"), tmp_path, prediction_type=prediction_type, snr_gamma=5.0)
    pipeline = TextToVideoPipeline.from_pretrained(out)
    assert pipeline.scheduler.config.prediction_type == prediction_type
    assert len(losses(out)) == 2


def test_choices_become_defaults_of_the_pipeline(image_model: ModelFolder, tmp_path: Path) -> None:
    settings = {"num_frames": 2, "fps": 5.0, "rescale_betas_zero_snr": True, "fps_conditioning": True}
    out = train(image_model("sd21"), tmp_path, **settings)
    pipeline = TextToVideoPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline("a red circle", height=16, width=16, num_inference_steps=2, output_type="np")
    assert output.frames.shape[:2] == (1, 2) and output.fps == 5.0
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert tuple(pipeline.unet.config.added_time_ids) == ("fps",)


def test_noise_prior_becomes_the_pipelines_and_draws_its_preview(image_model: ModelFolder, tmp_path: Path) -> None:
    out = train(image_model("sd15"), tmp_path, noise_prior="mixed", noise_prior_strength=2.0)
    settings = yaml.safe_load((out / "training_config.yaml").read_text())
    assert (settings["noise_prior"], settings["noise_prior_strength"]) == ("mixed", 2.0)
    pipeline = TextToVideoPipeline.from_pretrained(out)
    assert (pipeline.config.noise_prior, pipeline.config.noise_prior_strength) == ("mixed", 2.0)
    pipeline.set_progress_bar_config(disable=True)
    shape, generator = (1, 4, 3, 8, 8), torch.Generator().manual_seed(7)
    noise = draw_noise(shape, "mixed", 2.0, generator=generator)
    options = {"prompt": "a", "height": 16, "width": 16, "num_inference_steps": 1, "output_type": "np"}
    want = pipeline(**options, latents=noise).frames
    config = tiny_config(image_model("sd15"), tmp_path)
    np.testing.assert_array_equal(draw_video(pipeline, "a", config, "16x16@3", seed=7).frames, want)


def test_a_pipeline_trained_further_has_the_prior_it_was_trained_with_last(
    image_model: ModelFolder, tmp_path: Path
) -> None:
    pipeline = new_pipeline(image_model("sd15"), noise_prior="progressive", noise_prior_strength=3.0)
    pipeline.save_pretrained(tmp_path)
    again = new_pipeline(str(tmp_path), preset=None)
    assert (again.config.noise_prior, again.config.noise_prior_strength) == ("independent", 1.0)
    images = new_pipeline(str(tmp_path), preset=None, train="spatial")
    assert (images.config.noise_prior, images.config.noise_prior_strength) == ("progressive", 3.0)


def test_card_shows_a_preview(image_model: ModelFolder, tmp_path: Path) -> None:
    out = train(image_model("sd15"), tmp_path, validation_prompts=["a red circle"], validation_steps=1)
    card = (out / "README.md").read_text()
    assert "a red circle" in card and "preview.mp4" in card and "held-out loss after" in card
    assert (out / "preview.mp4").stat().st_size > 0
    assert sorted(path.name for path in (out / "samples").iterdir()) == [f"step-{step}-0.mp4" for step in range(3)]


def test_options_of_new_temporal_layers_go_beside_the_preset(image_model: ModelFolder, tmp_path: Path) -> None:
    pipeline = new_pipeline(image_model("sd15"), temporal_options='{"temporal_cross_attention": true}')
    assert pipeline.unet.config.temporal_cross_attention and not pipeline.unet.config.temporal_feed_forward
    with pytest.raises(TypeError, match="`temporal_magic` is no option of the temporal layers"):
        new_pipeline(image_model("sd15"), temporal_options='{"temporal_magic": 1}')
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`temporal_options` is for new temporal layers"):
        new_pipeline(str(tmp_path), preset=None, temporal_options="{}")


def test_a_video_pipeline_goes_on_training(image_model: ModelFolder, tmp_path: Path) -> None:
    first = train(image_model("sd15"), tmp_path / "spatial", train="spatial")
    second = train(str(first), tmp_path / "temporal", preset=None)
    assert_equal_tensors(spatial(unet_weights(first)), spatial(unet_weights(second)))
    with pytest.raises(ValueError, match="`preset` is for new temporal layers"):
        train(str(first), tmp_path / "third", preset="light")


@pytest.mark.parametrize(
    "options",
    [EVERYTHING, {"train": "lora", "max_train_steps": 4}, {"train": "all", "image_probability": 0.5}],
    ids=["temporal", "lora", "all"],
)
def test_resumed_run_equals_an_uninterrupted_one(
    options: dict[str, object], image_model: ModelFolder, tmp_path: Path
) -> None:
    options = {"max_train_steps": 4, **options}
    whole = train(image_model("sd15"), tmp_path / "whole", **options)
    train(image_model("sd15"), tmp_path / "parts", **options, checkpointing_steps=3)
    for path in (tmp_path / "parts" / "checkpoint-4").iterdir():
        path.unlink()  # what a kill between the checkpoints leaves
    parts = train(image_model("sd15"), tmp_path / "parts", **options, resume_from_checkpoint="latest")
    assert len(losses(whole)) == 4
    assert_equal_runs(whole, parts, step=4)


def test_signal_saves_a_checkpoint_and_exits_130(
    image_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(image_model("sd15"), tmp_path / "whole", **EVERYTHING)
    compute = ClipLoss.__call__

    def compute_and_interrupt(self: ClipLoss, *arguments: object) -> Tensor:
        if not list((tmp_path / "stopped").glob("checkpoint-*")):
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, *arguments)

    monkeypatch.setattr(ClipLoss, "__call__", compute_and_interrupt)
    options = {**EVERYTHING, "gradient_accumulation_steps": 1, "train_batch_size": 4}
    with pytest.raises(SystemExit) as stopped:
        train(image_model("sd15"), tmp_path / "stopped", **options)
    assert stopped.value.code == 130
    assert (tmp_path / "stopped" / "checkpoint-1" / "trainer_state.json").is_file()
    resumed = train(image_model("sd15"), tmp_path / "stopped", **options, resume_from_checkpoint="latest")
    assert [record["step"] for record in read_log(resumed)] == [record["step"] for record in read_log(whole)]


def test_training_on_one_clip_lowers_the_heldout_loss(image_model: ModelFolder, tmp_path: Path) -> None:
    options = {"max_train_steps": 30, "learning_rate": 1e-2, "num_heldout_timesteps": 4, "num_heldout_clips": 2}
    records = read_log(train(image_model("sd15"), tmp_path, **options))
    measured = [record["heldout_loss"] for record in records if "heldout_loss" in record]
    assert measured[-1] < 0.99 * measured[0]


def test_bfloat16_trains(image_model: ModelFolder, tmp_path: Path) -> None:
    prompts = {"validation_prompts": ["a circle"]}
    out = train(image_model("sd15"), tmp_path, mixed_precision="bf16", gradient_checkpointing=True, **prompts)
    assert unet_weights(out)["conv_in.weight"].dtype == torch.float32
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert_equal_tensors(load_file(out / vae), load_file(Path(image_model("sd15")) / vae))


def test_seed_decides_the_run(image_model: ModelFolder, tmp_path: Path) -> None:
    first, same, other = (
        losses(train(image_model("sd15"), tmp_path / str(number), seed=seed)) for number, seed in enumerate((1, 1, 2))
    )
    assert first == same != other


def test_nan_loss_stops_the_run_without_a_checkpoint(image_model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="The loss of step .* is nan"):
        train(image_model("sd15"), tmp_path, learning_rate=1e30, max_train_steps=5, max_grad_norm=0.0)
    assert not list(tmp_path.glob("checkpoint-*")) and not (tmp_path / "model_index.json").exists()


def test_spatial_training_leaves_the_temporal_layers_out_and_brings_them_back(image_model: ModelFolder) -> None:
    pipeline = new_pipeline(image_model("sd15"), preset="videoldm", train="spatial")
    unet, before = pipeline.unet, {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    inputs = (torch.randn(2, 4, 1, 8, 8), 10, torch.randn(2, 77, unet.config.cross_attention_dim))
    with torch.no_grad():
        expected = unet(*inputs, image_only=torch.ones(2, dtype=torch.bool)).sample
        detached = detach_temporal_layers(unet)
        assert detached and not any(map(is_temporal, unet.state_dict()))
        assert torch.equal(unet(*inputs).sample, expected)
    attach_temporal_layers(unet, detached)
    assert_equal_tensors(unet.state_dict(), before)
