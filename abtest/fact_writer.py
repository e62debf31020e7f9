"""Writer of facts, exposures and orders: each batch of the `sessions` topic with its offsets in one transaction.

Guarantees: a committed batch is never applied again. A failed batch leaves nothing behind. A second sink on the same
database is refused, because the stored offsets are compared, under lock, before anything is written.

Source: docs/experiments.md.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from sqlalchemy import Connection, Engine, RowMapping, func, select, update

from abtest import facts, moment_store, orders, traffic
from abtest.exposure_writer import exposures_of, write_exposures
from abtest.facts import Fact, Outcome
from abtest.order_writer import write_orders
from abtest.orders import OrderLine
from abtest.tables import ANALYSED_LAYER, session_facts, session_orders, sink_offsets
from stream import db
from stream.errors import FencedError, SchemaError
from stream.failpoints import Failpoint, no_failpoint
from stream.join.settings import JoinSettings
from stream.schemas import session
from stream.schemas.records import Record
from stream.schemas.session import Progress, Session

SINK = "facts"
_CHUNK = 500
REFUND_S = JoinSettings().refund_s

Partition: TypeAlias = tuple[str, int]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """Counts of one applied batch: session records, facts written, and records that are no session."""

    num_sessions: int
    num_written: int
    num_refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    facts: Mapping[str, Fact]
    unlinked: Sequence[OrderLine]
    num_sessions: int
    num_refused: int
    next_offsets: Mapping[Partition, int]
    progress: Mapping[Partition, tuple[int, int]]


class FactWriter:
    """Writer of facts, exposures, orders and offsets for one reader of the `sessions` topic.

    Args:
        engine: A database with the newest schema.
        refund_s: Refund window of the join: reversals count up to this long after the purchase of their line.
        failpoint: Called with the name of each step; crash tests raise or exit in it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        refund_s: int = REFUND_S,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        self._engine = engine
        self._refund_ms = refund_s * 1_000
        self._failpoint = failpoint
        self.positions: dict[Partition, int] = {}

    def open(self, beginning: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return the next offset of each partition: the stored one, or else the beginning of the log."""
        with db.transaction(self._engine) as connection:
            insert = db.insert(connection, sink_offsets).on_conflict_do_nothing()
            connection.execute(
                insert,
                [
                    {"sink": SINK, "topic": topic, "partition": partition, "next_offset": offset}
                    for (topic, partition), offset in beginning.items()
                ],
            )
            stored = lock_sink(connection)
        self.positions = {partition: stored[partition] for partition in beginning}
        return dict(self.positions)

    def apply(self, records: Sequence[Record], *, retry: bool = False) -> Applied:
        """Write one batch and advance `positions` past it.

        Args:
            records: Records of the `sessions` topic, in offset order per partition, from `positions` on.
            retry: Whether the same batch failed with a StoreError before, so that its commit can have succeeded.

        Raises:
            FencedError: If another sink has moved the stored offsets.
            StoreError: If the database is unreachable or refused; nothing was written, or all was.
        """
        batch = _read(records)
        with db.transaction(self._engine) as connection:
            stored = lock_sink(connection)
            if not (retry and _same(stored, batch.next_offsets)):
                if not _same(stored, {partition: self.positions[partition] for partition in batch.next_offsets}):
                    raise FencedError(
                        f"sink '{SINK}': stored offsets {_show(stored)}, this sink stands at {_show(self.positions)}: "
                        "another sink writes to this database"
                    )
                num_written = self._write(connection, batch)
            else:
                num_written = 0
        self.positions |= batch.next_offsets
        return Applied(num_sessions=batch.num_sessions, num_written=num_written, num_refused=batch.num_refused)

    def _write(self, connection: Connection, batch: _Batch) -> int:
        touched = {line.client_id: -1 for line in batch.unlinked}
        found = _changed(connection, batch.facts, touched)
        changed = [(fact, facts.outcome(fact)) for fact, _ in found]
        write_exposures(connection, exposures_of(batch.facts.values()))
        self._failpoint("exposures written")
        if changed:
            rows = [self._row(fact, outcome) for fact, outcome in changed]
            upsert = db.insert(connection, session_facts)
            new = upsert.excluded
            connection.execute(
                upsert.on_conflict_do_update(
                    index_elements=[session_facts.c.query_id],
                    set_={column.name: new[column.name] for column in session_facts.c if not column.primary_key},
                    where=new.revision >= session_facts.c.revision,
                ),
                rows,
            )
            traffic.move(connection, before=[dict(row) for _, row in found if row], after=rows)
            bought = [
                {"query_id": fact.query_id, "transaction_id": transaction}
                for fact, outcome in changed
                for transaction in outcome.transactions
            ]
            if bought:
                connection.execute(db.insert(connection, session_orders).on_conflict_do_nothing(), bought)
        self._failpoint("facts written")
        write_orders(connection, batch.facts.values(), batch.unlinked, refund_ms=self._refund_ms)
        self._failpoint("orders written")
        for (topic, partition), offset in batch.next_offsets.items():
            values: dict[str, int] = {"next_offset": offset}
            if (topic, partition) in batch.progress:
                values["watermark_ts"], values["matured_ts"] = batch.progress[topic, partition]
            connection.execute(
                update(sink_offsets)
                .where(
                    sink_offsets.c.sink == SINK,
                    sink_offsets.c.topic == topic,
                    sink_offsets.c.partition == partition,
                )
                .values(values)
            )
        self._failpoint("offsets written")
        _, matured_ts = progress(connection)
        if matured_ts is not None:
            moment_store.advance(connection, matured_ts, touched)
        self._failpoint("moments written")
        return len(changed)

    def _row(self, fact: Fact, outcome: Outcome) -> dict[str, object]:
        arm = next((entry for entry in fact.assignment if entry.layer == ANALYSED_LAYER), None)
        return {
            "query_id": fact.query_id,
            "revision": fact.revision,
            "client_id": fact.client_id,
            "session_id": fact.session_id,
            "experiment": arm and arm.experiment,
            "arm": arm and arm.arm,
            "epoch": arm and arm.epoch,
            "bucket": arm and arm.bucket,
            "lineage": fact.lineage,
            "version": fact.version,
            "source": fact.source,
            "slice": fact.slice,
            "fallback": fact.fallback,
            "latency_us": fact.latency_us or None,
            "impression_ts": fact.impression_ts,
            "watermark_ts": fact.watermark_ts,
            "currency": fact.currency,
            "n_items": fact.n_items,
            "clicks": outcome.clicks,
            "carts": outcome.carts,
            "orders": len(outcome.transactions),
            "units": outcome.units,
            "gross_minor": outcome.gross_minor,
            "refund_minor": outcome.refund_minor,
            "foreign_lines": outcome.foreign_lines,
            "evidence": facts.encode_evidence(fact),
        }


def _read(records: Sequence[Record]) -> _Batch:
    found: dict[str, Fact] = {}
    next_offsets: dict[Partition, int] = {}
    progress: dict[Partition, tuple[int, int]] = {}
    unlinked: list[OrderLine] = []
    num_sessions = num_refused = 0
    for record in records:
        partition = (record.topic, record.partition)
        next_offsets[partition] = record.offset + 1
        try:
            content = session.decode(record.value or b"")
        except SchemaError as error:
            num_refused += 1
            _log.error("%s/%d offset %d left out: %s", *partition, record.offset, error)
            continue
        if isinstance(content, Session):
            num_sessions += 1
            fact = facts.fact_of(content)
            earlier = found.get(fact.query_id)
            found[fact.query_id] = fact if earlier is None else facts.merge(earlier, fact)
        elif isinstance(content, Progress):
            progress[partition] = (content.watermark_ts, content.matured_ts)
        else:
            unlinked.append(orders.of_unlinked(content))
    return _Batch(
        facts=found,
        unlinked=unlinked,
        num_sessions=num_sessions,
        num_refused=num_refused,
        next_offsets=next_offsets,
        progress=progress,
    )


def _changed(
    connection: Connection, wanted: Mapping[str, Fact], touched: dict[str, int]
) -> list[tuple[Fact, RowMapping | None]]:
    """Return the facts that add evidence to the stored ones, merged with them, and the stored ones.

    Args:
        connection: The transaction.
        wanted: Facts of the batch by query id.
        touched: Takes up each client of a changed fact, its former client too, with the earliest impression time; one
            with an order line is there with -1, because an order may count in other times than its session.
    """
    changed: list[tuple[Fact, RowMapping | None]] = []
    query_ids = sorted(wanted)
    for start in range(0, len(query_ids), _CHUNK):
        chunk = query_ids[start : start + _CHUNK]
        rows = connection.execute(
            select(
                session_facts.c.query_id,
                session_facts.c.revision,
                session_facts.c.watermark_ts,
                session_facts.c.evidence,
                session_facts.c.client_id,
                *traffic.READ,
            ).where(session_facts.c.query_id.in_(chunk))
        )
        stored = {row["query_id"]: row for row in rows.mappings()}
        for fact in (wanted[query_id] for query_id in chunk):
            row = stored.get(fact.query_id)
            united = fact if row is None else _united(fact, row)
            if row is None or united.revision > row["revision"] or facts.encode_evidence(united) != row["evidence"]:
                changed.append((united, row))
                places = [(fact.client_id, -1 if united.lines else fact.impression_ts)]
                if row is not None:
                    places.append((row["client_id"], -1 if united.lines else row["impression_ts"]))
                for client, at_ts in places:
                    touched[client] = min(touched.get(client, at_ts), at_ts)
    return changed


def _united(fact: Fact, row: RowMapping) -> Fact:
    return replace(
        facts.with_evidence(fact, row["evidence"]),
        revision=max(fact.revision, row["revision"]),
        watermark_ts=max(fact.watermark_ts, row["watermark_ts"]),
    )


def progress(connection: Connection) -> tuple[int | None, int | None]:
    """Return the watermark and the maturity of the facts over all partitions; None before each has reported one."""
    partitions, reporting, watermark, matured = connection.execute(
        select(
            func.count(),
            func.count(sink_offsets.c.matured_ts),
            func.min(sink_offsets.c.watermark_ts),
            func.min(sink_offsets.c.matured_ts),
        ).where(sink_offsets.c.sink == SINK)
    ).one()
    return (watermark, matured) if partitions and reporting == partitions else (None, None)


def lock_sink(connection: Connection) -> dict[Partition, int]:
    """Return the stored offsets; until the end of the transaction no sink writes facts, orders or sums."""
    rows = connection.execute(select(sink_offsets).where(sink_offsets.c.sink == SINK).with_for_update())
    return {(row.topic, row.partition): row.next_offset for row in rows}


def _same(stored: Mapping[Partition, int], expected: Mapping[Partition, int]) -> bool:
    return all(stored.get(partition) == offset for partition, offset in expected.items())


def _show(offsets: Mapping[Partition, int]) -> str:
    return ", ".join(f"{topic}/{partition}: {offset}" for (topic, partition), offset in sorted(offsets.items()))
