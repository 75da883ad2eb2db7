"""
How diffusers' loaders learn our classes.

Importing this module loads the standard library only, because `import diffusers_video` imports it.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType


LIBRARY = "diffusers_video"
TESTED_DIFFUSERS = ">=0.42.1,<0.43"  # the range in pyproject.toml
LOADERS_MODULE = "diffusers.pipelines.pipeline_loading_utils"
BASE_CLASSES = ("ModelMixin", "SchedulerMixin", "DiffusionPipeline")
SHIM_MODULE = "from_diffusers_video"  # the one-line file that a self-contained repository holds per component


def register() -> None:
    """
    Let diffusers load our classes by name, now or as soon as its loading code is imported.

    Afterwards `DiffusionPipeline.from_pretrained`, `AutoModel.from_pretrained` and the Hub download find the classes
    that `model_index.json` lists as `["diffusers_video", "<class>"]`, without `trust_remote_code`. `import
    diffusers_video` calls this; calling it again changes nothing.

    Raises:
        ImportError: If the installed diffusers has no table of loadable libraries, which is so outside the tested
            range of versions.
    """
    if LOADERS_MODULE in sys.modules:
        _register_with(sys.modules[LOADERS_MODULE])
    elif not any(isinstance(finder, _LoadersFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LoadersFinder())


class _LoadersFinder(importlib.abc.MetaPathFinder):
    """Registers our classes right after diffusers' loading code was executed; finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != LOADERS_MODULE:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register_with(module)
            sys.meta_path.remove(self)

        spec.loader.exec_module = execute_and_register  # on this loader alone, which serves this one module
        return spec


def _register_with(loaders: ModuleType) -> None:
    diffusers = sys.modules["diffusers"]
    table = getattr(loaders, "LOADABLE_CLASSES", None)
    if not isinstance(table, dict) or not set(BASE_CLASSES) <= set(table.get("diffusers", ())):
        raise ImportError(
            f"`diffusers` {diffusers.__version__} keeps no `LOADABLE_CLASSES` in `{LOADERS_MODULE}`, where"
            f" {LIBRARY} registers its classes. {LIBRARY} is tested with diffusers{TESTED_DIFFUSERS}:"
            f' install it by `pip install "diffusers{TESTED_DIFFUSERS}"`.'
        )
    table[LIBRARY] = {name: table["diffusers"][name] for name in BASE_CLASSES}

    # A pipeline's class, and the class of a model that stands in a folder of its own, are looked up in the namespace
    # of diffusers. The lookup must be lazy: our modules import the ones that are being imported here.
    previous = vars(diffusers).get("__getattr__")
    if getattr(previous, "__module__", None) == __name__:
        return

    def resolve(name: str) -> Any:
        library = sys.modules.get(LIBRARY)
        if library is not None and name in library.LOADABLE_NAMES:
            return getattr(library, name)
        if previous is not None:
            return previous(name)
        raise AttributeError(f"module 'diffusers' has no attribute '{name}'")

    diffusers.__getattr__ = resolve


def with_our_library(index: dict[str, Any]) -> dict[str, Any]:
    """
    Name our classes as `["diffusers_video", <class>]` wherever a `model_index.json` names one in another way.

    Args:
        index (`dict[str, Any]`): A parsed `model_index.json`, or any other configuration file.

    Returns:
        `dict[str, Any]`: The same entries; those of ours that name a full module path, or the one-line file of a
        self-contained repository, name the library instead.
    """
    names = sys.modules[LIBRARY].LOADABLE_NAMES
    fixed = {}
    for key, value in index.items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str) and value[1] in names:
            if key == "_class_name":
                value = value[1]
            elif value[0] == SHIM_MODULE or str(value[0]).startswith(f"{LIBRARY}."):
                value = [LIBRARY, value[1]]
        fixed[key] = value
    return fixed
