"""Comparison of the emitted sessions with those of a batch oracle, which recomputes them from the logs.

The oracle (`event_tables`, `batch_join`) shares nothing with the streaming core but the strict decoder. What it cannot
know, because it depends on when a record arrived, it takes from the side topics: records there are left out of the
expectation. Orphans that it could have placed, and late events that happened in time, are counted apart.

Source: docs/stream.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from stream.join.settings import JoinSettings
from stream.operations.batch_join import EVIDENCE, LABELS, JoinedTables, join
from stream.operations.event_tables import event_tables
from stream.schemas import dead_letter, session, topics
from stream.schemas.outcomes import ORPHAN, OUTCOME_OF_REASON
from stream.schemas.records import Record
from stream.schemas.session import Progress, Session

_MAX_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Comparison of emitted sessions with those of the oracle.

    Attributes:
        expected: Sessions that should have been emitted.
        emitted: Sessions that were, each counted once.
        missing: Expected but not emitted.
        extra: Emitted but not expected.
        differing: Both, with other evidence or labels.
        misplaced_orphans: Pieces of evidence that the oracle would gain by joining what lies in `unjoined` as orphans.
        late_arrivals: Pieces of evidence that the oracle would gain by joining what lies in `unjoined` as too late: by
            their own time these events are early enough. A replay has none.
        examples: Query ids of up to 20 differences.
    """

    expected: int
    emitted: int
    missing: int
    extra: int
    differing: int
    misplaced_orphans: int
    late_arrivals: int
    examples: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Return whether the emitted sessions are those of the oracle."""
        return self.missing == 0 and self.extra == 0 and self.differing == 0


def verify(
    records: Iterable[Record],
    settings: JoinSettings | None = None,
    *,
    from_ts: int = 0,
    to_ts: int | None = None,
) -> Comparison:
    """Compare emitted sessions with those that the oracle computes from the same log.

    Args:
        records: All records of the event topics, `sessions`, `unjoined` and `dead_letters`, in offset order per
            partition; those of other topics are ignored.
        settings: The windows that the join ran with.
        from_ts: Only sessions shown at or after this time are compared.
        to_ts: Only sessions shown before this time are compared; by default those that are closed in every partition.
    """
    settings = settings or JoinSettings()
    inputs: dict[tuple[str, int, int], Record] = {}
    sessions: dict[str, list[Session]] = {}
    reasons: dict[tuple[str, int, int, str], str] = {}
    watermarks: dict[int, int] = {}
    for record in records:
        if record.topic in topics.EVENT_TOPICS:
            inputs[record.topic, record.partition, record.offset] = record
        elif record.topic == topics.SESSIONS:
            content = session.decode(record.value or b"")
            if isinstance(content, Session):
                sessions.setdefault(content.query_id, []).append(content)
            elif isinstance(content, Progress):
                watermarks[content.partition] = max(content.watermark_ts, watermarks.get(content.partition, 0))
        elif record.topic in {topics.UNJOINED, topics.DEAD_LETTERS}:
            found = dead_letter.read(record)
            if found is not None:
                reasons[found.identity] = found.reason
    watermark_ts = min((watermarks.get(where[1], 0) for where in inputs), default=0)
    # An event is compared once nothing about it can wait any more.
    settled_ts = watermark_ts - settings.longest_wait_ms
    closed_ts = watermark_ts - settings.click_window_s * 1_000 - settings.clock_tolerance_ms
    last_ts = closed_ts if to_ts is None else to_ts - 1

    orphans = {where for where, reason in reasons.items() if OUTCOME_OF_REASON[reason] == ORPHAN}
    tables = event_tables(inputs, set(reasons))
    expected = join(tables, settings)
    emitted, seen = _emitted(sessions, settings.click_window_s * 1_000)
    in_range = pl.col("imp_ts").is_between(from_ts, last_ts) & (pl.col("last_ts") <= closed_ts)
    wanted = tables.shown.filter(in_range)["query_id"].unique()
    shown = seen.filter(in_range)["query_id"].unique()
    missing = set(wanted) - set(shown)
    extra = set(shown) - set(wanted)
    both = pl.Series("query_id", sorted(set(wanted) & set(shown)), dtype=pl.String)
    differing = _differences(expected, emitted, both, settled_ts)

    def num_gained(admitted: set[tuple[str, int, int, str]]) -> int:
        """Return how much evidence an oracle finds in addition that admits some of the records left out."""
        if not admitted:
            return 0
        more = join(event_tables(inputs, set(reasons) - admitted), settings)
        return max(0, len(more.evidence) - len(expected.evidence))

    return Comparison(
        expected=len(wanted),
        emitted=len(shown),
        missing=len(missing),
        extra=len(extra),
        differing=len(differing),
        misplaced_orphans=num_gained(orphans),
        late_arrivals=num_gained({where for where, reason in reasons.items() if reason == "too_late"}),
        examples=tuple(sorted(missing | extra | differing)[:_MAX_SHOWN]),
    )


def _emitted(sessions: dict[str, list[Session]], window_ms: int) -> tuple[JoinedTables, pl.DataFrame]:
    """Return evidence as the union over all revisions, labels as the last record has them, and times of the lists."""
    evidence: list[tuple[object, ...]] = []
    labels: list[tuple[object, ...]] = []
    for query_id, revisions in sessions.items():
        touches = {e.event_id: e for s in revisions for e in s.events if e.topic == topics.CLICKS}
        lines = {(x.transaction_id, x.line_id, x.refund_id): x for s in revisions for x in s.lines}
        evidence += [(query_id, "click", e.event_id, e.action, e.item, e.event_ts) for e in touches.values()]
        evidence += [(query_id, "line", "\0".join(k), x.action, x.item, x.event_ts) for k, x in lines.items()]
        last = revisions[-1]
        columns: list[list[int]] = [
            last.column("clicks").tolist(),
            last.column("carts").tolist(),
            last.column("orders").tolist(),
            last.column("units").tolist(),
            last.column("gross_minor").tolist(),
            last.column("refund_minor").tolist(),
        ]
        labels += [
            (query_id, at, *values, last.currency)
            for at, values in enumerate(zip(*columns, strict=True))
            if any(values)
        ]
    times = [(name, found[-1].impression_ts, found[-1].close_ts - window_ms) for name, found in sessions.items()]
    return (
        JoinedTables(
            pl.DataFrame(evidence, schema=EVIDENCE, orient="row"),
            pl.DataFrame(labels, schema=LABELS, orient="row"),
        ),
        pl.DataFrame(times, schema={"query_id": pl.String, "imp_ts": pl.Int64, "last_ts": pl.Int64}, orient="row"),
    )


def _differences(expected: JoinedTables, emitted: JoinedTables, queries: pl.Series, settled_ts: int) -> set[str]:
    """Return the queries whose evidence differs, or whose labels do while all their evidence is settled."""
    inside = pl.col("query_id").is_in(queries.implode())
    ours, theirs = expected.evidence.filter(inside), emitted.evidence.filter(inside)
    settled = pl.col("event_ts") < settled_ts
    differing = _symmetric(ours.filter(settled), theirs.filter(settled))
    unsettled = set(ours.filter(~settled)["query_id"]) | set(theirs.filter(~settled)["query_id"])
    touched = (pl.col("clicks") + pl.col("carts") + pl.col("orders") + pl.col("units") + pl.col("refund")) > 0
    labels = _symmetric(expected.labels.filter(inside & touched), emitted.labels.filter(inside))
    return differing | (labels - unsettled)


def _symmetric(ours: pl.DataFrame, theirs: pl.DataFrame) -> set[str]:
    columns = ours.columns
    return set(ours.join(theirs, on=columns, how="anti", nulls_equal=True)["query_id"]) | set(
        theirs.join(ours, on=columns, how="anti", nulls_equal=True)["query_id"]
    )
