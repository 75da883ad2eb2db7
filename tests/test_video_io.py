import doctest
import json
import os
import pickle
import random
import weakref
from fractions import Fraction
from math import floor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_video import _video_decode, video_io
from diffusers_video._video_values import as_fps
from diffusers_video.video_io import VideoWriter, iter_frames, probe_video, read_frames_at, read_video, write_video

from .video_files import GROUPS_OF_12, INTRA_REFRESH, OPEN_GROUPS, decode, encode, flat_frames, moving_frames


OUTPUTS = ["clip.mp4", "clip.webm", "clip.gif", "clip"]
NTSC = Fraction(30000, 1001)
VARIABLE = list(np.cumsum([0] + [random.Random(k).choice([1, 1, 2, 3]) for k in range(39)]).tolist())
FOREIGN_FILES = {  # name -> how PyAV makes it
    "closed.mp4": {"options": GROUPS_OF_12},
    "open.mp4": {"options": OPEN_GROUPS},
    "open.mkv": {"options": OPEN_GROUPS},
    "open.ts": {"options": OPEN_GROUPS},
    "refresh.mp4": {"options": INTRA_REFRESH},
    "variable.mp4": {"options": GROUPS_OF_12, "stamps": VARIABLE},
    "variable.mkv": {"options": GROUPS_OF_12, "stamps": VARIABLE},
    "late.mp4": {"options": GROUPS_OF_12, "stamps": range(45, 85)},
    "cut.mp4": {  # an edit list hides the first 17 frames
        "options": GROUPS_OF_12,
        "stamps": range(-17, 30),
        "container_options": {"avoid_negative_ts": "disabled"},
    },
    "ntsc.mp4": {"options": GROUPS_OF_12, "time_base": 1 / NTSC},
    "ntsc.mkv": {"options": GROUPS_OF_12, "time_base": 1 / NTSC},
    "turned.mp4": {"options": GROUPS_OF_12, "rotation": 90},
    "open-mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "mpeg4.ts": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "disordered.avi": {"options": GROUPS_OF_12},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "100k"}},
    "groups.webm": {"codec": "libvpx-vp9", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "12"}},
}


@pytest.fixture(scope="module")
def foreign_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    for name, settings in FOREIGN_FILES.items():
        encode(folder / name, **settings)
    return folder


# Writing: size, rate, frames


@pytest.mark.parametrize("fps", [8, NTSC, Fraction(12345, 1001), 1.875])
@pytest.mark.parametrize(("height", "width"), [(35, 67), (32, 48)])
@pytest.mark.parametrize("name", OUTPUTS)
def test_size_rate_count_and_timestamps_come_back_exactly(
    tmp_path: Path, name: str, height: int, width: int, fps: Fraction | float
) -> None:
    frames = moving_frames(9, height, width)
    path = write_video(frames, tmp_path / name, fps)
    clip, info = read_video(path), probe_video(path)
    assert (
        (info.num_frames, info.height, info.width) == (9, height, width) == (len(clip.frames), *clip.frames.shape[2:])
    )
    assert clip.fps == info.fps == Fraction(fps) and clip.is_constant_fps
    assert clip.timestamps == info.timestamps == tuple(k / Fraction(fps) for k in range(9))
    assert info.duration == 9 / Fraction(fps)
    assert (clip.frames / 255 - frames).abs().mean() < 0.02  # colour is halved in size or reduced to 256 values


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_single_frame_keeps_its_rate(tmp_path: Path, name: str) -> None:
    info = probe_video(write_video(moving_frames(1, 16, 16), tmp_path / name, NTSC))
    assert (info.num_frames, info.fps, info.duration) == (1, NTSC, 1 / NTSC)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_rate_that_no_container_states_exactly_comes_back(tmp_path: Path, name: str) -> None:
    fps = Fraction(100_003, 3001)
    info = probe_video(write_video(moving_frames(9, 16, 16), tmp_path / name, fps))
    assert info.fps == fps and info.is_constant_fps


