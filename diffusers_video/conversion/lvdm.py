"""Checkpoints of LVDM and VideoCrafter, as they were published -> models of this library and of diffusers."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, ConfigMixin, DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..hub import complete_or_absent
from ..models.autoencoder_kl_3d import AutoencoderKL3D
from ..models.unet_space_time import UNetSpaceTimeModel
from ..pipelines.checkpoint_tensors import WEIGHT_SUFFIXES, read_tensor_table, read_tensors
from . import lvdm_original, svd_original, videocrafter
from .weights import build_model


Progress = Callable[[int, int], None]
Value = TypeVar("Value")

UNET_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema.diffusion_model"  # then a name without its dots
AUTOENCODER_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."
AUTOENCODER_MARK = "encoder.conv_first.conv.weight"
IMAGE_AUTOENCODER_MARK = "encoder.down.0.block.0.conv1.weight"
UNET_MARKS = (  # of LVDM's two kinds, and of VideoCrafter
    "middle_block.1.norm_s.weight",
    "middle_block.1.transformer_blocks.0.norm4.weight",
    "init_attn.0.norm.weight",
)

# Factor and shift of the latents by the data of a released model; its files do not hold them.
RELEASED_LATENTS = {
    "sky": (0.33422927, 1.4606637),
    "ucf": (0.220142075, 0.5837740898),
    "taichi": (0.175733933, 0.03291025),
}
RELEASED_FACTORS = (4, 8, 8)
TEXT_HEAD_WIDTH = 64  # of CLIP's text encoders
_SCHEDULE = {"beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
_BETAS = {False: (0.0015, 0.0155), True: (0.00085, 0.012)}  # without and with text


def convert_lvdm(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    dtype: torch.dtype | None = None,
    trained_on: str | None = None,
    use_ema: bool = True,
    fps: float = videocrafter.DEFAULT_FPS,
    progress: Progress | None = None,
) -> list[str]:
    """
    Convert a checkpoint and save its models, each in a folder of its own: `unet`, `vae`, `text_encoder`, `scheduler`.

    Args:
        source (`str` or `os.PathLike`): The file: an autoencoder, or a checkpoint with a U-Net and what stands beside
            it. Of VideoCrafter only the U-Net is converted, because diffusers' schedulers do not rescale latents as
            its sampler does. Pickles are read without running code.
        output (`str` or `os.PathLike`): Folder to write, new or empty. It appears when it is complete.
        dtype (`torch.dtype`, *optional*): Floating-point type of the models; by default that of the checkpoint.
        trained_on (`str`, *optional*): `"sky"`, `"ucf"` or `"taichi"`, for a 3D autoencoder: scale and shift of its
            latents, which no file holds.
        use_ema (`bool`, *optional*, defaults to `True`): Take averaged weights of the U-Net where there are some.
        fps (`float`, *optional*, defaults to 16): For VideoCrafter 2, see
            [`~diffusers_video.conversion.videocrafter.convert_videocrafter2_unet`].
        progress (`Callable[[int, int], None]`, *optional*): Called with the models that are done, and their number.

    Returns:
        `list[str]`: Names of the folders in `output`.

    Raises:
        FileExistsError: If there is something at `output`.
        FileNotFoundError: If `source` does not exist.
        ValueError: If it holds something else, weights are missing or left over, or `trained_on` is missing.
    """
    output = Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise FileExistsError(f"`output` must be a new or empty folder, but '{output}' exists. Choose another name.")
    parts = load_lvdm(source, dtype=dtype, trained_on=trained_on, use_ema=use_ema, fps=fps, progress=progress)
    with complete_or_absent(output) as folder:
        for name, part in parts.items():
            part.save_pretrained(Path(folder) / name)
    return list(parts)


def load_lvdm(
    source: str | os.PathLike,
    *,
    dtype: torch.dtype | None = None,
    trained_on: str | None = None,
    use_ema: bool = True,
    fps: float = videocrafter.DEFAULT_FPS,
    progress: Progress | None = None,
) -> dict[str, nn.Module | ConfigMixin]:
    """
    Make models of a checkpoint of LVDM or VideoCrafter.

    Args:
        source (`str` or `os.PathLike`): See [`convert_lvdm`], as for the other arguments.
        dtype (`torch.dtype`, *optional*): Floating-point type of the models.
        trained_on (`str`, *optional*): Data of a released 3D autoencoder.
        use_ema (`bool`, *optional*, defaults to `True`): Take averaged weights of the U-Net where there are some.
        fps (`float`, *optional*, defaults to 16): Frame rate, for VideoCrafter 2.
        progress (`Callable[[int, int], None]`, *optional*): Called with the models that are done, and their number.

    Returns:
        `dict[str, Any]`: Those of `"unet"`, `"vae"`, `"text_encoder"` and `"scheduler"` that the file tells, on the
        CPU and in evaluation mode.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: See [`convert_lvdm`].
    """
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"`source` must be a weight file, but '{source}' does not exist.")
    if not holds_lvdm(source):
        raise ValueError(
            "`source` must be a checkpoint of LVDM or VideoCrafter in one file ending in one of"
            f" {WEIGHT_SUFFIXES}, but '{source}' is none. Pass the file as it was published."
        )
    if trained_on is not None and trained_on not in RELEASED_LATENTS:
        raise ValueError(f"`trained_on` must be one of {tuple(RELEASED_LATENTS)}, but is {trained_on!r}.")
    tensors = read_tensors(source)
    try:
        builders = _find_parts(tensors, str(source), trained_on, use_ema, fps)
        models = {}
        for name, build in builders.items():
            models[name] = build()
            if dtype is not None and isinstance(models[name], nn.Module):
                models[name] = nn.Module.to(models[name], dtype=dtype)
            if progress is not None:
                progress(len(models), len(builders))
    except KeyError as error:
        raise ValueError(
            f"'{source}' must hold whole models, but lacks the weight {error}. Fetch it again."
        ) from error
    return models


def holds_lvdm(source: str | os.PathLike) -> bool:
    """
    Tell whether something is what [`convert_lvdm`] takes.

    Args:
        source (`str` or `os.PathLike`): Anything.

    Returns:
        `bool`: `True` for a weight file of LVDM or VideoCrafter.

    Raises:
        ValueError: If a weight file is damaged.
    """
    source = Path(source)
    if not source.is_file() or source.suffix not in WEIGHT_SUFFIXES:
        return False
    names = read_tensor_table(source).entries
    return AUTOENCODER_MARK in names or any(UNET_PREFIX + mark in names for mark in UNET_MARKS)


def select_unet(tensors: Mapping[str, Value], use_ema: bool = True) -> dict[str, Value]:
    """
    Choose the weights of the U-Net.

    Args:
        tensors (`Mapping[str, Any]`): Of a whole checkpoint, by name.
        use_ema (`bool`, *optional*, defaults to `True`): Take averaged weights where there are some. Their names lack
            the dots, so they are found by the names of the plain ones.

    Returns:
        `dict[str, Any]`: By name in the U-Net.

    Raises:
        ValueError: If averaged weights are there for a part of the U-Net only.
    """
    plain = _select(tensors, UNET_PREFIX)
    if not use_ema or not any(name.startswith(EMA_PREFIX) for name in tensors):
        return plain
    averaged = {name: EMA_PREFIX + name.replace(".", "") for name in plain}
    missing = [name for name, key in averaged.items() if key not in tensors]
    if missing:
        raise ValueError(
            f"The checkpoint must hold averaged weights of the whole U-Net, but lacks {len(missing)}, such as"
            f" {missing[0]!r}. Take the plain ones by `use_ema=False`."
        )
    return {name: tensors[key] for name, key in averaged.items()}


def _find_parts(
    tensors: Mapping[str, Tensor], origin: str, trained_on: str | None, use_ema: bool, fps: float
) -> dict[str, Callable[[], nn.Module | ConfigMixin]]:
    """Models of the file by name; each is built when it is called."""
    if AUTOENCODER_MARK in tensors:
        return {"vae": _autoencoder_builder(_without_losses(tensors), origin, trained_on)}
    unet = select_unet(tensors, use_ema)
    if videocrafter.MARK in unet:
        return {"unet": partial(videocrafter.convert_videocrafter2_unet, unet, fps=fps, origin=origin)}
    options = lvdm_original.unet_options(_shapes(unet))
    weights = lvdm_original.unet_weights(unet)
    parts = {"unet": partial(build_model, partial(UNetSpaceTimeModel, **options), weights, origin)}
    if options["attention_type"] == "sequential":
        return parts
    parts["scheduler"] = partial(_scheduler, options.get("cross_attention_dim") is not None)
    vae = _select(tensors, AUTOENCODER_PREFIX)
    if AUTOENCODER_MARK in vae:
        parts["vae"] = _autoencoder_builder(_without_losses(vae), origin, trained_on)
    elif IMAGE_AUTOENCODER_MARK in vae:
        parts["vae"] = partial(_image_autoencoder, _without_losses(vae), origin)
    if text := _select(tensors, TEXT_PREFIX):
        parts["text_encoder"] = partial(_text_encoder, text, origin)
    return parts


def _scheduler(has_text: bool) -> DDIMScheduler:
    beta_start, beta_end = _BETAS[has_text]
    return DDIMScheduler(beta_start=beta_start, beta_end=beta_end, **_SCHEDULE)


def _autoencoder_builder(
    tensors: Mapping[str, Tensor], origin: str, trained_on: str | None
) -> Callable[[], AutoencoderKL3D]:
    if trained_on is None:
        raise ValueError(
            f"`trained_on` must be given for the autoencoder in '{origin}', one of {tuple(RELEASED_LATENTS)}: scale"
            " and shift of its latents are in no file. For other data take any of them, and put right"
            " `scaling_factor` and `shift_factor` by `vae.register_to_config`."
        )
    scale, shift = RELEASED_LATENTS[trained_on]
    weights = lvdm_original.autoencoder_weights(tensors)
    options = lvdm_original.autoencoder_options(_shapes(weights))
    levels = len(options["block_out_channels"]) - 1
    factors = tuple(min(factor, 2**levels) for factor in RELEASED_FACTORS)
    latents = {"downsample_factors": factors, "scaling_factor": scale, "shift_factor": -shift}
    return partial(build_model, partial(AutoencoderKL3D, **options, **latents), weights, origin)


def _image_autoencoder(tensors: Mapping[str, Tensor], origin: str) -> AutoencoderKL:
    options = {**svd_original.vae_options(_shapes(tensors)), "use_post_quant_conv": True}
    return build_model(partial(AutoencoderKL, **options), svd_original.vae_weights(tensors), origin)


def _text_encoder(tensors: Mapping[str, Tensor], origin: str) -> CLIPTextModel:
    weights = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    weights.pop("embeddings.position_ids", None)  # a table of integers that older files carry
    vocab_size, width = weights["embeddings.token_embedding.weight"].shape
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=weights["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len({name.split(".")[2] for name in weights if name.startswith("encoder.layers.")}),
        num_attention_heads=max(width // TEXT_HEAD_WIDTH, 1),
        max_position_embeddings=weights["embeddings.position_embedding.weight"].shape[0],
    )
    return build_model(partial(CLIPTextModel, config), weights, origin)


def _select(tensors: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _without_losses(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("loss.")}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
