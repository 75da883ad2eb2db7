"""Clips of a chain in a work folder, so that a video drawn clip after clip can stop and go on."""

# Shapes: latents of one clip of any form.

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusers_video.conditioning.noise import draw_seeds
from diffusers_video.pipelines.checks import check_finite
from diffusers_video.pipelines.work_folder import WorkFolder, describe


CLIP, SOURCE = "clip", "generator"
ADVICE = "Load the denoiser in float32 or bfloat16, or try another scheduler."


class KeptClips:
    """
    Finished clips, each with the state that its noise left the source of noise in.

    The source is one for all clips, as it is without a folder, so that the same clips come out of the same source; its
    state is what a run that goes on cannot do without.

    Args:
        folder ([`WorkFolder`]): Where they lie.
        generator (`torch.Generator`, *optional*): Source of noise; without one that of the run on disk, and a new one
            for a new run.

    Raises:
        ValueError: If the run on disk needs a source on another device.
    """

    def __init__(self, folder: WorkFolder, generator: torch.Generator | None = None) -> None:
        self.folder = folder
        self.generator = torch.Generator() if generator is None else generator
        if generator is not None:
            return
        state = folder.load(_file(SOURCE, 0))
        if state is None:
            self.generator.manual_seed(draw_seeds(None, 1)[0])
        elif state.shape == self.generator.get_state().shape:
            self.generator.set_state(state)
        else:
            raise ValueError(
                f"`generator` must be given to go on with the run in {folder.path}, because its own was on another"
                " device than the CPU. Pass one with the same seed."
            )

    def begin(self, settings: Mapping[str, Any]) -> None:
        """
        Write the settings of a new run and the state of its source, or make sure that an unfinished one has the same.

        Args:
            settings (`Mapping[str, Any]`): By name, from [`describe`], without the source.

        Raises:
            ValueError: If the folder holds a run with other settings or of another source.
            OSError: If the folder cannot be written to.
        """
        state = self.generator.get_state()
        self.folder.begin({"seed": describe(state), **settings})
        if self.folder.load(_file(SOURCE, 0)) is None:
            self.folder.save(_file(SOURCE, 0), state)

    def load(self, number: int) -> Tensor | None:
        """
        Read a finished clip, and bring the source of noise to where that clip left it.

        Args:
            number (`int`): Of the clip, from 0.

        Returns:
            `torch.Tensor`: Its latents on the CPU; `None` if it is not finished.

        Raises:
            ValueError: If a file is damaged.
        """
        latents, state = self.folder.load(_file(CLIP, number)), self.folder.load(_file(SOURCE, number + 1))
        if latents is None or state is None:
            return None
        self.generator.set_state(state)
        return latents

    def save(self, number: int, latents: Tensor) -> None:
        """
        Keep a finished clip and the state of the source of noise.

        Args:
            number (`int`): Of the clip, from 0.
            latents (`torch.Tensor`): Its latents.

        Raises:
            FloatingPointError: If they hold a NaN or an infinity.
            OSError: If they cannot be written; the clip then counts as unfinished.
        """
        check_finite(latents, f"Clip {number}", ADVICE)
        self.folder.save(_file(SOURCE, number + 1), self.generator.get_state())
        self.folder.save(_file(CLIP, number), latents)


def _file(kind: str, number: int) -> str:
    return f"{kind}-{number:06d}"
