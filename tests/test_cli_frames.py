"""The commands `predict` and `interpolate`: what they write, and what they refuse before any model is loaded."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import Result

from diffusers_video import FrameInterpolationPipeline, KeyFramePredictionPipeline, _cli_frames, video_io

from .test_cli import error_of, run
from .tiny_pipelines import SIZE, tiny_given, tiny_image_pipeline, tiny_text_to_video


SMALL = ("--steps", 1, "--seed", 0)
CLIP = torch.randint(0, 256, (9, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Pipelines `prediction`, `interpolation`, `video` (from text) and `image`, and given frames: a folder `clip` of 9
    frames at 8 fps, its `clip.mp4`, `image.png`, and a `bare` folder of 3 images without a rate.
    """
    folder = tmp_path_factory.mktemp("models")
    tiny_given(KeyFramePredictionPipeline).save_pretrained(folder / "prediction")  # 5 frames at 8 fps
    tiny_given(FrameInterpolationPipeline).save_pretrained(folder / "interpolation")
    tiny_text_to_video().save_pretrained(folder / "video")
    tiny_image_pipeline().save_pretrained(folder / "image")
    video_io.write_video(CLIP, folder / "clip", fps=8)
    video_io.write_video(CLIP, folder / "clip.mp4", fps=8)
    video_io.write_video(CLIP[:, :, :15], folder / "odd", fps=8)
    video_io.write_video(CLIP[:1], folder / "one", fps=8)
    Image.fromarray(CLIP[0].permute(1, 2, 0).numpy()).save(folder / "image.png")
    (folder / "bare").mkdir()
    for number in range(3):
        Image.fromarray(CLIP[number].permute(1, 2, 0).numpy()).save(folder / "bare" / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frames_of(result: Result, path: str = "out") -> Tensor:
    assert result.exit_code == 0, result.output
    return video_io.read_video(path).frames


def predict(models: Path, *arguments: Any, model: str = "prediction") -> Result:
    return run("predict", *arguments, "--model", models / model, *SMALL)


def interpolate(models: Path, *arguments: Any, model: str = "interpolation") -> Result:
    return run("interpolate", *arguments, "--model", models / model, *SMALL)


def test_a_prediction_begins_with_the_last_frames_of_the_video_at_the_models_rate(inside: Path, models: Path) -> None:
    result = predict(models, models / "clip", "-o", "out", "--num-frames", 7)
    frames = frames_of(result)
    assert torch.equal(frames[:2], CLIP[-2:])
    assert result.stdout == "Wrote out: 7 frames, 16x16 pixels, 8 fps, seed 0\n"
    assert video_io.probe_video("out").fps == 8 and not torch.equal(frames[2], CLIP[-1])


def test_given_frames_are_as_far_apart_as_those_of_the_result(inside: Path, models: Path) -> None:
    frames = frames_of(predict(models, models / "clip", "-o", "out", "--fps", 2))
    assert torch.equal(frames[:2], CLIP[[4, 8]])
    assert video_io.probe_video("out").fps == 2
    only = frames_of(predict(models, models / "clip", "-o", "only", "--fps", "1/2", "--num-given", 1), "only")
    assert torch.equal(only[0], CLIP[8]) and not torch.equal(only[1], CLIP[8])


def test_an_image_or_nothing_is_gone_on_from(inside: Path, models: Path) -> None:
    image = frames_of(predict(models, models / "image.png", "-o", "out", "--prompt", "a fox"))
    assert image.shape[0] == 5 and torch.equal(image[0], CLIP[0])
    nothing = frames_of(predict(models, "-o", "nothing", "--height", 20, "--width", 24), "nothing")
    assert nothing.shape == (5, 3, 20, 24)
    bare = frames_of(predict(models, models / "bare", "-o", "bare"), "bare")
    assert torch.equal(bare[:2], CLIP[1:3])


def test_a_prediction_plays(inside: Path, models: Path) -> None:
    result = predict(models, models / "clip.mp4", "-o", "a.mp4", "--fps", "30000/1001")
    assert result.exit_code == 0, result.output
    info = video_io.probe_video("a.mp4")
    assert (info.num_frames, info.fps, info.codec) == (5, Fraction(30000, 1001), "h264")


@pytest.mark.parametrize(("passes", "number"), [(1, 29), pytest.param(2, 113, marks=pytest.mark.slow)])
def test_eight_key_frames_become_29_then_113_and_stay(inside: Path, models: Path, passes: int, number: int) -> None:
    video_io.write_video(CLIP[:8], "keys", fps="15/8")
    result = interpolate(models, "keys", "-o", "out", "--passes", passes, "--context-guidance-scale", 1)
    frames = frames_of(result)
    assert len(frames) == number and torch.equal(frames[:: 4**passes], CLIP[:8])
    assert video_io.probe_video("out").fps == Fraction(15, 8) * 4**passes


def test_images_without_a_rate_take_that_of_the_model_or_the_one_asked_for(inside: Path, models: Path) -> None:
    for name, options, fps in (("own", (), 8), ("asked", ("--fps", 12), 12)):
        frames = frames_of(interpolate(models, models / "bare", "-o", name, *options), name)
        assert torch.equal(frames[::4], CLIP[:3]) and video_io.probe_video(name).fps == fps


def test_the_rate_of_the_result_reaches_the_denoiser(
    inside: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, load = [], _cli_frames._load

    def watched(*arguments: Any, **settings: Any) -> Any:
        pipeline = load(*arguments, **settings)
        pipeline.unet.register_forward_pre_hook(lambda _, __, words: told.append(words["fps"]), with_kwargs=True)
        return pipeline

    monkeypatch.setattr(_cli_frames, "_load", watched)
    assert interpolate(models, models / "bare", "-o", "out", "--passes", 2, "--fps", 24).exit_code == 0
    assert told == [6.0] * 2 + [24.0] * 8


@pytest.mark.parametrize("command", [predict, interpolate])
def test_a_model_of_text_alone_is_guided_by_reconstruction(command: Any, inside: Path, models: Path) -> None:
    frames = frames_of(command(models, models / "clip", "-o", "out", model="video"))
    want = CLIP[[6, 8]] if command is predict else CLIP  # the model's 4 fps are every second frame
    assert len(frames) == (3 if command is predict else 33)
    assert torch.equal(frames[:2] if command is predict else frames[::4], want)


def test_options_of_sampling_reach_the_pipeline(inside: Path, models: Path) -> None:
    base = ("--prompt", "a fox")
    changes = {
        "plain": (),
        "text": ("--guidance-scale", 2),
        "context": ("--context-guidance-scale", 4),
        "replacement": ("--mechanism", "replacement"),
        "reconstruction": ("--mechanism", "reconstruction"),
        "weight": ("--mechanism", "reconstruction", "--reconstruction-scale", 50),
        "negative": ("--negative-prompt", "blue"),
        "rescale": ("--guidance-rescale", 0.7),
        "scheduler": ("--scheduler", "euler-ancestral"),
        "windows": ("--num-frames", 5, "--window-frames", 4, "--num-context-frames", 1),
    }
    drawn = {
        name: frames_of(predict(models, models / "clip", *base, *change, "-o", name), name)
        for name, change in changes.items()
    }
    names = list(drawn)
    assert not [(a, b) for a in names for b in names[: names.index(a)] if torch.equal(drawn[a][2:], drawn[b][2:])]
    decoded = frames_of(predict(models, models / "clip", *base, "--decode-given-frames", "-o", "decoded"), "decoded")
    assert not torch.equal(decoded[:2], CLIP[-2:]) and torch.equal(decoded[2:], drawn["plain"][2:])


BOTH = {
    "no model": (("--model", "./nowhere"), "`--model` must be .* './nowhere' does not exist"),
    "image model": (
        ("--model", "{models}/image"),
        "`--model` must be a video model, but .* is a UNet2DConditionModel",
    ),
    "component": (("--model", "{models}/video/unet"), "has no model_index.json"),
    "revision of a folder": (("--revision", "x"), "`--revision` has no effect on"),
    "guidance without prompt": (("--guidance-scale", 3), "`--guidance-scale` has no effect without --prompt"),
    "negative without prompt": (("--negative-prompt", "x"), "`--negative-prompt` has no effect without --prompt"),
    "rescale without prompt": (("--guidance-rescale", 0.5), "`--guidance-rescale` has no effect without --prompt"),
    "weight of replacement": (
        ("--mechanism", "replacement", "--reconstruction-scale", 2),
        "`--reconstruction-scale` has no effect on mechanism replacement",
    ),
    "context guidance of replacement": (
        ("--mechanism", "replacement", "--context-guidance-scale", 2),
        "`--context-guidance-scale` has no effect on mechanism replacement",
    ),
    "context guidance not finite": (("--context-guidance-scale", "inf"), "must be a finite number"),
    "fps text": (("--fps", "fast"), "`fps` must be a finite number"),
    "height": (("--height", 17), "`--height` must be a multiple of 2, but is 17"),
    "output that stands": (("-o", "{models}/clip.mp4"), "`--output` .* exists"),
    "suffix": (("-o", "a.avi"), "must end in .mp4"),
    "unknown device": (("--device", "abacus"), "`--device` must be cpu, cuda"),
    "offload on the CPU": (("--device", "cpu", "--offload", "model"), "`--offload` model has no effect on the CPU"),
}
PREDICTIONS = {
    "missing image": (("nowhere.png",), "`FRAMES` must be an image or a video, but nowhere.png does not exist"),
    "missing video": (("nowhere.mp4",), "nowhere.mp4 does not exist"),
    "broken image": (("{models}/broken.png",), "broken.png"),
    "given without frames": (("--num-given", 1), "`--num-given` has no effect without"),
    "two of an image": (("{models}/image.png", "--num-given", 2), "`--num-given` must be 1 with an image"),
    "too short": (("{models}/clip", "--fps", "1/2"), "`FRAMES` must show 2 frames that are 2 s apart"),
    "odd frames": (("{models}/odd",), "`--height of FRAMES` must be a multiple of 2, but is 15"),
}
INTERPOLATIONS = {
    "one frame": (("{models}/one",), "`FRAMES` must be at least two, but .* holds 1"),
    "an image": (("{models}/image.png",), "image.png"),
    "missing": (("nowhere.mp4",), "nowhere.mp4 does not exist"),
    "odd frames": (("{models}/odd",), "`--height of FRAMES` must be a multiple of 2, but is 15"),
    "fps of a gif": (("{models}/clip", "-o", "a.gif", "--passes", 2), "`fps` of a .gif file must be at most 50"),
}


@pytest.fixture
def without_loading(inside: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, in which loading a model fails the test."""
    monkeypatch.setattr(_cli_frames, "_load", lambda *_, **__: pytest.fail("a model was loaded"))
    return inside


def assert_refused(command: str, model: str, models: Path, case: tuple[tuple, str], given: tuple = ()) -> None:
    options = [str(option).format(models=models) for option in (*given, *case[0])]
    result = run(command, *([] if "--model" in options else ["--model", models / model]), *options)
    assert re.search(case[1], error_of(result))


@pytest.mark.parametrize("name", BOTH)
def test_a_wrong_call_of_either_is_one_line_and_status_2_before_a_model_is_loaded(
    name: str, models: Path, without_loading: Path
) -> None:
    for command, model in (("predict", "prediction"), ("interpolate", "interpolation")):
        assert_refused(command, model, models, BOTH[name], ("{models}/clip",))
    assert not list(without_loading.iterdir())


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_wrong_prediction_is_refused_before_a_model_is_loaded(
    name: str, models: Path, without_loading: Path
) -> None:
    assert_refused("predict", "prediction", models, PREDICTIONS[name])


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_a_wrong_interpolation_is_refused_before_a_model_is_loaded(
    name: str, models: Path, without_loading: Path
) -> None:
    assert_refused("interpolate", "interpolation", models, INTERPOLATIONS[name])


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("predict", ("--num-given", 3)),
        ("predict", ("--window-frames", 1)),
        ("predict", ("--num-context-frames", 3)),
        ("predict", ("--mechanism", "magic")),
        ("interpolate", ("--passes", 0)),
        ("interpolate", ("--reconstruction-scale", -1)),
        ("interpolate", ("--noise-level", -1)),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(command: str, options: tuple, without_loading: Path) -> None:
    result = run(command, "clip.mp4", "--model", "m", *options)
    assert result.exit_code == 2 and options[0] in result.stderr and "Traceback" not in result.stderr


def test_key_frames_at_several_rates_need_one_to_be_named(models: Path, without_loading: Path) -> None:
    video_io.write_video(CLIP[:3], "uneven", fps=8)
    (without_loading / "uneven" / "video.json").write_text('{"fps": 8, "timestamps": ["0", "1/8", "1"]}')
    case = (("uneven",), "`FRAMES` must have one frame rate, but uneven has several. Choose one by --fps")
    assert_refused("interpolate", "interpolation", models, case)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--noise-level", 5), "`noise_level` has an effect only on a model"),
        (("--window-frames", 2, "--num-context-frames", 2), "`num_context_frames` must be at most 2 and below"),
        (("--num-context-frames", 2), "`num_context_frames` has no effect on 5 frames"),
    ],
)
def test_what_the_pipeline_refuses_is_one_line_and_leaves_no_file(
    options: tuple, message: str, inside: Path, models: Path
) -> None:
    assert message in error_of(predict(models, models / "clip", "-o", "a.mp4", *options))
    assert not list(inside.iterdir())