@pytest.mark.parametrize(("name", "unit"), [("clip.mp4", None), ("clip.webm", 1000)])
def test_other_decoders_see_the_right_timestamps(tmp_path: Path, name: str, unit: int | None) -> None:
    path = write_video(moving_frames(20, 32, 32), tmp_path / name, NTSC)
    wanted = [k / NTSC if unit is None else Fraction(floor(k / NTSC * unit + Fraction(1, 2)), unit) for k in range(20)]
    assert [time for time, _ in decode(path)] == wanted
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == NTSC


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (29.97, NTSC),
        ("29.97", NTSC),
        ("30000/1001", NTSC),
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (np.float32(29.97), NTSC),
        (np.int64(25), Fraction(25)),
        (30.0, Fraction(30)),
        (12.5, Fraction(25, 2)),
        (8.333333, Fraction(25, 3)),
        (Fraction(2997, 100), Fraction(2997, 100)),
    ],
)
def test_rates_mean_what_the_documentation_says(given: object, meant: Fraction) -> None:
    assert as_fps(given) == meant


# Writing: values and colours


def test_all_inputs_give_the_same_pixels(tmp_path: Path) -> None:
    frames = (moving_frames(4, 20, 30) * 255).round().to(torch.uint8)
    arrays = frames.permute(0, 2, 3, 1).numpy()
    variants = {
        "uint8 tensor": frames,
        "float tensor": frames / 255,
        "double tensor": frames.double() / 255,
        "uint8 array": arrays,
        "float array": arrays.astype(np.float32) / 255,
        "images": [Image.fromarray(array) for array in arrays],
        "mixed": [frames[0], arrays[1], Image.fromarray(arrays[2]), frames[3] / 255],
        "generator": (frame for frame in frames),
    }
    for name, variant in variants.items():
        assert torch.equal(read_video(write_video(variant, tmp_path / name, 8)).frames, frames), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_to_the_nearest_step(tmp_path: Path, dtype: torch.dtype) -> None:
    frames = moving_frames(2, 8, 8).to(dtype)
    clip = read_video(write_video(frames, tmp_path / "clip", 8))
    assert torch.equal(clip.frames, (frames.float() * 255).round().to(torch.uint8))


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (30, 30, 30), (200, 30, 90)])
def test_a_pure_colour_comes_back(tmp_path: Path, name: str, color: tuple[int, int, int]) -> None:
    frames = flat_frames(3, 35, 67, color)
    got = read_video(write_video(frames, tmp_path / name, 8)).frames
    assert (got.int() - frames.int()).abs().max() <= 2


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
def test_files_are_tagged_as_limited_range_bt709(tmp_path: Path, name: str) -> None:
    path = write_video(moving_frames(2, 32, 32), tmp_path / name, 8)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
    assert tags == (1, 1, 1, 1)


@pytest.mark.parametrize(("tag", "matrix"), [("bt709", 1), ("smpte170m", 6), (None, 5)])
def test_colours_are_read_by_the_matrix_of_the_file(tmp_path: Path, tag: str | None, matrix: int) -> None:
    frame = av.VideoFrame(64, 48, "yuv444p")
    for plane, value in zip(frame.planes, (63, 102, 240), strict=True):  # pure red in limited range BT.709
        plane.update(bytes([value]) * plane.buffer_size)
    path = tmp_path / "tagged.mp4"
    options = {"qp": "0"} | ({"x264-params": f"colormatrix={tag}"} if tag else {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    red, green, blue = read_video(path).frames[0, :, 20, 20].tolist()
    assert (abs(red - 255) <= 2 and green <= 2 and blue <= 2) == (matrix == 1), (red, green, blue)


@pytest.mark.parametrize("name", OUTPUTS)
def test_grey_frames_stay_grey(tmp_path: Path, name: str) -> None:
    frames = moving_frames(3, 32, 32)[:, :1]
    got = read_video(write_video(frames, tmp_path / name, 8)).frames / 255
    assert got.shape[1] == 3 and (got - frames).abs().max() < 0.06


def test_a_folder_keeps_transparency(tmp_path: Path) -> None:
    frames = torch.cat([moving_frames(3, 9, 7), torch.full((3, 1, 9, 7), 0.4)], dim=1)
    path = write_video(frames, tmp_path / "clip", 8)
    assert torch.equal(read_video(path, keep_alpha=True).frames, (frames * 255).round().to(torch.uint8))
    assert read_video(path).frames.shape == (3, 3, 9, 7)


# Writing: options, streaming, files


def test_a_lower_crf_is_closer_to_the_original(tmp_path: Path) -> None:
    frames = moving_frames(5, 32, 32)
    for suffix in ("mp4", "webm"):
        errors = [
            (read_video(write_video(frames, tmp_path / f"{crf}.{suffix}", 8, crf=crf)).frames / 255 - frames)
            .abs()
            .mean()
            for crf in (5, 45)
        ]
        assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("clip.mp4", {}, ("h264", "yuv420p")),
        ("clip.mp4", {"pixel_format": "yuv444p", "preset": "ultrafast"}, ("h264", "yuv444p")),
        ("clip.mp4", {"codec": "libx265", "preset": "ultrafast"}, ("hevc", "yuv420p")),
        ("clip.webm", {"pixel_format": "yuv422p", "preset": "realtime"}, ("vp9", "yuv422p")),
    ],
)
def test_codec_and_pixel_format_are_those_asked_for(
    tmp_path: Path, name: str, options: dict[str, str], found: tuple[str, str]
) -> None:
    path = write_video(moving_frames(3, 64, 64), tmp_path / name, 8, **options)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == found


