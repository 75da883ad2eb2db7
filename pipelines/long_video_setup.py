"""From the arguments of a call to a run of a long video: checked, encoded, and compared with a run on disk."""

# Shapes: C channels, F frames, H height, W width; latents (B, c, F, h, w).

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from diffusers_video.conditioning.frames import MAX_CONTEXT_FRAMES, FrameCondition
from diffusers_video.conditioning.noise import draw_seeds
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.denoisers import draws_images, reads_text
from diffusers_video.pipelines.frame_streams import decode_pieces, paste_pieces
from diffusers_video.pipelines.key_frame_prediction import KeyFramePredictionPipeline
from diffusers_video.pipelines.latents import frames_per_latent, latents_shape
from diffusers_video.pipelines.long_video_parts import SETTINGS
from diffusers_video.pipelines.long_video_plan import LongVideoPlan
from diffusers_video.pipelines.long_video_stages import (
    GIVEN,
    IMAGE,
    IMAGE_ARGUMENTS,
    INTERPOLATION,
    PREDICTION,
    STAGE_ARGUMENTS,
    SUPER_RESOLUTION,
    WINDOW_ARGUMENTS,
    LongVideoRun,
    complete_call,
)
from diffusers_video.pipelines.temporal_text import TEMPORAL_TEXT_ARGUMENTS
from diffusers_video.pipelines.video_input import load_frames, resize_video
from diffusers_video.pipelines.video_super_resolution import VideoSuperResolutionPipeline
from diffusers_video.pipelines.windows import check_flag
from diffusers_video.pipelines.work_folder import WorkFolder, describe


TEXTS = ("prompt", "negative_prompt")
EMBEDDINGS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)
# What only a denoiser that reads the clip before has a use for, and the values that ask for nothing.
CLIP_ARGUMENTS = {"num_next_inference_steps": None, "previous_clip": None, "reencode_clips": False}
# What neither changes a window nor is stored with it.
FREE_ARGUMENTS = (
    "generator",
    "output_type",
    "return_dict",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
    "decode_chunk_size",
    "work_dir",
)


@dataclass
class PreparedRun:
    """
    A run and what it starts from.

    Args:
        run ([`LongVideoRun`]): The stages.
        given (`torch.Tensor` of shape `(1, c, num_given, h, w)`, *optional*): Latents of the given key frames.
        pixels (`torch.Tensor` of shape `(1, channels, num_given, height, width)`, *optional*): They themselves.
        output_type (`str`): What is asked for.
        decode_chunk_size (`int`, *optional*): Frames decoded at once by an autoencoder of images.
    """

    run: LongVideoRun
    given: Tensor | None
    pixels: Tensor | None
    output_type: str
    decode_chunk_size: int | None

    @property
    def num_windows(self) -> int:
        """`int`: Windows of all stages."""
        return self.run.num_windows

    @property
    def fps(self) -> float:
        """`float`: Frames per second of the video."""
        return float(self.run.plan.fps)

    def pieces(self, on_window: Callable[[], Any]) -> Iterator[Tensor]:
        """
        Draw the whole video.

        Args:
            on_window (`Callable`): Called when a window is finished.

        Returns:
            `Iterator[torch.Tensor]`: Frames of shape `(1, channels, any, height, width)` in [0, 1], or latents.

        Raises:
            RunInterruptedError: If a callback sets `_interrupt`.
        """
        run = self.run
        run.on_window = on_window
        pieces = run.latents(self.given)
        if self.output_type == "latent":
            return pieces
        vae = run.prediction.vae
        pieces = decode_pieces(run.prediction.decode_latents, vae, pieces, run.num_frames, self.decode_chunk_size)
        if self.pixels is not None:
            places = [number * run.plan.spacing for number in range(self.pixels.shape[2])]
            pieces = paste_pieces(pieces, self.pixels, places)
        return pieces if run.super_resolution is None else run.upscale(pieces)


