"""Prompts to embeddings, for models of Stable Diffusion 1.x and 2.x (one text encoder) and XL (two)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from torch import Tensor, nn

from diffusers_video.pipelines.checks import check_finite, check_integer, check_pair, check_tensor, check_texts
from diffusers_video.pipelines.denoisers import pools_text, reads_text


_SDXL_ARGUMENTS = (
    "prompt_2",
    "negative_prompt_2",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
)
_NEGATIVE_ARGUMENTS = (
    "negative_prompt",
    "negative_prompt_2",
    "negative_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
)
_EMBEDDINGS = {
    "prompt": "prompt_embeds",
    "prompt_2": "prompt_embeds",
    "negative_prompt": "negative_prompt_embeds",
    "negative_prompt_2": "negative_prompt_embeds",
}


class TextEncodingMixin:
    """
    Encode prompts as the image pipeline of the same model does.

    The class that inherits it has `tokenizer`, `text_encoder`, `tokenizer_2`, `text_encoder_2` and `unet`, and
    `force_zeros_for_empty_prompt` in its configuration.
    """

    @property
    def is_sdxl(self) -> bool:
        """`bool`: Whether the denoiser wants pooled embeddings and size conditions as Stable Diffusion XL does."""
        if self.unet is None:
            return self.text_encoder_2 is not None
        return self.unet.config.get("addition_embed_type") == "text_time"

    def check_prompts(self, arguments: Mapping[str, Any], guided: bool) -> int:
        """
        Refuse texts and embeddings that do not fit together or have no effect.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of [`encode_prompt`] and [`prepare_time_ids`], by name.
            guided (`bool`): Whether there is classifier-free guidance.

        Returns:
            `int`: Number of prompts.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments contradict each other.
        """
        given = {name for name, value in arguments.items() if value is not None}
        if not reads_text(self.unet):
            return _count_empty(arguments, given)
        for text, embeddings in _EMBEDDINGS.items():
            if {text, embeddings} <= given:
                raise ValueError(f"Only one of `{text}` and `{embeddings}` may be given, but both are. Leave one out.")
        if not given & {"prompt", "prompt_embeds"}:
            raise ValueError("Either `prompt` or `prompt_embeds` must be given, but neither is.")
        unused = [name for name in _SDXL_ARGUMENTS if name in given and not self.is_sdxl]
        if unused:
            raise ValueError(f"`{unused[0]}` has an effect only on Stable Diffusion XL models, which this one is not.")
        unused = [name for name in _NEGATIVE_ARGUMENTS if name in given and not guided]
        if unused:
            raise ValueError(
                f"`{unused[0]}` has no effect without guidance, which needs a `guidance_scale` above 1 and a model"
                " without an embedded guidance scale. Leave it out."
            )
        check_texts("prompt", arguments["prompt"])
        batch_size = self._check_embeddings(arguments)
        for name in ("prompt_2", "negative_prompt", "negative_prompt_2"):
            check_texts(name, arguments[name], batch_size)
        self._check_text_encoders(arguments, guided)
        for name in _SDXL_ARGUMENTS[4:]:
            check_pair(name, arguments[name], minimum=0 if "crops" in name else 1)
        if ("negative_original_size" in given) != ("negative_target_size" in given):
            raise ValueError("`negative_original_size` and `negative_target_size` must be given together.")
        return batch_size

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: str | torch.device | None = None,
        num_videos_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
        *,
        prompt_2: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """
        Encode prompts, or repeat embeddings that are given.

        Args:
            prompt (`str` or `list[str]`, *optional*): One prompt, or one for each of `batch_size` videos.
            device (`str` or `torch.device`, *optional*): Where the embeddings are wanted.
            num_videos_per_prompt (`int`, *optional*, defaults to 1): Videos of each prompt; they are neighbours.
            do_classifier_free_guidance (`bool`, *optional*, defaults to `True`): Whether negative ones are wanted.
            negative_prompt (`str` or `list[str]`, *optional*): A single one holds for every prompt.
            prompt_embeds (`torch.Tensor` of shape `(batch_size, tokens, width)`, *optional*): Instead of `prompt`.
            negative_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Instead of `negative_prompt`.
            lora_scale (`float`, *optional*): Scale of the LoRA layers of the text encoders.
            clip_skip (`int`, *optional*): Last layers of the text encoder to leave out for `prompt`.
            prompt_2 (`str` or `list[str]`, *optional*, defaults to `prompt`): For the second text encoder of XL.
            negative_prompt_2 (`str` or `list[str]`, *optional*, defaults to `negative_prompt`): Likewise.
            pooled_prompt_embeds (`torch.Tensor` of shape `(batch_size, width)`, *optional*): Belongs to
                `prompt_embeds` of XL.
            negative_pooled_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Likewise.

        Returns:
            `tuple`: `prompt_embeds` and `negative_prompt_embeds`, of shape
            `(batch_size * num_videos_per_prompt, tokens, width)`, and the two pooled embeddings of XL, of shape
            `(batch_size * num_videos_per_prompt, width)`. What the model does not use is `None`.

        Raises:
            FloatingPointError: If a text encoder gives a NaN or an infinity.

        Source:
            `StableDiffusionPipeline.encode_prompt` and `StableDiffusionXLPipeline.encode_prompt` of diffusers, which
            do the work. For a denoiser with `pooled_text_dim` padding is zeros, and so is a missing negative prompt:
            the unconditional model of VDM (arXiv:2204.03458), Section 2.
        """
        if self.unet is not None and not reads_text(self.unet):
            return None, None, None, None
        prompt = [prompt] if isinstance(prompt, str) else prompt
        batch_size = len(prompt) if prompt is not None else prompt_embeds.shape[0]
        negative_prompt, prompt_2, negative_prompt_2 = (
            [text] * batch_size if isinstance(text, str) else text
            for text in (negative_prompt, prompt_2, negative_prompt_2)
        )
        arguments = {
            "prompt": prompt,
            "device": device or self._execution_device,
            "num_images_per_prompt": num_videos_per_prompt,
            "do_classifier_free_guidance": do_classifier_free_guidance,
            "negative_prompt": negative_prompt,
            "prompt_embeds": prompt_embeds,
            "negative_prompt_embeds": negative_prompt_embeds,
            "lora_scale": lora_scale,
            "clip_skip": clip_skip,
        }
        without_text = pools_text(self.unet) and negative_prompt is None and negative_prompt_embeds is None
        if self.is_sdxl:
            prompt_embeds, negative_prompt_embeds, *pooled = StableDiffusionXLPipeline.encode_prompt(
                self,
                **arguments,
                prompt_2=prompt_2,
                negative_prompt_2=negative_prompt_2,
                pooled_prompt_embeds=pooled_prompt_embeds,
                negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            )
            pooled_prompt_embeds, negative_pooled_prompt_embeds = pooled
        else:
            arguments["do_classifier_free_guidance"] &= not without_text
            with _nested_text_model(self.text_encoder):
                prompt_embeds, negative_prompt_embeds = StableDiffusionPipeline.encode_prompt(self, **arguments)
        if pools_text(self.unet):
            prompt_embeds = self._hide_padding(prompt_embeds, prompt)
            negative_prompt_embeds = self._hide_padding(negative_prompt_embeds, negative_prompt)
        if without_text:
            negative_prompt_embeds = torch.zeros_like(prompt_embeds)
        check_finite(prompt_embeds, "The text encoder", "Load it in float32 or bfloat16, and check its weights.")
        if not do_classifier_free_guidance:
            negative_prompt_embeds = negative_pooled_prompt_embeds = None
        return prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds

    def prepare_time_ids(
        self,
        original_size: tuple[int, int],
        crops_coords_top_left: tuple[int, int],
        target_size: tuple[int, int],
        like: Tensor,
    ) -> Tensor:
        """
        Size conditions of Stable Diffusion XL.

        Args:
            original_size (`tuple[int, int]`): Height and width of the original, in pixels.
            crops_coords_top_left (`tuple[int, int]`): Top and left border cut off, in pixels.
            target_size (`tuple[int, int]`): Height and width wanted, in pixels.
            like (`torch.Tensor` of shape `(batch_size, ...)`): Gives batch size, type and device.

        Returns:
            `torch.Tensor` of shape `(batch_size, 6)`.

        Source:
            SDXL (arXiv:2307.01952), Section 2.2.
        """
        ids = torch.tensor([*original_size, *crops_coords_top_left, *target_size]).to(like)
        return ids.repeat(like.shape[0], 1)

    def _hide_padding(self, embeds: Tensor | None, texts: list[str] | None) -> Tensor | None:  # BLD -> BLD
        if embeds is None or texts is None:
            return embeds
        if isinstance(self, TextualInversionLoaderMixin):
            texts = self.maybe_convert_prompt(texts, self.tokenizer)
        form = {"padding": "max_length", "max_length": embeds.shape[1], "truncation": True, "return_tensors": "pt"}
        is_text = self.tokenizer(texts, **form).attention_mask.bool().to(embeds.device)
        is_text = is_text.repeat_interleave(embeds.shape[0] // len(texts), dim=0)
        return embeds.masked_fill(~is_text[:, :, None], 0)

    def _check_embeddings(self, arguments: Mapping[str, Any]) -> int:
        prompt, prompt_embeds = arguments["prompt"], arguments["prompt_embeds"]
        config = self.unet.config
        width = text_width(config)
        tokens = None
        if prompt_embeds is None:
            batch_size = len(prompt) if isinstance(prompt, list) else 1
        else:
            check_tensor("prompt_embeds", prompt_embeds, (None, None, width))
            batch_size, tokens = prompt_embeds.shape[:2]
            if not batch_size:
                raise ValueError("`prompt_embeds` must hold at least one row, but holds none.")
        if arguments["negative_prompt_embeds"] is not None:
            check_tensor("negative_prompt_embeds", arguments["negative_prompt_embeds"], (batch_size, tokens, width))
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            pooled_name = name.replace("prompt_embeds", "pooled_prompt_embeds")
            pooled = arguments[pooled_name]
            if self.is_sdxl and (pooled is None) != (arguments[name] is None):
                raise ValueError(f"`{name}` and `{pooled_name}` must be given together to an XL model.")
            if pooled is not None:
                pooled_width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
                check_tensor(pooled_name, pooled, (batch_size, pooled_width))
        return batch_size

    def _check_text_encoders(self, arguments: Mapping[str, Any], guided: bool) -> None:
        prompt, clip_skip = arguments["prompt"], arguments["clip_skip"]
        zeros = pools_text(self.unet) or (self.is_sdxl and self.config.force_zeros_for_empty_prompt)
        is_encoded = arguments["negative_prompt"] is not None or not zeros
        negative = guided and arguments["negative_prompt_embeds"] is None and is_encoded
        parts = ("tokenizer_2", "text_encoder_2") if self.is_sdxl else ("tokenizer", "text_encoder")
        missing = [name for name in parts if getattr(self, name) is None]
        if missing and (prompt is not None or negative):
            raise ValueError(
                f"`{'prompt' if prompt is not None else 'negative_prompt'}` needs a `{missing[0]}`, but this pipeline"
                f" has none. Pass `{'prompt_embeds' if prompt is not None else 'negative_prompt_embeds'}`."
            )
        if clip_skip is None:
            return
        check_integer("clip_skip", clip_skip, minimum=0)
        if prompt is None:
            raise ValueError("`clip_skip` has no effect on `prompt_embeds`. Leave it out, or pass `prompt`.")
        encoders = [encoder for encoder in (self.text_encoder, self.text_encoder_2) if encoder is not None]
        if not all(hasattr(getattr(encoder, "text_model", encoder), "final_layer_norm") for encoder in encoders):
            raise ValueError(
                f"`clip_skip` needs a text encoder of CLIP, but this is a {type(encoders[0]).__name__}. Leave it out."
            )
        layers = min(encoder.config.num_hidden_layers for encoder in encoders) - self.is_sdxl
        if clip_skip > layers:
            raise ValueError(f"`clip_skip` must be at most {layers} with these text encoders, but is {clip_skip}.")


def _count_empty(arguments: Mapping[str, Any], given: set[str]) -> int:
    """Count the videos of a model without text, for which the prompt is a list of nothing."""
    texts = {"prompt", "clip_skip", *_EMBEDDINGS, *_EMBEDDINGS.values(), *_SDXL_ARGUMENTS, *_NEGATIVE_ARGUMENTS}
    for name in sorted(given & texts):
        if name != "prompt" or not isinstance(arguments[name], list) or any(arguments[name]):
            raise ValueError(f"`{name}` has no effect on a model that reads no text. Leave it out.")
    if arguments["prompt"] is None:
        raise ValueError("This model reads no text. Take UnconditionalVideoPipeline, or give frames to go on from.")
    return len(arguments["prompt"])


def text_width(config: Mapping[str, Any]) -> int:
    """
    Width of the text embeddings that a denoiser takes.

    Args:
        config (`Mapping[str, Any]`): Its configuration.

    Returns:
        `int`
    """
    is_projected = config.get("encoder_hid_dim_type") == "text_proj"
    width = config["encoder_hid_dim" if is_projected else "cross_attention_dim"] or config.get("pooled_text_dim")
    return width[0] if isinstance(width, (list, tuple)) else width


@contextmanager
def _nested_text_model(text_encoder: nn.Module | None) -> Iterator[None]:
    # transformers 5 has the layers on the model itself; `clip_skip` of diffusers looks for them in `text_model`.
    if text_encoder is None or hasattr(text_encoder, "text_model"):
        yield
        return
    vars(text_encoder)["text_model"] = text_encoder  # past `Module.__setattr__`, which would make it its own child
    try:
        yield
    finally:
        del vars(text_encoder)["text_model"]
