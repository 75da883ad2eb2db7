"""The script of autoencoders on clips: 3D and triplane, first their reconstruction, then against discriminators."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file
from transformers import ResNetBackbone, ResNetConfig

from diffusers_video import AutoencoderKL3D, AutoencoderTriplane
from diffusers_video.training.adversarial import adaptive_weight, describe_opponent
from diffusers_video.training.autoencoder_config import AutoencoderConfig
from diffusers_video.training.clip_autoencoder import ClipAutoencoder, build_clip_autoencoder
from diffusers_video.training.clip_autoencoder_loss import ClipAutoencoderLoss
from diffusers_video.training.frame_and_clip_judges import fooling_loss, judging_loss, pick_frames
from diffusers_video.training.train_autoencoder import main

from ..tiny_triplane import AUTOENCODER
from .tiny_runs import assert_equal_tensors, losses, read_log


WEIGHTS = "diffusion_pytorch_model.safetensors"
TRIPLANE = {**AUTOENCODER, "_class_name": "AutoencoderTriplane", "sample_size": 16, "num_frames": 4, "patch_size": 4}
KL_3D = {
    "_class_name": "AutoencoderKL3D",
    "block_out_channels": [4, 8, 16],
    "downsample_factors": [2, 4, 4],
    "norm_num_groups": 4,
}
CONFIGS = {"triplane": TRIPLANE, "kl_3d": KL_3D}
JUDGED = {"disc_weight": 0.25, "disc_base_channels": 4, "disc_num_layers": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    return {name: str(folder / f"{name}.json") for name in CONFIGS}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    ResNetBackbone(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ).save_pretrained(folder)
    return str(folder)


def settings(model: str, output_dir: Path, **changes: object) -> dict[str, object]:
    return {
        "model_config_name_or_path": model,
        "train_data_dir": "shapes",
        "output_dir": str(output_dir),
        "resolution": 16,
        "num_frames": 4,
        "num_shapes_clips": 6,
        "num_heldout_clips": 2,
        "train_batch_size": 2,
        "max_train_steps": 2,
        "checkpointing_steps": 0,
        "learning_rate": 3e-3,
        **changes,
    }


def train(model: str, output_dir: Path, **changes: object) -> Path:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    main(AutoencoderConfig(**settings(model, output_dir, **changes)))
    return output_dir


def build(kind: str, tmp_path: Path, **changes: object) -> tuple[ClipAutoencoder, ClipAutoencoderLoss]:
    torch.manual_seed(0)
    classes = {"triplane": AutoencoderTriplane, "kl_3d": AutoencoderKL3D}
    vae = classes[kind](**{name: value for name, value in CONFIGS[kind].items() if name[0] != "_"})
    config = AutoencoderConfig(**settings("a.json", tmp_path, **changes))
    return build_clip_autoencoder(config, vae, Accelerator()), ClipAutoencoderLoss(config, torch.device("cpu"), vae)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_held_out_clips_are_reconstructed_better(models: dict[str, str], tmp_path: Path, kind: str) -> None:
    out = train(models[kind], tmp_path / "out", max_train_steps=25, kl_scale=1e-6)
    first, last = (line for line in read_log(out) if "heldout_loss" in line)
    assert last["heldout_loss"] < 0.9 * first["heldout_loss"] and last["heldout_psnr"] > first["heldout_psnr"]
    assert "heldout_flicker" in last and not any("discriminator_loss" in line for line in read_log(out))


def test_latents_of_3d_autoencoders_get_unit_variance(models: dict[str, str], tmp_path: Path) -> None:
    vae = AutoencoderKL3D.from_pretrained(train(models["kl_3d"], tmp_path / "out", num_scaling_images=16))
    assert 0 < vae.config.scaling_factor != 1
    assert AutoencoderTriplane.from_pretrained(train(models["triplane"], tmp_path / "other")).scaling_factor == 1.0


def test_the_second_stage_resumes_exactly_and_goes_on_from_the_first(
    models: dict[str, str], tmp_path: Path, backbone: str
) -> None:
    options = {**JUDGED, "disc_start": 1, "disc_learning_rate": 1e-3, "perceptual_model": backbone, "use_ema": True}
    whole = train(models["triplane"], tmp_path / "whole", **options)
    for more in ({"max_train_steps": 1}, {"resume_from_checkpoint": "latest"}):
        parts = train(models["triplane"], tmp_path / "parts", **options, **more)
    assert [line for line in read_log(whole) if "loss" in line] == [line for line in read_log(parts) if "loss" in line]
    assert_equal_tensors(load_file(whole / WEIGHTS), load_file(parts / WEIGHTS))
    one, two = (load_file(folder / "checkpoint-2/trained_weights.safetensors") for folder in (whole, parts))
    assert_equal_tensors(one, two)
    assert {name.split(".")[1] for name in one if name.startswith("judges.")} == {"0", "1"}
    started = [line["discriminator_loss"] for line in read_log(whole) if "discriminator_loss" in line]
    assert started[0] == 0 and started[1] > 0
    first = {"model_config_name_or_path": None, "pretrained_model_name_or_path": str(whole), "max_train_steps": 1}
    second = train(models["triplane"], tmp_path / "second", **first, **JUDGED)
    line = next(line for line in read_log(second) if "heldout_loss" in line)
    assert line["heldout_loss"] == read_log(whole)[-1]["heldout_loss"] and losses(second)


def test_losses_of_pvdm_by_hand(tmp_path: Path) -> None:
    model, loss_fn = build("triplane", tmp_path, **JUDGED)
    videos = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    got = loss_fn(model, {"pixel_values": videos, "step": 0}, seeded())
    frames = torch.randint(4, (2,), generator=seeded())
    made = model.vae(videos).sample
    of_made, of_real = (
        [model.judges[0](pick_frames(clips, frames)), model.judges[1](clips)] for clips in (made, videos)
    )
    want = (made - videos).abs().mean() + 0.25 * fooling_loss(of_made, of_real, feature_weight=4.0)
    torch.testing.assert_close(got["loss"], want)
    torch.testing.assert_close(got["discriminator_loss"], judging_loss(of_made, of_real))


def test_losses_of_lvdm_by_hand(tmp_path: Path) -> None:
    model, loss_fn = build("kl_3d", tmp_path, **{**JUDGED, "disc_weight": 0.5}, kl_scale=0.1)
    videos = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    got = loss_fn(model, {"pixel_values": videos, "step": 0}, seeded())
    posterior = model.vae.encode(videos).latent_dist
    made = model.vae.decode(posterior.sample(seeded())).sample
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).sum((1, 2, 3, 4)).mean()
    reconstruction = (made - videos).abs().mean() + 0.1 * divergence
    judgement = model.judges[0](made.transpose(1, 2).flatten(0, 1)).logits
    weight = adaptive_weight(reconstruction, -judgement.mean(), model.vae.decoder.conv_out.weight)
    torch.testing.assert_close(got["loss"], reconstruction - 0.5 * weight * judgement.mean(), rtol=1e-4, atol=1e-4)
    assert len(model.judges) == 1


def test_each_network_gets_the_gradients_of_its_own_loss(tmp_path: Path) -> None:
    for name, wanted in (("loss", "vae"), ("discriminator_loss", "judges")):
        model, loss_fn = build("triplane", tmp_path, **JUDGED)
        batch = {"pixel_values": torch.rand(2, 3, 4, 16, 16), "step": 0}
        loss_fn(model, batch, seeded())[name].backward()
        reached = {key for key, value in model.named_parameters() if value.grad is not None and value.grad.any()}
        assert reached and all(key.startswith(f"{wanted}.") for key in reached)
    opponent = describe_opponent(model.judges)
    assert opponent["betas"] == (0.5, 0.9) and len(opponent["params"]) == len(list(model.judges.parameters()))


def test_before_their_start_discriminators_are_not_run(tmp_path: Path) -> None:
    model, loss_fn = build("triplane", tmp_path, **JUDGED, disc_start=3)
    calls = []
    model.judges[0].register_forward_hook(lambda *_: calls.append(1))
    batch = {"pixel_values": torch.rand(1, 3, 4, 16, 16)}
    early = loss_fn(model, {**batch, "step": 2}, seeded())
    assert not calls and early["discriminator_loss"] == 0
    late = loss_fn(model, {**batch, "step": 3}, seeded())
    assert calls and late["loss"] != early["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_a_decoder_alone_trains_and_the_latents_stay(models: dict[str, str], tmp_path: Path, kind: str) -> None:
    first = train(models[kind], tmp_path / "first", max_train_steps=1)
    options = {"model_config_name_or_path": None, "pretrained_model_name_or_path": str(first), "train": "decoder"}
    second = train(models[kind], tmp_path / "second", **options, adam_weight_decay=0.1)
    before, after = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == ({"decoder", "from_latents", "to_pixels"} if kind == "triplane" else {"decoder"})


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("triplane", {"kl_scale": 0.1}, "`kl_scale` has no effect on an `AutoencoderTriplane`"),
        ("triplane", {"num_scaling_images": 9}, "`num_scaling_images` has no effect on an `AutoencoderTriplane`"),
        ("triplane", {"zero_init_residuals": True}, "`zero_init_residuals` has no effect on an"),
        ("triplane", {"num_frames": 1}, "at least 2 `num_frames` for an autoencoder of clips, but have 1"),
        ("triplane", {"num_frames": 5}, "`num_frames` must be a multiple of 1 in \\[1, 4\\], but is 5"),
        ("kl_3d", {"resolution": 18}, "`height` must be a multiple of 4, but is 18"),
        ("kl_3d", {"disc_weight": -1.0}, "`disc_weight` must be at least 0"),
        ("kl_3d", {"disc_base_channels": 0}, "`disc_base_channels` must be at least 1"),
        ("kl_3d", {"disc_start": 3}, "`disc_start` has no effect with `disc_weight=0`"),
        ("kl_3d", {"perceptual_weight": 2.0}, "`perceptual_weight` has an effect only with `perceptual_model`"),
        ("image", {"disc_weight": 0.5}, "`disc_weight` has no effect on an `AutoencoderKL`"),
    ],
)
def test_bad_settings_are_refused(
    models: dict[str, str], tmp_path: Path, kind: str, changes: dict[str, object], message: str
) -> None:
    (tmp_path / "image.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(ValueError, match=message):
        train({**models, "image": str(tmp_path / "image.json")}[kind], tmp_path / "out", **changes)


def test_a_run_that_ends_before_the_discriminators_start_says_so(
    models: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(models["triplane"], tmp_path / "out", **JUDGED, disc_start=1, max_train_steps=1)
    assert "ends after 1 updates, before the adversarial losses set in" in caplog.text
