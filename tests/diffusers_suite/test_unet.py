"""diffusers' own tests of models, run on `UNetVideoConditionModel`."""

import functools
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0

from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from tests.tiny_models import shake_temporal_layers, tiny_unet2d, video_inputs

from .checkout import diffusers_tests


suite = diffusers_tests("models.testing_utils")
device = diffusers_tests("testing_utils").torch_device

pytestmark = pytest.mark.slow


class TrainedUNet(UNetVideoConditionModel):
    """The model with random weights in the temporal layers too, which are silent in a new model."""

    @functools.wraps(UNetVideoConditionModel.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shake_temporal_layers(self)


class UNetConfig(suite.BaseModelTesterConfig):
    """Stable Diffusion 1.x with the temporal layers of VideoLDM."""

    model_class = TrainedUNet
    main_input_name = "sample"
    output_shape = (4, 3, 8, 8)
    model_split_percents = [0.5, 0.7]
    family = "sd15"
    preset = "videoldm"
    unet2d_options: dict[str, Any] = {}

    def get_init_dict(self) -> dict[str, Any]:
        unet2d = tiny_unet2d(self.family, **self.unet2d_options)
        config = UNetVideoConditionModel.from_unet2d(unet2d, self.preset).config
        return {name: value for name, value in config.items() if not name.startswith("_")}

    def get_dummy_inputs(self, height: int = 8, width: int = 8) -> dict[str, Any]:
        inputs = video_inputs(tiny_unet2d(self.family), batch_size=2, num_frames=3, tokens=7)
        inputs["sample"] = torch.randn(2, 4, 3, height, width, generator=torch.Generator().manual_seed(0))
        return _to_device(inputs)


class XLConfig(UNetConfig):
    """Stable Diffusion XL with the few temporal layers of the preset `light`."""

    family = "sdxl"
    preset = "light"


class OneLevelConfig(UNetConfig):
    """A single width and resolution, so that every repeated block is compiled once: the tests allow no second time."""

    unet2d_options = {
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    }


def _to_device(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_device(item) for name, item in value.items()}
    return value.to(device)


class TestModel(UNetConfig, suite.ModelTesterMixin):
    pass


class TestModelXL(XLConfig, suite.ModelTesterMixin):
    pass


class TestTraining(UNetConfig, suite.TrainingTesterMixin):
    def test_gradient_checkpointing_is_applied(self) -> None:
        blocks = {"CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn", "UpBlock2D", "CrossAttnUpBlock2D"}
        super().test_gradient_checkpointing_is_applied(expected_set={*blocks, "VideoTransformer2DModel"})


class TestMemory(UNetConfig, suite.MemoryTesterMixin):
    pass


class TestAttention(UNetConfig, suite.AttentionTesterMixin):
    pass


class TestAttentionBackend(OneLevelConfig, suite.AttentionBackendTesterMixin):
    pass


class TestLora(UNetConfig, suite.LoraTesterMixin):
    pass


class TestLoraHotSwapping(UNetConfig, suite.LoraHotSwappingForModelTesterMixin):
    """Without several shapes, with which it would compare no outputs."""


class TestTorchCompile(UNetConfig, suite.TorchCompileTesterMixin):
    """Without several shapes: PyTorch 2.13 cannot compile any Conv3d behind a strided Conv2d for free sizes."""

    def test_torch_compile_repeated_blocks(self, recompile_limit: int = 2) -> None:
        super().test_torch_compile_repeated_blocks(recompile_limit=recompile_limit)  # blocks of two widths


class TestTorchCompileOneLevel(OneLevelConfig, suite.TorchCompileTesterMixin):
    @property
    def different_shapes_for_compilation(self) -> list[tuple[int, int]]:
        return [(8, 8), (8, 16), (16, 16)]


class TestIPAdapter(UNetConfig, suite.IPAdapterTesterMixin):
    ip_adapter_processor_cls = (IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0)

    def create_ip_adapter_state_dict(self, model: UNetVideoConditionModel) -> dict[str, Any]:
        # The weights are numbered by the layers of the image model, whose adapter it is.
        helpers = diffusers_tests("models.unets.test_models_unet_2d_condition")
        return helpers.create_ip_adapter_state_dict(tiny_unet2d(self.family))

    def modify_inputs_for_ip_adapter(
        self, model: UNetVideoConditionModel, inputs_dict: dict[str, Any]
    ) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        embeds = torch.randn(2, 1, model.config.cross_attention_dim, generator=generator).to(device)
        return {**inputs_dict, "added_cond_kwargs": {"image_embeds": [embeds]}}
