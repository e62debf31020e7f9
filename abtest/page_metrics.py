"""Metrics on the page of an experiment: by their role, each lift as a shape on the axis of its group.

Source: docs/experiments.md, Report.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from abtest import render
from abtest.axis import Axis, axis
from abtest.metrics import METRICS, Metric
from abtest.results import AdjustedResult, Report, Result
from stream.schemas.money import format_minor

GUARDRAILS = ("sessions_per_client", "fallback_share", "latency")
WIDEST = 4.0
"""Reach of an axis in those of the middle one of its sequences; a wider one, which would flatten the others, ends in an
arrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Confidence sequence on the axis of its group, in percent; an open side goes on beyond the axis.

    Attributes:
        tone: `better`, `worse`, or `unclear` if the sequence holds zero.
    """

    point: float
    left: float
    right: float
    open_left: bool
    open_right: bool
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Metric in one arm: its value with numerator and denominator, and its difference to the control.

    `adjusted` is the lift by CUPED in words, and `adjusted_shape` its confidence sequence, where the plan declares it.
    """

    arm: str
    value: str
    parts: str
    difference: str = ""
    lift: str = ""
    bounds: str = ""
    p: str = ""
    fixed: str = ""
    shape: Shape | None = None
    adjusted: str = ""
    adjusted_shape: Shape | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricView:
    """Metric with the rows of all arms, the control first."""

    title: str
    definition: str
    is_primary: bool
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Metrics of one role, on one axis of lifts."""

    title: str
    note: str
    metrics: tuple[MetricView, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float


def groups(found: Report) -> list[Group]:
    """Return the metrics by their role: goals, guardrails, diagnostics."""
    goals = sorted(found.plan.goals, key=lambda name: name != found.plan.primary)
    others = [name for name in METRICS if name not in {*goals, *GUARDRAILS}]
    roles = (
        ("Goals", "The primary metric decides, at looks. Between looks, these sequences are for monitoring.", goals),
        ("Guardrails", "A guardrail that is certainly worse than the control is a reason to look closer.", GUARDRAILS),
        ("Diagnostics", "These explain a change and decide nothing.", others),
    )
    return [_group(found, title, note, names) for title, note, names in roles]


def _group(found: Report, title: str, note: str, names: Iterable[str]) -> Group:
    metrics = [METRICS[name] for name in names]
    results = [found.result(metric.name, arm.name) for metric in metrics for arm in found.arms]
    scale = _lift_axis([*results, *filter(None, (_adjusted_result(found, entry) for entry in results))])
    views = (
        MetricView(
            title=metric.title,
            definition=metric.definition,
            is_primary=metric.name == found.plan.primary,
            rows=tuple(
                _row(found, metric, found.result(metric.name, arm.name), scale)
                for arm in sorted(found.arms, key=lambda each: not each.is_control)
            ),
        )
        for metric in metrics
    )
    ticks = tuple((scale.place(tick), percent(tick)) for tick in scale.ticks)
    return Group(title=title, note=note, metrics=tuple(views), ticks=ticks, zero=scale.place(0.0))


def _adjusted_result(found: Report, entry: Result) -> AdjustedResult | None:
    named = (each for each in found.adjusted if (each.metric, each.arm) == (entry.metric, entry.arm))
    return next(named, None)


def _row(found: Report, metric: Metric, entry: Result, scale: Axis) -> Row:
    value, parts = render.value(found, metric.name, entry.mean), _parts(found, metric, entry)
    if entry.arm == found.control:
        return Row(arm=entry.arm, value=value, parts=parts)
    if entry.lift is None:
        return Row(arm=entry.arm, value=value, parts=parts, lift=f"undefined: {render.reason(entry.reason)}")
    fixed, adjusted = "", _adjusted_result(found, entry)
    if found.complete and entry.p_fixed is not None:
        fixed = f"{render.interval(entry.lo, entry.hi, entry.set_kind)}, p {render.p_value(entry.p_fixed)}"
        if entry.p_adj is not None:
            fixed += f", Holm {render.p_value(entry.p_adj)}"
    return Row(
        arm=entry.arm,
        value=value,
        parts=parts,
        difference=_difference(found, metric, entry.diff),
        lift=f"{entry.lift:+.2%}",
        bounds=render.interval(entry.cs_lo, entry.cs_hi, entry.cs_kind) if entry.cs_kind else "too few buyers",
        p=render.p_value(entry.cs_p) if entry.cs_kind else "",
        fixed=fixed,
        shape=_shape(entry, scale),
        adjusted="" if adjusted is None else _adjusted(found, adjusted),
        adjusted_shape=None if adjusted is None else _shape(adjusted, scale),
    )


def _adjusted(found: Report, entry: AdjustedResult) -> str:
    """Return a lift by CUPED in words."""
    if entry.lift is None:
        return f"by CUPED undefined: {render.reason(entry.reason)}"
    parts = [f"by CUPED {entry.lift:+.2%}"]
    if entry.cs_kind:
        parts.append(f"{render.interval(entry.cs_lo, entry.cs_hi, entry.cs_kind)}, p {render.p_value(entry.cs_p)}")
    if found.complete and entry.p_fixed is not None:
        interval = render.interval(entry.lo, entry.hi, entry.set_kind)
        parts.append(f"fixed horizon: {interval}, p {render.p_value(entry.p_fixed)}")
    return "; ".join((*parts, f"{entry.variance_ratio:.0%} of the variance left"))


def _shape(entry: Result | AdjustedResult, scale: Axis) -> Shape | None:
    if entry.cs_kind is None or entry.lift is None:
        return None
    low, high = entry.cs_lo, entry.cs_hi
    if entry.cs_kind != "interval" or low is None or high is None:
        return Shape(point=scale.place(entry.lift), left=0, right=100, open_left=True, open_right=True, tone="unclear")
    rises, falls = ("worse", "better") if METRICS[entry.metric].is_cost else ("better", "worse")
    tone = rises if low > 0.0 else falls if high < 0.0 else "unclear"
    return Shape(
        point=scale.place(entry.lift),
        left=scale.place(low),
        right=scale.place(high),
        open_left=not scale.holds(low),
        open_right=not scale.holds(high),
        tone=tone,
    )


def _lift_axis(entries: Iterable[Result | AdjustedResult]) -> Axis:
    ends = [
        (entry.cs_lo, entry.cs_hi)
        for entry in entries
        if entry.cs_kind == "interval" and entry.cs_lo is not None and entry.cs_hi is not None
    ]
    if not ends:
        return axis(-0.1, 0.1)
    reach = sorted(max(abs(low), abs(high)) for low, high in ends)
    limit = WIDEST * reach[(len(reach) - 1) // 2]
    lows, highs = zip(*ends, strict=True)
    return axis(max(-limit, min(0.0, *lows)), min(limit, max(0.0, *highs)))


def _parts(found: Report, metric: Metric, entry: Result) -> str:
    """Return numerator and denominator in words."""
    if entry.mean is None or found.stratified:
        return ""
    count = next(count for count in found.counts if count.arm == entry.arm)
    if metric.denominator is None:
        total = entry.mean * entry.n
        return f"{_amount(found, metric, total)} / {entry.n:,} clients"
    if metric.is_time:
        return ""
    above, below = (getattr(count, name) for name in (metric.numerator, metric.denominator))
    return f"{_amount(found, metric, above)} / {below:,}"


def _amount(found: Report, metric: Metric, total: float) -> str:
    return format_minor(round(total), found.currency) if metric.is_money else f"{round(total):,}"


def _difference(found: Report, metric: Metric, diff: float | None) -> str:
    if diff is None:
        return ""
    if metric.is_money:
        return ("+" if diff >= 0 else "") + render.money(found, diff)
    if metric.is_time:
        return f"{diff / 1_000:+.2f} ms"
    return f"{100 * diff:+.3f} points" if metric.denominator is not None else f"{diff:+.4f}"


def percent(share: float) -> str:
    """Return a tick of an axis of lifts."""
    return "0" if share == 0.0 else f"{100 * share:+.4g} %"
