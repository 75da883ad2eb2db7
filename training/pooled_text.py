"""Training on captions that a denoiser reads as one vector each: of clips, and of the single images beside them."""

# Shapes: B videos, F frames with K single images behind them; L text tokens, D text width.

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusers_video.training import objectives
from diffusers_video.training.encoding import encode_captions
from diffusers_video.training.unconditional import UnconditionalLoss


@dataclass(frozen=True, kw_only=True)
class CaptionedClipLoss(UnconditionalLoss):
    """
    The loss of a denoiser that reads captions as one vector each.

    Frames of a clip see its caption, and each single image beside it that of the clip it is from.

    Source:
        VDM (arXiv:2204.03458), Sections 2 and 3: text joins the embedding of the noise level, and zeros stand for
        none. Which text its images see, and how often text is left out, is not published.
    """

    def encode(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """
        Encode clips and captions, unless they are packed or pixels are denoised.

        Args:
            batch (`dict[str, Any]`): Clips with `text`, from [`draw_window`], or what [`encode_clips`] makes of them;
                perhaps with `image_texts`, K for each clip.

        Returns:
            `tuple`: Mean and deviation of the latents by name, and arguments of the denoiser: `encoder_hidden_states`
            of shape `(B, L, D)`, or `(B * (F + K), L, D)` where there are single images.
        """
        encoded, conditions = super().encode(batch)
        if "prompt_embeds" in batch:
            return encoded, {**conditions, "encoder_hidden_states": batch["prompt_embeds"].to(self.device)}
        images = batch.get("image_texts", [])
        texts = [*batch["text"], *(text for texts in images for text in texts)]
        embeds = _cut_padding(encode_captions(self.pipeline, texts)["prompt_embeds"])
        if images:
            of_clips, of_images = embeds[: len(images)], embeds[len(images) :].unflatten(0, (len(images), -1))
            num_frames = encoded["latents_mean"].shape[2] - of_images.shape[1]
            of_frames = of_clips[:, None].expand(-1, num_frames, -1, -1)
            embeds = torch.cat([of_frames, of_images], dim=1).flatten(0, 1)
        return encoded, {**conditions, "encoder_hidden_states": embeds}

    def drop_captions(self, conditions: dict[str, Any], batch_size: int, generator: torch.Generator) -> dict[str, Any]:
        """
        Take the captions from some clips and, each by itself, from some single images.

        Args:
            conditions (`dict[str, Any]`): Arguments of the denoiser, from [`encode`].
            batch_size (`int`): Number of clips.
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `dict[str, Any]`: New ones, with zeros for a caption that is gone.
        """
        text = conditions["encoder_hidden_states"]
        dropped = objectives.draw_mask(batch_size, self.config.caption_dropout, generator)[:, None]
        if len(text) != batch_size:
            num_images = self.config.num_joint_images
            of_images = objectives.draw_mask(batch_size * num_images, self.config.caption_dropout, generator)
            of_frames = dropped.expand(-1, len(text) // batch_size - num_images)
            dropped = torch.cat([of_frames, of_images.unflatten(0, (batch_size, num_images))], dim=1)
        empty = {"encoder_hidden_states": torch.zeros_like(text[:1])}
        return objectives.drop_captions(conditions, empty, dropped.flatten())


def _cut_padding(text: Tensor) -> Tensor:  # BLD -> BLD; tokens that no text of the batch has
    is_used = (text != 0).any(dim=-1).any(dim=0)
    is_used[0] = True
    return text[:, is_used]
