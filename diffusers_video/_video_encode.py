"""The three kinds of output: an encoded file, a GIF, a folder of PNG images. All take frames one by one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from PIL import Image

from diffusers_video._video_gif import LARGEST_GIF_SIDE, MAX_GIF_FPS, GifSink


X26X_PRESETS = "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo".split()
PIXEL_FORMATS = {"yuv420p": (2, 2), "yuv422p": (2, 1), "yuv444p": (1, 1)}  # pixels that share one colour sample
PRECISE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
SIDECAR = "video.json"
MAX_WEBM_FPS = 500  # WebM counts milliseconds
FPS_TAG = "FPS"


class Sink(Protocol):
    """Where frames go."""

    def add(self, array: np.ndarray) -> None:
        """Append a frame `(H, W, C)`, uint8."""

    def finish(self) -> None:
        """Complete the output."""

    def discard(self) -> None:
        """Let go of the output as it stands, for the caller to delete."""


@dataclass(frozen=True)
class Encoder:
    """
    What one encoder of FFmpeg takes.

    Args:
        suffix (`str`): The files it may write.
        crf (`float`): The default quality; 0 is the best.
        max_crf (`int`): The worst quality.
        presets (`dict[str, dict[str, str]]`): Options by preset.
        preset (`str`): The default preset.
        options (`dict[str, str]`): Options of every run.
        odd_sizes (`bool`): Whether sizes need not be multiples of the colour sampling.
        tag (`str`, *optional*): The container's code for it, where FFmpeg's default does not play everywhere.
    """

    suffix: str
    crf: float
    max_crf: int
    presets: dict[str, dict[str, str]]
    preset: str
    options: dict[str, str] = field(default_factory=dict)
    odd_sizes: bool = False
    tag: str | None = None


X26X = {name: {"preset": name} for name in X26X_PRESETS}
VP9 = {
    "best": {"deadline": "best"},
    "good": {"deadline": "good", "cpu-used": "2"},
    "realtime": {"deadline": "realtime", "cpu-used": "6"},
}
ENCODERS = {  # the first one of a suffix is its default
    # The fast way of weighing macroblocks makes small frames differ from run to run.
    "libx264": Encoder(".mp4", 18, 51, X26X, "medium", {"x264-params": "cpu-independent=1"}),
    "libx265": Encoder(".mp4", 20, 51, X26X, "medium", {"x265-params": "log-level=error"}, tag="hvc1"),
    "libvpx-vp9": Encoder(".webm", 24, 63, VP9, "good", {"b": "0", "row-mt": "1"}, odd_sizes=True),
}
SUFFIXES = (".mp4", ".webm", ".gif", "")


@dataclass(frozen=True)
class OutputSettings:
    """How frames are encoded, checked as far as is possible before the first frame; see [`VideoWriter`]."""

    suffix: str
    fps: Fraction
    crf: float | None = None
    codec: str | None = None
    preset: str | None = None
    pixel_format: str | None = None

    def __post_init__(self) -> None:
        if self.suffix not in SUFFIXES:
            raise ValueError(
                f"`path` must end in .mp4, .webm, .gif or in no suffix (a folder of PNG images), but ends in"
                f" {self.suffix!r}. Choose one of these."
            )
        limit = {".gif": MAX_GIF_FPS, ".webm": MAX_WEBM_FPS}.get(self.suffix)
        if limit and self.fps > limit:
            raise ValueError(
                f"`fps` of a {self.suffix} file must be at most {limit}, but is {self.fps}: the format counts time in"
                f" {'hundredths' if limit == MAX_GIF_FPS else 'thousandths'} of a second, and players slow or drop"
                " shorter frames. Write an .mp4 file, or fewer frames per second."
            )
        if self.suffix in (".gif", ""):
            self._refuse_encoder_options()
        else:
            self._check_encoder_options()

    def _refuse_encoder_options(self) -> None:
        for name in ("crf", "codec", "preset", "pixel_format"):
            if (value := getattr(self, name)) is not None:
                kind = "a .gif file" if self.suffix else "a folder of PNG images"
                raise ValueError(f"`{name}` has no meaning for {kind}, but is {value!r}. Leave it out.")

    def _check_encoder_options(self) -> None:
        codecs = [name for name, encoder in ENCODERS.items() if encoder.suffix == self.suffix]
        _check_choice("codec", self.codec, codecs, self.suffix)
        _check_choice("preset", self.preset, list(self.encoder.presets), self.encoder_name)
        _check_choice("pixel_format", self.pixel_format, list(PIXEL_FORMATS), self.encoder_name)
        if self.crf is not None:
            if isinstance(self.crf, bool) or not isinstance(self.crf, (int, float)):
                raise TypeError(f"`crf` must be a number, but is {self.crf!r}. Pass e.g. {self.encoder.crf}.")
            if not 0 <= self.crf <= self.encoder.max_crf:
                raise ValueError(
                    f"`crf` of {self.encoder_name} must lie in 0 (best) to {self.encoder.max_crf}, but is {self.crf}."
                    f" {self.encoder.crf} looks like the original."
                )
            if self.encoder_name == "libvpx-vp9" and self.crf != int(self.crf):
                raise ValueError(f"`crf` of libvpx-vp9 must be a whole number, but is {self.crf}. Round it.")

    @property
    def encoder_name(self) -> str:
        """FFmpeg's name of the encoder, `codec` or the suffix's default."""
        return self.codec or next(name for name, encoder in ENCODERS.items() if encoder.suffix == self.suffix)

    @property
    def encoder(self) -> Encoder:
        """What that encoder takes."""
        return ENCODERS[self.encoder_name]

    def pixel_format_for(self, height: int, width: int) -> str:
        """The pixel format for frames of this size: `pixel_format`, else yuv420p, or yuv444p where that cannot be."""
        fitting = [
            name
            for name, (across, down) in PIXEL_FORMATS.items()
            if self.encoder.odd_sizes or not (width % across or height % down)
        ]
        if self.pixel_format is None:
            return "yuv420p" if "yuv420p" in fitting else "yuv444p"
        if self.pixel_format not in fitting:
            raise ValueError(
                f"`pixel_format` of {self.encoder_name} for {width}x{height} frames must be one of"
                f" {', '.join(fitting)}, but is {self.pixel_format!r}, which shares colour between pixels and needs"
                " even sizes. Leave it out, or write a .webm file."
            )
        return self.pixel_format


def _check_choice(name: str, value: Any, choices: list[str], owner: str) -> None:
    if value is not None and value not in choices:
        raise ValueError(f"`{name}` of {owner} must be one of {', '.join(choices)}, but is {value!r}.")


class EncodedSink:
    """
    Write an .mp4 or .webm file: BT.709 colours, limited range, tagged so, one frame per 1 / fps second from 0.

    Args:
        path (`Path`): The file to write.
        settings (`OutputSettings`): How.
        shape (`tuple[int, int, int]`): Height, width and channels of every frame.
    """

    def __init__(self, path: Path, settings: OutputSettings, shape: tuple[int, int, int]) -> None:
        self.settings, self.num_frames = settings, 0
        self.height, self.width, _ = shape
        self.pixel_format = settings.pixel_format_for(self.height, self.width)
        # Without `bitexact` a WebM file gets a random identity, and equal frames give unequal files.
        options = {"fflags": "+bitexact"} | ({"movflags": "+faststart"} if settings.suffix == ".mp4" else {})
        self.container = av.open(str(path), "w", format=settings.suffix[1:], options=options)
        if settings.suffix == ".webm":
            self.container.metadata[FPS_TAG] = str(settings.fps)
        try:
            self.stream = self._add_stream()
        except BaseException:
            self.discard()
            raise

    def _add_stream(self) -> av.VideoStream:
        encoder, settings = self.settings.encoder, self.settings
        crf = encoder.crf if settings.crf is None else settings.crf
        options = encoder.options | encoder.presets[settings.preset or encoder.preset] | {"crf": str(crf)}
        try:
            stream = self.container.add_stream(settings.encoder_name, rate=settings.fps, options=options)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pixel_format
            context = stream.codec_context
            context.time_base = 1 / settings.fps
            context.color_range = ColorRange.MPEG
            context.colorspace = Colorspace.ITU709
            context.color_primaries = ColorPrimaries.BT709
            context.color_trc = ColorTrc.BT709
            if encoder.tag:
                context.codec_tag = encoder.tag
            context.open()
        except (av.FFmpegError, ValueError) as error:
            raise ValueError(
                f"`frames` of {self.width}x{self.height} at {settings.fps} frames per second cannot be encoded by"
                f" {settings.encoder_name} here ({error}). Choose another size, codec or file type."
            ) from error
        return stream

    def add(self, array: np.ndarray) -> None:
        """Append a frame `(H, W, 1 or 3)`, uint8."""
        array = np.ascontiguousarray(np.broadcast_to(array, (self.height, self.width, 3)))
        frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(
            format=self.pixel_format,
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            dst_color_primaries=ColorPrimaries.BT709,
            dst_color_trc=ColorTrc.BT709,
            interpolation=PRECISE,
        )
        frame.pts, frame.time_base = self.num_frames, 1 / self.settings.fps
        self.container.mux(self.stream.encode(frame))
        self.num_frames += 1

    def finish(self) -> None:
        """Encode what the encoder holds back and close the file."""
        self.container.mux(self.stream.encode(None))
        self.container.close()

    def discard(self) -> None:
        """Close the file as it stands."""
        with suppress(av.FFmpegError):  # the file may be unfinishable, and is not wanted
            self.container.close()


class FolderSink:
    """
    Write a folder of images `000000.png`, `000001.png`, ... and `video.json` with the exact rate.

    Args:
        path (`Path`): The folder to make.
        fps (`Fraction`): Frames per second.
        shape (`tuple[int, int, int]`): Height, width and channels of every frame.
    """

    def __init__(self, path: Path, fps: Fraction, shape: tuple[int, int, int]) -> None:
        self.path, self.fps, self.shape, self.num_frames = path, fps, shape, 0
        path.mkdir()

    def add(self, array: np.ndarray) -> None:
        """Append a frame `(H, W, 1, 3 or 4)`, uint8; all channels are kept."""
        image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
        image.save(self.path / f"{self.num_frames:06d}.png")
        self.num_frames += 1

    def finish(self) -> None:
        """Write the sidecar."""
        height, width, _ = self.shape
        sidecar = {"fps": str(self.fps), "num_frames": self.num_frames, "width": width, "height": height}
        (self.path / SIDECAR).write_text(json.dumps(sidecar, indent=2) + "\n")

    def discard(self) -> None:
        """Leave the folder as it stands."""


def open_sink(path: Path, settings: OutputSettings, shape: tuple[int, int, int]) -> Sink:
    """
    Begin an output for frames of one shape.

    Args:
        path (`Path`): The file or folder to make.
        settings (`OutputSettings`): How.
        shape (`tuple[int, int, int]`): Height, width and channels of every frame.

    Returns:
        [`Sink`]

    Raises:
        ValueError: If the format keeps no alpha channel, or cannot hold the size.
    """
    if shape[2] == 4 and settings.suffix:
        raise ValueError(
            f"`frames` for a {settings.suffix} file must have 1 or 3 channels, but have 4: only a folder of PNG images"
            " keeps transparency. Drop the fourth channel, or pass a path without suffix."
        )
    if settings.suffix == ".gif" and max(shape[:2]) > LARGEST_GIF_SIDE:
        raise ValueError(
            f"`frames` for a .gif file must be at most {LARGEST_GIF_SIDE} pixels wide and high, but are"
            f" {shape[1]}x{shape[0]}. Resize them, or write an .mp4 file."
        )
    makers: dict[str, Callable[[], Sink]] = {
        ".gif": lambda: GifSink(path, settings.fps, shape),
        "": lambda: FolderSink(path, settings.fps, shape),
    }
    return makers.get(settings.suffix, lambda: EncodedSink(path, settings, shape))()


def check_target(path: Path, is_folder: bool, overwrite: bool | None) -> None:
    """
    Refuse to write where something stands that may not be replaced.

    Args:
        path (`Path`): The file or folder to be made.
        is_folder (`bool`): Which of the two.
        overwrite (`bool`, *optional*): See [`VideoWriter`].

    Raises:
        FileNotFoundError: If the folder around `path` does not exist.
        FileExistsError: If `path` may not be replaced.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"`path` must lie in a folder that exists, but {path.parent} is none. Create it first."
        )
    if not path.exists():
        return
    if path.is_dir() != is_folder:
        kind = "folder" if path.is_dir() else "file"
        raise FileExistsError(f"`path` {path} is a {kind} already. Choose another name, or remove it.")
    if is_folder and any(path.iterdir()):
        if not overwrite:
            raise FileExistsError(f"`path` {path} is a folder that is not empty. Choose another, or `overwrite=True`.")
        if not (path / SIDECAR).is_file() or any(
            file.name != SIDECAR and not (file.suffix == ".png" and file.stem.isdigit()) for file in path.iterdir()
        ):
            raise FileExistsError(
                f"`path` {path} is a folder that holds more than a video written here, and is not replaced even with"
                " `overwrite=True`. Choose another, or empty it."
            )
    elif overwrite is False and not is_folder:
        raise FileExistsError(f"`path` {path} exists, and `overwrite` is False. Choose another name.")


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`; an earlier folder there is moved aside first and comes back if that fails."""
    if not path.is_dir():
        os.replace(temporary, path)
        return
    aside = temporary.with_suffix(".old")
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside)


def delete(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
