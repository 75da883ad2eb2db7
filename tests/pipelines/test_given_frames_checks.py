"""Wrong calls of pipelines for given frames: each ends in one clear error before any model runs."""

import math

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from diffusers_video import FrameCondition, FrameInterpolationPipeline, KeyFramePredictionPipeline

from ..tiny_pipelines import SIZE, tiny_given
from .test_checks import WRONG_CALLS, assert_refused, watched


VIDEO = np.zeros((3, SIZE, SIZE, 3), dtype=np.uint8)
LATENTS = torch.zeros(1, 4, 2, 8, 8)
WRONG_FOR_BOTH = {
    "frames of a path": ({"frames": "clip.mp4"}, TypeError, "`frames` must be a list of frames"),
    "frames in [-1, 1]": ({"frames": torch.full((2, 3, 16, 16), -1.0)}, ValueError, "`frames` must be uint8"),
    "no frame in a list": ({"frames": []}, ValueError, "`frames` must hold at least one frame"),
    "grey frames": ({"frames": VIDEO[:2, ..., :1]}, ValueError, "`frames` must have 3 colour channels"),
    "frames of another number": ({"frames": [VIDEO[:2]] * 2}, ValueError, "`frames` must be of one video"),
    "frames of an odd size": ({"frames": VIDEO[:2, :15]}, ValueError, "`height` must be a multiple of 2"),
    "unknown mechanism": ({"mechanism": "magic"}, ValueError, "`mechanism` must be one of"),
    "weight without reconstruction": (
        {"reconstruction_scale": 2.0},
        ValueError,
        "`reconstruction_scale` has no effect",
    ),
    "weight of text": (
        {"mechanism": "reconstruction", "reconstruction_scale": "2"},
        TypeError,
        "`reconstruction_scale` must be a number",
    ),
    "negative weight": (
        {"mechanism": "reconstruction", "reconstruction_scale": -1.0},
        ValueError,
        "`reconstruction_scale` must be at least 0",
    ),
    "context guidance of text": ({"context_guidance_scale": "2"}, TypeError, "`context_guidance_scale`"),
    "context guidance of nan": ({"context_guidance_scale": math.nan}, ValueError, "`context_guidance_scale`"),
    "context guidance without context": (
        {"mechanism": "replacement", "context_guidance_scale": 2.0},
        ValueError,
        "`context_guidance_scale` has an effect only where",
    ),
    "text guidance without text": ({"prompt": None, "guidance_scale": 5.0}, ValueError, "no effect without a prompt"),
    "rescale without text": (
        {"prompt": None, "guidance_rescale": 0.5},
        ValueError,
        "`guidance_rescale` has no effect",
    ),
    "negative prompt without text": ({"prompt": None, "negative_prompt": "b"}, ValueError, "`negative_prompt` has no"),
    "noise level of a model without one": ({"noise_level": 20}, ValueError, "`noise_level` has an effect only on"),
    "noise level of a float": ({"noise_level": 2.5}, TypeError, "`noise_level` must be an integer"),
    "flag of a number": ({"decode_given_frames": 1}, TypeError, "`decode_given_frames` must be a bool"),
}
WRONG_PREDICTIONS = {
    "three frames": ({"frames": VIDEO}, ValueError, r"`frames` must be at most 2, but are 3.*`frames\[-2:\]`"),
    "as many frames as wanted": ({"frames": VIDEO[:2], "num_frames": 2}, ValueError, "`num_frames` and"),
    "frames and conditions": (
        {"frames": VIDEO[:1], "conditions": [FrameCondition(VIDEO[:1], 0)]},
        ValueError,
        "Only one of `frames` and `conditions`",
    ),
    "one condition alone": ({"conditions": FrameCondition(VIDEO[:1], 0)}, TypeError, "`conditions` must be a list"),
    "conditions of frames": ({"conditions": [VIDEO]}, TypeError, "`conditions` must be a list of FrameCondition"),
    "more places than frames": (
        {"conditions": [FrameCondition(VIDEO[:1], [0, 1])]},
        ValueError,
        "`indices` must name one place for each of 1",
    ),
    "a place beyond the window": (
        {"conditions": [FrameCondition(VIDEO[:1], 5)]},
        ValueError,
        "`indices` must lie in a clip of 5 frames",
    ),
    "a place given twice": (
        {"conditions": [FrameCondition(VIDEO[:1], 1), FrameCondition(VIDEO[:1], 1)]},
        ValueError,
        r"`indices` must not name a place twice, but two conditions name \[1\]",
    ),
    "two noise levels": (
        {"conditions": [FrameCondition(VIDEO[:1], 0, noise_level=1), FrameCondition(VIDEO[:1], 1, noise_level=2)]},
        ValueError,
        r"`noise_level` must be one for all conditions of a clip, but is \[1, 2\]",
    ),
    "latents of another size": (
        {"conditions": [FrameCondition(LATENTS[..., :7], [0, 1], is_latent=True)], "height": 16, "width": 16},
        ValueError,
        "`frames` must have shape",
    ),
    "context guidance without frames": (
        {"frames": None, "context_guidance_scale": 2.0},
        ValueError,
        "`context_guidance_scale` has an effect only where",
    ),
    "kept frames of a single window": ({"num_context_frames": 1}, ValueError, "`num_context_frames` has no effect"),
    "three kept frames": (
        {"num_context_frames": 3, "num_frames": 9},
        ValueError,
        "`num_context_frames` must be at most 2",
    ),
    "no kept frame": ({"num_context_frames": 0, "num_frames": 9}, ValueError, "`num_context_frames` must be at least"),
    "windows of one frame": ({"window_frames": 1}, ValueError, "`window_frames` must be at least 2"),
    "no frames": ({"num_frames": 0}, ValueError, "`num_frames` must be at least 1"),
    "frames of a float": ({"num_frames": 3.0}, TypeError, "`num_frames` must be an integer"),
    "noise of several windows": (
        {"num_frames": 9, "latents": torch.zeros(1, 4, 9, 8, 8)},
        ValueError,
        "`latents` must be the noise of one window",
    ),
    "noise of another shape": ({"latents": torch.zeros(1, 4, 3, 8, 8)}, ValueError, "`latents` must have shape"),
}
WRONG_INTERPOLATIONS = {
    "one frame": ({"frames": Image.new("RGB", (SIZE, SIZE))}, ValueError, "`frames` must be at least 2"),
    "no frames": ({"frames": None}, ValueError, "Exactly one of `frames` and `frame_latents`"),
    "frames and latents": ({"frame_latents": LATENTS}, ValueError, "Exactly one of `frames` and `frame_latents`"),
    "latents of an array": (
        {"frames": None, "frame_latents": LATENTS.numpy()},
        TypeError,
        "`frame_latents` must be a floating-point tensor",
    ),
    "latents of an image": (
        {"frames": None, "frame_latents": LATENTS[:, :, 0]},
        ValueError,
        "`frame_latents` must have shape",
    ),
    "no pass": ({"num_passes": 0}, ValueError, "`num_passes` must be at least 1"),
    "half a pass": ({"num_passes": 0.5}, TypeError, "`num_passes` must be an integer"),
}
SHARED = [
    name
    for name, (arguments, _, _) in WRONG_CALLS.items()
    if not set(arguments)
    & {
        *("video", "latents", "strength", "num_frames", "prompt_2", "original_size", "prompt"),
        *("ip_adapter_image", "ip_adapter_image_embeds", "conditioning_frames", "controlnet_conditioning_scale"),
        "guess_mode",
    }
]


