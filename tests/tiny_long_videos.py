"""A tiny long-video pipeline: windows of 5 key frames at 1.875 frames per second, then 7.5, then 30."""

import os
import signal
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline

from diffusers_video import FrameInterpolationPipeline, KeyFramePredictionPipeline, LongVideoPipeline

from .tiny_pipelines import tiny_given


def tiny_long(
    family: str = "sd15",
    dtype: torch.dtype = torch.float32,
    interpolation: bool = True,
    super_resolution: DiffusionPipeline | None = None,
    **parts: Any,
) -> LongVideoPipeline:
    """The pipeline of a family, whose temporal layers have random weights."""
    stages = [tiny_given(KeyFramePredictionPipeline, family, dtype)]
    stages[0].register_to_config(fps=1.875)
    if interpolation:
        stages.append(tiny_given(FrameInterpolationPipeline, family, dtype))
    pipeline = LongVideoPipeline.from_pipelines(*stages, super_resolution=super_resolution, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_in_child(work: Callable[[], Any]) -> int:
    """Do the work in a copy of this process; what it kills is the copy. Returns the signal that ended it, else 0."""
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # the threads of the parent are not there
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def kill_self() -> None:
    """End this process as `kill -9` and a power cut do: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)
