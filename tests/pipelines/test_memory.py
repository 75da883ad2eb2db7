"""The memory of a clip: the estimate beside what PyTorch's allocator reports."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from diffusers_video.pipelines.checkpoint_info import describe_checkpoint
from diffusers_video.pipelines.memory import (
    ClipMemory,
    LiveBytes,
    estimate_checkpoint_memory,
    estimate_clip_memory,
)

from ..tiny_models import tiny_unet2d
from ..tiny_pipelines import tiny_image_pipeline, tiny_text_to_video


CLIP = {"num_frames": 6, "height": 48, "width": 32}


@torch.no_grad()
def allocated_peak(call: Callable[[], Any]) -> int:
    """How far the allocator's bytes rise during a call, those inside of operators included."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("family", "preset", "dtype", "tolerance"),
    [
        ("sd15", "videoldm", torch.float32, 0.02),
        ("lcm", "light", torch.float32, 0.02),
        ("sd21", "light", torch.bfloat16, 0.02),
        # It needs most in a 3D convolution, inside of which the CPU unfolds the input to three times its size.
        ("sdxl", "light", torch.float32, 0.2),
    ],
)
def test_the_estimate_is_what_a_call_allocates(family: str, preset: str, dtype: torch.dtype, tolerance: float) -> None:
    pipeline = tiny_text_to_video(family, preset, dtype=dtype)
    memory = estimate_clip_memory(pipeline.unet.config, pipeline.vae.config, dtype=dtype, decode_chunk_size=6, **CLIP)
    call = {"num_inference_steps": 1, **CLIP}
    latents = allocated_peak(lambda: pipeline("a", output_type="latent", **call))
    frames = allocated_peak(lambda: pipeline("a", output_type="np", decode_chunk_size=6, **call))
    assert memory.denoising == pytest.approx(latents, rel=tolerance)
    assert max(memory.denoising, memory.decoding) == pytest.approx(frames, rel=tolerance)


def test_the_estimate_of_one_forward_pass_is_close() -> None:
    unet = tiny_text_to_video(preset="videoldm").unet
    memory = estimate_clip_memory(unet.config, num_frames=8, height=128, width=128)
    sample, text = torch.randn(2, 4, 8, 16, 16), torch.randn(2, 77, 12)
    real = allocated_peak(lambda: unet(sample, 1, text)) + sample.nbytes * 3 // 2 + text.nbytes
    assert memory.denoising == pytest.approx(real, rel=0.03)


def test_weights_are_counted_in_the_type_they_are_used_in() -> None:
    pipeline = tiny_text_to_video()
    parts = {"unet": pipeline.unet, "vae": pipeline.vae}
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
    configs = (pipeline.unet.config, pipeline.vae.config)
    half = estimate_clip_memory(*configs, dtype=torch.bfloat16, num_other_parameters={"text_encoder": 5}, **CLIP)
    assert half.weights == {"unet": 2 * counts["unet"], "vae": 2 * counts["vae"], "text_encoder": 10}
    upcast = estimate_clip_memory(*configs, dtype=torch.float16, **CLIP)
    assert pipeline.vae.config.force_upcast and upcast.weights["vae"] == 4 * counts["vae"]
    assert torch.get_default_dtype() == torch.float32


def test_more_frames_clips_and_guidance_need_more() -> None:
    pipeline = tiny_text_to_video()
    configs = (pipeline.unet.config, pipeline.vae.config)
    one = estimate_clip_memory(*configs, decode_chunk_size=2, **CLIP)
    twice = estimate_clip_memory(*configs, decode_chunk_size=2, batch_size=2, **CLIP)
    plain = estimate_clip_memory(*configs, use_guidance=False, decode_chunk_size=6, **CLIP)
    assert twice.denoising == pytest.approx(2 * one.denoising, rel=0.01)
    assert plain.denoising < one.denoising and plain.decoding > one.decoding
    assert one.decoding < twice.decoding < 2 * one.decoding  # chunks cost the same, whole videos twice as much


def test_peaks_add_what_is_in_memory_at_once() -> None:
    memory = ClipMemory(1, 8, 8, 1, "float32", {"unet": 10, "vae": 3, "text_encoder": 20}, denoising=5, decoding=7)
    assert (memory.peak, memory.peak_with_model_offload) == (40, 20)


def test_an_image_model_is_estimated_with_the_layers_it_would_get(tmp_path: pytest.TempPathFactory) -> None:
    tiny_image_pipeline().save_pretrained(tmp_path)
    light, full = (estimate_checkpoint_memory(describe_checkpoint(tmp_path), preset=p) for p in ("light", "videoldm"))
    assert light.weights["unet"] < full.weights["unet"] and light.weights["text_encoder"] > 0
    assert (light.num_frames, light.height, light.width, light.dtype) == (16, 16, 16, "float16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be at least 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"height": 15}, "`height` must be a multiple of 2"),
        ({"decode_chunk_size": 0}, "`decode_chunk_size` must be at least 1"),
    ],
)
def test_a_clip_that_cannot_be_is_refused(change: dict[str, int], message: str) -> None:
    pipeline = tiny_text_to_video()
    with pytest.raises(ValueError, match=message):
        estimate_clip_memory(pipeline.unet.config, pipeline.vae.config, **{**CLIP, **change})


def test_a_model_for_another_task_is_refused() -> None:
    vae = tiny_text_to_video().vae
    with pytest.raises(ValueError, match="as many channels as the latents"):
        estimate_clip_memory({**tiny_unet2d("inpainting").config}, vae.config, **CLIP)


def test_live_bytes_follow_tensors_and_count_views_once() -> None:
    before = torch.zeros(100)
    with LiveBytes([before]) as live:
        first = torch.zeros(10)
        views = [first[:5], first.view(2, 5), before[:3]]
        assert live.current == 40
        second = first + 1
        del first, views
        assert (live.current, live.peak) == (40, 80)
        del second
    assert (live.current, live.peak) == (0, 80)
