"""Detectors as ONNX graphs: the box that a picture is cut to, and graphs that are none."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from stream.errors import ConfigError
from tests.trainer.vectors.test_pictures import ENCODER, row
from trainer.vectors.boxes import Box
from trainer.vectors.detector import Detector, open_detector
from trainer.vectors.pictures import image

FREE = ("height", "width")
BOX = (2.5, 4.0, 12.0, 15.5)


def write(
    path: Path,
    *,
    sides: tuple[int | str, ...] = FREE,
    box: tuple[float, ...] = BOX,
    weights: tuple[float, float] = (0.25, 1),
    names: tuple[str, str] = ("boxes", "scores"),
    channels: int = 3,
) -> Path:
    """Write a graph with two boxes: the second scores as the picture is light, the first a quarter of that."""
    constants = [
        numpy_helper.from_array(np.array([(0,) * len(box), box], np.float32), "both"),
        numpy_helper.from_array(np.array(weights, np.float32), "weights"),
    ]
    nodes = [
        helper.make_node("Identity", ["both"], [names[0]]),
        helper.make_node("ReduceMean", ["image"], ["light"], keepdims=0),
        helper.make_node("Mul", ["weights", "light"], [names[1]]),
    ]
    taken = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, *sides])
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(nodes, "detector", [taken], given, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def grey(level: int, width: int = 40, height: int = 30) -> Image.Image:
    return Image.new("RGB", (width, height), (level,) * 3)


def found(path: Path, picture: Image.Image) -> tuple[int, int, int, int] | None:
    box = open_detector(path).find(picture)
    return None if box is None else box.corners


def test_the_best_box_is_taken_with_all_pixels_that_it_touches(tmp_path: Path) -> None:
    path = write(tmp_path / "detector.onnx")
    assert found(path, grey(255)) == (2, 4, 12, 16)
    # The score is the lightness from 0 to 1, and .5 is the least.
    assert found(path, grey(128)) == (2, 4, 12, 16)
    assert found(path, grey(127)) is None


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-3, -9, 99, 99), (0, 0, 40, 30)),
        ((38.5, 2, 60, 5), (38, 2, 40, 5)),
        ((41, 0, 50, 9), None),
        ((9, 9, 9, 9), None),
    ],
)
def test_a_box_ends_at_the_edge_of_the_picture(
    tmp_path: Path, box: tuple[float, ...], expected: tuple[int, ...] | None
) -> None:
    assert found(write(tmp_path / "detector.onnx", box=box), grey(255)) == expected


def test_a_graph_of_fixed_size_sees_the_whole_picture_scaled_to_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "detector.onnx", sides=(20, 10))
    # 40 pixels become 10, so a pixel of the input is 4 of the picture; the ground below is white.
    assert found(path, grey(255)) == (10, 16, 40, 30)
    dark = grey(0, width=10, height=20)
    assert found(path, dark) is None
    dark.paste((255, 255, 255), (0, 0, 10, 12))
    assert found(path, dark) == (2, 4, 10, 16)


def test_a_picture_is_cut_unless_the_item_has_a_box(tmp_path: Path) -> None:
    picture = grey(255)
    picture.paste((255, 0, 0), (2, 4, 12, 16))
    picture.paste((0, 0, 255), (30, 20, 40, 30))
    picture.save(tmp_path / "a.png")
    detector = open_detector(write(tmp_path / "detector.onnx"))
    content = image(ENCODER).content(row(tmp_path / "a.png"))
    assert content is not None
    cut = image(ENCODER, None, detector).read(row(tmp_path / "a.png"), content)
    assert {tuple(pixel) for line in cut for pixel in line.tolist()} <= {(255, 0, 0), (255, 255, 255)}
    assert cut.mean((0, 1))[0] == 255
    assert cut.mean((0, 1))[1] < 50
    boxed = image(ENCODER, {"a": Box(place="line 2", x=30, y=20, width=10, height=10)}, detector)
    assert (boxed.read(row(tmp_path / "a.png"), content) == (0, 0, 255)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": (np.nan, 1)}, "a score of nan"),
        ({"box": (np.nan, 0, 9, 9)}, "a box at"),
    ],
)
def test_numbers_that_are_none_are_refused_with_the_picture(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "detector.onnx", **changes)
    find = Detector(digest="0", find=lambda picture: open_detector(path).find(picture))
    grey(0).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=rf"detector\.onnx: no detector: {message}.*items\.csv line 2, .*a\.png"):
        image(ENCODER, None, find).read(row(tmp_path / "a.png"), b"\0" + (tmp_path / "a.png").read_bytes())


def test_another_detector_makes_another_space(tmp_path: Path) -> None:
    def encoder_with(detector: Detector | None) -> tuple[str, str]:
        made = image(ENCODER, None, detector).encoder
        return made.name, made.digest

    one, same, other = (
        open_detector(write(tmp_path / f"{name}.onnx", box=box))
        for name, box in (("one", BOX), ("same", BOX), ("other", (0, 0, 9, 9)))
    )
    assert encoder_with(one) == encoder_with(same)
    assert len({encoder_with(each) for each in (None, one, other)}) == 3
    assert encoder_with(one)[0] == "mean-detector"


def test_what_is_no_detector_is_refused_with_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "detector.onnx"
    expected = r"detector\.onnx: no detector: expected "
    faults: list[tuple[str, dict[str, Any]]] = [
        (r"one input, float32 \(1, 3, H, W\).*, got image tensor\(float\) \[1, 1, 'height'", {"channels": 1}),
        (r"one input.*, and out, scores", {"names": ("out", "scores")}),
        (r"one input.*\[1, 3, 'height', 64\]", {"sides": ("height", 64)}),
        (r"boxes \(n, 4\) and scores \(n\), got boxes \(2, 5\)", {"box": (1, 2, 3, 4, 5)}),
    ]
    for message, changes in faults:
        with pytest.raises(ConfigError, match=expected + message):
            open_detector(write(path, **changes))
    path.write_bytes(b"no graph")
    with pytest.raises(ConfigError, match=r"detector\.onnx: no graph of ONNX"):
        open_detector(path)
