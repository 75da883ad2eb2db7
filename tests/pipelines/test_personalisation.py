"""Temporal layers of one image model in a tuned one, which reads its own text encoder while they read the original."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from diffusers_video import FrameInterpolationPipeline, KeyFramePredictionPipeline, TextToVideoPipeline
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel

from ..tiny_models import tiny_unet2d
from ..tiny_pipelines import MAX_TOKENS, TEXT_WIDTH, tiny_image_pipeline, tiny_text_to_video


STEPS = {"num_inference_steps": 2, "guidance_scale": 5.0}
EMBEDS = torch.zeros(1, MAX_TOKENS, TEXT_WIDTH)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tuned_image_pipeline(family: str = "sd15") -> DiffusionPipeline:
    """An image model of the same shape as that of `tiny_image_pipeline` with other weights in all its networks."""
    width = TEXT_WIDTH * (2 if family == "sdxl" else 1)
    pipeline = tiny_image_pipeline(family, unet=tiny_unet2d(family, seed=7, cross_attention_dim=width))
    generator = seeded(11)
    with torch.no_grad():
        for name in ("text_encoder", "text_encoder_2", "vae"):
            for parameter in getattr(pipeline, name, nn.Module()).parameters():
                parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return pipeline


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of trained temporal layers, by the family of the image model they were trained on."""
    folder = tmp_path_factory.mktemp("motion")
    return {
        family: tiny_text_to_video(family, "videoldm").unet.save_temporal_layers(folder / family)
        for family in ("sd15", "sd21", "sdxl")
    }


