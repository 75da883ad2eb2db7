"""Key frames that go on from none, one or two given frames, as long as wanted."""

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

from diffusers_video.conditioning.frames import MAX_CONTEXT_FRAMES, FrameCondition
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
        >>> from diffusers_video import KeyFramePredictionPipeline, read_video, write_video

        >>> pipe = KeyFramePredictionPipeline.from_pretrained("my-prediction-model")
        >>> start = read_video("clip.mp4").frames[:2]
        >>> output = pipe(start, "a red fox in the snow", num_frames=32)
        >>> write_video(output.frames[0], "longer.mp4", fps=output.fps)
        ```
"""


class KeyFramePredictionPipeline(
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
    Predict the frames that follow given ones, by a Stable Diffusion 1.x, 2.x or XL model with temporal layers.

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
        num_frames (`int`, *optional*, defaults to 16): Frames that are drawn at once, and of a video unless a
            call says otherwise; at least 2.
        fps (`float`, *optional*, defaults to 2.0): Frames per second of the result unless a call says otherwise.
        force_zeros_for_empty_prompt (`bool`, *optional*, defaults to `True`): Whether XL takes zeros where there is no
            negative prompt.
        noise_prior (`str`, *optional*, defaults to `"independent"`): See
            [`diffusers_video.conditioning.noise.draw_noise`].
        noise_prior_strength (`float`, *optional*, defaults to 1.0): Its alpha, above 0.
        max_noise_level (`int`, *optional*, defaults to 0): Highest noise level of given frames that the model was
            trained with.
    """

    hub_example = (
        "output = pipe(first_two_frames, num_frames=32)  # a list of images\n"
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
        num_frames: int = 16,
        fps: float = 2.0,
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

    def check_inputs(
        self, arguments: Mapping[str, Any], conditions: list[FrameCondition], loaded: list[Tensor]
    ) -> int:
        """
        Refuse arguments of a call that are wrong, contradict each other or have no effect, before any model runs.

        Args:
            arguments (`Mapping[str, Any]`): From [`~WindowSamplingMixin.complete_arguments`].
            conditions (`list[FrameCondition]`): What is given.
            loaded (`list[torch.Tensor]`): From [`~GivenFramesMixin.load_conditions`].

        Returns:
            `int`: Number of prompts.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
        """
        get = arguments.__getitem__
        batch_size = self.check_call(arguments, "Key-frame prediction", MET_NUMBERS)
        check_flag("decode_given_frames", get("decode_given_frames"))
        size = (get("height"), get("width"))
        self.check_given(conditions, loaded, get("mechanism")[0], batch_size, size)
        self.check_noise_level(get("noise_level"), get("mechanism")[0])
        if get("noise_level") is not None and any(one.noise_level is not None for one in conditions):
            raise ValueError("`noise_level` must be given once, but the call and a condition have one. Leave one out.")
        if get("num_context_frames") is not None and get("num_frames") <= get("window_frames"):
            raise ValueError(
                f"`num_context_frames` has no effect on {get('num_frames')} frames, which are drawn at once. Leave it"
                f" out, or raise `num_frames` above {get('window_frames')}."
            )
        if get("latents") is not None:
            if get("num_frames") > get("window_frames"):
                raise ValueError(
                    f"`latents` must be the noise of one window, but {get('num_frames')} frames take several of"
                    f" {get('window_frames')}. Leave it out, and pass `generator`."
                )
            total = batch_size * get("num_videos_per_prompt")
            checks.check_tensor("latents", get("latents"), self.window_shape(arguments, total, get("num_frames")))
        self.check_steps(arguments)
        return batch_size

    def _collect_conditions(self, arguments: Mapping[str, Any]) -> tuple[list[FrameCondition], list[Tensor]]:
        """Bring `frames` or `conditions` of a call to conditions of its first window, and load them."""
        frames, conditions = arguments["frames"], arguments["conditions"]
        for name in ("num_frames", "window_frames"):
            checks.check_integer(name, arguments[name])
        checks.check_integer("window_frames", arguments["window_frames"], minimum=2)
        if frames is not None and conditions is not None:
            raise ValueError("Only one of `frames` and `conditions` may be given, but both are. Leave one out.")
        first_window = min(arguments["num_frames"], arguments["window_frames"])
        if frames is not None:
            video, most = load_frames(frames), MAX_CONTEXT_FRAMES * frames_per_latent(self.vae)
            if video.shape[2] > most:
                raise ValueError(
                    f"`frames` must be at most {most}, but are {video.shape[2]}. Pass the last ones,"
                    f" `frames[-{most}:]`, or say with `conditions` which places they have."
                )
            if video.shape[2] >= first_window:
                raise ValueError(
                    f"`num_frames` and `window_frames` count the {video.shape[2]} given frames and must be above"
                    f" that, but {first_window} frames are drawn at once."
                )
            frames = video.transpose(1, 2)  # as `load_video` takes tensors: frames before channels
            conditions = [FrameCondition(frames, tuple(range(video.shape[2])))]
        elif conditions is not None and not isinstance(conditions, (list, tuple)):
            raise TypeError(f"`conditions` must be a list of FrameCondition, but is {type(conditions).__name__}.")
        conditions = list(conditions or ())
        return conditions, self.load_conditions(conditions, first_window)

    def count_windows(
        self, num_frames: int | None = None, window_frames: int | None = None, num_context_frames: int | None = None
    ) -> int:
        """
        Count the windows that a result is drawn in.

        Args:
            num_frames (`int`, *optional*, defaults to `config.num_frames`): Frames of the result.
            window_frames (`int`, *optional*, defaults to `config.num_frames`): Frames drawn at once.
            num_context_frames (`int`, *optional*, defaults to 2): Frames that the next window goes on from.

        Returns:
            `int`: At least 1.

        Raises:
            ValueError: If no window is long enough for the frames that it goes on from.
        """
        num_frames, window_frames = num_frames or self.config.num_frames, window_frames or self.config.num_frames
        num_frames, window_frames = (
            -(-number // frames_per_latent(self.vae)) for number in (num_frames, window_frames)
        )
        _check_context_frames(num_context_frames, window_frames)
        kept = num_context_frames or min(MAX_CONTEXT_FRAMES, window_frames - 1)
        return 1 + max(0, -(-(num_frames - window_frames) // (window_frames - kept)))

    def extend(self, latents: Tensor, conditions: DenoiserConditions, arguments: Mapping[str, Any]) -> Tensor:
        """
        Draw window after window, each going on from the last frames of the one before.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, c, num_frames, h, w)`): The first window.
            conditions (`DenoiserConditions`): Text and numbers.
            arguments (`Mapping[str, Any]`): From [`~WindowSamplingMixin.complete_arguments`].

        Returns:
            `torch.Tensor` of shape `(batch_size, c, f, h, w)`: Latents of `arguments["num_frames"]` frames. A last
            window that reaches too far is drawn whole and cut.
        """
        factor = frames_per_latent(self.vae)
        num_frames, window_frames = (arguments[name] // factor for name in ("num_frames", "window_frames"))
        kept = arguments["num_context_frames"] or min(MAX_CONTEXT_FRAMES, window_frames - 1)
        strengths = [1.0] * kept + [0.0] * (window_frames - kept)
        while latents.shape[2] < num_frames:
            given = latents.new_zeros((*latents.shape[:2], window_frames, *latents.shape[3:]))
            given[:, :, :kept] = latents[:, :, -kept:]
            window = self.sample_window(
                conditions, (given, strengths), arguments, noise_level=arguments["noise_level"]
            )
            latents = torch.cat([latents, window[:, :, kept:]], dim=2)
        return latents[:, :, :num_frames]

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        frames: VideoInput | None = None,
        prompt: str | list[str] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        context_guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        decode_chunk_size: int | None = None,
        *,
        fps: float | None = None,
        conditions: list[FrameCondition] | None = None,
        window_frames: int | None = None,
        num_context_frames: int | None = None,
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
        Predict frames.

        Args:
            frames (`PIL.Image.Image`, `list[PIL.Image.Image]`, `np.ndarray`, `torch.Tensor` or a list of such,
                *optional*): One or two frames to go on from: an image, or a video in the forms that
                [`TextToVideoPipeline`] takes; one for each prompt, or one for all.
            prompt (`str` or `list[str]`, *optional*): What the videos show; there may be none.
            num_frames (`int`, *optional*, defaults to `config.num_frames`): Frames of the result, the given ones
                included. What is longer than a window is drawn in several, each going on from the last frames.
            height (`int`, *optional*): Height in pixels, a multiple of `vae_scale_factor`; that of the given frames,
                else the one the model was trained at. Given frames are resized to it.
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
            latents (`torch.Tensor` of shape `(videos, c, num_frames, h, w)`, *optional*): Unit noise to start from, of
                a result that is drawn at once.
            prompt_embeds (`torch.Tensor` of shape `(prompts, tokens, width)`, *optional*): Instead of `prompt`.
            negative_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Instead of `negative_prompt`.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`, see
                [`VideoPipelineOutput`].
            return_dict (`bool`, *optional*, defaults to `True`): Whether not to return a tuple `(frames,)`.
            callback_on_step_end (`Callable`, *optional*): Called as `callback(pipeline, step, timestep, tensors)`
                after each step; steps are counted anew in each window.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`): Its tensors.
            decode_chunk_size (`int`, *optional*, defaults to 16): Frames encoded and decoded at once.
            fps (`float`, *optional*, defaults to `config.fps`): Frames per second of the result, above 0.
            conditions (`list[FrameCondition]`, *optional*): Instead of `frames`: frames at any places of the first
                window.
            window_frames (`int`, *optional*, defaults to `config.num_frames`): Frames drawn at once, at least 2.
            num_context_frames (`int`, *optional*, defaults to 2): Last frames that the next window goes on from: 1 or
                2, and less than `window_frames`; latent ones where the autoencoder compresses time.
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
            VideoLDM (arXiv:2304.08818), Section 3.2; `"reconstruction"` and `"replacement"`: VDM (arXiv:2204.03458),
            Section 3.1.

        Examples:
        """
        num_frames = self.config.num_frames if num_frames is None else num_frames
        window_frames = self.config.num_frames if window_frames is None else window_frames
        fps = self.config.fps if fps is None else fps
        given, loaded = self._collect_conditions(locals())
        _check_context_frames(num_context_frames, window_frames // frames_per_latent(self.vae))
        height, width = self.default_size(given, loaded, height, width)
        has_context = bool(given) or num_frames > window_frames
        arguments = self.complete_arguments(locals(), loaded, has_context)
        batch_size = self.check_inputs(arguments, given, loaded) * num_videos_per_prompt

        self.start_call(arguments)
        text = self.prepare_conditions(arguments, batch_size, self._execution_device)
        shape = self.window_shape(arguments, batch_size, min(num_frames, window_frames))
        like = self.latents_like(text)
        first = self.encode_given(given, loaded, shape, (height, width), like, generator, decode_chunk_size)
        levels = [one.noise_level for one in given if one.noise_level is not None]
        level = levels[0] if levels else noise_level
        latents = self.sample_window(text, first, arguments, noise_level=level, latents=latents)
        latents = self.extend(latents, text, arguments)
        return self.finish_call(self.show_frames(latents, given, loaded, arguments), fps, output_type, return_dict)


def _check_context_frames(num_context_frames: int | None, window_frames: int) -> None:
    if num_context_frames is None:
        return
    checks.check_integer("num_context_frames", num_context_frames)
    if num_context_frames > min(MAX_CONTEXT_FRAMES, window_frames - 1):
        raise ValueError(
            f"`num_context_frames` must be at most {MAX_CONTEXT_FRAMES} and below `window_frames`, but is"
            f" {num_context_frames}, with {window_frames}."
        )
