"""Networks of single frames: Inception of FID from a file, random features without one, and CLIP's image encoder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .clip_measures import RANGE
from .feature_networks import FeatureNetwork, read_script_of
from .random_network import RandomVideoFeatures
from .weight_files import find_weights


if TYPE_CHECKING:
    from .clip_scores import ClipEmbedder


# Shapes: N images, C channels, H height, W width, D features.

INCEPTION_FEATURES = 2048


class _ScriptInception(nn.Module):
    """The TorchScript file of FID, which takes pixels and resizes them by itself."""

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script

    def forward(self, images: Tensor) -> Tensor:
        """NCHW from 0 to 255 -> ND."""
        features = self.script(images.round().to(torch.uint8), return_features=True)
        if features.ndim != 2 or features.shape[1] != INCEPTION_FEATURES:
            raise ValueError(
                f"`weights` of FID must return {INCEPTION_FEATURES} features of an image, but returned shape"
                f" {tuple(features.shape)}. It is another network."
            )
        return features


class _RandomFrames(nn.Module):
    """[`RandomVideoFeatures`] of clips of one frame."""

    def __init__(self, seed: int, num_features: int) -> None:
        super().__init__()
        self.network = RandomVideoFeatures(seed, num_features)

    def forward(self, images: Tensor) -> Tensor:
        """NCHW in [-1, 1] -> ND."""
        return self.network(images[:, :, None])


class _ClipFrames(nn.Module):
    """CLIP's image encoder; it moves with its model."""

    def __init__(self, embedder: ClipEmbedder) -> None:
        super().__init__()
        self.embedder, self.model = embedder, embedder.model

    def forward(self, images: Tensor) -> Tensor:
        """NCHW in [-1, 1] -> ND, of length 1."""
        return self.embedder.embed_frames(images[:, :, None], RANGE)[:, 0]


def load_inception(
    weights: str | Path, *, revision: str | None = None, token: str | bool | None = None
) -> FeatureNetwork:
    """
    Load Inception v3 of 2015-12-05, the network of FID.

    Args:
        weights (`str` or `Path`): The TorchScript file that StyleGAN's code uses (`inception-2015-12-05.pt`); a path,
            or `"user/name/file.pt"` on the Hub. It resizes frames itself, without antialiasing, as the first FID did.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        token (`str` or `bool`, *optional*): Hub token.

    Returns:
        [`FeatureNetwork`]: One of frames.

    Raises:
        FileNotFoundError, OSError: If there is no such file.
        ValueError: If it is damaged, or not that network.
    """
    file = find_weights(weights, revision=revision, token=token)
    if file.kind != "torchscript":
        raise ValueError(
            f"`weights` must be a TorchScript file for FID, but '{file.path}' is of kind {file.kind}. Take"
            " `inception-2015-12-05.pt`, or pass any network of images as a `FeatureNetwork` from Python."
        )
    return FeatureNetwork(
        name="Inception v3 (2015-12-05)",
        function=_ScriptInception(read_script_of(file, ("return_features",))).eval(),
        is_fid=True,
        is_per_frame=True,
        takes_pixels=True,
        weights_sha256=file.sha256,
        details={"file_kind": file.kind},
    )


def random_frame_features(seed: int = 0, num_features: int = 64) -> FeatureNetwork:
    """
    Make a network of frames that needs no weights, for tests and for comparing models with each other; never FID.

    Args:
        seed (`int`, *optional*, defaults to 0): Decides its weights; scores of different seeds cannot be compared.
        num_features (`int`, *optional*, defaults to 64): Features of a frame, at most 224.

    Returns:
        [`FeatureNetwork`]: It takes frames of any size from 8 x 8 pixels on.

    Raises:
        ValueError: If `num_features` is out of range.
    """
    return FeatureNetwork(
        name=f"random features of frames (seed {seed}, not FID)",
        function=_RandomFrames(seed, num_features),
        is_per_frame=True,
        details={"seed": seed, "num_features": num_features, "is_random": True},
    )


def clip_frames(embedder: ClipEmbedder) -> FeatureNetwork:
    """
    Make a network of frames of CLIP's image encoder: directions of length 1.

    Args:
        embedder ([`ClipEmbedder`]): Which CLIP.

    Returns:
        [`FeatureNetwork`]: A Frechet distance on it is what some call CLIP-FID.
    """
    config = embedder.model.config
    digest = hashlib.sha256()
    for name, weight in sorted(embedder.model.state_dict().items()):
        digest.update(f"{name} {weight.dtype}\n".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return FeatureNetwork(
        name=f"CLIP ({config.name_or_path or 'no name'})",
        function=_ClipFrames(embedder).eval(),
        is_per_frame=True,
        details={"tensors_sha256": digest.hexdigest(), "revision": getattr(config, "_commit_hash", None)},
    )
