"""The U-Net of LVDM and VDM: trained from scratch, convolutions in space, attention in space and in time."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import Timesteps
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ..layers.clip import Clip
from ..layers.clip_embedding import ClipEmbedding
from ..layers.condition_embedding import DeepTimestepEmbedding, TextPooling, log_snr_to_timestep
from ..layers.context_embedding import place_context
from ..layers.factorised_attention import AttentionOptions, FactorisedTransformer, VideoGroupNorm, isolate_images
from ..layers.layout import images_to_videos, videos_to_images
from ..layers.space_time_blocks import BlockOptions, SpaceTimeDownBlock, SpaceTimeMidBlock, SpaceTimeUpBlock
from ..layers.temporal_attention import zero_init
from ..layers.video_layers import repeat_for_frames
from .attention_processors import VideoAttentionMixin
from .inflation import check_choice
from .space_time_options import PRESETS, check_options
from .unet_forward import expand_image_only, mask_to_bias


# Shapes: B videos, C channels, F frames, H height, W width, L text tokens, D text width; N = B * F images.

HEADS_OF_INPUT = 8  # of the transformer behind the first convolution, in VideoCrafter


@dataclass
class UNetSpaceTimeOutput(BaseOutput):
    """
    Output of [`UNetSpaceTimeModel`].

    Args:
        sample (`torch.Tensor` of shape `(batch_size, out_channels, num_frames, height, width)`): What the last layer
            predicts for each frame.
    """

    sample: Tensor


class UNetSpaceTimeModel(VideoAttentionMixin, ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """
    A factorised U-Net for videos of any length: convolutions see one frame, attention in space is followed by
    attention in time. Time is never resampled.

    Defaults are those of LVDM's released model for short videos: 548.9M parameters.
    [`~UNetSpaceTimeModel.from_preset`] builds the published sizes.

    Args:
        in_channels (`int`, *optional*, defaults to 4): Channels of the noisy videos.
        out_channels (`int`, *optional*, defaults to 4): Channels of the prediction.
        sample_size (`int` or `tuple[int, int]`, *optional*, defaults to 32): Height and width of the training.
        block_out_channels (`tuple[int, ...]`, *optional*, defaults to `(256, 512, 768, 1024)`): Channels of each
            level, multiples of `norm_num_groups`; height and width are halved between levels.
        layers_per_block (`int`, *optional*, defaults to 3): Residual blocks of each level.
        attention_type (`str`, *optional*, defaults to `"pair"`): `"pair"` (an attention layer in space, then one in
            time), `"interleaved"` (transformer blocks with spatial, temporal, text and again temporal attention) or
            `"sequential"` (a transformer in space, then one in time).
        attention_levels (`tuple[bool, ...]`, *optional*, defaults to `(False, True, True, True)`): Levels whose
            residual blocks have attention behind them. The middle has it always.
        input_attention (`bool`, *optional*, defaults to `False`): Put a transformer in time behind the first layer.
        num_attention_heads (`int`, *optional*, defaults to 4): Heads of every attention layer, or `None` to have as
            many as `attention_head_dim` asks for.
        attention_head_dim (`int`, *optional*): Channels of a head; one of the two is `None`.
        transformer_depth (`int`, *optional*, defaults to 1): Blocks of a transformer.
        cross_attention_dim (`int`, *optional*): Width of the text that transformers attend to.
        pooled_text_dim (`int`, *optional*): Width of text that is pooled to a vector and embedded with the noise
            level, a multiple of 8.
        relative_positions (`str`, *optional*, defaults to `"keys_values"`): Of temporal attention: `"keys_values"`,
            `"keys"`, `"none"`, or `"released"`, the form of LVDM's weights with `"pair"`.
        max_relative_distance (`int`, *optional*, defaults to 4): Frames further apart count as so far apart.
        joint_norm (`bool`, *optional*, defaults to `True`): Whether frames share the statistics of normalisations in
            residual blocks, interleaved transformers and the last layer.
        joint_temporal_norm (`bool`, *optional*, defaults to `True`): Whether they do in layers that attend in time.
        norm_num_groups (`int`, *optional*, defaults to 32): Groups of the normalisations.
        norm_eps (`float`, *optional*, defaults to 1e-5): Their epsilon in residual blocks and before the last layer.
        resnet_time_scale_shift (`str`, *optional*, defaults to `"scale_shift"`): How residual blocks read the time
            embedding: `"scale_shift"`, or `"default"` (added).
        time_embed_dim (`int`, *optional*): Width of the time embedding; four times the first level's by default.
        time_embed_layers (`int`, *optional*, defaults to 2): Layers of its MLP, at least 2.
        timestep_type (`str`, *optional*, defaults to `"discrete"`): What `timestep` is: `"discrete"` (of a schedule of
            1000 steps) or `"log_snr"`.
        num_class_embeds (`int`, *optional*): Classes.
        num_noise_levels (`int`, *optional*): Levels of the noise on given frames, counted from 0.
        use_fps (`bool`, *optional*, defaults to `False`): Whether the model is told the frame rate.
        use_frame_mask (`bool`, *optional*, defaults to `False`): Whether frames may be given: a channel marks them.
        dropout (`float`, *optional*, defaults to 0.0): Dropout in all layers.

    Raises:
        ValueError: If options are out of their range or do not fit each other.

    Source:
        LVDM (arXiv:2211.13221), Sections 3.2 and 3.3, and its released code; VDM (arXiv:2204.03458), Section 3;
        `"sequential"`: VideoCrafter (arXiv:2310.19512).
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["SpaceTimeResnetBlock", "AttentionPair", "FactorisedTransformer"]
    _repeated_blocks = ["AttentionPair", "FactorisedTransformerBlock"]
    _skip_layerwise_casting_patterns = ["norm"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        *,
        sample_size: int | tuple[int, int] = 32,
        block_out_channels: tuple[int, ...] = (256, 512, 768, 1024),
        layers_per_block: int = 3,
        attention_type: str = "pair",
        attention_levels: tuple[bool, ...] = (False, True, True, True),
        input_attention: bool = False,
        num_attention_heads: int | None = 4,
        attention_head_dim: int | None = None,
        transformer_depth: int = 1,
        cross_attention_dim: int | None = None,
        pooled_text_dim: int | None = None,
        relative_positions: str = "keys_values",
        max_relative_distance: int = 4,
        joint_norm: bool = True,
        joint_temporal_norm: bool = True,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "scale_shift",
        time_embed_dim: int | None = None,
        time_embed_layers: int = 2,
        timestep_type: str = "discrete",
        num_class_embeds: int | None = None,
        num_noise_levels: int | None = None,
        use_fps: bool = False,
        use_frame_mask: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_options(self.config)
        widths = tuple(block_out_channels)
        width_of_time = time_embed_dim or 4 * widths[0]
        options = self._block_options(width_of_time)
        self._add_embeddings(widths[0], width_of_time)
        self.conv_in = nn.Conv2d(in_channels + use_frame_mask, widths[0], kernel_size=3, padding=1)
        self.input_transformer = None
        if input_attention:
            self.input_transformer = FactorisedTransformer(
                widths[0], options.attention, has_space=False, num_heads=HEADS_OF_INPUT
            )
        self._add_blocks(widths, options)
        self.conv_norm_out = VideoGroupNorm(norm_num_groups, widths[0], norm_eps, joint_norm)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[0], out_channels, kernel_size=3, padding=1)
        zero_init(self.conv_out)

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> "UNetSpaceTimeModel":
        """
        Build a published size, with new weights.

        Args:
            preset (`str`): `"lvdm"`, `"lvdm_prediction"`, `"lvdm_interpolation"`, `"lvdm_text_to_video"`,
                `"vdm_ucf101"`, `"vdm_bair"`, `"vdm_kinetics"`, `"vdm_text_small"`, `"vdm_text"` or `"vdm_text_128"`.
            options: Options of this class, which overrule the preset.

        Returns:
            [`UNetSpaceTimeModel`]

        Raises:
            ValueError: If the preset is unknown.

        Source:
            LVDM's released configurations; VDM (arXiv:2204.03458), Appendix A, where the first convolution, the width
            of the text's pooling and the farthest relative position are not listed.
        """
        check_choice("preset", preset, tuple(PRESETS))
        return cls(**{**PRESETS[preset], **options})

    def _block_options(self, temb_channels: int) -> BlockOptions:
        config = self.config
        attention = AttentionOptions(
            kind=config.attention_type,
            num_heads=config.num_attention_heads,
            dim_head=config.attention_head_dim,
            cross_attention_dim=config.cross_attention_dim,
            depth=config.transformer_depth,
            relative_positions=config.relative_positions,
            max_distance=config.max_relative_distance,
            num_groups=config.norm_num_groups,
            is_joint=config.joint_norm,
            is_temporal_joint=config.joint_temporal_norm,
            dropout=config.dropout,
        )
        return BlockOptions(
            temb_channels=temb_channels,
            time_scale_shift=config.resnet_time_scale_shift,
            num_groups=config.norm_num_groups,
            norm_eps=config.norm_eps,
            is_joint=config.joint_norm,
            dropout=config.dropout,
            attention=attention,
        )

    def _add_embeddings(self, sinusoid_dim: int, time_embed_dim: int) -> None:
        config = self.config
        self.time_proj = Timesteps(sinusoid_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = DeepTimestepEmbedding(sinusoid_dim, time_embed_dim, config.time_embed_layers)
        self.text_pooling = self.class_embedding = self.noise_level_embedding = self.fps_embedding = None
        if config.pooled_text_dim is not None:
            self.text_pooling = TextPooling(config.pooled_text_dim, sinusoid_dim)
        if config.num_class_embeds is not None:
            self.class_embedding = nn.Embedding(config.num_class_embeds, time_embed_dim)
        if config.num_noise_levels is not None:
            self.noise_level_embedding = nn.Embedding(config.num_noise_levels, time_embed_dim)
        if config.use_fps:
            self.fps_embedding = ClipEmbedding(1, sinusoid_dim, time_embed_dim)

    def _add_blocks(self, widths: tuple[int, ...], options: BlockOptions) -> None:
        levels = list(zip(widths, self.config.attention_levels, strict=True))
        layers = self.config.layers_per_block
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        width, skips = widths[0], [widths[0]]
        for level, (next_width, has_attention) in enumerate(levels):
            is_last = level == len(levels) - 1
            flags = {"has_attention": has_attention, "has_downsampler": not is_last}
            self.down_blocks.append(SpaceTimeDownBlock(width, next_width, layers, options, **flags))
            skips += [next_width] * (layers + (not is_last))
            width = next_width
        self.mid_block = SpaceTimeMidBlock(width, options)
        for level, (next_width, has_attention) in reversed(list(enumerate(levels))):
            skip_channels = [skips.pop() for _ in range(layers + 1)]
            flags = {"has_attention": has_attention, "has_upsampler": level > 0}
            self.up_blocks.append(SpaceTimeUpBlock(width, next_width, skip_channels, options, **flags))
            width = next_width

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor | None = None,
        class_labels: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        *,
        fps: Tensor | float | None = None,
        noise_level: Tensor | int | None = None,
        image_only: Tensor | None = None,
        context_latents: Tensor | None = None,
        frame_mask: Tensor | None = None,
    ) -> UNetSpaceTimeOutput | tuple[Tensor]:
        """
        Predict the noise (or whatever the model was trained to predict) of every frame.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`): Noisy videos.
            timestep (`torch.Tensor`, `float` or `int`): Noise level, see `timestep_type`: one for all, or of shape
                `(batch_size,)` or `(batch_size * num_frames,)`.
            encoder_hidden_states (`torch.Tensor` of shape `(batch_size, tokens, dim)`, *optional*): Text, for models
                with `cross_attention_dim`, which need it, or `pooled_text_dim`, where none is the unconditional model,
                and a text of zeros too. A pooled text may also be of shape `(batch_size * num_frames, tokens, dim)`:
                independent images of `image_only` then have their own.
            class_labels (`torch.Tensor` of shape `(batch_size,)`, *optional*): Classes, for models with
                `num_class_embeds`; none adds nothing.
            encoder_attention_mask (`torch.Tensor` of shape `(batch_size, tokens)`, *optional*): 1 or `True` for tokens
                that are visible, with as many rows as the text. A text without any is pooled to the unconditional
                zeros.
            return_dict (`bool`, *optional*, defaults to `True`): Return an output object instead of a tuple.
            fps (`torch.Tensor` of shape `(batch_size,)` or `float`, *optional*): Frames per second, which models with
                `use_fps` need.
            noise_level (`torch.Tensor` of shape `(batch_size,)` or `int`, *optional*): Noise on given frames, for
                models with `num_noise_levels`; none adds nothing.
            image_only (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_frames)`, *optional*): `True` for
                frames that are independent images: they see themselves only, and no other frame sees them. For models
                whose normalisations do not join frames.
            context_latents (`torch.Tensor` of shape `(batch_size, in_channels, num_frames, height, width)`,
                *optional*): Given frames at their places, with the noise of `noise_level`, for models with
                `use_frame_mask`; other places are ignored. They take the places of those in `sample`.
            frame_mask (`torch.Tensor` of shape `(batch_size, num_frames)` and type `torch.bool`, *optional*): `True`
                for given frames; with `context_latents`.

        Returns:
            [`UNetSpaceTimeOutput`] or `tuple`: Prediction of shape
            `(batch_size, out_channels, num_frames, height, width)`.

        Raises:
            ValueError: If a tensor has a wrong number of axes or rows, a condition that the model needs is missing, or
                the model does not read what is given.

        Source:
            VDM (arXiv:2204.03458), Section 3; LVDM (arXiv:2211.13221), Section 3.3.
        """
        conditions = {
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
            "class_labels": class_labels,
            "fps": fps,
            "noise_level": noise_level,
        }
        self._check_inputs(sample, conditions, context_latents is not None or frame_mask is not None)
        batch_size, _, num_frames = sample.shape[:3]
        temb = self._embed_time(sample, timestep, conditions)
        clip = self._describe_clip(sample, temb, conditions, image_only)
        if self.config.use_frame_mask:
            sample = place_context(sample, context_latents, frame_mask)
        images = self._run_blocks(self.conv_in(videos_to_images(sample)), clip)
        images = self.conv_out(self.conv_act(self.conv_norm_out(images, num_frames)))
        output = images_to_videos(images, num_frames)
        return UNetSpaceTimeOutput(sample=output) if return_dict else (output,)

    def _embed_time(self, sample: Tensor, timestep: Tensor | float | int, conditions: dict[str, Any]) -> Tensor:
        """Return the embedding of everything that is one vector, of shape (N, D)."""
        batch_size, _, num_frames = sample.shape[:3]
        timestep = torch.as_tensor(timestep, device=sample.device)
        if timestep.numel() == 1:
            timestep = timestep.reshape(1).expand(batch_size)
        if self.config.timestep_type == "log_snr":
            timestep = log_snr_to_timestep(timestep.float())
        embedding = repeat_for_frames(self.time_proj(timestep).to(sample.dtype), batch_size, num_frames, "timestep")
        if self.text_pooling is not None and conditions["encoder_hidden_states"] is not None:
            text = self.text_pooling(conditions["encoder_hidden_states"], conditions["encoder_attention_mask"])
            embedding = embedding + repeat_for_frames(text, batch_size, num_frames)
        embedding = self.time_embedding(embedding)
        added = []
        if conditions["class_labels"] is not None:
            added.append(self.class_embedding(conditions["class_labels"]))
        if conditions["noise_level"] is not None:
            added.append(self.noise_level_embedding(_per_video(conditions["noise_level"], sample).long()))
        if self.fps_embedding is not None:
            added.append(self.fps_embedding(_per_video(conditions["fps"], sample)[:, None], sample.dtype))
        for vector in added:
            embedding = embedding + repeat_for_frames(vector, batch_size, num_frames)
        return embedding

    def _describe_clip(
        self, sample: Tensor, temb: Tensor, conditions: dict[str, Any], image_only: Tensor | None
    ) -> Clip:
        batch_size, _, num_frames = sample.shape[:3]
        image_only = expand_image_only(image_only, batch_size, num_frames)
        if image_only is not None and (self.config.joint_norm or self.config.joint_temporal_norm):
            raise ValueError(
                "`image_only` needs a model whose normalisations do not join frames, but this one has"
                f" `joint_norm={self.config.joint_norm}` and"
                f" `joint_temporal_norm={self.config.joint_temporal_norm}`: frames would still see each other. Build"
                " it with both off."
            )
        return Clip(
            temb=temb,
            num_frames=num_frames,
            encoder_hidden_states=conditions["encoder_hidden_states"],
            frame_visibility=None if image_only is None else isolate_images(image_only),
            encoder_attention_mask=mask_to_bias(conditions["encoder_attention_mask"], sample.dtype),
        )

    def _run_blocks(self, images: Tensor, clip: Clip) -> Tensor:
        if self.input_transformer is not None:
            images = self.input_transformer(images, clip)
        skips = [images]
        for block in self.down_blocks:
            images, block_skips = block(images, clip)
            skips += block_skips
        images = self.mid_block(images, clip)
        for block in self.up_blocks:
            count = len(block.resnets)
            skips, block_skips = skips[:-count], skips[-count:]
            size = tuple(skips[-1].shape[-2:]) if skips else None
            images = block(images, block_skips, clip, size)
        return images

    def _check_inputs(self, sample: Tensor, conditions: dict[str, Any], has_context: bool) -> None:
        config = self.config
        if sample.dim() != 5 or sample.shape[1] != config.in_channels:
            raise ValueError(
                f"`sample` must have the shape (batch_size, {config.in_channels}, num_frames, height, width), but has"
                f" shape {tuple(sample.shape)}. Add the axis of frames; a single image is a video of one frame."
            )
        reads_text = config.cross_attention_dim is not None or config.pooled_text_dim is not None
        read = {
            "encoder_hidden_states": reads_text,
            "encoder_attention_mask": reads_text,
            "class_labels": config.num_class_embeds is not None,
            "fps": config.use_fps,
            "noise_level": config.num_noise_levels is not None,
        }
        needed = {"encoder_hidden_states": config.cross_attention_dim is not None, "fps": config.use_fps}
        of_frames = ("encoder_hidden_states", "encoder_attention_mask") if config.pooled_text_dim is not None else ()
        for name, value in conditions.items():
            if value is not None and not read[name]:
                raise ValueError(f"`{name}` has no effect on this model, which does not read it. Leave it out.")
            if value is None and needed.get(name):
                raise ValueError(f"`{name}` must be given, because this model reads it. Pass it for every video.")
            rows = {sample.shape[0]} | ({sample.shape[0] * sample.shape[2]} if name in of_frames else set())
            if isinstance(value, Tensor) and value.dim() and value.shape[0] not in rows:
                raise ValueError(
                    f"`{name}` must have one row per video ({sample.shape[0]}), but has {value.shape[0]}. Do not"
                    " repeat it for frames; the model does."
                )
        text, mask = conditions["encoder_hidden_states"], conditions["encoder_attention_mask"]
        if text is not None and mask is not None and mask.shape != text.shape[:2]:
            raise ValueError(
                f"`encoder_attention_mask` must be of shape {tuple(text.shape[:2])}, that of the tokens of"
                f" `encoder_hidden_states`, but is of shape {tuple(mask.shape)}. Give it as many rows as the text."
            )
        if has_context and not config.use_frame_mask:
            raise ValueError(
                "`context_latents` and `frame_mask` were given, but this model reads no given frames: its"
                " `use_frame_mask` is off. Leave them out, or build the model with `use_frame_mask`."
            )


def _per_video(value: Tensor | float | int, sample: Tensor) -> Tensor:
    return torch.as_tensor(value, device=sample.device).expand(sample.shape[0])
