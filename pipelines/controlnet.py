"""ControlNets of image models, applied to every frame of a video."""

# Shapes: B videos, C channels, F frames, H height, W width, L text tokens, D text width; N = B * F images.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, MultiControlNetModel
from torch import Tensor

from diffusers_video.layers.layout import videos_to_images
from diffusers_video.pipelines.checks import check_number, check_video
from diffusers_video.pipelines.video_input import VideoInput, load_video, resize_video


_CONTROL_NUMBERS = {
    "controlnet_conditioning_scale": 1.0,
    "control_guidance_start": 0.0,
    "control_guidance_end": 1.0,
}


@dataclass
class ControlCondition:
    """
    Control frames of one run, one entry for each ControlNet.

    Args:
        frames (`list[torch.Tensor]` of shape `(batch_size * num_frames, channels, height, width)`): In [0, 1].
        scales (`list[float]`): Factor of the residuals.
        starts (`list[float]`): Part of the run, in [0, 1), at which control begins.
        ends (`list[float]`): Part of the run, in (0, 1], at which control ends.
        guess_mode (`bool`): Whether only the guided half of the batch is controlled.
    """

    frames: list[Tensor]
    scales: list[float]
    starts: list[float]
    ends: list[float]
    guess_mode: bool = False


def control_networks(controlnet: ControlNetModel | MultiControlNetModel | None) -> list[ControlNetModel]:
    """
    List the single networks.

    Args:
        controlnet (`ControlNetModel` or `MultiControlNetModel`, *optional*): Component of a pipeline.

    Returns:
        `list[ControlNetModel]`: In order; empty without a ControlNet.
    """
    if controlnet is None:
        return []
    controlnet = getattr(controlnet, "_orig_mod", controlnet)
    return list(controlnet.nets) if isinstance(controlnet, MultiControlNetModel) else [controlnet]


def load_control_videos(
    controlnet: ControlNetModel | MultiControlNetModel | None,
    conditioning_frames: VideoInput | list[VideoInput] | None,
) -> list[Tensor] | None:
    """
    Bring control frames to tensors.

    Args:
        controlnet (`ControlNetModel` or `MultiControlNetModel`, *optional*): Component of the pipeline.
        conditioning_frames (`VideoInput` or `list[VideoInput]`, *optional*): One video or one for each prompt, see
            [`load_video`]; with several ControlNets a list with one such entry for each.

    Returns:
        `list[torch.Tensor]` of shape `(videos, channels, num_frames, height, width)`: In [0, 1], one for each
        ControlNet; `None` without control frames.

    Raises:
        ValueError: If there is no ControlNet, or the number of entries is not that of the ControlNets.
    """
    if conditioning_frames is None:
        return None
    nets = control_networks(controlnet)
    if not nets:
        raise ValueError(
            "`conditioning_frames` need a ControlNet, but this pipeline has none. Construct it with `controlnet=`."
        )
    if len(nets) == 1:
        return [load_video(conditioning_frames, "conditioning_frames")]
    if not isinstance(conditioning_frames, (list, tuple)) or len(conditioning_frames) != len(nets):
        raise ValueError(
            f"`conditioning_frames` must be a list with one video for each of the {len(nets)} ControlNets, but is"
            f" {type(conditioning_frames).__name__}"
            f"{f' of length {len(conditioning_frames)}' if hasattr(conditioning_frames, '__len__') else ''}."
        )
    return [load_video(one, f"conditioning_frames[{index}]") for index, one in enumerate(conditioning_frames)]


def check_control(
    controlnet: ControlNetModel | MultiControlNetModel | None, arguments: Mapping[str, Any], batch_size: int
) -> None:
    """
    Refuse control frames and numbers that do not fit the ControlNets.

    Args:
        controlnet (`ControlNetModel` or `MultiControlNetModel`, *optional*): Component of the pipeline.
        arguments (`Mapping[str, Any]`): `control_videos` from [`load_control_videos`], `num_frames`,
            `controlnet_conditioning_scale`, `control_guidance_start`, `control_guidance_end` and `guess_mode`.
        batch_size (`int`): Number of prompts.

    Raises:
        TypeError: If a type is wrong.
        ValueError: If a value is, or an argument has no effect.
    """
    videos, guess_mode = arguments["control_videos"], arguments["guess_mode"]
    scale, start, end = (arguments[name] for name in _CONTROL_NUMBERS)
    if not isinstance(guess_mode, bool):
        raise TypeError(f"`guess_mode` must be a bool, but is {guess_mode!r}.")
    if videos is None:
        changed = [name for name, default in _CONTROL_NUMBERS.items() if arguments[name] != default]
        changed += ["guess_mode"] * guess_mode
        if changed:
            raise ValueError(
                f"`{changed[0]}` has no effect without `conditioning_frames`. Leave it out, or pass them."
            )
        return
    nets = control_networks(controlnet)
    for name in _CONTROL_NUMBERS:
        if isinstance(arguments[name], (list, tuple)) and len(arguments[name]) != len(nets):
            raise ValueError(
                f"`{name}` must be a number or hold one for each of {len(nets)} ControlNets, but holds"
                f" {len(arguments[name])}."
            )
    for video, net in zip(videos, nets, strict=True):
        channels = net.config.conditioning_channels
        check_video("conditioning_frames", video, arguments["num_frames"], batch_size, channels)
    for one in _per_network(scale, len(nets)):
        check_number("controlnet_conditioning_scale", one)
    for one, other in zip(_per_network(start, len(nets)), _per_network(end, len(nets)), strict=True):
        check_number("control_guidance_start", one, maximum=1)
        check_number("control_guidance_end", other, maximum=1)
        if one >= other:
            raise ValueError(f"`control_guidance_start` must be below `control_guidance_end`, but {one} >= {other}.")


