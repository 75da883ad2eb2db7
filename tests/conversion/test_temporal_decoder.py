"""The autoencoder of Stable Video Diffusion: converted, it computes what it computed."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder

from diffusers_video.conversion.temporal_decoder import convert_temporal_decoder
from diffusers_video.layers.layout import images_to_videos, videos_to_images


def test_golden_encodes_and_decodes_as_in_diffusers(load_golden) -> None:
    golden = load_golden("videoldm_diffusers_autoencoder_kl_temporal_decoder")
    theirs = AutoencoderKLTemporalDecoder(**golden.config["constructor"]).eval()
    prefix = "weights."
    theirs.load_state_dict(
        {key.removeprefix(prefix): value for key, value in golden.tensors.items() if key.startswith(prefix)}
    )
    vae = convert_temporal_decoder(theirs)
    latents = golden.tensors["inputs.latents"]
    with torch.no_grad():
        got = {
            "decode": vae.decode(images_to_videos(latents, 3)).sample,
            "decode_single_frames": vae.decode(images_to_videos(latents, 1)).sample,
        }
        posterior = vae.encode(images_to_videos(golden.tensors["inputs.sample"], 3)).latent_dist
    got |= {"encode_mean": posterior.mean, "encode_logvar": posterior.logvar}
    for name, value in got.items():
        want = golden.tensors[f"outputs.{name}"]
        torch.testing.assert_close(videos_to_images(value), want, rtol=0, atol=2e-5)


def tiny_temporal_decoder(**options: object) -> AutoencoderKLTemporalDecoder:
    return AutoencoderKLTemporalDecoder(
        **{"block_out_channels": (32,), "layers_per_block": 2, "sample_size": 8, "scaling_factor": 0.5, **options}
    )


def test_type_mode_and_settings_are_kept() -> None:
    theirs = tiny_temporal_decoder().to(torch.float64).train()
    for name, parameter in theirs.named_parameters():
        if "mix_factor" in name:
            torch.nn.init.normal_(parameter)
    vae = convert_temporal_decoder(theirs)
    assert vae.dtype == torch.float64 and vae.training and vae.config.scaling_factor == 0.5
    latents = torch.randn(6, 4, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        want = theirs.decode(latents, num_frames=3).sample
        torch.testing.assert_close(videos_to_images(vae.decode(images_to_videos(latents, 3)).sample), want)


def test_other_models_are_refused() -> None:
    with pytest.raises(TypeError, match="must be an `AutoencoderKLTemporalDecoder`, but is a `AutoencoderKL`"):
        convert_temporal_decoder(AutoencoderKL(block_out_channels=(32,)))
    with pytest.raises(ValueError, match="must have 2 layers per block, but has 1"):
        convert_temporal_decoder(tiny_temporal_decoder(layers_per_block=1))
