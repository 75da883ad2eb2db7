"""What every test starts from: no network, one thread per worker, fixed seeds, and the golden files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; threads on top of them only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor


if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

GOLDENS_VARIABLE = "DIFFUSERS_VIDEO_GOLDENS"


class Golden(NamedTuple):
    """Numbers of a reference implementation: its tensors by name, and how they were made."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def goldens_folder() -> Path:
    """Where the golden files lie: `$DIFFUSERS_VIDEO_GOLDENS`, or `tests/goldens`."""
    return Path(os.environ.get(GOLDENS_VARIABLE) or Path(__file__).parent / "goldens")


@pytest.fixture(scope="session")
def load_golden(goldens_folder: Path) -> Callable[[str], Golden]:
    """
    Read `<name>.safetensors`. A missing file skips the test, or fails it when `$DIFFUSERS_VIDEO_GOLDENS` is set: who
    names a folder wants the comparison.
    """

    def load(name: str) -> Golden:
        path = goldens_folder / f"{name}.safetensors"
        if not path.is_file():
            missing = pytest.fail if os.environ.get(GOLDENS_VARIABLE) else pytest.skip
            missing(f"golden file {path} does not exist")
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            return Golden(tensors, json.loads((file.metadata() or {}).get("config", "{}")))

    return load
