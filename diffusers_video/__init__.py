"""
Turn pretrained image diffusion models into video diffusion models, with diffusers.

Importing the package takes milliseconds: a public name loads its module when it is first used, and diffusers learns
our classes when its own loading code is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _registration


if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from diffusers import DiffusionPipeline as DiffusionPipeline
    from diffusers import ModelMixin as ModelMixin
    from diffusers import SchedulerMixin as SchedulerMixin

    from .conditioning.frames import FrameCondition as FrameCondition
    from .hub import VideoHubMixin as VideoHubMixin
    from .hub import add_evaluation_results as add_evaluation_results
    from .hub import push_pipeline_to_hub as push_pipeline_to_hub
    from .hub import write_model_card as write_model_card
    from .metrics.clip_sources import FolderClips as FolderClips
    from .metrics.clip_sources import MemoryClips as MemoryClips
    from .metrics.clip_sources import PipelineClips as PipelineClips
    from .metrics.evaluation import evaluate_videos as evaluate_videos
    from .metrics.evaluation_settings import EvaluationSettings as EvaluationSettings
    from .metrics.feature_networks import FeatureNetwork as FeatureNetwork
    from .metrics.feature_networks import load_c3d as load_c3d
    from .metrics.feature_networks import load_i3d as load_i3d
    from .metrics.feature_networks import random_features as random_features
    from .metrics.protocols import EvaluationProtocol as EvaluationProtocol
    from .metrics.protocols import find_protocol as find_protocol
    from .metrics.results import VideoEvaluation as VideoEvaluation
    from .models.autoencoder_kl_3d import AutoencoderKL3D as AutoencoderKL3D
    from .models.autoencoder_kl_video import AutoencoderKLVideo as AutoencoderKLVideo
    from .models.autoencoder_triplane import AutoencoderTriplane as AutoencoderTriplane
    from .models.unet_space_time import UNetSpaceTimeModel as UNetSpaceTimeModel
    from .models.unet_space_time import UNetSpaceTimeOutput as UNetSpaceTimeOutput
    from .models.unet_triplane import UNetTriplaneModel as UNetTriplaneModel
    from .models.unet_video_condition import UNetVideoConditionModel as UNetVideoConditionModel
    from .models.unet_video_condition import UNetVideoConditionOutput as UNetVideoConditionOutput
    from .pipelines.frame_interpolation import FrameInterpolationPipeline as FrameInterpolationPipeline
    from .pipelines.image_to_video import ImageToVideoPipeline as ImageToVideoPipeline
    from .pipelines.key_frame_prediction import KeyFramePredictionPipeline as KeyFramePredictionPipeline
    from .pipelines.long_video import LongVideoPipeline as LongVideoPipeline
    from .pipelines.pipeline_output import VideoPipelineOutput as VideoPipelineOutput
    from .pipelines.text_to_video import TextToVideoPipeline as TextToVideoPipeline
    from .pipelines.unconditional_video import UnconditionalVideoPipeline as UnconditionalVideoPipeline
    from .pipelines.video_super_resolution import VideoSuperResolutionPipeline as VideoSuperResolutionPipeline
    from .schedulers.scheduling_paired_ddim import PairedDDIMScheduler as PairedDDIMScheduler
    from .schedulers.scheduling_vdm import VDMScheduler as VDMScheduler
    from .video_io import read_video as read_video
    from .video_io import write_video as write_video


__version__ = "0.1.0"

# Public names by the module that defines them. diffusers looks for the base classes beside the classes they load.
_PUBLIC = {
    "diffusers": _registration.BASE_CLASSES,
    "diffusers_video.conditioning.frames": ("FrameCondition",),
    "diffusers_video.hub": ("VideoHubMixin", "add_evaluation_results", "push_pipeline_to_hub", "write_model_card"),
    "diffusers_video.metrics.clip_sources": ("FolderClips", "MemoryClips", "PipelineClips"),
    "diffusers_video.metrics.evaluation": ("evaluate_videos",),
    "diffusers_video.metrics.evaluation_settings": ("EvaluationSettings",),
    "diffusers_video.metrics.feature_networks": ("FeatureNetwork", "load_c3d", "load_i3d", "random_features"),
    "diffusers_video.metrics.protocols": ("EvaluationProtocol", "find_protocol"),
    "diffusers_video.metrics.results": ("VideoEvaluation",),
    "diffusers_video.models.autoencoder_kl_3d": ("AutoencoderKL3D",),
    "diffusers_video.models.autoencoder_kl_video": ("AutoencoderKLVideo",),
    "diffusers_video.models.autoencoder_triplane": ("AutoencoderTriplane",),
    "diffusers_video.models.unet_space_time": ("UNetSpaceTimeModel", "UNetSpaceTimeOutput"),
    "diffusers_video.models.unet_triplane": ("UNetTriplaneModel",),
    "diffusers_video.models.unet_video_condition": ("UNetVideoConditionModel", "UNetVideoConditionOutput"),
    "diffusers_video.pipelines.frame_interpolation": ("FrameInterpolationPipeline",),
    "diffusers_video.pipelines.image_to_video": ("ImageToVideoPipeline",),
    "diffusers_video.pipelines.key_frame_prediction": ("KeyFramePredictionPipeline",),
    "diffusers_video.pipelines.long_video": ("LongVideoPipeline",),
    "diffusers_video.pipelines.pipeline_output": ("VideoPipelineOutput",),
    "diffusers_video.pipelines.text_to_video": ("TextToVideoPipeline",),
    "diffusers_video.pipelines.unconditional_video": ("UnconditionalVideoPipeline",),
    "diffusers_video.pipelines.video_super_resolution": ("VideoSuperResolutionPipeline",),
    "diffusers_video.schedulers.scheduling_paired_ddim": ("PairedDDIMScheduler",),
    "diffusers_video.schedulers.scheduling_vdm": ("VDMScheduler",),
    "diffusers_video.video_io": ("read_video", "write_video"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
_SUBPACKAGES = (
    "conditioning",
    "conversion",
    "data",
    "layers",
    "metrics",
    "models",
    "pipelines",
    "schedulers",
    "training",
)
_ROOT = Path(__file__).resolve().parent
_IN_CHECKOUT = ("pipelines", "training")  # folders beside this one in a checkout, inside it once installed

# What `model_index.json` may name: everything that a pipeline or one of its components can be.
LOADABLE_NAMES = frozenset(
    name
    for name, module in _MODULE_OF.items()
    if module.split(".")[1:2] in (["models"], ["schedulers"], ["pipelines"])
)

__all__ = sorted([*_MODULE_OF, "__version__"])


class _CheckoutFinder:
    """Finds our two packages that a checkout keeps outside this folder; an installed copy has them inside."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        parent, _, name = fullname.rpartition(".")
        if parent != __name__ or name not in _IN_CHECKOUT:
            return None
        folder = _ROOT.parent / name
        return importlib.util.spec_from_file_location(
            fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        globals()[name] = value  # the next access is an ordinary one
        return value
    if name in _SUBPACKAGES or name in ("hub", "video_io"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF, *_SUBPACKAGES})


# First in the list: the finder of an editable install may know another checkout.
if not (_ROOT / "pipelines").exists() and (_ROOT.parent / "setup.py").is_file():
    sys.meta_path.insert(0, _CheckoutFinder)
_registration.register()
