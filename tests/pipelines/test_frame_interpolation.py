"""What `FrameInterpolationPipeline` promises: four times the rate, key frames unchanged at their places."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler
from torch import Tensor

from diffusers_video import FrameInterpolationPipeline, TextToVideoPipeline

from ..test_hub import hub_on_this_machine
from ..tiny_models import shake_temporal_layers
from ..tiny_pipelines import SIZE, tiny_given, tiny_image_pipeline, tiny_text_to_video
from .test_scheduling import make as make_scheduler


STEPS = {"num_inference_steps": 2}
SAME = {"rtol": 0, "atol": 1e-6}  # what the package promises in float64
KEY_FRAMES = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipeline: FrameInterpolationPipeline, frames: object = KEY_FRAMES[:3], prompt=None, seeds=(0,), **arguments):
    arguments = {**STEPS, "output_type": "pt", **arguments}
    return pipeline(frames, prompt, generator=seeded(*seeds), **arguments).frames


def interpolator(dtype: torch.dtype = torch.float32, family: str = "sd15") -> FrameInterpolationPipeline:
    return tiny_given(FrameInterpolationPipeline, family, dtype)


def watch(pipeline: FrameInterpolationPipeline) -> list[dict[str, object]]:
    calls = []
    pipeline.unet.register_forward_pre_hook(lambda _, __, keywords: calls.append(keywords), with_kwargs=True)
    return calls


@pytest.fixture(scope="module")
def pipeline() -> FrameInterpolationPipeline:
    return interpolator()


@pytest.fixture(scope="module")
def precise() -> FrameInterpolationPipeline:
    return interpolator(torch.float64)


@pytest.mark.parametrize(
    ("num_passes", "num_frames", "mechanism"),
    [
        (1, 29, "context"),
        (2, 113, "context"),
        (1, 29, "replacement"),
        pytest.param(2, 113, "replacement", marks=pytest.mark.slow),
        pytest.param(2, 113, "reconstruction", marks=pytest.mark.slow),
    ],
)
def test_eight_key_frames_give_29_then_113_and_stay_at_their_places(
    pipeline: FrameInterpolationPipeline, num_passes: int, num_frames: int, mechanism: str
) -> None:
    arguments = {"num_passes": num_passes, "mechanism": mechanism, "num_inference_steps": 1}
    (video,) = pipeline(KEY_FRAMES, **arguments).frames
    assert len(video) == num_frames
    for index, frame in enumerate(KEY_FRAMES):
        assert np.array_equal(video[index * 4**num_passes], frame)
    assert not any(np.array_equal(video[index], video[index - 1]) for index in range(1, num_frames))


def test_latents_of_key_frames_stay_at_their_places(pipeline: FrameInterpolationPipeline) -> None:
    latents = torch.randn(1, 4, 3, 8, 8)
    got = run(pipeline, None, frame_latents=latents, num_passes=2, output_type="latent")
    assert got.shape[2] == 33 and torch.equal(got[:, :, ::16], latents)
    assert run(pipeline, None, frame_latents=latents).shape == (1, 9, 3, SIZE, SIZE)


def test_a_window_knows_its_two_neighbours_and_nothing_else() -> None:
    pipeline = interpolator()
    calls = watch(pipeline)
    latents = torch.randn(1, 4, 3, 8, 8)
    run(pipeline, None, frame_latents=latents, num_inference_steps=1)
    for index, call in enumerate(calls):
        assert call["frame_mask"][-1].tolist() == [True, False, False, False, True]
        assert torch.equal(call["context_latents"][-1][:, [0, 4]], latents[0, :, index : index + 2])
        assert not call["context_latents"][:, :, 1:4].any()
    assert len(calls) == 2


def test_one_model_is_told_the_rate_of_each_pass() -> None:
    pipeline = interpolator()
    calls = watch(pipeline)
    output = pipeline(KEY_FRAMES[:2], num_passes=2, fps=1.875, num_inference_steps=1, output_type="latent")
    assert [call["fps"] for call in calls] == [7.5, 30.0, 30.0, 30.0, 30.0]
    assert pipeline.count_windows(2, num_passes=2) == 5 and pipeline.count_windows(8) == 7
    assert output.fps == 30.0
    pipeline.register_to_config(fps=30.0)
    assert pipeline(KEY_FRAMES[:2], num_inference_steps=1, output_type="latent").fps == 30.0
    assert calls[-1]["fps"] == 30.0


def test_two_passes_are_one_pass_and_another(precise: FrameInterpolationPipeline) -> None:
    latents, source = torch.randn(1, 4, 2, 8, 8).double(), torch.Generator().manual_seed(0)
    arguments = {"output_type": "latent", **STEPS}
    for fps in (1.0, 4.0):
        latents = precise(frame_latents=latents, fps=fps, generator=source, **arguments).frames
        if fps == 1.0:
            first = latents[:, :, ::4].clone()
    both = precise(
        frame_latents=first, fps=1.0, num_passes=2, generator=torch.Generator().manual_seed(0), **arguments
    ).frames
    torch.testing.assert_close(both, latents, **SAME)


def test_seeds_and_batches_give_the_same_videos() -> None:
    pipeline = interpolator(torch.float64)
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    videos = np.random.default_rng(1).random((2, 3, SIZE, SIZE, 3))
    batch = run(pipeline, videos, ["a", "b"], seeds=(1, 2))
    torch.testing.assert_close(batch[1], run(pipeline, videos[1], "b", seeds=(2,))[0], **SAME)
    assert not torch.equal(run(pipeline, seeds=(1,)), run(pipeline, seeds=(2,)))


def test_an_xl_model_and_a_model_without_context_interpolate() -> None:
    assert run(interpolator(family="sdxl"), prompt="a").shape[1] == 9
    plain = FrameInterpolationPipeline.from_pipe(tiny_text_to_video(), num_frames=5)
    plain.set_progress_bar_config(disable=True)
    frames = run(plain, prompt="a")
    assert np.array_equal((frames[0, 4].permute(1, 2, 0) * 255).round(), KEY_FRAMES[1])


def magic_interpolator(rate: int, **options: object) -> FrameInterpolationPipeline:
    pipeline = FrameInterpolationPipeline.from_image_model(
        tiny_image_pipeline(), "magicvideo", temporal_options=options, num_frames=rate + 1, fps=8.0
    )
    shake_temporal_layers(pipeline.unet)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("rate", [2, 3, 4])
def test_any_number_of_new_frames_sees_both_key_frames_without_convolution_over_time(rate: int) -> None:
    pipeline, latents = magic_interpolator(rate), torch.randn(1, 4, 4, 8, 8)
    assert pipeline.unet.config.frame_adaptor == rate + 1 and not pipeline.unet.is_causal
    drawn = run(pipeline, None, frame_latents=latents, output_type="latent")
    assert drawn.shape[2] == 3 * rate + 1 and torch.equal(drawn[:, :, ::rate], latents)
    for key in (0, 1):  # those of the first window
        moved = latents.clone()
        moved[:, :, key] += 1
        changed = run(pipeline, None, frame_latents=moved, output_type="latent") != drawn
        assert changed[:, :, 1:rate].flatten(3).any(3).all()


def test_a_causal_model_is_refused_where_it_would_not_see_the_second_key_frame() -> None:
    pipeline = magic_interpolator(2, temporal_attention="causal")
    for mechanism in (None, "replacement"):
        with pytest.raises(ValueError, match=r"is 'causal', and frames are given at \[0, 2\].*'reconstruction'"):
            run(pipeline, mechanism=mechanism)
    drawn = [run(pipeline, frames, mechanism="reconstruction") for frames in (KEY_FRAMES[:2], KEY_FRAMES[[0, 2]])]
    assert not torch.equal(drawn[0][:, 1], drawn[1][:, 1])  # the gradient tells the new frame of the second key frame


def test_a_window_of_another_length_has_another_rate() -> None:
    pipeline = interpolator()
    pipeline.register_to_config(num_frames=3)
    assert pipeline.rate == 2 and run(pipeline).shape[1] == 5


@pytest.mark.parametrize(
    ("output_type", "kind"), [("pt", Tensor), ("np", np.ndarray), ("pil", list), ("latent", Tensor)]
)
def test_output_has_the_documented_form(pipeline: FrameInterpolationPipeline, output_type: str, kind: type) -> None:
    (frames,) = pipeline(KEY_FRAMES[:2], output_type=output_type, return_dict=False, **STEPS)
    assert isinstance(frames, kind)
    if output_type != "pil":
        shapes = {"pt": (1, 5, 3, SIZE, SIZE), "np": (1, 5, SIZE, SIZE, 3), "latent": (1, 4, 5, 8, 8)}
        assert tuple(frames.shape) == shapes[output_type]


def test_a_callback_acts_in_every_window(pipeline: FrameInterpolationPipeline) -> None:
    steps = []

    def zero(_, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = run(pipeline, callback_on_step_end=zero, output_type="latent")
    assert steps == [0, 1, 0, 1] and not latents[:, :, 1:4].any() and latents[:, :, 4].any()


def test_a_new_pipeline_has_a_model_that_is_told_frames_and_rate() -> None:
    pipeline = FrameInterpolationPipeline.from_image_model(tiny_image_pipeline(), "light", num_frames=5, fps=30.0)
    assert pipeline.unet.config.context_channels == 5 and tuple(pipeline.unet.config.added_time_ids) == ("fps",)
    with pytest.raises(ValueError, match="from_image_model"):
        FrameInterpolationPipeline(**{**pipeline.components, "unet": tiny_image_pipeline().unet})


def test_a_saved_pipeline_gives_the_same_frames(tmp_path: Path) -> None:
    pipeline = interpolator(torch.float64)
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "saved", dtype=torch.float64)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is FrameInterpolationPipeline
    torch.testing.assert_close(run(loaded), run(pipeline), **SAME)


def test_it_loads_by_the_name_of_its_repository(
    pipeline: FrameInterpolationPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    assert "FrameInterpolationPipeline.from_pretrained" in (tmp_path / "saved" / "README.md").read_text()
    cache = hub_on_this_machine(tmp_path / "saved", tmp_path, monkeypatch)
    for pipeline_class in (DiffusionPipeline, FrameInterpolationPipeline):
        loaded = pipeline_class.from_pretrained("user/clips", cache_dir=cache)
        assert type(loaded) is FrameInterpolationPipeline and loaded.config.num_frames == 5


def test_given_frames_are_decoded_on_request(pipeline: FrameInterpolationPipeline) -> None:
    kept, decoded = run(pipeline), run(pipeline, decode_given_frames=True)
    between = [index for index in range(9) if index % 4]
    assert torch.equal(kept[:, between], decoded[:, between])
    assert not torch.isclose(kept[:, ::4], decoded[:, ::4]).all()
    torch.testing.assert_close(decoded, pipeline.decode_frames(run(pipeline, output_type="latent")).transpose(1, 2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["DDIMScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"])
def test_schedulers_of_other_scales_keep_key_frames(
    pipeline: FrameInterpolationPipeline, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "scheduler", make_scheduler(name))
    latents = torch.randn(1, 4, 3, 8, 8)
    drawn = run(pipeline, None, frame_latents=latents, output_type="latent", num_inference_steps=3)
    assert torch.equal(drawn[:, :, ::4], latents)
    assert torch.isfinite(drawn).all() and drawn[:, :, 1:4].std() > 0.1


def test_text_and_given_frames_guide_together() -> None:
    pipeline = interpolator()
    calls = watch(pipeline)
    scales = {"guidance_scale": 4.0, "context_guidance_scale": 2.0}
    both = run(pipeline, KEY_FRAMES[:2], "a fox", num_inference_steps=1, **scales)
    assert [call["frame_mask"].any(1).tolist() for call in calls] == [[False, True, True]]
    for name in scales:
        assert not torch.equal(
            run(pipeline, KEY_FRAMES[:2], "a fox", num_inference_steps=1, **{**scales, name: 1.0}), both
        )


def test_text_to_video_is_made_of_its_parts(pipeline: FrameInterpolationPipeline) -> None:
    other = TextToVideoPipeline.from_pipe(pipeline)
    assert other.unet is pipeline.unet
