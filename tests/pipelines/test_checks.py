"""Wrong calls: each ends in one clear error before any model runs."""

import math

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, PNDMScheduler
from PIL import Image

from diffusers_video import TextToVideoPipeline
from diffusers_video.pipelines.checks import check_integer, check_number, check_tensor

from ..tiny_pipelines import (
    MAX_TOKENS,
    POOLED_WIDTH,
    SIZE,
    TEXT_WIDTH,
    tiny_controlnet,
    tiny_image_pipeline,
    tiny_text_to_video,
)


NAN_LATENTS = torch.zeros(1, 4, 3, 8, 8)
NAN_LATENTS[0, 0, 0, 0, 0] = math.nan
EMBEDS = torch.zeros(1, MAX_TOKENS, TEXT_WIDTH)
VIDEO = np.zeros((3, SIZE, SIZE, 3), dtype=np.uint8)
POOLED = torch.zeros(1, POOLED_WIDTH)
XL_EMBEDS = torch.zeros(1, MAX_TOKENS, 2 * TEXT_WIDTH)

# Arguments beside prompt="a", the error, and what its message must contain.
WRONG_CALLS = {
    "no prompt": ({"prompt": None}, ValueError, "`prompt` or `prompt_embeds`"),
    "empty prompt list": ({"prompt": []}, ValueError, "`prompt`.*empty list"),
    "prompt of numbers": ({"prompt": [1, 2]}, TypeError, "`prompt`"),
    "prompt tuple": ({"prompt": ("a", "b")}, TypeError, "`prompt`"),
    "prompt and embeddings": ({"prompt_embeds": EMBEDS}, ValueError, "`prompt` and `prompt_embeds`"),
    "negative prompts of another number": ({"negative_prompt": ["a", "b"]}, ValueError, "`negative_prompt`.*holds 2"),
    "empty negative list": ({"negative_prompt": []}, ValueError, "`negative_prompt`"),
    "negative prompt of a number": ({"negative_prompt": 3}, TypeError, "`negative_prompt`"),
    "negative prompt without guidance": (
        {"negative_prompt": "b", "guidance_scale": 1.0},
        ValueError,
        "`negative_prompt` has no effect without guidance",
    ),
    "both negatives": (
        {"negative_prompt": "b", "negative_prompt_embeds": EMBEDS},
        ValueError,
        "`negative_prompt` and `negative_prompt_embeds`",
    ),
    "embeddings of another width": (
        {"prompt": None, "prompt_embeds": torch.zeros(1, 5, 99)},
        ValueError,
        r"`prompt_embeds` must have shape \(any, any, 12\)",
    ),
    "embeddings without rows": ({"prompt": None, "prompt_embeds": EMBEDS[:0]}, ValueError, "at least one row"),
    "embeddings with a NaN": (
        {"prompt": None, "prompt_embeds": EMBEDS + math.nan},
        ValueError,
        "`prompt_embeds` must hold finite",
    ),
    "integer embeddings": ({"prompt": None, "prompt_embeds": EMBEDS.long()}, TypeError, "`prompt_embeds`"),
    "embeddings in a list": ({"prompt": None, "prompt_embeds": [EMBEDS]}, TypeError, "`prompt_embeds`.*list"),
    "negative embeddings of another length": (
        {"prompt": None, "prompt_embeds": EMBEDS, "negative_prompt_embeds": EMBEDS[:, :5]},
        ValueError,
        "`negative_prompt_embeds` must have shape",
    ),
    "second prompt on one encoder": ({"prompt_2": "b"}, ValueError, "`prompt_2` has an effect only on"),
    "size condition on one encoder": ({"original_size": (8, 8)}, ValueError, "`original_size` has an effect only on"),
    "odd height": ({"height": 15}, ValueError, "`height` must be a multiple of 2, but is 15"),
    "odd width": ({"width": 17}, ValueError, "`width` must be a multiple of 2"),
    "height of a float": ({"height": 16.0}, TypeError, "`height` must be an integer"),
    "no height": ({"height": 0}, ValueError, "`height` must be at least 1"),
    "no frames": ({"num_frames": 0}, ValueError, "`num_frames` must be at least 1"),
    "frames of a float": ({"num_frames": 3.0}, TypeError, "`num_frames` must be an integer"),
    "frames of a bool": ({"num_frames": True}, TypeError, "`num_frames` must be an integer"),
    "fps of 0": ({"fps": 0}, ValueError, "`fps` must be above 0"),
    "negative fps": ({"fps": -8.0}, ValueError, "`fps` must be above 0"),
    "fps of nan": ({"fps": math.nan}, ValueError, "`fps` must be above 0 and finite"),
    "fps of infinity": ({"fps": math.inf}, ValueError, "`fps` must be above 0 and finite"),
    "fps of text": ({"fps": "8"}, TypeError, "`fps` must be a number"),
    "no steps": ({"num_inference_steps": 0}, ValueError, "`num_inference_steps` must be at least 1"),
    "steps of a float": ({"num_inference_steps": 2.5}, TypeError, "`num_inference_steps`"),
    "no videos": ({"num_videos_per_prompt": 0}, ValueError, "`num_videos_per_prompt` must be at least 1"),
    "guidance of nan": ({"guidance_scale": math.nan}, ValueError, "`guidance_scale`"),
    "guidance of text": ({"guidance_scale": "7"}, TypeError, "`guidance_scale` must be a number"),
    "rescale above 1": ({"guidance_rescale": 1.5}, ValueError, "`guidance_rescale` must be .* at most 1"),
    "rescale below 0": ({"guidance_rescale": -0.1}, ValueError, "`guidance_rescale` must be at least 0"),
    "rescale without guidance": (
        {"guidance_rescale": 0.5, "guidance_scale": 1},
        ValueError,
        "`guidance_rescale` has no effect",
    ),
    "negative eta": ({"eta": -0.1}, ValueError, "`eta` must be at least 0"),
    "timesteps and sigmas": ({"timesteps": [9, 1], "sigmas": [1.0, 0.0]}, ValueError, "`timesteps` and `sigmas`"),
    "timesteps for a scheduler that has none": (
        {"timesteps": [9, 1]},
        ValueError,
        "`timesteps` cannot be chosen with",
    ),
    "sigmas for a scheduler that has none": ({"sigmas": [1.0]}, ValueError, "`sigmas` cannot be chosen with"),
    "generator of a number": ({"generator": 0}, TypeError, "`generator` must be a `torch.Generator`"),
    "too few generators": (
        {"generator": [torch.Generator()], "num_videos_per_prompt": 2},
        ValueError,
        "`generator` must hold one generator for each of 2 videos",
    ),
    "generators and numbers": ({"generator": [torch.Generator(), 1], "prompt": ["a", "b"]}, TypeError, "`generator`"),
    "latents of another shape": ({"latents": torch.zeros(1, 4, 3, 9, 8), "height": 16}, ValueError, "`latents` must"),
    "latents of images": ({"latents": torch.zeros(1, 4, 8, 8)}, ValueError, r"`latents` must have shape \(1, 4, 3"),
    "latents of too few videos": (
        {"latents": torch.zeros(1, 4, 3, 8, 8), "prompt": ["a", "b"]},
        ValueError,
        "`latents`",
    ),
    "latents with a NaN": ({"latents": NAN_LATENTS}, ValueError, "`latents` must hold finite numbers"),
    "latents of an array": ({"latents": np.zeros((1, 4, 3, 8, 8))}, TypeError, "`latents` must be a floating-point"),
    "latents and video": (
        {"latents": torch.zeros(1, 4, 3, 8, 8), "video": VIDEO},
        ValueError,
        "`video` and `latents`",
    ),
    "strength without video": ({"strength": 0.5}, ValueError, "`strength` has no effect without `video`"),
    "strength above 1": ({"video": VIDEO, "strength": 1.5}, ValueError, "`strength` must be .* at most 1"),
    "strength of 0": ({"video": VIDEO, "strength": 0.0}, ValueError, "`strength` must be above 0"),
    "strength that leaves no step": ({"video": VIDEO, "strength": 0.2}, ValueError, "leaves no step"),
    "video of another length": ({"video": VIDEO, "num_frames": 5}, ValueError, "`video` must have `num_frames`=5"),
    "videos of another number": ({"video": [VIDEO, VIDEO]}, ValueError, "`video` must be one video, or one for each"),
    "video of another size and no size": ({"video": VIDEO[:, :15]}, ValueError, "`height` must be a multiple of 2"),
    "grey video": ({"video": VIDEO[..., :1]}, ValueError, "`video` must have 3 colour channels, but has 1"),
    "video in [-1, 1]": ({"video": torch.full((3, 3, 16, 16), -1.0)}, ValueError, "`video` must be uint8"),
    "video in [0, 255] floats": ({"video": VIDEO.astype(np.float32) + 200}, ValueError, "`video` must be uint8"),
    "video with a NaN": ({"video": torch.full((3, 3, 16, 16), math.nan)}, ValueError, "`video` must be uint8"),
    "video of integers": ({"video": VIDEO.astype(np.int64)}, ValueError, "`video` must be uint8"),
    "video without frames": ({"video": []}, ValueError, "`video` must hold at least one frame"),
    "video of a path": ({"video": "clip.mp4"}, TypeError, "`video` must be a list of frames"),
    "video of mixed sizes": (
        {"video": [Image.new("RGB", (16, 16)), Image.new("RGB", (18, 16))]},
        ValueError,
        "`video` must hold frames of one size",
    ),
    "unknown output type": ({"output_type": "mp4"}, ValueError, "`output_type` must be one of"),
    "return_dict of text": ({"return_dict": "no"}, TypeError, "`return_dict` must be a bool"),
    "chunks of 0": ({"decode_chunk_size": 0}, ValueError, "`decode_chunk_size` must be at least 1"),
    "chunks of a float": ({"decode_chunk_size": 1.5}, TypeError, "`decode_chunk_size`"),
    "attention arguments of a number": ({"cross_attention_kwargs": 0.5}, TypeError, "`cross_attention_kwargs`"),
    "negative clip_skip": ({"clip_skip": -1}, ValueError, "`clip_skip` must be at least 0"),
    "clip_skip of all layers": ({"clip_skip": 9}, ValueError, "`clip_skip` must be at most 3"),
    "clip_skip of embeddings": ({"prompt": None, "prompt_embeds": EMBEDS, "clip_skip": 1}, ValueError, "`clip_skip`"),
    "callback that cannot be called": ({"callback_on_step_end": "f"}, TypeError, "`callback_on_step_end` must be"),
    "unknown callback tensor": (
        {"callback_on_step_end_tensor_inputs": ["latents", "noise"]},
        ValueError,
        r"`callback_on_step_end_tensor_inputs` must be among .* but \['noise'\]",
    ),
    "callback tensor of text": ({"callback_on_step_end_tensor_inputs": "latents"}, TypeError, "list of names"),
    "picture without adapter": ({"ip_adapter_image": Image.new("RGB", (8, 8))}, ValueError, "needs an IP-Adapter"),
    "picture embeddings without adapter": ({"ip_adapter_image_embeds": [POOLED]}, ValueError, "needs an IP-Adapter"),
    "control frames without ControlNet": ({"conditioning_frames": VIDEO}, ValueError, "need a ControlNet"),
    "control scale without frames": (
        {"controlnet_conditioning_scale": 0.5},
        ValueError,
        "`controlnet_conditioning_scale` has no effect without `conditioning_frames`",
    ),
    "guess mode without frames": ({"guess_mode": True}, ValueError, "`guess_mode` has no effect"),
    "guess mode of a number": ({"guess_mode": 1}, TypeError, "`guess_mode` must be a bool"),
}
WRONG_CALLS_OF_XL = {
    "embeddings without pooled ones": ({"prompt": None, "prompt_embeds": XL_EMBEDS}, ValueError, "given together"),
    "negative embeddings without pooled ones": ({"negative_prompt_embeds": XL_EMBEDS}, ValueError, "given together"),
    "pooled embeddings of another width": (
        {"prompt": None, "prompt_embeds": XL_EMBEDS, "pooled_prompt_embeds": torch.zeros(1, 3)},
        ValueError,
        r"`pooled_prompt_embeds` must have shape \(1, 10\)",
    ),
    "second prompts of another number": ({"prompt_2": ["a", "b"]}, ValueError, "`prompt_2`.*holds 2"),
    "size of one number": ({"original_size": 16}, TypeError, "`original_size` must be a pair"),
    "size of 0": ({"target_size": (0, 16)}, ValueError, "`target_size` must be at least 1"),
    "negative size alone": ({"negative_original_size": (16, 16)}, ValueError, "must be given together"),
    "clip_skip of all layers": ({"clip_skip": 3}, ValueError, "`clip_skip` must be at most 2"),
}
WRONG_CALLS_WITH_CONTROLNETS = {
    "one video for two": ({"conditioning_frames": VIDEO}, ValueError, "each of the 2 ControlNets, but is ndarray"),
    "three videos for two": ({"conditioning_frames": [VIDEO] * 3}, ValueError, "each of the 2 ControlNets"),
    "control frames of another length": ({"conditioning_frames": [VIDEO[:2], VIDEO]}, ValueError, "`num_frames`=3"),
    "three scales for two": (
        {"conditioning_frames": [VIDEO, VIDEO], "controlnet_conditioning_scale": [1.0] * 3},
        ValueError,
        "`controlnet_conditioning_scale` must be a number or hold one for each of 2",
    ),
    "scale of text": (
        {"conditioning_frames": [VIDEO, VIDEO], "controlnet_conditioning_scale": "1"},
        TypeError,
        "`controlnet_conditioning_scale` must be a number",
    ),
    "start after end": (
        {"conditioning_frames": [VIDEO, VIDEO], "control_guidance_start": 0.8, "control_guidance_end": [1.0, 0.5]},
        ValueError,
        "`control_guidance_start` must be below",
    ),
    "end above 1": (
        {"conditioning_frames": [VIDEO, VIDEO], "control_guidance_end": 1.5},
        ValueError,
        "`control_guidance_end`",
    ),
}


