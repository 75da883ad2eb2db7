"""Blending of a spatial layer's output with that of the temporal layer behind it."""

import torch
from torch import Tensor, nn


MIXINGS = ("learned", "fixed", "residual")


class TimeMixer(nn.Module):
    """
    Weight of the temporal path in `a * spatial + (1 - a) * temporal`, where `a` is the weight of the spatial path.

    Args:
        mixing (`str`, *optional*, defaults to `"learned"`):
            `"learned"`: `a` is the sigmoid of the parameter `mix_factor`; `"fixed"`: `a` is the buffer `mix_factor`
            itself; `"residual"`: `a` is 0, the temporal path is a plain residual.
        mix_factor (`float`, *optional*, defaults to 0.5): Initial raw value.

    Raises:
        ValueError: If `mixing` is none of the three.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.1 (the blend) and the AlphaBlender of Stable Video Diffusion
        (arXiv:2311.15127), whose names and initial value are kept.
    """

    def __init__(self, mixing: str = "learned", mix_factor: float = 0.5) -> None:
        super().__init__()
        if mixing not in MIXINGS:
            raise ValueError(f"`mixing` must be one of {MIXINGS}, but is {mixing!r}. Choose one of them.")
        self.mixing = mixing
        if mixing == "learned":
            self.mix_factor = nn.Parameter(torch.tensor([mix_factor]))
        elif mixing == "fixed":
            self.register_buffer("mix_factor", torch.tensor([mix_factor]))

    def forward(self, features: Tensor, image_only: Tensor | None = None) -> Tensor:
        """
        Return `1 - a`, the weight of the temporal path.

        Args:
            features (`torch.Tensor`): The features to be blended; the weight takes their type and place.
            image_only (`torch.Tensor` of shape `(batch_size, num_frames)`, *optional*):
                `True` for frames that are independent images: their weight is 0.

        Returns:
            `torch.Tensor` of shape `(1, 1)`, or `(batch_size, num_frames)` when `image_only` is given.
        """
        if self.mixing == "learned":
            weight = torch.sigmoid(-self.mix_factor)  # 1 - sigmoid(x) = sigmoid(-x)
        elif self.mixing == "fixed":
            weight = 1 - self.mix_factor
        else:
            weight = torch.ones(1, device=features.device)
        weight = weight.to(device=features.device, dtype=features.dtype)[:, None]
        return weight if image_only is None else torch.where(image_only, torch.zeros_like(weight), weight)


def blend(spatial: Tensor, temporal: Tensor, weight: Tensor) -> Tensor:
    """
    Blend tokens: `spatial + (1 - a) * (temporal - spatial)`; equal inputs come out unchanged, to the bit.

    Args:
        spatial (`torch.Tensor` of shape `(batch_size, num_frames, positions, channels)`): From the spatial layer.
        temporal (`torch.Tensor` of the same shape): From the temporal layer behind it.
        weight (`torch.Tensor` of shape `(batch_size or 1, num_frames or 1)`): `1 - a`, from [`TimeMixer`].

    Returns:
        `torch.Tensor` of the shape of the inputs.
    """
    return torch.lerp(spatial, temporal, weight[:, :, None, None])


def add_residual(spatial: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
    """
    Blend feature maps where the temporal path is `spatial + residual`: `spatial + (1 - a) * residual`.

    Args:
        spatial (`torch.Tensor` of shape `(batch_size, num_frames, channels, height, width)`): From the spatial layer.
        residual (`torch.Tensor` of the same shape): What the temporal layer adds to it.
        weight (`torch.Tensor` of shape `(batch_size or 1, num_frames or 1)`): `1 - a`, from [`TimeMixer`].

    Returns:
        `torch.Tensor` of the shape of the inputs, in the memory order of `spatial`.
    """
    return torch.addcmul(spatial, residual, weight[:, :, None, None, None])
