"""Page of an experiment: one HTML file with inline SVG that loads nothing from the network and has no script.

Each number stands once. A lift is drawn as its confidence sequence, in the colour of its direction where the sequence
excludes zero.

Source: docs/experiments.md, Report.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from abtest import render
from abtest.axis import Axis, axis
from abtest.looks import KEEP_RUNNING
from abtest.metrics import METRICS
from abtest.page_metrics import WIDEST, groups, percent
from abtest.queries import ArmCounts
from abtest.results import ArmVerdict, Report, decomposition
from abtest.timeline import LiftAt
from stream.schemas.money import format_minor
from stream.schemas.times import DAY_MS, DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Line over time with a band, in percent of its area; times at both ends, and round ticks."""

    title: str
    line: str
    band: str
    ticks: tuple[tuple[float, str], ...]
    zero: float | None
    first: str
    last: str


def page_html(found: Report, *, appendix: str = "") -> str:
    """Return the page of an experiment.

    Args:
        found: The report.
        appendix: HTML before the caveats, which is not escaped.

    Guarantees: the same report gives the same bytes.
    """
    template = render.environment().get_template("report.html.jinja")
    return template.render(
        report=found,
        verdict=render.verdict_line(found),
        arms=[(arm, arm_line(found, arm)) for arm in found.verdicts],
        plan=plan_rows(found),
        problems=[check for check in found.checks if check.status != "ok"],
        passed=[check for check in found.checks if check.status == "ok"],
        is_empty=not any(count.exposed for count in found.counts),
        groups=groups(found),
        level=render.sequence_level(found),
        look_columns=render.LOOK_COLUMNS,
        looks=render.look_rows(found),
        charts=charts(found),
        days=day_rows(found),
        counts=count_rows(found),
        decomposition=decomposition(found),
        definitions=[(metric.title, metric.definition) for metric in METRICS.values()],
        appendix=appendix,
    )


def arm_line(found: Report, arm: ArmVerdict) -> str:
    """Return the decision of an arm with its reason, and how much longer it runs."""
    if arm.verdict != KEEP_RUNNING or found.until_ts is None or not found.as_of:
        return arm.reason
    days = max(0, -(-(found.until_ts - found.as_of) // DAY_MS))
    return f"{arm.reason}; {days} day{'' if days == 1 else 's'} left at the present rate of clients"


def plan_rows(found: Report) -> list[tuple[str, str]]:
    """Return the plan in words."""
    plan, first = found.plan, found.epochs[0]
    end = f"{plan.clients:,} clients" if plan.clients else f"{plan.days:g} days" if plan.days else "none"
    started = f"{render.moment(first.start_ts)[:16]} UTC"
    if found.as_of > first.start_ts:
        started += f", {(found.as_of - first.start_ts) / DAY_MS:.1f} days of data"
    weights = zip(found.arms, found.epochs[-1].weights, strict=True)
    names = (METRICS[name].title for name in plan.goals if name != plan.primary)
    return [
        ("primary metric", render.primary_title(found)),
        ("other goals", ", ".join(names) or "none"),
        ("started", started),
        ("share of all clients", f"{found.epochs[-1].coverage:.4g} of 1, hold-out {plan.hold_out or 0.0:.4g}"),
        ("arms", ", ".join(f"{arm.name} {weight:.4g}" for arm, weight in weights)),
        ("planned end", end),
        ("looks taken", f"{len({look.number for look in found.looks})} of {plan.looks} planned"),
        ("error level", f"{plan.alpha:g}, of all looks and arms together"),
        ("lift it is sized for", f"{plan.mde:.2%}" if plan.mde else "none"),
        ("least buyers in each arm", str(plan.min_buyers)),
        ("windows", f"attribution {_hours(plan.attribution_s)}, refunds {_hours(plan.refund_s)}"),
    ]


def charts(found: Report) -> list[Chart]:
    """Return the lifts over time of each goal and arm that two or more reports have stored."""
    series: dict[tuple[str, str], list[LiftAt]] = {}
    for point in found.timeline.lifts:
        if point.metric in found.plan.goals:
            series.setdefault((point.metric, point.arm), []).append(point)
    several = len(found.arms) > 2
    return [
        _chart(METRICS[metric].title + (f", {arm}" if several else ""), points)
        for (metric, arm), points in series.items()
        if len(points) > 1
    ]


def _chart(title: str, points: list[LiftAt]) -> Chart:
    last = points[-1]
    # Early sequences are wide; the axis is that of the last one, with room.
    reach = WIDEST * max(abs(last.cs_lo), abs(last.cs_hi))
    scale = axis(
        max(-reach, min(0.0, *(point.cs_lo for point in points))),
        min(reach, max(0.0, *(point.cs_hi for point in points))),
    )
    times = _times(points)
    line = [(times.place(point.as_of), 100 - scale.place(point.lift)) for point in points]
    upper = [(times.place(point.as_of), 100 - scale.place(point.cs_hi)) for point in points]
    lower = [(times.place(point.as_of), 100 - scale.place(point.cs_lo)) for point in reversed(points)]
    return Chart(
        title=title,
        line=_path(line),
        band=_path([*upper, *lower]),
        ticks=tuple((100 - scale.place(tick), percent(tick)) for tick in scale.ticks),
        zero=100 - scale.place(0.0),
        first=render.moment(points[0].as_of)[5:16],
        last=render.moment(last.as_of)[5:16],
    )


def _times(points: list[LiftAt]) -> Axis:
    return Axis(low=points[0].as_of, high=max(points[-1].as_of, points[0].as_of + 1), ticks=())


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def day_rows(found: Report) -> list[tuple[str, ...]]:
    """Return the new clients of each day: the day, then a number for each arm."""
    names = [arm.name for arm in found.arms]
    days: dict[int, dict[str, int]] = {}
    for each in found.timeline.clients:
        days.setdefault(each.day_ts, {})[each.arm] = each.clients
    return [
        (render.moment(day_ts)[:10], *(f"{arms.get(name, 0):,}" for name in names))
        for day_ts, arms in sorted(days.items())
    ]


def count_rows(found: Report) -> list[tuple[str, ...]]:
    """Return the counts, a row each with a cell for each arm."""
    policies = {arm.name: arm.lineage or arm.policy or "" for arm in found.arms}

    def row(title: str, name: str) -> tuple[str, ...]:
        return (title, *(f"{getattr(count, name):,}" for count in found.counts))

    def money(title: str, name: str) -> tuple[str, ...]:
        return (title, *(format_minor(getattr(count, name), found.currency) for count in found.counts))

    return [
        ("policy", *(policies[count.arm] for count in found.counts)),
        row("clients exposed", "exposed"),
        row("seen in two arms, left out", "multi_arm"),
        row("clients analysed", "analysed"),
        row("of them buyers", "buyers"),
        row("sessions", "sessions"),
        ("in incoming order by a fallback", *map(_fallbacks, found.counts)),
        row("versions", "num_versions"),
        row("items shown", "items"),
        row("clicks", "clicks"),
        row("orders", "orders"),
        money("GMV", "gross_minor"),
        money("refunds", "refund_minor"),
        row("orders after a click", "clicked_orders"),
        money("clicked GMV", "clicked_gross_minor"),
    ]


def _fallbacks(count: ArmCounts) -> str:
    share = f" ({count.fallbacks / count.sessions:.1%})" if count.sessions else ""
    return f"{count.fallbacks:,}{share}"


def _hours(seconds: int) -> str:
    return f"{seconds / DAY_S:g} d" if seconds >= DAY_S else f"{seconds / 3_600:g} h"
