"""Clips drawn one behind another by PVDM: its Algorithm 1 by hand, streams, what is saved, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, EulerDiscreteScheduler
from torch import Tensor

from diffusers_video import PairedDDIMScheduler, UnconditionalVideoPipeline, read_video

from ..tiny_triplane import VIDEO_SIZE, some_videos, tiny_autoencoder_triplane, tiny_unet_triplane


NUM_FRAMES, HEIGHT, WIDTH = VIDEO_SIZE


@pytest.fixture(scope="module")
def pipe() -> UnconditionalVideoPipeline:
    torch.manual_seed(0)
    pipeline = UnconditionalVideoPipeline(
        unet=tiny_unet_triplane(),
        vae=tiny_autoencoder_triplane(),
        scheduler=PairedDDIMScheduler(),
        num_frames=2,
        fps=4.0,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(pipe: UnconditionalVideoPipeline, **options: object) -> Tensor:
    settings = {"num_frames": 6, "num_inference_steps": 3, "generator": seeded(), "output_type": "pt", **options}
    return pipe(**settings).frames


@torch.no_grad()
def algorithm_1(
    pipe: UnconditionalVideoPipeline, steps: list[int], w: float = 0.0, eta: float = 1.0, reencode: bool = False
) -> Tensor:
    """Algorithm 1 with DDIM, written out: latents of each clip."""
    generator, previous, clips = seeded(), None, []
    alphas = PairedDDIMScheduler().alphas_cumprod.double()
    for number in steps:
        visited = np.linspace(-1, 999, number + 1).astype(int)
        z = torch.randn(1, 2, 24 + 12 + 8, generator=generator)
        for t, t_next in zip(visited[:0:-1], visited[-2::-1], strict=True):
            noise = pipe.unet(z, int(t), previous).sample
            if previous is not None:
                noise = (1 + w) * noise - w * pipe.unet(z, int(t), torch.zeros_like(z)).sample
            alpha, alpha_next = alphas[t], alphas[t_next] if t_next >= 0 else torch.tensor(1.0).double()
            x0 = ((z - (1 - alpha).sqrt() * noise) / alpha.sqrt()).clamp(-1, 1)
            sigma = eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)).sqrt()
            z = alpha_next.sqrt() * x0 + (1 - alpha_next - sigma**2).clamp(min=0).sqrt() * noise
            z = z.float()
            if t_next >= 0 and eta:
                z = (z + sigma * torch.randn(z.shape, generator=generator)).float()
        clips.append(z)
        previous = pipe.vae.encode(pipe.vae.decode(z).sample).latents if reencode else z
    return torch.stack(clips, dim=1)


@pytest.mark.parametrize(
    ("options", "by_hand"),
    [
        ({}, {}),
        ({"num_next_inference_steps": 2}, {"steps": [3, 2, 2]}),
        ({"context_guidance_scale": 2.5}, {"w": 1.5}),
        ({"eta": 0.0}, {"eta": 0.0}),
        ({"reencode_clips": True}, {"reencode": True}),
    ],
)
def test_clips_follow_algorithm_1(pipe: UnconditionalVideoPipeline, options: dict, by_hand: dict) -> None:
    got = draw(pipe, output_type="latent", **options)
    assert got.shape == (1, 3, 2, 44)
    torch.testing.assert_close(got, algorithm_1(pipe, **{"steps": [3, 3, 3], **by_hand}), rtol=0, atol=1e-3)


def test_frames_are_the_decoded_clips_one_after_another(pipe: UnconditionalVideoPipeline) -> None:
    latents = draw(pipe, output_type="latent", num_frames=5)
    with torch.no_grad():
        clips = [(pipe.vae.decode(clip).sample * 0.5 + 0.5).transpose(1, 2) for clip in latents.unbind(1)]
    frames = draw(pipe, num_frames=5)
    assert frames.shape == (1, 5, 3, HEIGHT, WIDTH)
    torch.testing.assert_close(frames, torch.cat(clips, dim=1)[:, :5])
    assert torch.equal(draw(pipe, num_frames=3), frames[:, :3])
    assert torch.equal(draw(pipe, num_frames=2), frames[:, :2])


def test_the_denoiser_runs_once_a_step_unless_there_is_guidance(pipe: UnconditionalVideoPipeline) -> None:
    rows = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        draw(pipe, num_frames=4, num_next_inference_steps=2)
        assert rows == [1, 1, 1, 1, 1]
        rows.clear()
        draw(pipe, num_frames=4, num_next_inference_steps=2, context_guidance_scale=3.0)
        assert rows == [1, 1, 1, 2, 2]
    finally:
        hook.remove()


def test_a_video_goes_on_from_a_given_one(pipe: UnconditionalVideoPipeline) -> None:
    video = some_videos(1, (3, HEIGHT, WIDTH))[0].transpose(0, 1) * 0.5 + 0.5
    got = draw(pipe, num_frames=4, previous_clip=video, num_inference_steps=9, num_next_inference_steps=2)
    with torch.no_grad():
        previous = pipe.vae.encode(video[-2:].transpose(0, 1)[None] * 2 - 1).latents
    generator, clips = seeded(), []
    for _ in range(2):
        z = torch.randn(1, 2, 44, generator=generator)
        scheduler = PairedDDIMScheduler()
        scheduler.set_timesteps(2)
        with torch.no_grad():
            for t in scheduler.timesteps:
                z = scheduler.step(pipe.unet(z, t, previous).sample, t, z, generator=generator).prev_sample
            clips.append(pipe.vae.decode(z).sample * 0.5 + 0.5)
        previous = z
    torch.testing.assert_close(got, torch.cat(clips, dim=2).transpose(1, 2))


def test_same_seed_same_video_alone_or_in_a_batch(pipe: UnconditionalVideoPipeline) -> None:
    first = draw(pipe)
    assert torch.equal(first, draw(pipe)) and not torch.equal(first, draw(pipe, generator=seeded(1)))
    both = draw(pipe, batch_size=2, generator=[seeded(1), seeded(0)])
    torch.testing.assert_close(both[1:], first, rtol=0, atol=1e-5)


def test_smaller_clips_than_the_model_was_built_for(pipe: UnconditionalVideoPipeline) -> None:
    assert draw(pipe, num_frames=4, height=4, width=8).shape == (1, 4, 3, 4, 8)
    assert draw(pipe, num_frames=2, height=8, width=4).shape == (1, 2, 3, 8, 4)


@pytest.mark.parametrize(
    "make",
    [
        EulerDiscreteScheduler.from_config,
        pytest.param(DDIMScheduler.from_config, marks=pytest.mark.slow),
        pytest.param(DDPMScheduler.from_config, marks=pytest.mark.slow),
    ],
)
def test_other_schedulers_draw_too(pipe: UnconditionalVideoPipeline, make: Callable) -> None:
    scheduler = make(pipe.scheduler.config, timestep_spacing="trailing")
    other = UnconditionalVideoPipeline(**{**pipe.components, "scheduler": scheduler}, num_frames=2)
    other.set_progress_bar_config(disable=True)
    frames = draw(other, num_frames=4)
    assert frames.shape == (1, 4, 3, HEIGHT, WIDTH) and frames.isfinite().all()
    assert torch.equal(frames, draw(other, num_frames=4))


def test_ddim_of_diffusers_draws_the_same_where_steps_divide(pipe: UnconditionalVideoPipeline) -> None:
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    other = UnconditionalVideoPipeline(**{**pipe.components, "scheduler": scheduler}, num_frames=2)
    other.set_progress_bar_config(disable=True)
    got, want = (draw(one, num_inference_steps=4, num_frames=2, eta=1.0) for one in (other, pipe))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_it_saves_and_loads(pipe: UnconditionalVideoPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded) is UnconditionalVideoPipeline and loaded.config.num_frames == 2
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded), draw(pipe))
    assert draw(loaded, num_frames=None).shape[1] == 2


def test_a_stream_and_a_file_hold_the_frames_of_the_call(pipe: UnconditionalVideoPipeline, tmp_path: Path) -> None:
    options = {"num_frames": 5, "num_inference_steps": 2}
    called = pipe(**options, generator=seeded(), output_type="np")
    streamed = list(pipe.stream(**options, generator=seeded(), output_type="np"))
    assert called.fps == 4.0 and np.array_equal(called.frames[0], np.stack(streamed))
    images = pipe(**options, generator=seeded()).frames
    assert len(images) == 1 and len(images[0]) == 5
    path = pipe.write(tmp_path / "frames", **options, generator=seeded())
    written = read_video(path)
    assert np.abs(written.frames.permute(0, 2, 3, 1).numpy() / 255 - called.frames[0]).max() < 1 / 255


def test_a_stream_draws_clips_when_they_are_asked_for(pipe: UnconditionalVideoPipeline) -> None:
    calls = []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        frames = pipe.stream(num_frames=8, num_inference_steps=2, generator=seeded(), output_type="pt")
        assert not calls
        next(frames), next(frames)
        assert len(calls) == 2
        next(frames)
        assert len(calls) == 4
    finally:
        hook.remove()


def test_a_callback_can_end_it(pipe: UnconditionalVideoPipeline, tmp_path: Path) -> None:
    def stop(pipeline: UnconditionalVideoPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
        seen.append(step)
        pipeline._interrupt = len(seen) == 4
        return {}

    seen: list[int] = []
    frames = draw(pipe, num_frames=8, callback_on_step_end=stop)
    assert frames.shape[1] == 4 and seen == [0, 1, 2, 0]
    seen.clear()
    with pytest.raises(RuntimeError, match="was interrupted after 4 frames, and nothing was written"):
        pipe.write(tmp_path / "out", num_frames=8, num_inference_steps=3, callback_on_step_end=stop)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"num_frames": 2, "num_next_inference_steps": 2},
            ValueError,
            "`num_next_inference_steps` has an effect",
        ),
        ({"num_frames": 2, "reencode_clips": True}, ValueError, "`reencode_clips` has an effect only"),
        ({"num_frames": 2, "context_guidance_scale": 2.0}, ValueError, "`context_guidance_scale` has an effect only"),
        ({"num_next_inference_steps": 0}, ValueError, "`num_next_inference_steps` must be at least 1"),
        ({"num_next_inference_steps": 2, "timesteps": [900, 5]}, ValueError, "no effect with `timesteps`"),
        ({"reencode_clips": "yes"}, TypeError, "`reencode_clips` must be a bool, but is 'yes'"),
        ({"previous_clip": np.zeros((1, 8, 12, 3), "uint8")}, ValueError, "at least 2 frames, or one for each of 1"),
        ({"height": 6}, ValueError, "`height` must be a multiple of 4 in each clip"),
        ({"num_frames": 1}, ValueError, "`num_frames` must be a multiple of 2 in each clip"),
        ({"num_frames": 0}, ValueError, "`num_frames` must be"),
        ({"width": 400}, ValueError, "`width` must be a multiple of 2 in"),
        ({"latents": torch.zeros(1, 2, 5)}, ValueError, "`latents` must have shape"),
        ({"eta": 2.0, "batch_size": 0}, ValueError, "`batch_size` must be"),
    ],
)
def test_bad_calls_are_refused(
    pipe: UnconditionalVideoPipeline, options: dict, error: type[Exception], message: str
) -> None:
    calls = []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(error, match=message):
            draw(pipe, **options)
    finally:
        hook.remove()
    assert not calls


def test_streams_are_of_one_video(pipe: UnconditionalVideoPipeline, tmp_path: Path) -> None:
    for options in ({"batch_size": 2}, {"output_type": "latent"}):
        with pytest.raises(ValueError, match="A stream holds the frames of one video"):
            pipe.stream(**options)
    with pytest.raises(TypeError, match="`return_dict` has no effect on a stream"):
        pipe.stream(return_dict=False)
    with pytest.raises(TypeError, match="`output_type` has no effect on a file"):
        pipe.write(tmp_path / "a.mp4", output_type="np")


def test_without_a_clip_before_there_is_one_clip(pipe: UnconditionalVideoPipeline) -> None:
    unet = tiny_unet_triplane(use_previous_clip=False)
    alone = UnconditionalVideoPipeline(**{**pipe.components, "unet": unet}, num_frames=2)
    alone.set_progress_bar_config(disable=True)
    assert draw(alone, num_frames=2).shape[1] == 2
    with pytest.raises(ValueError, match="`num_frames` must be a multiple of 1 in"):
        draw(alone, num_frames=4)
    with pytest.raises(ValueError, match="`previous_clip` has an effect only on a denoiser with"):
        draw(alone, num_frames=2, previous_clip=np.zeros((2, 8, 12, 3), "uint8"))
