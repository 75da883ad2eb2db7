"""The parts of the embedded models: how they are written, what is loaded of them, and the commands that use them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import nn

from diffusers_video import (
    AutoencoderKLVideo,
    FrameInterpolationPipeline,
    KeyFramePredictionPipeline,
    LongVideoPipeline,
    TextToVideoPipeline,
    _cli_options,
    embedded,
    video_io,
)
from diffusers_video.embedded import SHAPES_GUIDANCE, load_shapes_pipeline
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.training.base_config import read_yaml
from diffusers_video.training.config import VideoUNetConfig
from diffusers_video.training.super_resolution_config import SuperResolutionConfig
from diffusers_video.training.video_decoder_config import VideoDecoderConfig

from ..test_cli import error_of, run
from ..tiny_models import shake_temporal_layers
from ..tiny_pipelines import SIZE, tiny_given, tiny_text_to_video
from ..tiny_upscalers import tiny_upscaler


FOLDER = Path(__file__).resolve().parents[2] / "examples" / "shapes"
CLIP = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PARTS = ("text_to_video", "key_frames", "interpolation", "decoder", "super_resolution")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """`running`, `recipe` and `export` as modules; a script finds its neighbours beside itself, as when it is run."""
    names = ("running", "recipe", "export")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield {name: import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def trained() -> dict[str, DiffusionPipeline | nn.Module]:
    """What the stages leave, at tiny size, with random temporal layers."""
    stages = {"text_to_video": tiny_text_to_video(), "super_resolution": tiny_upscaler("pixel")}
    stages["key_frames"] = tiny_given(KeyFramePredictionPipeline)
    stages["interpolation"] = tiny_given(FrameInterpolationPipeline)
    stages["interpolation"].register_to_config(fps=32.0)
    chunks = {"decode_chunk_size": 2, "decode_chunk_overlap": 1}
    decoder = AutoencoderKLVideo.from_autoencoder_kl(stages["text_to_video"].vae, **chunks)
    return {**stages, "decoder": shake_temporal_layers(decoder)}


@pytest.fixture(scope="module")
def work(trained: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    for name, stage in trained.items():
        stage.save_pretrained(work / name)
    return work


@pytest.fixture(scope="module")
def parts(scripts: dict, work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all parts, as the package has it."""
    root = tmp_path_factory.mktemp("embedded")
    scripts["running"].add_cost(work, "key_frames", 10.0, 7.0, 300.0)
    scripts["export"].export(work, root, list(PARTS))
    return root


def assert_equal_weights(got: nn.Module, want: nn.Module) -> None:
    """Weights are equal, but that they went through float16."""
    expected = want.state_dict()
    assert got.state_dict().keys() == expected.keys()
    for name, weight in got.state_dict().items():
        assert torch.equal(weight, expected[name].half().float()), name


@pytest.mark.parametrize(
    ("task", "stage"),
    [
        ("text-to-video", "text_to_video"),
        ("key-frames", "key_frames"),
        ("interpolation", "interpolation"),
        ("super-resolution", "super_resolution"),
    ],
)
def test_the_pipeline_of_a_task_is_the_one_that_was_trained(
    task: str, stage: str, parts: Path, trained: dict[str, DiffusionPipeline]
) -> None:
    pipeline, want = load_shapes_pipeline(task, folder=parts), trained[stage]
    assert type(pipeline) is type(want)
    assert_equal_weights(pipeline.unet, want.unet)
    names = [name for name in want.config if name[0] != "_" and name not in want.components]
    assert {name: pipeline.config[name] for name in names} == {name: want.config[name] for name in names}
    if want.vae is not None:
        assert_equal_weights(pipeline.vae, want.vae)
        assert pipeline(prompt="a", **_call(pipeline), num_inference_steps=1, output_type="pt").frames.isfinite().all()


def _call(pipeline: DiffusionPipeline) -> dict[str, object]:
    if isinstance(pipeline, TextToVideoPipeline):
        return {}
    return {"frames": CLIP[:1]} if isinstance(pipeline, KeyFramePredictionPipeline) else {"frames": CLIP[:2]}


def test_a_pipeline_of_half_precision_is_so_in_all_parts(parts: Path) -> None:
    pipeline = load_shapes_pipeline("interpolation", dtype=torch.float16, temporal_decoder=True, folder=parts)
    assert {module.dtype for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float16}


def test_the_temporal_decoder_takes_the_place_of_the_autoencoder_if_asked_for(parts: Path, trained: dict) -> None:
    pipeline = load_shapes_pipeline("key-frames", temporal_decoder=True, folder=parts)
    assert_equal_weights(pipeline.vae, trained["decoder"])
    assert (pipeline.vae.config.decode_chunk_size, pipeline.vae.config.decode_chunk_overlap) == (2, 1)


