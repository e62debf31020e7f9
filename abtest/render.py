"""Renderings of a report: Markdown, and one HTML file with inline SVG that loads nothing from the network.

Source: docs/experiments.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from abtest.metrics import METRICS
from abtest.results import Report, Result, decomposition
from stream.schemas.money import format_minor

_TEMPLATES = Path(__file__).parent / "templates"
_DASH = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Line of the forest plot, with positions from 0 to 100; an open side has no bound on the axis."""

    label: str
    point: float
    left: float
    right: float
    open_left: bool
    open_right: bool
    text: str
    excludes_zero: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """Forest plot: bars over one axis of lifts."""

    bars: tuple[Bar, ...]
    zero: float
    ticks: tuple[tuple[float, str], ...]


def report_markdown(found: Report) -> str:
    """Return the report as Markdown."""
    return _render("report.md.jinja", found)


def report_html(found: Report, *, appendix: str = "") -> str:
    """Return the report as one self-contained HTML page, with an appendix before its caveats.

    Args:
        found: The report.
        appendix: HTML, which is not escaped.

    Guarantees: the same report gives the same bytes.
    """
    return _render("report.html.jinja", found, appendix)


def table_rows(found: Report) -> list[tuple[str, ...]]:
    """Return the rows of the table of lifts, with the columns of `table_columns`."""
    return [
        (
            METRICS[entry.metric].title,
            entry.arm,
            improvement(entry),
            interval(entry),
            p_value(entry.p_fixed),
            p_value(entry.p_adj),
            value(found, entry, entry.mean_control),
            value(found, entry, entry.mean),
        )
        for entry in _compared(found)
    ]


def table_columns(found: Report) -> tuple[str, ...]:
    """Return the names of the columns of `table_rows`."""
    level = f"{100.0 * (1.0 - found.plan.alpha):.4g} %"
    return ("metric", "arm", "improvement", f"{level} interval", "p-value", "p (Holm)", "control", "arm's value")


def improvement(entry: Result) -> str:
    """Return the lift as signed percent, or the reason why it is undefined."""
    return f"{entry.lift:+.2%}" if entry.lift is not None else f"undefined ({entry.reason})"


def interval(entry: Result) -> str:
    """Return the confidence set of the lift."""
    if entry.set_kind is None:
        return _DASH
    if entry.set_kind == "line" or entry.lo is None or entry.hi is None:
        return "any lift"
    if entry.set_kind == "outside":
        return f"below {entry.lo:+.2%} or above {entry.hi:+.2%}"
    return f"{entry.lo:+.2%} .. {entry.hi:+.2%}"


def p_value(p: float | None) -> str:
    """Return p with three digits; p below 0.001 in powers of ten.

    >>> p_value(0.0434), p_value(1.16e-7), p_value(None)
    ('0.043', '1.2e-07', '–')
    """
    if p is None:
        return _DASH
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def value(found: Report, entry: Result, number: float | None) -> str:
    """Return the value of an experiment metric: percent for rates, an amount for money."""
    metric = METRICS[entry.metric]
    if number is None:
        return _DASH
    if metric.is_money:
        return format_minor(number, found.currency, more=2)
    return f"{number:.3%}" if metric.denominator is not None else f"{number:.4f}"


def moment(timestamp_ms: int | None) -> str:
    """Return a time in UTC.

    >>> moment(0), moment(None)
    ('1970-01-01 00:00:00 UTC', '–')
    """
    if timestamp_ms is None:
        return _DASH
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def forest(found: Report) -> Forest:
    """Return the forest plot of all lifts; a set without bounds extends to the ends of the axis."""
    shown = [entry for entry in _compared(found) if entry.lift is not None]
    bounded = [entry for entry in shown if entry.set_kind == "interval"]
    extents = [abs(edge) for entry in bounded for edge in (entry.lo, entry.hi) if edge is not None]
    extents += [abs(entry.lift or 0.0) for entry in shown]
    # A metric with a very wide interval would flatten the others, so its bar ends in an arrow at the axis' end.
    limit = (
        max(min(max(extents, default=0.01), 6 * sorted(extents)[len(extents) // 2] if extents else 0.01), 0.001) * 1.05
    )

    def place(lift: float) -> float:
        return round(50.0 + 50.0 * max(-1.0, min(1.0, lift / limit)), 3)

    bars = tuple(
        Bar(
            label=f"{METRICS[entry.metric].title} · {entry.arm}",
            point=place(entry.lift or 0.0),
            left=place(entry.lo) if entry.set_kind == "interval" and entry.lo is not None else 0.0,
            right=place(entry.hi) if entry.set_kind == "interval" and entry.hi is not None else 100.0,
            open_left=entry.set_kind != "interval" or (entry.lo or 0.0) < -limit,
            open_right=entry.set_kind != "interval" or (entry.hi or 0.0) > limit,
            text=f"{improvement(entry)} [{interval(entry)}], p {p_value(entry.p_fixed)}",
            excludes_zero=entry.p_fixed is not None and entry.p_fixed < found.plan.alpha,
        )
        for entry in shown
    )
    ticks = tuple((place(step * limit / 2), f"{step * limit / 2:+.1%}") for step in (-2, -1, 0, 1, 2))
    return Forest(bars=bars, zero=place(0.0), ticks=ticks)


def _compared(found: Report) -> list[Result]:
    return [entry for entry in found.results if entry.arm != found.control]


def _render(template: str, found: Report, appendix: str = "") -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {"moment": moment, "p_value": p_value}
    environment.filters.update(filters)
    return environment.get_template(template).render(
        report=found,
        columns=table_columns(found),
        rows=table_rows(found),
        forest=forest(found),
        decomposition=decomposition(found),
        sentences=[entry.sentence for entry in _compared(found) if entry.sentence],
        definitions=[(metric.title, metric.definition) for metric in METRICS.values()],
        minor=_money(found),
        appendix=appendix,
    )


def _money(found: Report) -> Callable[[int], str]:
    return lambda minor: format_minor(minor, found.currency)
