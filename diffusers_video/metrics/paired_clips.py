"""Generated clips beside those that they should be, and what they are scored by: PSNR, SSIM and LPIPS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .clip_measures import RANGE
from .clip_sources import FolderClips, MemoryClips
from .feature_networks import FeatureNetwork, read_script_of
from .frames import lpips, psnr, ssim
from .protocols import ClipPlace
from .weight_files import find_weights


# Shapes: B videos, C channels, F frames, H height, W width. A pair is a clip of 2 F frames: the generated ones first.

PAIRED_MEASURES = {  # what results call them, in the order of the features
    "psnr": "PSNR in dB, mean over frames",
    "ssim": "SSIM, mean over frames",
}


class PairedClips:
    """
    Pairs of clips: of videos of one name, the same frames of each.

    Args:
        generated ([`FolderClips`] or [`MemoryClips`]): It decides which frames of which videos are compared.
        reference ([`FolderClips`] or [`MemoryClips`]): Has a video of the same name for each of them; endings such as
            `.mp4` do not count. Videos in memory are matched by their number.

    Raises:
        TypeError: If a set has no videos of its own, as those of a pipeline.
        ValueError: If a video has no partner, or several, or one that is too short.
    """

    def __init__(self, generated: FolderClips | MemoryClips, reference: FolderClips | MemoryClips) -> None:
        for argument, source in (("generated", generated), ("reference", reference)):
            if not isinstance(source, (FolderClips, MemoryClips)):
                raise TypeError(
                    f"`{argument}` must be a folder or list of videos to be matched with another by name, but is"
                    f" {type(source).__name__}. Write the videos to a folder first."
                )
        self.generated, self.reference = generated, reference
        self.num_clips, self.rates, self.captions = generated.num_clips, generated.rates, generated.captions
        self.record = generated.record
        places: dict[str, list[int]] = {}
        for video, name in enumerate(reference.video_names):
            places.setdefault(name, []).append(video)
        self._partners = [self._find_partner(place, places) for place in generated.places]

    def _find_partner(self, place: ClipPlace, places: dict[str, list[int]]) -> ClipPlace:
        name = self.generated.video_names[place.video]
        found = places.get(name, [])
        if len(found) != 1:
            raise ValueError(
                f"`reference` must hold one video {name!r} beside the generated one of that name, but holds"
                f" {len(found)}. Give both the same name, endings aside."
            )
        length = self.reference.video_lengths[found[0]]
        if length <= place.frames[-1]:
            raise ValueError(
                f"`reference` must show the frames of the generated videos, but its video {name!r} has {length} frames"
                f" of at least {place.frames[-1] + 1}. Lower `num_frames` or `frame_stride` of the protocol."
            )
        return ClipPlace(found[0], place.frames)

    def read(self, numbers: Sequence[int]) -> list[Tensor]:
        """
        Read pairs.

        Args:
            numbers (`Sequence[int]`): Which.

        Returns:
            `list[torch.Tensor]`: `(2 F, 3, H, W)`, uint8: the generated frames, then those of the reference.

        Raises:
            ValueError: If a video is damaged, or its partner has other sides.
        """
        pairs = []
        for number in numbers:
            clips = self.generated.read_place(self.generated.places[number])
            partner = self.reference.read_place(self._partners[number])
            if clips.shape != partner.shape:
                sizes = ["x".join(map(str, part.shape[:-3:-1])) for part in (clips, partner)]
                raise ValueError(
                    f"`reference` must have the sides of what is compared with it, but {self.name_of(number)} is"
                    f" {sizes[0]} and its partner {sizes[1]}. Bring both to one (`frame_size` of the protocol)."
                )
            pairs.append(torch.cat([clips, partner]))
        return pairs

    def name_of(self, number: int) -> str:
        """
        What errors call a pair.

        Args:
            number (`int`): Of the pair.

        Returns:
            `str`: The path of the generated video, and its first frame.
        """
        return self.generated.name_of(number)


def paired_measures(names: Sequence[str]) -> FeatureNetwork:
    """
    Make the function that scores pairs of clips.

    Args:
        names (`Sequence[str]`): Some of `PAIRED_MEASURES`.

    Returns:
        [`FeatureNetwork`]: Its features are those measures, in this order; it takes clips of [`PairedClips`].
    """
    functions = {"psnr": psnr, "ssim": ssim}

    def measure(videos: Tensor) -> Tensor:
        pair = videos.chunk(2, dim=2)
        return torch.stack([functions[name](*pair, value_range=RANGE).mean(1) for name in names], dim=1)

    return FeatureNetwork(name="PSNR (capped at 100 dB) and SSIM of frames", function=measure)


class _PairedDistance(nn.Module):
    """LPIPS of pairs; it moves with its network."""

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, videos: Tensor) -> Tensor:
        """BC(2F)HW in [-1, 1] -> B x 1."""
        return lpips(self.network, *videos.chunk(2, dim=2), value_range=RANGE).mean(1, keepdim=True)


def lpips_network(
    network: Callable[[Tensor, Tensor], Tensor], name: str, weights_sha256: str | None = None
) -> FeatureNetwork:
    """
    Give a perceptual distance the form that an evaluation takes.

    Args:
        network (`Callable`): As [`~metrics.frames.lpips`] takes it, such as `lpips.LPIPS(net="alex").eval()`.
        name (`str`): What results call it, such as `"LPIPS (AlexNet)"`.
        weights_sha256 (`str`, *optional*): Hash of the file its weights came from.

    Returns:
        [`FeatureNetwork`]: It takes clips of [`PairedClips`]; frames are not resized.
    """
    return FeatureNetwork(name=name, function=_PairedDistance(network).eval(), weights_sha256=weights_sha256)


def load_lpips(weights: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> FeatureNetwork:
    """
    Load a perceptual distance.

    Args:
        weights (`str` or `Path`): A TorchScript file that takes two batches of images in [-1, 1]; a path, or
            `"user/name/file.pt"` on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        token (`str` or `bool`, *optional*): Hub token.

    Returns:
        [`FeatureNetwork`]: For [`~metrics.evaluation.evaluate_videos`].

    Raises:
        FileNotFoundError, OSError: If there is no such file.
        ValueError: If it is damaged, or no TorchScript file.
    """
    file = find_weights(weights, revision=revision, token=token)
    if file.kind != "torchscript":
        raise ValueError(
            f"`weights` must be a TorchScript file for LPIPS, but '{file.path}' is of kind {file.kind}. Trace your"
            " network with `torch.jit.trace`, or pass it to `lpips_network` from Python."
        )
    return lpips_network(read_script_of(file, ()), f"LPIPS by {file.path.name}", file.sha256)
