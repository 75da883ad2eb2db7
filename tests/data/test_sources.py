"""Training sets in every layout are listed, and what they name wrongly is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_video.data.accounting import DUPLICATE, MISSING, NOT_A_VIDEO, NOT_LISTED
from diffusers_video.data.sources import VideoSource, list_videos
from tests.data.video_sets import write_jsonl


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(source: VideoSource) -> dict[str, str]:
    return {entry.name: entry.text for entry in source.entries}


def reasons(source: VideoSource) -> dict[str, str]:
    return {part.name: part.reason for part in source.unused}


def test_metadata_jsonl_gives_names_captions_and_other_columns(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "sub" / "b.webm")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.mp4", "text": " one ", "score": 3}\n\n{"file_name": "sub/b.webm", "text": "tw\u00f6"}\r\n',
        encoding="utf-8",
    )
    source = list_videos(tmp_path)
    assert listed(source) == {"a.mp4": "one", "sub/b.webm": "tw\u00f6"}
    assert [entry.path for entry in source.entries] == [tmp_path / "a.mp4", tmp_path / "sub" / "b.webm"]
    assert source.entries[0].extra == {"score": 3} and not source.unused


def test_columns_can_be_named(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "list.jsonl").write_text('{"video": "a.mp4", "caption": "one", "text": "no"}\n')
    source = list_videos(tmp_path / "list.jsonl", video_column="video", caption_column="caption")
    assert listed(source) == {"a.mp4": "one"}


def test_what_a_list_names_wrongly_or_not_at_all_is_reported(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "extra.mov", tmp_path / "notes.md", tmp_path / ".hidden.mp4")
    text = '{"file_name": "%s", "text": "x"}\n'
    (tmp_path / "metadata.jsonl").write_text("".join(text % name for name in ("a.mp4", "gone.mp4", "./a.mp4")))
    source = list_videos(tmp_path)
    assert listed(source) == {"a.mp4": "x"}
    assert reasons(source) == {"gone.mp4": MISSING, "./a.mp4": DUPLICATE, "extra.mov": NOT_LISTED}


def test_a_plain_folder_is_searched_at_any_depth_with_captions_beside_the_videos(tmp_path: Path) -> None:
    touch(tmp_path / "b.mp4", tmp_path / "deep" / "er" / "a.gif", tmp_path / "readme.md", tmp_path / "lost.txt")
    touch(tmp_path / "frames" / "000.png", tmp_path / "frames" / "001.png", tmp_path / ".git" / "c.mp4")
    (tmp_path / "b.txt").write_text("\ufeffa bee\n", encoding="utf-8")
    (tmp_path / "frames.txt").write_text("images")
    source = list_videos(tmp_path)
    assert listed(source) == {"b.mp4": "a bee", "deep/er/a.gif": "", "frames": "images"}
    assert reasons(source) == {"readme.md": NOT_A_VIDEO, "lost.txt": NOT_A_VIDEO}


def test_pictures_beside_videos_do_not_hide_the_videos(tmp_path: Path) -> None:
    touch(tmp_path / "sub" / "a.mp4", tmp_path / "sub" / "thumbnail.jpg")
    source = list_videos(tmp_path)
    assert listed(source) == {"sub/a.mp4": ""} and reasons(source) == {"sub/thumbnail.jpg": NOT_A_VIDEO}


def test_a_webvid_csv_names_files_by_folder_and_number(tmp_path: Path) -> None:
    touch(tmp_path / "000001_000050" / "7.mp4", tmp_path / "videos" / "b" / "8.mp4")
    (tmp_path / "results_2M_val.csv").write_text(
        'videoid,contentUrl,duration,page_dir,name\n7,http://x/7.mp4,PT1S,000001_000050,"one, two"\n'
        "8,http://x/8.mp4,PT1S,b,three\n9,http://x/9.mp4,PT1S,b,four\n"
    )
    source = list_videos(tmp_path)
    assert listed(source) == {"000001_000050/7.mp4": "one, two", "videos/b/8.mp4": "three"}
    assert reasons(source) == {"b/9.mp4": MISSING}


def test_a_csv_with_other_columns_and_another_folder(tmp_path: Path) -> None:
    touch(tmp_path / "clips" / "a.mp4", tmp_path / "clips" / "b.mp4")
    (tmp_path / "list.csv").write_text("clip,words\na.mp4,one\nb.mp4,two\n")
    source = list_videos(
        tmp_path / "list.csv", video_column="clip", caption_column="words", video_root=tmp_path / "clips"
    )
    assert listed(source) == {"a.mp4": "one", "b.mp4": "two"}


def test_a_link_to_a_listed_video_is_a_duplicate(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    assert reasons(list_videos(tmp_path)) == {"b.mp4": DUPLICATE}


def test_the_order_is_that_of_the_list(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    write_jsonl(tmp_path, {"b.mp4": "", "a.mp4": ""})
    assert list(listed(list_videos(tmp_path))) == ["b.mp4", "a.mp4"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "list.csv"])
def test_a_list_that_is_named_itself_reports_no_other_files(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    write_jsonl(tmp_path, {"a.mp4": "x"})
    (tmp_path / "list.csv").write_text("file_name,text\na.mp4,x\n")
    source = list_videos(tmp_path / name)
    assert listed(source) == {"a.mp4": "x"} and not source.unused
