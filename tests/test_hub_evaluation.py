"""Scores in model cards."""

from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard

from diffusers_video.hub import add_evaluation_results


CARD = "---\nlicense: mit\ntags:\n- diffusers\n---\n\n# Title\n\nText that stays.\n"


def result(value: float, metric: str = "fvd", config: str = "stylegan-v", dataset: str = "ucf-101") -> EvalResult:
    return EvalResult(
        task_type="text-to-video",
        dataset_type=dataset,
        dataset_name=dataset.upper(),
        metric_type=metric,
        metric_name=metric.upper(),
        metric_config=config,
        metric_value=value,
        metric_args={"num_generated": 2048},
    )


def read(folder: Path) -> list[tuple[str, str, float]]:
    found = ModelCard.load(folder / "README.md").data.eval_results
    return sorted((item.dataset_type, item.metric_type, item.metric_value) for item in found)


def test_scores_are_added_and_the_card_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    path = add_evaluation_results(tmp_path, [result(300.0), result(1.5, "kvd")])
    text = path.read_text()
    assert "Text that stays." in text and "license: mit" in text and "model-index:" in text
    assert read(tmp_path) == [("ucf-101", "fvd", 300.0), ("ucf-101", "kvd", 1.5)]
    card = ModelCard.load(path)
    assert card.data.model_name == tmp_path.name
    assert card.data.eval_results[0].metric_args == {"num_generated": 2048}


def test_a_score_of_the_same_metric_and_protocol_is_replaced_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    add_evaluation_results(tmp_path, [result(300.0), result(2.0, dataset="sky")], repo_id="me/model")
    add_evaluation_results(tmp_path, [result(250.0), result(200.0, config="videogpt")])
    assert read(tmp_path) == [("sky", "fvd", 2.0), ("ucf-101", "fvd", 200.0), ("ucf-101", "fvd", 250.0)]
    assert ModelCard.load(tmp_path / "README.md").data.model_name == "me/model"
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_nothing_to_add_and_nowhere_to_add_it_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`results` must hold at least one score"):
        add_evaluation_results(tmp_path, [])
    with pytest.raises(ValueError, match="`folder` must hold a saved pipeline"):
        add_evaluation_results(tmp_path, [result(1.0)])
