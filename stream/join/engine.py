"""The join of one partition: raw records in, rows and records out. It has no clock, no I/O and no await.

Results do not depend on the order of arrival: a click or order line that cannot join at once waits, and gets its
outcome when the watermark passes its deadline, in the order of deadlines. Results do not depend on crashes: rows are
set unions by identity, the progress row is written last, superfluous rows are deleted after it is confirmed, and a
restart rolls back to the progress row.

Source: docs/stream.md.
"""

from collections.abc import Mapping, MutableMapping, Sequence

from stream.errors import SchemaError
from stream.join import labels, list_parts, rows, sessions
from stream.join.admission import Admission, ClientLoad
from stream.join.backpressure import Backpressure
from stream.join.clicks import Clicks, click_deadline
from stream.join.closed_sessions import ClosedSessions
from stream.join.deadlines import Deadlines
from stream.join.item_clicks import ItemClicks
from stream.join.labels import Label, Labels
from stream.join.lists import Lists
from stream.join.open_queries import OpenQueries, OpenQuery, Part
from stream.join.orders import Orders, line_deadline
from stream.join.outcome_counters import OutcomeCounters
from stream.join.output import MicroBatchOutput
from stream.join.positions import Positions
from stream.join.profiles import Profiles
from stream.join.progress import Progress
from stream.join.restore import restore_hot, restore_warm
from stream.join.rows import SessionRow, Source
from stream.join.settings import JoinSettings
from stream.join.tiers import BatchNumbers, HotTier, WarmTier
from stream.join.waiting_events import WaitingEvent, WaitingEvents
from stream.join.watermark import Watermark
from stream.schemas import decode, outcomes, topics
from stream.schemas.dead_letter import rejected
from stream.schemas.events import Click, Impression, Tick
from stream.schemas.records import Record
from stream.schemas.session import CLOSE

# A revision takes the last of its reasons in this order.
_REASON_ORDER = ("click", "conversion", "refund")


