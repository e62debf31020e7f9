"""The output of one micro-batch."""

from dataclasses import dataclass, field

from stream.join.rows import Source
from stream.schemas import dead_letter, session
from stream.schemas.dead_letter import OutgoingRecord
from stream.schemas.session import UnlinkedLine


@dataclass(slots=True)
class MicroBatchOutput:
    """Rows to store and records to send; all of them belong to the partition of the micro-batch.

    The caller sends `hot`, `warm` and all records at once. After the broker has confirmed all of them it sends
    `progress`, and after that is confirmed it acknowledges the micro-batch, in order. `progress` is thus the commit
    record: the changelogs hold everything that it claims. A restarted join rolls back rows ahead of it by itself.

    Attributes:
        batch_number: Number to confirm to the join when `progress` is stored.
        hot: Changelog rows of the hot tier; None deletes.
        warm: Changelog rows of the warm tier; None deletes.
        progress: Changelog row of the partition's progress.
        sessions: Sessions, progress records and unlinked lines for topic `sessions`.
        reasons: Reason of the emission of each session among them.
        profiles: Profiles for topic `profiles`; None deletes.
        unjoined: Late and orphaned records, or order lines, for topic `unjoined`.
        dead_letters: Rejected records for topic `dead_letters`.
        pause: Topics of this partition that exceed the read-ahead budget. The caller stops fetching a topic until a
            later output of the partition does not name it.
    """

    batch_number: int = 0
    hot: dict[bytes, bytes | None] = field(default_factory=dict)
    warm: dict[bytes, bytes | None] = field(default_factory=dict)
    progress: dict[bytes, bytes | None] = field(default_factory=dict)
    sessions: list[tuple[bytes, bytes]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    profiles: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    unjoined: list[OutgoingRecord] = field(default_factory=list)
    dead_letters: list[OutgoingRecord] = field(default_factory=list)
    pause: frozenset[str] = frozenset()

    def add_unjoined(
        self, client_id: str, source: Source, reason: str, detail: str, *, line_id: str | None = None
    ) -> None:
        """Add a late or orphaned record, or one order line of it."""
        record = dead_letter.unjoined(
            client_id,
            source.raw,
            topic=source.topic,
            partition=source.partition,
            offset=source.offset,
            append_ts=source.append_ts,
            reason=reason,
            detail=detail,
            line_id=line_id,
        )
        self.unjoined.append(record)

    def add_unlinked(self, line: UnlinkedLine) -> None:
        """Add an order line without a session."""
        self.sessions.append((line.client_id.encode(), session.encode(line)))
