"""The numbers of a run, one JSON object per line, so that two runs can be compared byte by byte."""

import json
import os
from pathlib import Path
from typing import Any


LOG_NAME = "log.jsonl"


class RunLog:
    """
    A file of records that belong to optimizer updates.

    Args:
        path (`str` or `Path`): The file.
        is_writer (`bool`, *optional*, defaults to `True`): Whether this process writes; others only take part.
    """

    def __init__(self, path: str | Path, is_writer: bool = True) -> None:
        self.path, self.is_writer = Path(path), is_writer

    def append(self, step: int, **values: float) -> None:
        """
        Write a line and hand it to the system, so that a process that is killed leaves it behind.

        Args:
            step (`int`): Optimizer updates done.
            values (`float`): Numbers by name.
        """
        if not self.is_writer:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """
        Read all whole lines.

        Returns:
            `list[dict[str, Any]]`: Records, in the order of writing; none where there is no file.
        """
        if not self.path.is_file():
            return []
        records = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:  # the line that was being written when the process was killed
                break
        return records

    def truncate(self, step: int) -> None:
        """
        Drop what was written after an update, because the run goes on from there.

        Args:
            step (`int`): The last update to keep.
        """
        if not self.is_writer:
            return
        kept = [record for record in self.read() if record["step"] <= step]
        unfinished = self.path.with_name(f".{self.path.name}.partial")
        unfinished.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(unfinished, self.path)


def read_results(folder: str | Path) -> dict[str, float]:
    """
    Sum up a run.

    Args:
        folder (`str` or `Path`): Its output folder.

    Returns:
        `dict[str, float]`: Updates done, and the held-out loss before and after, if it was measured.
    """
    records = RunLog(Path(folder) / LOG_NAME).read()
    results = {"updates": records[-1]["step"]} if records else {}
    measured = [record["heldout_loss"] for record in records if "heldout_loss" in record]
    if measured:
        results |= {"held-out loss before": measured[0], "held-out loss after": measured[-1]}
    return results
