"""Checkpoints that are whole or absent, and resuming from them exactly."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn


logger = get_logger(__name__)

PREFIX = "checkpoint-"
STATE_NAME = "trainer_state.json"
EMA_NAME = "ema.safetensors"
WEIGHTS_NAME = "trained_weights.safetensors"
LATEST = "latest"
_NUM_SAMPLES = 64


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed from."""


def find_checkpoints(folder: str | Path) -> list[Path]:
    """
    List the complete checkpoints of a run.

    Args:
        folder (`str` or `Path`): The run's output folder.

    Returns:
        `list[Path]`: From the oldest to the newest. Folders that were half written, lack a file or hold one of
        another size are left out.
    """
    found = []
    for path in Path(folder).glob(f"{PREFIX}*"):
        number = path.name.removeprefix(PREFIX)
        if number.isdigit() and find_damage(path) is None:
            found.append((int(number), path))
    return [path for _, path in sorted(found)]


def find_damage(path: Path) -> str | None:
    """
    Tell what is wrong with a checkpoint.

    Args:
        path (`Path`): Its folder.

    Returns:
        `str`, *optional*: The fault, or `None` if it is complete.
    """
    try:
        sizes = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{STATE_NAME}, which is written last, is missing or damaged"
    for name, size in sizes.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size} bytes instead of {size}"
    return None


