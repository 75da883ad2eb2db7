"""Weights of other layouts, put into our models name by name: none may be missing, none may be left over."""

from collections.abc import Callable, Iterable, Mapping

from accelerate import init_empty_weights
from diffusers.models.modeling_utils import no_init_weights
from torch import Tensor, nn


NAMES_SHOWN = 3


def build_model(build: Callable[[], nn.Module], weights: Mapping[str, Tensor], origin: str) -> nn.Module:
    """
    Build a model that holds given weights, without making room for others.

    Args:
        build (`Callable`): Makes the model; its own weights are never allocated.
        weights (`Mapping[str, torch.Tensor]`): Its weights, which the model takes over as they are.
        origin (`str`): What the weights were read from, for the message.

    Returns:
        `torch.nn.Module`: In evaluation mode.

    Raises:
        ValueError: If weights are missing, left over or of another shape; the message names them.
    """
    with no_init_weights(), init_empty_weights():
        model = build()
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_names(wanted, {name: tuple(tensor.shape) for name, tensor in weights.items()}, type(model).__name__, origin)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def check_names(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], class_name: str, origin: str
) -> None:
    """
    Refuse weights that are not those of a model.

    Args:
        wanted (`Mapping[str, tuple[int, ...]]`): Shapes of the weights of the model, by name.
        found (`Mapping[str, tuple[int, ...]]`): Shapes of the weights at hand.
        class_name (`str`): Class of the model, for the message.
        origin (`str`): What the weights were read from, likewise.

    Raises:
        ValueError: If weights are missing, left over or of another shape.
    """
    misfits = {
        "lacks": wanted.keys() - found.keys(),
        "has left over": found.keys() - wanted.keys(),
        "has in another shape": {name for name in wanted.keys() & found.keys() if wanted[name] != found[name]},
    }
    parts = [f"{verb} {_show_names(names)}" for verb, names in misfits.items() if names]
    if parts:
        raise ValueError(
            f"'{origin}' must hold the weights of a {class_name} and no others, but it {', and '.join(parts)}. Fetch"
            " it again, or convert the checkpoint as it was published."
        )


def _show_names(names: Iterable[str]) -> str:
    names = sorted(names)
    more = len(names) - NAMES_SHOWN
    return ", ".join(map(repr, names[:NAMES_SHOWN])) + (f" and {more} more" if more > 0 else "")
