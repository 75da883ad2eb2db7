"""What `TextToVideoPipeline` promises: the image pipeline's frames at first, and the same frames whenever asked."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
)
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback
from PIL import Image
from torch import Tensor

from diffusers_video import TextToVideoPipeline, UNetVideoConditionModel, VideoPipelineOutput
from diffusers_video.models.unet_video_condition import PRESETS

from ..tiny_models import shake_temporal_layers, tiny_unet2d
from ..tiny_pipelines import (
    FAMILIES,
    MAX_TOKENS,
    POOLED_WIDTH,
    SIZE,
    TEXT_WIDTH,
    tiny_image_pipeline,
    tiny_text_to_video,
    tiny_vae_without_posterior,
)


STEPS = {"num_inference_steps": 2}
SAME = {"rtol": 0, "atol": 1e-6}  # what the package promises in float64; measured differences are below 1e-14


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipeline: TextToVideoPipeline, prompt="a red fox", seeds=(0,), **arguments) -> Tensor:
    arguments = {**STEPS, "output_type": "pt", **arguments}
    return pipeline(prompt, generator=seeded(*seeds), **arguments).frames


@pytest.fixture(scope="module")
def pipeline() -> TextToVideoPipeline:
    return tiny_text_to_video()


@pytest.fixture(scope="module")
def precise() -> TextToVideoPipeline:
    return tiny_text_to_video(dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_one_frame_of_a_new_model_is_the_image_of_its_image_pipeline(
    family: str, preset: str, guidance_scale: float
) -> None:
    image_pipeline = tiny_image_pipeline(family)
    video_pipeline = TextToVideoPipeline.from_image_model(image_pipeline, preset)
    video_pipeline.set_progress_bar_config(disable=True)
    arguments = {"prompt": "a red fox", "guidance_scale": guidance_scale, "output_type": "np", **STEPS}
    if guidance_scale > 1 and family != "lcm":
        arguments |= {"guidance_rescale": 0.5, "negative_prompt": "blue", "eta": 0.4}
    image = image_pipeline(**arguments, generator=seeded(0)).images
    frames = video_pipeline(**arguments, generator=seeded(0), num_frames=1).frames
    np.testing.assert_array_equal(frames[:, 0], image)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, PNDMScheduler, HeunDiscreteScheduler])
def test_one_frame_is_the_image_with_schedulers_of_other_scales(scheduler: type) -> None:
    image_pipeline = tiny_image_pipeline()
    image_pipeline.scheduler = scheduler.from_config(image_pipeline.scheduler.config, skip_prk_steps=True)
    video_pipeline = TextToVideoPipeline.from_image_model(image_pipeline)
    video_pipeline.set_progress_bar_config(disable=True)
    arguments = {"prompt": "a", "output_type": "np", **STEPS}
    image = image_pipeline(**arguments, generator=seeded(0)).images
    frames = video_pipeline(**arguments, generator=seeded(0), num_frames=1).frames
    np.testing.assert_array_equal(frames[:, 0], image)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_one_frame_started_from_is_the_image_of_the_image_to_image_pipeline(strength: float) -> None:
    image_pipeline = tiny_image_pipeline()
    from_image = StableDiffusionImg2ImgPipeline(**image_pipeline.components, requires_safety_checker=False)
    from_image.set_progress_bar_config(disable=True)
    video_pipeline = TextToVideoPipeline.from_image_model(image_pipeline)
    video_pipeline.set_progress_bar_config(disable=True)
    start = np.random.rand(1, SIZE, SIZE, 3).astype(np.float32)
    arguments = {"prompt": "a", "strength": strength, "num_inference_steps": 4, "output_type": "np"}
    image = from_image(image=start, **arguments, generator=torch.Generator().manual_seed(0)).images
    frames = video_pipeline(video=start, **arguments, generator=torch.Generator().manual_seed(0)).frames
    np.testing.assert_allclose(frames[:, 0], image, atol=1e-5)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_every_frame_of_a_new_model_is_an_image_of_its_image_pipeline(family: str) -> None:
    image_pipeline = tiny_image_pipeline(family)
    video_pipeline = TextToVideoPipeline.from_image_model(image_pipeline)
    noise = torch.randn(1, 4, 3, 8, 8)
    arguments = {"guidance_scale": 5.0, "output_type": "pt", **STEPS}
    images = image_pipeline(["a fox"] * 3, latents=noise[0].transpose(0, 1), **arguments).images
    frames = video_pipeline("a fox", latents=noise, **arguments).frames
    torch.testing.assert_close(frames[0], images)


def test_skipped_layers_of_the_text_encoder_do_as_a_text_encoder_without_them() -> None:
    pipeline = tiny_text_to_video()
    skipped = run(pipeline, clip_skip=1, guidance_scale=1.0)
    assert not torch.allclose(skipped, run(pipeline, guidance_scale=1.0))
    pipeline.text_encoder.encoder.layers = pipeline.text_encoder.encoder.layers[:-1]
    torch.testing.assert_close(run(pipeline, guidance_scale=1.0), skipped)


def test_skipped_layers_of_xl_do_as_in_the_image_pipeline() -> None:
    image_pipeline = tiny_image_pipeline("sdxl")
    video_pipeline = TextToVideoPipeline.from_image_model(image_pipeline)
    arguments = {"prompt": "a", "clip_skip": 1, "guidance_scale": 5.0, "output_type": "np", **STEPS}
    image = image_pipeline(**arguments, generator=seeded(0)).images
    np.testing.assert_array_equal(video_pipeline(**arguments, generator=seeded(0), num_frames=1).frames[:, 0], image)


def test_size_conditions_of_xl_reach_the_denoiser_as_in_the_image_pipeline() -> None:
    image_pipeline = tiny_image_pipeline("sdxl")
    video_pipeline = TextToVideoPipeline.from_image_model(image_pipeline)
    sizes = {
        "original_size": (40, 30),
        "crops_coords_top_left": (3, 4),
        "target_size": (20, 10),
        "negative_original_size": (9, 8),
        "negative_crops_coords_top_left": (1, 2),
        "negative_target_size": (7, 6),
    }
    arguments = {"prompt": "a fox", "prompt_2": "a bear", "negative_prompt": "b", "negative_prompt_2": "c"}
    arguments |= {**sizes, "guidance_scale": 5.0, "output_type": "np", **STEPS}
    image = image_pipeline(**arguments, generator=seeded(0)).images
    frames = video_pipeline(**arguments, generator=seeded(0), num_frames=1).frames
    np.testing.assert_array_equal(frames[:, 0], image)
    del arguments["negative_crops_coords_top_left"]
    image = image_pipeline(**arguments, generator=seeded(0)).images
    frames = video_pipeline(**arguments, generator=seeded(0), num_frames=1).frames
    np.testing.assert_array_equal(frames[:, 0], image)
    del arguments["crops_coords_top_left"], arguments["original_size"]
    assert not np.array_equal(video_pipeline(**arguments, generator=seeded(0), num_frames=1).frames[:, 0], image)


def test_trained_temporal_layers_mix_the_frames(pipeline: TextToVideoPipeline) -> None:
    noise = torch.randn(1, 4, 3, 8, 8)
    changed = noise.clone()
    changed[:, :, 2] += 1
    first, second = (run(pipeline, latents=latents) for latents in (noise, changed))
    assert (first[:, 0] - second[:, 0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("output_type", "kind"), [("pt", Tensor), ("np", np.ndarray), ("pil", list), ("latent", Tensor)]
)
def test_output_has_the_documented_form(pipeline: TextToVideoPipeline, output_type: str, kind: type) -> None:
    output = pipeline(["a", "b"], output_type=output_type, num_frames=2, fps=6, **STEPS)
    assert isinstance(output, VideoPipelineOutput) and isinstance(output.frames, kind)
    assert output.fps == 6.0 and isinstance(output.fps, float)
    if output_type == "pil":
        assert [len(video) for video in output.frames] == [2, 2]
        assert isinstance(output.frames[0][0], Image.Image) and output.frames[0][0].size == (SIZE, SIZE)
    else:
        shapes = {"pt": (2, 2, 3, SIZE, SIZE), "np": (2, 2, SIZE, SIZE, 3), "latent": (2, 4, 2, 8, 8)}
        assert tuple(output.frames.shape) == shapes[output_type]
    if output_type in ("pt", "np"):
        assert 0 <= output.frames.min() and output.frames.max() <= 1


def test_a_tuple_holds_the_frames_alone(pipeline: TextToVideoPipeline) -> None:
    frames = pipeline("a", output_type="pt", generator=seeded(0), return_dict=False, **STEPS)
    assert isinstance(frames, tuple) and len(frames) == 1
    assert torch.equal(frames[0], run(pipeline, "a"))


def test_frames_and_rate_default_to_those_saved_in_the_pipeline(pipeline: TextToVideoPipeline) -> None:
    output = pipeline("a", output_type="latent", **STEPS)
    assert output.frames.shape[2] == pipeline.config.num_frames == 3
    assert output.fps == pipeline.config.fps == 4.0


@pytest.mark.parametrize("size", [(16, 24), (18, 10)])
def test_any_size_that_the_autoencoder_takes_is_generated(
    pipeline: TextToVideoPipeline, size: tuple[int, int]
) -> None:
    frames = run(pipeline, height=size[0], width=size[1], num_frames=2)
    assert frames.shape == (1, 2, 3, *size)


@pytest.mark.parametrize(("family", "noise_prior"), [("sd15", "mixed"), ("sdxl", "independent")])
def test_a_video_is_the_same_alone_and_in_a_batch(family: str, noise_prior: str) -> None:
    pipeline = tiny_text_to_video(family, dtype=torch.float64)
    pipeline.register_to_config(noise_prior=noise_prior)
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    batch = run(pipeline, ["a red fox", "blue"], seeds=(1, 2), negative_prompt="grey")
    for index, prompt in enumerate(("a red fox", "blue")):
        alone = run(pipeline, prompt, seeds=(1 + index,), negative_prompt="grey")
        torch.testing.assert_close(batch[index], alone[0], **SAME)


def test_several_videos_of_one_prompt_are_neighbours_with_their_own_noise(precise: TextToVideoPipeline) -> None:
    batch = run(precise, ["a red fox", "blue"], seeds=(1, 2, 3, 4), num_videos_per_prompt=2)
    assert batch.shape[0] == 4
    torch.testing.assert_close(batch[1], run(precise, "a red fox", seeds=(2,))[0], **SAME)
    torch.testing.assert_close(batch[2], run(precise, "blue", seeds=(3,))[0], **SAME)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_chunked_decoding_changes_nothing(precise: TextToVideoPipeline, chunk: int) -> None:
    whole = run(precise, ["a", "b"], seeds=(0, 1))
    torch.testing.assert_close(run(precise, ["a", "b"], seeds=(0, 1), decode_chunk_size=chunk), whole, **SAME)


def test_sliced_decoding_changes_nothing() -> None:
    pipeline = tiny_text_to_video(dtype=torch.float64)
    whole = run(pipeline)
    pipeline.vae.enable_slicing()
    torch.testing.assert_close(run(pipeline), whole, **SAME)


def test_tiled_decoding_of_frames_no_larger_than_a_tile_changes_nothing() -> None:
    pipeline = tiny_text_to_video(dtype=torch.float64)
    whole = run(pipeline)
    pipeline.vae.enable_tiling()
    torch.testing.assert_close(run(pipeline), whole, **SAME)


@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_group_offload_changes_nothing(offload_type: str) -> None:
    pipeline = tiny_text_to_video(dtype=torch.float64)
    whole = run(pipeline)
    options = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
    pipeline.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type=offload_type, **options
    )
    torch.testing.assert_close(run(pipeline), whole, **SAME)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_offload_to_the_processor_changes_nothing(method: str, family: str) -> None:
    pipeline = tiny_text_to_video(family).to("cuda")
    whole = run(pipeline)
    pipeline = tiny_text_to_video(family)
    getattr(pipeline, method)(device="cuda")
    torch.testing.assert_close(run(pipeline), whole, rtol=0, atol=1e-4)
    assert pipeline.unet.device.type in ("cpu", "meta")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_half_precision_gives_finite_frames(dtype: torch.dtype, family: str) -> None:
    pipeline = tiny_text_to_video(family).to("cuda", dtype)
    frames = run(pipeline)
    assert torch.isfinite(frames).all() and frames.std() > 0
    assert pipeline.vae.dtype == dtype


def test_a_saved_pipeline_gives_the_same_frames_in_a_new_process(tmp_path: Path) -> None:
    pipeline = tiny_text_to_video("sdxl", dtype=torch.float64)
    want = run(pipeline)
    pipeline.save_pretrained(tmp_path / "saved")
    script = (
        "import sys, torch\nfrom diffusers_video import TextToVideoPipeline\n"
        "pipe = TextToVideoPipeline.from_pretrained(sys.argv[1], dtype=torch.float64)\n"
        "out = pipe('a red fox', generator=[torch.Generator().manual_seed(0)], num_inference_steps=2,"
        " output_type='pt')\n"
        "torch.save((out.frames, out.fps), sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "saved", tmp_path / "out.pt"], check=True, cwd=tmp_path)
    frames, fps = torch.load(tmp_path / "out.pt")
    torch.testing.assert_close(frames, want, **SAME)
    assert fps == pipeline.config.fps


def test_the_loop_of_one_call_does_not_reach_the_next(pipeline: TextToVideoPipeline) -> None:
    first = run(pipeline)
    run(pipeline, "other", guidance_scale=1.0, num_frames=5)
    assert torch.equal(run(pipeline), first)


@pytest.mark.parametrize("family", FAMILIES)
def test_given_embeddings_do_as_their_prompts(family: str) -> None:
    pipeline = tiny_text_to_video(family)
    guided = family != "lcm"
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    texts = {"negative_prompt": "grey"} if guided else {}
    with torch.no_grad():
        encoded = pipeline.encode_prompt("a red fox", do_classifier_free_guidance=guided, **texts)
    embeddings = {name: value for name, value in zip(names, encoded, strict=True) if value is not None}
    assert torch.equal(run(pipeline, None, **embeddings), run(pipeline, **texts))


def test_embeddings_suffice_without_text_encoders() -> None:
    pipeline = tiny_text_to_video("sdxl")
    want = run(pipeline)
    with torch.no_grad():
        embeddings, _, pooled, _ = pipeline.encode_prompt("a red fox")
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipeline = TextToVideoPipeline(**{**pipeline.components, **parts}, num_frames=3)
    pipeline.set_progress_bar_config(disable=True)
    assert torch.equal(run(pipeline, None, prompt_embeds=embeddings, pooled_prompt_embeds=pooled), want)


@pytest.mark.parametrize("source", ["pt", "np", "pil"])
def test_a_video_started_from_differs_by_strength_and_keeps_its_shape(
    precise: TextToVideoPipeline, source: str
) -> None:
    video = precise("a", output_type=source, num_frames=2, generator=seeded(3), **STEPS).frames
    steps = {"num_inference_steps": 4}
    weak, again, strong = (run(precise, "b", video=video, strength=part, **steps) for part in (0.25, 0.25, 1.0))
    assert weak.shape == (1, 2, 3, SIZE, SIZE)
    assert torch.equal(weak, again) and not torch.allclose(weak, strong)


def test_a_video_started_from_is_encoded_the_same_alone_in_chunks_and_in_a_batch(
    precise: TextToVideoPipeline,
) -> None:
    video = torch.rand(2, 3, 3, SIZE, SIZE, dtype=torch.float64)
    batch = run(precise, ["a", "b"], seeds=(1, 2), video=video, strength=0.5, decode_chunk_size=2)
    torch.testing.assert_close(batch[1], run(precise, "b", seeds=(2,), video=video[1], strength=0.5)[0], **SAME)


def test_videos_started_from_go_to_the_videos_of_their_own_prompt(precise: TextToVideoPipeline) -> None:
    video = torch.rand(2, 3, 3, SIZE, SIZE, dtype=torch.float64)
    arguments = {"strength": 0.5, "num_inference_steps": 2}
    batch = run(precise, ["a", "b"], (1, 2, 3, 4), video=video, num_videos_per_prompt=2, **arguments)
    torch.testing.assert_close(batch[1], run(precise, "a", (2,), video=video[0], **arguments)[0], **SAME)


def test_little_strength_with_a_perfect_denoiser_gives_the_video_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_text_to_video(dtype=torch.float64)
    latents = torch.randn(1, 4, 3, 8, 8, dtype=torch.float64)
    monkeypatch.setattr("diffusers_video.pipelines.latents.encode_video", lambda *_, **__: latents)
    alphas = pipeline.scheduler.alphas_cumprod.double()

    def true_noise(sample: Tensor, timestep: Tensor, *_, **__) -> Tensor:
        alpha = alphas[timestep.long()]
        return (sample - alpha.sqrt() * latents) / (1 - alpha).sqrt()

    monkeypatch.setattr(pipeline, "predict", true_noise)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, set_alpha_to_one=True)
    video = torch.rand(1, 3, 3, SIZE, SIZE)
    got = run(pipeline, video=video, strength=0.5, num_inference_steps=4, output_type="latent")
    torch.testing.assert_close(got, latents, rtol=0, atol=1e-4)  # the schedule is kept in float32


def test_a_video_of_another_size_is_resized_to_the_size_asked_for(pipeline: TextToVideoPipeline) -> None:
    video = np.random.randint(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    assert run(pipeline, video=video, strength=0.5, height=16, width=24).shape == (1, 2, 3, 16, 24)


def test_an_autoencoder_without_posterior_encodes_and_decodes(pipeline: TextToVideoPipeline) -> None:
    pipeline = TextToVideoPipeline(**{**pipeline.components, "vae": tiny_vae_without_posterior()}, num_frames=2)
    pipeline.set_progress_bar_config(disable=True)
    frames = run(pipeline)
    assert frames.shape == (1, 2, 3, SIZE, SIZE)
    assert run(pipeline, video=frames, strength=0.5).shape == frames.shape


def test_a_callback_sees_every_tensor_and_its_changes_take_effect() -> None:
    pipeline = tiny_text_to_video("sdxl")
    seen = []

    def look(_, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((step, int(timestep), {name: tuple(value.shape) for name, value in tensors.items()}))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 1 else tensors

    names = pipeline._callback_tensor_inputs
    frames = run(
        pipeline,
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=names,
        output_type="latent",
    )
    assert not frames.any()
    assert [step for step, *_ in seen] == [0, 1]
    assert seen[0][2]["prompt_embeds"] == seen[0][2]["negative_prompt_embeds"] == (1, MAX_TOKENS, 2 * TEXT_WIDTH)
    assert seen[0][2]["add_text_embeds"] == (1, POOLED_WIDTH) and seen[0][2]["add_time_ids"] == (1, 6)


@pytest.mark.parametrize("name", ["prompt_embeds", "negative_prompt_embeds"])
def test_embeddings_changed_by_a_callback_change_the_video(pipeline: TextToVideoPipeline, name: str) -> None:
    def zero(_, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.zeros_like(tensors[name])}

    changed = run(pipeline, callback_on_step_end=zero, callback_on_step_end_tensor_inputs=[name])
    assert not torch.allclose(changed, run(pipeline))


@pytest.mark.parametrize(("family", "callback"), [("sd15", SDCFGCutoffCallback), ("sdxl", SDXLCFGCutoffCallback)])
def test_the_guidance_callbacks_of_diffusers_end_guidance(family: str, callback: type) -> None:
    pipeline = tiny_text_to_video(family)
    calls = []
    pipeline.unet.register_forward_pre_hook(lambda _, arguments: calls.append(arguments[0].shape[0]))
    run(pipeline, callback_on_step_end=callback(cutoff_step_ratio=None, cutoff_step_index=0))
    assert calls == [2, 1]


def test_an_interrupted_run_leaves_out_the_remaining_steps(pipeline: TextToVideoPipeline) -> None:
    steps = []

    def stop(pipe: TextToVideoPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        pipe._interrupt = True
        return tensors

    run(pipeline, callback_on_step_end=stop, num_inference_steps=4)
    assert steps == [0] and pipeline.num_timesteps == 4 and pipeline.interrupt
    run(pipeline)
    assert not pipeline.interrupt


def test_properties_tell_about_the_present_run(pipeline: TextToVideoPipeline) -> None:
    run(pipeline, guidance_scale=3.0, guidance_rescale=0.25, clip_skip=1, cross_attention_kwargs={"scale": 1.0})
    assert (pipeline.guidance_scale, pipeline.guidance_rescale, pipeline.clip_skip) == (3.0, 0.25, 1)
    assert pipeline.do_classifier_free_guidance and pipeline.cross_attention_kwargs == {"scale": 1.0}
    assert pipeline.num_timesteps == 2


def test_guidance_moves_away_from_the_unguided_video(pipeline: TextToVideoPipeline) -> None:
    frames = [run(pipeline, guidance_scale=scale) for scale in (1.0, 3.0, 9.0)]
    distances = [(one - frames[0]).abs().mean() for one in frames]
    assert distances[0] == 0 < distances[1] < distances[2]


def test_the_rate_reaches_a_denoiser_that_is_conditioned_on_it() -> None:
    pipeline = TextToVideoPipeline.from_image_model(
        tiny_image_pipeline(), temporal_options={"added_time_ids": ("fps",)}, num_frames=2
    )
    with torch.no_grad():
        for parameter in pipeline.unet.clip_embedding.parameters():
            parameter.normal_()
    pipeline.set_progress_bar_config(disable=True)
    slow, fast = (pipeline("a", fps=fps, generator=seeded(0), output_type="pt", **STEPS) for fps in (2.0, 24.0))
    assert (slow.fps, fast.fps) == (2.0, 24.0)
    assert not torch.allclose(slow.frames, fast.frames)


@pytest.mark.parametrize("broken", ["unet", "vae", "text_encoder"])
def test_the_stage_that_gives_no_numbers_is_named(broken: str) -> None:
    pipeline = tiny_text_to_video()
    module = getattr(pipeline, broken)
    with torch.no_grad():
        module.get_parameter({"vae": "decoder.conv_out.bias"}.get(broken, next(iter(module.state_dict())))).fill_(
            float("nan")
        )
    stage = {"unet": "Denoising", "vae": "Decoding", "text_encoder": "The text encoder"}[broken]
    with pytest.raises(FloatingPointError, match=f"^{stage} gave NaN"):
        run(pipeline)


def test_a_half_precision_autoencoder_that_asks_for_it_decodes_in_float32() -> None:
    pipeline = tiny_text_to_video()
    pipeline.vae.to(torch.float16)
    dtypes = []
    pipeline.vae.decoder.register_forward_pre_hook(lambda _, arguments: dtypes.append(arguments[0].dtype))
    run(pipeline)
    assert dtypes == [torch.float32] and pipeline.vae.dtype == torch.float16


def test_decoding_is_a_public_step_without_gradients(pipeline: TextToVideoPipeline) -> None:
    latents = torch.randn(2, 4, 3, 8, 8, requires_grad=True)
    frames = pipeline.decode_latents(latents, decode_chunk_size=2)
    assert frames.shape == (2, 3, 3, SIZE, SIZE) and not frames.requires_grad
    scaled = (latents / pipeline.vae.config.scaling_factor).detach()
    torch.testing.assert_close(frames[1, :, 2], pipeline.vae.decode(scaled[1:, :, 2]).sample[0].detach())


def test_a_pipeline_is_made_of_another_ones_components() -> None:
    pipeline = tiny_text_to_video(dtype=torch.float64)
    other = TextToVideoPipeline.from_pipe(pipeline)
    assert other.unet is pipeline.unet and other.unet.dtype == torch.float64
    assert other.config.num_frames == 3 and other.config.fps == 4.0


def test_choices_saved_into_the_pipeline_come_back(tmp_path: Path) -> None:
    components = tiny_text_to_video("sdxl").components
    choices = {"num_frames": 5, "fps": 2.5, "force_zeros_for_empty_prompt": False}
    choices |= {"noise_prior": "progressive", "noise_prior_strength": 3.0}
    TextToVideoPipeline(**components, **choices).save_pretrained(tmp_path)
    loaded = TextToVideoPipeline.from_pretrained(tmp_path)
    for pipeline in (loaded, TextToVideoPipeline.from_pipe(loaded)):
        assert {name: pipeline.config[name] for name in choices} == choices


def test_freeu_and_fused_projections_work_as_in_the_image_pipeline() -> None:
    image_pipeline = tiny_image_pipeline()
    video_pipeline = TextToVideoPipeline.from_image_model(image_pipeline)
    for pipe in (image_pipeline, video_pipeline):
        pipe.set_progress_bar_config(disable=True)
        pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
        pipe.fuse_qkv_projections(vae=False)
    image = image_pipeline("a", output_type="np", generator=seeded(0), **STEPS).images
    frames = video_pipeline("a", output_type="np", generator=seeded(0), num_frames=1, **STEPS).frames
    np.testing.assert_allclose(frames[:, 0], image, atol=1e-5)


def test_latents_with_statistics_of_their_own_are_brought_back_by_them() -> None:
    pipeline = tiny_text_to_video()
    latents = torch.randn(1, 4, 2, 8, 8)
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    mean_c, std_c = (torch.tensor(values).view(1, 4, 1, 1, 1) for values in (mean, std))
    want = pipeline.decode_latents(mean_c * pipeline.vae.config.scaling_factor + latents * std_c)
    pipeline.vae.register_to_config(latents_mean=mean, latents_std=std)
    torch.testing.assert_close(pipeline.decode_latents(latents), want)


def test_an_image_u_net_is_refused_and_the_way_named() -> None:
    parts = tiny_text_to_video().components
    with pytest.raises(ValueError, match="from_image_model"):
        TextToVideoPipeline(**{**parts, "unet": tiny_unet2d(cross_attention_dim=TEXT_WIDTH)})


@pytest.mark.parametrize("channels", [8, 9])
def test_a_model_that_also_takes_an_image_is_refused_naming_its_channels(channels: int) -> None:
    parts = tiny_text_to_video().components
    unet2d = tiny_unet2d(in_channels=channels, cross_attention_dim=TEXT_WIDTH)
    pipeline = TextToVideoPipeline(**{**parts, "unet": UNetVideoConditionModel.from_unet2d(unet2d)})
    with pytest.raises(ValueError, match=f"takes {channels} channels"):
        pipeline("a", **STEPS)


@pytest.mark.slow
def test_a_compiled_denoiser_gives_the_same_frames() -> None:
    pipeline = tiny_text_to_video()
    want = run(pipeline)
    pipeline.unet = torch.compile(shake_temporal_layers(pipeline.unet), backend="eager")
    torch.testing.assert_close(run(pipeline), want)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, PNDMScheduler, HeunDiscreteScheduler])
@pytest.mark.parametrize("num_frames", [2, 5])
def test_directed_attention_and_adaptors_draw_the_same_video_alone_in_a_batch_and_after_loading(
    scheduler: type, num_frames: int, tmp_path: Path
) -> None:
    pipeline = tiny_text_to_video(preset="magicvideo", dtype=torch.float64)
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, skip_prk_steps=True)
    arguments = {"num_frames": num_frames, "output_type": "pt", **STEPS}
    batch = pipeline(["a fox", "snow"], generator=seeded(0, 1), **arguments).frames
    assert batch.shape[1] == num_frames and not torch.allclose(batch[:, 0], batch[:, 1])
    torch.testing.assert_close(pipeline("snow", generator=seeded(1), **arguments).frames, batch[1:], atol=1e-6, rtol=0)
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float64)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.unet.config.frame_adaptor == pipeline.unet.config.frame_adaptor
    assert torch.equal(loaded("a fox", generator=seeded(0), **arguments).frames,
                       pipeline("a fox", generator=seeded(0), **arguments).frames)  # fmt: skip
