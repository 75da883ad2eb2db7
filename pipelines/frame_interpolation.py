"""Frames between given ones: four times the rate, as often as wanted."""

# Shapes: B videos, C channels, F frames, H height, W width; latents (B, c, F, h, w).

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import replace_example_docstring
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffusers_video.conditioning.frames import INTERPOLATION_RATE, FrameCondition
from diffusers_video.hub import VideoHubMixin
from diffusers_video.models.unet_space_time import UNetSpaceTimeModel
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoising import DenoiserConditions, DenoisingMixin, StepCallback
from diffusers_video.pipelines.image_models import ImageModelMixin
from diffusers_video.pipelines.latent_video import LatentVideoMixin
from diffusers_video.pipelines.latents import frames_per_latent
from diffusers_video.pipelines.loading import VideoLoraLoaderMixin
from diffusers_video.pipelines.pipeline_output import VideoPipelineOutput
from diffusers_video.pipelines.text_encoding import TextEncodingMixin
from diffusers_video.pipelines.text_video import TextVideoMixin
from diffusers_video.pipelines.video_input import VideoInput, load_frames
from diffusers_video.pipelines.windows import MET_NUMBERS, WindowSamplingMixin, check_flag


EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> from diffusers_video import FrameInterpolationPipeline, read_video, write_video

        >>> pipe = FrameInterpolationPipeline.from_pretrained("my-interpolation-model")
        >>> key_frames = read_video("key_frames.mp4").frames
        >>> output = pipe(key_frames, num_passes=2, fps=1.875)  # 8 frames become 29, then 113
        >>> write_video(output.frames[0], "smooth.mp4", fps=output.fps)
        ```
"""


class FrameInterpolationPipeline(
    VideoHubMixin,
    TextVideoMixin,
    WindowSamplingMixin,
    ImageModelMixin,
    LatentVideoMixin,
    DenoisingMixin,
    TextEncodingMixin,
    VideoLoraLoaderMixin,
    TextualInversionLoaderMixin,
    DiffusionPipeline,
    StableDiffusionMixin,
):
    """
    Draw frames between neighbouring given ones, by a Stable Diffusion 1.x, 2.x or XL model with temporal layers.

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`]): Autoencoder of images, used frame by frame, or one of videos.
        text_encoder ([`~transformers.CLIPTextModel`], *optional*): Text encoder; the first one of XL. `None` for a
            denoiser that reads no text.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
        unet ([`UNetVideoConditionModel`] or [`UNetSpaceTimeModel`]): The denoiser, best with `context_channels` or
            `use_frame_mask`.
        scheduler ([`SchedulerMixin`]): Any of diffusers' whose `step` fits, see [`check_scheduler`].
        text_encoder_2 ([`~transformers.CLIPTextModelWithProjection`], *optional*): Second text encoder of XL.
        tokenizer_2 ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
        temporal_text_encoder ([`~transformers.CLIPTextModel`], *optional*): Text encoder of the temporal layers, where
            `text_encoder` was tuned and they were trained with the original one; see [`from_image_model`].
        temporal_tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
        num_frames (`int`, *optional*, defaults to 5): Frames of a window, the two given ones at its ends included;
            the rate is raised by one less. At least 2.
        fps (`float`, *optional*, defaults to 30.0): Frames per second of the result unless a call says otherwise.
        force_zeros_for_empty_prompt (`bool`, *optional*, defaults to `True`): Whether XL takes zeros where there is no
            negative prompt.
        noise_prior (`str`, *optional*, defaults to `"independent"`): See
            [`diffusers_video.conditioning.noise.draw_noise`].
        noise_prior_strength (`float`, *optional*, defaults to 1.0): Its alpha, above 0.
        max_noise_level (`int`, *optional*, defaults to 0): Highest noise level of given frames that the model was
            trained with.
    """

    hub_example = (
        "output = pipe(key_frames, num_passes=2)  # a list of images\n"
        'write_video(output.frames[0], "video.mp4", fps=output.fps)'
    )

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        text_encoder: CLIPTextModel | None,
        tokenizer: CLIPTokenizer | None,
        unet: UNetVideoConditionModel | UNetSpaceTimeModel,
        scheduler: KarrasDiffusionSchedulers,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        temporal_text_encoder: CLIPTextModel | None = None,
        temporal_tokenizer: CLIPTokenizer | None = None,
        num_frames: int = INTERPOLATION_RATE + 1,
        fps: float = 30.0,
        force_zeros_for_empty_prompt: bool = True,
        noise_prior: str = "independent",
        noise_prior_strength: float = 1.0,
        max_noise_level: int = 0,
    ):
        super().__init__()
        checks.check_integer("num_frames", num_frames, minimum=2)
        checks.check_integer("max_noise_level", max_noise_level, minimum=0)
        components = {
            "vae": vae,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
            "unet": unet,
            "scheduler": scheduler,
            "text_encoder_2": text_encoder_2,
            "tokenizer_2": tokenizer_2,
            "temporal_text_encoder": temporal_text_encoder,
            "temporal_tokenizer": temporal_tokenizer,
        }
        settings = {
            "num_frames": num_frames,
            "fps": fps,
            "force_zeros_for_empty_prompt": force_zeros_for_empty_prompt,
            "noise_prior": noise_prior,
            "noise_prior_strength": noise_prior_strength,
            "max_noise_level": max_noise_level,
        }
        self.register_parts(components, settings)

    @classmethod
    def temporal_defaults(cls, pipeline: DiffusionPipeline) -> dict[str, Any]:
        """
        Options that new temporal layers of this task have unless a call says otherwise.

        Args:
            pipeline (`DiffusionPipeline`): The image pipeline.

        Returns:
            `dict[str, Any]`: `context_channels`; `added_time_ids` with the frame rate, because one model serves both
            passes; and attention to all frames, because the second of two given frames tells about those before it.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.3: one model for both rates, told apart by a label.
        """
        return {**super().temporal_defaults(pipeline), "added_time_ids": ("fps",), "temporal_attention": "full"}

    @property
    def rate(self) -> int:
        """`int`: Frames of the result for each given one."""
        return self.config.num_frames // frames_per_latent(self.vae) - 1

    def count_windows(self, num_frames: int, num_passes: int = 1) -> int:
        """
        Count the windows that a result is drawn in.

        Args:
            num_frames (`int`): Given frames.
            num_passes (`int`, *optional*, defaults to 1): How often the rate is raised.

        Returns:
            `int`: One for each two neighbours of each pass.
        """
        return (num_frames - 1) * sum(self.rate**number for number in range(num_passes))

    def check_inputs(self, arguments: Mapping[str, Any], given: FrameCondition, loaded: list[Tensor]) -> int:
        """
        Refuse arguments of a call that are wrong, contradict each other or have no effect, before any model runs.

        Args:
            arguments (`Mapping[str, Any]`): From [`~WindowSamplingMixin.complete_arguments`].
            given ([`FrameCondition`]): The given frames.
            loaded (`list[torch.Tensor]`): From [`~GivenFramesMixin.load_conditions`].

        Returns:
            `int`: Number of prompts.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
        """
        get = arguments.__getitem__
        batch_size = self.check_call(arguments, "Frame interpolation", MET_NUMBERS)
        check_flag("decode_given_frames", get("decode_given_frames"))
        self.check_given([given], loaded, get("mechanism")[0], batch_size, (get("height"), get("width")))
        self.check_seen((0, self.rate), get("mechanism")[0])
        self.check_noise_level(get("noise_level"), get("mechanism")[0])
        self.check_steps(arguments)
        return batch_size

    def _collect_frames(self, frames: VideoInput | None, frame_latents: Tensor | None) -> FrameCondition:
        if (frames is None) == (frame_latents is None):
            raise ValueError("Exactly one of `frames` and `frame_latents` must be given, which holds the key frames.")
        if frames is None:
            checks.check_tensor("frame_latents", frame_latents, (None,) * 5)
            number, frames = frame_latents.shape[2], frame_latents
        else:
            if frames_per_latent(self.vae) > 1:
                raise ValueError(
                    "`frames` must be left out, because `vae` makes one latent of several neighbouring frames: key"
                    " frames are latents. Pass `frame_latents`."
                )
            video = load_frames(frames)
            number, frames = video.shape[2], video.transpose(1, 2)  # as `load_video` takes tensors
        if number < 2:
            raise ValueError(f"`frames` must be at least 2, which others are drawn between, but there are {number}.")
        return FrameCondition(frames, tuple(range(number)), is_latent=frame_latents is not None)

    def interpolate(self, latents: Tensor, conditions: DenoiserConditions, arguments: Mapping[str, Any]) -> Tensor:
        """
        Draw the frames between neighbours, window by window.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): Given frames, at least 2.
            conditions (`DenoiserConditions`): Text and numbers.
            arguments (`Mapping[str, Any]`): From [`~WindowSamplingMixin.complete_arguments`].

        Returns:
            `torch.Tensor` of shape `(batch_size, c, rate * (num_frames - 1) + 1, h, w)`: The given frames unchanged,
            at every `rate`-th place.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.3.
        """
        strengths = [1.0, *[0.0] * (self.rate - 1), 1.0]
        parts = [latents[:, :, :1]]
        for index in range(latents.shape[2] - 1):
            given = latents.new_zeros((*latents.shape[:2], self.rate + 1, *latents.shape[3:]))
            given[:, :, [0, -1]] = latents[:, :, index : index + 2]
            window = self.sample_window(
                conditions, (given, strengths), arguments, noise_level=arguments["noise_level"]
            )
            parts.append(window[:, :, 1:])
        return torch.cat(parts, dim=2)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        frames: VideoInput | None = None,
        prompt: str | list[str] | None = None,
        num_passes: int = 1,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        context_guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        decode_chunk_size: int | None = None,
        *,
        fps: float | None = None,
        frame_latents: Tensor | None = None,
        mechanism: str | None = None,
        reconstruction_scale: float | None = None,
        noise_level: int | None = None,
        decode_given_frames: bool = False,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_rescale: float = 0.0,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        temporal_prompt_embeds: Tensor | None = None,
        negative_temporal_prompt_embeds: Tensor | None = None,
    ) -> VideoPipelineOutput | tuple:
        """
        Interpolate.

        Args:
            frames (`list[PIL.Image.Image]`, `np.ndarray`, `torch.Tensor` or a list of such, *optional*):
                At least two frames, in the forms that [`TextToVideoPipeline`] takes; one video for each prompt, or one
                for all. Otherwise `frame_latents`.
            prompt (`str` or `list[str]`, *optional*): What the videos show; there may be none.
            num_passes (`int`, *optional*, defaults to 1): How often the rate is raised: N frames become 4 (N - 1) + 1,
                and of these as many again.
            height (`int`, *optional*): Height in pixels, a multiple of `vae_scale_factor`; that of the given frames,
                which are resized to it.
            width (`int`, *optional*): Width in pixels, likewise.
            num_inference_steps (`int`, *optional*, defaults to 50): Steps of the schedule, in each window.
            guidance_scale (`float`, *optional*, defaults to 7.5 with a prompt): Guidance by the text; at most 1 is
                none.
            context_guidance_scale (`float`, *optional*, defaults to 1.5 where a model with context is told frames):
                Guidance by the given frames; 1 is none. With both, each step evaluates the denoiser three times.
            negative_prompt (`str` or `list[str]`, *optional*): What to avoid; needs guidance by the text.
            num_videos_per_prompt (`int`, *optional*, defaults to 1): Videos of each prompt; they are neighbours.
            eta (`float`, *optional*, defaults to 0.0): DDIM's share of fresh noise, for schedulers that take it.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of all noise. A list holds one
                for each video, which then is the video it would be alone.
            prompt_embeds (`torch.Tensor` of shape `(prompts, tokens, width)`, *optional*): Instead of `prompt`.
            negative_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Instead of `negative_prompt`.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`, see
                [`VideoPipelineOutput`].
            return_dict (`bool`, *optional*, defaults to `True`): Whether not to return a tuple `(frames,)`.
            callback_on_step_end (`Callable`, *optional*): Called as `callback(pipeline, step, timestep, tensors)`
                after each step; steps are counted anew in each window.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`): Its tensors.
            decode_chunk_size (`int`, *optional*, defaults to 16): Frames encoded and decoded at once.
            fps (`float`, *optional*): Frames per second of the given frames, above 0; by default the rate that brings
                the result to `config.fps`. A denoiser that is conditioned on it is told that of each pass's result.
            frame_latents (`torch.Tensor` of shape `(videos, c, num_frames, h, w)`, *optional*): Latents of the given
                frames instead, times the `scaling_factor`.
            mechanism (`str`, *optional*): How given frames reach the denoiser: `"context"` (the default of a model
                built with it), `"reconstruction"` (guidance by the gradient, for any model, and its default) or
                `"replacement"` (they are held, for any model).
            reconstruction_scale (`float`, *optional*, defaults to 2.0 with `"reconstruction"`): Weight of its
                gradient.
            noise_level (`int`, *optional*, defaults to 0): Timestep of the noise on what is told of given frames, for
                a model trained with it; at most `config.max_noise_level`.
            decode_given_frames (`bool`, *optional*, defaults to `False`): Whether given frames come out as the
                autoencoder decodes them, instead of exactly as given.
            timesteps (`list[int]`, *optional*): Descending timesteps instead, for schedulers that take them.
            sigmas (`list[float]`, *optional*): Descending noise levels instead, for schedulers that take them.
            guidance_rescale (`float`, *optional*, defaults to 0.0): Share, in [0, 1], of the guided output brought
                back to the spread of the conditional one; needs guidance by the text.
            cross_attention_kwargs (`dict`, *optional*): For the attention layers; `{"scale": s}` scales LoRA layers.
            clip_skip (`int`, *optional*): Last layers of the text encoder to leave out.
            pooled_prompt_embeds (`torch.Tensor` of shape `(prompts, width)`, *optional*): With `prompt_embeds` of XL.
            negative_pooled_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Likewise.
            temporal_prompt_embeds (`torch.Tensor` of shape `(prompts, tokens, width)`, *optional*): Text of the
                temporal layers, where they read another one; the default is `prompt` by `temporal_text_encoder`, or
                the text of the spatial layers.
            negative_temporal_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Its negative.

        Returns:
            [`VideoPipelineOutput`] with `frames` and `fps`, or a tuple `(frames,)`.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
            FloatingPointError: If a model gives a NaN or an infinity; the message names the stage.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.3.

        Examples:
        """
        checks.check_integer("num_passes", num_passes)
        if fps is None:
            fps = self.config.fps / self.rate**num_passes
        given = self._collect_frames(frames, frame_latents)
        num_frames = len(given.indices) * frames_per_latent(self.vae)
        loaded = self.load_conditions([given], num_frames)
        height, width = self.default_size([given], loaded, height, width)
        arguments = self.complete_arguments(locals(), loaded, has_context=True)
        batch_size = self.check_inputs(arguments, given, loaded) * num_videos_per_prompt

        self.start_call(arguments)
        text = self.prepare_conditions(arguments, batch_size, self._execution_device)
        shape = self.window_shape(arguments, batch_size, num_frames)
        size = (height, width)
        like = self.latents_like(text)
        latents, _ = self.encode_given([given], loaded, shape, size, like, generator, decode_chunk_size)
        for _ in range(num_passes):
            fps *= self.rate
            text.fps = None if text.fps is None else float(fps)
            latents = self.interpolate(latents, text, arguments)
        places = tuple(index * self.rate**num_passes for index in given.indices)
        given = FrameCondition(given.frames, places, is_latent=given.is_latent)
        return self.finish_call(self.show_frames(latents, [given], loaded, arguments), fps, output_type, return_dict)
