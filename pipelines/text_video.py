"""What every pipeline with a text-conditioned video denoiser has in common: parts, checks, conditions, output."""

# Shapes: B videos, C channels, F frames, H height, W width; latents (B, c, F, h, w).

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from diffusers_video.conditioning.noise import check_noise_prior
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoisers import reads_log_snr, told_numbers
from diffusers_video.pipelines.denoising import DenoiserConditions
from diffusers_video.pipelines.latents import PIXEL_CHANNELS, is_video_autoencoder, vae_scale_factor
from diffusers_video.pipelines.model_checks import check_components, check_denoiser, check_text_width
from diffusers_video.pipelines.pipeline_output import VideoPipelineOutput
from diffusers_video.pipelines.scheduling import check_schedule, check_scheduler
from diffusers_video.pipelines.temporal_text import TEMPORAL_TEXT_ARGUMENTS, TemporalTextMixin, check_temporal_text


# Arguments of a call that not every pipeline has.
OPTIONAL_ARGUMENTS = (
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
    "strength",
    *TEMPORAL_TEXT_ARGUMENTS,
)


class TextVideoMixin(TemporalTextMixin):
    """
    Parts, checks, conditions and output of a pipeline with a text-conditioned video denoiser.

    The class that inherits it has [`LatentVideoMixin`], [`DenoisingMixin`] and [`TextEncodingMixin`] beside it.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->temporal_text_encoder->image_encoder->unet->vae"
    _callback_tensor_inputs = [
        "latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "add_text_embeds",
        "negative_pooled_prompt_embeds",
        "add_time_ids",
        "negative_add_time_ids",
    ]
    get_guidance_scale_embedding = StableDiffusionPipeline.get_guidance_scale_embedding

    def register_parts(self, components: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """
        Check and register what the constructor of a pipeline was given.

        Args:
            components (`Mapping[str, Any]`): Components by name.
            settings (`Mapping[str, Any]`): Configuration by name, with `num_frames` and `fps`, and perhaps
                `noise_prior` and `noise_prior_strength`.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or components do not fit.
        """
        checks.check_integer("num_frames", settings["num_frames"])
        checks.check_number("fps", settings["fps"], above_minimum=True)
        if "noise_prior" in settings:
            check_noise_prior(settings["noise_prior"], settings["noise_prior_strength"])
        vae, unet = components["vae"], components["unet"]
        check_components(vae, unet, components["scheduler"])
        check_text_width(unet, components.get("text_encoder"))
        check_temporal_text(components)
        self.register_modules(**components)
        self.register_to_config(**settings)
        in_pixels = vae is None and unet is not None and unet.config.in_channels == PIXEL_CHANNELS
        self.vae_scale_factor = 1 if in_pixels else vae_scale_factor(vae)
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor, do_normalize=False)

    def check_call(self, arguments: Mapping[str, Any], task: str, met: tuple[str, ...] = ("fps",)) -> int:
        """
        Refuse arguments of a call that are wrong, contradict each other or have no effect.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of a call by name; those of `OPTIONAL_ARGUMENTS` may be `None`.
            task (`str`): What the pipeline does, for messages.
            met (`tuple[str, ...]`, *optional*, defaults to `("fps",)`): Numbers per clip that the pipeline has.

        Returns:
            `int`: Number of prompts.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
        """
        check_denoiser(self.unet, self.vae, self.text_encoder_2, task, met)
        return self.check_arguments(arguments)

    def check_arguments(self, arguments: Mapping[str, Any]) -> int:
        """
        Do the part of [`check_call`] that does not depend on the kind of denoiser.

        Args:
            arguments (`Mapping[str, Any]`): See [`check_call`].

        Returns:
            `int`: Number of prompts.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
        """
        get = arguments.__getitem__
        check_scheduler(self.scheduler, reads_log_snr(self.unet))
        for name in ("height", "width"):
            checks.check_integer(name, get(name), minimum=1, multiple_of=self.vae_scale_factor)
        for name in ("num_frames", "num_inference_steps", "num_videos_per_prompt"):
            checks.check_integer(name, get(name))
        checks.check_number("fps", get("fps"), above_minimum=True)
        for name in ("guidance_scale", "eta"):
            checks.check_number(name, get(name))
        checks.check_number("guidance_rescale", get("guidance_rescale"), maximum=1)
        guided = get("guidance_scale") > 1 and self.unet.config.get("time_cond_proj_dim") is None
        if get("guidance_rescale") and not guided:
            raise ValueError("`guidance_rescale` has no effect without guidance. Set `guidance_scale` above 1.")
        batch_size = self.check_prompts(arguments, guided)
        self.check_temporal_prompts(arguments, batch_size, guided)
        checks.check_generator(get("generator"), batch_size * get("num_videos_per_prompt"))
        checks.check_output(get("output_type"), get("return_dict"), get("decode_chunk_size"))
        names = get("callback_on_step_end_tensor_inputs")
        checks.check_callback(get("callback_on_step_end"), names, self._callback_tensor_inputs)
        if not isinstance(get("cross_attention_kwargs"), (dict, type(None))):
            raise TypeError(f"`cross_attention_kwargs` must be a dict, but is {get('cross_attention_kwargs')!r}.")
        if get("decode_chunk_size") is not None and (self.vae is None or is_video_autoencoder(self.vae)):
            vae = "a pipeline without `vae`" if self.vae is None else "an autoencoder of videos"
            raise ValueError(f"`decode_chunk_size` has no effect on {vae}. Leave it out.")
        return batch_size

    def check_steps(self, arguments: Mapping[str, Any]) -> None:
        """
        Refuse a sampling schedule that the scheduler cannot follow.

        Args:
            arguments (`Mapping[str, Any]`): Those of [`check_schedule`] by name.

        Raises:
            ValueError: See [`check_schedule`].
        """
        names = ("num_inference_steps", "timesteps", "sigmas", "strength", "eta")
        check_schedule(self.scheduler, *(arguments[name] for name in names))

    def prepare_conditions(
        self, arguments: Mapping[str, Any], batch_size: int, device: torch.device
    ) -> DenoiserConditions:
        """
        Encode prompts and bring the numbers of a call into the form that the denoiser takes.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of a call that passed [`check_call`].
            batch_size (`int`): Number of videos.
            device (`torch.device`): Where the conditions are wanted.

        Returns:
            [`DenoiserConditions`]
        """
        get, guided = arguments.__getitem__, self.do_classifier_free_guidance
        names = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2", "prompt_embeds")
        names += ("negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds", "clip_skip")
        prompt_embeds, negative_prompt_embeds, pooled, negative_pooled = self.encode_prompt(
            **{name: get(name) for name in names},
            device=device,
            num_videos_per_prompt=get("num_videos_per_prompt"),
            do_classifier_free_guidance=guided,
            lora_scale=(self.cross_attention_kwargs or {}).get("scale"),
        )
        conditions = DenoiserConditions(prompt_embeds, negative_prompt_embeds)
        if "fps" in told_numbers(self.unet):
            conditions.fps = float(get("fps"))
        if prompt_embeds is None:
            return conditions
        temporal = self.encode_temporal_prompt(arguments, guided, device, prompt_embeds.dtype)
        conditions.temporal_prompt_embeds, conditions.negative_temporal_prompt_embeds = temporal
        if arguments.get("image_only"):
            conditions.rows["image_only"] = torch.ones(batch_size, dtype=torch.bool, device=device)
        if self.is_sdxl:
            conditions.add_text_embeds, conditions.negative_pooled_prompt_embeds = pooled, negative_pooled
            size = (get("height"), get("width"))
            sizes = (get("original_size") or size, get("crops_coords_top_left") or (0, 0), get("target_size") or size)
            conditions.add_time_ids = self.prepare_time_ids(*sizes, like=pooled)
            if guided:
                asked = [get(f"negative_{name}") for name in ("original_size", "crops_coords_top_left", "target_size")]
                if asked[0] is not None:
                    asked[1] = asked[1] or (0, 0)
                negative_sizes = [new or old for new, old in zip(asked, sizes, strict=True)]
                conditions.negative_add_time_ids = self.prepare_time_ids(*negative_sizes, like=pooled)
        if self.unet.config.get("time_cond_proj_dim") is not None:
            scale = torch.full((batch_size,), self.guidance_scale - 1)
            embedding = self.get_guidance_scale_embedding(scale, self.unet.config.time_cond_proj_dim)
            conditions.timestep_cond = embedding.to(device, prompt_embeds.dtype)
        return conditions

    def finish_call(
        self, videos: Tensor, fps: float, output_type: str, return_dict: bool
    ) -> VideoPipelineOutput | tuple:
        """
        Bring videos into the form that was asked for, and give memory back.

        Args:
            videos (`torch.Tensor`): Latents for `"latent"`, else frames `(B, C, F, H, W)` in [0, 1].
            fps (`float`): Frames per second.
            output_type (`str`): One of [`checks.OUTPUT_TYPES`].
            return_dict (`bool`): Whether not to return a tuple.

        Returns:
            [`VideoPipelineOutput`] or a tuple `(frames,)`.
        """
        frames = videos
        if output_type != "latent":
            frames = self.video_processor.postprocess_video(videos, output_type)
        self.maybe_free_model_hooks()
        return VideoPipelineOutput(frames=frames, fps=float(fps)) if return_dict else (frames,)
