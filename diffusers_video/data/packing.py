"""Compute latents and text embeddings of clips once, into safetensors shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from diffusers_video.data.checks import check_whole
from diffusers_video.data.dataset import VideoClipDataset, collate_clips
from diffusers_video.data.files import fingerprint, replacing, write_json
from diffusers_video.data.frames import ClipReadError
from diffusers_video.data.pack_format import (
    INDEX_NAME,
    PACK_VERSION,
    SHARD_SUFFIX,
    checksum,
    read_index,
    read_notes,
    shard_name,
)
from diffusers_video.data.probing import ProgressCallback


logger = logging.get_logger(__name__)

Encoder = Callable[[dict[str, Any]], Mapping[str, Tensor]]


@torch.no_grad()
def pack_clips(
    dataset: Dataset,
    encode: Encoder,
    folder: str | Path,
    *,
    identity: Mapping[str, Any],
    batch_size: int = 1,
    clips_per_shard: int = 64,
    num_processes: int = 1,
    process_index: int = 0,
    progress: ProgressCallback | None = None,
) -> Path | None:
    """
    Encode every clip and write the results; read them with [`PackedClipDataset`].

    Shards that a former, interrupted call with the same arguments wrote are kept. A clip that cannot be read is logged
    by name and left out. With several processes, call it in each of them, wait for all, and call it once more in one
    process with the default `num_processes`: that finds the shards done and writes the index.

    Args:
        dataset (`Dataset`):
            [`VideoClipDataset`] without random crop and flip, or any with `describe()` (JSON values that tell what its
            clips depend on) or, as `ShapesDataset`, with attributes that do.
        encode (`Callable`):
            Takes a batch as from [`collate_clips`], returns tensors `(B, ...)` by name, such as `latents` or the mean
            and standard deviation of a posterior, and `encoder_hidden_states`. Names that the batch has as well
            (`text`, `fps`, `index`) are refused.
        folder (`str` or `Path`): Where to write; made if it does not exist.
        identity (`Mapping[str, Any]`): JSON values that tell what `encode` depends on: model, revision, dtype, ...
        batch_size (`int`, *optional*, defaults to 1): Clips of one bucket that are encoded together, at most.
        clips_per_shard (`int`, *optional*, defaults to 64): Clips per file.
        num_processes (`int`, *optional*, defaults to 1): How many processes share the shards.
        process_index (`int`, *optional*, defaults to 0): Which of them this is.
        progress (`Callable[[int, int], None]`, *optional*): Called with the number of clips done, and of all.

    Returns:
        `Path` of the index, or `None` with several processes.

    Raises:
        TypeError: If `dataset` cannot be described, `identity` holds other than JSON values, or a number is no whole
            number.
        ValueError: If an argument is out of its range, `folder` holds a set packed from other clips, settings or
            models, or something else, `encode` returns something else, or no clip can be read.
    """
    check_whole("batch_size", batch_size, 1)
    check_whole("clips_per_shard", clips_per_shard, 1)
    check_whole("num_processes", num_processes, 1)
    check_whole("process_index", process_index, 0, num_processes - 1)
    folder, total = Path(folder), len(dataset)
    settings = {
        "version": PACK_VERSION,
        "dataset": describe_dataset(dataset),
        "identity": _plain(identity),
        "clips_per_shard": clips_per_shard,
    }
    mark = fingerprint(settings)
    _claim_folder(folder, settings, mark)
    if isinstance(dataset, VideoClipDataset):
        dataset = copy(dataset)
        dataset.on_error = "raise"  # each clip stands for itself here: no other one takes its place
    job = _Job(dataset, encode, batch_size, mark, progress)
    firsts = range(0, total, clips_per_shard)
    for number in range(process_index, len(firsts), num_processes):
        indices = range(firsts[number], min(firsts[number] + clips_per_shard, total))
        job.pack_shard(folder / shard_name(number), indices)
    return _write_index(folder, len(firsts), settings, mark) if num_processes == 1 else None


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """
    Say what the clips of a dataset depend on.

    Args:
        dataset (`Dataset`): See [`pack_clips`].

    Returns:
        `dict`: JSON values.

    Raises:
        TypeError: If its attributes are no JSON values, and it has no `describe()`.
        ValueError: If it crops or flips at random.
    """
    if isinstance(dataset, VideoClipDataset) and (dataset.random_crop or dataset.random_flip):
        raise ValueError(
            "`dataset` must have `random_crop` and `random_flip` off, because packing would keep one draw for all"
            " epochs. Turn them off, or train from the videos."
        )
    content = dataset.describe() if hasattr(dataset, "describe") else vars(dataset)
    try:
        return {"class": type(dataset).__name__, **_plain(content)}
    except TypeError as error:
        raise TypeError(
            f"`dataset` must have a method `describe()`, because {type(dataset).__name__} has attributes that are no"
            f" JSON values ({error})."
        ) from None


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(content), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"`identity` must hold JSON values, but does not: {error}.") from None


def _claim_folder(folder: Path, settings: dict[str, Any], mark: str) -> None:
    """Note in a new folder what is packed into it; refuse one that holds something else."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`folder` must be a folder, but {folder} is a file. Name another one.")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / INDEX_NAME).is_file():
        if not all(file.name == INDEX_NAME or file.suffix in (".tmp", SHARD_SUFFIX) for file in folder.iterdir()):
            raise ValueError(
                f"`folder` must be empty or hold a packed set, but {folder} holds other files. Name another."
            )
        write_json(folder / INDEX_NAME, {"settings": settings, "fingerprint": mark, "is_complete": False})
        return
    found = read_index(folder)
    if found["fingerprint"] != mark:
        changed = [name for name, value in settings.items() if found.get("settings", {}).get(name) != value]
        raise ValueError(
            f"`folder` must be new, or hold a set of the same clips, settings and model, but {folder} was packed with"
            f" another {' and '.join(changed)}. Name another folder, or delete this one."
        )