@pytest.mark.parametrize("name", OUTPUTS)
def test_pieces_give_the_same_video_as_the_whole(tmp_path: Path, name: str) -> None:
    frames = moving_frames(10, 32, 32)
    (tmp_path / "whole").mkdir()
    with VideoWriter(tmp_path / name, NTSC) as writer:
        for chunk in frames.split(4):
            writer.write(chunk)
    whole = write_video(frames, tmp_path / "whole" / name, NTSC)
    assert writer.num_frames == 10 and torch.equal(read_video(writer.path).frames, read_video(whole).frames)
    if name != "clip":
        assert writer.path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["clip.gif", "clip"])
def test_a_writer_keeps_no_frame(tmp_path: Path, name: str) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0
    with VideoWriter(tmp_path / name, 8) as writer:
        for _ in range(12):
            frame = np.zeros((8, 8, 3), dtype=np.uint8)
            alive.append(weakref.ref(frame))
            writer.write([frame])
            most = max(most, sum(reference() is not None for reference in alive))
    assert most <= 2


def test_frames_are_read_from_a_generator_one_by_one(tmp_path: Path) -> None:
    written = []
    with VideoWriter(tmp_path / "clip.mp4", 8) as writer:
        writer.write(written.append(writer.num_frames) or frame for frame in moving_frames(5, 16, 16))
    assert written == [0, 1, 2, 3, 4]


def test_files_get_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    for name in OUTPUTS[:3]:
        path = write_video(moving_frames(2, 16, 16), tmp_path / name, 8)
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


# GIF


def test_gif_frames_of_few_colours_are_exact_and_equal_frames_stay_apart(tmp_path: Path) -> None:
    frames = flat_frames(6, 9, 11, (10, 200, 30)).clone()
    frames[4:, 1] = 77
    path = write_video(frames, tmp_path / "clip.gif", 10)
    assert torch.equal(read_video(path).frames, frames)
    assert Image.open(path).n_frames == 6


def test_gif_frames_of_256_colours_are_exact(tmp_path: Path) -> None:
    colors = torch.arange(256).view(1, 1, 16, 16)
    frames = torch.cat([colors, 255 - colors, (colors * 37) % 256], dim=1).to(torch.uint8)
    assert torch.equal(read_video(write_video(frames, tmp_path / "clip.gif", 10)).frames, frames)


def test_gif_frames_of_many_colours_are_close(tmp_path: Path) -> None:
    frames = moving_frames(4, 64, 64)
    error = read_video(write_video(frames, tmp_path / "clip.gif", 10)).frames / 255 - frames
    assert error.abs().mean() < 0.018  # measured 0.0170; Pillow's octree gives 0.0188


def test_gif_delays_do_not_drift(tmp_path: Path) -> None:
    path = write_video(flat_frames(100, 2, 2, (1, 2, 3)), tmp_path / "clip.gif", NTSC)
    image, ends = Image.open(path), [0]
    for k in range(100):
        image.seek(k)
        ends.append(ends[-1] + image.info["duration"] // 10)
    assert ends == [round(100 * k / NTSC) for k in range(101)]


def test_a_gif_of_another_program_has_the_times_browsers_give_it(tmp_path: Path) -> None:
    images = [Image.new("RGB", (4, 4), (60 * k, 0, 0)) for k in range(4)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 200, 0, 50])
    info = probe_video(tmp_path / "a.gif")
    assert info.timestamps == tuple(Fraction(time, 100) for time in (0, 10, 30, 40))
    assert not info.is_constant_fps and info.duration == Fraction(45, 100) and info.fps == Fraction(3, Fraction(4, 10))


