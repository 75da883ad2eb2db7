"""Videos from an image, by Stable Video Diffusion."""

# Shapes: B videos, C channels, F frames, H height, W width; D width of the context; latents (B, c, F, h, w).

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiffusionPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from diffusers.utils import replace_example_docstring
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from diffusers_video.conditioning.guidance import guidance_over_frames
from diffusers_video.hub import VideoHubMixin
from diffusers_video.layers.clip_embedding import ADDED_TIME_IDS
from diffusers_video.models.autoencoder_kl_video import AutoencoderKLVideo
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoising import DenoiserConditions, DenoisingMixin, StepCallback
from diffusers_video.pipelines.image_input import ImageInput, load_image, split_images
from diffusers_video.pipelines.latent_video import LatentVideoMixin
from diffusers_video.pipelines.latents import encode_mode, latents_shape, vae_scale_factor
from diffusers_video.pipelines.model_checks import check_components
from diffusers_video.pipelines.pipeline_output import VideoPipelineOutput
from diffusers_video.pipelines.scheduling import check_schedule, check_sigma_scheduler, prepare_timesteps


CHUNK_OPTIONS = ("decode_chunk_size", "decode_chunk_overlap")

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> from diffusers.utils import load_image
        >>> from diffusers_video import ImageToVideoPipeline, write_video

        >>> # A folder that `diffusers-video convert` made of a checkpoint of Stable Video Diffusion.
        >>> pipe = ImageToVideoPipeline.from_pretrained("svd").to("cuda")
        >>> output = pipe(load_image("rocket.png"), generator=torch.Generator().manual_seed(0))
        >>> write_video(output.frames[0], "rocket.mp4", fps=output.fps)
        ```
"""


class ImageToVideoPipeline(VideoHubMixin, LatentVideoMixin, DenoisingMixin, DiffusionPipeline):
    """
    Videos that begin with an image, by a denoiser that sees the image in further channels and its CLIP embedding as
    the only token of its context: Stable Video Diffusion, see
    [`~diffusers_video.conversion.stable_video_diffusion.convert_stable_video_diffusion`].

    Args:
        vae ([`AutoencoderKLVideo`] or [`AutoencoderKL`]): Autoencoder of videos, or one of images.
        image_encoder ([`~transformers.CLIPVisionModelWithProjection`]): Embeds the image.
        unet ([`UNetVideoConditionModel`]): The denoiser, with twice the channels of the latents and the
            `added_time_ids` frame rate, motion bucket and noise level.
        scheduler ([`EulerDiscreteScheduler`], [`EDMEulerScheduler`] or [`EDMDPMSolverMultistepScheduler`]): Configured
            for EDM's preconditioning, see [`check_sigma_scheduler`].
        feature_extractor ([`~transformers.CLIPImageProcessor`]): Its mean and deviation of colours are used.
        num_frames (`int`, *optional*, defaults to 14): Frames of a video unless a call says otherwise.
        fps (`float`, *optional*, defaults to 7.0): Frames per second unless a call says otherwise, at least 1.
    """

    model_cpu_offload_seq = "image_encoder->unet->vae"
    _callback_tensor_inputs = ["latents"]
    hub_pipeline_tag = "image-to-video"
    hub_example = (
        "from diffusers.utils import load_image\n\n"
        'output = pipe(load_image("image.png"))\n'
        'write_video(output.frames[0], "video.mp4", fps=output.fps)'
    )

    def __init__(
        self,
        vae: AutoencoderKL,
        image_encoder: CLIPVisionModelWithProjection,
        unet: UNetVideoConditionModel,
        scheduler: EulerDiscreteScheduler | EDMEulerScheduler | EDMDPMSolverMultistepScheduler,
        feature_extractor: CLIPImageProcessor,
        num_frames: int = 14,
        fps: float = 7.0,
    ):
        super().__init__()
        checks.check_integer("num_frames", num_frames)
        checks.check_number("fps", fps, minimum=1)
        check_components(vae, unet, None)
        if isinstance(vae, AutoencoderTiny):
            raise TypeError(
                "`vae` must be an autoencoder with a posterior, whose latents are scaled for the denoiser alone, but"
                " is an AutoencoderTiny. Take an AutoencoderKL or AutoencoderKLVideo."
            )
        if scheduler is not None:
            check_sigma_scheduler(scheduler)
        self.register_modules(
            vae=vae,
            image_encoder=image_encoder,
            unet=unet,
            scheduler=scheduler,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(num_frames=num_frames, fps=fps)
        self.vae_scale_factor = vae_scale_factor(vae)
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor, do_normalize=False)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """`bool`: Whether each step evaluates the denoiser with and without the image."""
        return float(torch.as_tensor(self._guidance_scale).max()) > 1

    def check_inputs(self, arguments: Mapping[str, Any], batch_size: int) -> None:
        """
        Refuse arguments of a call that are wrong, contradict each other or have no effect, before any model runs.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of a call by name.
            batch_size (`int`): Number of images.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
        """
        get = arguments.__getitem__
        self._check_models()
        for name in ("height", "width"):
            checks.check_integer(name, get(name), multiple_of=self.vae_scale_factor)
        for name in ("num_frames", "num_inference_steps", "num_videos_per_prompt"):
            checks.check_integer(name, get(name))
        for name in ("min_guidance_scale", "max_guidance_scale", "motion_bucket_id", "noise_aug_strength"):
            checks.check_number(name, get(name))
        checks.check_number("fps", get("fps"), minimum=1)
        total = batch_size * get("num_videos_per_prompt")
        checks.check_generator(get("generator"), total)
        if get("latents") is not None:
            shape = latents_shape(self.vae, get("num_frames"), get("height"), get("width"))
            checks.check_tensor("latents", get("latents"), (total, *shape))
        checks.check_output(get("output_type"), get("return_dict"), get("decode_chunk_size"))
        names = get("callback_on_step_end_tensor_inputs")
        checks.check_callback(get("callback_on_step_end"), names, self._callback_tensor_inputs)
        self._check_sigmas(get("sigmas"), get("num_inference_steps"))

    def _check_models(self) -> None:
        check_sigma_scheduler(self.scheduler)
        config = self.unet.config
        channels = latents_shape(self.vae, 1, self.vae_scale_factor, self.vae_scale_factor)[0]
        if (config.in_channels, config.out_channels) != (2 * channels, channels):
            raise ValueError(
                f"`unet` must take the {channels} channels of the latents twice, noisy and of the image, and give them"
                f" once, but takes {config.in_channels} and gives {config.out_channels}. Use a checkpoint of Stable"
                " Video Diffusion."
            )
        if tuple(config.added_time_ids) != ADDED_TIME_IDS:
            raise ValueError(
                f"`unet` must read the numbers {ADDED_TIME_IDS}, but its `added_time_ids` are"
                f" {tuple(config.added_time_ids)}. Use a checkpoint of Stable Video Diffusion."
            )
        width, widths = self.image_encoder.config.projection_dim, config.cross_attention_dim
        if any(one != width for one in (widths if isinstance(widths, (list, tuple)) else [widths])):
            raise ValueError(
                f"`image_encoder` must give as many numbers as `unet` reads, {widths}, but its `projection_dim` is"
                f" {width}. Use the one the model came with."
            )

    def _check_sigmas(self, sigmas: list[float] | None, num_inference_steps: int) -> None:
        check_schedule(self.scheduler, num_inference_steps, None, sigmas, None, eta=0.0)
        if sigmas is None:
            return
        if not isinstance(self.scheduler, EulerDiscreteScheduler):
            raise ValueError(
                f"`sigmas` cannot be chosen with {type(self.scheduler).__name__}, which bends them by its own"
                " schedule. Pass `num_inference_steps`, or use EulerDiscreteScheduler."
            )
        if len(sigmas) < 2 or sigmas[-1] != 0:
            raise ValueError(f"`sigmas` must go from a noise level down to 0, but is {sigmas}. Append 0.0.")

    def encode_image(self, images: list[Tensor], device: torch.device, num_videos_per_prompt: int = 1) -> Tensor:
        """
        Embed images.

        Args:
            images (`list[torch.Tensor]`): Each of shape `(1, channels, 1, height, width)`, in [0, 1].
            device (`torch.device`): Where the embeddings are wanted.
            num_videos_per_prompt (`int`, *optional*, defaults to 1): How often each is repeated.

        Returns:
            `torch.Tensor` of shape `(images * num_videos_per_prompt, 1, D)`.

        Raises:
            FloatingPointError: If the encoder gives a NaN or an infinity.

        Source:
            Images are resized by a bicubic filter after a Gaussian blur, as in Stability AI's and diffusers' code.
        """
        size = self.image_encoder.config.image_size
        pixels = [_resize_with_antialiasing(image[:, :, 0], (size, size)) for image in images]
        mean, std = (
            torch.tensor(values).view(-1, 1, 1)
            for values in (self.feature_extractor.image_mean, self.feature_extractor.image_std)
        )
        pixels = ((torch.cat(pixels) - mean) / std).to(device, self.image_encoder.dtype)
        embeds = self.image_encoder(pixels).image_embeds[:, None]
        checks.check_finite(embeds, "Embedding the image", "Load `image_encoder` in float32 or bfloat16.")
        return embeds.repeat_interleave(num_videos_per_prompt, dim=0)

    def prepare_image_latents(
        self,
        pixel_values: Tensor,
        noise_aug_strength: float,
        generator: torch.Generator | list[torch.Generator] | None,
        device: torch.device,
    ) -> Tensor:
        """
        Encode images with noise on them.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, 1, H, W)`): In [-1, 1].
            noise_aug_strength (`float`): Deviation of the noise.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Its source: one, or one for each.
            device (`torch.device`): Where the noise is wanted.

        Returns:
            `torch.Tensor` of shape `(B, c, 1, h, w)`: The mode of the posterior, not multiplied by the
            `scaling_factor`.

        Raises:
            FloatingPointError: If the autoencoder gives a NaN or an infinity.
        """
        noise = randn_tensor(pixel_values.shape, generator=generator, device=device, dtype=pixel_values.dtype)
        latents = encode_mode(self.vae, pixel_values.to(device) + noise_aug_strength * noise)
        checks.check_finite(latents, "Encoding the image", "Load `vae` in float32 or bfloat16.")
        return latents

    def _prepare_conditions(
        self, images: list[Tensor], pixel_values: Tensor, arguments: Mapping[str, Any], device: torch.device
    ) -> DenoiserConditions:
        get = arguments.__getitem__
        embeds = self.encode_image(images, device, get("num_videos_per_prompt"))
        latents = self.prepare_image_latents(pixel_values, get("noise_aug_strength"), get("generator"), device)
        latents = latents.to(embeds).expand(-1, -1, get("num_frames"), -1, -1)
        # Trained with frames per second counted from 0: 6 stands for 7.
        numbers = (get("fps") - 1, get("motion_bucket_id"), get("noise_aug_strength"))
        rows = {
            name: torch.full((len(embeds),), float(number), device=device)
            for name, number in zip(ADDED_TIME_IDS, numbers, strict=True)
        }
        return DenoiserConditions(
            embeds,
            negative_prompt_embeds=torch.zeros_like(embeds),
            beside=latents,
            negative_beside=torch.zeros_like(latents),
            rows=rows,
        )

    @contextmanager
    def _chunks_of(self, decode_chunk_size: int | None) -> Iterator[None]:
        """Let an autoencoder of videos decode in other chunks than its configuration says."""
        if decode_chunk_size is None or not isinstance(self.vae, AutoencoderKLVideo):
            yield
            return
        former = {name: self.vae.config[name] for name in CHUNK_OPTIONS}
        overlap = min(former["decode_chunk_overlap"], decode_chunk_size - 1)
        self.vae.register_to_config(decode_chunk_size=decode_chunk_size, decode_chunk_overlap=overlap)
        try:
            yield
        finally:
            self.vae.register_to_config(**former)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image: ImageInput,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 25,
        sigmas: list[float] | None = None,
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float = 3.0,
        fps: float | None = None,
        motion_bucket_id: float = 127,
        noise_aug_strength: float = 0.02,
        decode_chunk_size: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        return_dict: bool = True,
    ) -> VideoPipelineOutput | tuple:
        """
        Generate videos.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of such): The image, or several: an array
                `(height, width, channels)` or a tensor `(channels, height, width)`, or one axis more in front; uint8,
                or float in [0, 1]. An image of another size is stretched to `height` and `width`.
            height (`int`, *optional*): Height in pixels, a multiple of `vae_scale_factor`; by default the one the
                model was trained at.
            width (`int`, *optional*): Width in pixels, likewise.
            num_frames (`int`, *optional*, defaults to `config.num_frames`): Frames of each video.
            num_inference_steps (`int`, *optional*, defaults to 25): Steps of the schedule.
            sigmas (`list[float]`, *optional*): Descending noise levels instead, the last one 0, with
                [`EulerDiscreteScheduler`].
            min_guidance_scale (`float`, *optional*, defaults to 1.0): Guidance of the first frame; it grows in equal
                steps.
            max_guidance_scale (`float`, *optional*, defaults to 3.0): Guidance of the last frame. With both at most 1
                there is none.
            fps (`float`, *optional*, defaults to `config.fps`): Frames per second, at least 1. The denoiser is told,
                and it is returned with the frames.
            motion_bucket_id (`float`, *optional*, defaults to 127): Amount of motion; the model knows 0 to 255.
            noise_aug_strength (`float`, *optional*, defaults to 0.02): Deviation of the noise on the image, in units
                of [-1, 1]. More of it means more motion, and less likeness.
            decode_chunk_size (`int`, *optional*): Frames decoded at once, with the overlap in the configuration of an
                autoencoder of videos, as far as chunks are longer than it; by default its own, or 16.
            num_videos_per_prompt (`int`, *optional*, defaults to 1): Videos of each image; they are neighbours.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of all noise: first that on
                the image, then that of the latents. A list holds one for each video, which then is the video it would
                be alone. The noise is that of diffusers' `StableVideoDiffusionPipeline`.
            latents (`torch.Tensor` of shape `(videos, c, num_frames, h, w)`, *optional*): Unit noise to start from.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`, see
                [`VideoPipelineOutput`].
            callback_on_step_end (`Callable`, *optional*): Called as `callback(pipeline, step, timestep, tensors)`
                after each step; the tensors it returns take effect.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`): Its tensors.
            return_dict (`bool`, *optional*, defaults to `True`): Whether not to return a tuple `(frames,)`.

        Returns:
            [`VideoPipelineOutput`] with `frames` and `fps`, or a tuple `(frames,)`.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
            FloatingPointError: If a model gives a NaN or an infinity; the message names the stage.

        Source:
            Stable Video Diffusion (arXiv:2311.15127), Section 4.2 and Appendix D.

        Examples:
        """
        images = split_images(image)
        loaded = [load_image(one) for one in images]
        height, width, num_frames = self.default_shape(None, None, height, width, num_frames)
        fps = self.config.fps if fps is None else fps
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        arguments = dict(locals())
        self.check_inputs(arguments, len(images))

        device, batch_size = self._execution_device, len(images) * num_videos_per_prompt
        pixel_values = torch.cat([load_image(one, (height, width)) for one in images]) * 2 - 1
        pixel_values = pixel_values.repeat_interleave(num_videos_per_prompt, dim=0)
        conditions = self._prepare_conditions(loaded, pixel_values, arguments, device)
        like = conditions.prompt_embeds
        self._guidance_scale = guidance_over_frames(min_guidance_scale, max_guidance_scale, num_frames, like=like)
        self._interrupt = False
        timesteps = prepare_timesteps(self.scheduler, num_inference_steps, sigmas=sigmas, device=device)
        if latents is None:
            channels, *frame_shape = latents_shape(self.vae, num_frames, height, width)
            shape = (batch_size, frame_shape[0], channels, *frame_shape[1:])  # the order of diffusers' pipeline
            latents = randn_tensor(shape, generator=generator, device=device, dtype=like.dtype).transpose(1, 2)
        latents = self.prepare_latents(batch_size, num_frames, height, width, like.dtype, device, latents=latents)
        latents = self.denoise(
            latents,
            timesteps,
            conditions,
            generator=generator,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        frames = latents
        if output_type != "latent":
            with self._chunks_of(decode_chunk_size):
                frames = self.decode_frames(latents, decode_chunk_size)
            frames = self.video_processor.postprocess_video(frames, output_type)
        self.maybe_free_model_hooks()
        return VideoPipelineOutput(frames=frames, fps=float(fps)) if return_dict else (frames,)