def watched(pipeline: TextToVideoPipeline) -> tuple[TextToVideoPipeline, list[str]]:
    """The pipeline, and a list of its models that have run."""
    ran = []
    for name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            for module in component.modules():
                module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    return pipeline, ran


@pytest.fixture(scope="module")
def plain() -> tuple[TextToVideoPipeline, list[str]]:
    return watched(tiny_text_to_video())


@pytest.fixture(scope="module")
def xl() -> tuple[TextToVideoPipeline, list[str]]:
    return watched(tiny_text_to_video("sdxl"))


@pytest.fixture(scope="module")
def controlled() -> tuple[TextToVideoPipeline, list[str]]:
    pipeline = tiny_text_to_video()
    nets = [tiny_controlnet(tiny_image_pipeline().unet, seed) for seed in range(2)]
    return watched(TextToVideoPipeline(**{**pipeline.components, "controlnet": nets}, num_frames=3))


def assert_refused(pipeline: TextToVideoPipeline, ran: list[str], case: tuple[dict, type[Exception], str]) -> None:
    arguments, error, message = case
    with pytest.raises(error, match=message) as caught:
        pipeline(**{"prompt": "a", "num_inference_steps": 4, **arguments})
    assert type(caught.value) is error and not ran


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_call_is_refused_before_any_model_runs(
    plain: tuple[TextToVideoPipeline, list[str]], name: str
) -> None:
    assert_refused(*plain, WRONG_CALLS[name])


