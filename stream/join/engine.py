"""The join of one partition: raw records in, rows and records out. No clock, no I/O, no await.

What makes results independent of the order of arrival: a click or order line that cannot be placed at once waits, and
what is decided for it is decided when the watermark passes its deadline, in deadline order. What makes them
independent of crashes: rows are set unions keyed by identity, the progress row is written last, rows of settled
records are deleted once it is confirmed, and a restart rolls back to what the progress row claims.

Source: STREAM.md 5 to 9.
"""

from collections.abc import Mapping, MutableMapping, Sequence

from stream.broker.partitioner import partition_of
from stream.errors import SchemaError
from stream.join import labels, rows, sessions
from stream.join.clicks import Clicks
from stream.join.health import Monitor, Reading
from stream.join.labels import Labels
from stream.join.ledger import Ledger
from stream.join.orders import Orders
from stream.join.output import MicroBatchOutput
from stream.join.restore import click_deadline, line_deadline, restore
from stream.join.rows import ShownList, Source, WarmSession
from stream.join.settings import JoinSettings
from stream.join.state import OpenQuery, State, Waiting
from stream.join.watermark import Clock
from stream.schemas import decode, outcomes, session, topics
from stream.schemas.events import Click, Conversion, Impression
from stream.schemas.records import Record

_MAX_KNOWN_KEYS = 200_000
_REASON_ORDER = ("click", "conversion", "refund")


