"""Videos of any length: key frames, interpolation and decoding in one stream, which can stop and go on."""

# Shapes: B videos, C channels, F frames, H height, W width; latents (B, c, F, h, w).

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import replace_example_docstring
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffusers_video.hub import VideoHubMixin
from diffusers_video.models.autoencoder_kl_3d import AutoencoderKL3D
from diffusers_video.models.autoencoder_triplane import AutoencoderTriplane
from diffusers_video.models.unet_space_time import UNetSpaceTimeModel
from diffusers_video.models.unet_triplane import UNetTriplaneModel
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoising import StepCallback
from diffusers_video.pipelines.long_video_clips import PreparedClips, prepare_clips
from diffusers_video.pipelines.long_video_parts import LongVideoPartsMixin
from diffusers_video.pipelines.long_video_setup import PreparedRun, prepare_run
from diffusers_video.pipelines.long_video_stages import RunInterruptedError
from diffusers_video.pipelines.pipeline_output import VideoPipelineOutput
from diffusers_video.pipelines.video_input import Frame, VideoInput
from diffusers_video.video_io import VideoWriter


EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import torch
        >>> from diffusers_video import FrameInterpolationPipeline, KeyFramePredictionPipeline, LongVideoPipeline

        >>> pipe = LongVideoPipeline.from_pipelines(
        ...     KeyFramePredictionPipeline.from_pretrained("my-prediction-model"),
        ...     FrameInterpolationPipeline.from_pretrained("my-interpolation-model"),
        ... )
        >>> pipe.write("long.mp4", "a drive along the coast", num_frames=1800, work_dir="long-run")
        >>> for frame in pipe.stream("a drive along the coast", num_frames=1800, output_type="pil"):
        ...     frame.show()  # the first frames are there long before the last
        ```
"""


class LongVideoPipeline(VideoHubMixin, LongVideoPartsMixin, DiffusionPipeline, StableDiffusionMixin):
    """
    Draw one video of any length: a first frame by the image model, key frames that go on from one and then two
    frames, frames between them by one or two interpolations, decoded in overlapping chunks. A denoiser that reads the
    clip before, such as PVDM's, draws all frames itself, clip after clip; arguments for other stages are then refused.

    All stages run side by side and hold a few windows at a time, so that memory does not grow with the video. Call the
    pipeline for frames in memory, [`~LongVideoPipeline.stream`] for one frame after the other, and
    [`~LongVideoPipeline.write`] for a file. [`~LongVideoPipeline.from_pipelines`] makes one of trained pipelines, and
    `from_pretrained` also of the folder of a single one that draws key frames or whole clips.

    Args:
        vae ([`AutoencoderKL`], [`AutoencoderTiny`], [`AutoencoderKLVideo`] or [`AutoencoderKL3D`]): The autoencoder of
            all stages; one of videos needs `decode_chunk_size` in its configuration. With one that compresses time,
            key frames are latents, and `num_frames` is a multiple of the frames of one. [`AutoencoderTriplane`] for a
            [`UNetTriplaneModel`].
        text_encoder ([`~transformers.CLIPTextModel`], *optional*): Text encoder of all stages; the first one of XL.
            `None` for denoisers that read no text.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
        unet ([`UNetVideoConditionModel`] or [`UNetSpaceTimeModel`]): Denoiser of key frames; one whose normalisations
            join frames draws a whole window first. Or a [`UNetTriplaneModel`] with `use_previous_clip`, which draws
            whole clips.
        scheduler ([`SchedulerMixin`]): Its scheduler, and that of the first frame.
        interpolation_unet (the same, *optional*): Denoiser of the frames between.
        interpolation_scheduler ([`SchedulerMixin`], *optional*): Its scheduler; by default like `scheduler`.
        image_unet ([`UNet2DConditionModel`], *optional*): Image model that draws the first frame; by default `unet`
            without its temporal layers.
        text_encoder_2 ([`~transformers.CLIPTextModelWithProjection`], *optional*): Second text encoder of XL.
        tokenizer_2 ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
        temporal_text_encoder ([`~transformers.CLIPTextModel`], *optional*): Text encoder of the temporal layers of
            personalised models, see [`KeyFramePredictionPipeline`].
        temporal_tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
        super_resolution_unet ([`UNetVideoConditionModel`], *optional*): Denoiser that enlarges the frames; it and the
            next five are the components of a [`VideoSuperResolutionPipeline`].
        super_resolution_scheduler ([`SchedulerMixin`], *optional*): Its scheduler.
        super_resolution_low_res_scheduler ([`DDPMScheduler`], *optional*): Schedule of the noise on what it enlarges.
        super_resolution_vae ([`AutoencoderKL`] or [`AutoencoderTiny`], *optional*): Its autoencoder.
        super_resolution_text_encoder ([`~transformers.CLIPTextModel`], *optional*): Its text encoder.
        super_resolution_tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Its tokenizer.
        num_frames (`int`, *optional*, defaults to 113): Frames of a video unless a call says otherwise.
        prediction_settings (`dict`, *optional*): Configuration of [`KeyFramePredictionPipeline`]: its `num_frames` are
            those of a window, its `fps` the rate of key frames. With whole clips that of
            [`UnconditionalVideoPipeline`].
        interpolation_settings (`dict`, *optional*): Configuration of [`FrameInterpolationPipeline`].
        super_resolution_settings (`dict`, *optional*): Configuration of [`VideoSuperResolutionPipeline`].
    """

    hub_example = 'pipe.write("video.mp4", "a red circle moves right", num_frames=1025, work_dir="run")'
    model_cpu_offload_seq = (
        "text_encoder->text_encoder_2->temporal_text_encoder->super_resolution_text_encoder->image_unet->unet"
        "->interpolation_unet->vae->super_resolution_unet->super_resolution_vae"
    )
    _optional_components = [
        "text_encoder",
        "tokenizer",
        "interpolation_unet",
        "interpolation_scheduler",
        "image_unet",
        "text_encoder_2",
        "tokenizer_2",
        "temporal_text_encoder",
        "temporal_tokenizer",
        "super_resolution_unet",
        "super_resolution_scheduler",
        "super_resolution_low_res_scheduler",
        "super_resolution_vae",
        "super_resolution_text_encoder",
        "super_resolution_tokenizer",
    ]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny | AutoencoderKL3D | AutoencoderTriplane,
        text_encoder: CLIPTextModel | None,
        tokenizer: CLIPTokenizer | None,
        unet: UNetVideoConditionModel | UNetSpaceTimeModel | UNetTriplaneModel,
        scheduler: KarrasDiffusionSchedulers,
        interpolation_unet: UNetVideoConditionModel | UNetSpaceTimeModel | None = None,
        interpolation_scheduler: KarrasDiffusionSchedulers | None = None,
        image_unet: UNet2DConditionModel | None = None,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        temporal_text_encoder: CLIPTextModel | None = None,
        temporal_tokenizer: CLIPTokenizer | None = None,
        super_resolution_unet: UNetVideoConditionModel | None = None,
        super_resolution_scheduler: KarrasDiffusionSchedulers | None = None,
        super_resolution_low_res_scheduler: DDPMScheduler | None = None,
        super_resolution_vae: AutoencoderKL | AutoencoderTiny | None = None,
        super_resolution_text_encoder: CLIPTextModel | None = None,
        super_resolution_tokenizer: CLIPTokenizer | None = None,
        num_frames: int = 113,
        prediction_settings: dict[str, Any] | None = None,
        interpolation_settings: dict[str, Any] | None = None,
        super_resolution_settings: dict[str, Any] | None = None,
    ):
        super().__init__()
        checks.check_integer("num_frames", num_frames)
        if interpolation_unet is not None and interpolation_scheduler is None:
            interpolation_scheduler = type(scheduler).from_config(scheduler.config)
        components = {
            "vae": vae,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
            "unet": unet,
            "scheduler": scheduler,
            "interpolation_unet": interpolation_unet,
            "interpolation_scheduler": interpolation_scheduler,
            "image_unet": image_unet,
            "text_encoder_2": text_encoder_2,
            "tokenizer_2": tokenizer_2,
            "temporal_text_encoder": temporal_text_encoder,
            "temporal_tokenizer": temporal_tokenizer,
            "super_resolution_unet": super_resolution_unet,
            "super_resolution_scheduler": super_resolution_scheduler,
            "super_resolution_low_res_scheduler": super_resolution_low_res_scheduler,
            "super_resolution_vae": super_resolution_vae,
            "super_resolution_text_encoder": super_resolution_text_encoder,
            "super_resolution_tokenizer": super_resolution_tokenizer,
        }
        settings = {
            "num_frames": num_frames,
            "prediction_settings": dict(prediction_settings or {}),
            "interpolation_settings": dict(interpolation_settings or {}),
            "super_resolution_settings": dict(super_resolution_settings or {}),
        }
        self.register_parts(components, settings)

    @property
    def interrupt(self) -> bool:
        """`bool`: Whether a callback stopped the last run by setting `_interrupt`."""
        return self._interrupt

    def stream(
        self, prompt: str | None = None, **arguments: Any
    ) -> Iterator[Image.Image] | Iterator[np.ndarray] | Iterator[Tensor]:
        """
        Draw a video frame by frame, in memory that does not grow with its length.

        Args:
            prompt (`str`, *optional*): What the video shows.
            arguments: Those of a call of the pipeline, but for `return_dict`. Wrong ones are refused at once.

        Returns:
            `Iterator`: Frames in order, each as soon as it is finished; by `output_type` an image, an array
            `(height, width, channels)` in [0, 1], a tensor `(channels, height, width)` in [0, 1], or for `"latent"` a
            tensor `(c, h, w)`. It ends early where a callback sets `_interrupt`.

        Raises:
            TypeError: If a type is wrong, or an argument is unknown.
            ValueError: If a value is, or arguments do not fit together or the models.
            FloatingPointError: If a model gives a NaN or an infinity; the message names the stage.
            OSError: If `work_dir` cannot be used.
        """
        if "return_dict" in arguments:
            raise TypeError("`return_dict` has no effect on a stream. Leave it out.")
        bound = inspect.signature(type(self).__call__).bind(self, prompt, **arguments)
        bound.apply_defaults()
        full = {name: value for name, value in bound.arguments.items() if name != "self"}
        return self._run(self._prepare(full), full["output_type"])

    def _prepare(self, arguments: Mapping[str, Any]) -> PreparedRun | PreparedClips:
        return prepare_clips(self, arguments) if self.draws_clips else prepare_run(self, arguments)

    def _run(self, prepared: PreparedRun | PreparedClips, output_type: str) -> Iterator[Any]:
        self._interrupt = False
        try:
            with self.progress_bar(total=prepared.num_windows) as bar:
                for piece in prepared.pieces(bar.update):
                    if output_type == "latent":
                        yield from piece[0].unbind(1)
                    else:
                        yield from self.video_processor.postprocess_video(piece, output_type)[0]
        except RunInterruptedError:
            self._interrupt = True
        finally:
            self.maybe_free_model_hooks()

    def write(
        self,
        path: str | os.PathLike,
        prompt: str | None = None,
        *,
        crf: float | None = None,
        overwrite: bool | None = None,
        **arguments: Any,
    ) -> Path:
        """
        Draw a video into a file or a folder of images, in memory that does not grow with its length.

        The output appears under its name when it is complete. With `work_dir`, a call that was stopped goes on from
        what it finished.

        Args:
            path (`str` or `os.PathLike`): What to write, by its suffix; see [`VideoWriter`].
            prompt (`str`, *optional*): What the video shows.
            crf (`float`, *optional*): Quality, see [`VideoWriter`].
            overwrite (`bool`, *optional*): Whether to replace what stands at `path`, see [`VideoWriter`].
            arguments: Those of a call of the pipeline, but for `output_type` and `return_dict`.

        Returns:
            `pathlib.Path`: Where the video lies.

        Raises:
            TypeError, ValueError, FloatingPointError, OSError: As [`~LongVideoPipeline.stream`] and [`VideoWriter`].
            RuntimeError: If a callback sets `_interrupt`; nothing stands at `path` then.
        """
        if "output_type" in arguments:
            raise TypeError("`output_type` has no effect on a file. Leave it out, or call `stream`.")
        fps = arguments.get("fps") or self.default_fps(arguments.get("num_passes"))
        with VideoWriter(path, fps, crf=crf, overwrite=overwrite) as writer:
            arguments["fps"] = float(writer.fps)
            for frame in self.stream(prompt, output_type="np", **arguments):
                with _told_of(writer.path):
                    writer.write([frame])
            if self.interrupt:
                raise RuntimeError(
                    f"The run was interrupted after {writer.num_frames} frames, and nothing was written to {path}. The"
                    " same call with the same `work_dir` goes on from what is finished."
                )
            with _told_of(writer.path):
                return writer.close()

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        prompt: str | None = None,
        frames: Frame | VideoInput | None = None,
        num_frames: int | None = None,
        num_passes: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        context_guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        eta: float | None = None,
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
        num_context_frames: int | None = None,
        interpolation_batch_size: int = 1,
        use_super_resolution: bool | None = None,
        stage_arguments: Mapping[str, Mapping[str, Any]] | None = None,
        num_next_inference_steps: int | None = None,
        previous_clip: VideoInput | None = None,
        reencode_clips: bool = False,
        work_dir: str | os.PathLike | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        temporal_prompt_embeds: Tensor | None = None,
        negative_temporal_prompt_embeds: Tensor | None = None,
    ) -> VideoPipelineOutput | tuple:
        """
        Draw a video whose frames are all held in memory; [`~LongVideoPipeline.stream`] and
        [`~LongVideoPipeline.write`] take the same arguments and do not.

        Args:
            prompt (`str`, *optional*): What the video shows; there may be none.
            frames (`PIL.Image.Image`, `list[PIL.Image.Image]`, `np.ndarray`, `torch.Tensor` or a list of such,
                *optional*): The first key frames, in the forms that [`KeyFramePredictionPipeline`] takes: an image, or
                a video at the rate of key frames, of any length up to the result's. They come out exactly as given,
                `rate ** num_passes` frames apart.
            num_frames (`int`, *optional*, defaults to `config.num_frames`): Frames of the result, with whole clips any
                number. As many key frames
                are taken as it needs: N become 4 (N - 1) + 1 by one interpolation, 16 (N - 1) + 1 by two; each stage
                draws its last window whole and drops what reaches beyond.
            num_passes (`int`, *optional*, defaults to 2 with an `interpolation_unet`, else 0): Interpolations.
            height (`int`, *optional*): Height in pixels, a multiple of `vae_scale_factor`; that of the given frames,
                else the one the model was trained at. Given frames are resized to it.
            width (`int`, *optional*): Width in pixels, likewise.
            num_inference_steps (`int`, *optional*, defaults to 50): Steps of the schedule, in each window.
            guidance_scale (`float`, *optional*, defaults to 7.5 with a prompt): Guidance by the text; at most 1 is
                none.
            context_guidance_scale (`float`, *optional*, defaults to 1.5 where a model with context is told frames):
                Guidance by the frames that a window goes on from or lies between; 1 is none.
            negative_prompt (`str`, *optional*): What to avoid; needs guidance by the text.
            eta (`float`, *optional*, defaults to 0.0): DDIM's share of fresh noise, for schedulers that take it; with
                whole clips by default what the scheduler's `step` has.
            generator (`torch.Generator` or a list of one, *optional*): One number is drawn from it, and from this and
                the number of a window comes the window's noise; whole clips take their noise from it one after the
                other. Without it an unfinished run in `work_dir` goes on with its own.
            prompt_embeds (`torch.Tensor` of shape `(1, tokens, width)`, *optional*): Instead of `prompt`.
            negative_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Instead of `negative_prompt`.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`, see
                [`VideoPipelineOutput`].
            return_dict (`bool`, *optional*, defaults to `True`): Whether not to return a tuple `(frames,)`.
            callback_on_step_end (`Callable`, *optional*): Called as `callback(pipeline, step, timestep, tensors)`
                after each step of each window, with the pipeline of its stage. Where it sets `_interrupt` the run
                ends, with the frames that were finished before.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`): Its tensors.
            decode_chunk_size (`int`, *optional*, defaults to 16): Frames decoded at once by an autoencoder of images.
            fps (`float`, *optional*): Frames per second of the result, above 0; by default the rate of key frames in
                `config.prediction_settings`, raised by each interpolation. Denoisers that are conditioned on it are
                told the rate of their stage.
            num_context_frames (`int`, *optional*, defaults to 2): Last key frames that a window goes on from, 1 or 2.
            interpolation_batch_size (`int`, *optional*, defaults to 1): Windows interpolated at once: faster on an
                accelerator, more memory, equal frames but for rounding.
            use_super_resolution (`bool`, *optional*, defaults to whether there is a `super_resolution_unet`): Whether
                frames are enlarged. Given frames are then what is enlarged, instead of coming out exactly.
            stage_arguments (`dict[str, dict]`, *optional*): Other arguments for single stages: under `"image"`,
                `"prediction"`, `"interpolation"` and `"super_resolution"` those of their pipelines' calls, such as
                `num_inference_steps`, `timesteps`, `sigmas`, `guidance_rescale`, `mechanism` and `noise_level`. Of
                the arguments above, super-resolution takes the texts, `num_inference_steps` and `eta`. With whole
                clips there is `"prediction"` alone, with `timesteps` or `sigmas`.
            num_next_inference_steps (`int`, *optional*, defaults to `num_inference_steps`): With whole clips, steps of
                one behind another: PVDM's N/M-s are N `num_inference_steps` and M of these.
            previous_clip (`VideoInput`, *optional*): With whole clips, the video that this one goes on from, of which
                nothing comes out; see [`UnconditionalVideoPipeline`].
            reencode_clips (`bool`, *optional*, defaults to `False`): With whole clips, whether each goes on from the
                frames of the one before, encoded again, instead of from its latents.
            work_dir (`str` or `os.PathLike`, *optional*): Folder for finished windows, new, empty or that of a run of
                equal settings, which then goes on where it stopped and gives the frames it would have given. It is
                left as it is when the run is complete: the same call then only decodes. It holds latents, and enlarged
                frames in 8 bits, in which they then come out.
            pooled_prompt_embeds (`torch.Tensor` of shape `(1, width)`, *optional*): With `prompt_embeds` of XL.
            negative_pooled_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Likewise.
            temporal_prompt_embeds (`torch.Tensor` of shape `(1, tokens, width)`, *optional*): With `prompt_embeds`,
                what the temporal layers of personalised models read.
            negative_temporal_prompt_embeds (`torch.Tensor` of the same shape, *optional*): Likewise.

        Returns:
            [`VideoPipelineOutput`] with `frames` and `fps`, or a tuple `(frames,)`.

        Raises:
            TypeError: If a type is wrong.
            ValueError: If a value is, or arguments do not fit together or the models, or the settings of an earlier
                run in `work_dir` differ.
            FloatingPointError: If a model gives a NaN or an infinity; the message names the stage.
            OSError: If `work_dir` cannot be used.
            RuntimeError: If a callback sets `_interrupt` before the first frames are finished.

        Source:
            VideoLDM (arXiv:2304.08818), Section 3.2, and Section 4.1 with the appendix for long driving videos; PVDM
            (arXiv:2302.07685), Algorithm 1.

        Examples:
        """
        arguments = {name: value for name, value in locals().items() if name != "self"}
        prepared = self._prepare(arguments)
        drawn = list(self._run(prepared, output_type))
        if not drawn:
            raise RuntimeError("The run was interrupted before its first frames were finished.")
        if output_type == "latent":
            video = torch.stack(drawn, dim=1)[None]
        elif output_type == "pt":
            video = torch.stack(drawn)[None]
        else:
            video = np.stack(drawn)[None] if output_type == "np" else [drawn]
        return VideoPipelineOutput(frames=video, fps=prepared.fps) if return_dict else (video,)


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:  # refused by the writer, which has said why
            raise
        raise OSError(
            error.errno,
            f"`path` {path} cannot be written ({error.strerror}), and nothing was left there. Make room, or choose"
            " another; with `work_dir` the same call goes on from what is finished",
        ) from error