def personal(
    layers: Path, family: str = "sd15", pipeline_class: type = TextToVideoPipeline, **options: object
) -> DiffusionPipeline:
    """The tuned model with those temporal layers and, but for XL, the original text encoder for them."""
    original = tiny_image_pipeline(family)
    texts = {"temporal_text_encoder": original.text_encoder, "temporal_tokenizer": original.tokenizer}
    options = {"num_frames": 3, **({} if family == "sdxl" else texts), **options}
    model = options.pop("model", None) or tuned_image_pipeline(family)
    pipeline = pipeline_class.from_image_model(model, temporal_layers=layers, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(motion: dict[str, Path]) -> TextToVideoPipeline:
    """A personal pipeline for tests that do not change it."""
    return personal(motion["sd15"])


def run(pipeline: DiffusionPipeline, prompt: str | list[str] | None = "a red fox", **arguments: object) -> Tensor:
    return pipeline(prompt=prompt, **{"generator": seeded(), "output_type": "pt", **STEPS, **arguments}).frames


def texts_read(pipeline: DiffusionPipeline, **arguments: object) -> tuple[list[Tensor], list[Tensor]]:
    """What the cross-attention layers of the denoiser read in the first step: spatial ones, and temporal ones."""
    spatial, temporal, handles = [], [], []
    for name, module in pipeline.unet.named_modules():
        if name.endswith("attn2"):
            read = temporal if is_temporal(name) else spatial

            def keep(_, inputs: tuple, keywords: dict, read: list = read) -> None:
                read.append(keywords["encoder_hidden_states"] if "encoder_hidden_states" in keywords else inputs[1])

            handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    run(pipeline, num_inference_steps=1, output_type="latent", **arguments)
    for handle in handles:
        handle.remove()
    assert spatial and temporal
    return spatial, temporal


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_images_are_those_of_the_tuned_image_pipeline_exactly(family: str, motion: dict[str, Path]) -> None:
    image_pipeline = tuned_image_pipeline(family)
    pipeline = personal(motion[family], family)
    arguments = {"negative_prompt": "grey", "output_type": "np", **STEPS}
    image = image_pipeline("a red fox", generator=seeded(), **arguments).images
    frame = pipeline("a red fox", generator=seeded(), num_frames=1, image_only=True, **arguments).frames[:, 0]
    np.testing.assert_array_equal(frame, image)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    with torch.no_grad():
        texts = {name: one for name, one in zip(names, pipeline.encode_prompt("a"), strict=True) if one is not None}
    noise = torch.randn(1, 4, 3, 8, 8)
    arguments = {"output_type": "latent", "latents": noise[0].transpose(0, 1), **STEPS}
    images = image_pipeline(**{name: one.repeat_interleave(3, 0) for name, one in texts.items()}, **arguments).images
    frames = run(pipeline, None, latents=noise, output_type="latent", image_only=True, **texts)
    assert torch.equal(frames[0].transpose(0, 1), images)
    moving = run(pipeline, "a", latents=noise, output_type="latent")
    assert not torch.isclose(moving, frames).all()


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_folder_and_a_file_make_the_pipeline_that_is_put_together_by_hand(
    family: str, motion: dict[str, Path], tmp_path: Path
) -> None:
    tuned = tuned_image_pipeline(family)
    tuned.save_pretrained(tmp_path)
    pipeline = personal(motion[family], family, model=tmp_path, dtype=torch.float32)
    assert pipeline.unet.preset_of(pipeline.unet.config) == "videoldm"
    trained = tiny_text_to_video(family, "videoldm").unet
    unet = UNetVideoConditionModel.from_config(trained.config).eval()
    temporal = {name: value for name, value in trained.state_dict().items() if is_temporal(name)}
    unet.load_state_dict(tuned.unet.state_dict() | temporal)
    names = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    parts = {name: getattr(tuned, name) for name in names if hasattr(tuned, name)}
    if family != "sdxl":
        original = tiny_image_pipeline(family)
        parts |= {"temporal_text_encoder": original.text_encoder, "temporal_tokenizer": original.tokenizer}
    by_hand = TextToVideoPipeline(**parts, unet=unet, scheduler=tuned.scheduler, num_frames=3)
    by_hand.set_progress_bar_config(disable=True)
    assert torch.equal(run(pipeline), run(by_hand))


def test_options_of_the_file_are_taken_over_and_may_be_changed(tmp_path: Path) -> None:
    image_pipeline = tiny_image_pipeline()
    unet = UNetVideoConditionModel.from_unet2d(
        image_pipeline.unet, "light", temporal_attention="causal", added_time_ids=["fps"]
    )
    path = unet.save_temporal_layers(tmp_path)
    options = {"temporal_layers": path, "temporal_options": {"temporal_max_distance": 2}}
    config = TextToVideoPipeline.from_image_model(tuned_image_pipeline(), **options).unet.config
    assert (config.temporal_attention, config.added_time_ids) == ("causal", ["fps"])
    assert config.temporal_max_distance == 2 and not config.temporal_feed_forward


def test_spatial_layers_read_the_tuned_text_and_temporal_layers_the_original(pipeline: TextToVideoPipeline) -> None:
    spatial, temporal = texts_read(pipeline, negative_prompt="grey")
    texts = []
    for image_pipeline in (tuned_image_pipeline(), tiny_image_pipeline()):
        with torch.no_grad():
            embeds, negative = image_pipeline.encode_prompt("a red fox", "cpu", 1, True, "grey")
        texts.append(torch.cat([negative, embeds]))
    assert not torch.isclose(*texts).all()
    assert all(torch.equal(text, texts[0]) for text in spatial)
    assert all(torch.equal(text, texts[1]) for text in temporal)


@pytest.mark.parametrize("name", ["text_encoder", "temporal_text_encoder"])
def test_each_text_encoder_moves_its_own_part_of_the_model(name: str, motion: dict[str, Path]) -> None:
    pipeline = personal(motion["sd15"])
    before, frames = texts_read(pipeline), run(pipeline)
    images = run(pipeline, image_only=True)
    with torch.no_grad():
        for parameter in getattr(pipeline, name).parameters():
            parameter.mul_(1.5)
    after = texts_read(pipeline)
    is_same = [torch.equal(one[0], other[0]) for one, other in zip(before, after, strict=True)]
    assert is_same == ([False, True] if name == "text_encoder" else [True, False])
    assert not torch.allclose(run(pipeline), frames)
    assert torch.equal(run(pipeline, image_only=True), images) == (name == "temporal_text_encoder")


def test_the_text_encoder_itself_in_both_places_would_change_nothing(motion: dict[str, Path]) -> None:
    tuned = tuned_image_pipeline()
    texts = {"temporal_text_encoder": copy.deepcopy(tuned.text_encoder), "temporal_tokenizer": tuned.tokenizer}
    plain = TextToVideoPipeline.from_image_model(tuned, temporal_layers=motion["sd15"], num_frames=3)
    plain.set_progress_bar_config(disable=True)
    assert torch.equal(run(personal(motion["sd15"], model=tuned, **texts)), run(plain))


def test_layers_left_out_of_the_tuned_text_encoder_stay_in_the_original_one(pipeline: TextToVideoPipeline) -> None:
    plain, skipped = texts_read(pipeline), texts_read(pipeline, clip_skip=1)
    assert not torch.equal(skipped[0][0], plain[0][0]) and torch.equal(skipped[1][0], plain[1][0])


@pytest.mark.parametrize("with_encoder", [True, False])
def test_given_embeddings_do_as_their_prompts(with_encoder: bool, motion: dict[str, Path]) -> None:
    pipeline = personal(motion["sd15"])
    prompts = ["a red fox", "a blue bear"]
    several = {"num_videos_per_prompt": 2, "generator": [seeded(seed) for seed in range(4)]}
    want = run(pipeline, prompts, negative_prompt=["grey", "dark"], **several)
    with torch.no_grad():
        tuned = pipeline.encode_prompt(prompts, "cpu", 1, True, ["grey", "dark"])[:2]
        original = tiny_image_pipeline().encode_prompt(prompts, "cpu", 1, True, ["grey", "dark"])
    embeds = {"temporal_prompt_embeds": original[0], "negative_temporal_prompt_embeds": original[1]}
    if not with_encoder:
        pipeline.temporal_text_encoder = pipeline.temporal_tokenizer = None
    several["generator"] = [seeded(seed) for seed in range(4)]
    assert torch.equal(run(pipeline, prompts, negative_prompt=["grey", "dark"], **embeds, **several), want)
    embeds |= {"prompt_embeds": tuned[0], "negative_prompt_embeds": tuned[1]}
    several["generator"] = [seeded(seed) for seed in range(4)]
    assert torch.equal(run(pipeline, None, **embeds, **several), want)


def test_embeddings_given_for_the_temporal_layers_take_the_place_of_their_prompt(
    pipeline: TextToVideoPipeline,
) -> None:
    with torch.no_grad():
        other = tiny_image_pipeline().encode_prompt("a running dog", "cpu", 1, False)[0][:, :9]
    spatial, temporal = texts_read(pipeline, temporal_prompt_embeds=other)
    assert torch.equal(temporal[0][1:], other) and temporal[0].shape == (2, 9, TEXT_WIDTH)
    assert torch.equal(spatial[0], texts_read(pipeline)[0][0])


def test_a_video_is_the_same_alone_and_in_a_batch(motion: dict[str, Path]) -> None:
    pipeline = personal(motion["sd15"]).to(torch.float64)
    assert pipeline.temporal_text_encoder.dtype == torch.float64
    batch = run(pipeline, ["a red fox", "blue"], generator=[seeded(1), seeded(2)], negative_prompt="grey")
    alone = run(pipeline, "blue", generator=seeded(2), negative_prompt="grey")
    torch.testing.assert_close(batch[1], alone[0], rtol=0, atol=1e-6)


def test_without_guidance_there_is_no_negative_text(pipeline: TextToVideoPipeline) -> None:
    spatial, temporal = texts_read(pipeline, guidance_scale=1.0)
    guided = texts_read(pipeline)
    assert torch.equal(spatial[0], guided[0][0][1:]) and torch.equal(temporal[0], guided[1][0][1:])


def test_an_original_text_encoder_of_another_type_is_brought_to_that_of_the_model(motion: dict[str, Path]) -> None:
    pipeline = personal(motion["sd15"]).to(torch.float64)
    pipeline.temporal_text_encoder.to(torch.float32)
    assert texts_read(pipeline)[1][0].dtype == torch.float64


@pytest.mark.parametrize("loader", [TextToVideoPipeline, DiffusionPipeline])
def test_a_saved_personal_pipeline_is_the_same_when_loaded(
    loader: type, pipeline: TextToVideoPipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path / "personal")
    index = json.loads((tmp_path / "personal" / "model_index.json").read_text())
    assert index["temporal_text_encoder"] == ["transformers", "CLIPTextModel"]
    loaded = loader.from_pretrained(tmp_path / "personal")
    assert type(loaded) is TextToVideoPipeline
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(run(loaded), run(pipeline))


def test_a_pipeline_saved_before_there_was_a_second_text_is_loaded_without(tmp_path: Path) -> None:
    pipeline = tiny_text_to_video()
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    for name in ("temporal_text_encoder", "temporal_tokenizer"):
        assert index.pop(name) == [None, None]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    loaded = TextToVideoPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.temporal_text_encoder is None and torch.equal(run(loaded), run(pipeline))


def write_lora(folder: Path) -> Path:
    layers, pipeline = {}, tiny_image_pipeline()
    for name, targets in {"unet": ["to_q", "to_k", "ff.net.0.proj"], "text_encoder": ["q_proj"]}.items():
        module = getattr(pipeline, name)
        module.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights="gaussian"))
        state = get_peft_model_state_dict(module, adapter_name="default")
        state = {key: torch.randn(value.shape) for key, value in state.items()}
        layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(state)
    pipeline.save_lora_weights(folder, **layers)
    return folder


