"""The model in the package: its files, and what it draws."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from diffusers_video import TextToVideoPipeline
from diffusers_video.data.shapes_check import read_clip
from diffusers_video.embedded import SHAPES_GUIDANCE, SHAPES_MODEL, SHAPES_STEPS, SHAPES_SUBSET


WEIGHTS = sorted(SHAPES_MODEL.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def pipeline() -> TextToVideoPipeline:
    pipeline = TextToVideoPipeline.from_pretrained(SHAPES_MODEL)  # as the card has it
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: TextToVideoPipeline, prompt: str) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": SHAPES_STEPS, "guidance_scale": SHAPES_GUIDANCE}
    return pipeline(prompt, generator=generator, output_type="np", **options).frames[0]


def test_the_weights_are_in_half_precision() -> None:
    assert len(WEIGHTS) == 3
    for path in WEIGHTS:
        with safe_open(path, "pt") as file:
            types = {file.get_slice(name).get_dtype() for name in file.keys()}
        assert types <= {"F16", "I64"}, path


def test_all_models_load_in_one_type(pipeline: TextToVideoPipeline) -> None:
    types = {module.dtype for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder)}
    assert types == {torch.float32}
    half = TextToVideoPipeline.from_pretrained(SHAPES_MODEL, dtype=torch.float16)
    assert {module.dtype for module in (half.unet, half.vae, half.text_encoder)} == {torch.float16}


def test_the_card_lists_the_hashes_of_the_weights() -> None:
    card = (SHAPES_MODEL / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"\| (\S+\.safetensors) \| `([0-9a-f]{64})` \|", card))
    found = {
        path.relative_to(SHAPES_MODEL).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in WEIGHTS
    }
    assert listed == found


def test_no_file_names_a_folder_of_the_machine_it_was_trained_on() -> None:
    for path in SHAPES_MODEL.rglob("*"):
        if path.suffix in (".json", ".md"):
            assert not re.search(r"(?<![\w.])/(work|home|root|tmp|mnt)/", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("colour", ["red", pytest.param("blue", marks=pytest.mark.slow)])
def test_a_clip_shows_one_object_of_the_colour_and_shape_that_were_asked_for(
    pipeline: TextToVideoPipeline, colour: str
) -> None:
    seen = read_clip(draw(pipeline, f"a {colour} circle moves right"), shapes=SHAPES_SUBSET["shapes"])
    assert set(seen.colours) == {colour} and set(seen.shapes) == {"circle"}  # in each of the 16 frames
    assert seen.roughness < 0.1  # above 0.2 where the frames do not hear of each other


def test_it_loads_in_half_precision_too() -> None:
    pipeline = TextToVideoPipeline.from_pretrained(str(Path(SHAPES_MODEL)), dtype=torch.float16)
    assert {module.dtype for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float16}
