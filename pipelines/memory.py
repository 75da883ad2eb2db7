"""How much memory a clip needs, measured on tensors without data: no weights are loaded and nothing is computed."""

# Shapes: B videos, C channels, F frames, H height, W width; c, h, w of the latents.

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import diffusers_video
from diffusers_video.models.unet_video_condition import DEFAULT_PRESET, PRESETS, UNetVideoConditionModel
from diffusers_video.pipelines.checkpoint_info import (
    IMAGE_PIPELINE,
    IMAGE_UNET,
    VIDEO_PIPELINE,
    VIDEO_UNET,
    CheckpointInfo,
)
from diffusers_video.pipelines.checks import check_integer
from diffusers_video.pipelines.latents import FRAMES_AT_ONCE, decode_latents, latents_shape, vae_scale_factor
from diffusers_video.pipelines.model_checks import check_denoiser


METHOD = (
    "Estimate: the denoiser's forward pass and the decoder run on tensors without data, and the bytes of all tensors"
    " that are alive at once are added up. Work space inside single operators, the allocator's reserve and the text"
    " encoders' activations are not in it."
)
DEFAULT_NUM_FRAMES = 16
DEFAULT_LATENT_SIZE = 64  # of Stable Diffusion 1.x, where a configuration does not say
TEXT_TOKENS = 77
NUM_SIZES = 6  # numbers in the size condition of Stable Diffusion XL


@dataclass(frozen=True)
class ClipMemory:
    """
    Memory that one call of a pipeline needs, in bytes; see `METHOD`.

    Args:
        num_frames (`int`): Frames of a video.
        height (`int`): Height in pixels.
        width (`int`): Width in pixels.
        batch_size (`int`): Videos of the call.
        dtype (`str`): Type of the weights, such as `"float16"`.
        weights (`dict[str, int]`): Of each component.
        denoising (`int`): Most that is alive beside the weights while the denoiser runs.
        decoding (`int`): Likewise while frames are decoded; 0 without an autoencoder.
    """

    num_frames: int
    height: int
    width: int
    batch_size: int
    dtype: str
    weights: dict[str, int]
    denoising: int
    decoding: int

    @property
    def peak(self) -> int:
        """Most that is needed with all components in the same memory."""
        return sum(self.weights.values()) + max(self.denoising, self.decoding)

    @property
    def peak_with_model_offload(self) -> int:
        """Most that the accelerator needs with `enable_model_cpu_offload`, which holds one component at a time."""
        running = {"unet": self.denoising, "vae": self.decoding}
        return max(size + running.get(name, 0) for name, size in self.weights.items())


