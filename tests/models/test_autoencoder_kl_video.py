"""The video autoencoder: a new one equals the image model, its latents stay, and chunks are part of the result."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, AutoModel, DiffusionPipeline
from diffusers.models.attention import FeedForward
from torch import Tensor

from diffusers_video import AutoencoderKLVideo, TextToVideoPipeline
from diffusers_video.layers.layout import images_to_videos, videos_to_images
from diffusers_video.layers.temporal_attention import TemporalAttention
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.pipelines.latents import decode_latents, encode_video, is_video_autoencoder, latents_shape

from ..tiny_models import shake_temporal_layers
from ..tiny_pipelines import tiny_text_to_video, tiny_vae


COMMIT = "0123456789abcdef0123456789abcdef01234567"
OPTIONS = {
    "conv": {},
    "attention": {"temporal_attention": "full", "mixing": "residual"},
    "causal": {"temporal_attention": "causal", "temporal_conv": False, "temporal_conv_out": False},
    "conv_out": {"temporal_conv": False, "mixing": "fixed"},
    "videovae": {"preset": "videovae"},
    "low up block": {"preset": "videovae", "temporal_attention_blocks": ("up",)},
}
CAUSAL = {"causal", "videovae", "low up block"}


def video_vae(**options: object) -> AutoencoderKLVideo:
    """A video autoencoder whose temporal layers do something."""
    return shake_temporal_layers(AutoencoderKLVideo.from_autoencoder_kl(tiny_vae(), **options))


def some_video(batch_size: int = 2, num_frames: int = 3, size: int = 16) -> Tensor:
    return torch.rand(batch_size, 3, num_frames, size, size) * 2 - 1


def some_latents(num_frames: int, batch_size: int = 1, size: int = 8) -> Tensor:
    return torch.randn(batch_size, 4, num_frames, size, size)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_new_model_equals_the_image_model_bit_for_bit(options: dict[str, object]) -> None:
    vae = tiny_vae()
    video_vae = AutoencoderKLVideo.from_autoencoder_kl(vae, **options)
    video = some_video()
    with torch.no_grad():
        got, want = video_vae.encode(video).latent_dist, vae.encode(videos_to_images(video)).latent_dist
        assert torch.equal(videos_to_images(got.parameters), want.parameters)
        frames = video_vae.decode(got.mode()).sample
        assert torch.equal(videos_to_images(frames), vae.decode(want.mode()).sample)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_trained_temporal_layers_mix_frames_and_leave_the_latents(options: dict[str, object]) -> None:
    vae, plain = video_vae(**options), tiny_vae()
    video = some_video()
    with torch.no_grad():
        assert torch.equal(
            videos_to_images(vae.encode(video).latent_dist.parameters),
            AutoencoderKL.encode(image_model_of(vae, plain), videos_to_images(video)).latent_dist.parameters,
        )
        latents = some_latents(4, 2)
        changed = latents.clone()
        changed[:, :, 3] += 1
        before, after = vae.decode(latents).sample, vae.decode(changed).sample
    touched = [not torch.equal(before[:, :, frame], after[:, :, frame]) for frame in range(4)]
    name = next(name for name, value in OPTIONS.items() if value == options)
    earlier = [False] * 3 if name in CAUSAL else [False, False, True] if name == "conv_out" else [True] * 3
    assert touched == [*earlier, True]


def image_model_of(vae: AutoencoderKLVideo, plain: AutoencoderKL) -> AutoencoderKL:
    plain.load_state_dict({name: value for name, value in vae.state_dict().items() if not is_temporal(name)})
    return plain


def test_names_and_weights_of_the_image_model_stay() -> None:
    vae = tiny_vae()
    before = copy.deepcopy(vae.state_dict())
    after = AutoencoderKLVideo.from_autoencoder_kl(vae).state_dict()
    assert {name for name in after if not is_temporal(name)} == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(vae.state_dict()[name], value) for name, value in before.items())
    assert not any(is_temporal(name) for name in after if name.startswith(("encoder", "quant_conv")))


def test_every_option_of_both_classes_comes_back(tmp_path: Path) -> None:
    options = {
        "temporal_attention": "causal",
        "temporal_attention_blocks": ["up"],
        "temporal_feed_forward": False,
        "temporal_max_distance": 2,
        "temporal_conv_out": False,
        "mixing": "residual",
        "temporal_norm_eps": 1e-4,
        "decode_chunk_size": 5,
        "decode_chunk_overlap": 2,
    }
    vae = AutoencoderKL(norm_num_groups=4, block_out_channels=(8,), scaling_factor=0.3, shift_factor=0.1)
    vae = AutoencoderKLVideo.from_autoencoder_kl(vae, **options)
    vae.save_pretrained(tmp_path)
    loaded = AutoencoderKLVideo.from_pretrained(tmp_path)
    for name, value in {**options, "scaling_factor": 0.3, "shift_factor": 0.1, "block_out_channels": [8]}.items():
        assert loaded.config[name] == value
    assert loaded.scaling_factor == 0.3 and loaded.temporal_options == {**options, "temporal_conv": True}


def test_saved_and_loaded_it_decodes_the_same(tmp_path: Path) -> None:
    vae, latents = video_vae(temporal_attention="full"), some_latents(3)
    vae.save_pretrained(tmp_path)
    other = AutoencoderKLVideo.from_autoencoder_kl(image_model_of(vae, tiny_vae()), temporal_attention="full")
    vae.save_temporal_layers(tmp_path / "temporal.safetensors")
    assert other.load_temporal_layers(tmp_path / "temporal.safetensors").is_complete
    with torch.no_grad():
        want = vae.decode(latents).sample
        assert torch.equal(AutoencoderKLVideo.from_pretrained(tmp_path).decode(latents).sample, want)
        assert torch.equal(other.eval().decode(latents).sample, want)


def test_every_loader_of_diffusers_finds_the_class(tmp_path: Path) -> None:
    components = {**tiny_text_to_video().components, "vae": video_vae()}
    folder = tmp_path / "models--user--clips" / "snapshots" / COMMIT  # the download cache of a repository
    TextToVideoPipeline(**components).save_pretrained(folder)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text(COMMIT)
    models = [
        AutoModel.from_pretrained(str(folder / "vae")),
        AutoModel.from_pretrained(str(folder), subfolder="vae"),
        AutoModel.from_pretrained("user/clips", subfolder="vae", cache_dir=tmp_path),
        AutoencoderKLVideo.from_pretrained("user/clips", subfolder="vae", cache_dir=tmp_path),
        DiffusionPipeline.from_pretrained(folder).vae,
    ]
    latents = some_latents(3)
    with torch.no_grad():
        want = components["vae"].decode(latents).sample
        for model in models:
            assert type(model) is AutoencoderKLVideo and torch.equal(model.decode(latents).sample, want)


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_any_number_of_frames_and_any_size(num_frames: int) -> None:
    vae = video_vae()
    with torch.no_grad():
        posterior = vae.encode(torch.zeros(1, 3, num_frames, 12, 20)).latent_dist
        sample = posterior.sample()
        assert sample.shape[1:] == vae.latents_shape(num_frames, 12, 20) == (4, num_frames, 6, 10)
        assert vae.decode(sample).sample.shape == (1, 3, num_frames, 12, 20)
        assert vae(torch.zeros(1, 3, num_frames, 12, 20)).sample.shape == (1, 3, num_frames, 12, 20)


def test_chunks_are_windows_that_fade_into_each_other() -> None:
    vae, latents = video_vae(decode_chunk_size=4, decode_chunk_overlap=1), some_latents(7)
    with torch.no_grad():
        frames = vae.decode(latents).sample
        first, second = vae.decode(latents[:, :, :4]).sample, vae.decode(latents[:, :, 3:]).sample
    assert torch.equal(frames[:, :, :3], first[:, :, :3]) and torch.equal(frames[:, :, 4:], second[:, :, 1:])
    torch.testing.assert_close(frames[:, :, 3], (first[:, :, 3] + second[:, :, 0]) / 2)
    vae.register_to_config(decode_chunk_size=None)
    with torch.no_grad():
        assert not torch.equal(vae.decode(latents).sample, frames)


def test_chunks_change_nothing_without_mixing() -> None:
    vae, latents = AutoencoderKLVideo.from_autoencoder_kl(tiny_vae()).double(), some_latents(9).double()
    with torch.no_grad():
        whole = vae.decode(latents).sample
        vae.register_to_config(decode_chunk_size=4, decode_chunk_overlap=2)
        torch.testing.assert_close(vae.decode(latents).sample, whole)


def test_no_more_frames_than_a_chunk_are_held_at_once() -> None:
    vae, sizes = video_vae(decode_chunk_size=4, decode_chunk_overlap=1), []
    vae.decoder.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    vae.encoder.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    vae.enable_slicing()
    with torch.no_grad():
        vae.decode(some_latents(8, 2))
        vae.disable_slicing()
        vae.encode(some_video(1, 20))
    assert sizes == [4, 4, 4, 4, 4, 4, 16, 4]


def test_slices_are_videos() -> None:
    vae, latents, video = video_vae().double(), some_latents(3, 2).double(), some_video().double()
    with torch.no_grad():
        whole, posterior = vae.decode(latents).sample, vae.encode(video).latent_dist
        vae.enable_slicing()
        torch.testing.assert_close(vae.decode(latents).sample, whole)
        torch.testing.assert_close(vae.encode(video).latent_dist.mean, posterior.mean)


def test_tiles_of_a_local_decoder_join_to_the_whole() -> None:
    vae, latents, sizes = video_vae(), torch.randn(1, 4, 3, 20, 28), []

    def enlarge(_: object, arguments: tuple, output: Tensor) -> Tensor:
        sizes.append(tuple(arguments[0].shape))
        return torch.nn.functional.interpolate(arguments[0][:, :3], scale_factor=2)

    vae.decoder.register_forward_hook(enlarge)
    with torch.no_grad():
        whole = vae.decode(latents).sample
        vae.enable_tiling()
        tiled = vae.decode(latents).sample
    assert sizes[0] == (3, 4, 20, 28) and set(sizes[1:]) == {(3, 4, 8, 8)} and len(sizes) == 1 + 3 * 5
    torch.testing.assert_close(tiled, whole)


def test_tiled_decode_is_decode_with_tiling() -> None:
    vae, latents = video_vae(), some_latents(3, size=12)
    with torch.no_grad():
        tiled = vae.tiled_decode(latents).sample
        assert not vae.use_tiling and not torch.equal(tiled, vae.decode(latents).sample)
        vae.enable_tiling()
        assert torch.equal(tiled, vae.decode(latents).sample)


def test_tiled_encoding_is_that_of_the_image_model() -> None:
    vae = tiny_vae()
    video_vae, video = AutoencoderKLVideo.from_autoencoder_kl(vae), some_video(1, 2, 32)
    vae.enable_tiling()
    with torch.no_grad():
        got = video_vae.tiled_encode(video).latent_dist.parameters
        want = vae.encode(videos_to_images(video)).latent_dist.parameters
    assert torch.equal(got, images_to_videos(want, 2)) and not video_vae.use_tiling


@pytest.mark.parametrize("options", [{"temporal_attention": "full"}, {"preset": "videovae"}])
def test_gradients_reach_the_temporal_layers_and_no_others(options: dict[str, object]) -> None:
    vae = AutoencoderKLVideo.from_autoencoder_kl(tiny_vae(), **options).train()
    vae.freeze_spatial_layers()
    optimizer = torch.optim.SGD(vae.temporal_parameters(), lr=1e-3)
    for _ in range(2):  # behind zero projections there are no gradients at first
        optimizer.zero_grad()
        vae(some_video()).sample.square().mean().backward()
        optimizer.step()
    without = [name for name, parameter in vae.named_parameters() if (parameter.grad is None) == is_temporal(name)]
    assert not without
    assert all(parameter.grad.abs().max() > 0 for parameter in vae.temporal_parameters())


@pytest.mark.parametrize("options", [{"temporal_attention": "full"}, {"preset": "videovae"}])
def test_gradient_checkpointing_changes_no_gradient(options: dict[str, object]) -> None:
    video, model, gradients = some_video(), video_vae(**options).train(), []
    for is_checkpointed in (False, True):
        vae = copy.deepcopy(model)
        if is_checkpointed:
            vae.enable_gradient_checkpointing()
        vae(video).sample.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in vae.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_channels_last_and_half_precision_run() -> None:
    vae, latents = video_vae(temporal_attention="causal"), some_latents(3)
    with torch.no_grad():
        want = vae.decode(latents).sample
        torch.testing.assert_close(vae.to(memory_format=torch.channels_last).decode(latents).sample, want)
        half = vae.to(torch.bfloat16).decode(latents.bfloat16()).sample
    assert half.dtype == torch.bfloat16 and (half - want).abs().mean() < 0.05 * want.abs().mean()


def test_functions_of_pipelines_know_it() -> None:
    vae, video = video_vae(), some_video()
    assert is_video_autoencoder(vae) and latents_shape(vae, 3, 16, 16) == (4, 3, 8, 8)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    with torch.no_grad():
        latents = encode_video(vae, video, generators)
        want = vae.encode(video[1:]).latent_dist.sample(torch.Generator().manual_seed(1)) * vae.scaling_factor
        torch.testing.assert_close(latents[1:], want)
        torch.testing.assert_close(decode_latents(vae, latents), vae.decode(latents / vae.scaling_factor).sample)


def test_it_swaps_into_a_pipeline(tmp_path: Path) -> None:
    pipeline = tiny_text_to_video()
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"num_frames": 3, "num_inference_steps": 2, "output_type": "pt", "height": 16, "width": 16}
    draw = lambda pipe: pipe("a", generator=torch.Generator().manual_seed(0), **arguments).frames  # noqa: E731
    want = draw(pipeline)
    image_vae = pipeline.vae
    pipeline = TextToVideoPipeline(**{**pipeline.components, "vae": AutoencoderKLVideo.from_autoencoder_kl(image_vae)})
    pipeline.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(pipeline), want)
    shake_temporal_layers(pipeline.vae)
    changed = draw(pipeline)
    assert not torch.allclose(changed, want)
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.vae) is AutoencoderKLVideo and torch.equal(draw(loaded), changed)
    with pytest.raises(ValueError, match="`decode_chunk_size` has no effect on an autoencoder of videos"):
        loaded("a", decode_chunk_size=2, **arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temporal_attention": "some"}, ValueError, "`temporal_attention` must be one of"),
        ({"mixing": "none"}, ValueError, "`mixing` must be one of"),
        ({"preset": "light"}, ValueError, "`preset` must be one of"),
        ({"temporal_attention_blocks": ("down",)}, ValueError, "`temporal_attention_blocks` must be one of"),
        ({"preset": "videovae", "temporal_attention_blocks": ()}, ValueError, "must name a block where there is"),
        ({"temporal_max_distance": 0, "temporal_attention": "full"}, ValueError, "`temporal_max_distance` must be"),
        ({"temporal_max_distance": 2}, ValueError, "needs `temporal_attention`"),
        ({"decode_chunk_size": 0}, ValueError, "`decode_chunk_size` must be at least 1, but is 0"),
        ({"decode_chunk_size": 4}, ValueError, "`decode_chunk_overlap` must be .* below `decode_chunk_size`=4"),
        ({"decode_chunk_overlap": -1}, ValueError, "`decode_chunk_overlap` must be at least 0"),
        ({"temporal_conv": False, "temporal_conv_out": False}, ValueError, "all are off"),
        ({"temporal_convolution": True}, TypeError, "`temporal_convolution` is no option"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AutoencoderKLVideo.from_autoencoder_kl(tiny_vae(), **options)


@torch.no_grad()
def test_a_middle_block_without_attention_has_it_behind_its_last_residual_block() -> None:
    vae = AutoencoderKL(norm_num_groups=4, block_out_channels=(8,), mid_block_add_attention=False).eval()
    video_vae, latents = AutoencoderKLVideo.from_autoencoder_kl(vae, "videovae"), some_latents(3)
    names = {name.partition(".temporal_attention.")[0] for name in video_vae.state_dict() if is_temporal(name)}
    assert names == {"decoder.mid_block.resnets.1", "decoder.up_blocks.0.resnets.1"}
    assert torch.equal(
        videos_to_images(video_vae.decode(latents).sample), vae.decode(videos_to_images(latents)).sample
    )
    before = shake_temporal_layers(video_vae).decode(latents).sample
    latents[:, :, 1] += 1
    changed = (video_vae.decode(latents).sample != before).flatten(3).any(3).any(1)[0]
    assert changed.tolist() == [False, True, True]


def test_the_preset_has_attention_over_time_at_two_places_and_nothing_else() -> None:
    vae = video_vae(preset="videovae")
    names = {name for name, module in vae.named_modules() if isinstance(module, TemporalAttention)}
    places = ("mid_block.attentions.0", "up_blocks.0.resnets.1.temporal_attention")
    assert names == {f"decoder.{one}.temporal_transformer_blocks.0.attn{n}" for one in places for n in (1, 2)}
    assert not any(isinstance(module, torch.nn.Conv3d) for module in vae.modules())
    assert not any(isinstance(module, FeedForward) for module in vae.modules())


@pytest.mark.parametrize(("size", "overlap"), [(4, 2), (3, 0), (5, 4)])
@torch.no_grad()
def test_chunks_of_a_causal_decoder_are_causal_and_begin_as_the_whole(size: int, overlap: int) -> None:
    vae = video_vae(preset="videovae", decode_chunk_size=size, decode_chunk_overlap=overlap).double()
    latents = some_latents(9).double()
    frames = vae.decode(latents).sample
    for place in (1, 5, 8):
        changed = latents.clone()
        changed[:, :, place] += 1
        touched = (vae.decode(changed).sample != frames).flatten(3).any(3).any(1)[0]
        assert not touched[:place].any() and touched[place]
    vae.register_to_config(decode_chunk_size=None, decode_chunk_overlap=0)
    whole, step = vae.decode(latents).sample, size - overlap
    torch.testing.assert_close(frames[:, :, :step], whole[:, :, :step])
    assert not torch.allclose(frames[:, :, size:], whole[:, :, size:])  # later chunks know less of what came before
    vae.register_to_config(temporal_attention="full")
    assert not torch.allclose(vae.decode(latents[:, :, :size]).sample[:, :, 0], vae.decode(latents).sample[:, :, 0])


def test_bad_inputs_are_refused() -> None:
    vae = video_vae()
    with pytest.raises(ValueError, match=r"`x` must have the shape \(batch_size, 3, num_frames, height, width\)"):
        vae.encode(torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match=r"`z` must have the shape .* but has shape \(1, 3, 2, 8, 8\)"):
        vae.decode(torch.zeros(1, 3, 2, 8, 8))
    vae.register_to_config(decode_chunk_size=2)
    with pytest.raises(ValueError, match="`decode_chunk_overlap` must be"):
        vae.decode(some_latents(3))


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="`vae` must be a `AutoencoderKL`, but is a `AutoencoderTiny`"):
        AutoencoderKLVideo.from_autoencoder_kl(AutoencoderTiny())
    with pytest.raises(TypeError, match="but is a `AutoencoderKLVideo`"):
        AutoencoderKLVideo.from_autoencoder_kl(video_vae())
    tiny_vae().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must hold a video model.*from_autoencoder_kl"):
        AutoencoderKLVideo.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be read from a single file.*from_autoencoder_kl"):
        AutoencoderKLVideo.from_single_file("model.safetensors")
