"""Checkpoints of PVDM: converted, they compute what they did; all others are refused by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusers_video import AutoencoderTriplane, PairedDDIMScheduler, UNetTriplaneModel
from diffusers_video.conversion.pvdm import convert_pvdm, find_pvdm_files, load_pvdm_autoencoder, load_pvdm_unet
from diffusers_video.conversion.pvdm_original import unet_options

from ..tiny_triplane import LATENT_SIZE, tiny_autoencoder_triplane, tiny_unet_triplane
from .pvdm_names import original_autoencoder, original_unet


NUM_POSITIONS = sum(LATENT_SIZE.lengths)


def tiny_pvdm_unet(**options: object) -> UNetTriplaneModel:
    """With the groups of the original code, which are not in the weights."""
    return tiny_unet_triplane(**{"block_out_channels": (32, 32), "norm_num_groups": 32, **options})


def pvdm_autoencoder() -> AutoencoderTriplane:
    return tiny_autoencoder_triplane(plane_attention_head_dim=2)  # an eighth of the channels, as in the original


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the trainer of PVDM leaves behind: both models, and what is neither."""
    path = tmp_path_factory.mktemp("pvdm")
    torch.manual_seed(0)
    unet = original_unet(tiny_pvdm_unet(), NUM_POSITIONS)
    torch.save(original_autoencoder(pvdm_autoencoder()), path / "model_last.pth")
    torch.save({f"diffusion_model.{name}": value for name, value in unet.items()}, path / "ema_model_10.pth")
    plain = {f"module.diffusion_model.{name}": value + 1 for name, value in unet.items()}
    torch.save(plain, path / "model_10.pth")
    torch.save({"state": {}, "param_groups": []}, path / "opt.pth")
    torch.save({"discriminator_2d.model0.0.weight": torch.zeros(1)}, path / "loss_last.pth")
    (path / "log.txt").write_text("loss", encoding="utf-8")
    return path


def assert_same(got: nn.Module, want: nn.Module) -> None:
    assert got.state_dict().keys() == want.state_dict().keys()
    assert all(torch.equal(value, want.state_dict()[name]) for name, value in got.state_dict().items())
    assert not got.training


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_autoencoder_comes_back(prefix: str, suffix: str, tmp_path: Path) -> None:
    model, path = pvdm_autoencoder(), tmp_path / f"model{suffix}"
    weights = {prefix + name: value for name, value in original_autoencoder(model).items()}
    torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
    got = load_pvdm_autoencoder(path)
    assert_same(got, model)
    for name in model._get_init_keys(type(model)) - {"self"}:
        assert got.config[name] == model.config[name], name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_previous_clip": False},
        {"block_out_channels": (32, 64), "plane_attention": (False, True)},
        {"block_out_channels": (32, 32, 32), "plane_attention": (True, False, False), "layers_per_block": 2},
    ],
)
def test_a_unet_comes_back(options: dict[str, object], tmp_path: Path) -> None:
    model, path = tiny_pvdm_unet(**options), tmp_path / "ema_model.pth"
    zeros = NUM_POSITIONS if model.config.use_previous_clip else None
    torch.save({f"diffusion_model.{name}": value for name, value in original_unet(model, zeros).items()}, path)
    got = load_pvdm_unet(path, num_attention_heads=2, latent_size=LATENT_SIZE)
    assert_same(got, model)
    for name in model._get_init_keys(type(model)) - {"self"}:
        assert got.config[name] == model.config[name], name


def test_the_released_layout_is_told_from_its_shapes() -> None:
    with torch.device("meta"):
        model = UNetTriplaneModel()
    shapes = {name: tuple(value.shape) for name, value in original_unet(model, 2048).items()}
    options = unet_options(shapes, 8, (16, 32, 32))
    wanted = {**model.config, "sample_size": (32, 32)}
    assert {name: wanted[name] for name in options} == options


