"""Train the embedded `shapes` model from nothing: every stage, one after the other; finished stages are skipped.

    python examples/shapes/recipe.py --work_dir runs/shapes

Stopped, the same command goes on from the last checkpoint. The trained pipeline is `WORK_DIR/text_to_video`, which
export.py makes the embedded model. `--quick` does two updates per stage, to see that everything runs.
"""

import json
import logging
import shlex
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

from diffusers_video.embedded import SHAPES_SUBSET


HERE = Path(__file__).parent
SUBSET = json.dumps(SHAPES_SUBSET)
CLI = [sys.executable, "-m", "diffusers_video.cli"]


def run(name: str, done: Path, command: list[str | Path]) -> None:
    """Run a command unless the file that it writes last is there; say what it cost."""
    if done.exists():
        logging.info(f"{name}: there already")
        return
    logging.info(f"{name}: {shlex.join(map(str, command))}")
    start = time.monotonic()
    subprocess.run(list(map(str, command)), check=True)
    logging.info(f"{name}: {time.monotonic() - start:.0f} s")


def train(name: str, script: str, out: Path, last: str, *arguments: str | Path) -> None:
    """Train a stage, from its last checkpoint if there is one."""
    settings = [HERE / f"{name}.yaml", *arguments, "--output_dir", out]
    if any(out.glob("checkpoint-*")):
        settings += ["--resume_from_checkpoint", "latest"]
    run(name, out / last, [*CLI, "train", "--script", script, *settings])


def pack(name: str, out: Path, model: Path, clips: int, seed: int, *arguments: str) -> Path:
    """Encode clips of the subset."""
    shapes = ["--num-shapes-clips", str(clips), "--shapes-options", SUBSET, "--seed", str(seed)]
    run(name, out / "index.json", [*CLI, "data", "pack", "shapes", out, "--model", model, *shapes, *arguments])
    return out


def main(work: Path, quick: bool) -> None:
    few = ["--max_train_steps", "2"] if quick else []
    text, vae, start = work / "text", work / "autoencoder", work / "untrained"
    run("text encoder", text / "tokenizer" / "tokenizer.json",
        [sys.executable, HERE / "text_encoder.py", "--output_dir", text, *few])  # fmt: skip
    train("autoencoder", "autoencoder", vae, "config.json",
          "--model_config_name_or_path", HERE / "autoencoder.json", *few)  # fmt: skip
    run("untrained image model", start / "model_index.json",
        [sys.executable, HERE / "image_model.py", "--text_dir", text, "--autoencoder_dir", vae,
         "--output_dir", start])  # fmt: skip
    for name, base, frames, clips in (("image", start, 1, 32_000), ("text_to_video", work / "image", 16, 6_000)):
        length = ["--train", "spatial"] if frames == 1 else ["--num-frames", str(frames)]
        sets = [pack(f"{name} {part}", work / f"{name}_{part}", start, number, seed, *length)
                for part, number, seed in (("clips", 64 if quick else clips, 0), ("heldout", 64, 1))]  # fmt: skip
        train(name, "video-unet", work / name, "model_index.json", "--pretrained_model_name_or_path", base,
              "--train_data_dir", sets[0], "--heldout_data_dir", sets[1], *few)  # fmt: skip


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work_dir", type=Path, default=Path("runs/shapes"))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser.add_argument("--quick", action="store_true", help="Two updates per stage")
    options = parser.parse_args()
    main(options.work_dir, options.quick)
