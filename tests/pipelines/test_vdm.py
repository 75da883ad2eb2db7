"""VDM in pixels: any scheduler, corrector steps, given frames, a given small copy, and videos longer than a clip."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
)
from torch import Tensor

from diffusers_video import FrameCondition, PairedDDIMScheduler, UnconditionalVideoPipeline, VDMScheduler
from diffusers_video.conditioning.reconstruction import shrink_linearly
from diffusers_video.pipelines.video_extension import extend_video, fill_between
from diffusers_video.schedulers.log_snr import log_snr_at

from ..tiny_space_time import tiny_space_time
from ..tiny_unconditional import tiny_unconditional


FRAMES, SIDE = 4, 8
LOW_RES_TOLERANCE = 0.004  # what the pipeline promises, about a step of 8 bits


def tiny_vdm(dtype: torch.dtype = torch.float32, **options: object) -> UnconditionalVideoPipeline:
    """A pipeline in continuous time; `options` are the scheduler's."""
    scheduler = VDMScheduler(**{"prediction_type": "v_prediction", **options})
    unet = tiny_space_time("vdm", pooled_text_dim=None)
    pipeline = UnconditionalVideoPipeline(unet, scheduler, num_frames=FRAMES, height=SIDE, width=SIDE)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipeline: UnconditionalVideoPipeline, *seeds: int, **arguments: object) -> Tensor:
    arguments = {"num_inference_steps": 3, "output_type": "pt", **arguments}
    return pipeline(len(seeds), generator=seeded(*seeds), **arguments).frames


def random_video(num_frames: int, videos: int = 1, side: int = SIDE) -> Tensor:
    return torch.rand(videos, num_frames, 3, side, side, generator=torch.Generator().manual_seed(9))


def small_copy(frames: Tensor, side: int = 2) -> Tensor:
    return shrink_linearly(frames.transpose(1, 2), (side, side)).transpose(1, 2)


@pytest.fixture(scope="module")
def pipeline() -> UnconditionalVideoPipeline:
    return tiny_vdm()


def test_a_run_is_the_loop_of_the_scheduler_over_the_denoiser(pipeline: UnconditionalVideoPipeline) -> None:
    generator, scheduler = torch.Generator().manual_seed(0), VDMScheduler.from_config(pipeline.scheduler.config)
    sample = torch.randn(1, 3, FRAMES, SIDE, SIDE, generator=generator)
    scheduler.set_timesteps(3)
    with torch.no_grad():
        for level in scheduler.timesteps:
            output = pipeline.unet(sample, level).sample
            sample = scheduler.step(output, level, sample, generator=generator).prev_sample
    want = (sample.transpose(1, 2) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(run(pipeline, 0), want)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler,
        EulerDiscreteScheduler,
        *(pytest.param(one, marks=pytest.mark.slow) for one in (DPMSolverMultistepScheduler, PairedDDIMScheduler)),
    ],
)
def test_schedulers_of_diffusers_tell_it_their_log_snr(
    pipeline: UnconditionalVideoPipeline, scheduler: Callable
) -> None:
    own, told = pipeline.scheduler, []
    pipeline.scheduler = scheduler()
    hook = pipeline.unet.register_forward_pre_hook(lambda _, arguments: told.append(float(arguments[1])))
    first, again, other = (run(pipeline, seed) for seed in (0, 0, 1))
    want = log_snr_at(pipeline.scheduler, pipeline.scheduler.timesteps).tolist()
    pipeline.scheduler = own
    hook.remove()
    assert torch.isfinite(first).all() and torch.equal(first, again) and not torch.equal(first, other)
    assert told[:3] == pytest.approx(want) and told[0] < -4 and told == told[:3] * 3


def test_a_saved_pipeline_draws_the_same(tmp_path: Path) -> None:
    pipeline = tiny_vdm(num_corrector_steps=1)
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is VDMScheduler and torch.equal(run(loaded, 0), run(pipeline, 0))


def test_it_needs_a_model_that_reads_log_snr() -> None:
    pipeline = tiny_unconditional("pixel")
    with pytest.raises(ValueError, match="it tells the noise level as log-SNR, which this model does not read"):
        UnconditionalVideoPipeline(pipeline.unet, VDMScheduler())


