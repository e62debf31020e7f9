"""Counts of an experiment's sessions in one pass, without their sums by client.

Source: docs/experiments.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, case, distinct, func, or_, select

from abtest.client_vectors import Counted
from abtest.tables import session_facts
from stream.schemas.money import NO_CURRENCY

PAID = or_(session_facts.c.gross_minor > 0, session_facts.c.refund_minor > 0, session_facts.c.foreign_lines > 0)
"""Condition on `session_facts`: a session with money."""
PRICED = or_(session_facts.c.currency != NO_CURRENCY, PAID)
"""Condition on `session_facts`: a session with a currency or with money; one without both fits any currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCounts:
    """Counts of sessions.

    Attributes:
        first_ts: First impression of the experiment, up to its end; None without any.
        last_ts: Last impression of the experiment, up to its end.
        up_to: Sessions up to the newest that counts, those of no epoch included.
        counted: Sessions that count.
        open: Sessions up to the end that are newer.
        after_end: Sessions after the end of a stopped experiment.
        priced: Counted sessions with a currency or with money.
        paid: Counted sessions with money.
        foreign: Counted sessions with an order line in another currency.
        currencies: Smallest and largest currency of the priced sessions; None without any.
        versions: Arm to the number of versions in its counted sessions.
    """

    first_ts: int | None = None
    last_ts: int | None = None
    up_to: int = 0
    counted: int = 0
    open: int = 0
    after_end: int = 0
    priced: int = 0
    paid: int = 0
    foreign: int = 0
    currencies: tuple[str, str] | None = None
    versions: Mapping[str, int]


def read_session_counts(
    connection: Connection, counted: Counted, arms: tuple[str, ...], *, end_ts: int | None
) -> SessionCounts:
    """Return the counts of an experiment.

    Args:
        connection: A transaction that sees one state of the database throughout.
        counted: Sessions that count.
        arms: Arms whose versions are counted.
        end_ts: End of a stopped experiment.
    """
    facts = session_facts.c
    shown_ts = facts.impression_ts
    inside = and_(*counted.sessions())
    whole = and_(*counted.until(end_ts).sessions())
    priced = and_(inside, PRICED)

    def number(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.count(case((condition, 1)))

    # Without GROUP BY, SQLite sorts nothing.
    row = connection.execute(
        select(
            func.min(case((whole, shown_ts))),
            func.max(case((whole, shown_ts))),
            func.count() if counted.until_ts is None else number(shown_ts <= counted.until_ts),
            number(inside),
            number(whole),
            func.count() if end_ts is None else number(shown_ts <= end_ts),
            func.count(),
            number(priced),
            number(and_(inside, PAID)),
            number(and_(inside, facts.foreign_lines > 0)),
            func.min(case((priced, facts.currency))),
            func.max(case((priced, facts.currency))),
            *(func.count(distinct(case((and_(inside, facts.arm == arm), facts.version)))) for arm in arms),
        ).where(facts.experiment == counted.experiment)
    ).one()
    (
        first_ts,
        last_ts,
        up_to,
        num_inside,
        num_whole,
        before_end,
        total,
        num_priced,
        paid,
        foreign,
        low,
        high,
        *versions,
    ) = row
    return SessionCounts(
        first_ts=first_ts,
        last_ts=last_ts,
        up_to=up_to,
        counted=num_inside,
        open=num_whole - num_inside,
        after_end=total - before_end,
        priced=num_priced,
        paid=paid,
        foreign=foreign,
        currencies=None if low is None else (low, high),
        versions=dict(zip(arms, versions, strict=True)),
    )
