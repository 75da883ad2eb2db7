import pytest
import torch
from torch import Tensor

from diffusers_video.layers.layout import (
    frames_to_sequences,
    images_to_videos,
    maps_to_tokens,
    match_strides,
    sequences_to_frames,
    tokens_to_maps,
    videos_to_images,
)


@pytest.fixture
def videos() -> Tensor:
    return torch.arange(2 * 3 * 4 * 5 * 6).view(2, 3, 4, 5, 6)


def test_frames_of_one_video_stay_adjacent(videos: Tensor) -> None:
    images = videos_to_images(videos)
    for video in range(2):
        for frame in range(4):
            assert torch.equal(images[4 * video + frame], videos[video, :, frame])


def test_videos_and_images_are_inverse(videos: Tensor) -> None:
    assert torch.equal(images_to_videos(videos_to_images(videos), num_frames=4), videos)


def test_images_become_videos_without_a_copy() -> None:
    images = torch.randn(6, 3, 2, 2)
    assert images_to_videos(images, num_frames=3).data_ptr() == images.data_ptr()


@pytest.mark.parametrize("num_frames", [0, 4, -1])
def test_a_batch_that_is_no_whole_number_of_videos_is_refused(num_frames: int) -> None:
    with pytest.raises(ValueError, match="`images` must hold a whole number of videos"):
        images_to_videos(torch.zeros(6, 3, 2, 2), num_frames=num_frames)


def test_tokens_run_row_by_row() -> None:
    images = torch.randn(2, 3, 4, 5)
    tokens = maps_to_tokens(images)
    assert torch.equal(tokens[1, 2 * 5 + 3], images[1, :, 2, 3])
    assert torch.equal(tokens_to_maps(tokens, height=4), images)


def test_sequences_hold_the_frames_of_one_position() -> None:
    tokens = torch.randn(2, 3, 4, 5)
    sequences = frames_to_sequences(tokens)
    assert torch.equal(sequences[4 + 2], tokens[1, :, 2])
    assert torch.equal(sequences_to_frames(sequences, batch_size=2), tokens)


def test_strides_are_matched_and_values_kept() -> None:
    tensor = torch.randn(2, 3, 4, 5)
    like = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    matched = match_strides(tensor, like)
    assert matched.stride() == like.stride()
    assert torch.equal(matched, tensor)
    assert match_strides(tensor, tensor) is tensor
