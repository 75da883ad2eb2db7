import pytest

from diffusers_video.layers.clip import get_frame_visibility


def test_no_limit_needs_no_mask() -> None:
    assert get_frame_visibility(5, is_causal=False, max_distance=None, device="cpu") is None


@pytest.mark.parametrize(("num_frames", "is_needed"), [(9, False), (10, True)])
def test_a_clip_within_the_distance_needs_no_mask(num_frames: int, is_needed: bool) -> None:
    visibility = get_frame_visibility(num_frames, is_causal=False, max_distance=8, device="cpu")
    assert (visibility is not None) == is_needed


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("max_distance", [None, 1, 2, 9])
def test_visibility_follows_its_definition(is_causal: bool, max_distance: int | None) -> None:
    visibility = get_frame_visibility(5, is_causal=is_causal, max_distance=max_distance, device="cpu")
    for i in range(5):
        for j in range(5):
            is_near = max_distance is None or abs(i - j) <= max_distance
            is_seen = is_near and (j <= i or not is_causal)
            assert visibility is None or bool(visibility[i, j]) == is_seen
            assert visibility is not None or is_seen
