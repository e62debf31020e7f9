"""Numbers, times and verdicts of a report in words, its tables, and the report as Markdown.

Source: docs/experiments.md.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from jinja2 import Environment

from abtest import templating
from abtest.looks import INVALID, KEEP_RUNNING
from abtest.metrics import METRICS
from abtest.results import Report, Result, decomposition
from abtest.templating import DASH
from stream.schemas.money import format_minor


def environment() -> Environment:
    """Return the environment of the templates, with times and p-values as filters."""
    found = templating.environment()
    filters: dict[str, Callable[..., object]] = {"moment": moment, "p_value": p_value, "adjusted_rows": adjusted_rows}
    found.filters.update(filters)
    found.globals["adjusted_columns"] = ADJUSTED_COLUMNS
    return found


def report_markdown(found: Report) -> str:
    """Return the report as Markdown."""
    return (
        environment()
        .get_template("report.md.jinja")
        .render(
            report=found,
            columns=table_columns(found),
            rows=table_rows(found),
            verdict=verdict_line(found),
            look_columns=LOOK_COLUMNS,
            looks=look_rows(found),
            decomposition=decomposition(found),
            sentences=[entry.sentence for entry in _compared(found) if entry.sentence],
            definitions=[(metric.title, metric.definition) for metric in METRICS.values()],
            minor=_money(found),
        )
    )


def verdict_line(found: Report) -> str:
    """Return the verdict, and what an experiment without one waits for."""
    if found.verdict != KEEP_RUNNING:
        return f"{found.verdict} because {found.verdict_reason}" if found.verdict == INVALID else found.verdict
    until = f" until {moment(found.until_ts)[:10]}" if found.until_ts is not None else ""
    more = f" ({found.more_clients:,} more clients)" if found.more_clients is not None else ""
    return f"{found.verdict}{until}{more}"


def table_rows(found: Report) -> list[tuple[str, ...]]:
    """Return the rows of the table of lifts, with the columns of `table_columns`."""
    return [
        (
            METRICS[entry.metric].title,
            entry.arm,
            improvement(entry),
            interval(entry.cs_lo, entry.cs_hi, entry.cs_kind),
            p_value(entry.cs_p),
            *(
                (interval(entry.lo, entry.hi, entry.set_kind), p_value(entry.p_fixed), p_value(entry.p_adj))
                if found.complete
                else ()
            ),
            value(found, entry.metric, entry.mean_control),
            value(found, entry.metric, entry.mean),
        )
        for entry in _compared(found)
    ]


def table_columns(found: Report) -> tuple[str, ...]:
    """Return the names of the columns of `table_rows`; those of one fixed horizon appear after the end."""
    fixed = (f"{_level(found.plan.alpha)} interval (fixed horizon)", "p-value (fixed)", "p (Holm)")
    return (
        "metric",
        "arm",
        "improvement",
        f"{sequence_level(found)} confidence sequence",
        "p (always valid)",
        *(fixed if found.complete else ()),
        "control",
        "arm's value",
    )


def adjusted_rows(found: Report) -> list[tuple[str, ...]]:
    """Return the rows of the table of lifts by CUPED, with the columns of `ADJUSTED_COLUMNS`."""
    return [
        (
            METRICS[entry.metric].title,
            entry.arm,
            f"{entry.lift:+.2%}" if entry.lift is not None else f"undefined ({entry.reason})",
            interval(entry.cs_lo, entry.cs_hi, entry.cs_kind),
            p_value(entry.cs_p),
            *((interval(entry.lo, entry.hi, entry.set_kind), p_value(entry.p_fixed)) if found.complete else ("", "")),
            f"{entry.variance_ratio:.0%}",
        )
        for entry in found.adjusted
    ]


def primary_title(found: Report) -> str:
    """Return the primary metric, and by what looks adjust it."""
    plan = found.plan
    if plan.primary is None:
        return "none: no verdict"
    by = f", by CUPED on {plan.cuped_days:g} days before the first exposure" if plan.cuped_days else ""
    return METRICS[plan.primary].title + by


ADJUSTED_COLUMNS = (
    "metric",
    "arm",
    "improvement by CUPED",
    "confidence sequence",
    "p (always valid)",
    "interval (fixed horizon)",
    "p-value (fixed)",
    "variance left",
)


LOOK_COLUMNS = ("look", "data up to", "arm", "plan done", "alpha spent", "boundary", "z", "lift", "set", "p", "verdict")


def look_rows(found: Report) -> list[tuple[str, ...]]:
    """Return the rows of the table of looks, with the columns of `LOOK_COLUMNS`."""
    return [
        (
            str(look.number),
            moment(look.as_of),
            look.arm,
            f"{look.fraction:.0%}",
            f"{look.spent:.4g} of {look.alpha:.4g}",
            DASH if look.boundary is None else f"{look.boundary:.3f}",
            f"{look.z:+.3f}",
            DASH if look.lift is None else f"{look.lift:+.2%}",
            interval(look.lo, look.hi, look.set_kind),
            p_value(look.p),
            look.verdict,
        )
        for look in found.looks
    ]


def sequence_level(found: Report) -> str:
    """Return the level of the confidence sequences, each arm's own share of the error level."""
    return _level(found.plan.alpha / max(1, len(found.arms) - 1))


