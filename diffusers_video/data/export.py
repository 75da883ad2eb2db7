"""Write the exact clips that training sees as video files."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers.utils import logging

from diffusers_video.data.dataset import VideoClipDataset
from diffusers_video.data.files import replacing
from diffusers_video.data.frames import ClipReadError
from diffusers_video.data.plan import ClipPlan
from diffusers_video.data.probing import ProgressCallback
from diffusers_video.data.sources import METADATA_NAME
from diffusers_video.video_io import write_video


logger = logging.get_logger(__name__)

FORMATS = ("mp4", "png")
_CRF = 10  # of H.264: no difference to be seen


def export_clips(
    plan: ClipPlan | VideoClipDataset,
    folder: str | Path,
    *,
    file_format: str = "mp4",
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """
    Write every clip of a plan as training sees it: its frames, size and rate; and a `metadata.jsonl` with captions.

    The folder is a training set itself. A clip that cannot be read is logged by name and left out.

    Args:
        plan ([`ClipPlan`] or [`VideoClipDataset`]): What to write; of a dataset, the clips of its first epoch.
        folder (`str` or `Path`): Where to; made if it does not exist, and empty otherwise.
        file_format (`str`, *optional*, defaults to `"mp4"`):
            `"mp4"` for files that play everywhere, nearly without loss, or `"png"` for folders of images that equal
            the loader's frames exactly.
        progress (`Callable[[int, int], None]`, *optional*): Called with the number of clips done, and of all.

    Returns:
        `list[Path]`: The videos.

    Raises:
        ValueError: If the plan holds no clip, none can be read, `file_format` is unknown, or `folder` is not empty.
    """
    if file_format not in FORMATS:
        raise ValueError(f"`file_format` must be one of {FORMATS}, but is {file_format!r}.")
    dataset = plan if isinstance(plan, VideoClipDataset) else VideoClipDataset(plan)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"`folder` must be new or empty, but {folder} is not. Name another one.")
    folder.mkdir(parents=True, exist_ok=True)
    paths, rows = [], []
    for index, clip in enumerate(dataset.plan.clips):
        video = dataset.plan.videos[clip.video]
        try:
            path = _write_clip(dataset, index, folder, file_format)
        except ClipReadError as error:
            logger.warning(f"{error} It is left out of {folder}.")
        else:
            paths.append(path)
            rows.append({"file_name": path.name, "text": video.text, "source": video.name, "start": str(clip.start)})
        if progress is not None:
            progress(index + 1, len(dataset))
    if not paths:
        raise ValueError(f"`plan` must hold a readable clip, but none of {len(dataset)} can be read any more.")
    with replacing(folder / METADATA_NAME) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return paths


def _write_clip(dataset: VideoClipDataset, index: int, folder: Path, file_format: str) -> Path:
    frames = dataset.read_frames(index)
    name = f"{index:06}"
    fps = dataset.plan.clips[index].fps
    if file_format == "png":
        return write_video(frames, folder / name, fps)
    return write_video(frames, folder / f"{name}.mp4", fps, crf=_CRF)
