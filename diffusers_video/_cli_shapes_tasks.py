"""
What `evaluate shapes` asks of each stage of a cascade, and how it judges the answers.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffusers_video.embedded import SHAPES_GUIDANCE, SHAPES_STEPS, SHAPES_SUBSET, SHAPES_UPSCALING_STEPS


if TYPE_CHECKING:
    import numpy as np
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from diffusers_video._cli_evaluate_shapes import EvaluateShapesOptions
    from diffusers_video.data.shapes import Scene
    from diffusers_video.data.shapes_check import SeenClip


# Shapes: B videos, F frames, C colour channels, H height, W width; all values in [0, 1].

TOLD_PARTS = ("colour", "shape", "motion", "together")
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """
    What is drawn at once.

    Args:
        captions (`list[str]`): One for each video.
        num_frames (`int`, *optional*): Frames of each; `None` for those of the pipeline.
        given_BFCHW (`torch.Tensor`, *optional*): Frames that the pipeline is given.
        arguments (`dict[str, Any]`): Those of every pipeline: steps, generators and the like.
    """

    captions: list[str]
    num_frames: int | None
    given_BFCHW: Tensor | None
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ShapesTask:
    """
    One stage.

    Args:
        pipeline (`str`): Name of its class.
        draw (`Callable`): Draws [`Answers`] by a pipeline: an array (B, F, H, W, C).
        judge (`Callable`): Of a video (F, H, W, C), the true one and what was given (F, C, H, W): what is kept of it
            for the scores, as plain JSON.
        score (`Callable`): Of what was kept, and the scenes: the scores by name.
        summary (`Callable`): Of the scores: a line of text.
        give (`Callable`, *optional*): Of the true videos (B, F, C, H, W), the pipeline and the options: the frames
            that the pipeline is given. Without it nothing is, and the true videos are not drawn.
        num_frames (`int`, *optional*): Frames of a video unless an option says otherwise.
        resolution (`int`): Height and width of true videos unless an option says otherwise.
        num_inference_steps (`int`): Denoising steps unless an option says otherwise.
        guidance_scale (`float`): Guidance by the prompt unless an option says otherwise.
        batch_size (`int`): Videos drawn at once unless an option says otherwise.
        num_videos (`int`): Videos unless an option says otherwise.
    """

    pipeline: str
    draw: Callable[[DiffusionPipeline, Answers, EvaluateShapesOptions], np.ndarray]
    judge: Callable[[np.ndarray, Tensor | None, Tensor | None], Record]
    score: Callable[[Sequence[Record], Sequence[Scene]], Record]
    summary: Callable[[Record], str]
    give: Callable[[Tensor, DiffusionPipeline | None, EvaluateShapesOptions], Tensor] | None = None
    num_frames: int | None = None
    resolution: int = 64
    num_inference_steps: int = SHAPES_STEPS
    guidance_scale: float = SHAPES_GUIDANCE
    batch_size: int = 8
    num_videos: int = 256


def _draw_text_to_video(pipeline: DiffusionPipeline, asked: Answers, options: EvaluateShapesOptions) -> np.ndarray:
    size = dict.fromkeys(("height", "width"), options.resolution)
    arguments = {**size, **asked.arguments, "image_only": options.independent_frames}
    return pipeline(asked.captions, num_frames=asked.num_frames, **arguments).frames


def _draw_key_frames(pipeline: DiffusionPipeline, asked: Answers, options: EvaluateShapesOptions) -> np.ndarray:
    arguments = {**asked.arguments, "context_guidance_scale": options.context_guidance_scale}
    return pipeline(asked.given_BFCHW, asked.captions, num_frames=asked.num_frames, **arguments).frames


def _draw_between(pipeline: DiffusionPipeline, asked: Answers, options: EvaluateShapesOptions) -> np.ndarray:
    arguments = {**asked.arguments, "context_guidance_scale": options.context_guidance_scale}
    return pipeline(asked.given_BFCHW, asked.captions, num_passes=options.num_passes or 1, **arguments).frames


def _draw_larger(pipeline: DiffusionPipeline, asked: Answers, options: EvaluateShapesOptions) -> np.ndarray:
    captions = None if pipeline.text_encoder is None else asked.captions
    return pipeline(asked.given_BFCHW, captions, noise_level=options.noise_level, **asked.arguments).frames


def _draw_long(pipeline: DiffusionPipeline, asked: Answers, options: EvaluateShapesOptions) -> np.ndarray:
    arguments = {**asked.arguments, "context_guidance_scale": options.context_guidance_scale}
    arguments |= {"num_passes": options.num_passes, "use_super_resolution": False}
    return pipeline(asked.captions[0], num_frames=asked.num_frames, **arguments).frames


def _give_first(true_BFCHW: Tensor, *_: Any) -> Tensor:
    return true_BFCHW[:, :1]


def _give_spaced(true_BFCHW: Tensor, pipeline: DiffusionPipeline | None, options: EvaluateShapesOptions) -> Tensor:
    from diffusers_video.conditioning.frames import INTERPOLATION_RATE

    rate = INTERPOLATION_RATE if pipeline is None else pipeline.rate
    spacing, num_frames = rate ** (options.num_passes or 1), true_BFCHW.shape[1]
    if num_frames % spacing != 1 or num_frames == 1:
        raise ValueError(
            f"`--num-frames` must be 1 more than a multiple of {spacing}, the frames from one given one to the next,"
            f" but is {num_frames}. Take {spacing + 1}, {4 * spacing + 1} or the like."
        )
    return true_BFCHW[:, ::spacing]


def _give_small(true_BFCHW: Tensor, pipeline: DiffusionPipeline, *_: Any) -> Tensor:
    from diffusers_video.conditioning.low_res import shrink_video

    return (shrink_video(true_BFCHW.transpose(1, 2) * 2 - 1, pipeline.scale) / 2 + 0.5).transpose(1, 2)


def _read(video: np.ndarray) -> SeenClip:
    from diffusers_video.data.shapes_check import read_clip

    return read_clip(video, shapes=SHAPES_SUBSET["shapes"])


def _judge_seen(video: np.ndarray, *_: Any) -> Record:
    return {"seen": dataclasses.asdict(_read(video))}


def _judge_clip(video: np.ndarray, *_: Any) -> Record:
    from diffusers_video.metrics.shapes_features import measure_clip

    return {**_judge_seen(video), "features": measure_clip(video).tolist(), "size": list(video.shape[:3])}


def _judge_predicted(video: np.ndarray, _: Tensor, given_FCHW: Tensor) -> Record:
    """The motion of all frames, but the colours and shapes of those alone that were not given."""
    num_given, record = len(given_FCHW), _judge_clip(video)
    record["seen"] |= {name: record["seen"][name][num_given:] for name in ("colours", "shapes", "centres")}
    return record


def _judge_between(video: np.ndarray, true_FCHW: Tensor, given_FCHW: Tensor) -> Record:
    from diffusers_video.metrics.shapes_stages import measure_deviations

    true, spacing = true_FCHW.movedim(1, -1).numpy(), (len(true_FCHW) - 1) // (len(given_FCHW) - 1)
    is_drawn = [place % spacing != 0 for place in range(len(true))]
    side = min(true.shape[1:3])
    return {"deviations": measure_deviations(_read(video[is_drawn]), _read(true[is_drawn]), side), "side": side}


def _judge_larger(video: np.ndarray, true_FCHW: Tensor, given_FCHW: Tensor) -> Record:
    import torch

    from diffusers_video.conditioning.low_res import enlarge_images
    from diffusers_video.metrics.frames import psnr

    bicubic = enlarge_images(given_FCHW, true_FCHW.shape[-1] // given_FCHW.shape[-1]).clamp(0, 1)
    found = {"psnr": torch.from_numpy(video).movedim(-1, 1), "bicubic_psnr": bicubic}
    pairs = {name: (drawn.transpose(0, 1)[None], true_FCHW.transpose(0, 1)[None]) for name, drawn in found.items()}
    return {name: psnr(*pair, per="video").item() for name, pair in pairs.items()}


def _score_clips(records: Sequence[Record], scenes: Sequence[Scene]) -> Record:
    from diffusers_video.data.shapes_check import SeenClip
    from diffusers_video.metrics.shapes_scores import score_shapes

    return dataclasses.asdict(score_shapes([SeenClip(**record["seen"]) for record in records], scenes))


def _score_between(records: Sequence[Record], *_: Any) -> Record:
    from diffusers_video.metrics.shapes_stages import score_paths

    return dataclasses.asdict(score_paths([record["deviations"] for record in records], records[0]["side"]))


def _score_larger(records: Sequence[Record], *_: Any) -> Record:
    from diffusers_video.metrics.shapes_stages import score_upscaling

    parts = ([record[name] for record in records] for name in ("psnr", "bicubic_psnr"))
    return dataclasses.asdict(score_upscaling(*parts))


def _tell_parts(scores: Record, names: Sequence[str] = TOLD_PARTS) -> str:
    told = []
    for name in names:
        low, high = scores["intervals"][name]
        told.append(f"{name} {scores[name]:.1%} ({100 * low:.1f} to {100 * high:.1f})")
    return ", ".join(told)


def _tell_clips(scores: Record) -> str:
    return f"{_tell_parts(scores)}; roughness {scores['roughness']:.4f} of the side"


def _tell_between(scores: Record) -> str:
    return (
        f"{scores['deviation']:.2f} pixels from the true path, in 95 % of the frames at most"
        f" {scores['deviation_95']:.2f}; {scores['lost']:.1%} of the frames without an object"
    )


def _tell_larger(scores: Record) -> str:
    low, high = scores["intervals"]["gain"]
    return (
        f"PSNR {scores['psnr']:.2f} dB, bicubic {scores['bicubic_psnr']:.2f} dB, gain {scores['gain']:.2f} dB"
        f" ({low:.2f} to {high:.2f}); better in {scores['better']:.1%} of the videos"
    )


def _tell_kept(scores: Record) -> str:
    return _tell_parts(scores, ("kept", "colour", "shape"))


TASKS = {
    "text-to-video": ShapesTask(
        pipeline="TextToVideoPipeline",
        draw=_draw_text_to_video,
        judge=_judge_clip,
        score=_score_clips,
        summary=_tell_clips,
    ),
    "key-frames": ShapesTask(
        pipeline="KeyFramePredictionPipeline",
        give=_give_first,
        draw=_draw_key_frames,
        judge=_judge_predicted,
        score=_score_clips,
        summary=_tell_clips,
        num_frames=16,
        num_videos=128,
    ),
    "interpolation": ShapesTask(
        pipeline="FrameInterpolationPipeline",
        give=_give_spaced,
        draw=_draw_between,
        judge=_judge_between,
        score=_score_between,
        summary=_tell_between,
        num_frames=17,
        num_videos=64,
    ),
    "super-resolution": ShapesTask(
        pipeline="VideoSuperResolutionPipeline",
        give=_give_small,
        draw=_draw_larger,
        judge=_judge_larger,
        score=_score_larger,
        summary=_tell_larger,
        num_frames=8,
        resolution=256,
        num_inference_steps=SHAPES_UPSCALING_STEPS,
        guidance_scale=1.0,
        batch_size=1,
        num_videos=16,
    ),
    "long": ShapesTask(
        pipeline="LongVideoPipeline",
        draw=_draw_long,
        judge=_judge_seen,
        score=_score_clips,
        summary=_tell_kept,
        num_frames=257,
        batch_size=1,
        num_videos=20,
    ),
}
