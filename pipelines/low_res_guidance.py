"""Super-resolution without training for it: any denoiser, guided by a smaller copy of the video it is to draw."""

# Shapes: B videos, C channels, F frames, H height, W width; h, w of low-resolution frames.

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from diffusers_video.conditioning.reconstruction import Observation, fit_low_res, shrink_linearly
from diffusers_video.pipelines import checks
from diffusers_video.pipelines.latents import PIXEL_CHANNELS, decode_latents
from diffusers_video.pipelines.video_input import load_video


SCALE_PER_PIXEL = 2.0


def load_low_res(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Bring a low-resolution video to a tensor, and let it say how many frames there are.

    Args:
        arguments (`Mapping[str, Any]`): Arguments of a call by name.

    Returns:
        `dict[str, Any]`: `low_res`, of shape `(videos, channels, num_frames, h, w)` in [0, 1] or `None`, and
        `num_frames`.
    """
    if arguments["low_res"] is None:
        return {}
    low_res = load_video(arguments["low_res"], "low_res")
    return {
        "low_res": low_res,
        "num_frames": low_res.shape[2] if arguments["num_frames"] is None else arguments["num_frames"],
    }


def check_low_res(arguments: Mapping[str, Any]) -> None:
    """
    Refuse a low-resolution video that does not fit the call.

    Args:
        arguments (`Mapping[str, Any]`): Complete arguments of a call.

    Raises:
        TypeError: If the weight is no number.
        ValueError: If a shape does not fit, or the weight has no effect.
    """
    low_res, scale = arguments["low_res"], arguments["low_res_scale"]
    if low_res is None:
        if scale is not None:
            raise ValueError("`low_res_scale` has an effect on `low_res`, but there is none. Leave it out.")
        return
    videos, channels, num_frames, *size = low_res.shape
    if videos not in (1, arguments["batch_size"]) or channels != PIXEL_CHANNELS:
        raise ValueError(
            f"`low_res` must be one video of {PIXEL_CHANNELS} colour channels, or one for each of"
            f" {arguments['batch_size']} videos, but is {videos} of {channels} channels. Set `batch_size` to it."
        )
    if num_frames != arguments["num_frames"]:
        raise ValueError(
            f"`low_res` must have `num_frames`={arguments['num_frames']} frames, but has {num_frames}. Leave"
            " `num_frames` out."
        )
    if size[0] > arguments["height"] or size[1] > arguments["width"]:
        raise ValueError(
            f"`low_res` must be no larger than the video, {arguments['height']}x{arguments['width']}, but is"
            f" {size[0]}x{size[1]}."
        )
    if scale is not None:
        checks.check_number("low_res_scale", scale)


def know_low_res(arguments: Mapping[str, Any], vae: nn.Module | None, like: Tensor) -> Observation:
    """
    Make a low-resolution video something that is known of clean latents.

    Args:
        arguments (`Mapping[str, Any]`): Checked arguments of a call, with `low_res`.
        vae (`torch.nn.Module`, *optional*): The autoencoder; the gradient then goes through its decoder as well.
        like (`torch.Tensor`): Type and place wanted.

    Returns:
        [`Observation`]

    Source:
        VDM (arXiv:2204.03458), Eq. 8. Its weight is not published; 2 for each pixel that stands behind one of the
        small copy corrects an estimate without noise about once.
    """
    low_res = _repeat(arguments) * 2 - 1
    size, scale = tuple(low_res.shape[-2:]), arguments["low_res_scale"]
    if scale is None:
        scale = SCALE_PER_PIXEL * arguments["height"] * arguments["width"] / (size[0] * size[1])
    decode = partial(decode_latents, vae)
    return Observation(low_res.to(like), lambda latents: shrink_linearly(decode(latents), size), float(scale))


def keep_low_res(videos: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """
    Change videos by the least that gives them the known small copy.

    Args:
        videos (`torch.Tensor` of shape `(B, C, F, H, W)`): In [0, 1].
        arguments (`Mapping[str, Any]`): Checked arguments of a call, with `low_res`.

    Returns:
        `torch.Tensor` of the same shape: In [0, 1].
    """
    return fit_low_res(videos, _repeat(arguments).to(videos), limits=(0.0, 1.0))


def _repeat(arguments: Mapping[str, Any]) -> Tensor:
    low_res = arguments["low_res"]
    return low_res.repeat_interleave(arguments["batch_size"] // low_res.shape[0], dim=0)
