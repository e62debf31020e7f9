"""Queries of a report: counts per arm, moments of the clients, and the range of the data.

Source: docs/experiments.md.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select
from sqlalchemy import distinct as distinct_of

from abtest.client_vectors import client_vectors
from abtest.fact_writer import SINK
from abtest.facts import decode_evidence, is_foreign
from abtest.metrics import COLUMNS
from abtest.moments import Moments
from abtest.store import Experiment
from abtest.tables import exposures, results, session_facts, sink_offsets
from stream.schemas.money import NO_CURRENCY

_MAX_FOREIGN_SESSIONS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRange:
    """Range of the facts of an experiment.

    Attributes:
        watermark_ts: Watermark of the join over all partitions; None before every partition has reported one.
        matured_ts: Newest impression time whose attribution window is closed in all partitions.
        first_ts: First impression of the experiment.
        last_ts: Last impression of the experiment.
    """

    watermark_ts: int | None
    matured_ts: int | None
    first_ts: int | None
    last_ts: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCounts:
    """Counts of one arm.

    Attributes:
        exposed: Clients whose first exposure was in this arm.
        multi_arm: Exposed clients that were also seen in another arm; the analysis leaves them out.
        analysed: Clients of the analysis.
        fallbacks: Sessions that serving answered in the incoming order.
        foreign_lines: Order lines in another currency than their list.
    """

    arm: str
    exposed: int
    multi_arm: int
    analysed: int
    sessions: int
    items: int
    clicks: int
    orders: int
    gross_minor: int
    refund_minor: int
    fallbacks: int
    foreign_lines: int
    num_versions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Data of one report, read in one snapshot.

    Attributes:
        data_range: Range of the facts.
        partial: Whether sessions with open attribution windows count.
        counts: Counts of each arm, in the order of the plan.
        moments: Moments of the clients' sums, by arm.
        currencies: Currencies of the facts that have money or name a currency.
        foreign_currencies: Currencies of order lines that differ from that of their list.
        open_sessions: Sessions that are left out because their attribution windows are open.
        unknown_arm: Exposed clients in arms that the plan does not have.
        looks: Watermarks of the mature reports so far.
    """

    data_range: DataRange
    partial: bool
    counts: tuple[ArmCounts, ...]
    moments: dict[str, Moments]
    currencies: tuple[str, ...]
    foreign_currencies: tuple[str, ...]
    open_sessions: int
    unknown_arm: int
    looks: tuple[int, ...]


def read(connection: Connection, experiment: Experiment, *, partial: bool | None = None) -> Facts:
    """Return the data of an experiment's report.

    Args:
        connection: A transaction that sees one state of the database throughout.
        experiment: The experiment.
        partial: Whether sessions with open windows count; None means only while no session is mature.
    """
    data_range = _data_range(connection, experiment.key)
    if partial is None:
        partial = (
            data_range.matured_ts is None or data_range.first_ts is None or data_range.matured_ts < data_range.first_ts
        )
    matured_ts = None if partial else data_range.matured_ts
    vectors = client_vectors(connection, experiment.key, matured_ts)
    moments = {
        arm.name: Moments.of(vectors[arm.name]) if arm.name in vectors else Moments.empty(len(COLUMNS))
        for arm in experiment.arms
    }
    counted = session_facts.c.experiment == experiment.key
    # A session without a currency and without money fits any other.
    has_money = or_(
        session_facts.c.currency != NO_CURRENCY, session_facts.c.gross_minor > 0, session_facts.c.refund_minor > 0
    )
    currencies = connection.execute(
        select(session_facts.c.currency).where(counted, has_money).distinct().order_by(session_facts.c.currency)
    ).scalars()
    return Facts(
        data_range=data_range,
        partial=partial,
        counts=_counts(connection, experiment, moments, matured_ts),
        moments=moments,
        currencies=tuple(currencies),
        foreign_currencies=_foreign_currencies(connection, counted),
        open_sessions=0
        if matured_ts is None
        else connection.execute(
            select(func.count()).where(counted, session_facts.c.impression_ts > matured_ts)
        ).scalar_one(),
        unknown_arm=connection.execute(
            select(func.count()).where(
                exposures.c.experiment == experiment.key,
                exposures.c.arm.not_in([arm.name for arm in experiment.arms]),
            )
        ).scalar_one(),
        looks=tuple(
            connection.execute(
                select(results.c.as_of)
                .where(results.c.experiment == experiment.key, results.c.partial.is_(False))
                .distinct()
                .order_by(results.c.as_of)
            ).scalars()
        ),
    )


