"""What `LongVideoPipeline` promises: videos of every length in one stream, made of the stages' own pipelines."""

import inspect
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import SDCFGCutoffCallback
from PIL import Image
from torch import Tensor

from diffusers_video import (
    AutoencoderKLVideo,
    FrameCondition,
    FrameInterpolationPipeline,
    KeyFramePredictionPipeline,
    LongVideoPipeline,
    VideoPipelineOutput,
    read_video,
)
from diffusers_video.pipelines.frame_streams import decode_pieces
from diffusers_video.pipelines.long_video_setup import PreparedRun, prepare_run
from diffusers_video.video_io import probe_video

from ..tiny_long_videos import tiny_long
from ..tiny_models import shake_temporal_layers
from ..tiny_pipelines import SIZE, tiny_image_pipeline, tiny_text_encoder, tiny_vae
from ..tiny_upscalers import tiny_upscaler


FRAMES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
SLOW_SCHEDULERS = [
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
]
SAME = {"rtol": 0, "atol": 1e-6}  # what the package promises in float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(pipeline: LongVideoPipeline, prompt: str | None = None, seed: int = 0, **arguments: object) -> Tensor:
    arguments = {"num_inference_steps": 1, "output_type": "pt", "num_frames": 18, **arguments}
    return pipeline(prompt, generator=seeded(seed), **arguments).frames


def prepared(pipeline: LongVideoPipeline) -> PreparedRun:
    """A run with the generator of [`run`]."""
    parameters = inspect.signature(LongVideoPipeline.__call__).parameters
    arguments = {name: item.default for name, item in parameters.items() if name != "self"}
    return prepare_run(pipeline, {**arguments, "generator": seeded()})


def watch(unet: torch.nn.Module) -> list[dict[str, object]]:
    calls = []
    unet.register_forward_pre_hook(
        lambda _, values, keywords: calls.append({"sample": values[0], **keywords}), with_kwargs=True
    )
    return calls


@pytest.fixture(scope="module")
def pipeline() -> LongVideoPipeline:
    return tiny_long()


@pytest.mark.parametrize(
    ("num_passes", "num_frames", "fps"),
    [(0, 1, 1.875), (0, 7, 1.875), (1, 2, 7.5), (1, 9, 7.5), (2, 18, 30.0)],
)
def test_every_number_of_frames_is_met_and_the_rate_follows(
    pipeline: LongVideoPipeline, num_passes: int, num_frames: int, fps: float
) -> None:
    output = pipeline(num_frames=num_frames, num_passes=num_passes, num_inference_steps=1, output_type="pt")
    assert isinstance(output, VideoPipelineOutput)
    assert output.frames.shape == (1, num_frames, 3, SIZE, SIZE) and output.fps == fps
    assert all(not torch.equal(one, next_one) for one, next_one in itertools.pairwise(output.frames[0]))


def test_a_shorter_video_is_the_beginning_of_a_longer_one(pipeline: LongVideoPipeline) -> None:
    long = run(pipeline, num_frames=18, output_type="latent")
    for num_frames in (1, 16, 17):
        assert torch.equal(run(pipeline, num_frames=num_frames, output_type="latent"), long[:, :, :num_frames])


def test_the_first_frame_is_that_of_the_image_model(pipeline: LongVideoPipeline) -> None:
    image = tiny_image_pipeline()
    noise = torch.Generator().manual_seed(0)
    calls = watch(pipeline.unet)
    frames = run(pipeline, "a fox", num_frames=1, num_passes=0, output_type="latent", num_inference_steps=2)
    first = calls[0]["sample"][:1, :, 0]  # the noise that the run began with
    want = image("a fox", latents=first, num_inference_steps=2, output_type="latent", generator=noise).images
    torch.testing.assert_close(frames[:, :, 0], want, atol=1e-5, rtol=1e-5)
    assert all(call["image_only"].all() for call in calls)


