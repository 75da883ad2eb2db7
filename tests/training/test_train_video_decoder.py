"""The script of video decoders: it learns against its discriminator, leaves the encoder, and goes on exactly."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, AutoencoderTiny
from safetensors.torch import load_file
from transformers import ResNetBackbone, ResNetConfig

from diffusers_video import AutoencoderKLVideo, TextToVideoPipeline
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.discriminators import VideoPatchDiscriminator
from diffusers_video.training.adversarial import AdversarialAutoencoder, adaptive_weight
from diffusers_video.training.decoder_loss import DecoderLoss, last_layer
from diffusers_video.training.train_video_decoder import main
from diffusers_video.training.video_decoder import select_trained
from diffusers_video.training.video_decoder_config import VideoDecoderConfig

from ..tiny_pipelines import tiny_text_to_video
from .tiny_runs import ModelFolder, assert_equal_tensors, losses, read_log


DISC_DEFAULTS = {"disc_start": 50_001, "disc_base_channels": 64, "disc_num_layers": 3}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.7,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetBackbone(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return str(folder)


def settings(model: str, output_dir: Path, **changes: object) -> dict[str, object]:
    return {
        "pretrained_model_name_or_path": model,
        "train_data_dir": "shapes",
        "output_dir": str(output_dir),
        "resolution": 16,
        "num_frames": 3,
        "num_shapes_clips": 6,
        "num_heldout_clips": 2,
        "max_train_steps": 2,
        "checkpointing_steps": 0,
        "learning_rate": 3e-3,
        "disc_start": 0,
        "disc_base_channels": 8,
        "disc_num_layers": 2,
        **changes,
    }


def train(model: str, output_dir: Path, **changes: object) -> Path:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    main(VideoDecoderConfig(**settings(model, output_dir, **changes)))
    return output_dir


def heldout(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The first and last measurement on held-out clips."""
    lines = [line for line in read_log(folder) if "heldout_loss" in line]
    return lines[0], lines[-1]


def test_held_out_clips_are_reconstructed_better(vae_folder: str, tmp_path: Path) -> None:
    options = {"train": "decoder", "max_train_steps": 25, "train_batch_size": 2, "use_ema": True, "ema_decay": 0.5}
    out = train(vae_folder, tmp_path / "out", **options)
    first, last = heldout(out)
    assert last["heldout_loss"] < 0.9 * first["heldout_loss"] and last["heldout_psnr"] > first["heldout_psnr"]
    assert first["heldout_flicker"] > 0 and {"loss", "discriminator_loss"} <= read_log(out)[1].keys()


@pytest.mark.parametrize("part", ["temporal", "decoder"])
def test_exactly_the_named_part_trains_and_the_encoder_stays(vae_folder: str, tmp_path: Path, part: str) -> None:
    before = load_file(Path(vae_folder) / WEIGHTS)
    after = load_file(train(vae_folder, tmp_path, train=part, max_train_steps=3, adam_weight_decay=0.1) / WEIGHTS)
    assert before.keys() <= after.keys()
    new = AutoencoderKLVideo.from_autoencoder_kl(AutoencoderKL.from_pretrained(vae_folder)).state_dict()
    constant = {name for name, value in before.items() if torch.equal(value, after[name])}
    decoder = {name for name in before if name.startswith("decoder.")}
    assert constant == (before.keys() - decoder if part == "decoder" else before.keys())
    # What is random in a new layer differs from run to run; what begins at 0 or 0.5 must have moved.
    temporal = [name for name in after if is_temporal(name)]
    assert temporal and not any(
        torch.equal(after[name], new[name]) for name in temporal if name.endswith(("mix_factor", "conv2.weight"))
    )


def test_result_loads_and_swaps_into_a_pipeline(vae_folder: str, tmp_path: Path) -> None:
    vae = AutoencoderKLVideo.from_pretrained(train(vae_folder, tmp_path, num_frames=5, decode_chunk_overlap=2))
    assert (vae.config.decode_chunk_size, vae.config.decode_chunk_overlap, vae.scaling_factor) == (5, 2, 0.7)
    pipeline = TextToVideoPipeline(**{**tiny_text_to_video().components, "vae": vae})
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline("a", num_frames=7, num_inference_steps=1, height=16, width=16, output_type="pt").frames
    assert frames.shape == (1, 7, 3, 16, 16)


