"""Training of upscalers: which model, which patches of the clips, and what the denoiser sees beside them."""

# Shapes: B videos, C channels, F frames, H height, W width; c, h, w of the latents.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffusers_video.conditioning.low_res import (
    check_low_res_scheduler,
    enlarge_images,
    noise_low_res,
    shrink_video,
    tell_noise_levels,
)
from diffusers_video.conditioning.noise import draw_noise, make_generator
from diffusers_video.data.buckets import Bucket
from diffusers_video.layers.layout import images_to_videos, videos_to_images
from diffusers_video.pipelines.model_checks import check_upscaler
from diffusers_video.pipelines.upscaling import default_overlap
from diffusers_video.pipelines.video_super_resolution import VideoSuperResolutionPipeline
from diffusers_video.training.clip_loss import ClipLoss
from diffusers_video.training.encoding import (
    encode_captions,
    encode_empty_caption,
    encode_posterior,
    model_conditions,
)
from diffusers_video.training.models import (
    is_video_pipeline,
    refuse_distilled,
    refuse_new_layers,
    set_noise_schedule,
    training_scheduler,
)
from diffusers_video.training.super_resolution_config import SuperResolutionConfig


PATCH_SIZE = 320
_HELDOUT_LEVELS = 4


def load_upscaler(config: SuperResolutionConfig, num_frames: int, fps: float) -> VideoSuperResolutionPipeline:
    """
    Load the model to train: an image upscaler as a new video upscaler, or a video upscaler to go on with.

    Args:
        config ([`SuperResolutionConfig`]): Settings.
        num_frames (`int`): Frames of the longest training clips; the chunks that the pipeline upscales by default.
        fps (`float`): Frames per second of the clips, likewise.

    Returns:
        [`VideoSuperResolutionPipeline`]

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it is no upscaler, or cannot be trained, or settings of new temporal layers come with trained
            ones.
    """
    name = config.pretrained_model_name_or_path
    load_options = {key: getattr(config, key) for key in ("revision", "variant") if getattr(config, key)}
    if is_video_pipeline(name, config.revision):
        refuse_new_layers(config, ("preset",))
        _check_class(name, config.revision)
        pipeline = VideoSuperResolutionPipeline.from_pretrained(name, **load_options)
    else:
        options = {"num_frames": num_frames, **load_options}
        pipeline = VideoSuperResolutionPipeline.from_image_model(name, config.preset, **options)
    check_upscaler(pipeline.unet, pipeline.vae, "Training on low-resolution frames")
    refuse_distilled(pipeline, name)
    level = pipeline.config.max_noise_level if config.max_noise_level is None else config.max_noise_level
    check_low_res_scheduler(pipeline.low_res_scheduler, level, pipeline.unet)
    chunks = {"num_frames": num_frames, "chunk_overlap": default_overlap(num_frames)}
    pipeline.register_to_config(**chunks, fps=float(fps), max_noise_level=level)
    set_noise_schedule(pipeline, config)
    return pipeline


def _check_class(name: str, revision: str | None) -> None:
    class_name = DiffusionPipeline.load_config(name, revision=revision).get("_class_name")
    if class_name != VideoSuperResolutionPipeline.__name__:
        raise ValueError(
            f"`pretrained_model_name_or_path` must be an upscaler, but {name!r} is a {class_name}. Name an image"
            " upscaler or a VideoSuperResolutionPipeline."
        )


