"""The factorised U-Net: what mixes frames and what does not, conditions, sizes, and what is refused."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel
from diffusers.models.modeling_utils import no_init_weights
from peft import LoraConfig
from torch import Tensor

from diffusers_video import UNetSpaceTimeModel
from diffusers_video.layers.condition_embedding import log_snr_to_timestep

from ..tiny_space_time import KINDS, space_time_inputs, tiny_space_time


PARAMETERS = {  # those of LVDM were counted in the released code: 548.9M, 549.2M, 549.2M and 959.0M
    "lvdm": 548_904_580,
    "lvdm_prediction": 549_163_908,
    "lvdm_interpolation": 549_181_060,
    "lvdm_text_to_video": 958_924_964,
    "vdm_ucf101": 1_143_869_955,
    "vdm_bair": 138_246_019,
    "vdm_kinetics": 1_141_770_755,
    "vdm_text_small": 298_853_763,
    "vdm_text": 1_148_330_755,
    "vdm_text_128": 1_151_116_675,
}


def draw(unet: UNetSpaceTimeModel, inputs: dict[str, Tensor], **changes: object) -> Tensor:
    with torch.no_grad():
        return unet(**{**inputs, **changes}).sample


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=pytest.mark.slow if name.startswith("vdm") else ()) for name in PARAMETERS]
)
def test_published_sizes_have_the_published_number_of_parameters(preset: str) -> None:
    with no_init_weights(), torch.device("meta"):
        unet = UNetSpaceTimeModel.from_preset(preset)
    assert sum(weight.numel() for weight in unet.parameters()) == PARAMETERS[preset]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_model_predicts_zeros_and_its_blocks_change_nothing(kind: str) -> None:
    unet = UNetSpaceTimeModel.from_config(tiny_space_time(kind).config)
    inputs, seen = space_time_inputs(unet), []
    unet.mid_block.register_forward_hook(lambda _, arguments, output: seen.append((arguments[0], output)))
    assert not draw(unet, inputs).any()
    torch.testing.assert_close(*seen[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_frames", "size"), [(1, (8, 8)), (7, (8, 12)), (4, (7, 9))])
def test_any_length_and_any_size(kind: str, num_frames: int, size: tuple[int, int]) -> None:
    unet = tiny_space_time(kind)
    sample = draw(unet, space_time_inputs(unet, num_frames, size=size))
    assert sample.shape == (2, unet.config.out_channels, num_frames, *size) and torch.isfinite(sample).all()


@pytest.mark.parametrize("kind", KINDS)
def test_frames_mix_and_videos_do_not(kind: str) -> None:
    unet = tiny_space_time(kind)
    inputs = space_time_inputs(unet)
    changed = inputs["sample"].clone()
    changed[0, :, 3] += 1
    before, after = draw(unet, inputs), draw(unet, inputs, sample=changed)
    assert (before[0] - after[0]).abs().amax(dim=(0, 2, 3)).min() > 1e-4
    torch.testing.assert_close(before[1], after[1])


def test_order_of_frames_counts_and_their_place_does_not() -> None:
    for kind in ("lvdm", "lvdm_text", "vdm"):
        unet = tiny_space_time(kind)
        inputs = space_time_inputs(unet)
        assert not torch.allclose(draw(unet, inputs, sample=inputs["sample"].flip(2)).flip(2), draw(unet, inputs))
        plain = tiny_space_time(kind, relative_positions="none")
        flipped = draw(plain, inputs, sample=inputs["sample"].flip(2)).flip(2)
        torch.testing.assert_close(flipped, draw(plain, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["vdm", "lvdm_text"])
def test_appended_images_influence_nothing(kind: str) -> None:
    options = {"joint_norm": False, "joint_temporal_norm": False}
    unet = tiny_space_time(kind, **options).double()
    inputs = space_time_inputs(unet, 6)
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    image_only = torch.tensor([False, False, False, False, True, True]).expand(2, -1)
    want = draw(unet, inputs, image_only=image_only)
    changed = inputs["sample"].clone()
    changed[:, :, 4] += 1
    got = draw(unet, inputs, sample=changed, image_only=image_only)
    assert torch.equal(got[:, :, [0, 1, 2, 3, 5]], want[:, :, [0, 1, 2, 3, 5]])
    assert not torch.allclose(got[:, :, 4], want[:, :, 4])
    alone = draw(unet, inputs, sample=inputs["sample"][:, :, :4])
    torch.testing.assert_close(want[:, :, :4], alone)
    image = draw(unet, inputs, sample=inputs["sample"][:, :, 5:])
    torch.testing.assert_close(want[:, :, 5:], image)


def test_every_norm_that_joins_frames_forbids_images() -> None:
    for option in ("joint_norm", "joint_temporal_norm"):
        unet = tiny_space_time("vdm", **{option: True})
        with pytest.raises(ValueError, match="`image_only` needs a model whose normalisations do not join frames"):
            unet(**space_time_inputs(unet), image_only=torch.tensor([True, False]))


def test_joint_norms_join_frames() -> None:
    for option in ("joint_norm", "joint_temporal_norm"):
        separate = tiny_space_time("lvdm", joint_norm=False, joint_temporal_norm=False)
        joint = tiny_space_time("lvdm", **{"joint_norm": False, "joint_temporal_norm": False, option: True})
        inputs = space_time_inputs(joint)
        assert not torch.allclose(draw(joint, inputs), draw(separate, inputs))
        one = space_time_inputs(joint, num_frames=1)
        torch.testing.assert_close(draw(joint, one), draw(separate, one))  # of one frame they are the same


def test_given_frames_take_their_places_with_a_mark_and_a_noise_level() -> None:
    unet = tiny_space_time("released")
    inputs = space_time_inputs(unet)
    want = draw(unet, inputs)
    ignored = inputs["context_latents"].clone()
    ignored[:, :, 1:] = 9
    replaced = inputs["sample"].clone()
    replaced[:, :, 0] = 9
    assert torch.equal(draw(unet, inputs, context_latents=ignored, sample=replaced), want)
    in_place = torch.cat([inputs["context_latents"][:, :, :1], inputs["sample"][:, :, 1:]], dim=2)
    unmarked = draw(unet, inputs, sample=in_place, context_latents=None, frame_mask=None)
    assert not torch.allclose(unmarked, want)
    nothing = torch.zeros_like(inputs["frame_mask"])
    torch.testing.assert_close(draw(unet, inputs, sample=in_place, frame_mask=nothing), unmarked)
    assert not torch.allclose(draw(unet, inputs, noise_level=5), want)
    assert not torch.allclose(draw(unet, inputs, noise_level=None), want)
    levels = torch.full((2,), 5)
    assert torch.equal(draw(unet, inputs, noise_level=5), draw(unet, inputs, noise_level=levels))


def test_timesteps_may_come_once_per_video_per_frame_or_for_all() -> None:
    unet = tiny_space_time("lvdm")
    inputs = space_time_inputs(unet)
    want = draw(unet, inputs)
    rows = inputs["timestep"].repeat_interleave(4)
    assert torch.equal(draw(unet, inputs, timestep=rows), want)
    rows[0] = 999
    assert not torch.allclose(draw(unet, inputs, timestep=rows)[0], want[0])
    torch.testing.assert_close(draw(unet, inputs, timestep=7)[0], want[0])


def test_log_snr_is_the_time_of_the_cosine_schedule() -> None:
    times = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    log_snr = -2 * torch.tan(times * torch.pi / 2).log()
    torch.testing.assert_close(log_snr_to_timestep(log_snr), 1000 * times)
    unet, discrete = tiny_space_time("vdm"), tiny_space_time("vdm", timestep_type="discrete")
    inputs = space_time_inputs(unet)
    want = draw(discrete, inputs, timestep=log_snr_to_timestep(inputs["timestep"]))
    torch.testing.assert_close(draw(unet, inputs), want)


def test_text_without_visible_tokens_is_the_unconditional_model() -> None:
    unet = tiny_space_time("vdm")
    inputs = space_time_inputs(unet)
    unconditional = draw(unet, inputs, encoder_hidden_states=None)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    got = draw(unet, inputs, encoder_attention_mask=mask)
    torch.testing.assert_close(got[0], draw(unet, inputs)[0])
    assert torch.equal(got[1], unconditional[1]) and not torch.allclose(got[0], unconditional[0])


def test_tokens_of_zeros_are_padding_of_a_pooled_text() -> None:
    unet = tiny_space_time("vdm")
    inputs = space_time_inputs(unet)
    text = inputs["encoder_hidden_states"].clone()
    text[0, 3:], text[1] = 0, 0
    got = draw(unet, inputs, encoder_hidden_states=text)
    torch.testing.assert_close(got[0], draw(unet, inputs, encoder_hidden_states=text[:, :3])[0])
    assert torch.equal(got[1], draw(unet, inputs, encoder_hidden_states=None)[1])


def test_independent_images_have_texts_of_their_own() -> None:
    unet = tiny_space_time("vdm")
    inputs = space_time_inputs(unet, num_frames=4)
    inputs["image_only"] = torch.tensor([[False, False, True, True]] * 2)
    texts = inputs["encoder_hidden_states"][:, None].repeat(1, 4, 1, 1)
    want = draw(unet, inputs)
    got = draw(unet, inputs, encoder_hidden_states=texts.flatten(0, 1))
    torch.testing.assert_close(got, want)
    texts[1, 2] = texts[0, 2]
    changed = draw(unet, inputs, encoder_hidden_states=texts.flatten(0, 1)) != got
    assert changed.any(dim=4).any(dim=3).any(dim=1).tolist() == [[False] * 4, [False, False, True, False]]
    mask = torch.ones(8, 5)
    mask[3] = 0
    masked = draw(unet, inputs, encoder_hidden_states=texts.flatten(0, 1), encoder_attention_mask=mask)
    assert torch.equal(masked[0, :, 3], draw(unet, inputs, encoder_hidden_states=None)[0, :, 3])


@pytest.mark.parametrize(
    ("kind", "rows", "mask", "message"),
    [
        ("vdm", 3, None, "`encoder_hidden_states` must have one row per video"),
        ("lvdm_text", 8, None, "`encoder_hidden_states` must have one row per video"),
        ("vdm", 8, (2, 5), r"`encoder_attention_mask` must be of shape \(8, 5\)"),
        ("lvdm_text", 2, (2, 4), r"`encoder_attention_mask` must be of shape \(2, 5\)"),
    ],
)
def test_texts_of_other_rows_are_refused(kind: str, rows: int, mask: tuple | None, message: str) -> None:
    unet = tiny_space_time(kind)
    inputs = space_time_inputs(unet, num_frames=4)
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:1].repeat(rows, 1, 1)
    with pytest.raises(ValueError, match=message):
        draw(unet, inputs, encoder_attention_mask=None if mask is None else torch.ones(mask))


@pytest.mark.parametrize("kind", ["vdm", "lvdm_text", "videocrafter"])
def test_hidden_tokens_are_not_read(kind: str) -> None:
    unet = tiny_space_time(kind)
    inputs = space_time_inputs(unet)
    text = inputs["encoder_hidden_states"]
    mask = torch.tensor([[True, True, True, False, False]] * 2)
    got = draw(unet, inputs, encoder_attention_mask=mask)
    torch.testing.assert_close(got, draw(unet, inputs, encoder_hidden_states=text[:, :3]))
    assert not torch.allclose(got, draw(unet, inputs))
    assert not torch.allclose(draw(unet, inputs, encoder_hidden_states=text.flip(0)), draw(unet, inputs))


def test_every_option_comes_back_and_saved_weights_draw_the_same(tmp_path: Path) -> None:
    options = {
        "in_channels": 3,
        "out_channels": 5,
        "sample_size": 16,
        "block_out_channels": [6, 12],
        "layers_per_block": 2,
        "attention_type": "interleaved",
        "attention_levels": [True, False],
        "input_attention": True,
        "num_attention_heads": None,
        "attention_head_dim": 3,
        "transformer_depth": 2,
        "cross_attention_dim": 7,
        "pooled_text_dim": None,
        "relative_positions": "keys",
        "max_relative_distance": 3,
        "joint_norm": False,
        "joint_temporal_norm": False,
        "norm_num_groups": 2,
        "norm_eps": 1e-4,
        "resnet_time_scale_shift": "default",
        "time_embed_dim": 10,
        "time_embed_layers": 3,
        "timestep_type": "log_snr",
        "num_class_embeds": 4,
        "num_noise_levels": 6,
        "use_fps": True,
        "use_frame_mask": True,
        "dropout": 0.1,
    }
    unet = UNetSpaceTimeModel(**options).eval()
    assert {name for name in unet.config if not name.startswith("_")} == options.keys()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    unet.save_pretrained(tmp_path)
    inputs = {**space_time_inputs(unet), "class_labels": torch.tensor([1, 3])}
    for loaded in (UNetSpaceTimeModel.from_pretrained(tmp_path), AutoModel.from_pretrained(str(tmp_path))):
        assert type(loaded) is UNetSpaceTimeModel
        assert {name: loaded.config[name] for name in options} == options
        assert torch.equal(draw(loaded, inputs), draw(unet, inputs))
    assert not torch.allclose(draw(unet, inputs, class_labels=None), draw(unet, inputs))
    assert tiny_space_time("vdm", pooled_text_dim=24).config.pooled_text_dim == 24


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight_and_checkpointing_changes_none(kind: str) -> None:
    model, gradients = tiny_space_time(kind).train(), []
    inputs = space_time_inputs(model, num_frames=3)
    for is_checkpointed in (False, True):
        unet, calls = copy.deepcopy(model), []
        if is_checkpointed:
            unet.enable_gradient_checkpointing()
        unet.mid_block.resnets[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        unet(**inputs).sample.square().mean().backward()
        assert len(calls) == 1 + is_checkpointed
        gradients.append({name: parameter.grad for name, parameter in unet.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0 or name.endswith("to_k.bias"), name  # the same for all keys
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["released", "vdm", "lvdm_text"])
def test_it_compiles_whole(kind: str) -> None:
    torch.compiler.reset()
    unet = tiny_space_time(kind)
    inputs = space_time_inputs(unet)
    if kind == "vdm":
        inputs["image_only"] = torch.tensor([[False, False, False, True]] * 2)
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    torch.testing.assert_close(draw(compiled, inputs), draw(unet, inputs))


@pytest.mark.parametrize("kind", ["lvdm", "lvdm_text"])
def test_channels_last_half_precision_backends_and_adapters_run(kind: str) -> None:
    unet = tiny_space_time(kind)
    inputs = space_time_inputs(unet)
    want = draw(unet, inputs)
    torch.testing.assert_close(draw(unet.to(memory_format=torch.channels_last), inputs), want, rtol=1e-4, atol=1e-5)
    unet.set_attention_backend("_native_math")
    torch.testing.assert_close(draw(unet, inputs), want, rtol=1e-4, atol=1e-5)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_out.0"]))
    torch.testing.assert_close(draw(unet, inputs), want, rtol=1e-4, atol=1e-5)
    floats = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    half = draw(unet.to(torch.bfloat16), floats)
    assert half.dtype == torch.bfloat16 and (half - want).abs().mean() < 0.1 * want.abs().mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_type": "none"}, "`attention_type` must be one of"),
        ({"relative_positions": "rotary"}, "`relative_positions` must be one of"),
        ({"timestep_type": "sigma"}, "`timestep_type` must be one of"),
        ({"resnet_time_scale_shift": "added"}, "`resnet_time_scale_shift` must be one of"),
        ({"layers_per_block": 0}, "`layers_per_block` must be at least 1, but is 0"),
        ({"time_embed_layers": 1}, "`time_embed_layers` must be at least 2, but is 1"),
        ({"max_relative_distance": 0}, "`max_relative_distance` must be at least 1"),
        ({"num_noise_levels": 0}, "`num_noise_levels` must be at least 1"),
        ({"block_out_channels": (8, 18)}, "`block_out_channels` must be multiples of `norm_num_groups`=4"),
        ({"attention_levels": (True,)}, "one for each of the 1 `attention_levels`"),
        ({"attention_head_dim": 8}, "One of `num_attention_heads` and `attention_head_dim` must be `None`"),
        ({"num_attention_heads": None}, "but they are None and None"),
        ({"num_attention_heads": 3}, "3 does not divide 16"),
        ({"cross_attention_dim": 12}, "`cross_attention_dim` needs transformers"),
        ({"pooled_text_dim": 12}, "`pooled_text_dim` must be a multiple of 8, but is 12"),
        ({"attention_type": "sequential", "relative_positions": "released"}, "='released' stands for weights of LVDM"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_space_time("lvdm", **options)


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(ValueError, match="`preset` must be one of"):
        UNetSpaceTimeModel.from_preset("lvdm_512")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("lvdm", {"sample": torch.zeros(2, 4, 8, 8)}, r"`sample` must have the shape \(batch_size, 4, num_frames"),
        ("lvdm", {"sample": torch.zeros(2, 5, 4, 8, 8)}, r"but has shape \(2, 5, 4, 8, 8\)"),
        ("lvdm", {"timestep": torch.zeros(3)}, r"`timestep` must have one row per video \(2\) or per frame \(8\)"),
        ("lvdm", {"encoder_hidden_states": torch.zeros(2, 5, 12)}, "`encoder_hidden_states` has no effect"),
        ("lvdm", {"noise_level": 3}, "`noise_level` has no effect on this model"),
        ("lvdm", {"fps": 8}, "`fps` has no effect on this model"),
        ("lvdm", {"class_labels": torch.zeros(2)}, "`class_labels` has no effect on this model"),
        ("lvdm", {"frame_mask": torch.zeros(2, 4, dtype=torch.bool)}, "this model reads no given frames"),
        ("lvdm_text", {"encoder_hidden_states": None}, "`encoder_hidden_states` must be given"),
        ("lvdm_text", {"encoder_hidden_states": torch.zeros(8, 5, 12)}, r"one row per video \(2\), but has 8"),
        ("videocrafter", {"fps": None}, "`fps` must be given"),
        ("released", {"frame_mask": None}, "must be given together"),
        ("released", {"context_latents": torch.zeros(2, 4, 3, 8, 8)}, "`context_latents` must have the shape"),
        ("released", {"frame_mask": torch.zeros(2, 4)}, "`frame_mask` must be a boolean tensor"),
        ("vdm", {"image_only": torch.zeros(2, 3, dtype=torch.bool)}, "`image_only` must be a boolean tensor"),
    ],
)
def test_bad_inputs_are_refused(kind: str, changes: dict[str, object], message: str) -> None:
    unet = tiny_space_time(kind)
    with pytest.raises(ValueError, match=message):
        draw(unet, space_time_inputs(unet), **changes)
