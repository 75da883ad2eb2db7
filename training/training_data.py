"""The clips of a run: `shapes`, videos of a folder or list, or packed latents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from torch.utils.data import DataLoader, Dataset, Subset

from diffusers_video.data.buckets import Bucket
from diffusers_video.data.dataset import VideoClipDataset
from diffusers_video.data.files import fingerprint
from diffusers_video.data.pack_format import INDEX_NAME
from diffusers_video.data.packed import PackedClipDataset
from diffusers_video.data.packing import describe_dataset
from diffusers_video.data.plan import ClipPlan
from diffusers_video.data.planning import plan_clips
from diffusers_video.data.report import format_plan
from diffusers_video.data.sampler import BucketBatchSampler, build_loader
from diffusers_video.data.settings import PlanSettings
from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.data.sources import list_videos
from diffusers_video.training.base_config import TrainingConfig


logger = get_logger(__name__)

DEFAULT_FPS = 8.0
_HELDOUT_SEED = 1_000_003  # added to the seed, so that no held-out shape is trained on


def is_packed(folder: str | Path) -> bool:
    """
    Tell whether a folder holds packed latents.

    Args:
        folder (`str` or `Path`): The folder.

    Returns:
        `bool`
    """
    return (Path(folder) / INDEX_NAME).is_file()


def load_clips(config: TrainingConfig, identity: Mapping[str, str] | None = None) -> tuple[Dataset, Dataset | None]:
    """
    Find the clips to train on and those held out.

    Args:
        config ([`TrainingConfig`]): Settings.
        identity (`Mapping[str, str]`, *optional*): From [`encoding_identity`]; packed latents of other models are
            refused.

    Returns:
        `tuple[Dataset, Dataset | None]`: Both with `buckets`; nothing is held out unless asked for, or of `shapes`.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If it gives no clips, or settings do not fit packed latents.
    """
    if config.is_shapes:
        heldout = load_shapes(config, config.num_heldout_clips, is_heldout=True)
        return _limit(load_shapes(config, config.num_shapes_clips), config), heldout
    heldout = None
    if config.heldout_data_dir is not None:
        heldout = _load_one(config, config.heldout_data_dir, (0, 1), identity, is_training=False)
    split = 1 - config.heldout_fraction
    if config.heldout_fraction:
        heldout = _load_one(config, config.train_data_dir, (split, 1), identity, is_training=False)
    train = _load_one(config, config.train_data_dir, (0, split), identity, is_training=True)
    return _limit(train, config), heldout


def load_pixel_clips(config: TrainingConfig) -> tuple[Dataset, Dataset | None]:
    """
    Find the clips to train on and those held out, for a model that trains on pixels.

    Args:
        config ([`TrainingConfig`]): Settings.

    Returns:
        `tuple[Dataset, Dataset | None]`: See [`load_clips`].

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If the clips are packed latents, or there are none.
    """
    for path in (config.train_data_dir, config.heldout_data_dir):
        if path is not None and is_packed(path):
            raise ValueError(f"{path!r} must hold videos, but holds packed latents: this model trains on pixels.")
    return load_clips(config)


def load_shapes(config: TrainingConfig, num_clips: int, is_heldout: bool = False) -> Dataset:
    """
    Make the `shapes` set that the settings ask for.

    Args:
        config ([`TrainingConfig`]): Settings.
        num_clips (`int`): Its length.
        is_heldout (`bool`, *optional*, defaults to `False`): Whether to make other clips than those to train on.

    Returns:
        `Dataset`: With `buckets`.
    """
    bucket = Bucket.parse(config.bucket_names()[0])
    dataset = ShapesDataset(
        num_clips,
        num_frames=bucket.num_frames,
        fps=config.fps or DEFAULT_FPS,
        height=bucket.height,
        width=bucket.width,
        seed=config.seed + is_heldout * _HELDOUT_SEED,
        **config.shapes_arguments(),
    )
    dataset.buckets = [str(bucket)] * num_clips
    return dataset


def _load_one(
    config: TrainingConfig,
    path: str,
    span: tuple[float, float],
    identity: Mapping[str, str] | None,
    is_training: bool,
) -> Dataset:
    if is_packed(path):
        return _load_packed(config, path, identity)
    plan = plan_videos(config, path, span)
    _report(plan)
    if not plan.clips:
        raise ValueError(
            f"`{'train_data_dir' if is_training else 'heldout_data_dir'}` must give at least one clip of"
            f" {config.bucket_names()}, but {path!r} gives none:\n{format_plan(plan, max_rows=20)}"
        )
    augmentation = {"random_crop": config.random_crop, "random_flip": config.random_flip} if is_training else {}
    return VideoClipDataset(plan, seed=config.seed, on_error="skip" if is_training else "raise", **augmentation)


def plan_videos(config: TrainingConfig, path: str, span: tuple[float, float] = (0, 1), **options: Any) -> ClipPlan:
    """
    Cut videos into clips as the settings say.

    Args:
        config ([`TrainingConfig`]): Settings.
        path (`str`): A folder or list of videos.
        span (`tuple[float, float]`, *optional*, defaults to `(0, 1)`): The part of each video's length to use.
        options (*optional*): Further arguments of [`plan_clips`].

    Returns:
        [`ClipPlan`]: It may hold no clip.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is no training set.
    """
    source = list_videos(path, video_column=config.video_column, caption_column=config.caption_column)
    settings = PlanSettings(
        buckets=config.bucket_names(),
        fps=config.fps or DEFAULT_FPS,
        clips_per_video=config.clips_per_video,
        span=span,
        allow_repeat=config.allow_repeat,
        allow_upscale=config.allow_upscale,
        image_fps=config.fps or DEFAULT_FPS,
    )
    return plan_clips(source, settings, **options)


def _report(plan: ClipPlan) -> None:
    for part in plan.unused:
        logger.info(f"Not used: {part.name} ({part.reason}): {part.explanation}")


def _load_packed(config: TrainingConfig, path: str, identity: Mapping[str, str] | None) -> Dataset:
    of_files = ["video_column", "caption_column", "clips_per_video", "allow_upscale", "allow_repeat", "random_crop"]
    of_files += ["random_flip", "heldout_fraction", "resolution", "height", "width", "num_frames", "fps", "buckets"]
    given = [name for name in of_files if getattr(config, name)]
    if given:
        raise ValueError(f"`{given[0]}` has no effect on packed latents ({path!r}), which were made with their own.")
    return PackedClipDataset(path, identity=identity)


def _limit(dataset: Dataset, config: TrainingConfig) -> Dataset:
    if config.max_train_samples is None or config.max_train_samples >= len(dataset):
        return dataset
    chosen = Subset(dataset, range(config.max_train_samples))
    chosen.buckets = dataset.buckets[: config.max_train_samples]
    return chosen


def describe_clips(dataset: Dataset) -> tuple[int, float]:
    """
    Tell what a pipeline trained on these clips should draw.

    Args:
        dataset (`Dataset`): From [`load_clips`].

    Returns:
        `tuple[int, float]`: Frames of the longest clips, and frames per second of the first one.
    """
    num_frames = max(Bucket.parse(name).num_frames for name in set(dataset.buckets))
    return num_frames, float(dataset[0]["fps"])


def build_clip_loader(
    dataset: Dataset, config: TrainingConfig, num_processes: int = 1, process_index: int = 0
) -> DataLoader:
    """
    Batch the clips of a process.

    Args:
        dataset (`Dataset`): From [`load_clips`].
        config ([`TrainingConfig`]): Batch size, seed and workers.
        num_processes (`int`, *optional*, defaults to 1): How many share the clips.
        process_index (`int`, *optional*, defaults to 0): Which of them this is.

    Returns:
        `DataLoader`: With a [`BucketBatchSampler`]; not to be prepared by Accelerate.
    """
    sampler = BucketBatchSampler(
        dataset.buckets,
        config.train_batch_size,
        seed=config.seed,
        num_processes=num_processes,
        process_index=process_index,
    )
    return build_loader(dataset, sampler, num_workers=config.dataloader_num_workers)


def clips_identity(dataset: Dataset) -> str:
    """
    Tell sets of clips apart, so that a run is resumed on its own.

    Args:
        dataset (`Dataset`): From [`load_clips`].

    Returns:
        `str`: Fingerprint of what the clips depend on.
    """
    whole = dataset.dataset if isinstance(dataset, Subset) else dataset
    if isinstance(whole, PackedClipDataset):
        content = whole.fingerprint
    else:
        content = whole.describe() if isinstance(whole, VideoClipDataset) else describe_dataset(whole)
    return fingerprint([content, len(dataset)])