def prepare_run(pipeline: DiffusionPipeline, arguments: Mapping[str, Any]) -> PreparedRun:
    """
    Check a call, encode its text and its given frames, and open its work folder.

    Args:
        pipeline ([`LongVideoPipeline`]): The pipeline.
        arguments (`Mapping[str, Any]`): All arguments of its call by name.

    Returns:
        [`PreparedRun`]

    Raises:
        TypeError: If a type is wrong.
        ValueError: If a value is, or arguments do not fit together, the models or the run on disk.
        OSError: If the work folder cannot be used.
    """
    for name, default in CLIP_ARGUMENTS.items():
        if arguments[name] is not default:
            raise ValueError(f"`{name}` has an effect only with a `unet` that reads the clip before. Leave it out.")
    full = {name: value for name, value in arguments.items() if name not in CLIP_ARGUMENTS}
    full["eta"] = 0.0 if full["eta"] is None else full["eta"]
    prediction, image = pipeline.make_prediction(), pipeline.make_image()
    frames = _load_given(full["frames"])
    given = None if frames is None else FrameCondition(frames.transpose(1, 2), tuple(range(frames.shape[2])))
    conditions, loaded = ([], []) if given is None else ([given], [frames])
    full["height"], full["width"] = prediction.default_size(conditions, loaded, full["height"], full["width"])
    full["num_passes"] = pipeline.default_passes if full["num_passes"] is None else full["num_passes"]
    full["num_frames"] = pipeline.config.num_frames if full["num_frames"] is None else full["num_frames"]
    full["fps"] = pipeline.default_fps(full["num_passes"]) if full["fps"] is None else full["fps"]
    interpolation = pipeline.make_interpolation() if full["num_passes"] else None
    checks.check_integer("num_frames", full["num_frames"], multiple_of=frames_per_latent(prediction.vae))
    plan = _make_plan(full, prediction, interpolation, frames)
    calls = _check_calls(full, plan, prediction, interpolation, image)
    size = (full["height"], full["width"])
    upscaler = _make_upscaler(pipeline, full)
    upscaling = {} if upscaler is None else {SUPER_RESOLUTION: _check_upscaling(upscaler, full, plan)}
    prediction.check_given(conditions, loaded, "context", 1, size)
    if interpolation is not None:
        interpolation.check_seen((0, interpolation.rate), "context")

    folder = None if full["work_dir"] is None else WorkFolder(full["work_dir"])
    seed = _choose_seed(full["generator"], folder)
    if folder is not None:
        settings = {name: value for name, value in full.items() if name not in FREE_ARGUMENTS}
        folder.begin(describe_run(pipeline, {**settings, "frames": frames, "seed": seed}))
    text = _encode_text(prediction, full, calls)
    like = text.get("prompt_embeds", torch.empty(0, dtype=prediction.unet.dtype, device=prediction._execution_device))
    run = LongVideoRun(
        plan=plan,
        prediction=prediction,
        interpolation=interpolation,
        image=image,
        super_resolution=upscaler,
        calls={**calls, **upscaling},
        text=text,
        like=like,
        seed=seed,
        folder=folder,
        callback=full["callback_on_step_end"],
        callback_tensors=full["callback_on_step_end_tensor_inputs"],
        on_window=lambda: None,
    )
    output = (full["output_type"], full["decode_chunk_size"])
    if given is None:
        return PreparedRun(run, None, None, *output)
    shape = prediction.window_shape(full, 1, frames.shape[2])
    sources = run.window_generators(GIVEN, 0, 0, 1)
    with torch.no_grad():
        latents, _ = prediction.encode_given(
            conditions, loaded, shape, size, run.like, sources, full["decode_chunk_size"]
        )
    return PreparedRun(run, latents, resize_video(frames, *size), *output)


def _load_given(frames: Any) -> Tensor | None:
    if frames is None:
        return None
    video = load_frames(frames)
    if video.shape[0] != 1:
        raise ValueError(f"`frames` must be of one video, but are of {video.shape[0]}. Call once for each.")
    return video


def _make_plan(
    full: Mapping[str, Any],
    prediction: KeyFramePredictionPipeline,
    interpolation: DiffusionPipeline | None,
    frames: Tensor | None,
) -> LongVideoPlan:
    factor = frames_per_latent(prediction.vae)
    if frames is not None and factor > 1:
        raise ValueError(
            "`frames` must be left out, because `vae` makes one latent of several neighbouring frames: key frames are"
            " latents."
        )
    window_frames = prediction.config.num_frames // factor
    kept = full["num_context_frames"]
    return LongVideoPlan(
        num_frames=full["num_frames"] // factor,
        num_passes=full["num_passes"],
        fps=full["fps"],
        window_frames=window_frames,
        num_context_frames=min(MAX_CONTEXT_FRAMES, window_frames - 1) if kept is None else kept,
        num_given=0 if frames is None else frames.shape[2],
        rate=1 if interpolation is None else interpolation.rate,
        interpolation_batch_size=full["interpolation_batch_size"],
        num_first=1 if draws_images(prediction.unet) else window_frames,
    )


