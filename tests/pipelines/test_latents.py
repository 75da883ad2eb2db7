"""Encoding and decoding by autoencoders of images, frame by frame, and of videos."""

from types import SimpleNamespace

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from diffusers_video import TextToVideoPipeline
from diffusers_video.pipelines.latents import (
    decode_latents,
    encode_video,
    latents_shape,
    scale_latents,
    unscale_latents,
    vae_scale_factor,
)

from ..tiny_pipelines import tiny_text_to_video, tiny_vae, tiny_vae_without_posterior


class PooledVideoAutoencoder(nn.Module):
    """An autoencoder of videos after the protocol: it averages two frames and four pixels, and repeats them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.config = FrozenDict({"scaling_factor": 0.5, "block_out_channels": [1, 1], "in_channels": 3})
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        return (4, num_frames // 2, height // 2, width // 2)

    def encode(self, video: Tensor) -> SimpleNamespace:
        mean = nn.functional.avg_pool3d(video, 2)
        mean = torch.cat([mean, mean[:, :1]], dim=1)
        return SimpleNamespace(latent_dist=DiagonalGaussianDistribution(torch.cat([mean, mean - 50], dim=1)))

    def decode(self, latents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(
            sample=latents[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
        )


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_frames_are_encoded_and_decoded_as_images() -> None:
    vae = tiny_vae()
    video = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = encode_video(vae, video, seeded(0, 1))
        frames = decode_latents(vae, latents)
        want = vae.decode(latents[1, :, 2][None] / vae.config.scaling_factor).sample
        posterior = vae.encode(video[1].transpose(0, 1)).latent_dist
    assert latents.shape == (2, *latents_shape(vae, 3, 16, 16)) and frames.shape == video.shape
    torch.testing.assert_close(frames[1, :, 2], want[0])
    drawn = posterior.sample(seeded(1)[0]) * vae.config.scaling_factor
    torch.testing.assert_close(latents[1].transpose(0, 1), drawn)


@pytest.mark.parametrize("chunk_size", [1, 2, 7])
@pytest.mark.parametrize("make", [tiny_vae, tiny_vae_without_posterior])
def test_chunks_change_nothing(make, chunk_size: int) -> None:
    vae = make().double()
    video = torch.rand(2, 3, 3, 16, 16, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        whole = encode_video(vae, video, seeded(0, 1))
        parts = encode_video(vae, video, seeded(0, 1), chunk_size)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            decode_latents(vae, whole, chunk_size), decode_latents(vae, whole), rtol=0, atol=1e-6
        )


def test_no_more_frames_than_a_chunk_are_decoded_at_once() -> None:
    vae, sizes = tiny_vae(), []
    vae.decoder.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    with torch.no_grad():
        decode_latents(vae, torch.zeros(2, 4, 5, 8, 8), 4)
        decode_latents(vae, torch.zeros(1, 4, 18, 2, 2))
    assert sizes == [4, 4, 2, 16, 2]


def test_an_autoencoder_of_videos_is_given_whole_videos() -> None:
    vae = PooledVideoAutoencoder()
    video = torch.rand(2, 3, 4, 8, 8)
    latents = encode_video(vae, video, seeded(0, 1))
    assert latents.shape == (2, *latents_shape(vae, 4, 8, 8)) == (2, 4, 2, 4, 4)
    torch.testing.assert_close(decode_latents(vae, latents)[:, :, ::2, ::2, ::2], nn.functional.avg_pool3d(video, 2))


def test_a_pipeline_runs_on_an_autoencoder_of_videos() -> None:
    parts = {**tiny_text_to_video().components, "vae": None}
    pipeline = TextToVideoPipeline(**parts, num_frames=4)
    pipeline.vae, pipeline.vae_scale_factor = PooledVideoAutoencoder(), 2
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 2, "output_type": "pt", "height": 16, "width": 16}
    frames = pipeline("a", **arguments).frames
    assert frames.shape == (1, 4, 3, 16, 16)
    assert pipeline("a", video=frames, strength=0.5, **arguments).frames.shape == frames.shape
    with pytest.raises(ValueError, match="`decode_chunk_size` has no effect on an autoencoder of videos"):
        pipeline("a", decode_chunk_size=2, **arguments)


def test_latents_scaled_and_unscaled_are_as_before() -> None:
    vae = tiny_vae()
    latents = torch.randn(2, 4, 3, 8, 8)
    for statistics in ({}, {"shift_factor": 0.3}, {"latents_mean": [0.1] * 4, "latents_std": [2.0, 1.0, 0.5, 3.0]}):
        vae.register_to_config(**statistics)
        torch.testing.assert_close(unscale_latents(vae, scale_latents(vae, latents)), latents)
        assert not torch.allclose(scale_latents(vae, latents), latents)


def test_the_scale_factor_counts_the_downsamplings() -> None:
    assert vae_scale_factor(tiny_vae()) == vae_scale_factor(tiny_vae_without_posterior()) == 2
    assert vae_scale_factor(None) == 8
