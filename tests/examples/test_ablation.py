"""The ablation: peers start as the image model and take the same arguments, runs go on, and the report says it all."""

import copy
import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import typer
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers import Transformer2DModel, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from typer.testing import CliRunner

from diffusers_video import TextToVideoPipeline
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.training import loop
from diffusers_video.training.objectives import denoising_loss

from ..tiny_models import image_inputs, tiny_unet2d, video_inputs
from ..tiny_pipelines import TEXT_WIDTH, tiny_image_pipeline, tiny_scheduler


PEERS = ("animatediff", "modelscope")
SETTINGS = """\
train_data_dir: shapes
resolution: 16
num_frames: 3
max_train_steps: 2
use_ema: true
ema_decay: 0.9
num_heldout_clips: 2
num_heldout_timesteps: 2
num_validation_inference_steps: 1
num_shapes_clips: 4
checkpointing_steps: 1
"""


@pytest.fixture(scope="module")
def variants(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("ablation_variants")


@pytest.fixture(scope="module")
def report(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("ablation_report")


@pytest.fixture(scope="module")
def ablation(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("ablation")


@pytest.fixture(params=[None, "text"], ids=["plain", "pooled text"])
def unet2d(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    """The image model of Stable Diffusion, or one whose time embedding reads the text, as that of the recipe."""
    return tiny_unet2d(addition_embed_type=request.param, addition_embed_type_num_heads=2)


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def test_every_variant_draws_each_frame_as_the_image_model(variants: ModuleType, unet2d: UNet2DConditionModel) -> None:
    inputs = video_inputs(unet2d)
    before = copy.deepcopy(unet2d.state_dict())
    want = unet2d(**image_inputs(inputs), return_dict=False)[0].unflatten(0, (2, 3)).transpose(1, 2)
    for name in variants.VARIANTS:
        model = variants.build_variant(name, unet2d, 3).eval()
        output = model(**inputs, return_dict=False)[0]
        torch.testing.assert_close(output, want, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(model(**inputs).sample, want)
    assert all(torch.equal(value, before[name]) for name, value in unet2d.state_dict().items())


@pytest.mark.parametrize("name", PEERS)
def test_layers_of_peers_mix_the_frames_once_they_are_trained(
    variants: ModuleType, unet2d: UNet2DConditionModel, name: str
) -> None:
    model = variants.build_variant(name, unet2d, 3).eval()
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = video_inputs(unet2d)
    first = model(**inputs).sample
    inputs["sample"][:, :, 2] += 1
    second = model(**inputs).sample
    assert not torch.allclose(first[:, :, 0], second[:, :, 0])


@pytest.mark.parametrize("name", PEERS)
def test_all_layers_of_peers_train_and_no_others(
    variants: ModuleType, unet2d: UNet2DConditionModel, name: str
) -> None:
    model = variants.build_variant(name, unet2d, 3).train()
    inputs = video_inputs(unet2d)
    latents, timesteps = inputs.pop("sample"), inputs.pop("timestep")
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.1)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    for _ in range(3):
        noise = torch.randn_like(latents)
        denoising_loss(model, tiny_scheduler(), latents, inputs, noise=noise, timesteps=timesteps).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert changed and changed == set(trained(model))


def test_peers_stand_behind_every_spatial_pair(variants: ModuleType) -> None:
    unet2d = tiny_unet2d()
    model = variants.build_variant("modelscope", unet2d, 3)
    resnets = sum(isinstance(layer, ResnetBlock2D) for layer in unet2d.modules())
    attentions = sum(isinstance(layer, Transformer2DModel) for layer in unet2d.modules())
    layers = [name.split(".")[-1] for name, _ in model.named_modules()]
    assert layers.count("temp_conv") == resnets and layers.count("temp_attention") == attentions
    assert layers.count("transformer_in") == 1


def test_image_models_that_want_more_than_text_are_refused(variants: ModuleType) -> None:
    with pytest.raises(ValueError, match="must read text alone"):
        variants.build_variant("light", tiny_unet2d("sdxl"), 3)
    with pytest.raises(ValueError, match="`name` must be one of"):
        variants.build_variant("heavy", tiny_unet2d(), 3)


@pytest.mark.parametrize("name", ["light", *PEERS])
def test_a_pipeline_draws_with_every_kind_of_model(variants: ModuleType, name: str) -> None:
    image_pipeline = tiny_image_pipeline()
    pipeline = TextToVideoPipeline.from_image_model(image_pipeline, num_frames=3)
    pipeline.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "output_type": "pt", "generator": torch.Generator().manual_seed(0)}
    want = pipeline("a cat", **call).frames
    pipeline.unet = variants.build_variant(name, image_pipeline.unet, 3).eval()
    call["generator"].manual_seed(0)
    torch.testing.assert_close(pipeline("a cat", **call).frames, want, atol=1e-4, rtol=0)
    assert pipeline.unet.config.cross_attention_dim == TEXT_WIDTH


def test_captions_differ_in_the_motion_alone(load_benchmark: Callable[[str], ModuleType]) -> None:
    clips = ShapesDataset(6, num_frames=2, height=16, width=16, motions=["left", "grows"], shapes=["star"])
    for index in range(6):
        scene = clips.scene(index)
        captions = load_benchmark("ablation_measures").other_captions(scene, clips.motions)
        assert captions[scene.objects[0].motion] == scene.caption
        assert captions["left"].replace("moves left", "grows") == captions["grows"] != captions["left"]


def test_interval_of_a_difference_by_hand(report: ModuleType) -> None:
    mean, half = report.paired_difference(np.array([1.0, 2.0, 4.0]), np.array([0.0, 2.0, 2.0]))
    assert (mean, half) == pytest.approx((1.0, 1.959964 / 3**0.5))
    assert report.paired_difference(np.array([1.0]), np.array([0.5])) == (0.5, math.inf)


def made_up_numbers() -> dict[str, Any]:
    """Numbers of two presets and a peer, two seeds each."""

    def run(seed: int, updates: int, loss: float, right: float) -> dict[str, Any]:
        scores = {"num_clips": 4, "colour": 1.0, "shape": right, "motion": 0.25, "together": 0.0, "kept": 0.5}
        errors = [[loss, loss + 0.2], [loss - 0.1, loss + 0.1]]
        return {
            "seed": seed,
            "updates": updates,
            "errors": errors,
            "words": [True, False],
            "scores": {**scores, "roughness": None},
        }

    cost = {"trained": 1000, "frozen": 5, "flops": 2e9, "call_seconds": 0.1, "peak_bytes": 2**20}
    runs = {
        "videoldm": [run(0, 5, 0.3, 0.5), run(1, 5, 0.5, 1.0)],
        "light": [run(0, 10, 0.2, 0.5), run(1, 10, 0.2, 0.5)],
    }
    settings = {"clips": 2, "timesteps": 2, "word_clips": 2, "word_timestep": 0.85, "motions": 6, "videos": 4}
    settings |= {"steps": 3, "guidance": 3.0, "seeds": 2, "train_batch_size": 4, "learning_rate": 1e-3}
    costs = {"image": {**cost, "flops": 1e9}, "videoldm": {**cost, "seconds": 2.0}, "light": {**cost, "seconds": 1.0}}
    return {
        "torch": "2",
        "diffusers": "0",
        "threads": 1,
        "settings": {**settings, "lr_scheduler": "cosine"},
        "reference": "light",
        "costs": costs,
        "runs": {"updates": runs, "time": runs},
    }


def test_table_shows_costs_losses_rates_and_intervals(report: ModuleType) -> None:
    text = report.render_report(made_up_numbers(), "ablation.svg")
    assert "![Held-out loss over the time of an update](ablation.svg)" in text
    assert "| 1,000 | 2.00 | 2.00 | 2.000 | 2.00 | 1 |" in text
    row = next(line for line in text.splitlines() if line.startswith("| videoldm | 5 |"))
    assert "0.4500 {0.3500, 0.5500}" in row and "| +0.2000 +- 0.0000 |" in row
    assert (
        "| 50% (15-85) | 100% (68-100) | 75% (41-93) | 25% (7-59) | 0% (0-32) | 50% (22-78) | no object seen |" in row
    )
    assert text.count("Presets: light has the lowest loss; behind it videoldm +0.2000 +- 0.0000.") == 2
    assert {len(line.split("|")) for line in text.splitlines() if line.startswith("|")} == {10, 13}


def test_table_leaves_out_what_was_not_drawn(report: ModuleType) -> None:
    numbers = made_up_numbers()
    for one in (one for runs in numbers["runs"].values() for ones in runs.values() for one in ones):
        one["scores"] = None
    row = next(line for line in report.render_report(numbers).splitlines() if line.startswith("| light | 10 |"))
    assert row.endswith("| 50% (15-85) |  |  |  |  |  |  |")


def test_plot_is_the_same_file_for_the_same_numbers(report: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    numbers = made_up_numbers()
    for name in ("one.svg", "two.svg"):
        report.plot_losses(numbers, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"videoldm" in (tmp_path / "one.svg").read_bytes()


@pytest.fixture
def run(ablation: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """Run the command at tiny size, with the image model of `tiny_image_pipeline`."""
    app = typer.Typer()
    app.command()(ablation.main)
    tiny_image_pipeline(scheduler=tiny_scheduler()).save_pretrained(tmp_path / "model")
    (tmp_path / "settings.yaml").write_text(SETTINGS)

    def invoke(*options: str, flags: tuple[str, ...] = ()) -> Any:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        arguments = [str(tmp_path / "settings.yaml"), "--model", str(tmp_path / "model"), "--clips", "shapes"]
        arguments += ["--output-dir", str(tmp_path / "docs"), "--num-videos", "1", "--only", "table", *options]
        return CliRunner().invoke(app, [*arguments, "--", *flags])

    return invoke


@pytest.mark.slow
def test_a_stopped_ablation_goes_on_and_ends_as_one_that_was_not(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ("--variants", "image,light,modelscope", "--work-dir", str(tmp_path / "work"))
    updates, update = [], loop.train_update

    def stop_in_the_second_run(*arguments: Any) -> dict[str, Tensor]:
        updates.append(1)
        if len(updates) == 3:
            signal.raise_signal(signal.SIGTERM)
        return update(*arguments)

    monkeypatch.setattr(loop, "train_update", stop_in_the_second_run)
    assert run(*options).exit_code == loop.EXIT_CODE_WHEN_STOPPED
    assert len(updates) == 3 and not (tmp_path / "docs").exists()
    result = run(*options)
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "docs" / "ablation.json").read_text())
    assert {name for runs in numbers["runs"].values() for name in runs} == {"image", "light", "modelscope"}
    assert [one["updates"] for one in numbers["runs"]["updates"]["modelscope"]] == [2]
    assert "| modelscope | 2 |" in (tmp_path / "docs" / "ablation.md").read_text()

    updates.clear()
    assert run(*options).exit_code == 0 and not updates  # nothing is trained again
    monkeypatch.setattr(loop, "train_update", lambda *arguments: updates.append(1) or update(*arguments))
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "work" / "costs.json", tmp_path / "other")
    assert run(*options[:-1], str(tmp_path / "other")).exit_code == 0 and len(updates) >= 4
    straight = json.loads((tmp_path / "docs" / "ablation.json").read_text())
    assert straight["runs"] == numbers["runs"] and straight["costs"] == numbers["costs"]


def test_a_plan_trains_nothing_and_another_setting_needs_another_folder(
    run: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("--variants", "light", "--work-dir", str(tmp_path / "work"), "--only", "plan", "--seeds", "2")
    with caplog.at_level("INFO"):
        assert run(*options).exit_code == 0
    assert caplog.text.count("light, seed") == 2 and "minutes of processor time in all" in caplog.text
    assert not list((tmp_path / "work").glob("*-seed-*"))
    with pytest.raises(ValueError, match="`learning_rate` was 0.0001 and is 0.5"):
        raise run(*options, flags=("--learning_rate", "0.5", "--max_train_steps", "5")).exception


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--variants", "light,heavy"), "names 'heavy'"),
        (("--variants", "videoldm"), "must be one of `--variants`"),
        (("--reference", "image"), "must be one of `--variants`"),
    ],
)
def test_wrong_names_are_refused(run: Callable[..., Any], options: tuple[str, str], message: str) -> None:
    result = run(*options)
    assert result.exit_code == 2 and message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--train", "all"), "`train` must be temporal"),
        (("--task", "key-frames"), "`task` must be text-to-video"),
    ],
)
def test_settings_of_another_training_are_refused(
    run: Callable[..., Any], flags: tuple[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        raise run(flags=flags).exception


def test_equal_time_gives_slow_layers_fewer_updates(load_benchmark: Callable[[str], ModuleType]) -> None:
    costs = {"light": {"seconds": 1.0}, "slow": {"seconds": 2.4}, "fast": {"seconds": 0.8}, "image": {}}
    updates = load_benchmark("ablation_runs").equal_time_updates
    assert [updates(costs, name, "light", 100) for name in costs] == [100, 42, 125, 100]
