"""Evaluation of frames: FID, CLIP, and pairs of clips with PSNR, SSIM and LPIPS."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusers_video.metrics import frame_networks
from diffusers_video.metrics.bootstrap import bootstrap_interval
from diffusers_video.metrics.clip_scores import ClipEmbedder, clip_frame_consistency, clip_similarity
from diffusers_video.metrics.clip_sources import ClipSource, FolderClips, MemoryClips, PipelineClips
from diffusers_video.metrics.evaluation import evaluate_videos
from diffusers_video.metrics.evaluation_settings import EvaluationSettings
from diffusers_video.metrics.feature_networks import FeatureNetwork
from diffusers_video.metrics.feature_sets import FeatureSet, extract_features
from diffusers_video.metrics.frame_networks import clip_frames, load_inception, random_frame_features
from diffusers_video.metrics.frames import lpips, psnr, ssim
from diffusers_video.metrics.frechet import frechet_distance
from diffusers_video.metrics.paired_clips import PairedClips, load_lpips, lpips_network
from diffusers_video.metrics.protocols import find_protocol
from diffusers_video.metrics.results import VideoEvaluation
from diffusers_video.metrics.statistics import FeatureStatistics
from diffusers_video.video_io import write_video

from .test_clip_scores import tiny_embedder


PROTOCOL = find_protocol("custom", num_frames=3, resize="none")
NETWORK = random_frame_features(0, 6)
CAPTIONS = ["a red circle", "a blue square", "a red circle", "a green star"]
FRECHET = EvaluationSettings(metrics=("frame_frechet_distance",), num_resamples=0)


class Distance(nn.Module):
    """Stands for LPIPS: the mean difference of two batches of images."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().mean((1, 2, 3))


