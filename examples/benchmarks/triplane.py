"""
What a sampled clip of PVDM costs, next to the original's schedule of work on the same weights, in one run.

The original computes the three planes one after another, and with a clip before it always evaluates the denoiser a
second time without that clip, even where guidance is off and the second result is multiplied by zero. Both sample with
the same scheduler and noise; the results must be equal.

    python examples/benchmarks/triplane.py
    python examples/benchmarks/triplane.py --base-channels 128 --steps 4 --pairs 3 --threads 1 --json triplane.json
"""

import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from benchmark_tools import check_json_file, describe_load, describe_run, show, time_pairs, write_json
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from diffusers_video.conditioning.previous_clip import predict_after_clip
from diffusers_video.layers.triplane import TriplaneSize, join_planes, split_planes
from diffusers_video.models.unet_triplane import UNetTriplaneModel
from diffusers_video.schedulers.scheduling_paired_ddim import PairedDDIMScheduler


# Shapes: B videos, C channels, L positions of all planes.

BAR = 1.5  # at least this many times faster, for a clip behind another one
TOLERANCE = 1e-3  # largest difference of the latents, which lie in [-1, 1]
TINY = {"block_out_channels": (8, 16), "plane_attention": (True, False), "layers_per_block": 1, "norm_num_groups": 4}


def build(base_channels: int | None, size: TriplaneSize) -> UNetTriplaneModel:
    """Build a denoiser with random weights; without a number of channels a tiny one."""
    options: dict[str, Any] = dict(TINY)
    if base_channels is not None:
        options = {"block_out_channels": [base_channels * factor for factor in (1, 2, 4, 4)]}
    torch.manual_seed(0)
    unet = UNetTriplaneModel(**options, sample_size=(size.height, size.width), num_frames=size.num_frames)
    for parameter in unet.parameters():
        if not parameter.any():  # layers that add nothing at first would hide differences
            nn.init.normal_(parameter, std=0.02)
    return unet.eval()


def predict_as_the_original(unet: UNetTriplaneModel, sample: Tensor, timestep: Tensor, previous: Tensor) -> Tensor:
    """Evaluate the denoiser with the clip before and without it, each plane on its own, at a guidance of 0."""
    outputs = []
    for condition in (previous, torch.zeros_like(previous)):
        joined = torch.cat([sample, condition], dim=1)
        planes = [plane.contiguous() for plane in split_planes(joined, unet.latent_size)]
        temb = unet._embed_timestep(timestep, joined)
        outputs.append(join_planes(unet._denoise_planes(planes, temb, len(joined))))
    return (1 + 0.0) * outputs[0] - 0.0 * outputs[1]


@torch.no_grad()
def sample_clip(unet: UNetTriplaneModel, previous: Tensor, num_steps: int, is_original: bool) -> Tensor:
    """
    Sample the latents of a clip behind another one.

    Args:
        unet ([`UNetTriplaneModel`]): The denoiser.
        previous (`torch.Tensor` of shape `(batch_size, channels, positions)`): Latents of the clip before.
        num_steps (`int`): Steps of the scheduler.
        is_original (`bool`): Whether work is done as in the original.

    Returns:
        `torch.Tensor` of the shape of `previous`.
    """
    predict = predict_as_the_original if is_original else predict_after_clip
    scheduler, generator = PairedDDIMScheduler(), torch.Generator().manual_seed(1)
    scheduler.set_timesteps(num_steps)
    latents = torch.randn(previous.shape, generator=generator)
    for timestep in scheduler.timesteps:
        output = predict(unet, latents, timestep, previous)
        latents = scheduler.step(output, timestep, latents, generator=generator).prev_sample
    return latents


def compare(unet: UNetTriplaneModel, num_steps: int, pairs: int) -> dict[str, Any]:
    """Time both ways in turn; also return how far their results differ."""
    shape = (1, unet.config.in_channels, sum(unet.latent_size.lengths))
    previous = torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
    kept: dict[bool, Tensor] = {}

    def call(is_original: bool) -> None:
        kept[is_original] = sample_clip(unet, previous, num_steps, is_original)

    seconds = time_pairs(lambda: call(False), lambda: call(True), pairs)
    return {"seconds": seconds, "difference": float((kept[False] - kept[True]).abs().max())}


def main(
    base_channels: Annotated[int, typer.Option(min=32, help="Channels of the first level; the paper: 256, 128.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a clip.")] = 4,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of timed clips.")] = 5,
    num_frames: Annotated[int, typer.Option(min=8, help="Frames of the latents.")] = 16,
    latent_size: Annotated[int, typer.Option(min=8, help="Height and width of the latents.")] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch; all if not given.")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="A tiny network, to try the script.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Compare the cost of a sampled clip with the original's schedule of work."""
    check_json_file(json_file)
    if threads is not None:
        torch.set_num_threads(threads)
    unet = build(None if tiny else base_channels, TriplaneSize(num_frames, latent_size, latent_size))
    result = compare(unet, steps, pairs)
    ratio = statistics.median(original / ours for ours, original in result["seconds"])
    ours, original = (statistics.median(column) for column in zip(*result["seconds"], strict=True))
    table = Table("seconds per clip", "ours", "original's schedule", "times faster", title=f"{steps} steps on the CPU")
    table.add_row(
        f"{num_frames} frames, {latent_size}x{latent_size}", f"{ours:.3f}", f"{original:.3f}", f"{ratio:.2f}"
    )
    is_same = result["difference"] <= TOLERANCE
    lines = [
        f"times faster: {ratio:.3f}, bar {BAR:.2f}: {'holds' if ratio >= BAR else 'MISSED'}",
        f"largest difference: {result['difference']:.1e}, bar {TOLERANCE:.0e}: {'holds' if is_same else 'MISSED'}",
        describe_load(),
    ]
    if tiny:
        lines.append("The bars are for full networks, not for this run.")
    show(Console(), table, lines)
    if json_file is not None:
        numbers = {**describe_run(), "tiny": tiny, "base_channels": base_channels, "steps": steps}
        write_json(json_file, {**numbers, **result, "times_faster": ratio})


if __name__ == "__main__":
    typer.run(main)
