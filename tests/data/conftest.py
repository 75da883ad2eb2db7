"""Training sets that are made once."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from diffusers.utils import logging as diffusers_logging

from diffusers_video.data.plan import ClipPlan
from tests.data.video_sets import MAKERS, make_plan, write_jsonl, write_small


@pytest.fixture(scope="session")
def rates_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of constant, variable and NTSC rate, and one that begins late."""
    folder = tmp_path_factory.mktemp("rates")
    for name, make in MAKERS.items():
        make(folder / name)
    return folder


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven videos in two shapes with captions; one caption names a side."""
    folder = tmp_path_factory.mktemp("small")
    captions = {f"{k}.gif": f"clip {k}" for k in range(7)} | {"3.gif": "a ball rolls to the left"}
    for k, name in enumerate(captions):
        write_small(folder / name, 4 + 4 * (k % 2), size=(48, 64) if k < 5 else (64, 48))
    write_jsonl(folder, captions)
    return folder


@pytest.fixture(scope="session")
def small_plan(small_folder: Path) -> ClipPlan:
    """10 clips: 7 of 32x24@4 and 3 of 24x32@4."""
    return make_plan(small_folder, ["32x24@4", "24x32@4"])


@pytest.fixture
def capture_log() -> Iterator[Callable[[], str]]:
    """What the library has logged since the test began."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    library = diffusers_logging.get_logger("diffusers_video")
    library.addHandler(handler)
    yield stream.getvalue
    library.removeHandler(handler)
