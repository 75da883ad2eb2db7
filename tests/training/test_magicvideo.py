"""MagicVideo's preset through the scripts: any text, clips and images together, and all stages behind each other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from diffusers_video import FrameInterpolationPipeline, TextToVideoPipeline, VideoSuperResolutionPipeline, write_video
from diffusers_video.training.clip_loss import ClipLoss
from diffusers_video.training.models import load_pipeline
from diffusers_video.training.training_data import load_clips

from ..tiny_pipelines import tiny_image_pipeline
from ..tiny_upscalers import tiny_upscaler
from .tiny_runs import ModelFolder, read_log, tiny_config, train


MAGIC = {"preset": "magicvideo", "fps_conditioning": True}


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two videos, one with a caption and one without."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(("told", "untold")):
        frames = np.random.default_rng(seed).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
        write_video(frames, folder / f"{name}.mp4", fps=8)
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "told.mp4", "text": "snow"}\n{"file_name": "untold.mp4", "text": ""}\n'
    )
    return str(folder)


def test_clips_with_and_without_captions_and_images_train_together(
    plain_folder: str, image_model: ModelFolder, tmp_path: Path
) -> None:
    joint = {"train": "all", "image_probability": 0.5, "train_batch_size": 2, "train_data_dir": plain_folder}
    out = train(image_model("sd15"), tmp_path, **MAGIC, **joint)
    pipeline = DiffusionPipeline.from_pretrained(out)
    config = pipeline.unet.config
    assert (config.frame_adaptor, config.temporal_attention, config.mixing) == (3, "causal", "residual")
    assert pipeline.unet.preset_of(config) == "magicvideo" and tuple(config.added_time_ids) == ("fps",)
    pipeline.set_progress_bar_config(disable=True)
    videos = [
        pipeline("", num_inference_steps=1, output_type="pt", num_frames=5, generator=torch.manual_seed(0)).frames
        for _ in range(2)
    ]
    assert videos[0].shape[1] == 5 and torch.equal(*videos)


def test_a_clip_without_a_caption_is_trained_with_the_empty_text(plain_folder: str, image_model: ModelFolder) -> None:
    settings = tiny_config(image_model("sd15"), "unused", **MAGIC, train_data_dir=plain_folder, caption_dropout=0.0)
    dataset = load_clips(settings)[0]
    clips = [dataset[index] for index in range(len(dataset))]
    assert {clip["text"] for clip in clips} == {"snow", ""}
    clip_loss = ClipLoss.build(load_pipeline(settings, 3, 8.0), settings)
    pixels = {"pixel_values": torch.zeros(2, 3, 3, 16, 16), "fps": torch.tensor([8.0, 8.0])}
    _, conditions = clip_loss.encode({**pixels, "text": ["snow", ""]})
    told, untold = conditions["encoder_hidden_states"]
    torch.testing.assert_close(untold, clip_loss.empty["prompt_embeds"][0])
    assert not torch.isclose(told, untold).all()


def test_sixteen_key_frames_are_interpolated_and_enlarged() -> None:
    quiet = {"num_inference_steps": 1, "output_type": "pt"}
    keys = TextToVideoPipeline.from_image_model(
        tiny_image_pipeline(), "magicvideo", temporal_options={"added_time_ids": ("fps",)}, fps=2.0
    )
    between = FrameInterpolationPipeline.from_image_model(tiny_image_pipeline(), "magicvideo", num_frames=4, fps=6.0)
    upscaler = tiny_upscaler(preset="magicvideo")
    for pipeline in (keys, between, upscaler):
        pipeline.set_progress_bar_config(disable=True)
    frames = keys("a", **quiet).frames
    assert frames.shape[1] == keys.unet.config.frame_adaptor == 16
    result = between(frames, "a", **quiet)
    assert result.frames.shape[1] == 16 + 15 * 2 and result.fps == 6.0
    assert type(upscaler) is VideoSuperResolutionPipeline
    large = upscaler(result.frames[:, :5], "a", **quiet).frames
    assert large.shape[1] == 5 and large.shape[-1] > result.frames.shape[-1]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["temporal", "all"])
def test_the_heldout_loss_falls(part: str, image_model: ModelFolder, tmp_path: Path) -> None:
    options = {"max_train_steps": 30, "learning_rate": 1e-2, "num_heldout_clips": 2, "num_heldout_timesteps": 4}
    records = read_log(train(image_model("sd15"), tmp_path, **MAGIC, **options, train=part))
    measured = [record["heldout_loss"] for record in records if "heldout_loss" in record]
    assert measured[-1] < measured[0]