def test_a_folder_becomes_folders_of_its_models(folder: Path, tmp_path: Path) -> None:
    assert {kind: path.name for kind, path in find_pvdm_files(folder).items()} == {
        "vae": "model_last.pth",
        "unet": "ema_model_10.pth",
    }
    output, done = tmp_path / "out", []
    parts = convert_pvdm(
        folder, output, num_attention_heads=2, dtype=torch.float64, progress=lambda *now: done.append(now)
    )
    assert parts == ["vae", "unet", "scheduler"] and done == [(1, 2), (2, 2)]
    vae = AutoencoderTriplane.from_pretrained(output, subfolder="vae")
    unet = UNetTriplaneModel.from_pretrained(output, subfolder="unet")
    scheduler = PairedDDIMScheduler.from_pretrained(output, subfolder="scheduler")
    assert unet.latent_size == vae.latent_size == LATENT_SIZE and scheduler.config.beta_end == 0.0195
    assert unet.dtype == vae.dtype == torch.float32  # of the load, whatever was saved
    saved = load_pvdm_unet(folder / "ema_model_10.pth", num_attention_heads=2, latent_size=LATENT_SIZE)
    assert_same(unet, saved)


def damage(weights: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    if how == "missing":
        weights.pop("encoder.layers.1.0.norm.weight")
    elif how == "no depth":
        weights.pop("encoder.frame_rot_emb.inv_freqs")
    elif how == "left over":
        weights["encoder.layers.0.0.other"] = torch.zeros(1)
    elif how == "frequencies":
        weights["decoder.frame_rot_emb.inv_freqs"] *= 2
    elif how == "patch":
        weights["to_pixel.1.weight"] = torch.zeros(16, 3, 4, 4)
    return weights


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "must hold the weights of a AutoencoderTriplane and no others, but it lacks"),
        ("no depth", "lacks the weight 'encoder.frame_rot_emb.inv_freqs'"),
        ("left over", "but it has left over 'encoder.blocks.0.attn1.other'"),
        ("frequencies", "'decoder.frame_rot_emb.inv_freqs' must hold the frequencies of PVDM's code"),
        ("patch", "must cut and join patches of one size"),
    ],
)
def test_damaged_autoencoders_are_refused(how: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(damage(original_autoencoder(pvdm_autoencoder()), how), path)
    with pytest.raises(ValueError, match=message):
        load_pvdm_autoencoder(path)


def test_bad_calls_are_refused(folder: Path, tmp_path: Path) -> None:
    unet = folder / "ema_model_10.pth"
    with pytest.raises(FileNotFoundError, match="'.*nowhere' does not exist"):
        find_pvdm_files(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_pvdm_unet(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="`source` must hold a U-Net of PVDM"):
        load_pvdm_unet(folder / "model_last.pth")
    with pytest.raises(ValueError, match="`source` must hold an autoencoder of PVDM"):
        load_pvdm_autoencoder(unet)
    with pytest.raises(ValueError, match="has 2048 positions, but .* was made for 44"):
        load_pvdm_unet(unet, num_attention_heads=2)
    with pytest.raises(ValueError, match="must hold multiples of `num_attention_heads`=3"):
        load_pvdm_unet(unet, num_attention_heads=3, latent_size=LATENT_SIZE)
    with pytest.raises(ValueError, match="autoencoder or a U-Net of PVDM, but .* holds none"):
        find_pvdm_files(folder / "opt.pth")
    (tmp_path / "two").mkdir()
    for name in ("ema_1.pth", "ema_2.pth"):
        (tmp_path / "two" / name).write_bytes(unet.read_bytes())
    with pytest.raises(ValueError, match="holds 2 for 'unet': 'ema_1.pth', 'ema_2.pth'"):
        find_pvdm_files(tmp_path / "two")
    with pytest.raises(FileExistsError, match="`output` must be a new or empty folder"):
        convert_pvdm(folder, folder, num_attention_heads=2)
    with pytest.raises(ValueError, match="multiples of `num_attention_heads`=5"):
        convert_pvdm(folder, tmp_path / "out", num_attention_heads=5)
    assert not (tmp_path / "out").exists()
