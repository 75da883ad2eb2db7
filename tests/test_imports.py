"""Imports: they point downwards, and `import diffusers_video` costs milliseconds."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import diffusers_video


ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "diffusers_video": "diffusers_video",
    "pipelines": "diffusers_video.pipelines",
    "training": "diffusers_video.training",
}
RANK = {  # `video_io` and private modules stand below all of these
    **dict.fromkeys(("layers", "data", "metrics"), 0),
    **dict.fromkeys(("models", "schedulers", "conditioning"), 1),
    **dict.fromkeys(("pipelines", "conversion", "hub", "embedded"), 2),
    "training": 3,
    "cli": 4,
}
LIBRARY_FILES = [path for folder in PACKAGES for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGES[folder], *rest]).removesuffix(".__init__")


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "diffusers_video" or len(parts) == 1:
        return None
    return "cli" if parts[1].startswith("_cli_") else parts[1]


def imported_modules(path: Path) -> set[str]:
    """Full names of the modules that the file imports, inside functions as well."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    layer = layer_of(module_name(path))
    if layer is None:  # diffusers_video/__init__.py names every layer
        return
    for module in imported_modules(path):
        other = layer_of(module)
        assert RANK.get(other, -1) <= RANK.get(layer, -1), f"{path} must not import {module}"


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_mapped_packages_are_imported_by_their_installed_name(path: Path) -> None:
    assert not {module.split(".")[0] for module in imported_modules(path)} & {"pipelines", "training"}


@pytest.mark.parametrize("package", ["pipelines", "training"])
def test_mapped_packages_import_the_library_absolutely(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        levels = {n.level for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)}
        assert levels <= {0}, f"{path} runs as a file too, so it must not import relatively"


def test_importing_the_package_takes_milliseconds_and_loads_no_library() -> None:
    code = (
        "import sys, time, json; start = time.perf_counter(); import diffusers_video;"
        "print(json.dumps([time.perf_counter() - start, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    seconds, modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"torch", "diffusers", "transformers", "huggingface_hub", "numpy", "PIL"} & set(modules)
    assert seconds < 0.25  # 5 ms on an idle core; importing torch alone takes ten times the bound


def test_every_public_name_is_defined_where_the_table_says() -> None:
    for module, names in diffusers_video._PUBLIC.items():
        for name in names:
            assert getattr(diffusers_video, name) is getattr(importlib.import_module(module), name)
            assert module == "diffusers" or getattr(diffusers_video, name).__module__ == module


def test_names_for_editors_are_the_public_names() -> None:
    tree = ast.parse(Path(diffusers_video.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))
    listed = {alias.asname for node in block.body for alias in node.names if alias.asname}
    assert listed == set(diffusers_video._MODULE_OF)


def test_dir_lists_names_that_are_not_loaded_yet() -> None:
    assert {*diffusers_video.__all__, "models", "pipelines", "training"} <= set(dir(diffusers_video))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'diffusers_video' has no attribute 'UNetVidoe'"):
        diffusers_video.UNetVidoe  # noqa: B018


def test_no_name_of_ours_hides_one_of_diffusers() -> None:
    import diffusers

    assert not diffusers_video.LOADABLE_NAMES & set(dir(diffusers))


def test_no_folder_of_ours_is_taken_for_a_pipeline_folder_of_diffusers() -> None:
    from diffusers import pipelines

    folders = {part for path in LIBRARY_FILES for part in module_name(path).split(".")[:-1]}
    assert not [folder for folder in folders if hasattr(pipelines, folder)]
