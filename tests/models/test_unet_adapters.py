"""What diffusers users load into an image U-Net works, and means the same, on the video U-Net."""

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import (
    AttnAddedKVProcessor,
    AttnProcessor,
    AttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
    SlicedAttnProcessor,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from diffusers_video.layers.temporal_attention import TemporalAttention, TemporalAttnProcessor
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.unet_video_condition import UNetVideoConditionModel
from tests.tiny_models import UNET2D_FAMILIES, image_inputs, shake_temporal_layers, tiny_unet2d, video_inputs


def fold(videos: Tensor) -> Tensor:
    return videos.transpose(1, 2).flatten(0, 1)


def shaken(family: str = "sd15", preset: str = "videoldm", **options: object) -> UNetVideoConditionModel:
    return shake_temporal_layers(UNetVideoConditionModel.from_unet2d(tiny_unet2d(family), preset, **options))


def image_lora(*targets: str) -> dict[str, Tensor]:
    """Make the state dict that a diffusers script saves for a trained LoRA of this image model."""
    targets = targets or ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1", "conv_in")
    trained = tiny_unet2d()
    trained.add_adapter(LoraConfig(r=2, lora_alpha=3, init_lora_weights=False, target_modules=list(targets)))
    return get_peft_model_state_dict(trained)


@torch.no_grad()
@pytest.mark.parametrize("scale", [None, 0.3])
def test_an_image_lora_on_the_video_model_equals_image_model_and_lora(scale: float | None) -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d)
    inputs = video_inputs(unet2d, 2, 3)
    plain = unet2d(**image_inputs(inputs)).sample
    lora = image_lora()
    for model in (unet2d, unet):
        model.load_lora_adapter(dict(lora), prefix=None, adapter_name="style")
    keywords = {} if scale is None else {"cross_attention_kwargs": {"scale": scale}}
    assert {name for name, _ in unet.named_parameters() if "lora" in name} == {
        name for name, _ in unet2d.named_parameters() if "lora" in name
    }
    assert hasattr(unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q, "lora_A")
    want = unet2d(**image_inputs(inputs), **keywords).sample
    assert not torch.isclose(want, plain).all()
    assert torch.equal(fold(unet(**inputs, **keywords).sample), want)
    unet.disable_lora()
    assert torch.equal(fold(unet(**inputs).sample), plain)


def test_lora_scales_may_differ_between_blocks() -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d)
    inputs = video_inputs(unet2d, 1, 2)
    lora = image_lora("to_q", "to_v")
    for model in (unet2d, unet):
        model.load_lora_adapter(dict(lora), prefix=None, adapter_name="style")
        model.set_adapters("style", {"down": 0.2, "mid": 0.0, "up": 1.5})
    with torch.no_grad():
        assert torch.equal(fold(unet(**inputs).sample), unet2d(**image_inputs(inputs)).sample)


def test_a_new_lora_can_be_trained_on_temporal_attention_alone() -> None:
    unet = shaken()
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=2, target_modules=r".*temporal_transformer_blocks.*\.to_[qkv]"))
    trained = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(is_temporal(name) and "lora" in name for name in trained)
    unet(**video_inputs(unet, 1, 3)).sample.sum().backward()


@torch.no_grad()
def test_controlnet_residuals_are_added_as_in_the_image_model() -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d)
    controlnet = ControlNetModel.from_unet(unet2d, conditioning_embedding_out_channels=(8, 16))
    for parameter in controlnet.parameters():  # new ControlNets return zeros
        parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = video_inputs(unet2d, 2, 3)
    frames = image_inputs(inputs)
    down, mid = controlnet(**frames, controlnet_cond=torch.rand(6, 3, 16, 16), return_dict=False)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    want = unet2d(**frames, **residuals).sample
    assert not torch.isclose(want, unet2d(**frames).sample).all()
    assert torch.equal(fold(unet(**inputs, **residuals).sample), want)


@torch.no_grad()
def test_t2i_adapter_residuals_are_added_as_in_the_image_model() -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d)
    inputs = video_inputs(unet2d, 2, 3)
    residuals = [torch.randn(6, 8, 8, 8), torch.randn(6, 16, 4, 4)]
    want = unet2d(**image_inputs(inputs), down_intrablock_additional_residuals=list(residuals)).sample
    assert torch.equal(fold(unet(**inputs, down_intrablock_additional_residuals=residuals).sample), want)
    assert len(residuals) == 2  # the caller's list is left alone


def ip_adapter_weights(unet2d: UNet2DConditionModel) -> dict[str, dict[str, Tensor]]:
    names = [name for name in unet2d.attn_processors if name.endswith("attn2.processor")]
    layers = {}
    for index, name in enumerate(names):
        width = unet2d.get_submodule(name.removesuffix(".processor")).inner_dim
        for part in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * index + 1}.{part}.weight"] = torch.randn(width, 12)
    projection = {"proj.weight": torch.randn(4 * 12, 10), "proj.bias": torch.randn(4 * 12)}
    projection |= {"norm.weight": torch.ones(12), "norm.bias": torch.zeros(12)}
    return {"image_proj": projection, "ip_adapter": layers}


@torch.no_grad()
def test_ip_adapter_weights_land_on_the_layers_of_the_image_model() -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d)
    weights = ip_adapter_weights(unet2d)
    inputs = video_inputs(unet2d, 2, 3)
    for model in (unet2d, unet):
        model._load_ip_adapter_weights([weights])
    inputs["added_cond_kwargs"] = {"image_embeds": [torch.randn(2, 1, 10)]}
    want = unet2d(**image_inputs(inputs)).sample
    # Four image tokens make products so small that their summing order depends on the number of queries.
    torch.testing.assert_close(fold(unet(**inputs).sample), want, atol=1e-6, rtol=0)
    for name, processor in unet.attn_processors.items():
        is_adapted = isinstance(processor, IPAdapterAttnProcessor2_0)
        assert is_adapted == (name.endswith("attn2.processor") and not is_temporal(name))
        if is_adapted:
            theirs = unet2d.attn_processors[name]
            assert torch.equal(processor.to_k_ip[0].weight, theirs.to_k_ip[0].weight)


