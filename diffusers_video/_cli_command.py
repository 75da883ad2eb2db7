"""
How a dataclass of options becomes a command, and what the commands share.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand


if TYPE_CHECKING:
    import torch


BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130  # exit statuses
_BUCKET = re.compile(r"[0-9]+x[0-9]+@[0-9]+")

# `--num_frames` as in the training scripts, and `--num-frames` as in the other commands.
EITHER_DASH = {"token_normalize_func": lambda name: name.replace("_", "-")}


def command(app: typer.Typer, options_class: type, **settings: Any) -> Callable[[Callable[[Any], None]], Callable]:
    """
    Register a function of one dataclass as a command.

    Each field becomes an argument or option, and `__post_init__` checks them. Errors of the library become one line
    and an exit status; with `--debug` the traceback is shown, too.

    Args:
        app (`typer.Typer`): The program or group that gets the command.
        options_class (`type`): A dataclass; its annotations say what Typer reads.
        settings: Further arguments of `app.command`.

    Returns:
        `Callable`: The decorator.
    """

    def register(function: Callable[[Any], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(debug: bool, **values: Any) -> None:
            try:
                function(options_class(**values))
            except (typer.Exit, typer.Abort, BrokenPipeError):
                raise
            except KeyboardInterrupt:
                note("Interrupted.")
                raise typer.Exit(INTERRUPTED) from None
            except (ValueError, TypeError, OSError) as error:
                raise _exit_after(error, BAD_INPUT, debug) from error
            except (ArithmeticError, ImportError, MemoryError, RuntimeError) as error:
                raise _exit_after(error, FAILED, debug) from error

        run.__signature__ = _signature(options_class)
        run.__annotations__ = {name: item.annotation for name, item in run.__signature__.parameters.items()}
        return app.command(**settings)(run)

    return register


def _signature(options_class: type) -> inspect.Signature:
    hints = get_type_hints(options_class, include_extras=True)
    parameters = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[item.name],
            default=inspect.Parameter.empty if item.default is dataclasses.MISSING else item.default,
        )
        for item in dataclasses.fields(options_class)
    ]
    hint = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", show_default=False)]
    parameters.append(inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=False))
    return inspect.Signature(parameters)


def _exit_after(error: Exception, status: int, debug: bool) -> typer.Exit:
    if debug:
        traceback.print_exception(error)
    note(f"Error: {' '.join(str(error).split()) or type(error).__name__}")
    return typer.Exit(status)


def note(text: str) -> None:
    """
    Say something beside the result, on standard error.

    Args:
        text (`str`): What to say.
    """
    typer.echo(text, err=True)


class BucketsCommand(TyperCommand):
    """A command whose `--buckets` is also written as in the training scripts: once, before all its values."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Read a command line, in which each further bucket gets the flag of its own that Typer wants."""
        repeated: list[str] = []
        for number, argument in enumerate(args):
            is_further = _BUCKET.fullmatch(argument) and number and _BUCKET.fullmatch(args[number - 1])
            repeated += ["--buckets", argument] if is_further else [argument]
        return super().parse_args(ctx, repeated)


class PassingCommand(TyperCommand):
    """A command whose own options come first; from the first other argument on, all are passed on unread."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Read a command line, with a mark before the first argument that is not of this command."""
        takes_value = {name: not item.is_flag for item in self.get_params(ctx) for name in item.opts if name[0] == "-"}
        count = 0
        while count < len(args) and (name := args[count].partition("=")[0].replace("_", "-")) in takes_value:
            count += 2 if takes_value[name] and "=" not in args[count] else 1
        if args[count:] and args[count] != "--":
            args = [*args[:count], "--", *args[count:]]
        return super().parse_args(ctx, args)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """
    Show a progress bar on standard error.

    Args:
        title (`str`): What stands before it.

    Returns:
        `Callable[[int, int], None]`, in a `with` block: to be called with what is done, and the total.
    """
    from tqdm.auto import tqdm

    with tqdm(desc=title) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def choose_device(name: str | None) -> torch.device:
    """
    Find the device that `--device` names.

    Args:
        name (`str`, *optional*): Such as `"cuda:1"`; by default the accelerator if there is one, else the CPU.

    Returns:
        `torch.device`

    Raises:
        ValueError: If it is no device, or not on this machine.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    try:
        device = torch.device(name or accelerator or "cpu")
    except RuntimeError as error:
        raise ValueError(f"`--device` must be cpu, cuda, cuda:1 or the like, but is {name!r}.") from error
    count = 0 if accelerator is None or device.type != accelerator.type else torch.accelerator.device_count()
    if device.type != "cpu" and (device.index or 0) >= count:
        raise ValueError(
            f"`--device` must be on this machine, but is {name!r}, and PyTorch sees {count} devices of type"
            f" {device.type}. Use --device cpu."
        )
    return device