def fingerprint_weights(model: nn.Module) -> str:
    """
    Tell models apart by the names, shapes and some values of their weights.

    Args:
        model (`torch.nn.Module`): The model.

    Returns:
        `str`: 16 hexadecimal digits; they depend on up to 64 values of each tensor.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().flatten()
        chosen = values[:: max(1, values.numel() // _NUM_SAMPLES)][:_NUM_SAMPLES].double().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode() + chosen.numpy().tobytes())
    return digest.hexdigest()[:16]


class Checkpointer:
    """
    Write and read the checkpoints of one run; every process calls every method.

    Each checkpoint holds the weights that train, optimizer, gradient scaler and random states (through Accelerate, so
    that sharded training works), the moving average, and a JSON file with the counters, the schedule of the learning
    rate and the position in the data. It is written under another name, the JSON file last, and then renamed.

    Args:
        accelerator (`Accelerator`): With model and optimizer prepared.
        folder (`str` or `Path`): The run's output folder.
        identity (`Mapping[str, Any]`): JSON values that must be equal where a run is resumed, by name.
        total_limit (`int`, *optional*): Checkpoints to keep.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: str | Path,
        identity: Mapping[str, Any],
        total_limit: int | None = None,
    ) -> None:
        self.accelerator, self.folder = accelerator, Path(folder)
        self.identity = json.loads(json.dumps(dict(identity)))
        self.total_limit = total_limit
        accelerator.register_save_state_pre_hook(self._save_trained_weights)
        accelerator.register_load_state_pre_hook(self._load_trained_weights)

    def save(self, step: int, state: Mapping[str, Any], ema: EMAModel | None = None) -> Path:
        """
        Write a checkpoint, then delete the oldest above the limit.

        Args:
            step (`int`): Optimizer updates done.
            state (`Mapping[str, Any]`): JSON values to get back from [`Checkpointer.load`].
            ema (`EMAModel`, *optional*): Moving average.

        Returns:
            `Path`: The checkpoint.

        Raises:
            OSError: In every process, if it could not be written in one; nothing is left of it then.
        """
        target = self.folder / f"{PREFIX}{step}"
        partial = self.folder / f".{target.name}.partial"
        error = self._attempt(lambda: _make_empty(partial), only_main=True)
        error = error or self._attempt(lambda: self._write(partial, ema))
        error = error or self._attempt(lambda: self._finish(partial, target, step, state), only_main=True)
        if error is not None:
            if self.accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                f"The checkpoint of step {step} could not be written to {str(self.folder)!r}: {error}. Nothing is left"
                " of it, and earlier checkpoints are whole. Make room, and resume from the latest."
            )
        logger.info(f"Wrote {target}")
        self._delete_oldest()
        return target

    def _attempt(self, action: Any, only_main: bool = False) -> str | None:
        # All processes learn of a failure in one of them; a lone exception would leave the others waiting.
        error = None
        if self.accelerator.is_main_process or not only_main:
            try:
                action()
            except (OSError, RuntimeError, SafetensorError) as caught:
                error = f"{type(caught).__name__}: {caught}"
        failed = torch.tensor([float(error is not None)], device=self.accelerator.device)
        if self.accelerator.reduce(failed, "sum").item():
            return error or "another process failed"
        return None

    def _write(self, partial: Path, ema: EMAModel | None) -> None:
        self.accelerator.save_state(str(partial), safe_serialization=True)
        if ema is not None and self.accelerator.is_main_process:
            tensors = {str(index): tensor.cpu().contiguous() for index, tensor in enumerate(ema.shadow_params)}
            save_file(tensors, partial / EMA_NAME)

    def _finish(self, partial: Path, target: Path, step: int, state: Mapping[str, Any]) -> None:
        sizes = {str(path.relative_to(partial)): path.stat().st_size for path in partial.rglob("*") if path.is_file()}
        content = {"step": step, "identity": self.identity, "state": state, "files": sizes}
        (partial / STATE_NAME).write_text(json.dumps(content, indent=1), encoding="utf-8")
        if target.exists():  # of a run that was killed after it wrote this, and resumed from an earlier one
            _remove(target)
        os.replace(partial, target)

    def _delete_oldest(self) -> None:
        if self.total_limit is not None and self.accelerator.is_main_process:
            for path in find_checkpoints(self.folder)[: -self.total_limit]:
                _remove(path)
        self.accelerator.wait_for_everyone()

    def choose(self, wanted: str | None) -> Path | None:
        """
        Find the checkpoint to resume from.

        Args:
            wanted (`str`, *optional*): `"latest"`, or a folder.

        Returns:
            `Path`, *optional*: The checkpoint; `None` to begin anew.

        Raises:
            FileNotFoundError: If the folder does not exist.
            CheckpointError: If it is no complete checkpoint, is of another model or settings, or if the output folder
                holds checkpoints and none is wanted.
        """
        found = find_checkpoints(self.folder)
        if wanted is None:
            if found:
                raise CheckpointError(
                    f"`output_dir` holds checkpoints of an earlier run, such as {found[-1].name!r}. Pass"
                    " `resume_from_checkpoint=latest` to go on from there, or another `output_dir`."
                )
            return None
        if wanted == LATEST:
            if not found:
                logger.info(f"No complete checkpoint in {self.folder}; the run begins anew.")
                return None
            path = found[-1]
        else:
            path = Path(wanted)
            if not path.is_dir():
                raise FileNotFoundError(f"`resume_from_checkpoint` must be a folder or `latest`, but is {wanted!r}.")
        damage = find_damage(path)
        if damage is not None:
            raise CheckpointError(
                f"`resume_from_checkpoint` must be a complete checkpoint, but of {str(path)!r} {damage}. Take another."
            )
        self._check_identity(path)
        return path

    def _check_identity(self, path: Path) -> None:
        theirs = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))["identity"]
        names = sorted(self.identity.keys() | theirs.keys())
        differing = [name for name in names if self.identity.get(name) != theirs.get(name)]
        if differing:
            text = "; ".join(f"`{n}` was {theirs.get(n)!r}, is {self.identity.get(n)!r}" for n in differing)
            raise CheckpointError(
                f"`resume_from_checkpoint` must be of the same model and settings, but of {str(path)!r} {text}. Resume"
                " with the same ones, or start anew in another `output_dir`."
            )

    def load(self, path: Path, ema: EMAModel | None = None) -> dict[str, Any]:
        """
        Bring everything back to where a checkpoint was written.

        Args:
            path (`Path`): As [`Checkpointer.choose`] returned.
            ema (`EMAModel`, *optional*): Moving average to fill; its counter is in what is returned.

        Returns:
            `dict[str, Any]`: `step`, and the `state` that was saved.

        Raises:
            CheckpointError: If it was written by another number of processes.
        """
        random_states = sorted(path.glob("random_states_*.pkl"))
        if len(random_states) != self.accelerator.num_processes:
            raise CheckpointError(
                f"`resume_from_checkpoint` was written by {len(random_states)} processes, but there are"
                f" {self.accelerator.num_processes}. Launch as many."
            )
        self.accelerator.load_state(str(path))
        if ema is not None:
            tensors = load_file(path / EMA_NAME)
            for index, shadow in enumerate(ema.shadow_params):
                shadow.copy_(tensors[str(index)])
        content = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))
        return {"step": content["step"], **content["state"]}

    def _save_trained_weights(self, models: list[nn.Module], weights: list[Any], folder: str) -> None:
        # Frozen weights lie in the image model already. Sharded models arrive here without weights: Accelerate saved
        # them itself.
        while weights:
            weights.pop()
            if self.accelerator.is_main_process:
                tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._trained(models)}
                save_file(tensors, Path(folder) / WEIGHTS_NAME)

    def _load_trained_weights(self, models: list[nn.Module], folder: str) -> None:
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            return
        tensors = load_file(Path(folder) / WEIGHTS_NAME)
        with torch.no_grad():
            for name, parameter in self._trained(models):
                parameter.copy_(tensors[name])
        models.clear()

    def _trained(self, models: list[nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
        model = self.accelerator.unwrap_model(models[0])
        return [(name, value) for name, value in model.named_parameters() if value.requires_grad]


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _remove(path: Path) -> None:
    # Renamed first: a process that is killed while deleting leaves nothing that looks like a checkpoint.
    doomed = path.with_name(f".{path.name}.deleting")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(path, doomed)
    shutil.rmtree(doomed)
