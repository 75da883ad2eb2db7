"""The video U-Net equals its image U-Net at step 0, learns from there, and keeps every option."""

import copy
import inspect

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.models.unet_video_condition import PRESETS, UNetVideoConditionModel
from tests.tiny_models import UNET2D_FAMILIES, image_inputs, shake_temporal_layers, tiny_unet2d, video_inputs


def fold(videos: Tensor) -> Tensor:
    return videos.transpose(1, 2).flatten(0, 1)


def tiny_unet(preset: str = "videoldm", family: str = "sd15", **options: object) -> UNetVideoConditionModel:
    return shake_temporal_layers(UNetVideoConditionModel.from_unet2d(tiny_unet2d(family), preset, **options))


@pytest.mark.parametrize(("batch_size", "num_frames"), [(1, 1), (2, 5), (1, 16)])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("family", UNET2D_FAMILIES)
@torch.no_grad()
def test_a_new_video_unet_draws_each_frame_as_the_image_unet(
    family: str, preset: str, batch_size: int, num_frames: int
) -> None:
    unet2d = tiny_unet2d(family)
    unet = UNetVideoConditionModel.from_unet2d(unet2d, preset)
    inputs = video_inputs(unet2d, batch_size, num_frames)
    got, want = fold(unet(**inputs).sample), unet2d(**image_inputs(inputs)).sample
    assert torch.equal(got, want)
    rows = [
        unet2d(**{key: row(value, index) for key, value in image_inputs(inputs).items()}).sample
        for index in range(batch_size * num_frames)
    ]
    torch.testing.assert_close(got, torch.cat(rows), atol=1e-5, rtol=0)


def row(value: object, index: int) -> object:
    if isinstance(value, dict):
        return {key: row(item, index) for key, item in value.items()}
    return value[index : index + 1]


@pytest.mark.parametrize("family", UNET2D_FAMILIES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_temporal_parameter_learns_after_one_step(family: str, preset: str) -> None:
    unet2d = tiny_unet2d(family)
    unet = UNetVideoConditionModel.from_unet2d(unet2d, preset)
    unet.freeze_spatial_layers()
    inputs = video_inputs(unet2d, 1, 5)
    target = torch.randn(unet(**inputs).sample.shape)
    optimizer = torch.optim.SGD(unet.temporal_parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        (unet(**inputs).sample - target).square().mean().backward()
        optimizer.step()
    gradients = {name: parameter.grad for name, parameter in unet.named_parameters()}
    assert {name for name, grad in gradients.items() if grad is not None} == {
        name for name in gradients if is_temporal(name)
    }
    dead = [name for name, grad in gradients.items() if grad is not None and grad.abs().max() <= 1e-9]
    assert not dead


def test_temporal_parameters_are_as_many_as_the_paper_says() -> None:
    counts = {}
    for text_width in (768, 1024):
        with torch.device("meta"):
            unet = UNetVideoConditionModel(cross_attention_dim=text_width)
        counts[text_width] = round(sum(parameter.numel() for parameter in unet.temporal_parameters()) / 1e6, 1)
    assert counts == {768: 649.7, 1024: 656.1}  # VideoLDM's appendix: 649M and 656M


def test_the_image_model_is_left_as_it_was() -> None:
    unet2d = tiny_unet2d()
    before = copy.deepcopy(unet2d.state_dict())
    unet = UNetVideoConditionModel.from_unet2d(unet2d)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(1)
    assert type(unet2d) is UNet2DConditionModel
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet2d.state_dict().items())


@pytest.mark.parametrize("family", UNET2D_FAMILIES)
def test_the_image_model_comes_out_as_it_went_in(family: str) -> None:
    unet2d = tiny_unet2d(family)
    taken = shake_temporal_layers(UNetVideoConditionModel.from_unet2d(unet2d)).to_image_model()
    assert type(taken) is UNet2DConditionModel
    ours, theirs = dict(taken.config), dict(unet2d.config)
    assert {name for name in theirs if not name.startswith("_") and ours[name] != theirs[name]} == set()
    state = unet2d.state_dict()
    assert taken.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in taken.state_dict().items())


def test_the_image_model_taken_out_shares_no_weights() -> None:
    unet = tiny_unet().to(torch.float64).train()
    taken = unet.to_image_model()
    assert taken.dtype is torch.float64 and not taken.training
    with torch.no_grad():
        taken.conv_in.weight.add_(1)
    assert not torch.equal(taken.conv_in.weight, unet.conv_in.weight)


