"""LVDM's models in the pipelines of given frames: sparse latents, those between them, videos of a thousand frames."""

from collections import Counter

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from diffusers_video import (
    FrameCondition,
    FrameInterpolationPipeline,
    KeyFramePredictionPipeline,
    LongVideoPipeline,
    TextToVideoPipeline,
    UnconditionalVideoPipeline,
)
from diffusers_video.pipelines.long_video_plan import LongVideoPlan
from diffusers_video.pipelines.memory import LiveBytes

from ..tiny_pipelines import tiny_image_pipeline
from ..tiny_space_time import tiny_space_time
from ..tiny_unconditional import tiny_autoencoder_kl_3d, tiny_unconditional


GIVEN = {"use_frame_mask": True, "num_noise_levels": 11}
FACTOR = 2  # frames for each latent of the tiny autoencoder
ONE_STEP = {"num_inference_steps": 1, "context_guidance_scale": 1.0}


def make(pipeline_class: type, num_latents: int, **settings: object) -> DiffusionPipeline:
    """A pipeline of a tiny model without text, whose windows have so many latents."""
    parts = tiny_unconditional("video", **GIVEN).components
    settings = {"num_frames": num_latents * FACTOR, "max_noise_level": 10, **settings}
    pipeline = pipeline_class(**parts, text_encoder=None, tokenizer=None, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_long(num_key_latents: int = 4) -> LongVideoPipeline:
    stages = [make(KeyFramePredictionPipeline, num_key_latents, fps=2.0), make(FrameInterpolationPipeline, 5)]
    pipeline = LongVideoPipeline.from_pipelines(stages[0], stages[1], vae=stages[0].vae, num_frames=32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def keys_of(num: int) -> Tensor:
    return torch.randn(1, 4, num, 8, 8, generator=seeded(5))


def test_key_latents_go_on_window_by_window() -> None:
    pipeline = make(KeyFramePredictionPipeline, 4)
    steps = []
    latents = pipeline(
        num_frames=10 * FACTOR,
        num_context_frames=1,
        output_type="latent",
        generator=seeded(),
        callback_on_step_end=lambda _, step, *__: steps.append(step) or {},
        **ONE_STEP,
    ).frames
    assert latents.shape == (1, 4, 10, 8, 8) and len(steps) == 3  # 4 latents, and twice 3 more
    assert pipeline.count_windows(10 * FACTOR, num_context_frames=1) == 3
    first = pipeline(output_type="latent", generator=seeded(), **{**ONE_STEP, "context_guidance_scale": None}).frames
    torch.testing.assert_close(latents[:, :, :4], first)


def test_given_latents_are_kept_and_told_with_noise() -> None:
    pipeline = make(KeyFramePredictionPipeline, 4)
    keys, seen = keys_of(1), []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    condition = FrameCondition(keys, 0, is_latent=True)
    options = {"num_inference_steps": 2, "output_type": "latent", "generator": seeded()}
    latents = pipeline(conditions=[condition], noise_level=10, **options).frames
    hook.remove()
    assert torch.equal(latents[:, :, :1], keys)
    told = [call["context_latents"][:, :, 0] for call in seen]
    assert all(torch.equal(one, told[0]) for one in told)  # the noise is drawn once, not in every step
    assert not torch.equal(told[0][:1], keys[:, :, 0]) and {call["noise_level"] for call in seen} == {10.0}
    assert [call["frame_mask"][:, 0].tolist() for call in seen] == [[False, True]] * 2  # without it, and with it


def test_frames_are_given_to_prediction_in_groups_of_one_latent() -> None:
    pipeline = make(KeyFramePredictionPipeline, 4)
    frames = torch.rand(FACTOR, 3, 16, 16, generator=seeded(2))
    video = pipeline(frames, output_type="pt", **ONE_STEP).frames
    assert video.shape == (1, 8, 3, 16, 16) and torch.equal(video[0, :FACTOR], frames)
    with pytest.raises(ValueError, match="whole groups of 2 neighbouring frames"):
        pipeline(frames[:1], **ONE_STEP)


def test_latents_are_drawn_between_neighbours() -> None:
    pipeline = make(FrameInterpolationPipeline, 5)
    keys, steps = keys_of(4), []
    latents = pipeline(
        frame_latents=keys,
        output_type="latent",
        callback_on_step_end=lambda _, step, *__: steps.append(step) or {},
        **ONE_STEP,
    ).frames
    assert pipeline.rate == 4 and latents.shape[2] == 13 and len(steps) == 3  # every gap, not each third one
    assert torch.equal(latents[:, :, ::4], keys)
    with pytest.raises(ValueError, match="key frames are latents. Pass `frame_latents`"):
        pipeline(torch.rand(4, 3, 16, 16))


@pytest.mark.parametrize(("num_frames", "keys", "steps"), [(1024, 65, 21), (1060, 67, 21), (1064, 68, 22)])
def test_keys_and_gaps_are_counted_as_in_the_paper(num_frames: int, keys: int, steps: int) -> None:
    plan = LongVideoPlan(num_frames // 4, 1, 8.0, window_frames=4, num_context_frames=1, num_first=4)
    assert plan.lengths == (keys, num_frames // 4)
    assert plan.num_windows == 1 + steps + keys - 1


def test_a_thousand_frames_are_drawn_in_latents() -> None:
    pipeline, windows = make_long(), Counter()
    pipeline.register_to_config(num_frames=1060 // 4 * FACTOR)

    def count(stage: DiffusionPipeline, *_: object) -> dict:
        windows[type(stage).__name__] += 1
        return {}

    options = {"num_passes": 1, "num_context_frames": 1, "interpolation_batch_size": 22, **ONE_STEP}
    latents = pipeline(output_type="latent", callback_on_step_end=count, generator=seeded(), **options).frames
    assert latents.shape == (1, 4, 265, 8, 8)  # 1,060 frames of the released autoencoder
    assert windows == {"KeyFramePredictionPipeline": 22, "FrameInterpolationPipeline": 3}  # 67 keys, 66 gaps
    assert torch.isfinite(latents).all() and latents[:, :, -3:].std() > 0


def test_a_long_video_is_its_latents_decoded_and_follows_its_seed() -> None:
    pipeline = make_long()
    options = {"num_passes": 1, "num_context_frames": 1, "num_frames": 17 * FACTOR, **ONE_STEP}
    latents = pipeline(output_type="latent", generator=seeded(3), **options).frames
    output = pipeline(output_type="pt", generator=seeded(3), **options)
    whole = pipeline.make_prediction().decode_frames(latents).transpose(1, 2)
    torch.testing.assert_close(output.frames, whole)
    assert output.fps == 8.0 and not torch.equal(whole, pipeline(output_type="pt", **options).frames)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video() -> None:
    pipeline, peaks = make_long(), []
    pipeline.vae.register_to_config(decode_chunk_size=4, decode_chunk_overlap=1)
    for num_latents in (25, 49):
        options = {"num_passes": 1, "num_context_frames": 1, "num_frames": num_latents * FACTOR, **ONE_STEP}
        with LiveBytes(pipeline.unet.parameters()) as memory:
            frames = sum(1 for _ in pipeline.stream(output_type="pt", generator=seeded(), **options))
        assert frames == num_latents * FACTOR
        peaks.append(memory.peak)
    assert peaks[1] <= peaks[0] * 1.01


@pytest.mark.slow
def test_a_saved_hierarchy_is_found_by_diffusers(tmp_path) -> None:
    pipeline = make_long()
    pipeline.save_pretrained(tmp_path / "long")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "long")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is LongVideoPipeline and loaded.text_encoder is None
    options = {"num_passes": 1, "num_context_frames": 1, "output_type": "latent", **ONE_STEP}
    assert torch.equal(loaded(generator=seeded(), **options).frames, pipeline(generator=seeded(), **options).frames)


@pytest.mark.parametrize("pipeline_class", [KeyFramePredictionPipeline, FrameInterpolationPipeline])
def test_a_trained_model_without_text_loads_into_the_pipelines_of_given_frames(pipeline_class: type, tmp_path) -> None:
    trained = tiny_unconditional("video", max_noise_level=10, **GIVEN)
    trained.save_pretrained(tmp_path / "trained")
    pipeline = pipeline_class.from_pretrained(tmp_path / "trained")
    assert pipeline.text_encoder is None and pipeline.config.max_noise_level == 10
    assert pipeline.config.num_frames == trained.config.num_frames
    back = UnconditionalVideoPipeline.from_pretrained(tmp_path / "trained")
    assert torch.equal(back.unet.conv_in.weight, pipeline.unet.conv_in.weight)


def test_a_model_with_text_draws_by_the_text_pipeline() -> None:
    parts = tiny_image_pipeline().components
    parts = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    pipeline = TextToVideoPipeline(**parts, unet=tiny_space_time("lvdm_text"), num_frames=3)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "output_type": "pt"}
    fox, again, bear, guided = (
        pipeline(text, generator=seeded(), guidance_scale=scale, **options).frames
        for text, scale in (("a fox", 1.0), ("a fox", 1.0), ("a bear", 1.0), ("a fox", 15.0))
    )
    assert fox.shape == (1, 3, 3, 16, 16) and torch.equal(fox, again)
    assert not torch.allclose(fox, bear) and not torch.allclose(fox, guided)


BAD_CALLS = [
    (KeyFramePredictionPipeline, {"prompt": "a fox"}, "`prompt` has no effect on a model that reads no text"),
    (KeyFramePredictionPipeline, {"num_frames": 7}, "`num_frames` must be a multiple of 2"),
    (KeyFramePredictionPipeline, {"noise_level": 11}, "`noise_level` must be at most 10"),
    (LongVideoPipeline, {"num_frames": 33}, "`num_frames` must be a multiple of 2"),
    (LongVideoPipeline, {"frames": torch.rand(2, 3, 16, 16)}, "`frames` must be left out"),
    (LongVideoPipeline, {"prompt": "a fox"}, "`prompt` has no effect on a model that reads no text"),
    (LongVideoPipeline, {"stage_arguments": {"image": {"eta": 0.5}}}, "`stage_arguments` has no effect with this"),
]


@pytest.mark.parametrize(("pipeline_class", "arguments", "message"), BAD_CALLS)
def test_calls_that_do_not_fit_are_refused(pipeline_class: type, arguments: dict, message: str) -> None:
    pipeline = make_long() if pipeline_class is LongVideoPipeline else make(pipeline_class, 4)
    with pytest.raises(ValueError, match=message):
        pipeline(**arguments)


def test_a_model_without_text_is_no_text_to_video_model() -> None:
    parts = tiny_image_pipeline().components
    parts = {name: parts[name] for name in ("text_encoder", "tokenizer", "scheduler")}
    pipeline = TextToVideoPipeline(**parts, vae=tiny_autoencoder_kl_3d(), unet=tiny_space_time(), num_frames=4)
    with pytest.raises(ValueError, match="reads no text"):
        pipeline("a fox")