def choose_patch_size(config: SuperResolutionConfig, dataset: Dataset, scale: int) -> int:
    """
    Choose how large the patches are that are cut out of the clips.

    Args:
        config ([`SuperResolutionConfig`]): `patch_size`.
        dataset (`Dataset`): The clips, with `buckets`.
        scale (`int`): How many times larger the upscaler makes frames.

    Returns:
        `int`: Side in pixels, a multiple of `scale`.

    Raises:
        ValueError: If it is none, or the clips are smaller.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.4: the upscaler is trained on patches alone; 320 by 320 pixels.
    """
    buckets = [Bucket.parse(name) for name in set(dataset.buckets)]
    smallest = min(min(bucket.height, bucket.width) for bucket in buckets)
    size = config.patch_size
    if size is None:
        size = max(scale, min(PATCH_SIZE, smallest) // scale * scale)
    if size % scale:
        raise ValueError(f"`patch_size` must be a multiple of {scale}, the scale, but is {size}. Try {scale * 16}.")
    if size > smallest:
        raise ValueError(
            f"`patch_size` must be at most {smallest}, the lower side of the smallest clips, but is {size}. Take"
            " smaller patches, or larger clips."
        )
    return size


def cut_patches(batch: Mapping[str, Any], size: int, places: Tensor) -> dict[str, Any]:
    """
    Cut a square patch out of each clip, the same in all of its frames.

    Args:
        batch (`Mapping[str, Any]`): With `pixel_values` `(batch_size, channels, num_frames, height, width)`.
        size (`int`): Side of the patches in pixels, at most height and width.
        places (`torch.Tensor` of shape `(batch_size, 2)`): Where, from top to bottom and from left to right, in
            [0, 1).

    Returns:
        `dict[str, Any]`: The batch with `pixel_values` `(batch_size, channels, num_frames, size, size)`.
    """
    videos = batch["pixel_values"]
    room = torch.tensor([side - size + 1 for side in videos.shape[-2:]])
    corners = (places * room).long().tolist()
    patches = [
        video[..., top : top + size, left : left + size] for video, (top, left) in zip(videos, corners, strict=True)
    ]
    return {**batch, "pixel_values": torch.stack(patches)}


def see_low_res(
    model: nn.Module, sample: Tensor, timesteps: Tensor, *, low_res: Tensor, **conditions: Any
) -> tuple[Tensor]:
    """
    Call a denoiser that sees low-resolution frames in further channels.

    Args:
        model (`torch.nn.Module`): The denoiser.
        sample (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): Noisy latents.
        timesteps (`torch.Tensor` of shape `(batch_size,)`): Their noise levels.
        low_res (`torch.Tensor` of shape `(batch_size, channels, num_frames, h, w)`): Noisy low-resolution frames.
        conditions: Further arguments of the denoiser.

    Returns:
        `tuple[torch.Tensor]`: What the denoiser returns.
    """
    return model(torch.cat([sample, low_res.to(sample)], dim=1), timesteps, **conditions)


@dataclass(frozen=True, kw_only=True)
class SuperResolutionLoss(ClipLoss):
    """
    What the loss of an upscaler depends on, besides the denoiser.

    Args:
        device (`torch.device`): Where it runs.
        patch_size (`int`): Side of the patches in pixels.
    """

    device: torch.device
    patch_size: int

    @classmethod
    def build(
        cls,
        pipeline: VideoSuperResolutionPipeline,
        config: SuperResolutionConfig,
        device: torch.device,
        patch_size: int,
    ) -> "SuperResolutionLoss":
        """
        Set up the loss, when the frozen models are where they run.

        Args:
            pipeline ([`VideoSuperResolutionPipeline`]): Its frozen models encode clips and captions.
            config ([`SuperResolutionConfig`]): Settings of the objective.
            device (`torch.device`): Where it runs.
            patch_size (`int`): From [`choose_patch_size`].

        Returns:
            [`SuperResolutionLoss`]
        """
        if pipeline.text_encoder is None:
            empty = {"prompt_embeds": pipeline.empty_prompt(1)["prompt_embeds"].to(device)}
        else:
            empty = encode_empty_caption(pipeline)
        scheduler = training_scheduler(pipeline)
        options = {"device": device, "patch_size": patch_size}
        return cls(pipeline=pipeline, scheduler=scheduler, empty=empty, config=config, **options)

    def __call__(self, model: nn.Module, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """
        Compute the loss that is trained on.

        Args:
            model (`torch.nn.Module`): The denoiser.
            batch (`dict[str, Any]`): Clips from [`collate_clips`], with `pixel_values` and `text`.
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `torch.Tensor`: Scalar.

        Source:
            VideoLDM (arXiv:2304.08818), Eq. 5.
        """
        return super().__call__(partial(see_low_res, model), batch, generator)

    def encode(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """
        Encode patches and captions, as far as the pipeline has models for them.

        Args:
            batch (`dict[str, Any]`): With `pixel_values`, `text` and `fps`.

        Returns:
            `tuple`: Mean and deviation of the latents by name, and arguments of the denoiser.
        """
        pixel_values = batch["pixel_values"].to(self.device)
        if self.pipeline.vae is None:
            mean, std = pixel_values, torch.zeros_like(pixel_values)
        else:
            mean, std = encode_posterior(self.pipeline.vae, pixel_values)
        if self.pipeline.text_encoder is None:
            encoded = {"prompt_embeds": self.empty["prompt_embeds"].expand(len(pixel_values), -1, -1)}
        else:
            encoded = encode_captions(self.pipeline, batch["text"])
        conditions = model_conditions(
            self.pipeline, encoded, batch["fps"].to(self.device), tuple(pixel_values.shape[-2:])
        )
        return {"latents_mean": mean, "latents_std": std}, conditions

    def draw_window(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """
        Cut a patch out of each clip, anywhere.

        Args:
            batch (`dict[str, Any]`): See [`SuperResolutionLoss.encode`].
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `dict[str, Any]`: The batch with patches.
        """
        places = torch.rand(len(batch["pixel_values"]), 2, generator=generator)
        return cut_patches(batch, self.patch_size, places)

    def fix_window(self, batch: dict[str, Any], place: int) -> dict[str, Any]:
        """
        Cut out the middle of a held-out clip.

        Args:
            batch (`dict[str, Any]`): One clip.
            place (`int`): Number of the clip.

        Returns:
            `dict[str, Any]`: The batch with a patch.
        """
        return cut_patches(batch, self.patch_size, torch.full((1, 2), 0.5))

    def draw_conditions(
        self, batch: Mapping[str, Any], latents: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """
        Make the low-resolution frames, with noise of a level that is drawn for each clip.

        Args:
            batch (`Mapping[str, Any]`): Patches.
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): The patches, encoded.
            generator (`torch.Generator`): Source of all randomness.

        Returns:
            `dict[str, torch.Tensor]`: `low_res` for [`see_low_res`], and arguments of the denoiser.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.4: the level is drawn from the schedule; up to level 350, as
            diffusers' `StableDiffusionUpscalePipeline` allows.
        """
        levels = torch.randint(self.pipeline.config.max_noise_level + 1, (len(latents),), generator=generator)
        return self._condition(batch, levels.tolist(), generator)

    def fix_conditions(self, batch: Mapping[str, Any], latents: Tensor, place: int) -> dict[str, Tensor]:
        """
        Make the low-resolution frames of a held-out clip, with noise of a fixed level: the clips take turns at low and
        high ones.

        Args:
            batch (`Mapping[str, Any]`): One patch.
            latents (`torch.Tensor` of shape `(1, c, num_frames, h, w)`): It, encoded.
            place (`int`): Number of the clip.

        Returns:
            `dict[str, torch.Tensor]`: See [`draw_conditions`].
        """
        level = int((place % _HELDOUT_LEVELS + 0.5) / _HELDOUT_LEVELS * self.pipeline.config.max_noise_level)
        return self._condition(batch, [level], make_generator(self.config.seed, place, 1))

    def _condition(
        self, batch: Mapping[str, Any], levels: Sequence[int], generator: torch.Generator
    ) -> dict[str, Tensor]:
        pipeline = self.pipeline
        small = shrink_video(batch["pixel_values"].to(self.device), pipeline.scale)
        images = enlarge_images(videos_to_images(small), pipeline.scale // pipeline.vae_scale_factor)
        low_res = images_to_videos(images, small.shape[2])
        noise = draw_noise(low_res.shape, generator=generator, device=self.device)
        levels = torch.tensor(levels, device=self.device)
        told = tell_noise_levels(levels, pipeline.unet.config)
        return {"low_res": noise_low_res(low_res, noise, levels, pipeline.low_res_scheduler), **told}


def preview_video(clip: Mapping[str, Any], scale: int) -> Tensor:
    """
    Make the low-resolution video that a preview is drawn from.

    Args:
        clip (`Mapping[str, Any]`): With `pixel_values` `(3, num_frames, height, width)` in [-1, 1].
        scale (`int`): How many times smaller.

    Returns:
        `torch.Tensor` of shape `(num_frames, 3, height / scale, width / scale)`: In [0, 1].
    """
    return (shrink_video(clip["pixel_values"][None], scale)[0].transpose(0, 1) * 0.5 + 0.5).clamp(0, 1)