@torch.no_grad()
def test_ip_adapter_masks_keep_their_meaning() -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d)
    weights = ip_adapter_weights(unet2d)
    for model in (unet2d, unet):
        model._load_ip_adapter_weights([weights])
    inputs = video_inputs(unet2d, 1, 2)
    embeds, masks = torch.randn(1, 1, 10), [torch.zeros(1, 1, 8, 8)]
    masks[0][..., :4] = 1
    keywords = {"cross_attention_kwargs": {"ip_adapter_masks": masks}}
    got = unet(**inputs, added_cond_kwargs={"image_embeds": [embeds]}, **keywords).sample
    repeated = {"image_embeds": [embeds.repeat_interleave(2, dim=0)]}
    want = unet2d(**image_inputs(inputs), added_cond_kwargs=repeated, **keywords).sample
    torch.testing.assert_close(fold(got), want, atol=1e-6, rtol=0)
    assert not torch.isclose(fold(unet(**inputs, added_cond_kwargs={"image_embeds": [embeds]}).sample), want).all()


@pytest.mark.parametrize("family", UNET2D_FAMILIES)
@torch.no_grad()
def test_encoder_attention_masks_hide_tokens_as_in_the_image_model(family: str) -> None:
    unet2d = tiny_unet2d(family)
    unet = UNetVideoConditionModel.from_unet2d(unet2d)
    inputs = video_inputs(unet2d, 2, 3)
    mask = torch.rand(2, 77) > 0.4
    want = unet2d(**image_inputs(inputs), encoder_attention_mask=mask.repeat_interleave(3, dim=0)).sample
    got = fold(unet(**inputs, encoder_attention_mask=mask).sample)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert not torch.isclose(got, unet2d(**image_inputs(inputs)).sample).all()


@torch.no_grad()
def test_freeu_changes_frames_as_in_the_image_model() -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d)
    inputs = video_inputs(unet2d, 1, 3)
    before = unet(**inputs).sample
    for model in (unet2d, unet):
        model.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)
    assert torch.equal(fold(unet(**inputs).sample), unet2d(**image_inputs(inputs)).sample)
    unet.disable_freeu()
    assert torch.equal(unet(**inputs).sample, before)


@pytest.mark.parametrize("options", [{}, {"temporal_attention": "causal"}, {"temporal_max_distance": 1}])
@pytest.mark.parametrize("processor", [AttnProcessor(), AttnProcessor2_0(), SlicedAttnProcessor(1)])
@torch.no_grad()
def test_processors_of_diffusers_compute_the_same(processor: object, options: dict[str, object]) -> None:
    unet = shaken(**options)
    inputs = video_inputs(unet, 2, 4)
    want = unet(**inputs).sample
    unet.set_attn_processor(processor)
    assert all(module.processor is processor for module in unet.modules() if isinstance(module, TemporalAttention))
    torch.testing.assert_close(unet(**inputs).sample, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_can_be_sliced_and_fused_and_set_back() -> None:
    unet = shaken()
    inputs = video_inputs(unet, 2, 4)
    want = unet(**inputs).sample
    unet.fuse_qkv_projections()
    torch.testing.assert_close(unet(**inputs).sample, want, atol=1e-5, rtol=1e-5)
    unet.unfuse_qkv_projections()
    assert torch.equal(unet(**inputs).sample, want)
    unet.set_attention_slice("max")
    torch.testing.assert_close(unet(**inputs).sample, want, atol=1e-5, rtol=1e-5)
    unet.set_default_attn_processor()
    torch.testing.assert_close(unet(**inputs).sample, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["sd15", "if_simple"])
def test_default_processors_leave_temporal_attention_its_own(family: str) -> None:
    unet = shaken(family)
    unet.set_default_attn_processor()
    spatial = AttnAddedKVProcessor if family == "if_simple" else AttnProcessor
    for name, processor in unet.attn_processors.items():
        own = TemporalAttnProcessor if name.endswith("attn1.processor") else AttnProcessor2_0
        assert type(processor) is (own if is_temporal(name) else spatial)


@torch.no_grad()
def test_an_attention_backend_reaches_every_layer() -> None:
    unet = shaken()
    inputs = video_inputs(unet, 2, 4)
    want = unet(**inputs).sample
    unet.set_attention_backend("_native_math")
    backends = {str(processor._attention_backend.value) for processor in unet.attn_processors.values()}
    assert backends == {"_native_math"}
    torch.testing.assert_close(unet(**inputs).sample, want, atol=1e-5, rtol=1e-5)
    unet.set_attention_backend("native")
    torch.testing.assert_close(unet(**inputs).sample, want, atol=1e-6, rtol=0)


def test_an_attention_backend_is_refused_where_a_layer_would_not_follow() -> None:
    unet = shaken()
    unet._load_ip_adapter_weights([ip_adapter_weights(tiny_unet2d())])
    with pytest.raises(ValueError, match="`backend`='native' cannot be set, because 4 layers"):
        unet.set_attention_backend("native")
    unet = shaken()
    with pytest.raises(ValueError, match="must be one of"):
        unet.set_attention_backend("fastest")
    assert (
        type(unet.attn_processors["mid_block.attentions.0.transformer_blocks.0.attn1.processor"]) is AttnProcessor2_0
    )
