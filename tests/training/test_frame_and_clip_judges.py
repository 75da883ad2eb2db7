"""The discriminators of PVDM against its numbers, and the losses they are trained with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusers_video.conversion.pvdm_original import discriminator_weights
from diffusers_video.models.discriminators import PatchFeatureDiscriminator
from diffusers_video.training.frame_and_clip_judges import (
    feature_matching_loss,
    fooling_loss,
    judging_loss,
    pick_frames,
)


def discriminators(tensors: dict[str, Tensor], base_channels: int) -> list[PatchFeatureDiscriminator]:
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    models = [PatchFeatureDiscriminator(base_channels=base_channels, num_dims=number) for number in (2, 3)]
    for number, model in enumerate(models, start=2):
        model.load_state_dict(discriminator_weights(weights, number))
    return models


def judge(models: list[PatchFeatureDiscriminator], videos: Tensor, indices: Tensor) -> list:
    return [model(part) for model, part in zip(models, (pick_frames(videos, indices), videos), strict=True)]


def test_golden_judgements_and_losses_of_pvdm(load_golden: Callable) -> None:
    tensors, config = load_golden("pvdm_discriminators")
    models = discriminators(tensors, config["constructor"]["disc_ndf"])
    videos, reconstructions = tensors["inputs.video"], tensors["inputs.reconstruction"]
    indices = tensors["inputs.frame_index"].long()
    close = {"rtol": 0, "atol": 1e-5}
    for mode in ("eval", "train"):
        for model in models:
            model.train(mode == "train")
        with torch.no_grad():
            of_real, of_made = (judge(models, sample, indices) for sample in (videos, reconstructions))
        if mode == "eval":
            for side, judgements in (("real", of_real), ("fake", of_made)):
                for number, judgement in enumerate(judgements, start=2):
                    torch.testing.assert_close(judgement.logits, tensors[f"outputs.{side}.logits_{number}d"], **close)
                    for index, feature in enumerate(judgement.features):
                        want = tensors[f"outputs.{side}.feat_{number}d.{index}"]
                        torch.testing.assert_close(feature, want, **close)
        loss = 4 * (reconstructions - videos).abs().mean() + fooling_loss(of_made, of_real)
        torch.testing.assert_close(loss, tensors[f"outputs.generator_loss_{mode}"].squeeze(), **close)
        loss = judging_loss(of_made, of_real)
        torch.testing.assert_close(loss, tensors[f"outputs.discriminator_loss_{mode}"], **close)


def test_only_reconstructions_get_gradients_from_features() -> None:
    model = PatchFeatureDiscriminator(base_channels=4).eval()
    made, real = (torch.randn(2, 3, 16, 16, requires_grad=True) for _ in range(2))
    feature_matching_loss(model(made), model(real)).backward()
    assert made.grad.any() and real.grad is None
    assert feature_matching_loss(model(made), model(made)).item() == 0


def test_frames_are_picked_one_of_each_clip() -> None:
    videos = torch.arange(2 * 3).reshape(2, 1, 3, 1, 1).float()
    assert pick_frames(videos, torch.tensor([2, 0])).flatten().tolist() == [2, 3]


@pytest.mark.parametrize(("num_dims", "shape"), [(2, (2, 1, 20, 12)), (3, (2, 1, 4, 20, 12))])
def test_it_saves_and_loads_with_every_option(num_dims: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    options = {"in_channels": 1, "base_channels": 2, "num_layers": 2, "num_dims": num_dims}
    model = PatchFeatureDiscriminator(**options).eval()
    model.save_pretrained(tmp_path)
    loaded = PatchFeatureDiscriminator.from_pretrained(tmp_path)
    assert {name: loaded.config[name] for name in options} == options
    sample = torch.randn(shape)
    got, want = loaded(sample), model(sample)
    assert torch.equal(got.logits, want.logits) and len(got.features) == 3


def test_bad_options_and_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="`num_dims` must be 2 for images or 3 for clips, but is 1"):
        PatchFeatureDiscriminator(num_dims=1)
    for name in ("num_layers", "base_channels"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, but is 0"):
            PatchFeatureDiscriminator(**{name: 0})
    with pytest.raises(ValueError, match=r"`sample` must have the shape .*num_frames, height, width\) for a"):
        PatchFeatureDiscriminator(base_channels=2, num_dims=3)(torch.zeros(1, 3, 8, 8))