def test_a_gif_whose_delays_were_changed_is_not_read_by_its_old_rate(tmp_path: Path) -> None:
    path = write_video(moving_frames(5, 8, 8), tmp_path / "clip.gif", 8)
    data = path.read_bytes()
    slower = data.replace(b"!\xf9\x04\x04\x0c\x00", b"!\xf9\x04\x04\x32\x00").replace(
        b"\x04\x04\x0d\0", b"\x04\x04\x32\0"
    )
    path.write_bytes(slower)
    assert probe_video(path).fps == 2


# Reading


@pytest.mark.parametrize("name", FOREIGN_FILES)
def test_a_video_reads_as_a_full_decode(foreign_files: Path, name: str) -> None:
    path = foreign_files / name
    wanted, info, clip = decode(path), probe_video(path), read_video(path)
    assert info.num_frames == len(wanted) == len(clip.frames)
    assert all(torch.equal(frame, other) for frame, (_, other) in zip(clip.frames, wanted, strict=True))
    unit = Fraction(1, 1000) if path.suffix in (".mkv", ".webm") else 0
    times = sorted(time for time, _ in wanted)  # AVI says when frames are shown, but not which of them
    assert all(abs(time - other) <= unit for time, other in zip(clip.timestamps, times, strict=True))
    assert (info.width, info.height) == ((48, 64) if "turned" in name else (64, 48))


@pytest.mark.parametrize("name", FOREIGN_FILES)
def test_frames_at_times_are_those_of_a_full_decode(foreign_files: Path, name: str) -> None:
    wanted, info = decode(foreign_files / name), probe_video(foreign_files / name)
    draw = random.Random(0)
    for count in (1, 1, 1, 1, 3, 3, 40):
        times = [info.timestamps[0] + info.duration * Fraction(draw.randrange(10_000), 10_000) for _ in range(count)]
        shown = [max(k for k, start in enumerate(info.timestamps) if start <= time) for time in times]
        got = read_frames_at(info, times)
        assert all(torch.equal(frame, wanted[k][1]) for frame, k in zip(got, shown, strict=True)), shown


