"""The text of the temporal layers of personalised models: that of the text encoder they were trained with."""

# Shapes: B prompts, L text tokens, D text width.

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_video.pipelines.checks import check_finite, check_tensor
from diffusers_video.pipelines.text_encoding import text_width


TEMPORAL_TEXT_COMPONENTS = ("temporal_text_encoder", "temporal_tokenizer")
TEMPORAL_TEXT_ARGUMENTS = ("temporal_prompt_embeds", "negative_temporal_prompt_embeds")


def check_temporal_text(components: Mapping[str, Any]) -> None:
    """
    Refuse a text encoder for the temporal layers that they cannot use or have no use for.

    Args:
        components (`Mapping[str, Any]`): Components of a pipeline by name; some may be missing or `None`.

    Raises:
        TypeError: If it is no text encoder.
        ValueError: If it comes without its tokenizer, is that of the spatial layers, or does not fit the denoiser.
    """
    encoder, tokenizer = (components.get(name) for name in TEMPORAL_TEXT_COMPONENTS)
    if (encoder is None) != (tokenizer is None):
        raise ValueError(
            "`temporal_text_encoder` and `temporal_tokenizer` must be given together, but only"
            f" `{TEMPORAL_TEXT_COMPONENTS[encoder is None]}` is. Load both from the model that the temporal layers"
            " were trained with."
        )
    if encoder is None:
        return
    have = getattr(getattr(encoder, "config", None), "hidden_size", None)
    if have is None:
        raise TypeError(f"`temporal_text_encoder` must be a CLIPTextModel, but is a {type(encoder).__name__}.")
    if encoder is components.get("text_encoder"):
        raise ValueError(
            "`temporal_text_encoder` has no effect where it is `text_encoder` itself, with which it would be tuned."
            " Leave it out, or load the original one a second time."
        )
    unet = components.get("unet")
    config = None if unet is None else unet.config
    if components.get("text_encoder_2") is not None or (config and config.get("addition_embed_type") == "text_time"):
        raise ValueError(
            "`temporal_text_encoder` cannot serve a Stable Diffusion XL model, which reads two text encoders. Leave it"
            " out; pass `temporal_prompt_embeds` from the `encode_prompt` of a pipeline with the original ones, where"
            " the tuned ones differ from them."
        )
    if config is None:
        return
    _check_text_is_read("temporal_text_encoder", config)
    if have != text_width(config):
        raise ValueError(
            f"`temporal_text_encoder` must give embeddings of width {text_width(config)}, which `unet` reads, but its"
            f" width is {have}. Take that of the model which the temporal layers were trained with."
        )


def _check_text_is_read(name: str, config: Mapping[str, Any]) -> None:
    if not config.get("temporal_cross_attention"):
        raise ValueError(
            f"`{name}` has no effect, because the temporal layers of this `unet` read no text"
            " (`temporal_cross_attention` is off). Leave it out."
        )


