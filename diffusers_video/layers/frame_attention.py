"""Attention over the frames of a clip with relative positions, at every position of the image on its own."""

import torch
from torch import Tensor, nn

from .temporal_attention import zero_init


# Shapes: B videos, F frames, S positions, C channels, A attention heads, D = C / A channels of a head, P = S * A.

RELATIVE_POSITIONS = ("keys_values", "keys", "released", "none")


class FrameAttention(nn.Module):
    """
    Self-attention between the frames of a video that knows how far they are apart, not where they are; a new layer
    returns zeros.

    Positions are merged with the heads. Attention weights are computed in plain PyTorch, in float32 at least, because
    relative positions of values need them; a chosen attention backend does not apply.

    Args:
        channels (`int`): Channels of input and output.
        heads (`int`): Number of attention heads.
        dim_head (`int`): Channels of a head.
        max_distance (`int`, *optional*, defaults to 16): Frames further apart count as so far apart.
        relative_positions (`str`, *optional*, defaults to `"keys_values"`): What has a learned vector per distance:
            `"keys_values"`, `"keys"` or `"none"`; `"released"` is the form of LVDM's weights, with two departures.
        bias (`bool`, *optional*, defaults to `False`): Whether queries, keys and values have a bias.
        dropout (`float`, *optional*, defaults to 0.0): Dropout on the output.

    Source:
        Self-Attention with Relative Position Representations (arXiv:1803.02155), Eq. 3 and 4; VDM (arXiv:2204.03458),
        Section 3; LVDM (arXiv:2211.13221). In LVDM's released attention block the key's term is transposed, the query
        of frame j for the distance from j to i, and is scaled by `dim_head ** -0.25`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        dim_head: int,
        *,
        max_distance: int = 16,
        relative_positions: str = "keys_values",
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.dim_head = dim_head
        self.max_distance = max_distance
        self.relative_positions = relative_positions
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, inner, bias=bias) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, channels), nn.Dropout(dropout)])
        zero_init(self.to_out[0])
        self.relative_keys = self.relative_values = None
        if relative_positions != "none":
            self.relative_keys = _distance_table(max_distance, dim_head)
        if relative_positions in ("keys_values", "released"):
            self.relative_values = _distance_table(max_distance, dim_head)

    def forward(self, hidden_states: Tensor, frame_visibility: Tensor | None = None) -> Tensor:
        """
        Let frames attend to each other.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, num_frames, positions, channels)`): Tokens.
            frame_visibility (`torch.Tensor` of shape `(batch_size, num_frames, num_frames)`, *optional*):
                `True` where the frame of the row may see the frame of the column; of batch size 1 for all videos.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`.
        """
        batch_size, num_frames, positions, _ = hidden_states.shape
        query_BPFD, key_BPFD, value_BPFD = (
            projection(hidden_states).view(batch_size, num_frames, -1, self.dim_head).transpose(1, 2)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        distances = self._distances(num_frames, hidden_states.device)
        scores_BPFF = self._scores(query_BPFD, key_BPFD, distances)
        scores_BPFF = scores_BPFF.to(torch.promote_types(scores_BPFF.dtype, torch.float32))
        if frame_visibility is not None:
            hidden = ~frame_visibility[:, None]
            scores_BPFF = scores_BPFF.masked_fill(hidden, torch.finfo(scores_BPFF.dtype).min)
        weights_BPFF = scores_BPFF.softmax(dim=-1).to(value_BPFD.dtype)
        output_BPFD = weights_BPFF @ value_BPFD
        if self.relative_values is not None:
            values_FFD = self.relative_values[distances]
            output_BPFD = output_BPFD + torch.einsum("bpij,ijd->bpid", weights_BPFF, values_FFD)
        output = output_BPFD.transpose(1, 2).reshape(batch_size, num_frames, positions, -1)
        return self.to_out[1](self.to_out[0](output))

    def _scores(self, query_BPFD: Tensor, key_BPFD: Tensor, distances: Tensor) -> Tensor:
        scores_BPFF = (query_BPFD * self.dim_head**-0.5) @ key_BPFD.transpose(-1, -2)
        if self.relative_keys is None:
            return scores_BPFF
        relative_BPFF = torch.einsum("bpid,ijd->bpij", query_BPFD, self.relative_keys[distances])
        if self.relative_positions == "released":
            return scores_BPFF + relative_BPFF.transpose(-1, -2) * self.dim_head**-0.25
        return scores_BPFF + relative_BPFF * self.dim_head**-0.5

    def _distances(self, num_frames: int, device: torch.device) -> Tensor:
        """Rows of the tables for the frame of the row (query) and of the column (key), of shape `(F, F)`."""
        frames = torch.arange(num_frames, device=device)
        distances = frames[None, :] - frames[:, None]
        return distances.clamp(-self.max_distance, self.max_distance) + self.max_distance


def _distance_table(max_distance: int, dim_head: int) -> nn.Parameter:
    table = nn.Parameter(torch.empty(2 * max_distance + 1, dim_head))
    nn.init.xavier_uniform_(table)
    return table
