"""Write the trained stages of a work folder into the package: float16 weights, and a card for each with their hashes.

    python examples/shapes/export.py --work_dir runs/shapes
    python examples/shapes/export.py --check

Stages that are not finished are left as they are there. `--check` compares the files there with the hashes on their
cards instead.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from running import read_costs
from torch import nn

from diffusers_video import (
    AutoencoderKLVideo,
    TextToVideoPipeline,
    UNetVideoConditionModel,
    VideoSuperResolutionPipeline,
    write_video,
)
from diffusers_video.embedded import EMBEDDED_FOLDER, SHAPES_GUIDANCE, SHAPES_PARTS, SHAPES_STEPS, SHAPES_SUBSET
from diffusers_video.hub import write_model_card
from diffusers_video.layers.video_layers import is_temporal
from diffusers_video.pipelines.long_video_parts import settings_of
from diffusers_video.training.run_log import read_results


PROMPT = "a red circle moves right"
LARGEST_SIZE = 25_000_000  # bytes, of all weights together
BASES = ("text", "autoencoder", "image", "text_to_video_short", "text_to_video")
WHAT = {
    "text_to_video": "A small text-to-video model of moving shapes",
    "key_frames": "Temporal layers that go on from 0, 1 or 2 given frames",
    "interpolation": "Temporal layers that draw three frames between two given ones",
    "decoder": "Temporal layers of the decoder of the autoencoder",
    "super_resolution": "A small model that enlarges frames from 64x64 to 256x256 pixels",
}
USES = {
    "key_frames": 'load_shapes_pipeline("key-frames")',
    "interpolation": 'load_shapes_pipeline("interpolation")',
    "decoder": 'load_shapes_pipeline("text-to-video", temporal_decoder=True)',
    "super_resolution": 'load_shapes_pipeline("super-resolution")',
}


def describe(part: str, work: Path, folder: Path) -> str:
    """What a card says: how the weights came about, what that took, and what they are."""
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in SHAPES_SUBSET.items())
    lines = [f"{WHAT[part]}, trained from random weights by `examples/shapes/recipe.py`",
             f"on the synthetic `shapes` set ({counts}).", "",
             "| stage | updates | held-out loss before | after | CPU seconds | peak MiB |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    costs = read_costs(work)
    for stage in BASES if part == "text_to_video" else (part,):
        results, cost = read_results(work / stage), costs.get(stage, {})
        losses = (f"{results[name]:.4f}" if name in results else ""
                  for name in ("held-out loss before", "held-out loss after"))  # fmt: skip
        cells = (stage, results.get("updates", ""), *losses, cost.get("cpu_seconds", ""), cost.get("peak_mib", ""))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "Empty cells were not measured.", "", "| weights (float16) | SHA-256 |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | `{value}` |" for name, value in hash_weights(folder).items())])


def hash_weights(folder: Path) -> dict[str, str]:
    """SHA-256 of the weight files of a part, by name."""
    paths = sorted(folder.rglob("*.safetensors"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def count_bytes(folder: Path) -> int:
    """Size of the weight files of a part."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def write_card(part: str, work: Path, folder: Path) -> None:
    """Write the card of a part that is no text-to-video pipeline."""
    head = ["---", "library_name: diffusers_video", "license: apache-2.0", "tags:", "- diffusers_video", "---"]
    use = ["", "## Use", "", "```python", "from diffusers_video.embedded import load_shapes_pipeline", "",
           f"pipe = {USES[part]}", "```"]  # fmt: skip
    lines = [*head, "", f"# {SHAPES_PARTS[part][0]}", "", describe(part, work, folder), *use]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_text_to_video(work: Path, folder: Path) -> None:
    """Write the pipeline that the other parts stand on, with a preview."""
    pipeline = TextToVideoPipeline.from_pretrained(work / "text_to_video", dtype=torch.float16)
    for module in (pipeline, pipeline.unet, pipeline.vae):
        module.register_to_config(_name_or_path="")  # where it lay while it was trained is nobody's business
    pipeline.save_pretrained(folder)
    set_text_type(folder)
    pipeline.to(torch.float32)  # the weights of the files, in a type that CPUs are fast with
    output = pipeline(PROMPT, num_inference_steps=SHAPES_STEPS, guidance_scale=SHAPES_GUIDANCE,
                      generator=torch.Generator().manual_seed(0))  # fmt: skip
    write_video(output.frames[0], folder / "preview.gif", fps=output.fps)
    made_for = f"It was made for {SHAPES_STEPS} steps with a guidance scale of {SHAPES_GUIDANCE:g}."
    description = f"{describe('text_to_video', work, folder)}\n\n{made_for}"
    write_model_card(folder, repo_id="diffusers_video/embedded/shapes", license="apache-2.0", prompt=PROMPT,
                     tags=("text-to-video",), description=description, preview="preview.gif")  # fmt: skip


