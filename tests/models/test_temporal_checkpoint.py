"""Temporal layers saved alone fit another image model of the same shape, and say what does not fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.autoencoder_kl_video import AutoencoderKLVideo
from diffusers_video.models.temporal_checkpoint import read_temporal_options
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from tests.tiny_models import image_inputs, shake_temporal_layers, tiny_unet2d, video_inputs


def trained(seed: int = 0, preset: str = "videoldm") -> UNetVideoConditionModel:
    return shake_temporal_layers(UNetVideoConditionModel.from_unet2d(tiny_unet2d(seed=seed), preset))


@torch.no_grad()
def test_temporal_layers_move_onto_another_image_model(tmp_path: Path) -> None:
    first = trained()
    other2d = tiny_unet2d(seed=7)
    other = UNetVideoConditionModel.from_unet2d(other2d, "videoldm")
    report = other.load_temporal_layers(first.save_temporal_layers(tmp_path / "motion"))
    assert report.is_complete
    state = other.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(state[name], tensor if is_temporal(name) else other2d.state_dict()[name])
    inputs = video_inputs(first)
    assert not torch.equal(first(**inputs).sample, other(**inputs).sample)


def moved(tmp_path: Path, family: str, **options: object) -> tuple[UNetVideoConditionModel, UNetVideoConditionModel]:
    """A model with trained temporal layers, and a second one on another image model that was given them."""
    first = shake_temporal_layers(UNetVideoConditionModel.from_unet2d(tiny_unet2d(family), **options))
    second = UNetVideoConditionModel.from_unet2d(tiny_unet2d(family, seed=7), **options)
    assert second.load_temporal_layers(first.save_temporal_layers(tmp_path)).is_complete
    return first, second


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("number", [None, "fps"])
@torch.no_grad()
def test_images_of_moved_temporal_layers_are_the_second_image_models_own(
    family: str, number: str | None, tmp_path: Path
) -> None:
    _, unet = moved(tmp_path, family, added_time_ids=[number] if number else [])
    inputs = video_inputs(unet, 2, 3)
    numbers = {number: torch.tensor([7.0, 30.0])} if number else {}
    got = unet(**inputs, **numbers, image_only=torch.tensor([True, True])).sample
    want = tiny_unet2d(family, seed=7)(**image_inputs(inputs)).sample
    assert torch.equal(got.transpose(1, 2).flatten(0, 1), want)
    assert not torch.isclose(unet(**inputs, **numbers).sample, got).all()


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@torch.no_grad()
def test_moved_temporal_layers_do_as_in_a_model_put_together_by_hand(family: str, tmp_path: Path) -> None:
    first, second = moved(tmp_path, family)
    state = {name: tensor for name, tensor in first.state_dict().items() if is_temporal(name)}
    state |= tiny_unet2d(family, seed=7).state_dict()
    by_hand = UNetVideoConditionModel.from_config(first.config).eval()
    by_hand.load_state_dict(state)
    inputs = video_inputs(second, 1, 4)
    assert torch.equal(second(**inputs).sample, by_hand(**inputs).sample)


def test_the_file_holds_temporal_layers_only_and_says_what_it_is(tmp_path: Path) -> None:
    unet = trained()
    path = unet.save_temporal_layers(tmp_path / "motion.safetensors")
    assert path == tmp_path / "motion.safetensors"
    assert all(is_temporal(name) for name in load_file(path))
    assert len(load_file(path)) == len(list(unet.temporal_parameters()))
    with safe_open(path, "pt") as file:
        assert file.metadata()["kind"] == "diffusers_video.temporal_layers"
        assert '"temporal_attention": "full"' in file.metadata()["options"]
    assert list(tmp_path.iterdir()) == [path]


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    model = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "videoldm")
    contents = {model.save_temporal_layers(tmp_path / str(number)).read_bytes() for number in range(4)}
    assert len(contents) == 1
    with safe_open(tmp_path / "0" / "temporal_layers.safetensors", "pt") as file:
        assert list(json.loads(file.metadata()["options"])) == sorted(model.temporal_options)


def test_the_weights_of_a_whole_video_model_are_accepted(tmp_path: Path) -> None:
    unet = trained()
    unet.save_pretrained(tmp_path)
    other = UNetVideoConditionModel.from_unet2d(tiny_unet2d(seed=3), "videoldm")
    assert other.load_temporal_layers(tmp_path / "diffusion_pytorch_model.safetensors").is_complete


def test_a_file_of_other_options_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = trained().save_temporal_layers(tmp_path)
    light = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "light")
    before = {name: tensor.clone() for name, tensor in light.state_dict().items()}
    message = "do not fit this model: they are of preset 'videoldm', and the model is of preset 'light'.* unknown to"
    with pytest.raises(ValueError, match=message):
        light.load_temporal_layers(path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in light.state_dict().items())


@pytest.mark.parametrize("option", [{"temporal_attention": "causal"}, {"temporal_norm_eps": 1e-6}])
def test_a_file_of_equal_shapes_and_another_meaning_is_refused(option: dict[str, object], tmp_path: Path) -> None:
    path = trained().save_temporal_layers(tmp_path)
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "videoldm", **option)
    (name, value), recorded = *option.items(), unet.from_unet2d(tiny_unet2d(), "videoldm").config
    with pytest.raises(ValueError, match=f"`{name}` is {recorded[name]} in the file and {value} in the model"):
        unet.load_temporal_layers(path)
    report = unet.load_temporal_layers(path, strict=False)
    assert report.options == {f"`{name}`": (recorded[name], value)}
    assert not (report.missing or report.unexpected or report.mismatched or report.is_complete)


def test_a_file_of_other_heads_is_refused_though_every_shape_fits(tmp_path: Path) -> None:
    path = trained().save_temporal_layers(tmp_path)
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(attention_head_dim=4), "videoldm")
    assert [tensor.shape for tensor in unet.parameters()] == [tensor.shape for tensor in trained().parameters()]
    with pytest.raises(ValueError, match=r"number of heads of `.*attn1` is 2 in the file and 4 in the model"):
        unet.load_temporal_layers(path)


def test_the_farthest_frame_may_differ(tmp_path: Path) -> None:
    path = trained().save_temporal_layers(tmp_path)
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "videoldm", temporal_max_distance=2)
    assert unet.load_temporal_layers(path).is_complete and unet.config.temporal_max_distance == 2


def test_a_file_of_another_shape_is_refused_naming_layer_and_shapes(tmp_path: Path) -> None:
    path = trained().save_temporal_layers(tmp_path)
    wide = UNetVideoConditionModel.from_unet2d(tiny_unet2d(cross_attention_dim=24), "videoldm")
    message = (
        r"`down_blocks.*temporal_transformer_blocks.0.attn2.to_k.weight` is \(8, 12\) in the file and \(8, 24\) in"
    )
    with pytest.raises(ValueError, match=message):
        wide.load_temporal_layers(path)
    big = UNetVideoConditionModel.from_unet2d(tiny_unet2d(block_out_channels=(12, 20)), "videoldm")
    with pytest.raises(
        ValueError, match=r"temporal_transformer_blocks.0.norm_in.weight` is \(8,\) in the file and \(12,\) in the m"
    ):
        big.load_temporal_layers(path)


def test_what_matches_is_loaded_on_request_and_reported(tmp_path: Path) -> None:
    path = trained(preset="light").save_temporal_layers(tmp_path)
    tensors = load_file(path)
    name = "mid_block.attentions.0.temporal_transformer_blocks.0.attn1.to_q.weight"
    tensors[name] = tensors[name][:4].clone()
    save_file(tensors, path)
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "videoldm")
    report = unet.load_temporal_layers(path, strict=False)
    assert report.mismatched == {name: ((4, 16), (16, 16))}
    assert "mid_block.attentions.0.temporal_transformer_blocks.0.ff.net.2.bias" in report.missing
    assert not report.unexpected
    assert not report.is_complete
    assert all(torch.equal(unet.state_dict()[key], tensors[key]) for key in report.matched)


def test_wrong_files_are_refused_with_a_clear_error(tmp_path: Path) -> None:
    unet = trained()
    with pytest.raises(FileNotFoundError, match="`path` must name a file of temporal layers"):
        unet.load_temporal_layers(tmp_path / "nothing")
    broken = unet.save_temporal_layers(tmp_path / "broken.safetensors")
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(ValueError, match="must name a whole safetensors file"):
        unet.load_temporal_layers(broken)
    save_file(tiny_unet2d().state_dict(), tmp_path / "image.safetensors")
    with pytest.raises(ValueError, match="none fit"):
        unet.load_temporal_layers(tmp_path / "image.safetensors")


def test_options_are_read_from_files_that_hold_them(tmp_path: Path) -> None:
    unet = trained(preset="light")
    assert read_temporal_options(unet.save_temporal_layers(tmp_path)) == {
        name: list(value) if isinstance(value, tuple) else value for name, value in unet.temporal_options.items()
    }
    unet.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="does not say what its tensors are.*`UNetVideoConditionModel.from_pretrain"):
        read_temporal_options(tmp_path / "whole" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(FileNotFoundError, match="`save_temporal_layers`"):
        read_temporal_options(tmp_path / "whole")


def test_temporal_layers_of_an_autoencoder_are_refused_by_name(tmp_path: Path) -> None:
    vae = AutoencoderKLVideo(block_out_channels=(8,), norm_num_groups=4)
    path = vae.save_temporal_layers(tmp_path)
    with pytest.raises(ValueError, match="of a `UNetVideoConditionModel`, but .* those of a `AutoencoderKLVideo`"):
        read_temporal_options(path)
    with pytest.raises(ValueError, match="none fit: they are those of a `AutoencoderKLVideo`"):
        trained().load_temporal_layers(path)


def test_a_model_without_temporal_layers_has_nothing_to_save(tmp_path: Path) -> None:
    off = {"temporal_conv": False, "temporal_attention": "none", "temporal_cross_attention": False}
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), **off, temporal_feed_forward=False)
    with pytest.raises(ValueError, match="no temporal layers to save"):
        unet.save_temporal_layers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained().save_temporal_layers(tmp_path)
    before = path.read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        Path(args[1]).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("diffusers_video.models.temporal_checkpoint.safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        trained(seed=5).save_temporal_layers(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