def test_a_lora_of_the_image_model_tunes_spatial_layers_and_their_text_only(
    motion: dict[str, Path], tmp_path: Path
) -> None:
    folder = write_lora(tmp_path)
    pipeline, image_pipeline = personal(motion["sd15"]), tuned_image_pipeline()
    before = texts_read(pipeline), run(pipeline)
    for pipe in (pipeline, image_pipeline):
        pipe.load_lora_weights(folder)
    adapted = {name for name, _ in pipeline.unet.named_parameters() if "lora_" in name}
    assert adapted and not any(map(is_temporal, adapted))
    assert not any("lora_" in name for name, _ in pipeline.temporal_text_encoder.named_parameters())
    after = texts_read(pipeline)
    assert torch.equal(after[1][0], before[0][1][0]) and not torch.equal(after[0][0], before[0][0][0])
    image = image_pipeline("a red fox", generator=seeded(), output_type="pt", **STEPS).images
    assert torch.equal(run(pipeline, num_frames=1, image_only=True)[:, 0], image)
    assert not torch.allclose(run(pipeline), before[1])


def test_a_textual_inversion_is_read_by_spatial_layers_and_spelt_for_temporal_ones(motion: dict[str, Path]) -> None:
    pipeline = personal(motion["sd15"])
    before = texts_read(pipeline, prompt="a <fox>")
    pipeline.load_textual_inversion({"<fox>": torch.randn(TEXT_WIDTH) * 3})
    after = texts_read(pipeline, prompt="a <fox>")
    assert torch.equal(after[1][0], before[1][0]) and not torch.equal(after[0][0], before[0][0])


