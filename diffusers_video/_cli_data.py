"""
The commands `data plan` and `data pack`: what a training run would see of its clips, and its encodings made once.

Importing this module loads neither PyTorch nor diffusers.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffusers_video._cli_command import choose_device, progress_bar
from diffusers_video._cli_options import option


if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from diffusers_video.data.plan import ClipPlan
    from diffusers_video.training.config import VideoUNetConfig


PIPED_WIDTH = 119  # columns where there is no terminal
CLIPS, FILES, OUTPUT, ENCODING = "Clips, as in training", "Files, as in training", "Output", "Encoding"

ExportFormat = Literal["mp4", "png"]


@dataclass(kw_only=True)
class DataOptions:
    """What the commands share: the settings of training that say which clips there are, under the same names."""

    config: Annotated[
        Path | None, option("--config", help="YAML file of a training run to take settings from; flags overrule it.")
    ] = None
    train: Annotated[
        str | None, option("--train", help="What will train; with spatial, clips are single frames.", panel=CLIPS)
    ] = None
    num_frames: Annotated[int | None, option("--num-frames", help="Frames per clip; by default 16.", panel=CLIPS)] = (
        None
    )
    fps: Annotated[float | None, option("--fps", help="Frames per second; by default 8.", panel=CLIPS)] = None
    resolution: Annotated[
        int | None, option("--resolution", help="Height and width; by default 512, 64 for shapes.", panel=CLIPS)
    ] = None
    height: Annotated[int | None, option("--height", help="Height instead of --resolution.", panel=CLIPS)] = None
    width: Annotated[int | None, option("--width", help="Width instead of --resolution.", panel=CLIPS)] = None
    buckets: Annotated[
        list[str] | None,
        option("--buckets", help="Sizes and lengths instead, such as 512x320@16 320x512@8.", panel=CLIPS),
    ] = None
    clips_per_video: Annotated[
        int | None, option("--clips-per-video", help="The most clips per video; by default all that fit.", panel=CLIPS)
    ] = None
    allow_upscale: Annotated[
        bool, option("--allow-upscale", help="Enlarge videos that are smaller than every bucket.", panel=CLIPS)
    ] = False
    allow_repeat: Annotated[
        bool, option("--allow-repeat", help="Repeat frames of videos slower than --fps.", panel=CLIPS)
    ] = False
    heldout_fraction: Annotated[
        float | None, option("--heldout-fraction", help="Leave out this last part of every video.", panel=CLIPS)
    ] = None
    heldout: Annotated[bool, option("--heldout", help="Take the clips that are held out instead.", panel=CLIPS)] = (
        False
    )
    video_column: Annotated[
        str | None, option("--video-column", help="Column of the file names in the list.", panel=FILES)
    ] = None
    caption_column: Annotated[
        str | None, option("--caption-column", help="Column of the captions in the list.", panel=FILES)
    ] = None

    def training_config(self, **settings: Any) -> VideoUNetConfig:
        """
        Make settings of a training run, which checks them.

        Args:
            settings: What else is set; `None` and `False` are not.

        Returns:
            [`VideoUNetConfig`]: With placeholders where nothing is said of a model and its training.

        Raises:
            ValueError: If a setting is out of its range, or settings contradict each other.
        """
        from diffusers_video.training.base_config import read_yaml
        from diffusers_video.training.config import VideoUNetConfig

        known = VideoUNetConfig.__dataclass_fields__
        own = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name in known}
        given = {name: value for name, value in {**own, **settings}.items() if _is_given(value)}
        merged = {} if self.config is None else read_yaml(self.config, VideoUNetConfig)
        merged = {"pretrained_model_name_or_path": "", "train_data_dir": "", "output_dir": "", **merged, **given}
        if not {"max_train_steps", "num_train_epochs"} & merged.keys():
            merged["max_train_steps"] = 1
        config = VideoUNetConfig(**merged)
        if not config.train_data_dir:
            raise ValueError("`DATA` must name the clips, or --config a file with `train_data_dir`, but neither does.")
        if self.heldout and not (config.is_shapes or config.heldout_fraction):
            raise ValueError("`--heldout` has no effect without `--heldout-fraction`. Set it, or leave both out.")
        return config

    def span(self, config: VideoUNetConfig) -> tuple[float, float]:
        """
        Say which part of each video is used.

        Args:
            config ([`VideoUNetConfig`]): From [`DataOptions.training_config`].

        Returns:
            `tuple[float, float]`: Start and end, as parts of the video's length.
        """
        split = 1 - config.heldout_fraction
        return (split, 1) if self.heldout else (0, split)


def _is_given(value: Any) -> bool:
    return value is not None and value is not False


@dataclass(kw_only=True)
class PlanOptions(DataOptions):
    """Arguments of `data plan`."""

    data: Annotated[
        str | None,
        typer.Argument(
            help="Folder of videos, or a metadata.jsonl or CSV file; not needed with --config.", show_default=False
        ),
    ] = None
    random_crop: Annotated[bool, option("--random-crop", help="With --export: crop as in training.", panel=CLIPS)] = (
        False
    )
    random_flip: Annotated[bool, option("--random-flip", help="With --export: flip as in training.", panel=CLIPS)] = (
        False
    )
    seed: Annotated[int | None, option("--seed", help="With --export: seed of crops and flips.", panel=CLIPS)] = None
    verify: Annotated[bool, option("--verify", help="Also decode every clip: finds damage inside streams.")] = False
    max_rows: Annotated[
        int | None, option("--max-rows", min=0, help="The most rows of a table; by default all.", panel=OUTPUT)
    ] = None
    json_file: Annotated[Path | None, option("--json", help="Save the plan to this file.", panel=OUTPUT)] = None
    overwrite: Annotated[bool, option("--overwrite", help="Replace the file of --json.", panel=OUTPUT)] = False
    export: Annotated[
        Path | None, option("--export", help="Write the clips that training sees into this new folder.", panel=OUTPUT)
    ] = None
    export_format: Annotated[
        ExportFormat | None,
        option("--export-format", help="mp4 (default), or png: folders of exactly the frames.", panel=OUTPUT),
    ] = None

    def __post_init__(self) -> None:
        for name in ("random_crop", "random_flip", "seed", "export_format"):
            if self.export is None and _is_given(getattr(self, name)):
                raise ValueError(f"`--{name.replace('_', '-')}` has no effect without --export. Add that.")
        if self.json_file is not None and self.json_file.is_file() and not self.overwrite:
            raise FileExistsError(f"`--json` {self.json_file} exists. Choose another name, or add --overwrite.")
        if self.json_file is not None and not self.json_file.parent.is_dir():
            raise FileNotFoundError(f"`--json` must lie in a folder that exists, but is {self.json_file}. Make it.")


@dataclass(kw_only=True)
class PackOptions(DataOptions):
    """Arguments of `data pack`."""

    data: Annotated[
        str, typer.Argument(help="Folder or list of videos, or `shapes`: made on the fly.", show_default=False)
    ]
    folder: Annotated[Path, typer.Argument(help="Where the packed clips go.", show_default=False)]
    model: Annotated[
        str | None,
        option(
            "--model",
            "--pretrained-model-name-or-path",
            help="Folder or Hub id of the pipeline to be trained, or folder of its autoencoder where there is no text;"
            " not needed with --config.",
            panel=ENCODING,
        ),
    ] = None
    revision: Annotated[str | None, option("--revision", help="Branch, tag or commit on the Hub.", panel=ENCODING)] = (
        None
    )
    variant: Annotated[
        str | None, option("--variant", help="Variant of the weight files, such as fp16.", panel=ENCODING)
    ] = None
    device: Annotated[
        str | None,
        option("--device", help="cpu, cuda, cuda:1, ...; by default the accelerator, if any.", panel=ENCODING),
    ] = None
    batch_size: Annotated[
        int, option("--batch-size", min=1, help="Clips encoded together; by default 1.", panel=ENCODING)
    ] = 1
    clips_per_shard: Annotated[
        int, option("--clips-per-shard", min=1, help="Clips per file; by default 64.", panel=OUTPUT)
    ] = 64
    num_shapes_clips: Annotated[
        int | None, option("--num-shapes-clips", help="Clips of `shapes`; by default 1000.", panel=CLIPS)
    ] = None
    shapes_options: Annotated[
        str | None,
        option("--shapes-options", help='More about `shapes` as JSON, such as \'{"colours": ["red"]}\'.', panel=CLIPS),
    ] = None
    seed: Annotated[int | None, option("--seed", help="Seed of `shapes`; by default 0.", panel=CLIPS)] = None


def plan(options: PlanOptions) -> None:
    """Say before training which clips every video gives, and why the rest of it is not used."""
    from diffusers_video.data.report import format_plan
    from diffusers_video.training.training_data import is_packed, plan_videos

    config = options.training_config(train_data_dir=options.data)
    if config.is_shapes or is_packed(config.train_data_dir):
        raise ValueError(f"`DATA` must be videos, but of {config.train_data_dir!r} every clip is used as it is.")
    with progress_bar("Measuring videos") as progress:
        clip_plan = plan_videos(
            config, config.train_data_dir, options.span(config), verify=options.verify, progress=progress
        )
    width = shutil.get_terminal_size((PIPED_WIDTH, 0)).columns
    typer.echo(format_plan(clip_plan, width=width, max_rows=options.max_rows).rstrip())
    if config.max_train_samples is not None and not options.heldout:
        typer.echo(f"Training takes the first {config.max_train_samples} of these clips (`max_train_samples`)")
    if options.json_file is not None:
        clip_plan.save(options.json_file)
        typer.echo(f"Wrote {options.json_file}: the plan")
    if not clip_plan.clips:
        raise ValueError(f"{config.train_data_dir!r} gives no clip of {config.bucket_names()}; the plan says why.")
    if options.export is not None:
        _export(clip_plan, config, options)


def _export(clip_plan: ClipPlan, config: VideoUNetConfig, options: PlanOptions) -> None:
    from diffusers_video.data.dataset import VideoClipDataset
    from diffusers_video.data.export import export_clips

    is_varied = not options.heldout  # held-out clips are neither cropped nor flipped at random
    dataset = VideoClipDataset(
        clip_plan,
        seed=config.seed,
        random_crop=config.random_crop and is_varied,
        random_flip=config.random_flip and is_varied,
    )
    with progress_bar("Writing clips") as progress:
        file_format = options.export_format or "mp4"
        paths = export_clips(dataset, options.export, file_format=file_format, progress=progress)
    typer.echo(f"Wrote {options.export}: {len(paths)} clips with their captions")


def pack(options: PackOptions) -> None:
    """
    Encode clips and captions once, into safetensors files that training reads instead of videos.

    Interrupted, the same command goes on where it stopped.
    """
    from functools import partial

    from diffusers_video.data.packed import PackedClipDataset
    from diffusers_video.data.packing import pack_clips
    from diffusers_video.training.encoders import load_encoders
    from diffusers_video.training.encoding import encode_clips, encoding_identity
    from diffusers_video.training.models import place_frozen_models

    config = options.training_config(train_data_dir=options.data, pretrained_model_name_or_path=options.model)
    if not config.pretrained_model_name_or_path:
        raise ValueError("`--model` must name the pipeline that encodes, but is missing. Add it, or a --config.")
    device = choose_device(options.device)
    dataset = _load_clips(options, config)
    pipeline = load_encoders(config)
    identity = encoding_identity(pipeline)
    place_frozen_models(pipeline, device, "no")
    with progress_bar("Encoding clips") as progress:
        pack_clips(
            dataset,
            partial(encode_clips, pipeline),
            options.folder,
            identity=identity,
            batch_size=options.batch_size,
            clips_per_shard=options.clips_per_shard,
            progress=progress,
        )
    packed = PackedClipDataset(options.folder)
    left_out = f" ({len(packed.skipped)} could not be read)" if packed.skipped else ""
    reads_text = hasattr(pipeline, "text_encoder")
    script, part = ("", "model") if reads_text else (" --script unconditional", "vae")
    typer.echo(
        f"Wrote {options.folder}: {len(packed)} clips{left_out}. Train on them: diffusers-video train{script}"
        f" --train_data_dir {options.folder} --pretrained_{part}_name_or_path"
        f" {config.pretrained_model_name_or_path} ..."
    )


def _load_clips(options: PackOptions, config: VideoUNetConfig) -> Dataset:
    from diffusers_video.data.dataset import VideoClipDataset
    from diffusers_video.training.training_data import is_packed, load_shapes, plan_videos

    if config.is_shapes:
        return load_shapes(config, config.num_shapes_clips, is_heldout=options.heldout)
    for name in ("num_shapes_clips", "seed"):
        if getattr(options, name) is not None:
            raise ValueError(f"`--{name.replace('_', '-')}` has an effect on `shapes` only. Leave it out.")
    if is_packed(config.train_data_dir):
        raise ValueError(f"`DATA` must be videos or `shapes`, but {config.train_data_dir!r} holds packed clips.")
    with progress_bar("Measuring videos") as progress:
        clip_plan = plan_videos(config, config.train_data_dir, options.span(config), progress=progress)
    num_unused = len(clip_plan.unused)
    if num_unused:
        typer.echo(f"{num_unused} parts of the videos are not used; `diffusers-video data plan` says why.", err=True)
    return VideoClipDataset(clip_plan, random_crop=config.random_crop, random_flip=config.random_flip)