def test_an_image_model_is_not_taken_out_of_adapters() -> None:
    unet = tiny_unet()
    unet.add_adapter(LoraConfig(target_modules=["to_q"]))
    with pytest.raises(ValueError, match="holds weights of an adapter, such as"):
        unet.to_image_model()


def test_type_and_mode_of_the_image_model_are_kept() -> None:
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d().to(torch.float64).train())
    assert unet.dtype is torch.float64
    assert unet.training
    assert not UNetVideoConditionModel.from_unet2d(tiny_unet2d()).training


@pytest.mark.parametrize("size", [7, 9, 12])
@torch.no_grad()
def test_sizes_that_do_not_divide_are_drawn_as_the_image_unet_draws_them(size: int) -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d)
    inputs = video_inputs(unet2d, 1, 2, size=size)
    # Odd numbers of positions are summed in another order by attention kernels: equal to rounding only.
    torch.testing.assert_close(fold(unet(**inputs).sample), unet2d(**image_inputs(inputs)).sample, atol=1e-6, rtol=0)


@torch.no_grad()
def test_frames_are_mixed_by_trained_temporal_layers_and_videos_are_not() -> None:
    unet = tiny_unet()
    inputs = video_inputs(unet, 2, 4)
    before = unet(**inputs).sample
    inputs["sample"][0, :, 3] += 1
    difference = (unet(**inputs).sample - before).abs().amax((1, 3, 4))
    assert (difference[0] > 1e-4).all()
    assert (difference[1] == 0).all()


@torch.no_grad()
def test_image_only_videos_are_the_image_models_own() -> None:
    unet2d = tiny_unet2d()
    unet = shake_temporal_layers(UNetVideoConditionModel.from_unet2d(unet2d))
    inputs = video_inputs(unet2d, 2, 3)
    got = unet(**inputs, image_only=torch.tensor([True, False])).sample
    want = unet2d(**image_inputs(inputs)).sample.unflatten(0, (2, 3)).transpose(1, 2)
    assert torch.equal(got[0], want[0])
    assert not torch.isclose(got[1], want[1]).all()


def test_image_only_batches_still_give_every_temporal_parameter_a_gradient() -> None:
    unet = tiny_unet()
    unet(**video_inputs(unet, 1, 3), image_only=torch.tensor([True])).sample.sum().backward()
    assert all(parameter.grad is not None for parameter in unet.temporal_parameters())


@torch.no_grad()
def test_causal_attention_without_convolution_never_looks_ahead() -> None:
    unet = tiny_unet(temporal_conv=False, temporal_attention="causal")
    inputs = video_inputs(unet, 1, 5)
    before = unet(**inputs).sample
    inputs["sample"][:, :, 3] += 1
    difference = (unet(**inputs).sample - before).abs().amax((0, 1, 3, 4))
    assert (difference[:3] == 0).all()
    assert (difference[3:] > 0).all()


@torch.no_grad()
def test_attention_limited_to_a_distance_ignores_frames_beyond_its_reach() -> None:
    unet = tiny_unet(temporal_conv=False, temporal_max_distance=1)
    inputs = video_inputs(unet, 1, 9)
    before = unet(**inputs).sample
    inputs["sample"][:, :, 8] += 1
    difference = (unet(**inputs).sample - before).abs().amax((0, 1, 3, 4))
    depth = sum(hasattr(module, "temporal_transformer_blocks") for module in unet.modules())
    assert depth == 4
    assert (difference[: 8 - depth] == 0).all()
    assert (difference[8 - depth :] > 0).all()


@torch.no_grad()
def test_temporal_layers_can_read_another_text() -> None:
    unet = tiny_unet()
    inputs = video_inputs(unet, 1, 3)
    other = torch.randn_like(inputs["encoder_hidden_states"])
    same = unet(**inputs, temporal_encoder_hidden_states=inputs["encoder_hidden_states"]).sample
    assert torch.equal(same, unet(**inputs).sample)
    assert not torch.isclose(unet(**inputs, temporal_encoder_hidden_states=other).sample, same).all()


@pytest.mark.parametrize("name", ["fps", "motion_bucket_id", "noise_level"])
@torch.no_grad()
def test_numbers_per_clip_start_without_effect_and_gain_one(name: str) -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d, added_time_ids=[name])
    inputs = video_inputs(unet2d, 2, 3)
    assert torch.equal(fold(unet(**inputs, **{name: 7.0}).sample), unet2d(**image_inputs(inputs)).sample)
    shake_temporal_layers(unet)
    first, second = (unet(**inputs, **{name: torch.tensor([7.0, value])}).sample for value in (7.0, 30.0))
    assert torch.equal(first[0], second[0])
    assert not torch.isclose(first[1], second[1]).all()
    assert torch.equal(first, unet(**inputs, **{name: 7.0}).sample)


