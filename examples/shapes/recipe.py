"""Train the embedded `shapes` models from nothing: every stage, one after the other; finished stages are skipped.

    python examples/shapes/recipe.py --work_dir runs/shapes
    python examples/shapes/recipe.py --work_dir runs/shapes --stages key_frames interpolation

Stopped, the same command goes on from the last checkpoint. Each stage has a folder of its name in the work folder, and
`costs.json` there says what each took. export.py makes the embedded models of them. `--quick` does two updates per
stage, to see that everything runs.
"""

import logging
import sys
from argparse import ArgumentParser
from pathlib import Path

from running import HERE, Recipe

from diffusers_video.embedded import SHAPES_SUBSET


class ShapesRecipe(Recipe):
    """The stages, each a method; they stand in the order in which they build on each other."""

    def text(self) -> None:
        out = self.work / "text"
        self.run("text", out / "tokenizer" / "tokenizer.json",
                 [sys.executable, HERE / "text_encoder.py", "--output_dir", out, *self.few])  # fmt: skip

    def autoencoder(self) -> None:
        config = HERE / "autoencoder.json"
        self.train("autoencoder", "autoencoder", "config.json", "--model_config_name_or_path", config)

    def image(self) -> None:
        start, vae = self.work / "untrained", self.find("autoencoder", "config.json")
        texts = self.find("text", "tokenizer/tokenizer.json")
        self.run("untrained", start / "model_index.json",
                 [sys.executable, HERE / "image_model.py", "--text_dir", texts, "--autoencoder_dir", vae,
                  "--output_dir", start])  # fmt: skip
        sets = self.pack("image", start, 32_000, "--train", "spatial")
        self.train("image", "video-unet", "model_index.json", "--pretrained_model_name_or_path", start, *sets)

    def text_to_video_short(self) -> None:
        base, image = self.work / "image_model", self.find("image")
        texts, vae = self.find("text", "tokenizer/tokenizer.json"), self.find("autoencoder", "config.json")
        self.run("image_model", base / "model_index.json",
                 [sys.executable, HERE / "image_model.py", "--text_dir", texts, "--autoencoder_dir", vae,
                  "--unet_dir", image / "unet", "--output_dir", base])  # fmt: skip
        sets = self.pack("text_to_video_short", self.find("untrained"), 12_000, "--num-frames", "4")
        self.train(
            "text_to_video_short", "video-unet", "model_index.json", "--pretrained_model_name_or_path", base, *sets
        )

    def text_to_video(self) -> None:
        base = self.find("text_to_video_short")
        sets = self.pack("text_to_video", self.find("untrained"), 6_000, "--num-frames", "16")
        self.train("text_to_video", "video-unet", "model_index.json", "--pretrained_model_name_or_path", base, *sets)

    def key_frames(self) -> None:
        base = self.find("text_to_video")
        sets = self.pack("text_to_video", self.find("untrained"), 6_000, "--num-frames", "16")
        self.train("key_frames", "video-unet", "model_index.json", "--pretrained_model_name_or_path", base, *sets)

    def interpolation(self) -> None:
        base = self.find("text_to_video")
        length = ["--num-frames", "65", "--fps", "128"]
        sets = self.pack("interpolation", self.find("untrained"), 600, *length, heldout=32)
        self.train("interpolation", "video-unet", "model_index.json", "--pretrained_model_name_or_path", base, *sets)

    def decoder(self) -> None:
        self.train("decoder", "video-decoder", "config.json", "--pretrained_model_name_or_path",
                   self.find("autoencoder", "config.json"), "--shapes_options", self.subset)  # fmt: skip

    def super_resolution(self) -> None:
        start = self.work / "untrained_upscaler"
        self.run("untrained_upscaler", start / "model_index.json",
                 [sys.executable, HERE / "upscaler.py", "--output_dir", start])  # fmt: skip
        self.train("super_resolution", "super-resolution", "model_index.json", "--pretrained_model_name_or_path",
                   start, "--shapes_options", self.subset)  # fmt: skip


STAGES = tuple(name for name in vars(ShapesRecipe) if not name.startswith("_"))


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work_dir", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="Some of them; all by default")
    parser.add_argument("--quick", action="store_true", help="Two updates per stage")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = ShapesRecipe(options.work_dir, options.quick, SHAPES_SUBSET)
    for stage in STAGES:
        if stage in options.stages:
            getattr(recipe, stage)()
