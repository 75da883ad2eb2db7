"""Read latents and text embeddings that were computed once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch.utils.data import Dataset

from diffusers_video.data.pack_format import INDEX_NAME, checksum, read_index


_OPEN_SHARDS = 8
_OWN_FIELDS = ("shard", "place", "bucket", "checksum")


class PackedClipDataset(Dataset):
    """
    The clips that [`pack_clips`] wrote; tensors are read when they are asked for, and not kept.

    Args:
        folder (`str` or `Path`): Where they lie.
        identity (`Mapping[str, Any]`, *optional*):
            What the reader expects of the encoding models, as given to [`pack_clips`]; another one is refused.

    Raises:
        ValueError: If there is no complete packed set, a shard is missing or cut off, or `identity` differs.
    """

    def __init__(self, folder: str | Path, *, identity: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        if not index["is_complete"]:
            raise ValueError(
                f"`folder` must hold a complete packed set, but packing {self.folder} was interrupted. Call"
                " `pack_clips` again with the same arguments; it goes on where it stopped."
            )
        self.identity: dict[str, Any] = index["settings"]["identity"]
        if identity is not None and dict(identity) != self.identity:
            raise ValueError(
                f"`identity` must be that of the packed set, {self.identity}, but is {dict(identity)}. Pack the clips"
                " anew, into another folder."
            )
        self.fingerprint: str = index["fingerprint"]
        self.skipped: list[dict[str, Any]] = index["skipped"]
        self._clips: list[dict[str, Any]] = index["clips"]
        self._shards: list[dict[str, Any]] = index["shards"]
        self._open: OrderedDict[int, safe_open] = OrderedDict()
        for shard in self._shards:
            self._check_size(**shard)

    def _check_size(self, name: str, size: int) -> None:
        path = self.folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found}"
            raise ValueError(
                f"`folder` must hold the shards of its {INDEX_NAME}, but {path} {state} instead of {size} bytes."
                " Delete it and call `pack_clips` again."
            )

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def buckets(self) -> list[str]:
        """The bucket of each clip, for [`BucketBatchSampler`]."""
        return [clip["bucket"] for clip in self._clips]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Read a clip.

        Args:
            index (`int`): Which one.

        Returns:
            `dict`: The tensors of the clip by the names that they were packed under, without batch axis, and `text`
            (`str`), `fps` (`float`) and `index` (`int`, as in the dataset that was packed).

        Raises:
            IndexError: If there is no such clip.
            ValueError: If its shard is damaged; the text names it.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be below {len(self)} (the number of clips), but is {index}.")
        clip = self._clips[index]
        path = self.folder / self._shards[clip["shard"]]["name"]
        prefix = f"{clip['place']}."
        try:
            shard = self._shard(clip["shard"])
            names = [name for name in shard.keys() if name.startswith(prefix)]
            tensors = {name.removeprefix(prefix): shard.get_tensor(name).clone() for name in names}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"Shard {path} is damaged ({error}). Delete it and call `pack_clips` again.") from error
        if checksum(tensors) != clip["checksum"]:
            raise ValueError(f"Shard {path} is damaged (wrong checksum). Delete it and call `pack_clips` again.")
        return tensors | {name: value for name, value in clip.items() if name not in _OWN_FIELDS}

    def _shard(self, number: int) -> safe_open:
        if number not in self._open:
            self._open[number] = safe_open(self.folder / self._shards[number]["name"], "pt")
            while len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}
