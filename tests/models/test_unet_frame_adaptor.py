"""Weights per frame in the video U-Net: after every shared convolution, and through all that users do with it."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from diffusers.models.resnet import ResnetBlock2D
from peft import LoraConfig
from torch import Tensor

from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel

from ..tiny_models import UNET2D_FAMILIES, image_inputs, shake_temporal_layers, tiny_unet2d, video_inputs


TRAINED_FRAMES = 4
FAMILIES = [
    name if name in ("sd15", "k_upscaler", "if_simple") else pytest.param(name, marks=pytest.mark.slow)
    for name in UNET2D_FAMILIES
]


def magic_unet(family: str = "sd15", seed: int = 0, **options: object) -> UNetVideoConditionModel:
    """A model of the preset whose temporal layers do something, its scales not far from 1."""
    options = {"frame_adaptor": TRAINED_FRAMES, **options}
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(family, seed), "magicvideo", **options)
    shake_temporal_layers(unet)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith(".scale"):
                parameter.add_(1)
    return unet


def adaptors(unet: UNetVideoConditionModel) -> dict[str, Tensor]:
    return {name: value for name, value in unet.state_dict().items() if "adaptor" in name}


def fold(videos: Tensor) -> Tensor:
    return videos.transpose(1, 2).flatten(0, 1)


def test_every_convolution_of_stable_diffusion_inside_its_blocks_has_weights_per_frame() -> None:
    with torch.device("meta"):
        unet = UNetVideoConditionModel(cross_attention_dim=768, temporal_conv=False, frame_adaptor=16)
    shapes = {name: tuple(value.shape) for name, value in adaptors(unet).items()}
    assert all(len(shape) == 2 and shape[0] == 16 for shape in shapes.values()) and len(shapes) == 2 * (44 + 6)
    # 52 convolutions of 46,084 channels in all; those of the model's own input and output, 320 and 4, have none.
    assert sum(channels for _, channels in shapes.values()) == 2 * (46_084 - 324)
    assert all(is_temporal(name) for name in shapes)


def test_the_preset_has_as_many_temporal_weights_as_counted_by_hand() -> None:
    with torch.device("meta"):
        unet = UNetVideoConditionModel(
            cross_attention_dim=768,
            temporal_conv=False,
            temporal_cross_attention=False,
            temporal_feed_forward=False,
            temporal_attention="causal",
            mixing="residual",
        )
    attention = sum(p.numel() for name, p in unet.named_parameters() if "temporal_transformer_blocks" in name)
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    assert attention == sum(4 * width**2 + 3 * width for width in widths) and round(attention / 1e6, 1) == 49.6
    positions = sum(8 * width**2 + 5 * width for width in widths)
    assert sum(parameter.numel() for parameter in unet.temporal_parameters()) == attention + positions


@pytest.mark.parametrize("family", ["sd15", "if_simple", "k_upscaler"])
def test_adaptors_follow_convolutions_that_learn_and_no_others(family: str) -> None:
    unet = magic_unet(family)
    resnets = [name for name, module in unet.named_modules() if isinstance(module, ResnetBlock2D)]
    names = {name.rpartition(".")[0] for name in adaptors(unet)}
    samplers = {"sd15": {"sampler_adaptors.after_down_blocks_0", "sampler_adaptors.after_up_blocks_0"}}
    assert samplers.get(family, set()) == {name for name in names if name.startswith("sampler")}
    inside = {f"{name}.frame_adaptor.{place}" for name in resnets for place in ("after_conv1", "after_conv2")}
    assert {name for name in names if not name.startswith("sampler")} >= inside


@torch.no_grad()
def test_scales_behind_samplers_reach_the_next_block_and_the_skip_connection() -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d, "magicvideo", frame_adaptor=3)
    for kind in ("down", "up"):
        rows = unet.sampler_adaptors[f"after_{kind}_blocks_0"]
        torch.nn.init.normal_(rows.scale)
        torch.nn.init.normal_(rows.shift)
        # In the image model the same is done to the weights of the convolution, for each frame on its own.
        conv = getattr(getattr(unet2d, f"{kind}_blocks")[0], f"{kind}samplers")[0].conv
        conv.plain = (conv.weight.clone(), conv.bias.clone(), rows)
    inputs = video_inputs(unet2d, 2, 3)
    got = unet(**inputs).sample
    for frame in range(3):
        for kind in ("down", "up"):
            conv = getattr(getattr(unet2d, f"{kind}_blocks")[0], f"{kind}samplers")[0].conv
            weight, bias, rows = conv.plain
            conv.weight.copy_(weight * rows.scale[frame].view(-1, 1, 1, 1))
            conv.bias.copy_(bias * rows.scale[frame] + rows.shift[frame])
        one = {**inputs, "sample": inputs["sample"][:, :, frame : frame + 1]}
        torch.testing.assert_close(got[:, :, frame], unet2d(**image_inputs(one)).sample, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_future_reaches_no_frame_and_full_attention_lets_it(family: str) -> None:
    for attention, is_causal in (("causal", True), ("full", False)):
        unet = magic_unet(family, temporal_attention=attention)
        inputs = video_inputs(unet, 1, 4)
        before = unet(**inputs).sample
        inputs["sample"][:, :, 2] += 1
        changed = (unet(**inputs).sample != before).flatten(3).any(3).any(1)[0].tolist()
        assert changed == [not is_causal, not is_causal, True, True] and unet.is_causal == is_causal


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_images_are_the_image_models_own_and_their_neighbours_are_not(family: str) -> None:
    unet = magic_unet(family)
    inputs = video_inputs(unet, 2, 3)
    got = unet(**inputs, image_only=torch.tensor([True, False])).sample
    want = tiny_unet2d(family)(**image_inputs(inputs)).sample.unflatten(0, (2, 3)).transpose(1, 2)
    assert torch.equal(got[0], want[0]) and not torch.isclose(got[1], want[1]).all()


@torch.no_grad()
def test_clips_of_other_lengths_take_rows_and_interpolate_them() -> None:
    unet = magic_unet()
    first, longest = (UNetVideoConditionModel.from_config(unet.config, frame_adaptor=count) for count in (2, 7))
    for model, rows in ((first, lambda value: value[:2]), (longest, lambda value: spread(value, 7))):
        state = unet.state_dict()
        model.load_state_dict({**state, **{name: rows(value) for name, value in adaptors(unet).items()}})
        inputs = video_inputs(unet, 1, model.config.frame_adaptor)
        torch.testing.assert_close(unet(**inputs).sample, model.eval()(**inputs).sample, atol=1e-6, rtol=1e-5)


def spread(rows: Tensor, num_frames: int) -> Tensor:
    return torch.nn.functional.interpolate(rows.T[None], num_frames, mode="linear", align_corners=True)[0].T


def gradients(unet: UNetVideoConditionModel, inputs: dict[str, object]) -> dict[str, Tensor]:
    unet.zero_grad()
    unet(**inputs).sample.square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in unet.named_parameters() if parameter.grad is not None}


def test_checkpointing_and_channels_last_give_the_gradients_of_temporal_layers_alone() -> None:
    unet = magic_unet().train()
    unet.freeze_spatial_layers()
    inputs = video_inputs(unet, 1, 3)
    want = gradients(unet, inputs)
    assert want.keys() == {name for name, _ in unet.named_parameters() if is_temporal(name)}
    unet.enable_gradient_checkpointing()
    for model in (unet, copy.deepcopy(unet).to(memory_format=torch.channels_last)):
        got = gradients(model, inputs)
        for name, gradient in want.items():
            torch.testing.assert_close(got[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_one_graph_serves_clips_of_every_length() -> None:
    smallest = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    unet2d = tiny_unet2d(block_out_channels=(8,), **smallest)
    unet = shake_temporal_layers(UNetVideoConditionModel.from_unet2d(unet2d, "magicvideo", frame_adaptor=3))
    torch.compiler.reset()
    fast = copy.deepcopy(unet)
    fast.compile(fullgraph=True, backend="eager")
    for num_frames in (2, 3, 5):
        inputs = video_inputs(unet, 1, num_frames)
        with torch.no_grad():
            torch.testing.assert_close(fast(**inputs).sample, unet(**inputs).sample, atol=2e-5, rtol=1e-4)
    inputs = video_inputs(unet, 1, 3)
    want = gradients(unet, inputs)
    for name, gradient in gradients(fast, inputs).items():
        torch.testing.assert_close(gradient, want[name], atol=2e-5, rtol=1e-3, msg=name)


@torch.no_grad()
def test_half_precision_casting_and_offloading_stay_close() -> None:
    unet = magic_unet()
    inputs = video_inputs(unet, 1, 3)
    want = unet(**inputs).sample
    for offload_type in ("block_level", "leaf_level"):
        offloaded = copy.deepcopy(unet)
        groups = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
        apply_group_offloading(offloaded, onload_device=torch.device("cpu"), offload_type=offload_type, **groups)
        assert torch.equal(offloaded(**inputs).sample, want)
    cast = copy.deepcopy(unet)
    cast.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert {value.dtype for value in adaptors(cast).values()} == {torch.float32}
    assert (cast(**inputs).sample - want).abs().max() < 0.3 * want.abs().max()
    halves = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    half = unet.to(torch.bfloat16)(**halves).sample
    assert half.dtype is torch.bfloat16 and (half.float() - want).abs().max() < 0.1 * want.abs().max()


@torch.no_grad()
def test_lora_of_an_image_model_is_adapted_with_the_convolution_it_is_on() -> None:
    unet = magic_unet()
    inputs = video_inputs(unet, 1, 3)
    targets = ["conv1", "conv2", "downsamplers.0.conv", "upsamplers.0.conv"]
    unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=targets))
    assert not any("lora" in name for name in adaptors(unet))
    want = unet(**inputs).sample
    unet.fuse_lora()
    torch.testing.assert_close(unet(**inputs).sample, want, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_temporal_layers_saved_alone_hold_the_adaptors(tmp_path: Path) -> None:
    first, second = magic_unet(), magic_unet(seed=7)
    shake_temporal_layers(second, seed=5)
    assert second.load_temporal_layers(first.save_temporal_layers(tmp_path)).is_complete
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in adaptors(first).items())
    with pytest.raises(ValueError, match="`frame_adaptor` is 4 in the file and 6 in the model"):
        magic_unet(frame_adaptor=6).load_temporal_layers(tmp_path)
    plain = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "light")
    with pytest.raises(ValueError, match="they are of preset 'magicvideo', and the model is of preset 'light'"):
        plain.load_temporal_layers(tmp_path)
    first.save_pretrained(tmp_path / "whole")
    inputs = video_inputs(first, 1, 3)
    loaded = UNetVideoConditionModel.from_pretrained(tmp_path / "whole")
    assert torch.equal(loaded(**inputs).sample, first(**inputs).sample)
    assert loaded.preset_of(loaded.config) == "magicvideo" and loaded.config.frame_adaptor == TRAINED_FRAMES


def test_given_frames_reach_a_model_without_convolution_over_time() -> None:
    unet2d = tiny_unet2d()
    options = {"context_channels": 5, "frame_adaptor": 5, "temporal_attention": "full"}
    unet = UNetVideoConditionModel.from_unet2d(unet2d, "magicvideo", **options)
    inputs = video_inputs(unet2d, 1, 5)
    given = {"context_latents": torch.randn(1, 4, 5, 8, 8), "frame_mask": torch.tensor([[True, *[False] * 3, True]])}
    with torch.no_grad():
        assert torch.equal(fold(unet(**inputs, **given).sample), unet2d(**image_inputs(inputs)).sample)
    shake_temporal_layers(unet)
    with torch.no_grad():
        before = unet(**inputs, **given).sample
        for frame, is_heard in ((4, True), (2, False)):  # the second is not given
            moved = given["context_latents"].clone()
            moved[:, :, frame] += 1
            after = unet(**inputs, **{**given, "context_latents": moved}).sample
            assert (after != before).flatten(3).any(3).any(1)[0].tolist() == [is_heard] * 5
        hidden = unet(**inputs, **given, image_only=torch.tensor([True])).sample
        assert torch.equal(fold(hidden), unet2d(**image_inputs(inputs)).sample)


@pytest.mark.parametrize("value", [0, -1])
def test_an_adaptor_for_no_frames_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="`frame_adaptor` must be at least 1 or `None`"):
        magic_unet(frame_adaptor=value)
