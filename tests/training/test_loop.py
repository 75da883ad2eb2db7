"""Parts of the loop: optimizer, length, seeds, signals."""

import importlib.util
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from diffusers_video.training.loop import StopSignal, build_optimizer, make_generator

from .tiny_runs import ModelFolder, losses, tiny_config, train


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(1))]


def test_learning_rate_is_scaled_by_what_an_update_sees() -> None:
    options = {"train_batch_size": 3, "gradient_accumulation_steps": 5, "learning_rate": 1e-3}
    plain = build_optimizer(parameters(), tiny_config("model", "out", **options), num_processes=2)
    scaled = build_optimizer(parameters(), tiny_config("model", "out", **options, scale_lr=True), num_processes=2)
    assert plain.param_groups[0]["lr"] == 1e-3
    assert scaled.param_groups[0]["lr"] == pytest.approx(1e-3 * 3 * 5 * 2)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_missing_bitsandbytes_is_named() -> None:
    with pytest.raises(ImportError, match="`use_8bit_adam` needs bitsandbytes"):
        build_optimizer(parameters(), tiny_config("model", "out", use_8bit_adam=True))


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_missing_tracker_is_named(image_model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="`report_to` names 'wandb', whose package is missing"):
        train(image_model("sd15"), tmp_path, report_to=["wandb"])


def test_float16_on_a_cpu_is_refused(image_model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`mixed_precision` must be no or bf16 on a CPU"):
        train(image_model("sd15"), tmp_path, mixed_precision="fp16")


def test_generators_differ_by_every_part_of_their_name() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 256, 0)]
    numbers = [torch.rand(1, generator=make_generator(*key)).item() for key in keys]
    assert len(set(numbers)) == len(keys)
    assert torch.rand(1, generator=make_generator(0, 0, 1)).item() == numbers[3]


def test_epochs_are_counted_in_updates(image_model: ModelFolder, tmp_path: Path) -> None:
    options = {"max_train_steps": None, "num_train_epochs": 2, "train_batch_size": 2, "gradient_accumulation_steps": 2}
    out = train(image_model("sd15"), tmp_path, **options)
    assert len(losses(out)) == 3  # 5 clips: 3 batches per epoch, 6 in all, 2 per update


def test_signals_close_together_count_as_one_and_handlers_come_back() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.is_set
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set
    assert signal.getsignal(signal.SIGTERM) is former


def test_file_in_place_of_the_output_folder_is_refused(image_model: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(NotADirectoryError, match="`output_dir` must be a folder"):
        train(image_model("sd15"), tmp_path / "out")


def test_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        train(str(tmp_path / "no" / "model"), tmp_path / "out")


def test_zero_snr_with_a_model_of_noise_is_refused(image_model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`rescale_betas_zero_snr` must not be used with a model"):
        train(image_model("sd15"), tmp_path, rescale_betas_zero_snr=True)


def test_distilled_model_is_refused(image_model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not be distilled"):
        train(image_model("lcm"), tmp_path)


def test_unknown_lora_layers_are_refused(image_model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no layer's name ends in 'to_x'"):
        train(image_model("sd15"), tmp_path, train="lora", lora_target_modules=["to_q", "to_x"])


def test_parameter_counts_and_plan_are_shown(
    image_model: ModelFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        train(image_model("sd15"), tmp_path, train_batch_size=2, gradient_accumulation_steps=3)
    assert "Training `temporal` for 2 updates" in caplog.text and "5 clips: 5 of 16x16@3" in caplog.text
    assert "6 clips per update" in caplog.text and "vae: 0 parameters train, 15,223 are frozen" in caplog.text
