"""Course of an experiment: clients by day and arm, and lifts as former reports have stored them.

Source: docs/experiments.md, Report.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from abtest.tables import exposures, results
from stream.schemas.times import DAY_MS

MAX_POINTS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class NewClients:
    """Clients that were first exposed in one arm on one day; `day_ts` is its begin in UTC."""

    day_ts: int
    arm: str
    clients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftAt:
    """Lift of one report, with its confidence sequence."""

    as_of: int
    metric: str
    arm: str
    lift: float
    cs_lo: float
    cs_hi: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Course of an experiment.

    Attributes:
        clients: By day and arm, ascending.
        lifts: By metric, arm and time, ascending; those of the latest report included.
    """

    clients: tuple[NewClients, ...] = ()
    lifts: tuple[LiftAt, ...] = ()


EMPTY = Timeline()


def read(connection: Connection, experiment: str, *, up_to_ts: int) -> Timeline:
    """Return the course of an experiment.

    Args:
        connection: A transaction that sees one state of the database throughout.
        experiment: Key of the experiment.
        up_to_ts: Watermark of the report; later exposures and reports are left out.
    """
    day = exposures.c.first_ts - exposures.c.first_ts % DAY_MS
    clients = connection.execute(
        select(day, exposures.c.arm, func.count())
        .where(exposures.c.experiment == experiment, exposures.c.first_ts <= up_to_ts)
        .group_by(day, exposures.c.arm)
        .order_by(day, exposures.c.arm)
    )
    found = results.c
    lifts = connection.execute(
        select(found.metric, found.arm, found.as_of, found.lift, found.cs_lo, found.cs_hi)
        .where(
            found.experiment == experiment,
            found.partial.is_(False),
            found.as_of <= up_to_ts,
            found.cs_kind == "interval",
        )
        .order_by(found.metric, found.arm, found.as_of)
    )
    series: dict[tuple[str, str], list[LiftAt]] = {}
    for metric, arm, as_of, lift, cs_lo, cs_hi in lifts:
        point = LiftAt(as_of=as_of, metric=metric, arm=arm, lift=lift, cs_lo=cs_lo, cs_hi=cs_hi)
        series.setdefault((metric, arm), []).append(point)
    return Timeline(
        clients=tuple(NewClients(day_ts=int(at_ts), arm=arm, clients=number) for at_ts, arm, number in clients),
        lifts=tuple(point for points in series.values() for point in thinned(points)),
    )


def thinned(points: list[LiftAt]) -> list[LiftAt]:
    """Return at most `MAX_POINTS` of the points, evenly by number, with the first and the last."""
    if len(points) <= MAX_POINTS:
        return points
    last = len(points) - 1
    return [points[round(number * last / (MAX_POINTS - 1))] for number in range(MAX_POINTS)]