def _check_calls(
    full: Mapping[str, Any],
    plan: LongVideoPlan,
    prediction: KeyFramePredictionPipeline,
    interpolation: DiffusionPipeline | None,
    image: DiffusionPipeline | None,
) -> dict[str, dict[str, Any]]:
    """Make the calls of all stages, and check them as the stages' own pipelines do."""
    extra = full["stage_arguments"] or {}
    check_stage_arguments(extra, STAGE_ARGUMENTS)
    for name in TEXTS:
        if not isinstance(full[name], (str, type(None))):
            raise TypeError(f"`{name}` must be a string, but is {full[name]!r}. Call once for each video.")
    if isinstance(full["prompt_embeds"], Tensor) and len(full["prompt_embeds"]) > 1:
        raise ValueError(
            f"`prompt_embeds` must be of one prompt, but have shape {tuple(full['prompt_embeds'].shape)}."
        )
    if full["generator"] is not None:
        checks.check_generator(full["generator"], 1)
    names = ("callback_on_step_end", "callback_on_step_end_tensor_inputs")
    if image is not None:
        checks.check_callback(*(full[name] for name in names), image._callback_tensor_inputs)
    told = (
        *TEXTS,
        *EMBEDDINGS,
        *TEMPORAL_TEXT_ARGUMENTS,
        *names,
        "output_type",
        "return_dict",
        "decode_chunk_size",
        "generator",
    )
    shared = {name: full[name] for name in told}
    size = {name: full[name] for name in ("height", "width")}
    factor = frames_per_latent(prediction.vae)
    window = dict.fromkeys(("num_frames", "window_frames"), plan.window_frames * factor) | {"fps": plan.rates[0]}
    calls = {IMAGE: {}, PREDICTION: window} | ({} if interpolation is None else {INTERPOLATION: {"num_passes": 1}})
    for stage, call in calls.items():
        known = IMAGE_ARGUMENTS if stage == IMAGE else WINDOW_ARGUMENTS
        call |= size | {name: full[name] for name in known if name in full} | extra.get(stage, {})

    def check(stage: str, pipeline: DiffusionPipeline, num_given: int, **others: Any) -> None:
        conditions = []
        if num_given:
            latents = torch.zeros(1, *latents_shape(pipeline.vae, num_given * factor, *size.values()))
            conditions = [FrameCondition(latents, tuple(range(num_given)), is_latent=True)]
        known = {name: value for name, value in shared.items() if stage != IMAGE or "temporal" not in name}
        completed = complete_call(pipeline, {**known, **calls[stage], **others}, conditions)
        calls[stage]["guidance_scale"] = completed["guidance_scale"]

    for name in size:
        checks.check_integer(name, size[name], minimum=1, multiple_of=8 if image else prediction.vae_scale_factor)
    if draws_images(prediction.unet):
        check(IMAGE, prediction, 0, num_frames=1, window_frames=2, fps=plan.rates[0], image_only=True)
    else:
        _check_first_window(extra, image)
        del calls[IMAGE]
    check(PREDICTION, prediction, 1)
    if interpolation is not None:
        check(INTERPOLATION, interpolation, 2, num_frames=2, fps=plan.rates[0])
    return calls


def _check_first_window(extra: Mapping[str, Any], image: DiffusionPipeline | None) -> None:
    if image is not None or IMAGE in extra:
        raise ValueError(
            f"`{'image_unet' if image is not None else 'stage_arguments'}` has no effect with this `unet`, which draws"
            " a whole window first, because its normalisations join frames. Leave it out."
        )


