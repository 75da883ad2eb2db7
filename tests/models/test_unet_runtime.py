"""Checkpointing, compilation, casting, offloading and memory formats change nothing in the result."""

import copy
from collections.abc import Sequence

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from torch import Tensor

from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from tests.tiny_models import UNET2D_FAMILIES, shake_temporal_layers, tiny_unet2d, video_inputs


def tiny_unet(family: str = "sd15", **options: object) -> UNetVideoConditionModel:
    return shake_temporal_layers(UNetVideoConditionModel.from_unet2d(tiny_unet2d(family), **options))


def gradients(unet: UNetVideoConditionModel, *calls: dict[str, object]) -> dict[str, Tensor]:
    """Run all calls forward, then backward through their sum."""
    unet.zero_grad()
    outputs = [unet(**inputs).sample for inputs in calls]
    sum(output.square().mean() for output in outputs).backward()
    return {name: parameter.grad.clone() for name, parameter in unet.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("family", UNET2D_FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradients(family: str) -> None:
    unet = tiny_unet(family).train()
    inputs = video_inputs(unet, 1, 3)
    want = gradients(unet, inputs)
    unet.enable_gradient_checkpointing()
    got = gradients(unet, inputs)
    assert got.keys() == want.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, want[name], atol=1e-6, rtol=1e-5, msg=name)


def test_two_pending_checkpointed_calls_of_different_length_keep_apart() -> None:
    unet = tiny_unet().train()
    calls = [video_inputs(unet, 1, 4, seed=1), video_inputs(unet, 2, 6, seed=2)]
    want = gradients(unet, *calls)
    unet.enable_gradient_checkpointing()
    got = gradients(unet, *calls)
    assert all(torch.equal(got[name], gradient) for name, gradient in want.items())


def test_checkpointing_runs_temporal_blocks_a_second_time() -> None:
    unet = tiny_unet().train()
    unet.enable_gradient_checkpointing()
    calls = []
    block = unet.mid_block.attentions[0].temporal_transformer_blocks[0]
    resnet = unet.mid_block.resnets[1].temporal_res_block
    for module in (block, resnet):
        module.register_forward_pre_hook(lambda *args: calls.append(args[0]))
    gradients(unet, video_inputs(unet, 1, 3))
    assert calls.count(block) == 2
    assert calls.count(resnet) == 2


def compiled(unet: UNetVideoConditionModel, backend: str, is_regional: bool) -> UNetVideoConditionModel:
    torch.compiler.reset()
    unet = copy.deepcopy(unet)
    compile_ = unet.compile_repeated_blocks if is_regional else unet.compile
    compile_(fullgraph=True, backend=backend)
    return unet


def check_compilation(
    unet: UNetVideoConditionModel, backend: str, is_regional: bool, lengths: Sequence[int] = (3, 5)
) -> None:
    fast = compiled(unet, backend, is_regional)
    for num_frames in lengths:
        inputs = video_inputs(unet, 2, num_frames)
        with torch.no_grad():
            torch.testing.assert_close(fast(**inputs).sample, unet(**inputs).sample, atol=2e-5, rtol=1e-4)
    for model in (unet, fast):
        model.train().enable_gradient_checkpointing()
    for num_frames in lengths:
        inputs = video_inputs(unet, 1, num_frames)
        want = gradients(unet, inputs)
        for name, gradient in gradients(fast, inputs).items():
            torch.testing.assert_close(gradient, want[name], atol=2e-5, rtol=1e-3, msg=name)


SMALLEST = {
    "block_out_channels": (8,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}


@pytest.mark.parametrize("is_regional", [pytest.param(False, marks=pytest.mark.slow), True])
def test_one_graph_serves_inference_and_checkpointed_training(is_regional: bool) -> None:
    unet2d = tiny_unet2d(**SMALLEST)
    unet = UNetVideoConditionModel.from_unet2d(unet2d, temporal_attention="causal", temporal_max_distance=2)
    check_compilation(shake_temporal_layers(unet), "eager", is_regional)


@pytest.mark.slow
@pytest.mark.parametrize("is_regional", [False, True])
@pytest.mark.parametrize("family", UNET2D_FAMILIES)
def test_one_graph_serves_every_family(is_regional: bool, family: str) -> None:
    check_compilation(tiny_unet(family), "eager", is_regional)


@pytest.mark.slow
@pytest.mark.parametrize("is_regional", [False, True])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_inductor_computes_the_same(is_regional: bool, family: str) -> None:
    check_compilation(tiny_unet(family), "inductor", is_regional)


@torch.no_grad()
def test_channels_last_changes_the_layout_only() -> None:
    unet = tiny_unet()
    inputs = video_inputs(unet, 2, 3)
    want = unet(**inputs).sample
    assert unet.to(memory_format=torch.channels_last) is unet
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    conv = unet.mid_block.resnets[0].temporal_res_block.conv1
    assert conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(unet(**inputs).sample, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    unet = tiny_unet(added_time_ids=["fps"])
    inputs = video_inputs(unet, 1, 3)
    want = unet(**inputs, fps=8.0).sample
    unet.to(dtype)
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    got = unet(**cast, fps=8.0).sample
    assert got.dtype is dtype
    assert (got.float() - want).abs().max() < 0.1 * want.abs().max()


@torch.no_grad()
def test_layerwise_casting_stores_small_and_computes_close() -> None:
    unet = tiny_unet(added_time_ids=["fps"])
    inputs = video_inputs(unet, 1, 3)
    want = unet(**inputs, fps=8.0).sample
    unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    block = unet.mid_block.attentions[0].temporal_transformer_blocks[0]
    assert block.attn1.to_q.weight.dtype is torch.float8_e4m3fn
    assert block.norm1.weight.dtype is torch.float32
    assert unet.mid_block.resnets[0].temporal_res_block.norm1.weight.dtype is torch.float32
    assert (unet(**inputs, fps=8.0).sample - want).abs().max() < 0.3 * want.abs().max()


@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
@torch.no_grad()
def test_group_offloading_computes_the_same(offload_type: str) -> None:
    unet = tiny_unet(added_time_ids=["fps"])
    inputs = video_inputs(unet, 1, 3)
    want = unet(**inputs, fps=8.0).sample
    groups = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
    apply_group_offloading(unet, onload_device=torch.device("cpu"), offload_type=offload_type, **groups)
    assert torch.equal(unet(**inputs, fps=8.0).sample, want)


@torch.no_grad()
def test_layer_by_layer_offloading_computes_the_same() -> None:
    from accelerate import cpu_offload

    unet = tiny_unet(added_time_ids=["fps"])
    inputs = video_inputs(unet, 1, 3)
    want = unet(**inputs, fps=8.0).sample
    cpu_offload(unet, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in unet.parameters())
    assert torch.equal(unet(**inputs, fps=8.0).sample, want)


def test_freezing_leaves_only_temporal_layers_to_train() -> None:
    unet = tiny_unet()
    unet.freeze_spatial_layers()
    assert all(parameter.requires_grad == is_temporal(name) for name, parameter in unet.named_parameters())


def test_frozen_spatial_layers_in_channels_last_train_without_a_crash() -> None:
    unet = tiny_unet().train()
    inputs = video_inputs(unet, 1, 3)
    unet.freeze_spatial_layers()
    want = gradients(unet, inputs)
    got = gradients(unet.to(memory_format=torch.channels_last), inputs)
    assert got.keys() == want.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, want[name], atol=1e-6, rtol=1e-4, msg=name)


@torch.no_grad()
def test_double_precision_agrees_with_single() -> None:
    unet = tiny_unet()
    inputs = video_inputs(unet, 1, 3)
    want = unet(**inputs).sample
    doubles = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    torch.testing.assert_close(unet.double()(**doubles).sample.float(), want, atol=1e-5, rtol=1e-5)