@pytest.mark.parametrize("name", WRONG_CALLS_OF_XL)
def test_a_wrong_call_of_an_xl_model_is_refused_before_any_model_runs(
    xl: tuple[TextToVideoPipeline, list[str]], name: str
) -> None:
    assert_refused(*xl, WRONG_CALLS_OF_XL[name])


@pytest.mark.parametrize("name", WRONG_CALLS_WITH_CONTROLNETS)
def test_a_wrong_call_with_controlnets_is_refused_before_any_model_runs(
    controlled: tuple[TextToVideoPipeline, list[str]], name: str
) -> None:
    assert_refused(*controlled, WRONG_CALLS_WITH_CONTROLNETS[name])


def test_the_models_that_the_wrong_calls_watch_do_run_in_a_right_call() -> None:
    pipeline, ran = watched(tiny_text_to_video())
    pipeline("a", num_inference_steps=1, output_type="latent")
    assert {"text_encoder", "unet"} <= set(ran)


def test_eta_is_refused_by_a_scheduler_that_has_none() -> None:
    pipeline, ran = watched(tiny_text_to_video())
    pipeline.scheduler = PNDMScheduler(skip_prk_steps=False)
    assert_refused(pipeline, ran, ({"eta": 0.5}, ValueError, "`eta` must be 0 with PNDMScheduler"))
    assert_refused(pipeline, ran, ({"video": VIDEO, "strength": 0.5}, ValueError, "skip_prk_steps=True"))