def _make_upscaler(pipeline: DiffusionPipeline, full: dict[str, Any]) -> VideoSuperResolutionPipeline | None:
    asked = full["use_super_resolution"]
    if asked is not None:
        check_flag("use_super_resolution", asked)
    is_latent = full["output_type"] == "latent"
    if asked and is_latent:
        raise ValueError("`use_super_resolution` has no effect on latents. Leave it out, or choose another output.")
    if asked is None:
        asked = full["use_super_resolution"] = pipeline.super_resolution_unet is not None and not is_latent
    if not asked and SUPER_RESOLUTION in (full["stage_arguments"] or {}):
        raise ValueError(
            f"`stage_arguments` for {SUPER_RESOLUTION!r} have no effect, because frames are not enlarged."
        )
    return pipeline.make_super_resolution() if asked else None


def _check_upscaling(
    upscaler: VideoSuperResolutionPipeline, full: Mapping[str, Any], plan: LongVideoPlan
) -> dict[str, Any]:
    call = {name: full[name] for name in ("num_inference_steps", "eta")}
    if upscaler.text_encoder is not None:
        call |= {name: full[name] for name in TEXTS}
    call |= (full["stage_arguments"] or {}).get(SUPER_RESOLUTION, {})
    call["fps"] = plan.fps
    frame = torch.zeros(1, 3, 1, full["height"], full["width"])
    upscaler.stream([frame], **call).close()  # checks everything, and is not begun
    return call


def check_stage_arguments(extra: Any, known: Mapping[str, tuple[str, ...]]) -> None:
    """
    Refuse arguments of stages that there are none of.

    Args:
        extra (`Any`): What a call was given as `stage_arguments`.
        known (`Mapping[str, tuple[str, ...]]`): Names of arguments by stage.

    Raises:
        TypeError: If it is no dictionary of dictionaries.
        ValueError: If a stage or an argument is unknown.
    """
    if not isinstance(extra, Mapping) or not all(isinstance(value, Mapping) for value in extra.values()):
        raise TypeError(f"`stage_arguments` must be a dict of dicts, but is {extra!r}.")
    for stage, call in extra.items():
        if stage not in known:
            raise ValueError(f"`stage_arguments` must be for {', '.join(known)}, but one is for {stage!r}.")
        unknown = sorted(set(call) - set(known[stage]))
        if unknown:
            raise ValueError(
                f"`stage_arguments` of {stage!r} must be among {', '.join(known[stage])}, but one is {unknown[0]!r}."
            )


def _choose_seed(generator: torch.Generator | list[torch.Generator] | None, folder: WorkFolder | None) -> int:
    source = generator[0] if isinstance(generator, list) else generator
    if source is None and folder is not None and folder.plan is not None:
        return folder.plan["seed"]
    return draw_seeds(source, 1)[0]


def describe_run(pipeline: DiffusionPipeline, values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Bring what decides a run to the form in which a work folder holds it.

    Args:
        pipeline ([`LongVideoPipeline`]): The pipeline.
        values (`Mapping[str, Any]`): What was asked for, by name.

    Returns:
        `dict[str, Any]`: These, the models and their settings, see [`describe`].

    Raises:
        TypeError: If a value has no such form.
    """
    settings = {name: describe(value) for name, value in values.items()}
    for name, part in pipeline.components.items():
        if "tokenizer" not in name:
            settings[name] = describe(part)
    return settings | {name: describe(pipeline.config[name]) for name in SETTINGS}


def _encode_text(
    prediction: KeyFramePredictionPipeline, full: Mapping[str, Any], calls: Mapping[str, Mapping[str, Any]]
) -> dict[str, Tensor]:
    if not reads_text(prediction.unet):
        return {}
    arguments = {name: full[name] for name in (*TEXTS, *EMBEDDINGS)}
    if arguments["prompt"] is None and arguments["prompt_embeds"] is None:
        arguments["prompt"] = ""
    device, guided = prediction._execution_device, any(call["guidance_scale"] > 1 for call in calls.values())
    with torch.no_grad():
        encoded = prediction.encode_prompt(**arguments, device=device, do_classifier_free_guidance=guided)
        arguments |= {name: full[name] for name in TEMPORAL_TEXT_ARGUMENTS} | {"num_videos_per_prompt": 1}
        encoded += prediction.encode_temporal_prompt(arguments, guided, device, encoded[0].dtype)
    names = (*EMBEDDINGS, *TEMPORAL_TEXT_ARGUMENTS)
    return {name: rows for name, rows in zip(names, encoded, strict=True) if rows is not None}
