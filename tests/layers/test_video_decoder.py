"""The layers of the temporal decoder against Stable Video Diffusion's."""

import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder
from torch import Tensor

from diffusers_video.layers.clip import Clip, get_frame_visibility
from diffusers_video.layers.layout import images_to_videos, videos_to_images
from diffusers_video.layers.video_decoder import VideoDecoder, make_video_decoder
from diffusers_video.layers.video_layers import TemporalOptions


NAMES = {  # of the reference, and where our decoder has them
    "res.": "mid_block.resnets.0.",
    "time_stack.in_layers.0": "temporal_res_block.norm1",
    "time_stack.in_layers.2": "temporal_res_block.conv1",
    "time_stack.out_layers.0": "temporal_res_block.norm2",
    "time_stack.out_layers.3": "temporal_res_block.conv2",
    "attn.": "mid_block.attentions.0.",
    "attentions.0.q.": "attentions.0.to_q.",
    "attentions.0.k.": "attentions.0.to_k.",
    "attentions.0.v.": "attentions.0.to_v.",
    "attentions.0.norm.": "attentions.0.group_norm.",
    "proj_out": "to_out.0",
    "time_mix_block": "temporal_transformer_blocks.0",
    "video_time_embed.0": "time_pos_embed.linear_1",
    "video_time_embed.2": "time_pos_embed.linear_2",
    "mix_factor": "time_mixer.mix_factor",
    "conv.time_mix_conv": "time_conv_out",
}


def video_decoder(channels: int = 32, groups: int = 32) -> VideoDecoder:
    decoder = Decoder(block_out_channels=(channels,), up_block_types=("UpDecoderBlock2D",), norm_num_groups=groups)
    options = TemporalOptions(second_self_attention=True)
    make_video_decoder(decoder, options, has_conv_out=True)
    return decoder.eval()


@pytest.fixture(scope="module")
def reference(load_golden) -> tuple[VideoDecoder, dict[str, Tensor]]:
    decoder, tensors = video_decoder(), load_golden("videoldm_svd_temporal_ae_blocks").tensors
    shapes = {name: value.shape for name, value in decoder.state_dict().items()}
    weights = {}
    for key, tensor in tensors.items():
        if key.startswith("weights."):
            key = key.removeprefix("weights.")
            key = "conv_out." + key.removeprefix("conv.") if key in ("conv.weight", "conv.bias") else key
            for theirs, ours in NAMES.items():
                key = key.replace(theirs, ours)
            weights[key] = -tensor if key == "mid_block.resnets.0.time_mixer.mix_factor" else tensor
            weights[key] = weights[key].reshape(shapes[key])
    result = decoder.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys and len(weights) == sum(key.startswith("weights.") for key in tensors)
    return decoder, tensors


@pytest.mark.parametrize(("skip", "name"), [(False, ""), (True, "_skip")])
def test_blocks_match_those_of_stable_video_diffusion(reference, skip: bool, name: str) -> None:
    decoder, tensors = reference
    clip = Clip(None, 3, image_only=torch.full((2, 3), skip))
    with torch.no_grad():
        res = decoder.mid_block.resnets[0](tensors["inputs.x"], clip)
        attn = decoder.mid_block.attentions[0](tensors["inputs.y"], temb=clip)
        conv = decoder.conv_out(tensors["inputs.y"])
        if not skip:
            conv = videos_to_images(decoder.time_conv_out(images_to_videos(conv, 3)))
    for key, value in {"res": res, "attn": attn, "conv": conv}.items():
        torch.testing.assert_close(value, tensors[f"outputs.{key}{name}"], rtol=0, atol=2e-5)


def test_causal_attention_does_not_look_ahead() -> None:
    attention = video_decoder(8, 4).mid_block.attentions[0]
    torch.nn.init.normal_(attention.temporal_transformer_blocks[0].attn1.to_out[0].weight)
    torch.nn.init.normal_(attention.temporal_transformer_blocks[0].attn2.to_out[0].weight)
    features = torch.randn(4, 8, 3, 3)
    changed = torch.cat([features[:3], features[3:] + 1])
    for is_causal in (True, False):
        clip = Clip(
            None, 4, frame_visibility=get_frame_visibility(4, is_causal=is_causal, max_distance=None, device="cpu")
        )
        with torch.no_grad():
            same = [
                torch.equal(*pair) for pair in zip(attention(features, clip), attention(changed, clip), strict=True)
            ]
        assert same == [is_causal] * 3 + [False]
