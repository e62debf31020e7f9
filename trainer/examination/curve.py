"""The examination curve: the chance that a shopper looks at a position, relative to position 1.

Source: Joachims, Swaminathan and Schnabel 2017, Unbiased Learning-to-Rank with Biased Feedback (the position-based
model); docs/training.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from stream.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """Neighbouring positions that share one estimate.

    Attributes:
        first, last: Bounds, both included, from 1.
        examination: Chance that the positions are looked at, relative to the first ones.
        low, high: Bounds of the 95 % bootstrap interval over visits; None of a curve that was given.
        effective_clicks: Information of the data on the logarithm of `examination`, as a number of clicks.
        num_rows, num_clicks: Items shown there, and those clicked.
    """

    first: int
    last: int
    examination: float
    low: float | None = None
    high: float | None = None
    effective_clicks: float | None = None
    num_rows: int = 0
    num_clicks: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"positions {self.first} to {self.last}: expected at least 1, in order")
        if not 0 < self.examination < float("inf"):
            raise ValueError(f"examination = {self.examination} of position {self.first}: expected more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """An examination curve over positions without gaps.

    Attributes:
        data: Name of the data.
        method: `shuffle`, `swaps`, `em` or `file`.
        positions: Estimates, from position 1 on.
        num_lists, num_visits, num_clicks: Data behind the curve.
        num_beyond: Positions behind the last one that the data do not compare with it.
        left_out: Lists left out, by reason.
    """

    data: str
    method: str
    positions: tuple[Positions, ...]
    num_lists: int = 0
    num_visits: int = 0
    num_clicks: int = 0
    num_beyond: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.positions:
            raise ValueError("positions: expected at least one")
        expected = 1
        for each in self.positions:
            if each.first != expected:
                raise ValueError(f"positions begin at {each.first}: expected {expected}, without gaps")
            expected = each.last + 1

    def values(self) -> tuple[float, ...]:
        """Return the examination of each position, from position 1 on, rounded to four digits."""
        return tuple(round(each.examination, 4) for each in self.positions for _ in range(each.first, each.last + 1))


def load(path: Path) -> Curve:
    """Return the curve of a file: a JSON list of chances from position 1 on, or a curve as the command writes it.

    Raises:
        ConfigError: If the file is missing or holds no curve.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    try:
        found = msgspec.json.decode(raw, type=list[float] | Curve)
        return found if isinstance(found, Curve) else given(found, path.name)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path} holds no examination curve: {error}") from error


def given(values: list[float], name: str) -> Curve:
    """Return the curve of given chances, relative to the first.

    Raises:
        ValueError: If there is none, or one is not above 0.

    >>> given([0.5, 0.25], "example").values()
    (1.0, 0.5)
    """
    if not values or not values[0] > 0:
        raise ValueError(f"{values[:1]}: expected a first chance above 0")
    return Curve(
        data=name,
        method="file",
        positions=tuple(
            Positions(first=number, last=number, examination=value / values[0])
            for number, value in enumerate(values, start=1)
        ),
    )