@pytest.mark.parametrize("name", FOREIGN_FILES)
def test_large_frames_are_decoded_by_several_threads_to_the_same(
    foreign_files: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign_files / name
    info = probe_video(path)
    times = [info.timestamps[k] for k in (0, 7, 8, len(info.timestamps) - 1)]
    with _video_decode.opened(path) as (_, stream):
        assert stream.codec_context.thread_type == av.codec.context.ThreadType.NONE
    wanted = read_frames_at(info, times)
    monkeypatch.setattr(_video_decode, "SMALL_FRAME", 0)
    with _video_decode.opened(path) as (_, stream):
        assert stream.codec_context.thread_type == av.codec.context.ThreadType.AUTO
    assert torch.equal(read_frames_at(path, times), wanted)


@pytest.mark.parametrize("name", ["ntsc.mp4", "ntsc.mkv", "groups.webm", "late.mp4", "cut.mp4"])
def test_constant_rates_are_recognised(foreign_files: Path, name: str) -> None:
    info = probe_video(foreign_files / name)
    assert info.is_constant_fps and info.fps == (NTSC if "ntsc" in name else 30)
    assert all(time - info.timestamps[0] == k / info.fps for k, time in enumerate(info.timestamps))


def test_two_rounded_timestamps_do_not_hide_the_stated_rate(tmp_path: Path) -> None:
    path = encode(tmp_path / "short.mkv", range(2), time_base=1 / NTSC, fps=NTSC)
    assert [time for time, _ in decode(path)] == [0, Fraction(33, 1000)]
    assert probe_video(path).fps == NTSC


def test_a_variable_rate_is_reported_with_its_average_and_own_timestamps(foreign_files: Path) -> None:
    info = probe_video(foreign_files / "variable.mp4")
    assert not info.is_constant_fps
    assert info.timestamps == tuple(Fraction(stamp, 30) for stamp in VARIABLE)
    assert info.fps == Fraction(39 * 30, VARIABLE[-1])


def test_a_rotated_video_stands_upright(foreign_files: Path) -> None:
    turned, upright = read_video(foreign_files / "turned.mp4").frames, read_video(foreign_files / "closed.mp4").frames
    assert torch.equal(turned, upright.rot90(1, dims=(2, 3)))


@pytest.mark.parametrize("name", OUTPUTS)
def test_times_computed_in_floats_find_their_frames(tmp_path: Path, name: str) -> None:
    frames = flat_frames(40, 16, 16, (0, 0, 0)).clone()
    frames += torch.arange(0, 240, 6, dtype=torch.uint8).view(40, 1, 1, 1)
    path = write_video(frames, tmp_path / name, NTSC, **({"crf": 5} if "." in name and "gif" not in name else {}))
    got = read_frames_at(path, [k / 29.97002997002997 for k in range(40)])
    assert torch.equal((got.float().mean(dim=(1, 2, 3)) / 6).round(), torch.arange(40.0))


def test_what_lies_between_the_asked_frames_is_not_decoded(foreign_files: Path, tmp_path: Path) -> None:
    data = bytearray((foreign_files / "closed.mp4").read_bytes())
    with av.open(str(foreign_files / "closed.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[14:22]:
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    (tmp_path / "hole.mp4").write_bytes(data)
    with pytest.raises(ValueError, match="hole.mp4 cannot be read"):
        read_video(tmp_path / "hole.mp4")
    wanted = read_video(foreign_files / "closed.mp4").frames[[2, 38]]
    assert torch.equal(read_frames_at(tmp_path / "hole.mp4", [2 / 30, 38 / 30]), wanted)


def test_times_may_repeat_and_run_backwards(foreign_files: Path) -> None:
    path = foreign_files / "closed.mp4"
    got = read_frames_at(path, [1, Fraction(1, 2), 1.0, 0])
    assert torch.equal(got, read_video(path).frames[[30, 15, 30, 0]])


def test_iterating_gives_what_reading_gives(foreign_files: Path) -> None:
    clip = read_video(foreign_files / "open.mp4")
    times, frames = zip(*iter_frames(foreign_files / "open.mp4"), strict=True)
    assert times == clip.timestamps and torch.equal(torch.stack(frames), clip.frames)


@pytest.mark.parametrize(
    ("start", "end", "kept"), [(0.5, 1, slice(15, 30)), (None, 0.1, slice(0, 3)), (1.3, 9, slice(39, 40))]
)
def test_a_part_holds_the_frames_that_appear_in_it(
    foreign_files: Path, start: float | None, end: float | None, kept: slice
) -> None:
    path = foreign_files / "open.mp4"
    clip, part = read_video(path), read_video(path, start=start, end=end)
    assert part.timestamps == clip.timestamps[kept] and torch.equal(part.frames, clip.frames[kept])


def test_info_can_be_pickled_and_used_in_place_of_the_path(foreign_files: Path) -> None:
    info = pickle.loads(pickle.dumps(probe_video(foreign_files / "open.mp4")))
    assert torch.equal(read_video(info).frames, read_video(foreign_files / "open.mp4").frames)


def test_a_plain_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for k in (10, 9, 2):
        Image.new("RGB", (3, 3), (k, 0, 0)).save(tmp_path / f"frame_{k}.png")
    clip = read_video(tmp_path, fps=29.97)
    assert clip.frames[:, 0, 0, 0].tolist() == [2, 9, 10] and clip.fps == NTSC


def test_a_folder_may_have_a_variable_rate(tmp_path: Path) -> None:
    path = write_video(moving_frames(3, 8, 8), tmp_path / "clip", 8)
    (path / "video.json").write_text(json.dumps({"fps": "8", "timestamps": ["0", "1/8", "3/8"]}))
    clip = read_video(path)
    assert clip.timestamps == (0, Fraction(1, 8), Fraction(3, 8)) and not clip.is_constant_fps
    assert torch.equal(read_frames_at(path, [0.3])[0], clip.frames[1])


def test_webp_animations_are_read(tmp_path: Path) -> None:
    images = [Image.new("RGB", (4, 6), (80 * k, 0, 0)) for k in range(3)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=[40, 40, 80], lossless=True)
    clip = read_video(tmp_path / "a.webp")
    assert clip.timestamps == (0, Fraction(1, 25), Fraction(2, 25)) and clip.fps == 25
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 80, 160]


# What goes wrong


FRAMES = moving_frames(3, 16, 16)
BAD = {"frames": FRAMES, "path": "clip.mp4", "fps": 8}
WRONG_OUTPUTS = {
    "rate of zero": ({"fps": 0}, ValueError, "`fps` must be a finite number greater than 0"),
    "negative rate": ({"fps": -8}, ValueError, "`fps` must be a finite"),
    "rate NaN": ({"fps": float("nan")}, ValueError, "`fps` must be a finite"),
    "infinite rate": ({"fps": float("inf")}, ValueError, "`fps` must be a finite"),
    "rate as bool": ({"fps": True}, TypeError, "`fps` must be a Fraction"),
    "no rate": ({"fps": None}, TypeError, "`fps` must be a Fraction"),
    "rate as words": ({"fps": "fast"}, ValueError, "`fps` must be a finite"),
    "rate over zero": ({"fps": "30/0"}, ValueError, "`fps` must be a finite"),
    "rate beyond 32 bits": ({"fps": Fraction(2**40, 3)}, ValueError, "2\\*\\*31"),
    "rate too fast for GIF": ({"path": "clip.gif", "fps": 60}, ValueError, "at most 50, but is 60"),
    "rate too fast for WebM": ({"path": "clip.webm", "fps": 1000}, ValueError, "at most 500"),
    "unknown suffix": ({"path": "clip.avi"}, ValueError, "must end in .mp4, .webm, .gif or in no suffix"),
    "empty path": ({"path": ""}, TypeError, "`path` must be a str or Path that is not empty"),
    "path of another type": ({"path": 7}, TypeError, "`path` must be a str or Path"),
    "folder missing": ({"path": "none/clip.mp4"}, FileNotFoundError, "Create it first"),
    "folder in the way": ({"path": "folder.mp4"}, FileExistsError, "is a folder already"),
    "file in the way": ({"path": "file"}, FileExistsError, "is a file already"),
    "folder not empty": ({"path": "full"}, FileExistsError, "not empty"),
    "folder of other things": ({"path": "full", "overwrite": True}, FileExistsError, "more than a video written here"),
    "file kept": ({"path": "old.mp4", "overwrite": False}, FileExistsError, "`overwrite` is False"),
    "overwrite as word": ({"overwrite": "yes"}, TypeError, "`overwrite` must be"),
    "crf out of range": ({"crf": 52}, ValueError, "`crf` of libx264 must lie in 0"),
    "crf out of range for VP9": ({"path": "clip.webm", "crf": -1}, ValueError, "to 63, but is -1"),
    "fractional crf for VP9": ({"path": "clip.webm", "crf": 20.5}, ValueError, "whole number"),
    "crf as text": ({"crf": "18"}, TypeError, "`crf` must be a number"),
    "crf for GIF": ({"path": "clip.gif", "crf": 18}, ValueError, "`crf` has no meaning for a .gif file"),
    "preset for a folder": ({"path": "clip", "preset": "fast"}, ValueError, "`preset` has no meaning for a folder"),
    "unknown preset": ({"preset": "warp"}, ValueError, "`preset` of libx264 must be one of ultrafast"),
    "codec of another file type": ({"codec": "libvpx-vp9"}, ValueError, "`codec` of .mp4 must be one of libx264"),
    "unknown pixel format": ({"pixel_format": "rgb24"}, ValueError, "`pixel_format` of libx264 must be one of"),
    "half-size colour of odd frames": (
        {"frames": FRAMES[..., 1:], "pixel_format": "yuv420p"},
        ValueError,
        "for 15x16 frames must be one of yuv444p",
    ),
    "no frames": ({"frames": []}, ValueError, "at least one frame"),
    "tensor of no frames": ({"frames": FRAMES[:0]}, ValueError, "at least one frame"),
    "frames of no height": ({"frames": FRAMES[:, :, :0]}, ValueError, "must have a height and a width"),
    "no video at all": ({"frames": 5}, TypeError, "`frames` must be a torch tensor"),
    "one image": ({"frames": Image.new("RGB", (4, 4))}, TypeError, "Put a single image into a list"),
    "one frame as tensor": ({"frames": FRAMES[0]}, ValueError, "Put a single frame into a list"),
    "batch of videos": ({"frames": FRAMES[None]}, ValueError, "video by video: `frames\\[0\\]`"),
    "list of videos": ({"frames": [[Image.new("RGB", (4, 4))]]}, TypeError, "frame 0 is a list"),
    "channels first array": ({"frames": FRAMES.numpy()}, ValueError, "1, 3 or 4 channels"),
    "time after channels": ({"frames": torch.rand(3, 9, 16, 16)}, ValueError, "frame 0 has shape \\(9, 16, 16\\)"),
    "two channels": ({"frames": FRAMES[:, :2]}, ValueError, "1, 3 or 4 channels"),
    "transparency in MP4": ({"frames": torch.rand(2, 4, 16, 16)}, ValueError, "Drop the fourth channel"),
    "integers": ({"frames": FRAMES.int()}, TypeError, "frame 0 is torch.int32"),
    "booleans": ({"frames": np.ones((2, 8, 8, 3), dtype=bool)}, TypeError, "frame 0 is bool"),
    "image mode": ({"frames": [Image.new("P", (4, 4))]}, ValueError, "frame 0 is P"),
    "NaN": ({"frames": [*FRAMES[:2], FRAMES[2] * float("nan")]}, ValueError, "frame 2 holds NaN"),
    "range of a network": ({"frames": FRAMES * 2 - 1}, ValueError, "looks like \\[-1, 1\\]"),
    "range of bytes": ({"frames": FRAMES * 255}, ValueError, "looks like 0 to 255"),
    "slightly out of range": ({"frames": FRAMES + 0.3}, ValueError, "frame 0 spans .* rounding error"),
    "frames of two sizes": ({"frames": [FRAMES[0], FRAMES[1, :, 2:]]}, ValueError, "frame 1 has \\(14, 16, 3\\)"),
    "frames of two kinds": ({"frames": [FRAMES[0], FRAMES[1, :1]]}, ValueError, "frame 1 has \\(16, 16, 1\\)"),
}


@pytest.mark.parametrize("case", WRONG_OUTPUTS)
def test_wrong_output_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, error, message = WRONG_OUTPUTS[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "full").mkdir()
    for name in ("file", "old.mp4", "full/notes.txt"):
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        write_video(**(BAD | changes))
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "old.mp4").read_text() == "mine"


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_failure_half_way_leaves_the_earlier_video(tmp_path: Path, name: str) -> None:
    path = write_video(FRAMES, tmp_path / name, 8)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(KeyboardInterrupt):
        with VideoWriter(path, 4, overwrite=True) as writer:
            writer.write(moving_frames(30, 64, 64))
            raise KeyboardInterrupt
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    with pytest.raises(ValueError, match="given up"):
        writer.write(FRAMES)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_writer_without_a_block_cleans_up_after_a_wrong_frame(tmp_path: Path, name: str) -> None:
    writer = VideoWriter(tmp_path / name, 8)
    writer.write(FRAMES)
    with pytest.raises(ValueError, match="frame 4 holds NaN"):
        writer.write([FRAMES[0], FRAMES[1] / 0 * 0])
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_and_a_folder_on_demand(tmp_path: Path) -> None:
    for name in OUTPUTS:
        write_video(FRAMES, tmp_path / name, 8)
        write_video(FRAMES[:2], tmp_path / name, 4, overwrite=True)
        assert (probe_video(tmp_path / name).num_frames, probe_video(tmp_path / name).fps) == (2, 4)
    assert sorted(os.listdir(tmp_path)) == sorted(OUTPUTS)


def test_a_failing_encoder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be encoded by libx264"):
        write_video(torch.zeros(1, 1, 2, 20000, dtype=torch.uint8), tmp_path / "wide.mp4", 8)
    assert not list(tmp_path.iterdir())


WRONG_INPUTS = {
    "missing": (lambda path: None, FileNotFoundError, "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), ValueError, "is an empty file"),
    "noise": (
        lambda path: path.write_bytes(random.Random(0).randbytes(3000)),
        ValueError,
        "cannot be read as a video",
    ),
    "text": (lambda path: path.write_text("hello " * 99), ValueError, "cannot be read as a video"),
    "still image": (lambda path: Image.new("RGB", (8, 8)).save(path, "PNG"), ValueError, "is a still image"),
    "still WebP": (lambda path: Image.new("RGB", (8, 8)).save(path, "WEBP"), ValueError, "is a still image"),
    "sound only": (lambda path: write_sound(path), ValueError, "must hold a video stream, but holds audio"),
    "empty folder": (lambda path: path.mkdir(), ValueError, "must hold images"),
    "folder without rate": (lambda path: make_folder(path), ValueError, "has no video.json. Pass `fps`"),
    "folder with a broken note": (
        lambda path: make_folder(path).joinpath("video.json").write_text('{"fps": 0}'),
        ValueError,
        "unreadable video.json",
    ),
    "folder with a lost image": (
        lambda path: make_folder(path).joinpath("video.json").write_text('{"fps": 8, "num_frames": 4}'),
        ValueError,
        "must hold the 4 images .* holds 3",
    ),
}


def write_sound(path: Path) -> None:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))


