"""Training on captions as vectors: who sees which caption, dropped ones, exact resuming, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers import DiffusionPipeline
from torch import Tensor

from diffusers_video import TextToVideoPipeline, UnconditionalVideoPipeline
from diffusers_video.data.dataset import collate_clips
from diffusers_video.training.clip_loss import prepare_heldout
from diffusers_video.training.joint_images import add_images
from diffusers_video.training.objectives import denoising_loss
from diffusers_video.training.pooled_text import CaptionedClipLoss
from diffusers_video.training.previous_clip import build_loss, heldout_losses
from diffusers_video.training.train_unconditional import main
from diffusers_video.training.training_data import load_clips
from diffusers_video.training.unconditional import load_unconditional
from diffusers_video.training.unconditional_config import UnconditionalConfig

from ..tiny_space_time import _BASE, KINDS, tiny_space_time
from ..tiny_text import TEXT_WIDTH, tiny_text_models, tiny_text_vdm
from .tiny_runs import SETTINGS, assert_equal_runs, losses, read_log
from .tiny_runs import train as train_text_to_video


NUM_FRAMES, NUM_IMAGES = 3, 2
VDM = {
    name: value for name, value in {**_BASE, **KINDS["vdm"]}.items() if name not in ("sample_size", "pooled_text_dim")
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a text encoder with its tokenizer, and of a denoiser's options, which do not say what it reads."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "vdm.json").write_text(json.dumps(VDM))
    for part in tiny_text_models().values():
        part.save_pretrained(folder / "bert")
    return folder


def config(models: Path, output: Path | str = "unused", **settings: object) -> UnconditionalConfig:
    own = {"preset": None, "model_config_name_or_path": str(models / "vdm.json"), "resolution": 16, "num_frames": 3}
    own |= {"pretrained_text_encoder_name_or_path": str(models / "bert"), "prediction_type": "v_prediction"}
    own |= {"num_joint_images": NUM_IMAGES, "train_batch_size": 2, "caption_dropout": 0.0}
    return UnconditionalConfig(output_dir=str(output), **{**SETTINGS, **own, **settings})


def train(models: Path, output: Path, **settings: object) -> Path:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    main(config(models, output, **settings))
    return output


def build(models: Path, **settings: object) -> CaptionedClipLoss:
    chosen = config(models, **settings)
    return build_loss(load_unconditional(chosen, load_clips(chosen)[0]), chosen, torch.device("cpu"))


@pytest.fixture(scope="module")
def loss(models: Path) -> CaptionedClipLoss:
    """A loss whose new denoiser has weights that do something."""
    built = build(models)
    built.pipeline.unet = tiny_space_time("vdm", pooled_text_dim=TEXT_WIDTH, sample_size=16)
    return built


def batch(loss: CaptionedClipLoss) -> dict[str, object]:
    dataset = add_images(load_clips(loss.config)[0], loss.pipeline, loss.config)
    clips = collate_clips([dataset[0], dataset[1]])
    texts = {"text": ["a red circle moves left", "a square"], "image_texts": [["blue", "a circle"], ["green", "red"]]}
    return {**clips, **texts}


def run(loss: CaptionedClipLoss, clips: dict[str, object], seed: int = 0) -> tuple[Tensor, dict[str, object]]:
    """The output of the denoiser in one evaluation of the loss, (B, F + K, ...), and what it was told."""
    calls, unet = [], loss.pipeline.unet
    hook = unet.register_forward_hook(lambda *call: calls.append(call), with_kwargs=True)
    loss(unet, clips, torch.Generator().manual_seed(seed))
    hook.remove()
    _, _, told, output = calls[0]
    return output[0].detach().transpose(1, 2), told


def test_each_frame_sees_the_caption_of_the_clip_it_is_from(loss: CaptionedClipLoss) -> None:
    clips = batch(loss)
    text = run(loss, clips)[1]["encoder_hidden_states"]
    rows = [[caption] * NUM_FRAMES + own for caption, own in zip(clips["text"], clips["image_texts"], strict=True)]
    want, *_ = loss.pipeline.encode_prompt(sum(rows, []))
    length = text.shape[1]
    assert text.shape == (2 * (NUM_FRAMES + NUM_IMAGES), 7, TEXT_WIDTH) and not want[:, length:].any()
    torch.testing.assert_close(text, want[:, :length])


def test_another_caption_changes_its_own_frames_and_no_others(loss: CaptionedClipLoss) -> None:
    clips = batch(loss)
    before = run(loss, clips)[0]
    of_image = run(loss, {**clips, "image_texts": [["blue", "a circle"], ["square", "red"]]})[0]
    of_clip = run(loss, {**clips, "text": ["a red circle moves left", "a blue circle"]})[0]
    changed = [(after - before).abs().amax(dim=(2, 3, 4)) > 0 for after in (of_image, of_clip)]
    assert changed[0].tolist() == [[False] * 5, [False, False, False, True, False]]
    assert changed[1].tolist() == [[False] * 5, [True] * NUM_FRAMES + [False] * NUM_IMAGES]


def test_clips_without_images_see_their_captions_as_before(models: Path, loss: CaptionedClipLoss) -> None:
    alone = build(models, num_joint_images=0)
    alone.pipeline.unet, clips = loss.pipeline.unet, batch(loss)
    told = run(alone, {name: value for name, value in clips.items() if "image" not in name})[1]
    want, *_ = loss.pipeline.encode_prompt(clips["text"])
    torch.testing.assert_close(told["encoder_hidden_states"], want[:, :7])
    packed = {**clips, "prompt_embeds": want}
    assert torch.equal(alone.encode(packed)[1]["encoder_hidden_states"], want)


def test_without_captions_it_is_the_unconditional_model(models: Path, loss: CaptionedClipLoss) -> None:
    dropped, clips = build(models, caption_dropout=1.0), batch(loss)
    dropped.pipeline.unet = loss.pipeline.unet
    output, told = run(dropped, clips)
    assert not told["encoder_hidden_states"].any()
    hook = loss.pipeline.unet.register_forward_pre_hook(
        lambda _, arguments, told: (arguments, {**told, "encoder_hidden_states": None}), with_kwargs=True
    )
    unconditional = run(dropped, clips)[0]
    hook.remove()
    assert torch.equal(output, unconditional) and not torch.equal(output, run(loss, clips)[0])


def test_captions_are_dropped_one_by_one(models: Path) -> None:
    halved, generator = build(models, caption_dropout=0.25), torch.Generator().manual_seed(0)
    kept = []
    for _ in range(100):
        told = {"encoder_hidden_states": torch.ones(8 * (NUM_FRAMES + NUM_IMAGES), 1, 1), "fps": 1}
        told = halved.drop_captions(told, 8, generator)
        kept.append(told["encoder_hidden_states"].reshape(8, -1))
    kept = torch.cat(kept)
    assert torch.equal(kept[:, 0], kept[:, 1]) and torch.equal(kept[:, 0], kept[:, 2]) and told["fps"] == 1
    texts = kept[:, 2:]
    torch.testing.assert_close(texts.mean(dim=0), torch.full((3,), 0.75), rtol=0, atol=0.05)
    assert texts.T.corrcoef().triu(1).abs().max() < 0.15


def test_gradients_reach_the_pooling_of_text_and_not_its_encoder(loss: CaptionedClipLoss) -> None:
    unet = loss.pipeline.unet
    unet.zero_grad()
    loss.pipeline.text_encoder.requires_grad_(False)
    loss(unet, batch(loss), torch.Generator().manual_seed(0)).backward()
    for name, weight in unet.text_pooling.named_parameters():
        assert weight.grad.abs().max() > 0, name
    assert all(weight.grad is None for weight in loss.pipeline.text_encoder.parameters())


def test_held_out_clips_are_measured_with_their_captions_and_without(models: Path, loss: CaptionedClipLoss) -> None:
    heldout = load_clips(loss.config)[1]
    clips = prepare_heldout(loss, heldout)
    want, *_ = loss.pipeline.encode_prompt(heldout[0]["text"])
    length = clips[0].conditions["encoder_hidden_states"].shape[1]
    torch.testing.assert_close(clips[0].conditions["encoder_hidden_states"], want[:, :length])
    measured = heldout_losses(loss.pipeline.unet, loss, clips)
    assert measured.keys() == {"heldout_loss", "heldout_loss_without_text"}
    assert measured["heldout_loss"] != measured["heldout_loss_without_text"]


def test_a_trained_model_is_a_pipeline_of_text(models: Path, tmp_path: Path) -> None:
    options = {"height": 16, "width": 24, "resolution": None, "num_joint_images": 1, "fps": 12.0}
    out = train(models, tmp_path, max_train_steps=1, **options)
    pipeline = DiffusionPipeline.from_pretrained(out)
    assert type(pipeline) is TextToVideoPipeline and pipeline.unet.config.pooled_text_dim == TEXT_WIDTH
    assert pipeline.text_encoder.config.use_attention_mask and pipeline.config.num_frames == NUM_FRAMES
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline("a red circle", num_inference_steps=1, output_type="pt")
    assert output.frames.shape == (1, NUM_FRAMES, 3, 16, 24) and output.fps == 12.0
    assert "heldout_loss_without_text" in read_log(out)[0] and (out / "preview.mp4").stat().st_size
    new = {"model_config_name_or_path": None, "pretrained_text_encoder_name_or_path": None}
    going_on = build(models, pretrained_model_name_or_path=str(out), caption_dropout=0.5, **new)
    assert type(going_on) is CaptionedClipLoss and going_on.pipeline.unet.config.sample_size == (16, 16)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(models: Path, tmp_path: Path) -> None:
    options = {"max_train_steps": 3, "use_ema": True, "caption_dropout": 0.5}
    whole = train(models, tmp_path / "whole", **options)
    train(models, tmp_path / "parts", **options, checkpointing_steps=2)
    for path in (tmp_path / "parts" / "checkpoint-3").iterdir():
        path.unlink()  # what a kill between the checkpoints leaves
    parts = train(models, tmp_path / "parts", **options, resume_from_checkpoint="latest")
    assert len(losses(whole)) == 3
    assert_equal_runs(whole, parts, step=3)


@pytest.mark.slow
def test_a_model_learns_what_captions_say(models: Path) -> None:
    loss = build(models, caption_dropout=0.2, num_joint_images=1)
    unet, generator = loss.pipeline.unet.train(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(unet.parameters(), lr=5e-3)
    colours = torch.tensor([[0.9, -0.9, -0.9], [-0.9, -0.9, 0.9]])[:, :, None, None, None].expand(-1, -1, -1, 8, 8)
    clips = {"text": ["a red circle", "a blue square"], "image_texts": [["blue"], ["red"]], "fps": torch.ones(2)}
    clips |= {"pixel_values": colours.expand(-1, -1, 2, -1, -1), "images": colours.flip(0)}
    for _ in range(80):
        optimizer.zero_grad()
        loss(unet, clips, generator).backward()
        optimizer.step()
    noise, errors = torch.randn(2, 3, 2, 8, 8, generator=generator), []
    arguments = {"noise": noise, "timesteps": torch.full((2,), -4.0)}
    for texts in (["a red circle", "a blue square"], ["a blue square", "a red circle"]):
        told = {"encoder_hidden_states": loss.pipeline.encode_prompt(texts)[0]}
        with torch.no_grad():
            error = denoising_loss(unet.eval(), loss.scheduler, clips["pixel_values"], told, **arguments)
        errors.append(float(error))
    assert errors[0] < 0.3 * errors[1]


@pytest.mark.slow
def test_the_held_out_loss_falls(models: Path, tmp_path: Path) -> None:
    options = {"max_train_steps": 40, "learning_rate": 1e-2, "num_heldout_clips": 4, "num_heldout_timesteps": 4}
    options |= {"num_shapes_clips": 200, "train_batch_size": 4, "lr_scheduler": "constant"}
    before, after = (record for record in read_log(train(models, tmp_path, **options)) if "heldout_loss" in record)
    assert after["heldout_loss"] < 0.6 * before["heldout_loss"]


BAD_SETTINGS = [
    ({"task": "key-frames", "num_joint_images": 0}, "`task` must be unconditional for a model that reads text"),
    ({"pretrained_text_encoder_name_or_path": "vdm.json"}, "they cannot be loaded"),
    ({"model_options": '{"pooled_text_dim": 24}'}, "`pooled_text_dim` of `unet`, 24, but gives 16"),
    (
        {"model_options": '{"cross_attention_dim": 16, "attention_type": "interleaved"}'},
        "needs a denoiser with `pooled_text_dim`, but this UNetSpaceTimeModel was built without",
    ),
    ({"model_options": '{"num_class_embeds": 3}'}, "its num_class_embeds=3 wants an input"),
    ({"image_probability": 0.5}, "`image_probability` has no effect on a model that reads no text, and one that"),
    ({"pretrained_text_encoder_name_or_path": None, "caption_dropout": 0.5}, "`caption_dropout` has no effect"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_wrong_settings_are_refused(models: Path, settings: dict, message: str) -> None:
    name = settings.get("pretrained_text_encoder_name_or_path")
    folder = {} if name is None else {"pretrained_text_encoder_name_or_path": str(models)}
    with pytest.raises(ValueError, match=message):
        build(models, **{**settings, **folder})


def test_models_that_are_missing_or_of_another_script_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`pretrained_text_encoder_name_or_path` must be a folder"):
        build(models, pretrained_text_encoder_name_or_path="/missing")
    endless = tiny_text_models(max_length=10**6)
    for part in endless.values():
        part.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="must have a tokenizer with a `model_max_length`"):
        build(models, pretrained_text_encoder_name_or_path=str(tmp_path / "bert"))
    tiny_text_vdm().save_pretrained(tmp_path / "pixels")
    with pytest.raises(ValueError, match="must have an autoencoder, but .* has none"):
        train_text_to_video(str(tmp_path / "pixels"), tmp_path / "out", preset=None, train="all")
    own = {"model_config_name_or_path": None, "pretrained_model_name_or_path": str(tmp_path / "pixels")}
    with pytest.raises(ValueError, match="`pretrained_text_encoder_name_or_path` is for new models"):
        build(models, **own)
    unet = tiny_space_time("vdm", pooled_text_dim=None)
    UnconditionalVideoPipeline(unet, tiny_text_vdm().scheduler).save_pretrained(tmp_path / "no_text")
    own |= {"pretrained_model_name_or_path": str(tmp_path / "no_text"), "caption_dropout": 0.5}
    with pytest.raises(ValueError, match="`caption_dropout` has no effect on a model that reads no text"):
        build(models, **{**own, "pretrained_text_encoder_name_or_path": None})