def test_long_videos_are_drawn_by_the_prediction_and_the_interpolation_model(parts: Path, trained: dict) -> None:
    pipeline = load_shapes_pipeline("long", folder=parts)
    assert type(pipeline) is LongVideoPipeline and pipeline.super_resolution_unet is None
    assert_equal_weights(pipeline.unet, trained["key_frames"].unet)
    assert_equal_weights(pipeline.interpolation_unet, trained["interpolation"].unet)
    assert (pipeline.default_fps(0), pipeline.default_fps(1)) == (8.0, 32.0)


def test_weights_that_tasks_share_are_stored_once_and_in_half_precision(parts: Path) -> None:
    for name in ("shapes_key_frames", "shapes_interpolation", "shapes_decoder"):
        (path,) = (parts / name).rglob("*.safetensors")
        with safe_open(path, "pt") as file:
            assert all(is_temporal(key) for key in file.keys())
    for path in parts.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} <= {"F16", "I64"}, path


def test_an_installed_package_holds_every_file_of_the_parts(parts: Path) -> None:
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["diffusers_video.embedded"]
    installed = {path for pattern in patterns for path in parts.glob(pattern) if path.is_file()}
    assert installed == {path for path in parts.rglob("*") if path.is_file()}


def test_a_card_says_what_a_stage_cost_and_how_it_is_loaded(parts: Path) -> None:
    card = (parts / "shapes_key_frames" / "README.md").read_text(encoding="utf-8")
    assert "| key_frames |  |  |  | 7.0 | 300 |" in card and 'load_shapes_pipeline("key-frames")' in card
    assert "temporal_layers.safetensors | `" in card


def test_a_changed_weight_and_a_missing_card_line_are_found(scripts: dict, parts: Path, tmp_path: Path) -> None:
    root = shutil.copytree(parts, tmp_path / "copy")
    assert scripts["export"].find_differences(root) == []
    path = root / "shapes_interpolation" / "temporal_layers.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    shutil.copy(path, root / "shapes_decoder" / "more.safetensors")
    assert scripts["export"].find_differences(root) == [
        "shapes_interpolation/temporal_layers.safetensors",
        "shapes_decoder/more.safetensors",
    ]


def test_temporal_layers_of_other_spatial_layers_are_not_written(
    scripts: dict, trained: dict, work: Path, tmp_path: Path
) -> None:
    other = tiny_given(KeyFramePredictionPipeline)
    with torch.no_grad():
        other.unet.conv_in.bias += 1
    other.save_pretrained(tmp_path / "key_frames")
    os.symlink(work / "text_to_video", tmp_path / "text_to_video")
    with pytest.raises(SystemExit, match=r"key_frames was trained on another text_to_video: conv_in.bias differs"):
        scripts["export"].export(tmp_path, tmp_path / "root", ["key_frames"])
    assert not (tmp_path / "root" / "shapes_key_frames").exists()


@pytest.mark.parametrize(("task", "stage"), [("long", "interpolation"), ("super-resolution", "super_resolution")])
def test_a_part_that_is_not_there_is_named_with_the_command_that_makes_it(
    task: str, stage: str, parts: Path, tmp_path: Path
) -> None:
    for name in ("shapes", "shapes_key_frames"):
        os.symlink(parts / name, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=f"recipe.py --stages {stage}`"):
        load_shapes_pipeline(task, folder=tmp_path)


def test_wrong_arguments_are_refused(parts: Path) -> None:
    with pytest.raises(ValueError, match="`task` must be one of .* but is 'key_frames'"):
        load_shapes_pipeline("key_frames", folder=parts)
    with pytest.raises(ValueError, match="`temporal_decoder` has no effect on 'super-resolution'"):
        load_shapes_pipeline("super-resolution", temporal_decoder=True, folder=parts)


