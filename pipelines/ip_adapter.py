"""IP-Adapters of image models: pictures as prompts."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders import IPAdapterMixin
from torch import Tensor


class VideoIPAdapterMixin(IPAdapterMixin):
    """
    Pictures as prompts, one or more for a whole video.

    The class that inherits it has `unet`, `image_encoder` and `feature_extractor`.
    """

    encode_image = StableDiffusionPipeline.encode_image
    prepare_ip_adapter_image_embeds = StableDiffusionPipeline.prepare_ip_adapter_image_embeds

    def check_ip_adapter(self, arguments: Mapping[str, Any], guided: bool) -> None:
        """
        Refuse pictures without an adapter, an adapter without pictures, and embeddings of a wrong shape.

        Args:
            arguments (`Mapping[str, Any]`): `ip_adapter_image` and `ip_adapter_image_embeds`.
            guided (`bool`): Whether there is classifier-free guidance.

        Raises:
            TypeError: If embeddings are no list of tensors.
            ValueError: If anything is missing, doubled or of a wrong length.
        """
        image, embeds = arguments["ip_adapter_image"], arguments["ip_adapter_image_embeds"]
        loaded = getattr(self.unet.config, "encoder_hid_dim_type", None) == "ip_image_proj"
        if image is None and embeds is None:
            if loaded:
                raise ValueError(
                    "`ip_adapter_image` or `ip_adapter_image_embeds` must be given while an IP-Adapter is loaded, but"
                    " neither is. Pass one, or call `unload_ip_adapter`."
                )
            return
        name = "ip_adapter_image" if image is not None else "ip_adapter_image_embeds"
        if image is not None and embeds is not None:
            raise ValueError("Only one of `ip_adapter_image` and `ip_adapter_image_embeds` may be given, not both.")
        if not loaded:
            raise ValueError(f"`{name}` needs an IP-Adapter, but none is loaded. Call `load_ip_adapter` first.")
        if image is not None and self.image_encoder is None:
            raise ValueError(
                "`ip_adapter_image` needs an `image_encoder`, but this pipeline has none. Pass"
                " `ip_adapter_image_embeds`, or load the adapter with its image encoder."
            )
        count = len(self.unet.encoder_hid_proj.image_projection_layers)
        given = embeds if image is None else image if isinstance(image, list) else [image]
        if not isinstance(given, list):
            raise TypeError(f"`{name}` must be a list with one tensor for each IP-Adapter, but is {given!r}.")
        if len(given) != count:
            raise ValueError(f"`{name}` must hold one entry for each of {count} IP-Adapters, but holds {len(given)}.")
        rows = 2 if guided else 1
        for one in embeds or ():
            if not isinstance(one, torch.Tensor) or one.ndim not in (3, 4):
                raise TypeError(f"`{name}` must hold tensors of 3 or 4 axes, but one is {type(one).__name__}.")
            if one.shape[0] != rows or not torch.isfinite(one).all():
                raise ValueError(
                    f"`{name}` must hold finite tensors of {rows} rows (with guidance the negative one first), but one"
                    f" has shape {tuple(one.shape)}."
                )

    def image_conditions(
        self, arguments: Mapping[str, Any], device: str | torch.device, batch_size: int, guided: bool
    ) -> list[Tensor] | None:
        """
        Encode pictures, or repeat their embeddings.

        Args:
            arguments (`Mapping[str, Any]`): As in [`check_ip_adapter`].
            device (`str` or `torch.device`): Where the embeddings are wanted.
            batch_size (`int`): Videos of the run.
            guided (`bool`): Whether negative rows are wanted; they come first.

        Returns:
            `list[torch.Tensor]`: One for each adapter; `None` without pictures.
        """
        image, embeds = arguments["ip_adapter_image"], arguments["ip_adapter_image_embeds"]
        if image is None and embeds is None:
            return None
        return self.prepare_ip_adapter_image_embeds(image, embeds, device, batch_size, guided)
