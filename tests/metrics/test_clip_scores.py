"""Scores by CLIP: with a small model, against transformers' own similarity of text and image."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from diffusers_video.metrics import ClipEmbedder, clip_frame_consistency, clip_similarity

from ..tiny_pipelines import tiny_tokenizer


PROMPTS = ["a red square", "a blue circle that moves to the left"]


def tiny_clip() -> CLIPModel:
    width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 514, "max_position_embeddings": 77, "bos_token_id": 512, "eos_token_id": 513}
    torch.manual_seed(0)
    return CLIPModel(
        CLIPConfig(
            text_config={**width, **text, "pad_token_id": 513},
            vision_config={**width, "image_size": 16, "patch_size": 8},
            projection_dim=12,
        )
    )


def tiny_embedder() -> ClipEmbedder:
    """CLIP of width 16 for frames of 16 x 16 pixels."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return ClipEmbedder(tiny_clip(), processor, tiny_tokenizer(), batch_size=3)


@pytest.fixture(scope="module")
def embedder() -> ClipEmbedder:
    return tiny_embedder()


def make_videos() -> Tensor:
    return torch.rand(2, 3, 4, 24, 30, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def similarities(embedder: ClipEmbedder, video: Tensor, prompt: str) -> list[float]:
    """Cosines of frames and prompt by the model's own forward, from pictures."""
    pictures = [Image.fromarray((frame.movedim(0, 2) * 255).round().byte().numpy()) for frame in video.unbind(1)]
    inputs = embedder.image_processor(pictures, return_tensors="pt") | embedder.tokenizer(prompt, return_tensors="pt")
    return (embedder.model(**inputs).logits_per_image[:, 0] / embedder.model.logit_scale.exp()).tolist()


def test_clipsim_is_the_mean_cosine_over_the_frames_of_a_video(embedder: ClipEmbedder) -> None:
    videos = make_videos()
    found = clip_similarity(videos, PROMPTS, embedder)
    wants = [similarities(embedder, video, prompt) for video, prompt in zip(videos, PROMPTS, strict=True)]
    assert found.tolist() == pytest.approx([sum(want) / 4 for want in wants], abs=1e-5)
    moved = clip_similarity(videos * 2 - 1, PROMPTS, embedder, value_range=(-1, 1))
    torch.testing.assert_close(moved, found, rtol=0, atol=1e-5)


def test_negative_cosines_stay_negative(embedder: ClipEmbedder) -> None:
    videos = make_videos()
    found = clip_similarity(videos, PROMPTS, embedder)
    try:
        embedder.model.text_projection.weight.data.neg_()
        torch.testing.assert_close(clip_similarity(videos, PROMPTS, embedder), -found)
    finally:
        embedder.model.text_projection.weight.data.neg_()


def test_batches_make_no_difference(embedder: ClipEmbedder) -> None:
    whole = ClipEmbedder(embedder.model, embedder.image_processor, embedder.tokenizer, batch_size=100)
    videos = make_videos()
    torch.testing.assert_close(whole.embed_frames(videos), embedder.embed_frames(videos), rtol=0, atol=1e-6)
    texts = PROMPTS * 3
    torch.testing.assert_close(whole.embed_texts(texts), embedder.embed_texts(texts), rtol=0, atol=1e-6)


def test_frame_consistency_of_pairs_by_hand(embedder: ClipEmbedder) -> None:
    videos = make_videos()
    cosines = torch.einsum("bfd,bgd->bfg", *[embedder.embed_frames(videos)] * 2)
    consecutive = [cosines[:, k, k + 1] for k in range(3)]
    every = [cosines[:, i, j] for i in range(4) for j in range(i + 1, 4)]
    torch.testing.assert_close(clip_frame_consistency(videos, embedder), sum(consecutive) / 3)
    torch.testing.assert_close(clip_frame_consistency(videos, embedder, pairs="all"), sum(every) / 6)
    still = videos[:, :, :1].expand_as(videos)
    assert clip_frame_consistency(still, embedder).tolist() == pytest.approx([1, 1], abs=1e-6)


def test_a_saved_folder_gives_the_same_scores(embedder: ClipEmbedder, tmp_path: Path) -> None:
    for part in (embedder.model, embedder.image_processor, embedder.tokenizer):
        part.save_pretrained(tmp_path)
    loaded = ClipEmbedder.from_pretrained(tmp_path, batch_size=2)
    videos = make_videos()
    want = clip_similarity(videos, PROMPTS, embedder)
    torch.testing.assert_close(clip_similarity(videos, PROMPTS, loaded), want, rtol=0, atol=1e-6)


def test_long_prompts_are_cut_with_a_warning(embedder: ClipEmbedder, caplog: pytest.LogCaptureFixture) -> None:
    long = "x " * 100
    diffusers_logging.enable_propagation()
    caplog.set_level(logging.WARNING)
    found = embedder.embed_texts(["short", long])
    diffusers_logging.disable_propagation()
    assert "1 of 2 texts are longer than the 77 tokens" in caplog.text
    torch.testing.assert_close(found[1], embedder.embed_texts([long[:150]])[0])


def test_bad_input_is_refused(embedder: ClipEmbedder) -> None:
    videos = make_videos()
    for prompts in (PROMPTS[:1], "one prompt"):
        with pytest.raises(ValueError, match="`prompts` must hold one text for each of 2 videos, but holds"):
            clip_similarity(videos, prompts, embedder)
    with pytest.raises(ValueError, match="`videos` must have 3 channels for CLIP, but have 1"):
        embedder.embed_frames(videos[:, :1])
    with pytest.raises(ValueError, match=r"finite values in \[0, 1\]"):
        embedder.embed_frames(videos * 255)
    with pytest.raises(ValueError, match="at least 2 frames to compare, but have 1"):
        clip_frame_consistency(videos[:, :, :1], embedder)
    with pytest.raises(ValueError, match="`pairs` must be 'consecutive' or 'all', but is 'first'"):
        clip_frame_consistency(videos, embedder, pairs="first")
    with pytest.raises(ValueError, match="`texts` must be a list of at least one text"):
        embedder.embed_texts([])
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        ClipEmbedder(embedder.model, embedder.image_processor, embedder.tokenizer, batch_size=0)