@pytest.mark.parametrize("pipeline_class", [KeyFramePredictionPipeline, FrameInterpolationPipeline])
def test_prediction_and_interpolation_read_both_texts(
    pipeline_class: type, motion: dict[str, Path], pipeline: TextToVideoPipeline, tmp_path: Path
) -> None:
    want = texts_read(pipeline)
    pipeline = personal(motion["sd15"], pipeline_class=pipeline_class)
    assert pipeline.unet.config.context_channels is None  # the file's options, not those of the task
    pipeline.save_pretrained(tmp_path)
    pipeline = pipeline_class.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    frames = {"frames": torch.rand(2, 3, 16, 16), "guidance_scale": 5.0, "mechanism": "replacement"}
    spatial, temporal = texts_read(pipeline, **frames)
    assert torch.equal(spatial[0], want[0][0]) and torch.equal(temporal[0], want[1][0])
    assert run(pipeline, None, **{**frames, "guidance_scale": 1.0}).isfinite().all()
    embeds = {"temporal_prompt_embeds": EMBEDS, "negative_temporal_prompt_embeds": EMBEDS}
    assert not texts_read(pipeline, **frames, **embeds)[1][0].any()


def test_xl_takes_embeddings_of_the_original_text_encoders(motion: dict[str, Path]) -> None:
    pipeline, original = personal(motion["sdxl"], "sdxl"), tiny_text_to_video("sdxl", "videoldm")
    with torch.no_grad():
        embeds, negative, *_ = original.encode_prompt("a red fox", negative_prompt="grey")
    texts = {"temporal_prompt_embeds": embeds, "negative_temporal_prompt_embeds": negative}
    spatial, temporal = texts_read(pipeline, negative_prompt="grey", **texts)
    assert torch.equal(temporal[0], torch.cat([negative, embeds])) and not torch.equal(spatial[0], temporal[0])


