"""Videos drawn while training, and the pipeline that is left at the end."""

import os
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedType
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from torch import nn

from diffusers_video.data.buckets import Bucket
from diffusers_video.hub import push_pipeline_to_hub, write_model_card
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from diffusers_video.pipelines.latents import latents_shape
from diffusers_video.pipelines.pipeline_output import VideoPipelineOutput
from diffusers_video.pipelines.text_to_video import TextToVideoPipeline
from diffusers_video.training.config import VideoUNetConfig
from diffusers_video.training.objectives import draw_noise
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
    pipeline: TextToVideoPipeline, prompt: str, config: VideoUNetConfig, size: str, seed: int = 0
) -> VideoPipelineOutput:
    """
    Draw a video as the trained pipeline should be called: with noise of the prior it is trained on.

    Args:
        pipeline ([`TextToVideoPipeline`]): The pipeline.
        prompt (`str`): What it shows.
        config ([`VideoUNetConfig`]): Noise prior and number of steps.
        size (`str`): Size and length, such as `"512x320@16"`.
        seed (`int`, *optional*, defaults to 0): Seed of the noise.

    Returns:
        [`VideoPipelineOutput`] with frames as arrays.
    """
    bucket = Bucket.parse(size)
    generator = torch.Generator().manual_seed(seed)
    shape = (1, *latents_shape(pipeline.vae, bucket.num_frames, bucket.height, bucket.width))
    noise = draw_noise(shape, config.noise_prior, config.noise_prior_strength, generator=generator)
    return pipeline(
        prompt,
        num_frames=bucket.num_frames,
        height=bucket.height,
        width=bucket.width,
        num_inference_steps=config.num_validation_inference_steps,
        latents=noise,
        generator=generator,
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


def gather_unet(accelerator: Accelerator, model: nn.Module) -> UNetVideoConditionModel:
    """
    Bring a trained denoiser together on the CPU; every process calls it.

    Args:
        accelerator (`Accelerator`): Where training ran.
        model (`torch.nn.Module`): What [`fit`] returned.

    Returns:
        [`UNetVideoConditionModel`] in evaluation mode.
    """
    if not is_sharded(accelerator):
        return accelerator.unwrap_model(model).to("cpu").eval()
    unwrapped = accelerator.unwrap_model(model)
    weights = accelerator.get_state_dict(model)
    whole = UNetVideoConditionModel.from_config(unwrapped.config)
    if accelerator.is_main_process:
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
    pipeline: TextToVideoPipeline,
    config: VideoUNetConfig,
    *,
    size: str,
    prompt: str,
    results: dict[str, float],
) -> Path:
    """
    Save what was trained as a pipeline with a model card and a preview, complete or not at all; push it if asked for.

    Args:
        pipeline ([`TextToVideoPipeline`]): With the trained denoiser, on the CPU.
        config ([`VideoUNetConfig`]): Where to save it, and what the card says.
        size (`str`): Size and length of the preview, such as `"512x320@16"`.
        prompt (`str`): What the preview shows.
        results (`dict[str, float]`): Numbers for the card, by name.

    Returns:
        `Path`: `output_dir`, which `TextToVideoPipeline.from_pretrained` takes.
    """
    target = Path(config.output_dir)
    scratch = target / ".pipeline.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        if config.train == "lora":
            merge_lora(pipeline, scratch / LORA_FOLDER)
        pipeline.save_pretrained(scratch)
        output = draw_video(pipeline, prompt, config, size, config.seed)
        write_video(output.frames[0], scratch / PREVIEW_NAME, fps=output.fps)
        repo_id = config.hub_model_id or target.absolute().name
        write_model_card(
            scratch,
            repo_id=repo_id,
            base_model=pipeline.base_model,
            tags=("text-to-video", f"train-{config.train}"),
            description=_describe(config, results),
            prompt=prompt,
            preview=PREVIEW_NAME,
        )
        if config.push_to_hub:
            push_pipeline_to_hub(scratch, repo_id)
        _move_into(target, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    logger.info(f"Saved the pipeline in {target}")
    return target


def _describe(config: VideoUNetConfig, results: dict[str, float]) -> str:
    trained = {
        "temporal": "its temporal layers",
        "all": "all layers of its denoiser",
        "lora": "LoRA layers, merged into its denoiser",
        "spatial": "its spatial layers, on single frames",
    }[config.train]
    numbers = ", ".join(f"{name} {value:.6g}" for name, value in results.items())
    return (
        f"A video diffusion model. Of the model it was made from, {trained} were trained by the `diffusers_video`"
        f" scripts{f' ({numbers})' if numbers else ''}."
    )


def _move_into(target: Path, scratch: Path) -> None:
    # The index comes last: without it the folder is no pipeline, so a half-moved one is never loaded.
    (target / "model_index.json").unlink(missing_ok=True)
    for child in sorted(scratch.iterdir(), key=lambda path: path.name == "model_index.json"):
        place = target / child.name
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(child, place)
