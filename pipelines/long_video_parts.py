"""The parts of a long-video pipeline, and the single pipelines they come from."""

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.video_processor import VideoProcessor
from torch import nn

from diffusers_video.models.unet_triplane import UNetTriplaneModel
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoisers import reads_previous_clip
from diffusers_video.pipelines.frame_interpolation import FrameInterpolationPipeline
from diffusers_video.pipelines.frame_streams import check_streaming
from diffusers_video.pipelines.key_frame_prediction import KeyFramePredictionPipeline
from diffusers_video.pipelines.latents import vae_scale_factor
from diffusers_video.pipelines.temporal_text import TEMPORAL_TEXT_COMPONENTS
from diffusers_video.pipelines.unconditional_video import UnconditionalVideoPipeline
from diffusers_video.pipelines.video_super_resolution import VideoSuperResolutionPipeline


SUPER = "super_resolution"
SUPER_PARTS = ("unet", "scheduler", "low_res_scheduler", "vae", "text_encoder", "tokenizer")
IMAGE_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
SHARED_PARTS = (*IMAGE_PARTS, *TEMPORAL_TEXT_COMPONENTS)
CLIP_PARTS = ("unet", "scheduler", "vae")
SINGLE_PIPELINES = (KeyFramePredictionPipeline, UnconditionalVideoPipeline)
SETTINGS = ("prediction_settings", "interpolation_settings", "super_resolution_settings")
TEXT_OPTIONS = ("cross_attention_dim", "addition_embed_type", "encoder_hid_dim", "in_channels")