class Join:
    """The join of one partition."""

    def __init__(
        self,
        partition: int,
        settings: JoinSettings,
        hot: MutableMapping[bytes, bytes],
        warm: MutableMapping[bytes, bytes],
        progress: MutableMapping[bytes, bytes],
        num_partitions: int,
    ) -> None:
        """Restore the join from whatever rows the three mappings hold; they are changed in place from now on."""
        self._partition = partition
        self._num_partitions = num_partitions
        self._settings = settings
        self._window_ms = settings.click_window_s * 1_000
        self._wait_ms = settings.wait_s * 1_000
        self._attribution_ms = settings.attribution_s * 1_000
        self._progress_ms = settings.progress_s * 1_000
        self._ahead_ms = settings.ahead_s * 1_000
        self._dead_ms = settings.future_dead_s * 1_000
        self._driver_clock = settings.ticks == "driver"
        self._progress = progress
        self._progress_key = str(partition).encode()
        self._clock = Clock(settings)
        self._ledger = Ledger(partition)
        self._state = State(partition, settings, hot, warm)
        self._clicks = Clicks(settings, self._state, self._ledger, self._clock)
        self._orders = Orders(settings, self._state, self._ledger, self._clock)
        self._emitted_ts = 0
        self._emitted_watermark_ts = 0
        self._emitted_expiry_ts = 0
        self._monitor = Monitor(max_behind_ms=settings.hold_behind_s * 1_000)
        self._known_keys: dict[str, bytes] = {}
        self._read_progress()
        restore(self._state, self._clock, window_ms=self._window_ms, wait_ms=self._wait_ms)

    @property
    def counters(self) -> Mapping[str, int]:
        """Fate, reason or other name to its count since the topics began."""
        return self._ledger.counters

    @property
    def watermark_ts(self) -> int:
        """No impression or click at or before this time is expected any more; 0 = unknown."""
        return self._clock.watermark_ts

    @property
    def now_ts(self) -> int:
        """Time of the newest tick; 0 before the first."""
        return self._clock.now_ts

    @property
    def state_bytes(self) -> dict[str, int]:
        """Size of the rows by tier."""
        return {"hot": self._state.hot.size_bytes, "warm": self._state.warm.size_bytes}

    @property
    def open_sessions(self) -> int:
        """Number of queries whose window is open."""
        return len(self._state.open)

    @property
    def waiting_events(self) -> int:
        """Number of clicks and order lines that wait for what they refer to."""
        return len(self._state.waiting)

    @property
    def positions(self) -> dict[str, int]:
        """Next offset per input topic."""
        return dict(self._clock.next)

    def seed(self, positions: Mapping[str, int], ends: Mapping[str, int] | None = None) -> None:
        """Take over positions from the committed or first offsets, so that emptied topics can be caught up.

        Args:
            positions: Next offset per input topic.
            ends: End offset per input topic, so that it is known what lags before the first tick tells.
        """
        self._clock.ends.update(ends or {})
        for topic, offset in positions.items():
            self._clock.next[topic] = max(offset, self._clock.next.get(topic, 0))

    def apply(self, records: Sequence[Record]) -> MicroBatchOutput:
        """Merge one slice: records of one input partition in offset order.

        Records below the stored position were merged before and change nothing. Bad records become dead letters.

        Returns:
            The changed rows, which the mappings already hold, and what to send.
        """
        effects = self._ledger.effects = MicroBatchOutput()
        positions, counters = self._clock.next, self._ledger.counters
        for record in records:
            topic, offset = record.topic, record.offset
            if offset < positions.get(topic, 0):
                continue
            positions[topic] = offset + 1
            num_produced = counters[outcomes.PRODUCED]
            try:
                self._take(record)
            except SchemaError as fault:
                self._ledger.bury(record, fault.reason, fault.detail)
            except Exception as fault:  # noqa: BLE001 - one record must not stop its partition for ever
                counters[outcomes.PRODUCED] = num_produced
                self._ledger.bury(record, "internal", repr(fault)[:200])
        self._clock.advance()
        self._settle_due()
        self._write_corrections()
        effects.batch_number = self._state.batch_number
        num_dropped = self._state.sweep(self._clock.expiry_ts, self._clock.watermark_ts, effects)
        if num_dropped:
            counters["evicted_rows"] += num_dropped
        self._report_progress()
        self._state.flush(self._clock.expiry_ts, effects)
        self._write_progress(effects)
        is_full = self._state.hot.size_bytes > self._settings.hot_max_bytes
        effects.pause = self._clock.ahead(0 if is_full else self._ahead_ms)
        return effects

    def confirm(self, batch_number: int) -> None:
        """Learn that the progress row of a slice is stored: what it and those before it have settled may be deleted."""
        self._state.confirmed = max(self._state.confirmed, batch_number)

    # Records

    def _take(self, record: Record) -> None:
        topic, counters = record.topic, self._ledger.counters
        if topic == topics.IMPRESSIONS:
            impression = decode.impression(record.value)
            self._admit(record, impression)
            self._on_impression(record, impression)
            counters[outcomes.PRODUCED] += 1
        elif topic == topics.CLICKS:
            click = decode.click(record.value)
            self._admit(record, click)
            counters[outcomes.PRODUCED] += 1
            deadline_ts = click_deadline(click, self._wait_ms)
            self._place_or_wait(Waiting(topic, click, 0, _source(record), deadline_ts))
        elif topic == topics.CONVERSIONS:
            conversion = decode.conversion(record.value)
            self._admit(record, conversion)
            counters[outcomes.PRODUCED] += len(conversion.items)
            counters["order_lines"] += len(conversion.items)
            source, deadline_ts = _source(record), line_deadline(conversion, self._wait_ms)
            for line in range(len(conversion.items)):
                self._place_or_wait(Waiting(topic, conversion, line, source, deadline_ts))
        elif topic == topics.TICKS:
            tick = decode.tick(record.value)
            self._clock.tick(tick.now_ts if tick.now_ts is not None else record.timestamp, tick.hw)
        else:
            raise SchemaError("unmapped", f"topic '{topic}' is no input of the join")

    def _admit(self, record: Record, event: Impression | Click | Conversion) -> None:
        """Refuse what must not touch the state; note the time of the rest."""
        client_id, key = event.client_id, record.key
        if key is None or self._known_keys.get(client_id) != key:
            self._check_key(client_id, key)
        # Live, the broker's own stamp is the yardstick: unlike `now` it does not depend on how far ticks were read.
        reference_ts = self._clock.now_ts if self._driver_clock else record.timestamp
        if reference_ts and event.event_ts > reference_ts + self._dead_ms:
            raise SchemaError("future_ts", f"event_ts {event.event_ts} is too far past {reference_ts}")
        if self._state.held_by(client_id) >= self._settings.max_client_events:
            raise SchemaError("hot_key", f"the client holds {self._state.held_by(client_id)} open events")
        if self._clock.see(record.topic, event.event_ts):
            self._ledger.counters["clamped"] += 1
        self._ledger.counters[record.topic] += 1

    def _check_key(self, client_id: str, key: bytes | None) -> None:
        encoded = client_id.encode()
        if key != encoded:
            raise SchemaError("misrouted", f"key {key!r:.80} is not the client_id")
        home = partition_of(encoded, self._num_partitions)
        if home != self._partition:
            raise SchemaError("misrouted", f"partition {self._partition}, murmur2 says {home}")
        if len(self._known_keys) >= _MAX_KNOWN_KEYS:
            self._known_keys.clear()
        self._known_keys[client_id] = encoded

    def _on_impression(self, record: Record, impression: Impression) -> None:
        query_id = impression.query_id
        known = self._state.open.get(query_id)
        if known is not None:
            if known.event_id != impression.event_id:
                raise SchemaError("conflicting_impression", f"query {query_id} was shown as event {known.event_id}")
            self._ledger.counters[outcomes.DUPLICATE] += 1
            return
        close_ts = impression.event_ts + self._window_ms
        if close_ts <= self._clock.watermark_ts:
            self._on_late_impression(impression, _source(record), close_ts)
            return
        part = sessions.list_part(impression, self._partition, record.offset)
        shown = ShownList(record.offset, impression.event_id, part)
        self._state.hot.put(rows.impression_key(query_id), rows.pack_shown(shown))
        self._state.open_query(
            OpenQuery(
                query_id=query_id,
                client_id=impression.client_id,
                event_id=impression.event_id,
                event_ts=impression.event_ts,
                close_ts=close_ts,
                offset=record.offset,
                n=len(impression.items.object_id),
            )
        )
        for key, waiting in self._state.waiting_for(query_id):
            if self._place(waiting, final=False):
                self._state.release(key, waiting, placed_by=record.offset)

    def _on_late_impression(self, impression: Impression, source: Source, close_ts: int) -> None:
        query_id = impression.query_id
        state = self._state
        if state.find_session(query_id) is not None or state.was_closed(query_id) or state.was_evicted(query_id):
            self._ledger.counters[outcomes.DUPLICATE] += 1
            return
        detail = f"its window closed at {close_ts}, the watermark is {self._clock.watermark_ts}"
        self._ledger.divert(topics.IMPRESSIONS, impression.client_id, source, "too_late", detail)

    def _place_or_wait(self, waiting: Waiting) -> None:
        final = waiting.deadline_ts <= self._clock.watermark_ts
        if not self._place(waiting, final=final):
            self._state.wait(waiting)

    def _place(self, waiting: Waiting, *, final: bool) -> bool:
        if isinstance(waiting.event, Click):
            return self._clicks.place(waiting.event, waiting.source, final=final)
        return self._orders.place(waiting.event, waiting.line, waiting.source, final=final)

    # Time

    def _settle_due(self) -> None:
        """Close and decide whatever the watermark has passed."""
        for item in self._state.due(self._clock.watermark_ts):
            if isinstance(item, OpenQuery):
                self._close(item)
            else:
                key, waiting = item
                self._place(waiting, final=True)
                self._state.release(key, waiting)

    def _close(self, query: OpenQuery) -> None:
        state, counters = self._state, self._ledger.counters
        part = state.list_part(query)
        state.close_query(query)
        merged, revision = query.labels, 0
        ahead = state.find_session(query.query_id)
        if ahead is not None:
            # Only after a crash: the close was written, what claims it was not.
            merged = (merged or labels.empty()).union(ahead.session.labels)
            revision = ahead.session.revision + (merged != ahead.session.labels)
            state.corrections.pop(query.query_id, None)
        items: set[int] = set()
        if merged is not None and len(merged):
            items.update(touch.item for touch in merged.touches.values())
            items.update(deal.item for deal in merged.deals.values())
            state.put_session(
                query.query_id, WarmSession(revision, query.event_ts, query.client_id, query.n, merged, part)
            )
            counters["sessions_labelled"] += 1
        else:
            state.note_closed(query.query_id, query.close_ts)
        self._emit(query, part, merged, revision, "close", items)
        counters[outcomes.JOINED] += 1
        counters["sessions"] += 1

    def _write_corrections(self) -> None:
        for query_id, correction in self._state.corrections.items():
            warm = correction.session
            warm.revision += correction.grown
            self._state.put_session(query_id, warm)
            reason = max(correction.reasons, key=_REASON_ORDER.index)
            self._emit(warm, warm.part, warm.labels, warm.revision, reason, correction.items)
            self._ledger.counters["revisions"] += 1
        self._state.corrections.clear()

    def _emit(
        self,
        query: OpenQuery | WarmSession,
        part: bytes,
        merged: Labels | None,
        revision: int,
        reason: str,
        items: set[int],
    ) -> None:
        value = sessions.build(
            part,
            merged,
            sessions.Header(
                revision=revision,
                reason=reason,
                close_ts=query.event_ts + self._window_ms,
                watermark_ts=self._clock.watermark_ts,
            ),
            n=query.n,
            impression_ts=query.event_ts,
            partition=self._partition,
            changed_items=items,
        )
        self._ledger.effects.sessions.append((query.client_id.encode(), value))
        self._ledger.effects.reasons.append(reason)

    # Progress

    def _report_progress(self) -> None:
        now_ts, watermark_ts, expiry_ts = self._clock.now_ts, self._clock.watermark_ts, self._clock.expiry_ts
        moved_ms = max(
            now_ts - self._emitted_ts,
            watermark_ts - self._emitted_watermark_ts,
            # What was read after the last tick of a driver moves nothing but this.
            expiry_ts - self._emitted_expiry_ts,
        )
        if not now_ts or moved_ms < self._progress_ms:
            return
        self._emitted_ts, self._emitted_watermark_ts, self._emitted_expiry_ts = now_ts, watermark_ts, expiry_ts
        counters = dict(self._ledger.counters)
        reading = Reading(
            counters=counters,
            now_ts=now_ts,
            watermark_ts=watermark_ts,
            num_open=self.open_sessions + self.waiting_events,
            clicks_read=self._clock.has_read(topics.CLICKS),
        )
        state = self._monitor.observe(reading)
        record = session.Progress(
            partition=self._partition,
            watermark_ts=watermark_ts,
            matured_ts=max(0, expiry_ts - self._attribution_ms),
            now_ts=now_ts,
            counters=counters,
            coverage=state.coverage,
            ctr=state.ctr,
            join_rate=state.join_rate,
            hold=state.hold,
        )
        self._ledger.effects.sessions.append((self._progress_key, session.encode(record)))

    def _write_progress(self, effects: MicroBatchOutput) -> None:
        clock = self._clock
        row = rows.pack_progress(
            rows.ProgressRow(
                batch_number=self._state.batch_number,
                now_ts=clock.now_ts,
                watermark_ts=clock.watermark_ts,
                conversions_ts=clock.conversions_ts,
                next=clock.next,
                high=clock.high,
                hw=clock.hw,
                grown_ts=clock.grown_ts,
                counters=dict(self._ledger.counters),
                emitted_ts=self._emitted_ts,
                emitted_watermark_ts=self._emitted_watermark_ts,
                emitted_expiry_ts=self._emitted_expiry_ts,
                health=self._monitor.stored,
            )
        )
        self._progress[self._progress_key] = row
        effects.progress = {self._progress_key: row}

    def _read_progress(self) -> None:
        stored = self._progress.get(self._progress_key)
        if stored is None:
            return
        row, clock = rows.unpack_progress(stored), self._clock
        self._state.batch_number = row.batch_number
        self._state.confirmed = row.batch_number - 1
        self._emitted_ts, self._emitted_watermark_ts = row.emitted_ts, row.emitted_watermark_ts
        self._emitted_expiry_ts = row.emitted_expiry_ts
        self._monitor = Monitor(max_behind_ms=self._settings.hold_behind_s * 1_000, stored=row.health)
        self._ledger.counters.update(row.counters)
        clock.now_ts, clock.watermark_ts, clock.conversions_ts = row.now_ts, row.watermark_ts, row.conversions_ts
        clock.next, clock.high, clock.hw, clock.grown_ts = row.next, row.high, row.hw, row.grown_ts


def _source(record: Record) -> Source:
    assert record.value is not None
    return Source(record.offset, record.timestamp, record.value)