@dataclass(frozen=True)
class _Job:
    """What is packed; the arguments of [`pack_clips`] and the fingerprint of the set."""

    dataset: Dataset
    encode: Encoder
    batch_size: int
    mark: str
    progress: ProgressCallback | None

    def pack_shard(self, path: Path, indices: range) -> None:
        if self._is_done(path):
            self._report(indices.stop)
            return
        tensors: dict[str, Tensor] = {}
        clips: list[dict[str, Any]] = []
        skipped: list[dict[str, Any]] = []
        for items in _batches(self.dataset, indices, self.batch_size, skipped):
            batch = collate_clips(items)
            encoded = _check_encoded(self.encode(batch), batch)
            for row, item in enumerate(items):
                own = {name: value[row].detach().cpu().clone().contiguous() for name, value in encoded.items()}
                tensors |= {f"{len(clips)}.{name}": value for name, value in own.items()}
                plain = {name: value for name, value in item.items() if isinstance(value, (str, int, float))}
                clips.append({**plain, "bucket": _bucket(item), "checksum": checksum(own)})
            self._report(indices.start + len(clips) + len(skipped))
        notes = json.dumps({"fingerprint": self.mark, "clips": clips, "skipped": skipped})
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"notes": notes})

    def _is_done(self, path: Path) -> bool:
        if not path.is_file():
            return False
        try:
            if read_notes(path)["fingerprint"] == self.mark:
                return True
            logger.warning(f"{path} belongs to another set and is packed again.")
        except ValueError as error:
            logger.warning(f"{error} It is packed again.")
        return False

    def _report(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, len(self.dataset))


def _bucket(item: Mapping[str, Any]) -> str:
    _, num_frames, height, width = item["pixel_values"].shape
    return f"{width}x{height}@{num_frames}"


def _batches(
    dataset: Dataset, indices: range, batch_size: int, skipped: list[dict[str, Any]]
) -> Iterator[Sequence[dict[str, Any]]]:
    """Neighbours of one bucket together; clips that cannot be read go to `skipped`."""
    items: list[dict[str, Any]] = []
    for index in indices:
        try:
            item = {"index": index, **dataset[index]}
        except ClipReadError as error:
            logger.warning(f"{error} It is left out of the packed set.")
            skipped.append({"index": index, "reason": str(error)})
            continue
        if items and (len(items) == batch_size or _bucket(items[0]) != _bucket(item)):
            yield items
            items = []
        items.append(item)
    if items:
        yield items


def _check_encoded(encoded: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Mapping[str, Tensor]:
    size = len(batch["text"])
    if not isinstance(encoded, Mapping) or not encoded:
        raise ValueError(f"`encode` must return tensors by name, but returned {type(encoded).__name__} of none.")
    for name, value in encoded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.shape[:1] != (size,):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"`encode` must return tensors of {size} clips by name, but {name!r} has {got}.")
        if name in batch and name != "pixel_values":
            raise ValueError(f"`encode` must not return {name!r}, which the clips have themselves. Name it otherwise.")
    return encoded


def _write_index(folder: Path, num_shards: int, settings: dict[str, Any], mark: str) -> Path:
    shards, clips, skipped = [], [], []
    for number in range(num_shards):
        path = folder / shard_name(number)
        notes = read_notes(path)
        shards.append({"name": path.name, "size": path.stat().st_size})
        clips += [{"shard": number, "place": place, **clip} for place, clip in enumerate(notes["clips"])]
        skipped += notes["skipped"]
    if not clips:
        raise ValueError(f"`dataset` must hold a readable clip, but none of {len(skipped)} is: {skipped[0]['reason']}")
    index = {"settings": settings, "fingerprint": mark, "is_complete": True}
    write_json(folder / INDEX_NAME, index | {"shards": shards, "clips": clips, "skipped": skipped})
    for left_over in folder.glob(".*.tmp"):  # of a call that was killed
        left_over.unlink()
    return folder / INDEX_NAME
