"""Windows: they cover the axis, joints are faded, equal results stay equal."""

import pytest
import torch

from diffusers_video.layers.windows import (
    fade_windows,
    first_window,
    map_windows,
    slide_windows,
    window_starts,
)


@pytest.mark.parametrize("length", range(1, 24))
@pytest.mark.parametrize(("size", "overlap"), [(8, 2), (8, 0), (4, 3), (1, 0), (5, 1)])
def test_windows_cover_the_axis_and_overlap(length: int, size: int, overlap: int) -> None:
    starts = window_starts(length, size, overlap)
    covered = {place for start in starts for place in range(start, min(start + size, length))}
    assert covered == set(range(length))
    assert all(later - earlier <= size - overlap for earlier, later in zip(starts, starts[1:], strict=False))
    assert starts == sorted(set(starts)) and (len(starts) == 1 or starts[-1] + size == length)


@pytest.mark.parametrize("dim", [1, 2, -1])
@pytest.mark.parametrize(("size", "overlap"), [(4, 1), (4, 3), (3, 0), (20, 2)])
def test_a_function_of_single_places_is_unchanged(dim: int, size: int, overlap: int) -> None:
    tensor = torch.randn(2, 9, 10, 11)
    joined = map_windows(lambda part: part.sin(), tensor, dim, size=size, overlap=overlap)
    assert torch.equal(joined, tensor.sin())


def test_results_may_be_longer_than_windows() -> None:
    tensor = torch.randn(1, 7, 3)
    joined = map_windows(lambda part: part.repeat_interleave(4, dim=1), tensor, 1, size=3, overlap=1, scale=4)
    assert torch.equal(joined, tensor.repeat_interleave(4, dim=1))


def test_one_window_fades_into_the_next() -> None:
    values = iter((0.0, 1.0, 3.0))
    joined = map_windows(lambda part: torch.full_like(part, next(values)), torch.zeros(7), 0, size=4, overlap=1)
    # Windows start at 0 and 3 and end at 4 and 7; the only shared place lies half way between 0 and 1.
    assert joined.tolist() == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    values = iter((0.0, 1.0, 3.0))
    joined = map_windows(lambda part: torch.full_like(part, next(values)), torch.zeros(6), 0, size=4, overlap=2)
    torch.testing.assert_close(joined, torch.tensor([0.0, 0.0, 1 / 3, 2 / 3, 1.0, 1.0]))


def test_gradients_reach_every_place() -> None:
    tensor = torch.randn(9, requires_grad=True)
    map_windows(lambda part: part * 2, tensor, 0, size=4, overlap=2).sum().backward()
    torch.testing.assert_close(tensor.grad, torch.full((9,), 2.0))


@pytest.mark.parametrize(("size", "overlap"), [(8, 2), (8, 0), (4, 3), (1, 0), (5, 1)])
def test_a_sequence_of_unknown_length_is_cut_into_the_same_windows(size: int, overlap: int) -> None:
    assert list(slide_windows([], size, overlap)) == []
    for length in range(1, 24):
        windows = list(slide_windows(iter(range(length)), size, overlap))
        starts = window_starts(length, size, overlap)
        assert [start for start, _, _ in windows] == starts
        assert [window for _, window, _ in windows] == [list(range(length))[start : start + size] for start in starts]
        assert [step for _, _, step in windows] == [
            later - start for start, later in zip(starts, starts[1:], strict=False)
        ] + [None]


def test_of_a_sequence_no_more_is_read_than_the_next_step() -> None:
    read = []
    windows = slide_windows((read.append(place) or place for place in range(100)), 8, 2)
    for number in range(3):
        next(windows)
        assert len(read) == 8 + 6 * (number + 1)


@pytest.mark.parametrize(("size", "overlap"), [(8, 2), (8, 6), (4, 0), (1, 0), (5, 1)])
def test_work_taken_up_at_a_window_gives_the_same_from_a_place_on(size: int, overlap: int) -> None:
    def joined(values: range) -> torch.Tensor:
        windows = slide_windows(values, size, overlap)
        parts = ((torch.tensor(window) * 100.0 + window[0], step) for _, window, step in windows)
        return torch.cat(list(fade_windows(parts, 0)))

    for length in range(1, 24):
        whole = joined(range(length))
        for place in range(length):
            start = first_window(place, size, overlap)
            assert start <= place
            torch.testing.assert_close(joined(range(start, length))[place - start :], whole[place:])
