"""Checkpoints: whole or absent, of the right run, and few enough."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffusers_video.training.checkpoints import CheckpointError, find_checkpoints, find_damage
from diffusers_video.training.run_log import RunLog

from .tiny_runs import ModelFolder, losses, train


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def finished_run(image_model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(image_model("sd15"), tmp_path_factory.mktemp("run"), checkpointing_steps=1)


@pytest.fixture
def run_folder(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_full_disk_leaves_no_half_written_checkpoint(image_model: ModelFolder, tmp_path: Path) -> None:
    with files_of_at_most(20_000), pytest.raises(OSError, match="The checkpoint of step 1 could not be written"):
        train(image_model("sd15"), tmp_path, checkpointing_steps=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "training_config.yaml"]
    out = train(image_model("sd15"), tmp_path, checkpointing_steps=1, resume_from_checkpoint="latest")
    assert len(losses(out)) == 2


def test_full_disk_keeps_earlier_checkpoints(image_model: ModelFolder, run_folder: Path) -> None:
    options = {"max_train_steps": 3, "checkpointing_steps": 1, "resume_from_checkpoint": "latest"}
    with files_of_at_most(20_000), pytest.raises(OSError, match="step 3 could not be written"):
        train(image_model("sd15"), run_folder, **options)
    assert [path.name for path in find_checkpoints(run_folder)] == ["checkpoint-1", "checkpoint-2"]
    assert len(losses(train(image_model("sd15"), run_folder, **options))) == 3


def test_full_disk_at_the_end_leaves_no_pipeline(image_model: ModelFolder, tmp_path: Path) -> None:
    options = {"train": "lora", "rank": 1, "lora_target_modules": ["to_q"]}  # checkpoints smaller than the denoiser
    with files_of_at_most(200_000), pytest.raises(Exception, match="File too large"):
        train(image_model("sd15"), tmp_path, **options)
    assert not (tmp_path / "model_index.json").exists() and not list(tmp_path.glob(".pipeline*"))
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-2"]


@pytest.mark.parametrize("name", ["trainer_state.json", "trained_weights.safetensors", "optimizer.bin"])
@pytest.mark.parametrize("is_cut", [True, False], ids=["cut off", "missing"])
def test_damaged_checkpoints_are_never_picked(run_folder: Path, name: str, is_cut: bool) -> None:
    path = run_folder / "checkpoint-2" / name
    path.write_bytes(path.read_bytes()[:-10]) if is_cut else path.unlink()
    assert [path.name for path in find_checkpoints(run_folder)] == ["checkpoint-1"]
    assert name in find_damage(run_folder / "checkpoint-2")


def test_damaged_checkpoint_is_refused_by_name(image_model: ModelFolder, run_folder: Path) -> None:
    (run_folder / "checkpoint-2" / "optimizer.bin").unlink()
    with pytest.raises(CheckpointError, match="optimizer.bin is missing"):
        train(image_model("sd15"), run_folder, resume_from_checkpoint=str(run_folder / "checkpoint-2"))


@pytest.mark.parametrize("name", [".checkpoint-9.partial", "checkpoint-9.partial", "checkpoint-x", "checkpoint-9"])
def test_other_folders_are_no_checkpoints(run_folder: Path, name: str) -> None:
    shutil.copytree(run_folder / "checkpoint-2", run_folder / name)
    if name == "checkpoint-9":
        (run_folder / name / "trainer_state.json").unlink()
    assert [path.name for path in find_checkpoints(run_folder)] == ["checkpoint-1", "checkpoint-2"]


def test_only_the_newest_are_kept(image_model: ModelFolder, tmp_path: Path) -> None:
    out = train(image_model("sd15"), tmp_path, max_train_steps=4, checkpointing_steps=1, checkpoints_total_limit=2)
    assert sorted(path.name for path in out.glob("*checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": "all"}, "`train` was 'temporal', is 'all'"),
        ({"learning_rate": 1.0}, "`learning_rate` was 0.0001, is 1.0"),
        ({"num_shapes_clips": 6}, "`num_shapes_clips` was 5, is 6; `train_data_dir` was 'clips"),
        ({"seed": 1}, "`seed` was 0, is 1"),
        ({"model": "sd21"}, "`pretrained_model_name_or_path` was 'weights"),
    ],
)
def test_checkpoint_of_another_run_is_refused_by_name(
    image_model: ModelFolder, run_folder: Path, settings: dict[str, object], message: str
) -> None:
    settings = dict(settings)
    model = image_model(settings.pop("model", "sd15"))
    with pytest.raises(CheckpointError, match=message):
        train(model, run_folder, **settings, resume_from_checkpoint="latest")


def test_length_is_fixed_where_the_learning_rate_depends_on_it(image_model: ModelFolder, tmp_path: Path) -> None:
    train(image_model("sd15"), tmp_path, lr_scheduler="cosine")
    with pytest.raises(CheckpointError, match="`max_train_steps` was 2, is 3"):
        options = {"lr_scheduler": "cosine", "max_train_steps": 3}
        train(image_model("sd15"), tmp_path, **options, resume_from_checkpoint="latest")


def test_missing_folder_is_refused(image_model: ModelFolder, run_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`resume_from_checkpoint` must be a folder or `latest`"):
        train(image_model("sd15"), run_folder, resume_from_checkpoint=str(run_folder / "checkpoint-7"))


def test_earlier_run_is_not_overwritten(image_model: ModelFolder, run_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="`output_dir` holds checkpoints of an earlier run"):
        train(image_model("sd15"), run_folder)


def test_other_number_of_processes_is_refused(image_model: ModelFolder, run_folder: Path) -> None:
    path = run_folder / "checkpoint-2" / "trainer_state.json"
    content = json.loads(path.read_text())
    content["identity"]["num_processes"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="`num_processes` was 2, is 1"):
        train(image_model("sd15"), run_folder, resume_from_checkpoint="latest")


def test_log_drops_what_follows_the_checkpoint_and_a_half_written_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    for step in range(4):
        log.append(step, loss=step / 3)
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in log.read()] == [0, 1, 2, 3]
    log.truncate(2)
    assert log.path.read_text().splitlines()[-1] == json.dumps({"step": 2, "loss": 2 / 3})