class Inception(nn.Module):
    """Stands for the network of FID: 8 numbers of each image of bytes."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        return images.float().flatten(1)[:, :8] * float(return_features)


@pytest.fixture(scope="module")
def embedder() -> ClipEmbedder:
    return tiny_embedder()


def make_videos(seed: int = 0, count: int = 4) -> Tensor:
    return torch.rand(count, 3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def clips(seed: int = 0, captions: list[str] | None = None, **options: Any) -> MemoryClips:
    return MemoryClips(make_videos(seed), PROTOCOL, is_generated=seed == 0, captions=captions, **options)


def evaluate(settings: EvaluationSettings, **changes: Any) -> VideoEvaluation:
    arguments = {"generated": clips(), "reference": clips(1), "protocol": PROTOCOL, "settings": settings}
    return evaluate_videos(**{**arguments, **changes})


def pixels_of(source: ClipSource) -> Tensor:
    """B C F H W in [0, 1]."""
    return torch.stack(source.read(range(source.num_clips))).transpose(1, 2) / 255


def test_frames_of_all_clips_are_the_samples_of_their_frechet_distance() -> None:
    result = evaluate(FRECHET, frame_network=NETWORK)
    rows = [pixels_of(source).transpose(1, 2).flatten(0, 1) * 2 - 1 for source in (clips(), clips(1))]
    statistics = [FeatureStatistics.from_features(NETWORK.function(images)) for images in rows]
    assert statistics[0].num_samples == 12
    score = result["frame_frechet_distance"]
    assert score.value == pytest.approx(frechet_distance(*statistics), rel=1e-4)
    assert "not FID" in score.label and (result.num_generated, result.num_reference) == (4, 4)


def test_frames_of_a_clip_are_resampled_together() -> None:
    settings = dataclasses.replace(FRECHET, num_resamples=10)
    still = make_videos()[:, :1].expand(-1, 3, -1, -1, -1)
    single = find_protocol("custom", num_frames=1, resize="none")
    intervals = []
    for protocol, videos in ((PROTOCOL, still), (single, still[:, :1])):
        source, other = (MemoryClips(part, protocol, is_generated=False) for part in (videos, 1 - videos))
        options = {"generated": source, "reference": other, "protocol": protocol, "frame_network": NETWORK}
        result = evaluate(dataclasses.replace(settings, allows_small_sets=True), **options)
        intervals.append(result["frame_frechet_distance"].interval)
    assert intervals[0] == pytest.approx(intervals[1], rel=1e-3)  # frames that are copies make it no narrower


def test_intervals_are_of_all_frames() -> None:
    def distance(*sets: Tensor) -> float:
        return frechet_distance(*(FeatureStatistics.from_features(rows.flatten(0, 1)) for rows in sets))

    score = evaluate(dataclasses.replace(FRECHET, num_resamples=10), frame_network=NETWORK)["frame_frechet_distance"]
    features = [NETWORK(source.read(range(4)), "none") for source in (clips(), clips(1))]
    want = bootstrap_interval(distance, *features, num_resamples=10)
    assert score.interval == pytest.approx((want.low, want.high), rel=1e-3)


@pytest.mark.parametrize("keeps_features", [True, False])
def test_saved_frames_stand_for_their_clips(tmp_path: Path, keeps_features: bool) -> None:
    (found,) = extract_features(clips(1), [NETWORK], PROTOCOL, keeps_features=keeps_features, batch_size=3)
    loaded = FeatureSet.load(found.save(tmp_path / "frames.safetensors"))
    assert loaded.num_clips == 4 and loaded.statistics.num_samples == 12
    want = evaluate(FRECHET, frame_network=NETWORK)["frame_frechet_distance"].value
    got = evaluate(FRECHET, frame_network=NETWORK, reference=loaded)
    assert got["frame_frechet_distance"].value == pytest.approx(want, rel=1e-6) and got.num_reference == 4


def test_only_inception_gives_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inception.pt"
    torch.jit.script(Inception()).save(path)
    settings = EvaluationSettings(metrics=("fid",), num_resamples=0, allows_small_sets=True)
    with pytest.raises(ValueError, match="`frame_network` must be Inception .* but is 'random features of frames"):
        evaluate(settings, frame_network=NETWORK)
    network, frames = load_inception(path), clips().read([0])[0]
    with pytest.raises(ValueError, match=r"must return 2048 features of an image, but returned shape \(3, 8\)"):
        network([frames], "none")
    monkeypatch.setattr(frame_networks, "INCEPTION_FEATURES", 8)
    assert torch.equal(network([frames], "none")[0], frames.flatten(1)[:, :8].float())  # bytes, as they are
    (score,) = evaluate(settings, frame_network=network, reference=clips()).scores
    assert (score.label, score.value) == ("FID", pytest.approx(0, abs=1e-6))


def test_files_that_are_not_inception_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.jit.script(Distance()).save(path)
    with pytest.raises(ValueError, match=r"must take the arguments \['return_features'\]"):
        load_inception(path)
    torch.save({"weight": torch.ones(1)}, path)
    for load in (load_inception, load_lpips):
        with pytest.raises(ValueError, match="`weights` must be a TorchScript file"):
            load(path)


def test_clip_scores_are_those_of_the_functions(embedder: ClipEmbedder) -> None:
    settings = EvaluationSettings(metrics=("clip_similarity", "clip_frame_consistency"), num_resamples=5)
    result = evaluate(settings, generated=clips(captions=CAPTIONS), clip=embedder)
    videos, captions = pixels_of(clips()), clips(captions=CAPTIONS).captions  # both in the order of the clips
    similarity, consistency = result.scores
    assert captions != CAPTIONS and sorted(captions) == sorted(CAPTIONS)
    assert similarity.value == pytest.approx(clip_similarity(videos, captions, embedder).mean().item(), rel=1e-5)
    assert consistency.value == pytest.approx(clip_frame_consistency(videos, embedder).mean().item(), rel=1e-5)
    assert similarity.interval[0] < similarity.value < similarity.interval[1]
    assert "of_reference" in consistency.details and "of_reference" not in similarity.details
    assert similarity.label == "CLIPSIM" and consistency.details["num_frames"] == 3
    assert len(result.networks["clip"]["tensors_sha256"]) == 64


def test_another_clip_is_told_by_its_hash(embedder: ClipEmbedder) -> None:
    first = clip_frames(embedder).details["tensors_sha256"]
    with torch.no_grad():
        embedder.model.logit_scale += 1
    assert clip_frames(embedder).details["tensors_sha256"] != first


def test_captions_are_those_of_prompts_and_files(tmp_path: Path) -> None:
    def draw(prompt: list[str], num_frames: int, generator: list, output_type: str) -> None: ...

    protocol = PROTOCOL.changed(num_generated=3)
    assert PipelineClips(draw, protocol, prompts=["a", "b"]).captions == ["a", "b", "a"]
    for number in range(2):
        write_video(make_videos()[number], tmp_path / f"{number}.gif", 10)
    (tmp_path / "1.txt").write_text("a blue square\n")
    source = FolderClips(tmp_path, find_protocol("custom", num_frames=2, order="sorted"), is_generated=True)
    assert source.captions == ["", "a blue square"]


def test_clips_without_captions_are_named(embedder: ClipEmbedder) -> None:
    settings = EvaluationSettings(metrics=("clip_similarity",), num_resamples=0)
    with pytest.raises(ValueError, match="`generated` must have a caption .* but has none"):
        evaluate(settings, clip=embedder)
    captions = ["a", "", "c", "d"]
    protocol = find_protocol("custom", num_frames=3, order="sorted")
    source = MemoryClips(make_videos(), protocol, is_generated=True, captions=captions)
    with pytest.raises(ValueError, match="lacks that of video 1, frame 0"):
        evaluate(settings, generated=source, clip=embedder)
    with pytest.raises(ValueError, match="`captions` must be one for each of 4 videos, but are 3"):
        clips(captions=captions[:3])


def test_pairs_are_scored_frame_by_frame() -> None:
    settings = EvaluationSettings(metrics=("ssim", "lpips", "psnr"), num_resamples=5)
    result = evaluate(settings, lpips=lpips_network(Distance(), "mean difference"))
    own = clips()
    partners = torch.stack([(make_videos(1)[place.video] * 255).round() / 255 for place in own.places])
    pairs = pixels_of(own), partners.transpose(1, 2)
    assert result["psnr"].value == pytest.approx(psnr(*pairs).mean().item(), rel=1e-5)
    assert result["ssim"].value == pytest.approx(ssim(*pairs).mean().item(), rel=1e-4)
    assert result["lpips"].value == pytest.approx(lpips(Distance(), *pairs).mean().item(), rel=1e-4)
    assert (result.num_generated, result.num_reference) == (4, 4) and result["psnr"].interval[0] < result["psnr"].value
    assert result.networks["lpips"]["name"] == "mean difference"
    assert evaluate(settings, reference=clips(), lpips=lpips_network(Distance(), ""))["psnr"].value == 100


def test_videos_of_folders_are_paired_by_name(tmp_path: Path) -> None:
    videos = make_videos()
    for side, names in (("generated", ("a.gif", "b.gif")), ("reference", ("b.mp4", "0.gif", "a.gif"))):
        for number, name in enumerate(names):
            (tmp_path / side / name).parent.mkdir(parents=True, exist_ok=True)
            write_video(videos[number if side == "generated" else 2 - number], tmp_path / side / name, 10)
    sides = ("generated", "reference")
    own, other = (FolderClips(tmp_path / side, PROTOCOL, is_generated=side == "generated") for side in sides)
    assert own.video_names == ["a", "b"] and other.video_names == ["0", "a", "b"]
    pairs = PairedClips(own, other)
    names = [Path(pairs.name_of(number).split(",")[0]).name for number in range(2)]
    pair = pairs.read([names.index("a.gif")])[0]
    assert torch.equal(pair[:3], pair[3:])
    result = evaluate(EvaluationSettings(metrics=("psnr",), num_resamples=0), generated=own, reference=other)
    assert result.codecs == {"generated": {"gif": 2}, "reference": {"gif": 2, "h264": 1}}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (make_videos(1, 3), "`reference` must hold one video '3' .* but holds 0"),
        (make_videos(1)[:, :2], "`reference` must show the frames .* has 2 frames of at least 3"),
        (make_videos(1)[..., :12], "is 16x16 and its partner 12x16"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(reference: Tensor, message: str) -> None:
    protocol = find_protocol("custom", num_frames=reference.shape[1], resize="none")
    other = MemoryClips(reference, protocol, is_generated=False)
    with pytest.raises(ValueError, match=message):
        evaluate(EvaluationSettings(metrics=("psnr",), num_resamples=0), reference=other)


def test_saved_features_cannot_be_paired(tmp_path: Path) -> None:
    (saved,) = extract_features(clips(1), [NETWORK], PROTOCOL)
    with pytest.raises(TypeError, match="`reference` must be a folder or list of videos"):
        evaluate(EvaluationSettings(metrics=("psnr",)), reference=saved)


def test_networks_of_images_and_of_clips_are_not_confused() -> None:
    network = FeatureNetwork(name="clips", function=lambda videos: videos.flatten(1))
    with pytest.raises(ValueError, match="`frame_network` must be a network of images"):
        evaluate(FRECHET, frame_network=network)
    with pytest.raises(ValueError, match=r"must return one vector per frame, \(3, D\)"):
        dataclasses.replace(NETWORK, function=lambda images: images[:2, 0, 0])(clips().read([0]))
