"""Clips and captions become what the pipeline works on."""

import pytest
import torch

from diffusers_video.pipelines.latents import encode_video
from diffusers_video.training.encoding import (
    encode_captions,
    encode_empty_caption,
    encode_posterior,
    encoding_identity,
    sample_latents,
)

from ..tiny_pipelines import tiny_text_to_video, tiny_vae, tiny_vae_without_posterior


def test_mode_is_the_mean_of_each_frame_times_the_scaling_factor() -> None:
    vae, videos = tiny_vae(), torch.rand(2, 3, 5, 16, 16) * 2 - 1
    mean, std = encode_posterior(vae, videos, frames_at_once=4)
    with torch.no_grad():
        for frame in range(5):
            posterior = vae.encode(videos[:, :, frame]).latent_dist
            torch.testing.assert_close(mean[:, :, frame], posterior.mode() * vae.config.scaling_factor)
            torch.testing.assert_close(std[:, :, frame], posterior.std * vae.config.scaling_factor)
    assert torch.equal(sample_latents(mean, std, "mode", torch.Generator()), mean)


def test_samples_have_the_mean_and_spread_of_the_posterior() -> None:
    mean, std = torch.full((1, 1, 1, 200, 200), 3.0), torch.full((1, 1, 1, 200, 200), 0.5)
    sample = sample_latents(mean, std, "sample", torch.Generator().manual_seed(0))
    assert sample.mean().item() == pytest.approx(3.0, abs=0.02) and sample.std().item() == pytest.approx(0.5, abs=0.02)


def test_autoencoder_without_posterior_has_no_spread() -> None:
    vae, videos = tiny_vae_without_posterior(), torch.rand(1, 3, 2, 16, 16)
    mean, std = encode_posterior(vae, videos)
    assert not std.any()
    with torch.no_grad():
        torch.testing.assert_close(mean, encode_video(vae, videos))


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_captions_are_encoded_as_prompts_and_negative_prompts(family: str) -> None:
    pipeline = tiny_text_to_video(family)
    positive, negative, pooled, negative_pooled = pipeline.encode_prompt("a red circle")
    encoded, empty = encode_captions(pipeline, ["a red circle", "b"]), encode_empty_caption(pipeline)
    torch.testing.assert_close(encoded["prompt_embeds"][:1], positive)
    torch.testing.assert_close(empty["prompt_embeds"], negative)
    if family == "sdxl":
        torch.testing.assert_close(encoded["pooled_prompt_embeds"][:1], pooled)
        torch.testing.assert_close(empty["pooled_prompt_embeds"], negative_pooled)


def test_identity_changes_with_the_weights() -> None:
    pipeline = tiny_text_to_video()
    before = encoding_identity(pipeline)
    with torch.no_grad():
        pipeline.vae.encoder.conv_in.bias[0] += 1e-3
    after = encoding_identity(pipeline)
    assert before["vae"] != after["vae"] and before["text_encoder"] == after["text_encoder"]
