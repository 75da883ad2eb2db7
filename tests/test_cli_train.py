"""`diffusers-video train`: what the launcher is told, what goes to the script, and how a run is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diffusers_video import _cli_train
from diffusers_video._cli_train import SCRIPTS, TrainOptions, launch_command, run_launcher
from diffusers_video.training import train_video_unet
from diffusers_video.training.checkpoints import find_checkpoints

from .test_cli import error_of, run
from .training.tiny_runs import SETTINGS, losses, save_image_model


SCRIPT = str(Path(train_video_unet.__file__))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """The launches that were asked for; none is done, and each ends with status 7."""
    calls: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(_cli_train, "run_launcher", lambda *arguments: calls.append(arguments) or 7)
    return calls


def split(command: list[str]) -> tuple[list[str], list[str]]:
    """What the launcher is told, and what the script is told."""
    assert command[:4] == [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    place = command.index(SCRIPT)
    return command[4:place], command[place + 1 :]


def test_scripts_are_found_by_their_files() -> None:
    assert str(SCRIPTS["video-unet"]) == SCRIPT
    names = {path.name for path in Path(SCRIPT).parent.glob("train_*.py")}
    assert {f"train_{name.replace('-', '_')}.py" for name in SCRIPTS} == names


@pytest.mark.parametrize(
    "passed",
    [
        ["settings.yaml", "--max_train_steps", "10"],
        ["--train_data_dir", "clips", "--mixed_precision", "fp16", "--cpu", "--num_processes", "3", "--debug"],
        ["settings.yaml", "--help"],
        ["--use_ema", "--cpu", "--help", "--", "--debug"],
        ["--buckets", "512x320@16", "320x512@8", "--seed=-1", "--validation_prompts", "a red circle", ""],
    ],
    ids=["file", "flags", "help", "flags without value", "odd values"],
)
def test_the_script_gets_everything_from_the_first_argument_of_its_own(passed: list[str], launched: list) -> None:
    for first in ([], ["--main-process-port", "0"]):
        result = run("train", *first, *passed)
        assert result.exit_code == 7, result.output
        flags, told = split(launched[-1][0])
        assert told == passed and flags == ["--main_process_port", "0"][: len(first)]


def test_the_help_of_the_script_is_asked_for_after_two_dashes(launched: list) -> None:
    run("train", "--", "--help")
    assert split(launched[0][0]) == ([], ["--help"])
    assert "train -- --help" in run("train", "--help").stdout and len(launched) == 1


def test_options_of_the_launcher_are_written_with_either_dash(launched: list, tmp_path: Path) -> None:
    file = tmp_path / "accelerate.yaml"
    file.touch()
    options = {"config-file": file, "num-processes": 4, "mixed-precision": "bf16", "main-process-port": 1234}
    for dash in "-_":
        run(
            "train",
            *(part for name, value in options.items() for part in (f"--{name.replace('-', dash)}", value)),
            "x",
        )
    wanted = ["--config_file", str(file), "--num_processes", "4", "--mixed_precision", "bf16"]
    wanted += ["--main_process_port", "1234"]
    assert [split(command) for command, _ in launched] == [(wanted, ["x"])] * 2


def test_one_process_on_the_cpu_is_a_plain_launch() -> None:
    command, environment = launch_command(TrainOptions(settings=["x"], cpu=True))
    assert split(command)[0] == ["--cpu"] and not environment


@pytest.mark.parametrize("num_cpus", [1, 8])
def test_several_processes_on_the_cpu_are_a_group_that_shares_the_cores(
    num_cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: num_cpus)
    command, environment = launch_command(TrainOptions(settings=["x"], cpu=True, num_processes=2))
    flags = split(command)[0]
    assert "--multi_gpu" in flags and "--cpu" not in flags and environment == {"ACCELERATE_USE_CPU": "true"}
    assert flags[flags.index("--num_cpu_threads_per_process") + 1] == str(max(1, num_cpus // 2))


def test_several_processes_need_as_many_accelerators(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def launch(count: int) -> list[str]:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        return split(launch_command(TrainOptions(settings=["x"], num_processes=2))[0])[0]

    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none"))
    assert "--multi_gpu" in launch(0)  # otherwise one process would start, without a word
    assert launch(2) == ["--num_processes", "2"]
    with pytest.raises(ValueError, match="`--num-processes` must be at most 1, .* but is 2"):
        launch(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "must be told what to train on"),
        (("--script", "nothing", "x"), r"`--script` must be one of \[.*'video-unet'.*\], but is 'nothing'"),
        (("--config-file", "nowhere.yaml", "x"), "'nowhere.yaml' does not exist"),
    ],
    ids=["no settings", "unknown script", "no such file"],
)
def test_a_wrong_call_is_one_line_and_launches_nothing(arguments: tuple, message: str, launched: list) -> None:
    assert re.search(message, error_of(run("train", *arguments))) and not launched


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("raise SystemExit(9)", 9),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; raise SystemExit(7 if os.environ.get('COLOUR') == 'red' else 0)", 7),
    ],
    ids=["well", "failed", "killed", "environment"],
)
def test_the_status_is_that_of_the_launcher(code: str, status: int) -> None:
    assert run_launcher([sys.executable, "-c", code], {"COLOUR": "red"}) == status


# What is launched leaves its script behind when it is told to stop, as Accelerate does.
LAUNCHER = """
import subprocess, sys
raise SystemExit(subprocess.call([sys.executable, "-c", sys.argv[1], *sys.argv[2:]]) != 0)
"""
SAVING = """
import pathlib, signal, sys, time
stops = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stops.append(1))
pathlib.Path(sys.argv[1], "started").touch()
while not stops:
    time.sleep(0.01)