def test_an_image_unet_draws_the_first_frame_alone() -> None:
    image = tiny_image_pipeline()
    with torch.no_grad():
        image.unet.conv_out.bias += 1
    plain, pipeline = tiny_long(), tiny_long(image_unet=image.unet)
    calls = [watch(unet) for unet in (image.unet, pipeline.unet, pipeline.interpolation_unet)]
    got, want = (run(one, "a fox", output_type="latent", num_frames=17) for one in (pipeline, plain))
    assert [len(called) for called in calls] == [1, 1, 5]
    assert calls[0][0]["sample"].shape == (2, 4, 8, 8) and not torch.isclose(got[:, :, 0], want[:, :, 0]).all()


def test_windows_go_on_from_one_frame_and_then_from_two(pipeline: LongVideoPipeline) -> None:
    calls = watch(pipeline.unet)
    latents = run(pipeline, num_frames=10, num_passes=0, output_type="latent")
    assert [call["frame_mask"][-1].tolist() for call in calls[1:]] == [
        [True, *[False] * 4],
        *[[True, True, *[False] * 3]] * 2,
    ]
    for call, start in zip(calls[1:], (0, 3, 6), strict=True):
        kept = int(call["frame_mask"][-1].sum())
        assert torch.equal(call["context_latents"][-1][:, :kept], latents[0, :, start : start + kept])
    assert len(calls) == 4  # the image, then 4, 3 and 3 new frames of which the last is dropped


def test_one_frame_may_be_all_that_windows_go_on_from(pipeline: LongVideoPipeline) -> None:
    calls = watch(pipeline.unet)
    run(pipeline, num_frames=9, num_passes=0, num_context_frames=1)
    assert [int(call["frame_mask"][-1].sum()) for call in calls[1:]] == [1, 1]


def test_key_frames_stand_unchanged_between_interpolated_ones(pipeline: LongVideoPipeline) -> None:
    keys = run(pipeline, num_frames=3, num_passes=0, output_type="latent")
    once = run(pipeline, num_frames=9, num_passes=1, output_type="latent")
    twice = run(pipeline, num_frames=33, num_passes=2, output_type="latent")
    assert torch.equal(once[:, :, ::4], keys) and torch.equal(twice[:, :, ::4], once)


def test_models_are_told_the_rate_of_their_stage(pipeline: LongVideoPipeline) -> None:
    calls = watch(pipeline.interpolation_unet)
    output = pipeline(num_frames=17, fps=32, num_inference_steps=1, output_type="latent")
    assert [call["fps"] for call in calls] == [8.0, *[32.0] * 4] and output.fps == 32.0


def test_windows_are_those_of_the_pipelines_of_their_stages(pipeline: LongVideoPipeline) -> None:
    frames = run(pipeline, "a fox", num_frames=9, num_passes=1, output_type="latent")
    sources = prepared(pipeline).run.window_generators
    options = {"prompt": "a fox", "num_inference_steps": 1, "output_type": "latent", "fps": 1.875}
    for first in range(2):
        (source,) = sources("interpolation", 0, first, 1)
        pair = frames[:, :, [4 * first, 4 * first + 4]]
        got = pipeline.make_interpolation()(frame_latents=pair, generator=source, **options).frames
        torch.testing.assert_close(got, frames[:, :, 4 * first : 4 * first + 5])
    given = FrameCondition(frames[:, :, :1], 0, is_latent=True)
    got = pipeline.make_prediction()(conditions=[given], generator=sources("prediction", 0, 0, 1), **options).frames
    torch.testing.assert_close(got[:, :, :3], frames[:, :, ::4])


def test_windows_in_batches_are_those_alone() -> None:
    pipeline = tiny_long(dtype=torch.float64)
    pipeline.interpolation_scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    arguments = {"num_frames": 13, "num_passes": 1, "output_type": "latent"}
    alone, together = (run(pipeline, "a fox", interpolation_batch_size=size, **arguments) for size in (1, 2))
    torch.testing.assert_close(together, alone, **SAME)


