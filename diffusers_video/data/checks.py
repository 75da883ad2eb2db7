"""Checks of arguments that several modules of this package share."""

from __future__ import annotations


def check_whole(name: str, value: int, least: int, most: int | None = None) -> None:
    """
    Check a whole number.

    Args:
        name (`str`): The argument to name in errors.
        value (`int`): What was passed.
        least (`int`): The smallest allowed.
        most (`int`, *optional*): The largest allowed.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is out of range.
    """
    bounds = f"at least {least}" if most is None else f"from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be a whole number, {bounds}, but is {value!r}. Pass one.")
    if value < least or (most is not None and value > most):
        raise ValueError(f"`{name}` must be {bounds}, but is {value}. Choose another.")