class TemporalTextMixin:
    """
    Encode prompts for the temporal layers, where they read another text encoder than the spatial layers.

    The class that inherits it has `unet`, and the components `TEMPORAL_TEXT_COMPONENTS` or none of them.

    Source:
        VideoLDM (arXiv:2304.08818), Section 4.2.1 and appendix: the spatial layers of a model that DreamBooth tuned
        read its text encoder, the temporal layers the original one.
    """

    temporal_text_encoder = None
    temporal_tokenizer = None

    def check_temporal_prompts(self, arguments: Mapping[str, Any], batch_size: int, guided: bool) -> None:
        """
        Refuse texts for the temporal layers that are missing, do not fit or have no effect.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of a call that passed [`~TextEncodingMixin.check_prompts`].
            batch_size (`int`): Number of prompts.
            guided (`bool`): Whether there is classifier-free guidance.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
        """
        names = (*TEMPORAL_TEXT_COMPONENTS, "text_encoder", "text_encoder_2", "unet")
        check_temporal_text({name: getattr(self, name, None) for name in names})
        encoder, tokenizer = self.temporal_text_encoder, self.temporal_tokenizer
        given = {name: arguments[name] for name in TEMPORAL_TEXT_ARGUMENTS if arguments.get(name) is not None}
        for name in given:
            _check_text_is_read(name, self.unet.config)
            if arguments.get("image_only"):
                raise ValueError(f"`{name}` has no effect with `image_only`, which leaves temporal layers out.")
            if name.startswith("negative") and not guided:
                raise ValueError(f"`{name}` has no effect without guidance. Leave it out, or raise `guidance_scale`.")
        if encoder is not None and len(tokenizer) > encoder.config.vocab_size:
            raise ValueError(
                f"`temporal_tokenizer` must have at most the {encoder.config.vocab_size} tokens of"
                f" `temporal_text_encoder`, but has {len(tokenizer)}. A textual inversion may have been loaded into"
                " it; load the original one anew."
            )
        self._check_missing(arguments, guided)
        if not given:
            return
        width, tokens = text_width(self.unet.config), getattr(tokenizer, "model_max_length", None)
        for name, value in given.items():
            check_tensor(name, value, (batch_size, tokens if name.startswith("negative") else None, width))
            tokens = value.shape[1]

    def _check_missing(self, arguments: Mapping[str, Any], guided: bool) -> None:
        """Refuse embeddings without those that they need beside them, where no text could be encoded instead."""
        name, negative_name = TEMPORAL_TEXT_ARGUMENTS
        is_given, is_negative_given = (arguments.get(one) is not None for one in TEMPORAL_TEXT_ARGUMENTS)
        if self.temporal_text_encoder is None:
            if guided and is_given != is_negative_given:
                raise ValueError(
                    f"`{name}` and `{negative_name}` must be given together with guidance, because this pipeline has"
                    f" no `temporal_text_encoder`, but only `{name if is_given else negative_name}` is."
                )
            return
        if arguments.get("image_only"):
            return
        reason = "because the temporal layers read another text encoder than the spatial layers."
        if arguments["prompt"] is None and not is_given:
            raise ValueError(f"`{name}` must be given with `prompt_embeds`, {reason} Pass both, or `prompt`.")
        if guided and arguments["negative_prompt_embeds"] is not None and not is_negative_given:
            raise ValueError(
                f"`{negative_name}` must be given with `negative_prompt_embeds`, {reason} Pass both, or"
                " `negative_prompt`."
            )

    def encode_temporal_prompt(
        self, arguments: Mapping[str, Any], guided: bool, device: str | torch.device, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        """
        Encode prompts for the temporal layers, or repeat embeddings that are given.

        LoRA layers, textual inversions and `clip_skip` belong to the tuned model and do not act here.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of a call that passed [`check_temporal_prompts`].
            guided (`bool`): Whether negative ones are wanted.
            device (`str` or `torch.device`): Where the embeddings are wanted.
            dtype (`torch.dtype`): Type wanted.

        Returns:
            `tuple`: Embeddings and negative ones, of shape `(batch_size * num_videos_per_prompt, tokens, width)`;
            `None` where temporal layers read the text of the spatial layers, and for negative ones without guidance.

        Raises:
            FloatingPointError: If the text encoder gives a NaN or an infinity.
        """
        given, negative = (arguments.get(name) for name in TEMPORAL_TEXT_ARGUMENTS)
        if arguments.get("image_only") or (self.temporal_text_encoder is None and given is None):
            return None, None
        prompt = arguments["prompt"] if given is None else None
        prompt = [prompt] if isinstance(prompt, str) else prompt
        batch_size = len(prompt) if given is None else given.shape[0]
        negative_prompt = arguments["negative_prompt"]
        original = SimpleNamespace(
            text_encoder=self.temporal_text_encoder, tokenizer=self.temporal_tokenizer, unet=self.unet
        )
        embeds, negative = StableDiffusionPipeline.encode_prompt(
            original,
            prompt,
            device,
            arguments["num_videos_per_prompt"],
            guided,
            [negative_prompt] * batch_size if isinstance(negative_prompt, str) else negative_prompt,
            prompt_embeds=given,
            negative_prompt_embeds=negative,
        )
        check_finite(embeds, "The temporal text encoder", "Load it in float32 or bfloat16, and check its weights.")
        return embeds.to(dtype), negative.to(dtype) if guided else None