class LiveBytes(TorchDispatchMode):
    """
    Count the bytes of the tensors that operators return inside a `with` block, for as long as they live.

    Storages are counted once, whatever the number of views.

    Args:
        known (`Iterable[torch.Tensor]`, *optional*, defaults to `()`): Tensors that do not count, such as weights.

    Attributes:
        current (`int`): Bytes alive now.
        peak (`int`): Most that was alive at once.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._known = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in known)}
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator and count what it returns."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.current)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known or key in self._alive:
            return

        def release(_: weakref.ref) -> None:
            del self._alive[key]
            self.current -= size

        self._alive[key] = weakref.ref(storage, release)
        self.current += size


def estimate_clip_memory(
    unet_config: Mapping[str, Any],
    vae_config: Mapping[str, Any] | None = None,
    *,
    num_frames: int,
    height: int,
    width: int,
    batch_size: int = 1,
    dtype: torch.dtype = torch.float32,
    preset: str = DEFAULT_PRESET,
    use_guidance: bool = True,
    decode_chunk_size: int = FRAMES_AT_ONCE,
    num_other_parameters: Mapping[str, int] | None = None,
) -> ClipMemory:
    """
    Estimate the memory of a text-to-video or image-to-video call from configurations, see `METHOD`.

    Args:
        unet_config (`Mapping[str, Any]`): Configuration of a [`UNetVideoConditionModel`], or of a
            `UNet2DConditionModel`, which is then given the temporal layers of `preset`.
        vae_config (`Mapping[str, Any]`, *optional*): Configuration of the autoencoder, with its `_class_name`. Without
            it only the denoiser is looked at, and a latent stands for 8 by 8 pixels.
        num_frames (`int`): Frames of a video.
        height (`int`): Height in pixels.
        width (`int`): Width in pixels.
        batch_size (`int`, *optional*, defaults to 1): Videos of the call.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Type of the weights.
        preset (`str`, *optional*, defaults to `"light"`): Temporal layers for an image U-Net.
        use_guidance (`bool`, *optional*, defaults to `True`): Whether the denoiser runs with and without the prompt.
        decode_chunk_size (`int`, *optional*, defaults to 16): Frames decoded at once.
        num_other_parameters (`Mapping[str, int]`, *optional*): Parameters of the other components, by name.

    Returns:
        [`ClipMemory`]

    Raises:
        TypeError, ValueError: If a number is out of range or no multiple of the autoencoder's factor, or the denoiser
            wants inputs that text-to-video does not have.
    """
    counts = {"num_frames": num_frames, "batch_size": batch_size, "decode_chunk_size": decode_chunk_size}
    for name, value in counts.items():
        check_integer(name, value)
    with _default_dtype(dtype), FakeTensorMode(), torch.no_grad():
        unet = _build_unet(unet_config, preset)
        vae = None if vae_config is None else _build_vae(vae_config, dtype)
        factor = vae_scale_factor(vae)
        for name, value in (("height", height), ("width", width)):
            check_integer(name, value, multiple_of=factor)
        if vae is not None:
            if not _sees_an_image(unet.config):
                check_denoiser(unet, vae, None, "Text-to-video")
        sample = shape = (batch_size, unet.config.in_channels, num_frames, height // factor, width // factor)
        if vae is not None:
            shape = (batch_size, *latents_shape(vae, num_frames, height, width))
            sample = sample if _sees_an_image(unet.config) else shape
        denoising = _measure(unet, lambda: _denoise(unet, torch.empty(sample), use_guidance))
        decoding = 0
        if vae is not None:
            decoding = _measure(vae, lambda: decode_latents(vae, torch.empty(shape, dtype=dtype), decode_chunk_size))
        weights = {"unet": _weight_bytes(unet)} | ({} if vae is None else {"vae": _weight_bytes(vae)})
    for name, count in (num_other_parameters or {}).items():
        weights[name] = count * dtype.itemsize
    clip = (num_frames, height, width, batch_size, str(dtype).removeprefix("torch."))
    return ClipMemory(*clip, weights, denoising, decoding)


def estimate_checkpoint_memory(
    info: CheckpointInfo,
    *,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: torch.dtype = torch.float16,
    preset: str | None = None,
    **options: Any,
) -> ClipMemory:
    """
    Estimate the memory of a text-to-video or image-to-video call with a checkpoint, whose weights stay on disk.

    Args:
        info ([`CheckpointInfo`]): A pipeline or U-Net with its configuration, of videos or of images.
        num_frames (`int`, *optional*): Frames of a video; by default as many as the pipeline makes, else 16.
        height (`int`, *optional*): Height in pixels; by default the one the model was trained at.
        width (`int`, *optional*): Width in pixels, likewise.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float16`): Type of the weights.
        preset (`str`, *optional*, defaults to `"light"`): Temporal layers for an image model; none for a video
            model, which has its own.
        options: `batch_size`, `decode_chunk_size` and `use_guidance` of [`estimate_clip_memory`].

    Returns:
        [`ClipMemory`]

    Raises:
        TypeError, ValueError: As [`estimate_clip_memory`]; or the checkpoint holds no configuration of a U-Net, or an
            argument has no effect on it.
    """
    unet, vae = info.component("unet"), info.component("vae")
    if info.kind not in (VIDEO_PIPELINE, IMAGE_PIPELINE, VIDEO_UNET, IMAGE_UNET) or unet is None or not unet.config:
        raise ValueError(
            f"The memory of a clip follows from the configuration of a U-Net, which '{info.path}' ({info.kind}) does"
            " not hold. Ask for the folder of the pipeline it is used with."
        )
    if preset is not None and info.kind in (VIDEO_PIPELINE, VIDEO_UNET):
        raise ValueError(f"`preset` has no effect on a {info.kind}, which has its temporal layers. Leave it out.")
    vae_config = None if vae is None else vae.config
    if vae_config is None and "decode_chunk_size" in options:
        raise ValueError(f"`decode_chunk_size` has no effect on a {info.kind} without an autoencoder. Leave it out.")
    factor = 2 ** (len((vae_config or {}).get("block_out_channels", range(4))) - 1)
    size = unet.config.get("sample_size") or DEFAULT_LATENT_SIZE
    sizes = size if isinstance(size, (list, tuple)) else (size, size)
    others = {item.name: item.num_parameters for item in info.components if item.name not in ("unet", "vae")}
    return estimate_clip_memory(
        unet.config,
        vae_config,
        num_frames=num_frames or info.options.get("num_frames", DEFAULT_NUM_FRAMES),
        height=height or sizes[0] * factor,
        width=width or sizes[1] * factor,
        dtype=dtype,
        preset=preset or DEFAULT_PRESET,
        num_other_parameters={name: count for name, count in others.items() if count},
        **options,
    )


def _build_unet(config: Mapping[str, Any], preset: str) -> UNetVideoConditionModel:
    changes = PRESETS[preset] if config.get("_class_name") == UNet2DConditionModel.__name__ else {}
    return UNetVideoConditionModel.from_config({**config, **changes, "_class_name": "UNetVideoConditionModel"}).eval()


def _build_vae(config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    name = config.get("_class_name", "AutoencoderKL")
    owner = diffusers_video if name in diffusers_video.LOADABLE_NAMES else diffusers
    vae = getattr(owner, name).from_config(dict(config)).eval()
    if dtype == torch.float16 and vae.config.get("force_upcast", False):
        # It decodes in float32, and tensors without data cannot be converted in place.
        with _default_dtype(torch.float32):
            return type(vae).from_config(dict(config)).eval()
    return vae


def _sees_an_image(config: Mapping[str, Any]) -> bool:
    """Tell the denoiser of Stable Video Diffusion, which takes an image in further channels and as its only token."""
    return "motion_bucket_id" in config.added_time_ids and config.in_channels == 2 * config.out_channels


def _denoise(unet: UNetVideoConditionModel, latents: Tensor, use_guidance: bool) -> Tensor:
    guided = use_guidance and unet.config.time_cond_proj_dim is None
    sample = torch.cat([latents, latents]) if guided else latents
    return unet(sample, torch.ones(()), **_conditions(unet.config, len(sample)), return_dict=False)[0]


def _conditions(config: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    width, tokens = config.encoder_hid_dim or config.cross_attention_dim, 1 if _sees_an_image(config) else TEXT_TOKENS
    inputs: dict[str, Any] = {"encoder_hidden_states": torch.empty(batch_size, tokens, width)}
    if config.time_cond_proj_dim is not None:
        inputs["timestep_cond"] = torch.empty(batch_size, config.time_cond_proj_dim)
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - NUM_SIZES * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.empty(batch_size, pooled),
            "time_ids": torch.empty(batch_size, NUM_SIZES),
        }
    inputs |= dict.fromkeys(config.get("added_time_ids") or (), 8.0)
    return inputs


def _measure(model: nn.Module, call: Callable[[], Tensor]) -> int:
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        call()
    return live.peak


def _weight_bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(previous)
