"""Video files made and decoded by PyAV alone, to hold against what `diffusers_video.video_io` does."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor, nn

from diffusers_video._video_decode import frame_to_rgb


REPEATABLE = {"x264-params": "cpu-independent=1"}
GROUPS_OF_12 = {"bf": "3", "g": "12", "keyint_min": "12", "sc_threshold": "0"} | REPEATABLE
OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"}
INTRA_REFRESH = {"x264-params": "intra-refresh=1:keyint=12"}


def moving_frames(num_frames: int, height: int, width: int) -> Tensor:
    """A smooth video `(F, 3, H, W)` in [0, 1] whose frames all differ."""
    noise = torch.rand(1, 3, num_frames // 3 + 2, 5, 5, generator=torch.Generator().manual_seed(0))
    video = nn.functional.interpolate(noise, size=(num_frames, height, width), mode="trilinear")
    return video[0].transpose(0, 1).clamp(0, 1)


def flat_frames(num_frames: int, height: int, width: int, color: Sequence[int]) -> Tensor:
    """A video `(F, 3, H, W)`, uint8, of one colour."""
    return torch.tensor(color, dtype=torch.uint8).view(1, 3, 1, 1).expand(num_frames, 3, height, width)


def encode(
    path: Path,
    stamps: Sequence[int] = tuple(range(40)),
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    time_base: Fraction = Fraction(1, 30),
    rotation: int = 0,
    fps: Fraction | int = 30,
) -> Path:
    """Encode one moving 64x48 frame for each of `stamps`, its time in units of `time_base`; the file states `fps`."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        video = (moving_frames(len(stamps), 48, 64) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        for array, stamp in zip(video, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode(path: Path) -> list[tuple[Fraction, Tensor]]:
    """Timestamp in seconds and pixels `(3, H, W)` of every frame, decoded one after the other from the beginning."""
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, torch.from_numpy(np.array(frame_to_rgb(frame, path))).permute(2, 0, 1))
            for frame in container.decode(video=0)
        ]
