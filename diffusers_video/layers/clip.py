"""What the temporal layers are told about the clip that is being denoised."""

from typing import NamedTuple

import torch
from torch import Tensor


class Clip(NamedTuple):
    """
    The clip of one forward call; it travels, explicitly, where diffusers' blocks pass the time embedding.

    Args:
        temb (`torch.Tensor` of shape `(batch_size * num_frames, time_embed_dim)`, *optional*):
            Time embedding, one row per frame.
        num_frames (`int`): Frames per video.
        encoder_hidden_states (`torch.Tensor` of shape `(batch_size, tokens, dim)`, *optional*):
            Text that the temporal cross-attention reads, one row per video.
        image_only (`torch.Tensor` of shape `(batch_size, num_frames)`, *optional*):
            `True` for frames that are independent images.
        frame_visibility (`torch.Tensor` of shape `(num_frames, num_frames)`, *optional*):
            `True` where the frame of the row may attend to the frame of the column; `None` lets all see all.
        context (`tuple[torch.Tensor, ...]`, *optional*):
            Maps of the given frames, one per level of the U-Net, from [`ContextEmbedding`].
        encoder_attention_mask (`torch.Tensor` of shape `(batch_size, 1, tokens)`, *optional*):
            Added to the scores of the text.
    """

    temb: Tensor | None
    num_frames: int
    encoder_hidden_states: Tensor | None = None
    image_only: Tensor | None = None
    frame_visibility: Tensor | None = None
    context: tuple[Tensor, ...] | None = None
    encoder_attention_mask: Tensor | None = None


def get_frame_visibility(
    num_frames: int, *, is_causal: bool, max_distance: int | None, device: torch.device | str
) -> Tensor | None:
    """
    Tell which frame may attend to which.

    Args:
        num_frames (`int`): Frames per video.
        is_causal (`bool`): Let a frame see itself and earlier frames only.
        max_distance (`int`, *optional*): Let a frame see frames at most this far away; `None` sets no limit.
        device (`torch.device` or `str`): Where the mask is made.

    Returns:
        `torch.Tensor` of shape `(num_frames, num_frames)` and type `torch.bool`, or `None` if every frame sees every
        frame, so that a clip within the distance is computed exactly as without one.

    Source:
        VideoLDM (arXiv:2304.08818), appendix on convolutional use: attention masked to a distance of 8 frames;
        MagicVideo (arXiv:2211.11018): directed temporal attention.
    """
    if not is_causal and (max_distance is None or num_frames <= max_distance + 1):
        return None
    frames = torch.arange(num_frames, device=device)
    distance = frames[:, None] - frames[None, :]
    visibility = distance >= 0 if is_causal else torch.ones_like(distance, dtype=torch.bool)
    if max_distance is not None:
        visibility = visibility & (distance.abs() <= max_distance)
    return visibility
