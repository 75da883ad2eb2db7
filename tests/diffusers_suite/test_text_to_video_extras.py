"""
diffusers' older tests of what Stable Diffusion pipelines have in common, run on `TextToVideoPipeline`.

Left out: those of `from_pipe` between image pipelines, since an image U-Net becomes one of videos by
`TextToVideoPipeline.from_image_model` alone; those of latents and of input images, written for images.
"""

import unittest
from typing import Any
from unittest import mock

import pytest
import torch

from diffusers_video import TextToVideoPipeline
from tests.tiny_pipelines import SIZE, tiny_text_to_video

from .checkout import diffusers_tests


suite = diffusers_tests("pipelines.test_pipelines_common")

pytestmark = pytest.mark.slow


class PipelineConfig:
    """Stable Diffusion 1.x as a video pipeline, in the form that the older tests ask for."""

    pipeline_class = TextToVideoPipeline
    family = "sd15"

    def get_dummy_components(self) -> dict[str, Any]:
        return dict(tiny_text_to_video(self.family).components)

    def get_dummy_inputs(self, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
        return {
            "prompt": "A painting of a squirrel eating a burger",
            "num_frames": 3,
            "height": SIZE,
            "width": SIZE,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "num_inference_steps": 2,
            "guidance_scale": 6.0,
            "output_type": "np",
        }


class TestFunctions(PipelineConfig, suite.SDFunctionTesterMixin, unittest.TestCase):
    pass


class TestIPAdapter(PipelineConfig, suite.IPAdapterTesterMixin, unittest.TestCase):
    pass


class TestKarrasSchedulers(PipelineConfig, suite.PipelineKarrasSchedulerTesterMixin, unittest.TestCase):
    def test_karras_schedulers_shape(self) -> None:
        # EDM's scheduler is refused, since it rescales the model for a network trained in EDM form.
        fitting = [item for item in suite.KarrasDiffusionSchedulers if not item.name.startswith("EDM")]
        with mock.patch.object(suite, "KarrasDiffusionSchedulers", fitting):
            super().test_karras_schedulers_shape()
