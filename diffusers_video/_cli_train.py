"""
The command `train`: `accelerate launch` on a training script of this package.

Importing this module loads neither PyTorch nor Accelerate.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer

from diffusers_video._cli_command import INTERRUPTED, note
from diffusers_video._cli_options import option


def find_scripts() -> dict[str, Path]:
    """
    Find the training scripts of this package.

    Returns:
        `dict[str, Path]`: Files by the name that `--script` takes: `video-unet` for `train_video_unet.py`.
    """
    folder = Path(importlib.util.find_spec("diffusers_video.training").origin).parent
    return {path.stem.removeprefix("train_").replace("_", "-"): path for path in sorted(folder.glob("train_*.py"))}


SCRIPTS = find_scripts()

Precision = Literal["no", "fp16", "bf16"]


@dataclass(kw_only=True)
class LaunchOptions:
    """Arguments of `accelerate launch`."""

    num_processes: Annotated[
        int | None, option("--num-processes", min=1, help="Processes; by default one for each GPU.")
    ] = None
    cpu: Annotated[bool, option("--cpu", help="Train on the CPU even where there are GPUs.")] = False
    mixed_precision: Annotated[
        Precision | None, option("--mixed-precision", help="Type of most computations; by default no.")
    ] = None
    config_file: Annotated[
        Path | None,
        option("--config-file", help="File of `accelerate config`, for several machines, FSDP and the rest."),
    ] = None
    main_process_port: Annotated[
        int | None,
        option("--main-process-port", min=0, max=65535, help="Where processes meet; 0 for any free port."),
    ] = None


@dataclass(kw_only=True)
class TrainOptions(LaunchOptions):
    """Arguments of `train`: those of the launcher, and those that go to the script."""

    settings: Annotated[
        list[str] | None,
        typer.Argument(help="What the script is told: a YAML file, flags, or both.", show_default=False),
    ] = None
    script: Annotated[
        str, option("--script", metavar="NAME", help=f"What trains: {', '.join(SCRIPTS)}; by default video-unet.")
    ] = "video-unet"

    def __post_init__(self) -> None:
        if self.script not in SCRIPTS:
            raise ValueError(f"`--script` must be one of {list(SCRIPTS)}, but is {self.script!r}. Choose one of them.")
        if self.config_file is not None and not self.config_file.is_file():
            raise FileNotFoundError(
                f"`--config-file` must be a file of `accelerate config`, but {str(self.config_file)!r} does not exist."
            )
        if not self.settings:
            raise ValueError(
                "The script must be told what to train on, but got no settings. `diffusers-video train -- --help`"
                " lists them."
            )


def train(options: TrainOptions) -> None:
    """
    Train a model on your clips: `accelerate launch` on a training script.

    Options listed here come first; from the first other argument on, all go to the script as they are.

    The script's own flags are listed by: diffusers-video train -- --help

    Ctrl-C lets the script finish an update and save a checkpoint; again, five seconds later, it ends at once.
    """
    command, environment = launch_command(options)
    raise typer.Exit(run_launcher(command, environment))


def launch_command(options: TrainOptions) -> tuple[list[str], dict[str, str]]:
    """
    Say how the launcher is called.

    Args:
        options ([`TrainOptions`]): The arguments of the command.

    Returns:
        `tuple[list[str], dict[str, str]]`: Program with its arguments, and what is added to the environment.

    Raises:
        ValueError: If there are fewer accelerators than processes.
    """
    launcher, environment = launcher_of(options)
    return [*launcher, str(SCRIPTS[options.script]), *options.settings], environment


def launcher_of(options: LaunchOptions) -> tuple[list[str], dict[str, str]]:
    """
    Say how the launcher is called, up to what it launches.

    Args:
        options ([`LaunchOptions`]): Its arguments.

    Returns:
        `tuple[list[str], dict[str, str]]`: Program with its arguments, and what is added to the environment.

    Raises:
        ValueError: If there are fewer accelerators than processes.
    """
    named = {
        "--config_file": options.config_file,
        "--num_processes": options.num_processes,
        "--mixed_precision": options.mixed_precision,
        "--main_process_port": options.main_process_port,
    }
    flags = [part for name, value in named.items() if value is not None for part in (name, str(value))]
    environment = {}
    if _is_cpu_group(options):  # `--cpu` starts one process, however many are asked for
        flags += ["--multi_gpu", "--gpu_ids", "all", "--num_machines", "1"]
        environment["ACCELERATE_USE_CPU"] = "true"
        if "OMP_NUM_THREADS" not in os.environ:  # with `--multi_gpu` the launcher would allow one thread each
            threads = max(1, (os.cpu_count() or 1) // options.num_processes)
            flags += ["--num_cpu_threads_per_process", str(threads)]
    elif options.cpu:
        flags.append("--cpu")
    return [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *flags], environment


def _is_cpu_group(options: LaunchOptions) -> bool:
    if options.num_processes in (None, 1):
        return False
    if options.cpu or options.config_file is not None:
        return options.cpu
    import torch
    from accelerate.commands.config.config_args import default_config_file

    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if 0 < count < options.num_processes and not os.path.isfile(default_config_file):
        raise ValueError(
            f"`--num-processes` must be at most {count}, the accelerators that PyTorch sees, but is"
            f" {options.num_processes}. Lower it, add --cpu, or name the --config-file of several machines."
        )
    return count == 0


def run_launcher(command: Sequence[str], environment: dict[str, str]) -> int:
    """
    Run a launcher to its end, and hand signals on to what it started.

    Args:
        command (`Sequence[str]`): Program and arguments.
        environment (`dict[str, str]`): What is added to the environment.

    Returns:
        `int`: Its exit status; 130 if a signal ended the run, whatever the launcher makes of that.
    """
    with _SignalRelay() as relay:
        # In a session of its own, so that Ctrl-C in a terminal does not reach the launcher.
        process = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)
        relay.aim(process.pid)
        status = process.wait()
    if status and relay.is_used:
        return INTERRUPTED
    return status if status >= 0 else 128 - status


class _SignalRelay:
    """
    Hand signals on to the processes that a launcher started.

    The launcher itself is passed by: told to stop, it leaves a single script behind, and kills several after 30
    seconds, in the middle of a large checkpoint. It ends when they do.
    """

    # What is received, and what is sent: a terminal that is closed asks to stop as well.
    _signals = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM}
    if hasattr(signal, "SIGHUP"):
        _signals[signal.SIGHUP] = signal.SIGTERM

    def __init__(self) -> None:
        self._launcher: int | None = None
        self._received: list[int] = []
        self._former: dict[int, Any] = {}

    @property
    def is_used(self) -> bool:
        """`bool`: Whether a signal came."""
        return bool(self._received)

    def __enter__(self) -> _SignalRelay:
        for number in self._signals:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under `nohup`
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def aim(self, launcher: int) -> None:
        """Name the launcher; what came before goes to it."""
        self._launcher = launcher
        for number in self._received:
            self._send(number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._received:
            note("Stopping: a script that trains finishes its update and saves a checkpoint.")
        self._received.append(number)
        if self._launcher is not None:
            self._send(number)

    def _send(self, number: int) -> None:
        import psutil

        with suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(self._launcher)
            for process in launcher.children() or [launcher]:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(self._signals[number])
