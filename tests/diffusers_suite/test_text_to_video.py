"""diffusers' own tests of pipelines, run on `TextToVideoPipeline`."""

from typing import Any

import pytest
from diffusers import pipelines

from diffusers_video import TextToVideoPipeline
from tests.tiny_pipelines import SIZE, tiny_text_to_video

from .checkout import diffusers_tests


suite = diffusers_tests("pipelines.testing_utils")

pytestmark = pytest.mark.slow

NUM_FRAMES = 3


class PipelineConfig(suite.BasePipelineTesterConfig):
    """Stable Diffusion 1.x as a video pipeline."""

    pipeline_class = TextToVideoPipeline
    family = "sd15"
    output_shape = (NUM_FRAMES, 3, SIZE, SIZE)
    batch_input_params = frozenset({"prompt", "negative_prompt"})
    required_input_params_in_call_signature = frozenset(
        {
            "prompt",
            "height",
            "width",
            "guidance_scale",
            "negative_prompt",
            "prompt_embeds",
            "negative_prompt_embeds",
            "cross_attention_kwargs",
        }
    )
    optional_input_params = frozenset(
        {"num_inference_steps", "num_videos_per_prompt", "generator", "latents", "output_type", "return_dict"}
    )

    def get_dummy_components(self) -> dict[str, Any]:
        return dict(tiny_text_to_video(self.family).components)

    def get_dummy_inputs(self) -> dict[str, Any]:
        return {
            "prompt": "A painting of a squirrel eating a burger",
            "num_frames": NUM_FRAMES,
            "height": SIZE,
            "width": SIZE,
            "generator": self.get_generator(0),
            "num_inference_steps": 2,
            "guidance_scale": 6.0,
            "output_type": "pt",
        }


class XLConfig(PipelineConfig):
    """Stable Diffusion XL as a video pipeline."""

    family = "sdxl"


class PipelineTesterMixin(suite.PipelineTesterMixin):
    """The tests of diffusers for a class that stands outside diffusers."""

    @pytest.fixture(autouse=True)
    def _findable_source(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # test_encode_prompt_works_in_isolation reads the source of the class that has this name in diffusers.pipelines
        monkeypatch.setattr(pipelines, TextToVideoPipeline.__name__, TextToVideoPipeline, raising=False)


class TestPipeline(PipelineConfig, PipelineTesterMixin):
    pass


class TestPipelineXL(XLConfig, PipelineTesterMixin):
    @pytest.mark.skip(reason="an XL model cannot read a prompt without its second text encoder, which is optional")
    def test_save_load_optional_components(self) -> None: ...


class TestMemory(PipelineConfig, suite.MemoryTesterMixin):
    pass


class TestLora(PipelineConfig, suite.LoraTesterMixin, suite.UNetLoraTesterMixin):
    pass


class TestLoraXL(XLConfig, suite.LoraTesterMixin, suite.UNetLoraTesterMixin):
    pass


class TestLoraMemory(PipelineConfig, suite.LoraMemoryTesterMixin):
    pass
