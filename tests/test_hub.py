"""Loading by diffusers' own loaders, in fresh processes and through the Hub's code path; model cards and pushes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoModel, DDIMScheduler, DiffusionPipeline
from huggingface_hub import HfApi, ModelCard

import diffusers_video
from diffusers_video import TextToVideoPipeline, UNetVideoConditionModel, _registration, hub

from .tiny_pipelines import tiny_text_to_video


COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Loads one saved pipeline in every way and prints the class, and a sum over the weights, that each way gave.
LOAD = """
import json, sys
{imports}
import diffusers.pipelines.pipeline_utils as loaders, diffusers.utils.dynamic_modules_utils as remote
from types import SimpleNamespace
folder, hub = sys.argv[1:]
files = json.load(open(hub + "/files.json"))
loaders.model_info = remote.model_info = lambda repo, **_: SimpleNamespace(
    sha="{commit}", siblings=[SimpleNamespace(rfilename=name) for name in files])
options = dict(cache_dir=hub)
loaded = dict({loads})
for name, value in loaded.items():
    unet = getattr(value, "unet", value)
    weights = sum(float(weight.detach().double().sum()) for weight in unet.parameters())
    loaded[name] = [type(value).__module__, type(value).__name__, type(unet).__module__, type(unet).__name__, weights]
assert not any(type(finder).__name__ == "_LoadersFinder" for finder in sys.meta_path), "the hook outlived its import"
print(json.dumps(loaded))
"""
EVERY_WAY = """
    class_folder=diffusers_video.TextToVideoPipeline.from_pretrained(folder),
    class_hub=diffusers_video.TextToVideoPipeline.from_pretrained("user/clips", **options),
    pipeline_folder=DiffusionPipeline.from_pretrained(folder),
    pipeline_hub=DiffusionPipeline.from_pretrained("user/clips", **options),
    model_folder=AutoModel.from_pretrained(folder + "/unet"),
    model_subfolder=AutoModel.from_pretrained(folder, subfolder="unet"),
    model_hub=AutoModel.from_pretrained("user/clips", subfolder="unet", **options),
"""
WITH_TRUST = """
    pipeline_folder=DiffusionPipeline.from_pretrained(folder, trust_remote_code=True),
    pipeline_hub=DiffusionPipeline.from_pretrained("user/clips", trust_remote_code=True, **options),
"""


@pytest.fixture(scope="module")
def pipeline() -> TextToVideoPipeline:
    return tiny_text_to_video()


@pytest.fixture(scope="module")
def saved(pipeline: TextToVideoPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "clips"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def self_contained(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("self") / "clips"
    shutil.copytree(saved, folder)
    for name, text in hub.self_contained_files(saved).items():
        (folder / name).write_text(text)
    return folder


class FakeHub:
    """The Hub's side of a push, as far as `HfApi` shows it: repositories as dictionaries of file contents."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: list[dict[str, Any]] = []
        monkeypatch.setattr(HfApi, "create_repo", lambda _, repo_id, **options: self.create(repo_id))
        monkeypatch.setattr(HfApi, "file_exists", lambda _, repo_id, name: name in self.repositories[repo_id])
        monkeypatch.setattr(HfApi, "create_commit", lambda _, repo_id, files, **how: self.commit(repo_id, files, how))

    def create(self, repo_id: str) -> SimpleNamespace:
        name = repo_id if "/" in repo_id else f"user/{repo_id}"
        self.repositories.setdefault(name, {})
        return SimpleNamespace(repo_id=name)

    def commit(self, repo_id: str, operations: list[Any], how: dict[str, Any]) -> str:
        paths = [operation.path_in_repo for operation in operations]
        assert len(set(paths)) == len(paths)
        for operation in operations:
            with operation.as_file() as file:
                self.repositories[repo_id][operation.path_in_repo] = file.read()
        self.commits.append(how)
        return f"https://huggingface.co/{repo_id}/commit/{COMMIT}"


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    return FakeHub(monkeypatch)


def hub_cache(folder: Path, cache: Path) -> Path:
    """Lay `folder` out as the download cache of the repository `user/clips`."""
    repository = cache / "models--user--clips"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    (cache / "files.json").write_text(json.dumps(files))
    return cache