def make_folder(path: Path) -> Path:
    path.mkdir()
    for k in range(3):
        Image.new("RGB", (8, 8)).save(path / f"{k}.png")
    return path


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_wrong_input_is_one_clear_error_that_names_the_file(tmp_path: Path, case: str) -> None:
    make, error, message = WRONG_INPUTS[case]
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(error, match=message) as caught:
        read_video(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", OUTPUTS[:3])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.995])
def test_a_truncated_file_is_reported_by_name(tmp_path: Path, name: str, share: float) -> None:
    data = write_video(moving_frames(12, 64, 64), tmp_path / name, 8).read_bytes()
    path = tmp_path / f"cut-{name}"
    path.write_bytes(data[: int(len(data) * share)])
    for read in (probe_video, read_video):
        with pytest.raises(ValueError, match=f"`path` .*cut-{name}"):
            read(path)


def test_an_mp4_that_ends_between_two_frames_is_reported(tmp_path: Path) -> None:
    whole = write_video(moving_frames(12, 64, 64), tmp_path / "whole.mp4", 8)
    with av.open(str(whole)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][7]
        (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: packet.pos + packet.size])
    with pytest.raises(ValueError, match="of 12 frames 8 were found"):
        probe_video(tmp_path / "cut.mp4")


def test_a_damaged_image_in_a_folder_is_reported_by_name(tmp_path: Path) -> None:
    path = write_video(moving_frames(3, 32, 32), tmp_path / "clip", 8)
    image = path / "000001.png"
    image.write_bytes(image.read_bytes()[:700])
    with pytest.raises(ValueError, match="000001.png"):
        read_video(path)


