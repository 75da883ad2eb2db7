"""Videos drawn while training, and the pipeline that is left at the end."""

import inspect
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedType
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from torch import nn

from diffusers_video.data.buckets import Bucket
from diffusers_video.hub import push_pipeline_to_hub, write_model_card
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.pipelines.pipeline_output import VideoPipelineOutput
from diffusers_video.pipelines.text_to_video import TextToVideoPipeline
from diffusers_video.training.config import VideoUNetConfig
from diffusers_video.training.denoiser_config import DenoiserConfig
from diffusers_video.training.models import attach_temporal_layers
from diffusers_video.video_io import write_video


logger = get_logger(__name__)

PREVIEW_NAME = "preview.mp4"
LORA_FOLDER = "lora"


def is_sharded(accelerator: Accelerator) -> bool:
    """
    Tell whether each process holds only a part of the model.

    Args:
        accelerator (`Accelerator`): Where training runs.

    Returns:
        `bool`
    """
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


@torch.no_grad()
def draw_video(
    pipeline: DiffusionPipeline,
    prompt: str | None,
    config: DenoiserConfig,
    size: str,
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
) -> VideoPipelineOutput:
    """
    Draw a video as the trained pipeline is called.

    Args:
        pipeline ([`TextToVideoPipeline`]): The pipeline.
        prompt (`str`, *optional*): What it shows.
        config ([`DenoiserConfig`]): Number of steps.
        size (`str`): Size and length, such as `"512x320@16"`.
        seed (`int`, *optional*, defaults to 0): Seed of the noise.
        given (`Mapping[str, Any]`, *optional*): Further arguments of the pipeline, from [`preview_arguments`].

    Returns:
        [`VideoPipelineOutput`] with frames as arrays.
    """
    bucket = Bucket.parse(size)
    sizes = {"num_frames": bucket.num_frames, "height": bucket.height, "width": bucket.width}
    taken = inspect.signature(pipeline.__call__).parameters  # others follow from the given frames
    texts = {"prompt": prompt} if "prompt" in taken else {}
    return pipeline(
        **texts,
        **{name: number for name, number in sizes.items() if name in taken},
        **(given or {}),
        num_inference_steps=config.num_validation_inference_steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    )