def _level(alpha: float) -> str:
    return f"{100.0 * (1.0 - alpha):.4g} %"


def reason(code: str | None) -> str:
    """Return a reason code in words.

    >>> reason("mixed_currency")
    'mixed currency'
    """
    return (code or "unknown").replace("_", " ")


def improvement(entry: Result) -> str:
    """Return the lift as signed percent, or the reason why it is undefined."""
    return f"{entry.lift:+.2%}" if entry.lift is not None else f"undefined ({entry.reason})"


def interval(lo: float | None, hi: float | None, kind: str | None) -> str:
    """Return a confidence set of the lift in words.

    >>> interval(-0.01, 0.02, "interval"), interval(-0.5, 2.0, "outside")
    ('-1.00% .. +2.00%', 'below -50.00% or above +200.00%')
    """
    if kind is None:
        return DASH
    if kind == "line" or lo is None or hi is None:
        return "any lift"
    return f"below {lo:+.2%} or above {hi:+.2%}" if kind == "outside" else f"{lo:+.2%} .. {hi:+.2%}"


def p_value(p: float | None) -> str:
    """Return p with three digits; p below 0.001 in powers of ten.

    >>> p_value(0.0434), p_value(1.16e-7), p_value(0.0), p_value(None)
    ('0.043', '1.2e-07', '< 1e-300', '–')
    """
    if p is None:
        return DASH
    if p < 1e-300:
        # A smaller number has few digits left, or is rounded to zero, which no p-value is.
        return "< 1e-300"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def value(found: Report, name: str, number: float | None) -> str:
    """Return the value of an experiment metric: percent for rates, an amount for money."""
    metric = METRICS[name]
    if number is None:
        return DASH
    if metric.is_money:
        return money(found, number)
    if metric.is_time:
        return f"{number / 1_000:.2f} ms"
    return f"{number:.3%}" if metric.denominator is not None else f"{number:.4f}"


def money(found: Report, minor: float) -> str:
    """Return an amount, with two more digits below one unit of the currency."""
    return format_minor(minor, found.currency, more=2 if abs(minor) < 100 else 0)


def moment(timestamp_ms: int | None) -> str:
    """Return a time in UTC.

    >>> moment(0), moment(None)
    ('1970-01-01 00:00:00 UTC', '–')
    """
    if timestamp_ms is None:
        return DASH
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _compared(found: Report) -> list[Result]:
    return [entry for entry in found.results if entry.arm != found.control]


def _money(found: Report) -> Callable[[int], str]:
    return lambda minor: format_minor(minor, found.currency)
