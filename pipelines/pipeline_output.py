"""What the video pipelines return."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image


@dataclass
class VideoPipelineOutput(BaseOutput):
    """
    Videos and the rate at which they are to be played.

    Args:
        frames (`torch.Tensor`, `np.ndarray` or `list[list[PIL.Image.Image]]`):
            By `output_type`: `"pt"` a tensor of shape `(batch_size, num_frames, channels, height, width)` in [0, 1];
            `"np"` an array of shape `(batch_size, num_frames, height, width, channels)` in [0, 1]; `"pil"` one list of
            images for each video; `"latent"` the denoised latents of shape
            `(batch_size, latent_channels, num_frames, latent_height, latent_width)`, times the `scaling_factor` of the
            autoencoder. `frames[0]` is the first video in every case.
        fps (`float`):
            Frames per second of every video, to be handed to the file that is written.
    """

    frames: torch.Tensor | np.ndarray | list[list[Image.Image]]
    fps: float
