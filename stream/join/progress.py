"""The progress row, from which a join restarts, and the progress records, which readers of `sessions` follow."""

from collections.abc import MutableMapping

from stream.join import rows
from stream.join.health import Monitor, PartitionStatus
from stream.join.outcome_counters import OutcomeCounters
from stream.join.output import MicroBatchOutput
from stream.join.positions import Positions
from stream.join.settings import JoinSettings
from stream.join.tiers import BatchNumbers
from stream.join.watermark import Watermark
from stream.schemas import session, topics


class Progress:
    """Progress of one partition: written, restored, and reported at intervals."""

    def __init__(
        self,
        partition: int,
        settings: JoinSettings,
        *,
        stored: MutableMapping[bytes, bytes],
        positions: Positions,
        watermark: Watermark,
        counters: OutcomeCounters,
        batches: BatchNumbers,
    ) -> None:
        """Restore the other components from the stored progress row, if there is one."""
        self._partition = partition
        self._attribution_ms = settings.attribution_s * 1_000
        self._interval_ms = settings.progress_s * 1_000
        self._stored = stored
        self._key = str(partition).encode()
        self._positions = positions
        self._watermark = watermark
        self._counters = counters
        self._batches = batches
        self._reported_ts = 0
        self._reported_watermark_ts = 0
        self._reported_expiry_ts = 0
        row = stored.get(self._key)
        health = self._restore(rows.unpack_progress(row)) if row is not None else b""
        self._monitor = Monitor(max_behind_ms=settings.hold_behind_s * 1_000, stored=health)

    def _restore(self, row: rows.ProgressRow) -> bytes:
        self._reported_ts = row.reported_ts
        self._reported_watermark_ts = row.reported_watermark_ts
        self._reported_expiry_ts = row.reported_expiry_ts
        self._counters.update(row.counters)
        self._positions.restore(row.next_offsets, row.ends, row.last_advance_ts, row.tails)
        self._watermark.restore(
            now_ts=row.now_ts,
            watermark_ts=row.watermark_ts,
            conversions_ts=row.conversions_ts,
            newest_ts=row.newest_ts,
        )
        self._batches.restore(row.batch_number, self._watermark.outcomes_ts)
        return row.health

    def report(self, output: MicroBatchOutput, num_open: int) -> None:
        """Add a progress record to the output if the interval has passed since the last one."""
        watermark = self._watermark
        now_ts, watermark_ts, expiry_ts = watermark.now_ts, watermark.watermark_ts, watermark.expiry_ts
        moved_ms = max(
            now_ts - self._reported_ts,
            watermark_ts - self._reported_watermark_ts,
            # Events after the last tick of a driver move the expiry time only.
            expiry_ts - self._reported_expiry_ts,
        )
        if not now_ts or moved_ms < self._interval_ms:
            return
        self._reported_ts, self._reported_watermark_ts, self._reported_expiry_ts = now_ts, watermark_ts, expiry_ts
        counters = dict(self._counters)
        status = PartitionStatus(
            counters=counters,
            now_ts=now_ts,
            watermark_ts=watermark_ts,
            num_open=num_open,
            clicks_read=self._positions.has_read_all(topics.CLICKS),
        )
        health = self._monitor.observe(status)
        record = session.Progress(
            partition=self._partition,
            watermark_ts=watermark_ts,
            matured_ts=max(0, expiry_ts - self._attribution_ms),
            now_ts=now_ts,
            counters=counters,
            coverage=health.coverage,
            ctr=health.ctr,
            join_rate=health.join_rate,
            hold=health.hold,
        )
        output.sessions.append((self._key, session.encode(record)))

    def write(self, output: MicroBatchOutput) -> None:
        """Write the progress row into the store and the output."""
        positions, watermark = self._positions, self._watermark
        row = rows.pack_progress(
            rows.ProgressRow(
                batch_number=self._batches.current,
                now_ts=watermark.now_ts,
                watermark_ts=watermark.watermark_ts,
                conversions_ts=watermark.conversions_ts,
                next_offsets=positions.next_offsets,
                newest_ts=watermark.newest_ts,
                ends=positions.ends,
                last_advance_ts=positions.last_advance_ts,
                counters=dict(self._counters),
                reported_ts=self._reported_ts,
                reported_watermark_ts=self._reported_watermark_ts,
                reported_expiry_ts=self._reported_expiry_ts,
                health=self._monitor.stored,
                tails=positions.tails,
            )
        )
        self._stored[self._key] = row
        output.progress = {self._key: row}