time.sleep(0.5)
pathlib.Path(sys.argv[1], "saved").touch()
raise SystemExit(int(sys.argv[2]))
"""
RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests behind itself ignores it
from diffusers_video._cli_train import run_launcher
sys.exit(run_launcher(sys.argv[1:], {}))
"""


def wait_for(is_reached: Callable[[], bool], process: subprocess.Popen) -> None:
    while not is_reached():
        assert process.poll() is None, "ended too soon"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "script_status", "status"),
    [
        pytest.param(number, status, status, id=f"{number.name}-{status}", marks=[] if is_fast else pytest.mark.slow)
        for number, status, is_fast in [
            (signal.SIGINT, 130, True),
            (signal.SIGTERM, 0, True),
            (signal.SIGHUP, 130, True),
            (signal.SIGINT, 0, False),
            (signal.SIGTERM, 130, False),
            (signal.SIGHUP, 0, False),
        ]
    ],
)
def test_a_signal_lets_the_script_save_before_anything_ends(
    number: signal.Signals, script_status: int, status: int, tmp_path: Path
) -> None:
    launcher = [sys.executable, "-c", LAUNCHER, SAVING, tmp_path, script_status]
    process = subprocess.Popen([sys.executable, "-c", RUN, *map(str, launcher)], start_new_session=True)
    wait_for((tmp_path / "started").exists, process)
    os.killpg(process.pid, number)  # as from a terminal
    assert process.wait(30) == status
    assert (tmp_path / "saved").exists()


def test_a_signal_before_there_is_a_script_ends_the_launcher(tmp_path: Path) -> None:
    code = f"import pathlib, time; pathlib.Path({str(tmp_path)!r}, 'started').touch(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", RUN, sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "started").exists, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


def start(model: str, out: Path, *options: str, **settings: Any) -> subprocess.Popen:
    file = out.parent / "settings.yaml"
    content = {**SETTINGS, "resolution": 32, "num_frames": 2, "pretrained_model_name_or_path": model, **settings}
    file.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "diffusers_video.cli", "train", *options, str(file), "--output_dir", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


PROCESSES = pytest.mark.parametrize(
    "options", [("--cpu",), ("--cpu", "--num-processes", "2", "--main-process-port", "0")], ids=["one", "two"]
)


@pytest.mark.slow
@PROCESSES
def test_processes_train_together(options: tuple[str, ...], tmp_path: Path) -> None:
    process = start(save_image_model(tmp_path, "sd15"), tmp_path / "run", *options)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-3000:]
    assert len(losses(tmp_path / "run")) == 2
    assert len(list((tmp_path / "run" / "checkpoint-2").glob("random_states_*"))) == len(options[1:2]) + 1


@pytest.mark.slow
@PROCESSES
def test_ctrl_c_leaves_a_checkpoint_and_status_130(options: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(save_image_model(tmp_path, "sd15"), out, *options, max_train_steps=100_000)
    wait_for(lambda: (out / "log.jsonl").is_file() and len((out / "log.jsonl").read_bytes().splitlines()) > 3, process)
    os.killpg(process.pid, signal.SIGINT)  # as from a terminal
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors.decode()[-3000:]
    assert len(find_checkpoints(out)) == 1
