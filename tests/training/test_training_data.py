"""Clips of a run: folders of videos, lists, packed latents, and what is held out."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import PartialState

from diffusers_video import TextToVideoPipeline, write_video
from diffusers_video.data.packing import pack_clips
from diffusers_video.training.encoding import encode_clips, encoding_identity
from diffusers_video.training.models import load_pipeline
from diffusers_video.training.training_data import load_clips

from .tiny_runs import ModelFolder, losses, read_log, tiny_config, train


OF_FILES = {"buckets": ["16x16@3"], "fps": 8.0}


@pytest.fixture(scope="module")
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 16 frames at 8 frames per second, with captions in a list."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for number in range(3):
        frames = np.random.default_rng(number).integers(0, 255, (16, 24, 32, 3), dtype=np.uint8)
        write_video(frames, folder / f"{number}.mp4", fps=8)
        rows.append({"file_name": f"{number}.mp4", "text": f"video {number}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def packed_folder(clips_folder: Path, image_model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    PartialState()
    config = tiny_config(image_model("sd15"), "unused", train_data_dir=str(clips_folder), **OF_FILES)
    pipeline = load_pipeline(config, 3, 8.0)
    dataset, _ = load_clips(config)
    folder = tmp_path_factory.mktemp("packed")
    pack_clips(dataset, partial(encode_clips, pipeline), folder, identity=encoding_identity(pipeline), batch_size=2)
    return folder


def test_videos_are_trained_on_and_their_ends_held_out(
    clips_folder: Path, image_model: ModelFolder, tmp_path: Path
) -> None:
    options = {"train_data_dir": str(clips_folder), "heldout_fraction": 0.25, **OF_FILES}
    out = train(image_model("sd15"), tmp_path, **options, random_crop=True, random_flip=True)
    assert len(losses(out)) == 2 and "heldout_loss" in read_log(out)[-1]
    pipeline = TextToVideoPipeline.from_pretrained(out)
    assert (pipeline.config.num_frames, pipeline.config.fps) == (3, 8.0)


def test_held_out_clips_share_no_time_with_training_clips(clips_folder: Path) -> None:
    PartialState()
    config = tiny_config("model", "unused", train_data_dir=str(clips_folder), heldout_fraction=0.25, **OF_FILES)
    dataset, heldout = load_clips(config)
    for video in range(3):
        used = [max(clip.times) for clip in dataset.plan.clips if clip.video == video]
        kept = [min(clip.times) for clip in heldout.plan.clips if clip.video == video]
        assert max(used) < min(kept)


def test_packed_latents_give_the_losses_of_the_videos(
    clips_folder: Path, packed_folder: Path, image_model: ModelFolder, tmp_path: Path
) -> None:
    options = {"posterior": "mode", "max_train_steps": 4, "train_batch_size": 2}
    videos = train(image_model("sd15"), tmp_path / "videos", train_data_dir=str(clips_folder), **OF_FILES, **options)
    packed = train(
        image_model("sd15"),
        tmp_path / "packed",
        **{**options, "train_data_dir": str(packed_folder), "resolution": None, "num_frames": None},
    )
    assert losses(packed) == pytest.approx(
        losses(videos), rel=1e-5
    )  # encoded in other batches, so rounded differently
    assert TextToVideoPipeline.from_pretrained(packed).config.num_frames == 3


def test_packed_latents_of_another_model_are_refused(
    packed_folder: Path, image_model: ModelFolder, tmp_path: Path
) -> None:
    options = {"train_data_dir": str(packed_folder), "resolution": None, "num_frames": None}
    with pytest.raises(ValueError, match="`identity` must be that of the packed set"):
        train(image_model("sdxl"), tmp_path, **options)


def test_settings_without_effect_on_packed_latents_are_refused(
    packed_folder: Path, image_model: ModelFolder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="`resolution` has no effect on packed latents"):
        train(image_model("sd15"), tmp_path, train_data_dir=str(packed_folder))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"train_data_dir": "missing"}, FileNotFoundError, "does not exist"),
        ({"buckets": ["64x64@3"]}, ValueError, "must give at least one clip"),
        ({"buckets": ["16x16@300"]}, ValueError, "must give at least one clip"),
        ({"caption_column": "words"}, ValueError, "words"),
    ],
)
def test_sets_without_clips_are_refused(
    clips_folder: Path, settings: dict[str, object], error: type[Exception], message: str
) -> None:
    PartialState()
    config = tiny_config("model", "unused", **{"train_data_dir": str(clips_folder), **OF_FILES, **settings})
    with pytest.raises(error, match=message):
        load_clips(config)


def test_unreadable_video_is_left_out_by_name(
    image_model: ModelFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    PartialState()
    frames = np.zeros((8, 16, 16, 3), dtype=np.uint8)
    write_video(frames, tmp_path / "good.mp4", fps=8)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with caplog.at_level("INFO"):
        dataset, _ = load_clips(tiny_config("model", "unused", train_data_dir=str(tmp_path), **OF_FILES))
    assert "broken.mp4" in caplog.text and len(dataset) == 2


def test_max_train_samples_limits_the_clips(clips_folder: Path) -> None:
    PartialState()
    config = tiny_config("model", "unused", train_data_dir=str(clips_folder), max_train_samples=2, **OF_FILES)
    dataset, _ = load_clips(config)
    assert len(dataset) == len(dataset.buckets) == 2