def test_resumed_run_equals_an_uninterrupted_one(vae_folder: str, tmp_path: Path, backbone_folder: str) -> None:
    options = {
        "use_ema": True,
        "channels_last": True,
        "disc_start": 1,
        "disc_learning_rate": 1e-3,
        "gradient_accumulation_steps": 2,
        "perceptual_model": backbone_folder,
        "validation_steps": 2,
    }
    whole = train(vae_folder, tmp_path / "whole", **options, max_train_steps=4)
    train(vae_folder, tmp_path / "parts", **options, max_train_steps=2)
    parts = train(vae_folder, tmp_path / "parts", **options, max_train_steps=4, resume_from_checkpoint="latest")
    assert read_log(whole) == read_log(parts)
    assert_equal_tensors(load_file(whole / WEIGHTS), load_file(parts / WEIGHTS))
    one, two = (load_file(folder / "checkpoint-4/trained_weights.safetensors") for folder in (whole, parts))
    assert_equal_tensors(one, two)
    assert any(name.startswith("discriminator.") for name in one)
    first, second = (torch.load(folder / "checkpoint-4/optimizer.bin") for folder in (whole, parts))
    assert first["param_groups"] == second["param_groups"]
    for index, values in first["state"].items():
        assert_equal_tensors(values, second["state"][index])
    decoder, discriminator = first["param_groups"]
    assert (decoder["lr"], discriminator["lr"]) == (3e-3, 1e-3) and tuple(discriminator["betas"]) == (0.5, 0.9)
    assert decoder["weight_decay"] > 0 and discriminator["weight_decay"] == 0
    identity = json.loads((whole / "checkpoint-4/trainer_state.json").read_text())["identity"]
    assert identity["perceptual_model"].startswith("weights ")


def test_before_its_start_the_discriminator_neither_learns_nor_teaches(vae_folder: str, tmp_path: Path) -> None:
    options = {"max_train_steps": 2, "max_grad_norm": 0.0}
    late = train(vae_folder, tmp_path / "late", **options, disc_start=2)
    none = train(vae_folder, tmp_path / "none", **options, disc_weight=0.0, **DISC_DEFAULTS)
    soon = train(vae_folder, tmp_path / "soon", **options, disc_start=1)
    assert [line["discriminator_loss"] for line in read_log(late) if "discriminator_loss" in line] == [0, 0]
    assert losses(late)[0] == losses(soon)[0] and losses(late)[1] != losses(soon)[1]
    assert not any("discriminator_loss" in line for line in read_log(none))
    weights = load_file(late / "checkpoint-2/trained_weights.safetensors")
    started = load_file(soon / "checkpoint-2/trained_weights.safetensors")
    names = [name for name in weights if name.startswith("discriminator.") and name.endswith("weight")]
    state = torch.load(late / "checkpoint-2/optimizer.bin")
    discriminator = state["param_groups"][1]["params"]
    assert not any(state["state"][index]["exp_avg"].any() for index in discriminator)
    assert names and not any(torch.equal(weights[name], started[name]) for name in names)