def _foreign_currencies(connection: Connection, counted: ColumnElement[bool]) -> tuple[str, ...]:
    """Return the currencies of order lines that no sum contains, as far as some sessions show them."""
    evidence = connection.execute(
        select(session_facts.c.currency, session_facts.c.evidence)
        .where(counted, session_facts.c.foreign_lines > 0)
        .order_by(session_facts.c.query_id)
        .limit(_MAX_FOREIGN_SESSIONS)
    )
    found = {
        line.currency for currency, raw in evidence for line in decode_evidence(raw)[1] if is_foreign(line, currency)
    }
    return tuple(sorted(found))


def _data_range(connection: Connection, key: str) -> DataRange:
    partitions, reporting, watermark, matured = connection.execute(
        select(
            func.count(),
            func.count(sink_offsets.c.matured_ts),
            func.min(sink_offsets.c.watermark_ts),
            func.min(sink_offsets.c.matured_ts),
        ).where(sink_offsets.c.sink == SINK)
    ).one()
    first, last = connection.execute(
        select(func.min(session_facts.c.impression_ts), func.max(session_facts.c.impression_ts)).where(
            session_facts.c.experiment == key
        )
    ).one()
    complete = partitions > 0 and reporting == partitions
    return DataRange(
        watermark_ts=watermark if complete else None,
        matured_ts=matured if complete else None,
        first_ts=first,
        last_ts=last,
    )


def _counts(
    connection: Connection, experiment: Experiment, moments: dict[str, Moments], matured_ts: int | None
) -> tuple[ArmCounts, ...]:
    seen = [exposures.c.experiment == experiment.key]
    if matured_ts is not None:
        seen.append(exposures.c.first_ts <= matured_ts)
    exposed = {
        row.arm: row
        for row in connection.execute(
            select(
                exposures.c.arm,
                func.count().label("clients"),
                func.sum(case((exposures.c.multi_arm, 1), else_=0)).label("multi_arm"),
            )
            .where(*seen)
            .group_by(exposures.c.arm)
        )
    }
    mature = [] if matured_ts is None else [session_facts.c.impression_ts <= matured_ts]
    served = {
        row.arm: row
        for row in connection.execute(
            select(
                exposures.c.arm,
                func.sum(case((session_facts.c.fallback.is_not(None), 1), else_=0)).label("fallbacks"),
                func.sum(session_facts.c.foreign_lines).label("foreign_lines"),
                func.count(distinct_of(session_facts.c.version)).label("versions"),
            )
            .join(
                session_facts,
                and_(
                    session_facts.c.client_id == exposures.c.client_id,
                    session_facts.c.experiment == exposures.c.experiment,
                    exposures.c.multi_arm.is_(False),
                    *mature,
                ),
            )
            .where(exposures.c.experiment == experiment.key)
            .group_by(exposures.c.arm)
        )
    }
    return tuple(
        _arm_counts(
            arm.name,
            int(exposed[arm.name].clients) if arm.name in exposed else 0,
            int(exposed[arm.name].multi_arm) if arm.name in exposed else 0,
            moments[arm.name],
            fallbacks=int(served[arm.name].fallbacks) if arm.name in served else 0,
            foreign_lines=int(served[arm.name].foreign_lines) if arm.name in served else 0,
            num_versions=int(served[arm.name].versions) if arm.name in served else 0,
        )
        for arm in experiment.arms
    )


def _arm_counts(
    arm: str,
    exposed: int,
    multi_arm: int,
    moments: Moments,
    *,
    fallbacks: int,
    foreign_lines: int,
    num_versions: int,
) -> ArmCounts:
    totals = {column: round(moments.n * float(moments.mean[index])) for index, column in enumerate(COLUMNS)}
    return ArmCounts(
        arm=arm,
        exposed=exposed,
        multi_arm=multi_arm,
        analysed=moments.n,
        sessions=totals["sessions"],
        items=totals["items"],
        clicks=totals["clicks"],
        orders=totals["orders"],
        gross_minor=totals["gross_minor"],
        refund_minor=totals["refund_minor"],
        fallbacks=fallbacks,
        foreign_lines=foreign_lines,
        num_versions=num_versions,
    )