BAD_PARTS = {
    "encoder without tokenizer": (
        lambda pipe: {"temporal_tokenizer": None},
        ValueError,
        "only `temporal_text_encoder`",
    ),
    "tokenizer without encoder": (
        lambda pipe: {"temporal_text_encoder": None},
        ValueError,
        "only `temporal_tokenizer`",
    ),
    "no text encoder": (
        lambda pipe: {"temporal_text_encoder": nn.Linear(1, 1)},
        TypeError,
        "`temporal_text_encoder` must be a CLIPTextModel, but is a Linear",
    ),
    "the tuned one": (
        lambda pipe: {"temporal_text_encoder": pipe.text_encoder},
        ValueError,
        "`temporal_text_encoder` has no effect where it is `text_encoder` itself",
    ),
    "temporal layers without text": (
        lambda pipe: {"unet": tiny_text_to_video().unet},
        ValueError,
        "`temporal_text_encoder` has no effect, because the temporal layers of this `unet` read no text",
    ),
    "another width": (
        lambda pipe: {"unet": UNetVideoConditionModel.from_unet2d(tiny_unet2d(cross_attention_dim=16), "videoldm")},
        ValueError,
        "must give embeddings of width 16, which `unet` reads, but its width is 12",
    ),
    "a model of XL": (
        lambda pipe: {"unet": tiny_text_to_video("sdxl", "videoldm").unet},
        ValueError,
        "cannot serve a Stable Diffusion XL model.*pass `temporal_prompt_embeds`",
    ),
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_a_text_encoder_that_does_not_fit_is_refused(name: str, pipeline: TextToVideoPipeline) -> None:
    changes, error, message = BAD_PARTS[name]
    with pytest.raises(error, match=message):
        TextToVideoPipeline(**{**pipeline.components, **changes(pipeline)})


BAD_MODELS = {
    "no file": (
        {"temporal_layers": "nowhere"},
        FileNotFoundError,
        "'nowhere/temporal_layers.safetensors' does not exist",
    ),
    "another preset": (
        {"preset": "light"},
        ValueError,
        "`preset` must be that of `temporal_layers`, but is 'light', .*'videoldm'",
    ),
    "other options": (
        {"temporal_options": {"temporal_attention": "causal"}},
        ValueError,
        "`temporal_attention` is full in the file and causal in the model",
    ),
    "another shape": (
        {"model": tiny_image_pipeline(unet=tiny_unet2d(cross_attention_dim=24))},
        ValueError,
        r"attn2.to_k.weight` is \(8, 12\) in the file and \(8, 24\) in the model",
    ),
    "another kind": ({"model": "sdxl"}, ValueError, "do not fit this model"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_temporal_layers_that_do_not_fit_are_refused(name: str, motion: dict[str, Path]) -> None:
    options, error, message = BAD_MODELS[name]
    options = {"model": tiny_image_pipeline(), "temporal_layers": motion["sd15"], **options}
    if options["model"] == "sdxl":
        options["model"] = tiny_image_pipeline("sdxl")
    with pytest.raises(error, match=message):
        TextToVideoPipeline.from_image_model(**options)


BAD_CALLS = {
    "negative embeddings without guidance": (
        {"negative_temporal_prompt_embeds": EMBEDS, "guidance_scale": 1.0},
        ValueError,
        "`negative_temporal_prompt_embeds` has no effect without guidance",
    ),
    "embeddings of another width": (
        {"temporal_prompt_embeds": torch.zeros(1, 5, 99)},
        ValueError,
        r"`temporal_prompt_embeds` must have shape \(1, any, 12\)",
    ),
    "embeddings of another number": (
        {"temporal_prompt_embeds": EMBEDS.repeat(2, 1, 1)},
        ValueError,
        r"`temporal_prompt_embeds` must have shape \(1, any, 12\), but has \(2,",
    ),
    "embeddings in a list": ({"temporal_prompt_embeds": [EMBEDS]}, TypeError, "`temporal_prompt_embeds`.*list"),
    "embeddings with a NaN": ({"temporal_prompt_embeds": EMBEDS / 0}, ValueError, "must hold finite"),
    "negative embeddings of another length": (
        {"temporal_prompt_embeds": EMBEDS, "negative_temporal_prompt_embeds": EMBEDS[:, :5]},
        ValueError,
        r"`negative_temporal_prompt_embeds` must have shape \(1, 77, 12\)",
    ),
    "negative embeddings of another length than the prompt": (
        {"negative_temporal_prompt_embeds": EMBEDS[:, :5]},
        ValueError,
        r"`negative_temporal_prompt_embeds` must have shape \(1, 77, 12\)",
    ),
    "embeddings of images": (
        {"temporal_prompt_embeds": EMBEDS, "image_only": True},
        ValueError,
        "`temporal_prompt_embeds` has no effect with `image_only`",
    ),
    "spatial embeddings alone": (
        {"prompt": None, "prompt_embeds": EMBEDS},
        ValueError,
        "`temporal_prompt_embeds` must be given with `prompt_embeds`",
    ),
    "negative spatial embeddings alone": (
        {"negative_prompt_embeds": EMBEDS},
        ValueError,
        "`negative_temporal_prompt_embeds` must be given with `negative_prompt_embeds`",
    ),
    "images of a number": ({"image_only": 1}, TypeError, "`image_only` must be a bool"),
}


def assert_refused(pipeline: DiffusionPipeline, case: tuple[dict, type[Exception], str]) -> None:
    arguments, error, message = case
    ran = []
    for component in pipeline.components.values():
        for module in component.modules() if isinstance(component, nn.Module) else ():
            module.register_forward_pre_hook(lambda module, _: ran.append(module))
    with pytest.raises(error, match=message) as caught:
        pipeline(**{"prompt": "a", "num_inference_steps": 2, **arguments})
    assert type(caught.value) is error and not ran


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_wrong_call_is_refused_before_any_model_runs(pipeline: TextToVideoPipeline, name: str) -> None:
    assert_refused(pipeline, BAD_CALLS[name])


@pytest.mark.parametrize("name", ["temporal_prompt_embeds", "negative_temporal_prompt_embeds"])
def test_one_embedding_alone_is_refused_without_text_encoder(name: str) -> None:
    pipeline = tiny_text_to_video(preset="videoldm")
    assert_refused(pipeline, ({name: EMBEDS}, ValueError, f"given together with guidance.*only `{name}` is"))


def test_embeddings_are_refused_where_temporal_layers_read_no_text() -> None:
    case = ({"temporal_prompt_embeds": EMBEDS}, ValueError, "`temporal_prompt_embeds` has no effect, because the temp")
    assert_refused(tiny_text_to_video(), case)


def test_a_tokenizer_with_more_tokens_than_its_encoder_is_refused(motion: dict[str, Path]) -> None:
    pipeline = personal(motion["sd15"])
    pipeline.temporal_tokenizer.add_tokens(["<fox>"])
    assert_refused(pipeline, ({}, ValueError, "`temporal_tokenizer` must have at most the 514 tokens"))


def test_clips_longer_and_larger_than_those_of_the_training(tmp_path: Path) -> None:
    pipeline = tiny_text_to_video()
    long = {"num_frames": 24, "height": 24, "width": 36, "guidance_scale": 1.0}
    short = {**long, "num_frames": 9}
    unlimited = run(pipeline, **long), run(pipeline, **short)
    pipeline.unet.set_temporal_max_distance()
    pipeline.save_pretrained(tmp_path)
    pipeline = TextToVideoPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    limited = run(pipeline, **long), run(pipeline, **short)
    assert limited[0].shape == (1, 24, 3, 24, 36) and limited[0].isfinite().all()
    assert not torch.allclose(limited[0], unlimited[0])
    assert torch.equal(limited[1], unlimited[1])
