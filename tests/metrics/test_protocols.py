"""Protocols: which clips of which videos are taken."""

import dataclasses

import pytest

from diffusers_video.metrics.protocols import PROTOCOLS, EvaluationProtocol, choose_clips, find_protocol


def starts(lengths: list[int], protocol: EvaluationProtocol, *, is_generated: bool = False) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place in choose_clips(lengths, protocol, is_generated=is_generated)[0]:
        found.setdefault(place.video, []).append(place.frames[0])
    return found


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("stylegan-v", {"num_reference": 2048, "num_generated": 2048, "order": "sorted", "ddof": 0, "num_frames": 16}),
        ("videogpt", {"num_generated": 2048, "resize": "cover", "ddof": 1, "quantisation": "truncate"}),
        ("content-debiased", {"num_reference": None, "num_generated": 2048, "resize": "stretch", "ddof": 0}),
    ],
)
def test_presets_hold_the_published_facts(name: str, facts: dict[str, object]) -> None:
    protocol = find_protocol(name)
    assert {key: getattr(protocol, key) for key in facts} == facts
    assert protocol.name == name and set(PROTOCOLS) >= {name}


def test_stylegan_v_takes_the_first_videos_by_name_that_are_long_enough() -> None:
    protocol = find_protocol("stylegan-v", num_reference=3)
    places, short = choose_clips([20, 15, 16, 40, 50], protocol, is_generated=False)
    assert [place.video for place in places] == [0, 2, 3]
    assert short == [1]


def test_stylegan_v_reads_a_random_window_of_real_videos_and_the_start_of_generated_ones() -> None:
    protocol = find_protocol("stylegan-v", num_reference=400, num_generated=400)
    real = [found[0] for found in starts([20] * 400, protocol).values()]
    assert set(real) == {0, 1, 2, 3, 4}  # every window of 16 in 20 frames
    assert all(60 <= real.count(start) <= 100 for start in range(5))
    assert {found[0] for found in starts([20] * 400, protocol, is_generated=True).values()} == {0}


def test_subsampling_by_eight_needs_whole_strides_and_reaches_the_last_frame() -> None:
    protocol = find_protocol("stylegan-v", frame_stride=8, num_reference=300)
    places, short = choose_clips([127, *[128] * 300], protocol, is_generated=False)
    assert short == [0]  # 121 frames are shown, 128 are asked for
    assert {place.frames[1] - place.frames[0] for place in places} == {8}
    assert {place.frames[0] for place in places} == set(range(8))
    assert max(place.frames[-1] for place in places) == 127


def test_videogpt_draws_from_all_windows_so_that_long_videos_give_more() -> None:
    protocol = find_protocol("videogpt", num_reference=300)
    found = starts([16, 20, 510], protocol)
    assert sum(map(len, found.values())) == 300
    assert len(found.get(2, [])) > 280 and max(found[2]) <= 494
    assert all(len(set(windows)) == len(windows) for windows in found.values())  # none twice


def test_videogpt_takes_every_window_where_there_are_too_few() -> None:
    found = starts([16, 18, 10], find_protocol("videogpt"))
    assert {video: sorted(windows) for video, windows in found.items()} == {0: [0], 1: [0, 1, 2]}


def test_content_debiased_uses_generated_videos_again_by_other_windows() -> None:
    protocol = find_protocol("content-debiased", num_generated=12)
    found = starts([40, 40, 8], protocol, is_generated=True)
    assert {video: len(windows) for video, windows in found.items()} == {0: 6, 1: 6}
    assert len(set(found[0])) > 1
    assert {len(windows) for windows in starts([40, 40], protocol).values()} == {1}  # the reference is used once


def test_too_few_generated_videos_are_an_error_that_names_the_rule() -> None:
    with pytest.raises(ValueError, match="`num_generated` of the protocol is 2048, but there are only 3"):
        choose_clips([16, 17, 18, 4], find_protocol("stylegan-v"), is_generated=True)


def test_all_videos_too_short_is_an_error() -> None:
    with pytest.raises(ValueError, match="is 16, and the longest of 2 has 15 frames"):
        choose_clips([15, 3], find_protocol("custom"), is_generated=False)


def test_equal_seeds_choose_equal_clips_and_others_do_not() -> None:
    protocol = find_protocol("custom", num_reference=10)
    lengths = [100] * 30
    chosen = choose_clips(lengths, protocol, is_generated=False)
    assert chosen == choose_clips(lengths, protocol, is_generated=False)
    assert chosen != choose_clips(lengths, protocol.changed(seed=1), is_generated=False)


def test_the_window_of_a_video_does_not_depend_on_the_others() -> None:
    protocol = find_protocol("custom", order="sorted")
    long, short = starts([100] * 9, protocol), starts([100] * 4, protocol)
    assert short == {video: long[video] for video in range(4)}


def test_changes_are_part_of_the_name() -> None:
    protocol = find_protocol("stylegan-v", num_frames=128, ddof=0)
    assert protocol.name == "stylegan-v, changed: num_frames"
    assert find_protocol("custom", num_frames=4).name == "custom"
    assert EvaluationProtocol(**protocol.describe()) == protocol
    assert find_protocol("videogpt", num_frames=16) == PROTOCOLS["videogpt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be at least 1"),
        ({"reference_clips": "all"}, "`reference_clips` must be one of"),
        ({"quantisation": "floor"}, "`quantisation` must be one of"),
        ({"ddof": 2}, "`ddof` must be one of"),
        ({"seed": -1}, "`seed` must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(EvaluationProtocol(), **changes)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="`name` must be one of"):
        find_protocol("fvd")
    with pytest.raises(TypeError, match="`frames` is no value of a protocol"):
        find_protocol("stylegan-v", frames=3)
