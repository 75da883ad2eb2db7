"""Feature networks: random ones, and any callable."""

import pytest
import torch
from torch import Tensor

from diffusers_video.metrics.feature_networks import FeatureNetwork, random_features
from diffusers_video.metrics.kernel import polynomial_kernel_distance
from diffusers_video.metrics.random_network import RandomVideoFeatures


def moving_squares(count: int, speed: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for _ in range(count):
        clip = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
        top, left = torch.randint(0, 12, (2,), generator=generator).tolist()
        for frame in range(8):
            column = (left + speed * frame) % 12
            clip[frame, :, top : top + 4, column : column + 4] = 255
        clips.append(clip)
    return clips


def test_equal_seeds_give_equal_features_and_others_do_not() -> None:
    clips = moving_squares(2, 1, 0)
    assert torch.equal(random_features(3)(clips), random_features(3)(clips))
    assert not torch.allclose(random_features(3)(clips), random_features(4)(clips))


def test_distances_on_random_features_see_motion() -> None:
    network = random_features(0, 16)
    still, moving, again = (network(moving_squares(100, speed, seed)) for speed, seed in ((0, 0), (2, 1), (2, 2)))
    assert polynomial_kernel_distance(still, moving) > 10 * abs(polynomial_kernel_distance(again, moving))


def test_results_say_that_random_features_are_not_fvd() -> None:
    network = random_features(5)
    assert not network.is_fvd and "not FVD" in network.name
    assert network.describe()["seed"] == 5 and network.describe()["weights_sha256"] is None


def test_any_callable_is_a_network_and_gets_what_it_asks_for() -> None:
    seen = []

    def function(videos: Tensor) -> Tensor:
        seen.append(videos)
        return videos.mean((2, 3, 4))

    clips = [torch.randint(0, 256, (4, 3, 10, 14), dtype=torch.uint8) for _ in range(2)]
    FeatureNetwork(name="mean colour", function=function, size=6)(clips, "crop")
    FeatureNetwork(name="mean colour", function=function, takes_pixels=True)(clips)
    assert [tuple(videos.shape) for videos in seen] == [(2, 3, 4, 6, 6), (2, 3, 4, 10, 14)]
    torch.testing.assert_close(seen[1], torch.stack(clips).transpose(1, 2).float(), rtol=0, atol=1e-4)
    assert seen[0].min() >= -1 and seen[0].max() <= 1


@pytest.mark.parametrize("function", [lambda videos: videos, lambda videos: videos.mean(), lambda videos: None])
def test_a_function_that_returns_no_vectors_is_refused(function: object) -> None:
    network = FeatureNetwork(name="odd", function=function)
    with pytest.raises(ValueError, match="`function` of 'odd' must return one vector per clip"):
        network([torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])


def test_bad_input_of_random_features_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_features` must be from 1 to 224"):
        RandomVideoFeatures(num_features=225)
    with pytest.raises(ValueError, match="sides of at least 8 pixels"):
        RandomVideoFeatures()(torch.zeros(1, 3, 4, 4, 16))