@pytest.mark.parametrize("timesteps", [[], [1, 5], [5, 5], [5.0, math.nan], [5, -1], "9", [True]])
def test_timesteps_that_do_not_descend_are_refused(timesteps: object) -> None:
    pipeline, ran = watched(tiny_text_to_video())
    pipeline.scheduler = EulerDiscreteScheduler()
    assert_refused(pipeline, ran, ({"timesteps": timesteps}, ValueError, "`timesteps` must"))


def test_negatives_and_prompts_are_refused_where_the_model_embeds_its_guidance() -> None:
    pipeline, ran = watched(tiny_text_to_video("lcm"))
    assert_refused(pipeline, ran, ({"negative_prompt": "b"}, ValueError, "`negative_prompt` has no effect"))


def test_a_prompt_is_refused_without_text_encoder() -> None:
    parts = {**tiny_text_to_video().components, "text_encoder": None, "tokenizer": None}
    pipeline, ran = watched(TextToVideoPipeline(**parts))
    assert_refused(pipeline, ran, ({}, ValueError, "`prompt` needs a `tokenizer`"))
    guided = {"prompt": None, "prompt_embeds": EMBEDS}
    assert_refused(pipeline, ran, (guided, ValueError, "`negative_prompt` needs a `tokenizer`"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_frames": 0}, ValueError, "`num_frames`"),
        ({"num_frames": 2.0}, TypeError, "`num_frames`"),
        ({"fps": 0.0}, ValueError, "`fps`"),
        ({"fps": "8"}, TypeError, "`fps`"),
        ({"vae": torch.nn.Linear(1, 1)}, TypeError, "`vae` must be an AutoencoderKL"),
        ({"unet": torch.nn.Linear(1, 1)}, ValueError, "`unet` must be a UNetVideoConditionModel"),
    ],
)
def test_a_pipeline_of_wrong_parts_is_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TextToVideoPipeline(**{**tiny_text_to_video().components, **options})


@pytest.mark.parametrize("value", [1, 5, 10**9])
def test_integers_in_range_pass(value: int) -> None:
    check_integer("n", value, minimum=1)


@pytest.mark.parametrize(("value", "maximum"), [(0, 1.0), (0.5, 1.0), (1, 1.0), (1e30, math.inf)])
def test_numbers_in_range_pass(value: float, maximum: float) -> None:
    check_number("x", value, maximum=maximum)


def test_the_message_for_a_size_names_one_that_fits() -> None:
    with pytest.raises(ValueError, match="Try 64"):
        check_integer("height", 71, multiple_of=64)


def test_a_free_axis_of_a_shape_fits_every_length() -> None:
    check_tensor("x", torch.zeros(2, 7), (2, None))
    with pytest.raises(ValueError, match=r"shape \(2, any\), but has \(3, 7\)"):
        check_tensor("x", torch.zeros(3, 7), (2, None))