def test_a_run_that_ends_before_the_discriminator_starts_says_so(
    vae_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, (start, is_said) in enumerate(((1, False), (2, True))):
        caplog.clear()
        train(vae_folder, tmp_path / str(number), disc_start=start)
        assert ("ends after 2 updates, before the adversarial losses set in" in caplog.text) == is_said


def test_gradients_of_the_discriminator_are_clipped_too(vae_folder: str, tmp_path: Path) -> None:
    weights = []
    for name, options in {"still": {"disc_start": 9}, "clipped": {"max_grad_norm": 1e-13}, "free": {}}.items():
        out = train(vae_folder, tmp_path / name, **options)
        tensors = load_file(out / "checkpoint-2/trained_weights.safetensors")
        weights.append(torch.cat([tensors[key].flatten() for key in tensors if key.startswith("discriminator.")]))
    still, clipped, free = weights
    # AdamW's epsilon is 1e-8: beside it clipped gradients vanish, where others move a weight by the learning rate.
    assert (clipped - still).abs().max() < 1e-6 and (free - still).abs().max() > 1e-3


@pytest.mark.parametrize("is_fixed", [True, False])
def test_the_decoder_is_told_to_fool_the_discriminator(vae_folder: str, tmp_path: Path, is_fixed: bool) -> None:
    config = VideoDecoderConfig(**settings(vae_folder, tmp_path, fixed_disc_weight=is_fixed, disc_weight=0.3))
    vae = AutoencoderKLVideo.from_autoencoder_kl(AutoencoderKL.from_pretrained(vae_folder))
    model = AdversarialAutoencoder(vae, VideoPatchDiscriminator(base_channels=8, num_layers=2))
    batch = {"pixel_values": torch.rand(2, 3, 3, 16, 16) * 2 - 1, "step": 0}
    loss_fn = DecoderLoss(config, torch.device("cpu"), vae)
    loss = loss_fn(model, batch, torch.Generator().manual_seed(0))["loss"]
    judged = model(batch["pixel_values"], torch.Generator().manual_seed(0))
    reconstruction = loss_fn.of_reconstruction(judged.reconstructions, batch["pixel_values"])
    adversarial = -judged.to_fool[0].logits.mean()
    weight = 1.0 if is_fixed else adaptive_weight(reconstruction, adversarial, vae.decoder.time_conv_out.weight)
    torch.testing.assert_close(loss, reconstruction + 0.3 * weight * adversarial)


def test_perceptual_loss_is_part_of_both_losses(vae_folder: str, tmp_path: Path, backbone_folder: str) -> None:
    plain = train(vae_folder, tmp_path / "plain", max_train_steps=1)
    with_network = train(vae_folder, tmp_path / "network", max_train_steps=1, perceptual_model=backbone_folder)
    assert losses(with_network)[0] > losses(plain)[0]
    assert heldout(with_network)[0]["heldout_loss"] > heldout(plain)[0]["heldout_loss"]
    assert heldout(with_network)[0]["heldout_psnr"] == heldout(plain)[0]["heldout_psnr"]


def test_pipelines_and_video_autoencoders_go_on(image_model: ModelFolder, tmp_path: Path) -> None:
    first = train(image_model("sd15"), tmp_path / "first", max_train_steps=1, temporal_attention="causal")
    second = train(str(first), tmp_path / "second", max_train_steps=1)
    vae = AutoencoderKLVideo.from_pretrained(second)
    assert vae.config.temporal_attention == "causal"
    assert heldout(second)[0]["heldout_loss"] == heldout(first)[1]["heldout_loss"]
    with pytest.raises(ValueError, match="`temporal_attention` is for new video models"):
        train(str(first), tmp_path / "third", temporal_attention="full")


def test_a_decoder_with_causal_attention_trains_and_balances_its_losses(vae_folder: str, tmp_path: Path) -> None:
    out = train(vae_folder, tmp_path / "out", preset="videovae", learning_rate=1e-2, disc_start=1)
    vae = AutoencoderKLVideo.from_pretrained(out)
    assert vae.config.temporal_attention == "causal" and not vae.config.temporal_conv
    before, after = AutoencoderKL.from_pretrained(vae_folder).state_dict(), vae.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(
        after[name].any() for name in after if name.endswith("temporal_attention.time_pos_embed.linear_2.weight")
    )
    vae.freeze_spatial_layers()
    last = vae.decoder.up_blocks[0].resnets[-1].temporal_attention.temporal_transformer_blocks[0].attn2
    assert last_layer(vae) is last.to_out[0].weight
    vae.decoder.requires_grad_(True)
    assert last_layer(vae) is vae.decoder.conv_out.weight
    with pytest.raises(ValueError, match="`preset` is for new video models"):
        train(str(out), tmp_path / "again", preset="videovae")


def test_stable_video_diffusion_goes_on(tmp_path: Path) -> None:
    AutoencoderKLTemporalDecoder(block_out_channels=(32,), layers_per_block=2).save_pretrained(tmp_path / "svd")
    out = train(str(tmp_path / "svd"), tmp_path / "out", max_train_steps=1, num_frames=2)
    assert AutoencoderKLVideo.from_pretrained(out).config.use_post_quant_conv is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "encoder"}, "`train` must be one of"),
        ({"rec_loss": "l3"}, "`rec_loss` must be one of"),
        ({"temporal_attention": "some"}, "`temporal_attention` must be one of"),
        ({"preset": "light"}, "`preset` must be one of"),
        ({"num_frames": 1}, "at least 2 `num_frames` to train on videos, but have 1"),
        ({"num_frames": None, "resolution": None, "buckets": ["16x16@1"]}, "at least 2 `num_frames`"),
        ({"disc_base_channels": 12}, "`disc_base_channels` must be a multiple of 8"),
        ({"disc_weight": -1.0}, "`disc_weight` must be at least 0"),
        ({"disc_weight": 0.0, "disc_start": 50_001}, "`disc_base_channels` has no effect with `disc_weight=0`"),
        ({**DISC_DEFAULTS, "disc_weight": 0.0, "fixed_disc_weight": True}, "`fixed_disc_weight` has no effect with"),
        ({"perceptual_weight": 0.5}, "`perceptual_weight` has an effect only with `perceptual_model`"),
        ({"disc_num_layers": 5}, "5 layers need 32 pixels, but the clips have 16"),
        ({"decode_chunk_overlap": 3}, "`decode_chunk_overlap` must be below the 3 frames of clips, but is 3"),
        ({"resolution": 17}, "must be multiples of 2"),
        ({"pretrained_model_name_or_path": "./missing"}, "'./missing' is missing"),
    ],
)
def test_bad_settings_are_refused(vae_folder: str, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(vae_folder, tmp_path / "out", **changes)


def test_clips_that_come_out_as_single_frames_are_refused(vae_folder: str, tmp_path: Path) -> None:
    config = VideoDecoderConfig(**settings(vae_folder, tmp_path))
    vae = AutoencoderKLVideo.from_autoencoder_kl(AutoencoderKL.from_pretrained(vae_folder))
    with pytest.raises(ValueError, match="must give clips of several frames, but all have one"):
        select_trained(vae, config, num_frames=1)


def test_other_models_are_refused(vae_folder: str, tmp_path: Path) -> None:
    AutoencoderTiny().save_pretrained(tmp_path / "tiny")
    with pytest.raises(ValueError, match="is a `AutoencoderTiny`"):
        train(str(tmp_path / "tiny"), tmp_path / "out")
    vae = AutoencoderKLVideo.from_autoencoder_kl(AutoencoderKL.from_pretrained(vae_folder), temporal_conv_out=False)
    vae.save_pretrained(tmp_path / "video")
    with pytest.raises(ValueError, match="last layer does not train. Set `fixed_disc_weight`"):
        train(str(tmp_path / "video"), tmp_path / "out")
    train(str(tmp_path / "video"), tmp_path / "out", fixed_disc_weight=True, max_train_steps=1)
