"""A long video that was stopped goes on: killed at any moment, it ends as if it had not been."""

import itertools
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from torch import Tensor

from diffusers_video import LongVideoPipeline, read_video
from diffusers_video.pipelines import work_folder
from diffusers_video.pipelines.work_folder import WorkFolder
from diffusers_video.video_io import VideoWriter

from ..tiny_long_videos import kill_self, run_in_child, tiny_long
from ..tiny_pipelines import SIZE
from ..tiny_upscalers import tiny_upscaler


OPTIONS = {"num_frames": 20, "num_inference_steps": 2, "interpolation_batch_size": 2}
WINDOWS = [
    "image-000000",
    "interpolation-1-000000",
    "interpolation-2-000000",
    "interpolation-2-000002",
    "interpolation-2-000004",
    "prediction-000000",
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def finished(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.safetensors"))


def count_calls(pipeline: LongVideoPipeline) -> list[str]:
    calls = []
    for name in ("unet", "interpolation_unet", "super_resolution_unet"):
        if getattr(pipeline, name) is not None:
            getattr(pipeline, name).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    return calls


@pytest.fixture(scope="module")
def pipeline() -> LongVideoPipeline:
    pipeline = tiny_long()
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(
        pipeline.scheduler.config
    )  # draws noise as it goes
    return pipeline


@pytest.fixture(scope="module")
def whole(pipeline: LongVideoPipeline) -> Tensor:
    """The frames of a run that nothing stopped, and that left nothing on disk."""
    return pipeline("a fox", generator=seeded(), output_type="pt", **OPTIONS).frames


def when_saved(name: str, before: bool) -> Callable[[pytest.MonkeyPatch], None]:
    """Kill the process before or after a window gets its final name."""
    rename = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == f"{name}.safetensors":
            if not before:
                rename(source, target)
            kill_self()
        rename(source, target)

    return lambda patch: patch.setattr(work_folder.os, "replace", replace)


def in_step(number: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Kill the process in a call of a denoiser."""
    count = itertools.count()

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        from diffusers_video import UNetVideoConditionModel

        forward = UNetVideoConditionModel.forward
        monkeypatch.setattr(
            UNetVideoConditionModel,
            "forward",
            lambda *arguments, **keywords: kill_self() if next(count) == number else forward(*arguments, **keywords),
        )

    return patch


def at_frame(number: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Kill the process while finished frames are written."""
    write = VideoWriter._write_one

    def write_one(writer: VideoWriter, array: np.ndarray) -> None:
        write(writer, array)
        if writer.num_frames == number:
            kill_self()

    return lambda patch: patch.setattr(VideoWriter, "_write_one", write_one)


@pytest.mark.parametrize(
    ("kill", "left"),
    [
        pytest.param(in_step(0), [], id="in the image"),
        pytest.param(in_step(3), WINDOWS[:1], id="in the key frames", marks=pytest.mark.slow),
        pytest.param(when_saved("prediction-000000", before=True), WINDOWS[:1], id="saving key frames"),
        pytest.param(when_saved("prediction-000000", before=False), [WINDOWS[0], WINDOWS[-1]], id="key frames saved"),
        pytest.param(in_step(5), [WINDOWS[0], WINDOWS[-1]], id="in the first interpolation", marks=pytest.mark.slow),
        pytest.param(in_step(9), [*WINDOWS[:3], WINDOWS[-1]], id="in the second interpolation"),
        pytest.param(at_frame(17), WINDOWS, id="writing frames"),
    ],
)
def test_a_killed_run_goes_on_to_the_same_frames(
    pipeline: LongVideoPipeline,
    whole: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill: Callable[[pytest.MonkeyPatch], None],
    left: list[str],
) -> None:
    work, out = tmp_path / "run", tmp_path / "out"

    def draw(**options: object) -> Path:
        return pipeline.write(out, "a fox", work_dir=work, **OPTIONS, **options)

    with monkeypatch.context() as patch:
        kill(patch)
        assert run_in_child(lambda: draw(generator=seeded())) == 9
    assert finished(work) == sorted(left) and not out.exists()
    kept = {name: (work / f"{name}.safetensors").stat().st_mtime_ns for name in left}
    calls = count_calls(pipeline)
    torch.manual_seed(1)
    draw()  # without a generator it goes on with its own seed
    assert len(calls) == 2 * (len(WINDOWS) - len(left))
    assert finished(work) == WINDOWS
    assert all((work / f"{name}.safetensors").stat().st_mtime_ns == kept[name] for name in left)
    assert torch.equal(read_video(out).frames, (whole[0] * 255).round().to(torch.uint8))
    frames = pipeline("a fox", work_dir=work, generator=seeded(), output_type="pt", **OPTIONS).frames
    assert torch.equal(frames, whole) and len(calls) == 2 * (len(WINDOWS) - len(left))


def test_a_run_killed_again_and_again_goes_on_to_the_same_frames(
    pipeline: LongVideoPipeline, whole: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = 0
    arguments = {"work_dir": tmp_path / "run", "output_type": "pt", "generator": seeded(), **OPTIONS}
    with monkeypatch.context() as patch:
        in_step(3)(patch)
        while run_in_child(lambda: pipeline("a fox", **{**arguments, "generator": seeded()})):
            kills += 1
    assert kills == len(WINDOWS) - 1  # of two steps each, so every run finishes one window and half of another
    assert torch.equal(pipeline("a fox", **arguments).frames, whole)


def test_a_run_interrupted_by_the_keyboard_goes_on(pipeline: LongVideoPipeline, whole: Tensor, tmp_path: Path) -> None:
    count = itertools.count()

    def stop(*_: object) -> dict[str, Tensor]:
        if next(count) == 6:
            raise KeyboardInterrupt
        return {}

    arguments = {"work_dir": tmp_path / "run", "generator": seeded(), **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        pipeline.write(tmp_path / "out", "a fox", callback_on_step_end=stop, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["run"] and finished(tmp_path / "run") != WINDOWS
    got = pipeline("a fox", output_type="pt", **{**arguments, "generator": seeded()}).frames
    assert torch.equal(got, whole)


@pytest.mark.parametrize("kind", ["pixel", pytest.param("latent", marks=pytest.mark.slow)])
def test_a_run_killed_while_frames_are_enlarged_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pipeline = tiny_long(super_resolution=tiny_upscaler(kind))
    options = {"num_frames": 9, "num_passes": 0, "num_inference_steps": 1}

    def draw(name: str) -> Tensor:
        arguments = {"generator": seeded(), "work_dir": tmp_path / name, **options}
        return read_video(pipeline.write(tmp_path / f"{name}-out", "a fox", overwrite=True, **arguments)).frames

    want = draw("whole")
    plain = pipeline("a fox", generator=seeded(), output_type="pt", **options).frames
    assert torch.equal(want, (plain[0] * 255).round().to(torch.uint8))
    names = [name for name in finished(tmp_path / "whole") if name.startswith("frames")]
    assert len(names) == 3
    for number, name in enumerate(names):
        with monkeypatch.context() as patch:
            when_saved(name, before=bool(number % 2))(patch)
            assert run_in_child(lambda: draw("killed")) == 9
        done = [one for one in finished(tmp_path / "killed") if one.startswith("frames")]
        assert done == names[: number + 1 - number % 2]
    calls = count_calls(pipeline)
    (tmp_path / "killed" / f"{names[-1]}.safetensors").unlink()
    assert torch.equal(draw("killed"), want)
    assert set(calls) == {"super_resolution_unet"} and len(calls) <= 3
    assert torch.equal(draw("killed"), want) and len(calls) <= 3


def test_given_frames_belong_to_the_run(pipeline: LongVideoPipeline, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    arguments = {"num_frames": 5, "num_passes": 1, "num_inference_steps": 1, "output_type": "pt"}
    first = pipeline(frames=frames, generator=seeded(), work_dir=tmp_path / "run", **arguments).frames
    assert finished(tmp_path / "run") == ["interpolation-1-000000", "prediction-000000"]
    (tmp_path / "run" / "prediction-000000.safetensors").unlink()
    assert torch.equal(pipeline(frames=frames, work_dir=tmp_path / "run", **arguments).frames, first)
    with pytest.raises(ValueError, match="`frames` was 'torch.float32"):
        pipeline(frames=255 - frames, work_dir=tmp_path / "run", **arguments)


@pytest.fixture(scope="module")
def begun(pipeline: LongVideoPipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Arguments of a run that stopped after its first frame."""
    settings = {"prompt": "a fox", "num_frames": 5, "num_passes": 1, "num_inference_steps": 1}
    settings["work_dir"] = tmp_path_factory.mktemp("run")
    next(pipeline.stream(**settings, generator=seeded(), output_type="latent"))
    return settings


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"prompt": "a dog"}, "prompt"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 12), "guidance_scale": 1.0}, "prompt"),
        ({"num_frames": 6}, "num_frames"),
        ({"num_passes": 0}, "num_passes"),
        ({"height": 20}, "height"),
        ({"num_inference_steps": 3}, "num_inference_steps"),
        ({"guidance_scale": 3.0}, "guidance_scale"),
        ({"negative_prompt": "blue"}, "negative_prompt"),
        ({"fps": 24.0}, "fps"),
        ({"interpolation_batch_size": 2}, "interpolation_batch_size"),
        ({"stage_arguments": {"interpolation": {"eta": 0.5}}}, "stage_arguments"),
        ({"generator": seeded(1)}, "seed"),
        ({"frames": np.zeros((SIZE, SIZE, 3), np.uint8)}, "frames"),
    ],
)
def test_other_settings_are_refused_by_name(
    pipeline: LongVideoPipeline, begun: dict[str, object], change: dict[str, object], name: str
) -> None:
    before = {path: path.read_bytes() for path in begun["work_dir"].iterdir()}
    with pytest.raises(ValueError, match=f"holds a run with other settings: `{name}` was .* and is"):
        pipeline.stream(**{**begun, **change})
    assert {path: path.read_bytes() for path in begun["work_dir"].iterdir()} == before


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    settings = {"num_frames": 5, "num_passes": 1, "num_inference_steps": 1, "work_dir": tmp_path}
    pipeline, equal = tiny_long(), tiny_long()
    next(pipeline.stream(**settings, generator=seeded(), output_type="latent"))
    next(equal.stream(**settings, output_type="latent"))
    with torch.no_grad():
        pipeline.interpolation_unet.conv_out.bias += 0.01
    with pytest.raises(ValueError, match="`interpolation_unet` was 'UNetVideoConditionModel .* and is"):
        pipeline.stream(**settings)
    equal.scheduler = EulerAncestralDiscreteScheduler.from_config(equal.scheduler.config)
    with pytest.raises(ValueError, match="`scheduler` was .*DDIMScheduler.* and is"):
        equal.stream(**settings)


def test_the_form_of_the_output_may_change(pipeline: LongVideoPipeline, tmp_path: Path) -> None:
    settings = {"num_frames": 3, "num_passes": 0, "num_inference_steps": 1, "work_dir": tmp_path / "run"}
    latents = pipeline(generator=seeded(), output_type="latent", **settings).frames
    want = pipeline.make_prediction().decode_frames(latents).transpose(1, 2)
    assert torch.equal(pipeline(output_type="pt", decode_chunk_size=16, **settings).frames, want)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["settings"]["num_frames"] == 3 and "output_type" not in plan["settings"]


@pytest.mark.parametrize("name", ["out", "out.mp4"])
def test_a_full_disk_leaves_no_output_and_the_run_goes_on(
    pipeline: LongVideoPipeline, tmp_path: Path, name: str
) -> None:
    settings = {"num_frames": 4, "num_passes": 0, "num_inference_steps": 1, "height": 64, "width": 64}
    settings |= {"work_dir": tmp_path / "run", "generator": seeded()}
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    frames = pipeline(output_type="pt", **settings).frames  # windows are on the disk, the output is not
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file may grow beyond: the disk of a test
    try:
        with pytest.raises(OSError, match=r"`path` .*out.* cannot be written \(.*\), and nothing was left there"):
            pipeline.write(tmp_path / name, **{**settings, "generator": seeded()})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    path = pipeline.write(tmp_path / name, **{**settings, "generator": seeded()})
    assert read_video(path).frames.shape == (4, 3, 64, 64)
    if name == "out":
        assert torch.equal(read_video(path).frames, (frames[0] * 255).round().to(torch.uint8))


def test_a_target_that_cannot_be_written_is_refused_before_anything_is_drawn(
    pipeline: LongVideoPipeline, tmp_path: Path
) -> None:
    calls = count_calls(pipeline)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    for path, error in (
        (tmp_path / "no" / "out.mp4", FileNotFoundError),
        (tmp_path / "photos", FileExistsError),
        (tmp_path / "out.avi", ValueError),
    ):
        with pytest.raises(error, match="`path`"):
            pipeline.write(path, num_frames=3, num_inference_steps=1, work_dir=tmp_path / "run")
    assert not calls and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_window_folder_of_a_run_may_be_read_elsewhere(
    pipeline: LongVideoPipeline, whole: Tensor, tmp_path: Path
) -> None:
    arguments = {"output_type": "pt", **OPTIONS}
    pipeline("a fox", work_dir=tmp_path / "run", generator=seeded(), **arguments)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert WorkFolder(tmp_path / "moved").plan["prompt"] == "a fox"
    assert torch.equal(pipeline("a fox", work_dir=str(tmp_path / "moved"), **arguments).frames, whole)
