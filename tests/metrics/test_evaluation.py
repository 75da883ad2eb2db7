"""Evaluation of videos: scores, what they are of, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_video.metrics.clip_measures import MEASURES
from diffusers_video.metrics.clip_sources import FolderClips, MemoryClips
from diffusers_video.metrics.consistency import measure_motion, temporal_flickering
from diffusers_video.metrics.evaluation import evaluate_videos
from diffusers_video.metrics.evaluation_settings import EvaluationSettings
from diffusers_video.metrics.feature_networks import FeatureNetwork, random_features
from diffusers_video.metrics.feature_sets import FeatureSet, extract_features
from diffusers_video.metrics.frechet import frechet_distance
from diffusers_video.metrics.inception_score import video_inception_score
from diffusers_video.metrics.kernel import polynomial_kernel_distance
from diffusers_video.metrics.protocols import EvaluationProtocol, find_protocol
from diffusers_video.metrics.results import VideoEvaluation
from diffusers_video.metrics.statistics import FeatureStatistics
from diffusers_video.video_io import write_video

from ..video_files import moving_frames


PROTOCOL = find_protocol("custom", num_frames=2, resize="none")
NETWORK = random_features(0, 6)
FVD_LIKE = dataclasses.replace(NETWORK, is_fvd=True, weights_sha256="0" * 64)
CLASSIFIER = FeatureNetwork(
    name="brightness", function=lambda videos: videos.mean((3, 4)).flatten(1) * 9, is_classifier=True
)
DISTANCES = EvaluationSettings(metrics=("frechet_distance", "kernel_distance"), num_resamples=0)


def clips(count: int = 12, *, seed: int = 0, fps: int | None = 8, is_generated: bool = True) -> MemoryClips:
    videos = torch.rand(count, 2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return MemoryClips(videos, PROTOCOL, is_generated=is_generated, fps=fps)


def evaluate(settings: EvaluationSettings = DISTANCES, **changes: Any) -> VideoEvaluation:
    arguments = {"generated": clips(), "reference": clips(10, seed=1, is_generated=False), "protocol": PROTOCOL}
    return evaluate_videos(**{**arguments, "network": NETWORK, "settings": settings, **changes})


def features_of(source: MemoryClips) -> torch.Tensor:
    return NETWORK(source.read(range(source.num_clips)), "none")


def test_scores_are_those_of_the_features() -> None:
    own, other = features_of(clips()), features_of(clips(10, seed=1, is_generated=False))
    result = evaluate()
    statistics = [FeatureStatistics.from_features(features) for features in (own, other)]
    assert result["frechet_distance"].value == pytest.approx(frechet_distance(*statistics), rel=1e-5)
    assert result["kernel_distance"].value == pytest.approx(polynomial_kernel_distance(own, other), rel=1e-4)
    assert result["frechet_distance"].details["num_features"] == 6
    assert (result.num_generated, result.num_reference, result.fps) == (12, 10, "8")
    assert result.protocol == PROTOCOL.describe()


def test_the_covariance_is_that_of_the_protocol() -> None:
    unbiased = PROTOCOL.changed(ddof=1)
    assert evaluate(protocol=unbiased)["frechet_distance"].value != evaluate()["frechet_distance"].value
    assert evaluate(protocol=unbiased)["frechet_distance"].details["ddof"] == 1


def test_a_set_has_no_distance_from_itself() -> None:
    assert evaluate(reference=clips())["frechet_distance"].value == 0


def test_batches_make_no_difference() -> None:
    small, large = evaluate(batch_size=1), evaluate(batch_size=64)
    for metric in DISTANCES.metrics:
        assert small[metric].value == pytest.approx(large[metric].value, rel=1e-4, abs=1e-6)


def test_intervals_hold_the_score_and_are_the_same_each_time() -> None:
    settings = dataclasses.replace(DISTANCES, num_resamples=20)
    result = evaluate(settings)
    for score in result.scores:
        low, high = score.interval
        assert low < score.value < high
        assert score.details["num_resamples"] == 20
    assert evaluate(settings) == result
    assert evaluate()["frechet_distance"].interval is None


def test_only_the_network_of_fvd_gives_fvd() -> None:
    settings = EvaluationSettings(metrics=("fvd", "kvd"), num_resamples=0)
    with pytest.raises(ValueError, match=r"`network` must be I3D .* but is 'random features \(seed 0, not FVD\)'"):
        evaluate(settings)
    result = evaluate(settings, network=FVD_LIKE)
    assert [score.label for score in result.scores] == ["FVD", "KVD"]
    assert result.networks["network"]["weights_sha256"] == "0" * 64
    assert "not FVD" in evaluate()["frechet_distance"].label


def test_the_inception_score_needs_no_reference() -> None:
    settings = EvaluationSettings(metrics=("inception_score",), num_splits=3, num_resamples=5)
    result = evaluate(settings, reference=None, network=None, classifier=CLASSIFIER)
    logits = CLASSIFIER(clips().read(range(12)), "none")
    want = video_inception_score(logits, num_splits=3, shuffle_seed=42)
    assert result["inception_score"].value == pytest.approx(want.mean, rel=1e-5)
    assert result["inception_score"].details["std_over_splits"] == pytest.approx(want.std, rel=1e-4)
    assert result.num_reference is None and list(result.networks) == ["classifier"]


def test_distances_and_the_inception_score_are_measured_at_once() -> None:
    settings = EvaluationSettings(metrics=("frechet_distance", "inception_score"), num_splits=1, num_resamples=0)
    result = evaluate(settings, classifier=CLASSIFIER)
    assert result["frechet_distance"].value == evaluate()["frechet_distance"].value
    assert result["inception_score"].value > 1


def test_measures_of_clips_are_means_with_those_of_the_reference() -> None:
    settings = EvaluationSettings(metrics=tuple(MEASURES), num_resamples=5)
    few = clips(3)
    result = evaluate(settings, network=None, generated=few, reference=few)
    videos = torch.stack(few.read(range(3))).transpose(1, 2) / 255
    motion = measure_motion(videos)
    assert result["temporal_flickering"].value == pytest.approx(temporal_flickering(videos).mean().item(), rel=1e-4)
    assert result["warping_error"].value == pytest.approx(motion.warping_error.mean().item(), rel=1e-3)
    assert result["motion_magnitude"].value == pytest.approx(motion.magnitude.mean().item(), rel=1e-3)
    assert result["warping_error"].details["of_reference"] == pytest.approx(result["warping_error"].value, rel=1e-6)
    assert evaluate(settings, network=None, generated=few, reference=None).num_reference is None
    with pytest.raises(ValueError, match="`network` has no effect on"):
        evaluate(settings)


def test_saved_sets_stand_for_their_clips(tmp_path: Path) -> None:
    (reference,) = extract_features(clips(10, seed=1, is_generated=False), [NETWORK], PROTOCOL)
    loaded = FeatureSet.load(reference.save(tmp_path / "reference.safetensors"))
    assert evaluate(reference=loaded) == evaluate()
    with pytest.raises(ValueError, match="its `num_frames` was 2, and now is 3"):
        evaluate(protocol=PROTOCOL.changed(num_frames=3), generated=loaded, reference=loaded)
    with pytest.raises(ValueError, match="its `network` was .*seed 0.* and now is .*seed 1"):
        evaluate(network=random_features(1, 6), reference=loaded)


def test_statistics_alone_give_frechet_distances_without_intervals() -> None:
    options = {"keeps_features": False}
    (reference,) = extract_features(clips(10, seed=1, is_generated=False), [NETWORK], PROTOCOL, **options)
    frechet = EvaluationSettings(metrics=("frechet_distance",), num_resamples=0)
    want = evaluate()["frechet_distance"].value
    assert evaluate(frechet, reference=reference)["frechet_distance"].value == pytest.approx(want, rel=1e-6)
    with pytest.raises(ValueError, match="`reference` must hold the features themselves"):
        evaluate(reference=reference)


def test_few_clips_are_an_error_or_a_warning_with_the_bias() -> None:
    with pytest.raises(ValueError, match="`generated` must have more clips than the 6 features .* but has 5"):
        evaluate(generated=clips(5))
    result = evaluate(dataclasses.replace(DISTANCES, allows_small_sets=True), generated=clips(5))
    bias = result["frechet_distance"].details["expected_bias"]
    assert bias > 0 and f"would score about {bias:.4g}" in result.warnings[0]
    kernel = EvaluationSettings(metrics=("kernel_distance",), num_resamples=0)
    assert evaluate(kernel, generated=clips(5)).warnings == ()


def test_other_rates_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"`generated` and `reference` must have one rate, but have \['24'\]"):
        evaluate(generated=clips(fps=24))
    result = evaluate(dataclasses.replace(DISTANCES, allows_other_fps=True), generated=clips(fps=24))
    assert result.fps is None
    assert evaluate(generated=clips(fps=None)).fps == "8"


def test_clips_of_one_video_are_said_to_be_dependent() -> None:
    protocol = PROTOCOL.changed(generated_clips="any")
    videos = torch.rand(3, 8, 3, 8, 8)
    source = MemoryClips(videos, protocol, is_generated=True)
    result = evaluate(generated=source, protocol=protocol)
    assert result.num_generated == 21 and result.generated["num_videos"] == 3
    assert "several are of one video" in result.warnings[0]


def test_results_are_json_that_comes_back(tmp_path: Path) -> None:
    result = evaluate(dataclasses.replace(DISTANCES, num_resamples=3))
    path = result.save(tmp_path / "result.json")
    assert VideoEvaluation.load(path) == result
    content = json.loads(path.read_text())
    assert EvaluationProtocol(**content["protocol"]) == PROTOCOL
    assert {"torch", "numpy", "diffusers-video", "python"} <= set(content["versions"])
    assert content["networks"]["network"]["seed"] == 0
    path.write_text("[]")
    with pytest.raises(ValueError, match="must hold the result of an evaluation"):
        VideoEvaluation.load(path)


def test_folders_of_videos_are_read_and_described(tmp_path: Path) -> None:
    for side in ("generated", "reference"):
        (tmp_path / side).mkdir()
        for number in range(3):
            frames = moving_frames(4, 16, 16).roll(number + (side == "reference"), dims=-1)
            write_video(frames, tmp_path / side / f"{number}.mp4", 8)
    sources = [
        FolderClips(tmp_path / side, PROTOCOL, is_generated=side == "generated") for side in ("generated", "reference")
    ]
    settings = EvaluationSettings(metrics=("kernel_distance",), num_resamples=0)
    result = evaluate_videos(*sources, PROTOCOL, network=NETWORK, settings=settings)
    assert result.codecs == {"generated": {"h264": 3}, "reference": {"h264": 3}}
    assert result.generated["path"] == str(tmp_path / "generated") and result.fps == "8"
    assert "3 clips against 3 of 2 frames at 8 frames per second" in result.summary()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": None}, "`reference` must be given for"),
        ({"network": None}, "`network` must be given for"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(**changes)
    with pytest.raises(ValueError, match="`classifier` must be a network that returns logits"):
        evaluate(EvaluationSettings(metrics=("inception_score",)))
    with pytest.raises(ValueError, match="`classifier` has no effect on"):
        evaluate(classifier=CLASSIFIER)
    with pytest.raises(ValueError, match="`reference` has no effect on"):
        evaluate(EvaluationSettings(metrics=("inception_score",)), classifier=CLASSIFIER, network=None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metrics": ("is",)}, "`metrics` must be some of"),
        ({"metrics": ()}, "`metrics` must be some of"),
        ({"num_resamples": 1}, "`num_resamples` must be 0 or at least 2"),
        ({"num_splits": 0}, "`num_splits` must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationSettings(**values)


def test_an_unknown_score_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="`metric` must be one of"):
        evaluate()["fvd"]
