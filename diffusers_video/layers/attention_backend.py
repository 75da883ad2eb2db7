"""An attention processor for the image model's layers that follows `set_attention_backend`."""

from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from torch import Tensor


class DispatchedAttnProcessor:
    """
    What `AttnProcessor2_0` computes, through diffusers' attention dispatch, so that a chosen backend applies.

    diffusers' own processor calls PyTorch directly and ignores `set_attention_backend`. Takes token sequences, as the
    layers of U-Nets do.
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        residual = hidden_states
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
            keys = hidden_states if encoder_hidden_states is None else keys
        if attn.norm_cross is not None and encoder_hidden_states is not None:
            keys = attn.norm_encoder_hidden_states(keys)
        batch_size, length, _ = keys.shape
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, length, batch_size)
            attention_mask = attention_mask.view(batch_size, attn.heads, -1, attention_mask.shape[-1])
        query, key, value = (
            tensor.unflatten(2, (attn.heads, -1))
            for tensor in (attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys))
        )
        output = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        output = attn.to_out[1](attn.to_out[0](output.flatten(2, 3).to(query.dtype)))
        if attn.residual_connection:
            output = output + residual
        return output / attn.rescale_output_factor
