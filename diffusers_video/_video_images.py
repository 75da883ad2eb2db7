"""GIF and WebP animations and folders of images, through Pillow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from diffusers_video._video_encode import SIDECAR
from diffusers_video._video_gif import TICK, scan_gif
from diffusers_video._video_info import Timing, VideoInfo, build_info
from diffusers_video._video_values import as_fps, as_seconds


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """
    Open an image; whatever Pillow reports becomes a `ValueError` that names the file.

    Args:
        path (`Path`): The file.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            yield image
    except (FileNotFoundError, PermissionError):
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError) as error:
        raise ValueError(
            f"`path` {path} cannot be read as an image ({error}): it is empty, truncated or damaged. Fetch or make it"
            " again."
        ) from error


def image_to_array(image: Image.Image, size: tuple[int, int], keep_alpha: bool, path: Path) -> np.ndarray:
    """
    The pixels of an image.

    Args:
        image (`PIL.Image.Image`): The image.
        size (`tuple[int, int]`): The width and height that it must have.
        keep_alpha (`bool`): Four channels; else transparency is dropped, not blended.
        path (`Path`): Its file, for errors.

    Returns:
        `np.ndarray` of shape `(H, W, 3)` or `(H, W, 4)`, uint8.

    Raises:
        ValueError: If it has another size, or more than 8 bits per channel.
    """
    if image.size != size:
        raise ValueError(
            f"`path` {path} must be {size[0]}x{size[1]} as the first frame is, but is {image.width}x{image.height}."
        )
    if image.mode[0] in "IF":
        raise ValueError(f"`path` {path} must have 8 bits per channel, but has mode {image.mode}. Convert it first.")
    return np.array(image.convert("RGBA" if keep_alpha else "RGB"))


@dataclass(frozen=True)
class AnimationReader:
    """Frames of a GIF or WebP animation by number; they are decoded from the first one on."""

    path: Path
    size: tuple[int, int]

    def fetch(self, positions: Sequence[int], keep_alpha: bool) -> Iterator[np.ndarray]:
        """See [`FrameReader`]."""
        wanted = set(positions)
        with opened_image(self.path) as image:
            for number, frame in enumerate(ImageSequence.Iterator(image)):
                if number in wanted:
                    yield image_to_array(frame, self.size, keep_alpha, self.path)
                    wanted.remove(number)
                    if not wanted:
                        return
        raise ValueError(f"`path` {self.path} is damaged: frame {min(wanted)} cannot be decoded. Make it again.")


@dataclass(frozen=True)
class FolderReader:
    """Frames of a folder of images by number."""

    files: tuple[Path, ...]
    size: tuple[int, int]

    def fetch(self, positions: Sequence[int], keep_alpha: bool) -> Iterator[np.ndarray]:
        """See [`FrameReader`]."""
        for number in positions:
            with opened_image(self.files[number]) as image:
                array = image_to_array(image, self.size, keep_alpha, self.files[number])
            yield array


def probe_gif(path: Path) -> VideoInfo:
    """
    Measure a GIF by its blocks.

    Args:
        path (`Path`): The file.

    Returns:
        [`VideoInfo`]

    Raises:
        ValueError: If the file is truncated or damaged.
    """
    try:
        with open(path, "rb") as file:
            layout = scan_gif(file)
    except ValueError as error:
        raise ValueError(f"`path` {path} cannot be read as a GIF: {error}. Fetch or make it again.") from None
    size, (*times, end) = (layout.width, layout.height), layout.starts
    last_duration = end - times[-1] if times else None
    timing = Timing(times, TICK, last_duration, layout.written_fps)
    return build_info(path, size, "gif", timing, AnimationReader(path, size))


def probe_webp(path: Path) -> VideoInfo:
    """
    Measure a WebP animation; Pillow tells how long a frame stays only after decoding it.

    Args:
        path (`Path`): The file.

    Returns:
        [`VideoInfo`]

    Raises:
        ValueError: If the file is damaged or a still image.
    """
    with opened_image(path) as image:
        size = image.size
        if not getattr(image, "is_animated", False):
            raise ValueError(f"`path` {path} must be an animation, but is a still image. Open it as such.")
        ends = []
        for frame in ImageSequence.Iterator(image):
            frame.load()
            ends.append(Fraction(frame.info["timestamp"] + frame.info["duration"], 1000))
    times = [Fraction(0), *ends[:-1]]
    timing = Timing(times, Fraction(1, 1000), ends[-1] - times[-1])
    return build_info(path, size, "webp", timing, AnimationReader(path, size))


def probe_folder(path: Path, fps: Fraction | None) -> VideoInfo:
    """
    Measure a folder of images, in the order of the numbers in their names.

    Its rate stands in `video.json` (`{"fps": "30000/1001"}`; optionally `"num_frames"`, and `"timestamps"`, a list of
    seconds such as `"1/8"`, where the rate is not constant), or is given by the caller.

    Args:
        path (`Path`): The folder.
        fps (`Fraction`, *optional*): The rate of a folder without `video.json`.

    Returns:
        [`VideoInfo`]

    Raises:
        ValueError: If there are no images, no rate or two, or the sidecar does not fit the images.
    """
    files = tuple(sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=_by_number))
    if not files:
        raise ValueError(
            f"`path` {path} must hold images ({', '.join(IMAGE_SUFFIXES)}), but holds none. Choose another folder."
        )
    sidecar = path / SIDECAR
    if sidecar.is_file() == (fps is not None):
        state = "says so in its video.json already. Leave it out" if fps else "has no video.json. Pass `fps`"
        raise ValueError(f"`fps` must come from one place, but is {fps} and the folder {path} {state}.")
    stated = _read_sidecar(sidecar) if fps is None else {"fps": fps}
    times = stated.get("timestamps") or [k / stated["fps"] for k in range(len(files))]
    count = stated.get("num_frames", len(times))
    if not len(files) == len(times) == count:
        raise ValueError(
            f"`path` {path} must hold the {count} images (and {len(times)} timestamps) of its video.json, but holds"
            f" {len(files)}. Restore the missing ones, or correct video.json."
        )
    with opened_image(files[0]) as image:
        size = image.size
    timing = Timing(times, Fraction(0), written_fps=stated["fps"])
    return build_info(path, size, "images", timing, FolderReader(files, size))


def _by_number(file: Path) -> list[tuple[int, str]]:
    """Sort key by which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", file.stem)]


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        stated = json.loads(path.read_text())
        result = {"fps": as_fps(stated["fps"])}
        if "num_frames" in stated:
            result["num_frames"] = int(stated["num_frames"])
        if "timestamps" in stated:
            result["timestamps"] = [as_seconds(Fraction(time), "timestamps") for time in stated["timestamps"]]
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise ValueError(
            f"`path` {path.parent} has an unreadable {path.name} ({error!r}). It must be an object with"
            ' "fps", such as {"fps": "30000/1001"}.'
        ) from error
    return result
