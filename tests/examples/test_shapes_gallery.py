"""The gallery: every motion and shape is shown, each clip with its label, in a file that browsers play."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from diffusers_video.embedded import SHAPES_SUBSET

from ..tiny_pipelines import tiny_text_to_video


SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "shapes" / "gallery.py"


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shapes_gallery", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_labels_show_all_that_the_model_knows(gallery: ModuleType) -> None:
    labels = gallery.choose_labels(4)
    assert len(set(labels)) == len(labels) == 4 * len(SHAPES_SUBSET["motions"])
    words = {word for noun, _ in labels for word in noun.split()}
    assert words == {*SHAPES_SUBSET["shapes"], *SHAPES_SUBSET["colours"]}


def test_each_clip_stands_at_its_place(gallery: ModuleType) -> None:
    clips = np.arange(5, dtype=np.uint8)[:, None, None, None, None] * np.full((1, 3, 16, 16, 3), 40, dtype=np.uint8)
    pages = gallery.compose(clips, [("a", "b")] * 5, num_columns=2, scale=2)
    assert len(pages) == 3 and pages[0].size == (2 * 38 + 6, 3 * 66 + 6)
    for number in range(5):
        left, top = 6 + number % 2 * 38, 6 + number // 2 * 66
        assert pages[2].getpixel((left + 31, top + 31)) == (40 * number,) * 3
    label = np.asarray(pages[0].crop((6, 6 + 32, 38, 66)))
    assert label.min() < 128 and label[:2].min() > 128  # ink, below the picture


def test_a_gallery_is_a_file_that_plays(gallery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_text_to_video().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(gallery, "choose_labels", lambda num_rows: [("red circle", "grows")] * 2)
    output = tmp_path / "gallery.webp"
    gallery.main(output, tmp_path / "model", num_rows=1, scale=2, steps=1, seed=0)
    with Image.open(output) as picture:
        assert picture.format == "WEBP" and picture.n_frames == 3 and picture.info["loop"] == 0
    monkeypatch.setattr(gallery, "LARGEST_FILE", 100)
    monkeypatch.setattr(gallery, "draw_clips", lambda *_: (np.zeros((2, 2, 16, 16, 3), dtype=np.uint8), 8.0))
    with pytest.raises(ValueError, match="`output` must be below 100 bytes"):
        gallery.main(output, tmp_path / "model", num_rows=1, scale=2, steps=1, seed=0)
