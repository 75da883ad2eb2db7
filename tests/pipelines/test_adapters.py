"""Adapters of the image model on the video model: LoRA, textual inversion, IP-Adapter, ControlNet."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from diffusers_video import TextToVideoPipeline

from ..tiny_pipelines import (
    SIZE,
    TEXT_WIDTH,
    tiny_controlnet,
    tiny_feature_extractor,
    tiny_image_encoder,
    tiny_image_pipeline,
    tiny_text_to_video,
)


STEPS = {"num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "np"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_of(pipeline: DiffusionPipeline, **arguments) -> np.ndarray:
    return pipeline("a red fox", generator=seeded(), **{**STEPS, **arguments}).images


def first_frame_of(pipeline: TextToVideoPipeline, **arguments) -> np.ndarray:
    return pipeline("a red fox", generator=seeded(), num_frames=1, **{**STEPS, **arguments}).frames[:, 0]


def new_pair(family: str, **components) -> tuple[DiffusionPipeline, TextToVideoPipeline]:
    image_pipeline = tiny_image_pipeline(family, **components)
    other = tiny_image_pipeline(family, **components)  # so that adapters do not meet on one text encoder
    video_pipeline = TextToVideoPipeline.from_image_model(other)
    video_pipeline.set_progress_bar_config(disable=True)
    return image_pipeline, video_pipeline


def write_lora(folder: Path, family: str) -> Path:
    pipeline = tiny_image_pipeline(family)
    layers = {}
    targets = {"unet": ["to_q", "to_v", "ff.net.0.proj"], "text_encoder": ["q_proj"], "text_encoder_2": ["v_proj"]}
    for name, modules in targets.items():
        module = getattr(pipeline, name, None)
        if module is None:
            continue
        module.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=modules, init_lora_weights="gaussian"))
        state = get_peft_model_state_dict(module, adapter_name="default")
        state = {key: torch.randn(value.shape) for key, value in state.items()}
        layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(state)
    pipeline.save_lora_weights(folder, **layers)
    return folder


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_an_image_lora_does_as_on_the_image_pipeline(family: str, scale: float | None, tmp_path: Path) -> None:
    folder = write_lora(tmp_path, family)
    image_pipeline, video_pipeline = new_pair(family)
    plain = first_frame_of(video_pipeline)
    for pipe in (image_pipeline, video_pipeline):
        pipe.load_lora_weights(folder, adapter_name="style")
    assert set(video_pipeline.get_list_adapters()) >= {"unet", "text_encoder"}
    arguments = {} if scale is None else {"cross_attention_kwargs": {"scale": scale}}
    frame = first_frame_of(video_pipeline, **arguments)
    np.testing.assert_array_equal(frame, image_of(image_pipeline, **arguments))
    assert np.abs(frame - plain).max() > 1e-3
    video_pipeline.unload_lora_weights()
    np.testing.assert_allclose(first_frame_of(video_pipeline), plain, atol=1e-5)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_fused_lora_does_as_a_loaded_one(family: str, tmp_path: Path) -> None:
    _, pipeline = new_pair(family)
    pipeline.load_lora_weights(write_lora(tmp_path, family), adapter_name="style")
    loaded = first_frame_of(pipeline)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    np.testing.assert_allclose(first_frame_of(pipeline), loaded, atol=1e-4)


def test_lora_layers_of_an_image_model_change_no_temporal_layer(tmp_path: Path) -> None:
    pipeline = tiny_text_to_video()
    pipeline.load_lora_weights(write_lora(tmp_path, "sd15"))
    adapted = {name for name, _ in pipeline.unet.named_parameters() if "lora_" in name}
    assert adapted and not any("temporal" in name or "time_" in name for name in adapted)


def test_two_adapters_are_mixed_by_their_weights(tmp_path: Path) -> None:
    image_pipeline, video_pipeline = new_pair("sd15")
    for name in ("one", "two"):
        folder = write_lora(tmp_path / name, "sd15")
        for pipe in (image_pipeline, video_pipeline):
            pipe.load_lora_weights(folder, adapter_name=name)
    for pipe in (image_pipeline, video_pipeline):
        pipe.set_adapters(["one", "two"], [0.7, 0.2])
    np.testing.assert_array_equal(first_frame_of(video_pipeline), image_of(image_pipeline))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_textual_inversion_does_as_on_the_image_pipeline(family: str) -> None:
    token = {"<fox>": torch.randn(TEXT_WIDTH) * 3}
    pair = new_pair(family)
    for pipe in pair:
        parts = {}
        if family == "sdxl":
            parts = {"text_encoder": pipe.text_encoder_2, "tokenizer": pipe.tokenizer_2}
            pipe.load_textual_inversion(token, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
        pipe.load_textual_inversion(token, **parts)
    image = pair[0]("a <fox>", generator=seeded(), **STEPS).images
    frame = pair[1]("a <fox>", generator=seeded(), num_frames=1, **STEPS).frames[:, 0]
    np.testing.assert_array_equal(frame, image)
    assert np.abs(frame - first_frame_of(pair[1])).max() > 1e-4


def write_ip_adapter(folder: Path, pipeline: DiffusionPipeline) -> Path:
    """An adapter of 4 image tokens; its attention weights are numbered as in the image model."""
    width = pipeline.unet.config.cross_attention_dim
    weights = {
        "image_proj.proj.weight": torch.randn(4 * width, 16) * 0.5,
        "image_proj.proj.bias": torch.zeros(4 * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    number = 1
    for name, module in pipeline.unet.named_modules():
        if name.endswith("attn2"):
            for part in ("to_k_ip", "to_v_ip"):
                weights[f"ip_adapter.{number}.{part}.weight"] = torch.randn(module.inner_dim, width)
            number += 2
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "ip.safetensors")
    return folder


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_an_ip_adapter_does_as_on_the_image_pipeline(family: str, tmp_path: Path) -> None:
    parts = {"image_encoder": tiny_image_encoder(), "feature_extractor": tiny_feature_extractor()}
    image_pipeline, video_pipeline = new_pair(family, **parts)
    plain = first_frame_of(video_pipeline)
    folder = write_ip_adapter(tmp_path / "adapter", image_pipeline)
    picture = Image.fromarray(np.random.randint(0, 256, (20, 24, 3), dtype=np.uint8))
    for pipe in (image_pipeline, video_pipeline):
        pipe.load_ip_adapter(str(folder), subfolder="", weight_name="ip.safetensors", image_encoder_folder=None)
        pipe.set_ip_adapter_scale(0.7)
    frame = first_frame_of(video_pipeline, ip_adapter_image=picture)
    np.testing.assert_array_equal(frame, image_of(image_pipeline, ip_adapter_image=picture))
    assert np.abs(frame - plain).max() > 1e-3
    video_pipeline.unload_ip_adapter()
    np.testing.assert_array_equal(first_frame_of(video_pipeline), plain)


def test_embeddings_of_a_picture_do_as_the_picture(tmp_path: Path) -> None:
    pipeline = tiny_text_to_video()
    pipeline.register_modules(image_encoder=tiny_image_encoder(), feature_extractor=tiny_feature_extractor())
    folder = write_ip_adapter(tmp_path / "adapter", tiny_image_pipeline())
    pipeline.load_ip_adapter(str(folder), subfolder="", weight_name="ip.safetensors", image_encoder_folder=None)
    picture = Image.fromarray(np.random.randint(0, 256, (16, 16, 3), dtype=np.uint8))
    arguments = {"num_videos_per_prompt": 2, **STEPS}
    want = pipeline("a", generator=seeded(), ip_adapter_image=picture, **arguments).frames
    with torch.no_grad():
        embeds = pipeline.prepare_ip_adapter_image_embeds(picture, None, "cpu", 1, True)
    got = pipeline("a", generator=seeded(), ip_adapter_image_embeds=embeds, **arguments).frames
    np.testing.assert_array_equal(got, want)


def test_a_picture_stays_when_a_callback_ends_guidance(tmp_path: Path) -> None:
    pipeline = tiny_text_to_video()
    pipeline.register_modules(image_encoder=tiny_image_encoder(), feature_extractor=tiny_feature_extractor())
    folder = write_ip_adapter(tmp_path / "adapter", tiny_image_pipeline())
    pipeline.load_ip_adapter(str(folder), subfolder="", weight_name="ip.safetensors", image_encoder_folder=None)
    rows = []
    pipeline.unet.encoder_hid_proj.register_forward_pre_hook(lambda _, arguments: rows.append(arguments[0][0].clone()))
    callback = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    picture = Image.fromarray(np.random.randint(0, 256, (16, 16, 3), dtype=np.uint8))
    pipeline("a", ip_adapter_image=picture, callback_on_step_end=callback, **STEPS)
    assert torch.equal(rows[1], rows[0][1:]) and rows[1].any()


def control_frames(num_frames: int, size: int = SIZE) -> list[Image.Image]:
    return [Image.fromarray(np.random.randint(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(num_frames)]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("guess_mode", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_controlnets_do_as_in_the_image_pipeline(family: str, guess_mode: bool, count: int) -> None:
    base = tiny_image_pipeline(family)
    nets = [tiny_controlnet(base.unet, seed) for seed in range(count)]
    controlnet = nets if count > 1 else nets[0]
    if isinstance(base, StableDiffusionXLPipeline):
        image_pipeline = StableDiffusionXLControlNetPipeline(
            **base.components, controlnet=controlnet, add_watermarker=False
        )
    else:
        image_pipeline = StableDiffusionControlNetPipeline(
            **base.components, controlnet=controlnet, requires_safety_checker=False
        )
    image_pipeline.set_progress_bar_config(disable=True)
    video_pipeline = TextToVideoPipeline.from_image_model(image_pipeline)
    video_pipeline.set_progress_bar_config(disable=True)
    frames = [control_frames(1) for _ in range(count)]
    numbers = {
        "controlnet_conditioning_scale": [0.8, 0.5] if count > 1 else 0.8,
        "control_guidance_start": 0.25,
        "control_guidance_end": [1.0, 0.75] if count > 1 else 1.0,
        "num_inference_steps": 4,
        "guess_mode": guess_mode,
    }
    images = [one[0] for one in frames]
    want = image_of(image_pipeline, image=images if count > 1 else images[0], **numbers)
    got = first_frame_of(video_pipeline, conditioning_frames=frames if count > 1 else frames[0], **numbers)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(got - first_frame_of(video_pipeline, num_inference_steps=4)).max() > 1e-3


def test_every_frame_is_controlled_by_its_own_control_frame() -> None:
    base = tiny_image_pipeline()
    pipeline = TextToVideoPipeline.from_image_model(base, num_frames=3)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.register_modules(controlnet=tiny_controlnet(base.unet))
    frames = control_frames(3)
    noise = torch.randn(1, 4, 1, 8, 8).repeat(1, 1, 3, 1, 1)
    video = pipeline("a", conditioning_frames=frames, latents=noise, **STEPS).frames[0]
    for index in range(3):
        alone = pipeline("a", conditioning_frames=frames[index : index + 1], latents=noise[:, :, :1], **STEPS).frames
        np.testing.assert_allclose(video[index], alone[0, 0], atol=1e-5)
    assert np.abs(video[0] - video[1]).max() > 1e-4


def test_control_frames_are_repeated_for_the_videos_of_a_prompt_and_resized() -> None:
    pipeline = tiny_text_to_video(dtype=torch.float64)
    pipeline.register_modules(controlnet=tiny_controlnet(tiny_image_pipeline().unet).double())
    frames = [control_frames(3, size=20), control_frames(3, size=20)]
    generators = [seeded(index) for index in range(4)]
    arguments = {**STEPS, "num_videos_per_prompt": 2, "generator": generators}
    batch = pipeline(["a", "b"], conditioning_frames=frames, **arguments).frames
    alone = pipeline("b", conditioning_frames=frames[1], generator=seeded(2), **STEPS).frames
    np.testing.assert_allclose(batch[2], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_a_pipeline_with_controlnets_is_saved_and_loaded(count: int, tmp_path: Path) -> None:
    base = tiny_image_pipeline()
    nets = [tiny_controlnet(base.unet, seed) for seed in range(count)]
    parts = tiny_text_to_video().components
    pipeline = TextToVideoPipeline(**{**parts, "controlnet": nets if count > 1 else nets[0]}, num_frames=2)
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = TextToVideoPipeline.from_pretrained(tmp_path / "saved")
    frames = [control_frames(2) for _ in range(count)]
    arguments = {**STEPS, "conditioning_frames": frames if count > 1 else frames[0]}
    results = []
    for pipe in (pipeline, loaded):
        pipe.set_progress_bar_config(disable=True)
        results.append(pipe("a", generator=seeded(), **arguments).frames)
    np.testing.assert_array_equal(*results)