class LongVideoPartsMixin:
    """Constructors of a long-video pipeline, and its single pipelines; stands before `DiffusionPipeline`."""

    _interrupt = False

    def register_parts(self, components: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """
        Check and register what the constructor was given.

        Args:
            components (`Mapping[str, Any]`): Components by name.
            settings (`Mapping[str, Any]`): Configuration by name.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or components do not fit together.
        """
        self.register_modules(**components)
        self.register_to_config(**settings)
        self.vae_scale_factor = vae_scale_factor(components["vae"])
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor, do_normalize=False)
        if self.draws_clips:
            self._check_clip_parts(components, settings)
            return
        if self.unet is not None and self.unet.config.get("use_previous_clip") is False:
            raise ValueError(
                f"`unet` must read the clip before, but this {type(self.unet).__name__} was built with"
                " `use_previous_clip`=False. Take UnconditionalVideoPipeline for its single clips."
            )
        if components["vae"] is not None:
            check_streaming(components["vae"])
        image_unet, interpolation_unet = components["image_unet"], components["interpolation_unet"]
        if image_unet is not None and (
            not isinstance(image_unet, UNet2DConditionModel) or isinstance(image_unet, UNetVideoConditionModel)
        ):
            raise TypeError(
                f"`image_unet` must be a UNet2DConditionModel, but is a {type(image_unet).__name__}. Leave it out to"
                " draw the first frame by `unet` without its temporal layers."
            )
        for name, other in (("image_unet", image_unet), ("interpolation_unet", interpolation_unet)):
            if other is not None and self.unet is not None:
                _check_fits(name, other, self.unet)
        self.make_prediction()  # the single pipelines check their parts and settings
        if interpolation_unet is not None:
            self.make_interpolation()
        if components["super_resolution_unet"] is not None:
            self.make_super_resolution().check_stream()

    def _check_clip_parts(self, components: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        unused = [name for name, part in components.items() if name not in CLIP_PARTS and part is not None]
        unused += [name for name in SETTINGS[1:] if settings[name]]
        if unused:
            way_out = (
                " `VideoSuperResolutionPipeline.stream` enlarges frames as they come." if SUPER in unused[0] else ""
            )
            raise ValueError(
                f"`{unused[0]}` has no effect with this `unet`, which draws clip after clip, each behind the one"
                f" before. Leave it out.{way_out}"
            )
        self.make_clips()

    @property
    def draws_clips(self) -> bool:
        """`bool`: Whether `unet` reads the clip before, so that whole clips are drawn instead of key frames."""
        return self.unet is not None and reads_previous_clip(self.unet)

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        # Every load of model_index.json passes here: one of a single trained pipeline becomes that of its long videos.
        index = super()._dict_from_json_file(json_file)
        if index.get("_class_name") not in (kind.__name__ for kind in SINGLE_PIPELINES):
            return index
        kind = SINGLE_PIPELINES[UNetTriplaneModel.__name__ in (index.get("unet") or ())]
        known = inspect.signature(kind.__init__).parameters
        names = [name for name, value in index.items() if name in known and not isinstance(value, list)]
        settings = {name: index.pop(name) for name in names}
        return {**index, "prediction_settings": settings}

    @classmethod
    def from_pipelines(
        cls,
        prediction: KeyFramePredictionPipeline | UnconditionalVideoPipeline,
        interpolation: FrameInterpolationPipeline | None = None,
        super_resolution: VideoSuperResolutionPipeline | None = None,
        *,
        vae: nn.Module | None = None,
        image_unet: UNet2DConditionModel | None = None,
        num_frames: int = 113,
    ) -> DiffusionPipeline:
        """
        Make a long-video pipeline of single pipelines; components are shared and keep their types and places.

        Args:
            prediction ([`KeyFramePredictionPipeline`]): Draws key frames; its autoencoder and text encoder serve all
                stages. Or an [`UnconditionalVideoPipeline`] whose denoiser reads the clip before: it draws all frames.
            interpolation ([`FrameInterpolationPipeline`], *optional*): Draws the frames between; it must have equal
                text encoders, and an equal autoencoder unless `vae` is given.
            super_resolution ([`VideoSuperResolutionPipeline`], *optional*): Enlarges the frames.
            vae (`torch.nn.Module`, *optional*): Another autoencoder of the same latents, such as the
                [`AutoencoderKLVideo`] made of it.
            image_unet ([`UNet2DConditionModel`], *optional*): Image model that draws the first frame.
            num_frames (`int`, *optional*, defaults to 113): Frames of a video unless a call says otherwise.

        Returns:
            [`LongVideoPipeline`]

        Raises:
            TypeError: If a pipeline is of another class.
            ValueError: If parts that the stages share differ, or one has no effect.
        """
        draws_clips = isinstance(prediction, UnconditionalVideoPipeline) and reads_previous_clip(prediction.unet)
        for name, value, wanted in (
            ("prediction", prediction, SINGLE_PIPELINES[draws_clips]),
            ("interpolation", interpolation, FrameInterpolationPipeline),
            ("super_resolution", super_resolution, VideoSuperResolutionPipeline),
        ):
            if not isinstance(value, wanted) and not (name != "prediction" and value is None):
                raise TypeError(f"`{name}` must be a {wanted.__name__}, but is a {type(value).__name__}.")
            if draws_clips and name != "prediction" and value is not None:
                raise ValueError(f"`{name}` has no effect with a `prediction` that draws whole clips. Leave it out.")
        parts = {name: getattr(prediction, name, None) for name in ("unet", "scheduler", *SHARED_PARTS)}
        parts |= {"vae": prediction.vae if vae is None else vae, "image_unet": image_unet}
        settings = {"prediction_settings": settings_of(prediction), "num_frames": num_frames}
        if interpolation is not None:
            names = SHARED_PARTS if vae is not None else ("vae", *SHARED_PARTS)
            for name in names:
                _check_equal(name, getattr(prediction, name), getattr(interpolation, name))
            parts |= {"interpolation_unet": interpolation.unet, "interpolation_scheduler": interpolation.scheduler}
            settings["interpolation_settings"] = settings_of(interpolation)
        if super_resolution is not None:
            parts |= {f"{SUPER}_{name}": getattr(super_resolution, name) for name in SUPER_PARTS}
            settings[f"{SUPER}_settings"] = settings_of(super_resolution)
        return cls(**parts, **settings)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> DiffusionPipeline:
        """
        Make a pipeline of the components of another long-video pipeline.

        Args:
            pipeline ([`LongVideoPipeline`]): The other pipeline. Its components are shared and keep their types.
            kwargs: Components and configuration to replace, and `dtype`; see [`~DiffusionPipeline.from_pipe`].

        Returns:
            [`LongVideoPipeline`]

        Raises:
            TypeError: If it is of another class.
        """
        if not isinstance(pipeline, cls):
            raise TypeError(
                f"`pipeline` must be a {cls.__name__}, but is a {type(pipeline).__name__}. Make one of single"
                f" pipelines by `{cls.__name__}.from_pipelines`."
            )
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs["dtype"] = pipeline.dtype
        return super().from_pipe(pipeline, **kwargs)

    def make_clips(self) -> UnconditionalVideoPipeline:
        """
        Make the pipeline that draws clip after clip, where `unet` reads the clip before.

        Returns:
            [`UnconditionalVideoPipeline`]: It shares all components.
        """
        parts = {name: getattr(self, name) for name in CLIP_PARTS}
        return self._make("prediction_settings", UnconditionalVideoPipeline, parts)

    def make_prediction(self) -> KeyFramePredictionPipeline:
        """
        Make the pipeline of the stage of key frames.

        Returns:
            [`KeyFramePredictionPipeline`]: It shares all components.
        """
        parts = {name: getattr(self, name) for name in ("vae", "unet", "scheduler", *SHARED_PARTS)}
        return self._make("prediction_settings", KeyFramePredictionPipeline, parts)

    def make_interpolation(self) -> FrameInterpolationPipeline:
        """
        Make the pipeline of the stage of the frames between.

        Returns:
            [`FrameInterpolationPipeline`]: It shares all components.

        Raises:
            ValueError: If there is no `interpolation_unet`.
        """
        if self.interpolation_unet is None:
            raise ValueError(
                "`num_passes` must be 0 without an `interpolation_unet`, which this pipeline has none of. Pass"
                " `num_passes=0`, or make a pipeline with one by `from_pipelines`."
            )
        parts = {name: getattr(self, name) for name in ("vae", *SHARED_PARTS)}
        parts |= {"unet": self.interpolation_unet, "scheduler": self.interpolation_scheduler}
        return self._make("interpolation_settings", FrameInterpolationPipeline, parts)

    def make_image(self) -> DiffusionPipeline | None:
        """
        Make the pipeline of the first frame.

        Returns:
            [`~diffusers.StableDiffusionPipeline`] or [`~diffusers.StableDiffusionXLPipeline`]: It shares all
            components but the scheduler; `None` without an `image_unet`.
        """
        if self.image_unet is None:
            return None
        is_sdxl = self.image_unet.config.addition_embed_type == "text_time"
        names = ("vae", *(IMAGE_PARTS if is_sdxl else ("text_encoder", "tokenizer")))
        parts = {name: getattr(self, name) for name in names}
        parts |= {"unet": self.image_unet, "scheduler": type(self.scheduler).from_config(self.scheduler.config)}
        if is_sdxl:
            image = StableDiffusionXLPipeline(**parts, add_watermarker=False)
        else:
            none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            image = StableDiffusionPipeline(**parts, **none)
        image.set_progress_bar_config(disable=True)
        return image

    def make_super_resolution(self) -> VideoSuperResolutionPipeline:
        """
        Make the pipeline of the stage that enlarges frames.

        Returns:
            [`VideoSuperResolutionPipeline`]: It shares all components.

        Raises:
            ValueError: If there is no `super_resolution_unet`.
        """
        if self.super_resolution_unet is None:
            raise ValueError(
                "`use_super_resolution` must be False without a `super_resolution_unet`, which this pipeline has none"
                " of. Leave it out, or make a pipeline with one by `from_pipelines`."
            )
        parts = {name: getattr(self, f"{SUPER}_{name}") for name in SUPER_PARTS}
        return self._make(f"{SUPER}_settings", VideoSuperResolutionPipeline, parts)

    def default_fps(self, num_passes: int | None = None) -> float:
        """
        Tell the rate of a video for which a call names none.

        Args:
            num_passes (`int`, *optional*, defaults to 2 with an `interpolation_unet`, else 0): Interpolations.

        Returns:
            `float`: Frames per second.
        """
        num_passes = self.default_passes if num_passes is None else num_passes
        checks.check_integer("num_passes", num_passes, minimum=0)
        if self.draws_clips:
            return float(self.make_clips().config.fps)
        rate = self.make_interpolation().rate if num_passes else 1
        return float(self.make_prediction().config.fps * rate**num_passes)

    @property
    def default_passes(self) -> int:
        """`int`: Interpolations unless a call says otherwise."""
        return 0 if self.interpolation_unet is None else 2

    def _make(self, name: str, pipeline_class: type, parts: Mapping[str, Any]) -> DiffusionPipeline:
        try:
            pipeline = pipeline_class(**parts, **self.config[name])
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
            raise ValueError(f"`{name}` must be settings of {pipeline_class.__name__}, but: {error}.") from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def settings_of(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """
    Take the configuration of a pipeline without its components.

    Args:
        pipeline (`DiffusionPipeline`): The pipeline.

    Returns:
        `dict[str, Any]`: Arguments of its constructor.
    """
    parts = pipeline.components
    return {name: value for name, value in pipeline.config.items() if name[0] != "_" and name not in parts}


def _check_fits(name: str, unet: nn.Module, main: nn.Module) -> None:
    for option in TEXT_OPTIONS:
        if unet.config.get(option) != main.config.get(option):
            raise ValueError(
                f"`{name}` must read the same latents and text embeddings as `unet`, but its `{option}` is"
                f" {unet.config.get(option)!r} and not {main.config.get(option)!r}. Take models of one image model."
            )


def _check_equal(name: str, one: Any, other: Any) -> None:
    if one is other:
        return
    if isinstance(one, nn.Module) and isinstance(other, nn.Module):
        first, second = one.state_dict(), other.state_dict()
        same = first.keys() == second.keys() and all(_is_equal(first[key], second[key]) for key in first)
    else:
        same = hasattr(one, "get_vocab") and hasattr(other, "get_vocab") and one.get_vocab() == other.get_vocab()
    if not same:
        way_out = ", or pass the one to use as `vae`" if name == "vae" else ""
        raise ValueError(
            f"`{name}` must be the same in all stages, but that of `interpolation` differs from that of `prediction`."
            f" Take models of one image model{way_out}."
        )


def _is_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other.to(one))