def hub_on_this_machine(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As [`hub_cache`], and let this process see the listing of the repository."""
    hub_cache(folder, cache)
    listing = [SimpleNamespace(rfilename=name) for name in json.loads((cache / "files.json").read_text())]
    answer = SimpleNamespace(siblings=listing)
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.model_info", lambda repo, **_: answer)
    return cache


def load_in_new_process(imports: str, loads: str, folder: Path, cache: Path) -> dict[str, list]:
    code = LOAD.format(imports=imports, commit=COMMIT, loads=loads)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(cache / "modules")}
    command = [sys.executable, "-c", code, str(folder), str(hub_cache(folder, cache))]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def check_loaded(loaded: dict[str, list], pipeline: TextToVideoPipeline) -> None:
    unet = [UNetVideoConditionModel.__module__, "UNetVideoConditionModel"]
    unet.append(sum(float(weight.detach().double().sum()) for weight in pipeline.unet.parameters()))
    for way, value in loaded.items():
        owner = unet[:2] if way.startswith("model") else [TextToVideoPipeline.__module__, "TextToVideoPipeline"]
        assert value == [*owner, *unet], way


@pytest.mark.parametrize(
    "imports",
    [
        "import diffusers_video; from diffusers import AutoModel, DiffusionPipeline",
        "from diffusers import AutoModel, DiffusionPipeline; import diffusers_video",
    ],
    ids=["ours first", "diffusers first"],
)
def test_a_fresh_process_loads_in_every_way(
    imports: str, saved: Path, pipeline: TextToVideoPipeline, tmp_path: Path
) -> None:
    check_loaded(load_in_new_process(imports, EVERY_WAY, saved, tmp_path), pipeline)


def test_self_contained_files_load_in_a_process_that_never_imported_the_package(
    self_contained: Path, pipeline: TextToVideoPipeline, tmp_path: Path
) -> None:
    imports = "from diffusers import DiffusionPipeline"
    check_loaded(load_in_new_process(imports, WITH_TRUST, self_contained, tmp_path), pipeline)


def test_self_contained_files_load_through_our_class_without_the_flag(self_contained: Path) -> None:
    loaded = TextToVideoPipeline.from_pretrained(self_contained)
    assert loaded.config.unet == ("diffusers_video", "UNetVideoConditionModel")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(self_contained)


def test_the_index_names_the_library_and_not_a_module(saved: Path) -> None:
    index = json.loads((saved / "model_index.json").read_text())
    assert index["unet"] == ["diffusers_video", "UNetVideoConditionModel"]
    assert index["_class_name"] == "TextToVideoPipeline"


def test_an_index_with_full_module_paths_still_loads_through_our_class(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(saved, tmp_path / "old")
    text = (folder / "model_index.json").read_text()
    old = text.replace('"diffusers_video"', f'"{UNetVideoConditionModel.__module__}"')
    (folder / "model_index.json").write_text(old)
    assert old != text and type(TextToVideoPipeline.from_pretrained(folder).unet) is UNetVideoConditionModel
    cache = hub_on_this_machine(folder, tmp_path, monkeypatch)
    loaded = TextToVideoPipeline.from_pretrained("user/clips", cache_dir=cache)
    assert type(loaded.unet) is UNetVideoConditionModel


def test_a_passed_component_replaces_the_saved_one(saved: Path, pipeline: TextToVideoPipeline) -> None:
    assert DiffusionPipeline.from_pretrained(saved, unet=pipeline.unet).unet is pipeline.unet


def test_auto_model_makes_a_model_of_ours_from_its_configuration(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # diffusers leaves another name there once a model was loaded from a subfolder
    monkeypatch.setattr(AutoModel, "config_name", "config.json")
    assert type(AutoModel.from_config(str(saved / "unet"))) is UNetVideoConditionModel


def test_registering_again_changes_nothing() -> None:
    import diffusers

    before = (diffusers.__getattr__, list(sys.meta_path))
    diffusers_video._registration.register()
    assert before == (diffusers.__getattr__, sys.meta_path)
    assert not any(isinstance(finder, _registration._LoadersFinder) for finder in sys.meta_path)


def test_a_diffusers_without_the_table_is_refused_with_the_tested_range() -> None:
    with pytest.raises(ImportError, match=r"LOADABLE_CLASSES.*tested with diffusers>=0\.42\.1,<0\.43"):
        _registration._register_with(types.ModuleType("pipeline_loading_utils"))


def test_an_unknown_class_of_diffusers_stays_an_attribute_error() -> None:
    import diffusers

    with pytest.raises(AttributeError, match="TextToVidoePipeline"):
        diffusers.TextToVidoePipeline  # noqa: B018


def test_a_saved_pipeline_has_a_card_that_names_this_library(saved: Path) -> None:
    card = ModelCard.load(saved / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("diffusers_video", "text-to-video")
    assert 'TextToVideoPipeline.from_pretrained("clips")' in card.text


def test_saving_again_keeps_the_card_that_stands_there(pipeline: TextToVideoPipeline, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine" and (tmp_path / "model_index.json").exists()


@pytest.mark.parametrize("folder_exists", [False, True])
def test_a_save_that_fails_leaves_nothing_behind(
    pipeline: TextToVideoPipeline, tmp_path: Path, folder_exists: bool
) -> None:
    class UnwritableScheduler(DDIMScheduler):
        def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("No space left on device")

    if folder_exists:
        (tmp_path / "clips").mkdir()
    components = {**pipeline.components, "scheduler": UnwritableScheduler()}
    with pytest.raises(OSError, match="No space left"):
        TextToVideoPipeline(**components).save_pretrained(tmp_path / "clips")
    assert [path.name for path in tmp_path.rglob("*")] == ["clips"] * folder_exists


def test_saving_into_the_empty_current_folder_works(
    pipeline: TextToVideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline.save_pretrained(".")
    assert f'from_pretrained("{tmp_path.name}")' in (tmp_path / "README.md").read_text()


def test_saving_over_a_file_is_refused(pipeline: TextToVideoPipeline, tmp_path: Path) -> None:
    (tmp_path / "clips").touch()
    with pytest.raises(NotADirectoryError, match="`save_directory` must be a folder"):
        pipeline.save_pretrained(tmp_path / "clips")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"private": True}, ValueError, "`private` has an effect only with `push_to_hub=True`"),
        ({"push_to_hub": True, "privat": True}, TypeError, "`privat` is no option of a push"),
        ({"push_to_hub": True, "repo_id": "a/b/c"}, ValueError, "a/b/c"),
    ],
)
def test_wrong_options_of_a_push_are_refused_before_anything_is_saved(
    pipeline: TextToVideoPipeline,
    fake_hub: FakeHub,
    tmp_path: Path,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        pipeline.save_pretrained(tmp_path / "clips", **options)
    assert not list(tmp_path.iterdir()) and not fake_hub.repositories


def test_a_card_carries_what_it_is_told(saved: Path, tmp_path: Path) -> None:
    shutil.copy(saved / "model_index.json", tmp_path)
    (tmp_path / "fox.gif").touch()
    options = {"base_model": "org/image", "license": "apache-2.0", "datasets": ["org/clips"], "metrics": ["fvd"]}
    path = hub.write_model_card(
        tmp_path, repo_id="user/name", tags=["x"], prompt="a fox", preview="fox.gif", **options
    )
    card = ModelCard.load(path)
    assert {name: getattr(card.data, name) for name in options} == options
    assert card.data.tags == ["diffusers", "diffusers_video", "x"]
    assert card.data.widget == [{"text": "a fox", "output": {"url": "fox.gif"}}]
    assert "](fox.gif)" in card.text and 'from_pretrained("user/name")' in card.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preview": "fox.gif"}, "`preview` must name a file"),
        ({"prompt": "a fox"}, "`prompt` is the text of `preview`"),
    ],
)
def test_a_card_refuses_a_preview_that_is_not_there(
    saved: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    shutil.copy(saved / "model_index.json", tmp_path)
    with pytest.raises(ValueError, match=message):
        hub.write_model_card(tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["model_index.json"]


def test_the_cards_python_runs(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippet = ModelCard.load(saved / "README.md").text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(saved.parent)  # where the folder bears the name that the card loads
    target = str(tmp_path / "video.mp4")
    short = snippet.replace("video.mp4", target).replace('right"', 'right", num_frames=2, num_inference_steps=1')
    exec(short, {})
    assert os.path.getsize(target)


def test_a_pushed_pipeline_loads_again_by_the_name_of_its_repository(
    pipeline: TextToVideoPipeline, saved: Path, fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pipeline.push_to_hub("clips").startswith("https://huggingface.co/user/clips/commit/")
    files = fake_hub.repositories["user/clips"]
    assert set(files) == {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    for name, content in files.items():
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert 'from_pretrained("user/clips")' in files["README.md"].decode()
    cache = hub_on_this_machine(tmp_path / "repository", tmp_path, monkeypatch)
    loaded = DiffusionPipeline.from_pretrained("user/clips", cache_dir=cache)
    for got, want in zip(loaded.unet.parameters(), pipeline.unet.parameters(), strict=True):
        assert torch.equal(got, want)


def test_saving_pushes_when_asked(pipeline: TextToVideoPipeline, fake_hub: FakeHub, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "clips", push_to_hub=True, commit_message="first", create_pr=True)
    assert "unet/config.json" in fake_hub.repositories["user/clips"]
    assert fake_hub.commits == [{"commit_message": "first", "create_pr": True}]


@pytest.mark.parametrize("overwrite_card", [False, True])
def test_a_card_on_the_hub_is_replaced_only_when_asked(saved: Path, fake_hub: FakeHub, overwrite_card: bool) -> None:
    fake_hub.repositories["user/clips"] = {"README.md": b"edited there"}
    hub.push_pipeline_to_hub(saved, "user/clips", overwrite_card=overwrite_card)
    assert (fake_hub.repositories["user/clips"]["README.md"] != b"edited there") == overwrite_card


def test_checkpoints_of_a_training_run_stay_at_home(saved: Path, fake_hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    (folder / "checkpoint-20").mkdir()
    (folder / "checkpoint-20" / "optimizer.bin").write_bytes(b"large")
    hub.push_pipeline_to_hub(folder, "user/clips")
    assert not [name for name in fake_hub.repositories["user/clips"] if "checkpoint" in name]


def test_a_push_into_a_subfolder_writes_there_and_no_card(saved: Path, fake_hub: FakeHub) -> None:
    hub.push_pipeline_to_hub(saved, "user/clips", subfolder="v2")
    assert {name.split("/")[0] for name in fake_hub.repositories["user/clips"]} == {"v2"}
    assert "v2/README.md" not in fake_hub.repositories["user/clips"]


def test_a_self_contained_push_adds_files_to_the_repository_alone(
    saved: Path, self_contained: Path, fake_hub: FakeHub
) -> None:
    before = sorted(saved.rglob("*"))
    hub.push_pipeline_to_hub(saved, "user/clips", self_contained=True)
    files = fake_hub.repositories["user/clips"]
    assert sorted(saved.rglob("*")) == before
    assert set(files) == {path.relative_to(self_contained).as_posix() for path in self_contained.rglob("*.*")}
    assert files["model_index.json"] == (self_contained / "model_index.json").read_bytes()


def test_hidden_files_stay_at_home(saved: Path, fake_hub: FakeHub, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "clips")
    for name in (".env", ".git/config", "__pycache__/x.pyc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    hub.push_pipeline_to_hub(folder, "user/clips")
    assert not [
        name for name in fake_hub.repositories["user/clips"] if "git" in name or "env" in name or "pyc" in name
    ]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "has no model_index.json"),
        ("{", "is not valid JSON"),
        ("[]", "holds no JSON object"),
        ('{"_class_name": "StableDiffusionPipeline"}', "is a StableDiffusionPipeline"),
        ('{"_class_name": "UNetVideoConditionModel"}', "is a UNetVideoConditionModel"),
    ],
)
def test_only_a_pipeline_of_ours_is_pushed(index: str | None, message: str, fake_hub: FakeHub, tmp_path: Path) -> None:
    if index is not None:
        (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=f"`folder` must hold a.*{message}"):
        hub.push_pipeline_to_hub(tmp_path, "user/clips")
    assert not fake_hub.repositories


def test_a_wrong_repository_name_is_refused_before_anything_is_sent(saved: Path, fake_hub: FakeHub) -> None:
    with pytest.raises(ValueError, match="a/b/c"):
        hub.push_pipeline_to_hub(saved, "a/b/c")
    assert not fake_hub.repositories
