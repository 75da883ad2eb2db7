"""Attention processors and backends of video U-Nets: what diffusers' mixins do, without counting temporal layers."""

from types import SimpleNamespace
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.loaders import UNet2DConditionLoadersMixin
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from ..layers.attention_backend import DispatchedAttnProcessor
from ..layers.temporal_attention import TemporalAttention, TemporalAttnProcessor
from ..layers.video_layers import is_temporal


class VideoAttentionMixin:
    """Overrides for models whose attention layers are partly temporal."""

    def set_default_attn_processor(self) -> None:
        """Disable custom attention processors and go back to diffusers' default and our temporal one."""
        chosen = []
        spatial = SimpleNamespace(attn_processors=self._spatial_processors(), set_attn_processor=chosen.append)
        UNet2DConditionModel.set_default_attn_processor(spatial)
        for name, module in self.named_modules():
            if isinstance(module, TemporalAttention):
                module.set_processor(TemporalAttnProcessor())
            elif isinstance(module, Attention):
                module.set_processor(AttnProcessor2_0() if is_temporal(name) else chosen[0])

    def set_attention_backend(self, backend: str) -> None:
        """
        Choose the implementation of attention; see [`~diffusers.ModelMixin.set_attention_backend`].

        Args:
            backend (`str`): Name of a backend of diffusers' attention dispatch, such as `"native"` or `"flash"`.

        Raises:
            ValueError: If the backend is unknown, or if a layer has a processor that follows no backend.
        """
        layers = [(name, module) for name, module in self.named_modules() if isinstance(module, Attention)]
        deaf = [
            (name, layer.processor)
            for name, layer in layers
            if type(layer.processor) is not AttnProcessor2_0 and not hasattr(layer.processor, "_attention_backend")
        ]
        if deaf:
            name, processor = deaf[0]
            raise ValueError(
                f"`backend`={backend!r} cannot be set, because {len(deaf)} layers have attention processors that"
                f" follow no backend, such as {name!r} with `{type(processor).__name__}`. Call"
                " `set_default_attn_processor` or unload the adapter first."
            )
        replaced = [(layer, layer.processor) for _, layer in layers if type(layer.processor) is AttnProcessor2_0]
        for layer, _ in replaced:
            layer.set_processor(DispatchedAttnProcessor())
        try:
            super().set_attention_backend(backend)
        except (ValueError, RuntimeError, ImportError):
            for layer, processor in replaced:
                layer.set_processor(processor)
            raise

    def _spatial_processors(self) -> dict[str, Any]:
        return {name: processor for name, processor in self.attn_processors.items() if not is_temporal(name)}

    def _convert_ip_adapter_attn_to_diffusers(
        self, state_dicts: list[dict[str, Any]], **kwargs: Any
    ) -> dict[str, Any]:
        # IP-Adapter weights are numbered by the image model's layers: show diffusers only those.
        spatial = SimpleNamespace(attn_processors=self._spatial_processors(), config=self.config)
        adapted = UNet2DConditionLoadersMixin._convert_ip_adapter_attn_to_diffusers(spatial, state_dicts, **kwargs)
        return {**self.attn_processors, **adapted}