@pytest.fixture(scope="module")
def prediction() -> tuple[DiffusionPipeline, list[str]]:
    return watched(tiny_given(KeyFramePredictionPipeline))


@pytest.fixture(scope="module")
def interpolation() -> tuple[DiffusionPipeline, list[str]]:
    return watched(tiny_given(FrameInterpolationPipeline))


def with_frames(case: tuple[dict, type[Exception], str]) -> tuple[dict, type[Exception], str]:
    arguments, error, message = case
    frames = {} if "conditions" in arguments else {"frames": VIDEO[:2]}
    return {**frames, **arguments}, error, message


@pytest.mark.parametrize("name", [*WRONG_FOR_BOTH, *SHARED])
@pytest.mark.parametrize("kind", ["prediction", "interpolation"])
def test_a_wrong_call_is_refused_before_any_model_runs(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    assert_refused(*request.getfixturevalue(kind), with_frames({**WRONG_CALLS, **WRONG_FOR_BOTH}[name]))


@pytest.mark.parametrize("name", WRONG_PREDICTIONS)
def test_a_wrong_prediction_is_refused_before_any_model_runs(
    prediction: tuple[DiffusionPipeline, list[str]], name: str
) -> None:
    assert_refused(*prediction, with_frames(WRONG_PREDICTIONS[name]))


@pytest.mark.parametrize("name", WRONG_INTERPOLATIONS)
def test_a_wrong_interpolation_is_refused_before_any_model_runs(
    interpolation: tuple[DiffusionPipeline, list[str]], name: str
) -> None:
    assert_refused(*interpolation, with_frames(WRONG_INTERPOLATIONS[name]))


def test_most_wrong_calls_of_text_to_video_are_wrong_here_too() -> None:
    assert len(SHARED) > 35


def test_a_noise_level_above_that_of_training_is_refused() -> None:
    pipeline, ran = watched(tiny_given(KeyFramePredictionPipeline, added_time_ids=("noise_level",)))
    pipeline.register_to_config(max_noise_level=250)
    case = ({"frames": VIDEO[:1], "noise_level": 251}, ValueError, "`noise_level` must be at most 250")
    assert_refused(pipeline, ran, case)
    twice = {"conditions": [FrameCondition(VIDEO[:1], 0, noise_level=5)], "noise_level": 5}
    assert_refused(pipeline, ran, (twice, ValueError, "`noise_level` must be given once"))


@pytest.mark.parametrize("pipeline_class", [KeyFramePredictionPipeline, FrameInterpolationPipeline])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_frames": 1}, ValueError, "`num_frames` must be at least 2"),
        ({"max_noise_level": -1}, ValueError, "`max_noise_level` must be at least 0"),
        ({"max_noise_level": 2.0}, TypeError, "`max_noise_level` must be an integer"),
        ({"fps": 0.0}, ValueError, "`fps` must be above 0"),
        ({"noise_prior": "loud"}, ValueError, "`noise_prior` must be one of"),
    ],
)
def test_a_pipeline_of_wrong_parts_is_refused(
    pipeline_class: type[DiffusionPipeline], options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipeline_class(**{**tiny_given(pipeline_class).components, **options})
