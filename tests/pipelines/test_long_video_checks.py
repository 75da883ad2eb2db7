"""Wrong calls of long videos: each ends in one clear error before any model runs or anything is written."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, LCMScheduler

from diffusers_video import AutoencoderKLVideo, LongVideoPipeline

from ..tiny_long_videos import tiny_long
from ..tiny_pipelines import MAX_TOKENS, SIZE, TEXT_WIDTH, tiny_image_pipeline, tiny_text_to_video, tiny_vae
from ..tiny_upscalers import tiny_upscaler
from .test_checks import WRONG_CALLS, assert_refused, watched


VIDEO = np.zeros((3, SIZE, SIZE, 3), dtype=np.uint8)
EMBEDS = torch.zeros(2, MAX_TOKENS, TEXT_WIDTH)
WRONG_LONG_CALLS = {
    "several prompts": ({"prompt": ["a", "b"]}, TypeError, "`prompt` must be a string.*Call once for each"),
    "several negative prompts": ({"negative_prompt": ["a"]}, TypeError, "`negative_prompt` must be a string"),
    "embeddings of two": ({"prompt": None, "prompt_embeds": EMBEDS}, ValueError, "`prompt_embeds` must be of one"),
    "several generators": ({"generator": [torch.Generator()] * 2}, ValueError, "`generator` must hold one generator"),
    "no frames": ({"num_frames": 0}, ValueError, "`num_frames` must be at least 1"),
    "half a pass": ({"num_passes": 0.5}, TypeError, "`num_passes` must be an integer"),
    "a pass less than none": ({"num_passes": -1}, ValueError, "`num_passes` must be at least 0"),
    "no fps": ({"fps": 0.0}, ValueError, "`fps` must be above 0"),
    "three kept frames": ({"num_context_frames": 3}, ValueError, "`num_context_frames` must be at most 2 and below"),
    "no kept frame": ({"num_context_frames": 0}, ValueError, "`num_context_frames` must be at least 1"),
    "no batch": ({"interpolation_batch_size": 0}, ValueError, "`interpolation_batch_size` must be at least 1"),
    "more given frames than key frames": (
        {"frames": VIDEO, "num_frames": 17},
        ValueError,
        "`frames` must be at most the 2 key frames of 17 frames after 2 interpolations, but are 3",
    ),
    "two given videos": ({"frames": [VIDEO, VIDEO]}, ValueError, "`frames` must be of one video, but are of 2"),
    "a path as frames": ({"frames": "clip.mp4"}, TypeError, "`frames` must be a list of frames"),
    "grey frames": ({"frames": VIDEO[..., :1]}, ValueError, "`frames` must have 3 colour channels"),
    "frames of an odd size": ({"frames": VIDEO[:, :15]}, ValueError, "`height` must be a multiple of 2"),
    "text guidance without text": ({"prompt": None, "guidance_scale": 5.0}, ValueError, "no effect without a prompt"),
    "context guidance of nan": ({"context_guidance_scale": math.nan}, ValueError, "`context_guidance_scale`"),
    "an unknown stage": ({"stage_arguments": {"upscaling": {}}}, ValueError, "`stage_arguments` must be for image"),
    "a stage of no dict": ({"stage_arguments": {"image": 3}}, TypeError, "`stage_arguments` must be a dict of dicts"),
    "an unknown argument of a stage": (
        {"stage_arguments": {"prediction": {"prompt": "b"}}},
        ValueError,
        "`stage_arguments` of 'prediction' must be among .*, but one is 'prompt'",
    ),
    "a wrong argument of a stage": (
        {"stage_arguments": {"interpolation": {"mechanism": "magic"}}},
        ValueError,
        "`mechanism` must be one of",
    ),
    "steps of one stage": (
        {"stage_arguments": {"interpolation": {"num_inference_steps": 0}}},
        ValueError,
        "`num_inference_steps` must be at least 1",
    ),
    "no upscaler": ({"use_super_resolution": True}, ValueError, "`use_super_resolution` must be False without"),
    "upscaler of a number": ({"use_super_resolution": 1}, TypeError, "`use_super_resolution` must be a bool"),
    "arguments of no upscaler": (
        {"stage_arguments": {"super_resolution": {}}},
        ValueError,
        "`stage_arguments` for 'super_resolution' have no effect",
    ),
    "steps of clips": ({"num_next_inference_steps": 2}, ValueError, "`num_next_inference_steps` has an effect only"),
    "a clip before": ({"previous_clip": VIDEO}, ValueError, "`previous_clip` has an effect only with a `unet` that"),
    "clips encoded again": ({"reencode_clips": True}, ValueError, "`reencode_clips` has an effect only with a"),
    "a folder of nothing": ({"work_dir": "no/such/folder"}, FileNotFoundError, "`work_dir` must lie in a folder"),
    "a folder of a number": ({"work_dir": 3}, TypeError, "`work_dir` must be a path"),
}
NOT_HERE = {
    *("video", "latents", "strength", "num_videos_per_prompt", "prompt_2", "original_size", "conditioning_frames"),
    *("ip_adapter_image", "ip_adapter_image_embeds", "controlnet_conditioning_scale", "guess_mode", "image_only"),
    *("timesteps", "sigmas", "guidance_rescale", "cross_attention_kwargs", "clip_skip"),
    *("temporal_prompt_embeds", "negative_temporal_prompt_embeds"),
}
SHARED = [
    name
    for name, (arguments, _, _) in WRONG_CALLS.items()
    if not set(arguments) & NOT_HERE
    and not isinstance(arguments.get("prompt"), (list, tuple))
    and not isinstance(arguments.get("negative_prompt"), (list, int))
    and name != "no prompt"
]


@pytest.fixture(scope="module")
def long() -> tuple[DiffusionPipeline, list[str]]:
    return watched(tiny_long())


@pytest.mark.parametrize("name", [*WRONG_LONG_CALLS, *SHARED])
def test_a_wrong_call_is_refused_before_any_model_runs(long: tuple[DiffusionPipeline, list[str]], name: str) -> None:
    assert_refused(*long, {**WRONG_CALLS, **WRONG_LONG_CALLS}[name])


def test_most_wrong_calls_of_text_to_video_are_wrong_here_too() -> None:
    assert len(SHARED) > 30


def test_a_wrong_call_leaves_nothing_on_disk(long: tuple[DiffusionPipeline, list[str]], tmp_path: Path) -> None:
    for arguments in ({"guidance_scale": -1.0}, {"num_frames": 0}, {"nonsense": 1}):
        with pytest.raises((ValueError, TypeError)):
            long[0].write(tmp_path / "out.mp4", "a", work_dir=tmp_path / "run", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_stream_refuses_a_wrong_call_before_it_is_read(long: tuple[DiffusionPipeline, list[str]]) -> None:
    pipeline, ran = long
    for arguments, error, message in (
        ({"num_frames": 0}, ValueError, "`num_frames` must be at least 1"),
        ({"return_dict": True}, TypeError, "`return_dict` has no effect on a stream"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ):
        with pytest.raises(error, match=message):
            pipeline.stream("a", **arguments)
    with pytest.raises(TypeError, match="`output_type` has no effect on a file"):
        pipeline.write("out.mp4", "a", output_type="pil")
    assert not ran


def test_an_upscaler_that_cannot_do_it_is_refused_before_any_model_runs() -> None:
    pipeline, ran = watched(tiny_long(super_resolution=tiny_upscaler()))
    wrong = {
        "noise": ({"stage_arguments": {"super_resolution": {"noise_level": 351}}}, ValueError, "`noise_level` must"),
        "chunks": ({"stage_arguments": {"super_resolution": {"chunk_overlap": 4}}}, ValueError, "`chunk_overlap`"),
        "latents": ({"output_type": "latent", "use_super_resolution": True}, ValueError, "no effect on latents"),
    }
    for case in wrong.values():
        assert_refused(pipeline, ran, case)


def test_interpolation_needs_its_model() -> None:
    pipeline, ran = watched(tiny_long(interpolation=False))
    assert pipeline.default_passes == 0 and pipeline.default_fps() == 1.875
    assert_refused(pipeline, ran, ({"num_passes": 1}, ValueError, "`num_passes` must be 0 without"))


def test_a_size_that_the_image_pipeline_does_not_take_is_refused() -> None:
    pipeline, ran = watched(tiny_long(image_unet=tiny_image_pipeline().unet))
    assert_refused(pipeline, ran, ({"height": 20}, ValueError, "`height` must be a multiple of 8, but is 20"))
    case = ({"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["add_time_ids"]}, ValueError, "`")
    assert_refused(pipeline, ran, case)


def test_pipelines_of_wrong_parts_are_refused(long: tuple[DiffusionPipeline, list[str]]) -> None:
    pipeline = long[0]
    parts = {**pipeline.components}
    whole = AutoencoderKLVideo.from_autoencoder_kl(tiny_vae(), decode_chunk_size=None, decode_chunk_overlap=0)
    for change, error, message in (
        ({"num_frames": 0}, ValueError, "`num_frames` must be at least 1"),
        ({"unet": tiny_image_pipeline().unet}, ValueError, "`unet` must be a UNetVideoConditionModel"),
        ({"image_unet": pipeline.unet}, TypeError, "`image_unet` must be a UNet2DConditionModel"),
        ({"image_unet": tiny_image_pipeline("sdxl").unet}, ValueError, "`image_unet` must read the same latents"),
        ({"interpolation_unet": tiny_text_to_video("sdxl").unet}, ValueError, "`interpolation_unet` must read the sa"),
        ({"vae": whole}, ValueError, "`vae` must decode a long video in chunks"),
        ({"prediction_settings": {"num_frames": 1}}, ValueError, "`num_frames` must be at least 2"),
        ({"prediction_settings": {"frames": 1}}, ValueError, "`prediction_settings` must be settings of KeyFrame"),
        ({"scheduler": LCMScheduler.from_config({"prediction_type": "x"})}, ValueError, "prediction_type"),
    ):
        with pytest.raises(error, match=message):
            LongVideoPipeline(**{**parts, **change})


def test_pipelines_of_other_kinds_make_no_long_video(long: tuple[DiffusionPipeline, list[str]]) -> None:
    pipeline = long[0]
    prediction = pipeline.make_prediction()
    for arguments, message in (
        ((tiny_text_to_video(),), "`prediction` must be a KeyFramePredictionPipeline, but is a TextToVideo"),
        ((prediction, prediction), "`interpolation` must be a FrameInterpolationPipeline"),
        ((prediction, None, prediction), "`super_resolution` must be a VideoSuperResolutionPipeline"),
    ):
        with pytest.raises(TypeError, match=message):
            LongVideoPipeline.from_pipelines(*arguments)
