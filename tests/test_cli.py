"""The command line: what it writes, what it says, and what it refuses before any model is loaded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import diffusers
import pytest
import torch
from huggingface_hub import HfApi
from typer.testing import CliRunner, Result

from diffusers_video import UNetVideoConditionModel, __version__, _cli_options, _video_encode, cli, video_io
from diffusers_video.embedded import SHAPES_GUIDANCE, SHAPES_MODEL, SHAPES_STEPS
from diffusers_video.models.unet_video_condition import PRESETS
from diffusers_video.pipelines.scheduling import check_scheduler

from .test_hub import FakeHub
from .tiny_pipelines import tiny_image_pipeline, tiny_text_to_video
from .tiny_text import tiny_text_vdm
from .tiny_unconditional import tiny_unconditional


SIZE = ("--num-frames", "2", "--height", "16", "--width", "16")
SMALL = (*SIZE, "--steps", "1")


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def generate(*arguments: Any) -> Result:
    return run("generate", "a red circle moves right", *arguments)


def error_of(result: Result, status: int = 2) -> str:
    """The one line on standard error of a run that failed without a traceback."""
    assert result.exit_code == status, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "Traceback" not in result.stderr and not result.stdout
    return lines[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pipelines by their kinds, a `file` of no model and a `clip.mp4` of 6 frames."""
    folder = tmp_path_factory.mktemp("models")
    tiny_text_to_video().save_pretrained(folder / "video")
    tiny_image_pipeline().save_pretrained(folder / "image")
    tiny_unconditional("pixel").save_pretrained(folder / "unconditional")
    (folder / "model.safetensors").touch()
    video_io.write_video(torch.rand(6, 3, 16, 24), folder / "clip.mp4", fps=Fraction(25, 2))
    return folder


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_and_version_load_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys\nfrom diffusers_video import cli\n"
        "for arguments in ('--help', 'generate --help', 'predict --help', 'interpolate --help', 'info --help',\n"
        "                  'train --help', 'data plan --help',\n"
        "                  'data pack --help', '--version'):\n"
        "    try: cli.app(arguments.split())\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'diffusers', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--guidance-scale" in result.stdout and f"diffusers-video {__version__}" in result.stdout


def test_a_generated_file_plays_with_the_size_rate_and_length_that_were_asked_for(inside: Path) -> None:
    options = ("--num-frames", 3, "--height", 24, "--width", 16, "--steps", 2, "--fps", "30000/1001", "--seed", 7)
    result = generate("-o", "circle.mp4", *options)
    assert result.exit_code == 0, result.output
    clip = video_io.read_video("circle.mp4")
    assert clip.frames.shape == (3, 3, 24, 16) and clip.fps == Fraction(30000, 1001)
    assert result.stdout == "Wrote circle.mp4: 3 frames, 16x24 pixels, 30000/1001 fps, seed 7\n"
    assert [path.name for path in inside.iterdir()] == ["circle.mp4"]


