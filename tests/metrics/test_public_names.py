"""Names of `diffusers_video.metrics`: each loads its module when it is first used."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from diffusers_video import metrics


def test_importing_the_metrics_loads_no_library() -> None:
    code = "import sys, diffusers_video.metrics; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_every_name_is_defined_where_the_table_says() -> None:
    for name, module in metrics._MODULE_OF.items():
        assert getattr(metrics, name).__module__ == f"diffusers_video.metrics.{module}"
        assert name in dir(metrics) and name not in metrics._PUBLIC, f"{name} must not bear the name of a module"


def test_names_for_editors_are_the_public_names() -> None:
    with open(metrics.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    block = next(node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    listed = {alias.asname: node.module for node in block.body for alias in node.names}
    assert listed == metrics._MODULE_OF and metrics.__all__ == sorted(listed)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'diffusers_video.metrics' has no attribute 'fvd'"):
        metrics.fvd  # noqa: B018
