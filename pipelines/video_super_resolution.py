"""Larger videos from small ones: a diffusion upscaler with temporal layers, in latents or in pixels."""

# Shapes: B videos, C channels, F frames, H height, W width of the low-resolution video; latents (B, c, F, h, w).

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionUpscalePipeline,
)
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import replace_example_docstring
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from diffusers_video.conditioning.low_res import DEFAULT_MAX_NOISE_LEVEL, check_low_res_scheduler
from diffusers_video.hub import VideoHubMixin
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoising import DenoisingMixin, StepCallback
from diffusers_video.pipelines.image_models import ImageModelMixin
from diffusers_video.pipelines.latent_video import LatentDecodingMixin
from diffusers_video.pipelines.loading import VideoLoraLoaderMixin
from diffusers_video.pipelines.pipeline_output import VideoPipelineOutput
from diffusers_video.pipelines.text_encoding import TextEncodingMixin
from diffusers_video.pipelines.text_video import TextVideoMixin
from diffusers_video.pipelines.upscaling import UpscalingMixin, default_overlap, skip_frames
from diffusers_video.pipelines.video_input import Frame, VideoInput, load_frames, load_video


EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> from diffusers_video import VideoSuperResolutionPipeline, read_video, write_video

        >>> # An image upscaler whose new temporal layers change nothing yet: each frame is an image until trained.
        >>> pipe = VideoSuperResolutionPipeline.from_image_model("stabilityai/stable-diffusion-x4-upscaler")
        >>> video = read_video("small.mp4")
        >>> output = pipe(video.frames, "a red fox in the snow", fps=float(video.fps))
        >>> write_video(output.frames[0], "large.mp4", fps=output.fps)
        ```
"""
DEFAULT_CHUNK_SIZE = 8


class VideoSuperResolutionPipeline(
    VideoHubMixin,
    UpscalingMixin,
    TextVideoMixin,
    ImageModelMixin,
    LatentDecodingMixin,
    DenoisingMixin,
    TextEncodingMixin,
    VideoLoraLoaderMixin,
    TextualInversionLoaderMixin,
    DiffusionPipeline,
    StableDiffusionMixin,
):
    """
    Enlarge videos by Stable Diffusion's x4 upscaler with temporal layers, or by a model that denoises pixels.

    The denoiser sees the noisy latents and, in further channels, the low-resolution frames with noise of a level that
    it is told. Videos of any length and size are taken: frames in overlapping chunks, height and width as they are.

    Args:
        unet ([`UNetVideoConditionModel`]): The denoiser. It is told the noise level by `num_class_embeds`,
            `class_embed_type="timestep"` or `added_time_ids=("noise_level",)`.
        scheduler ([`SchedulerMixin`]): Any of diffusers' whose `step` fits, see [`check_scheduler`].
        low_res_scheduler ([`DDPMScheduler`]): The schedule of the noise on the low-resolution frames.
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`], *optional*): Autoencoder of images, used frame by frame, or one
            of videos. Without it pixels are denoised, beside low-resolution frames enlarged to their size: 6 channels.
        text_encoder ([`~transformers.CLIPTextModel`], *optional*): Text encoder, for a denoiser that reads text.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
        scale (`int`, *optional*, defaults to 4): How many times larger frames become; a multiple of the pixels for
            each latent.
        num_frames (`int`, *optional*, defaults to 8): Frames upscaled at once unless a call says otherwise.
        chunk_overlap (`int`, *optional*): Frames that neighbouring chunks share, where one fades into the next; below
            `num_frames`. By default a quarter of it, rounded up: 2.
        fps (`float`, *optional*, defaults to 8.0): Frames per second unless a call says otherwise.
        max_noise_level (`int`, *optional*, defaults to 350): Highest noise level that the model was trained with.

    Source:
        VideoLDM (arXiv:2304.08818), Section 3.4.
    """

    hub_pipeline_tag = "video-to-video"
    hub_example = (
        'output = pipe(frames, "a red fox in the snow")  # a list of images\n'
        'write_video(output.frames[0], "video.mp4", fps=output.fps)'
    )
    model_cpu_offload_seq = "text_encoder->unet->vae"
    single_file_classes: ClassVar[dict[str, type[DiffusionPipeline]]] = {"upscale": StableDiffusionUpscalePipeline}
    text_encoder_2 = tokenizer_2 = None
    _optional_components = ["vae", "text_encoder", "tokenizer"]
    _exclude_from_cpu_offload = []
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        unet: UNetVideoConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        low_res_scheduler: DDPMScheduler,
        vae: AutoencoderKL | AutoencoderTiny | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        scale: int = 4,
        num_frames: int = DEFAULT_CHUNK_SIZE,
        chunk_overlap: int | None = None,
        fps: float = 8.0,
        max_noise_level: int = DEFAULT_MAX_NOISE_LEVEL,
    ):
        super().__init__()
        checks.check_integer("max_noise_level", max_noise_level, minimum=0)
        checks.check_integer("num_frames", num_frames)
        chunk_overlap = default_overlap(num_frames) if chunk_overlap is None else chunk_overlap
        checks.check_integer("chunk_overlap", chunk_overlap, minimum=0)
        components = {
            "unet": unet,
            "scheduler": scheduler,
            "low_res_scheduler": low_res_scheduler,
            "vae": vae,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
        }
        settings = {
            "scale": scale,
            "num_frames": num_frames,
            "chunk_overlap": chunk_overlap,
            "fps": fps,
            "max_noise_level": max_noise_level,
        }
        self.register_parts(components, settings)
        check_low_res_scheduler(low_res_scheduler, max_noise_level, unet)
        if vae is None:
            self.vae_scale_factor = 1
        checks.check_integer("scale", scale, minimum=2, multiple_of=self.vae_scale_factor)
        if chunk_overlap >= num_frames:
            raise ValueError(f"`chunk_overlap` must be below `num_frames`={num_frames}, but is {chunk_overlap}.")

    @classmethod
    def from_image_model(
        cls,
        model: str | os.PathLike | DiffusionPipeline,
        preset: str | None = None,
        *,
        num_frames: int = DEFAULT_CHUNK_SIZE,
        **options: Any,
    ) -> "VideoSuperResolutionPipeline":
        """
        Make a video upscaler of Stable Diffusion's image upscaler. Until its temporal layers are trained it upscales
        every frame as the image model does.

        Args:
            model (`str`, `os.PathLike` or [`StableDiffusionUpscalePipeline`]): Hub id, folder, single file, or a
                loaded pipeline.
            preset (`str`, *optional*): Preset of [`UNetVideoConditionModel.from_unet2d`].
            num_frames (`int`, *optional*, defaults to 8): Frames upscaled at once unless a call says otherwise.
            options: See [`ImageModelMixin.from_image_model`].

        Returns:
            [`VideoSuperResolutionPipeline`]
        """
        return super().from_image_model(model, preset, num_frames=num_frames, **options)

    def check_inputs(self, arguments: Mapping[str, Any], frames: Tensor) -> int:
        """
        Refuse arguments of a call that are wrong, contradict each other or have no effect, before any model runs.

        Args:
            arguments (`Mapping[str, Any]`): From [`~UpscalingMixin.complete_arguments`].
            frames (`torch.Tensor` of shape `(videos, channels, num_frames, height, width)`): The low-resolution
                frames.

        Returns:
            `int`: Number of prompts.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
        """
        batch_size = self.check_upscaling(arguments, frames)
        if arguments["latents"] is not None:
            sides = (side * self.scale // self.vae_scale_factor for side in frames.shape[-2:])
            total = batch_size * arguments["num_videos_per_prompt"]
            shape = (total, self.unet.config.out_channels, frames.shape[2], *sides)
            checks.check_tensor("latents", arguments["latents"], shape)
        return batch_size

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        video: VideoInput,
        prompt: str | list[str] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        noise_level: int | None = None,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        decode_chunk_size: int | None = None,
        *,
        chunk_size: int | None = None,
        chunk_overlap: int | None = None,
        image_only: bool = False,
        fps: float | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_rescale: float = 0.0,
    ) -> VideoPipelineOutput | tuple:
        """
        Upscale videos. [`stream`] does the same for videos that do not fit into memory.

        The noise of a frame follows from the seed of its video and its place alone, so chunks that share frames agree
        on their noise, and a video is the same in every batch.

        Args:
            video (`list[PIL.Image.Image]`, `np.ndarray`, `torch.Tensor` or a list of such): The low-resolution video
                in the forms that [`TextToVideoPipeline`] takes; one for each prompt, or one for all, of any size.
            prompt (`str` or `list[str]`, *optional*): What the videos show; there may be none.
            num_inference_steps (`int`, *optional*, defaults to 50): Steps of the schedule, in each chunk.
            guidance_scale (`float`, *optional*, defaults to 9.0 with a prompt): Classifier-free guidance; at most 1 is
                none.
            noise_level (`int`, *optional*, defaults to 20): Timestep of `low_res_scheduler` of the noise on the
                low-resolution frames, at most `config.max_noise_level`, which is the default if it is lower. More
                noise gives the model more freedom.
            negative_prompt (`str` or `list[str]`, *optional*): What to avoid; needs guidance.
            num_videos_per_prompt (`int`, *optional*, defaults to 1): Videos of each prompt; they are neighbours.
            eta (`float`, *optional*, defaults to 0.0): DDIM's share of fresh noise, for schedulers that take it.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of one seed for each video. A
                list holds one for each video, which then is the video it would be alone.
            latents (`torch.Tensor` of shape `(videos, c, num_frames, h, w)`, *optional*): Unit noise to start from.
            prompt_embeds (`torch.Tensor` of shape `(prompts, tokens, width)`, *optional*): Instead of `prompt`.
            negative_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Instead of `negative_prompt`.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`, see
                [`VideoPipelineOutput`].
            return_dict (`bool`, *optional*, defaults to `True`): Whether not to return a tuple `(frames,)`.
            cross_attention_kwargs (`dict`, *optional*): For the attention layers; `{"scale": s}` scales LoRA layers.
            clip_skip (`int`, *optional*): Last layers of the text encoder to leave out.
            callback_on_step_end (`Callable`, *optional*): Called as `callback(pipeline, step, timestep, tensors)`
                after each step; steps are counted anew in each chunk.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`): Its tensors.
            decode_chunk_size (`int`, *optional*, defaults to 16): Frames decoded at once.
            chunk_size (`int`, *optional*, defaults to `config.num_frames`): Frames upscaled at once.
            chunk_overlap (`int`, *optional*, defaults to `config.chunk_overlap`): The least number of frames that
                neighbouring chunks share, below `chunk_size`; by default less in chunks that are too small for it.
            image_only (`bool`, *optional*, defaults to `False`): Upscale each frame as an image of its own.
            fps (`float`, *optional*, defaults to `config.fps`): Frames per second, above 0. It is returned with the
                frames, and reaches a denoiser that is conditioned on it.
            timesteps (`list[int]`, *optional*): Descending timesteps instead, for schedulers that take them.
            sigmas (`list[float]`, *optional*): Descending noise levels instead, for schedulers that take them.
            guidance_rescale (`float`, *optional*, defaults to 0.0): Share, in [0, 1], of the guided output brought
                back to the spread of the conditional one (arXiv:2305.08891, Section 3.4).

        Returns:
            [`VideoPipelineOutput`] with `frames`, `scale` times as high and wide, and `fps`; or a tuple `(frames,)`.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
            FloatingPointError: If a model gives a NaN or an infinity; the message names the stage.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.4.

        Examples:
        """
        frames = load_video(video)
        arguments = self.complete_arguments(locals(), frames)
        run = self.start_run(arguments, self.check_inputs(arguments, frames))
        latents = torch.cat(list(self.upscale_latents(frames.unbind(2), 0, run)), dim=2)
        if output_type != "latent":
            latents = self.decode_frames(latents, decode_chunk_size)
        return self.finish_call(latents, arguments["fps"], output_type, return_dict)

    def stream(
        self, frames: Iterable[Frame | Tensor], prompt: str | None = None, *, first_frame: int = 0, **arguments: Any
    ) -> Iterator[Tensor]:
        """
        Upscale a video piece by piece, in memory that does not grow with its length.

        The result does not depend on how the stream is cut into pieces, and equals that of a call with the same
        generator and chunks. A stream that ended early is continued, to the same frames, by asking for those after the
        last one that is there:

            start = pipe.first_needed_frame(num_done)
            pieces = pipe.stream(low_res_frames_from(start), first_frame=num_done, generator=same_seed)

        Args:
            frames (`Iterable`): Low-resolution frames in order: images, arrays `(height, width, channels)` or tensors
                `(channels, height, width)`; or pieces of any length, as tensors
                `(videos, channels, num_frames, height, width)`. uint8, or float in [0, 1]. The first is read at once;
                of the others no more are held than two chunks.
            prompt (`str`, *optional*): What the video shows; a list where there are several videos.
            first_frame (`int`, *optional*, defaults to 0): First frame that is wanted. `frames` must then begin at
                frame [`first_needed_frame`] of the video.
            arguments: Of a call, all but `video`, `latents`, `output_type` and `return_dict`.

        Returns:
            `Iterator[torch.Tensor]`: Frames of shape `(batch_size, channels, any, scale * height, scale * width)`, in
            [0, 1], piece by piece, from `first_frame` on.

        Raises:
            TypeError: If a type is wrong, or an argument is unknown.
            ValueError: If a value is wrong, arguments do not fit together or the models, there are no frames, or one
                has another size than the first.
            FloatingPointError: If a model gives a NaN or an infinity; the message names the stage.
        """
        parameters = inspect.signature(type(self).__call__).parameters
        defaults = {name: item.default for name, item in parameters.items() if name not in ("self", "video")}
        unknown = arguments.keys() - (defaults.keys() - {"latents", "output_type", "return_dict"})
        if unknown:
            raise TypeError(f"`{min(unknown)}` is no argument of a stream. Leave it out, or call the pipeline.")
        checks.check_integer("first_frame", first_frame, minimum=0)
        self.check_stream()
        pieces = iter(frames)
        piece = next(pieces, None)
        if piece is None:
            raise ValueError("`frames` must hold at least one frame, but is empty.")
        first = load_piece(piece)
        full = self.complete_arguments({**defaults, "output_type": "pt", **arguments, "prompt": prompt}, first)
        num_prompts = self.check_inputs(full, first)
        return self._stream(chain([first], pieces), first_frame, full, num_prompts)

    def first_needed_frame(
        self, first_frame: int, chunk_size: int | None = None, chunk_overlap: int | None = None
    ) -> int:
        """
        Tell from which low-resolution frame on a stream must be given to be continued, see [`stream`].

        Args:
            first_frame (`int`): First frame that is wanted; the number of frames that are there.
            chunk_size (`int`, *optional*, defaults to `config.num_frames`): As in the stream.
            chunk_overlap (`int`, *optional*, defaults to `config.chunk_overlap`): As in the stream.

        Returns:
            `int`: At most `first_frame`.
        """
        checks.check_integer("first_frame", first_frame, minimum=0)
        self.check_stream()
        return self.stream_starts(first_frame, *self.complete_chunks(chunk_size, chunk_overlap))[0]

    @torch.no_grad()
    def _stream(
        self, pieces: Iterable[Any], first_frame: int, arguments: Mapping[str, Any], num_prompts: int
    ) -> Iterator[Tensor]:
        run = self.start_run(arguments, num_prompts)
        start, decoded = self.stream_starts(first_frame, arguments["chunk_size"], arguments["chunk_overlap"])
        latents = skip_frames(self.upscale_latents(split_pieces(pieces), start, run), decoded - start)
        for frames in skip_frames(self.decode_stream(latents, arguments["decode_chunk_size"]), first_frame - decoded):
            yield (frames * 0.5 + 0.5).clamp(0, 1)
        self.maybe_free_model_hooks()


def load_piece(piece: Frame | Tensor) -> Tensor:
    """
    Bring a frame or a piece of a stream to one tensor.

    Args:
        piece (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): A frame, or a tensor of shape
            `(videos, channels, num_frames, height, width)`; uint8, or float in [0, 1].

    Returns:
        `torch.Tensor` of shape `(videos, channels, num_frames, height, width)`: In [0, 1].

    Raises:
        TypeError: If it is something else.
        ValueError: If shapes or values do not fit.
    """
    if isinstance(piece, Tensor) and piece.ndim == 5:
        return load_video(piece.transpose(1, 2), "frames")
    return load_frames(piece)


def split_pieces(pieces: Iterable[Any]) -> Iterator[Tensor]:
    """
    Take a stream apart into frames.

    Args:
        pieces (`Iterable`): See [`load_piece`].

    Returns:
        `Iterator[torch.Tensor]`: Frames of shape `(videos, channels, height, width)`, in [0, 1].

    Raises:
        TypeError: If a piece is something else.
        ValueError: If shapes or values do not fit, or a frame has another shape than the first.
    """
    shape, place = None, 0
    for piece in pieces:
        for frame in load_piece(piece).unbind(2):
            shape = frame.shape if shape is None else shape
            if frame.shape != shape:
                raise ValueError(
                    f"`frames` must all have the shape of the first, {tuple(shape)}, but frame {place} has"
                    f" {tuple(frame.shape)}. Resize it first."
                )
            yield frame
            place += 1
