"""Videos from text, and from videos, by a latent video diffusion model made from an image model."""

# Shapes: B videos, C channels, F frames, H height, W width; c, h, w of the latents.

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DiffusionPipeline,
    MultiControlNetModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import replace_example_docstring
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from diffusers_video.hub import VideoHubMixin
from diffusers_video.models.unet_space_time import UNetSpaceTimeModel
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.controlnet import check_control, load_control_videos, prepare_control
from diffusers_video.pipelines.denoising import DenoisingMixin, StepCallback
from diffusers_video.pipelines.image_models import ImageModelMixin
from diffusers_video.pipelines.ip_adapter import VideoIPAdapterMixin
from diffusers_video.pipelines.latent_video import LatentVideoMixin
from diffusers_video.pipelines.latents import PIXEL_CHANNELS, latents_shape
from diffusers_video.pipelines.loading import VideoLoraLoaderMixin
from diffusers_video.pipelines.pipeline_output import VideoPipelineOutput
from diffusers_video.pipelines.scheduling import prepare_timesteps
from diffusers_video.pipelines.temporal_text import TEMPORAL_TEXT_COMPONENTS
from diffusers_video.pipelines.text_encoding import TextEncodingMixin
from diffusers_video.pipelines.text_video import TextVideoMixin
from diffusers_video.pipelines.video_input import VideoInput, load_video, resize_video
from diffusers_video.pipelines.windows import check_flag


EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import torch
        >>> from diffusers_video import TextToVideoPipeline, write_video

        >>> # An image model whose new temporal layers change nothing yet: frames are independent until it is trained.
        >>> pipe = TextToVideoPipeline.from_image_model("stable-diffusion-v1-5/stable-diffusion-v1-5")
        >>> output = pipe("a red fox in the snow", num_frames=8, generator=torch.Generator().manual_seed(0))
        >>> write_video("fox.mp4", output.frames[0], fps=output.fps)
        ```
"""


class TextToVideoPipeline(
    VideoHubMixin,
    TextVideoMixin,
    ImageModelMixin,
    LatentVideoMixin,
    DenoisingMixin,
    TextEncodingMixin,
    VideoIPAdapterMixin,
    VideoLoraLoaderMixin,
    TextualInversionLoaderMixin,
    DiffusionPipeline,
    StableDiffusionMixin,
):
    """
    Videos from text (and from videos) by a Stable Diffusion 1.x, 2.x or XL model with temporal layers, or by LVDM's or
    VDM's model of text.

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`], *optional*): Autoencoder of images, used frame by frame, or one
            of videos. Without one the denoiser works on pixels.
        text_encoder ([`~transformers.CLIPTextModel`]): Text encoder; the first one of XL. A denoiser with
            `pooled_text_dim` takes any of transformers.
        tokenizer ([`~transformers.CLIPTokenizer`]): Its tokenizer.
        unet ([`UNetVideoConditionModel`] or [`UNetSpaceTimeModel`]): The denoiser; it reads text.
        scheduler ([`SchedulerMixin`]): Any of diffusers' whose `step` fits, see [`check_scheduler`].
        text_encoder_2 ([`~transformers.CLIPTextModelWithProjection`], *optional*): Second text encoder of XL.
        tokenizer_2 ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
        controlnet ([`ControlNetModel`], [`MultiControlNetModel`] or a list, *optional*): Applied to every frame.
        image_encoder ([`~transformers.CLIPVisionModelWithProjection`], *optional*): For IP-Adapters.
        feature_extractor ([`~transformers.CLIPImageProcessor`], *optional*): For IP-Adapters.
        temporal_text_encoder ([`~transformers.CLIPTextModel`], *optional*): Text encoder of the temporal layers, where
            `text_encoder` was tuned and they were trained with the original one; see [`from_image_model`].
        temporal_tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
        num_frames (`int`, *optional*, defaults to 16): Frames of a video unless a call says otherwise.
        fps (`float`, *optional*, defaults to 8.0): Frames per second unless a call says otherwise.
        force_zeros_for_empty_prompt (`bool`, *optional*, defaults to `True`): Whether XL takes zeros where there is no
            negative prompt, as denoisers with `pooled_text_dim` always do.
        noise_prior (`str`, *optional*, defaults to `"independent"`): What the starting noise of a video's frames has
            in common: `"independent"`, `"mixed"` or `"progressive"`, see
            [`diffusers_video.conditioning.noise.draw_noise`].
        noise_prior_strength (`float`, *optional*, defaults to 1.0): Its alpha, above 0; without effect on independent
            noise.
    """

    _optional_components = [
        "vae",
        "text_encoder_2",
        "tokenizer_2",
        "controlnet",
        "image_encoder",
        "feature_extractor",
        *TEMPORAL_TEXT_COMPONENTS,
    ]
    _exclude_from_cpu_offload = []

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny | None,
        text_encoder: CLIPTextModel | PreTrainedModel,
        tokenizer: CLIPTokenizer | PreTrainedTokenizerBase,
        unet: UNetVideoConditionModel | UNetSpaceTimeModel,
        scheduler: KarrasDiffusionSchedulers,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        controlnet: ControlNetModel
        | list[ControlNetModel]
        | tuple[ControlNetModel]
        | MultiControlNetModel
        | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        temporal_text_encoder: CLIPTextModel | None = None,
        temporal_tokenizer: CLIPTokenizer | None = None,
        num_frames: int = 16,
        fps: float = 8.0,
        force_zeros_for_empty_prompt: bool = True,
        noise_prior: str = "independent",
        noise_prior_strength: float = 1.0,
    ):
        super().__init__()
        if isinstance(controlnet, (list, tuple)):
            controlnet = MultiControlNetModel(controlnet)
        components = {
            "vae": vae,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
            "unet": unet,
            "scheduler": scheduler,
            "text_encoder_2": text_encoder_2,
            "tokenizer_2": tokenizer_2,
            "controlnet": controlnet,
            "image_encoder": image_encoder,
            "feature_extractor": feature_extractor,
            "temporal_text_encoder": temporal_text_encoder,
            "temporal_tokenizer": temporal_tokenizer,
        }
        settings = {
            "num_frames": num_frames,
            "fps": fps,
            "force_zeros_for_empty_prompt": force_zeros_for_empty_prompt,
            "noise_prior": noise_prior,
            "noise_prior_strength": noise_prior_strength,
        }
        self.register_parts(components, settings)

    def check_inputs(self, arguments: Mapping[str, Any]) -> int:
        """
        Refuse arguments of a call that are wrong, contradict each other or have no effect, before any model runs.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of a call by name, `video` and `control_videos` as tensors.

        Returns:
            `int`: Number of prompts.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
        """
        check_flag("image_only", arguments["image_only"])
        batch_size = self.check_call(arguments, "Text-to-video")
        guided = arguments["guidance_scale"] > 1 and self.unet.config.get("time_cond_proj_dim") is None
        self._check_start(arguments, batch_size, batch_size * arguments["num_videos_per_prompt"])
        self.check_ip_adapter(arguments, guided)
        check_control(self.controlnet, arguments, batch_size)
        self.check_steps(arguments)
        return batch_size

    def _check_start(self, arguments: Mapping[str, Any], batch_size: int, total: int) -> None:
        video, strength, latents = arguments["video"], arguments["strength"], arguments["latents"]
        num_frames, height, width = arguments["num_frames"], arguments["height"], arguments["width"]
        if video is None and strength is not None:
            raise ValueError("`strength` has no effect without `video`. Leave it out, or pass a video.")
        if video is not None:
            checks.check_number("strength", strength, maximum=1, above_minimum=True)
            channels = PIXEL_CHANNELS if self.vae is None else self.vae.config.get("in_channels", PIXEL_CHANNELS)
            checks.check_video("video", video, num_frames, batch_size, channels)
        if latents is None:
            return
        if video is not None:
            raise ValueError("Only one of `video` and `latents` may be given, but both are. Leave one out.")
        checks.check_tensor("latents", latents, (total, *latents_shape(self.vae, num_frames, height, width)))

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        decode_chunk_size: int | None = None,
        *,
        fps: float | None = None,
        video: VideoInput | None = None,
        strength: float | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_rescale: float = 0.0,
        prompt_2: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        temporal_prompt_embeds: Tensor | None = None,
        negative_temporal_prompt_embeds: Tensor | None = None,
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] | None = None,
        target_size: tuple[int, int] | None = None,
        negative_original_size: tuple[int, int] | None = None,
        negative_crops_coords_top_left: tuple[int, int] | None = None,
        negative_target_size: tuple[int, int] | None = None,
        conditioning_frames: VideoInput | list[VideoInput] | None = None,
        controlnet_conditioning_scale: float | list[float] = 1.0,
        guess_mode: bool = False,
        control_guidance_start: float | list[float] = 0.0,
        control_guidance_end: float | list[float] = 1.0,
        image_only: bool = False,
    ) -> VideoPipelineOutput | tuple:
        """
        Generate videos.

        Args:
            prompt (`str` or `list[str]`, *optional*): What the videos show; otherwise `prompt_embeds`.
            num_frames (`int`, *optional*): Frames of each video; those of `video`, else `config.num_frames`. For many
                more than the model was trained with: `unet.set_temporal_max_distance`.
            height (`int`, *optional*): Height in pixels, a multiple of `vae_scale_factor`; that of `video`, else the
                one the model was trained at. `video` is resized to it.
            width (`int`, *optional*): Width in pixels, likewise.
            num_inference_steps (`int`, *optional*, defaults to 50): Steps of the schedule.
            guidance_scale (`float`, *optional*, defaults to 7.5): Classifier-free guidance; at most 1 is none.
            negative_prompt (`str` or `list[str]`, *optional*): What to avoid; needs guidance.
            num_videos_per_prompt (`int`, *optional*, defaults to 1): Videos of each prompt; they are neighbours.
            eta (`float`, *optional*, defaults to 0.0): DDIM's share of fresh noise, for schedulers that take it.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of all noise. A list holds one
                for each video, which then is the video it would be alone.
            latents (`torch.Tensor` of shape `(videos, c, num_frames, h, w)`, *optional*): Unit noise to start from.
            prompt_embeds (`torch.Tensor` of shape `(prompts, tokens, width)`, *optional*): Instead of `prompt`.
            negative_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Instead of `negative_prompt`.
            ip_adapter_image (`PipelineImageInput`, *optional*): Picture for each IP-Adapter.
            ip_adapter_image_embeds (`list[torch.Tensor]`, *optional*): Their embeddings; with guidance the negative
                row first.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`, see
                [`VideoPipelineOutput`].
            return_dict (`bool`, *optional*, defaults to `True`): Whether not to return a tuple `(frames,)`.
            cross_attention_kwargs (`dict`, *optional*): For the attention layers; `{"scale": s}` scales LoRA layers.
            clip_skip (`int`, *optional*): Last layers of the text encoder to leave out.
            callback_on_step_end (`Callable`, *optional*): Called as `callback(pipeline, step, timestep, tensors)`
                after each step; the tensors it returns take effect.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`): Its tensors.
            decode_chunk_size (`int`, *optional*, defaults to 16): Frames encoded and decoded at once.
            fps (`float`, *optional*, defaults to `config.fps`): Frames per second, above 0. It is returned with the
                frames, and reaches a denoiser that is conditioned on it.
            video (`list[PIL.Image.Image]`, `np.ndarray`, `torch.Tensor` or a list of such, *optional*):
                Video to start from: a list of frames, an array `(num_frames, height, width, channels)` or a tensor
                `(num_frames, channels, height, width)`; uint8, or float in [0, 1]. One for each prompt: a list, or one
                axis more. `VideoPipelineOutput.frames` fits.
            strength (`float`, *optional*, defaults to 0.8 with `video`): Part of the schedule to run on `video`, in
                (0, 1]; 1 changes it most.
            timesteps (`list[int]`, *optional*): Descending timesteps instead, for schedulers that take them.
            sigmas (`list[float]`, *optional*): Descending noise levels instead, for schedulers that take them.
            guidance_rescale (`float`, *optional*, defaults to 0.0): Share, in [0, 1], of the guided output brought
                back to the spread of the conditional one (arXiv:2305.08891, Section 3.4).
            prompt_2 (`str` or `list[str]`, *optional*, defaults to `prompt`): For the second text encoder of XL.
            negative_prompt_2 (`str` or `list[str]`, *optional*, defaults to `negative_prompt`): Likewise.
            pooled_prompt_embeds (`torch.Tensor` of shape `(prompts, width)`, *optional*): With `prompt_embeds` of XL.
            negative_pooled_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Likewise.
            temporal_prompt_embeds (`torch.Tensor` of shape `(prompts, tokens, width)`, *optional*): Text of the
                temporal layers, where they read another one; the default is `prompt` by `temporal_text_encoder`, or
                the text of the spatial layers.
            negative_temporal_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Its negative.
            original_size (`tuple[int, int]`, *optional*, defaults to `(height, width)`): Size condition of XL.
            crops_coords_top_left (`tuple[int, int]`, *optional*, defaults to `(0, 0)`): Crop condition of XL.
            target_size (`tuple[int, int]`, *optional*, defaults to `(height, width)`): Size condition of XL.
            negative_original_size (`tuple[int, int]`, *optional*): Its negative; with `negative_target_size`.
            negative_crops_coords_top_left (`tuple[int, int]`, *optional*): Its negative; `(0, 0)` with
                `negative_original_size`, else as `crops_coords_top_left`.
            negative_target_size (`tuple[int, int]`, *optional*): Its negative; with `negative_original_size`.
            conditioning_frames (`VideoInput` or `list[VideoInput]`, *optional*): Frames for the ControlNet, in the
                forms of `video`; with several ControlNets a list with one such entry for each.
            controlnet_conditioning_scale (`float` or `list[float]`, *optional*, defaults to 1.0): Its weight.
            guess_mode (`bool`, *optional*, defaults to `False`): Whether it acts on the prompted half alone.
            control_guidance_start (`float` or `list[float]`, *optional*, defaults to 0.0): Part of the run that
                it begins at, in [0, 1).
            control_guidance_end (`float` or `list[float]`, *optional*, defaults to 1.0): Part of the run that
                it ends at, in (0, 1].
            image_only (`bool`, *optional*, defaults to `False`): Whether every frame is an image of its own, exactly
                as the image model draws it: the temporal layers are left out.

        Returns:
            [`VideoPipelineOutput`] with `frames` and `fps`, or a tuple `(frames,)`.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
            FloatingPointError: If a model gives a NaN or an infinity; the message names the stage.

        Examples:
        """
        video = None if video is None else load_video(video)
        control_videos = load_control_videos(self.controlnet, conditioning_frames)
        height, width, num_frames = self.default_shape(video, latents, height, width, num_frames)
        strength = 0.8 if strength is None and video is not None else strength
        fps = self.config.fps if fps is None else fps
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        arguments = dict(locals())
        batch_size = self.check_inputs(arguments) * num_videos_per_prompt
        if video is not None:
            video = resize_video(video, height, width).repeat_interleave(batch_size // video.shape[0], dim=0)

        self._guidance_scale, self._guidance_rescale = guidance_scale, guidance_rescale
        self._cross_attention_kwargs, self._clip_skip, self._interrupt = cross_attention_kwargs, clip_skip, False
        device = self._execution_device
        timesteps = prepare_timesteps(self.scheduler, num_inference_steps, timesteps, sigmas, strength, device)
        conditions = self.prepare_conditions(arguments, batch_size, device)
        conditions.image_embeds = self.image_conditions(
            arguments, device, batch_size, self.do_classifier_free_guidance
        )
        conditions.control = prepare_control(self.controlnet, arguments, batch_size, device)
        latents = self.prepare_latents(
            batch_size,
            num_frames,
            height,
            width,
            conditions.prompt_embeds.dtype,
            device,
            generator,
            latents,
            video=video,
            timestep=timesteps[:1],
            chunk_size=decode_chunk_size,
        )
        latents = self.denoise(
            latents,
            timesteps,
            conditions,
            generator=generator,
            eta=eta,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        if output_type != "latent":
            latents = self.decode_frames(latents, decode_chunk_size)
        return self.finish_call(latents, fps, output_type, return_dict)