def test_every_window_has_noise_of_its_own_that_follows_from_the_seed(pipeline: LongVideoPipeline) -> None:
    first, again, other = (run(pipeline, seed=seed, num_frames=2, output_type="latent") for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.isclose(first, other, atol=1e-3).all(dim=1).any()
    calls = [watch(unet) for unet in (pipeline.unet, pipeline.interpolation_unet)]
    run(pipeline, num_frames=33, interpolation_batch_size=2)
    noise = [row[:, 2].flatten() for call in [*calls[0][1:], *calls[1]] for row in call["sample"].chunk(2)[-1]]
    assert len(noise) == 1 + 2 + 8
    assert all(not torch.isclose(one, two).all() for one, two in itertools.combinations(noise, 2))


def test_noise_of_one_seed_is_not_that_of_the_next_window_of_another(pipeline: LongVideoPipeline) -> None:
    calls = watch(pipeline.unet)
    for seed in range(3):
        run(pipeline, seed=seed, num_frames=8, num_passes=0)
    drawn = [call["sample"][0, :, -1].flatten() for call in calls]
    assert len(drawn) == 9 and all(not torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))


@pytest.mark.parametrize(
    "scheduler",
    [
        EulerAncestralDiscreteScheduler,
        *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW_SCHEDULERS),
    ],
)
def test_every_scheduler_goes_on_from_what_it_finished(scheduler: type, tmp_path: Path) -> None:
    pipeline = tiny_long()
    for name in ("scheduler", "interpolation_scheduler"):
        setattr(pipeline, name, scheduler.from_config(pipeline.scheduler.config, skip_prk_steps=True))
    arguments = {"num_inference_steps": 3, "num_frames": 9, "num_passes": 1, "output_type": "latent"}
    want = run(pipeline, "a", **arguments)
    assert torch.isfinite(want).all() and want.std() > 0.1
    assert torch.equal(run(pipeline, "a", work_dir=tmp_path / "run", **arguments), want)
    for name in ("prediction-000000", "interpolation-1-000001"):
        (tmp_path / "run" / f"{name}.safetensors").unlink()
    assert torch.equal(run(pipeline, "a", work_dir=tmp_path / "run", **arguments), want)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_given_frames_come_out_exactly_and_the_video_goes_on_from_the_last(
    pipeline: LongVideoPipeline, number: int
) -> None:
    calls = watch(pipeline.unet)
    frames = run(pipeline, "a fox", frames=FRAMES[:number], num_passes=1).permute(0, 1, 3, 4, 2)
    for index in range(number):
        assert np.array_equal((frames[0, 4 * index] * 255).round().to(torch.uint8), FRAMES[index])
    assert [int(call["frame_mask"][-1].sum()) for call in calls][:1] == [min(number, 2)]
    assert not torch.isclose(frames[0, 4 * number], frames[0, 4 * (number - 1)], atol=1e-3).all()


def test_an_image_a_list_and_a_tensor_are_one_given_frame(pipeline: LongVideoPipeline) -> None:
    image = Image.fromarray(FRAMES[0])
    unit = torch.from_numpy(FRAMES[0]).permute(2, 0, 1) / 255
    for frames in (image, [image], FRAMES[0], FRAMES[:1], unit, unit[None]):
        assert torch.equal(run(pipeline, frames=frames, num_frames=1), unit[None, None])
    assert run(pipeline, frames=image, height=20, width=12, num_frames=1).shape == (1, 1, 3, 20, 12)


def test_all_key_frames_may_be_given(pipeline: LongVideoPipeline) -> None:
    frames = run(pipeline, frames=FRAMES, num_frames=33).permute(0, 1, 3, 4, 2)
    assert np.array_equal((frames[0, ::16] * 255).round().to(torch.uint8), FRAMES)


@pytest.mark.parametrize("family", ["sdxl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd21", "lcm"))])
def test_other_families_draw_long_videos(family: str) -> None:
    pipeline = tiny_long(family)
    want = run(pipeline, "a fox", num_frames=3)
    embeds, negative, pooled, negative_pooled = pipeline.make_prediction().encode_prompt("a fox", "cpu")
    arguments = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    if family == "sdxl":
        arguments |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": negative_pooled}
    if family == "lcm":
        del arguments["negative_prompt_embeds"]
    assert torch.isfinite(want).all() and torch.equal(run(pipeline, num_frames=3, **arguments), want)


