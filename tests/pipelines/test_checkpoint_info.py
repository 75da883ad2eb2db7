"""What checkpoints are, read from configurations and headers."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from diffusers_video import UNetVideoConditionModel
from diffusers_video.models.unet_video_condition import PRESETS
from diffusers_video.pipelines import checkpoint_info as kinds
from diffusers_video.pipelines.checkpoint_info import check_pipeline_folder, describe_checkpoint, matching_preset
from diffusers_video.pipelines.checkpoint_tensors import read_folder_table, read_tensor_table

from ..tiny_models import tiny_unet2d
from ..tiny_pipelines import tiny_image_pipeline, tiny_text_to_video


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of every kind, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    pipeline = tiny_text_to_video(preset="videoldm")
    pipeline.save_pretrained(folder / "video")
    tiny_image_pipeline("sdxl").save_pretrained(folder / "image")
    pipeline.unet.save_temporal_layers(folder / "temporal")
    parts = (
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.a.weight",
        "cond_stage_model.b.weight",
    )
    tensors = {name: torch.zeros(index + 1, 4, 3, 3) for index, name in enumerate(parts)}
    save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / "whole.safetensors")
    torch.save({"state_dict": tensors}, folder / "whole.ckpt")
    lora = {"unet.a.lora_A.weight": torch.zeros(4, 12), "unet.a.lora_B.weight": torch.zeros(12, 4)}
    save_file(lora, folder / "lora.safetensors")
    save_file({"something": torch.zeros(2)}, folder / "unknown.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("video", kinds.VIDEO_PIPELINE),
        ("image", kinds.IMAGE_PIPELINE),
        ("video/unet", kinds.VIDEO_UNET),
        ("image/unet", kinds.IMAGE_UNET),
        ("video/unet/diffusion_pytorch_model.safetensors", kinds.VIDEO_UNET),
        ("image/unet/diffusion_pytorch_model.safetensors", kinds.IMAGE_UNET),
        ("video/vae", kinds.OTHER_MODEL),
        ("video/text_encoder", kinds.OTHER_MODEL),
        ("temporal", kinds.TEMPORAL_LAYERS),
        ("temporal/temporal_layers.safetensors", kinds.TEMPORAL_LAYERS),
        ("whole.safetensors", kinds.IMAGE_FILE),
        ("whole.ckpt", kinds.IMAGE_FILE),
        ("lora.safetensors", kinds.LORA),
    ],
)
def test_each_kind_is_told(name: str, kind: str, checkpoints: Path) -> None:
    assert describe_checkpoint(checkpoints / name).kind == kind


def test_parameters_are_those_of_the_loaded_models(checkpoints: Path) -> None:
    info = describe_checkpoint(checkpoints / "video")
    unet = UNetVideoConditionModel.from_pretrained(checkpoints / "video" / "unet")
    vae = AutoencoderKL.from_pretrained(checkpoints / "video" / "vae")
    for name, model in (("unet", unet), ("vae", vae)):
        assert info.component(name).num_parameters == sum(weight.numel() for weight in model.parameters())
    temporal = sum(weight.numel() for weight in unet.temporal_parameters())
    assert info.component("unet").num_temporal_parameters == temporal
    assert describe_checkpoint(checkpoints / "temporal").num_parameters == temporal
    assert describe_checkpoint(checkpoints / "image").component("unet").num_temporal_parameters == 0


def test_options_that_sampling_depends_on_are_shown(checkpoints: Path) -> None:
    info = describe_checkpoint(checkpoints / "video")
    want = {"num_frames": 3, "fps": 4.0, "preset": "videoldm", "prediction_type": "epsilon", "sample_size": 8}
    assert {name: info.options[name] for name in want} == want
    assert describe_checkpoint(checkpoints / "temporal").options["preset"] == "videoldm"
    assert describe_checkpoint(checkpoints / "lora.safetensors").options == {"rank": [4]}


def test_sizes_and_types_are_those_of_the_files(checkpoints: Path) -> None:
    info = describe_checkpoint(checkpoints / "whole.safetensors")
    assert info.bytes_on_disk == (checkpoints / "whole.safetensors").stat().st_size
    assert [(part.name, part.num_parameters) for part in info.components] == [
        ("unet", 36),
        ("vae", 72),
        ("text_encoder", 108),
    ]
    assert info.component("unet").dtypes == {"float16": 36}
    assert describe_checkpoint(checkpoints / "whole.ckpt").component("unet").dtypes == {"float32": 36}


@pytest.mark.parametrize(
    ("options", "preset"),
    [
        ({}, "videoldm"),
        ({"temporal_attention": "causal"}, None),
        ({"added_time_ids": ("fps",)}, "videoldm"),
        ({**PRESETS["magicvideo"], "frame_adaptor": 5}, "magicvideo"),
    ],
)
def test_the_preset_is_recognised_by_its_options(options: dict[str, object], preset: str | None) -> None:
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), preset="videoldm", **options)
    assert matching_preset(unet.config) == preset


def test_shards_count_together_and_a_missing_one_is_named(tmp_path: Path) -> None:
    unet = tiny_text_to_video().unet
    unet.save_pretrained(tmp_path, max_shard_size="200KB")
    table = read_folder_table(tmp_path)
    assert len(table.files) > 1 and table.count_parameters() == sum(weight.numel() for weight in unet.parameters())
    table.files[-1].unlink()
    with pytest.raises(FileNotFoundError, match=table.files[-1].name):
        describe_checkpoint(tmp_path)


def test_of_several_variants_the_plain_one_is_counted_once(tmp_path: Path) -> None:
    unet = tiny_text_to_video().unet
    unet.save_pretrained(tmp_path, variant="fp16")
    assert read_folder_table(tmp_path).files[0].name == "diffusion_pytorch_model.fp16.safetensors"
    unet.save_pretrained(tmp_path)
    assert read_folder_table(tmp_path).files[0].name == "diffusion_pytorch_model.safetensors"


def test_tables_of_positions_are_no_parameters(tmp_path: Path) -> None:
    save_file(
        {"weight": torch.zeros(3), "position_ids": torch.zeros(9, dtype=torch.int64)}, tmp_path / "a.safetensors"
    )
    assert read_tensor_table(tmp_path / "a.safetensors").count_parameters() == 3


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere", FileNotFoundError, "'.*nowhere' does not exist"),
        ("unknown.safetensors", ValueError, "belong to none"),
        ("note.txt", ValueError, "must be a weight file"),
        ("torn.safetensors", ValueError, "must be a whole safetensors file"),
        ("torn.ckpt", ValueError, "must be a PyTorch file that holds tensors only"),
        ("code.pt", ValueError, "must be a PyTorch file that holds tensors only"),
        ("empty", ValueError, "has neither model_index.json"),
        ("not-json", ValueError, "must be valid JSON"),
        ("list", ValueError, "must hold a JSON object"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    name: str, error: type[Exception], message: str, checkpoints: Path, tmp_path: Path
) -> None:
    whole = (checkpoints / "whole.safetensors").read_bytes()
    (tmp_path / "unknown.safetensors").write_bytes((checkpoints / "unknown.safetensors").read_bytes())
    (tmp_path / "torn.safetensors").write_bytes(whole[:-1])
    (tmp_path / "torn.ckpt").write_bytes((checkpoints / "whole.ckpt").read_bytes()[:-50])
    torch.save({"a": Path("x")}, tmp_path / "code.pt")
    (tmp_path / "note.txt").write_text("no weights")
    for folder, text in (("empty", None), ("not-json", "{"), ("list", json.dumps([]))):
        (tmp_path / folder).mkdir()
        if text is not None:
            (tmp_path / folder / "config.json").write_text(text)
    with pytest.raises(error, match=message):
        describe_checkpoint(tmp_path / name)


def test_only_a_video_pipeline_passes_as_one(checkpoints: Path) -> None:
    assert check_pipeline_folder(checkpoints / "video").kind == kinds.VIDEO_PIPELINE
    with pytest.raises(ValueError, match="must hold a video pipeline, but .* StableDiffusionXLPipeline"):
        check_pipeline_folder(checkpoints / "image")
