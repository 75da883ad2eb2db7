"""Video files through FFmpeg (PyAV): measured by packets, decoded from the key frame before what is asked for."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from diffusers_video._video_encode import FPS_TAG
from diffusers_video._video_info import Timing, VideoInfo, build_info
from diffusers_video._video_values import as_fps


HIDDEN_FRAME_CODECS = ("vp8",)  # their packets may hold frames that are never shown: only decoding counts the others
PRECISE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
UNSPECIFIED = (0, 2)
# Up to so many pixels one thread is cheaper than starting several, whose freed memory does not come back either.
SMALL_FRAME = 256 * 256
# By number of ISO/IEC 23091-2 (H.273), MatrixCoefficients.
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
EBML_HEADER, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


@contextmanager
def opened(
    path: Path, stream_index: int | None = None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """
    Open a video file; whatever FFmpeg reports becomes a `ValueError` that names the file.

    Args:
        path (`Path`): The file.
        stream_index (`int`, *optional*): The stream; by default the first video stream that is no cover picture.

    Raises:
        ValueError: If the file cannot be read, is a still image or has no video stream.
    """
    try:
        with av.open(str(path)) as container:
            if container.format.name == "image2" or container.format.name.endswith(("_pipe", "tty")):
                raise ValueError(f"`path` {path} must be a video, but is a still image or text. Open it as such.")
            stream = _video_stream(path, container) if stream_index is None else container.streams[stream_index]
            if stream.codec_context is None:
                raise ValueError(f"`path` {path} is encoded by an unknown codec. Encode it again, say as H.264.")
            stream.thread_type = "NONE" if stream.width * stream.height <= SMALL_FRAME else "AUTO"
            yield container, stream
    except PermissionError:
        raise
    except (av.FFmpegError, EOFError, UnicodeDecodeError) as error:  # the last from damaged tags
        raise ValueError(
            f"`path` {path} cannot be read as a video ({error}): it is empty, truncated, damaged or of another kind."
            " Fetch or encode it again."
        ) from error


def _video_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
    raise ValueError(f"`path` {path} must hold a video stream, but holds {', '.join(kinds)}. Choose another file.")


def frame_to_rgb(frame: av.VideoFrame, path: Path) -> np.ndarray:
    """
    The pixels of a decoded frame, upright.

    Limited or full range becomes full range RGB by the frame's own matrix. A frame without a tag is taken to be
    limited range (full range in the yuvj formats) and BT.709 if it is at least 1280 wide or more than 576 high, else
    BT.601, as players do. Transfer curves are left as they are: HDR frames are not mapped to SDR.

    Args:
        frame (`av.VideoFrame`): The frame.
        path (`Path`): Its file, for errors.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`, uint8.

    Raises:
        ValueError: If the matrix is one that FFmpeg's scaler lacks, the rotation no right angle, the frame damaged.
    """
    if frame.is_corrupt:
        raise ValueError(f"`path` {path} is damaged at {frame.time} s. Fetch or encode it again.")
    if frame.format.is_rgb or frame.format.has_palette:
        array = frame.to_ndarray(format="rgb24")
    else:
        is_large = frame.width >= 1280 or frame.height > 576
        guess = 1 if is_large else 5
        matrix = MATRICES.get(guess if frame.colorspace in UNSPECIFIED else int(frame.colorspace))
        if matrix is None:
            raise ValueError(
                f"`path` {path} has colour matrix {int(frame.colorspace)} (H.273), which cannot be converted here."
                " Re-encode it with BT.709."
            )
        is_full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        array = frame.reformat(
            format="rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG if is_full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=PRECISE,
            threads=1 if frame.width * frame.height <= SMALL_FRAME else 0,
        ).to_ndarray()
    return array if not frame.rotation else np.rot90(array, _quarter_turns(frame, path))


def _quarter_turns(frame: av.VideoFrame, path: Path) -> int:
    turns, rest = divmod(frame.rotation, 90)
    if rest:
        raise ValueError(f"`path` {path} is to be turned by {frame.rotation} degrees, which is no right angle.")
    return turns


@dataclass(frozen=True)
class StreamReader:
    """
    Frames of a video stream by number.

    Args:
        path (`Path`): The file.
        stream_index (`int`): The stream in the file.
        size (`tuple[int, int]`): Width and height as shown.
        shown (`tuple[int, ...]`): Timestamps of the shown frames in ticks, in display order.
        decode_order (`dict[int, int]`): Timestamp of each packet -> its place in the file. Empty if the packets do
            not tell enough; then every read decodes from the file's beginning.
        keys (`tuple[int, ...]`): Timestamps of the key frames, increasing.
    """

    path: Path
    stream_index: int
    size: tuple[int, int]
    shown: tuple[int, ...]
    decode_order: dict[int, int] = field(default_factory=dict)
    keys: tuple[int, ...] = ()

    def fetch(self, positions: Sequence[int], keep_alpha: bool) -> Iterator[np.ndarray]:
        """See [`FrameReader`]; only the groups of pictures that hold the asked frames are decoded."""
        if keep_alpha:
            raise ValueError(
                f"`keep_alpha` must be False for a video file, but is True for {self.path}: transparency is read from"
                " GIF, WebP and PNG only. Leave it out."
            )
        return self._fetch(positions)

    def _fetch(self, positions: Sequence[int]) -> Iterator[np.ndarray]:
        done = 0
        while done < len(positions):
            before = done
            key = self._key_before(positions[done])
            for start in [*range(key, max(key - 3, 0), -1), None]:
                for array in self._decode_from(start, key, positions[done:]):
                    done += 1
                    yield array
                if done > before:
                    break
            else:
                raise ValueError(
                    f"`path` {self.path} is damaged: frame {positions[done]} of {len(self.shown)} cannot be decoded."
                    " Fetch or encode it again."
                )

    def _decode_from(self, start: int | None, key: int, positions: Sequence[int]) -> Iterator[np.ndarray]:
        """
        Frames at `positions`, for as long as decoding on is the shortest way to them.

        `start` is the number of the key frame to seek to (`None`: the beginning of the file) and `key` of the last one
        that will do. Gives nothing if the seek goes astray, or if the key frame is a mere recovery point (periodic
        intra refresh), after which some frames cannot be decoded.
        """
        wanted = iter(positions)
        position = next(wanted)
        with opened(self.path, self.stream_index) as (container, stream):
            packets = container.demux(stream) if start is None else self._seek(container, stream, start, key)
            for number, frame in self._numbered(packets):
                if number < position:
                    continue
                if number > position:
                    return
                array = frame_to_rgb(frame, self.path)
                if (array.shape[1], array.shape[0]) != self.size:
                    raise ValueError(f"`path` {self.path} changes size at frame {number}. Split or re-encode it.")
                yield array
                position = next(wanted, None)
                if position is None or self._first_after_key(position) > number + 1:
                    return

    def _seek(
        self, container: av.container.InputContainer, stream: av.VideoStream, start: int, key: int
    ) -> Iterator[av.Packet]:
        """
        Packets found by seeking to key frame `start`; none if the seek went past key frame `key`.

        Containers seek by decoding time, presentation time or roughly, and so may land behind the key frame (asked
        for the leading pictures of an open group, say). Hence the packet that a seek lands on is looked up.
        """
        container.seek(self.keys[start], stream=stream)
        packets = container.demux(stream)
        first = next(packets)
        landed = self.decode_order.get(first.pts, len(self.decode_order))
        return itertools.chain([first], packets) if landed <= self.decode_order[self.keys[key]] else iter(())

    def _numbered(self, packets: Iterator[av.Packet]) -> Iterator[tuple[int, av.VideoFrame]]:
        frames = itertools.chain.from_iterable(packet.decode() for packet in packets)
        if not self.decode_order:
            yield from enumerate(frames)
            return
        for frame in frames:
            number = bisect_left(self.shown, frame.pts)
            if number < len(self.shown) and self.shown[number] == frame.pts:
                yield number, frame

    def _key_before(self, position: int) -> int:
        """The number of the last key frame shown no later than `position`; -1 if there is none."""
        return bisect_right(self.keys, self.shown[position]) - 1

    def _first_after_key(self, position: int) -> int:
        """The number of the first frame that can be decoded from the key frame before `position`."""
        key = self._key_before(position)
        return bisect_left(self.shown, self.keys[key]) if key >= 0 else 0


class Packet(NamedTuple):
    """What is kept of a packet: its timestamp and duration in ticks, and two flags."""

    pts: int | None
    duration: int | None
    is_key: bool
    is_discard: bool


def probe_stream(path: Path) -> VideoInfo:
    """
    Measure a video file by its packets; only the first frame is decoded, for its rotation.

    Args:
        path (`Path`): The file.

    Returns:
        [`VideoInfo`]

    Raises:
        ValueError: If the file is empty, truncated, damaged, no video, or has no timestamps.
    """
    with opened(path) as (container, stream):
        _check_whole_matroska(path, container)
        packets = _read_packets(path, container, stream)
        is_unordered = container.format.name == "avi"  # it says when frames are shown, but not which of them
        codec, tick, index = stream.codec_context.name, stream.time_base, stream.index
        written, stated = _tagged_fps(container), [stream.average_rate, stream.guessed_rate, stream.base_rate]
    size = _shown_size(path, index)
    stamps = {packet.pts for packet in packets}
    if None in stamps or len(stamps) < len(packets) or codec in HIDDEN_FRAME_CODECS:
        shown, last_duration = _decode_stamps(path, index)
        reader = StreamReader(path, index, size, shown)
    else:
        in_display_order = sorted(packet for packet in packets if not packet.is_discard)
        shown = tuple(packet.pts for packet in in_display_order)
        last_duration = in_display_order[-1].duration if shown else None
        decode_order = {} if is_unordered else {packet.pts: k for k, packet in enumerate(packets)}
        keys = tuple(sorted(packet.pts for packet in packets if packet.is_key))
        reader = StreamReader(path, index, size, shown, decode_order, keys if decode_order else ())
    times = [pts * tick for pts in shown]
    timing = Timing(times, tick, last_duration * tick if last_duration else None, written, stated)
    return build_info(path, size, codec, timing, reader)


def _read_packets(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> list[Packet]:
    packets, is_damaged = [], False
    for packet in container.demux(stream):
        if packet.size:
            packets.append(Packet(packet.pts, packet.duration, packet.is_keyframe, packet.is_discard))
            is_damaged |= packet.is_corrupt
    announced = len(stream.index_entries) if "mp4" in container.format.name else 0
    if is_damaged or len(packets) < announced:
        raise ValueError(
            f"`path` {path} is truncated or damaged: of {announced or 'its'} frames {len(packets)} were found, not all"
            " of them whole. Fetch or encode it again."
        )
    return packets


def _tagged_fps(container: av.container.InputContainer) -> Fraction | None:
    """The exact rate that [`EncodedSink`] leaves in WebM files, whose own field is in whole nanoseconds."""
    try:
        return as_fps(container.metadata.get(FPS_TAG, ""))
    except ValueError:  # no tag, or another program's
        return None


def _shown_size(path: Path, stream_index: int) -> tuple[int, int]:
    with opened(path, stream_index) as (container, stream):
        for frame in container.decode(stream):
            is_turned = _quarter_turns(frame, path) % 2
            return (frame.height, frame.width) if is_turned else (frame.width, frame.height)
    raise ValueError(f"`path` {path} holds no frame that can be decoded. Choose another file.")


def _decode_stamps(path: Path, stream_index: int) -> tuple[tuple[int, ...], int | None]:
    stamps, duration = [], None
    with opened(path, stream_index) as (container, stream):
        for frame in container.decode(stream):
            stamps.append(frame.pts)
            duration = frame.duration
    if None in stamps:
        raise ValueError(
            f"`path` {path} must say when each of its frames is shown, but does not: it is a bare stream. Put it into"
            " a container, such as .mp4."
        )
    return tuple(stamps), duration


def _check_whole_matroska(path: Path, container: av.container.InputContainer) -> None:
    """FFmpeg takes the end of a cut Matroska or WebM file for its proper end; the header knows the true length."""
    if "matroska" not in container.format.name:
        return
    with open(path, "rb") as file:
        for element in (EBML_HEADER, SEGMENT):
            if file.read(4) != element:
                return
            first = file.read(1)[0]
            length = 9 - first.bit_length()  # leading zero bits tell how many bytes the number takes
            size = int.from_bytes(bytes([first & (0xFF >> length)]) + file.read(length - 1), "big")
            is_unknown = size == 2 ** (7 * length) - 1  # a live recording
            end = file.tell() + size
            file.seek(end)
    if not is_unknown and path.stat().st_size < end:
        raise ValueError(
            f"`path` {path} is truncated: it has {path.stat().st_size} of {end} bytes. Fetch or encode it again."
        )
