"""What a denoiser reads beside noisy latents, whatever its class."""

from torch import nn


def reads_given_frames(unet: nn.Module) -> bool:
    """
    Tell whether a denoiser is told which frames are given.

    Args:
        unet (`torch.nn.Module`): A video U-Net.

    Returns:
        `bool`: `True` for one with `context_channels` or with `use_frame_mask`.
    """
    return unet.config.get("context_channels") is not None or unet.config.get("use_frame_mask", False)


def reads_previous_clip(unet: nn.Module) -> bool:
    """
    Tell whether a denoiser is told the latents of the clip before.

    Args:
        unet (`torch.nn.Module`): A video U-Net.

    Returns:
        `bool`: `True` for one with `use_previous_clip`.
    """
    return unet.config.get("use_previous_clip", False)


def told_numbers(unet: nn.Module) -> tuple[str, ...]:
    """
    Name the numbers per clip that a denoiser is told.

    Args:
        unet (`torch.nn.Module`): A video U-Net.

    Returns:
        `tuple[str, ...]`: Such as `("fps", "noise_level")`.
    """
    if "added_time_ids" in unet.config:
        return tuple(unet.config.added_time_ids or ())
    options = {"fps": unet.config.get("use_fps"), "noise_level": unet.config.get("num_noise_levels")}
    return tuple(name for name, option in options.items() if option)


def reads_text(unet: nn.Module) -> bool:
    """
    Tell whether a denoiser reads text at all.

    Args:
        unet (`torch.nn.Module`): A video U-Net.

    Returns:
        `bool`: `True` for one with cross-attention or with pooled text.
    """
    return needs_text(unet) or pools_text(unet)


def pools_text(unet: nn.Module | None) -> bool:
    """
    Tell whether a denoiser reads text as one vector, zeros of which are no text.

    Args:
        unet (`torch.nn.Module`, *optional*): A video U-Net.

    Returns:
        `bool`: `True` for one with `pooled_text_dim`.
    """
    return unet is not None and unet.config.get("pooled_text_dim") is not None


def reads_log_snr(unet: nn.Module | None) -> bool:
    """
    Tell whether a denoiser is told noise levels as log-SNR, and so fits schedulers in continuous time.

    Args:
        unet (`torch.nn.Module`, *optional*): A video U-Net.

    Returns:
        `bool`: `True` for one with `timestep_type="log_snr"`, and where there is none that it would not fit.
    """
    return unet is None or getattr(unet, "config", {}).get("timestep_type") == "log_snr"


def draws_images(unet: nn.Module) -> bool:
    """
    Tell whether a denoiser draws a single frame as an image, whatever its clips are like.

    Args:
        unet (`torch.nn.Module`): A video U-Net.

    Returns:
        `bool`: `False` for one whose normalisations join frames.
    """
    return not (unet.config.get("joint_norm") or unet.config.get("joint_temporal_norm"))


def needs_text(unet: nn.Module) -> bool:
    """
    Tell whether a denoiser cannot run without text.

    Args:
        unet (`torch.nn.Module`): A video U-Net.

    Returns:
        `bool`: `True` for one with cross-attention; a pooled text may be left out.
    """
    return unet.config.get("cross_attention_dim") is not None


def is_causal(unet: nn.Module) -> bool:
    """
    Tell whether no frame depends on later ones.

    Args:
        unet (`torch.nn.Module`): A video U-Net.

    Returns:
        `bool`
    """
    return getattr(unet, "is_causal", False)
