"""`diffusers-video evaluate videos`: folders, pipelines and saved features; results in files and cards."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from diffusers_video._cli_evaluate_videos import EvaluateVideosOptions
from diffusers_video.metrics.results import VideoEvaluation
from diffusers_video.video_io import write_video

from .metrics.test_clip_scores import tiny_embedder
from .metrics.test_evaluation_frames import Distance
from .test_cli import error_of, run
from .tiny_pipelines import tiny_text_to_video


SETTINGS = ("--num-frames", 2, "--allow-small-sets", "--num-resamples", 0, "--device", "cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `generated` and `reference` of five videos each."""
    folder = tmp_path_factory.mktemp("videos")
    generator = torch.Generator().manual_seed(0)
    for side in ("generated", "reference"):
        (folder / side).mkdir()
        for number in range(5):
            frames = torch.rand(3, 3, 16, 16, generator=generator)
            write_video(frames, folder / side / f"{number}.gif", 10)
    return folder


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def evaluate(*arguments: object) -> VideoEvaluation:
    result = run("evaluate", "videos", *arguments, *SETTINGS, "--json", "result.json")
    assert result.exit_code == 0, result.output
    assert "clips" in result.stdout.splitlines()[-1]
    return VideoEvaluation.load("result.json")


def test_folders_are_compared_on_random_features_that_say_so(videos: Path) -> None:
    result = run("evaluate", "videos", videos / "generated", videos / "reference", *SETTINGS)
    assert result.exit_code == 0, result.output
    assert "it is not FVD" in result.stderr.replace("\n", " ")
    assert result.stdout.startswith("Frechet distance, random features (seed 0, not FVD): ")
    assert "Warning: " in result.stderr and "equal distributions would score about" in result.stderr


def test_saved_features_give_the_same_scores(videos: Path) -> None:
    keep = ("--save-generated", "own.safetensors", "--save-reference", "other.safetensors")
    first = evaluate(videos / "generated", videos / "reference", *keep)
    assert (first.num_generated, first.num_reference, first.fps) == (5, 5, "10")
    assert first.codecs == {"generated": {"gif": 5}, "reference": {"gif": 5}}
    assert evaluate("own.safetensors", "other.safetensors").scores == first.scores


def test_options_change_the_protocol_and_the_result_says_so(videos: Path) -> None:
    result = evaluate(
        *(videos / "generated", videos / "reference", "--protocol", "stylegan-v", "--num-generated", 3),
        *("--ddof", 1, "--clip-seed", 4, "--metric", "kernel_distance", "--random-seed", 7),
    )
    assert result.protocol["name"] == "stylegan-v, changed: ddof, num_frames, num_generated, seed"
    assert (result.protocol["ddof"], result.protocol["seed"], result.num_generated) == (1, 4, 3)
    assert result.networks["network"]["seed"] == 7 and [score.metric for score in result.scores] == ["kernel_distance"]


def test_a_pipeline_is_drawn_from_and_its_card_gets_the_scores(videos: Path) -> None:
    tiny_text_to_video().save_pretrained("model")
    Path("prompts.txt").write_text("a red circle\n\na blue square\n")
    result = evaluate(
        *("model", videos / "reference", "--prompts", "prompts.txt", "--num-generated", 3, "--steps", 1),
        *("--height", 16, "--width", 16, "--allow-other-fps", "--metric", "kernel_distance"),
        *("--model-card", "model", "--dataset-name", "Tiny videos"),
    )
    assert result.generated["class"] == "TextToVideoPipeline" and result.generated["num_prompts"] == 2
    (score,) = ModelCard.load("model/README.md").data.eval_results
    assert (score.metric_type, score.dataset_name, score.dataset_type) == (
        "kernel_distance",
        "Tiny videos",
        "tiny-videos",
    )
    assert score.metric_value == pytest.approx(result["kernel_distance"].value)
    assert score.metric_args["num_generated"] == 3 and score.metric_args["protocol"]["num_frames"] == 2


def test_a_pipeline_that_needs_prompts_says_so() -> None:
    tiny_text_to_video().save_pretrained("model")
    result = run("evaluate", "videos", "model", "x.safetensors", "--num-generated", 2, *SETTINGS)
    assert "`prompts` must be given for a TextToVideoPipeline" in error_of(result)


def test_frames_captions_and_pairs_are_scored_in_one_result(videos: Path) -> None:
    embedder = tiny_embedder()
    for part in (embedder.model, embedder.image_processor, embedder.tokenizer):
        part.save_pretrained("clip")
    torch.jit.script(Distance()).save("lpips.pt")
    rows = [{"file_name": f"{number}.gif", "text": "a red circle"} for number in range(5)]
    shutil.copytree(videos / "generated", "generated")
    Path("generated/metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    metrics = ("frame_frechet_distance", "clip_similarity", "clip_frame_consistency", "psnr", "lpips")
    result = evaluate(
        *("generated", videos / "reference", "--clip-model", "clip", "--lpips", "lpips.pt"),
        *(word for name in metrics for word in ("--metric", name)),
    )
    assert [score.metric for score in result.scores] == list(metrics)
    assert set(result.networks) == {"frame_network", "clip", "pairs", "lpips"}
    assert 0 < result["lpips"].value < 1 and "not FID" in result["frame_frechet_distance"].label


def test_options_survive_the_way_to_other_processes(videos: Path) -> None:
    given = EvaluateVideosOptions(
        generated="a b", reference="c", metric=["kvd", "fvd"], weights="w.pt", fps="30000/1001", num_processes=3
    )
    words = given.arguments()
    assert words[:2] == ["a b", "c"] and "--num-processes" not in words
    assert [words[k + 1] for k, word in enumerate(words) if word == "--metric"] == ["kvd", "fvd"]
    assert words[words.index("--fps") + 1] == "30000/1001"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", "is"), "`--metric` must be one of"),
        (("--metric", "fid"), "`frame_network` must be Inception with the weights of FID"),
        (("--metric", "clip_similarity"), "`clip` must be given for"),
        (("--metric", "lpips"), "`lpips` must be given for"),
        (("--metric", "fvd"), "`network` must be I3D with the weights of FVD"),
        (("--metric", "inception_score"), "`classifier` must be a network that returns logits"),
        (("--steps", 3), "`--num-inference-steps` has no effect"),
        (("--protocol", "fvd"), "`name` must be one of"),
        (("--model-card", "."), "`--model-card` and `--dataset-name` must be given together"),
        (("--json", "nowhere/a.json"), "`--json-file` must name a file in a folder that exists"),
        (("--save-reference", "a.pt"), "`--save-reference` must be a .safetensors file"),
        (("--fps", "fast"), "`fps` must be a finite number"),
        (("--weights", "nothing.pt"), "`weights` must be a file of weights"),
        (("--num-frames", 9), "and the longest of 5 has 3 frames"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(videos: Path, arguments: tuple[object, ...], message: str) -> None:
    result = run("evaluate", "videos", videos / "generated", videos / "reference", *SETTINGS, *arguments)
    assert message in error_of(result)


def test_few_clips_need_a_word_of_consent(videos: Path) -> None:
    result = run("evaluate", "videos", videos / "generated", videos / "reference", "--num-frames", 2)
    assert "must have more clips than the 64 features" in error_of(result)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(videos: Path) -> None:
    folders = (videos / "generated", videos / "reference", "--batch-size", 2)
    one = evaluate(*folders)
    result = run("evaluate", "videos", *folders, *SETTINGS, "--json", "two.json", "--num-processes", 2)
    assert result.exit_code == 0, result.output
    assert json.loads(Path("two.json").read_text()) == json.loads(one.to_json())
