"""Noise level, text and other numbers as one embedding that residual blocks read."""

import math

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn


POOLING_HEADS = 8


class DeepTimestepEmbedding(TimestepEmbedding):
    """
    The MLP of a time embedding, of two layers or more.

    Args:
        in_channels (`int`): Width of the sinusoid.
        time_embed_dim (`int`): Width of every layer.
        num_layers (`int`, *optional*, defaults to 2): Linear layers, at least 2.

    Source:
        VDM (arXiv:2204.03458), Appendix A: two or four layers.
    """

    def __init__(self, in_channels: int, time_embed_dim: int, num_layers: int = 2) -> None:
        super().__init__(in_channels, time_embed_dim)
        self.more_layers = nn.ModuleList(nn.Linear(time_embed_dim, time_embed_dim) for _ in range(num_layers - 2))

    def forward(self, sample: Tensor) -> Tensor:
        """
        Embed.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, in_channels)`): Sinusoids.

        Returns:
            `torch.Tensor` of shape `(batch_size, time_embed_dim)`.
        """
        embedding = super().forward(sample)
        for layer in self.more_layers:
            embedding = layer(self.act(embedding))
        return embedding


class TextPooling(nn.Module):
    """
    Pool the tokens of a text to one vector by attention; a text without visible tokens gives zeros.

    Tokens that are all zeros are padding, and not visible either.

    Args:
        text_dim (`int`): Width of the tokens, a multiple of 8, the number of heads.
        out_dim (`int`): Width of the vector.

    Source:
        VDM (arXiv:2204.03458), Section 4.3 and Appendix A: attention-pooled BERT-large embeddings, zero for the
        unconditional model. Of the layer's form no more is published; here it is one learned query.
    """

    def __init__(self, text_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.query = nn.Parameter(torch.randn(1, 1, text_dim) / text_dim**0.5)
        self.attention = Attention(query_dim=text_dim, heads=POOLING_HEADS, dim_head=text_dim // POOLING_HEADS)
        self.proj = nn.Linear(text_dim, out_dim)

    def forward(self, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Pool.

        Args:
            text (`torch.Tensor` of shape `(batch_size, tokens, text_dim)`): Text.
            mask (`torch.Tensor` of shape `(batch_size, tokens)`, *optional*): 1 or `True` for visible tokens; by
                default those that are not all zeros.

        Returns:
            `torch.Tensor` of shape `(batch_size, out_dim)`.
        """
        query = self.query.to(text.dtype).expand(text.shape[0], -1, -1)
        mask = (text != 0).any(dim=-1) if mask is None else mask
        bias = torch.zeros_like(mask, dtype=text.dtype).masked_fill(~mask.bool(), torch.finfo(text.dtype).min)
        pooled = self.proj(self.attention(query, self.norm(text), bias[:, None]))[:, 0]
        return pooled * mask.bool().any(dim=1, keepdim=True)


def log_snr_to_timestep(log_snr: Tensor) -> Tensor:
    """
    Bring log-SNR to the range of timesteps: 1000 times the time of a cosine schedule without bounds.

    Args:
        log_snr (`torch.Tensor`): Logarithm of the ratio of signal to noise.

    Returns:
        `torch.Tensor`: In (0, 1000), growing with the noise.

    Source:
        VDM (arXiv:2204.03458) does not say how log-SNR is embedded; this is the form of the authors' later code for
        the same schedule, `arctan(exp(-log_snr / 2))` over its largest value.
    """
    return torch.atan(torch.exp(-0.5 * log_snr)) * (2000 / math.pi)
