"""
Arguments of the commands, each set checked as soon as it is made.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from diffusers_video.embedded import SHAPES_GUIDANCE, SHAPES_STEPS


SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "dpm-sde": "DPMSolverSDEScheduler",
    "dpm-single": "DPMSolverSinglestepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
    "kdpm2-ancestral": "KDPM2AncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "sa": "SASolverScheduler",
    "tcd": "TCDScheduler",
    "unipc": "UniPCMultistepScheduler",
}
DEFAULT_STEPS = 50
LARGEST_SEED = 2**63 - 1
LARGEST_PLAIN_GUIDANCE = 1.0  # up to here the prompt is followed, but nothing is steered away from

Scheduler = Literal[tuple(SCHEDULERS)]
Preset = Literal["videoldm", "light", "magicvideo"]
DType = Literal["float32", "float16", "bfloat16"]
Offload = Literal["none", "model", "sequential", "group"]

SAMPLING, START, RUN, LOADING = "Sampling", "Starting from a video", "Device and memory", "Loading"


def option(*names: str, help: str, panel: str | None = None, **limits: Any) -> Any:
    """
    Describe an option whose default is explained in words.

    Args:
        names (`str`): How it is written, such as `"--seed"`.
        help (`str`): What it does.
        panel (`str`, *optional*): Heading under which `--help` lists it.
        limits: `min`, `max` and other arguments of `typer.Option`.

    Returns:
        The annotation that Typer reads.
    """
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **limits)


@dataclass(kw_only=True)
class RunOptions:
    """Arguments of every command that runs a pipeline; `None` stands for what the pipeline does by itself."""

    model: Annotated[
        str | None,
        option("--model", help="Video pipeline: a folder or Hub id. By default `shapes`, which is in the package."),
    ] = None
    output: Annotated[
        Path, typer.Option("--output", "-o", help="What to write: .mp4, .webm, .gif, or no suffix for a PNG folder.")
    ] = Path("out.mp4")
    overwrite: Annotated[bool, option("--overwrite", help="Replace what stands at --output.")] = False
    fps: Annotated[
        str | None, option("--fps", help="Frames per second, such as 8, 12.5 or 30000/1001.", metavar="RATE")
    ] = None
    crf: Annotated[
        float | None, option("--crf", min=0, help="Quality, 0 is best; by default 18 for .mp4 and 24 for .webm.")
    ] = None
    num_inference_steps: Annotated[
        int | None,
        option(
            "--steps",
            "--num-inference-steps",
            min=1,
            help=f"Denoising steps; by default {DEFAULT_STEPS}, of `shapes` {SHAPES_STEPS}.",
            panel=SAMPLING,
        ),
    ] = None
    guidance_scale: Annotated[
        float | None,
        option(
            "--guidance-scale",
            min=0,
            help=f"How closely the prompt is followed; by default 7.5, of `shapes` {SHAPES_GUIDANCE:g}.",
            panel=SAMPLING,
        ),
    ] = None
    guidance_rescale: Annotated[
        float | None,
        option("--guidance-rescale", min=0, max=1, help="Share of over-exposure taken back.", panel=SAMPLING),
    ] = None
    negative_prompt: Annotated[str | None, option("--negative-prompt", help="What to avoid.", panel=SAMPLING)] = None
    seed: Annotated[
        int | None,
        option(
            "--seed",
            min=0,
            max=LARGEST_SEED,
            metavar="INTEGER",
            help="Same seed, same video. By default random.",
            panel=SAMPLING,
        ),
    ] = None
    scheduler: Annotated[
        Scheduler | None,
        option("--scheduler", help=f"Scheduler to use: {', '.join(SCHEDULERS)}.", panel=SAMPLING, metavar="NAME"),
    ] = None
    device: Annotated[
        str | None, option("--device", help="cpu, cuda, cuda:1, ...; by default the accelerator, if any.", panel=RUN)
    ] = None
    dtype: Annotated[
        DType | None, option("--dtype", help="Type of weights; by default float16 on CUDA, else float32.", panel=RUN)
    ] = None
    offload: Annotated[
        Offload,
        option("--offload", help="Let components, or single layers, wait on the CPU: less memory.", panel=RUN),
    ] = "none"
    decode_chunk_size: Annotated[
        int | None, option("--decode-chunk-size", min=1, help="Frames decoded at once; by default 16.", panel=RUN)
    ] = None
    revision: Annotated[str | None, option("--revision", help="Branch, tag or commit on the Hub.", panel=LOADING)] = (
        None
    )
    variant: Annotated[
        str | None, option("--variant", help="Variant of the weight files, such as fp16.", panel=LOADING)
    ] = None
    token: Annotated[str | None, option("--token", help="Hub token, if not the stored one.", panel=LOADING)] = None

    pipeline_arguments_names: ClassVar[tuple[str, ...]] = (
        *("num_inference_steps", "guidance_scale", "guidance_rescale", "negative_prompt", "decode_chunk_size"),
    )
    load_arguments_names: ClassVar[tuple[str, ...]] = ("revision", "variant", "token")

    def __post_init__(self) -> None:
        for name in ("guidance_scale", "guidance_rescale", "crf"):
            if not math.isfinite(getattr(self, name) or 0):
                raise ValueError(f"`{flag_of(name)}` must be a finite number, but is {getattr(self, name)}.")
        if self.guidance_scale is not None and self.guidance_scale <= LARGEST_PLAIN_GUIDANCE:
            for name in ("negative_prompt", "guidance_rescale"):
                if getattr(self, name):
                    raise ValueError(
                        f"`{flag_of(name)}` has no effect without guidance. Set `--guidance-scale` above 1, not to"
                        f" {self.guidance_scale:g}."
                    )

    def require(self, needed: str, value: Any, names: tuple[str, ...]) -> None:
        """
        Refuse options that have no effect without another one.

        Args:
            needed (`str`): What to call the other one.
            value (`Any`): Its value; `None` if it was not given.
            names (`tuple[str, ...]`): Fields that need it.

        Raises:
            ValueError: If one was given without it.
        """
        for name in names:
            if value is None and getattr(self, name) is not None:
                raise ValueError(f"`{flag_of(name)}` has no effect without {needed}. Add that, or leave it out.")

    def pipeline_arguments(self) -> dict[str, Any]:
        """
        Collect what a call of the pipeline takes over unchanged.

        Returns:
            `dict[str, Any]`: The arguments that were given.
        """
        return self._given(self.pipeline_arguments_names)

    def load_arguments(self) -> dict[str, Any]:
        """
        Collect what the loaders take.

        Returns:
            `dict[str, Any]`: The arguments that were given.
        """
        return self._given(self.load_arguments_names)

    def _given(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(kw_only=True)
class SamplingOptions(RunOptions):
    """Arguments of every command that samples videos of a size that can be chosen."""

    height: Annotated[int | None, option("--height", min=1, help="Height in pixels.")] = None
    width: Annotated[int | None, option("--width", min=1, help="Width in pixels.")] = None

    pipeline_arguments_names: ClassVar[tuple[str, ...]] = (*RunOptions.pipeline_arguments_names, "height", "width")


@dataclass(kw_only=True)
class GenerateOptions(SamplingOptions):
    """Arguments of `generate`."""

    prompt: Annotated[str, typer.Argument(help="What the video shows.", show_default=False)]
    image_model: Annotated[
        str | None,
        option("--image-model", help="Image model to make a video model of: a folder, Hub id or single file."),
    ] = None
    preset: Annotated[
        Preset | None, option("--preset", help="Temporal layers for --image-model; by default light.")
    ] = None
    num_frames: Annotated[int | None, option("--num-frames", min=1, help="Frames of the video.")] = None
    num_videos: Annotated[
        int, option("--num-videos", min=1, help="Videos to make, one after the other: out-1.mp4, out-2.mp4, ...")
    ] = 1
    seed: Annotated[
        int | None,
        option(
            "--seed",
            min=0,
            max=LARGEST_SEED,
            metavar="INTEGER",
            help="Same seed, same video; each further video takes the next number. By default random.",
            panel=SAMPLING,
        ),
    ] = None
    video: Annotated[
        Path | None, option("--video", help="Video to change; of a long one --num-frames are read.", panel=START)
    ] = None
    strength: Annotated[
        float | None, option("--strength", help="How much it changes, above 0 to 1; by default 0.8.", panel=START)
    ] = None
    config: Annotated[
        str | None, option("--config", help="Folder or Hub id of a single file's configuration.", panel=LOADING)
    ] = None

    pipeline_arguments_names: ClassVar[tuple[str, ...]] = (
        *SamplingOptions.pipeline_arguments_names,
        *("num_frames", "strength"),
    )
    load_arguments_names: ClassVar[tuple[str, ...]] = (*SamplingOptions.load_arguments_names, "config")

    def __post_init__(self) -> None:
        if self.model is not None and self.image_model is not None:
            raise ValueError("Only one of `--model` and `--image-model` may be given, but both are. Leave one out.")
        self.require("--image-model", self.image_model, ("preset", "config"))
        self.require("--model or --image-model", self.model or self.image_model, ("revision", "variant", "token"))
        self.require("--video", self.video, ("strength",))
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"`--strength` must be above 0 and at most 1, but is {self.strength}.")
        if self.strength is not None and int(self.strength * (self.num_inference_steps or self._default_steps)) < 1:
            raise ValueError(f"`--strength` {self.strength} leaves no step to run. Raise it, or raise --steps.")
        super().__post_init__()

    @property
    def _is_embedded(self) -> bool:
        return self.model is None and self.image_model is None

    @property
    def _default_steps(self) -> int:
        return SHAPES_STEPS if self._is_embedded else DEFAULT_STEPS

    def outputs(self) -> list[Path]:
        """
        Name what is to be written.

        Returns:
            `list[Path]`: One for each video.
        """
        if self.num_videos == 1:
            return [self.output]
        numbers = range(1, self.num_videos + 1)
        return [self.output.with_name(f"{self.output.stem}-{number}{self.output.suffix}") for number in numbers]

    def pipeline_arguments(self) -> dict[str, Any]:
        """
        Collect what a call of the pipeline takes over unchanged.

        Returns:
            `dict[str, Any]`: The arguments that were given, and what the model in the package samples best with.
        """
        return (embedded_arguments(self.prompt) if self._is_embedded else {}) | super().pipeline_arguments()


@dataclass(kw_only=True)
class InfoOptions:
    """Arguments of `info`; those of the clip have defaults that depend on the checkpoint."""

    checkpoint: Annotated[Path, typer.Argument(help="A folder or weight file on this machine.", show_default=False)]
    num_frames: Annotated[int | None, option("--num-frames", min=1, help="Frames of the clip.")] = None
    height: Annotated[int | None, option("--height", min=1, help="Height in pixels.")] = None
    width: Annotated[int | None, option("--width", min=1, help="Width in pixels.")] = None
    batch_size: Annotated[int | None, option("--batch-size", min=1, help="Clips made in one call; by default 1.")] = (
        None
    )
    dtype: Annotated[DType | None, option("--dtype", help="Type of weights; by default float16.")] = None
    decode_chunk_size: Annotated[
        int | None, option("--decode-chunk-size", min=1, help="Frames decoded at once; by default 16.")
    ] = None
    preset: Annotated[
        Preset | None, option("--preset", help="Temporal layers for an image model; by default light.")
    ] = None
    as_json: Annotated[bool, option("--json", help="Print everything as JSON.")] = False

    def clip_arguments(self) -> dict[str, Any]:
        """
        Collect what says which clip to estimate the memory of.

        Returns:
            `dict[str, Any]`: The arguments that were given.
        """
        names = ("num_frames", "height", "width", "batch_size", "dtype", "decode_chunk_size", "preset")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(kw_only=True)
class PushOptions:
    """Arguments of `push`."""

    folder: Annotated[Path, typer.Argument(help="Folder of a saved video pipeline.", show_default=False)]
    repo_id: Annotated[str, typer.Argument(help="Repository: user/name, or name in your account.", show_default=False)]
    message: Annotated[str | None, option("--message", "-m", help="Message of the commit.")] = None
    private: Annotated[
        bool | None, option("--private/--public", help="Visibility of a new repository; else the account's default.")
    ] = None
    token: Annotated[str | None, option("--token", help="Hub token, if not the stored one.")] = None
    create_pr: Annotated[bool, option("--create-pr", help="Open a pull request instead of committing.")] = False
    subfolder: Annotated[str | None, option("--subfolder", help="Folder of the repository to upload into.")] = None
    self_contained: Annotated[
        bool, option("--self-contained", help="Add files for loading with trust_remote_code=True.")
    ] = False
    overwrite_card: Annotated[
        bool, option("--overwrite-card", help="Replace the model card that stands on the Hub.")
    ] = False


def embedded_arguments(prompt: str | None) -> dict[str, Any]:
    """
    Say what the models in the package sample best with.

    Args:
        prompt (`str`, *optional*): What the video shows; without it there is no guidance by it.

    Returns:
        `dict[str, Any]`: Arguments of their pipelines.
    """
    guidance = {} if prompt is None else {"guidance_scale": SHAPES_GUIDANCE}
    return {"num_inference_steps": SHAPES_STEPS, **guidance}


def flag_of(name: str) -> str:
    """
    Write a field as its option.

    Args:
        name (`str`): Such as `"num_frames"`.

    Returns:
        `str`: Such as `"--num-frames"`.
    """
    return "--" + name.replace("_", "-")
