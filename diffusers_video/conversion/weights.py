"""Weights of other layouts, put into our models name by name: none may be missing, none may be left over."""

from collections.abc import Callable, Mapping

from accelerate import init_empty_weights
from diffusers.models.modeling_utils import no_init_weights
from torch import Tensor, nn

from ..layers.weights import check_names


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
