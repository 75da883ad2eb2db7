"""Inception score: against StyleGAN-V's arithmetic and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from diffusers_video.metrics import video_inception_score

from ..conftest import Golden


@pytest.mark.parametrize("run", ["ten_splits", "four_splits"])
def test_stylegan_v_agrees(run: str, load_golden: Callable[[str], Golden]) -> None:
    golden = load_golden("video_inception_score")
    settings, wants = golden.config["runs"][run], golden.config["values_float64"]
    rows = golden.tensors["inputs.probabilities"][: settings["num_gen"]]
    for inputs in ({"probabilities": rows}, {"logits": rows.double().log() + torch.randn(len(rows), 1).double()}):
        found = video_inception_score(**inputs, num_splits=settings["num_splits"], shuffle_seed=42)
        # The reference sums in float32.
        assert found.mean == pytest.approx(wants[f"{run}.mean"], rel=1e-6)
        assert found.std == pytest.approx(wants[f"{run}.std"], rel=1e-5)
        assert found.num_samples == settings["num_gen"] and len(found.scores) == settings["num_splits"]


def test_score_is_the_number_of_classes_that_are_surely_seen() -> None:
    logits = 1e4 * torch.eye(7)[torch.arange(21) % 7]  # probabilities of 0 and 1
    assert video_inception_score(logits).mean == pytest.approx(7, rel=1e-12)
    assert video_inception_score(probabilities=logits.softmax(1)).mean == pytest.approx(7, rel=1e-12)
    assert video_inception_score(torch.zeros(9, 7)).mean == pytest.approx(1, rel=1e-12)


def test_score_of_two_rows_by_hand() -> None:
    rows = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = video_inception_score(probabilities=rows)
    assert found.mean == pytest.approx(math.exp(divergence)) and found.std == 0 and found.scores == (found.mean,)


def test_splits_are_uneven_parts_in_a_row() -> None:
    logits = torch.randn(11, 4)
    found = video_inception_score(logits, num_splits=3)
    parts = [video_inception_score(rows).mean for rows in (logits[:3], logits[3:7], logits[7:])]
    assert found.scores == pytest.approx(parts, rel=1e-12) and found.mean == pytest.approx(sum(parts) / 3)
    unbiased = video_inception_score(logits, num_splits=3, ddof=1)
    assert unbiased.std == pytest.approx(found.std * math.sqrt(3 / 2))


def test_order_matters_to_splits_alone() -> None:
    logits = torch.randn(60, 4)
    shuffled = video_inception_score(logits, num_splits=5, shuffle_seed=42)
    assert shuffled.scores != video_inception_score(logits, num_splits=5).scores
    whole = [video_inception_score(logits, shuffle_seed=seed).mean for seed in (None, 42, 0)]
    assert whole == pytest.approx([whole[0]] * 3, rel=1e-12)


def test_bad_input_is_refused() -> None:
    rows = torch.full((4, 2), 0.5)
    for inputs in ({}, {"logits": rows, "probabilities": rows}):
        with pytest.raises(ValueError, match="Exactly one of `logits` and `probabilities`"):
            video_inception_score(**inputs)
    with pytest.raises(ValueError, match="`probabilities` must be at least 0 and add up to 1 .* row 0 adds up to 2"):
        video_inception_score(probabilities=rows * 2)
    with pytest.raises(ValueError, match="row 0 adds up to 1 with a least value of -0.5"):
        video_inception_score(probabilities=torch.tensor([[1.5, -0.5]]))
    with pytest.raises(ValueError, match="`logits` must be finite, but of 4 rows 1 hold NaN or infinity: row 2"):
        video_inception_score(torch.where(torch.arange(4)[:, None] == 2, torch.nan, rows))
    for num_splits in (0, 5):
        with pytest.raises(ValueError, match="`num_splits` must be between 1 and 4"):
            video_inception_score(rows, num_splits=num_splits)
    with pytest.raises(ValueError, match="`ddof` must be 0 or 1"):
        video_inception_score(rows, ddof=2)
