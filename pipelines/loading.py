"""LoRA layers of Stable Diffusion 1.x, 2.x and XL for one pipeline class."""

import os
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from torch import Tensor


class VideoLoraLoaderMixin(StableDiffusionXLLoraLoaderMixin, StableDiffusionLoraLoaderMixin):
    """
    Load, save and fuse the LoRA layers of an image model on the spatial layers of its video model.

    The class that inherits it has `unet`, `text_encoder`, `text_encoder_2` and `is_sdxl`.
    """

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | dict[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Load LoRA layers into the U-Net and the text encoders, as the image pipeline of the same model does.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `os.PathLike` or `dict[str, torch.Tensor]`):
                Hub id, folder, file or state dict; diffusers' and Kohya's names of layers.
            adapter_name (`str`, *optional*): Name of the adapter, `default_{i}` unless given.
            hotswap (`bool`, *optional*, defaults to `False`): Put the layers in the place of an adapter's.
            kwargs: See [`~diffusers.loaders.StableDiffusionLoraLoaderMixin.load_lora_weights`].
        """
        loader = StableDiffusionXLLoraLoaderMixin if self.is_sdxl else StableDiffusionLoraLoaderMixin
        loader.load_lora_weights(
            self, pretrained_model_name_or_path_or_dict, adapter_name=adapter_name, hotswap=hotswap, **kwargs
        )
