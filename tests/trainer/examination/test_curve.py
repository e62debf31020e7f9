from pathlib import Path

import msgspec
import pytest

from stream.errors import ConfigError
from trainer.examination.curve import Curve, Positions, given, load


def test_positions_of_a_group_have_its_value() -> None:
    curve = Curve(
        data="log",
        method="swaps",
        positions=(Positions(first=1, last=1, examination=1.0), Positions(first=2, last=4, examination=0.25)),
    )
    assert curve.values() == (1.0, 0.25, 0.25, 0.25)


def test_a_file_holds_chances_or_a_curve(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    path.write_text("[0.8, 0.4, 0.2]")
    found = load(path)
    assert found.values() == (1.0, 0.5, 0.25)
    assert found.data == "curve.json"
    path.write_bytes(msgspec.json.encode(found))
    assert load(path) == found


@pytest.mark.parametrize("text", ["[]", "[0.0, 1.0]", "[1.0, -0.5]", "[1.0, 1e999]", '{"x": 1}', "no"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "curve.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"curve\.json holds no examination curve"):
        load(path)
    with pytest.raises(ConfigError, match=r"absent\.json"):
        load(tmp_path / "absent.json")


def test_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match="positions begin at 3: expected 2"):
        Curve(
            data="log",
            method="swaps",
            positions=(Positions(first=1, last=1, examination=1.0), Positions(first=3, last=3, examination=0.5)),
        )
    with pytest.raises(ValueError, match="positions: expected at least one"):
        Curve(data="log", method="swaps", positions=())
    with pytest.raises(ValueError, match="positions 2 to 1: expected at least 1, in order"):
        Positions(first=2, last=1, examination=1.0)
    assert given([0.5], "one").values() == (1.0,)
