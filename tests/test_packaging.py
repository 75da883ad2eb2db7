"""What an installed copy holds, from wherever it is imported, and the files that say what it needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import diffusers_video
from diffusers_video import _registration


ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["diffusers_video", "pipelines", "training", "setup.py", "pyproject.toml", "README.md", "LICENSE"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WHERE = """
import importlib.util, json, sys
import diffusers_video, diffusers_video.pipelines, diffusers_video.training
within = importlib.util.find_spec("diffusers_video.pipelines.scheduling")
modules = [diffusers_video, diffusers_video.pipelines, diffusers_video.training]
print(json.dumps([*(module.__file__ for module in modules), within.origin]))
assert not {"pipelines", "training"} & set(sys.modules), "loaded a second time under another name"
"""


def files_seen_from(folder: Path, path: Path | None = None, python: str = sys.executable) -> list[str]:
    """
    Where a fresh process in `folder` finds the package, its two mapped packages and a module of one of them. With
    `path`, that folder replaces everything installed.
    """
    flags = ["-S"] if path else []
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    run = subprocess.run([python, *flags, "-c", WHERE], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def expected_files(root: Path, is_checkout: bool) -> list[str]:
    library = root / "diffusers_video"
    mapped = root if is_checkout else library
    files = [library / "__init__.py", *(mapped / name / "__init__.py" for name in ("pipelines", "training"))]
    return [str(file) for file in (*files, mapped / "pipelines" / "scheduling.py")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: building in the real checkout would leave files there."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def plain_install(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("plain")
    pip("install", "--no-deps", "--no-build-isolation", "--no-index", "--target", target, checkout)
    return target


def test_this_environment_finds_the_mapped_packages_from_another_folder(tmp_path: Path) -> None:
    library, *others = files_seen_from(tmp_path)
    root = Path(library).parents[1]
    assert [library, *others] == expected_files(root, is_checkout=(root / "setup.py").exists())


def test_plain_install_finds_the_mapped_packages_from_another_folder(plain_install: Path, tmp_path: Path) -> None:
    assert files_seen_from(tmp_path, path=plain_install) == expected_files(plain_install, is_checkout=False)


def test_plain_install_loses_no_package_in_the_checkouts_root(plain_install: Path, checkout: Path) -> None:
    # The checkout's own folder comes first on the path, so that every module must come from there.
    assert files_seen_from(checkout, path=plain_install) == expected_files(checkout, is_checkout=True)


def test_a_checkout_never_mixes_with_another_one_that_is_installed(checkout: Path) -> None:
    assert files_seen_from(checkout) == expected_files(checkout, is_checkout=True)


def test_plain_install_holds_every_source_file(plain_install: Path) -> None:
    installed = {path.relative_to(plain_install / "diffusers_video") for path in plain_install.rglob("*.py")}
    library = {path.relative_to(ROOT / "diffusers_video") for path in (ROOT / "diffusers_video").rglob("*.py")}
    mapped = {path.relative_to(ROOT) for name in ("pipelines", "training") for path in (ROOT / name).rglob("*.py")}
    assert installed == library | mapped
    assert (plain_install / "diffusers_video" / "py.typed").exists()


@pytest.mark.slow
def test_editable_install_finds_the_mapped_packages_from_every_folder(checkout: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    source = tmp_path / "checkout"
    shutil.copytree(checkout, source)
    pip("--python", python, "install", "--no-deps", "--editable", source)
    assert files_seen_from(tmp_path, python=str(python)) == expected_files(source, is_checkout=True)
    assert files_seen_from(source, python=str(python)) == expected_files(source, is_checkout=True)


@pytest.mark.parametrize(
    "name", sorted({*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])})
)
def test_constraints_pin_a_version_that_the_package_accepts(name: str) -> None:
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    versions = {package.lower().replace("_", "-"): version for package, version in pins.items()}
    requirement = Requirement(name)
    assert versions[requirement.name.lower().replace("_", "-")] in requirement.specifier


def test_the_error_about_diffusers_names_the_range_that_is_installed() -> None:
    requirement = next(Requirement(name) for name in PROJECT["dependencies"] if name.startswith("diffusers"))
    assert str(requirement.specifier) == str(Requirement(f"diffusers{_registration.TESTED_DIFFUSERS}").specifier)


def test_version_is_the_one_in_the_changelog_and_in_the_metadata(plain_install: Path) -> None:
    (metadata,) = plain_install.glob("diffusers_video-*.dist-info/METADATA")
    assert f"\nVersion: {diffusers_video.__version__}\n" in metadata.read_text()
    assert f"\n## {diffusers_video.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
