"""Detectors by path: an ONNX graph that finds where the item stands in its picture.

The graph takes one picture, float32 (1, 3, H, W) with red, green and blue from 0 to 1, and gives `boxes`, (n, 4): left,
upper, right and lower edge in pixels, and `scores`, (n). So do detectors of torchvision with these names of outputs. If
H and W are fixed, the picture is scaled to fit and stands in the upper left corner, on white.

Source: docs/vectors.md, "Encoders".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stream.errors import ConfigError
from trainer.vectors.boxes import Box
from trainer.vectors.encoder import Floats, digest_of
from trainer.vectors.onnx_graph import open_graph

if TYPE_CHECKING:
    from PIL import Image

MIN_SCORE: Final = 0.5
"""Least score of a box that a picture is cut to."""
_OUTPUTS: Final = ("boxes", "scores")
_EXPECTED: Final = "expected one input, float32 (1, 3, H, W), and the outputs boxes and scores"
_WHITE: Final = (255, 255, 255)
_PROBE_SIDE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A detector of items.

    Attributes:
        digest: sha256 of the graph and of how it is used. Equal digests find equal boxes.
        find: Returns the box with the highest score in a picture, None if no score reaches `MIN_SCORE`.
    """

    digest: str
    find: Callable[["Image.Image"], Box | None]


def open_detector(path: Path) -> Detector:
    """Return the detector in a file.

    Raises:
        ConfigError: If the file is no graph, or its inputs and outputs are not those of a detector.
    """
    from PIL import Image

    session = open_graph(path)
    size = _size(path, session)
    (wanted,) = (each.name for each in session.get_inputs())

    def find(picture: "Image.Image") -> Box | None:
        seen, scale = (picture, 1.0) if size is None else _fitted(picture, size)
        pixels = np.asarray(seen, np.float32).transpose(2, 0, 1)[None] / 255
        try:
            boxes, scores = session.run(list(_OUTPUTS), {wanted: pixels})
        except Exception as error:
            raise ConfigError(f"{path}: no detector: {error}") from error
        if scores.ndim != 1 or boxes.shape != (len(scores), 4):
            shapes = f"boxes {boxes.shape} and scores {scores.shape}"
            raise ConfigError(f"{path}: no detector: expected boxes (n, 4) and scores (n), got {shapes}")
        if not np.isfinite(scores).all():
            # The largest of numbers with NaN is NaN, so that no box would be found.
            raise ConfigError(f"{path}: no detector: a score of {scores[~np.isfinite(scores)][0]}")
        best = int(np.argmax(scores)) if len(scores) else None
        if best is None or not scores[best] >= MIN_SCORE:
            return None
        return _box(path, boxes[best] / scale, picture)

    # A wrong output is known before hours of encoding.
    find(Image.new("RGB", (_PROBE_SIDE, _PROBE_SIDE), _WHITE))
    how = f"{_EXPECTED}, best score from {MIN_SCORE}, fitted on white, whole pixels outwards"
    return Detector(digest=digest_of(how, [path]), find=find)


def _size(path: Path, session: Any) -> tuple[int, int] | None:
    """Return the fixed width and height of the input, None if both are free."""
    inputs = session.get_inputs()
    outputs = {each.name for each in session.get_outputs()}
    shape = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    fixed = [each for each in shape[2:] if isinstance(each, int)]
    if len(shape) != 4 or shape[1] != 3 or len(fixed) == 1 or not outputs.issuperset(_OUTPUTS):
        got = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise ConfigError(f"{path}: no detector: {_EXPECTED}, got {got}, and {', '.join(sorted(outputs))}")
    return (fixed[1], fixed[0]) if fixed else None


def _fitted(picture: "Image.Image", size: tuple[int, int]) -> tuple["Image.Image", float]:
    """Return the picture on a ground of a size, and by how much it was scaled."""
    from PIL import Image

    scale = min(size[0] / picture.width, size[1] / picture.height)
    ground = Image.new("RGB", size, _WHITE)
    sides = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    ground.paste(picture.resize(sides, Image.Resampling.BICUBIC))
    return ground, scale


def _box(path: Path, edges: Floats, picture: "Image.Image") -> Box | None:
    """Return the pixels that a box touches; None if it lies outside of the picture."""
    if not np.isfinite(edges).all():
        raise ConfigError(f"{path}: no detector: a box at {edges.tolist()}")
    left, upper, right, lower = (float(each) for each in edges)
    x, y = max(0, math.floor(left)), max(0, math.floor(upper))
    width = min(picture.width, math.ceil(right)) - x
    height = min(picture.height, math.ceil(lower)) - y
    return Box(place=str(path), x=x, y=y, width=width, height=height) if width > 0 and height > 0 else None
