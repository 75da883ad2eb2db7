"""
What a training step of the temporal layers costs, next to diffusers' `UNetMotionModel` on the same frozen image U-Net.

One step is the loss of one clip, its backward pass and an update by AdamW of what trains; both networks hold the very
same spatial weights, random and frozen, and see the same latents, noise, timestep and text. Steps of ours and of the
peer run in turn on this CPU; the ratio is the median of the pairs'. Memory is what one step allocates at its peak,
weights and the state of the optimizer excluded, gradients included.

    python examples/benchmarks/training_step.py
    python examples/benchmarks/training_step.py --full --preset light --pairs 9 --threads 1 --json step.json

The geometry is that of Stable Diffusion 1.5 with half its channels, or with `--full` all of them: 16 GB of memory for
`--preset light`.
"""

import gc
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from benchmark_tools import (
    Clip,
    check_json_file,
    describe_load,
    describe_run,
    peak_bytes,
    repeat_text,
    show,
    time_pairs,
    verdict,
    write_json,
)
from diffusers import DDPMScheduler, UNet2DConditionModel, UNetMotionModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from diffusers_video import UNetVideoConditionModel
from diffusers_video.training.objectives import denoising_loss


# Shapes: B videos, C channels, F frames, H height, W width, L text tokens, D text width.

PEER = "UNetMotionModel"
PRESETS = ("light", "videoldm")
TIME_BARS = {"light": 0.85}  # at most this share of the peer's seconds
GEOMETRIES = {  # what of the image U-Net's configuration is not that of Stable Diffusion 1.5
    "full": {},
    "half": {"block_out_channels": (160, 320, 640, 640)},
    "tiny": {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
}


def build_pair(preset: str, geometry: str, text_dim: int) -> tuple[nn.Module, nn.Module]:
    """
    Make our video U-Net and the peer of one image U-Net, whose weights both then hold, frozen.

    Args:
        preset (`str`): Of our temporal layers; the peer's are those of its default `MotionAdapter`.
        geometry (`str`): `"full"`, `"half"` or `"tiny"`.
        text_dim (`int`): Width of the text embeddings.

    Returns:
        `tuple[torch.nn.Module, torch.nn.Module]`: Ours and the peer.
    """
    torch.manual_seed(0)
    image_unet = UNet2DConditionModel(cross_attention_dim=text_dim, **GEOMETRIES[geometry])
    ours = UNetVideoConditionModel.from_unet2d(image_unet, preset)
    peer = UNetMotionModel.from_unet2d(image_unet)
    for model in (ours, peer):  # each copied the weights; share them again, or the full geometry needs 7 GB more
        model.load_state_dict(image_unet.state_dict(), strict=False, assign=True)
    ours.freeze_spatial_layers()
    peer.freeze_unet2d_params()
    return ours, peer


def make_step(model: nn.Module, latents: Tensor, noise: Tensor, text: Tensor) -> Callable[[], float]:
    """
    Set up the training of a network on one clip.

    Args:
        model (`torch.nn.Module`): Called as diffusers' video U-Nets; what requires gradients trains.
        latents (`torch.Tensor` of shape `(1, 4, num_frames, height, width)`): The clip.
        noise (`torch.Tensor` of the same shape): What is added to it.
        text (`torch.Tensor` of shape `(texts, 77, text_dim)`): Its text, once per video or per frame as `model` wants.

    Returns:
        `Callable`: Does one step and returns its loss.
    """
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    timesteps, conditions = torch.tensor([500]), {"encoder_hidden_states": text}
    model.train()

    def step() -> float:
        loss = denoising_loss(model, scheduler, latents, conditions, noise=noise, timesteps=timesteps)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def compare_steps(preset: str, geometry: str, clip: Clip, pairs: int) -> dict[str, Any]:
    """
    Train one of our presets beside the peer.

    Args:
        preset (`str`): `"light"` or `"videoldm"`.
        geometry (`str`): `"full"`, `"half"` or `"tiny"`.
        clip ([`Clip`]): What both train on.
        pairs (`int`): Pairs of timed steps.

    Returns:
        `dict`: `trained_parameters` and `peak_bytes`, one pair each, and `seconds`, a list of pairs: ours first.
    """
    latents, text = clip.make()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    models = build_pair(preset, geometry, clip.text_dim)
    texts = (text, repeat_text(text, latents))
    steps = [make_step(model, latents, noise, own) for model, own in zip(models, texts, strict=True)]
    weights = [[weight.numel() for weight in model.parameters() if weight.requires_grad] for model in models]
    result = {
        "trained_parameters": [sum(sizes) for sizes in weights],
        "seconds": time_pairs(*steps, pairs),
        "peak_bytes": [peak_bytes(step) for step in steps],
    }
    del models, steps
    gc.collect()  # networks of several gigabytes: free this pair before the next is built
    return result


def steps_table(runs: dict[str, dict[str, Any]], clip: Clip, geometry: str) -> tuple[Table, list[str]]:
    """Show what trains, seconds and bytes of each pair, and say whether the bar holds."""
    size = f"{clip.num_frames} frames, {clip.latent_size}x{clip.latent_size} latents"
    table = Table("measure", "ours", "peer", "ours", "peer", "ratio", title=f"One training step, {geometry}, {size}")
    verdicts = []
    for preset, run in runs.items():
        ours, peer = run["trained_parameters"]
        table.add_row("trained", preset, PEER, f"{ours / 1e6:.1f}M", f"{peer / 1e6:.1f}M", f"{ours / peer:.3f}")
        ratio = statistics.median(ours / peer for ours, peer in run["seconds"])
        ours, peer = (statistics.median(column) for column in zip(*run["seconds"], strict=True))
        table.add_row("seconds", preset, PEER, f"{ours:.3f}", f"{peer:.3f}", f"{ratio:.3f}")
        if preset in TIME_BARS:
            verdicts.append(verdict(f'training step of "{preset}" over {PEER}', ratio, TIME_BARS[preset]))
        ours, peer = run["peak_bytes"]
        table.add_row("peak MiB", preset, PEER, f"{ours / 2**20:.1f}", f"{peer / 2**20:.1f}", f"{ours / peer:.3f}")
    return table, verdicts


def main(
    preset: Annotated[Literal["light", "videoldm"] | None, typer.Option(help="Measure this alone.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of timed steps.")] = 7,
    num_frames: Annotated[int, typer.Option(min=1, max=32, help="Frames; `UNetMotionModel` takes up to 32.")] = 8,
    latent_size: Annotated[int, typer.Option(min=8, help="Height and width of the latents.")] = 16,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch; all if not given.")] = None,
    full: Annotated[bool, typer.Option("--full", help="All channels of Stable Diffusion 1.5, not half.")] = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Tiny networks, to try the script; the bar is not for them.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Compare the cost of training temporal layers."""
    check_json_file(json_file)
    if full and tiny:
        raise typer.BadParameter("`--full` and `--tiny` must not both be given. Leave one out.")
    geometry = "full" if full else "tiny" if tiny else "half"
    if threads is not None:
        torch.set_num_threads(threads)
    clip = Clip(num_frames=num_frames, latent_size=latent_size, text_dim=16 if tiny else 768)
    numbers = {**describe_run(), "geometry": geometry, "clip": asdict(clip)}
    presets = PRESETS if preset is None else (preset,)
    numbers["presets"] = {name: compare_steps(name, geometry, clip, pairs) for name in presets}
    console = Console()
    show(console, *steps_table(numbers["presets"], clip, geometry))
    console.print(describe_load())
    if tiny:
        console.print("The bar is for networks of at least half size, not for this run.")
    if json_file is not None:
        write_json(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
