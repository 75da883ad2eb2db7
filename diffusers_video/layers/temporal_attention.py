"""Attention over the frames of a clip, at every position of the image on its own."""

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from .layout import frames_to_sequences, sequences_to_frames


# Shapes: B videos, F frames, S positions, C channels, A attention heads, D = C / A channels of a head.

MAX_HEADS_PER_CALL = 65_535  # CUDA attention kernels put heads on a grid axis of this size


class TemporalAttnProcessor:
    """
    Self-attention over time without moving a tensor: positions are merged with the heads, not with the batch.

    Tokens `(B, F, S, C)` are viewed as queries `(B, F, S * A, D)`, which is the layout of diffusers' attention
    dispatch, so that backends chosen with `set_attention_backend` apply.
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        batch_size, num_frames, positions, _ = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch_size, num_frames, positions * attn.heads, -1)
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        if rotary is not None:
            query, key = (apply_rotary_emb(tensor, rotary, sequence_dim=1) for tensor in (query, key))
        chunks = zip(*(tensor.split(MAX_HEADS_PER_CALL, dim=2) for tensor in (query, key, value)), strict=True)
        outputs = [
            dispatch_attention_fn(
                *chunk,
                attn_mask=attention_mask,
                scale=attn.scale,
                backend=self._attention_backend,
                parallel_config=self._parallel_config,
            )
            for chunk in chunks
        ]
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        output = output.reshape(batch_size, num_frames, positions, -1).to(query.dtype)
        return attn.to_out[1](attn.to_out[0](output))


class TemporalAttention(Attention):
    """
    Self-attention between the frames of a video at each position; a new layer returns zeros.

    Args:
        channels (`int`): Channels of input and output.
        heads (`int`): Number of attention heads.
        dim_head (`int`): Channels of a head.
        dropout (`float`, *optional*, defaults to 0.0): Dropout on the output.
        upcast_attention (`bool`, *optional*, defaults to `False`):
            Compute attention scores in float32 in processors that know the option, as in the image model.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.1; structure of Stable Video Diffusion's `time_stack.attn1`.
    """

    def __init__(
        self, channels: int, heads: int, dim_head: int, dropout: float = 0.0, *, upcast_attention: bool = False
    ) -> None:
        super().__init__(
            query_dim=channels,
            heads=heads,
            dim_head=dim_head,
            dropout=dropout,
            upcast_attention=upcast_attention,
            processor=TemporalAttnProcessor(),
        )
        zero_init(self.to_out[0])

    def forward(self, hidden_states: Tensor, frame_visibility: Tensor | None = None) -> Tensor:
        """
        Let frames attend to each other.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, num_frames, positions, channels)`): Tokens.
            frame_visibility (`torch.Tensor` of shape `(num_frames, num_frames)`, *optional*):
                `True` where the frame of the row may see the frame of the column.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`.
        """
        if isinstance(self.processor, TemporalAttnProcessor):
            mask = None if frame_visibility is None else frame_visibility[None, None]
            return self.processor(self, hidden_states, mask)
        # A processor of diffusers or of the user: it expects plain sequences and a mask that is added to the scores.
        batch_size, _, positions, _ = hidden_states.shape
        sequences = frames_to_sequences(hidden_states)
        mask = None
        if frame_visibility is not None:
            mask = torch.zeros_like(frame_visibility, dtype=hidden_states.dtype)
            mask = mask.masked_fill(~frame_visibility, torch.finfo(hidden_states.dtype).min)
            mask = mask.expand(batch_size * positions, -1, -1)
        return sequences_to_frames(self.processor(self, sequences, attention_mask=mask), batch_size)


class PerVideoAttention(Attention):
    """
    Attention whose keys may come once per video while its queries come once per frame.

    diffusers' layers are turned into this class in place (`layer.__class__ = PerVideoAttention`): nothing is added,
    no weight is renamed. Queries of shape `(B * F, S, C)` are viewed as `(B, F * S, C)`, so that text keys and values
    are computed once per video; layers that put text and image tokens into one sequence get the text repeated.
    """

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | tuple[Tensor, list[Tensor]] | None = None,
        attention_mask: Tensor | None = None,
        **cross_attention_kwargs: object,
    ) -> Tensor:
        """
        Attend to the text of the video.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size * num_frames, positions, channels)`): Queries; maps of
                shape `(batch_size * num_frames, channels, height, width)` for layers with added keys.
            encoder_hidden_states (`torch.Tensor` of shape `(batch_size, tokens, dim)`, *optional*):
                Keys and values, or a pair of them and the IP-Adapter's image embeddings. `None` is self-attention.
            attention_mask (`torch.Tensor` of shape `(batch_size, 1, tokens)`, *optional*): Added to the scores.
            cross_attention_kwargs: Passed on to the attention processor.

        Returns:
            `torch.Tensor` of the shape of `hidden_states`.
        """
        text = encoder_hidden_states[0] if isinstance(encoder_hidden_states, tuple) else encoder_hidden_states
        images = hidden_states.shape[0]
        if text is None or text.shape[0] == images:
            return super().forward(hidden_states, encoder_hidden_states, attention_mask, **cross_attention_kwargs)
        if self.added_kv_proj_dim is not None or cross_attention_kwargs.get("ip_adapter_masks") is not None:
            num_frames = images // text.shape[0]
            encoder_hidden_states = repeat_rows(encoder_hidden_states, num_frames)
            attention_mask = repeat_rows(attention_mask, num_frames)
            return super().forward(hidden_states, encoder_hidden_states, attention_mask, **cross_attention_kwargs)
        queries = hidden_states.reshape(text.shape[0], -1, hidden_states.shape[-1])
        output = super().forward(queries, encoder_hidden_states, attention_mask, **cross_attention_kwargs)
        return output.view(images, -1, output.shape[-1])


def repeat_rows(value: object, repeats: int) -> object:
    """
    Repeat each row of the tensors in a nest of tuples, lists and dictionaries.

    Args:
        value (`torch.Tensor`, `tuple`, `list`, `dict` or `None`): Tensors with one row per video.
        repeats (`int`): Frames per video.

    Returns:
        The same nest with one row per frame; whatever is no tensor is returned as it came.
    """
    if isinstance(value, Tensor):
        return value.repeat_interleave(repeats, dim=0, output_size=value.shape[0] * repeats)
    if isinstance(value, dict):
        return {key: repeat_rows(item, repeats) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(repeat_rows(item, repeats) for item in value)
    return value


def zero_init(layer: nn.Linear) -> None:
    """
    Make a layer return zeros until it is trained.

    Args:
        layer (`torch.nn.Linear`): Output projection of a new temporal branch.
    """
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
