"""`diffusers-video data`: the plan says what training sees, and what is packed can be trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import PartialState

from diffusers_video import TextToVideoPipeline
from diffusers_video.data.packed import PackedClipDataset
from diffusers_video.data.plan import ClipPlan
from diffusers_video.training import encoding
from diffusers_video.training import train_unconditional as train_unconditional_module
from diffusers_video.training.encoding import encode_clips
from diffusers_video.training.models import load_pipeline
from diffusers_video.training.train_unconditional import main as train_unconditional
from diffusers_video.training.training_data import load_clips
from diffusers_video.training.unconditional_config import UnconditionalConfig
from diffusers_video.video_io import read_video

from .data.video_sets import write_jsonl, write_small
from .test_cli import error_of, run
from .tiny_space_time import _BASE as TINY_UNET
from .tiny_triplane import UNET as TINY_TRIPLANE
from .tiny_triplane import tiny_autoencoder_triplane
from .tiny_unconditional import tiny_autoencoder_kl_3d, tiny_unconditional
from .training.tiny_runs import losses, read_log, reset_accelerate, save_image_model, tiny_config, train


SMALL = ("--buckets", "16x16@3", "--fps", 8)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 12, 8 and 2 frames at 8 frames per second, a broken one, and one that no row names."""
    folder = tmp_path_factory.mktemp("clips")
    for name, num_frames in {"long.gif": 12, "middle.gif": 8, "short.gif": 2, "stray.gif": 2}.items():
        write_small(folder / name, num_frames)
    (folder / "broken.mp4").write_bytes(b"no video")
    names = ("long.gif", "middle.gif", "short.gif", "broken.mp4")
    write_jsonl(folder, {name: f"the {name.split('.')[0]} one" for name in names})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_image_model(tmp_path_factory.mktemp("models"), "sd15")


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    PartialState()


def planned(*arguments: object) -> ClipPlan:
    result = run("data", "plan", *arguments, "--json", "plan.json", "--overwrite")
    assert result.exit_code == 0, result.output
    return ClipPlan.load("plan.json")


def test_every_clip_and_every_reason_is_printed(clips: Path) -> None:
    result = run("data", "plan", clips, *SMALL)
    assert result.exit_code == 0, result.output
    rows = [re.split(r"  +", line.strip()) for line in result.stdout.splitlines()]
    found = [row[1] for row in rows if row[0].isdigit()]
    assert found == ["long.gif"] * 4 + ["middle.gif"] * 2 and "the long one" in result.stdout
    reasons = {row[0]: row[1] for row in rows if len(row) > 1 and row[0].endswith((".gif", ".mp4"))}
    assert reasons == {
        "middle.gif": "tail shorter than a clip",
        "short.gif": "too short",
        "broken.mp4": "unreadable",
        "stray.gif": "not listed",
    }
    assert "18 of 22 frames" in result.stdout and "Measuring videos" in result.stderr


def test_plan_is_the_one_of_training(clips: Path) -> None:
    dataset, _ = load_clips(tiny_config("model", "out", train_data_dir=str(clips), buckets=["16x16@3"], fps=4.0))
    assert planned(clips, "--buckets", "16x16@3", "--fps", 4) == dataset.plan


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (("--resolution", 16, "--num-frames", 2), {"resolution": 16, "num_frames": 2}),
        (("--height", 16, "--width", 32, "--num_frames", 2), {"height": 16, "width": 32, "num_frames": 2}),
        (("--buckets", "16x16@3", "32x16@2"), {"buckets": ["16x16@3", "32x16@2"]}),
        (("--buckets", "16x16@3", "--buckets", "32x16@2"), {"buckets": ["16x16@3", "32x16@2"]}),
        (("--train", "spatial", "--resolution", 16), {"train": "spatial", "resolution": 16}),
        (("--clips_per_video", 1, *SMALL), {"clips_per_video": 1}),
        (("--resolution", 16, "--num-frames", 3, "--fps", 16, "--allow-repeat"), {"allow_repeat": True}),
        (("--resolution", 100, "--num-frames", 3, "--allow-upscale"), {"allow_upscale": True}),
        (("--heldout_fraction", 0.5, *SMALL), {"heldout_fraction": 0.5}),
    ],
    ids=lambda part: " ".join(map(str, part)) if isinstance(part, tuple) else None,
)
def test_flags_mean_what_they_mean_in_training(flags: tuple, settings: Mapping[str, object], clips: Path) -> None:
    others = {"resolution": None, "num_frames": 3, "buckets": [], "fps": 8.0}
    if "--fps" in flags:
        others["fps"] = float(flags[flags.index("--fps") + 1])
    if "--resolution" in flags:
        others["resolution"] = flags[flags.index("--resolution") + 1]
    elif "--buckets" in flags:
        others["buckets"] = ["16x16@3"]
    if "--buckets" in flags or "spatial" in flags:
        others["num_frames"] = None
    options = {**others, **settings}
    dataset, _ = load_clips(tiny_config("model", "out", train_data_dir=str(clips), **options))
    assert planned(clips, *flags) == dataset.plan


