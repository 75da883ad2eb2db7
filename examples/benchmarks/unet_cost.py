"""
What a video U-Net costs, next to the image U-Net and to diffusers' video U-Nets of the same geometry, in one run.

Three numbers per network, all with random weights, the geometry of Stable Diffusion 1.5 and 77 text tokens:

- `flops`: counted under fake tensors, over those of the image U-Net on the same frames;
- `time`: seconds of one forward call on this CPU, ours and a peer's in turn, median of the pairs' ratios;
- `memory`: peak bytes that one forward call allocates on the CPU, weights excluded.

    python examples/benchmarks/unet_cost.py
    python examples/benchmarks/unet_cost.py --only time --pairs 9 --threads 1 --json cost.json
"""

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import diffusers
import torch
import typer
from benchmark_tools import (
    Clip,
    check_json_file,
    counting_flops,
    describe_load,
    describe_run,
    peak_bytes,
    repeat_text,
    show,
    time_pairs,
    verdict,
    write_json,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diffusers_video.models.unet_video_condition import PRESETS, UNetVideoConditionModel


# Shapes: B videos, C channels, F frames, H height, W width, L text tokens, D text width.

YARDSTICK = "UNet2DConditionModel"
FLOPS_BARS = {"videoldm": 1.68, "light": 1.20}  # at most this many times the image U-Net's
TIME_BARS = {"light": 0.82, "videoldm": 0.95}  # at most this share of the peer's seconds
PEERS = {"light": "UNetMotionModel", "videoldm": "UNetSpatioTemporalConditionModel"}
FLOPS_LATENT_SIZE = 32
MEASURES = ("flops", "time", "memory")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network: its class, what of its configuration is not the default, and how it takes a clip."""

    model_class: type[nn.Module]
    arrange: Callable[[Tensor, Tensor], tuple[Any, ...]]
    suffix: str = "2D"  # of the names of its blocks, for the tiny geometry
    options: dict[str, Any] = field(default_factory=dict)
    tiny_options: dict[str, Any] = field(default_factory=lambda: {"attention_head_dim": 2})

    def build(self, text_dim: int, is_tiny: bool) -> nn.Module:
        """Build the network with random weights, in evaluation mode."""
        options = {"cross_attention_dim": text_dim, **self.options}
        if is_tiny:
            options |= {
                "block_out_channels": (32, 64),
                "layers_per_block": 1,
                "down_block_types": (f"CrossAttnDownBlock{self.suffix}", f"DownBlock{self.suffix}"),
                "up_block_types": (f"UpBlock{self.suffix}", f"CrossAttnUpBlock{self.suffix}"),
                **self.tiny_options,
            }
        return self.model_class(**options).eval()


def as_images(sample: Tensor, text: Tensor) -> tuple[Any, ...]:
    """Arrange a clip for an image U-Net: every frame an image of its own."""
    return sample.transpose(1, 2).flatten(0, 1), 500, repeat_text(text, sample)


def as_video(sample: Tensor, text: Tensor) -> tuple[Any, ...]:
    """Arrange a clip for networks that take (B, C, F, H, W) and the text once per video."""
    return sample, 500, text


def as_motion(sample: Tensor, text: Tensor) -> tuple[Any, ...]:
    """Arrange a clip for `UNetMotionModel`, which takes the text once per frame."""
    return sample, 500, repeat_text(text, sample)


def as_frames_first(sample: Tensor, text: Tensor) -> tuple[Any, ...]:
    """Arrange a clip for `UNetSpatioTemporalConditionModel`: (B, F, C, H, W), and three numbers per video."""
    return sample.transpose(1, 2), 500, text, torch.zeros(sample.shape[0], 3)


NETWORKS = {
    YARDSTICK: Network(model_class=diffusers.UNet2DConditionModel, arrange=as_images),
    **{
        preset: Network(model_class=UNetVideoConditionModel, arrange=as_video, options=PRESETS[preset])
        for preset in FLOPS_BARS
    },
    "UNetMotionModel": Network(
        model_class=diffusers.UNetMotionModel,
        arrange=as_motion,
        suffix="Motion",
        tiny_options={"num_attention_heads": 2, "motion_num_attention_heads": 2},
    ),
    "UNet3DConditionModel": Network(
        model_class=diffusers.UNet3DConditionModel,
        arrange=as_video,
        suffix="3D",
        tiny_options={"attention_head_dim": 8},
    ),
    "UNetSpatioTemporalConditionModel": Network(
        model_class=diffusers.UNetSpatioTemporalConditionModel,
        arrange=as_frames_first,
        suffix="SpatioTemporal",
        options={"in_channels": 4},
        tiny_options={"num_attention_heads": (1, 2)},
    ),
}


def count_flops(network: Network, clip: Clip, is_tiny: bool = False) -> int:
    """
    Count the floating point operations of one forward call; no weight and no feature is ever computed.

    Args:
        network ([`Network`]): What to count.
        clip ([`Clip`]): Its input.
        is_tiny (`bool`, *optional*, defaults to `False`): Count the tiny geometry.

    Returns:
        `int`: Multiplications and additions of convolutions, linear layers and attention.
    """
    with FakeTensorMode(), torch.no_grad(), counting_flops() as counter:
        network.build(clip.text_dim, is_tiny)(*network.arrange(*clip.make()))
    return counter.get_total_flops()


def compare_flops(clip: Clip, is_tiny: bool) -> dict[str, int]:
    """Count every network of the table."""
    return {name: count_flops(network, clip, is_tiny) for name, network in NETWORKS.items()}


@torch.no_grad()
def compare_runs(preset: str, clip: Clip, measures: Sequence[str], pairs: int, is_tiny: bool) -> dict[str, Any]:
    """
    Run one of our presets against its peer.

    Args:
        preset (`str`): `"light"` or `"videoldm"`.
        clip ([`Clip`]): Input of both.
        measures (`Sequence[str]`): Out of `"time"` and `"memory"`.
        pairs (`int`): Pairs of timed calls.
        is_tiny (`bool`): Use the tiny geometry.

    Returns:
        `dict`: `seconds`, a list of pairs, and `peak_bytes`, one pair: ours first; those that were asked for.
    """
    inputs = clip.make()
    calls = []
    for network in (NETWORKS[preset], NETWORKS[PEERS[preset]]):
        model, arguments = network.build(clip.text_dim, is_tiny), network.arrange(*inputs)
        calls.append(lambda model=model, arguments=arguments: model(*arguments))
    result = {}
    if "time" in measures:
        result["seconds"] = time_pairs(*calls, pairs)
    if "memory" in measures:
        result["peak_bytes"] = [peak_bytes(call) for call in calls]
    del calls, model
    gc.collect()  # networks of several gigabytes: free this pair before the next is built
    return result


def flops_table(flops: dict[str, int], clip: Clip) -> tuple[Table, list[str]]:
    """Show the counts, and say whether each bar holds."""
    title = f"FLOPs, {clip.num_frames} frames, {clip.latent_size}x{clip.latent_size} latents"
    table = Table("network", "TFLOPs", f"over {YARDSTICK}", title=title)
    ratios = {name: count / flops[YARDSTICK] for name, count in flops.items()}
    for name, count in flops.items():
        table.add_row(name, f"{count / 1e12:.4g}", f"{ratios[name]:.3f}")
    verdicts = [
        verdict(f'FLOPs of "{preset}" over {YARDSTICK}', ratios[preset], bar) for preset, bar in FLOPS_BARS.items()
    ]
    return table, verdicts


def runs_table(runs: dict[str, dict[str, Any]], clip: Clip) -> tuple[Table, list[str]]:
    """Show seconds and bytes of each pair, and say whether each bar holds."""
    title = f"One forward call on the CPU, {clip.num_frames} frames, {clip.latent_size}x{clip.latent_size} latents"
    table = Table("measure", "ours", "peer", "ours", "peer", "ratio", title=title)
    verdicts = []
    for preset, run in runs.items():
        peer = PEERS[preset]
        if "seconds" in run:
            ratio = statistics.median(ours / other for ours, other in run["seconds"])
            ours, other = (statistics.median(column) for column in zip(*run["seconds"], strict=True))
            table.add_row("seconds", preset, peer, f"{ours:.3f}", f"{other:.3f}", f"{ratio:.3f}")
            verdicts.append(verdict(f'wall time of "{preset}" over {peer}', ratio, TIME_BARS[preset]))
        if "peak_bytes" in run:
            ours, other = run["peak_bytes"]
            table.add_row(
                "peak MiB", preset, peer, f"{ours / 2**20:.1f}", f"{other / 2**20:.1f}", f"{ours / other:.3f}"
            )
            verdicts.append(verdict(f'peak memory of "{preset}" over {peer}', ours / other, 1.0))
    return table, verdicts


def main(
    only: Annotated[Literal["flops", "time", "memory"] | None, typer.Option(help="Measure this alone.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of timed calls.")] = 5,
    num_frames: Annotated[int, typer.Option(min=1, max=32, help="Frames; `UNetMotionModel` takes up to 32.")] = 16,
    latent_size: Annotated[
        int | None,
        typer.Option(min=8, help="Height and width of the latents; 32 for FLOPs and 16 for runs if not given."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch; all if not given.")] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Tiny networks, to try the script; the bars are not for them.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Compare the cost of video U-Nets."""
    check_json_file(json_file)
    measures = MEASURES if only is None else (only,)
    if threads is not None:
        torch.set_num_threads(threads)
    text_dim = 16 if tiny else 768
    flops_clip = Clip(num_frames=num_frames, latent_size=latent_size or FLOPS_LATENT_SIZE, text_dim=text_dim)
    run_clip = Clip(num_frames=num_frames, latent_size=latent_size or Clip.latent_size, text_dim=text_dim)
    numbers = {**describe_run(), "tiny": tiny}
    console = Console()
    if "flops" in measures:
        flops = compare_flops(flops_clip, tiny)
        numbers["flops"] = {"clip": asdict(flops_clip), "networks": flops}
        show(console, *flops_table(flops, flops_clip))
    if set(measures) & {"time", "memory"}:
        runs = {preset: compare_runs(preset, run_clip, measures, pairs, tiny) for preset in PEERS}
        numbers["runs"] = {"clip": asdict(run_clip), "presets": runs}
        show(console, *runs_table(runs, run_clip))
        console.print(describe_load())
    if tiny or num_frames != Clip.num_frames or latent_size is not None:
        console.print("The bars are for full networks, 16 frames and the default latents, not for this run.")
    if json_file is not None:
        write_json(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
