"""The result of an evaluation: scores, and all that somebody needs to measure them again."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.files import replacing


if TYPE_CHECKING:
    from huggingface_hub import EvalResult


FORMAT_VERSION = 1
_PACKAGES = ("diffusers-video", "torch", "numpy", "diffusers", "accelerate", "av")


@dataclass(frozen=True, kw_only=True)
class Score:
    """
    One number.

    Args:
        metric (`str`): One of those of [`EvaluationSettings`].
        label (`str`): What to call it in a table, such as `"FVD"`; it names the network where it is another.
        value (`float`): The score.
        interval (`tuple[float, float]`, *optional*): Where it lies with the result's confidence.
        details (`dict`, *optional*): What else was found, such as the expected bias; JSON values.
    """

    metric: str
    label: str
    value: float
    interval: tuple[float, float] | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class VideoEvaluation:
    """
    Scores of a set of videos, and how they came about.

    Args:
        scores (`tuple[Score, ...]`): The numbers.
        protocol (`dict`): Values of [`EvaluationProtocol`].
        num_generated (`int`): Generated clips.
        num_reference (`int`, *optional*): Clips of the reference; `None` if there is none.
        fps (`str`, *optional*): Frames per second of the clips of both sets; `None` if not known or not one.
        codecs (`dict`): For each set, how many of its videos have which codec.
        generated (`dict`): What the generated clips are of.
        reference (`dict`, *optional*): What those of the reference are of.
        networks (`dict`): Name, hash of the weights and details of each network, by its role.
        confidence (`float`): Part of the intervals' chance to hold the value, such as 0.95.
        warnings (`tuple[str, ...]`): What a reader must know before comparing.
        versions (`dict`): Of Python and packages.
    """

    scores: tuple[Score, ...]
    protocol: dict[str, Any]
    num_generated: int
    num_reference: int | None
    fps: str | None
    codecs: dict[str, Any]
    generated: dict[str, Any]
    reference: dict[str, Any] | None
    networks: dict[str, Any]
    confidence: float
    warnings: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=lambda: package_versions())

    def __getitem__(self, metric: str) -> Score:
        """
        Look up a score.

        Args:
            metric (`str`): Its name.

        Returns:
            [`Score`]

        Raises:
            KeyError: If it was not measured.
        """
        for score in self.scores:
            if score.metric == metric:
                return score
        raise KeyError(f"`metric` must be one of {[score.metric for score in self.scores]}, but is {metric!r}.")

    def to_json(self) -> str:
        """
        Write it as text.

        Returns:
            `str`: A JSON object.
        """
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike) -> Path:
        """
        Write it to a JSON file, whole or not at all.

        Args:
            path (`str` or `os.PathLike`): The file; its folder must exist.

        Returns:
            `pathlib.Path`: The file.
        """
        path = Path(path)
        with replacing(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> VideoEvaluation:
        """
        Read what [`VideoEvaluation.save`] wrote.

        Args:
            path (`str` or `os.PathLike`): The file.

        Returns:
            [`VideoEvaluation`]

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds something else.
        """
        text = Path(path).read_text(encoding="utf-8")
        try:
            content = json.loads(text)
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise ValueError(f"its version is {version!r}, not {FORMAT_VERSION}")
            for score in content["scores"]:
                score["interval"] = score["interval"] and tuple(score["interval"])
            content["scores"] = tuple(Score(**score) for score in content["scores"])
            content["warnings"] = tuple(content["warnings"])
            return cls(**content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"`path` {path} must hold the result of an evaluation, but does not: {error}.") from error

    def card_results(
        self, *, dataset_name: str, dataset_type: str | None = None, task_type: str = "text-to-video"
    ) -> list[EvalResult]:
        """
        Say it in the Hub's evaluation format, for [`~hub.add_evaluation_results`].

        Args:
            dataset_name (`str`): What the reference is called, such as `"UCF-101 (train)"`.
            dataset_type (`str`, *optional*): Its id on the Hub; by default `dataset_name` in small letters, with
                dashes for blanks.
            task_type (`str`, *optional*, defaults to `"text-to-video"`): Task of the model on the Hub.

        Returns:
            `list[EvalResult]`: One for each score.
        """
        from huggingface_hub import EvalResult

        conditions = {
            "protocol": self.protocol,
            "num_generated": self.num_generated,
            "num_reference": self.num_reference,
            "fps": self.fps,
            "networks": self.networks,
            "versions": self.versions,
        }
        return [
            EvalResult(
                task_type=task_type,
                dataset_type=dataset_type or "-".join(dataset_name.lower().split()),
                dataset_name=dataset_name,
                metric_type=score.metric,
                metric_name=score.label,
                metric_value=score.value,
                metric_config=self.protocol["name"],
                metric_args={
                    "interval": None if score.interval is None else list(score.interval),
                    "confidence": self.confidence,
                    **score.details,
                    **conditions,
                },
            )
            for score in self.scores
        ]

    def summary(self) -> str:
        """
        Say it for a reader.

        Returns:
            `str`: A line for each score, and one for what they are of.
        """
        lines = []
        for score in self.scores:
            interval = (
                "" if score.interval is None else f" ({_short(score.interval[0])} to {_short(score.interval[1])})"
            )
            lines.append(f"{score.label}: {_short(score.value)}{interval}")
        reference = "" if self.num_reference is None else f" against {self.num_reference}"
        rate = "" if self.fps is None else f" at {self.fps} frames per second"
        lines.append(
            f"{self.num_generated} clips{reference} of {self.protocol['num_frames']} frames{rate}, protocol"
            f" {self.protocol['name']}; in brackets {self.confidence:.0%} intervals"
        )
        return "\n".join(lines)


def _short(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"


def package_versions() -> dict[str, str]:
    """
    Versions of what computes scores.

    Returns:
        `dict[str, str]`: By the name of the package, and `python`.
    """
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
