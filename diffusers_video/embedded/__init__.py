"""
The model inside the package: where its files are, and how it samples best.

Importing this module loads nothing. `TextToVideoPipeline.from_pretrained(SHAPES_MODEL)` loads the model.
"""

from pathlib import Path


SHAPES_MODEL = Path(__file__).parent / "shapes"
SHAPES_STEPS = 25
SHAPES_GUIDANCE = 3.0

# What it was trained on, as arguments of `ShapesDataset`.
SHAPES_SUBSET = {
    "shapes": ["circle", "square", "triangle", "star"],
    "colours": ["red", "orange", "yellow", "green", "blue", "purple"],
    "motions": ["left", "right", "up", "down", "grows", "shrinks"],
}