def test_without_a_model_the_one_in_the_package_draws_as_it_does_best(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _cli_options.SHAPES_STEPS == SHAPES_STEPS
    monkeypatch.setattr(_cli_options, "SHAPES_STEPS", 3)  # far fewer, so that it is quick
    assert "untrained" not in generate("--seed", 0, *SIZE, "-o", "default").stderr
    best = ("--guidance-scale", SHAPES_GUIDANCE, "--steps", 3, "--model", SHAPES_MODEL)
    assert generate("--seed", 0, *best, *SIZE, "-o", "best").exit_code == 0
    default, told = (video_io.read_video(name).frames for name in ("default", "best"))
    assert torch.equal(default, told)


def test_each_further_video_is_the_one_that_its_seed_gives_alone(inside: Path, models: Path) -> None:
    options = ("--model", models / "video", "--steps", 2, "-o")
    result = generate(*options, "many", "--num-videos", 2, "--seed", 3)
    assert [line.rpartition(", ")[2] for line in result.stdout.splitlines()] == ["seed 3", "seed 4"]
    assert generate(*options, "one", "--seed", 4).exit_code == 0
    first, second, alone = (video_io.read_video(name).frames for name in ("many-1", "many-2", "one"))
    assert torch.equal(second, alone) and not torch.equal(first, second)


def test_a_saved_pipeline_brings_its_own_length_and_rate(inside: Path, models: Path) -> None:
    result = generate("--model", models / "video", "--steps", 1, "-o", "clip.gif", "--scheduler", "euler")
    info = video_io.probe_video("clip.gif")
    assert (info.num_frames, info.fps, info.height) == (3, 4, 16)
    assert "untrained" not in result.stderr


def test_a_model_of_pixels_is_drawn_at_any_size(inside: Path) -> None:
    tiny_text_vdm().save_pretrained(inside / "vdm")
    size = ("--num-frames", "2", "--height", "10", "--width", "12", "--steps", "1")
    result = generate("--model", inside / "vdm", *size, "-o", "clip.gif")
    assert result.exit_code == 0, result.output
    info = video_io.probe_video("clip.gif")
    assert (info.num_frames, info.height, info.width) == (2, 10, 12)


def test_an_image_model_is_inflated_and_its_new_layers_are_announced(inside: Path, models: Path) -> None:
    result = generate("--image-model", models / "image", "--preset", "light", *SMALL, "--dtype", "bfloat16")
    assert result.exit_code == 0 and "temporal layers put into --image-model are new" in result.stderr


def test_a_video_is_changed_at_its_own_size_and_rate(inside: Path, models: Path) -> None:
    options = ("--model", models / "video", "--steps", 4, "-o", "out", "--seed", 0, "--video", models / "clip.mp4")
    assert generate(*options, "--num-frames", 4, "--strength", 0.5).exit_code == 0
    clip = video_io.read_video("out")
    assert clip.frames.shape == (4, 3, 16, 24) and clip.fps == Fraction(25, 2)


def test_options_of_sampling_reach_the_pipeline(inside: Path, models: Path) -> None:
    base = ("--model", models / "video", "--steps", 3, "--seed", 0)
    changes = {
        "plain": (),
        "guidance": ("--guidance-scale", 2),
        "rescale": ("--guidance-rescale", 0.7),
        "negative": ("--negative-prompt", "blue"),
        "steps": ("--steps", 4),
        "scheduler": ("--scheduler", "dpm"),
    }
    frames = []
    for name, change in changes.items():
        assert generate(*base, *change, "-o", name).exit_code == 0
        frames.append(video_io.read_video(name).frames)
    same = {(a, b) for a in range(len(frames)) for b in range(a) if torch.equal(frames[a], frames[b])}
    assert not same
    assert generate(*base, "--decode-chunk-size", 1, "-o", "chunks").exit_code == 0
    assert torch.equal(video_io.read_video("chunks").frames, frames[0])


def test_an_existing_file_is_replaced_only_when_asked(inside: Path) -> None:
    (inside / "out.mp4").write_bytes(b"mine")
    assert "`--output` out.mp4 exists" in error_of(generate(*SMALL))
    assert (inside / "out.mp4").read_bytes() == b"mine"
    assert generate(*SMALL, "--overwrite").exit_code == 0
    assert video_io.probe_video("out.mp4").num_frames == 2


WRONG_CALLS = {
    "model and image model": (("--model", "video", "--image-model", "image"), "Only one of `--model`"),
    "preset of no image model": (("--preset", "light"), "`--preset` has no effect without --image-model"),
    "config of no image model": (("--config", "x"), "`--config` has no effect without --image-model"),
    "config of a folder": (("--image-model", "{models}/image", "--config", "x"), "`--config` has no effect on"),
    "variant of nothing": (("--variant", "fp16"), "`--variant` has no effect without --model or --image-model"),
    "variant of a file": (
        ("--image-model", "{models}/model.safetensors", "--variant", "fp16"),
        "`--variant` has no effect on",
    ),
    "revision of a folder": (("--model", "{models}/video", "--revision", "x"), "`--revision` has no effect on"),
    "image folder as model": (("--model", "{models}/image"), "is an image model. Pass it as --image-model"),
    "video folder as image model": (("--image-model", "{models}/video"), "is a video model. Pass it as --model"),
    "model without text": (("--model", "{models}/unconditional"), "`--model` must read text"),
    "file as model": (("--model", "{models}/model.safetensors"), "`--model` must be a folder or Hub id"),
    "component as model": (("--model", "{models}/video/unet"), "has no model_index.json"),
    "missing folder": (("--model", "./nowhere"), "`--model` must be .* './nowhere' does not exist"),
    "missing file": (("--image-model", "x.safetensors"), "`--image-model` must be .* does not exist"),
    "height of the embedded model": (("--height", 18), "`--height` must be a multiple of 4, but is 18"),
    "width of a folder": (("--model", "{models}/video", "--width", 15), "`--width` must be a multiple of 2"),
    "size of a video": (("--video", "{models}/odd.mp4"), "`--width of --video` must be a multiple of 4"),
    "fps zero": (("--fps", 0), "`fps` must be a finite number greater than 0"),
    "fps text": (("--fps", "fast"), "`fps` must be a finite number"),
    "fps of a gif": (("-o", "a.gif", "--fps", 60), "`fps` of a .gif file must be at most 50"),
    "crf of a gif": (("-o", "a.gif", "--crf", 20), "`crf` has no meaning"),
    "crf too large": (("--crf", 52), "`crf` of libx264 must lie in"),
    "crf not finite": (("--crf", "inf"), "`--crf` must be a finite number"),
    "suffix": (("-o", "a.avi"), "must end in .mp4"),
    "no such folder": (("-o", "nowhere/a.mp4"), "must lie in a folder that exists"),
    "strength without video": (("--strength", 0.5), "`--strength` has no effect without --video"),
    "strength zero": (("--video", "{models}/clip.mp4", "--strength", 0), "`--strength` must be above 0"),
    "strength of few steps": (("--video", "x", "--strength", 0.1, "--steps", 5), "leaves no step to run"),
    "missing video": (("--video", "nowhere.mp4"), "nowhere.mp4 does not exist"),
    "no video": (("--video", "{models}/model.safetensors"), "is an empty file"),
    "more frames than the video": (("--video", "{models}/clip.mp4", "--num-frames", 7), "at most the 6 frames"),
    "guidance not finite": (("--guidance-scale", "inf"), "`--guidance-scale` must be a finite number"),
    "negative without guidance": (("--negative-prompt", "x", "--guidance-scale", 1), "no effect without guidance"),
    "rescale without guidance": (("--guidance-rescale", 0.5, "--guidance-scale", 0), "no effect without guidance"),
    "unknown device": (("--device", "abacus"), "`--device` must be cpu, cuda"),
    "absent device": (("--device", "cuda:99"), "`--device` must be on this machine"),
    "offload on the CPU": (("--device", "cpu", "--offload", "model"), "`--offload` model has no effect on the CPU"),
}
WRONG_VALUES = (
    ("--num-frames", 0),
    ("--height", -8),
    ("--steps", "many"),
    ("--guidance-rescale", 2),
    ("--seed", -1),
    ("--scheduler", "karras-ve"),
    ("--dtype", "int8"),
    ("--offload", "disk"),
    ("--preset", "heavy"),
    ("--num-videos", 0),
    ("--crf", "nan"),
    ("--video-length", 5),
)


@pytest.fixture
def without_loading(models: Path, inside: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, in which loading a model fails the test."""
    if not (models / "odd.mp4").exists():
        video_io.write_video(torch.rand(2, 3, 16, 18), models / "odd.mp4", fps=8)
    monkeypatch.setattr(cli, "_load_pipeline", lambda *_: pytest.fail("a model was loaded"))
    return inside


@pytest.mark.parametrize(("options", "message"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_a_wrong_call_is_one_line_and_status_2_before_a_model_is_loaded(
    options: tuple, message: str, models: Path, without_loading: Path
) -> None:
    result = generate(*(str(option).format(models=models) for option in options))
    assert re.search(message, error_of(result))
    assert not list(without_loading.iterdir())


@pytest.mark.parametrize("option", WRONG_VALUES, ids=lambda option: " ".join(map(str, option)))
def test_a_value_out_of_range_is_refused_by_name(option: tuple, without_loading: Path) -> None:
    result = generate(*option)
    assert result.exit_code == 2 and option[0] in result.stderr and "Traceback" not in result.stderr


def test_an_interrupt_ends_with_status_130_and_leaves_no_file(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = _video_encode.FolderSink.add

    def add_one(sink: _video_encode.FolderSink, array: Any) -> None:
        add(sink, array)
        assert list(inside.rglob("*.png"))  # the unfinished output is there
        raise KeyboardInterrupt

    monkeypatch.setattr(_video_encode.FolderSink, "add", add_one)
    result = generate(*SMALL, "-o", "clip")
    assert result.exit_code == 130 and "Interrupted" in result.stderr
    assert not list(inside.iterdir())


def test_a_model_that_gives_no_numbers_is_one_line_and_status_1(inside: Path) -> None:
    pipeline = tiny_text_to_video()
    torch.nn.init.constant_(pipeline.unet.conv_out.bias, float("nan"))
    pipeline.save_pretrained("broken")
    error = error_of(generate("--model", "broken", *SMALL), status=1)
    assert error.startswith("Error: Denoising gave NaN") and not Path("out.mp4").exists()


def test_debug_shows_the_traceback_of_an_error() -> None:
    result = run("info", "nowhere", "--debug")
    assert result.exit_code == 2 and "Traceback" in result.stderr and "describe_checkpoint" in result.stderr


def test_every_scheduler_that_can_be_named_fits_the_pipeline() -> None:
    config = tiny_text_to_video().scheduler.config
    for class_name in _cli_options.SCHEDULERS.values():
        check_scheduler(getattr(diffusers, class_name).from_config(config))


def test_choices_are_those_of_the_library() -> None:
    assert set(get_args(_cli_options.Preset)) == set(PRESETS)
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in get_args(_cli_options.DType))


def test_info_shows_counts_types_options_and_memory(models: Path) -> None:
    result = run("info", models / "video", "--num-frames", 5, "--height", 32, "--width", 48, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    unet = UNetVideoConditionModel.from_pretrained(models / "video" / "unet")
    total, temporal = (sum(p.numel() for p in part) for part in (unet.parameters(), unet.temporal_parameters()))
    row = next(line for line in result.stdout.splitlines() if line.startswith("unet "))
    assert f" {total:,} " in row and f" {temporal:,} " in row and row.endswith("float32")
    assert "video pipeline (TextToVideoPipeline)" in result.stdout and "preset=light" in result.stdout
    assert "prediction_type=epsilon" in result.stdout and "num_frames=3, fps=4.0" in result.stdout
    assert "Memory for 1 clip of 5 frames, 48x32 pixels, float32:" in result.stdout
    assert "Estimate: the denoiser's forward pass" in result.stdout


def test_info_prints_json_that_says_the_same(models: Path) -> None:
    found = json.loads(run("info", models / "image", "--json").stdout)
    assert (found["kind"], found["class_name"]) == ("image pipeline", "StableDiffusionPipeline")
    memory = found["memory"]
    assert memory["peak"] == sum(memory["weights"].values()) + max(memory["denoising"], memory["decoding"])


def test_info_says_why_the_memory_of_a_clip_is_not_known(models: Path) -> None:
    result = run("info", models / "video" / "vae")
    assert result.exit_code == 0 and "Memory of a clip: not known." in result.stdout


def test_info_refuses_to_estimate_a_clip_where_it_cannot(models: Path) -> None:
    assert "follows from the configuration of a U-Net" in error_of(
        run("info", models / "video" / "vae", "--num-frames", 4)
    )
    assert "`preset` has no effect" in error_of(run("info", models / "video", "--preset", "light"))
    assert "`height` must be a multiple of 2" in error_of(run("info", models / "video", "--height", 31))


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub(monkeypatch)
    monkeypatch.setattr(HfApi, "create_repo", lambda _, repo_id, **options: hub.create(repo_id, **options))
    created = hub.create

    def create(repo_id: str, **options: Any) -> Any:
        hub.created_with = options
        return created(repo_id)

    hub.create = create
    return hub


def test_push_uploads_a_folder_and_prints_its_address(models: Path, fake_hub: FakeHub) -> None:
    result = run("push", models / "video", "user/clips", "--private", "-m", "first", "--create-pr")
    assert result.exit_code == 0, result.output
    assert "https://huggingface.co/user/clips/commit/" in result.stdout
    assert fake_hub.created_with["private"] is True
    assert fake_hub.commits == [{"commit_message": "first", "create_pr": True}]
    assert "unet/diffusion_pytorch_model.safetensors" in fake_hub.repositories["user/clips"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "is no folder"),
        (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
        (lambda folder: shutil.rmtree(folder / "scheduler"), "'scheduler' with the DDIMScheduler"),
        (lambda folder: weights(folder).unlink(), "must hold the weights of a model"),
        (lambda folder: weights(folder).write_bytes(weights(folder).read_bytes()[:-1]), "whole safetensors file"),
    ],
    ids=["no folder", "no index", "no scheduler", "no weights", "truncated weights"],
)
def test_push_refuses_what_is_no_complete_pipeline_before_anything_is_sent(
    damage: Any, message: str, models: Path, tmp_path: Path, fake_hub: FakeHub
) -> None:
    folder = shutil.copytree(models / "video", tmp_path / "clips")
    damage(folder)
    assert message in error_of(run("push", folder, "user/clips"))
    assert not fake_hub.repositories


def weights(folder: Path) -> Path:
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def test_push_refuses_an_image_pipeline_and_a_wrong_name(models: Path, fake_hub: FakeHub) -> None:
    assert "must hold a video pipeline" in error_of(run("push", models / "image", "user/clips"))
    assert "a/b/c" in error_of(run("push", models / "video", "a/b/c"))
    assert not fake_hub.repositories