def test_settings_of_a_run_are_read_and_overruled(clips: Path) -> None:
    settings = {"train_data_dir": str(clips), "output_dir": "out", "pretrained_model_name_or_path": "model"}
    settings |= {
        "buckets": ["16x16@3"],
        "fps": 8,
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "max_train_samples": 2,
    }
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    assert planned("--config", "run.yaml") == planned(clips, *SMALL)
    assert planned(clips, "--config", "run.yaml", "--fps", 4) == planned(clips, "--buckets", "16x16@3", "--fps", 4)
    assert "Training takes the first 2 of these clips" in run("data", "plan", "--config", "run.yaml").stdout


def test_held_out_clips_share_no_frame_with_the_others(clips: Path) -> None:
    options = (clips, "--resolution", 16, "--num-frames", 2, "--heldout-fraction", 0.5)
    used, kept = planned(*options), planned(*options, "--heldout")
    long = [[clip.start for clip in part.clips if part.videos[clip.video].name == "long.gif"] for part in (used, kept)]
    assert len(long[0]) == len(long[1]) == 3 and max(long[0]) < min(long[1])


def test_tables_are_shortened_on_demand(clips: Path) -> None:
    result = run("data", "plan", clips, *SMALL, "--max-rows", 1)
    assert "... and 5 more" in result.stdout and "... and 3 more" in result.stdout
    assert "short.gif" not in result.stdout


def test_exported_clips_are_those_that_training_sees(clips: Path) -> None:
    varied = ("--random-crop", "--random_flip", "--seed", 5, "--export-format", "png")
    result = run("data", "plan", clips, *SMALL, *varied, "--export", "exported")
    assert result.exit_code == 0 and "Wrote exported: 6 clips" in result.stdout
    options = {"random_crop": True, "random_flip": True, "seed": 5, "buckets": ["16x16@3"], "fps": 8.0}
    dataset, _ = load_clips(tiny_config("model", "out", train_data_dir=str(clips), **options))
    rows = [json.loads(line) for line in Path("exported/metadata.jsonl").read_text().splitlines()]
    for row, item in zip(rows, dataset, strict=True):
        frames = read_video(Path("exported", row["file_name"])).frames
        torch.testing.assert_close(frames.transpose(0, 1) / 127.5 - 1, item["pixel_values"])
        assert row["text"] == item["text"]


def test_held_out_clips_are_exported_without_chance(clips: Path) -> None:
    options = (clips, "--resolution", 16, "--num-frames", 2, "--heldout-fraction", 0.5, "--heldout")
    for name, varied in {"plain": (), "varied": ("--random-crop", "--random-flip")}.items():
        assert run("data", "plan", *options, *varied, "--export", name, "--export-format", "png").exit_code == 0
    first, second = (read_video(f"{name}/000000").frames for name in ("plain", "varied"))
    assert torch.equal(first, second)


def test_a_set_without_clips_is_shown_and_refused(clips: Path) -> None:
    result = run("data", "plan", clips, "--resolution", 16, "--num-frames", 100, "--json", "plan.json")
    assert result.exit_code == 2 and "gives no clip of ['16x16@100']; the plan says why" in result.stderr
    assert result.stdout.count("too short") >= 3 and not ClipPlan.load("plan.json").clips


