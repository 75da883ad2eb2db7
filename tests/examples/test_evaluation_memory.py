"""The memory of an evaluation does not follow the number of clips: slow, because it takes hundreds of them to see."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import typer


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads peaks in the unit of Linux")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("num_resamples", [0, 2])
def test_clips_are_not_kept_in_memory(load_benchmark: Callable[[str], ModuleType], num_resamples: int) -> None:
    module = load_benchmark("evaluation_memory")
    allocators = {"strict": module.RETURNING}
    few, many = module.measure_growth((64, 512), num_resamples, allocators)["strict"]
    # 448 more clips take 88 MB as bytes, 352 MB as float32, and their features 57 kB. What is kept of a clip are its
    # name and place, about 1 kB; in two runs the process grew by 1 MB.
    assert many - few < 3e6


def test_folders_hold_as_many_clips_as_asked_for(
    load_benchmark: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_benchmark("evaluation_memory")
    monkeypatch.setattr(module, "NUM_FRAMES", 2)
    first, second = (module.make_folder(tmp_path, str(count), count) for count in (3, 9))
    assert len(list(first.iterdir())) == 3 and len(list(second.iterdir())) == 9
    with pytest.raises(typer.BadParameter, match="must be more than `--few`"):
        module.main(few=64, many=64)
