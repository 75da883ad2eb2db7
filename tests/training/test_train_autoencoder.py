"""The script of autoencoders: it learns, sets the scale of its latents, goes on exactly, refuses what it cannot do."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import load_file

from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.training.autoencoder_config import AutoencoderConfig
from diffusers_video.training.reconstruction import (
    FrameAutoencoder,
    heldout_reconstruction,
    reconstruction_loss,
    zero_init_residuals,
)
from diffusers_video.training.run_start import run_identity
from diffusers_video.training.train_autoencoder import load_autoencoder, main

from .tiny_runs import ModelFolder, assert_equal_tensors, losses, read_log


WEIGHTS = "diffusion_pytorch_model.safetensors"
NEW = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 1,
    "mid_block_add_attention": False,
}


@pytest.fixture
def new_model(tmp_path: Path) -> str:
    path = tmp_path / "vae.json"
    path.write_text(json.dumps(NEW))
    return str(path)


def settings(model: str, output_dir: Path, **changes: object) -> dict[str, object]:
    return {
        "model_config_name_or_path": model,
        "train_data_dir": "shapes",
        "output_dir": str(output_dir),
        "resolution": 16,
        "num_shapes_clips": 8,
        "num_heldout_clips": 2,
        "train_batch_size": 4,
        "max_train_steps": 4,
        "checkpointing_steps": 0,
        "learning_rate": 3e-3,
        **changes,
    }


def train(model: str, output_dir: Path, **changes: object) -> Path:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    main(AutoencoderConfig(**settings(model, output_dir, **changes)))
    return output_dir


def test_frames_are_reconstructed_better(new_model: str, tmp_path: Path) -> None:
    out = train(new_model, tmp_path / "out", max_train_steps=40, rec_loss="l1+l2", zero_init_residuals=True)
    first, last = (line for line in read_log(out) if "heldout_loss" in line)
    assert last["heldout_loss"] < 0.6 * first["heldout_loss"]
    assert last["heldout_psnr"] > first["heldout_psnr"] + 3


def test_latents_have_unit_variance_at_the_scale_that_is_saved(new_model: str, tmp_path: Path) -> None:
    vae = AutoencoderKL.from_pretrained(train(new_model, tmp_path / "out", num_scaling_images=8))
    frames = torch.stack(
        [ShapesDataset(8, num_frames=1, height=16, width=16)[index]["pixel_values"][:, 0] for index in range(8)]
    )
    with torch.no_grad():
        posterior = vae.encode(frames).latent_dist
        deviation = (posterior.var.mean() + posterior.mean.var()).sqrt().item()
    assert vae.config.scaling_factor * deviation == pytest.approx(1, rel=0.05)
    assert (
        vae.config.scaling_factor
        != AutoencoderKL(**{k: v for k, v in NEW.items() if k[0] != "_"}).config.scaling_factor
    )


def test_resumed_run_equals_an_uninterrupted_one(new_model: str, tmp_path: Path) -> None:
    whole = train(new_model, tmp_path / "whole", use_ema=True, channels_last=True)
    for options in ({"max_train_steps": 2}, {"resume_from_checkpoint": "latest"}):
        parts = train(new_model, tmp_path / "parts", use_ema=True, channels_last=True, **options)
    assert losses(whole) == losses(parts)
    assert_equal_tensors(load_file(whole / WEIGHTS), load_file(parts / WEIGHTS))


def test_the_autoencoder_of_a_pipeline_goes_on(image_model: ModelFolder, tmp_path: Path) -> None:
    model = image_model("sd15")
    before = load_file(Path(model) / "vae" / WEIGHTS)
    options = {"model_config_name_or_path": None, "pretrained_model_name_or_path": model, "num_frames": 2}
    out = train(model, tmp_path / "out", **options, max_train_steps=1)
    after = load_file(out / WEIGHTS)
    assert before.keys() == after.keys()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_decoder_alone_trains_and_the_latents_stay(new_model: str, tmp_path: Path) -> None:
    first = train(new_model, tmp_path / "first", max_train_steps=1)
    options = {"model_config_name_or_path": None, "pretrained_model_name_or_path": str(first), "train": "decoder"}
    second = train(
        new_model, tmp_path / "second", **options, max_train_steps=3, adam_weight_decay=0.1, num_shapes_clips=4
    )
    before, after = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {name for name in before if name.startswith("decoder.")}
    scales = [AutoencoderKL.load_config(folder)["scaling_factor"] for folder in (first, second)]
    assert scales[0] == scales[1]
    line = next(line for line in read_log(second) if "heldout_loss" in line)
    assert line["heldout_loss"] == read_log(first)[-1]["heldout_loss"]


def test_checkpoints_from_before_a_decoder_could_be_trained_alone_still_fit(new_model: str, tmp_path: Path) -> None:
    config = AutoencoderConfig(**settings(new_model, tmp_path))
    vae = load_autoencoder(config)
    dataset = ShapesDataset(2, num_frames=1, height=16, width=16)
    assert "train" not in run_identity(config, vae, dataset, 1)
    options = {"model_config_name_or_path": None, "pretrained_model_name_or_path": "vae", "train": "decoder"}
    assert (
        run_identity(AutoencoderConfig(**settings(None, tmp_path, **options)), vae, dataset, 1)["train"] == "decoder"
    )


def test_new_residual_blocks_add_nothing(new_model: str, tmp_path: Path) -> None:
    config = AutoencoderConfig(**settings(new_model, tmp_path, zero_init_residuals=True))
    blocks = [module for module in load_autoencoder(config).modules() if isinstance(module, ResnetBlock2D)]
    same = [block for block in blocks if block.conv_shortcut is None]
    assert same
    for block in same:
        images = torch.randn(1, block.in_channels, 4, 4)
        assert torch.equal(block(images, None), images)


def test_heldout_clips_are_measured_as_pictures_that_are_shown() -> None:
    clips = [{"pixel_values": torch.zeros(3, 2, 4, 4)}, {"pixel_values": torch.zeros(3, 1, 4, 4)}]
    made = {2: torch.tensor([0.2, 5.0]), 1: torch.tensor([0.2])}  # 5 is shown as 1

    def reconstruct(videos: torch.Tensor) -> torch.Tensor:
        return made[videos.shape[2]].view(-1, 1, 1).expand(videos.shape)

    found = heldout_reconstruction(reconstruct, lambda made, videos: made.mean(), clips, torch.device("cpu"))
    psnrs = {"small": 20.0, "large": 6.0206}  # 20 log10(2 / error)
    assert found["heldout_psnr"] == pytest.approx(
        ((psnrs["small"] + psnrs["large"]) / 2 + psnrs["small"]) / 2, abs=1e-4
    )
    assert found["heldout_flicker"] == pytest.approx(0.8)
    assert found["heldout_loss"] == pytest.approx((2.6 + 0.2) / 2)


def test_losses_of_a_known_error() -> None:
    images, reconstructions = torch.zeros(4), torch.tensor([0.5, -0.5, 1.0, 0.0])
    values = [reconstruction_loss(reconstructions, images, kind).item() for kind in ("l1", "l2", "l1+l2")]
    assert values == [0.5, 0.375, 0.875]


def test_divergence_is_that_of_the_textbook() -> None:
    vae = AutoencoderKL(**{name: value for name, value in NEW.items() if name[0] != "_"})
    zero_init_residuals(vae)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    posterior = vae.encode(images).latent_dist
    mean, var = posterior.mean, posterior.var
    expected = 0.5 * (mean**2 + var - 1 - var.log()).sum((1, 2, 3))
    assert torch.allclose(FrameAutoencoder(vae)(images)[1], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rec_loss": "l3"}, "`rec_loss` must be one of"),
        ({"kl_scale": -1.0}, "`kl_scale` must be at least 0"),
        ({"train": "encoder"}, "`train` must be one of"),
        ({"train": "decoder"}, "`train=decoder` keeps the encoder of a trained model"),
        ({"pretrained_model_name_or_path": "other"}, "Either `pretrained_model_name_or_path` or"),
        ({"model_config_name_or_path": None}, "Either `pretrained_model_name_or_path` or"),
        ({"num_scaling_images": 1}, "`num_scaling_images` must be at least 2"),
        ({"resolution": 17}, "must be multiples of 2"),
        ({"model_config_name_or_path": "./missing.json"}, "'./missing.json' is missing"),
    ],
)
def test_bad_settings_are_refused(new_model: str, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(new_model, tmp_path / "out", **changes)


def test_a_trained_model_is_not_set_back(tmp_path: Path) -> None:
    options = settings(None, tmp_path, pretrained_model_name_or_path="vae", zero_init_residuals=True)
    with pytest.raises(ValueError, match="`zero_init_residuals` is for new models"):
        AutoencoderConfig(**options)


@pytest.mark.parametrize("changes", [{"kl_scale": 1e-3}, {"num_scaling_images": 2}])
def test_what_belongs_to_new_latents_is_refused_where_they_stay(tmp_path: Path, changes: dict[str, float]) -> None:
    options = settings(None, tmp_path, pretrained_model_name_or_path="vae", train="decoder", **changes)
    with pytest.raises(ValueError, match=f"`{next(iter(changes))}` has no effect with `train=decoder`"):
        AutoencoderConfig(**options)


def test_other_autoencoders_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vae.json"
    path.write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    with pytest.raises(ValueError, match="must describe one of AutoencoderKL, .*, but describes a `AutoencoderTiny`"):
        train(str(path), tmp_path / "out")


def test_packed_latents_are_refused(new_model: str, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="trains on pixels"):
        train(new_model, tmp_path / "out", train_data_dir=str(tmp_path / "packed"))