WRONG_PLANS = {
    "nothing named": ((), "`DATA` must name the clips"),
    "no such folder": (("nowhere",), "nowhere does not exist"),
    "shapes": (("shapes",), "`DATA` must be videos, but of 'shapes'"),
    "no such settings": (("{clips}", "--config", "nowhere.yaml"), "'nowhere.yaml' does not exist"),
    "no frames": (("{clips}", "--num-frames", 0), "`num_frames` must be at least 1, but is 0"),
    "fps zero": (("{clips}", "--fps", 0), "`fps` must be above 0, but is 0"),
    "single frames": (("{clips}", "--num-frames", 1), "`num_frames` must be at least 2 with `train=temporal`"),
    "unknown part": (("{clips}", "--train", "half"), "`train` must be one of"),
    "buckets and size": (("{clips}", *SMALL, "--resolution", 64), "must not both be given"),
    "wrong bucket": (("{clips}", "--buckets", "64x64"), "must be written WIDTHxHEIGHT@FRAMES"),
    "missing column": (("{clips}", "--caption-column", "words"), "Columns found"),
    "held out of nothing": (("{clips}", "--heldout"), "`--heldout` has no effect without `--heldout-fraction`"),
    "crop of no export": (("{clips}", "--random-crop"), "`--random-crop` has no effect without --export"),
    "seed of no export": (("{clips}", "--seed", 0), "`--seed` has no effect without --export"),
    "existing plan": (("{clips}", "--json", "{clips}/metadata.jsonl"), "exists. Choose another name"),
    "plan nowhere": (("{clips}", "--json", "nowhere/plan.json"), "must lie in a folder that exists"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG_PLANS.values(), ids=WRONG_PLANS)
def test_a_wrong_plan_is_one_line_and_status_2(arguments: tuple, message: str, clips: Path) -> None:
    rows = (clips / "metadata.jsonl").read_bytes()
    assert message in error_of(run("data", "plan", *(str(part).format(clips=clips) for part in arguments)))
    assert (clips / "metadata.jsonl").read_bytes() == rows and not list(Path().iterdir())


def test_a_full_folder_is_not_exported_into(clips: Path) -> None:
    result = run("data", "plan", clips, *SMALL, "--export", clips)
    assert result.exit_code == 2 and "must be new or empty" in result.stderr


def heldout_losses(run: Path) -> list[float]:
    found = [record["heldout_loss"] for record in read_log(run) if "heldout_loss" in record]
    assert found
    return found


def test_packed_clips_are_trained_on_and_give_the_losses_of_the_videos(clips: Path, model: str) -> None:
    held_out = ("--heldout-fraction", 0.25)
    for name, flags in {"packed": (), "heldout": ("--heldout",)}.items():
        result = run("data", "pack", clips, name, "--model", model, "--device", "cpu", *SMALL, *held_out, *flags)
        assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Wrote heldout: 1 clips. Train on them: diffusers-video train --train_data_dir")
    common = {"posterior": "mode", "max_train_steps": 3, "resolution": None, "num_frames": None}
    videos = train(
        model, "a", train_data_dir=str(clips), buckets=["16x16@3"], fps=8.0, heldout_fraction=0.25, **common
    )
    packed = train(model, "b", train_data_dir="packed", heldout_data_dir="heldout", **common)
    assert losses(packed) == pytest.approx(losses(videos), rel=1e-5)  # encoded in other batches, so rounded otherwise
    assert heldout_losses(packed) == pytest.approx(heldout_losses(videos), rel=1e-5)


def train_without_text(output: str, vae: str, model: Mapping[str, object], **settings: object) -> Path:
    reset_accelerate()
    own = {"max_train_steps": 3, "num_heldout_timesteps": 1, "num_validation_inference_steps": 1, "posterior": "mode"}
    own |= {"prediction_type": "v_prediction"}  # whose target holds the latents: a new denoiser answers nothing yet
    options = {"pretrained_vae_name_or_path": vae, "model_config_name_or_path": "unet.json", "checkpointing_steps": 0}
    Path("unet.json").write_text(json.dumps(model))
    train_unconditional(UnconditionalConfig(output_dir=output, **{**own, **options, **settings}))
    return Path(output)


def test_packed_latents_that_compress_time_give_the_losses_of_the_videos(clips: Path) -> None:
    tiny_autoencoder_kl_3d(scaling_factor=20.0).save_pretrained("vae")
    sizes, held_out = ("--buckets", "16x16@4", "--fps", 8), ("--heldout-fraction", 0.5)
    for name, flags in {"packed": (), "heldout": ("--heldout",)}.items():
        result = run("data", "pack", clips, name, "--model", "vae", "--device", "cpu", *sizes, *held_out, *flags)
        assert result.exit_code == 0, result.output
    assert "--script unconditional --train_data_dir heldout --pretrained_vae_name_or_path vae ..." in result.stdout
    item = PackedClipDataset("packed")[0]
    assert item["latents_mean"].std() > 0.3
    assert item["latents_mean"].shape == (4, 2, 8, 8) and "prompt_embeds" not in item  # 4 frames are 2 latents
    unet = {name: value for name, value in TINY_UNET.items() if name != "sample_size"}
    options = {"buckets": ["16x16@4"], "fps": 8.0, "heldout_fraction": 0.5}
    videos = train_without_text("a", "vae", unet, train_data_dir=str(clips), **options)
    packed = train_without_text("b", "vae", unet, train_data_dir="packed", heldout_data_dir="heldout")
    assert losses(packed) == pytest.approx(losses(videos), rel=1e-5)  # encoded in other batches, so rounded otherwise
    assert heldout_losses(packed) == pytest.approx(heldout_losses(videos), rel=1e-5)
    assert json.loads(Path("b/model_index.json").read_text())["num_frames"] == 4
    again = run("data", "pack", clips, "of_model", "--model", "b", "--device", "cpu", *sizes, *held_out)
    assert again.exit_code == 0, again.output
    assert torch.equal(PackedClipDataset("of_model")[0]["latents_mean"], item["latents_mean"])


@pytest.mark.parametrize("use_previous_clip", [False, True])
def test_latents_of_triplanes_are_not_packed(
    use_previous_clip: bool, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_autoencoder_triplane(sample_size=16, patch_size=4, num_frames=4).save_pretrained("vae")
    message = "Latents of an AutoencoderTriplane cannot be packed"
    assert message in error_of(run("data", "pack", clips, "packed", *SMALL, "--model", "vae", "--device", "cpu"))
    assert not Path("packed").exists()
    tiny_autoencoder_kl_3d().save_pretrained("other")
    run("data", "pack", clips, "packed", "--buckets", "16x16@4", "--fps", 8, "--model", "other", "--device", "cpu")
    monkeypatch.setattr(train_unconditional_module, "encoding_identity", lambda _: None)  # as if of this autoencoder
    unet = {name: value for name, value in TINY_TRIPLANE.items() if name not in ("sample_size", "num_frames")}
    unet |= {"_class_name": "UNetTriplaneModel", "use_previous_clip": use_previous_clip}
    with pytest.raises(ValueError, match=message):
        train_without_text("a", "vae", unet, train_data_dir="packed")


def test_a_model_of_pixels_is_not_packed_for(clips: Path) -> None:
    tiny_unconditional("pixel").save_pretrained("model")
    result = run("data", "pack", clips, "packed", *SMALL, "--model", "model", "--device", "cpu")
    assert "must have an autoencoder, but of 'model' it is a NoneType" in error_of(result)


def test_shapes_are_packed_as_they_are_drawn(model: str) -> None:
    flags = (
        "--resolution",
        16,
        "--num_frames",
        3,
        "--num-shapes-clips",
        4,
        "--shapes-options",
        '{"colours": ["red"]}',
    )
    result = run("data", "pack", "shapes", "packed", "--model", model, *flags, "--seed", 3, "--clips-per-shard", 2)
    assert result.exit_code == 0 and "Wrote packed: 4 clips" in result.stdout
    assert len(list(Path("packed").glob("*.safetensors"))) == 2
    config = tiny_config(model, "out", num_shapes_clips=4, shapes_options='{"colours": ["red"]}', seed=3)
    drawn, kept = load_clips(config)
    pipeline = load_pipeline(config, 3, 8.0)
    for dataset, folder, flag in ((drawn, "packed", ()), (kept, "heldout", ("--heldout",))):
        run("data", "pack", "shapes", folder, "--model", model, *flags, "--seed", 3, *flag, "--clips-per-shard", 2)
        item, found = dataset[0], PackedClipDataset(folder)[0]
        batch = {"pixel_values": item["pixel_values"][None], "text": [item["text"]]}
        encoded = encode_clips(pipeline, batch)
        assert found["text"] == item["text"] and "red" in item["text"]
        for name, tensor in encoded.items():
            torch.testing.assert_close(found[name], tensor[0])


def test_packing_again_keeps_what_is_there(clips: Path, model: str) -> None:
    command = ("data", "pack", clips, "packed", "--model", model, *SMALL, "--batch-size", 2)
    assert run(*command).exit_code == 0
    changed = Path("packed/shard-00000.safetensors").stat().st_mtime_ns
    assert run(*command).exit_code == 0
    assert Path("packed/shard-00000.safetensors").stat().st_mtime_ns == changed
    result = run(*command[:-2], "--fps", 4)
    assert result.exit_code == 2 and "was packed with another dataset" in result.stderr


def test_clips_are_encoded_in_batches_of_the_asked_size(
    clips: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def encode_and_count(pipeline: TextToVideoPipeline, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        sizes.append(len(batch["text"]))
        return encode_clips(pipeline, batch)

    monkeypatch.setattr(encoding, "encode_clips", encode_and_count)
    assert run("data", "pack", clips, "packed", "--model", model, *SMALL, "--batch-size", 4).exit_code == 0
    assert sizes == [4, 2]


def test_settings_of_a_run_say_what_is_packed(clips: Path, model: str) -> None:
    settings = {"pretrained_model_name_or_path": model, "output_dir": "out", "train_data_dir": "elsewhere"}
    settings |= {"train": "spatial", "resolution": 16, "max_train_steps": 2}
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    result = run("data", "pack", clips, "packed", "--config", "run.yaml")
    assert result.exit_code == 0, result.output
    assert set(PackedClipDataset("packed").buckets) == {"16x16@1"}
    Path("run.yaml").write_text(yaml.safe_dump({**settings, "random_crop": True}))
    result = run("data", "pack", clips, "other", "--config", "run.yaml")
    assert result.exit_code == 2 and "must have `random_crop` and `random_flip` off" in result.stderr


WRONG_PACKS = {
    "no model": (("{clips}", "packed"), "`--model` must name the pipeline"),
    "no such model": (("{clips}", "packed", *SMALL, "--model", "./nowhere"), "'./nowhere' does not exist"),
    "absent device": (("{clips}", "packed", "--model", "{model}", "--device", "cuda:99"), "`--device` must be on"),
    "seed of videos": (("{clips}", "packed", "--model", "{model}", "--seed", 0), "has an effect on `shapes` only"),
    "options of videos": (
        ("{clips}", "packed", "--model", "{model}", "--shapes-options", "{{}}"),
        "has an effect only with `train_data_dir=shapes`",
    ),
    "no clips": (("{clips}", "packed", "--model", "{model}", "--num-frames", 100), "must hold at least one clip"),
    "full folder": (("{clips}", "{clips}", *SMALL, "--model", "{model}"), "must be empty or hold a packed set"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG_PACKS.values(), ids=WRONG_PACKS)
def test_a_wrong_packing_is_one_line_and_status_2(arguments: tuple, message: str, clips: Path, model: str) -> None:
    result = run("data", "pack", *(str(part).format(clips=clips, model=model) for part in arguments))
    assert result.exit_code == 2 and "Traceback" not in result.stderr and not result.stdout
    assert message in result.stderr.splitlines()[-1] and not Path("packed").exists()


def test_packed_clips_are_neither_planned_nor_packed_again(clips: Path, model: str) -> None:
    run("data", "pack", clips, "packed", "--model", model, *SMALL)
    assert "`DATA` must be videos, but of 'packed'" in error_of(run("data", "plan", "packed"))
    result = error_of(run("data", "pack", "packed", "again", "--model", model))
    assert "'packed' holds packed clips" in result and not Path("again").exists()
