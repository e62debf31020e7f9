"""The store of the quarantine: the trainer adds ranges, users decide about them, each with an event.

Source: docs/training.md, "Breakers".
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select, update

from stream import db
from stream.errors import StoreError
from trainer.quarantine.ranges import LogRange, QuarantinedRange, RangeStatus
from trainer.versions import event_log
from trainer.versions.leases import check_term
from trainer.versions.tables import quarantined_ranges

_RANGE = ("from_ts", "until_ts", "from_cursors", "until_offsets", "numbers", "num_sessions")


class Quarantine:
    """Quarantined ranges of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ranges(self, lineage: str) -> list[QuarantinedRange]:
        """Return the ranges of a lineage, the oldest first.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        own = quarantined_ranges.c
        statement = select(quarantined_ranges).where(own.lineage == lineage).order_by(own.number)
        with db.read(self._engine) as connection:
            return [_of_row(row) for row in connection.execute(statement)]

    def add(self, lineage: str, term: int, added: LogRange, now_ms: int) -> None:
        """Record a range with the event `breaker`; one that was recorded before a crash stays as it is.

        Raises:
            FencedError: If the term is stale.
            StoreError: If the database is unreachable or refused.
        """
        own = quarantined_ranges.c
        with db.transaction(self._engine) as connection:
            check_term(connection, lineage, term)
            same = select(own.number).where(own.lineage == lineage, own.until_ts == added.until_ts)
            known = connection.execute(same).scalar_one_or_none()
            _close(connection, lineage)
            if known is not None:
                connection.execute(
                    update(quarantined_ranges).where(own.lineage == lineage, own.number == known).values(is_open=True)
                )
                return
            highest = select(func.coalesce(func.max(own.number), 0)).where(own.lineage == lineage)
            number = connection.execute(highest).scalar_one() + 1
            connection.execute(
                insert(quarantined_ranges).values(
                    lineage=lineage,
                    number=number,
                    status="quarantined",
                    is_open=True,
                    created_ts=now_ms,
                    row_version=1,
                    reasons=list(added.reasons),
                    **{name: getattr(added, name) for name in _RANGE},
                )
            )
            why = f"range {number} is left out, and nothing is published: {', '.join(added.reasons)}"
            evidence = {"range": number, "reasons": list(added.reasons)}
            evidence |= {name: getattr(added, name) for name in _RANGE}
            _log(
                connection,
                lineage,
                term,
                why=why,
                evidence=evidence,
                after={"breakers": list(added.reasons)},
                now_ms=now_ms,
            )

    def close(self, lineage: str, term: int, until_ts: int, now_ms: int) -> None:
        """Record with an event that no breaker is open any more, if one was.

        Raises:
            FencedError: If the term is stale.
            StoreError: If the database is unreachable or refused.
        """
        with db.transaction(self._engine) as connection:
            check_term(connection, lineage, term)
            if _close(connection, lineage):
                why = "no breaker is open: training and publishing go on"
                _log(
                    connection,
                    lineage,
                    term,
                    why=why,
                    evidence={"from_ts": until_ts},
                    after={"breakers": []},
                    now_ms=now_ms,
                )

    def mark(
        self, lineage: str, term: int, numbers: Collection[int], *, status: RangeStatus, why: str, now_ms: int
    ) -> None:
        """Set the status of released ranges, with an event for each; ranges in another status stay as they are.

        Raises:
            FencedError: If the term is stale.
            StoreError: If the database is unreachable or refused.
        """
        own = quarantined_ranges.c
        with db.transaction(self._engine) as connection:
            check_term(connection, lineage, term)
            changed = connection.execute(
                update(quarantined_ranges)
                .where(own.lineage == lineage, own.number.in_(numbers), own.status == "released")
                .values(status=status, row_version=own.row_version + 1)
                .returning(own.number)
            ).scalars()
            for number in sorted(changed):
                after = {"ranges": {str(number): status}}
                _log(
                    connection,
                    lineage,
                    term,
                    why=f"range {number}: {why}",
                    evidence={"range": number},
                    after=after,
                    now_ms=now_ms,
                    word=status,
                )


def set_range_status(connection: Connection, chosen: QuarantinedRange, to: RangeStatus) -> None:
    """Set the status of a range in the transaction of a command.

    Raises:
        StoreError: If another transaction has written the row meanwhile.
    """
    own = quarantined_ranges.c
    changed = connection.execute(
        update(quarantined_ranges)
        .where(own.lineage == chosen.lineage, own.number == chosen.number, own.row_version == chosen.row_version)
        .values(status=to, row_version=chosen.row_version + 1)
    )
    if changed.rowcount != 1:
        raise StoreError(f"range {chosen.number} of {chosen.lineage} was changed meanwhile; try again")


def _close(connection: Connection, lineage: str) -> bool:
    own = quarantined_ranges.c
    closed = update(quarantined_ranges).where(own.lineage == lineage, own.is_open).values(is_open=False)
    return connection.execute(closed).rowcount > 0


def _log(
    connection: Connection,
    lineage: str,
    term: int,
    *,
    why: str,
    evidence: dict[str, Any],
    after: dict[str, Any],
    now_ms: int,
    word: str = "breaker",
) -> None:
    event_log.append(
        connection,
        lineage,
        to_status=word,
        actor=event_log.process("trainer", term),
        why=why,
        evidence=evidence,
        event_ts=now_ms,
        after=after,
    )


def _of_row(row: Row[Any]) -> QuarantinedRange:
    own = {name: getattr(row, name) for name in _RANGE}
    own["from_cursors"] = {partition: tuple(cursor) for partition, cursor in row.from_cursors.items()}
    return QuarantinedRange(
        lineage=row.lineage,
        number=row.number,
        range=LogRange(reasons=tuple(row.reasons), **own),
        status=row.status,
        is_open=row.is_open,
        created_ts=row.created_ts,
        row_version=row.row_version,
    )
