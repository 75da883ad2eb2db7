"""What video models share that stand on an image model: how they are made of it, configured and loaded."""

import inspect
import os
from collections.abc import Callable
from typing import Any

import torch
from diffusers import ModelMixin
from torch import nn

from ..layers.video_layers import is_temporal


PAPER_MAX_DISTANCE = 8  # VideoLDM (arXiv:2304.08818), appendix on convolutional use


def with_parameters_of(image_class: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Show the parameters of an image model in the signature of a constructor, from which configurations are read.

    Args:
        image_class (`type`): The class of the image model; the constructor passes its parameters on unread.

    Returns:
        `Callable`: Decorator of a constructor whose own parameters are keyword-only.
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        inherited = list(inspect.signature(image_class.__init__).parameters.values())
        own = [item for item in inspect.signature(init).parameters.values() if item.kind is item.KEYWORD_ONLY]
        init.__signature__ = inspect.Signature(inherited + own)
        return init

    return decorate


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """
    Refuse a value that is not offered.

    Args:
        name (`str`): Name of the argument.
        value (`Any`): What was given.
        choices (`tuple[str, ...]`): What is offered.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, but is {value!r}. Choose one of them.")


class ChannelsLastMixin:
    """Lets a model with 3D convolutions be brought into the channels-last order."""

    def to(self, *args: Any, **kwargs: Any) -> nn.Module:
        """
        Move or cast the model; `memory_format=torch.channels_last` also covers the weights of 3D convolutions.

        Args:
            args: Arguments of `torch.nn.Module.to`.
            kwargs: Keyword arguments of `torch.nn.Module.to`.

        Returns:
            The model itself.
        """
        if kwargs.get("memory_format") is torch.channels_last:
            kwargs.pop("memory_format")
            for parameter in self.parameters():
                if parameter.dim() in (4, 5):
                    layout = torch.channels_last if parameter.dim() == 4 else torch.channels_last_3d
                    parameter.data = parameter.data.to(memory_format=layout)
        return super().to(*args, **kwargs)


class InflatedModelMixin(ChannelsLastMixin):
    """
    Making, loading and placing of a model that holds the weights of an image model under the names they have there.

    The class that inherits it names the class of the image model, `image_class`, and its own method that takes one,
    `maker`.
    """

    image_class: type[ModelMixin]
    maker: str

    @classmethod
    def _own_options(cls) -> set[str]:
        return set(cls._get_init_keys(cls)) - set(inspect.signature(cls.image_class.__init__).parameters)

    @property
    def temporal_options(self) -> dict[str, Any]:
        """The options that the image model does not have, in the order of their names, with their values."""
        return {name: self.config[name] for name in sorted(self._own_options())}

    def set_temporal_max_distance(self, max_distance: int | None = PAPER_MAX_DISTANCE) -> None:
        """
        Let temporal attention see no further than some frames, for clips longer than those of the training; no weight
        changes. It becomes part of the configuration, which `from_pretrained(..., temporal_max_distance=8)` sets too.

        Frames are counted from the start of the clip: beyond the length of the training their positions are new to
        the model, whatever the distance. A clip of at most `max_distance + 1` frames comes out as without a limit.
        Temporal convolutions see their neighbours only, but their normalisation takes in the whole clip.

        Args:
            max_distance (`int`, *optional*, defaults to 8): Farthest frame that a frame sees, at least 1; `None` sets
                no limit.

        Raises:
            TypeError: If it is no integer.
            ValueError: If it is below 1, or the model has no temporal attention.

        Source:
            VideoLDM (arXiv:2304.08818), appendix on convolutional use: attention masked to a distance of 8 frames;
            the authors call longer clips fragile and prefer to predict key frames.
        """
        if max_distance is not None:
            if isinstance(max_distance, bool) or not isinstance(max_distance, int):
                raise TypeError(f"`max_distance` must be an integer or `None`, but is {max_distance!r}.")
            if max_distance < 1:
                raise ValueError(
                    f"`max_distance` must be at least 1 or `None`, but is {max_distance}. With 1 a frame sees its two"
                    " neighbours."
                )
        if self.config.temporal_attention == "none":
            raise ValueError("`max_distance` has no effect on this model: its `temporal_attention` is 'none'.")
        self.register_to_config(temporal_max_distance=max_distance)

    @classmethod
    def _inflate(cls, name: str, image_model: ModelMixin, preset: dict[str, Any], options: dict[str, Any]) -> Any:
        """Make a video model of the image model that was given as the argument `name`; see `maker`."""
        image_name = cls.image_class.__name__
        if not isinstance(image_model, cls.image_class) or isinstance(image_model, cls):
            raise TypeError(
                f"`{name}` must be a `{image_name}`, but is a `{type(image_model).__name__}`. Load the image model"
                f" with `{image_name}.from_pretrained` first."
            )
        known = cls._own_options()
        unknown = set(options) - known
        if unknown:
            raise TypeError(f"`{sorted(unknown)[0]}` is no option of the temporal layers; these are {sorted(known)}.")
        model = cls.from_config({**image_model.config, **preset, **options, "_class_name": cls.__name__})
        unexpected = model.load_state_dict(image_model.state_dict(), strict=False).unexpected_keys
        if unexpected:
            raise ValueError(
                f"`{name}` must be a plain image model, but holds weights of an adapter, such as {unexpected[0]!r}."
                " Unload it (`unload_lora`, `unload_ip_adapter`) or fuse it first; adapters of the image model can be"
                " loaded into the video model."
            )
        return nn.Module.to(model, device=image_model.device, dtype=image_model.dtype).train(image_model.training)

    def to_image_model(self) -> ModelMixin:
        """
        Take the image model out: a new one with copies of the spatial weights and the options that it has.

        Returns:
            `ModelMixin`: Of the class `image_class`, in evaluation mode, where this model is and of its type.

        Raises:
            ValueError: If adapters are loaded, whose weights the image model has no place for.
        """
        own = self._own_options()
        options = {name: value for name, value in self.config.items() if name not in own}
        # Options that a file did not name would otherwise come back as defaults, whatever they were set to since.
        options |= {"_class_name": self.image_class.__name__, "_use_default_values": []}
        model = self.image_class.from_config(options)
        weights = {name: value for name, value in self.state_dict().items() if not is_temporal(name)}
        unexpected = model.load_state_dict(weights, strict=False).unexpected_keys
        if unexpected:
            raise ValueError(
                f"The model holds weights of an adapter, such as {unexpected[0]!r}, which its image model lacks."
                " Unload or fuse it first."
            )
        return nn.Module.to(model, device=self.device, dtype=self.dtype).eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> ModelMixin:
        """
        Load a video model, from a folder or the Hub; see [`~diffusers.ModelMixin.from_pretrained`].

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Repository name or folder.
            kwargs: Arguments of [`~diffusers.ModelMixin.from_pretrained`].

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: If the weights are those of an image model, or temporal layers are missing.
        """
        is_info_asked = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            raise ValueError(
                f"`pretrained_model_name_or_path` must hold a video model, but {str(pretrained_model_name_or_path)!r}"
                f" lacks {len(info['missing_keys'])} weights, such as {sorted(info['missing_keys'])[0]!r}. For an"
                f" image model: `{cls.__name__}.{cls.maker}({cls.image_class.__name__}.from_pretrained(...))`."
            )
        return (model, info) if is_info_asked else model

    @classmethod
    def from_single_file(cls, pretrained_model_link_or_path_or_dict: Any, **kwargs: Any) -> ModelMixin:
        """
        Refuse: single files hold image models.

        Args:
            pretrained_model_link_or_path_or_dict (`str` or `dict`): The file.
            kwargs: Arguments of the image model's `from_single_file`.

        Raises:
            ValueError: Always, naming the way from an image model.
        """
        raise ValueError(
            f"`{cls.__name__}` cannot be read from a single file, because such files hold image models. Use"
            f" `{cls.__name__}.{cls.maker}({cls.image_class.__name__}.from_single_file(...))`, or `from_pretrained`"
            " on the folder of a video model."
        )
