from collections.abc import Callable

import pytest
import torch

from diffusers_video.layers.time_mixer import TimeMixer, add_residual, blend


@pytest.mark.parametrize("strategy", ["fixed", "learned", "learned_with_images"])
def test_blend_equals_stable_video_diffusions(load_golden: Callable, strategy: str) -> None:
    tensors = load_golden("videoldm_svd_alpha_blender").tensors
    mixer = TimeMixer("fixed" if strategy == "fixed" else "learned")
    mixer.load_state_dict({"mix_factor": tensors[f"weights.attn_{strategy}.mix_factor"]})
    image_only = tensors["inputs.image_only_indicator"].bool() if strategy == "learned_with_images" else None
    # The golden's rows are frames of 3-D tokens; its 5-D tensors are (B, C, F, H, W).
    spatial, temporal = (tensors[f"inputs.x_{name}_3d"].unflatten(0, (2, 4)) for name in ("spatial", "temporal"))
    got = blend(spatial, temporal, mixer(spatial, image_only))
    torch.testing.assert_close(got.flatten(0, 1), tensors[f"outputs.attn_{strategy}"], atol=2e-5, rtol=0)
    spatial, temporal = (tensors[f"inputs.x_{name}_5d"].transpose(1, 2) for name in ("spatial", "temporal"))
    mixer.load_state_dict({"mix_factor": tensors[f"weights.res_{strategy}.mix_factor"]})
    got = add_residual(spatial, temporal - spatial, mixer(spatial, image_only))
    torch.testing.assert_close(got.transpose(1, 2), tensors[f"outputs.res_{strategy}"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("mixing", ["learned", "fixed", "residual"])
@pytest.mark.parametrize("mix_factor", [-3.0, 0.5, 0.7, 6.0])
def test_equal_inputs_come_out_unchanged_to_the_bit(mixing: str, mix_factor: float) -> None:
    spatial = torch.randn(2, 3, 64, 16) * 100
    weight = TimeMixer(mixing, mix_factor)(spatial)
    assert torch.equal(blend(spatial, spatial.clone(), weight), spatial)


def test_image_frames_keep_the_spatial_features_in_every_mixing() -> None:
    spatial, temporal = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    image_only = torch.tensor([[True, False, False], [True, True, True]])
    for mixing in ("learned", "fixed", "residual"):
        mixed = blend(spatial, temporal, TimeMixer(mixing)(spatial, image_only))
        assert torch.equal(mixed[image_only], spatial[image_only])
        assert not torch.isclose(mixed[~image_only], spatial[~image_only]).any()


def test_residual_mixing_takes_the_whole_temporal_path() -> None:
    spatial, temporal = torch.randn(1, 3, 5, 4), torch.randn(1, 3, 5, 4)
    torch.testing.assert_close(blend(spatial, temporal, TimeMixer("residual")(spatial)), temporal)


def test_an_unknown_mixing_is_refused() -> None:
    with pytest.raises(ValueError, match="`mixing` must be one of .* but is 'mean'"):
        TimeMixer("mean")
