"""Show a plan of clips: totals, tables, text."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusers_video.data.accounting import UnusedPart
from diffusers_video.data.plan import ClipPlan


def summarize_plan(plan: ClipPlan) -> dict[str, Any]:
    """
    Add up a plan.

    Args:
        plan ([`ClipPlan`]): The plan.

    Returns:
        `dict` of JSON values: `videos` (readable ones), `videos_with_clips`, `unreadable` (rows and files that are no
        readable video), `clips`, `clips_per_bucket`, `frames`, `used_frames`, `seconds`, `used_seconds`, and `unused`:
        for each reason its `parts`, `frames` and `seconds`. Seconds left out by resampling lie within clips and count
        as used; all frames and seconds of readable videos are either used or unused.
    """
    unused: dict[str, dict[str, Any]] = defaultdict(lambda: {"parts": 0, "frames": 0, "seconds": Fraction(0)})
    for part in plan.unused:
        total = unused[part.reason]
        total["parts"] += 1
        total["frames"] += part.num_frames or 0
        total["seconds"] += _length(part)
    seconds = sum((video.duration for video in plan.videos), Fraction(0))
    return {
        "videos": len(plan.videos),
        "videos_with_clips": len({clip.video for clip in plan.clips}),
        "unreadable": sum(part.num_frames is None for part in plan.unused),
        "clips": len(plan.clips),
        "clips_per_bucket": dict(sorted(Counter(str(clip.bucket) for clip in plan.clips).items())),
        "frames": sum(video.num_frames for video in plan.videos),
        "used_frames": sum(video.num_used_frames for video in plan.videos),
        "seconds": float(seconds),
        "used_seconds": float(seconds - sum(total["seconds"] for total in unused.values())),
        "unused": {reason: total | {"seconds": float(total["seconds"])} for reason, total in sorted(unused.items())},
    }


def _length(part: UnusedPart) -> Fraction:
    return Fraction(0) if part.start is None or part.end is None else part.end - part.start


def format_plan(plan: ClipPlan, *, width: int = 119, max_rows: int | None = None) -> str:
    """
    Write a plan as text: every clip, every unused part, and the totals.

    Args:
        plan ([`ClipPlan`]): The plan.
        width (`int`, *optional*, defaults to 119): Columns of the text; longer cells are folded.
        max_rows (`int`, *optional*): The most rows of a table; a line says how many are left out. By default all.

    Returns:
        `str`
    """
    if max_rows is not None and max_rows < 0:
        raise ValueError(f"`max_rows` must be at least 0 or None, but is {max_rows}.")
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    clips = [
        (number, plan.videos[clip.video].name, _seconds(clip.start), _seconds(clip.times[-1]), clip.bucket,
         f"{float(clip.fps):.6g}", plan.videos[clip.video].text)
        for number, clip in enumerate(plan.clips[:max_rows])
    ]  # fmt: skip
    _print_table(
        console, "Clips", ("clip", "video", "first s", "last s", "bucket", "fps", "caption"), clips, len(plan.clips)
    )
    unused = [
        (part.name, part.reason, _seconds(part.start), _seconds(part.end),
         "?" if part.num_frames is None else part.num_frames, part.explanation)
        for part in plan.unused[:max_rows]
    ]  # fmt: skip
    _print_table(console, "Unused", ("video", "reason", "from s", "to s", "frames", "why"), unused, len(plan.unused))
    for line in _total_lines(summarize_plan(plan)):
        console.print(line, markup=False, highlight=False)
    return console.file.getvalue()


def _seconds(time: Fraction | None) -> str:
    return "" if time is None else f"{float(time):.3f}"


def _print_table(console: Console, title: str, columns: Sequence[str], rows: list[tuple], total: int) -> None:
    if not total:
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in columns:
        is_number = column in ("clip", "fps", "frames") or column.endswith(" s")
        table.add_column(column, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)
    if total > len(rows):
        console.print(f"... and {total - len(rows)} more", highlight=False)


def _total_lines(total: dict[str, Any]) -> list[str]:
    buckets = ", ".join(f"{count} of {name}" for name, count in total["clips_per_bucket"].items()) or "none"
    lines = [
        f"{total['clips']} clips ({buckets}) from {total['videos_with_clips']} of {total['videos']} readable videos;"
        f" {total['unreadable']} other files or rows give none",
        f"{total['used_frames']} of {total['frames']} frames and {total['used_seconds']:.3f} of"
        f" {total['seconds']:.3f} seconds are used",
    ]
    for reason, part in total["unused"].items():
        lines.append(
            f"unused, {reason}: {part['parts']} parts, {part['frames']} frames, {part['seconds']:.3f} seconds"
        )
    return lines