def test_guidance_and_single_stages_are_steered(pipeline: LongVideoPipeline) -> None:
    calls = [watch(unet) for unet in (pipeline.unet, pipeline.interpolation_unet)]
    stages = {"image": {"guidance_scale": 1.0}, "interpolation": {"num_inference_steps": 2, "guidance_scale": 1.0}}
    arguments = {"num_frames": 5, "num_passes": 1, "context_guidance_scale": 1.0}
    run(pipeline, "a fox", stage_arguments=stages, **arguments)
    assert [len(call["sample"]) for call in calls[0] + calls[1]] == [1, 2, 1, 1]


@pytest.mark.parametrize(
    ("output_type", "kind", "shape"),
    [
        ("pt", Tensor, (3, SIZE, SIZE)),
        ("np", np.ndarray, (SIZE, SIZE, 3)),
        ("pil", Image.Image, None),
        ("latent", Tensor, (4, 8, 8)),
    ],
)
def test_a_stream_gives_the_frames_of_a_call(pipeline: LongVideoPipeline, output_type: str, kind, shape) -> None:
    arguments = {"num_frames": 5, "num_passes": 1, "num_inference_steps": 1, "output_type": output_type}
    (frames,) = pipeline("a fox", generator=seeded(), return_dict=False, **arguments)
    streamed = list(pipeline.stream("a fox", generator=seeded(), **arguments))
    video = frames[0].unbind(1) if output_type == "latent" else frames[0]
    assert len(streamed) == len(video) == 5
    for one, other in zip(streamed, video, strict=True):
        assert isinstance(one, kind) and (shape is None or tuple(one.shape) == shape)
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_a_stream_gives_frames_before_the_last_window_is_drawn(pipeline: LongVideoPipeline) -> None:
    calls = [watch(unet) for unet in (pipeline.unet, pipeline.interpolation_unet)]
    stream = pipeline.stream(num_frames=1000, num_inference_steps=1, output_type="latent")
    assert not calls[0]
    next(stream)
    assert len(calls[0]) == 1 and not calls[1]
    for _ in range(16):
        next(stream)
    assert len(calls[0]) == 2 and len(calls[1]) == 5
    frames = pipeline.stream(num_frames=1000, num_inference_steps=1, decode_chunk_size=4)
    calls[1].clear()
    next(frames)
    assert len(calls[1]) == 2  # one interpolation of each pass for four frames


@pytest.fixture(scope="module")
def prediction_parts(pipeline: LongVideoPipeline) -> dict[str, object]:
    return pipeline.make_prediction().components


@pytest.mark.parametrize(
    ("num_frames", "chunks"),
    [(1, (8, 2)), (8, (8, 2)), (9, (8, 2)), (15, (8, 2)), (13, (4, 3)), (7, (3, 0)), (12, (40, 5))],
)
def test_temporal_decoding_of_a_stream_is_that_of_the_whole(
    prediction_parts: dict[str, object], num_frames: int, chunks: tuple[int, int]
) -> None:
    vae = AutoencoderKLVideo.from_autoencoder_kl(
        tiny_vae(), decode_chunk_size=chunks[0], decode_chunk_overlap=chunks[1]
    )
    shake_temporal_layers(vae)
    prediction = KeyFramePredictionPipeline(**{**prediction_parts, "vae": vae})
    latents = torch.randn(1, 4, num_frames, 8, 8)
    pieces = iter(latents.split(3, dim=2))
    streamed = torch.cat(list(decode_pieces(prediction.decode_latents, vae, pieces, num_frames, None)), dim=2)
    torch.testing.assert_close(streamed, prediction.decode_frames(latents), atol=1e-6, rtol=0)


def test_a_temporal_decoder_takes_part_in_a_long_video(pipeline: LongVideoPipeline) -> None:
    vae = AutoencoderKLVideo.from_autoencoder_kl(tiny_vae(), decode_chunk_size=8, decode_chunk_overlap=3)
    shake_temporal_layers(vae)
    pipeline = LongVideoPipeline.from_pipelines(pipeline.make_prediction(), pipeline.make_interpolation(), vae=vae)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_frames": 20, "num_passes": 1, "frames": FRAMES}
    latents = run(pipeline, output_type="latent", **options)
    want = pipeline.make_prediction().decode_frames(latents).transpose(1, 2)
    given = [0, 4, 8]
    want[:, given] = torch.from_numpy(FRAMES).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(run(pipeline, **options), want, atol=1e-6, rtol=0)
    vae.register_to_config(decode_chunk_size=20)
    assert not torch.isclose(run(pipeline, **options), want).all()


