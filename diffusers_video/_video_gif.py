"""GIF files block by block: written frame by frame in bounded memory, and measured without decoding."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image


TICK = Fraction(1, 100)  # GIF delays are hundredths of a second
MAX_GIF_FPS = 50  # browsers slow frames of less than two hundredths to a tenth of a second
LARGEST_GIF_SIDE = 2**16 - 1
UNPLAYABLE_DELAY, DELAY_PLAYED_INSTEAD = 1, 10
COMMENT = re.compile(rb"diffusers_video fps=(\d+(?:/\d+)?)")


@dataclass
class GifLayout:
    """What a GIF's blocks say: size, one delay per frame (hundredths of a second), comments, and where pixels lie."""

    width: int
    height: int
    palette: bytes
    delays: list[int] = field(default_factory=list)
    comments: list[bytes] = field(default_factory=list)
    pixel_data: list[tuple[int, int]] = field(default_factory=list)

    @property
    def written_fps(self) -> Fraction | None:
        """The exact rate that [`GifSink`] leaves in a comment; `None` in other GIFs."""
        found = [match for comment in self.comments if (match := COMMENT.fullmatch(comment))]
        return Fraction(found[0][1].decode()) if found else None

    @property
    def starts(self) -> list[Fraction]:
        """When each frame begins and the last one ends, in seconds; delays of 0 and 1 last 0.1 s, as in browsers."""
        played = [DELAY_PLAYED_INSTEAD if delay <= UNPLAYABLE_DELAY else delay for delay in self.delays]
        return [Fraction(end, 100) for end in itertools.accumulate(played, initial=0)]


def scan_gif(file: BinaryIO) -> GifLayout:
    """
    Walk the blocks of a GIF without decoding its pixels.

    Args:
        file (`BinaryIO`): The file, at its beginning.

    Returns:
        [`GifLayout`]

    Raises:
        ValueError: If the file ends before its closing block, or holds what no GIF holds.
    """
    header = _read(file, 13)
    if header[:3] != b"GIF":
        raise ValueError("it does not begin as a GIF")
    layout = GifLayout(*_numbers(header[6:10]), palette=_read_palette(file, header[10]))
    delay = 0
    while (kind := _read(file, 1)) != b";":
        if kind == b"!":
            label, body = _read(file, 1), _read_sub_blocks(file)
            if label == b"\xf9":
                delay = int.from_bytes(body[1:3], "little")
            elif label == b"\xfe":
                layout.comments.append(body)
        elif kind == b",":
            _read_palette(file, _read(file, 9)[8])
            start = file.tell()
            _read(file, 1)
            _read_sub_blocks(file)
            layout.pixel_data.append((start, file.tell()))
            layout.delays.append(delay)
            delay = 0
        else:
            raise ValueError(f"byte {file.tell() - 1} begins no block of a GIF")
    return layout


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("it is truncated: its closing block is missing")
    return data


def _read_palette(file: BinaryIO, flags: int) -> bytes:
    return _read(file, 3 * 2 ** (flags % 8 + 1)) if flags & 0x80 else b""


def _read_sub_blocks(file: BinaryIO) -> bytes:
    parts = []
    while size := _read(file, 1)[0]:
        parts.append(_read(file, size))
    return b"".join(parts)


def _numbers(data: bytes) -> list[int]:
    return [int.from_bytes(data[k : k + 2], "little") for k in range(0, len(data), 2)]


def _two_bytes(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(2, "little") for number in numbers)


class GifSink:
    """
    Write a GIF frame by frame; every frame stays a frame of its own, with its own palette of at most 256 colours.

    Frame k lasts from `round(100 * k / fps)` to `round(100 * (k + 1) / fps)` hundredths of a second, so that no
    timestamp is off by more than half a hundredth however long the clip; the exact rate stands in a comment.

    Args:
        path (`Path`): The file to write.
        fps (`Fraction`): Frames per second, at most 50.
        shape (`tuple[int, int, int]`): Height, width and channels of every frame.
    """

    def __init__(self, path: Path, fps: Fraction, shape: tuple[int, int, int]) -> None:
        self.fps, self.num_frames = fps, 0
        height, width, _ = shape
        self.file = open(path, "wb")
        self.file.write(b"GIF89a" + _two_bytes(width, height) + b"\x70\0\0")
        self.file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")  # repeat for ever
        comment = f"diffusers_video fps={fps}".encode()
        self.file.write(b"!\xfe" + bytes([len(comment)]) + comment + b"\0")

    def add(self, array: np.ndarray) -> None:
        """Append a frame `(H, W, 1 or 3)`, uint8."""
        height, width, _ = array.shape
        image = Image.fromarray(np.broadcast_to(array, (height, width, 3)).copy())
        # Exact for 256 colours and fewer. Dithering would crawl from frame to frame.
        image = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        image.save(buffer, format="GIF", optimize=False, interlace=False)
        buffer.seek(0)
        layout = scan_gif(buffer)
        start, end = layout.pixel_data[0]
        shown, gone = (round(100 * k / self.fps) for k in (self.num_frames, self.num_frames + 1))
        size_flag = (len(layout.palette) // 3).bit_length() - 2
        self.file.write(b"!\xf9\x04\x04" + _two_bytes(gone - shown) + b"\0\0")
        self.file.write(b"," + _two_bytes(0, 0, width, height) + bytes([0x80 | size_flag]))
        self.file.write(layout.palette + buffer.getbuffer()[start:end])
        self.num_frames += 1

    def finish(self) -> None:
        """Close the file as a whole GIF."""
        self.file.write(b";")
        self.file.close()

    def discard(self) -> None:
        """Close the file as it stands."""
        self.file.close()
