"""The U-Net of VideoLDM: any `UNet2DConditionModel` with temporal layers standing on its layers."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.loaders.peft import _SET_ADAPTER_SCALE_FN_MAPPING, _maybe_expand_lora_scales
from diffusers.utils import BaseOutput, apply_lora_scale
from torch import Tensor, nn

from ..layers.clip_embedding import ADDED_TIME_IDS, ClipEmbedding
from ..layers.layout import images_to_videos, videos_to_images
from ..layers.time_mixer import MIXINGS
from ..layers.video_layers import TemporalOptions, make_video_layer, repeat_for_frames
from .attention_processors import VideoAttentionMixin
from .temporal_checkpoint import TemporalCheckpointMixin
from .unet_forward import UNetForwardMixin, mask_to_bias, sort_residuals


# Shapes: B videos, C channels, F frames, H height, W width, L text tokens, D text width; N = B * F images.

TEMPORAL_ATTENTIONS = ("full", "causal", "none")

PRESETS = {
    "videoldm": {},
    "light": {"temporal_cross_attention": False, "temporal_feed_forward": False},
}


@dataclass
class UNetVideoConditionOutput(BaseOutput):
    """
    Output of [`UNetVideoConditionModel`].

    Args:
        sample (`torch.Tensor` of shape `(batch_size, num_channels, num_frames, height, width)`): What the last layer
            predicts for each frame.
    """

    sample: Tensor


def _with_parameters_of_unet2d(init: Callable[..., None]) -> Callable[..., None]:
    """Show the parameters of `UNet2DConditionModel` in the signature, from which configurations are read."""
    inherited = list(inspect.signature(UNet2DConditionModel.__init__).parameters.values())
    own = [item for item in inspect.signature(init).parameters.values() if item.kind is item.KEYWORD_ONLY]
    init.__signature__ = inspect.Signature(inherited + own)
    return init


class UNetVideoConditionModel(VideoAttentionMixin, TemporalCheckpointMixin, UNetForwardMixin, UNet2DConditionModel):
    """
    A conditional U-Net for videos: the layers of a `UNet2DConditionModel`, under the names they have there, and beside
    them temporal layers that mix the frames. A new model draws each frame exactly as the image model does.

    Most models are made by [`~UNetVideoConditionModel.from_unet2d`]. Takes every parameter of
    [`~diffusers.UNet2DConditionModel`] and these:

    Args:
        temporal_conv (`bool`, *optional*, defaults to `True`):
            Put a temporal residual block of convolutions behind every spatial residual block.
        temporal_attention (`str`, *optional*, defaults to `"full"`):
            Attention over time behind every spatial attention layer: `"full"`, `"causal"` (a frame sees itself and
            earlier frames) or `"none"`.
        temporal_cross_attention (`bool`, *optional*, defaults to `True`):
            Let the temporal transformer blocks attend to the text.
        temporal_feed_forward (`bool`, *optional*, defaults to `True`):
            Give the temporal transformer blocks their two feed-forward layers.
        temporal_max_distance (`int`, *optional*):
            Farthest frame that temporal attention sees, at least 1; `None` sets no limit.
        mixing (`str`, *optional*, defaults to `"learned"`):
            How temporal layers are blended in: `"learned"` (a scalar per layer), `"fixed"` or `"residual"` (added).
        temporal_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the group normalisations in the temporal residual blocks.
        added_time_ids (`tuple[str]`, *optional*, defaults to `()`):
            Numbers per clip that the model is told, out of `"fps"`, `"motion_bucket_id"` and `"noise_level"`.
        added_time_embed_dim (`int`, *optional*, defaults to 256): Width of each number's sinusoid.

    Raises:
        ValueError: If an option has a value that is not listed here.
        TypeError: If an option is unknown.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.1 and appendix; temporal layers as counted there and named in Stable
        Video Diffusion (arXiv:2311.15127).
    """

    _no_split_modules = [
        "BasicTransformerBlock",
        "TemporalTransformerBlock",
        "VideoResnetBlock2D",
        "VideoResnetBlockCondNorm2D",
        "VideoKAttentionBlock",
    ]
    _skip_layerwise_casting_patterns = ["norm", "time_mixer"]
    _repeated_blocks = ["BasicTransformerBlock", "TemporalTransformerBlock"]

    @register_to_config
    @_with_parameters_of_unet2d
    def __init__(
        self,
        *args: Any,
        temporal_conv: bool = True,
        temporal_attention: str = "full",
        temporal_cross_attention: bool = True,
        temporal_feed_forward: bool = True,
        temporal_max_distance: int | None = None,
        mixing: str = "learned",
        temporal_norm_eps: float = 1e-5,
        added_time_ids: tuple[str, ...] = (),
        added_time_embed_dim: int = 256,
        **unet2d_options: Any,
    ) -> None:
        _check_choice("temporal_attention", temporal_attention, TEMPORAL_ATTENTIONS)
        _check_choice("mixing", mixing, MIXINGS)
        for name in added_time_ids:
            _check_choice("added_time_ids", name, ADDED_TIME_IDS)
        if temporal_max_distance is not None and temporal_max_distance < 1:
            raise ValueError(
                f"`temporal_max_distance` must be at least 1 or `None`, but is {temporal_max_distance}. With 1 a frame"
                " sees its two neighbours."
            )
        super().__init__(*args, **unet2d_options)
        options = TemporalOptions(
            conv=temporal_conv,
            self_attention=temporal_attention != "none",
            cross_attention=temporal_cross_attention,
            feed_forward=temporal_feed_forward,
            mixing=mixing,
            norm_eps=temporal_norm_eps,
            dropout=self.config.dropout,
            upcast_attention=self.config.upcast_attention,
        )
        time_embed_dim = self.time_embedding.linear_2.out_features
        temb_channels = time_embed_dim * 2 if self.config.class_embeddings_concat else time_embed_dim
        for layer in self._layers_that_see_the_clip():
            make_video_layer(layer, options, temb_channels)
        self.clip_embedding = None
        if added_time_ids:
            self.clip_embedding = ClipEmbedding(len(added_time_ids), added_time_embed_dim, time_embed_dim)

    def _layers_that_see_the_clip(self) -> list[nn.Module]:
        """List the layers that blocks hand the clip to: attention in blocks without text gets none and stays 2D."""
        layers = []
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            if block is not None:
                layers += [module for name, module in block.named_modules() if not name.startswith("attentions")]
                if getattr(block, "has_cross_attention", False):
                    layers += list(block.attentions.modules())
        return layers

    @property
    def temporal_options(self) -> dict[str, Any]:
        """The options that `UNet2DConditionModel` does not have, with their values."""
        inherited = inspect.signature(UNet2DConditionModel.__init__).parameters
        return {name: self.config[name] for name in self._get_init_keys(type(self)) if name not in inherited}

    @classmethod
    def from_unet2d(
        cls, unet2d: UNet2DConditionModel, preset: str = "videoldm", **options: Any
    ) -> "UNetVideoConditionModel":
        """
        Make a video model of an image model; each frame comes out as the image model draws it.

        Args:
            unet2d ([`~diffusers.UNet2DConditionModel`]): The image model; it is copied and left as it is.
            preset (`str`, *optional*, defaults to `"videoldm"`):
                `"videoldm"` (convolution, attention, cross-attention and feed-forward over time) or `"light"`
                (convolution and attention).
            options: Options of this class, which overrule the preset.

        Returns:
            [`UNetVideoConditionModel`] of the same type, place and mode as `unet2d`.

        Raises:
            TypeError: If `unet2d` is no `UNet2DConditionModel`, or an option is unknown.
            ValueError: If the preset is unknown, or adapters are loaded into `unet2d`.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.1. The blended output equals the spatial one at the start because
            every temporal branch ends in a projection initialised to zero.
        """
        if not isinstance(unet2d, UNet2DConditionModel) or isinstance(unet2d, cls):
            raise TypeError(
                f"`unet2d` must be a `UNet2DConditionModel`, but is a `{type(unet2d).__name__}`. Load the image model"
                " with `UNet2DConditionModel.from_pretrained` first."
            )
        _check_choice("preset", preset, tuple(PRESETS))
        known = set(cls._get_init_keys(cls)) - set(inspect.signature(UNet2DConditionModel.__init__).parameters)
        unknown = set(options) - known
        if unknown:
            raise TypeError(f"`{sorted(unknown)[0]}` is no option of the temporal layers; these are {sorted(known)}.")
        spatial = unet2d.state_dict()
        model = cls.from_config({**unet2d.config, **PRESETS[preset], **options, "_class_name": cls.__name__})
        unexpected = model.load_state_dict(spatial, strict=False).unexpected_keys
        if unexpected:
            raise ValueError(
                f"`unet2d` must be a plain image model, but holds weights of an adapter, such as {unexpected[0]!r}."
                " Unload it (`unload_lora`, `unload_ip_adapter`) or fuse it first; adapters of the image model can be"
                " loaded into the video model."
            )
        return nn.Module.to(model, device=unet2d.device, dtype=unet2d.dtype).train(unet2d.training)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> ModelMixin:
        """
        Load a video model, from a folder or the Hub; see [`~diffusers.ModelMixin.from_pretrained`].

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Repository name or folder.
            kwargs: Arguments of [`~diffusers.ModelMixin.from_pretrained`].

        Returns:
            [`UNetVideoConditionModel`] in evaluation mode.

        Raises:
            ValueError: If the weights are those of an image model, or temporal layers are missing.
        """
        is_info_asked = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            raise ValueError(
                f"`pretrained_model_name_or_path` must hold a video model, but {str(pretrained_model_name_or_path)!r}"
                f" lacks {len(info['missing_keys'])} weights, such as {sorted(info['missing_keys'])[0]!r}. For an"
                " image model: `UNetVideoConditionModel.from_unet2d(UNet2DConditionModel.from_pretrained(...))`."
            )
        return (model, info) if is_info_asked else model

    @classmethod
    def from_single_file(cls, pretrained_model_link_or_path_or_dict: Any, **kwargs: Any) -> ModelMixin:
        """
        Refuse: single files hold image models.

        Args:
            pretrained_model_link_or_path_or_dict (`str` or `dict`): The file.
            kwargs: Arguments of `UNet2DConditionModel.from_single_file`.

        Raises:
            ValueError: Always, naming `from_unet2d`.
        """
        raise ValueError(
            "`UNetVideoConditionModel` cannot be read from a single file, because such files hold image models. Use"
            " `UNetVideoConditionModel.from_unet2d(UNet2DConditionModel.from_single_file(...))`, or `from_pretrained`"
            " on the folder of a video model."
        )

    def to(self, *args: Any, **kwargs: Any) -> "UNetVideoConditionModel":
        """
        Move or cast the model; `memory_format=torch.channels_last` also covers the weights of 3D convolutions.

        Args:
            args: Arguments of `torch.nn.Module.to`.
            kwargs: Keyword arguments of `torch.nn.Module.to`.

        Returns:
            [`UNetVideoConditionModel`]: The model itself.
        """
        if kwargs.get("memory_format") is torch.channels_last:
            kwargs.pop("memory_format")
            for parameter in self.parameters():
                if parameter.dim() in (4, 5):
                    layout = torch.channels_last if parameter.dim() == 4 else torch.channels_last_3d
                    parameter.data = parameter.data.to(memory_format=layout)
        return super().to(*args, **kwargs)

    @apply_lora_scale("cross_attention_kwargs")
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        class_labels: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        added_cond_kwargs: dict[str, Any] | None = None,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        down_intrablock_additional_residuals: tuple[Tensor, ...] | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        *,
        fps: Tensor | float | None = None,
        motion_bucket_id: Tensor | float | None = None,
        noise_level: Tensor | float | None = None,
        image_only: Tensor | None = None,
        temporal_encoder_hidden_states: Tensor | None = None,
    ) -> UNetVideoConditionOutput | tuple[Tensor]:
        """
        Predict the noise (or whatever the model was trained to predict) of every frame.

        Arguments not named here are those of [`~diffusers.UNet2DConditionModel.forward`], with one row per video or
        one per frame.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`): Noisy videos.
            timestep (`torch.Tensor`, `float` or `int`): Noise level: one for all, or of shape `(batch_size,)` or
                `(batch_size * num_frames,)`.
            encoder_hidden_states (`torch.Tensor` of shape `(batch_size, tokens, dim)`): Text, once per video.
            down_block_additional_residuals (`tuple[torch.Tensor]`, *optional*): Of a ControlNet that was run on the
                frames: `batch_size * num_frames` rows, all frames of the first video first.
            mid_block_additional_residual (`torch.Tensor`, *optional*): Likewise.
            down_intrablock_additional_residuals (`tuple[torch.Tensor]`, *optional*): Of a T2I-Adapter, likewise.
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.
            fps (`torch.Tensor` of shape `(batch_size,)` or `float`, *optional*): Frames per second; for models whose
                `added_time_ids` name it, as for the next two.
            motion_bucket_id (`torch.Tensor` of shape `(batch_size,)` or `float`, *optional*): Amount of motion.
            noise_level (`torch.Tensor` of shape `(batch_size,)` or `float`, *optional*): Noise on given frames.
            image_only (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_frames)`, *optional*):
                `True` for frames that are independent images: temporal layers leave them as they are.
            temporal_encoder_hidden_states (`torch.Tensor` of shape `(batch_size, tokens, dim)`, *optional*):
                Text for the temporal layers, where it differs from that of the spatial layers (personalised models).

        Returns:
            [`UNetVideoConditionOutput`] or `tuple`: Prediction of shape
            `(batch_size, out_channels, num_frames, height, width)`.

        Raises:
            ValueError: If a tensor has a wrong number of axes or rows, or a number per clip is missing or not read.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.1: time is folded into the batch for the spatial layers.
        """
        self._check_sample(sample, encoder_hidden_states)
        batch_size, _, num_frames = sample.shape[:3]
        images = videos_to_images(sample)
        if self.config.center_input_sample:
            images = 2 * images - 1.0
        conditions = {
            "class_labels": class_labels,
            "timestep_cond": timestep_cond,
            "added_cond_kwargs": added_cond_kwargs,
            "attention_mask": attention_mask,
        }
        rows = repeat_for_frames(conditions, batch_size, num_frames)
        clip_ids = {"fps": fps, "motion_bucket_id": motion_bucket_id, "noise_level": noise_level}
        images, temb = self._embed_time(images, timestep, rows, encoder_hidden_states, clip_ids, num_frames)
        text = self.process_encoder_hidden_states(encoder_hidden_states, added_cond_kwargs)
        temporal_text = text
        if temporal_encoder_hidden_states is not None:
            temporal_text = self.process_encoder_hidden_states(temporal_encoder_hidden_states, added_cond_kwargs)
        clip = self._describe_clip(sample, temb, temporal_text, image_only)
        cross_attention_kwargs = self._embed_gligen(cross_attention_kwargs or {}, batch_size, num_frames)
        attention = {
            "encoder_hidden_states": text,
            "attention_mask": mask_to_bias(rows["attention_mask"], sample.dtype),
            "encoder_attention_mask": mask_to_bias(encoder_attention_mask, sample.dtype),
            "cross_attention_kwargs": {**cross_attention_kwargs, "clip": clip},
        }
        controlnet, adapter = sort_residuals(
            down_block_additional_residuals, mid_block_additional_residual, down_intrablock_additional_residuals
        )
        images = self.conv_in(images)
        images = self._run_blocks(images, clip, attention, controlnet, adapter)
        if self.conv_norm_out:
            images = self.conv_act(self.conv_norm_out(images))
        output = images_to_videos(self.conv_out(images), num_frames)
        return UNetVideoConditionOutput(sample=output) if return_dict else (output,)

    def _check_sample(self, sample: Tensor, encoder_hidden_states: Tensor) -> None:
        if sample.dim() != 5:
            raise ValueError(
                "`sample` must have the shape (batch_size, channels, num_frames, height, width), but has shape"
                f" {tuple(sample.shape)}. Add the axis of frames; a single image is a video of one frame."
            )
        if encoder_hidden_states.shape[0] != sample.shape[0]:
            raise ValueError(
                f"`encoder_hidden_states` must have one row per video ({sample.shape[0]}), but has"
                f" {encoder_hidden_states.shape[0]}. Do not repeat the text for frames; the model does."
            )


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, but is {value!r}. Choose one of them.")


# Scales per block, as in `set_adapters("style", {"unet": {"down": 0.5}})`, are expanded for classes named here only.
_SET_ADAPTER_SCALE_FN_MAPPING[UNetVideoConditionModel.__name__] = _maybe_expand_lora_scales