@pytest.fixture
def inside(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a clip, in a package that has all parts."""
    monkeypatch.setattr(embedded, "EMBEDDED_FOLDER", parts)
    monkeypatch.chdir(tmp_path)
    video_io.write_video(CLIP, "clip", fps=8)
    return tmp_path


def test_predict_without_a_model_draws_as_the_one_in_the_package_does_best(
    inside: Path, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cli_options, "SHAPES_STEPS", 2)
    result = run("predict", "clip", "--prompt", "a fox", "--seed", 3, "-o", "out")
    assert result.exit_code == 0, result.output
    best = {"num_inference_steps": 2, "guidance_scale": SHAPES_GUIDANCE, "output_type": "pt"}
    generator = torch.Generator().manual_seed(3)
    want = load_shapes_pipeline("key-frames", folder=parts)(CLIP[-2:], "a fox", generator=generator, **best).frames[0]
    assert torch.equal(video_io.read_video("out").frames, (want * 255).round().to(torch.uint8))


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        (("interpolate", "clip"), (9, 3, SIZE, SIZE)),
        (("upscale", "clip"), (3, 3, 4 * SIZE, 4 * SIZE)),
        (("long", "a fox", "--num-frames", 4, "--passes", 1), (4, 3, SIZE, SIZE)),
    ],
)
def test_commands_take_the_model_of_their_task(inside: Path, arguments: tuple, shape: tuple) -> None:
    result = run(*arguments, "--steps", 1, "--seed", 0, "-o", "out")
    assert result.exit_code == 0, result.output
    assert video_io.read_video("out").frames.shape == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "--revision", "x"), "`--revision` has no effect without --model"),
        (("interpolate", "clip", "--height", 17), "`--height` must be a multiple of 2"),
        (("upscale", "clip", "--prompt", "a"), "`--prompt` has no effect on the model in the package"),
        (("long", "a", "--interpolation-model", "x"), "`--interpolation-model` has no effect without --model"),
        (("long", "a", "--width", 15), "`--width` must be a multiple of 2"),
    ],
)
def test_options_that_the_model_in_the_package_lacks_are_refused(inside: Path, arguments: tuple, message: str) -> None:
    assert message in error_of(run(*arguments, "-o", "out"))


@pytest.mark.parametrize("command", [("predict",), ("interpolate", "clip"), ("upscale", "clip"), ("long", "a")])
def test_a_command_says_how_to_get_a_model_that_is_not_there(
    inside: Path, command: tuple, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedded, "EMBEDDED_FOLDER", tmp_path / "nothing")
    assert "Train it by `python examples/shapes/recipe.py --stages" in error_of(run(*command, "-o", "out"))


def test_the_package_ships_what_the_cards_say(scripts: dict) -> None:
    folder = embedded.EMBEDDED_FOLDER
    assert scripts["export"].find_differences(folder) == []
    sizes = [path.stat().st_size for path in folder.rglob("*.safetensors")]
    assert 0 < sum(sizes) <= scripts["export"].LARGEST_SIZE


SETTINGS = {
    "key_frames": VideoUNetConfig,
    "interpolation": VideoUNetConfig,
    "decoder": VideoDecoderConfig,
    "super_resolution": SuperResolutionConfig,
}


@pytest.mark.parametrize("stage", SETTINGS)
def test_the_settings_of_a_stage_can_be_trained_with(stage: str) -> None:
    names = {"pretrained_model_name_or_path": "m", "train_data_dir": "d", "output_dir": "o"}
    config = SETTINGS[stage](**{**names, **read_yaml(FOLDER / f"{stage}.yaml", SETTINGS[stage])})
    assert config.checkpointing_steps <= 250  # so that little is lost when a run is stopped


def test_a_command_is_run_once_and_what_it_cost_is_kept(scripts: dict, tmp_path: Path) -> None:
    recipe, done = scripts["running"].Recipe(tmp_path), tmp_path / "done"
    command = [sys.executable, "-c", f"import time; time.sleep(0.1); open({str(done)!r}, 'w')"]
    with pytest.raises(SystemExit, match="stage: ended with status 3"):
        recipe.run("stage", done, [sys.executable, "-c", "raise SystemExit(3)"])
    recipe.run("stage", done, command)
    recipe.run("stage", done, ["no such command"])
    (cost,) = scripts["running"].read_costs(tmp_path).values()
    assert cost["runs"] == 2 and cost["seconds"] >= 0.1 and cost["peak_mib"] > 1


def test_a_stage_goes_on_from_its_checkpoint_and_finished_ones_stay(
    scripts: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {}
    recipe = scripts["recipe"].ShapesRecipe(tmp_path, quick=True)
    monkeypatch.setattr(recipe, "run", lambda name, done, command: commands.update({name: [*map(str, command)]}))
    with pytest.raises(SystemExit, match="The stage text_to_video must be finished first"):
        recipe.interpolation()
    for stage in ("text_to_video", "untrained"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "model_index.json").touch()
    recipe.key_frames()
    assert "--resume_from_checkpoint" not in commands["key_frames"]
    assert str(tmp_path / "text_to_video_clips") in commands["key_frames"]  # the clips of text-to-video serve again
    (tmp_path / "key_frames" / "checkpoint-1").mkdir(parents=True)
    recipe.key_frames()
    assert commands["key_frames"][-2:] == ["--resume_from_checkpoint", "latest"]
    assert commands["key_frames"][-4:-2] == ["--max_train_steps", "2"]


def test_the_stages_stand_in_the_order_in_which_they_build_on_each_other(scripts: dict) -> None:
    stages = scripts["recipe"].STAGES
    assert stages[:3] == ("text", "autoencoder", "image") and stages[-5:] == PARTS


def test_a_signal_reaches_what_the_recipe_runs(tmp_path: Path) -> None:
    child = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True); time.sleep(30)"
    )
    parent = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import running\n"
    parent += f"print(running.wait_for([sys.executable, '-c', {child!r}])[0])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "7\n" and process.wait() == 0
