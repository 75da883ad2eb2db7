"""Long videos of PVDM: the frames of its chain of clips, runs that stop and go on, files, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from diffusers_video import (
    KeyFramePredictionPipeline,
    LongVideoPipeline,
    PairedDDIMScheduler,
    UnconditionalVideoPipeline,
    read_video,
)

from ..tiny_long_videos import kill_self, run_in_child
from ..tiny_triplane import some_videos, tiny_autoencoder_triplane, tiny_unet_triplane
from ..tiny_unconditional import tiny_unconditional


OPTIONS = {"num_frames": 5, "num_inference_steps": 2, "num_next_inference_steps": 1}  # clips have 2
BEFORE = some_videos(1, (3, 8, 12))[0].transpose(0, 1) * 0.5 + 0.5


@pytest.fixture(scope="module")
def clips() -> UnconditionalVideoPipeline:
    torch.manual_seed(0)
    parts = (tiny_unet_triplane(), PairedDDIMScheduler(), tiny_autoencoder_triplane())
    pipeline = UnconditionalVideoPipeline(*parts, num_frames=2, fps=4.0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipe(clips: UnconditionalVideoPipeline) -> LongVideoPipeline:
    return silent(LongVideoPipeline.from_pipelines(clips, num_frames=5))


@pytest.fixture(scope="module")
def whole(clips: UnconditionalVideoPipeline) -> Tensor:
    return frames_of(clips, generator=seeded(), **OPTIONS)


def silent(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frames_of(pipeline: DiffusionPipeline, **options: object) -> Tensor:
    return torch.stack(list(pipeline.stream(output_type="pt", **options)))


def count_calls(pipeline: DiffusionPipeline) -> tuple[list[int], Any]:
    calls: list[int] = []
    return calls, pipeline.unet.register_forward_pre_hook(lambda *_: calls.append(1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"context_guidance_scale": 2.5, "reencode_clips": True, "generator": [seeded()]},
        {"previous_clip": BEFORE, "eta": 0.0, "num_frames": 3},
        {"num_next_inference_steps": None, "stage_arguments": {"prediction": {"timesteps": [400]}}, "num_frames": 3},
        {"num_next_inference_steps": None, "num_frames": 2, "height": 4, "width": 8, "fps": 5.0},
    ],
    ids=["steps", "guidance", "behind a video", "timesteps", "one clip"],
)
def test_it_draws_the_frames_of_the_chain(
    pipe: LongVideoPipeline, clips: UnconditionalVideoPipeline, options: dict
) -> None:
    options = {**OPTIONS, **options}
    output = pipe(output_type="pt", **{"generator": seeded(), **options})
    stage = options.pop("stage_arguments", {}).get("prediction", {})
    want = frames_of(clips, **{**options, **stage, "generator": seeded()})
    assert torch.equal(output.frames[0], want) and len(want) == options["num_frames"]
    assert output.fps == options.get("fps", 4.0)


def test_files_streams_and_arrays_hold_the_same_frames(pipe: LongVideoPipeline, whole: Tensor, tmp_path: Path) -> None:
    calls, hook = count_calls(pipe)
    frames = pipe.stream(output_type="pt", generator=seeded(), **OPTIONS)
    assert not calls and torch.equal(next(frames), whole[0]) and len(calls) == 2
    hook.remove()
    options = {name: value for name, value in OPTIONS.items() if name != "num_frames"}  # 5 by its configuration
    array = pipe(output_type="np", generator=seeded(), **options).frames
    assert np.array_equal(array, whole.permute(0, 2, 3, 1)[None].numpy())
    images = pipe(generator=seeded(), **OPTIONS).frames[0]
    written = read_video(pipe.write(tmp_path / "frames", generator=seeded(), **OPTIONS))
    assert written.fps == 4.0 and len(images) == 5
    assert np.array_equal(written.frames[4].permute(1, 2, 0).numpy(), np.asarray(images[4]))


def test_a_trained_pipeline_and_a_saved_one_load(
    pipe: LongVideoPipeline, clips: UnconditionalVideoPipeline, whole: Tensor, tmp_path: Path
) -> None:
    clips.save_pretrained(tmp_path / "trained")
    loaded = LongVideoPipeline.from_pretrained(tmp_path / "trained", num_frames=9)
    assert loaded.config.num_frames == 9 and loaded.config.prediction_settings["num_frames"] == 2
    loaded.save_pretrained(tmp_path / "long")
    again = silent(DiffusionPipeline.from_pretrained(tmp_path / "long"))
    assert type(again) is LongVideoPipeline and again.config.num_frames == 9 and again.default_fps() == 4.0
    assert torch.equal(frames_of(again, generator=seeded(), **OPTIONS), whole)
    assert LongVideoPipeline.from_pipe(pipe).unet is pipe.unet


def test_the_folder_of_a_model_of_key_frames_loads_with_its_settings(tmp_path: Path) -> None:
    trained = tiny_unconditional("video", max_noise_level=10, use_frame_mask=True, num_noise_levels=11)
    trained.vae.register_to_config(decode_chunk_size=4, decode_chunk_overlap=1)
    trained.save_pretrained(tmp_path / "trained")
    pipeline = LongVideoPipeline.from_pretrained(tmp_path / "trained")
    prediction = pipeline.make_prediction()
    assert prediction.config.max_noise_level == 10 and pipeline.default_fps() == 4.0
    prediction.save_pretrained(tmp_path / "prediction")
    again = LongVideoPipeline.from_pretrained(tmp_path / "prediction").make_prediction()
    assert type(again) is KeyFramePredictionPipeline and again.config.num_frames == prediction.config.num_frames == 8


@pytest.mark.parametrize("stop", [1, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_that_stops_goes_on_to_the_same_frames(
    pipe: LongVideoPipeline, whole: Tensor, stop: int, tmp_path: Path
) -> None:
    options = {"work_dir": tmp_path / "run", **OPTIONS}
    frames = pipe.stream(generator=seeded(), output_type="pt", **options)
    first = [next(frames) for _ in range(stop)]
    frames.close()
    assert torch.equal(torch.stack(first), whole[:stop])
    calls, hook = count_calls(pipe)
    assert torch.equal(frames_of(pipe, **options), whole)
    assert len(calls) == {1: 2, 3: 1, 5: 0}[stop]  # of 2 + 1 + 1 steps
    source = seeded()
    assert torch.equal(frames_of(pipe, generator=source, **options), whole)
    hook.remove()
    after = seeded()
    frames_of(pipe, generator=after, **OPTIONS)
    assert torch.equal(source.get_state(), after.get_state())


def test_a_run_without_a_source_of_noise_keeps_its_own(pipe: LongVideoPipeline, tmp_path: Path) -> None:
    options = {"work_dir": tmp_path / "run", "reencode_clips": True, **OPTIONS}
    drawn = frames_of(pipe, **options)
    (tmp_path / "run" / "clip-000001.safetensors").unlink()  # the last clip is read
    assert torch.equal(frames_of(pipe, **options), drawn)
    assert not torch.equal(frames_of(pipe, **{**options, "work_dir": tmp_path / "other"}), drawn)


def test_a_killed_run_goes_on(pipe: LongVideoPipeline, whole: Tensor, tmp_path: Path) -> None:
    options = {"work_dir": tmp_path / "run", "generator": seeded(), **OPTIONS}

    def kill(pipeline: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
        seen.append(step)
        return {} if len(seen) < 4 else kill_self()

    seen: list[int] = []
    assert run_in_child(lambda: frames_of(pipe, callback_on_step_end=kill, **options)) == 9
    assert (tmp_path / "run" / "clip-000001.safetensors").is_file()
    assert not (tmp_path / "run" / "clip-000002.safetensors").exists()
    assert torch.equal(frames_of(pipe, **{**options, "generator": None}), whole)


def test_a_callback_ends_it_with_the_clips_that_are_finished(
    pipe: LongVideoPipeline, whole: Tensor, tmp_path: Path
) -> None:
    def stop(pipeline: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
        seen.append(type(pipeline).__name__)
        pipeline._interrupt = len(seen) in (1, 4)
        return {}

    seen: list[str] = []
    options = {"work_dir": tmp_path / "run", "callback_on_step_end": stop, **OPTIONS}
    with pytest.raises(RuntimeError, match="was interrupted before its first frames"):
        pipe(generator=seeded(), **options)
    assert torch.equal(frames_of(pipe, **options), whole[:2]) and pipe.interrupt
    assert seen == ["UnconditionalVideoPipeline"] * 4
    seen.clear()
    with pytest.raises(RuntimeError, match="interrupted after 2 frames, and nothing was written to .* goes on from"):
        seen += ["UnconditionalVideoPipeline"] * 3
        pipe.write(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert torch.equal(frames_of(pipe, **options), whole) and not pipe.interrupt


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"generator": seeded(1)}, "seed"),
        ({"num_frames": 6}, "num_frames"),
        ({"num_next_inference_steps": 2}, "num_next_inference_steps"),
        ({"previous_clip": BEFORE}, "previous_clip"),
        ({"reencode_clips": True}, "reencode_clips"),
        ({"context_guidance_scale": 2.0}, "context_guidance_scale"),
    ],
)
def test_other_settings_of_a_run_are_refused(
    pipe: LongVideoPipeline, change: dict, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "begun"
    options = {"work_dir": folder, **OPTIONS}
    next(pipe.stream(generator=seeded(), **options))
    with pytest.raises(ValueError, match=f"holds a run with other settings: `{name}` was .* and is"):
        pipe.stream(**{**options, **change})


def test_a_clip_of_nan_is_not_kept(clips: UnconditionalVideoPipeline, tmp_path: Path) -> None:
    pipeline = silent(LongVideoPipeline.from_pipelines(clips))
    unet = tiny_unet_triplane()
    with torch.no_grad():
        unet.conv_out.bias.fill_(float("nan"))
    pipeline.register_modules(unet=unet)
    with pytest.raises(FloatingPointError, match="Clip 0 gave NaN"):
        pipeline(work_dir=tmp_path / "run", **OPTIONS)
    assert not list((tmp_path / "run").glob("clip-*"))


EMBEDS = torch.zeros(1, 4, 8)
NO_EFFECT = {
    "prompt": "a fox",
    "negative_prompt": "blue",
    "prompt_embeds": EMBEDS,
    "pooled_prompt_embeds": EMBEDS,
    "temporal_prompt_embeds": EMBEDS,
    "guidance_scale": 1.0,
    "frames": BEFORE,
    "num_passes": 1,
    "num_context_frames": 1,
    "interpolation_batch_size": 2,
    "use_super_resolution": True,
    "decode_chunk_size": 8,
}


@pytest.mark.parametrize("name", NO_EFFECT)
def test_arguments_of_other_stages_are_refused(pipe: LongVideoPipeline, name: str, tmp_path: Path) -> None:
    instead = {"guidance_scale": "context_guidance_scale", "frames": "previous_clip"}
    way_out = f", or pass `{instead[name]}`" if name in instead else ""
    with pytest.raises(ValueError, match=f"`{name}` has no effect with this `unet`, .* Leave it out{way_out}"):
        pipe.stream(work_dir=tmp_path / "run", **{name: NO_EFFECT[name]})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"output_type": "latent"}, ValueError, "`output_type` must not be 'latent' with this `unet`"),
        ({"output_type": "gif"}, ValueError, "`output_type`"),
        ({"num_frames": 0}, ValueError, "`num_frames` must be"),
        ({"num_frames": 2}, ValueError, "`num_next_inference_steps` has an effect only"),
        ({"stage_arguments": {"image": {}}}, ValueError, "`stage_arguments` must be for prediction, but one"),
        ({"stage_arguments": {"prediction": {"eta": 1}}}, ValueError, "must be among timesteps, sigmas, but one"),
        ({"stage_arguments": {"prediction": 3}}, TypeError, "`stage_arguments` must be a dict of dicts"),
        ({"generator": [seeded()] * 2}, ValueError, "`generator` must"),
        ({"height": 6}, ValueError, "`height` must be a multiple of 4 in each clip"),
        ({"work_dir": 3}, TypeError, "`work_dir` must be a path"),
        ({"num_passes": -1}, ValueError, "`num_passes` has no effect"),
    ],
)
def test_bad_calls_are_refused(pipe: LongVideoPipeline, options: dict, error: type[Exception], message: str) -> None:
    calls, hook = count_calls(pipe)
    with pytest.raises(error, match=message):
        pipe(**{**OPTIONS, **options})
    hook.remove()
    assert not calls


def test_parts_that_do_not_fit_are_refused(clips: UnconditionalVideoPipeline) -> None:
    parts = {**clips.components, "text_encoder": None, "tokenizer": None}
    with pytest.raises(ValueError, match="`interpolation_unet` has no effect with this `unet`"):
        LongVideoPipeline(**parts, interpolation_unet=clips.unet)
    with pytest.raises(
        ValueError, match="`super_resolution_unet` has .*VideoSuperResolutionPipeline.stream` enlarges"
    ):
        LongVideoPipeline(**parts, super_resolution_unet=clips.unet)
    with pytest.raises(ValueError, match="`interpolation_settings` has no effect"):
        LongVideoPipeline(**parts, interpolation_settings={"num_frames": 5})
    with pytest.raises(ValueError, match="`prediction_settings` must be settings of UnconditionalVideoPipeline"):
        LongVideoPipeline(**parts, prediction_settings={"rate": 4})
    with pytest.raises(
        ValueError, match="`unet` must read the clip before, but this UNetTriplaneModel was built with"
    ):
        LongVideoPipeline(**{**parts, "unet": tiny_unet_triplane(use_previous_clip=False)})
    with pytest.raises(TypeError, match="`prediction` must be a KeyFramePredictionPipeline, but is a Unconditional"):
        LongVideoPipeline.from_pipelines(tiny_unconditional())