@pytest.mark.parametrize("kind", ["pixel", pytest.param("latent", marks=pytest.mark.slow)])
def test_frames_are_enlarged_as_the_upscaler_does(kind: str) -> None:
    upscaler = tiny_upscaler(kind)
    pipeline = tiny_long(super_resolution=upscaler)
    arguments = {"num_frames": 5, "num_passes": 1, "frames": FRAMES[:1]}
    stages = {"super_resolution": {"noise_level": 5}}
    large = run(pipeline, "a fox", stage_arguments=stages, **arguments)
    assert large.shape == (1, 5, 3, 4 * SIZE, 4 * SIZE)
    small = run(pipeline, "a fox", use_super_resolution=False, **arguments)
    assert np.array_equal((small[0, 0].permute(1, 2, 0) * 255).round(), FRAMES[0])
    with torch.no_grad():
        prompt = "a fox" if upscaler.text_encoder is not None else None
        (source,) = prepared(pipeline).run.window_generators("super_resolution", 0, 0, 1)
        options = {"generator": source, "noise_level": 5, "num_inference_steps": 1}
        want = torch.cat(list(upscaler.stream([small.transpose(1, 2)], prompt, **options)), dim=2)
    assert torch.equal(large, want.transpose(1, 2))


def test_a_callback_sees_every_stage_and_may_change_it(pipeline: LongVideoPipeline) -> None:
    seen = []

    def zero(stage: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((type(stage), step))
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = run(pipeline, num_frames=5, num_passes=1, callback_on_step_end=zero, output_type="latent")
    classes = [KeyFramePredictionPipeline, KeyFramePredictionPipeline, FrameInterpolationPipeline]
    assert seen == [(one, 0) for one in classes] and not latents.any()


def test_callbacks_of_diffusers_work(pipeline: LongVideoPipeline) -> None:
    calls = watch(pipeline.unet)
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    arguments = {"num_frames": 2, "num_passes": 0, "num_inference_steps": 2, "context_guidance_scale": 1.0}
    run(pipeline, "a", callback_on_step_end=cutoff, **arguments)
    assert [len(call["sample"]) for call in calls] == [2, 1, 2, 1]


def test_an_interrupted_run_ends_with_whole_frames(pipeline: LongVideoPipeline, tmp_path: Path) -> None:
    whole = run(pipeline, num_frames=18, num_passes=1)
    count = itertools.count()

    def stop_later(stage: DiffusionPipeline, *_: object) -> dict[str, Tensor]:
        stage._interrupt = next(count) == 4
        return {}

    arguments = {"num_frames": 18, "num_passes": 1, "decode_chunk_size": 4}
    frames = run(pipeline, callback_on_step_end=stop_later, **arguments)
    assert 4 <= frames.shape[1] < 18 and pipeline.interrupt
    torch.testing.assert_close(frames, whole[:, : frames.shape[1]], atol=1e-6, rtol=0)
    count = itertools.count()
    with pytest.raises(RuntimeError, match=r"interrupted after \d+ frames, and nothing was written"):
        pipeline.write(
            tmp_path / "out", num_inference_steps=1, callback_on_step_end=stop_later, generator=seeded(), **arguments
        )
    assert not list(tmp_path.iterdir())
    assert run(pipeline, num_frames=2).shape[1] == 2 and not pipeline.interrupt
    count = itertools.count(4)
    with pytest.raises(RuntimeError, match="before its first frames"):
        run(pipeline, callback_on_step_end=stop_later, **arguments)


def test_a_model_that_breaks_is_named_and_its_window_is_not_kept(tmp_path: Path) -> None:
    pipeline = tiny_long()
    with torch.no_grad():
        pipeline.interpolation_unet.conv_out.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="The stage 'interpolation', window 0, gave NaN"):
        run(pipeline, work_dir=tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"plan.json", "image-000000.safetensors", "prediction-000000.safetensors"}


