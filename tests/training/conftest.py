"""Models of training runs, saved once per session."""

from functools import partial
from pathlib import Path

import pytest

from .tiny_runs import ModelFolder, save_image_model


@pytest.fixture(scope="session")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """Folder of the tiny image pipeline of a family."""
    folder: Path = tmp_path_factory.mktemp("models")
    save_image_model(folder, "sd15")  # before a test limits the size of files
    return partial(save_image_model, folder)
