"""The text encoder of a new denoiser, and the pipeline that both are in."""

import os
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn
from transformers import AutoModelForTextEncoding, AutoTokenizer

from diffusers_video.pipelines.denoisers import pools_text
from diffusers_video.pipelines.model_checks import check_denoiser
from diffusers_video.pipelines.text_to_video import TextToVideoPipeline
from diffusers_video.training.autoencoders import is_pipeline
from diffusers_video.training.unconditional_config import UnconditionalConfig


LONGEST_TEXT = 100_000  # a tokenizer that does not know its length names a larger one


def load_text_models(config: UnconditionalConfig) -> dict[str, Any]:
    """
    Load the text encoder of a new model, and its tokenizer.

    Args:
        config ([`UnconditionalConfig`]): Settings.

    Returns:
        `dict[str, Any]`: `text_encoder`, in float32 and told to leave padding out, and `tokenizer`; nothing where the
        model is to read no text.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no text encoder, or its tokenizer does not say how long a text may be.
    """
    name = config.pretrained_text_encoder_name_or_path
    if name is None:
        return {}
    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise FileNotFoundError(
            f"`pretrained_text_encoder_name_or_path` must be a folder or a Hub id, but {name!r} is missing."
        )
    of_encoder, of_tokenizer = ({"subfolder": part} for part in ("text_encoder", "tokenizer"))
    if not is_pipeline(name):
        of_encoder = of_tokenizer = {}
    try:
        text_encoder = AutoModelForTextEncoding.from_pretrained(name, dtype=torch.float32, **of_encoder)
        tokenizer = AutoTokenizer.from_pretrained(name, **of_tokenizer)
    except (OSError, ValueError) as error:
        raise ValueError(
            "`pretrained_text_encoder_name_or_path` must hold a text encoder of transformers and its tokenizer, or a"
            f" pipeline with both, but of {name!r} they cannot be loaded: {error}"
        ) from error
    if tokenizer.model_max_length > LONGEST_TEXT:
        raise ValueError(
            "`pretrained_text_encoder_name_or_path` must have a tokenizer with a `model_max_length`, but that of"
            f" {name!r} has none. Set it, and save the tokenizer again."
        )
    text_encoder.config.use_attention_mask = True  # `encode_prompt` of diffusers reads it
    return {"text_encoder": text_encoder, "tokenizer": tokenizer}


def check_text_denoiser(unet: nn.Module, vae: nn.Module | None, config: UnconditionalConfig) -> None:
    """
    Refuse a denoiser that cannot be trained on captions as vectors.

    Args:
        unet (`torch.nn.Module`): The denoiser.
        vae (`torch.nn.Module`, *optional*): The autoencoder.
        config ([`UnconditionalConfig`]): Settings that ask for text.

    Raises:
        ValueError: If it does not pool text, wants other inputs, or frames are to be given.
    """
    is_new = config.pretrained_model_name_or_path is None
    name = "pretrained_text_encoder_name_or_path" if is_new else "pretrained_model_name_or_path"
    if not pools_text(unet):
        raise ValueError(
            f"`{name}` needs a denoiser with `pooled_text_dim`, but this {type(unet).__name__} was built without. One"
            " with `cross_attention_dim` is trained by `train_video_unet.py`."
        )
    if config.task != "unconditional":
        raise ValueError(f"`task` must be unconditional for a model that reads text, but is {config.task}.")
    check_denoiser(unet, vae, None, "Training from text")


def make_text_pipeline(config: UnconditionalConfig, **components: Any) -> TextToVideoPipeline:
    """
    Put a new denoiser that pools text into a pipeline.

    Args:
        config ([`UnconditionalConfig`]): Settings.
        components: Those of the pipeline by name.

    Returns:
        [`TextToVideoPipeline`]

    Raises:
        ValueError: If they do not fit each other or the settings.
    """
    check_text_denoiser(components["unet"], components["vae"], config)
    return TextToVideoPipeline(**components)


def reads_captions(pipeline: DiffusionPipeline) -> bool:
    """
    Tell whether a pipeline draws from text.

    Args:
        pipeline (`DiffusionPipeline`): [`UnconditionalVideoPipeline`] or [`TextToVideoPipeline`].

    Returns:
        `bool`
    """
    return isinstance(pipeline, TextToVideoPipeline)