@pytest.mark.parametrize("name", ["out.mp4", "out", "out.gif"])
def test_a_file_holds_the_frames_and_their_rate(pipeline: LongVideoPipeline, tmp_path: Path, name: str) -> None:
    options = {"num_frames": 6, "num_inference_steps": 1}
    path = pipeline.write(tmp_path / name, "a fox", generator=seeded(), **options)
    assert path == tmp_path / name
    info = probe_video(path)
    assert (info.num_frames, info.fps, info.height) == (6, 30, SIZE)
    if name == "out":
        want = (run(pipeline, "a fox", **options) * 255).round().to(torch.uint8)
        assert torch.equal(read_video(path).frames, want[0])
    path = pipeline.write(tmp_path / f"slow-{name}", fps=12.5, num_frames=2, num_passes=0, num_inference_steps=1)
    assert float(probe_video(path).fps) == 12.5


def test_parts_that_the_stages_share_must_be_equal(pipeline: LongVideoPipeline) -> None:
    stages = (pipeline.make_prediction, pipeline.make_interpolation)
    made = LongVideoPipeline.from_pipelines(*(make() for make in stages))
    assert torch.equal(run(made), run(pipeline))
    other = tiny_long()
    with torch.no_grad():
        other.text_encoder.get_input_embeddings().weight[0] += 1
        other.vae.decoder.conv_out.bias += 1
    prediction, interpolation = pipeline.make_prediction(), other.make_interpolation()
    with pytest.raises(ValueError, match="`vae` must be the same in all stages.*or pass the one to use as `vae`"):
        LongVideoPipeline.from_pipelines(prediction, interpolation)
    with pytest.raises(ValueError, match="`text_encoder` must be the same in all stages"):
        LongVideoPipeline.from_pipelines(prediction, interpolation, vae=pipeline.vae)


def test_a_saved_pipeline_gives_the_same_frames(tmp_path: Path) -> None:
    image = tiny_image_pipeline()
    pipeline = tiny_long(image_unet=image.unet, super_resolution=tiny_upscaler(), num_frames=2)
    want = pipeline("a fox", generator=seeded(), num_inference_steps=1, output_type="pt").frames
    pipeline.save_pretrained(tmp_path / "saved")
    assert "pipe.write(" in (tmp_path / "saved" / "README.md").read_text()
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is LongVideoPipeline and loaded.make_prediction().config.fps == 1.875
    got = loaded("a fox", generator=seeded(), num_inference_steps=1, output_type="pt").frames
    assert want.shape == (1, 2, 3, 64, 64)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_another_type_is_that_of_all_stages(pipeline: LongVideoPipeline) -> None:
    copied = tiny_long(super_resolution=tiny_upscaler()).to(torch.float64)
    assert run(copied, "a fox", num_frames=2).dtype == torch.float64
    assert LongVideoPipeline.from_pipe(copied, num_frames=3).config.num_frames == 3
    with pytest.raises(TypeError, match="Make one of single pipelines by `LongVideoPipeline.from_pipelines`"):
        LongVideoPipeline.from_pipe(pipeline.make_prediction())


def test_temporal_layers_may_read_another_text_encoder_than_the_image_model() -> None:
    image = tiny_image_pipeline()
    prediction = KeyFramePredictionPipeline.from_image_model(image, "videoldm", num_frames=3)
    shake_temporal_layers(prediction.unet)
    own = {"temporal_text_encoder": tiny_text_encoder(), "temporal_tokenizer": image.tokenizer}
    personal = KeyFramePredictionPipeline(**{**prediction.components, **own}, num_frames=3)
    latents = []
    for single in (prediction, personal):
        pipeline = LongVideoPipeline.from_pipelines(single)
        pipeline.set_progress_bar_config(disable=True)
        latents.append(run(pipeline, "a fox", num_frames=3, output_type="latent"))
    assert torch.equal(latents[0][:, :, 0], latents[1][:, :, 0])
    assert not torch.isclose(latents[0][:, :, 1:], latents[1][:, :, 1:]).all()
