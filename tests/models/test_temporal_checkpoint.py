"""Temporal layers saved alone fit another image model of the same shape, and say what does not fit."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from tests.tiny_models import shake_temporal_layers, tiny_unet2d, video_inputs


def trained(seed: int = 0, preset: str = "videoldm") -> UNetVideoConditionModel:
    return shake_temporal_layers(UNetVideoConditionModel.from_unet2d(tiny_unet2d(seed=seed), preset))


@torch.no_grad()
def test_temporal_layers_move_onto_another_image_model(tmp_path: Path) -> None:
    first = trained()
    other2d = tiny_unet2d(seed=7)
    other = UNetVideoConditionModel.from_unet2d(other2d)
    report = other.load_temporal_layers(first.save_temporal_layers(tmp_path / "motion"))
    assert report.is_complete
    state = other.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(state[name], tensor if is_temporal(name) else other2d.state_dict()[name])
    inputs = video_inputs(first)
    assert not torch.equal(first(**inputs).sample, other(**inputs).sample)


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


def test_the_weights_of_a_whole_video_model_are_accepted(tmp_path: Path) -> None:
    unet = trained()
    unet.save_pretrained(tmp_path)
    other = UNetVideoConditionModel.from_unet2d(tiny_unet2d(seed=3))
    assert other.load_temporal_layers(tmp_path / "diffusion_pytorch_model.safetensors").is_complete


def test_a_file_of_other_options_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = trained().save_temporal_layers(tmp_path)
    light = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "light")
    before = {name: tensor.clone() for name, tensor in light.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit this model: .* unknown to the model"):
        light.load_temporal_layers(path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in light.state_dict().items())


def test_what_matches_is_loaded_on_request_and_reported(tmp_path: Path) -> None:
    path = trained(preset="light").save_temporal_layers(tmp_path)
    tensors = load_file(path)
    name = "mid_block.attentions.0.temporal_transformer_blocks.0.attn1.to_q.weight"
    tensors[name] = tensors[name][:4].clone()
    save_file(tensors, path)
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d())
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
