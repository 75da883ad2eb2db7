"""What the ablation measures of a trained variant: held-out loss, use of the motion word, and what it draws."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_report import PARTS
from ablation_runs import Base
from accelerate import Accelerator
from benchmark_tools import write_json
from torch import nn

from diffusers_video.conditioning.noise import draw_noise, make_generator
from diffusers_video.data.dataset import collate_clips
from diffusers_video.data.shapes import MOTIONS, Scene, ShapesDataset
from diffusers_video.data.shapes_check import read_clip
from diffusers_video.embedded import SHAPES_GUIDANCE, SHAPES_SUBSET
from diffusers_video.metrics.shapes_scores import score_shapes
from diffusers_video.training.clip_loss import ClipLoss, heldout_errors, prepare_heldout
from diffusers_video.training.encoding import encode_captions
from diffusers_video.training.objectives import denoising_loss


PROMPT_SEED = 3_000_003  # training uses seeds from 0 and from 1,000,003 on, `evaluate shapes` from 2,000,003 on
WORD_TIMESTEP = 0.85  # part of the noise schedule: the picture is hardly seen, and motion must come from the text
VIDEOS_AT_ONCE = 8


def measure(base: Base, model: nn.Module, folder: Path, num_videos: int) -> dict[str, Any]:
    """
    Measure a model; what was measured before with the same settings is read from a file.

    Args:
        base ([`Base`]): Image model, clips and settings. Clips, prompts and noise are the same for every model.
        model (`torch.nn.Module`): A trained variant, in evaluation mode.
        folder (`Path`): Of its run; the numbers are kept there.
        num_videos (`int`): Videos to draw and to check, each with a prompt; 0 draws none.

    Returns:
        `dict[str, Any]`: `errors`, denoising errors by clip and timestep; `words`, for each of `num_heldout_clips`
        clips whether the right motion word gives a lower error than each other one; `scores`, fields of
        [`ShapesScores`], or `None` without videos.
    """
    config, number = base.config, base.config.num_heldout_clips
    clip_loss = base.clip_loss(config, Accelerator(mixed_precision=config.mixed_precision))
    drawing = {"num_inference_steps": config.num_validation_inference_steps, "guidance_scale": SHAPES_GUIDANCE}
    parts: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
        "errors": (
            {"num_heldout_clips": number, "num_heldout_timesteps": config.num_heldout_timesteps},
            lambda: heldout_errors(model, clip_loss.scheduler, prepare_heldout(clip_loss, base.heldout)).tolist(),
        ),
        "words": (
            {"num_heldout_clips": number, "timestep": WORD_TIMESTEP},
            lambda: choose_words(model, clip_loss, make_scenes(base, number)),
        ),
        "scores": (
            {"num_videos": num_videos, **drawing},
            lambda: check_videos(base, model, make_scenes(base, num_videos)) if num_videos else None,
        ),
    }
    path = folder / "measures.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, (settings, compute) in parts.items():
        if name not in known or known[name]["settings"] != settings:
            known[name] = {"settings": settings, "value": compute()}
            write_json(path, known)
    return {name: known[name]["value"] for name in parts}


def make_scenes(base: Base, number: int) -> ShapesDataset:
    """Make clips that no run trains on, of the size and length of those it trains on."""
    bucket = base.bucket
    size = {"num_frames": bucket.num_frames, "height": bucket.height, "width": bucket.width}
    return ShapesDataset(number, seed=PROMPT_SEED, **size, **SHAPES_SUBSET)


@torch.no_grad()
def choose_words(model: nn.Module, clip_loss: ClipLoss, clips: ShapesDataset) -> list[bool]:
    """
    Tell for true clips whether the model denoises them best with the caption of their own motion.

    Args:
        model (`torch.nn.Module`): In evaluation mode.
        clip_loss ([`ClipLoss`]): Encodes clips and captions.
        clips ([`ShapesDataset`]): Clips with one object each.

    Returns:
        `list[bool]`: One for each clip. A model that does not read the motion word is right once in as many clips
        as there are motions.
    """
    scheduler, device = clip_loss.scheduler, clip_loss.pipeline.vae.device
    timesteps = torch.tensor([int(WORD_TIMESTEP * scheduler.config.num_train_timesteps)], device=device)
    right = []
    for index in range(len(clips)):
        latents = clip_loss.encode(collate_clips([clips[index]]))[0]["latents_mean"]
        config = clip_loss.config
        noise = draw_noise(
            latents.shape,
            config.noise_prior,
            config.noise_prior_strength,
            generator=make_generator(PROMPT_SEED, index),
            device=device,
        )
        captions = other_captions(clips.scene(index), clips.motions)
        texts = encode_captions(clip_loss.pipeline, list(captions.values()))["prompt_embeds"]
        losses = [
            denoising_loss(
                model, scheduler, latents, {"encoder_hidden_states": text}, noise=noise, timesteps=timesteps
            ).item()
            for text in texts.split(1)
        ]
        right.append(list(captions)[int(np.argmin(losses))] == clips.scene(index).objects[0].motion)
    return right


def other_captions(scene: Scene, motions: list[str]) -> dict[str, str]:
    """
    Write the caption of a scene for every motion.

    Args:
        scene ([`Scene`]): With one object.
        motions (`list[str]`): Keys of `MOTIONS`, that of the scene among them.

    Returns:
        `dict[str, str]`: Captions by motion.
    """
    own = MOTIONS[scene.objects[0].motion]
    return {name: scene.caption.replace(own, MOTIONS[name]) for name in motions}


def check_videos(base: Base, model: nn.Module, prompts: ShapesDataset) -> dict[str, Any]:
    """
    Draw videos and look at them by image processing.

    Args:
        base ([`Base`]): Its pipeline draws, with this model for its denoiser.
        model (`torch.nn.Module`): In evaluation mode.
        prompts ([`ShapesDataset`]): Its captions are drawn.

    Returns:
        `dict[str, Any]`: `num_clips`, rates and `roughness` of [`ShapesScores`]; `None` where no object was seen.
    """
    seen = [read_clip(video, shapes=SHAPES_SUBSET["shapes"]) for video in _draw(base, model, prompts)]
    scores = score_shapes(seen, [prompts.scene(index) for index in range(len(prompts))])
    rates = {name: getattr(scores, name) for name in ("num_clips", *PARTS)}
    return {**rates, "roughness": scores.roughness if math.isfinite(scores.roughness) else None}


def _draw(base: Base, model: nn.Module, prompts: ShapesDataset) -> Iterator[np.ndarray]:
    pipeline, former = base.pipeline, base.pipeline.unet
    pipeline.unet = model
    try:
        for start in range(0, len(prompts), VIDEOS_AT_ONCE):
            numbers = range(start, min(start + VIDEOS_AT_ONCE, len(prompts)))
            yield from pipeline(
                [prompts.scene(number).caption for number in numbers],
                num_frames=prompts.num_frames,
                height=prompts.height,
                width=prompts.width,
                num_inference_steps=base.config.num_validation_inference_steps,
                guidance_scale=SHAPES_GUIDANCE,
                generator=[torch.Generator().manual_seed(number) for number in numbers],
                output_type="np",
            ).frames
    finally:
        pipeline.unet = former