def test_corrector_steps_are_steps_of_the_run_and_a_video_is_the_same_alone() -> None:
    pipeline = tiny_vdm(torch.float64, num_corrector_steps=2)
    seen = []
    batch = run(pipeline, 1, 2, callback_on_step_end=lambda *arguments: seen.append(float(arguments[2])) or {})
    assert len(seen) == pipeline.num_timesteps == 3 + 2 * 2 and len(set(seen)) == 3
    for index in range(2):
        torch.testing.assert_close(batch[index], run(pipeline, 1 + index)[0], rtol=0, atol=1e-6)
    assert not torch.allclose(batch, run(tiny_vdm(torch.float64), 1, 2))


@pytest.mark.parametrize(
    ("places", "options"),
    [((0, 1), {}), ((2, 3), {"num_corrector_steps": 1}), ((0, 3), {"prediction_type": "epsilon"})],
)
def test_guidance_without_weight_is_replacement(places: tuple[int, ...], options: dict[str, int]) -> None:
    pipeline = tiny_vdm(torch.float64, **options)
    condition = FrameCondition(random_video(2)[0], places)
    replaced = run(pipeline, 0, conditions=[condition], mechanism="replacement")
    unguided, guided = (
        run(pipeline, 0, conditions=[condition], mechanism="reconstruction", reconstruction_scale=scale)
        for scale in (0.0, 3.0)
    )
    torch.testing.assert_close(unguided, replaced, rtol=0, atol=1e-6)
    assert (guided - replaced).abs().max() > 0.01
    assert torch.equal(guided[0, list(places)], condition.frames.to(guided))


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"prediction_type": "epsilon", "num_corrector_steps": 1}, marks=pytest.mark.slow)],
)
def test_videos_have_the_given_small_copy(options: dict[str, object]) -> None:
    pipeline, low_res = tiny_vdm(**options), small_copy(random_video(FRAMES, videos=2))
    frames = run(pipeline, 1, 2, low_res=low_res)
    assert 0 <= frames.min() and frames.max() <= 1
    torch.testing.assert_close(small_copy(frames), low_res, rtol=0, atol=LOW_RES_TOLERANCE)
    one = run(pipeline, 1, 2, low_res=low_res[0])
    torch.testing.assert_close(one[:1], frames[:1])
    guided, free = (
        run(pipeline, 1, 2, low_res=low_res, low_res_scale=scale, decode_given_frames=True) for scale in (None, 0.0)
    )
    torch.testing.assert_close(free, run(pipeline, 1, 2))
    assert (small_copy(guided) - low_res).abs().mean() < (small_copy(free) - low_res).abs().mean()


def test_a_small_copy_and_frames_go_together_and_any_scheduler_takes_them() -> None:
    pipeline = tiny_vdm()
    pipeline.scheduler = DDIMScheduler(prediction_type="v_prediction")
    video = random_video(FRAMES)
    condition = FrameCondition(video[0, :1], 0)
    frames = run(pipeline, 0, conditions=[condition], low_res=small_copy(video))
    assert torch.equal(frames[0, 0], condition.frames[0])
    torch.testing.assert_close(small_copy(frames), small_copy(video), rtol=0, atol=LOW_RES_TOLERANCE)


@pytest.mark.parametrize("kind", ["video", pytest.param("image", marks=pytest.mark.slow)])
def test_a_small_copy_guides_models_of_latents_through_the_decoder(kind: str) -> None:
    pipeline = tiny_unconditional(kind)
    num_frames = pipeline.config.num_frames
    low_res = small_copy(random_video(num_frames, side=16), 4)
    guided, free = (
        run(pipeline, 0, low_res=low_res, low_res_scale=scale, decode_given_frames=True) for scale in (9.0, 0.0)
    )
    assert (guided - free).abs().max() > 1e-4
    kept = run(pipeline, 0, low_res=low_res)
    torch.testing.assert_close(small_copy(kept, 4), low_res, rtol=0, atol=LOW_RES_TOLERANCE)


