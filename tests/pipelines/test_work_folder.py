"""What a run leaves on disk: whole files or none, and settings that are compared by name."""

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from diffusers_video.pipelines import work_folder
from diffusers_video.pipelines.work_folder import WorkFolder, describe

from ..tiny_models import tiny_unet2d


def begun(path: Path, **settings: object) -> WorkFolder:
    folder = WorkFolder(path)
    folder.begin({"seed": 1, **settings})
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_a_window_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    values = (100 * torch.randn(1, 4, 3, 8, 8)).abs().to(dtype)
    begun(tmp_path / "run").save("window", values.transpose(3, 4))
    assert torch.equal(begun(tmp_path / "run").load("window"), values.transpose(3, 4))
    assert begun(tmp_path / "run").load("another") is None


def test_the_first_setting_that_differs_is_named(tmp_path: Path) -> None:
    begun(tmp_path / "run", prompt="a", steps=[1, 2], stages={"image": {"eta": 0.5}})
    begun(tmp_path / "run", prompt="a", steps=(1, 2), stages={"image": {"eta": 0.5}})
    with pytest.raises(ValueError, match="other settings: `prompt` was 'a' and is 'b'. Pass the same"):
        begun(tmp_path / "run", prompt="b", steps=[1, 2], stages={"image": {"eta": 0.5}})
    with pytest.raises(ValueError, match="`stages` was .*0.5.* and is"):
        begun(tmp_path / "run", prompt="a", steps=[1, 2], stages={"image": {"eta": 0.6}})
    with pytest.raises(ValueError, match="`steps` was .* and is None"):
        begun(tmp_path / "run", prompt="a", stages={"image": {"eta": 0.5}})
    with pytest.raises(ValueError, match="`more` was None and is 1"):
        begun(tmp_path / "run", prompt="a", steps=[1, 2], stages={"image": {"eta": 0.5}}, more=1)


def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(tmp_path / "run")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work_folder.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        folder.save("window", torch.ones(3))
    assert [path.name for path in folder.path.iterdir()] == ["plan.json"]


def test_leftovers_of_a_killed_run_do_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".plan.json.partial").write_text("{")
    (tmp_path / "run" / ".window.safetensors.partial").write_bytes(b"half")
    folder = begun(tmp_path / "run")
    assert folder.load("window") is None
    folder.save("window", torch.ones(3))
    assert sorted(path.name for path in folder.path.iterdir()) == ["plan.json", "window.safetensors"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # no file may grow beyond: the disk of a test
    try:
        with pytest.raises(OSError, match="`work_dir` cannot be written to .*: .*window.*Make room"):
            folder.save("window", torch.ones(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in folder.path.iterdir()] == ["plan.json"]


def test_a_damaged_window_is_named(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    folder.save("window", torch.ones(1000))
    path = folder.path / "window.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"window.safetensors is damaged .*Delete it"):
        folder.load("window")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: 3, TypeError, "`work_dir` must be a path"),
        (lambda path: "", TypeError, "`work_dir` must be a path"),
        (lambda path: path / "no" / "run", FileNotFoundError, "`work_dir` must lie in a folder that exists"),
        (lambda path: path / "file", FileExistsError, "`work_dir` must be a folder"),
        (lambda path: path / "photos", FileExistsError, "`work_dir` must be a new or empty folder.*'cat.png'"),
        (lambda path: path / "broken", ValueError, "`work_dir` holds a plan.json that cannot be read"),
        (lambda path: path / "newer", ValueError, "`work_dir` must be of a run of format 1"),
    ],
)
def test_a_folder_that_is_none_of_ours_is_refused(tmp_path: Path, make, error: type[Exception], message: str) -> None:
    (tmp_path / "file").touch()
    for name, file, text in (
        ("photos", "cat.png", ""),
        ("broken", "plan.json", "{"),
        ("newer", "plan.json", json.dumps({"format": 2, "settings": {}})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        WorkFolder(make(tmp_path))
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="`work_dir` cannot be written to"):
        begun(tmp_path / "run")


def test_what_differs_is_described_differently() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    other = image.copy()
    other[3, 3, 2] = 1
    unet = tiny_unet2d()
    first = describe(unet)
    with torch.no_grad():
        unet.conv_in.weight += 1e-6
    values = [
        *(describe(one) for one in (image, other, Image.fromarray(other[:2]), torch.zeros(3), torch.zeros(3).half())),
        *(describe(one) for one in (torch.zeros(1, 3), torch.tensor([0.0, 0.0, -1.0]))),
        *(first, describe(unet), describe(tiny_unet2d(norm_num_groups=2)), describe(tiny_unet2d().half())),
        *(json.dumps(describe(DDIMScheduler(beta_end=end))) for end in (0.01, 0.02)),
    ]
    assert len(set(values)) == len(values)
    assert describe(tiny_unet2d()) == first
    assert describe({"a": (1, 2.5, None, True, "x")}) == {"a": [1, 2.5, None, True, "x"]}
    with pytest.raises(TypeError, match="`work_dir` needs settings that can be compared.*object"):
        describe(object())
