"""The U-Net of VideoLDM: any `UNet2DConditionModel` with temporal layers standing on its layers."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.loaders.peft import _SET_ADAPTER_SCALE_FN_MAPPING, _maybe_expand_lora_scales
from diffusers.utils import BaseOutput, apply_lora_scale
from torch import Tensor, nn

from ..layers.clip_embedding import ADDED_TIME_IDS, ClipEmbedding
from ..layers.context_embedding import ContextEmbedding
from ..layers.frame_adaptor import FrameAdaptor
from ..layers.layout import images_to_videos, videos_to_images
from ..layers.time_mixer import MIXINGS
from ..layers.video_layers import TemporalOptions, make_video_layer, repeat_for_frames
from .attention_processors import VideoAttentionMixin
from .inflation import InflatedModelMixin, check_choice, with_parameters_of
from .temporal_checkpoint import TemporalCheckpointMixin
from .unet_forward import UNetForwardMixin, expand_image_only, mask_to_bias, sort_residuals


# Shapes: B videos, C channels, F frames, H height, W width, L text tokens, D text width; N = B * F images.

TEMPORAL_ATTENTIONS = ("full", "causal", "none")

PRESETS = {
    "videoldm": {},
    "light": {"temporal_cross_attention": False, "temporal_feed_forward": False},
    "magicvideo": {
        "temporal_conv": False,
        "temporal_attention": "causal",
        "temporal_cross_attention": False,
        "temporal_feed_forward": False,
        "mixing": "residual",
        "frame_adaptor": 16,
    },
}
DEFAULT_PRESET = "light"  # as good as "videoldm" at 0.7 of its training time: docs/ablation.md


@dataclass
class UNetVideoConditionOutput(BaseOutput):
    """
    Output of [`UNetVideoConditionModel`].

    Args:
        sample (`torch.Tensor` of shape `(batch_size, num_channels, num_frames, height, width)`): What the last layer
            predicts for each frame.
    """

    sample: Tensor


class UNetVideoConditionModel(
    InflatedModelMixin, VideoAttentionMixin, TemporalCheckpointMixin, UNetForwardMixin, UNet2DConditionModel
):
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
            Farthest frame that temporal attention sees, at least 1; `None` sets no limit. May be changed without
            training, see [`~UNetVideoConditionModel.set_temporal_max_distance`].
        mixing (`str`, *optional*, defaults to `"learned"`):
            How temporal layers are blended in: `"learned"` (a scalar per layer), `"fixed"` or `"residual"` (added).
        temporal_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the group normalisations in the temporal residual blocks.
        added_time_ids (`tuple[str]`, *optional*, defaults to `()`):
            Numbers per clip that the model is told, out of `"fps"`, `"motion_bucket_id"` and `"noise_level"`.
        added_time_embed_dim (`int`, *optional*, defaults to 256): Width of each number's sinusoid.
        context_channels (`int`, *optional*):
            Channels of the given frames that the temporal residual blocks read, or with `temporal_conv=False` the
            temporal attention layers: those of the latents and one for the mask, 5 for latents of 4; `None` for a
            model that reads none.
        frame_adaptor (`int`, *optional*):
            Frames of the clips of the training, for a model with a scale and a shift per frame and channel behind
            every convolution of the residual blocks, and behind those that halve and double the size; `None` for a
            model without. Shorter clips take the first rows, longer ones all of them, interpolated.

    Raises:
        ValueError: If an option has a value that is not listed here.
        TypeError: If an option is unknown.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.1 and appendix; temporal layers as counted there and named in Stable
        Video Diffusion (arXiv:2311.15127). MagicVideo (arXiv:2211.11018), Section 3.2: `frame_adaptor` and the
        causal ("directed") attention.
    """

    image_class = UNet2DConditionModel
    maker = "from_unet2d"

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
    @with_parameters_of(UNet2DConditionModel)
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
        context_channels: int | None = None,
        frame_adaptor: int | None = None,
        **unet2d_options: Any,
    ) -> None:
        check_choice("temporal_attention", temporal_attention, TEMPORAL_ATTENTIONS)
        check_choice("mixing", mixing, MIXINGS)
        for name in added_time_ids:
            check_choice("added_time_ids", name, ADDED_TIME_IDS)
        if temporal_max_distance is not None and temporal_max_distance < 1:
            raise ValueError(
                f"`temporal_max_distance` must be at least 1 or `None`, but is {temporal_max_distance}. With 1 a frame"
                " sees its two neighbours."
            )
        if context_channels is not None and (
            context_channels < 2 or not (temporal_conv or temporal_attention != "none")
        ):
            raise ValueError(
                "`context_channels` must be at least 2 (latents and a mask) and needs `temporal_conv` or"
                f" `temporal_attention`, whose layers read the given frames, but is {context_channels} with"
                f" `temporal_conv={temporal_conv}` and `temporal_attention={temporal_attention!r}`."
            )
        if frame_adaptor is not None and frame_adaptor < 1:
            raise ValueError(
                f"`frame_adaptor` must be at least 1 or `None`, but is {frame_adaptor}. Take the number of frames of"
                " the clips that it is trained on."
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
            context_widths=() if context_channels is None else tuple(self.config.block_out_channels),
            frame_adaptor=frame_adaptor,
        )
        time_embed_dim = self.time_embedding.linear_2.out_features
        temb_channels = time_embed_dim * 2 if self.config.class_embeddings_concat else time_embed_dim
        for layer, level in self._layers_that_see_the_clip():
            make_video_layer(layer, options, temb_channels, level)
        self.clip_embedding = self.context_embedding = self.sampler_adaptors = None
        if added_time_ids:
            self.clip_embedding = ClipEmbedding(len(added_time_ids), added_time_embed_dim, time_embed_dim)
        if context_channels is not None:
            self.context_embedding = ContextEmbedding(context_channels, options.context_widths)
        if frame_adaptor is not None:
            self.sampler_adaptors = self._make_sampler_adaptors(frame_adaptor)

    def _make_sampler_adaptors(self, num_frames: int) -> nn.ModuleDict:
        """
        Make the adaptors of convolutions that halve or double the size. Blocks pass these no clip, but run them last:
        the adaptors are kept, and act, beside the blocks.
        """
        convs = {}
        for kind in ("down", "up"):
            for index, block in enumerate(getattr(self, f"{kind}_blocks")):
                samplers = getattr(block, f"{kind}samplers", None)
                conv = getattr(samplers[-1], "conv", None) if samplers else None
                if isinstance(conv, nn.Conv2d):  # neither a residual block, which has its own, nor a fixed kernel
                    convs[f"after_{kind}_blocks_{index}"] = conv
        return nn.ModuleDict({name: FrameAdaptor(num_frames, conv.out_channels) for name, conv in convs.items()})

    def _layers_that_see_the_clip(self) -> list[tuple[nn.Module, int]]:
        """
        List the layers that blocks hand the clip to, with their levels: attention in blocks without text gets none and
        stays 2D.
        """
        down = list(enumerate(self.down_blocks))
        last = len(down) - 1
        up = [(last - index, block) for index, block in enumerate(self.up_blocks)]
        layers = []
        for level, block in (*down, (last, self.mid_block), *up):
            if block is not None:
                modules = [module for name, module in block.named_modules() if not name.startswith("attentions")]
                if getattr(block, "has_cross_attention", False):
                    modules += list(block.attentions.modules())
                layers += [(module, level) for module in modules]
        return layers

    @classmethod
    def from_unet2d(
        cls, unet2d: UNet2DConditionModel, preset: str = DEFAULT_PRESET, **options: Any
    ) -> "UNetVideoConditionModel":
        """
        Make a video model of an image model; each frame comes out as the image model draws it.

        Args:
            unet2d ([`~diffusers.UNet2DConditionModel`]): The image model; it is copied and left as it is.
            preset (`str`, *optional*, defaults to `"light"`):
                `"light"` (convolution and attention over time), `"videoldm"` (cross-attention and feed-forward as
                well, as in the paper) or `"magicvideo"` (attention to earlier frames, and a scale and a shift
                for each of 16 frames, or of those that the option `frame_adaptor` says).
            options: Options of this class, which overrule the preset.

        Returns:
            [`UNetVideoConditionModel`] of the same type, place and mode as `unet2d`.

        Raises:
            TypeError: If `unet2d` is no `UNet2DConditionModel`, or an option is unknown.
            ValueError: If the preset is unknown, or adapters are loaded into `unet2d`.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.1. The blended output equals the spatial one at the start because
            every temporal branch ends in a projection initialised to zero. MagicVideo (arXiv:2211.11018), Section 3.2.
        """
        check_choice("preset", preset, tuple(PRESETS))
        return cls._inflate("unet2d", unet2d, PRESETS[preset], options)

    @property
    def is_causal(self) -> bool:
        """`bool`: Whether no frame depends on later ones, not even on later ones that are given."""
        return self.config.temporal_attention == "causal" and not self.config.temporal_conv

    @classmethod
    def preset_of(cls, options: Mapping[str, Any]) -> str | None:
        """
        Find the preset with given options; see [`matching_preset`].

        Args:
            options (`Mapping[str, Any]`): Temporal options, or a whole configuration.

        Returns:
            `str` or `None`
        """
        return matching_preset(options)

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
        context_latents: Tensor | None = None,
        frame_mask: Tensor | None = None,
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
                `True` for frames that are independent images: temporal layers leave them as they are, and numbers per
                clip do not reach them, so that they are the image model's own.
            temporal_encoder_hidden_states (`torch.Tensor` of shape `(batch_size, tokens, dim)`, *optional*):
                Text for the temporal layers, where it differs from that of the spatial layers (personalised models);
                it may have another number of tokens.
            context_latents (`torch.Tensor` of shape `(batch_size, context_channels - 1, num_frames, height, width)`,
                *optional*): Latents of given frames at their places, for models with `context_channels`; other places
                are ignored. Without them no frame is given, as with a `frame_mask` that is `False` everywhere.
            frame_mask (`torch.Tensor` of shape `(batch_size, num_frames)` and type `torch.bool`, *optional*): `True`
                for given frames; with `context_latents`.

        Returns:
            [`UNetVideoConditionOutput`] or `tuple`: Prediction of shape
            `(batch_size, out_channels, num_frames, height, width)`.

        Raises:
            ValueError: If a tensor has a wrong number of axes or rows, a number per clip is missing, or the model does
                not read what is given.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.1: time is folded into the batch for the spatial layers; Section
            3.2: given frames and their mask reach the temporal layers.
        """
        self._check_sample(sample, encoder_hidden_states, temporal_encoder_hidden_states)
        batch_size, _, num_frames = sample.shape[:3]
        image_only = expand_image_only(image_only, batch_size, num_frames)
        images = videos_to_images(sample)
        if self.config.center_input_sample:
            images = 2 * images - 1.0
        conditions = {
            "class_labels": class_labels,
            "timestep_cond": timestep_cond,
            "added_cond_kwargs": added_cond_kwargs,
            "attention_mask": attention_mask,
        }
        rows = {**repeat_for_frames(conditions, batch_size, num_frames), "image_only": image_only}
        clip_ids = {"fps": fps, "motion_bucket_id": motion_bucket_id, "noise_level": noise_level}
        images, temb = self._embed_time(images, timestep, rows, encoder_hidden_states, clip_ids, num_frames)
        text = self.process_encoder_hidden_states(encoder_hidden_states, added_cond_kwargs)
        temporal_text = text
        if temporal_encoder_hidden_states is not None:
            temporal_text = self.process_encoder_hidden_states(temporal_encoder_hidden_states, added_cond_kwargs)
        context = self._embed_context(sample, context_latents, frame_mask)
        clip = self._describe_clip(sample, temb, temporal_text, image_only, context)
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
        images = self._run_blocks(self.conv_in(images), clip, attention, controlnet, adapter)
        if self.conv_norm_out:
            images = self.conv_act(self.conv_norm_out(images))
        output = images_to_videos(self.conv_out(images), num_frames)
        return UNetVideoConditionOutput(sample=output) if return_dict else (output,)

    def _check_sample(self, sample: Tensor, text: Tensor, temporal_text: Tensor | None) -> None:
        if sample.dim() != 5:
            raise ValueError(
                "`sample` must have the shape (batch_size, channels, num_frames, height, width), but has shape"
                f" {tuple(sample.shape)}. Add the axis of frames; a single image is a video of one frame."
            )
        texts = {"encoder_hidden_states": text, "temporal_encoder_hidden_states": temporal_text}
        for name, one in texts.items():
            if one is not None and one.shape[0] != sample.shape[0]:
                raise ValueError(
                    f"`{name}` must have one row per video ({sample.shape[0]}), but has {one.shape[0]}. Do not repeat"
                    " the text for frames; the model does."
                )
        if temporal_text is not None and not self.config.temporal_cross_attention:
            raise ValueError(
                "`temporal_encoder_hidden_states` has no effect on this model, whose temporal layers read no text"
                " (`temporal_cross_attention` is off). Leave it out."
            )


STRUCTURAL_OPTIONS = {  # those that presets differ in, with their defaults
    name: parameter.default
    for name, parameter in inspect.signature(UNetVideoConditionModel.__init__).parameters.items()
    if name in ("mixing", "frame_adaptor", "context_channels")
    or name.startswith("temporal_")
    and name not in ("temporal_norm_eps", "temporal_max_distance")
}


def matching_preset(config: Mapping[str, Any]) -> str | None:
    """
    Find the preset that a video U-Net was made with.

    Args:
        config (`Mapping[str, Any]`): Configuration of a [`UNetVideoConditionModel`], or its temporal options.

    Returns:
        `str` or `None`: Its name; `None` where the options are those of no preset. For how many frames a
        `frame_adaptor` was made does not matter.
    """

    def compared(options: Mapping[str, Any]) -> dict[str, Any]:
        options = {name: options.get(name, default) for name, default in STRUCTURAL_OPTIONS.items()}
        return {**options, "frame_adaptor": options["frame_adaptor"] is not None}

    return next((preset for preset, changes in PRESETS.items() if compared(config) == compared(changes)), None)


# Scales per block, as in `set_adapters("style", {"unet": {"down": 0.5}})`, are expanded for classes named here only.
_SET_ADAPTER_SCALE_FN_MAPPING[UNetVideoConditionModel.__name__] = _maybe_expand_lora_scales
