"""Scores by CLIP: how well frames fit their prompt, and each other."""

# Shapes: B videos, C channels, F frames, H height, W width; N = B * F images, D length of an embedding.

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers.utils import logging
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerBase

from ..layers.layout import videos_to_images
from .frames import check_videos


logger = logging.get_logger(__name__)

DEFAULT_CLIP = "openai/clip-vit-base-patch32"


class ClipEmbedder:
    """
    Directions of frames and texts in CLIP's space.

    Args:
        model (`CLIPModel`): The networks, which are put into evaluation.
        image_processor (`CLIPImageProcessorPil`): Resizes and normalises frames, from bytes.
        tokenizer (`PreTrainedTokenizerBase`): That of the text network.
        batch_size (`int`, *optional*, defaults to 32): Frames or texts at once, at least 1.
    """

    def __init__(
        self,
        model: CLIPModel,
        image_processor: CLIPImageProcessorPil,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, but is {batch_size}.")
        self.model, self.image_processor, self.tokenizer = model.eval(), image_processor, tokenizer
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike = DEFAULT_CLIP, batch_size: int = 32, **options: Any
    ) -> ClipEmbedder:
        """
        Load model, image processor and tokenizer.

        Args:
            name_or_path (`str` or `os.PathLike`, *optional*, defaults to `"openai/clip-vit-base-patch32"`): Folder or
                Hub id. The default is the model of published CLIPSIM numbers.
            batch_size (`int`, *optional*, defaults to 32): As the constructor takes it.
            options (`Any`): For `CLIPModel.from_pretrained`, such as `dtype` or `revision`.

        Returns:
            [`ClipEmbedder`]: On the CPU; move its `model` to another device.
        """
        return cls(
            CLIPModel.from_pretrained(name_or_path, **options),
            CLIPImageProcessorPil.from_pretrained(name_or_path),
            AutoTokenizer.from_pretrained(name_or_path),
            batch_size,
        )

    @torch.no_grad()
    def embed_frames(self, videos: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
        """
        Embed every frame.

        Args:
            videos (`torch.Tensor` of shape `(batch_size, 3, num_frames, height, width)`): They are rounded to bytes
                and go through CLIP's own resizing and cropping.
            value_range (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): Least and largest value of a
                pixel.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_frames, length)`: Of length 1, float64, on the CPU.

        Raises:
            ValueError: If there are not 3 channels, or values are outside of the range or not finite.
        """
        videos = check_videos(videos, value_range)
        if videos.shape[1] != 3:
            raise ValueError(f"`videos` must have 3 channels for CLIP, but have {videos.shape[1]}.")
        bytes_NCHW = (videos_to_images(videos) * 255).round().clamp(0, 255).byte().cpu()
        found = []
        for batch in bytes_NCHW.split(self.batch_size):
            images = list(batch.numpy())
            pixels = self.image_processor(images, input_data_format="channels_first", return_tensors="pt").pixel_values
            output = self.model.get_image_features(pixel_values=pixels.to(self.model.device, self.model.dtype))
            found.append(output.pooler_output)
        return _directions(found).unflatten(0, (len(videos), -1))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """
        Embed texts. What the text network cannot take is cut off, with a warning.

        Args:
            texts (`Sequence[str]`): At least one.

        Returns:
            `torch.Tensor` of shape `(num_texts, length)`: Of length 1, float64, on the CPU.

        Raises:
            ValueError: If there are none.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"`texts` must be a list of at least one text, but is {texts!r}.")
        limit = self.model.config.text_config.max_position_embeddings
        long = [
            text for text, ids in zip(texts, self.tokenizer(list(texts)).input_ids, strict=True) if len(ids) > limit
        ]
        if long:
            logger.warning(
                f"{len(long)} of {len(texts)} texts are longer than the {limit} tokens that CLIP reads; the rest is"
                f" not scored. The first begins with {long[0][:60]!r}."
            )
        found = []
        for start in range(0, len(texts), self.batch_size):
            batch = list(texts[start : start + self.batch_size])
            tokens = self.tokenizer(
                batch, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
            )
            tokens = tokens.to(self.model.device)
            output = self.model.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask)
            found.append(output.pooler_output)
        return _directions(found)


def clip_similarity(
    videos: Tensor,
    prompts: Sequence[str],
    embedder: ClipEmbedder,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """
    Compute CLIPSIM: the cosine between the embeddings of prompt and frame, averaged over all given frames.

    Args:
        videos (`torch.Tensor` of shape `(batch_size, 3, num_frames, height, width)`): Say with a number which frames
            they are: all of a video, or 16 of them.
        prompts (`Sequence[str]`): One for each video.
        embedder ([`ClipEmbedder`]): Which CLIP; numbers of different ones cannot be compared.
        value_range (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): Least and largest value of a pixel.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: In [-1, 1], float64, neither clamped at 0 nor multiplied by 100, as
        torchmetrics' `CLIPScore` is. The mean over videos is that of a set.

    Raises:
        ValueError: If there is not one prompt for each video, or videos are not as [`ClipEmbedder`] wants them.

    Source:
        GODIVA (arXiv:2104.14806), Section 4.2, equation 5.
    """
    if isinstance(prompts, str) or len(prompts) != len(videos):
        number = "one string" if isinstance(prompts, str) else len(prompts)
        raise ValueError(f"`prompts` must hold one text for each of {len(videos)} videos, but holds {number}.")
    frames_BFD = embedder.embed_frames(videos, value_range)
    return (frames_BFD * embedder.embed_texts(prompts)[:, None]).sum(2).mean(1)


def clip_frame_consistency(
    videos: Tensor,
    embedder: ClipEmbedder,
    pairs: Literal["consecutive", "all"] = "consecutive",
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """
    Compute the cosine between CLIP's embeddings of frames. It sees what is in the frames, hardly how it moves.

    Args:
        videos (`torch.Tensor` of shape `(batch_size, 3, num_frames, height, width)`): At least 2 frames.
        embedder ([`ClipEmbedder`]): Which CLIP.
        pairs (`str`, *optional*, defaults to `"consecutive"`): `"consecutive"` compares each frame with the next one,
            `"all"` with every other one.
        value_range (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): Least and largest value of a pixel.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: Mean over pairs, in [-1, 1], float64.

    Raises:
        ValueError: If there is one frame, `pairs` is neither, or videos are not as [`ClipEmbedder`] wants them.
    """
    if pairs not in ("consecutive", "all"):
        raise ValueError(f"`pairs` must be 'consecutive' or 'all', but is {pairs!r}.")
    frames_BFD = embedder.embed_frames(videos, value_range)
    num_frames = frames_BFD.shape[1]
    if num_frames < 2:
        raise ValueError(f"`videos` must have at least 2 frames to compare, but have {num_frames}.")
    if pairs == "consecutive":
        return (frames_BFD[:, 1:] * frames_BFD[:, :-1]).sum(2).mean(1)
    first, second = torch.triu_indices(num_frames, num_frames, 1)
    return (frames_BFD[:, first] * frames_BFD[:, second]).sum(2).mean(1)


def _directions(embeddings: list[Tensor]) -> Tensor:
    return nn.functional.normalize(torch.cat(embeddings).cpu().double(), dim=-1)
