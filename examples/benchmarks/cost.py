"""
What a clip costs in each of the five systems: the account of parameters, operations, calls and memory.

Networks have the sizes of their papers and draw 16 frames of 256x256 pixels unless the paper says otherwise. Nothing
is computed: operations and memory are counted under fake tensors.

    python examples/benchmarks/cost.py
    python examples/benchmarks/cost.py --json cost.json --markdown docs/cost.md
"""

import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from benchmark_tools import NUM_TOKENS, check_json_file, counting_flops, show, write_json
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusers_video.models.unet_space_time import UNetSpaceTimeModel
from diffusers_video.models.unet_triplane import UNetTriplaneModel
from diffusers_video.models.unet_video_condition import PRESETS, UNetVideoConditionModel


# Shapes: B videos, C channels, F frames, H height, W width, L text tokens, D text width.

REFERENCE = "VDM, in pixels at 256x256"
ATTENTION_OPERATORS = ("bmm", "baddbmm", "_scaled_dot_product")  # products of features; weights are in none of them
LATENT_RATIO, LATENT_TOLERANCE = 64.0, 0.02  # 8x8 pixels per position of the latents


@dataclass(frozen=True, kw_only=True)
class System:
    """
    A denoiser of a paper, and how often it is called for a clip.

    Args:
        build (`Callable[[], torch.nn.Module]`): Makes the network.
        sample (`tuple[int, ...]`): Shape of the noisy clip.
        text (`tuple[int, int]`, *optional*): Tokens and width of the text.
        steps (`int`): Steps of the sampler.
        calls_per_step (`int`): 2 with classifier-free guidance.
        source (`str`): Where steps and guidance come from.
        claim (`str`): What the paper says of its cost.
    """

    build: Callable[[], nn.Module]
    sample: tuple[int, ...]
    text: tuple[int, int] | None = None
    steps: int
    calls_per_step: int = 1
    source: str
    claim: str = ""

    @property
    def calls(self) -> int:
        """`int`: Network calls per clip."""
        return self.steps * self.calls_per_step

    def make_inputs(self) -> tuple[Any, ...]:
        """Arguments of the network."""
        text = () if self.text is None else (torch.randn(1, *self.text),)
        return torch.randn(self.sample), torch.tensor([10.0]), *text


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Counts of one forward call of a denoiser for one clip."""

    parameters: int
    weight_flops: int  # of convolutions and linear layers
    attention_flops: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """`int`: All counted operations."""
        return self.weight_flops + self.attention_flops


def _video_unet(preset: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: UNetVideoConditionModel(cross_attention_dim=768, **PRESETS[preset], **options)


def _space_time_unet(preset: str) -> Callable[[], nn.Module]:
    return lambda: UNetSpaceTimeModel.from_preset(preset)


_SD_TEXT = {"sample": (1, 4, 16, 32, 32), "text": (NUM_TOKENS, 768), "steps": 50, "calls_per_step": 2}
_VDM = {
    "build": _space_time_unet("vdm_text"),
    "text": (NUM_TOKENS, 1024),
    "steps": 256,
    "calls_per_step": 2,
    "source": "Appendix A of the paper, with guidance",
}
_PVDM = {
    "sample": (1, 4, 32 * 32 + 2 * 16 * 32),
    "steps": 400,
    "source": "the paper's best setting, first clip",
    "claim": "",
}
SYSTEMS = {
    "VideoLDM": System(
        build=_video_unet("videoldm"), **_SD_TEXT, source="assumed: the paper gives none (DDIM, with guidance)",
        claim="656M temporal parameters, at text width 1024 (ours: 656.1M; 649.7M of the 1509.2M here)",
    ),
    "MagicVideo": System(
        build=_video_unet("magicvideo"), **_SD_TEXT, source="assumed as for VideoLDM",
        claim="about 64 times fewer FLOPs than VDM",
    ),
    "LVDM, unconditional": System(
        build=_space_time_unet("lvdm"), sample=(1, 4, 4, 32, 32), steps=1000, source="released script",
        claim="548.9M parameters (released)",
    ),
    "LVDM, text": System(
        build=_space_time_unet("lvdm_text_to_video"), **_SD_TEXT, source="released script",
        claim="959.0M parameters (released)",
    ),
    "VDM, in pixels at 64x64": System(sample=(1, 3, 16, 64, 64), **_VDM),
    REFERENCE: System(sample=(1, 3, 16, 256, 256), **_VDM, claim="not in the paper: its network on larger frames"),
    "PVDM-L": System(
        build=UNetTriplaneModel, **{**_PVDM, "claim": "0.243 TFLOP per call (measured on the released code)"}
    ),
    "PVDM-S": System(
        build=lambda: UNetTriplaneModel(block_out_channels=(128, 256, 512, 512)),
        **{**_PVDM, "claim": "0.072 TFLOP per call (measured on the released code)"},
    ),
}  # fmt: skip


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operators return, as long as anything refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._references: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf, given)
        return result

    def _add(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in given and key not in self._references:
            return  # a view of a weight or an input, which were there before
        if key not in self._references:
            self.live += size
            self.peak = max(self.peak, self.live)
        self._references[key] = self._references.get(key, 0) + 1
        weakref.finalize(tensor, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._references[key] -= 1
        if not self._references[key]:
            del self._references[key]
            self.live -= size


def count_cost(build: Callable[[], nn.Module], make_inputs: Callable[[], tuple[Any, ...]]) -> Cost:
    """
    Count one forward call; no weight and no feature is ever computed.

    Args:
        build (`Callable`): Makes the network.
        make_inputs (`Callable`): Makes its arguments.

    Returns:
        [`Cost`]: A multiplication and an addition are two operations. Memory is the peak of what operators return,
        float32, attention fused, without what kernels allocate inside.
    """
    with FakeTensorMode(), torch.no_grad():
        model, inputs = build().eval().requires_grad_(False), make_inputs()
        with counting_flops() as counter:
            model(*inputs)
        with LiveBytes() as memory:
            model(*inputs)
    counts = {str(operator): count for operator, count in counter.get_flop_counts().get("Global", {}).items()}
    attention = sum(count for name, count in counts.items() if name.split(".")[1].startswith(ATTENTION_OPERATORS))
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_flops=sum(counts.values()) - attention,
        attention_flops=attention,
        activation_bytes=memory.peak,
    )


def count_latents_against_pixels(text_dim: int = 768, size: int = 32, **options: Any) -> tuple[Cost, Cost]:
    """
    Count one image U-Net, with MagicVideo's layers, on latents and on the pixels that they stand for.

    Args:
        text_dim (`int`, *optional*, defaults to 768): Width of the text.
        size (`int`, *optional*, defaults to 32): Height and width of the latents, each of 8x8 pixels.
        options: Further options of the network.

    Returns:
        `tuple` of two [`Cost`]: 4 channels of latents, 3 of pixels.
    """
    options = {"cross_attention_dim": text_dim, **PRESETS["magicvideo"], **options}
    costs = []
    for channels, side in ((4, size), (3, 8 * size)):
        system = System(
            build=lambda channels=channels: UNetVideoConditionModel(
                in_channels=channels, out_channels=channels, **options
            ),
            sample=(1, channels, 16, side, side), text=(NUM_TOKENS, text_dim), steps=1, source="",
        )  # fmt: skip
        costs.append(count_cost(system.build, system.make_inputs))
    return costs[0], costs[1]


def compare_latents(latents: Cost, pixels: Cost) -> list[str]:
    """Say how the two differ, and whether convolutions and linear layers differ as positions do."""
    ratio = pixels.weight_flops / latents.weight_flops
    holds = abs(ratio / LATENT_RATIO - 1) <= LATENT_TOLERANCE
    return [
        f"The same U-Net on 256x256 pixels over 32x32 latents, convolutions and linear layers: {ratio:.2f}, bar 64"
        f" within 2 %: {'holds' if holds else 'MISSED'}",
        f"With attention: {pixels.flops / latents.flops:.1f} (MagicVideo claims about 64, and does not say of what)",
    ]


def make_rows(costs: dict[str, Cost]) -> list[tuple[str, ...]]:
    """The lines of the table, as text."""
    reference = costs.get(REFERENCE)
    per_clip = reference and reference.flops * SYSTEMS[REFERENCE].calls
    rows = []
    for name, cost in costs.items():
        system = SYSTEMS[name]
        flops = cost.flops * system.calls
        rows.append((
            name,
            "x".join(map(str, system.sample[1:])),
            f"{cost.parameters / 1e6:.1f}",
            f"{cost.weight_flops / 1e12:.3f}",
            f"{cost.flops / 1e12:.3f}",
            f"{system.steps} x {system.calls_per_step}",
            f"{flops / 1e12:,.0f}",
            f"{per_clip / flops:,.1f}" if per_clip else "",
            f"{cost.activation_bytes / 2**20:,.0f}",
            system.claim,
        ))  # fmt: skip
    return rows


COLUMNS = (
    "system", "input", "parameters, M", "TFLOP per call, without attention", "with attention", "calls per clip",
    "TFLOP per clip", "VDM at 256x256 over it", "activations, MiB", "claim",
)  # fmt: skip


def render_markdown(rows: Sequence[tuple[str, ...]], verdicts: Sequence[str]) -> str:
    """The page for the documentation."""
    head = [
        "# What a clip costs in each system",
        "",
        "Written by `python examples/benchmarks/cost.py --markdown docs/cost.md`. One clip of 16 frames; networks of"
        " the papers' sizes, nothing trained. Operations (a multiplication and an addition are two) are counted by"
        f" PyTorch {torch.__version__.split('+')[0]} under fake tensors; activations are the peak of what operators"
        " return in one call, float32, attention fused. Autoencoders and text encoders are not counted.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    sources = [f"- {name}: {system.steps} steps, {system.source}." for name, system in SYSTEMS.items()]
    return "\n".join(
        [*head, *(f"| {' | '.join(row)} |" for row in rows), "", *(f"{line}.\n" for line in verdicts),
         "Where the numbers of steps come from:", "", *sources, ""]
    )  # fmt: skip


def main(
    only: Annotated[list[str] | None, typer.Option(help="Count this system alone; may be given again.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the table to this file.")] = None,
) -> None:
    """Count what a clip costs in each system."""
    check_json_file(json_file)
    names = list(SYSTEMS) if not only else only
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise typer.BadParameter(f"`--only` must be one of {list(SYSTEMS)}, but is {unknown[0]!r}.")
    if markdown is not None and (only or not markdown.absolute().parent.is_dir()):
        raise typer.BadParameter("`--markdown` must name a file in an existing folder, and goes without `--only`.")
    console = Console(width=200)
    costs = {name: count_cost(SYSTEMS[name].build, SYSTEMS[name].make_inputs) for name in names}
    rows = make_rows(costs)
    table = Table(*COLUMNS, title="Cost of a clip")
    for row in rows:
        table.add_row(*row)
    verdicts = [] if only else compare_latents(*count_latents_against_pixels())
    show(console, table, verdicts)
    if json_file is not None:
        write_json(json_file, {name: {**asdict(cost), "calls": SYSTEMS[name].calls} for name, cost in costs.items()})
    if markdown is not None:
        partial = markdown.with_name(markdown.name + ".partial")
        partial.write_text(render_markdown(rows, verdicts), encoding="utf-8")
        os.replace(partial, markdown)


if __name__ == "__main__":
    typer.run(main)
