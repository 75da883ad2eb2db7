"""Fixed features of clips of shapes."""

import numpy as np
import pytest

from diffusers_video.data.shapes import ShapesDataset
from diffusers_video.metrics.shapes_features import FEATURE_GROUPS, NUM_FEATURES, measure_clip


def clip_of(motion: str = "right", num_frames: int = 15, **options: object) -> tuple[ShapesDataset, np.ndarray]:
    dataset = ShapesDataset(1, seed=4, num_frames=num_frames, motions=[motion], backgrounds=["plain"], **options)
    return dataset, (dataset[0]["pixel_values"] / 2 + 0.5).permute(1, 2, 3, 0).numpy()


def test_the_path_is_that_of_the_object() -> None:
    dataset, frames = clip_of()
    item, features = dataset.scene(0).objects[0], measure_clip(frames)
    assert features.shape == (NUM_FEATURES,) and features.dtype == np.float64
    x, y = features[FEATURE_GROUPS["path"]].reshape(2, -1)
    want = [item.place(moment)[:2] for moment in np.linspace(0, 1, 8)]
    np.testing.assert_allclose(np.stack([x, y], 1), np.array(want) + 0.5, atol=0.02)


def test_size_and_colour_are_those_of_the_object() -> None:
    dataset, frames = clip_of("grows", shapes=["square"], colours=["red"])
    features = measure_clip(frames)
    sizes = features[FEATURE_GROUPS["size"]]
    item = dataset.scene(0).objects[0]
    np.testing.assert_allclose(sizes, [1.7 * item.place(moment)[2] for moment in np.linspace(0, 1, 8)], rtol=0.05)
    red, green, blue = features[FEATURE_GROUPS["colour"]].reshape(3, -1)
    assert (red > 0.85).all() and (green < 0.13).all() and (blue < 0.15).all()


def test_the_number_of_frames_does_not_matter_to_a_path() -> None:
    few, many = (measure_clip(clip_of(num_frames=count)[1]) for count in (15, 29))
    path = FEATURE_GROUPS["path"]
    np.testing.assert_allclose(few[path], many[path], atol=0.01)


def test_the_pyramid_tells_noise_rest_and_brightness_apart() -> None:
    _, frames = clip_of()
    start = FEATURE_GROUPS["pixels"].start
    noise = np.random.default_rng(0).normal(size=frames.shape) * 0.1
    plain, noisy = measure_clip(frames), measure_clip(frames + noise)
    still, brighter = measure_clip(np.repeat(frames[:1], 15, 0)), measure_clip(frames + 0.1)
    assert noisy[start] > 1.5 * plain[start]  # the finest contrast
    assert noisy[start + 3] < 1.1 * plain[start + 3]  # the coarsest
    assert (still[start + 4 : start + 8] == 0).all() and (plain[start + 4 : start + 8] > 0).all()
    np.testing.assert_allclose(brighter[-3:] - plain[-3:], 0.1)


def test_an_empty_clip_has_features() -> None:
    features = measure_clip(np.full((3, 16, 24, 3), 0.3))
    assert np.isfinite(features).all()
    np.testing.assert_allclose(features[:16].reshape(2, 8), [[0.75] * 8, [0.5] * 8])  # the middle of the picture


@pytest.mark.parametrize("shape", [(3, 15, 16, 3), (3, 16, 16, 1), (16, 16, 3)])
def test_bad_input_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`frames` must have the shape"):
        measure_clip(np.zeros(shape))
