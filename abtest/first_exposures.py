"""Numbers of clients by their first exposure: epoch, arm, day, version and fallback.

Source: docs/experiments.md, Sample ratio.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, case, func, select

from abtest.client_vectors import Counted
from abtest.tables import exposures
from stream.schemas.times import DAY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstExposures:
    """Clients whose first exposures agree in all fields.

    Attributes:
        day_ts: Begin of the day in UTC.
        fell_back: Whether the first list came in incoming order by a fallback.
        assigned: Clients, those with open windows included.
        exposed: Those among them whose first exposure counts.
    """

    arm: str
    epoch: int
    day_ts: int
    lineage: str | None
    version: str | None
    fell_back: bool
    assigned: int
    exposed: int


def read(connection: Connection, whole: Counted, counted: Counted) -> tuple[FirstExposures, ...]:
    """Return the clients of an experiment by their first exposure.

    Args:
        connection: A transaction that sees one state of the database throughout.
        whole: All sessions up to the end of the experiment.
        counted: The sessions that count.
    """
    found = exposures.c
    keys = (
        found.arm,
        found.epoch,
        found.first_ts - found.first_ts % DAY_MS,
        found.lineage,
        found.version,
        case((found.fallback.is_(None), 0), else_=1),
    )
    counts = func.count() if counted.until_ts is None else func.count(case((found.first_ts <= counted.until_ts, 1)))
    rows = connection.execute(select(*keys, func.count(), counts).where(*whole.exposures()).group_by(*keys))
    cells = [
        FirstExposures(
            arm=arm,
            epoch=int(epoch),
            day_ts=int(day_ts),
            lineage=lineage,
            version=version,
            fell_back=bool(fell_back),
            assigned=int(assigned),
            exposed=int(exposed),
        )
        for arm, epoch, day_ts, lineage, version, fell_back, assigned, exposed in rows
    ]
    return tuple(sorted(cells, key=_order))


def _order(cell: FirstExposures) -> tuple[int, int, str, str, str, bool]:
    return cell.epoch, cell.day_ts, cell.arm, cell.lineage or "", cell.version or "", cell.fell_back
