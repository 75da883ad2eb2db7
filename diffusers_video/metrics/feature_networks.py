"""Networks whose outputs are compared: I3D and C3D with published weights, random features, or any callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..layers.layout import videos_to_images
from .c3d import C3D
from .i3d import I3D
from .preprocessing import ResizeRule, prepare_clip
from .random_network import RandomVideoFeatures
from .weight_files import WeightFile, find_weights, load_weights, read_script


# Shapes: B videos, F frames, H height, W width, D features.

I3D_SIDE = 224
_SMALLEST_PROBABILITY = 1e-20  # as TGAN2 adds to probabilities before their logarithm


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """
    A network that turns clips into vectors, and what a reader of a score must know of it.

    Args:
        name (`str`): What results call it.
        function (`Callable`): Takes clips `(B, 3, F, H, W)`, float32 in [-1, 1], and returns `(B, D)`.
        is_fvd (`bool`, *optional*, defaults to `False`): Whether distances on it may be called FVD and KVD.
        is_fid (`bool`, *optional*, defaults to `False`): Whether Frechet distances on it may be called FID.
        is_classifier (`bool`, *optional*, defaults to `False`): Whether it returns logits of classes.
        is_per_frame (`bool`, *optional*, defaults to `False`): Whether it is a network of images: its function then
            takes frames `(B * F, 3, H, W)`, and a clip gives one vector for each.
        size (`int`, *optional*): Side in pixels that it takes; `None`: any, clips are not resized.
        takes_pixels (`bool`, *optional*, defaults to `False`): Whether clips are given from 0 to 255.
        weights_sha256 (`str`, *optional*): Hash of the file its weights came from.
        details (`dict`, *optional*): JSON values that say more, such as a seed or a convention.

    Any callable will do; [`load_i3d`], [`load_c3d`] and [`random_features`] make the usual ones.
    """

    name: str
    function: Callable[[Tensor], Tensor] = field(repr=False)
    is_fvd: bool = False
    is_fid: bool = False
    is_classifier: bool = False
    is_per_frame: bool = False
    size: int | None = None
    takes_pixels: bool = False
    weights_sha256: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __call__(self, clips: Sequence[Tensor], resize: ResizeRule = "stretch") -> Tensor:
        """
        Features of clips.

        Args:
            clips (`Sequence[torch.Tensor]`): Clips `(F, 3, H, W)`, uint8, of equal shape.
            resize (`str`, *optional*, defaults to `"stretch"`): How they become `size` pixels wide and high, see
                [`~metrics.preprocessing.resize_frames`].

        Returns:
            `torch.Tensor` of shape `(B, D)`, or `(B, F, D)` if it is one of frames: float32, on the CPU.

        Raises:
            ValueError: If the network returns another shape.
        """
        videos = torch.stack([prepare_clip(clip, self.size, resize) for clip in clips])
        if self.takes_pixels:
            videos = (videos + 1) * 127.5
        inputs = videos_to_images(videos) if self.is_per_frame else videos
        with torch.no_grad():
            features = self.function(inputs.to(self._device()))
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(inputs):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            unit = "frame" if self.is_per_frame else "clip"
            raise ValueError(
                f"`function` of {self.name!r} must return one vector per {unit}, ({len(inputs)}, D), but returned"
                f" {shape}. Average or flatten the other axes."
            )
        features = features.float().cpu()
        return features.unflatten(0, (len(clips), -1)) if self.is_per_frame else features

    def _device(self) -> torch.device:
        weights = self.function.parameters() if isinstance(self.function, nn.Module) else ()
        return next((weight.device for weight in weights), torch.device("cpu"))

    def to(self, device: torch.device | str) -> FeatureNetwork:
        """
        Move it to a device.

        Args:
            device (`torch.device` or `str`): Where to; a plain function stays where it is.

        Returns:
            [`FeatureNetwork`]: It, or one with a moved function.
        """
        return replace(self, function=self.function.to(device)) if isinstance(self.function, nn.Module) else self

    def describe(self) -> dict[str, Any]:
        """
        What a result says of it.

        Returns:
            `dict`: JSON values.
        """
        return {"name": self.name, "weights_sha256": self.weights_sha256, "size": self.size, **self.details}


class _ScriptI3D(nn.Module):
    """The TorchScript file of FVD, called so that it neither rescales nor resizes."""

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script

    def forward(self, videos: Tensor) -> Tensor:
        """BCFHW in [-1, 1] -> BD."""
        return self.script(x=videos, rescale=False, resize=False, return_features=True)


class _ScriptC3D(nn.Module):
    """The TorchScript file of C3D, which takes pixels and returns probabilities."""

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script

    def forward(self, videos: Tensor) -> Tensor:
        """BCFHW from 0 to 255 -> BD, logarithms of probabilities."""
        return self.script(videos.round().to(torch.uint8)).clamp(min=_SMALLEST_PROBABILITY).log()


class _PooledI3D(nn.Module):
    """I3D cut off before its logits, averaged over time."""

    def __init__(self, network: I3D) -> None:
        super().__init__()
        self.network = network

    def forward(self, videos: Tensor) -> Tensor:
        """BCFHW in [-1, 1] -> BD."""
        return self.network.pool(videos).mean((2, 3, 4))


def load_i3d(
    weights: str | Path,
    *,
    convention: Literal["fvd", "original"] = "fvd",
    revision: str | None = None,
    token: str | bool | None = None,
) -> FeatureNetwork:
    """
    Load I3D, the network of FVD and KVD.

    Args:
        weights (`str` or `Path`): A state dict (`i3d_pretrained_400.pt`), the same as safetensors, or the TorchScript
            file (`i3d_torchscript.pt`); a path, or `"user/name/file.pt"` on the Hub.
        convention (`str`, *optional*, defaults to `"fvd"`): `"fvd"`: 400 logits, averaged over time. `"original"`: for
            DeepMind's own weights (`rgb_imagenet.pt`), which have the same names but are not those of FVD: 1024
            pooled features; distances on them are not called FVD.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        token (`str` or `bool`, *optional*): Hub token.

    Returns:
        [`FeatureNetwork`]: Its name and the hash of the file stand in every result. No hash of a published file is
        known here: whoever publishes a number says which one it was.

    Raises:
        FileNotFoundError, OSError: If there is no such file.
        ValueError: If it is damaged, or not of I3D.
    """
    file = find_weights(weights, revision=revision, token=token)
    details = {"convention": convention, "file_kind": file.kind}
    if file.kind == "torchscript":
        function = _ScriptI3D(read_script_of(file, ("x", "rescale", "resize", "return_features")))
        if convention != "fvd":
            raise ValueError(
                f"`convention` must be 'fvd' for the TorchScript file '{file.path}', but is {convention!r}."
            )
    else:
        network = I3D(convention=convention)
        load_weights(network, file)
        function = network if convention == "fvd" else _PooledI3D(network)
    return FeatureNetwork(
        name="I3D (Kinetics-400)",
        function=function.eval(),
        is_fvd=convention == "fvd",
        size=I3D_SIDE,
        weights_sha256=file.sha256,
        details=details,
    )


def load_c3d(
    weights: str | Path,
    *,
    mean: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> FeatureNetwork:
    """
    Load C3D, whose class probabilities the Inception Score of UCF-101 videos is made of.

    Args:
        weights (`str` or `Path`): Chainer's file (`conv3d_deepnetA_ucf.npz`), a state dict or safetensors of [`C3D`],
            or the TorchScript file (`c3d_ucf101.pt`); a path, or `"user/name/file.npz"` on the Hub.
        mean (`str` or `Path`, *optional*): The mean clip (`mean2.npz`): needed with Chainer's file, and only there.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        token (`str` or `bool`, *optional*): Hub token.

    Returns:
        [`FeatureNetwork`]: It takes clips of 16 frames in any size.

    Raises:
        FileNotFoundError, OSError: If there is no such file.
        ValueError: If it is damaged, not of C3D, or `mean` does not go with it.
    """
    file = find_weights(weights, revision=revision, token=token)
    if (file.kind == "npz") != (mean is not None):
        raise ValueError(
            f"`mean` must be given with Chainer's npz file and only there, but is {mean!r} for '{file.path}', which is"
            f" a file of kind {file.kind}."
        )
    if file.kind == "torchscript":
        function: nn.Module = _ScriptC3D(read_script_of(file, ()))
    else:
        function = C3D()
        load_weights(function, file, mean)
    return FeatureNetwork(
        name="C3D (UCF-101)",
        function=function.eval(),
        is_classifier=True,
        takes_pixels=file.kind == "torchscript",
        weights_sha256=file.sha256,
        details={"file_kind": file.kind},
    )


def read_script_of(file: WeightFile, arguments: Sequence[str]) -> torch.jit.ScriptModule:
    """
    Load a TorchScript file that takes certain arguments.

    Args:
        file ([`~metrics.weight_files.WeightFile`]): Of this kind.
        arguments (`Sequence[str]`): Names of some of its arguments.

    Returns:
        `torch.jit.ScriptModule`: On the CPU, in evaluation mode.

    Raises:
        ValueError: If it is damaged, or takes others.
    """
    script = read_script(file)
    found = [argument.name for argument in script.forward.schema.arguments][1:]
    if not set(arguments) <= set(found):
        raise ValueError(
            f"'{file.path}' must take the arguments {list(arguments)}, but takes {found}. It is another network."
        )
    return script


def random_features(seed: int = 0, num_features: int = 64) -> FeatureNetwork:
    """
    Make a network that needs no weights, for tests and for comparing models with each other; never FVD.

    Args:
        seed (`int`, *optional*, defaults to 0): Decides its weights; scores of different seeds cannot be compared.
        num_features (`int`, *optional*, defaults to 64): Features of a clip, at most 224.

    Returns:
        [`FeatureNetwork`]: It takes clips of any size from 8 x 8 pixels on.

    Raises:
        ValueError: If `num_features` is out of range.
    """
    return FeatureNetwork(
        name=f"random features (seed {seed}, not FVD)",
        function=RandomVideoFeatures(seed, num_features),
        details={"seed": seed, "num_features": num_features, "is_random": True},
    )
