"""Which videos a training set holds and what is said of them: metadata.jsonl, WebVid-style CSV, or a plain folder."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers_video.data.accounting import NOT_A_VIDEO, NOT_LISTED, UnusedPart, find_unavailable


METADATA_NAME = "metadata.jsonl"
VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif", ".m4v"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
CAPTION_SUFFIX = ".txt"
WEBVID_COLUMNS = ("videoid", "name")


@dataclass(frozen=True, slots=True)
class VideoEntry:
    """
    One video of a training set, not opened yet.

    Args:
        path (`Path`): A video file or a folder of images.
        name (`str`): What the set calls it.
        text (`str`): Its caption; empty if it has none.
        extra (`Mapping[str, Any]`): The other columns of its row.
    """

    path: Path
    name: str
    text: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoSource:
    """
    The videos of a training set.

    Args:
        root (`Path`): The folder that names are relative to.
        kind (`str`): `"jsonl"`, `"csv"` or `"folder"`.
        entries (`tuple[VideoEntry, ...]`): Videos that exist, in the order of the list, or by name.
        unused ([`UnusedPart`] tuple): Rows and files that give no video, each with its reason.
    """

    root: Path
    kind: str
    entries: tuple[VideoEntry, ...]
    unused: tuple[UnusedPart, ...] = ()


def list_videos(
    path: str | Path,
    *,
    video_column: str | None = None,
    caption_column: str | None = None,
    video_root: str | Path | None = None,
) -> VideoSource:
    """
    List the videos of a training set without opening them.

    Args:
        path (`str` or `Path`):
            A folder with `metadata.jsonl`, a folder with one .csv file, one of these files itself, or a plain folder:
            video files and folders of images at any depth, each with its caption in a .txt file of the same name
            beside it, if it has one. Names that begin with a dot are passed over.
        video_column (`str`, *optional*):
            Column with the name of the file, relative to `video_root`. By default `file_name`; a CSV without that
            column is read as WebVid's: `page_dir/videoid.mp4`, also below a folder `videos`.
        caption_column (`str`, *optional*):
            Column with the caption. By default `text`, or WebVid's `name`.
        video_root (`str` or `Path`, *optional*): The folder that file names are relative to; by default the list's.

    Returns:
        [`VideoSource`]

    Raises:
        FileNotFoundError: If there is nothing at `path` or `video_root`.
        ValueError: If the set is empty or has two lists, a list is damaged or lacks a column, or columns are named
            for a plain folder.
    """
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise FileNotFoundError(f"`path` must be a training set, but {path} does not exist. Name a folder or list.")
    listing = _find_listing(path)
    if listing is None:
        _refuse_for_plain_folder(path, video_column, caption_column, video_root)
        return _list_folder(path)
    root = listing.parent if video_root is None else Path(os.path.abspath(video_root))
    if not root.is_dir():
        raise FileNotFoundError(f"`video_root` must be a folder, but {root} is none. Name the folder of the videos.")
    if listing.suffix.lower() == ".csv":
        found = _read_csv(listing, root, video_column, caption_column)
    else:
        found = _read_jsonl(listing, root, video_column or "file_name", caption_column or "text")
    entries = list(found)
    if not entries:
        raise ValueError(f"`path` must list at least one video, but {listing} holds no row. Add some.")
    usable, unused = find_unavailable(entries)
    stray = _find_stray_files(root, listing, entries) if path.is_dir() else ()
    return VideoSource(root, listing.suffix.lower()[1:], tuple(usable), (*unused, *stray))


def _find_listing(path: Path) -> Path | None:
    if path.is_file():
        if path.suffix.lower() not in (".csv", ".jsonl"):
            raise ValueError(f"`path` must be a folder, a .jsonl or a .csv file, but is {path}. Name its folder.")
        return path
    lists = sorted(file for file in path.iterdir() if file.suffix.lower() == ".csv" and file.name[0] != ".")
    if (path / METADATA_NAME).is_file():
        lists.insert(0, path / METADATA_NAME)
    if len(lists) > 1:
        names = ", ".join(file.name for file in lists)
        raise ValueError(f"`path` must hold one list of videos, but {path} holds {names}. Name the one to use.")
    return lists[0] if lists else None


def _refuse_for_plain_folder(path: Path, *arguments: str | Path | None) -> None:
    for name, value in zip(("video_column", "caption_column", "video_root"), arguments, strict=True):
        if value is not None:
            raise ValueError(
                f"`{name}` must be None for a folder without {METADATA_NAME} or .csv, but is {str(value)!r} for"
                f" {path}. Add a list, or leave it out."
            )


def _list_folder(root: Path) -> VideoSource:
    entries, unused = [], []
    for path in walk_videos(root):
        name = path.relative_to(root).as_posix()
        if is_video_path(path):
            entries.append(VideoEntry(path, name, _read_caption(path)))
        elif not _is_caption_of_a_video(path):
            unused.append(UnusedPart(name, NOT_A_VIDEO, f"'{path.suffix}' is no suffix of a video"))
    if not entries:
        raise ValueError(
            f"`path` must hold at least one video ({', '.join(sorted(VIDEO_SUFFIXES))} or sub-folders of images), but"
            f" {root} holds {len(unused)} other files. Name another folder."
        )
    usable, duplicates = find_unavailable(entries)
    return VideoSource(root, "folder", tuple(usable), (*duplicates, *unused))


def walk_videos(root: Path) -> Iterator[Path]:
    """
    List files, and sub-folders that are videos, in order, without hidden ones.

    A sub-folder that holds images, but neither videos nor sub-folders, is a video itself; its files are not listed.

    Args:
        root (`Path`): Where to start.

    Returns:
        `Iterator[Path]`
    """
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        suffixes = {Path(name).suffix.lower() for name in files}
        if here != root and not folders and suffixes & IMAGE_SUFFIXES and not suffixes & VIDEO_SUFFIXES:
            yield here
            continue
        yield from (here / name for name in sorted(files) if not name.startswith("."))


def is_video_path(path: Path) -> bool:
    """
    Tell by its name alone whether a path from [`walk_videos`] is a video.

    Args:
        path (`Path`): A file, or a folder of images.

    Returns:
        `bool`
    """
    return path.suffix.lower() in VIDEO_SUFFIXES or path.is_dir()


def _caption_path(path: Path) -> Path:
    return path.with_name(path.name + CAPTION_SUFFIX) if path.is_dir() else path.with_suffix(CAPTION_SUFFIX)


def _is_caption_of_a_video(path: Path) -> bool:
    if path.suffix.lower() != CAPTION_SUFFIX:
        return False
    return path.with_suffix("").is_dir() or any(path.with_suffix(suffix).exists() for suffix in VIDEO_SUFFIXES)


def _read_caption(path: Path) -> str:
    caption = _caption_path(path)
    if not caption.is_file():
        return ""
    try:
        return caption.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"`path` holds a caption that is no UTF-8 text: {caption} ({error}). Save it anew.") from None


def _read_jsonl(listing: Path, root: Path, video_column: str, caption_column: str) -> Iterator[VideoEntry]:
    for number, line in enumerate(_read_lines(listing), start=1):
        if not line.strip():
            continue
        where = f"{listing}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"`path` must list one JSON object per line, but {where} is none: {error}.") from None
        if not isinstance(row, dict):
            raise ValueError(f"`path` must list one JSON object per line, but {where} is {line.strip()[:60]!r}.")
        check_columns(row, where, video_column=video_column, caption_column=caption_column)
        yield _make_entry(row, root, where, video_column, caption_column)


def _read_csv(listing: Path, root: Path, video_column: str | None, caption_column: str | None) -> Iterator[VideoEntry]:
    reader = csv.DictReader(_read_lines(listing), strict=True)
    columns = _read_header(reader, listing)
    is_webvid = video_column is None and "file_name" not in columns
    if is_webvid:
        check_columns(columns, str(listing), video_column=WEBVID_COLUMNS[0])
    else:
        check_columns(columns, str(listing), video_column=video_column or "file_name")
    caption_column = caption_column or (WEBVID_COLUMNS[1] if is_webvid else "text")
    check_columns(columns, str(listing), caption_column=caption_column)
    try:
        for row in reader:
            where = f"{listing}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(
                    f"`path` must have {len(columns)} cells in every row, but {where} has not. Correct it."
                )
            if is_webvid:
                row["file_name"] = _webvid_name(row, root)
            yield _make_entry(row, root, where, video_column or "file_name", caption_column)
    except csv.Error as error:
        raise ValueError(
            f"`path` must be a CSV file, but {listing}, line {reader.line_num}, is none: {error}."
        ) from None


def _read_header(reader: csv.DictReader, listing: Path) -> list[str]:
    try:
        columns = list(reader.fieldnames or [])
    except csv.Error as error:
        raise ValueError(f"`path` must be a CSV file, but the header of {listing} is none: {error}.") from None
    if len(set(columns)) != len(columns):
        raise ValueError(f"`path` must have columns of different names, but {listing} has {columns}. Rename them.")
    return columns


def _webvid_name(row: Mapping[str, str], root: Path) -> str:
    name = Path(row.get("page_dir", ""), f"{row[WEBVID_COLUMNS[0]]}.mp4")
    nested = "videos" / name  # where WebVid's own download script puts them
    return (nested if (root / nested).exists() and not (root / name).exists() else name).as_posix()


def _read_lines(listing: Path) -> Iterator[str]:
    try:
        with open(listing, encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"`path` must be UTF-8 text, but {listing} is not ({error}). Save it anew.") from None


def check_columns(columns: Any, where: str, **needed: str) -> None:
    """
    Check that a list of videos has the columns that are asked for.

    Args:
        columns (container of `str`): What it has.
        where (`str`): File and line, for the error.
        needed (`str`): Names of columns, by the argument that names them.

    Raises:
        ValueError: If a column is missing; it lists the columns found.
    """
    for argument, column in needed.items():
        if column not in columns:
            found = ", ".join(f"'{name}'" for name in columns) or "none"
            raise ValueError(
                f"`{argument}` must name a column, but {where} has no '{column}'. Columns found: {found}. Pass the"
                f" right one as `{argument}`."
            )


def _make_entry(row: Mapping[str, Any], root: Path, where: str, video_column: str, caption_column: str) -> VideoEntry:
    name, text = row[video_column], row[caption_column]
    for argument, column, value in (("video_column", video_column, name), ("caption_column", caption_column, text)):
        if not isinstance(value, str):
            raise ValueError(f"`{argument}` must hold text, but '{column}' in {where} is {value!r}. Correct the row.")
    if not name.strip():
        raise ValueError(
            f"`video_column` must name a file, but '{video_column}' in {where} is empty. Correct the row."
        )
    extra = {key: value for key, value in row.items() if key not in (video_column, caption_column)}
    return VideoEntry(root / name, name, text.strip(), extra)


def _find_stray_files(root: Path, listing: Path, entries: list[VideoEntry]) -> Iterator[UnusedPart]:
    listed = {os.path.abspath(entry.path) for entry in entries}
    for path in walk_videos(root):
        if is_video_path(path) and os.path.abspath(path) not in listed:
            yield UnusedPart(path.relative_to(root).as_posix(), NOT_LISTED, f"{listing.name} does not name it")
