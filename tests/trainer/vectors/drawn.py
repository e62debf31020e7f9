"""Pictures drawn by tests: forms in colours, as PNG files."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "black", "orange")


def draw(path: Path, number: int, side: int = 48) -> Path:
    """Write a picture whose form, colour, size and place follow from its number."""
    rng = np.random.default_rng(number)
    picture = Image.new("RGB", (side, side), "white")
    pen, size = ImageDraw.Draw(picture), int(rng.integers(side // 4, side // 2))
    left, top = (int(each) for each in rng.integers(0, side - size, 2))
    form = (pen.ellipse, pen.rectangle)[number % 2]
    form((left, top, left + size, top + size), fill=COLOURS[number % len(COLOURS)])
    picture.save(path)
    return path
