"""Plots of lines over two axes as inline SVG, for pages that load nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from abtest import templating

Point = tuple[float, float]

_TEMPLATES = Path(__file__).parent / "templates"
_WIDTH, _HEIGHT = 640.0, 300.0
_MARGIN = 48.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot, in the coordinates of the picture.

    Attributes:
        points: Points of the line.
        mark: A point that is set off.
        bars: Upright bars, each as place, top and bottom: intervals of points.
    """

    name: str
    points: tuple[Point, ...]
    mark: Point | None = None
    bars: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot of lines over two axes, with ticks as (place, text), inside margins of the picture."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: float = _WIDTH
    height: float = _HEIGHT
    margin: float = _MARGIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """The middle half of values between 0 and 1, with their median: one bar that lies."""

    name: str
    note: str
    quartiles: tuple[float, float, float]


def plot(
    title: str,
    x_title: str,
    y_title: str,
    curves: Mapping[str, Sequence[Point]],
    *,
    marks: Mapping[str, float],
    intervals: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
) -> Plot:
    """Return the plot of curves.

    Args:
        title: Title.
        x_title: What the horizontal axis shows.
        y_title: What the upright axis shows.
        curves: Name to points of a line.
        marks: Name to the x near which a point of the line is set off.
        intervals: Name to intervals of the line, as x, low and high.
    """
    bars = intervals or {}
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    ys += [y for own in bars.values() for _, low, high in own for y in (low, high)]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)

    def place(x: float, y: float) -> Point:
        across = (x - x_low) / ((x_high - x_low) or 1.0)
        up = (y - y_low) / ((y_high - y_low) or 1.0)
        return (
            round(_MARGIN + across * (_WIDTH - 2 * _MARGIN), 2),
            round(_HEIGHT - _MARGIN - up * (_HEIGHT - 2 * _MARGIN), 2),
        )

    lines = []
    for name, points in curves.items():
        mark = None
        if name in marks:
            nearest = min(points, key=lambda point, at=marks[name]: abs(point[0] - at))  # type: ignore[misc]
            mark = place(*nearest)
        lines.append(
            Line(
                name=name,
                points=tuple(place(*point) for point in points),
                mark=mark,
                bars=tuple(
                    (place(x, high)[0], place(x, high)[1], place(x, low)[1]) for x, low, high in bars.get(name, ())
                ),
            )
        )
    steps = range(5)
    return Plot(
        title=title,
        x_title=x_title,
        y_title=y_title,
        lines=tuple(lines),
        x_ticks=tuple((place(x, y_low)[0], f"{x:.3g}") for x in (x_low + k * (x_high - x_low) / 4 for k in steps)),
        y_ticks=tuple((place(x_low, y)[1], f"{y:.3g}") for y in (y_low + k * (y_high - y_low) / 4 for k in steps)),
    )


def environment(*folders: Path) -> Environment:
    """Return the templates of these folders and of this package, among them the macro `figure` of a plot."""
    return templating.environment((*folders, _TEMPLATES))