@torch.no_grad()
def test_conditions_may_come_per_frame() -> None:
    unet = tiny_unet(family="sdxl")
    inputs = video_inputs(unet, 2, 3)
    want = unet(**inputs).sample
    per_frame = {**image_inputs(inputs), **{key: inputs[key] for key in ("sample", "encoder_hidden_states")}}
    assert torch.equal(unet(**per_frame).sample, want)
    assert torch.equal(
        unet(**{**inputs, "timestep": 5}).sample, unet(**{**inputs, "timestep": torch.tensor(5)}).sample
    )


@torch.no_grad()
def test_a_tuple_is_returned_on_request() -> None:
    unet = tiny_unet()
    inputs = video_inputs(unet)
    output = unet(**inputs, return_dict=False)
    assert isinstance(output, tuple)
    assert torch.equal(output[0], unet(**inputs).sample)


NON_DEFAULTS = {
    "sample_size": 16,
    "in_channels": 5,
    "out_channels": 3,
    "center_input_sample": True,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "only_cross_attention": True,
    "block_out_channels": (16, 32),
    "layers_per_block": 2,
    "downsample_padding": 0,
    "mid_block_scale_factor": 2,
    "dropout": 0.5,
    "act_fn": "gelu",
    "norm_num_groups": 8,
    "norm_eps": 1e-3,
    "cross_attention_dim": 20,
    "transformer_layers_per_block": 2,
    "reverse_transformer_layers_per_block": ((1,), 1),
    "encoder_hid_dim": 6,
    "encoder_hid_dim_type": "text_proj",
    "attention_head_dim": 4,
    "dual_cross_attention": True,
    "use_linear_projection": True,
    "class_embed_type": "timestep",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "num_class_embeds": 3,
    "upcast_attention": True,
    "resnet_time_scale_shift": "scale_shift",
    "resnet_skip_time_act": True,
    "resnet_out_scale_factor": 1.5,
    "time_embedding_type": "fourier",
    "time_embedding_dim": 24,
    "time_embedding_act_fn": "silu",
    "timestep_post_act": "silu",
    "time_cond_proj_dim": 6,
    "conv_in_kernel": 1,
    "conv_out_kernel": 1,
    "projection_class_embeddings_input_dim": 58,
    "attention_type": "gated",
    "class_embeddings_concat": True,
    "mid_block_only_cross_attention": True,
    "cross_attention_norm": "layer_norm",
    "addition_embed_type_num_heads": 2,
    "temporal_conv": False,
    "temporal_attention": "causal",
    "temporal_cross_attention": False,
    "temporal_feed_forward": False,
    "temporal_max_distance": 3,
    "mixing": "residual",
    "temporal_norm_eps": 1e-6,
    "added_time_ids": ["fps", "noise_level"],
    "added_time_embed_dim": 16,
    "context_channels": 5,
    "frame_adaptor": 3,
}
COMPANIONS = {  # options that others need beside them
    "transformer_layers_per_block": {},
    "reverse_transformer_layers_per_block": {"transformer_layers_per_block": ((1,), 1)},
    "encoder_hid_dim": {"encoder_hid_dim_type": "text_proj"},
    "encoder_hid_dim_type": {"encoder_hid_dim": 6},
    "addition_embed_type": {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 58},
    "class_embeddings_concat": {"class_embed_type": "timestep"},
    "down_block_types": {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
    "up_block_types": {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")},
}


def tiny_options(**options: object) -> dict[str, object]:
    config = tiny_unet2d().config
    return {
        **{
            key: config[key]
            for key in (
                "block_out_channels",
                "layers_per_block",
                "down_block_types",
                "up_block_types",
                "cross_attention_dim",
                "attention_head_dim",
                "norm_num_groups",
            )
        },
        **options,
    }


def test_the_table_of_options_is_complete() -> None:
    parameters = set(inspect.signature(UNetVideoConditionModel.__init__).parameters) - {"self"}
    assert parameters - set(NON_DEFAULTS) == {"num_attention_heads"}  # diffusers refuses any value of it


@pytest.mark.parametrize("name", NON_DEFAULTS)
def test_every_option_survives_saving_and_loading(name: str, tmp_path: object) -> None:
    unet = UNetVideoConditionModel(**tiny_options(**COMPANIONS.get(name, {}), **{name: NON_DEFAULTS[name]}))
    unet.save_pretrained(tmp_path)
    for copied in (
        UNetVideoConditionModel.from_pretrained(tmp_path),
        UNetVideoConditionModel.from_config(unet.config),
    ):
        assert as_lists(copied.config[name]) == as_lists(NON_DEFAULTS[name])
    loaded = UNetVideoConditionModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in unet.state_dict().items())


def as_lists(value: object) -> object:
    return [as_lists(item) for item in value] if isinstance(value, tuple | list) else value


def test_options_of_the_image_model_reach_the_video_model() -> None:
    for family in UNET2D_FAMILIES:
        unet2d = tiny_unet2d(family)
        config = UNetVideoConditionModel.from_unet2d(unet2d).config
        for name in inspect.signature(UNet2DConditionModel.__init__).parameters:
            assert name == "self" or as_lists(config[name]) == as_lists(unet2d.config[name])


def test_new_layers_are_those_of_the_ablation_s_choice() -> None:
    unet2d = tiny_unet2d()
    assert UNetVideoConditionModel.preset_of(UNetVideoConditionModel.from_unet2d(unet2d).config) == "light"
    full = UNetVideoConditionModel.from_unet2d(unet2d, "videoldm").config
    assert UNetVideoConditionModel.preset_of(full) == "videoldm"


def test_presets_can_be_overruled() -> None:
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "light", temporal_feed_forward=True)
    assert unet.temporal_options == {
        "temporal_conv": True,
        "temporal_attention": "full",
        "temporal_cross_attention": False,
        "temporal_feed_forward": True,
        "temporal_max_distance": None,
        "mixing": "learned",
        "temporal_norm_eps": 1e-5,
        "added_time_ids": (),
        "added_time_embed_dim": 256,
        "context_channels": None,
        "frame_adaptor": None,
    }


