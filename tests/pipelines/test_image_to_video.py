"""What `ImageToVideoPipeline` promises; that its frames are those of diffusers' pipeline, tests/conversion shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
)
from PIL import Image
from torch import Tensor

from diffusers_video import ImageToVideoPipeline, UNetVideoConditionModel, VideoPipelineOutput
from diffusers_video.layers.layout import videos_to_images
from diffusers_video.pipelines.memory import estimate_clip_memory

from ..test_hub import hub_on_this_machine
from ..tiny_models import tiny_unet2d
from ..tiny_pipelines import tiny_image_encoder
from ..tiny_svd import NUM_FRAMES, SIZE, SVD_SCHEDULER, some_image, tiny_image_to_video, tiny_svd
from .test_memory import allocated_peak


CALL = {"height": SIZE, "width": SIZE, "num_inference_steps": 1}
EDM = {"sigma_min": 0.002, "sigma_max": 700.0, "sigma_data": 1.0, "prediction_type": "v_prediction"}


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipeline: ImageToVideoPipeline, image: Any = None, seeds: tuple[int, ...] = (0,), **options: Any) -> Tensor:
    image = some_image() if image is None else image
    return pipeline(image, generator=seeded(*seeds), **{**CALL, "output_type": "pt", **options}).frames


@pytest.fixture(scope="module")
def pipeline() -> ImageToVideoPipeline:
    return tiny_image_to_video()


@pytest.fixture(scope="module")
def precise() -> ImageToVideoPipeline:
    return tiny_image_to_video(torch.float64)


def calls_of(model: torch.nn.Module) -> list[tuple[tuple, dict[str, Any]]]:
    """Arguments of all later calls of a model."""
    calls = []
    model.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    return calls


def test_the_denoiser_is_told_image_frame_rate_motion_and_noise() -> None:
    pipeline = tiny_image_to_video()
    calls = calls_of(pipeline.unet)
    run(pipeline, fps=11, motion_bucket_id=180, noise_aug_strength=0.25)
    (sample, timestep), told = calls[0]
    assert [told[name].tolist() for name in ("fps", "motion_bucket_id", "noise_level")] == [
        [10] * 2,
        [180] * 2,
        [0.25] * 2,
    ]
    torch.testing.assert_close(timestep, torch.tensor(700.0).log() / 4)
    image = torch.from_numpy(np.asarray(some_image()).copy()).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    noise = torch.randn(image.shape, generator=seeded(0)[0])
    with torch.no_grad():
        want = pipeline.vae.encode(image + 0.25 * noise).latent_dist.mode().expand(-1, -1, NUM_FRAMES, -1, -1)
    torch.testing.assert_close(sample[1:, 4:], want)
    assert not sample[0, 4:].any() and not told["encoder_hidden_states"][0].any()
    assert told["encoder_hidden_states"].shape == (2, 1, pipeline.image_encoder.config.projection_dim)
    torch.testing.assert_close(sample[0, :4], sample[1, :4])


def test_guidance_grows_from_the_first_frame_to_the_last(pipeline: ImageToVideoPipeline) -> None:
    options = {"output_type": "latent", "latents": torch.randn(1, 4, NUM_FRAMES, 8, 8)}
    plain, full, growing = (
        run(pipeline, min_guidance_scale=low, max_guidance_scale=high, **options)
        for low, high in ((1.0, 1.0), (3.0, 3.0), (1.0, 3.0))
    )
    shares = torch.tensor([0.0, 0.5, 1.0])[:, None, None]  # one step is linear in what the denoiser gives
    assert (full - plain).abs().amax((0, 1, 3, 4)).min() > 1e-2
    # float32 at a noise level of 700 is exact to about 1e-4
    torch.testing.assert_close(growing - plain, shares * (full - plain), rtol=0, atol=1e-3)


def test_without_guidance_each_step_evaluates_the_denoiser_on_the_image_alone() -> None:
    pipeline = tiny_image_to_video()
    calls = calls_of(pipeline.unet)
    run(pipeline, min_guidance_scale=0.5, max_guidance_scale=1.0)
    run(pipeline, min_guidance_scale=2.0, max_guidance_scale=1.0)
    assert [len(sample) for (sample, _), _ in calls] == [1, 2]
    assert pipeline.do_classifier_free_guidance and calls[0][0][0][0, 4:].any()


@pytest.mark.parametrize(
    ("output_type", "kind"), [("pt", Tensor), ("np", np.ndarray), ("pil", list), ("latent", Tensor)]
)
def test_output_has_the_documented_form(pipeline: ImageToVideoPipeline, output_type: str, kind: type) -> None:
    output = pipeline([some_image(1), some_image(2)], num_frames=2, fps=6, output_type=output_type, **CALL)
    assert isinstance(output, VideoPipelineOutput) and isinstance(output.frames, kind) and output.fps == 6.0
    if output_type == "pil":
        assert [len(video) for video in output.frames] == [2, 2] and output.frames[0][0].size == (SIZE, SIZE)
    else:
        shapes = {"pt": (2, 2, 3, SIZE, SIZE), "np": (2, 2, SIZE, SIZE, 3), "latent": (2, 4, 2, 8, 8)}
        assert tuple(output.frames.shape) == shapes[output_type]


def test_a_tuple_holds_the_frames_alone_and_defaults_are_those_that_were_saved(pipeline: ImageToVideoPipeline) -> None:
    frames = pipeline(some_image(), output_type="pt", generator=seeded(0), return_dict=False, **CALL)
    assert isinstance(frames, tuple) and torch.equal(frames[0], run(pipeline))
    assert frames[0].shape[1] == pipeline.config.num_frames == NUM_FRAMES
    output = pipeline(some_image(), num_inference_steps=1, output_type="latent")
    assert output.fps == pipeline.config.fps == 7.0 and output.frames.shape[-2:] == (8, 8)


def test_a_video_is_the_same_alone_and_in_a_batch(precise: ImageToVideoPipeline) -> None:
    images = [some_image(1), some_image(2)]
    batch = run(precise, images, seeds=(1, 2, 3, 4), num_videos_per_prompt=2)
    for index, image in ((1, 0), (2, 1)):
        alone = run(precise, images[image], seeds=(1 + index,))
        torch.testing.assert_close(batch[index], alone[0], rtol=0, atol=1e-6)
    assert (batch[0] - batch[1]).abs().max() > 1e-3


def test_images_come_in_many_forms(pipeline: ImageToVideoPipeline) -> None:
    image = some_image()
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    want = run(pipeline, image)
    for form in (tensor / 255, array / np.float32(255), tensor, [image], tensor[None], image.convert("RGBA")):
        torch.testing.assert_close(run(pipeline, form), want)


def test_an_image_of_another_size_is_stretched_as_in_diffusers() -> None:
    ours, theirs = tiny_image_to_video(), tiny_svd()
    image, options = some_image(3, (40, 24)), {**CALL, "output_type": "pt"}
    got = ours(image, generator=seeded(0)[0], **options).frames
    want = theirs(image, num_frames=NUM_FRAMES, generator=seeded(0)[0], **options).frames
    torch.testing.assert_close(got, want, rtol=0, atol=3e-4)  # two epsilons, see tests/conversion


def test_chunks_of_a_call_are_those_of_diffusers_and_the_configuration_stays() -> None:
    ours, theirs = tiny_image_to_video(), tiny_svd()
    latents = torch.randn(1, 4, 4, 8, 8)
    options = {**CALL, "output_type": "pt", "decode_chunk_size": 2, "num_frames": 4}
    want = theirs(some_image(), latents=latents.transpose(1, 2), generator=seeded(0)[0], **options).frames
    ours.vae.register_to_config(decode_chunk_overlap=0)
    got = run(ours, latents=latents, **options)
    torch.testing.assert_close(got, want, rtol=0, atol=3e-4)
    assert (run(ours, latents=latents, num_frames=4) - got).abs().max() > 1e-2
    ours.vae.register_to_config(decode_chunk_overlap=4)
    sizes = calls_of(ours.vae.decoder)
    run(ours, latents=latents, **options)
    assert [len(images) for (images, _), _ in sizes] == [2, 2, 2]  # chunks of 2 that share 1
    assert (ours.vae.config.decode_chunk_size, ours.vae.config.decode_chunk_overlap) == (16, 4)


def test_an_autoencoder_of_images_decodes_frame_by_frame(pipeline: ImageToVideoPipeline) -> None:
    config = {name: pipeline.vae.config[name] for name in ("block_out_channels", "scaling_factor", "layers_per_block")}
    types = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**config, **types).eval()
    parts = {**pipeline.components, "vae": vae}
    plain = ImageToVideoPipeline(**parts, num_frames=NUM_FRAMES)
    plain.set_progress_bar_config(disable=True)
    latents, frames = (run(plain, output_type=kind) for kind in ("latent", "pt"))
    with torch.no_grad():
        want = vae.decode(videos_to_images(latents / vae.config.scaling_factor)).sample
    torch.testing.assert_close(frames[0], (want / 2 + 0.5).clamp(0, 1))
    torch.testing.assert_close(run(plain, decode_chunk_size=1), frames)


def test_schedulers_of_edm_draw_the_same_model(pipeline: ImageToVideoPipeline) -> None:
    parts = {**pipeline.components, "scheduler": EDMEulerScheduler(**EDM)}
    other = ImageToVideoPipeline(**parts, num_frames=NUM_FRAMES)
    other.set_progress_bar_config(disable=True)
    want = run(pipeline, num_inference_steps=3)
    torch.testing.assert_close(run(other, num_inference_steps=3), want, rtol=0, atol=1e-4)
    for algorithm in ("dpmsolver++", "sde-dpmsolver++"):
        other.scheduler = EDMDPMSolverMultistepScheduler(**EDM, algorithm_type=algorithm)
        assert (run(other, num_inference_steps=3) - want).abs().max() > 1e-3


def test_noise_levels_can_be_chosen(pipeline: ImageToVideoPipeline) -> None:
    scheduler = EulerDiscreteScheduler(**SVD_SCHEDULER)
    scheduler.set_timesteps(3)
    want = run(pipeline, num_inference_steps=3)
    torch.testing.assert_close(run(pipeline, sigmas=scheduler.sigmas.tolist()), want)
    assert not torch.equal(run(pipeline, sigmas=[700.0, 10.0, 1.0, 0.0]), want)


def test_a_callback_sees_and_changes_the_latents_and_may_stop(pipeline: ImageToVideoPipeline) -> None:
    want, seen = run(pipeline), []

    def stop(pipe: ImageToVideoPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((step, float(timestep), tensors["latents"].shape, pipe.num_timesteps))
        pipe._interrupt = step == 1
        return {"latents": torch.zeros_like(tensors["latents"])}

    options = {"callback_on_step_end": stop, "callback_on_step_end_tensor_inputs": ["latents"]}
    latents = run(pipeline, num_inference_steps=4, output_type="latent", **options)
    assert not latents.any() and [step for step, *_ in seen] == [0, 1]
    assert seen[0][2] == (1, 4, NUM_FRAMES, 8, 8) and seen[0][3] == 4 and seen[0][1] > seen[1][1]
    assert torch.equal(run(pipeline), want)  # the next call is not stopped


def test_a_saved_pipeline_draws_the_same_by_every_loader(
    pipeline: ImageToVideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.save_pretrained(tmp_path / "svd")
    cache = hub_on_this_machine(tmp_path / "svd", tmp_path, monkeypatch)
    want = run(pipeline)
    for loader in (ImageToVideoPipeline, DiffusionPipeline):
        loaded = loader.from_pretrained("user/clips", cache_dir=cache)
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded) is ImageToVideoPipeline and torch.equal(run(loaded), want)
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "svd")) is ImageToVideoPipeline
    card = (tmp_path / "svd" / "README.md").read_text()
    assert "pipeline_tag: image-to-video" in card and "ImageToVideoPipeline" in card and "load_image" in card


def test_half_precision_runs_and_stages_that_fail_are_named() -> None:
    pipeline = tiny_image_to_video(torch.bfloat16)
    frames = run(pipeline)
    assert torch.isfinite(frames).all() and frames.std() > 0
    stages = {
        "Decoding": pipeline.vae.decoder.conv_out.bias,
        "Denoising": pipeline.unet.conv_out.bias,
        "Encoding the image": pipeline.vae.quant_conv.bias,
        "Embedding the image": pipeline.image_encoder.visual_projection.weight,
    }
    for stage, parameter in stages.items():
        torch.nn.init.constant_(parameter, float("nan"))
        with pytest.raises(FloatingPointError, match=f"^{stage} gave NaN"):
            run(pipeline)


@pytest.mark.slow
def test_the_memory_of_a_call_is_estimated(pipeline: ImageToVideoPipeline) -> None:
    size = {"num_frames": 6, "height": 32, "width": 32}
    memory = estimate_clip_memory(pipeline.unet.config, pipeline.vae.config, **size)
    call = {**size, "num_inference_steps": 1, "output_type": "latent"}
    assert memory.denoising == pytest.approx(allocated_peak(lambda: pipeline(some_image(), **call)), rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offload_to_the_processor_changes_nothing(method: str) -> None:
    whole = run(tiny_image_to_video().to("cuda"))
    pipeline = tiny_image_to_video()
    getattr(pipeline, method)(device="cuda")
    torch.testing.assert_close(run(pipeline), whole, rtol=0, atol=1e-4)
    assert {model.device.type for model in (pipeline.unet, pipeline.vae)} <= {"cpu", "meta"}


@pytest.mark.gpu
def test_float16_gives_the_frames_of_float32_nearly() -> None:
    whole = run(tiny_image_to_video().to("cuda"))
    pipeline = tiny_image_to_video().to("cuda", torch.float16)
    assert pipeline.vae.config.force_upcast
    frames = run(pipeline)
    assert (frames - whole).abs().mean() < 0.02 and pipeline.vae.dtype == torch.float16


def test_memory_is_freed_in_the_order_of_use() -> None:
    assert ImageToVideoPipeline.model_cpu_offload_seq == "image_encoder->unet->vae"


BAD_INPUT = {
    "no image": ({"image": None}, TypeError, "`image` must be an image"),
    "text": ({"image": "a.png"}, TypeError, "`image` must be an image"),
    "empty": ({"image": []}, ValueError, "`image` must hold at least one image"),
    "video": ({"image": torch.rand(1, 2, 3, 16, 16)}, ValueError, "`image` must have 3 axes, or 4"),
    "signed": ({"image": torch.rand(3, 16, 16) * 2 - 1}, ValueError, "`image` must be uint8 .* or float"),
    "one channel": ({"image": torch.rand(1, 16, 16)}, ValueError, "`image` must have 3 colour channels"),
    "height": ({"height": 15}, ValueError, "`height` must be a multiple of 2"),
    "width": ({"width": 16.0}, TypeError, "`width` must be an integer"),
    "frames": ({"num_frames": 0}, ValueError, "`num_frames` must be at least 1"),
    "steps": ({"num_inference_steps": 0}, ValueError, "`num_inference_steps` must be at least 1"),
    "videos": ({"num_videos_per_prompt": 0}, ValueError, "`num_videos_per_prompt` must be at least 1"),
    "min guidance": ({"min_guidance_scale": -1.0}, ValueError, "`min_guidance_scale` must be at least 0"),
    "max guidance": ({"max_guidance_scale": float("nan")}, ValueError, "`max_guidance_scale` must be"),
    "fps": ({"fps": 0.5}, ValueError, "`fps` must be at least 1"),
    "motion": ({"motion_bucket_id": -1}, ValueError, "`motion_bucket_id` must be at least 0"),
    "noise": ({"noise_aug_strength": "much"}, TypeError, "`noise_aug_strength` must be a number"),
    "chunks": ({"decode_chunk_size": 0}, ValueError, "`decode_chunk_size` must be at least 1"),
    "generators": ({"generator": seeded(1, 2)}, ValueError, "one generator for each of 1 videos"),
    "latents": ({"latents": torch.zeros(1, 8, 3, 8, 8)}, ValueError, r"`latents` must have shape \(1, 4, 3, 8, 8\)"),
    "output": ({"output_type": "gif"}, ValueError, "`output_type` must be one of"),
    "dict": ({"return_dict": 1}, TypeError, "`return_dict` must be a bool"),
    "callback": ({"callback_on_step_end": 3}, TypeError, "`callback_on_step_end` must be callable"),
    "tensors": (
        {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
        ValueError,
        "`callback_on_step_end_tensor_inputs` must be among",
    ),
    "rising sigmas": ({"sigmas": [1.0, 2.0]}, ValueError, "`sigmas` must descend"),
    "endless sigmas": ({"sigmas": [2.0, 1.0]}, ValueError, "`sigmas` must go from a noise level down to 0"),
}


@pytest.fixture
def unrun(pipeline: ImageToVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> ImageToVideoPipeline:
    """A pipeline whose models must not run."""
    for model in (pipeline.image_encoder, pipeline.unet, pipeline.vae.encoder):
        monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("a model was run"))
    return pipeline


@pytest.mark.parametrize(("change", "error", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_refused_before_any_model_runs(
    change: dict[str, Any], error: type[Exception], message: str, unrun: ImageToVideoPipeline
) -> None:
    with pytest.raises(error, match=message):
        unrun(**{"image": some_image(), **CALL, **change})


def test_schedulers_that_do_not_fit_are_refused(unrun: ImageToVideoPipeline) -> None:
    schedulers = {
        "is a DDIMScheduler": DDIMScheduler(),
        "timestep_type='continuous'": EulerDiscreteScheduler(prediction_type="v_prediction"),
        "prediction_type='v_prediction'": EDMEulerScheduler(sigma_data=1.0),
        "sigma_data=1.0": EDMEulerScheduler(prediction_type="v_prediction"),
    }
    parts = dict(unrun.components)
    for message, scheduler in schedulers.items():
        with pytest.raises(ValueError, match=f"`scheduler`.*{message}"):
            ImageToVideoPipeline(**{**parts, "scheduler": scheduler})
    edm = ImageToVideoPipeline(**{**parts, "scheduler": EDMEulerScheduler(**EDM)}, num_frames=2)
    with pytest.raises(ValueError, match="`sigmas` cannot be chosen with EDMEulerScheduler"):
        edm(some_image(), sigmas=[1.0, 0.0], **CALL)
    edm.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match="`scheduler` must tell the denoiser"):
        edm(some_image(), **CALL)


def test_models_that_do_not_fit_are_refused(pipeline: ImageToVideoPipeline) -> None:
    parts = dict(pipeline.components)
    with pytest.raises(TypeError, match="`vae` must be an autoencoder with a posterior"):
        ImageToVideoPipeline(**{**parts, "vae": AutoencoderTiny()})
    with pytest.raises(ValueError, match="`unet` must be a UNetVideoConditionModel"):
        ImageToVideoPipeline(**{**parts, "unet": tiny_svd().unet})
    with pytest.raises(ValueError, match="`fps` must be at least 1"):
        ImageToVideoPipeline(**parts, fps=0.0)
    unet = {"cross_attention_dim": 16, "in_channels": 8}
    misfits = {
        "`unet` must take the 4 channels": {"unet": UNetVideoConditionModel.from_unet2d(tiny_unet2d())},
        "`unet` must read the numbers": {"unet": UNetVideoConditionModel.from_unet2d(tiny_unet2d(**unet))},
        "`image_encoder` must give as many": {"image_encoder": tiny_image_encoder()},
    }
    for message, change in misfits.items():
        if "image_encoder" in change:
            change["image_encoder"].config.projection_dim = 5
        with pytest.raises(ValueError, match=message):
            ImageToVideoPipeline(**{**parts, **change}, num_frames=2)(Image.new("RGB", (16, 16)), **CALL)