def set_text_type(folder: Path) -> None:
    """Let the text encoder load as the other models do: transformers takes the type that its configuration names."""
    path = folder / "text_encoder" / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), "dtype": "float32"}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_task(part: str) -> Callable[[Path, Path], None]:
    """Make the writer of a task: its temporal layers, and the settings of its pipeline."""

    def write(work: Path, folder: Path) -> None:
        pipeline = DiffusionPipeline.from_pretrained(work / part, dtype=torch.float16)
        shared = UNetVideoConditionModel.from_pretrained(work / "text_to_video", subfolder="unet", dtype=torch.float16)
        check_spatial_layers(pipeline.unet, shared, part)
        pipeline.unet.save_temporal_layers(folder)
        write_settings(folder, {"_class_name": type(pipeline).__name__, **settings_of(pipeline)})
        write_card(part, work, folder)

    return write


def write_decoder(work: Path, folder: Path) -> None:
    """Write the temporal layers of the decoder, and its options."""
    vae = AutoencoderKLVideo.from_pretrained(work / "decoder", dtype=torch.float16)
    shared = AutoencoderKL.from_pretrained(work / "text_to_video", subfolder="vae", dtype=torch.float16)
    check_spatial_layers(vae, shared, "decoder")
    vae.save_temporal_layers(folder)
    write_settings(folder, {"_class_name": type(vae).__name__, **vae.temporal_options})
    write_card("decoder", work, folder)


def write_super_resolution(work: Path, folder: Path) -> None:
    """Write the upscaler as a pipeline of its own."""
    pipeline = VideoSuperResolutionPipeline.from_pretrained(work / "super_resolution", dtype=torch.float16)
    for module in (pipeline, pipeline.unet):
        module.register_to_config(_name_or_path="")
    pipeline.save_pretrained(folder)
    write_card("super_resolution", work, folder)


WRITERS = {
    "text_to_video": write_text_to_video,
    "key_frames": write_task("key_frames"),
    "interpolation": write_task("interpolation"),
    "decoder": write_decoder,
    "super_resolution": write_super_resolution,
}


def write_settings(folder: Path, settings: dict[str, object]) -> None:
    """Write what a part is besides its weights."""
    (folder / "settings.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_spatial_layers(model: nn.Module, shared: nn.Module, part: str) -> None:
    """Refuse temporal layers that were trained on other spatial layers than those that are shipped."""
    weights = shared.state_dict()
    for name, weight in model.state_dict().items():
        if not is_temporal(name) and not torch.equal(weight, weights[name]):
            raise SystemExit(f"The stage {part} was trained on another text_to_video: {name} differs. Train it again.")


def export(work: Path, root: Path, parts: list[str]) -> None:
    """Write parts, each complete or not at all; those that stand there are replaced."""
    for part in parts:
        last = "config.json" if part == "decoder" else "model_index.json"
        if not (work / part / last).is_file():
            logging.info(f"{part}: not finished in {work}")
            continue
        target, scratch = root / SHAPES_PARTS[part][0], root / f".{part}.partial"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        WRITERS[part](work, scratch)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(scratch, target)
        logging.info(f"{part}: {count_bytes(target):,} bytes of weights")
    size = sum(count_bytes(root / name) for name, _ in SHAPES_PARTS.values())
    logging.info(f"All weights: {size:,} of {LARGEST_SIZE:,} bytes")
    if size > LARGEST_SIZE:
        raise SystemExit("The weights are too large to ship. Make a model smaller.")


def find_differences(root: Path) -> list[str]:
    """Say which weight files are not those that their cards name."""
    wrong = []
    for name, _ in SHAPES_PARTS.values():
        card = root / name / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        listed = dict(re.findall(r"\| (\S+\.safetensors) \| `([0-9a-f]{64})` \|", text))
        found = hash_weights(root / name)
        wrong += [f"{name}/{path}" for path in sorted({*listed, *found}) if listed.get(path) != found.get(path)]
    return wrong


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work_dir", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--output_dir", type=Path, default=EMBEDDED_FOLDER, help="Folder of all parts")
    parser.add_argument("--parts", nargs="+", choices=list(WRITERS), default=list(WRITERS), help="All by default")
    parser.add_argument("--check", action="store_true", help="Compare files and cards of --output_dir, write nothing")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.check:
        differences = find_differences(options.output_dir)
        raise SystemExit(f"Not as on the cards: {', '.join(differences)}" if differences else 0)
    export(options.work_dir, options.output_dir, options.parts)
