"""Where diffusers' own tests come from: they are not in its package, so a checkout of its repository is needed."""

import importlib
import os
import re
import sys
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


VARIABLE = "DIFFUSERS_CHECKOUT"
PACKAGE = "dtests"  # any name but `tests`, which is ours; inside, diffusers' tests import each other relatively


def tests_folder() -> Path | None:
    """The folder `tests` of the checkout that `$DIFFUSERS_CHECKOUT` names; `None` if it names none."""
    checkout = os.environ.get(VARIABLE)
    if not checkout:
        return None
    folder = Path(checkout).expanduser().resolve() / "tests"
    if not (folder / "testing_utils.py").is_file():
        raise pytest.UsageError(
            f"`${VARIABLE}` must name a checkout of diffusers, but {checkout!r} has no file tests/testing_utils.py."
            f" Get one: {how_to_get_it()}"
        )
    return folder


def how_to_get_it() -> str:
    version = metadata.version("diffusers")
    return f"git clone --depth 1 --branch v{version} https://github.com/huggingface/diffusers"


def marker_names(folder: Path) -> set[str]:
    """Names of the markers that diffusers' decorators put on tests; they are declared in its own configuration."""
    sources = [folder / "testing_utils.py", folder / "conftest.py"]
    return {
        name
        for source in sources
        if source.is_file()
        for name in re.findall(r"pytest\.mark\.(\w+)|\"markers\", \"(\w+)", source.read_text(encoding="utf-8"))
        for name in name
        if name
    }


def diffusers_tests(module: str) -> ModuleType:
    """
    Import a module of diffusers' tests, such as `"models.testing_utils"`; without a checkout, skip the module of ours
    that asks for it.
    """
    folder = tests_folder()
    if folder is None:
        pytest.skip(
            f"`${VARIABLE}` names no checkout of diffusers. Get one: {how_to_get_it()}", allow_module_level=True
        )
    if PACKAGE not in sys.modules:
        pytest.register_assert_rewrite(PACKAGE)
        spec = spec_from_file_location(PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)])
        sys.modules[PACKAGE] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACKAGE])
    return importlib.import_module(f"{PACKAGE}.{module}")
