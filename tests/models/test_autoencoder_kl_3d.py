"""The autoencoder of LVDM: padding, sizes, windows in time and space, and what is refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel
from torch import Tensor
from torch.nn import functional

from diffusers_video import AutoencoderKL3D
from diffusers_video.conversion.lvdm_original import autoencoder_options, autoencoder_weights
from diffusers_video.layers.replicate_conv import ReplicateConv3d, ReplicateConvTranspose3d
from diffusers_video.pipelines.latents import decode_latents, encode_video, is_video_autoencoder, latents_shape


TINY = {"block_out_channels": (4, 8, 8), "downsample_factors": (2, 4, 4), "norm_num_groups": 4, "sample_size": 16}


def tiny_autoencoder(**options: object) -> AutoencoderKL3D:
    torch.manual_seed(0)
    return AutoencoderKL3D(**{**TINY, **options}).eval()


def some_video(num_frames: int = 4, batch_size: int = 1, size: int = 16) -> Tensor:
    return torch.rand(batch_size, 3, num_frames, size, size) * 2 - 1


def some_latents(num_frames: int, batch_size: int = 1, size: int = 4) -> Tensor:
    return torch.randn(batch_size, 4, num_frames, size, size)


@pytest.mark.parametrize("name", ["lvdm_autoencoder", "lvdm_autoencoder_2level"])
def test_golden_autoencoder(load_golden: Callable, name: str) -> None:
    golden = load_golden(name)
    weights = {k.removeprefix("weights."): v.float() for k, v in golden.tensors.items() if k.startswith("weights.")}
    weights = autoencoder_weights(weights)
    factors = golden.config["constructor"]["ddconfig"]["encoder"]["params"]["downsample"]
    options = autoencoder_options({name: tuple(tensor.shape) for name, tensor in weights.items()})
    vae = AutoencoderKL3D(**options, downsample_factors=tuple(factors)).eval()
    vae.load_state_dict(weights)
    video = golden.tensors["inputs.x"]
    with torch.no_grad():
        posterior = vae.encode(video).latent_dist
        got = {
            "moments": posterior.parameters,
            "mean": posterior.mode(),
            "std": posterior.std,
            "decoded": vae.decode(golden.tensors["inputs.z"]).sample,
            "reconstruction": vae(video).sample,
        }
    for key, value in got.items():  # measured: 2.8e-6 of the largest value at most
        want = golden.tensors[f"outputs.{key}"]
        torch.testing.assert_close(value, want, rtol=0, atol=1e-5 * float(want.abs().max()), msg=key)


def test_released_size_has_the_released_number_of_parameters() -> None:
    with torch.device("meta"):
        vae = AutoencoderKL3D()
    counts = [sum(weight.numel() for weight in part.parameters()) for part in (vae, vae.encoder, vae.decoder)]
    assert counts == [19_446_759, 7_458_952, 11_987_715]
    assert vae.latents_shape(16, 256, 256) == (4, 4, 32, 32)


def test_borders_repeat_and_an_odd_place_stands_before() -> None:
    conv = ReplicateConv3d(1, 1, 4, (1, 2, 2))
    torch.nn.init.zeros_(conv.bias)
    torch.nn.init.zeros_(conv.weight)
    frames = torch.arange(1.0, 6.0).view(1, 1, 5, 1, 1).expand(1, 1, 5, 4, 4)
    got = []
    for tap in range(4):  # a kernel that picks one frame of its window
        with torch.no_grad():
            conv.weight.zero_()[0, 0, tap, 1, 1] = 1
            got.append(conv(frames)[0, 0, :, 0, 0].tolist())
    assert got == [[1, 1, 1, 2, 3], [1, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 5]]
    assert conv(frames).shape == (1, 1, 5, 2, 2)


@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (2, 1, 1)])
def test_upsampling_treats_the_border_as_the_inside(stride: tuple[int, int, int]) -> None:
    layer = ReplicateConvTranspose3d(2, 3, stride)
    with torch.no_grad():
        output = layer(torch.ones(1, 2, 3, 4, 5))
    assert tuple(output.shape) == (1, 3, 3 * stride[0], 4 * stride[1], 5 * stride[2])
    for axis, step in enumerate(stride, start=2):  # of constant features only the phase of the stride remains
        length = output.shape[axis] - step
        torch.testing.assert_close(output.narrow(axis, step, length), output.narrow(axis, 0, length))


@pytest.mark.parametrize("factors", [(1, 4, 4), (2, 4, 4), (4, 4, 4), (4, 2, 4), (1, 1, 1)])
@pytest.mark.parametrize("num_frames", [4, 8, 12])
def test_any_factors_and_any_number_of_frames(factors: tuple[int, int, int], num_frames: int) -> None:
    vae = tiny_autoencoder(downsample_factors=factors)
    video = torch.rand(1, 3, num_frames, 8, 12)
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.sample()
        shape = tuple(length // factor for length, factor in zip((num_frames, 8, 12), factors, strict=True))
        assert latents.shape[1:] == vae.latents_shape(num_frames, 8, 12) == (4, *shape)
        assert vae.decode(latents).sample.shape == vae(video).sample.shape == video.shape


def test_every_latent_depends_on_frames_around_it() -> None:
    vae, video = tiny_autoencoder(), some_video(8)
    changed = video.clone()
    changed[:, :, 7] += 1
    with torch.no_grad():
        before, after = vae.encode(video).latent_dist.mean, vae.encode(changed).latent_dist.mean
    assert all(not torch.equal(before[:, :, frame], after[:, :, frame]) for frame in range(4))


def test_every_option_comes_back_and_saved_weights_decode_the_same(tmp_path: Path) -> None:
    options = {
        "in_channels": 2,
        "out_channels": 5,
        "block_out_channels": [4, 6, 12],
        "downsample_factors": [4, 2, 4],
        "latent_channels": 3,
        "norm_num_groups": 2,
        "sample_size": 32,
        "scaling_factor": 0.3,
        "shift_factor": -1.5,
        "decode_chunk_size": 5,
        "decode_chunk_overlap": 2,
    }
    vae = AutoencoderKL3D(**options).eval()
    assert {name for name in vae.config if not name.startswith("_")} == options.keys()
    vae.save_pretrained(tmp_path)
    latents = torch.randn(1, 3, 3, 2, 2)
    for loaded in (AutoencoderKL3D.from_pretrained(tmp_path), AutoModel.from_pretrained(str(tmp_path))):
        assert type(loaded) is AutoencoderKL3D
        assert {name: loaded.config[name] for name in options} == options
        with torch.no_grad():
            assert torch.equal(loaded.decode(latents).sample, vae.decode(latents).sample)


def test_chunks_are_windows_of_latent_frames_that_fade_into_each_other() -> None:
    vae, latents = tiny_autoencoder(decode_chunk_size=4, decode_chunk_overlap=1), some_latents(7)
    with torch.no_grad():
        frames = vae.decode(latents).sample
        first, second = vae.decode(latents[:, :, :4]).sample, vae.decode(latents[:, :, 3:]).sample
    assert frames.shape[2] == 14
    assert torch.equal(frames[:, :, :6], first[:, :, :6]) and torch.equal(frames[:, :, 8:], second[:, :, 2:])
    ramp = torch.tensor([1 / 3, 2 / 3])[:, None, None]  # two frames of one latent, shared by both chunks
    torch.testing.assert_close(frames[:, :, 6:8], torch.lerp(first[:, :, 6:], second[:, :, :2], ramp))


def test_long_videos_are_encoded_in_the_chunks_they_are_decoded_in() -> None:
    vae, video, sizes = tiny_autoencoder(decode_chunk_size=4, decode_chunk_overlap=1), some_video(14), []
    vae.encoder.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].shape[2]))
    vae.decoder.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].shape[2]))
    with torch.no_grad():
        moments = vae.encode(video).latent_dist.parameters
        first, second = (vae.encode(part).latent_dist.parameters for part in (video[:, :, :8], video[:, :, 6:]))
        vae.decode(moments[:, :4])
    assert sizes == [8, 8, 8, 8, 4, 4]
    torch.testing.assert_close(moments[:, :, 3], (first[:, :, 3] + second[:, :, 0]) / 2)


def test_windows_in_time_and_space_join_to_the_whole_where_the_coder_is_local() -> None:
    vae, sizes = tiny_autoencoder(decode_chunk_size=4, decode_chunk_overlap=1), []

    def enlarge(_: object, arguments: tuple, output: Tensor) -> Tensor:
        sizes.append(tuple(arguments[0].shape[2:]))
        return functional.interpolate(arguments[0][:, :3], scale_factor=(2, 4, 4))

    def shrink(_: object, arguments: tuple, output: Tensor) -> Tensor:
        return functional.avg_pool3d(arguments[0].repeat(1, 3, 1, 1, 1)[:, :8], (2, 4, 4))

    vae.decoder.register_forward_hook(enlarge)
    vae.encoder.register_forward_hook(shrink)
    latents, video = some_latents(6, size=7), some_video(12, size=28)
    with torch.no_grad():
        vae.enable_tiling()
        frames, moments = vae.decode(latents).sample, vae.encode(video).latent_dist.parameters
        assert set(sizes) == {(4, 4, 4)} and len(sizes) == 2 * 2 * 2
        vae.disable_tiling()
        vae.register_to_config(decode_chunk_size=None)
        torch.testing.assert_close(frames, vae.decode(latents).sample)
        torch.testing.assert_close(moments, vae.encode(video).latent_dist.parameters)


def test_tiled_coding_is_coding_with_tiling() -> None:
    vae, latents, video = tiny_autoencoder(), some_latents(2, size=6), some_video(size=24)
    with torch.no_grad():
        tiled, encoded = vae.tiled_decode(latents).sample, vae.tiled_encode(video).latent_dist.mean
        assert not vae.use_tiling and not torch.equal(tiled, vae.decode(latents).sample)
        assert tiled.shape == (1, 3, 4, 24, 24) and encoded.shape == (1, 4, 2, 6, 6)
        vae.enable_tiling()
        assert torch.equal(tiled, vae.decode(latents).sample)
        assert torch.equal(encoded, vae.encode(video).latent_dist.mean)


def test_slices_are_videos() -> None:
    vae, latents, video = tiny_autoencoder().double(), some_latents(3, 2).double(), some_video(4, 2).double()
    with torch.no_grad():
        whole, posterior = vae.decode(latents).sample, vae.encode(video).latent_dist
        vae.enable_slicing()
        torch.testing.assert_close(vae.decode(latents).sample, whole)
        torch.testing.assert_close(vae.encode(video).latent_dist.mean, posterior.mean)


def test_gradients_reach_every_weight_and_checkpointing_changes_none() -> None:
    video, model, gradients = some_video(4, 2), tiny_autoencoder().train(), []
    for is_checkpointed in (False, True):
        vae = copy.deepcopy(model)
        if is_checkpointed:
            vae.enable_gradient_checkpointing()
        sample = vae(video, sample_posterior=True, generator=torch.Generator().manual_seed(0)).sample
        (sample - video).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in vae.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.slow
def test_it_compiles_whole() -> None:
    vae, video = tiny_autoencoder(), some_video()
    compiled = torch.compile(vae, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(video).sample, vae(video).sample)


def test_channels_last_and_half_precision_run() -> None:
    vae, video = tiny_autoencoder(), some_video()
    with torch.no_grad():
        want = vae(video).sample
        torch.testing.assert_close(vae.to(memory_format=torch.channels_last)(video).sample, want)
        half = vae.to(torch.bfloat16)(video.bfloat16()).sample
    assert half.dtype == torch.bfloat16 and (half - want).abs().mean() < 0.05 * want.abs().mean()


def test_functions_of_pipelines_know_it() -> None:
    vae, video = tiny_autoencoder(scaling_factor=0.334, shift_factor=-1.46), some_video(4, 2)
    assert is_video_autoencoder(vae) and latents_shape(vae, 4, 16, 16) == (4, 2, 4, 4)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    with torch.no_grad():
        latents = encode_video(vae, video, generators)
        drawn = vae.encode(video[1:]).latent_dist.sample(torch.Generator().manual_seed(1))
        torch.testing.assert_close(latents[1:], 0.334 * (drawn + 1.46))
        torch.testing.assert_close(decode_latents(vae, latents), vae.decode(latents / 0.334 - 1.46).sample)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_out_channels": (4,)}, "`block_out_channels` must be two numbers or more"),
        ({"block_out_channels": (4, 6, 8)}, "multiples of `norm_num_groups`=4"),
        ({"downsample_factors": (4, 8, 8)}, "`downsample_factors` must be three powers of 2, at most 4 for 2 levels"),
        ({"downsample_factors": (3, 4, 4)}, r"but is \(3, 4, 4\)"),
        ({"downsample_factors": (4, 4)}, "must be three powers of 2"),
        ({"decode_chunk_size": 0}, "`decode_chunk_size` must be at least 1, but is 0"),
        ({"decode_chunk_size": 4}, "`decode_chunk_overlap` must be .* below `decode_chunk_size`=4"),
        ({"decode_chunk_overlap": -1}, "`decode_chunk_overlap` must be at least 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_autoencoder(**options)


def test_bad_inputs_are_refused() -> None:
    vae = tiny_autoencoder()
    with pytest.raises(ValueError, match=r"`x` must have the shape \(batch_size, 3, num_frames, height, width\)"):
        vae.encode(torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match="`num_frames` must be a multiple of 2, but is 5"):
        vae.encode(torch.zeros(1, 3, 5, 16, 16))
    with pytest.raises(ValueError, match="`width` must be a multiple of 4, but is 18"):
        vae.encode(torch.zeros(1, 3, 4, 16, 18))
    with pytest.raises(ValueError, match=r"`z` must have the shape .* but has shape \(1, 3, 2, 8, 8\)"):
        vae.decode(torch.zeros(1, 3, 2, 8, 8))
    vae.register_to_config(decode_chunk_size=2)
    with pytest.raises(ValueError, match="`decode_chunk_overlap` must be"):
        vae.decode(some_latents(3))