@pytest.mark.parametrize("options", [
    {"temporal_attention": "none"},
    {"temporal_attention": "none", "temporal_cross_attention": False, "temporal_feed_forward": False},
    {"temporal_conv": False},
    {"mixing": "fixed"},
    {"mixing": "residual"},
    {"temporal_cross_attention": False},
    {"temporal_feed_forward": False},
])  # fmt: skip
@torch.no_grad()
def test_every_combination_of_parts_starts_as_the_image_model(options: dict[str, object]) -> None:
    unet2d = tiny_unet2d()
    unet = UNetVideoConditionModel.from_unet2d(unet2d, **options)
    inputs = video_inputs(unet2d, 2, 3)
    assert torch.equal(fold(unet(**inputs).sample), unet2d(**image_inputs(inputs)).sample)
    shake_temporal_layers(unet)
    assert not torch.isclose(fold(unet(**inputs).sample), unet2d(**image_inputs(inputs)).sample).all()


FURTHER_OPTIONS = {
    "gated": (
        {"attention_type": "gated"},
        {
            "cross_attention_kwargs": {
                "gligen": {"boxes": (2, 3, 4), "positive_embeddings": (2, 3, 12), "masks": (2, 3)}
            }
        },
    ),
    "attention without text": (
        {
            "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        },
        {},
    ),
    "concatenated class": ({"class_embed_type": "timestep", "class_embeddings_concat": True}, {"class_labels": (2,)}),
    "identity class": ({"class_embed_type": "identity"}, {"class_labels": (2, 32)}),
    "projected class": (
        {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": 5},
        {"class_labels": (2, 5)},
    ),
    "image hint": (
        {
            "addition_embed_type": "image_hint",
            "encoder_hid_dim": 12,
            "encoder_hid_dim_type": "image_proj",
            "in_channels": 8,
        },
        {"sample": (2, 4, 3, 8, 8), "added_cond_kwargs": {"image_embeds": (2, 12), "hint": (2, 3, 64, 64)}},
    ),
    "text and image": (
        {"addition_embed_type": "text_image", "encoder_hid_dim": 12, "encoder_hid_dim_type": "text_image_proj"},
        {"added_cond_kwargs": {"image_embeds": (2, 12), "text_embeds": (2, 12)}},
    ),
    "centred input": ({"center_input_sample": True}, {}),
    "plain middle": ({"mid_block_type": "UNetMidBlock2D"}, {}),
}


def random_tensors(shapes: object) -> object:
    if isinstance(shapes, dict):
        return {key: random_tensors(shape) for key, shape in shapes.items()}
    return torch.rand(shapes)


@pytest.mark.parametrize("name", FURTHER_OPTIONS)
@torch.no_grad()
def test_rarer_options_of_the_image_unet_keep_their_meaning(name: str) -> None:
    options, shapes = FURTHER_OPTIONS[name]
    unet2d = tiny_unet2d(**options)
    inputs = {**video_inputs(unet2d, 2, 3), **random_tensors(shapes)}
    got = fold(UNetVideoConditionModel.from_unet2d(unet2d)(**inputs).sample)
    # A handful of image tokens makes products whose summing order depends on the number of queries: 1e-6, not equal.
    torch.testing.assert_close(got, unet2d(**image_inputs(inputs)).sample, atol=2e-6, rtol=0)


BAD_BUILDS = [
    (lambda: UNetVideoConditionModel.from_unet2d(torch.nn.Linear(1, 1)), TypeError, "`unet2d` must be a `UNet2DC"),
    (lambda: UNetVideoConditionModel.from_unet2d(tiny_unet()), TypeError, "`unet2d` must be a `UNet2DConditionModel`"),
    (lambda: UNetVideoConditionModel.from_unet2d(tiny_unet2d(), "heavy"), ValueError, "`preset` must be one of"),
    (lambda: UNetVideoConditionModel.from_unet2d(tiny_unet2d(), tempo=1), TypeError, "`tempo` is no option"),
    (lambda: UNetVideoConditionModel.from_unet2d(tiny_unet2d(), in_channels=9), TypeError, "`in_channels` is no opt"),
    (lambda: UNetVideoConditionModel(**tiny_options(tempo=1)), TypeError, "tempo"),
    (lambda: UNetVideoConditionModel(**tiny_options(mixing="mean")), ValueError, "`mixing` must be one of"),
    (lambda: UNetVideoConditionModel(temporal_attention="both"), ValueError, "`temporal_attention` must be one of"),
    (lambda: UNetVideoConditionModel(temporal_max_distance=0), ValueError, "`temporal_max_distance` must be at least"),
    (lambda: UNetVideoConditionModel(frame_adaptor=0), ValueError, "`frame_adaptor` must be at least 1"),
    (lambda: UNetVideoConditionModel(added_time_ids=["speed"]), ValueError, "`added_time_ids` must be one of"),
    (lambda: UNetVideoConditionModel.from_single_file("x.safetensors"), ValueError, "from_unet2d"),
]


@pytest.mark.parametrize(("build", "error", "message"), BAD_BUILDS)
def test_wrong_ways_to_build_a_model_are_refused(build: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_an_image_model_with_an_adapter_inside_is_refused() -> None:
    from peft import LoraConfig

    unet2d = tiny_unet2d()
    unet2d.add_adapter(LoraConfig(target_modules=["to_q"]))
    with pytest.raises(ValueError, match="must be a plain image model, but holds weights of an adapter"):
        UNetVideoConditionModel.from_unet2d(unet2d)


def test_weights_of_an_image_model_are_refused_by_name_of_the_way_out(tmp_path: object) -> None:
    tiny_unet2d().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must hold a video model.*from_unet2d"):
        UNetVideoConditionModel.from_pretrained(tmp_path)


BAD_CALLS = [
    ({"sample": torch.zeros(2, 4, 8, 8)}, "`sample` must have the shape"),
    ({"encoder_hidden_states": torch.zeros(6, 77, 12)}, "`encoder_hidden_states` must have one row per video"),
    ({"timestep": torch.zeros(4)}, "`timestep` must have one row per video"),
    ({"fps": 8.0}, "`fps` was given, but this model does not read it"),
    ({"motion_bucket_id": 127}, "`motion_bucket_id` was given"),
    ({"image_only": torch.zeros(2)}, "`image_only` must be a boolean tensor"),
    ({"image_only": torch.zeros(3, dtype=torch.bool)}, "`image_only` must be a boolean tensor"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_CALLS)
def test_wrong_inputs_are_refused(changes: dict[str, object], message: str) -> None:
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d())
    with pytest.raises(ValueError, match=message):
        unet(**{**video_inputs(unet), **changes})


def test_a_number_that_the_model_reads_must_be_given() -> None:
    unet = UNetVideoConditionModel.from_unet2d(tiny_unet2d(), added_time_ids=["fps"])
    with pytest.raises(ValueError, match="`fps` must be given"):
        unet(**video_inputs(unet))
    with pytest.raises(ValueError, match="`fps` must be one number or a tensor of shape"):
        unet(**video_inputs(unet), fps=torch.zeros(3))
