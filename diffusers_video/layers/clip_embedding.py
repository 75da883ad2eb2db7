"""Numbers that describe a whole clip (frame rate, amount of motion, noise level) as part of the time embedding."""

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor

from .temporal_attention import zero_init


ADDED_TIME_IDS = ("fps", "motion_bucket_id", "noise_level")


class ClipEmbedding(TimestepEmbedding):
    """
    Sinusoids of some numbers per clip, side by side, through an MLP; a new one returns zeros.

    Args:
        num_ids (`int`): How many numbers describe a clip.
        sinusoid_dim (`int`): Width of each number's sinusoid.
        time_embed_dim (`int`): Width of the time embedding that the result is added to.

    Source:
        Stable Video Diffusion (arXiv:2311.15127), Appendix D: `fps`, motion bucket and noise augmentation level.
    """

    def __init__(self, num_ids: int, sinusoid_dim: int, time_embed_dim: int) -> None:
        super().__init__(num_ids * sinusoid_dim, time_embed_dim)
        self.sinusoid = Timesteps(sinusoid_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        zero_init(self.linear_2)

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """
        Embed the numbers.

        Args:
            ids (`torch.Tensor` of shape `(batch_size, num_ids)`): The numbers, in the order of the configuration.
            dtype (`torch.dtype`): Type of the result.

        Returns:
            `torch.Tensor` of shape `(batch_size, time_embed_dim)`.
        """
        sinusoids = self.sinusoid(ids.flatten()).unflatten(0, ids.shape).flatten(1)
        return super().forward(sinusoids.to(dtype))


def stack_clip_ids(
    values: dict[str, float | Tensor | None], names: list[str], batch_size: int, device: torch.device
) -> Tensor:
    """
    Collect the numbers that a model was built to read.

    Args:
        values (`dict`): Name to number, tensor of shape `(batch_size,)`, or `None` where the caller gave none.
        names (`list[str]`): What the model reads, in order.
        batch_size (`int`): Number of videos.
        device (`torch.device`): Where the result is made.

    Returns:
        `torch.Tensor` of shape `(batch_size, len(names))` and type `torch.float32`.

    Raises:
        ValueError: If a number is missing, is given to a model that does not read it, or has a wrong shape.
    """
    unknown = [name for name, value in values.items() if value is not None and name not in names]
    if unknown:
        raise ValueError(
            f"`{unknown[0]}` was given, but this model does not read it: its `added_time_ids` are {list(names)}. Leave"
            f" `{unknown[0]}` out, or build the model with `added_time_ids` that include it."
        )
    missing = [name for name in names if values[name] is None]
    if missing:
        raise ValueError(
            f"`{missing[0]}` must be given, because this model was built with `added_time_ids`={list(names)}. Pass a"
            f" number, or a tensor with one number per video."
        )
    columns = []
    for name in names:
        column = torch.as_tensor(values[name], dtype=torch.float32, device=device)
        if column.dim() > 1 or (column.dim() == 1 and column.shape[0] not in (1, batch_size)):
            raise ValueError(
                f"`{name}` must be one number or a tensor of shape ({batch_size},), but has shape"
                f" {tuple(column.shape)}. Pass one number per video."
            )
        columns.append(column.expand(batch_size))
    return torch.stack(columns, dim=1) if columns else torch.empty(batch_size, 0, device=device)