def save_samples(
    pipeline: TextToVideoPipeline, config: VideoUNetConfig, size: str, folder: str | Path, step: int
) -> list[Path]:
    """
    Draw the validation prompts.

    Args:
        pipeline ([`TextToVideoPipeline`]): The pipeline.
        config ([`VideoUNetConfig`]): `validation_prompts` and how to draw them.
        size (`str`): Size and length, such as `"512x320@16"`.
        folder (`str` or `Path`): Where the files go.
        step (`int`): Goes into their names.

    Returns:
        `list[Path]`: One file per prompt.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, prompt in enumerate(config.validation_prompts):
        output = draw_video(pipeline, prompt, config, size, seed=config.seed + number)
        path = folder / f"step-{step}-{number}.mp4"
        write_video(output.frames[0], path, fps=output.fps)
        paths.append(path)
    return paths


def gather_unet(accelerator: Accelerator, model: nn.Module, detached: Mapping[str, nn.Module]) -> ModelMixin:
    """
    Bring a trained denoiser together on the CPU; every process calls it.

    Args:
        accelerator (`Accelerator`): Where training ran.
        model (`torch.nn.Module`): What [`fit`] returned.
        detached (`Mapping[str, torch.nn.Module]`): Its temporal layers, if they were taken out.

    Returns:
        `ModelMixin`: In evaluation mode.
    """
    unwrapped = accelerator.unwrap_model(model)
    if not is_sharded(accelerator):
        attach_temporal_layers(unwrapped, detached)
        return unwrapped.to("cpu").eval()
    weights = accelerator.get_state_dict(model)
    whole = type(unwrapped).from_config(unwrapped.config)
    if accelerator.is_main_process:
        for name, layer in detached.items():
            weights |= {f"{name}.{key}": value for key, value in layer.state_dict().items()}
        whole.load_state_dict(weights)
    return whole.eval()


def merge_lora(pipeline: TextToVideoPipeline, folder: str | Path) -> None:
    """
    Save the LoRA layers that were trained, and the temporal layers they stand on; then merge them into the weights.

    Args:
        pipeline ([`TextToVideoPipeline`]): Its denoiser carries LoRA layers; it is left without.
        folder (`str` or `Path`): Where they are saved. The temporal layers of a new video model are random but for
            their last projections, so the LoRA layers are of use only on top of these.
    """
    unet = pipeline.unet
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    pipeline.save_lora_weights(folder, unet_lora_layers=layers)
    merged = UNetVideoConditionModel.from_config(unet.config)
    unet.disable_adapters()
    base = {
        name.replace(".base_layer.", "."): value for name, value in unet.state_dict().items() if ".lora_" not in name
    }
    merged.load_state_dict(base)
    merged.save_temporal_layers(folder)
    unet.enable_adapters()
    unet.fuse_lora()
    fused = {
        name.replace(".base_layer.", "."): value for name, value in unet.state_dict().items() if ".lora_" not in name
    }
    merged.load_state_dict(fused)
    pipeline.unet = merged.eval()


def save_pipeline(
    pipeline: DiffusionPipeline,
    config: DenoiserConfig,
    *,
    size: str,
    prompt: str | None,
    results: dict[str, float],
    given: Mapping[str, Any] | None = None,
) -> Path:
    """
    Save what was trained as a pipeline with a model card and a preview, complete or not at all; push it if asked for.

    Args:
        pipeline ([`TextToVideoPipeline`]): With the trained denoiser, on the CPU.
        config ([`DenoiserConfig`]): Where to save it, and what the card says.
        size (`str`): Size and length of the preview, such as `"512x320@16"`.
        prompt (`str`, *optional*): What the preview shows.
        results (`dict[str, float]`): Numbers for the card, by name.
        given (`Mapping[str, Any]`, *optional*): What the preview goes on from, see [`preview_arguments`].

    Returns:
        `Path`: `output_dir`, which `from_pretrained` of the task's pipeline takes.
    """
    target = Path(config.output_dir)
    scratch = target / ".pipeline.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        if config.train == "lora":
            merge_lora(pipeline, scratch / LORA_FOLDER)
        pipeline.save_pretrained(scratch)
        output = draw_video(pipeline, prompt, config, size, config.seed, given)
        write_video(output.frames[0], scratch / PREVIEW_NAME, fps=output.fps)
        repo_id = config.hub_model_id or target.absolute().name
        write_model_card(
            scratch,
            repo_id=repo_id,
            base_model=pipeline.base_model,
            tags=(config.task, f"train-{config.train}"),
            description=_describe(config, results),
            prompt=prompt,
            preview=PREVIEW_NAME,
        )
        if config.push_to_hub:
            push_pipeline_to_hub(scratch, repo_id)
        move_into(target, scratch, last="model_index.json")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    logger.info(f"Saved the pipeline in {target}")
    return target


def _describe(config: DenoiserConfig, results: dict[str, float]) -> str:
    trained = {
        "temporal": "its temporal layers",
        "all": "all layers of its denoiser",
        "lora": "LoRA layers, merged into its denoiser",
        "spatial": "its spatial layers, on single frames",
    }[config.train]
    numbers = ", ".join(f"{name} {value:.6g}" for name, value in results.items())
    scripts = f"by the `diffusers_video` scripts{f' ({numbers})' if numbers else ''}."
    if config.pretrained_model_name_or_path is None:
        return f"A video diffusion model. Its denoiser was trained from scratch {scripts}"
    return f"A video diffusion model. Of the model it was made from, {trained} were trained {scripts}"


def move_into(target: Path, scratch: Path, last: str) -> None:
    """
    Put finished files in place, one by one; what stands there is replaced.

    Args:
        target (`Path`): Where they belong.
        scratch (`Path`): Where they were written.
        last (`str`): The file that comes last: without it the folder is no model, so a half-moved one is never loaded.
    """
    (target / last).unlink(missing_ok=True)
    for child in sorted(scratch.iterdir(), key=lambda path: path.name == last):
        place = target / child.name
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(child, place)
