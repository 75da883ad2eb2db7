"""What a run leaves on disk, so that it can stop at any moment and go on: its settings and its finished windows."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn


PLAN = "plan.json"
FORMAT = 1
SAMPLES_PER_TENSOR = 16


class WorkFolder:
    """
    A folder with `plan.json`, the settings of one run, and a safetensors file for each window that is finished.

    Every file is written under another name, forced to the disk and renamed: what has its final name is whole, however
    the run ended. One run at a time uses a folder.

    Args:
        path (`str` or `os.PathLike`): The folder; it is made where there is none, beside one that exists.

    Raises:
        TypeError: If `path` is no path.
        FileNotFoundError: If the folder that is to hold it does not exist.
        FileExistsError: If it is a file, or a folder that holds something else.
        ValueError: If its plan cannot be read.
        OSError: If it cannot be written to.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        if not isinstance(path, (str, os.PathLike)) or not str(path):
            raise TypeError(f"`work_dir` must be a path, but is {path!r}. Name a folder.")
        self.path = Path(path)
        if not self.path.absolute().parent.is_dir():
            raise FileNotFoundError(f"`work_dir` must lie in a folder that exists, but {self.path.parent} is none.")
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"`work_dir` must be a folder, but {self.path} is a file. Choose another name.")
        self.plan = self._read_plan() if self.path.is_dir() else None

    def _read_plan(self) -> dict[str, Any] | None:
        path = self.path / PLAN
        if not path.is_file():
            others = [file.name for file in self.path.iterdir() if not _is_partial(file)]
            if others:
                raise FileExistsError(
                    f"`work_dir` must be a new or empty folder, or that of a run, but {self.path} holds"
                    f" {sorted(others)[0]!r} and no {PLAN}. Choose another."
                )
            return None
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            settings, version = plan["settings"], plan["format"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"`work_dir` holds a {PLAN} that cannot be read ({error}). Choose another.") from error
        if version != FORMAT:
            raise ValueError(
                f"`work_dir` must be of a run of format {FORMAT}, but {path} is of {version}. Choose another."
            )
        return settings

    def begin(self, settings: Mapping[str, Any]) -> None:
        """
        Write the settings of a new run, or make sure that an unfinished one has the same.

        Args:
            settings (`Mapping[str, Any]`): By name, from [`describe`].

        Raises:
            ValueError: If the folder holds a run with other settings; the message names the first that differs.
            OSError: If the folder cannot be written to.
        """
        settings = json.loads(json.dumps(settings))
        if self.plan is None:
            try:
                self.path.mkdir(exist_ok=True)
            except OSError as error:
                raise _unwritable(self.path, error) from error
            self._write(PLAN, json.dumps({"format": FORMAT, "settings": settings}, indent=2).encode())
            self.plan = settings
            return
        names = [*settings, *(name for name in self.plan if name not in settings)]
        for name in names:
            before, now = self.plan.get(name), settings.get(name)
            if before != now:
                raise ValueError(
                    f"`work_dir` {self.path} holds a run with other settings: `{name}` was {_brief(before)} and is"
                    f" {_brief(now)}. Pass the same to go on, or choose another folder."
                )

    def load(self, name: str) -> Tensor | None:
        """
        Read a finished window.

        Args:
            name (`str`): From [`save`].

        Returns:
            `torch.Tensor`: On the CPU; `None` if the window is not finished.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.path / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            return load(path.read_bytes())["values"]
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}). Delete it; it is then drawn again.") from error

    def save(self, name: str, values: Tensor) -> None:
        """
        Keep a finished window.

        Args:
            name (`str`): Name of the file without suffix.
            values (`torch.Tensor`): What it holds.

        Raises:
            OSError: If it cannot be written; nothing then stands under its name.
        """
        self._write(f"{name}.safetensors", save({"values": values.detach().cpu().contiguous()}))

    def _write(self, name: str, data: bytes) -> None:
        partial = self.path / f".{name}.partial"
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path / name)
        except BaseException as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _unwritable(self.path / name, error) from error
            raise


def describe(value: Any) -> Any:
    """
    Bring a setting to a form that JSON can hold and that differs where the setting does.

    Args:
        value (`Any`): A number, text, list or dictionary; tensors, arrays and images become a digest of their values,
            models that of their configuration and of a sample of their weights, schedulers their configuration.

    Returns:
        `Any`: Plain JSON values.

    Raises:
        TypeError: If the value has no such form.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(name): describe(value[name]) for name in value}
    if isinstance(value, nn.Module):
        return _describe_model(value)
    if isinstance(value, ConfigMixin):
        return {"class": type(value).__name__, **_describe_config(value)}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, Image.Image):
        value = np.array(value)
    if isinstance(value, (Tensor, np.ndarray)):
        array = torch.as_tensor(value).detach().cpu().contiguous()
        digest = hashlib.sha256(array.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        return f"{array.dtype} {tuple(array.shape)} {digest[:16]}"
    raise TypeError(
        f"`work_dir` needs settings that can be compared with those of an earlier run, but one is a"
        f" {type(value).__name__}: {value!r}. Run without `work_dir`, or leave it out."
    )


def _describe_config(owner: ConfigMixin) -> dict[str, Any]:
    return {name: describe(owner.config[name]) for name in sorted(owner.config) if not name.startswith("_")}


def _describe_model(model: nn.Module) -> str:
    digest = hashlib.sha256(type(model).__name__.encode())
    if isinstance(model, ConfigMixin):
        digest.update(json.dumps(_describe_config(model)).encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(f"{name} {weights.dtype} {tuple(weights.shape)}".encode())
        if weights.device.type != "meta":
            flat = weights.detach().flatten()
            sample = flat[:: max(1, flat.numel() // SAMPLES_PER_TENSOR)][: SAMPLES_PER_TENSOR + 1]
            digest.update(sample.double().cpu().numpy().tobytes())
    return f"{type(model).__name__} {digest.hexdigest()[:16]}"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".partial")


def _unwritable(path: Path, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"`work_dir` cannot be written to ({error.strerror}): {path}. Make room, or choose another folder; what is"
        " finished stays, and the same call goes on from it",
    )
