"""The triplane U-Net: PVDM's numbers, sizes and costs, any shape of planes, and what our models promise."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusers_video import UNetTriplaneModel
from diffusers_video.conditioning.previous_clip import predict_after_clip
from diffusers_video.conversion import pvdm_original
from diffusers_video.layers.triplane import TriplaneSize, join_planes, split_planes

from ..tiny_triplane import LATENT_SIZE, UNET, some_latents, tiny_unet_triplane


@pytest.mark.parametrize("name", ["pvdm_unet", "pvdm_unet_unconditional"])
def test_golden_numbers_of_pvdm(load_golden: Callable, name: str) -> None:
    tensors, config = load_golden(name)
    tensors = {key.replace("weights.diffusion_model.", "weights."): value for key, value in tensors.items()}
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    heads = config["constructor"]["num_heads"]
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    model = UNetTriplaneModel(**pvdm_original.unet_options(shapes, heads, (16, 32, 32))).eval()
    model.load_state_dict(pvdm_original.unet_weights(weights, heads))
    sample, timesteps = tensors["inputs.latents"], tensors["inputs.timesteps"]
    with torch.no_grad():
        got = {"outputs.eps_unconditional": model(sample, timesteps).sample}
        if "inputs.cond" in tensors:
            got["outputs.eps_conditional"] = model(sample, timesteps, tensors["inputs.cond"]).sample
    for key, value in got.items():  # measured: 2e-6 to 3e-6 of the largest number
        torch.testing.assert_close(value, tensors[key], rtol=0, atol=2e-5 * float(tensors[key].abs().max()))


@pytest.mark.parametrize(
    ("base", "parameters", "teraflops"),
    [(256, 528.3, 0.243), pytest.param(128, 132.2, 0.072, marks=pytest.mark.slow)],
)
def test_size_and_cost_are_those_of_the_paper(base: int, parameters: float, teraflops: float) -> None:
    widths = tuple(base * factor for factor in (1, 2, 4, 4))
    with torch.device("meta"):
        model, sample = UNetTriplaneModel(block_out_channels=widths), torch.randn(1, 4, 2048)
    # PyTorch's counter has no formula for the CPU's fused attention: take the unfused.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(sample, 500)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == parameters
    assert round(counter.get_total_flops() / 1e12, 3) == teraflops


def plane_by_plane(model: UNetTriplaneModel, sample: Tensor, timestep: int, size: TriplaneSize) -> Tensor:
    """The same layers, with no two planes in one batch."""
    sample = torch.cat([sample, torch.zeros_like(sample)], dim=1)
    planes = [plane.contiguous() for plane in split_planes(sample, size)]
    return join_planes(model._denoise_planes(planes, model._embed_timestep(timestep, sample), len(sample)))


@pytest.mark.parametrize("size", [(2, 4, 6), (2, 4, 4), (4, 4, 6), (4, 4, 4)])
def test_planes_computed_together_are_those_computed_alone(size: tuple[int, int, int]) -> None:
    model, size = tiny_unet_triplane(), TriplaneSize(*size)
    sample = some_latents(3, size)
    with torch.no_grad():
        got = model(sample, 7, latent_size=size).sample
        assert got.shape == sample.shape
        torch.testing.assert_close(got, plane_by_plane(model, sample, 7, size), rtol=0, atol=1e-5)


def test_every_plane_sees_all_planes_and_no_other_video() -> None:
    model, sample = tiny_unet_triplane(), some_latents()
    with torch.no_grad():
        before = model(sample, 7).sample
        for plane in range(3):
            changed = sample.clone()
            split_planes(changed, LATENT_SIZE)[plane][0] += torch.randn(2, 1, 1)
            after = model(changed, 7).sample
            assert all(not torch.equal(*pair) for pair in zip(*map(planes_of_first, (before, after)), strict=True))
            torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-6)


def planes_of_first(latents: Tensor) -> tuple[Tensor, ...]:
    return split_planes(latents[:1], LATENT_SIZE)


def test_a_new_model_predicts_zeros_and_all_weights_get_gradients() -> None:
    assert not UNetTriplaneModel(**UNET)(some_latents(), 3).sample.any()
    model = tiny_unet_triplane()
    model(some_latents(), torch.tensor([3, 900]), some_latents()).sample.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_no_clip_before_is_a_clip_of_zeros_and_timesteps_may_differ() -> None:
    model, sample, previous = tiny_unet_triplane(), some_latents(), some_latents()
    with torch.no_grad():
        none = model(sample, 7).sample
        assert torch.equal(none, model(sample, 7, torch.zeros_like(sample)).sample)
        assert not torch.allclose(none, model(sample, 7, previous).sample)
        both = model(sample, torch.tensor([7, 500]), previous).sample
        alone = torch.cat([model(sample[i : i + 1], t, previous[i : i + 1]).sample for i, t in enumerate((7, 500))])
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("scale", "rows"), [(1.0, [2]), (3.0, [4]), (0.0, [4])])
def test_guidance_evaluates_no_more_than_it_needs(scale: float, rows: list[int]) -> None:
    model, sample, previous = tiny_unet_triplane(), some_latents(), some_latents()
    seen = []
    model.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    timesteps = torch.tensor([7, 500])
    with torch.no_grad():
        got = predict_after_clip(model, sample, timesteps, previous, scale)
        assert seen == rows
        first = predict_after_clip(model, sample, timesteps, None, scale)
        assert seen == [*rows, 2]
        given, none = model(sample, timesteps, previous).sample, model(sample, timesteps).sample
    assert torch.equal(first, none)
    weight = scale - 1  # PVDM's w
    torch.testing.assert_close(got, (1 + weight) * given - weight * none, rtol=0, atol=1e-4)


def test_checkpointed_gradients_are_the_plain_ones() -> None:
    model, sample, previous = tiny_unet_triplane(), some_latents(), some_latents()
    gradients = []
    for is_checkpointed in (False, True):
        (model.enable_gradient_checkpointing if is_checkpointed else model.disable_gradient_checkpointing)()
        model.zero_grad()
        model(sample, 7, previous).sample.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_every_option_comes_back_and_saved_weights_are_equal(tmp_path: Path) -> None:
    options = {**UNET, "out_channels": 3, "norm_eps": 1e-4, "use_previous_clip": False}
    model = UNetTriplaneModel(**options)
    assert set(options) == model._get_init_keys(type(model)) - {"self"}
    model.save_pretrained(tmp_path)
    for loaded in (UNetTriplaneModel.from_pretrained(tmp_path), AutoModel.from_pretrained(str(tmp_path))):
        assert type(loaded) is UNetTriplaneModel
        for name, value in options.items():
            assert loaded.config[name] == (list(value) if isinstance(value, tuple) else value), name
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name


def test_it_follows_attention_backends() -> None:
    model, sample = tiny_unet_triplane(), some_latents()
    with torch.no_grad():
        want = model(sample, 7).sample
        model.set_attention_backend("_native_math")
        torch.testing.assert_close(model(sample, 7).sample, want)


@pytest.mark.slow
def test_it_compiles_without_a_break() -> None:
    model, sample = tiny_unet_triplane(), some_latents()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for previous in (None, some_latents()):
            got = compiled(sample, torch.tensor(7), previous).sample
            torch.testing.assert_close(got, model(sample, 7, previous).sample)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_out_channels": ()}, "`block_out_channels` and `plane_attention` must have one entry"),
        ({"plane_attention": (True,)}, "one entry for each level, but have 2 and 1"),
        ({"num_attention_heads": 3}, "must hold multiples of `num_attention_heads`=3, but is"),
        ({"norm_num_groups": 16}, "must hold multiples of `norm_num_groups`=16"),
        ({"norm_num_groups": 0}, "`norm_num_groups`=0"),
        ({"layers_per_block": 0}, "`layers_per_block` must be at least 1, but is 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNetTriplaneModel(**{**UNET, **options})


def test_bad_inputs_are_refused() -> None:
    model, sample = tiny_unet_triplane(), some_latents()
    with pytest.raises(ValueError, match=r"`sample` must have the shape \(batch_size, 2, 44\).* but has shape"):
        model(sample[:, :, 1:], 7)
    with pytest.raises(ValueError, match="`sample` must have the shape"):
        model(sample[:, :1], 7)
    with pytest.raises(ValueError, match=r"`latent_size` must hold multiples of 2 for 2 levels, but is \(2, 4, 5\)"):
        model(sample, 7, latent_size=(2, 4, 5))
    with pytest.raises(ValueError, match="`latent_size` must hold multiples"):
        model(sample, 7, latent_size=(0, 4, 6))
    with pytest.raises(ValueError, match="`previous_latents` must have the shape of `sample`"):
        model(sample, 7, sample[:1])
    with pytest.raises(ValueError, match="does not read it: its `use_previous_clip` is off"):
        tiny_unet_triplane(use_previous_clip=False)(sample, 7, sample)