@pytest.mark.parametrize("backward", [False, True])
def test_videos_are_extended_on_either_side_in_blocks_that_know_the_last(backward: bool) -> None:
    pipeline, video, told = tiny_vdm(), random_video(3, videos=2), []
    draw = UnconditionalVideoPipeline.__call__

    def spy(self: UnconditionalVideoPipeline, *arguments: object, **options: object) -> object:
        told.append((options["conditions"][0], options["num_frames"]))
        return draw(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnconditionalVideoPipeline, "__call__", spy)
        options = {"num_given": 1, "backward": backward, "num_inference_steps": 2}
        frames = extend_video(pipeline, video, 4, generator=seeded(1, 2), **options)
    assert frames.shape == (2, 7, 3, SIDE, SIDE) and 0 <= frames.min() and frames.max() <= 1
    places = [(one.indices, length) for one, length in told]
    if backward:
        assert torch.equal(frames[:, 4:], video) and places == [((3,), 4), ((1, 2, 3), 4)]
        assert torch.equal(told[1][0].frames, frames[:, 1:4])
    else:
        assert torch.equal(frames[:, :3], video) and places == [((0,), 4), ((0, 1, 2), 4)]
        assert torch.equal(told[1][0].frames, frames[:, 3:6])
    again = extend_video(pipeline, video, 4, generator=seeded(1, 2), **options)
    assert torch.equal(frames, again)


def test_extensions_follow_a_small_copy_of_the_whole() -> None:
    whole = random_video(6)
    frames = extend_video(tiny_vdm(), whole[:, :2], 4, low_res=small_copy(whole), num_inference_steps=2)
    assert torch.equal(frames[:, :2], whole[:, :2])
    torch.testing.assert_close(small_copy(frames), small_copy(whole), rtol=0, atol=LOW_RES_TOLERANCE)
    with pytest.raises(ValueError, match="`low_res` must have 6 frames, those of the whole, but has 5"):
        extend_video(tiny_vdm(), whole[:, :2], 4, low_res=small_copy(whole[:, :5]))


def test_frames_are_filled_between_those_of_a_larger_stride() -> None:
    pipeline, video = tiny_vdm(), random_video(4)
    pipeline.register_to_config(num_frames=5)  # two gaps at a time
    frames = fill_between(pipeline, video, 2, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert frames.shape == (1, 7, 3, SIDE, SIDE) and torch.equal(frames[:, ::2], video)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda pipe: run(pipe, 0, low_res_scale=1.0), ValueError, "`low_res_scale` has an effect on `low_res`"),
        (lambda pipe: run(pipe, 0, low_res=random_video(3), num_frames=4), ValueError, "must have `num_frames`=4"),
        (lambda pipe: run(pipe, 0, low_res=random_video(4, side=9)), ValueError, "`low_res` must be no larger than"),
        (lambda pipe: run(pipe, 0, low_res=random_video(4, videos=2)), ValueError, "or one for each of 1 videos"),
        (lambda pipe: run(pipe, 0, low_res=random_video(4), low_res_scale="2"), TypeError, "`low_res_scale` must be"),
        (
            lambda pipe: run(pipe, 0, low_res=random_video(4), low_res_scale=-2),
            ValueError,
            "at least 0 and finite, but is -2",
        ),
        (lambda pipe: run(pipe, 0, low_res=3), TypeError, "`low_res` must be a list of frames"),
        (lambda pipe: extend_video(pipe, random_video(2), 0), ValueError, "`num_new_frames` must be at least 1"),
        (lambda pipe: extend_video(pipe, random_video(2), 3, num_given=3), ValueError, "must be at most 2"),
        (lambda pipe: extend_video(pipe, random_video(6), 3, num_given=4), ValueError, "must be at most 3"),
        (lambda pipe: fill_between(pipe, random_video(1), 2), ValueError, "a video of at least 2 frames"),
        (lambda pipe: fill_between(pipe, random_video(2), 4), ValueError, "blocks of at least 5"),
        (lambda pipe: fill_between(pipe, random_video(2), 1), ValueError, "`rate` must be at least 2"),
    ],
)
def test_bad_input_is_refused(
    pipeline: UnconditionalVideoPipeline, call: Callable, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(pipeline)