def _per_network(value: float | list[float], count: int) -> list[float]:
    """
    Spread one number over several ControlNets.

    Args:
        value (`float` or `list[float]`): One for all, or one for each.
        count (`int`): Number of ControlNets.

    Returns:
        `list[float]` of length `count`.
    """
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def prepare_control(
    controlnet: ControlNetModel | MultiControlNetModel,
    arguments: Mapping[str, Any],
    batch_size: int,
    device: str | torch.device,
) -> ControlCondition | None:
    """
    Resize control frames and repeat them for the batch.

    Args:
        controlnet (`ControlNetModel` or `MultiControlNetModel`): Component of the pipeline.
        arguments (`Mapping[str, Any]`): As in [`check_control`], and `height` and `width` in pixels.
        batch_size (`int`): Videos of the run; those of one prompt are neighbours.
        device (`str` or `torch.device`): Where the frames are wanted.

    Returns:
        `ControlCondition`: For [`control_residuals`]; `None` without control frames.
    """
    videos = arguments["control_videos"]
    if videos is None:
        return None
    frames = []
    for video in videos:
        video = resize_video(video, arguments["height"], arguments["width"])
        video = video.repeat_interleave(batch_size // video.shape[0], dim=0)
        frames.append(videos_to_images(video).to(device, controlnet.dtype))
    numbers = (_per_network(arguments[name], len(frames)) for name in _CONTROL_NUMBERS)
    pooled = control_networks(controlnet)[0].config.global_pool_conditions
    return ControlCondition(frames, *numbers, guess_mode=arguments["guess_mode"] or pooled)


def control_residuals(
    controlnet: ControlNetModel | MultiControlNetModel,
    control: ControlCondition,
    sample: Tensor,
    timestep: Tensor,
    conditions: dict[str, Any],
    span: tuple[float, float] | None = None,
) -> tuple[list[Tensor], Tensor] | None:
    """
    Evaluate the ControlNets on the frames of one denoising step.

    Args:
        controlnet (`ControlNetModel` or `MultiControlNetModel`): Component of the pipeline.
        control (`ControlCondition`): Control frames of B videos.
        sample (`torch.Tensor` of shape `(batch_size, channels, num_frames, height, width)`):
            What the denoiser is to see; with guidance the unguided half before the guided one, 2B videos in all.
        timestep (`torch.Tensor`): The timestep.
        conditions (`dict[str, Any]`): `encoder_hidden_states` and, for XL, `added_cond_kwargs`, one row for each video
            of `sample`.
        span (`tuple[float, float]`, *optional*): Part of the run that this step covers; control acts where it lies
            within the start and end of a ControlNet. Without it control acts.

    Returns:
        `tuple`: The residuals of the down blocks and of the middle block, each with `batch_size * num_frames` rows;
        `None` outside start and end.
    """
    scales = [
        scale * (span is None or (span[0] >= start and span[1] <= end))
        for scale, start, end in zip(control.scales, control.starts, control.ends, strict=True)
    ]
    if not any(scales):
        return None
    num_frames = sample.shape[2]
    images = videos_to_images(sample)
    guided = images.shape[0] == 2 * control.frames[0].shape[0]
    half = guided and control.guess_mode

    def per_frame(rows: Tensor) -> Tensor:
        return (rows.chunk(2)[1] if half else rows).repeat_interleave(num_frames, dim=0)

    added = conditions.get("added_cond_kwargs") or {}
    added = {key: per_frame(added[key]) for key in ("text_embeds", "time_ids") if key in added}
    frames = [torch.cat([one, one]) if guided and not half else one for one in control.frames]
    several = len(frames) > 1
    down, mid = controlnet(
        images.chunk(2)[1] if half else images,
        timestep,
        encoder_hidden_states=per_frame(conditions["encoder_hidden_states"]),
        controlnet_cond=frames if several else frames[0],
        conditioning_scale=scales if several else scales[0],
        added_cond_kwargs=added or None,
        guess_mode=control.guess_mode,
        return_dict=False,
    )
    if half:
        down = [torch.cat([torch.zeros_like(one), one]) for one in down]
        mid = torch.cat([torch.zeros_like(mid), mid])
    return down, mid


def _per_network(value: float | list[float], count: int) -> list[float]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * count
