"""The steps of [`UNetVideoConditionModel.forward`]: embeddings, then the blocks of the image model, unchanged."""

from typing import Any

import torch
from diffusers.utils import deprecate
from torch import Tensor

from ..layers.clip import Clip, get_frame_visibility
from ..layers.clip_embedding import stack_clip_ids
from ..layers.context_embedding import mask_context
from ..layers.video_layers import repeat_for_frames


# Shapes: B videos, C channels, F frames, H height, W width, L text tokens, D text width; N = B * F images.


class UNetForwardMixin:
    """Steps that [`UNetVideoConditionModel`] runs on frames folded into the batch."""

    def _embed_time(
        self,
        images: Tensor,
        timestep: Tensor | float | int,
        rows: dict[str, Any],
        encoder_hidden_states: Tensor,
        clip_ids: dict[str, Tensor | float | None],
        num_frames: int,
    ) -> tuple[Tensor, Tensor]:
        """Return the images, with a hint's channels if the model takes one, and their time embedding (N, D)."""
        batch_size = images.shape[0] // num_frames
        if torch.is_tensor(timestep) and timestep.numel() > 1:
            timestep = repeat_for_frames(timestep, batch_size, num_frames, "timestep")
        temb = self.time_embedding(self.get_time_embed(images, timestep), rows["timestep_cond"])
        class_emb = self.get_class_embed(images, rows["class_labels"])
        if class_emb is not None:
            is_concat = self.config.class_embeddings_concat
            temb = torch.cat([temb, class_emb], dim=-1) if is_concat else temb + class_emb
        if self.config.addition_embed_type in ("text", "text_image"):
            encoder_hidden_states = repeat_for_frames(encoder_hidden_states, batch_size, num_frames)
        aug_emb = self.get_aug_embed(temb, encoder_hidden_states, rows["added_cond_kwargs"])
        if self.config.addition_embed_type == "image_hint":
            aug_emb, hint = aug_emb
            images = torch.cat([images, hint], dim=1)
        temb = temb if aug_emb is None else temb + aug_emb
        ids = stack_clip_ids(clip_ids, self.config.added_time_ids, batch_size, images.device)
        if self.clip_embedding is not None:
            clip_emb = repeat_for_frames(self.clip_embedding(ids, temb.dtype), batch_size, num_frames)
            if rows["image_only"] is not None:  # the spatial layers read this embedding, too
                clip_emb = clip_emb.masked_fill(rows["image_only"].reshape(-1, 1), 0)
            temb = temb + clip_emb
        return images, temb if self.time_embed_act is None else self.time_embed_act(temb)

    def _embed_context(
        self, sample: Tensor, context_latents: Tensor | None, frame_mask: Tensor | None
    ) -> tuple[Tensor, ...] | None:
        if self.context_embedding is not None:
            channels = self.config.context_channels - 1
            return self.context_embedding(mask_context(context_latents, frame_mask, sample, channels))
        if context_latents is not None or frame_mask is not None:
            raise ValueError(
                "`context_latents` and `frame_mask` were given, but this model reads no given frames: its"
                " `context_channels` is None. Leave them out, or build the model with `context_channels`."
            )
        return None

    def _describe_clip(
        self,
        sample: Tensor,
        temb: Tensor,
        text: Tensor | tuple,
        image_only: Tensor | None,
        context: tuple[Tensor, ...] | None,
    ) -> Clip:
        num_frames = sample.shape[2]
        return Clip(
            temb=temb,
            num_frames=num_frames,
            encoder_hidden_states=text[0] if isinstance(text, tuple) else text,
            image_only=image_only,
            frame_visibility=get_frame_visibility(
                num_frames,
                is_causal=self.config.temporal_attention == "causal",
                max_distance=self.config.temporal_max_distance,
                device=sample.device,
            ),
            context=context,
        )

    def _embed_gligen(
        self, cross_attention_kwargs: dict[str, Any], batch_size: int, num_frames: int
    ) -> dict[str, Any]:
        gligen = cross_attention_kwargs.get("gligen")
        if gligen is None:
            return cross_attention_kwargs
        objects = repeat_for_frames(self.position_net(**gligen), batch_size, num_frames)
        return {**cross_attention_kwargs, "gligen": {"objs": objects}}

    def _run_blocks(
        self,
        images: Tensor,
        clip: Clip,
        attention: dict[str, Any],
        controlnet: tuple[tuple[Tensor, ...], Tensor] | None,
        adapter: tuple[Tensor, ...] | None,
    ) -> Tensor:
        adapter = list(adapter or ())
        skips = [images]
        for index, block in enumerate(self.down_blocks):
            if getattr(block, "has_cross_attention", False):
                extra = {"additional_residuals": adapter.pop(0)} if adapter else {}
                images, block_skips = block(hidden_states=images, temb=clip, **attention, **extra)
                images, block_skips = self._adapt_frames(f"after_down_blocks_{index}", images, clip, block_skips)
            else:
                images, block_skips = block(hidden_states=images, temb=clip)
                images, block_skips = self._adapt_frames(f"after_down_blocks_{index}", images, clip, block_skips)
                if adapter:
                    images += adapter.pop(0)
            skips += block_skips
        if controlnet is not None:
            skips = [skip + residual for skip, residual in zip(skips, controlnet[0], strict=True)]
        if self.mid_block is not None:
            keywords = attention if getattr(self.mid_block, "has_cross_attention", False) else {}
            images = self.mid_block(images, clip, **keywords)
            if adapter and images.shape == adapter[0].shape:
                images += adapter.pop(0)
        if controlnet is not None:
            images = images + controlnet[1]
        # Sizes that do not divide by the total upsampling factor are forced, block by block, to those of the skips.
        is_size_forced = any(size % 2**self.num_upsamplers for size in skips[0].shape[-2:])
        for index, block in enumerate(self.up_blocks):
            count = len(block.resnets)
            skips, block_skips = skips[:-count], skips[-count:]
            keywords = attention if getattr(block, "has_cross_attention", False) else {}
            is_final = index == len(self.up_blocks) - 1
            images = block(
                hidden_states=images,
                temb=clip,
                res_hidden_states_tuple=tuple(block_skips),
                upsample_size=skips[-1].shape[2:] if is_size_forced and not is_final else None,
                **keywords,
            )
            images, _ = self._adapt_frames(f"after_up_blocks_{index}", images, clip)
        return images

    def _adapt_frames(
        self, place: str, images: Tensor, clip: Clip, skips: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Adapt what a block's last convolution gave, which is the last skip connection as well."""
        if self.sampler_adaptors is None or place not in self.sampler_adaptors:
            return images, skips
        images = self.sampler_adaptors[place](images, clip)
        return images, (*skips[:-1], images) if skips else skips


def sort_residuals(
    down: tuple[Tensor, ...] | None, mid: Tensor | None, intrablock: tuple[Tensor, ...] | None
) -> tuple[tuple[tuple[Tensor, ...], Tensor] | None, tuple[Tensor, ...] | None]:
    """
    Tell the residuals of a ControlNet from those of a T2I-Adapter, as `UNet2DConditionModel` does.

    Args:
        down (`tuple[torch.Tensor]`, *optional*): `down_block_additional_residuals`.
        mid (`torch.Tensor`, *optional*): `mid_block_additional_residual`.
        intrablock (`tuple[torch.Tensor]`, *optional*): `down_intrablock_additional_residuals`.

    Returns:
        `tuple`: (down, mid) of a ControlNet or `None`, and those of a T2I-Adapter or `None`.
    """
    if down is not None and mid is not None:
        return (down, mid), intrablock
    if down is not None and intrablock is None:
        deprecate(
            "T2I should not use down_block_additional_residuals",
            "1.3.0",
            "Pass the residuals of a T2I-Adapter as `down_intrablock_additional_residuals`.",
            standard_warn=False,
        )
        return None, down
    return None, intrablock


def mask_to_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """
    Turn a mask into what is added to attention scores.

    Args:
        mask (`torch.Tensor` of shape `(batch_size, tokens)`, *optional*): 1 or `True` keeps a token, 0 hides it.
        dtype (`torch.dtype`): Type of the scores.

    Returns:
        `torch.Tensor` of shape `(batch_size, 1, tokens)`: 0 or -10000, diffusers' convention.
    """
    return None if mask is None else ((1 - mask.to(dtype)) * -10000.0).unsqueeze(1)


def expand_image_only(image_only: Tensor | None, batch_size: int, num_frames: int) -> Tensor | None:
    """
    Mark every frame of every video.

    Args:
        image_only (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_frames)`, *optional*): `True` for
            frames that are independent images.
        batch_size (`int`): Number of videos.
        num_frames (`int`): Frames per video.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_frames)`, or `None`.

    Raises:
        ValueError: If it has another type or shape.
    """
    if image_only is None:
        return None
    image_only = image_only[:, None] if image_only.dim() == 1 else image_only
    if image_only.dtype is not torch.bool or image_only.shape not in ((batch_size, 1), (batch_size, num_frames)):
        raise ValueError(
            f"`image_only` must be a boolean tensor of shape ({batch_size},) or ({batch_size}, {num_frames}), but is"
            f" {image_only.dtype} of shape {tuple(image_only.shape)}. Mark images with `True`, per video or per frame."
        )
    return image_only.expand(batch_size, num_frames)
