"""A tiny BERT and the words it knows, and pipelines in pixels whose denoiser pools what it reads."""

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import SchedulerMixin
from transformers import BertConfig, BertModel, BertTokenizerFast

from diffusers_video import TextToVideoPipeline, VDMScheduler

from .tiny_space_time import tiny_space_time


TEXT_WIDTH, MAX_TOKENS = 16, 12
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS += ("a", "red", "green", "blue", "circle", "square", "moves", "left")
FRAMES, SIDE = 3, 8


def tiny_text_models(max_length: int = MAX_TOKENS) -> dict[str, object]:
    """`text_encoder` and `tokenizer`; the encoder leaves padding out, and sees words on both sides."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 24}
    config = BertConfig(vocab_size=len(WORDS), hidden_size=TEXT_WIDTH, **sizes, initializer_range=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text_encoder = BertModel(config).eval()
    text_encoder.config.use_attention_mask = True
    vocab = {word: number for number, word in enumerate(WORDS)}
    return {
        "text_encoder": text_encoder,
        "tokenizer": BertTokenizerFast(vocab=vocab, model_max_length=max_length),
    }


def tiny_text_vdm(
    dtype: torch.dtype = torch.float32,
    scheduler: SchedulerMixin | None = None,
    max_length: int = MAX_TOKENS,
    **options: object,
) -> TextToVideoPipeline:
    """A pipeline in pixels and in continuous time; `options` are the denoiser's."""
    unet = tiny_space_time("vdm", pooled_text_dim=TEXT_WIDTH, **options)
    scheduler = VDMScheduler(prediction_type="v_prediction") if scheduler is None else scheduler
    parts = {"vae": None, "unet": unet, "scheduler": scheduler, **tiny_text_models(max_length)}
    pipeline = TextToVideoPipeline(**parts, num_frames=FRAMES, fps=4.0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)
