"""Write a trained `shapes` pipeline as the embedded model: float16 weights and a card with their hashes."""

import hashlib
from argparse import ArgumentParser
from pathlib import Path

import torch

from diffusers_video import TextToVideoPipeline, write_video
from diffusers_video.embedded import SHAPES_GUIDANCE, SHAPES_MODEL, SHAPES_STEPS, SHAPES_SUBSET
from diffusers_video.hub import write_model_card
from diffusers_video.training.run_log import read_results


PROMPT = "a red circle moves right"


def describe(work: Path, folder: Path) -> str:
    """What the card says: how the weights came about, and what they are."""
    counts = ", ".join(f"{len(names)} {part}" for part, names in SHAPES_SUBSET.items())
    lines = ["A small text-to-video model of moving shapes, trained from random weights by",
             f"`examples/shapes/recipe.py` on the synthetic `shapes` set ({counts}).", ""]  # fmt: skip
    lines += ["| stage | updates | held-out loss before | after |", "|---|---|---|---|"]
    for stage in ("autoencoder", "image", "text_to_video"):
        updates, before, after = read_results(work / stage).values()
        lines.append(f"| {stage} | {updates} | {before:.4f} | {after:.4f} |")
    lines += ["", f"It was made for {SHAPES_STEPS} steps with a guidance scale of {SHAPES_GUIDANCE:g}.", ""]
    lines += ["| weights (float16) | SHA-256 |", "|---|---|"]
    for path in sorted(folder.glob("*/*.safetensors")):
        lines.append(f"| {path.relative_to(folder)} | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |")
    return "\n".join(lines)


def main(work: Path, folder: Path) -> None:
    pipeline = TextToVideoPipeline.from_pretrained(work / "text_to_video", dtype=torch.float16)
    for module in (pipeline, pipeline.unet, pipeline.vae):
        module.register_to_config(_name_or_path="")  # where it lay while it was trained is nobody's business
    pipeline.save_pretrained(folder)
    pipeline.to(torch.float32)  # the weights of the files, in a type that CPUs are fast with
    output = pipeline(PROMPT, num_inference_steps=SHAPES_STEPS, guidance_scale=SHAPES_GUIDANCE,
                      generator=torch.Generator().manual_seed(0))  # fmt: skip
    write_video(output.frames[0], folder / "preview.gif", fps=output.fps)
    write_model_card(folder, repo_id="diffusers_video/embedded/shapes", license="apache-2.0",
                     tags=("text-to-video",), description=describe(work, folder), prompt=PROMPT,
                     preview="preview.gif")  # fmt: skip


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--work_dir", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--output_dir", type=Path, default=SHAPES_MODEL)
    options = parser.parse_args()
    main(options.work_dir, options.output_dir)
