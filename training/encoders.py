"""The frozen models that encode clips ahead of training."""

import os
from types import SimpleNamespace
from typing import Any

from diffusers import AutoModel, DiffusionPipeline

from diffusers_video.pipelines.unconditional_video import UnconditionalVideoPipeline
from diffusers_video.training.autoencoders import is_pipeline
from diffusers_video.training.config import VideoUNetConfig
from diffusers_video.training.encoding import check_packable
from diffusers_video.training.models import load_pipeline


MODEL_CONFIG = "config.json"


def load_encoders(config: VideoUNetConfig) -> Any:
    """
    Load what clips are packed with: the models of a pipeline, or the autoencoder alone for denoisers without text.

    Args:
        config ([`VideoUNetConfig`]): Settings; `pretrained_model_name_or_path` may also name an
            [`UnconditionalVideoPipeline`], or the folder of an autoencoder.

    Returns:
        `DiffusionPipeline` or `types.SimpleNamespace`: With `vae`, and text encoders if it reads text; its `unet` is
        `None`.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If nothing is trained on its latents.
    """
    name, revision = config.pretrained_model_name_or_path, config.revision
    if os.path.isfile(os.path.join(name, MODEL_CONFIG)):
        encoders = SimpleNamespace(vae=AutoModel.from_pretrained(name))
    elif _reads_no_text(name, revision):
        encoders = SimpleNamespace(vae=DiffusionPipeline.from_pretrained(name, revision=revision).vae)
    else:
        encoders = load_pipeline(config, num_frames=config.frames_per_clip, fps=1.0)  # neither matters to an encoder
    if not hasattr(encoders.vae, "encode"):
        raise ValueError(
            f"`--model` must have an autoencoder, but of {name!r} it is a {type(encoders.vae).__name__}. Models of"
            " pixels are trained on videos."
        )
    check_packable(encoders.vae)
    encoders.unet = None
    return encoders


def _reads_no_text(name: str, revision: str | None) -> bool:
    if not is_pipeline(name, revision):
        return False
    index = DiffusionPipeline.load_config(name, revision=revision)
    return index.get("_class_name") == UnconditionalVideoPipeline.__name__
