"""Declare the markers of diffusers' tests, since ours refuse undeclared ones."""

import pytest

from .checkout import marker_names, tests_folder


def pytest_configure(config: pytest.Config) -> None:
    folder = tests_folder()
    for name in sorted(marker_names(folder)) if folder else ():
        config.addinivalue_line("markers", f"{name}: a marker of diffusers' tests")
