"""What `KeyFramePredictionPipeline` promises: given frames come out as given, the others go on from them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler
from PIL import Image
from torch import Tensor

from diffusers_video import (
    AutoencoderKLVideo,
    FrameCondition,
    KeyFramePredictionPipeline,
    TextToVideoPipeline,
    VideoPipelineOutput,
)
from diffusers_video.conditioning.frames import MECHANISMS

from ..test_hub import hub_on_this_machine
from ..tiny_pipelines import SIZE, tiny_given, tiny_image_pipeline, tiny_text_to_video
from .test_scheduling import SUITED
from .test_scheduling import make as make_scheduler


STEPS = {"num_inference_steps": 2}
SAME = {"rtol": 0, "atol": 1e-6}  # what the package promises in float64
DEFAULT_SCHEDULERS = ("DDIMScheduler", "EulerAncestralDiscreteScheduler")  # the others are slow
FRAMES = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipeline: KeyFramePredictionPipeline, frames: object = FRAMES, prompt=None, seeds=(0,), **arguments) -> Tensor:
    arguments = {**STEPS, "output_type": "pt", **arguments}
    return pipeline(frames, prompt, generator=seeded(*seeds), **arguments).frames


def watch(pipeline: KeyFramePredictionPipeline) -> list[dict[str, object]]:
    """Every call of the denoiser: its sample, timestep and keywords."""
    calls = []

    def note(_, arguments: tuple, keywords: dict[str, object]) -> None:
        calls.append({"sample": arguments[0].clone(), "timestep": arguments[1], **keywords})

    pipeline.unet.register_forward_pre_hook(note, with_kwargs=True)
    return calls


@pytest.fixture(scope="module")
def pipeline() -> KeyFramePredictionPipeline:
    return tiny_given(KeyFramePredictionPipeline)


@pytest.fixture(scope="module")
def precise() -> KeyFramePredictionPipeline:
    return tiny_given(KeyFramePredictionPipeline, dtype=torch.float64)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("mechanism", ["context", "reconstruction", "replacement"])
def test_given_frames_come_out_exactly_as_given(
    pipeline: KeyFramePredictionPipeline, number: int, mechanism: str
) -> None:
    output = pipeline(FRAMES[:number], "a fox", mechanism=mechanism, **STEPS)
    assert [np.asarray(frame).shape for frame in output.frames[0]] == [(SIZE, SIZE, 3)] * 5
    for index in range(number):
        assert np.array_equal(output.frames[0][index], FRAMES[index])
    assert not np.array_equal(output.frames[0][number], FRAMES[number - 1])


def test_an_image_a_list_and_a_tensor_are_one_frame(pipeline: KeyFramePredictionPipeline) -> None:
    image = Image.fromarray(FRAMES[0])
    unit = torch.from_numpy(FRAMES[0]).permute(2, 0, 1) / 255
    want = run(pipeline, FRAMES[:1])
    for frames in (image, [image], FRAMES[0], unit, unit[None]):
        assert torch.equal(run(pipeline, frames), want)


def test_given_frames_are_decoded_on_request(pipeline: KeyFramePredictionPipeline) -> None:
    latents = run(pipeline, output_type="latent")
    decoded = run(pipeline, decode_given_frames=True)
    torch.testing.assert_close(decoded, pipeline.decode_frames(latents).transpose(1, 2))
    kept = run(pipeline)
    assert torch.equal(kept[:, 2:], decoded[:, 2:])
    assert not torch.isclose(kept[:, :2], decoded[:, :2]).all()


@pytest.mark.filterwarnings("ignore")  # torchsde alone gives thousands
@pytest.mark.parametrize(
    "name", [name if name in DEFAULT_SCHEDULERS else pytest.param(name, marks=pytest.mark.slow) for name in SUITED]
)
def test_every_scheduler_and_mechanism_keeps_given_frames_alone_and_in_a_batch(
    precise: KeyFramePredictionPipeline, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precise, "scheduler", make_scheduler(name))
    latents = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64)
    arguments, drawn = {"num_frames": 3, "num_inference_steps": 3, "output_type": "latent"}, []
    for mechanism in MECHANISMS:
        for rows in (slice(0, 2), slice(1, 2)):
            condition = FrameCondition(latents[rows], [1], is_latent=True)
            given = {"conditions": [condition], "mechanism": mechanism}
            drawn.append(run(precise, None, ["a", "b"][rows], (0, 1)[rows], **given, **arguments))
            assert torch.equal(drawn[-1][:, :, 1:2], latents[rows])
        torch.testing.assert_close(drawn[-2][1:], drawn[-1], atol=1e-5, rtol=1e-5)  # schedules are kept in float32
    assert all(torch.isfinite(one).all() and one[:, :, 0].std() > 0.1 for one in drawn)
    assert not torch.isclose(drawn[0], drawn[2]).all() and not torch.isclose(drawn[2], drawn[4]).all()


def test_without_given_frames_it_is_text_to_video(pipeline: KeyFramePredictionPipeline) -> None:
    text_to_video = TextToVideoPipeline.from_pipe(pipeline)
    text_to_video.set_progress_bar_config(disable=True)
    arguments = {"output_type": "pt", "num_frames": 5, **STEPS}
    want = text_to_video("a fox", generator=seeded(0), **arguments).frames
    assert torch.equal(run(pipeline, None, "a fox"), want)


def test_a_new_model_predicts_what_the_image_model_draws() -> None:
    pipeline = KeyFramePredictionPipeline.from_image_model(tiny_image_pipeline(), "light", num_frames=3)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.config.context_channels == 5
    given, none = (run(pipeline, one, seeds=(0,), latents=torch.ones(1, 4, 3, 8, 8)) for one in (FRAMES[:1], None))
    torch.testing.assert_close(given[:, 1:], none[:, 1:])


def test_guidance_by_frames_and_by_text_takes_three_evaluations(precise: KeyFramePredictionPipeline) -> None:
    pipeline = tiny_given(KeyFramePredictionPipeline, dtype=torch.float64)
    calls = watch(pipeline)
    scales = {"guidance_scale": 5.0, "context_guidance_scale": 2.0}
    run(pipeline, FRAMES, "a fox", negative_prompt="blue", num_inference_steps=1, **scales)
    (call,) = calls
    none, given = torch.zeros(5, dtype=torch.bool), torch.tensor([True, True, False, False, False])
    assert call["sample"].shape[0] == 3
    assert torch.equal(call["frame_mask"], torch.stack([none, given, given]))
    text = call["encoder_hidden_states"]
    assert torch.equal(text[0], text[1]) and not torch.isclose(text[1], text[2]).all()
    with torch.no_grad():
        names = ("context_latents", "frame_mask", "encoder_hidden_states")
        f_00, f_c0, f_ct = (
            pipeline.unet(
                call["sample"][:1], call["timestep"], **{name: call[name][row : row + 1] for name in names}
            ).sample
            for row in range(3)
        )
        noisy, timestep = call["sample"][:1], call["timestep"]
        pipeline.scheduler.set_timesteps(1)
        want = f_00 + 2.0 * (f_c0 - f_00) + 5.0 * (f_ct - f_c0)
        stepped = pipeline.scheduler.step(want, timestep, noisy).prev_sample
    got = run(pipeline, FRAMES, "a fox", negative_prompt="blue", num_inference_steps=1, output_type="latent", **scales)
    torch.testing.assert_close(got[:, :, 2:], stepped[:, :, 2:], **SAME)


@pytest.mark.parametrize(
    ("scales", "prompt", "rows"),
    [
        ({"guidance_scale": 1.0, "context_guidance_scale": 1.0}, "a", 1),
        ({"guidance_scale": 5.0, "context_guidance_scale": 1.0}, "a", 2),
        ({"guidance_scale": 1.0, "context_guidance_scale": 2.0}, "a", 2),
        ({}, "a", 3),
        ({}, None, 2),
    ],
)
def test_no_evaluation_is_wasted(scales: dict[str, float], prompt: str | None, rows: int) -> None:
    pipeline = tiny_given(KeyFramePredictionPipeline)
    calls = watch(pipeline)
    run(pipeline, FRAMES, prompt, num_inference_steps=1, **scales)
    assert [call["sample"].shape[0] for call in calls] == [rows]
    masks = calls[0]["frame_mask"].any(1).tolist()
    assert masks == [rows == 1 or (rows == 2 and scales.get("guidance_scale") == 5.0)] + [True] * (rows - 1)


def test_held_frames_have_the_noise_of_every_step() -> None:
    pipeline = tiny_given(KeyFramePredictionPipeline, dtype=torch.float64)
    calls = watch(pipeline)
    clean, noise = torch.randn(1, 4, 1, 8, 8).double(), torch.randn(1, 4, 5, 8, 8).double()
    condition = FrameCondition(clean, [0], is_latent=True)
    run(pipeline, None, conditions=[condition], mechanism="replacement", latents=noise, num_inference_steps=3)
    for call in calls:
        alpha = pipeline.scheduler.alphas_cumprod[call["timestep"]].double()
        want = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise[:, :, :1]
        torch.testing.assert_close(call["sample"][:, :, :1], want, atol=1e-6, rtol=0)


def test_a_weaker_condition_is_in_force_for_a_part_of_the_run() -> None:
    pipeline = tiny_given(KeyFramePredictionPipeline)
    calls = watch(pipeline)
    condition = FrameCondition(FRAMES[:1], [0], strength=0.5)
    arguments = {"conditions": [condition], "context_guidance_scale": 1.0, "num_inference_steps": 4}
    frames = run(pipeline, None, **arguments)
    assert ["frame_mask" in call for call in calls] == [True, True, False, False]
    assert not torch.isclose(frames[0, 0], torch.from_numpy(FRAMES[0]).permute(2, 0, 1) / 255).all()


def test_reconstruction_guidance_without_weight_is_replacement(precise: KeyFramePredictionPipeline) -> None:
    arguments = {"prompt": "a", "output_type": "latent"}
    replaced = run(precise, mechanism="replacement", **arguments)
    guided = [run(precise, mechanism="reconstruction", reconstruction_scale=w, **arguments) for w in (0.0, 2.0)]
    torch.testing.assert_close(guided[0], replaced, atol=1e-5, rtol=0)  # through the float32 schedule and back
    assert not torch.isclose(guided[1][:, :, 2:], replaced[:, :, 2:], atol=1e-4).all()


def test_a_model_without_context_is_guided_by_reconstruction() -> None:
    pipeline = KeyFramePredictionPipeline.from_pipe(tiny_text_to_video())
    pipeline.set_progress_bar_config(disable=True)
    frames = run(pipeline, FRAMES[0], "a fox")
    assert torch.equal(frames, run(pipeline, FRAMES[0], "a fox", mechanism="reconstruction"))
    assert not torch.equal(frames, run(pipeline, FRAMES[0], "a fox", mechanism="replacement"))
    with pytest.raises(ValueError, match="`mechanism` must not be 'context' with this `unet`"):
        run(pipeline, FRAMES[0], "a fox", mechanism="context")


def test_noise_on_given_frames_is_told_and_leaves_them_as_they_are() -> None:
    pipeline = tiny_given(KeyFramePredictionPipeline, added_time_ids=("noise_level",))
    pipeline.register_to_config(max_noise_level=250)
    calls = watch(pipeline)
    clean = run(pipeline)
    noisy = run(pipeline, noise_level=200)
    assert [call["noise_level"] for call in calls] == [0.0, 0.0, 200.0, 200.0]
    told, given = calls[2]["context_latents"][0, :, 0], calls[0]["context_latents"][0, :, 0]
    alpha = pipeline.scheduler.alphas_cumprod[200]
    noise = (told - alpha.sqrt() * given) / (1 - alpha).sqrt()
    assert 0.8 < noise.std() < 1.2
    assert torch.equal(clean[:, :2], noisy[:, :2]) and not torch.equal(clean, noisy)
    condition = FrameCondition(FRAMES, [0, 1], noise_level=200)
    assert torch.equal(run(pipeline, None, conditions=[condition]), noisy)


def test_noise_on_given_frames_leaves_the_signal_its_part() -> None:
    pipeline = tiny_given(KeyFramePredictionPipeline, added_time_ids=("noise_level",))
    pipeline.register_to_config(max_noise_level=250)
    calls, alpha = watch(pipeline), pipeline.scheduler.alphas_cumprod[200]
    latents = 100 * torch.randn(1, 4, 1, 8, 8)
    condition = FrameCondition(latents, 0, noise_level=200, is_latent=True)
    run(pipeline, None, conditions=[condition], num_inference_steps=1)
    noise = (calls[0]["context_latents"][-1, :, 0] - alpha.sqrt() * latents[0, :, 0]) / (1 - alpha).sqrt()
    assert 0.8 < noise.std() < 1.2 and noise.mean().abs() < 0.3


@pytest.mark.parametrize("num_frames", [6, 8, 9])
def test_longer_videos_go_on_window_by_window(num_frames: int) -> None:
    pipeline = tiny_given(KeyFramePredictionPipeline)
    calls = watch(pipeline)
    latents = run(pipeline, num_frames=num_frames, num_inference_steps=1, output_type="latent")
    assert latents.shape[2] == num_frames
    windows = [call["context_latents"][-1] for call in calls]
    assert len(windows) == 1 + -(-(num_frames - 5) // 3) == pipeline.count_windows(num_frames)
    for number, window in enumerate(windows[1:], start=1):
        assert torch.equal(window[:, :2], latents[0, :, 3 * number : 3 * number + 2])
    assert torch.equal(run(pipeline, num_inference_steps=1, output_type="latent"), latents[:, :, :5])


def test_windows_may_be_shorter_and_go_on_from_one_frame() -> None:
    pipeline = tiny_given(KeyFramePredictionPipeline)
    calls = watch(pipeline)
    frames = run(pipeline, FRAMES[0], num_frames=7, window_frames=4, num_context_frames=1, num_inference_steps=1)
    assert frames.shape[1] == 7 and len(calls) == 2 == pipeline.count_windows(7, 4, 1)
    assert pipeline.count_windows() == pipeline.count_windows(3) == 1
    assert all(call["frame_mask"][-1].tolist() == [True, False, False, False] for call in calls)


def test_frames_may_be_given_at_any_place(pipeline: KeyFramePredictionPipeline) -> None:
    conditions = [FrameCondition(FRAMES[0], 0), FrameCondition(FRAMES[1:], [4])]
    frames = (run(pipeline, None, conditions=conditions)[0].permute(0, 2, 3, 1) * 255).round()
    assert np.array_equal(frames[0], FRAMES[0]) and np.array_equal(frames[4], FRAMES[1])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_video_is_the_same_alone_and_in_a_batch(family: str) -> None:
    pipeline = tiny_given(KeyFramePredictionPipeline, family, dtype=torch.float64)
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    starts = np.random.default_rng(1).random((2, 2, SIZE, SIZE, 3))
    batch = run(pipeline, starts, ["a red fox", "blue"], seeds=(1, 2), num_frames=8)
    for index, prompt in enumerate(("a red fox", "blue")):
        alone = run(pipeline, starts[index], prompt, seeds=(1 + index,), num_frames=8)
        torch.testing.assert_close(batch[index], alone[0], **SAME)


def test_one_start_serves_several_prompts_and_videos(precise: KeyFramePredictionPipeline) -> None:
    batch = run(precise, FRAMES, ["a", "b"], seeds=(1, 2, 3, 4), num_videos_per_prompt=2)
    assert batch.shape[0] == 4
    torch.testing.assert_close(batch[2], run(precise, FRAMES, "b", seeds=(3,))[0], **SAME)
    several = np.stack([FRAMES, FRAMES[::-1]])
    assert run(precise, several, seeds=(1, 2)).shape[0] == 2


@pytest.mark.parametrize(
    ("output_type", "kind"), [("pt", Tensor), ("np", np.ndarray), ("pil", list), ("latent", Tensor)]
)
def test_output_has_the_documented_form(pipeline: KeyFramePredictionPipeline, output_type: str, kind: type) -> None:
    output = pipeline(FRAMES, output_type=output_type, fps=6, **STEPS)
    assert isinstance(output, VideoPipelineOutput) and isinstance(output.frames, kind)
    assert output.fps == 6.0
    if output_type != "pil":
        shapes = {"pt": (1, 5, 3, SIZE, SIZE), "np": (1, 5, SIZE, SIZE, 3), "latent": (1, 4, 5, 8, 8)}
        assert tuple(output.frames.shape) == shapes[output_type]
    frames = pipeline(FRAMES, output_type=output_type, return_dict=False, **STEPS)
    assert isinstance(frames, tuple) and len(frames) == 1


def test_given_frames_are_resized_to_the_size_asked_for(pipeline: KeyFramePredictionPipeline) -> None:
    assert run(pipeline, height=20, width=12).shape == (1, 5, 3, 20, 12)


def test_a_callback_acts_in_every_window(pipeline: KeyFramePredictionPipeline) -> None:
    steps = []

    def zero(_, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = run(pipeline, num_frames=8, callback_on_step_end=zero, output_type="latent")
    assert steps == [0, 1, 0, 1] and not latents[:, :, 2:].any() and latents[:, :, :2].any()


def test_an_interrupted_run_leaves_out_the_remaining_steps_of_every_window(
    pipeline: KeyFramePredictionPipeline,
) -> None:
    steps = []

    def stop(pipe: KeyFramePredictionPipeline, step: int, *_) -> dict[str, Tensor]:
        steps.append(step)
        pipe._interrupt = True
        return {}

    run(pipeline, num_frames=8, callback_on_step_end=stop)
    assert steps == [0]
    assert pipeline.context_guidance_scale == 1.5


@pytest.mark.slow
def test_a_saved_pipeline_gives_the_same_frames_in_a_new_process(tmp_path: Path) -> None:
    pipeline = tiny_given(KeyFramePredictionPipeline, dtype=torch.float64)
    pipeline.register_to_config(max_noise_level=100)
    want = run(pipeline)
    pipeline.save_pretrained(tmp_path / "saved")
    np.save(tmp_path / "frames.npy", FRAMES)
    script = (
        "import sys, numpy, torch\nimport diffusers_video\nfrom diffusers import DiffusionPipeline\n"
        "pipe = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float64)\n"
        "assert type(pipe).__name__ == 'KeyFramePredictionPipeline' and pipe.config.max_noise_level == 100\n"
        "out = pipe(numpy.load(sys.argv[2]), generator=[torch.Generator().manual_seed(0)], num_inference_steps=2,"
        " output_type='pt')\n"
        "torch.save(out.frames, sys.argv[3])\n"
    )
    paths = [tmp_path / name for name in ("saved", "frames.npy", "out.pt")]
    subprocess.run([sys.executable, "-c", script, *paths], check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(paths[2]), want, **SAME)


def test_it_loads_by_the_name_of_its_repository(
    pipeline: KeyFramePredictionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    cache = hub_on_this_machine(tmp_path / "saved", tmp_path, monkeypatch)
    for pipeline_class in (DiffusionPipeline, KeyFramePredictionPipeline):
        loaded = pipeline_class.from_pretrained("user/clips", cache_dir=cache)
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded) is KeyFramePredictionPipeline
    assert torch.equal(run(loaded), run(pipeline))


def test_an_autoencoder_of_videos_decodes_what_was_predicted(pipeline: KeyFramePredictionPipeline) -> None:
    vae = AutoencoderKLVideo.from_autoencoder_kl(pipeline.vae)
    other = KeyFramePredictionPipeline(**{**pipeline.components, "vae": vae}, num_frames=5, fps=8.0)
    other.set_progress_bar_config(disable=True)
    assert torch.equal(run(other)[:, :2], run(pipeline)[:, :2])
    given = {"conditions": [FrameCondition(torch.randn(1, 4, 2, 8, 8), [0, 1], is_latent=True)], "num_frames": 8}
    frames = run(other, None, **given)
    assert frames.shape[1] == 8
    torch.testing.assert_close(frames, run(pipeline, None, **given))  # new temporal layers of a decoder change nothing


def test_the_card_names_the_class(tmp_path: Path, pipeline: KeyFramePredictionPipeline) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    assert "KeyFramePredictionPipeline.from_pretrained" in (tmp_path / "saved" / "README.md").read_text()
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "saved")) is KeyFramePredictionPipeline
