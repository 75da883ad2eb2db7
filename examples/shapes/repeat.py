"""Train the beginning of finished stages once more, and say whether the losses are the same, number for number.

    python examples/shapes/repeat.py --work_dir runs/shapes --repeat_dir runs/repeat

Each stage starts from the finished stages before it, has the whole length of its schedule, and is stopped at a tenth.
The text encoder, which writes no losses, is trained whole; its weights are compared. Losses are the same on the same
kind of machine with the same versions only.
"""

import json
import logging
import os
import signal
import threading
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from export import hash_weights
from recipe import STAGES, ShapesRecipe

from diffusers_video.embedded import SHAPES_SUBSET


Losses = dict[tuple[int, str], float]


def read_losses(path: Path) -> Losses:
    """Losses of a log, of training and held out, by update and name; half a line at its end is left out."""
    losses = {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    for entry in map(json.loads, lines):
        losses |= {(entry["step"], name): entry[name] for name in ("loss", "heldout_loss") if name in entry}
    return losses


def compare(first: Losses, second: Losses) -> tuple[int, int | None]:
    """How many losses both have, and the first update at which they differ."""
    both = first.keys() & second.keys()
    return len(both), min((key[0] for key in both if first[key] != second[key]), default=None)


class Beginning(ShapesRecipe):
    """A recipe whose trainings stop after some updates."""

    log, last_step = Path(), 0

    def wait_for(self, command: Sequence[str]) -> tuple[int, float, float]:
        is_over = threading.Event()
        watcher = threading.Thread(target=self.stop_at_last_step, args=(is_over,))
        watcher.start()
        try:
            return super().wait_for(command)
        finally:
            is_over.set()
            watcher.join()

    def stop_at_last_step(self, is_over: threading.Event) -> None:
        """Interrupt the training, which then saves a checkpoint, once its log is long enough."""
        while not is_over.wait(0.5):
            if max((step for step, _ in read_losses(self.log)), default=0) >= self.last_step:
                os.kill(os.getpid(), signal.SIGINT)  # `wait_for` hands it on
                return


def link_finished(work: Path, folder: Path, stage: str) -> None:
    """Let a folder have all stages of another one but one."""
    folder.mkdir(parents=True)
    for path in work.iterdir():
        if path.is_dir() and path.name != stage:
            (folder / path.name).symlink_to(path.resolve(), target_is_directory=True)


def repeat(stage: str, work: Path, folder: Path, part: float) -> bool:
    """Train the beginning of a stage; whether it went as before."""
    if not folder.exists():
        link_finished(work, folder, stage)
    recipe = Beginning(folder, False, SHAPES_SUBSET)
    if stage == "text":
        recipe.last_step = float("inf")
        recipe.text()
        is_same = hash_weights(work / stage) == hash_weights(folder / stage)
        logging.info(f"{stage}: the weights are {'the same' if is_same else 'others'}")
        return is_same
    losses = read_losses(work / stage / "log.jsonl")
    recipe.log, recipe.last_step = folder / stage / "log.jsonl", round(part * max(losses)[0])
    if max(read_losses(recipe.log), default=(0, ""))[0] < recipe.last_step:
        try:
            getattr(recipe, stage)()
        except SystemExit as stop:
            logging.info(stop)
    number, place = compare(losses, read_losses(recipe.log))
    told = "all the same" if place is None else f"the same before update {place} only"
    logging.info(f"{stage}: {number} losses of {recipe.last_step} updates: {told}")
    return number > recipe.last_step and place is None


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work_dir", type=Path, default=Path("runs/shapes"), help="With finished stages")
    parser.add_argument("--repeat_dir", type=Path, default=Path("runs/repeat"), help="For a folder of each stage")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="Some of them; all by default")
    parser.add_argument("--part", type=float, default=0.1, help="Of the updates of a stage")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = {
        stage: repeat(stage, options.work_dir, options.repeat_dir / stage, options.part)
        for stage in STAGES
        if stage in options.stages
    }
    if not all(results.values()):
        raise SystemExit(f"Not as before: {', '.join(stage for stage, is_same in results.items() if not is_same)}")
