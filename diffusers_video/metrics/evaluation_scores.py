"""Scores of an evaluation, each with its interval, from the features of both sets."""

# Shapes: N clips, K frames of a clip, D features.

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from .bootstrap import bootstrap_interval
from .evaluation_settings import CONFIDENCE, FRECHET, INCEPTION, LABELS, OF_FRAMES, EvaluationSettings
from .feature_sets import FeatureSet
from .frechet import frechet_distance, measure_frechet
from .inception_score import video_inception_score
from .kernel import polynomial_kernel_distance
from .protocols import EvaluationProtocol
from .results import Score
from .statistics import FeatureStatistics


SHUFFLE_SEED = 42  # StyleGAN-V's, before the splits of the Inception Score
_NAMED = {"fvd": "FVD", "kvd": "KVD", "fid": "FID"}
_UNNAMED = {
    "frechet_distance": "Frechet distance",
    "kernel_distance": "Kernel distance",
    "frame_frechet_distance": "Frechet distance of frames",
}


def score_distance(
    name: str, own: FeatureSet, other: FeatureSet, protocol: EvaluationProtocol, settings: EvaluationSettings
) -> tuple[Score, list[str]]:
    """
    Score how far two sets are apart.

    Args:
        name (`str`): The metric.
        own ([`FeatureSet`]): Of the generated clips.
        other ([`FeatureSet`]): Of the reference.
        protocol ([`EvaluationProtocol`]): Says which covariance.
        settings ([`EvaluationSettings`]): Say how intervals are made.

    Returns:
        `tuple` of [`Score`] and `list[str]`: The score, and what a reader must know before comparing.
    """
    network = own.record["network"]["name"]
    warnings: list[str] = []
    details: dict[str, Any] = {"num_features": own.statistics.num_features}
    label = _NAMED[name] if name in _NAMED else f"{_UNNAMED[name]}, {network}"
    if name in (*FRECHET, *OF_FRAMES):
        measured = measure_frechet(own.statistics, other.statistics, protocol.ddof)
        value, unit = measured.distance, "frames" if name in OF_FRAMES else "clips"
        details |= {"expected_bias": measured.expected_bias, "ddof": protocol.ddof}
        if min(measured.num_samples) <= measured.num_features:
            warnings.append(
                f"{label}: {min(measured.num_samples)} {unit} are not more than {measured.num_features} features;"
                f" equal distributions would score about {measured.expected_bias:.4g}."
            )
        measure = partial(_frechet_of_features, ddof=protocol.ddof)
    else:
        value = polynomial_kernel_distance(own.features, other.features)
        measure = polynomial_kernel_distance
    interval = None
    if settings.num_resamples:
        interval, found = _find_interval(measure, (own.features, other.features), settings)
        details |= found
    return Score(metric=name, label=label, value=value, interval=interval, details=details), warnings


def _frechet_of_features(first: Tensor, second: Tensor, ddof: int) -> float:
    rows = (features.flatten(0, -2) for features in (first, second))
    return frechet_distance(*map(FeatureStatistics.from_features, rows), ddof=ddof)


def score_inception(logits: FeatureSet, settings: EvaluationSettings) -> Score:
    """
    Score generated clips by their classes.

    Args:
        logits ([`FeatureSet`]): Of the classifier.
        settings ([`EvaluationSettings`]): Say how many splits, and how intervals are made.

    Returns:
        [`Score`]

    Raises:
        ValueError: If the set holds no logits of single clips.
    """
    if logits.features is None:
        raise ValueError("`generated` must hold the logits themselves for 'inception_score'. Save it again with them.")

    def measure(rows: Tensor) -> float:
        return video_inception_score(rows, num_splits=settings.num_splits, shuffle_seed=SHUFFLE_SEED).mean

    found = video_inception_score(logits.features, num_splits=settings.num_splits, shuffle_seed=SHUFFLE_SEED)
    details = {"std_over_splits": found.std, "num_splits": settings.num_splits, "shuffle_seed": SHUFFLE_SEED}
    interval = None
    if settings.num_resamples:
        interval, resampled = _find_interval(measure, (logits.features,), settings)
        details |= resampled
    label = f"Inception Score, {logits.record['network']['name']}"
    return Score(metric=INCEPTION[0], label=label, value=found.mean, interval=interval, details=details)


def score_values(
    name: str, values: Tensor, others: Tensor | None, settings: EvaluationSettings, details: dict[str, Any]
) -> Score:
    """
    Average a measure of clips.

    Args:
        name (`str`): The metric.
        values (`torch.Tensor` of shape `(num_clips,)`): Of each generated clip.
        others (`torch.Tensor`, *optional*): The same of the reference; their mean is told.
        settings ([`EvaluationSettings`]): Say how intervals are made.
        details (`dict`): What else a reader must know of it.

    Returns:
        [`Score`]
    """
    details = {**details, **({} if others is None else {"of_reference": others.double().mean().item()})}
    interval = None
    if settings.num_resamples:
        interval, found = _find_interval(lambda rows: rows.double().mean().item(), (values,), settings)
        details |= found
    value = values.double().mean().item()
    return Score(metric=name, label=LABELS[name], value=value, interval=interval, details=details)


def _find_interval(
    measure: Callable[..., float], sets: Sequence[Tensor], settings: EvaluationSettings
) -> tuple[tuple[float, float], dict[str, Any]]:
    found = bootstrap_interval(
        measure,
        *sets,
        num_resamples=settings.num_resamples,
        confidence=CONFIDENCE,
        seed=settings.seed,
    )
    details = {
        "interval_method": "bootstrap over clips, centred on the score",
        "num_resamples": found.num_resamples,
        "resampling_seed": found.seed,
        "standard_error": found.standard_error,
    }
    return (found.low, found.high), details
