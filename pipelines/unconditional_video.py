"""Videos without text, by a denoiser trained from scratch in latents or in pixels; some frames may be given."""

# Shapes: B videos, C channels, F frames, H height, W width; latents (B, c, F, h, w), or of any form.

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import replace_example_docstring
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from diffusers_video.conditioning.frames import FrameCondition
from diffusers_video.conditioning.noise import check_noise_prior
from diffusers_video.hub import VideoHubMixin
from diffusers_video.models.autoencoder_kl_3d import AutoencoderKL3D
from diffusers_video.models.autoencoder_triplane import AutoencoderTriplane
from diffusers_video.models.unet_space_time import UNetSpaceTimeModel
from diffusers_video.models.unet_triplane import UNetTriplaneModel
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.clip_chain import ClipChainMixin
from diffusers_video.pipelines.denoisers import told_numbers
from diffusers_video.pipelines.denoising import DenoiserConditions, DenoisingMixin, StepCallback
from diffusers_video.pipelines.given_frames import GivenFramesMixin, paste_frames
from diffusers_video.pipelines.latent_video import LatentVideoMixin
from diffusers_video.pipelines.latents import is_video_autoencoder, latents_shape, vae_scale_factor
from diffusers_video.pipelines.low_res_guidance import check_low_res, keep_low_res, know_low_res, load_low_res
from diffusers_video.pipelines.model_checks import check_unconditional
from diffusers_video.pipelines.pipeline_output import VideoPipelineOutput
from diffusers_video.pipelines.scheduling import check_schedule, default_eta
from diffusers_video.pipelines.video_input import VideoInput
from diffusers_video.pipelines.windows import DEFAULT_CONTEXT_GUIDANCE_SCALE, check_flag


EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import torch
        >>> from diffusers_video import UnconditionalVideoPipeline, write_video

        >>> pipe = UnconditionalVideoPipeline.from_pretrained("my-sky-model")
        >>> output = pipe(batch_size=2, generator=torch.Generator().manual_seed(0))
        >>> write_video(output.frames[0], "sky.mp4", fps=output.fps)
        ```
"""


class UnconditionalVideoPipeline(
    VideoHubMixin,
    ClipChainMixin,
    GivenFramesMixin,
    LatentVideoMixin,
    DenoisingMixin,
    DiffusionPipeline,
):
    """
    Videos by a denoiser that reads no text: LVDM and PVDM in latents, VDM in pixels.

    Args:
        unet ([`UNetSpaceTimeModel`] or [`UNetTriplaneModel`]): The denoiser.
        scheduler ([`SchedulerMixin`]): Any of diffusers' whose `step` fits, see [`check_scheduler`].
        vae ([`AutoencoderKL3D`], [`AutoencoderTriplane`], [`AutoencoderKL`] or [`AutoencoderTiny`], *optional*):
            Autoencoder of videos, or one of images used frame by frame. Without one the denoiser works on pixels.
        num_frames (`int`, *optional*, defaults to 16): Frames of a video unless a call says otherwise; with a denoiser
            that reads the clip before, frames of a clip.
        fps (`float`, *optional*, defaults to 8.0): Frames per second unless a call says otherwise.
        height (`int`, *optional*): Height in pixels unless a call says otherwise; by default what `sample_size` of
            the denoiser stands for.
        width (`int`, *optional*): Width in pixels, likewise; goes with `height`.
        max_noise_level (`int`, *optional*, defaults to 0): Highest noise level of given frames that the model was
            trained with.
        noise_prior (`str`, *optional*, defaults to `"independent"`): What the starting noise of a video's frames has
            in common, see [`diffusers_video.conditioning.noise.draw_noise`].
        noise_prior_strength (`float`, *optional*, defaults to 1.0): Its alpha, above 0.
    """

    model_cpu_offload_seq = "unet->vae"
    _optional_components = ["vae"]
    _exclude_from_cpu_offload = []
    _callback_tensor_inputs = ["latents"]
    hub_pipeline_tag = "unconditional-image-generation"
    hub_example = 'output = pipe()\nwrite_video(output.frames[0], "video.mp4", fps=output.fps)'

    def __init__(
        self,
        unet: UNetSpaceTimeModel | UNetTriplaneModel,
        scheduler: KarrasDiffusionSchedulers,
        vae: AutoencoderKL3D | AutoencoderTriplane | AutoencoderKL | AutoencoderTiny | None = None,
        num_frames: int = 16,
        fps: float = 8.0,
        height: int | None = None,
        width: int | None = None,
        max_noise_level: int = 0,
        noise_prior: str = "independent",
        noise_prior_strength: float = 1.0,
    ):
        super().__init__()
        checks.check_integer("num_frames", num_frames)
        checks.check_number("fps", fps, above_minimum=True)
        checks.check_integer("max_noise_level", max_noise_level, minimum=0)
        if (height is None) != (width is None):
            raise ValueError(f"`height` and `width` must be given together, but are {height} and {width}.")
        check_unconditional(unet, vae, scheduler)
        check_noise_prior(noise_prior, noise_prior_strength)
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)
        self.register_to_config(
            num_frames=num_frames,
            fps=fps,
            height=height,
            width=width,
            max_noise_level=max_noise_level,
            noise_prior=noise_prior,
            noise_prior_strength=noise_prior_strength,
        )
        self.vae_scale_factor = 1 if vae is None else vae_scale_factor(vae)
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor, do_normalize=False)

    def complete_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """
        Fill in what a call leaves open.

        Args:
            arguments (`Mapping[str, Any]`): Arguments of a call by name.

        Returns:
            `dict[str, Any]`: The same, complete, with `loaded`: the given frames as tensors.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If given frames have no place, or guidance has no effect.
        """
        full = {**arguments, "conditions": arguments["conditions"] or []}
        if not isinstance(full["conditions"], (list, tuple)):
            kind = type(full["conditions"]).__name__
            raise TypeError(f"`conditions` must be a list of FrameCondition, but is a {kind}.")
        full |= load_low_res(full)
        names = ("height", "width", "num_frames")
        sizes = self.default_shape(None, full["latents"], *(full[name] for name in names))
        full |= dict(zip(names, sizes, strict=True))
        full["fps"] = self.config.fps if full["fps"] is None else full["fps"]
        full["eta"] = default_eta(self.scheduler) if full["eta"] is None else full["eta"]
        for name in ("num_frames", "batch_size"):
            checks.check_integer(name, full[name])
        full |= self.plan_clips(full)
        full["loaded"] = self.load_conditions(full["conditions"], full["num_frames"])
        full["mechanism"] = self.choose_mechanism(full["mechanism"], full["reconstruction_scale"])
        is_told = bool(full["conditions"]) and full["mechanism"][0] == "context"
        if full["context_guidance_scale"] is None:
            full["context_guidance_scale"] = DEFAULT_CONTEXT_GUIDANCE_SCALE if is_told else 1.0
        checks.check_number("context_guidance_scale", full["context_guidance_scale"])
        if full["context_guidance_scale"] != 1 and not (is_told or full["is_chain"]):
            raise ValueError(
                "`context_guidance_scale` has an effect only where a model with context is told given frames, or one"
                " with `use_previous_clip` goes on from a clip. Leave it out, or give frames and take mechanism"
                " 'context'."
            )
        callback = full["callback_on_step_end"]
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            full["callback_on_step_end_tensor_inputs"] = callback.tensor_inputs
        return full

    def check_inputs(self, arguments: Mapping[str, Any]) -> None:
        """
        Refuse arguments of a call that are wrong, contradict each other or have no effect, before any model runs.

        Args:
            arguments (`Mapping[str, Any]`): From [`complete_arguments`].

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
        """
        get = arguments.__getitem__
        check_unconditional(self.unet, self.vae, self.scheduler)
        checks.check_integer("num_inference_steps", get("num_inference_steps"))
        for name in ("height", "width"):
            checks.check_integer(name, get(name), multiple_of=self.vae_scale_factor)
        checks.check_number("fps", get("fps"), above_minimum=True)
        checks.check_number("eta", get("eta"))
        self.check_clips(arguments)
        checks.check_generator(get("generator"), get("batch_size"))
        checks.check_output(get("output_type"), get("return_dict"), get("decode_chunk_size"))
        check_flag("decode_given_frames", get("decode_given_frames"))
        names = get("callback_on_step_end_tensor_inputs")
        checks.check_callback(get("callback_on_step_end"), names, self._callback_tensor_inputs)
        if get("decode_chunk_size") is not None and (self.vae is None or is_video_autoencoder(self.vae)):
            raise ValueError("`decode_chunk_size` has an effect on an autoencoder of images alone. Leave it out.")
        shape = self._latents_shape(arguments)
        if get("latents") is not None:
            checks.check_tensor("latents", get("latents"), shape)
        self._check_conditions(arguments, shape)
        check_low_res(arguments)
        steps = ("num_inference_steps", "timesteps", "sigmas")
        check_schedule(self.scheduler, *(get(name) for name in steps), None, get("eta"))

    def _check_conditions(self, arguments: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        get = arguments.__getitem__
        if get("conditions") and len(shape) != 5:
            raise ValueError(
                f"`conditions` need latents with an axis of frames, but those of this {type(self.vae).__name__} have"
                " none. Leave them out."
            )
        mechanism = get("mechanism")[0]
        size = (get("height"), get("width"))
        self.check_given(get("conditions"), get("loaded"), mechanism, get("batch_size"), size)
        self.check_noise_level(get("noise_level"), mechanism)
        if get("noise_level") is not None and any(one.noise_level is not None for one in get("conditions")):
            raise ValueError("`noise_level` must be given once, but the call and a condition have one. Leave one out.")
        for name in ("noise_level", "reconstruction_scale"):
            if get(name) is not None and not get("conditions"):
                raise ValueError(f"`{name}` has an effect on given frames, but there are none. Leave it out.")

    def _latents_shape(self, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        sizes = (arguments[name] for name in ("clip_frames", "height", "width"))
        return (arguments["batch_size"], *latents_shape(self.vae, *sizes))

    def prepare_conditions(self, arguments: Mapping[str, Any], latents: Tensor) -> DenoiserConditions:
        """
        Bring given frames and the numbers of a call into the form that the denoiser takes.

        Args:
            arguments (`Mapping[str, Any]`): Complete and checked arguments of a call.
            latents (`torch.Tensor`): What the run starts from; its shape, type and place are wanted.

        Returns:
            [`DenoiserConditions`]
        """
        get, conditions = arguments.__getitem__, DenoiserConditions()
        numbers = told_numbers(self.unet)
        if "fps" in numbers:
            conditions.fps = float(get("fps"))
        level = next((one.noise_level for one in get("conditions") if one.noise_level is not None), get("noise_level"))
        if "noise_level" in numbers:  # also where no frame is given, as in training
            conditions.noise_level = float(level or 0)
        if self.latent_size(arguments) is not None:
            conditions.options["latent_size"] = self.latent_size(arguments)
        if get("low_res") is not None:
            conditions.known = (know_low_res(arguments, self.vae, latents),)
        if get("conditions"):
            size, chunk = (get("height"), get("width")), get("decode_chunk_size")
            given = (get("conditions"), get("loaded"), latents.shape, size, latents, get("generator"), chunk)
            frames, strengths = self.encode_given(*given)
            conditions.given = self.give_frames(frames, strengths, get("mechanism"), level, get("generator"))
        return conditions

    def show_frames(self, latents: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """
        Decode latents, unless latents are wanted, and put what is given back, unless told not to.

        Args:
            latents (`torch.Tensor`): Denoised latents.
            arguments (`Mapping[str, Any]`): Complete arguments of a call.

        Returns:
            `torch.Tensor`: The latents, or frames `(batch_size, channels, num_frames, height, width)` in [0, 1].
        """
        if arguments["output_type"] == "latent":
            return latents
        videos = self.decode_frames(latents, arguments["decode_chunk_size"], self.latent_size(arguments))
        if arguments["decode_given_frames"]:
            return videos
        if arguments["low_res"] is not None:
            videos = keep_low_res(videos, arguments)
        return paste_frames(videos, arguments["conditions"], arguments["loaded"])

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        batch_size: int = 1,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        decode_chunk_size: int | None = None,
        *,
        fps: float | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        conditions: list[FrameCondition] | None = None,
        mechanism: str | None = None,
        reconstruction_scale: float | None = None,
        low_res: VideoInput | None = None,
        low_res_scale: float | None = None,
        context_guidance_scale: float | None = None,
        num_next_inference_steps: int | None = None,
        previous_clip: VideoInput | None = None,
        reencode_clips: bool = False,
        noise_level: int | None = None,
        decode_given_frames: bool = False,
    ) -> VideoPipelineOutput | tuple:
        """
        Generate videos.

        Args:
            batch_size (`int`, *optional*, defaults to 1): Number of videos.
            num_frames (`int`, *optional*, defaults to `config.num_frames`): Frames of each video, as many as `vae`
                takes; with a denoiser that reads the clip before any number: clips of `config.num_frames` are drawn
                one behind another, the last one whole.
            height (`int`, *optional*): Height in pixels, a multiple of `vae_scale_factor`; by default the one the
                model was trained at.
            width (`int`, *optional*): Width in pixels, likewise.
            num_inference_steps (`int`, *optional*, defaults to 50): Steps of the schedule.
            eta (`float`, *optional*): DDIM's share of fresh noise, for schedulers that take it; by default what the
                scheduler's `step` has, 0 for DDIM and 1 for [`PairedDDIMScheduler`].
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of all noise. A list holds one
                for each video, which then is the video it would be alone.
            latents (`torch.Tensor` of shape `(batch_size, *latents_shape)`, *optional*): Unit noise to start from, in
                the first clip.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`, see
                [`VideoPipelineOutput`].
            return_dict (`bool`, *optional*, defaults to `True`): Whether not to return a tuple `(frames,)`.
            callback_on_step_end (`Callable`, *optional*): Called as `callback(pipeline, step, timestep, tensors)`
                after each step; the tensors it returns take effect.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`): Its tensors.
            decode_chunk_size (`int`, *optional*, defaults to 16): Frames encoded and decoded at once by an autoencoder
                of images.
            fps (`float`, *optional*, defaults to `config.fps`): Frames per second, above 0. It is returned with the
                frames, and reaches a denoiser that is conditioned on it.
            timesteps (`list[int]`, *optional*): Descending timesteps instead, for schedulers that take them.
            sigmas (`list[float]`, *optional*): Descending noise levels instead, for schedulers that take them.
            conditions (`list[FrameCondition]`, *optional*): Frames that are given, at any places of the clip.
            mechanism (`str`, *optional*): How they reach the denoiser: `"context"` (the default of a model built with
                `use_frame_mask`), `"reconstruction"` (guidance by the gradient, for any model, and its default) or
                `"replacement"` (they are held, for any model).
            reconstruction_scale (`float`, *optional*, defaults to 2.0 with `"reconstruction"`): Weight of its
                gradient.
            low_res (`VideoInput`, *optional*): A smaller copy of the video, or one for each, in any form that
                pipelines take, whose frames were shrunk by a bilinear filter as wide as their pixels. It guides the
                denoiser by the gradient, and frames come out whose shrunk copies are within 0.004 of it, see
                [`fit_low_res`].
            low_res_scale (`float`, *optional*, defaults to 2 for each pixel behind one of `low_res`): Weight of its
                gradient.
            context_guidance_scale (`float`, *optional*, defaults to 1.5 where a model with context is told frames):
                Guidance by the given frames, or by the clip before; 1 is none, and then the denoiser runs once a step.
                It is 1 + w where LVDM's and PVDM's is w.
            num_next_inference_steps (`int`, *optional*, defaults to `num_inference_steps`): Steps of a clip behind
                another one: PVDM's N/M-s are N `num_inference_steps` and M of these.
            previous_clip (`VideoInput`, *optional*): The video that this one goes on from, or one for each, in any
                form that pipelines take, for a denoiser with `use_previous_clip`. Its last `config.num_frames` frames
                are read, and are no part of what comes out.
            reencode_clips (`bool`, *optional*, defaults to `False`): Whether a clip goes on from the frames of the one
                before, encoded again, instead of from its latents.
            noise_level (`int`, *optional*, defaults to 0): Timestep of the noise on what is told of given frames, for
                a model trained with it; at most `config.max_noise_level`.
            decode_given_frames (`bool`, *optional*, defaults to `False`): Whether given frames come out as the
                autoencoder decodes them, instead of exactly as given, and `low_res` guides but is not kept to.

        Returns:
            [`VideoPipelineOutput`] with `frames` and `fps`, or a tuple `(frames,)`.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models.
            FloatingPointError: If a model gives a NaN or an infinity; the message names the stage.

        Source:
            LVDM (arXiv:2211.13221), Sections 3.2 and 3.3; VDM (arXiv:2204.03458), Section 3; PVDM (arXiv:2302.07685),
            Section 3.3.

        Examples:
        """
        arguments = self.complete_arguments(locals())
        self.check_inputs(arguments)
        frames = self.join_clips(arguments)
        return VideoPipelineOutput(frames=frames, fps=float(arguments["fps"])) if return_dict else (frames,)
