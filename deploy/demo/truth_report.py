"""The truth of a demo beside its estimates: rows for the summary, one line for people, a section with a chart.

Source: deploy/simulation/marketplace/truth.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deploy.demo.arms import Arm
from deploy.demo.summary import ArmTruth, Truth, VersionTruth
from deploy.simulation.marketplace import truth as market
from deploy.simulation.marketplace.truth import percent
from stream.schemas.times import HOUR_MS

_TEMPLATES = Path(__file__).parent / "templates"
WIDTH, HEIGHT, LEFT, RIGHT = 900, 260, 60, 760


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A version in the chart, in pixels: the time that it ranked, its gain, and one standard error around it."""

    title: str
    x1: float
    x2: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A horizontal line of the chart."""

    label: str
    y: float


def truth_of(simulated: object, arms: Sequence[Arm]) -> Truth:
    """Return the rows of the summary from what the shoppers wrote.

    Raises:
        ValueError: If the arms of the shoppers' lists are not those of the experiment.
    """
    found = msgspec.convert(simulated, market.Truth)
    unknown = set(found.arms) - {arm.name for arm in arms}
    if unknown:
        raise ValueError(f"arms {sorted(unknown)} of the shoppers' lists are not in the experiment")
    bounds = found.bounds
    return Truth(
        arms=[_arm(arm.name, found.arms[arm.name]) for arm in arms if arm.name in found.arms],
        versions=[_version(version) for version in found.versions],
        random=_over(bounds.random, bounds.incoming),
        best=_over(bounds.best, bounds.incoming),
        now={
            arm.lineage: found.arms[arm.name].thirds[-1].gain
            for arm in arms
            if arm.lineage is not None and arm.name in found.arms
        },
    )


def line(truth: Truth) -> str:
    """Return the one line that tells where the learned arms stand between a random and the best order."""
    now = [f"{'now' if len(truth.now) == 1 else lineage} {_short(gain)}" for lineage, gain in truth.now.items()]
    return " | ".join([f"random {_short(truth.random)}", "incoming 0", *now, f"best possible {_short(truth.best)}"])


def section(truth: Truth, *, start_ts: int) -> str:
    """Return the section of the report page: the line, two tables and a chart of the versions over time."""
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters["percent"] = percent
    levels, bars, ticks = _chart(truth, start_ts)
    return environment.get_template("truth.html.jinja").render(
        truth=truth,
        line=line(truth),
        levels=levels,
        bars=bars,
        ticks=ticks,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=RIGHT,
    )


def _arm(name: str, found: market.ArmTruth) -> ArmTruth:
    gain = found.gain
    return ArmTruth(
        arm=name,
        searches=found.queries,
        fallbacks=found.fallbacks,
        orders_per_100=100 * found.orders / found.queries,
        gmv_minor_per_100=100 * found.money.x / found.queries,
        gain=gain.gain,
        standard_error=gain.standard_error,
        gmv_gain=found.money.gain,
        gmv_standard_error=found.money.standard_error,
        thirds=[third.gain for third in found.thirds],
    )


def _version(found: market.VersionTruth) -> VersionTruth:
    return VersionTruth(
        lineage=found.lineage,
        version=int(found.version),
        lists=found.gain.lists,
        first_ts=found.first_ts,
        last_ts=found.last_ts,
        gain=found.gain.gain,
        standard_error=found.gain.standard_error,
    )


def _over(orders: float, incoming: float) -> float | None:
    return orders / incoming - 1 if incoming > 0 else None


def _short(share: float | None) -> str:
    return percent(share).removesuffix(" %")


def _chart(truth: Truth, start_ts: int) -> tuple[list[Level], list[Bar], list[tuple[float, str]]]:
    shown = [version for version in truth.versions if version.gain is not None]
    end_ts = max((version.last_ts for version in shown), default=start_ts + 1)
    edges = [truth.random or 0.0, truth.best or 0.0]
    for version in shown:
        error = version.standard_error or 0.0
        edges += [(version.gain or 0.0) - error, (version.gain or 0.0) + error]
    low, high = min(edges), max(edges)
    scale = (HEIGHT - 50) / max(high - low, 1e-9)

    def y(gain: float) -> float:
        return round(20 + (high - gain) * scale, 1)

    def x(ts: int) -> float:
        return round(LEFT + (RIGHT - LEFT) * (ts - start_ts) / max(end_ts - start_ts, 1), 1)

    bars = [
        Bar(
            title=f"{v.lineage} v{v.version}: {percent(v.gain)} (s.e. {percent(v.standard_error)}, {v.lists} lists)",
            x1=x(v.first_ts),
            x2=x(v.last_ts),
            y=y(v.gain or 0.0),
            low=y((v.gain or 0.0) - (v.standard_error or 0.0)),
            high=y((v.gain or 0.0) + (v.standard_error or 0.0)),
        )
        for v in shown
    ]
    named = (("best possible", truth.best), ("incoming order", 0.0), ("random order", truth.random))
    levels = [Level(label=f"{name} {percent(gain)}", y=y(gain)) for name, gain in named if gain is not None]
    hours = range(1 + (end_ts - start_ts) // HOUR_MS)
    return levels, bars, [(x(start_ts + hour * HOUR_MS), f"{hour} h") for hour in hours]