class Join:
    """The join of one partition."""

    def __init__(
        self,
        partition: int,
        settings: JoinSettings,
        *,
        hot: MutableMapping[bytes, bytes],
        warm: MutableMapping[bytes, bytes],
        progress: MutableMapping[bytes, bytes],
        num_partitions: int,
    ) -> None:
        """Restore the join from the rows of the three mappings, which it changes in place from now on."""
        self._partition = partition
        self._settings = settings
        self._window_ms = settings.click_window_s * 1_000
        self._ahead_ms = settings.ahead_s * 1_000
        self._batches = BatchNumbers()
        self._hot = HotTier(hot, self._batches)
        self._warm = WarmTier(warm, self._batches)
        self._counters = OutcomeCounters()
        self._positions = Positions()
        self._watermark = Watermark(settings, self._positions)
        self._backpressure = Backpressure(self._positions, self._watermark)
        self._progress = Progress(
            partition,
            settings,
            stored=progress,
            positions=self._positions,
            watermark=self._watermark,
            counters=self._counters,
            batches=self._batches,
        )
        self._deadlines = Deadlines()
        load = ClientLoad()
        self._admission = Admission(
            partition, num_partitions, settings, load=load, watermark=self._watermark, counters=self._counters
        )
        self._open = OpenQueries(settings, self._hot, self._deadlines, load)
        self._waiting = WaitingEvents(self._hot, self._deadlines, load)
        self._closed = ClosedSessions(partition, settings, self._warm, self._batches)
        self._profiles = Profiles(settings, self._warm)
        lists = Lists(settings, self._open, self._closed)
        item_clicks = ItemClicks(settings, self._warm, self._batches)
        self._clicks = Clicks(settings, lists, item_clicks, self._profiles, self._counters)
        self._orders = Orders(
            settings,
            lists,
            item_clicks=item_clicks,
            profiles=self._profiles,
            counters=self._counters,
            positions=self._positions,
            waiting=self._waiting,
            warm=self._warm,
        )
        restore_warm(self._warm, self._closed, self._deletion_ts())
        restore_hot(
            self._hot,
            self._open,
            self._waiting,
            positions=self._positions,
            watermark_ts=self._watermark.watermark_ts,
            settings=settings,
        )

    @property
    def counters(self) -> Mapping[str, int]:
        """Outcome, reason or other name to its count since the start of the topics."""
        return self._counters

    @property
    def watermark_ts(self) -> int:
        """The time at or before which no impression or click is expected; 0 = unknown."""
        return self._watermark.watermark_ts

    @property
    def now_ts(self) -> int:
        """Time of the newest tick; 0 before the first."""
        return self._watermark.now_ts

    @property
    def state_bytes(self) -> dict[str, int]:
        """Size of the rows by tier."""
        return {"hot": self._hot.size_bytes, "warm": self._warm.size_bytes}

    @property
    def open_sessions(self) -> int:
        """Number of queries whose window is open."""
        return len(self._open)

    @property
    def waiting_events(self) -> int:
        """Number of clicks and order lines that wait for a list or a click."""
        return len(self._waiting)

    @property
    def positions(self) -> dict[str, int]:
        """Next offset per input topic."""
        return dict(self._positions.next_offsets)

    def seed(self, positions: Mapping[str, int], ends: Mapping[str, int] | None = None) -> None:
        """Take over positions from the committed or first offsets, so that emptied topics can be caught up.

        Args:
            positions: Next offset per input topic.
            ends: End offset per input topic, which tells the lag before the first tick.
        """
        self._positions.seed(positions, ends or {})

    def apply(self, records: Sequence[Record]) -> MicroBatchOutput:
        """Merge one micro-batch: records of one input partition in offset order.

        Records below the stored position were merged before and change nothing. Invalid records become dead letters.

        Returns:
            The changed rows, which the mappings already hold, and the records to send.
        """
        output = MicroBatchOutput(batch_number=self._batches.current)
        for record in records:
            if not self._positions.advance(record.topic, record.offset):
                continue
            num_produced = self._counters[outcomes.PRODUCED]
            try:
                self._merge(record, output)
            except SchemaError as fault:
                self._reject(record, output, fault.reason, fault.detail)
            except Exception as fault:  # noqa: BLE001 - one record must not stop its partition
                self._counters[outcomes.PRODUCED] = num_produced
                self._reject(record, output, "internal", repr(fault)[:200])
        self._watermark.advance()
        self._finalise_due(output)
        self._write_corrections(output)
        self._expire(output)
        self._progress.report(output, self._open.num_parts + self.waiting_events)
        self._flush(output)
        is_full = self._hot.size_bytes > self._settings.hot_max_bytes
        output.pause = self._backpressure.topics_ahead(0 if is_full else self._ahead_ms)
        return output

    def confirm(self, batch_number: int) -> None:
        """Note that the progress row of a micro-batch is stored, so that superfluous rows up to it may be deleted."""
        self._batches.confirm(batch_number)

    # Records

    def _merge(self, record: Record, output: MicroBatchOutput) -> None:
        """Merge a record by the type of its event."""
        event = decode.event(record.topic, record.value)
        if isinstance(event, Tick):
            self._watermark.tick(event.now_ts if event.now_ts is not None else record.timestamp)
            self._positions.learn_ends(event.hw, self._watermark.now_ts, event.tail)
            return
        self._admission.admit(record, event)
        if isinstance(event, Impression):
            self._open_query(event, record, output)
            self._counters[outcomes.PRODUCED] += 1
        elif isinstance(event, Click):
            self._counters[outcomes.PRODUCED] += 1
            source = self._source(record)
            self._join_or_wait(WaitingEvent(event, 0, source, click_deadline(event, self._settings)), output)
        else:
            self._counters[outcomes.PRODUCED] += len(event.items)
            self._counters["order_lines"] += len(event.items)
            source, deadline_ts = self._source(record), line_deadline(event, self._settings)
            for line in range(len(event.items)):
                self._join_or_wait(WaitingEvent(event, line, source, deadline_ts), output)

    def _join_or_wait(self, waiting: WaitingEvent, output: MicroBatchOutput) -> None:
        final = waiting.deadline_ts <= self._watermark.watermark_ts
        if not self._join(waiting, output, final=final):
            self._waiting.add(waiting)

    def _join(self, waiting: WaitingEvent, output: MicroBatchOutput, *, final: bool) -> bool:
        if isinstance(waiting.event, Click):
            return self._clicks.join(waiting.event, waiting.source, output, final=final)
        return self._orders.join(waiting.event, waiting.line, waiting.source, output, final=final)

    def _open_query(self, impression: Impression, record: Record, output: MicroBatchOutput) -> None:
        query_id = impression.query_id
        known = self._open.get(query_id)
        if known is not None:
            if known.has_part(impression.event_id):
                self._counters[outcomes.DUPLICATE] += 1
            else:
                self._add_part(known, impression, record, output)
            return
        close_ts = impression.event_ts + self._window_ms
        is_late = close_ts + self._settings.clock_tolerance_ms <= self._watermark.watermark_ts
        is_part = impression.items.position is not None
        if is_late or self._closed.is_over(query_id, impression.event_ts, record.offset):
            self._reject_late_impression(impression, self._source(record), close_ts, output)
            return
        query = OpenQuery(
            query_id=query_id,
            client_id=impression.client_id,
            event_id=impression.event_id,
            event_ts=impression.event_ts,
            close_ts=close_ts,
            offset=record.offset,
            n=len(impression.items.object_id),
            is_whole=not is_part,
        )
        self._open.open(query, sessions.list_payload(impression, self._partition, record.offset))
        self._join_waiting(query_id, record, output)

    def _add_part(self, query: OpenQuery, impression: Impression, record: Record, output: MicroBatchOutput) -> None:
        """Add a further part of the list of an open query."""
        is_whole = impression.items.position is None
        if query.client_id != impression.client_id or (is_whole and query.is_whole):
            detail = f"query {query.query_id} was shown as event {query.event_id}"
            raise SchemaError("conflicting_impression", detail)
        if query.places is None:
            query.places = list_parts.shown_places(self._open.list_payload(query))
        places = list_parts.places_of(impression)
        list_parts.check_agreement(query.query_id, query.places, places)
        if impression.event_ts >= query.event_ts + self._window_ms:
            detail = f"a part at {impression.event_ts} of a list whose first part is at {query.event_ts}"
            self._reject_impression(impression, self._source(record), detail, output)
            return
        is_first = impression.event_ts < query.event_ts
        query.is_whole |= is_whole
        part = Part(record.offset, impression.event_id, impression.event_ts)
        payload = sessions.list_payload(impression, self._partition, record.offset)
        self._open.add_part(query, part, places, payload)
        target = self._open.find_target(query.query_id) if is_first and query.labels is not None else None
        if target is not None:
            self._clicks.restate(target)
        self._join_waiting(query.query_id, record, output)

    def _join_waiting(self, query_id: str, record: Record, output: MicroBatchOutput) -> None:
        """Try the events again that wait for a list."""
        for key, waiting in self._waiting.of_query(query_id):
            if self._join(waiting, output, final=False):
                self._waiting.remove(key, waiting, joined_by=record.offset)

    def _reject_late_impression(
        self, impression: Impression, source: Source, close_ts: int, output: MicroBatchOutput
    ) -> None:
        closed, query_id, event_ts = self._closed, impression.query_id, impression.event_ts
        if impression.items.position is None:
            is_copy = closed.had_whole(query_id, event_ts)
        else:
            is_copy = closed.had_part(query_id, impression.event_id, event_ts)
        if is_copy:
            self._counters[outcomes.DUPLICATE] += 1
            return
        if close_ts <= self._watermark.watermark_ts:
            detail = f"its window closed at {close_ts}, the watermark is {self._watermark.watermark_ts}"
        else:
            detail = f"the session of query '{query_id}' has closed"
        self._reject_impression(impression, source, detail, output)

    def _reject_impression(self, impression: Impression, source: Source, detail: str, output: MicroBatchOutput) -> None:
        self._counters.add_unjoined(topics.IMPRESSIONS, "too_late", impression.source)
        output.add_unjoined(impression.client_id, source, "too_late", detail)

    def _source(self, record: Record) -> Source:
        assert record.value is not None
        return Source(record.topic, self._partition, record.offset, record.timestamp, record.value)

    def _reject(self, record: Record, output: MicroBatchOutput, reason: str, detail: str) -> None:
        output.dead_letters.append(rejected(record, reason, detail))
        self._counters.add_rejected(record.topic, reason)

    # Time

    def _finalise_due(self, output: MicroBatchOutput) -> None:
        """Close the queries and finalise the waiting events whose deadline the watermark has passed."""
        for deadline_ts, key in self._deadlines.pop_due(self._watermark.watermark_ts):
            if isinstance(key, str):
                query = self._open.get(key)
                if query is not None and self._open.is_due(query, deadline_ts):
                    self._close(query, output)
            else:
                waiting = self._waiting.get(key)
                if waiting is not None:
                    self._join(waiting, output, final=True)
                    self._waiting.remove(key, waiting)

    def _close(self, query: OpenQuery, output: MicroBatchOutput) -> None:
        payload = self._open.list_payload(query)
        self._open.close(query)
        merged, revision = query.labels, 0
        written = self._closed.find_session(query.query_id, query.event_ts)
        if written is not None:
            # After a crash the close may be stored without the progress row that claims it.
            merged = (merged or labels.empty()).union(written.row.labels)
            revision = written.row.revision + (merged != written.row.labels)
            self._closed.discard_correction(query.query_id)
        if merged is not None:
            merged = sessions.shown_labels(merged, payload)
        changed: list[Label] = []
        if merged is not None and len(merged):
            changed += merged.clicks.values()
            changed += merged.order_lines.values()
            row = SessionRow(revision, query.event_ts, query.client_id, query.n, merged, payload, query.close_ts)
            self._closed.put(query.query_id, row)
            self._counters["sessions_labelled"] += 1
        else:
            self._closed.add_unlabelled(query.query_id, sessions.parts_of(payload), query.close_ts)
        self._emit(query, payload, merged=merged, revision=revision, reason=CLOSE, changed=changed, output=output)
        self._counters[outcomes.JOINED] += query.num_parts
        self._counters["sessions"] += 1

    def _write_corrections(self, output: MicroBatchOutput) -> None:
        for session in self._closed.take_corrected():
            row = session.row
            row.revision += session.has_grown
            self._closed.put(session.query_id, row)
            reason = max(session.reasons, key=_REASON_ORDER.index)
            self._emit(
                row,
                row.list_payload,
                merged=row.labels,
                revision=row.revision,
                reason=reason,
                changed=session.merged,
                output=output,
            )
            self._counters["revisions"] += 1

    def _emit(
        self,
        query: OpenQuery | SessionRow,
        payload: bytes,
        *,
        merged: Labels | None,
        revision: int,
        reason: str,
        changed: list[Label],
        output: MicroBatchOutput,
    ) -> None:
        header = sessions.Header(
            revision=revision,
            reason=reason,
            close_ts=query.close_ts,
            watermark_ts=self._watermark.watermark_ts,
        )
        value = sessions.build(
            payload,
            merged,
            header,
            n=query.n,
            impression_ts=query.event_ts,
            partition=self._partition,
            changed=changed,
        )
        output.sessions.append((query.client_id.encode(), value))
        output.reasons.append(reason)

    # Rows

    def _expire(self, output: MicroBatchOutput) -> None:
        """Expire warm rows, and evict the oldest above the size limit."""
        for key in self._warm.expire(self._deletion_ts()):
            if key[:1] == b"p":
                output.profiles.append((key[1:], None))
        excess_bytes = self._warm.size_bytes - self._settings.warm_max_bytes
        if excess_bytes <= 0:
            return
        for key, value in self._warm.evict(excess_bytes):
            self._counters["evicted_rows"] += 1
            if key[:1] == b"s":
                parts = sessions.parts_of(rows.unpack_session(value).list_payload)
                self._closed.add_evicted(key[1:].decode(), parts, self._watermark.watermark_ts)

    def _deletion_ts(self) -> int:
        # An event sees what had not expired at its own time, and has its outcome by the end of the slack.
        return max(0, self._watermark.expiry_ts - self._settings.slack_ms)

    def _flush(self, output: MicroBatchOutput) -> None:
        """Write the changes of the micro-batch into the tiers and the output, the progress row last."""
        self._open.flush()
        self._closed.flush()
        self._profiles.flush(output)
        self._hot.delete_confirmed()
        for key in self._warm.delete_confirmed():
            self._closed.forget(key)
        self._batches.advance(self._watermark.outcomes_ts)
        output.hot, output.warm = self._hot.flush(), self._warm.flush()
        self._progress.write(output)
