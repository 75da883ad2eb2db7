"""What `VideoSuperResolutionPipeline` promises: the image upscaler's frames at first, no seams, streams."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionUpscalePipeline,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import SDCFGCutoffCallback
from safetensors.torch import save_file
from torch import Tensor

from diffusers_video import AutoencoderKLVideo, VideoSuperResolutionPipeline
from diffusers_video.conditioning.noise import draw_seeds, frame_generators

from ..tiny_models import shake_temporal_layers, tiny_unet2d
from ..tiny_pipelines import tiny_image_pipeline
from ..tiny_upscalers import KINDS, tiny_image_upscaler, tiny_pixel_unet, tiny_upscaler


STEPS = {"num_inference_steps": 2}
SAME = {"rtol": 0, "atol": 1e-6}  # what the package promises in float64
VIDEO = np.random.default_rng(0).random((9, 4, 8, 3)).astype(np.float32)
each_kind = pytest.mark.parametrize("kind", KINDS)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipeline: VideoSuperResolutionPipeline, video: object = VIDEO, seeds=(0,), **arguments) -> Tensor:
    return pipeline(video, generator=seeded(*seeds), **{**STEPS, "output_type": "pt", **arguments}).frames


def stream(pipeline: VideoSuperResolutionPipeline, frames: object, seeds=(0,), **arguments) -> Tensor:
    """The frames of a stream, in the form of those of a call."""
    return torch.cat(list(pipeline.stream(frames, generator=seeded(*seeds), **STEPS, **arguments)), 2).transpose(1, 2)


def watch(pipeline: VideoSuperResolutionPipeline) -> list[tuple[tuple, dict[str, object]]]:
    calls = []
    pipeline.unet.register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    return calls


@pytest.fixture(scope="module")
def pipelines() -> dict[str, VideoSuperResolutionPipeline]:
    return {kind: tiny_upscaler(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def precise() -> dict[str, VideoSuperResolutionPipeline]:
    return {kind: tiny_upscaler(kind, dtype=torch.float64) for kind in KINDS}


@pytest.mark.parametrize("preset", ["videoldm", "light", "magicvideo"])
def test_one_frame_of_a_new_model_is_the_image_of_the_image_upscaler(preset: str) -> None:
    upscaler = tiny_image_upscaler()
    pipeline = tiny_upscaler(preset=preset, trained=False)
    for guidance, noise_level in ((1.0, 0), (1.0, 20), (5.0, 20), (5.0, 350)):
        arguments = {"prompt": "a fox", "guidance_scale": guidance, "noise_level": noise_level, "eta": 0.4}
        arguments |= {"output_type": "np", **STEPS} | ({"negative_prompt": "blue"} if guidance > 1 else {})
        (source,) = frame_generators(draw_seeds(seeded(3), 1), 0, 1)
        image = upscaler(image=VIDEO[:1], **arguments, generator=source).images
        frames = pipeline(VIDEO[:1], **arguments, generator=seeded(3)).frames
        np.testing.assert_array_equal(frames[:, 0], image)


@pytest.mark.parametrize("scheduler", [PNDMScheduler, HeunDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_every_frame_is_an_image_of_the_image_upscaler_in_whatever_chunk(scheduler: type) -> None:
    upscaler, pipeline = tiny_image_upscaler(), tiny_upscaler(trained=False)
    for one in (upscaler, pipeline):
        one.scheduler = scheduler.from_config(one.scheduler.config, skip_prk_steps=True)
    arguments = {"prompt": "a fox", "guidance_scale": 5.0, "output_type": "np", **STEPS}
    sources = frame_generators(draw_seeds(seeded(3), 1), 0, len(VIDEO))
    (frames,) = pipeline(VIDEO, **arguments, generator=seeded(3)).frames
    for place in (0, 4, 8):
        image = upscaler(image=VIDEO[place : place + 1], **arguments, generator=sources[place]).images[0]
        np.testing.assert_allclose(frames[place], image, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "scheduler", "size", "overlap"),
    [("latent", None, 8, 2), ("pixel", EulerAncestralDiscreteScheduler, 7, 5)],
)
def test_chunks_change_nothing_where_temporal_layers_are_off(
    kind: str, scheduler: type | None, size: int, overlap: int
) -> None:
    pipeline = tiny_upscaler(kind)
    if scheduler is not None:
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    video = np.random.default_rng(1).random((64, 2, 3, 3))
    whole = run(pipeline, video, image_only=True, chunk_size=64)
    assert whole.shape[1] == 64
    chunked = run(pipeline, video, image_only=True, chunk_size=size, chunk_overlap=overlap)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-5)
    assert not torch.allclose(run(pipeline, video[:8], chunk_size=8), whole[:, :8], atol=1e-3)


@each_kind
def test_temporal_layers_mix_the_frames_of_a_chunk(kind: str, pipelines: dict) -> None:
    changed = VIDEO.copy()
    changed[1] = 1 - changed[1]
    difference = (run(pipelines[kind]) - run(pipelines[kind], changed))[0].abs().amax((1, 2, 3))
    assert difference[:4].min() > 1e-4 and not difference[4:].any()


def test_one_chunk_fades_into_the_next(pipelines: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, seen = pipelines["pixel"], []

    def constant(frames: Tensor, first: int, run: object) -> Tensor:
        seen.append((first, frames.shape[2]))
        return torch.full((1, 3, frames.shape[2], 16, 32), float(first))

    monkeypatch.setattr(pipeline, "upscale_chunk", constant)
    latents = run(pipeline, output_type="latent", chunk_size=5, chunk_overlap=2)[0, 0, :, 0, 0]
    assert seen == [(0, 5), (3, 5), (4, 5)]
    joined = [0, 0, 0, 1, 2]  # the second chunk begins at 3: a third and two thirds of the way from 0 to 3
    joined[4:] = [2 + (4 - 2) / 5, 3 + (4 - 3) * 2 / 5, 3 + (4 - 3) * 3 / 5, 3 + (4 - 3) * 4 / 5, 4]
    torch.testing.assert_close(latents, torch.tensor(joined, dtype=torch.float32))


@each_kind
def test_a_stream_equals_a_call_however_it_is_cut(kind: str, pipelines: dict) -> None:
    pipeline = pipelines[kind]
    whole = run(pipeline)
    assert torch.equal(stream(pipeline, list(VIDEO)), whole)
    pieces = torch.from_numpy(VIDEO).permute(3, 0, 1, 2)[None].split([1, 4, 3, 1], dim=2)
    assert torch.equal(stream(pipeline, iter(pieces)), whole)
    bytes_ = (VIDEO * 255).round().astype(np.uint8)
    assert torch.equal(stream(pipeline, (frame for frame in bytes_)), run(pipeline, bytes_))


@pytest.mark.parametrize(
    ("kind", "size", "overlap"), [("pixel", 4, 1), ("pixel", 4, 3), ("latent", 3, 0), ("pixel", 9, 2)]
)
def test_a_stream_that_was_cut_off_is_continued_to_the_same_frames(
    kind: str, size: int, overlap: int, pipelines: dict
) -> None:
    pipeline, chunks = pipelines[kind], {"chunk_size": size, "chunk_overlap": overlap, "num_inference_steps": 1}
    (whole,) = pipeline(VIDEO, generator=seeded(0), output_type="pt", **chunks).frames
    for done in range(1, len(VIDEO)):
        start = pipeline.first_needed_frame(done, size, overlap)
        assert start <= done
        rest = pipeline.stream(VIDEO[start:], first_frame=done, generator=seeded(0), **chunks)
        torch.testing.assert_close(torch.cat(list(rest), 2)[0].transpose(0, 1), whole[done:], rtol=0, atol=1e-6)


def test_a_stream_holds_two_chunks_and_gives_frames_as_soon_as_they_are_done() -> None:
    pipeline, read = tiny_upscaler("pixel", num_frames=4, chunk_overlap=1), []

    def frames() -> Iterator[np.ndarray]:
        for place in range(1000):
            read.append(place)
            yield VIDEO[place % 9]

    pieces = pipeline.stream(frames(), num_inference_steps=1)
    assert len(read) == 1  # the first frame is looked at when the stream is asked for
    lengths = []
    for number in range(1, 5):
        lengths.append(next(pieces).shape[2])
        assert len(read) <= 3 * number + 4
    assert lengths == [3, 3, 3, 3]
    calls = watch(pipeline)
    next(pieces)
    assert len(calls) == 1


def test_a_stream_is_decoded_by_a_video_autoencoder_as_a_whole_video_is() -> None:
    pipeline = tiny_upscaler()
    vae = AutoencoderKLVideo.from_autoencoder_kl(pipeline.vae, decode_chunk_size=3, decode_chunk_overlap=1)
    pipeline.vae = shake_temporal_layers(vae)
    whole = run(pipeline)
    torch.testing.assert_close(stream(pipeline, VIDEO), whole, **SAME)
    vae.register_to_config(decode_chunk_overlap=0)
    assert not torch.allclose(run(pipeline), whole, atol=1e-4)
    whole = run(pipeline, chunk_size=2)
    for done, needed in ((1, 0), (4, 0), (8, 1)):
        assert pipeline.first_needed_frame(done, chunk_size=2) == needed
        rest = stream(pipeline, VIDEO[needed:], first_frame=done, chunk_size=2)
        torch.testing.assert_close(rest, whole[:, done:], **SAME)
    vae.register_to_config(decode_chunk_size=None)
    with pytest.raises(ValueError, match="decode_chunk_size"):
        pipeline.stream(VIDEO)


@each_kind
def test_a_video_is_the_same_alone_and_in_a_batch(kind: str, precise: dict) -> None:
    pipeline = precise[kind]
    former = pipeline.scheduler
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(former.config)
    videos = np.random.default_rng(2).random((2, 5, 4, 4, 3))
    texts = {"prompt": ["a red fox", "blue"], "negative_prompt": "grey"} if kind == "latent" else {}
    batch = run(pipeline, videos, seeds=(1, 2), **texts)
    for index in range(2):
        one = {"prompt": texts["prompt"][index], "negative_prompt": "grey"} if texts else {}
        alone = run(pipeline, videos[index], seeds=(1 + index,), **one)
        torch.testing.assert_close(batch[index], alone[0], **SAME)
    assert not torch.equal(run(pipeline, seeds=(1,)), run(pipeline, seeds=(2,)))
    pieces = torch.from_numpy(videos).permute(0, 4, 1, 2, 3).split(2, dim=2)
    text = {name: value for name, value in texts.items() if name != "prompt"} | {"prompt": texts.get("prompt")}
    torch.testing.assert_close(stream(pipeline, pieces, seeds=(1, 2), **text), batch, **SAME)
    pipeline.scheduler = former


def test_several_videos_of_one_prompt_are_neighbours_with_their_own_noise(precise: dict) -> None:
    arguments = {"prompt": ["a red fox", "blue"], "video": VIDEO[:3], "num_videos_per_prompt": 2}
    batch = run(precise["latent"], seeds=(1, 2, 3, 4), **arguments)
    third = run(precise["latent"], VIDEO[:3], seeds=(3,), prompt="blue")
    torch.testing.assert_close(batch[2], third[0], **SAME)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        LMSDiscreteScheduler,
        UniPCMultistepScheduler,
    ],
)
def test_schedulers_of_diffusers_fit_and_start_anew_in_each_chunk(scheduler: type) -> None:
    pipeline = tiny_upscaler("pixel")
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    options = {"num_inference_steps": 3, "image_only": True}
    frames = run(pipeline, VIDEO[:7], **options)
    assert torch.isfinite(frames).all() and frames.std() > 0
    torch.testing.assert_close(run(pipeline, VIDEO[:3], **options), frames[:, :3], rtol=0, atol=1e-5)


@each_kind
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 3), (9, 16)])
def test_any_size_is_taken_and_comes_out_four_times_as_large(kind: str, size: tuple, pipelines: dict) -> None:
    frames = run(pipelines[kind], np.random.default_rng(0).random((2, *size, 3)), num_inference_steps=1)
    assert frames.shape == (1, 2, 3, 4 * size[0], 4 * size[1])


def test_other_scales_are_multiples_of_the_pixels_of_a_latent() -> None:
    assert run(tiny_upscaler("pixel", scale=2), num_inference_steps=1).shape[-2:] == (8, 16)
    parts = tiny_upscaler().components
    eightfold = VideoSuperResolutionPipeline(**parts, scale=8)
    eightfold.set_progress_bar_config(disable=True)
    assert run(eightfold, num_inference_steps=1).shape[-2:] == (32, 64)
    with pytest.raises(ValueError, match="`scale` must be a multiple of 4"):
        VideoSuperResolutionPipeline(**parts, scale=2)


@each_kind
def test_the_denoiser_sees_the_low_resolution_frames_with_the_noise_it_is_told(kind: str) -> None:
    pipeline = tiny_upscaler(kind)
    calls = watch(pipeline)
    for level in (0, 300):
        run(pipeline, VIDEO[:4], noise_level=level, num_inference_steps=1)
    video = torch.from_numpy(VIDEO[:4] * 2 - 1).permute(3, 0, 1, 2)
    if kind == "pixel":
        images = torch.nn.functional.interpolate(video.transpose(0, 1), scale_factor=4, mode="bicubic")
        video = images.transpose(0, 1)
    for level, ((sample, *_), keywords) in zip((0, 300), calls, strict=True):
        assert keywords["class_labels"].tolist() == [level]
        signal = pipeline.low_res_scheduler.alphas_cumprod[level]
        added = sample[0, -3:] - signal.sqrt() * video
        torch.testing.assert_close(added.std(), (1 - signal).sqrt(), rtol=0.1, atol=0)


def test_levels_and_rates_may_be_told_as_numbers_of_the_clip() -> None:
    unet = tiny_pixel_unet(class_embed_type=None)
    unet = type(unet).from_config({**unet.config, "added_time_ids": ("fps", "noise_level")})
    parts = tiny_upscaler("pixel").components
    pipeline = VideoSuperResolutionPipeline(**{**parts, "unet": unet})
    pipeline.set_progress_bar_config(disable=True)
    calls = watch(pipeline)
    run(pipeline, VIDEO[:2], noise_level=7, fps=12.5, num_inference_steps=1)
    assert calls[0][1]["noise_level"].tolist() == [7.0] and calls[0][1]["fps"] == 12.5


def test_the_noise_level_is_20_or_the_highest_known() -> None:
    pipeline = tiny_upscaler("pixel")
    calls = watch(pipeline)
    run(pipeline, VIDEO[:1], num_inference_steps=1)
    pipeline.register_to_config(max_noise_level=5)
    run(pipeline, VIDEO[:1], num_inference_steps=1)
    assert [call[1]["class_labels"].item() for call in calls] == [20, 5]


def test_guidance_moves_away_from_the_unguided_video(pipelines: dict) -> None:
    frames = [run(pipelines["latent"], prompt="a", guidance_scale=scale) for scale in (1.0, 3.0, 9.0)]
    distances = [(one - frames[0]).abs().mean() for one in frames]
    assert distances[0] == 0 < distances[1] < distances[2]
    assert torch.equal(run(pipelines["latent"], prompt="a"), frames[2])
    assert torch.equal(run(pipelines["latent"]), run(pipelines["latent"], prompt="", guidance_scale=1.0))


def test_given_embeddings_do_as_their_prompts(pipelines: dict) -> None:
    pipeline = pipelines["latent"]
    with torch.no_grad():
        embeds, negative, *_ = pipeline.encode_prompt("a red fox", negative_prompt="grey")
    given = run(pipeline, prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert torch.equal(given, run(pipeline, prompt="a red fox", negative_prompt="grey"))


def test_unit_noise_may_be_given(pipelines: dict) -> None:
    noise = torch.randn(1, 4, 9, 4, 8)
    first, second = (run(pipelines["latent"], latents=latents) for latents in (noise, noise.roll(1, 2)))
    assert torch.equal(first, run(pipelines["latent"], latents=noise)) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("output_type", "kind"), [("pt", Tensor), ("np", np.ndarray), ("pil", list), ("latent", Tensor)]
)
def test_output_has_the_documented_form(pipelines: dict, output_type: str, kind: type) -> None:
    (frames,) = pipelines["latent"](VIDEO[:2], output_type=output_type, return_dict=False, **STEPS)
    assert isinstance(frames, kind)
    if output_type == "pil":
        assert len(frames[0]) == 2 and frames[0][0].size == (32, 16)
    else:
        shapes = {"pt": (1, 2, 3, 16, 32), "np": (1, 2, 16, 32, 3), "latent": (1, 4, 2, 4, 8)}
        assert tuple(frames.shape) == shapes[output_type]
    output = pipelines["latent"](VIDEO[:2], output_type=output_type, **STEPS)
    assert output.fps == pipelines["latent"].config.fps == 6.0


def test_a_callback_acts_in_every_chunk(pipelines: dict) -> None:
    steps = []

    def zero(_, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append((step, tensors["latents"].shape[2], tensors["prompt_embeds"].shape[0]))
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ["latents", "prompt_embeds"]
    options = {"callback_on_step_end": zero, "callback_on_step_end_tensor_inputs": names, "output_type": "latent"}
    assert not run(pipelines["latent"], VIDEO[:7], **options).any()
    assert steps == [(0, 4, 1), (1, 4, 1)] * 2


def test_guidance_that_a_callback_ends_begins_anew_in_the_next_chunk() -> None:
    pipeline = tiny_upscaler()
    calls = watch(pipeline)
    callback = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    run(pipeline, VIDEO[:7], prompt="a", callback_on_step_end=callback)
    assert [arguments[0].shape[0] for arguments, _ in calls] == [2, 1, 2, 1]


def test_an_interrupted_run_leaves_out_the_remaining_steps(pipelines: dict) -> None:
    pipeline, steps = pipelines["latent"], []

    def stop(pipe: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        pipe._interrupt = True
        return {}

    run(pipeline, callback_on_step_end=stop)
    assert steps == [0] and pipeline.interrupt
    run(pipeline, guidance_scale=3.0, prompt="a", guidance_rescale=0.25, clip_skip=1)
    assert (pipeline.guidance_scale, pipeline.guidance_rescale, pipeline.clip_skip) == (3.0, 0.25, 1)
    assert not pipeline.interrupt and pipeline.num_timesteps == 2


@each_kind
def test_a_saved_pipeline_gives_the_same_frames(kind: str, tmp_path: Path, precise: dict) -> None:
    settings = {"scale": 4, "num_frames": 4, "chunk_overlap": 1, "fps": 6.0, "max_noise_level": 350}
    precise[kind].save_pretrained(tmp_path)
    for loader in (DiffusionPipeline, VideoSuperResolutionPipeline):
        loaded = loader.from_pretrained(tmp_path, dtype=torch.float64)
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded) is VideoSuperResolutionPipeline
        assert {name: loaded.config[name] for name in settings} == settings
        assert (loaded.vae is None) == (kind == "pixel")
        torch.testing.assert_close(run(loaded, VIDEO[:5]), run(precise[kind], VIDEO[:5]), **SAME)


def test_a_pipeline_is_made_of_another_ones_components(pipelines: dict) -> None:
    other = VideoSuperResolutionPipeline.from_pipe(pipelines["latent"], num_frames=6)
    assert other.unet is pipelines["latent"].unet and other.config.num_frames == 6 and other.config.chunk_overlap == 1


def test_a_new_pipeline_takes_over_the_image_upscaler_and_its_highest_level() -> None:
    upscaler = tiny_image_upscaler()
    upscaler.register_to_config(max_noise_level=123)
    pipeline = VideoSuperResolutionPipeline.from_image_model(upscaler, "light")
    assert pipeline.vae is upscaler.vae and pipeline.low_res_scheduler is upscaler.low_res_scheduler
    expected = {"max_noise_level": 123, "num_frames": 8, "chunk_overlap": 2, "scale": 4}
    assert {name: pipeline.config[name] for name in expected} == expected


def test_a_single_file_must_be_an_upscaler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 7, 3, 3)}
    save_file(first, tmp_path / "v1.safetensors")
    with pytest.raises(ValueError, match=r"must be a checkpoint of \['upscale'\], but .* is of kind 'v1'"):
        VideoSuperResolutionPipeline.from_single_file(tmp_path / "v1.safetensors")
    mark = {"model.diffusion_model.input_blocks.10.0.skip_connection.bias": torch.zeros(8)}
    save_file(first | mark, tmp_path / "upscaler.safetensors")
    read = []
    image_upscaler = tiny_image_upscaler()
    monkeypatch.setattr(
        StableDiffusionUpscalePipeline, "from_single_file", lambda *arguments: read.append(arguments) or image_upscaler
    )
    pipeline = VideoSuperResolutionPipeline.from_single_file(tmp_path / "upscaler.safetensors", preset="light")
    assert read == [(str(tmp_path / "upscaler.safetensors"),)] and pipeline.vae is image_upscaler.vae


def test_an_image_model_that_is_no_upscaler_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a low_res_scheduler, but this StableDiffusionPipeline has none"):
        VideoSuperResolutionPipeline.from_image_model(tiny_image_pipeline())


@pytest.mark.parametrize(
    ("kind", "changes", "error", "message"),
    [
        ("latent", {"unet": tiny_unet2d("x4_upscaler")}, ValueError, "from_image_model"),
        ("latent", {"low_res_scheduler": None}, TypeError, "`low_res_scheduler` must be a scheduler"),
        ("latent", {"max_noise_level": 1000}, ValueError, "`max_noise_level` must be below 1000"),
        ("latent", {"max_noise_level": -1}, ValueError, "`max_noise_level` must be at least 0"),
        ("pixel", {"chunk_overlap": 8}, ValueError, "`chunk_overlap` must be below `num_frames`=8"),
        ("pixel", {"num_frames": 0}, ValueError, "`num_frames` must be at least 1"),
        ("pixel", {"scale": 1}, ValueError, "`scale` must be at least 2"),
        ("pixel", {"scale": 2.5}, TypeError, "`scale` must be an integer"),
        ("pixel", {"fps": 0}, ValueError, "`fps` must be above 0"),
    ],
)
def test_wrong_parts_are_refused(kind: str, changes: dict, error: type, message: str, pipelines: dict) -> None:
    with pytest.raises(error, match=message):
        VideoSuperResolutionPipeline(**{**pipelines[kind].components, **changes})


WRONG = [
    ("latent", {"video": []}, ValueError, "`video` must hold at least one frame"),
    ("latent", {"video": "small.mp4"}, TypeError, "`video` must be a list of frames"),
    ("latent", {"video": VIDEO * 2 - 1}, ValueError, "`video` must be uint8"),
    ("latent", {"video": VIDEO[..., :1]}, ValueError, "`video` must have 3 colour channels, but has 1"),
    ("latent", {"video": np.stack([VIDEO] * 2), "prompt": "a"}, ValueError, "`video` must be one video, or one for"),
    ("latent", {"prompt": 3}, TypeError, "`prompt` must be a string"),
    ("latent", {"prompt": "a", "prompt_embeds": torch.zeros(1, 7, 12)}, ValueError, "Only one of `prompt` and"),
    ("latent", {"prompt_embeds": torch.zeros(1, 7, 13)}, ValueError, "`prompt_embeds` must have shape"),
    ("latent", {"guidance_scale": 3.0}, ValueError, "`guidance_scale` has no effect without a prompt"),
    ("latent", {"negative_prompt": "a"}, ValueError, "`negative_prompt` has no effect without guidance"),
    ("latent", {"guidance_rescale": 0.5}, ValueError, "`guidance_rescale` has no effect without guidance"),
    ("latent", {"num_inference_steps": 0}, ValueError, "`num_inference_steps` must be at least 1"),
    ("latent", {"num_videos_per_prompt": 0}, ValueError, "`num_videos_per_prompt` must be at least 1"),
    ("latent", {"noise_level": -1}, ValueError, "`noise_level` must be at least 0"),
    ("latent", {"noise_level": 351}, ValueError, "`noise_level` must be at most 350"),
    ("latent", {"noise_level": 2.5}, TypeError, "`noise_level` must be an integer"),
    ("latent", {"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1"),
    ("latent", {"chunk_overlap": 4}, ValueError, "`chunk_overlap` must be below `chunk_size`=4"),
    ("latent", {"chunk_overlap": -1}, ValueError, "`chunk_overlap` must be at least 0"),
    ("latent", {"image_only": 1}, TypeError, "`image_only` must be a bool"),
    ("latent", {"fps": 0}, ValueError, "`fps` must be above 0"),
    ("latent", {"eta": -1}, ValueError, "`eta` must be at least 0"),
    ("latent", {"generator": 0}, TypeError, "`generator` must be"),
    ("latent", {"generator": seeded(0, 1)}, ValueError, "`generator` must hold one generator for each of 1"),
    ("latent", {"latents": torch.zeros(1, 4, 9, 4, 4)}, ValueError, r"`latents` must have shape \(1, 4, 9, 4, 8\)"),
    ("latent", {"output_type": "gif"}, ValueError, "`output_type` must be one of"),
    ("latent", {"callback_on_step_end": 3}, TypeError, "`callback_on_step_end` must be callable"),
    ("latent", {"callback_on_step_end_tensor_inputs": ["add_time_ids"]}, ValueError, "must be among"),
    ("latent", {"timesteps": [1, 2]}, ValueError, "`timesteps`"),
    ("pixel", {"prompt": "a"}, ValueError, "`prompt` needs a `tokenizer`"),
    ("pixel", {"decode_chunk_size": 4}, ValueError, "`decode_chunk_size` has no effect on a pipeline without `vae`"),
]


@pytest.mark.parametrize(("kind", "changes", "error", "message"), WRONG)
def test_bad_input_is_refused_before_a_model_runs(
    kind: str, changes: dict, error: type, message: str, pipelines: dict
) -> None:
    pipeline = pipelines[kind]
    hook = pipeline.unet.register_forward_pre_hook(lambda *_: pytest.fail("the denoiser ran"))
    with pytest.raises(error, match=message):
        pipeline(**{"video": VIDEO, **STEPS, **changes})
    hook.remove()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frames": []}, ValueError, "`frames` must hold at least one frame"),
        ({"first_frame": -1}, ValueError, "`first_frame` must be at least 0"),
        ({"output_type": "pil"}, TypeError, "`output_type` is no argument of a stream"),
        ({"latents": None}, TypeError, "`latents` is no argument of a stream"),
        ({"strength": 0.5}, TypeError, "`strength` is no argument of a stream"),
        ({"noise_level": 351}, ValueError, "`noise_level` must be at most 350"),
        ({"frames": [VIDEO[0], 3]}, TypeError, "`frames` must be a list of frames"),
        ({"frames": [VIDEO[0], VIDEO[0, :2]]}, ValueError, "`frames` must all have the shape of the first"),
    ],
)
def test_a_wrong_stream_is_refused(arguments: dict, error: type, message: str, pipelines: dict) -> None:
    with pytest.raises(error, match=message):
        list(pipelines["latent"].stream(**{"frames": VIDEO, **STEPS, **arguments}))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("latent", {"in_channels": 4}, "takes 7 channels|takes 4 channels of noisy latents and 3"),
        ("latent", {"num_class_embeds": None}, "is told the noise on the low-resolution frames"),
        ("latent", {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}, "class_embed_type"),
        ("pixel", {"in_channels": 3}, "takes 3 channels of noisy pixels and 3"),
    ],
)
def test_a_denoiser_that_does_not_fit_is_refused(kind: str, options: dict, message: str, pipelines: dict) -> None:
    family = {"x4_upscaler": {}, "sd15": {"in_channels": 6, "out_channels": 3, "class_embed_type": "timestep"}}
    name = "x4_upscaler" if kind == "latent" else "sd15"
    unet2d = tiny_unet2d(name, **{**family[name], **options})
    unet = tiny_pixel_unet().from_unet2d(unet2d, "light")
    pipeline = VideoSuperResolutionPipeline(**{**pipelines[kind].components, "unet": unet})
    with pytest.raises(ValueError, match=message):
        pipeline(VIDEO, **STEPS)


@pytest.mark.parametrize("broken", ["unet", "vae"])
def test_the_stage_that_gives_no_numbers_is_named(broken: str) -> None:
    pipeline = tiny_upscaler()
    name = {"vae": "decoder.conv_out.bias", "unet": "conv_out.bias"}[broken]
    with torch.no_grad():
        getattr(pipeline, broken).get_parameter(name).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=f"^{({'unet': 'Denoising', 'vae': 'Decoding'})[broken]} gave NaN"):
        run(pipeline)


def drifting_waves(num_frames: int, height: int, width: int) -> Tensor:
    """A video of waves that move steadily: between all neighbouring frames there is the same change."""
    random = torch.Generator().manual_seed(0)
    time, rows, columns = torch.meshgrid(torch.arange(num_frames), torch.arange(height), torch.arange(width))
    video = torch.full((num_frames, 3, height, width), 0.5)
    for number in range(12):
        phase = torch.rand(1, 3, 1, 1, generator=random) * 2 * torch.pi
        down, right = torch.rand(2, generator=random) * 1.5
        wave = down * rows + right * columns + (0.12 if number % 2 else -0.12) * time
        video += 0.04 * torch.sin(wave[:, None] + phase)
    return video


def joint_ratio(frames: Tensor, size: int, overlap: int) -> float:
    """
    Mean change from frame to frame at the place of a chunk where it is largest, over that at the other places. The
    first and the last chunk are left out, as they have one neighbour.
    """
    changes, step = frames.diff(dim=0).abs().mean((1, 2, 3)), size - overlap
    places = torch.arange(len(changes))
    inner = (places >= size - 1) & (places < len(frames) - size)
    means = torch.stack([changes[inner & (places % step == place)].mean() for place in range(step)])
    return (means.max() / (means.sum() - means.max()) * (step - 1)).item()


@pytest.mark.slow
@each_kind
def test_fading_takes_away_most_of_a_seam_that_nothing_else_hides(kind: str) -> None:
    pipeline = tiny_upscaler(kind, weight_size=0.2, num_frames=8)
    side, channels = ((6, 8), 4) if kind == "latent" else ((24, 32), 3)
    noise = torch.randn(1, channels, 1, *side).expand(-1, -1, 64, -1, -1)  # all frames have the same
    options = {"noise_level": 0, "latents": noise, "num_inference_steps": 4}
    excess = {}
    for overlap in (0, 2, 4):
        frames = run(pipeline, drifting_waves(64, 6, 8), chunk_overlap=overlap, **options)[0]
        excess[overlap] = joint_ratio(frames, 8, overlap) - 1
    assert excess[0] > 1 and excess[2] < 0.5 * excess[0] and excess[4] < 0.2 * excess[0], excess
