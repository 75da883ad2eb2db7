"""Every change of axis order in the library, by name."""

import torch
from einops import rearrange
from torch import Tensor


# Shapes: B videos, C channels, F frames, H height, W width, S = H * W positions; N = B * F images.


def images_to_videos(images: Tensor, num_frames: int) -> Tensor:
    """
    Regroup a flat batch of frames into videos; the inverse of [`videos_to_images`].

    Args:
        images (`torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`):
            Frames in display order, all frames of one video before those of the next.
        num_frames (`int`): Frames per video, at least 1.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`: a view with the same values.

    Raises:
        ValueError: If the batch does not hold a whole number of videos.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.1: time is folded into the batch for the spatial layers.
    """
    if num_frames < 1 or images.shape[0] % num_frames:
        raise ValueError(
            f"`images` must hold a whole number of videos of `num_frames`={num_frames} frames, but holds"
            f" {images.shape[0]} frames. Pass the `num_frames` the batch was flattened with."
        )
    return images.unflatten(0, (-1, num_frames)).transpose(1, 2)


def videos_to_images(videos: Tensor) -> Tensor:
    """
    Fold the frames of videos into the batch; the inverse of [`images_to_videos`].

    Args:
        videos (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Videos.

    Returns:
        `torch.Tensor` of shape `(batch_size * num_frames, channels, height, width)`: all frames of the first video,
        then those of the next; a view where the strides allow it, otherwise a copy.
    """
    return videos.transpose(1, 2).flatten(0, 1)


def maps_to_tokens(images: Tensor) -> Tensor:
    """
    Turn feature maps into token sequences; the inverse of [`tokens_to_maps`].

    Args:
        images (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Feature maps.

    Returns:
        `torch.Tensor` of shape `(batch_size, height * width, channels)`, row by row.
    """
    return rearrange(images, "n c h w -> n (h w) c")


def tokens_to_maps(tokens: Tensor, height: int) -> Tensor:
    """
    Turn token sequences back into feature maps; the inverse of [`maps_to_tokens`].

    Args:
        tokens (`torch.Tensor` of shape `(batch_size, height * width, channels)`): Tokens, row by row.
        height (`int`): Rows of a feature map.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, height, width)`, a view.
    """
    return rearrange(tokens, "n (h w) c -> n c h w", h=height)


def frames_to_sequences(tokens: Tensor) -> Tensor:
    """
    Make one sequence over time of every position; the inverse of [`sequences_to_frames`].

    Args:
        tokens (`torch.Tensor` of shape `(batch_size, num_frames, positions, channels)`): Tokens of every frame.

    Returns:
        `torch.Tensor` of shape `(batch_size * positions, num_frames, channels)`.
    """
    return rearrange(tokens, "b f s c -> (b s) f c")


def sequences_to_frames(sequences: Tensor, batch_size: int) -> Tensor:
    """
    Put sequences over time back into frames; the inverse of [`frames_to_sequences`].

    Args:
        sequences (`torch.Tensor` of shape `(batch_size * positions, num_frames, channels)`): One row a position.
        batch_size (`int`): Number of videos.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames, positions, channels)`.
    """
    return rearrange(sequences, "(b s) f c -> b f s c", b=batch_size)


def match_strides(tensor: Tensor, like: Tensor) -> Tensor:
    """
    Give a tensor the memory order of another, so that the layers behind it choose the kernels they would have chosen.

    Args:
        tensor (`torch.Tensor`): Any tensor.
        like (`torch.Tensor` of the same shape): Whose order is wanted.

    Returns:
        `torch.Tensor`: `tensor` itself if its strides are right, otherwise a copy.
    """
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)
