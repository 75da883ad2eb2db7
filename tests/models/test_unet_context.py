"""Given frames reach the temporal layers: silent in a new model, heard in a trained one, never from other places."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusers_video.layers.context_embedding import ContextEmbedding, mask_context
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel

from ..tiny_models import UNET2D_FAMILIES, image_inputs, shake_temporal_layers, tiny_unet2d, video_inputs


SLOW = pytest.mark.slow


def context_unet(family: str = "sd15", preset: str = "light", **options: object) -> UNetVideoConditionModel:
    channels = tiny_unet2d(family).config.out_channels + 1
    options = {"context_channels": channels, **options}
    return UNetVideoConditionModel.from_unet2d(tiny_unet2d(family), preset, **options)


def context_inputs(unet: UNetVideoConditionModel, num_given: int = 2, **sizes: int) -> dict[str, object]:
    """Inputs with the first frames given."""
    inputs = video_inputs(unet, **sizes)
    batch_size, _, num_frames, *size = inputs["sample"].shape
    shape = (batch_size, unet.config.context_channels - 1, num_frames, *size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    return {
        **inputs,
        "context_latents": latents,
        "frame_mask": torch.arange(num_frames).lt(num_given).repeat(batch_size, 1),
    }


@pytest.mark.parametrize(
    "family",
    [name if name in ("sd15", "sdxl", "k_upscaler") else pytest.param(name, marks=SLOW) for name in UNET2D_FAMILIES],
)
@torch.no_grad()
def test_a_new_model_with_context_draws_each_frame_as_the_image_unet(family: str) -> None:
    unet2d, unet = tiny_unet2d(family), context_unet(family)
    inputs = video_inputs(unet2d, 1, 3)
    got = unet(**context_inputs(unet, batch_size=1, num_frames=3)).sample.transpose(1, 2).flatten(0, 1)
    assert torch.equal(got, unet2d(**image_inputs(inputs)).sample)


@pytest.mark.parametrize("preset", ["light", "videoldm"])
@torch.no_grad()
def test_trained_temporal_layers_go_on_unchanged_in_a_model_with_context(preset: str, tmp_path: Path) -> None:
    plain = shake_temporal_layers(UNetVideoConditionModel.from_unet2d(tiny_unet2d(), preset))
    plain.save_temporal_layers(tmp_path)
    unet = context_unet(preset=preset)
    report = unet.load_temporal_layers(tmp_path, strict=False)
    assert report.missing and all("context" in name for name in report.missing) and not report.unexpected
    given = context_inputs(unet)
    assert torch.equal(unet(**given).sample, plain(**video_inputs(unet)).sample)


@torch.no_grad()
def test_a_new_model_answers_alike_with_and_without_context() -> None:
    unet = context_unet()
    given = context_inputs(unet)
    assert torch.equal(unet(**given).sample, unet(**video_inputs(unet)).sample)


@torch.no_grad()
def test_no_given_frame_is_the_same_as_no_context_in_a_trained_model() -> None:
    unet = shake_temporal_layers(context_unet())
    none_given = context_inputs(unet, num_given=0)
    assert torch.equal(unet(**none_given).sample, unet(**video_inputs(unet)).sample)


@torch.no_grad()
def test_a_trained_model_hears_given_frames_and_the_mask_and_no_other_place() -> None:
    unet = shake_temporal_layers(context_unet())
    given = context_inputs(unet)
    want = unet(**given).sample
    moved = given["context_latents"].clone()
    moved[:, :, 2] += 1  # not given
    assert torch.equal(unet(**{**given, "context_latents": moved}).sample, want)
    moved[1, :, 0] += 1  # given, of the second video
    got = unet(**{**given, "context_latents": moved}).sample
    assert torch.equal(got[0], want[0]) and not torch.isclose(got[1], want[1]).all()
    zeros = torch.zeros_like(given["context_latents"])
    blank = [unet(**{**given, "context_latents": zeros, "frame_mask": mask}).sample for mask in masks(given)]
    assert not torch.isclose(*blank).all()


def masks(given: dict[str, object]) -> tuple[Tensor, Tensor]:
    return given["frame_mask"], ~given["frame_mask"]


@torch.no_grad()
def test_what_stands_at_other_places_may_even_be_no_number() -> None:
    unet = shake_temporal_layers(context_unet())
    given = context_inputs(unet)
    want = unet(**given).sample
    given["context_latents"][:, :, 2] = torch.nan
    assert torch.equal(unet(**given).sample, want)


@pytest.mark.parametrize(
    "family", ["sd15", "if_simple", pytest.param("sdxl", marks=SLOW), pytest.param("k_upscaler", marks=SLOW)]
)
def test_every_temporal_parameter_learns_from_the_third_step_on(family: str) -> None:
    unet = context_unet(family, preset="videoldm")
    unet.freeze_spatial_layers()
    given = context_inputs(unet, batch_size=1, num_frames=5)
    target = torch.randn(unet(**given).sample.shape)
    optimizer = torch.optim.SGD(unet.temporal_parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        (unet(**given).sample - target).square().mean().backward()
        optimizer.step()
    for name, parameter in unet.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == is_temporal(name), name


def test_checkpointing_gives_the_same_gradients() -> None:
    unet = shake_temporal_layers(context_unet(preset="videoldm")).train()
    given = context_inputs(unet)
    gradients = []
    for is_checkpointed in (False, True):
        unet.zero_grad()
        if is_checkpointed:
            unet.enable_gradient_checkpointing()
        unet(**given).sample.square().mean().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in unet.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@torch.no_grad()
def test_images_do_not_hear_the_context() -> None:
    unet2d, unet = tiny_unet2d(), shake_temporal_layers(context_unet())
    given = context_inputs(unet)
    got = unet(**given, image_only=torch.tensor([True, True])).sample.transpose(1, 2).flatten(0, 1)
    assert torch.equal(got, unet2d(**image_inputs(video_inputs(unet2d))).sample)


@pytest.mark.parametrize("family", ["sd15", "k_upscaler"])
@torch.no_grad()
def test_odd_sizes_are_fitted(family: str) -> None:
    unet = shake_temporal_layers(context_unet(family), scale=0.02)
    size = 7 if family == "sd15" else 24
    assert torch.isfinite(unet(**context_inputs(unet, batch_size=1, size=size)).sample).all()


@pytest.mark.slow
def test_one_graph_serves_inference_and_training() -> None:
    smallest = {
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    }
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(**smallest), "light", context_channels=5)
    shake_temporal_layers(unet)
    torch.compiler.reset()
    fast = copy.deepcopy(unet)
    fast.compile(fullgraph=True, backend="eager")
    given = context_inputs(unet)
    torch.testing.assert_close(fast(**given).sample, unet(**given).sample, atol=2e-5, rtol=1e-4)
    fast(**given).sample.sum().backward()
    assert all(parameter.grad is not None for parameter in fast.temporal_parameters())


@torch.no_grad()
def test_a_saved_model_hears_the_same(tmp_path: Path) -> None:
    unet = shake_temporal_layers(context_unet())
    unet.save_pretrained(tmp_path / "whole")
    unet.save_temporal_layers(tmp_path / "temporal")
    other = context_unet()
    assert other.load_temporal_layers(tmp_path / "temporal").is_complete
    given = context_inputs(unet)
    for copied in (other, UNetVideoConditionModel.from_pretrained(tmp_path / "whole")):
        assert torch.equal(copied(**given).sample, unet(**given).sample)


@torch.no_grad()
def test_half_precision_and_channels_last_stay_close() -> None:
    unet = shake_temporal_layers(context_unet())
    given = context_inputs(unet)
    want = unet(**given).sample
    torch.testing.assert_close(copy.deepcopy(unet).to(memory_format=torch.channels_last)(**given).sample, want)
    cast = {name: value.bfloat16() if value.is_floating_point() else value for name, value in given.items()}
    cast["context_latents"] = given["context_latents"]  # of another type than the model
    got = unet.to(torch.bfloat16)(**cast).sample
    assert got.dtype is torch.bfloat16
    assert (got.float() - want).abs().max() < 0.1 * want.abs().max()


def test_maps_are_halved_level_by_level() -> None:
    maps = ContextEmbedding(5, (8, 16, 24))(torch.randn(6, 5, 12, 10))
    assert [tuple(one.shape) for one in maps] == [(6, 8, 12, 10), (6, 16, 6, 5), (6, 24, 3, 3)]


def test_the_mask_stands_behind_the_masked_latents() -> None:
    like, latents = torch.zeros(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    context = mask_context(latents, mask, like, 4).unflatten(0, (2, 3))
    for video in range(2):
        for frame in range(3):
            assert torch.equal(context[video, frame, :4], latents[video, :, frame] * mask[video, frame])
            assert torch.equal(context[video, frame, 4], mask[video, frame].float().expand(2, 2))


BAD_CALLS = [
    ({"frame_mask": None}, "must be given together"),
    ({"context_latents": None}, "must be given together"),
    ({"context_latents": torch.zeros(2, 5, 3, 8, 8)}, "`context_latents` must have the shape"),
    ({"context_latents": torch.zeros(2, 4, 2, 8, 8)}, "`context_latents` must have the shape"),
    ({"frame_mask": torch.zeros(2, 3)}, "`frame_mask` must be a boolean tensor"),
    ({"frame_mask": torch.zeros(3, dtype=torch.bool)}, "`frame_mask` must be a boolean tensor"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_CALLS)
def test_wrong_context_is_refused(changes: dict[str, object], message: str) -> None:
    unet = context_unet()
    with pytest.raises(ValueError, match=message):
        unet(**{**context_inputs(unet), **changes})


def test_a_model_without_context_refuses_it_and_keeps_no_map() -> None:
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "light")
    clips = []
    unet.mid_block.resnets[0].register_forward_pre_hook(lambda _, arguments: clips.append(arguments[1]))
    unet(**video_inputs(unet))
    assert clips[0].context is None and unet.context_embedding is None
    with pytest.raises(ValueError, match="reads no given frames"):
        unet(**context_inputs(context_unet()))


@pytest.mark.parametrize("options", [{"context_channels": 1}, {"temporal_conv": False, "temporal_attention": "none"}])
def test_context_that_nothing_would_read_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="`context_channels` must be at least 2"):
        context_unet(**options)