def test_an_image_of_another_size_in_a_folder_is_reported_by_name(tmp_path: Path) -> None:
    path = write_video(moving_frames(3, 32, 32), tmp_path / "clip", 8)
    Image.new("RGB", (9, 9)).save(path / "000002.png")
    with pytest.raises(ValueError, match="000002.png must be 32x32"):
        read_video(path)


WRONG_READS = [
    (lambda path: read_video(path, start=1, end=0.5), ValueError, "`start` must be less than `end`"),
    (lambda path: read_video(path, start=1, end=1), ValueError, "`start` must be less than `end`"),
    (lambda path: read_video(path, start=-1), ValueError, "`start` must be at least 0"),
    (lambda path: read_video(path, end=float("nan")), ValueError, "`end` must be finite"),
    (lambda path: read_video(path, start="0"), TypeError, "`start` must be a time in seconds"),
    (lambda path: iter_frames(path, start=5), ValueError, "must enclose a frame"),
    (lambda path: read_video(path, fps=8), ValueError, "`fps` must be None for a file"),
    (lambda path: read_video(probe_video(path), fps=8), ValueError, "`fps` must be None for a measured video"),
    (lambda path: iter_frames(path, keep_alpha=True), ValueError, "`keep_alpha` must be False"),
    (lambda path: read_frames_at(path, []), ValueError, "at least one time"),
    (lambda path: read_frames_at(path, 0.5), TypeError, "must be an iterable"),
    (lambda path: read_frames_at(path, [0, True]), TypeError, "`timestamps` must be a time"),
    (lambda path: read_frames_at(path, [0, 99]), ValueError, "but one is 99 s"),
    (lambda path: probe_video(None), TypeError, "`path` must be a str or Path"),
]


@pytest.mark.parametrize(("read", "error", "message"), WRONG_READS)
def test_wrong_reads_are_one_clear_error(foreign_files: Path, read: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        read(foreign_files / "closed.mp4")


def test_times_before_a_late_start_are_refused(foreign_files: Path) -> None:
    with pytest.raises(ValueError, match="between 1.5"):
        read_frames_at(foreign_files / "late.mp4", [0])


def test_info_of_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    info = probe_video(write_video(FRAMES, tmp_path / "clip.mp4", 8))
    write_video(FRAMES[:2], tmp_path / "clip.mp4", 8)
    with pytest.raises(ValueError, match="has changed since"):
        read_video(info)


def test_the_examples_in_the_documentation_run() -> None:
    result = doctest.testmod(video_io)
    assert result.attempted > 5 and result.failed == 0


def test_a_video_of_an_unknown_codec_is_refused_by_name(tmp_path: Path) -> None:
    path = write_video(torch.zeros(3, 3, 32, 32), tmp_path / "clip.mp4", fps=8)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(ValueError, match="clip.mp4 is encoded by an unknown codec"):
        probe_video(path)
