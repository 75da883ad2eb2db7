"""Images as users hand them over, brought to tensors."""

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from diffusers_video.pipelines.video_input import Frame, load_video, resize_video


ImageInput = Frame | list[Frame]


def split_images(images: ImageInput, name: str = "image") -> list[Frame]:
    """
    Take a batch of images apart.

    Args:
        images (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of such): One image, or several: an array
            `(height, width, channels)` or a tensor `(channels, height, width)`, or one axis more in front.
        name (`str`, *optional*, defaults to `"image"`): What errors call the argument.

    Returns:
        `list`: Single images, in the form they came in.

    Raises:
        TypeError: If something is no image.
        ValueError: If there is none, or an array has another number of axes.
    """
    if isinstance(images, (np.ndarray, torch.Tensor)):
        single = list(images) if images.ndim == 4 else [images]
    else:
        single = list(images) if isinstance(images, (list, tuple)) else [images]
    if not single:
        raise ValueError(f"`{name}` must hold at least one image, but is empty.")
    for image in single:
        if not isinstance(image, (Image.Image, np.ndarray, torch.Tensor)):
            raise TypeError(f"`{name}` must be an image, an array, a tensor or a list of them, but has {image!r}.")
        if not isinstance(image, Image.Image) and image.ndim != 3:
            raise ValueError(f"`{name}` must have 3 axes, or 4 for several, but has shape {tuple(image.shape)}.")
    return single


def load_image(image: Frame, size: tuple[int, int] | None = None, name: str = "image") -> Tensor:
    """
    Bring an image to a tensor, as a video of one frame.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): From [`split_images`].
        size (`tuple[int, int]`, *optional*): Height and width to stretch it to: by Lanczos' filter where it is a
            `PIL.Image.Image`, as diffusers does, else by [`resize_video`].
        name (`str`, *optional*, defaults to `"image"`): What errors call the argument.

    Returns:
        `torch.Tensor` of shape `(1, channels, 1, height, width)`: In [0, 1].

    Raises:
        ValueError: If values lie outside their range, or there are not 3 colour channels.
    """
    if isinstance(image, Image.Image) and size is not None and image.size != size[::-1]:
        image = VaeImageProcessor(resample="lanczos").resize(image.convert("RGB"), *size)
    video = load_video([image], name)
    if video.shape[1] != 3:
        raise ValueError(f"`{name}` must have 3 colour channels, but has {video.shape[1]}. Convert it to RGB.")
    return video if size is None else resize_video(video, *size)
