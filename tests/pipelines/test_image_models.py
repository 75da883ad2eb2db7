"""Video pipelines from image models: loaded pipelines, folders and single files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from diffusers_video import TextToVideoPipeline, UNetVideoConditionModel

from ..tiny_models import tiny_unet2d
from ..tiny_pipelines import TEXT_WIDTH, tiny_image_pipeline, tiny_text_to_video


STEPS = {"num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "np"}


def frame_of(pipeline: TextToVideoPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a", num_frames=1, generator=torch.Generator().manual_seed(0), **STEPS).frames[:, 0]


def image_of(pipeline: DiffusionPipeline) -> np.ndarray:
    return pipeline("a", generator=torch.Generator().manual_seed(0), **STEPS).images


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_a_folder_of_an_image_model_becomes_its_video_model(family: str, tmp_path: Path) -> None:
    image_pipeline = tiny_image_pipeline(family)
    image_pipeline.save_pretrained(tmp_path)
    pipeline = TextToVideoPipeline.from_image_model(tmp_path, "light", num_frames=5, fps=3, dtype=torch.float32)
    np.testing.assert_array_equal(frame_of(pipeline), image_of(image_pipeline))
    assert (pipeline.config.num_frames, pipeline.config.fps) == (5, 3)
    assert not pipeline.unet.config.temporal_cross_attention and pipeline.base_model is None


def test_the_type_of_numbers_asked_for_is_that_of_every_model(tmp_path: Path) -> None:
    tiny_image_pipeline().save_pretrained(tmp_path)
    pipeline = TextToVideoPipeline.from_image_model(str(tmp_path), dtype=torch.bfloat16)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.bfloat16}


def test_a_loaded_pipeline_shares_its_parts_but_the_u_net_and_the_scheduler() -> None:
    image_pipeline = tiny_image_pipeline()
    pipeline = TextToVideoPipeline.from_image_model(image_pipeline, temporal_options={"temporal_attention": "causal"})
    assert pipeline.vae is image_pipeline.vae and pipeline.text_encoder is image_pipeline.text_encoder
    assert pipeline.scheduler is not image_pipeline.scheduler
    assert pipeline.scheduler.config == image_pipeline.scheduler.config
    assert type(image_pipeline.unet) is UNet2DConditionModel
    assert pipeline.unet.config.temporal_attention == "causal"


@pytest.mark.parametrize("pipeline_class", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_other_pipelines_of_a_text_to_image_model_do_as_well(pipeline_class: type) -> None:
    image_pipeline = tiny_image_pipeline()
    other = pipeline_class(**image_pipeline.components, requires_safety_checker=False)
    pipeline = TextToVideoPipeline.from_image_model(other)
    np.testing.assert_array_equal(frame_of(pipeline), image_of(image_pipeline))


def write_original_checkpoint(pipeline: DiffusionPipeline, path: Path) -> Path:
    """Write a Stable Diffusion 1.5 in one file, under the names of the original code (two levels, one layer each)."""
    resnet = (("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"))
    resnet += (("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"))
    places = {
        r"conv_in": "input_blocks.0.0",
        r"time_embedding\.linear_1": "time_embed.0",
        r"time_embedding\.linear_2": "time_embed.2",
        r"down_blocks\.0\.resnets\.0": "input_blocks.1.0",
        r"down_blocks\.0\.attentions\.0": "input_blocks.1.1",
        r"down_blocks\.0\.downsamplers\.0\.conv": "input_blocks.2.0.op",
        r"down_blocks\.1\.resnets\.0": "input_blocks.3.0",
        r"mid_block\.resnets\.0": "middle_block.0",
        r"mid_block\.attentions\.0": "middle_block.1",
        r"mid_block\.resnets\.1": "middle_block.2",
        r"up_blocks\.0\.resnets\.0": "output_blocks.0.0",
        r"up_blocks\.0\.resnets\.1": "output_blocks.1.0",
        r"up_blocks\.0\.upsamplers\.0\.conv": "output_blocks.1.1.conv",
        r"up_blocks\.1\.resnets\.0": "output_blocks.2.0",
        r"up_blocks\.1\.attentions\.0": "output_blocks.2.1",
        r"up_blocks\.1\.resnets\.1": "output_blocks.3.0",
        r"up_blocks\.1\.attentions\.1": "output_blocks.3.1",
        r"conv_norm_out": "out.0",
        r"conv_out": "out.2",
    }
    weights = {}
    for name, value in pipeline.unet.state_dict().items():
        place = next(place for place in places if re.match(rf"{place}\.", name))
        rest = re.sub(rf"^{place}", "", name)
        if "resnets" in place:
            for ours, original in resnet:
                rest = rest.replace(f".{ours}.", f".{original}.")
        weights[f"model.diffusion_model.{places[place]}{rest}"] = value
    attention = (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))
    for name, value in pipeline.vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            for ours, original in attention:
                name = name.replace(f".{ours}.", f".{original}.")
            value = value[:, :, None, None] if value.ndim == 2 else value
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        weights[f"first_stage_model.{name}"] = value
    for name, value in pipeline.text_encoder.state_dict().items():
        weights[f"cond_stage_model.transformer.text_model.{name}"] = value
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path


@pytest.mark.parametrize("constructor", ["from_image_model", "from_single_file"])
def test_a_single_file_of_an_image_model_becomes_its_video_model(constructor: str, tmp_path: Path) -> None:
    image_pipeline = tiny_image_pipeline()
    image_pipeline.save_pretrained(tmp_path / "folder")  # for the sizes, which the file does not hold
    path = write_original_checkpoint(image_pipeline, tmp_path / "model.safetensors")
    pipeline = getattr(TextToVideoPipeline, constructor)(path, preset="light", config=str(tmp_path / "folder"))
    np.testing.assert_allclose(frame_of(pipeline), image_of(image_pipeline), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("./nowhere", FileNotFoundError, "'./nowhere' does not exist"),
        ("/no/such/folder", FileNotFoundError, "'/no/such/folder' does not exist"),
        ("model.safetensors", FileNotFoundError, "'model.safetensors' does not exist"),
        ("some/model.ckpt", FileNotFoundError, "'some/model.ckpt' does not exist"),
        (3, TypeError, "`model` must be a Hub id, a folder, a file or an image pipeline, but is int"),
        (None, TypeError, "but is NoneType"),
        (tiny_unet2d(), TypeError, "but is UNet2DConditionModel. A single U-Net is made .* `UNetVideo.*from_unet2d`"),
    ],
)
def test_what_is_no_image_model_is_refused(name: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TextToVideoPipeline.from_image_model(name)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preset": "big"}, ValueError, r"`preset` must be one of \['light', 'magicvideo', 'videoldm'\]"),
        ({"num_frames": 0}, ValueError, "`num_frames`"),
        ({"fps": -1}, ValueError, "`fps`"),
        ({"temporal_options": {"depth": 3}}, TypeError, "`depth` is no option"),
        ({"dtype": torch.float16}, TypeError, "`dtype` says how to load a model"),
    ],
)
def test_wrong_options_are_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TextToVideoPipeline.from_image_model(tiny_image_pipeline(), **options)


def test_a_folder_without_pipeline_is_refused(tmp_path: Path) -> None:
    tiny_unet2d().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no model_index.json.*from_unet2d"):
        TextToVideoPipeline.from_image_model(tmp_path)


def test_a_video_model_is_refused_as_image_model(tmp_path: Path) -> None:
    pipeline = tiny_text_to_video()
    with pytest.raises(ValueError, match="this TextToVideoPipeline is a video model already.*`from_pretrained`"):
        TextToVideoPipeline.from_image_model(pipeline)
    pipeline.save_pretrained(tmp_path / "video")
    with pytest.raises(ValueError, match="this TextToVideoPipeline is a video model already"):
        TextToVideoPipeline.from_image_model(tmp_path / "video")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}, "no U-Net"),
        ({"_class_name": "AnimateDiffPipeline", "unet": ["diffusers", "UNetMotionModel"]}, "UNetMotionModel"),
        ({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}, "UNet2DModel"),
    ],
)
def test_a_folder_of_another_kind_of_model_is_refused_before_it_is_loaded(
    index: dict, message: str, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"this {index['_class_name']} has {message}"):
        TextToVideoPipeline.from_image_model(tmp_path)


def test_a_loaded_pipeline_of_another_kind_is_refused() -> None:
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    with pytest.raises(ValueError, match="this DDPMPipeline has UNet2DModel"):
        TextToVideoPipeline.from_image_model(DDPMPipeline(unet, DDIMScheduler()))


def test_a_pipeline_that_lacks_a_part_is_refused_naming_it() -> None:
    image_pipeline = tiny_image_pipeline()
    image_pipeline.vae = None
    with pytest.raises(ValueError, match="`model` must have a vae"):
        TextToVideoPipeline.from_image_model(image_pipeline)


def test_a_model_that_carries_adapters_is_refused() -> None:
    image_pipeline = tiny_image_pipeline()
    image_pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(ValueError, match="must not carry LoRA layers"):
        TextToVideoPipeline.from_image_model(image_pipeline)


def test_a_folder_of_an_image_model_is_refused_as_video_pipeline(tmp_path: Path) -> None:
    tiny_image_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`unet` must be a UNetVideoConditionModel, but is a UNet2DConditionModel"):
        TextToVideoPipeline.from_pretrained(tmp_path)


def test_an_image_pipeline_is_refused_by_from_pipe_naming_the_way() -> None:
    with pytest.raises(ValueError, match="from_image_model"):
        TextToVideoPipeline.from_pipe(tiny_image_pipeline())


def test_an_image_pipeline_and_a_video_u_net_make_a_pipeline() -> None:
    image_pipeline = tiny_image_pipeline()
    unet = UNetVideoConditionModel.from_unet2d(image_pipeline.unet)
    pipeline = TextToVideoPipeline.from_pipe(image_pipeline, unet=unet)
    np.testing.assert_array_equal(frame_of(pipeline), image_of(image_pipeline))


@pytest.mark.parametrize("bytes_kept", [4, 200, -100])
def test_a_truncated_file_is_refused_naming_it(bytes_kept: int, tmp_path: Path) -> None:
    tiny_text_to_video().save_pretrained(tmp_path / "video")
    weights = tmp_path / "video" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:bytes_kept])
    with pytest.raises(Exception, match="diffusion_pytorch_model.safetensors") as caught:
        TextToVideoPipeline.from_pretrained(tmp_path / "video")
    assert isinstance(caught.value, (OSError, ValueError))


@pytest.mark.parametrize("bytes_kept", [4, 200, -100])
def test_a_truncated_single_file_is_refused_naming_it(bytes_kept: int, tmp_path: Path) -> None:
    path = write_original_checkpoint(tiny_image_pipeline(), tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:bytes_kept])
    with pytest.raises(OSError, match="model.safetensors"):
        TextToVideoPipeline.from_image_model(path)


def test_a_single_file_that_is_no_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    save_file(tiny_unet2d().state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match="must be a whole Stable Diffusion checkpoint"):
        TextToVideoPipeline.from_image_model(tmp_path / "unet.safetensors")


def test_a_single_file_of_an_upscaler_is_refused_by_kind(tmp_path: Path) -> None:
    weights = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 7, 3, 3),
        "model.diffusion_model.input_blocks.10.0.skip_connection.bias": torch.zeros(8),
    }
    save_file(weights, tmp_path / "upscaler.safetensors")
    with pytest.raises(ValueError, match="is of kind 'upscale'"):
        TextToVideoPipeline.from_image_model(tmp_path / "upscaler.safetensors")


def test_a_missing_weight_file_is_refused_naming_it(tmp_path: Path) -> None:
    tiny_text_to_video().save_pretrained(tmp_path / "video")
    (tmp_path / "video" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match="diffusion_pytorch_model"):
        TextToVideoPipeline.from_pretrained(tmp_path / "video")


def test_an_inpainting_model_is_taken_over_and_refused_when_called() -> None:
    unet = tiny_unet2d("inpainting", cross_attention_dim=TEXT_WIDTH)
    pipeline = TextToVideoPipeline.from_image_model(tiny_image_pipeline(unet=unet))
    with pytest.raises(ValueError, match="takes 9 channels"):
        frame_of(pipeline)


def test_weights_of_the_saved_u_net_are_those_of_the_pipeline(tmp_path: Path) -> None:
    pipeline = tiny_text_to_video()
    pipeline.save_pretrained(tmp_path / "video")
    saved = load_file(tmp_path / "video" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in pipeline.unet.state_dict().items())
