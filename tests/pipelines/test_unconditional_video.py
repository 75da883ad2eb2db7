"""What `UnconditionalVideoPipeline` promises: the same videos whenever asked, in latents of every form and pixels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor

from diffusers_video import FrameCondition, UnconditionalVideoPipeline, VideoPipelineOutput
from diffusers_video.pipelines.latents import decode_latents, latents_shape

from ..tiny_pipelines import tiny_text_to_video
from ..tiny_space_time import tiny_space_time
from ..tiny_unconditional import FRAMES, KINDS, SIDES, make_parts, tiny_unconditional


SAME = {"rtol": 0, "atol": 1e-6}  # what the package promises in float64
GIVEN = {"use_frame_mask": True, "num_noise_levels": 11}
each_kind = pytest.mark.parametrize("kind", KINDS)
two_kinds = pytest.mark.parametrize(
    "kind", ["video", "pixel", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("image", "triplane"))]
)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipeline: UnconditionalVideoPipeline, *seeds: int, **arguments) -> Tensor:
    arguments = {"num_inference_steps": 2, "output_type": "pt", **arguments}
    return pipeline(len(seeds), generator=seeded(*seeds), **arguments).frames


def frames_of(kind: str, *indices: int) -> FrameCondition:
    shape = (len(indices), 3, *SIDES[kind])
    return FrameCondition(torch.rand(shape, generator=torch.Generator().manual_seed(9)), indices)


@pytest.fixture(scope="module")
def pipeline() -> UnconditionalVideoPipeline:
    return tiny_unconditional()


@two_kinds
def test_videos_have_the_saved_sizes_and_rate(kind: str) -> None:
    pipeline = tiny_unconditional(kind)
    output = pipeline(2, num_inference_steps=1, output_type="pt")
    assert output.frames.shape == (2, FRAMES[kind], 3, *SIDES[kind]) and output.fps == 4.0
    assert 0 <= output.frames.min() and output.frames.max() <= 1


@each_kind
def test_a_run_is_the_loop_of_the_scheduler_over_the_denoiser(kind: str) -> None:
    pipeline = tiny_unconditional(kind)
    shape = latents_shape(pipeline.vae, FRAMES[kind], *SIDES[kind])
    latents = noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(3)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            latents = scheduler.step(pipeline.unet(latents, timestep).sample, timestep, latents).prev_sample
        frames = decode_latents(pipeline.vae, latents).transpose(1, 2)
    torch.testing.assert_close(run(pipeline, 0, num_inference_steps=3), (frames / 2 + 0.5).clamp(0, 1))
    torch.testing.assert_close(run(pipeline, 5, latents=noise, num_inference_steps=3, output_type="latent"), latents)


@two_kinds
def test_a_video_is_the_same_alone_and_in_a_batch(kind: str) -> None:
    pipeline = tiny_unconditional(kind, dtype=torch.float64)
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    batch = run(pipeline, 1, 2)
    for index in range(2):
        torch.testing.assert_close(batch[index], run(pipeline, 1 + index)[0], **SAME)
    assert not torch.allclose(batch[0], batch[1])


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        DPMSolverMultistepScheduler,
        UniPCMultistepScheduler,
    ],
)
def test_other_schedulers_follow_the_seed(scheduler: type) -> None:
    pipeline = tiny_unconditional("pixel")
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    first, again, other = (run(pipeline, seed) for seed in (0, 0, 1))
    assert torch.isfinite(first).all() and torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("output_type", "kind"), [("pt", Tensor), ("np", np.ndarray), ("pil", list), ("latent", Tensor)]
)
def test_output_has_the_documented_form(pipeline: UnconditionalVideoPipeline, output_type: str, kind: type) -> None:
    output = pipeline(2, num_inference_steps=1, output_type=output_type, fps=6)
    assert isinstance(output, VideoPipelineOutput) and isinstance(output.frames, kind) and output.fps == 6.0
    if output_type == "pil":
        assert [len(video) for video in output.frames] == [8, 8] and isinstance(output.frames[0][0], Image.Image)
    else:
        shapes = {"pt": (2, 8, 3, 16, 16), "np": (2, 8, 16, 16, 3), "latent": (2, 4, 4, 8, 8)}
        assert tuple(output.frames.shape) == shapes[output_type]
    frames = pipeline(1, num_inference_steps=1, output_type="pt", generator=seeded(0), return_dict=False)
    assert isinstance(frames, tuple) and torch.equal(frames[0], run(pipeline, 0, num_inference_steps=1))


def test_other_sizes_and_lengths_are_drawn(pipeline: UnconditionalVideoPipeline) -> None:
    assert run(pipeline, 0, num_frames=4, height=8, width=24).shape == (1, 4, 3, 8, 24)


def test_a_callback_sees_and_changes_the_latents(pipeline: UnconditionalVideoPipeline) -> None:
    steps = []

    def zero(_: object, step: int, timestep: Tensor, tensors: dict) -> dict:
        steps.append((step, int(timestep), tuple(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = run(pipeline, 0, output_type="latent", callback_on_step_end=zero)
    assert not latents.any() and steps == [(0, 501, ("latents",)), (1, 1, ("latents",))]


@two_kinds
def test_a_saved_pipeline_is_found_by_diffusers(kind: str, tmp_path: Path) -> None:
    pipeline = tiny_unconditional(kind)
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is UnconditionalVideoPipeline and (loaded.vae is None) == (kind == "pixel")
    assert torch.equal(run(loaded, 0), run(pipeline, 0))


@pytest.mark.slow
def test_a_saved_pipeline_gives_the_same_frames_in_a_new_process(tmp_path: Path) -> None:
    pipeline = tiny_unconditional(dtype=torch.float64)
    pipeline.save_pretrained(tmp_path / "saved")
    script = (
        "import sys, torch, diffusers_video\nfrom diffusers import DiffusionPipeline\n"
        "pipe = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float64)\n"
        "out = pipe(1, generator=[torch.Generator().manual_seed(0)], num_inference_steps=2, output_type='pt')\n"
        "torch.save(out.frames, sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "saved", tmp_path / "out.pt"], check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), run(pipeline, 0), **SAME)


@pytest.mark.parametrize("mechanism", [None, "reconstruction", "replacement"])
@pytest.mark.parametrize("kind", ["image", "pixel"])
def test_given_frames_come_out_as_given_and_change_the_others(kind: str, mechanism: str | None) -> None:
    pipeline = tiny_unconditional(kind, **GIVEN)
    condition = frames_of(kind, 1)
    frames = run(pipeline, 0, conditions=[condition], mechanism=mechanism)
    assert torch.equal(frames[0, 1], condition.frames[0])
    assert not torch.allclose(frames[0, 0], run(pipeline, 0)[0, 0])


def test_a_run_of_frames_is_given_to_a_model_that_compresses_time() -> None:
    pipeline = tiny_unconditional("video", **GIVEN)
    condition = frames_of("video", 2, 3, 4, 5)
    seen = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    frames = run(pipeline, 0, conditions=[condition])
    hook.remove()
    assert torch.equal(frames[0, 2:6], condition.frames)
    assert seen[0]["frame_mask"].tolist() == [[False] * 4, [False, True, True, False]]  # without them, and with them
    latents = run(pipeline, 0, output_type="latent")
    told = FrameCondition(latents[:, :, 1:3], (1, 2), is_latent=True)
    kept = run(pipeline, 1, conditions=[told], output_type="latent")
    assert torch.equal(kept[:, :, 1:3], latents[:, :, 1:3])


def test_guidance_by_given_frames_goes_beyond_what_the_frames_change() -> None:
    pipeline = tiny_unconditional("pixel", torch.float64, **GIVEN)
    noise = torch.randn(1, 3, 3, 8, 8, dtype=torch.float64)
    options = {"latents": noise, "conditions": [frames_of("pixel", 0)], "output_type": "latent"}
    without, told, guided = (
        run(pipeline, 0, num_inference_steps=1, context_guidance_scale=scale, **options)[:, :, 1:]
        for scale in (0.0, 1.0, 3.0)
    )
    torch.testing.assert_close(guided, without + 3 * (told - without), **SAME)


def test_a_denoiser_that_knows_noise_levels_is_always_told_one() -> None:
    pipeline = tiny_unconditional("pixel", max_noise_level=10, **GIVEN)
    told = []
    hook = pipeline.unet.register_forward_pre_hook(
        lambda _, args, kwargs: told.append(kwargs["noise_level"]), with_kwargs=True
    )
    clean, noisy = (run(pipeline, 0, conditions=[frames_of("pixel", 0)], noise_level=level) for level in (None, 10))
    run(pipeline, 0)
    hook.remove()
    assert told == [0.0, 0.0, 10.0, 10.0, 0.0, 0.0] and not torch.allclose(clean[:, 1], noisy[:, 1])


LONG = [frames_of("video", 0)]
BAD_ARGUMENTS = [
    ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
    ({"num_frames": 7}, ValueError, "`num_frames` must be a multiple of 2"),
    ({"height": 9}, ValueError, "`height` must be a multiple of 2"),
    ({"num_inference_steps": 2.0}, TypeError, "`num_inference_steps` must be an integer"),
    ({"eta": -1}, ValueError, "`eta` must be at least 0"),
    ({"fps": 0}, ValueError, "`fps` must be above 0"),
    ({"generator": seeded(0, 1)}, ValueError, "one generator for each of 1 videos"),
    ({"output_type": "gif"}, ValueError, "`output_type` must be one of"),
    ({"decode_chunk_size": 2}, ValueError, "`decode_chunk_size` has an effect on an autoencoder of images alone"),
    ({"latents": torch.zeros(1, 4, 3, 8, 8)}, ValueError, r"`latents` must have shape \(1, 4, 4, 8, 8\)"),
    ({"latents": torch.full((1, 4, 4, 8, 8), float("nan"))}, ValueError, "`latents` must hold finite numbers"),
    ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, ValueError, r"must be among \['latents'\]"),
    ({"timesteps": [1, 500]}, ValueError, "`timesteps` cannot be chosen with DDIMScheduler"),
    ({"conditions": LONG}, ValueError, "whole groups of 2 neighbouring frames"),
    ({"conditions": 3}, TypeError, "`conditions` must be a list of FrameCondition"),
    ({"mechanism": "context"}, ValueError, "`mechanism` must not be 'context'"),
    ({"mechanism": "magic"}, ValueError, "`mechanism` must be one of"),
    ({"reconstruction_scale": 1.0}, ValueError, "`reconstruction_scale` has an effect on given frames"),
    ({"context_guidance_scale": 2.0}, ValueError, "`context_guidance_scale` has an effect only where"),
    ({"noise_level": 1}, ValueError, "`noise_level` has an effect only on a model"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
def test_wrong_arguments_are_refused_before_any_model_runs(
    pipeline: UnconditionalVideoPipeline, arguments: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        pipeline(**arguments)


def test_frames_cannot_be_given_to_latents_without_an_axis_of_frames() -> None:
    with pytest.raises(ValueError, match="`conditions` need latents with an axis of frames"):
        run(tiny_unconditional("triplane"), 0, conditions=[frames_of("triplane", 0)])


def test_a_noise_level_beyond_the_training_is_refused() -> None:
    pipeline = tiny_unconditional("pixel", max_noise_level=3, **GIVEN)
    with pytest.raises(ValueError, match="`noise_level` must be at most 3"):
        run(pipeline, 0, conditions=[frames_of("pixel", 0)], noise_level=4)


def test_parts_that_do_not_fit_are_refused() -> None:
    unet, vae = make_parts("video")
    scheduler = tiny_unconditional().scheduler
    with pytest.raises(ValueError, match="as many channels as pixels, 3"):
        UnconditionalVideoPipeline(unet, scheduler)
    with pytest.raises(ValueError, match="an AutoencoderTriplane and a UNetTriplaneModel go together"):
        UnconditionalVideoPipeline(make_parts("triplane")[0], scheduler, vae)
    with pytest.raises(TypeError, match="Models made of an image model have pipelines of their own"):
        UnconditionalVideoPipeline(tiny_text_to_video().unet, scheduler, vae)
    with pytest.raises(ValueError, match="must not need text"):
        UnconditionalVideoPipeline(tiny_space_time("lvdm_text"), scheduler, vae)
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler does not fit"):
        UnconditionalVideoPipeline(unet, FlowMatchEulerDiscreteScheduler(), vae)
    with pytest.raises(ValueError, match="`height` and `width` must be given together"):
        UnconditionalVideoPipeline(unet, scheduler, vae, height=8)


def test_black_frames_are_not_written_where_numbers_are_lost() -> None:
    pipeline = tiny_unconditional()
    with torch.no_grad():
        pipeline.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="Denoising gave NaN"):
        run(pipeline, 0)
