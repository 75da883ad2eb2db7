"""How good videos are: distances between sets, scores of frames and of motion. A name loads its module when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .bootstrap import BootstrapInterval as BootstrapInterval
    from .bootstrap import bootstrap_interval as bootstrap_interval
    from .c3d import C3D as C3D
    from .clip_scores import ClipEmbedder as ClipEmbedder
    from .clip_scores import clip_frame_consistency as clip_frame_consistency
    from .clip_scores import clip_similarity as clip_similarity
    from .clip_sources import ClipSource as ClipSource
    from .clip_sources import FolderClips as FolderClips
    from .clip_sources import MemoryClips as MemoryClips
    from .clip_sources import PipelineClips as PipelineClips
    from .consistency import MotionScores as MotionScores
    from .consistency import flicker as flicker
    from .consistency import measure_motion as measure_motion
    from .consistency import temporal_flickering as temporal_flickering
    from .evaluation import evaluate_videos as evaluate_videos
    from .evaluation_settings import EvaluationSettings as EvaluationSettings
    from .feature_networks import FeatureNetwork as FeatureNetwork
    from .feature_networks import load_c3d as load_c3d
    from .feature_networks import load_i3d as load_i3d
    from .feature_networks import random_features as random_features
    from .feature_sets import FeatureSet as FeatureSet
    from .feature_sets import extract_features as extract_features
    from .flow import estimate_flow as estimate_flow
    from .flow import find_occlusion as find_occlusion
    from .flow import warp_images as warp_images
    from .frame_networks import clip_frames as clip_frames
    from .frame_networks import load_inception as load_inception
    from .frame_networks import random_frame_features as random_frame_features
    from .frames import FrameScores as FrameScores
    from .frames import average_frames as average_frames
    from .frames import lpips as lpips
    from .frames import psnr as psnr
    from .frames import ssim as ssim
    from .frechet import FrechetExtrapolation as FrechetExtrapolation
    from .frechet import FrechetMeasurement as FrechetMeasurement
    from .frechet import extrapolate_frechet as extrapolate_frechet
    from .frechet import frechet_bias as frechet_bias
    from .frechet import frechet_distance as frechet_distance
    from .frechet import measure_frechet as measure_frechet
    from .i3d import I3D as I3D
    from .inception_score import InceptionScore as InceptionScore
    from .inception_score import video_inception_score as video_inception_score
    from .kernel import KernelSubsets as KernelSubsets
    from .kernel import kernel_distance_of_subsets as kernel_distance_of_subsets
    from .kernel import polynomial_kernel_distance as polynomial_kernel_distance
    from .paired_clips import PairedClips as PairedClips
    from .paired_clips import load_lpips as load_lpips
    from .paired_clips import lpips_network as lpips_network
    from .preprocessing import prepare_clip as prepare_clip
    from .preprocessing import quantise as quantise
    from .preprocessing import resize_frames as resize_frames
    from .protocols import EvaluationProtocol as EvaluationProtocol
    from .protocols import find_protocol as find_protocol
    from .random_network import RandomVideoFeatures as RandomVideoFeatures
    from .results import Score as Score
    from .results import VideoEvaluation as VideoEvaluation
    from .statistics import FeatureStatistics as FeatureStatistics


# Public names by the module that defines them.
_PUBLIC = {
    "bootstrap": ("BootstrapInterval", "bootstrap_interval"),
    "c3d": ("C3D",),
    "clip_scores": ("ClipEmbedder", "clip_frame_consistency", "clip_similarity"),
    "clip_sources": ("ClipSource", "FolderClips", "MemoryClips", "PipelineClips"),
    "consistency": ("MotionScores", "flicker", "measure_motion", "temporal_flickering"),
    "evaluation": ("evaluate_videos",),
    "evaluation_settings": ("EvaluationSettings",),
    "feature_networks": ("FeatureNetwork", "load_c3d", "load_i3d", "random_features"),
    "feature_sets": ("FeatureSet", "extract_features"),
    "flow": ("estimate_flow", "find_occlusion", "warp_images"),
    "frame_networks": ("clip_frames", "load_inception", "random_frame_features"),
    "frames": ("FrameScores", "average_frames", "lpips", "psnr", "ssim"),
    "frechet": (
        "FrechetExtrapolation",
        "FrechetMeasurement",
        "extrapolate_frechet",
        "frechet_bias",
        "frechet_distance",
        "measure_frechet",
    ),
    "i3d": ("I3D",),
    "inception_score": ("InceptionScore", "video_inception_score"),
    "kernel": ("KernelSubsets", "kernel_distance_of_subsets", "polynomial_kernel_distance"),
    "paired_clips": ("PairedClips", "load_lpips", "lpips_network"),
    "preprocessing": ("prepare_clip", "quantise", "resize_frames"),
    "protocols": ("EvaluationProtocol", "find_protocol"),
    "random_network": ("RandomVideoFeatures",),
    "results": ("Score", "VideoEvaluation"),
    "statistics": ("FeatureStatistics",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
