"""The triplane autoencoder: PVDM's numbers, any size, and what models of this library promise."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel

from diffusers_video import AutoencoderTriplane
from diffusers_video.conversion import pvdm_original
from diffusers_video.layers.layout import videos_to_images
from diffusers_video.layers.triplane import split_planes
from diffusers_video.pipelines.latents import decode_latents, encode_video, latents_shape

from ..tiny_triplane import AUTOENCODER, some_latents, some_videos, tiny_autoencoder_triplane


ALL_OPTIONS = {
    **AUTOENCODER,
    "in_channels": 1,
    "rotary_max_freq": 6.0,
    "plane_attention_head_dim": 3,
}


@pytest.mark.parametrize("name", ["pvdm_autoencoder", "pvdm_autoencoder_compact"])
def test_golden_numbers_of_pvdm(load_golden: Callable, name: str) -> None:
    tensors = load_golden(name).tensors
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    options = pvdm_original.autoencoder_options({key: tuple(value.shape) for key, value in weights.items()})
    model = AutoencoderTriplane(**options).eval()
    model.load_state_dict(pvdm_original.autoencoder_weights(weights, options["patch_size"]))
    with torch.no_grad():
        latents = model.encode(tensors["inputs.video"]).latents
        frames = videos_to_images(model(tensors["inputs.video"]).sample)
        close = {"rtol": 0, "atol": 1e-5}  # measured: 4e-7 to 8e-7
        torch.testing.assert_close(latents, tensors["outputs.latents"], **close)
        for plane, key in zip(split_planes(latents, model.latent_size), pvdm_original.PLANES, strict=True):
            torch.testing.assert_close(plane, tensors[f"outputs.planes.{key}"], **close)
        torch.testing.assert_close(frames, tensors["outputs.reconstruction"], **close)
        if "inputs.latents" in tensors:
            frames = videos_to_images(model.decode(tensors["inputs.latents"]).sample)
            torch.testing.assert_close(frames, tensors["outputs.decoded_latents"], **close)


def test_defaults_have_the_size_of_the_paper() -> None:
    with torch.device("meta"):
        model = AutoencoderTriplane()
    assert sum(parameter.numel() for parameter in model.parameters()) == 62_064_399
    assert model.latents_shape(16, 256, 256) == (4, 2048)


def test_videos_come_out_in_their_shape_and_latents_are_bounded() -> None:
    model, videos = tiny_autoencoder_triplane(), some_videos()
    with torch.no_grad():
        latents = model.encode(videos).latents
        assert latents.shape == (2, *model.latents_shape(*videos.shape[2:])) == (2, 2, 44)
        assert latents.abs().max() < 1 and model(videos).sample.shape == videos.shape
        torch.testing.assert_close(model.decode(latents).sample, model(videos).sample)
        assert model.decode(latents, return_dict=False)[0].abs().max() < 1


@pytest.mark.parametrize("size", [(1, 2, 2), (2, 8, 6), (1, 8, 12)])
def test_smaller_videos_run(size: tuple[int, int, int]) -> None:
    model, videos = tiny_autoencoder_triplane(), some_videos(size=size)
    with torch.no_grad():
        latents = model.encode(videos).latents
        frames = model.decode(latents, latent_size=model.latent_size_of(*size)).sample
        assert frames.shape == videos.shape and torch.equal(frames, model(videos).sample)


@pytest.mark.parametrize("axis", range(3))
def test_each_plane_keeps_one_pair_of_axes_apart(axis: int) -> None:
    model = tiny_autoencoder_triplane()
    latents = some_latents(1)
    other = latents.clone()
    plane = split_planes(other, model.latent_size)[axis]
    plane[:, :, 0, 0] += 0.5
    # Before the decoder mixes everything, a position of a plane is spread along the axis it was projected over.
    model.decoder = torch.nn.Identity()
    with torch.no_grad():
        moved = (model.decode(latents).sample != model.decode(other).sample).any(1)[0]
    frames, rows, columns = (moved.amax(dims).sum().item() for dims in ((1, 2), (0, 2), (0, 1)))
    assert (frames, rows, columns) == [(2, 2, 2), (1, 8, 2), (1, 2, 12)][axis]


def test_slices_change_nothing() -> None:
    model, videos = tiny_autoencoder_triplane(), some_videos(3)
    with torch.no_grad():
        want = model(videos).sample
        model.enable_slicing()
        torch.testing.assert_close(model(videos).sample, want)
    with pytest.raises(NotImplementedError, match="Tiling"):
        model.enable_tiling()


def test_pipelines_code_videos_with_it() -> None:
    model, videos = tiny_autoencoder_triplane(), some_videos()
    assert latents_shape(model, 2, 8, 12) == (2, 44)
    with torch.no_grad():
        latents = encode_video(model, videos)
        assert torch.equal(latents, model.encode(videos).latents)
        assert torch.equal(decode_latents(model, latents), model.decode(latents).sample)


def test_checkpointed_gradients_are_the_plain_ones() -> None:
    model, videos = tiny_autoencoder_triplane(), some_videos()
    gradients = []
    for is_checkpointed in (False, True):
        (model.enable_gradient_checkpointing if is_checkpointed else model.disable_gradient_checkpointing)()
        model.zero_grad()
        (model(videos).sample - videos).abs().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients[0].values())
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_every_option_comes_back_and_saved_weights_are_equal(tmp_path: Path) -> None:
    model = AutoencoderTriplane(**ALL_OPTIONS)
    assert set(ALL_OPTIONS) == model._get_init_keys(type(model)) - {"self"}
    model.save_pretrained(tmp_path)
    for loaded in (AutoencoderTriplane.from_pretrained(tmp_path), AutoModel.from_pretrained(str(tmp_path))):
        assert type(loaded) is AutoencoderTriplane
        for name, value in ALL_OPTIONS.items():
            assert loaded.config[name] == (list(value) if isinstance(value, tuple) else value), name
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name


def test_it_follows_attention_backends() -> None:
    model, videos = tiny_autoencoder_triplane(), some_videos()
    with torch.no_grad():
        want = model(videos).sample
        model.set_attention_backend("_native_math")
        torch.testing.assert_close(model(videos).sample, want)


@pytest.mark.slow
def test_it_compiles_without_a_break() -> None:
    model, videos = tiny_autoencoder_triplane(num_layers=1, plane_num_layers=1), some_videos()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(videos).sample, model(videos).sample)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_size": 9}, "`sample_size` must be one multiple of `patch_size`=2 or two"),
        ({"sample_size": (8, 8, 8)}, "`sample_size` must be .* but is"),
        ({"sample_size": (8, 0)}, "`sample_size` must be"),
        ({"num_frames": 0}, "`num_frames` must be at least 1, but is 0"),
        ({"patch_size": 0}, "`patch_size` must be at least 1"),
        ({"latent_channels": 0}, "`latent_channels` must be at least 1"),
        ({"num_layers": 0}, "`num_layers` must be at least 1"),
        ({"plane_num_layers": 0}, "`plane_num_layers` must be at least 1"),
        ({"hidden_size": 4}, "`plane_attention_head_dim` must be at least 1"),
        ({"attention_head_dim": 6}, "`attention_head_dim` must be a multiple of 4, but is 6"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_autoencoder_triplane(**options)


def test_bad_inputs_are_refused() -> None:
    model = tiny_autoencoder_triplane()
    with pytest.raises(ValueError, match=r"`x` must have the shape \(batch_size, 3, num_frames, height, width\)"):
        model.encode(torch.zeros(2, 3, 8, 12))
    with pytest.raises(ValueError, match=r"`num_frames` must be a multiple of 1 in \[1, 2\], but is 3"):
        model.encode(some_videos(size=(3, 8, 12)))
    with pytest.raises(ValueError, match=r"`height` must be a multiple of 2 in \[1, 8\], but is 10"):
        model.latents_shape(2, 10, 12)
    with pytest.raises(ValueError, match="`width` must be a multiple of 2 .* but is 5"):
        model.latent_size_of(2, 8, 5)
    with pytest.raises(ValueError, match=r"`z` must have the shape \(batch_size, 2, 44\) for latents of 2 frames"):
        model.decode(torch.zeros(1, 2, 43))
    with pytest.raises(ValueError, match="Pass the `latent_size`"):
        model.decode(some_latents(), latent_size=(1, 4, 6))
