"""The join of one partition: raw records in, rows and records out. No clock, no I/O, no await.

What makes results independent of the order of arrival: a click or order line that cannot be placed at once waits, and
what is decided for it is decided when the watermark passes its deadline, in deadline order. What makes them
independent of crashes: rows are set unions keyed by identity, the progress row is written last, rows of settled
records are deleted a number of slices later, and a restart rolls back to what the progress row claims.

Source: STREAM.md 5 to 9.
"""

from collections import deque
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from stream import session, topics
from stream.errors import SchemaError
from stream.events import Behaviour, Click, Conversion, Impression, OrderLine
from stream.join import closed, decode, fates, health, labels, profiles, rows, sessions
from stream.join.fates import Effects
from stream.join.labels import Deal, Labels, Merge, Touch
from stream.join.murmur2 import partition_of
from stream.join.records import InputRecord
from stream.join.rows import ItemClick, Order, Snapshot, Source, WarmSession
from stream.join.settings import JoinSettings
from stream.join.tiers import Tier, WarmTier
from stream.join.watermark import Clock

_MAX_KNOWN_KEYS = 200_000
_CLOSE_RANK = 1
_REFUND_RANK = 2
_REASON_ORDER = ("click", "conversion", "refund")


@dataclass(slots=True)
class _OpenQuery:
    """A query whose click window is open; its list stays raw in the hot tier."""

    query_id: str
    client_id: str
    event_id: str
    event_ts: int
    close_ts: int
    source: tuple[int, int]
    labels: Labels | None = None


@dataclass(slots=True)
class _Waiting:
    """A click, or one line of a conversion, whose deadline decides."""

    topic: str
    event: Click | Conversion
    line: int
    source: Source
    deadline_ts: int


@dataclass(slots=True)
class _Correction:
    """What a slice adds to a closed session."""

    session: WarmSession
    items: set[int] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)
    grown: bool = False


class Join:
    """The join of one partition.

    Attributes:
        counters: Fate, reason or other name to count since the topics began.
    """

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
        self._attribution_ms = settings.attribution_s * 1_000
        self._refund_ms = settings.refund_s * 1_000
        self._wait_ms = settings.wait_s * 1_000
        self._dead_ms = settings.future_dead_s * 1_000
        # A row outlives its window by what may still arrive or wait for it.
        self._slack_ms = (settings.wait_s + settings.lateness_s) * 1_000 + 1
        self._driver_clock = settings.ticks == "driver"

        self._hot = Tier(hot)
        self._warm = WarmTier(warm)
        self._progress = progress
        self._progress_key = str(partition).encode()
        self._clock = Clock(settings)
        self.counters: dict[str, int] = {}
        self._slice = 0
        self._emitted_ts = 0
        self._emitted_watermark_ts = 0
        self._snapshots: list[Snapshot] = []

        self._open: dict[str, _OpenQuery] = {}
        self._by_client: dict[str, list[str]] = {}
        self._held: dict[str, int] = {}
        self._waiting: dict[bytes, _Waiting] = {}
        self._waiting_for: dict[str, list[bytes]] = {}
        self._deadlines: list[tuple[int, int, int, int, str | bytes]] = []
        self._retiring: deque[tuple[int, bytes]] = deque()
        self._expiring: deque[tuple[int, bytes, int]] = deque()
        self._closed = closed.ClosedQueries()
        self._evicted = closed.ClosedQueries()
        self._known_keys: dict[str, bytes] = {}

        self._effects = Effects()
        self._relabelled: dict[str, _OpenQuery] = {}
        self._corrections: dict[str, _Correction] = {}
        self._digests: dict[tuple[bytes, int], list[int]] = {}
        self._profiles: dict[str, bytes | None] = {}
        self._restore()

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
        return {"hot": self._hot.size_bytes, "warm": self._warm.size_bytes}

    @property
    def open_sessions(self) -> int:
        """Number of queries whose window is open."""
        return len(self._open)

    @property
    def waiting_events(self) -> int:
        """Number of clicks and order lines that wait for what they refer to."""
        return len(self._waiting)

    @property
    def positions(self) -> dict[str, int]:
        """Next offset per input topic."""
        return dict(self._clock.next)

    def seed(self, positions: dict[str, int]) -> None:
        """Take over positions from the committed or first offsets, so that emptied topics can be caught up."""
        for topic, offset in positions.items():
            self._clock.next[topic] = max(offset, self._clock.next.get(topic, 0))

    def apply(self, records: Sequence[InputRecord]) -> Effects:
        """Merge one slice: records of one input partition in offset order.

        Records below the stored position were merged before and change nothing. Bad records become dead letters.

        Returns:
            The changed rows, which the mappings already hold, and what to send.
        """
        self._effects = Effects()
        clock = self._clock
        for record in records:
            topic, offset = record.topic, record.offset
            if offset < clock.next.get(topic, 0):
                continue
            clock.next[topic] = offset + 1
            try:
                self._take(record)
            except SchemaError as fault:
                self._bury(record, fault.reason, fault.detail)
            except Exception as fault:  # noqa: BLE001 - a fault of ours must not stop the partition: it is a counted dead letter
                self._bury(record, "internal", repr(fault)[:200])
        clock.advance()
        self._settle_due()
        self._write_corrections()
        self._sweep()
        self._report_progress()
        return self._flush()

    # Records

    def _take(self, record: InputRecord) -> None:
        topic = record.topic
        if topic == topics.TICKS:
            tick = decode.tick(record.value)
            self._clock.tick(tick.now_ts if tick.now_ts is not None else record.timestamp, tick.hw)
        elif topic == topics.IMPRESSIONS:
            impression = decode.impression(record.value)
            self._admit(record, impression)
            self._count(fates.PRODUCED)
            self._on_impression(record, impression)
        elif topic == topics.CLICKS:
            click = decode.click(record.value)
            self._admit(record, click)
            self._count(fates.PRODUCED)
            self._on_click(click, _source(record))
        elif topic == topics.CONVERSIONS:
            conversion = decode.conversion(record.value)
            self._admit(record, conversion)
            self._count(fates.PRODUCED, len(conversion.items))
            self._count("order_lines", len(conversion.items))
            source = _source(record)
            for line in range(len(conversion.items)):
                self._on_line(conversion, line, source)
        else:
            raise SchemaError("unmapped", f"topic '{topic}' is no input of the join")

    def _admit(self, record: InputRecord, event: Impression | Click | Conversion) -> None:
        """Refuse what must not touch the state; note the time of the rest."""
        client_id, key = event.client_id, record.key
        if self._known_keys.get(client_id) != key or key is None:
            encoded = client_id.encode()
            if key != encoded:
                raise SchemaError("misrouted", f"key {key!r:.80} is not the client_id")
            home = partition_of(encoded, self._num_partitions)
            if home != self._partition:
                raise SchemaError("misrouted", f"partition {self._partition}, murmur2 says {home}")
            if len(self._known_keys) >= _MAX_KNOWN_KEYS:
                self._known_keys.clear()
            self._known_keys[client_id] = encoded
        reference_ts = self._clock.now_ts if self._driver_clock else record.timestamp
        if reference_ts and event.event_ts > reference_ts + self._dead_ms:
            raise SchemaError("future_ts", f"event_ts {event.event_ts} is over a day past {reference_ts}")
        if self._held.get(client_id, 0) >= self._settings.max_client_events:
            raise SchemaError("hot_key", f"client holds {self._held[client_id]} open events")
        if self._clock.see(record.topic, event.event_ts):
            self._count("clamped")
        self._count(record.topic)

    def _bury(self, record: InputRecord, reason: str, detail: str) -> None:
        self._effects.dead_letters.append(fates.dead_letter(record, reason, detail))
        self._count(reason)
        if record.topic == topics.TICKS:
            return
        if reason != "conflicting_impression":
            self._count(fates.PRODUCED)
        self._count(fates.DEAD)

    def _on_impression(self, record: InputRecord, impression: Impression) -> None:
        query_id = impression.query_id
        known = self._open.get(query_id)
        if known is not None:
            if known.event_id != impression.event_id:
                raise SchemaError("conflicting_impression", f"query {query_id} was shown as event {known.event_id}")
            self._count(fates.DUPLICATE)
            return
        close_ts = impression.event_ts + self._window_ms
        source = _source(record)
        if close_ts <= self._clock.watermark_ts:
            if self._find_session(query_id) is not None or query_id in self._closed or query_id in self._evicted:
                self._count(fates.DUPLICATE)
            else:
                detail = f"its window closed at {close_ts}, watermark {self._clock.watermark_ts}"
                self._divert(record.topic, impression.client_id, source, "too_late", detail)
            return
        self._hot.put(rows.impression_key(query_id), rows.pack_source(source))
        self._open_query(
            _OpenQuery(
                query_id=query_id,
                client_id=impression.client_id,
                event_id=impression.event_id,
                event_ts=impression.event_ts,
                close_ts=close_ts,
                source=(source.offset, source.append_ts),
            )
        )
        for key in self._waiting_for.pop(query_id, ()):
            self._retry(key)

    def _on_click(self, click: Click, source: Source) -> None:
        if click.query_id is None and not self._settings.infer_links:
            self._lose_click(click, source, "no_link", "no query_id, and links are not inferred")
            return
        waiting = _Waiting(topics.CLICKS, click, 0, source, self._click_deadline(click))
        final = waiting.deadline_ts <= self._clock.watermark_ts
        if not self._place_click(click, source, final=final):
            self._wait(waiting)

    def _on_line(self, conversion: Conversion, line: int, source: Source) -> None:
        waiting = _Waiting(topics.CONVERSIONS, conversion, line, source, conversion.event_ts + self._wait_ms + 1)
        final = waiting.deadline_ts <= self._clock.watermark_ts
        if not self._place_line(conversion, line, source, final=final):
            self._wait(waiting)

    # Waiting

    def _click_deadline(self, click: Click) -> int:
        # An inferred link needs only the lists up to the click, and must come before its session closes.
        return click.event_ts + 1 + (self._wait_ms if click.query_id is not None else 0)

    def _wait(self, waiting: _Waiting) -> None:
        key = rows.waiting_key(self._partition, waiting.topic, waiting.source.offset, waiting.line)
        self._hot.put(key, rows.pack_source(waiting.source))
        self._remember(key, waiting)

    def _remember(self, key: bytes, waiting: _Waiting) -> None:
        event = waiting.event
        self._waiting[key] = waiting
        query_id = _named_query(waiting)
        if query_id is not None:
            self._waiting_for.setdefault(query_id, []).append(key)
        self._hold(event.client_id, 1)
        rank = _REFUND_RANK if isinstance(event, Conversion) and event.action_name != "purchase" else 0
        heappush(self._deadlines, (waiting.deadline_ts, rank, event.event_ts, waiting.source.offset, key))

    def _retry(self, key: bytes) -> None:
        waiting = self._waiting.get(key)
        if waiting is None:
            return
        if self._place(waiting, final=False):
            self._release(key, waiting)
        else:
            self._waiting_for.setdefault(_named_query(waiting) or "", []).append(key)

    def _place(self, waiting: _Waiting, *, final: bool) -> bool:
        if isinstance(waiting.event, Click):
            return self._place_click(waiting.event, waiting.source, final=final)
        return self._place_line(waiting.event, waiting.line, waiting.source, final=final)

    def _release(self, key: bytes, waiting: _Waiting) -> None:
        del self._waiting[key]
        query_id = _named_query(waiting)
        if query_id is not None and query_id in self._waiting_for:
            remaining = [other for other in self._waiting_for[query_id] if other != key]
            if remaining:
                self._waiting_for[query_id] = remaining
            else:
                del self._waiting_for[query_id]
        self._hold(waiting.event.client_id, -1)
        self._retiring.append((self._slice, key))

    def _hold(self, client_id: str, num_events: int) -> None:
        held = self._held.get(client_id, 0) + num_events
        if held > 0:
            self._held[client_id] = held
        else:
            self._held.pop(client_id, None)

    # Clicks

    def _place_click(self, click: Click, source: Source, *, final: bool) -> bool:
        """Join or divert a click, or return False when it has to wait."""
        if click.query_id is None:
            return self._place_unnamed_click(click, source, final=final)
        query = self._open.get(click.query_id)
        if query is not None and click.event_ts < query.close_ts:
            if query.client_id != click.client_id:
                self._lose_click(click, source, "no_link", "the list was shown to another client")
                return True
            shown = sessions.head(self._raw(query))
            if click.object_id not in shown.items.object_id:
                self._lose_click(click, source, "not_in_list", f"item '{click.object_id}'")
                return True
            self._touch_open(query, shown, click, source, "query_id")
            return True
        if query is None and self._place_in_closed(click, source):
            return True
        if not final:
            return False
        if query is not None or click.query_id in self._closed:
            self._lose_click(click, source, "too_late", "the session closed without a click")
        elif click.query_id in self._evicted:
            self._lose_click(click, source, "evicted", "the session was dropped for space")
        else:
            self._lose_click(click, source, "no_impression", f"query '{click.query_id}'")
        return True

    def _place_in_closed(self, click: Click, source: Source) -> bool:
        correction = self._find_session(click.query_id or "")
        if correction is None:
            return False
        warm = correction.session
        if warm.client_id != click.client_id:
            self._lose_click(click, source, "no_link", "the list was shown to another client")
            return True
        if click.event_ts > warm.event_ts + self._attribution_ms:
            self._lose_click(click, source, "too_late", "past the attribution window")
            return True
        if len(warm.labels) >= self._settings.max_client_events:
            self._lose_click(click, source, "evicted", "the session holds too many events")
            return True
        shown = sessions.head(warm.raw())
        if click.object_id not in shown.items.object_id:
            self._lose_click(click, source, "not_in_list", f"item '{click.object_id}'")
            return True
        item = shown.items.object_id.index(click.object_id)
        verdict = warm.labels.merge_touch(_touch(click, item, source, "query_id"))
        self._correct(click.query_id or "", correction, verdict, item, "click")
        self._after_touch(click, click.query_id or "", warm.event_ts, shown, item, verdict, "query_id")
        return True

    def _place_unnamed_click(self, click: Click, source: Source, *, final: bool) -> bool:
        if not final:
            return False
        newest: tuple[int, str] | None = None
        for query_id in self._by_client.get(click.client_id, ()):
            query = self._open[query_id]
            rank = (query.event_ts, query_id)
            if not query.event_ts <= click.event_ts < query.close_ts or (newest is not None and rank < newest):
                continue
            if click.object_id in sessions.head(self._raw(query)).items.object_id:
                newest = rank
        if newest is None:
            self._lose_click(click, source, "no_link", "no open list of the client shows the item")
        else:
            query = self._open[newest[1]]
            self._touch_open(query, sessions.head(self._raw(query)), click, source, "inferred")
        return True

    def _touch_open(self, query: _OpenQuery, shown: sessions.ListHead, click: Click, source: Source, link: str) -> None:
        item = shown.items.object_id.index(click.object_id)
        if query.labels is None:
            query.labels = labels.empty()
        verdict = query.labels.merge_touch(_touch(click, item, source, link))
        if verdict in {Merge.ADDED, Merge.REPLACED}:
            self._relabelled[query.query_id] = query
        if verdict is Merge.ADDED:
            self._hold(query.client_id, 1)
        self._after_touch(click, query.query_id, query.event_ts, shown, item, verdict, link)

    def _after_touch(
        self,
        click: Click,
        query_id: str,
        impression_ts: int,
        shown: sessions.ListHead,
        item: int,
        verdict: Merge,
        link: str,
    ) -> None:
        if click.position is not None and click.position != item + 1:
            self._count("position_differs")
        if not self._count_merge(verdict):
            return
        self._count("clicks_joined")
        self._count(f"link_{link}")
        self._index_click(click, query_id, impression_ts)
        self._behave(click.client_id, click.event_id, click.action_name, click.event_ts, shown, item)

    def _lose_click(self, click: Click, source: Source, reason: str, detail: str) -> None:
        self._count(f"clicks_{fates.FATE_OF_REASON[reason]}")
        self._divert(topics.CLICKS, click.client_id, source, reason, detail)

    def _index_click(self, click: Click, query_id: str, impression_ts: int) -> None:
        """Note the click for conversions that name no query."""
        key = rows.clicks_key(click.client_id, click.object_id)
        stored = self._warm.get(key)
        entry = ItemClick(click.event_ts, click.event_id, query_id, impression_ts)
        known = rows.unpack_clicks(stored) if stored is not None else []
        if any(other.event_id == entry.event_id for other in known):
            return
        newest = sorted([*known, entry], key=lambda c: (c.event_ts, c.event_id), reverse=True)
        # Beyond the newest few, those stay that a conversion still waiting may have to choose from.
        horizon_ts = self._clock.watermark_ts - self._wait_ms
        recent = sum(c.event_ts > horizon_ts for c in newest)
        del newest[recent + self._settings.clicks_per_item :]
        expiry_ts = max(c.impression_ts for c in newest) + self._attribution_ms + self._slack_ms
        self._warm.put(key, rows.pack_warm(expiry_ts, newest))

    # Conversions

    def _place_line(self, conversion: Conversion, line: int, source: Source, *, final: bool) -> bool:
        """Join or divert an order line, or return False when it has to wait."""
        ordered = conversion.items[line]
        order_key = rows.order_key(conversion.client_id, conversion.transaction_id, ordered.line_id)
        stored = self._warm.get(order_key)
        order = rows.unpack_order(stored) if stored is not None else None
        if order is not None and order.offset >= self._clock.next.get(topics.CONVERSIONS, 0):
            order = None  # after a crash: its record is still to be read again
        if conversion.action_name != "purchase":
            return self._place_reversal(conversion, ordered, order, source, final=final)
        if order is not None:
            placed = self._deal(conversion, ordered, order.query_id, source, order.link, order=order)
            if order.offset != source.offset:
                if not placed:
                    self._count(fates.DUPLICATE)
                return True
            # After a crash the row comes from the record in hand and says where it belongs, once that is open again.
            if placed:
                return True
        query_id = ordered.query_id or conversion.query_id
        if query_id is not None and self._deal(conversion, ordered, query_id, source, "query_id"):
            return True
        if not final:
            return False
        clicked = self._last_click(conversion, ordered)
        if clicked is not None and self._deal(conversion, ordered, clicked, source, "last_click"):
            return True
        self._lose_line(conversion, ordered, source, *self._reason_unplaced(query_id))
        return True

    def _place_reversal(
        self, conversion: Conversion, ordered: OrderLine, order: Order | None, source: Source, *, final: bool
    ) -> bool:
        if order is None:
            if final:
                self._lose_line(conversion, ordered, source, "no_link", "no purchase of that line was joined")
            return final
        if conversion.event_ts > order.event_ts + self._refund_ms:
            self._lose_line(conversion, ordered, source, "too_late", "past the refund window")
        elif not self._deal(conversion, ordered, order.query_id, source, "query_id", order=order):
            self._lose_line(conversion, ordered, source, "evicted", "the session was dropped for space")
        return True

    def _deal(
        self,
        conversion: Conversion,
        ordered: OrderLine,
        query_id: str,
        source: Source,
        link: str,
        *,
        order: Order | None = None,
    ) -> bool:
        """Merge an order line into a query if that query can take it."""
        query = self._open.get(query_id)
        correction = self._find_session(query_id) if query is None else None
        if query is not None:
            if query.client_id != conversion.client_id or (conversion.event_ts >= query.close_ts and order is None):
                return False
            raw, impression_ts = self._raw(query), query.event_ts
        elif correction is not None:
            warm = correction.session
            too_late = conversion.event_ts > warm.event_ts + self._attribution_ms
            if warm.client_id != conversion.client_id or (too_late and order is None):
                return False
            raw, impression_ts = warm.raw(), warm.event_ts
        else:
            return False
        shown = sessions.head(raw)
        if order is not None:
            item = order.item
        elif ordered.object_id in shown.items.object_id:
            item = shown.items.object_id.index(ordered.object_id)
        else:
            return False
        deal = _line(conversion, ordered, item, source, link)
        if query is not None:
            if query.labels is None:
                query.labels = labels.empty()
            verdict = query.labels.merge_deal(deal)
            if verdict in {Merge.ADDED, Merge.REPLACED}:
                self._relabelled[query_id] = query
            if verdict is Merge.ADDED:
                self._hold(query.client_id, 1)
        elif correction is not None:
            verdict = correction.session.labels.merge_deal(deal)
            reason = "conversion" if conversion.action_name == "purchase" else "refund"
            self._correct(query_id, correction, verdict, item, reason)
        else:
            return False
        self._after_deal(conversion, ordered, query_id, impression_ts, shown, deal, verdict)
        return True

    def _after_deal(
        self,
        conversion: Conversion,
        ordered: OrderLine,
        query_id: str,
        impression_ts: int,
        shown: sessions.ListHead,
        deal: Deal,
        verdict: Merge,
    ) -> None:
        joined = self._count_merge(verdict)
        if conversion.action_name != "purchase" or verdict is Merge.DUPLICATE:
            return
        order = Order(query_id, deal.item, conversion.event_ts, conversion.event_id, deal.offset, deal.link)
        expiry_ts = max(conversion.event_ts + self._refund_ms, impression_ts + self._attribution_ms) + self._slack_ms
        key = rows.order_key(conversion.client_id, conversion.transaction_id, ordered.line_id)
        self._warm.put(key, rows.pack_warm(expiry_ts, order))
        if joined:
            self._count(f"link_{deal.link}")
            self._behave(conversion.client_id, conversion.event_id, "purchase", conversion.event_ts, shown, deal.item)

    def _last_click(self, conversion: Conversion, ordered: OrderLine) -> str | None:
        stored = self._warm.get(rows.clicks_key(conversion.client_id, ordered.object_id))
        if stored is None:
            return None
        for clicked in rows.unpack_clicks(stored):
            if clicked.event_ts <= conversion.event_ts <= clicked.impression_ts + self._attribution_ms:
                return clicked.query_id
        return None

    def _reason_unplaced(self, query_id: str | None) -> tuple[str, str]:
        if query_id is None:
            return "no_click", "no click of the client on the item"
        query = self._open.get(query_id)
        correction = self._find_session(query_id) if query is None else None
        if query_id in self._evicted:
            return "evicted", "the session was dropped for space"
        if query is not None or query_id in self._closed:
            return "too_late", "the session closed without a click"
        if correction is None:
            return "no_impression", f"query '{query_id}'"
        return "not_in_list", "the list lacks the item, or the attribution window is over"

    def _lose_line(self, conversion: Conversion, ordered: OrderLine, source: Source, reason: str, detail: str) -> None:
        self._divert(topics.CONVERSIONS, conversion.client_id, source, reason, detail, line_id=ordered.line_id)

    # Sessions

    def _open_query(self, query: _OpenQuery) -> None:
        self._open[query.query_id] = query
        self._by_client.setdefault(query.client_id, []).append(query.query_id)
        self._hold(query.client_id, 1)
        heappush(self._deadlines, (query.close_ts, _CLOSE_RANK, query.event_ts, query.source[0], query.query_id))

    def _close(self, query: _OpenQuery) -> None:
        del self._open[query.query_id]
        self._relabelled.pop(query.query_id, None)
        queries = self._by_client[query.client_id]
        queries.remove(query.query_id)
        if not queries:
            del self._by_client[query.client_id]
        self._hold(query.client_id, -1 - (len(query.labels) if query.labels is not None else 0))
        raw = self._raw(query)
        key = rows.session_key(query.query_id)
        ahead = self._find_session(query.query_id)
        merged, revision = query.labels or labels.empty(), 0
        if ahead is not None:
            # Only after a crash: the close was written, what claims it was not.
            merged = merged.union(ahead.session.labels)
            revision = ahead.session.revision + (merged != ahead.session.labels)
            self._corrections.pop(query.query_id, None)
        if len(merged):
            offset, append_ts = query.source
            warm = WarmSession(revision, offset, append_ts, query.event_ts, query.client_id, merged, rows.compress(raw))
            self._warm.put(key, rows.pack_warm(self._session_expiry(warm), warm))
            self._count("sessions_labelled")
        else:
            self._note_closed(b"c", query.query_id, query.close_ts)
        self._retiring.append((self._slice, rows.impression_key(query.query_id)))
        if query.labels is not None:
            self._retiring.append((self._slice, rows.labels_key(query.query_id)))
        items = {touch.item for touch in merged.touches.values()} | {deal.item for deal in merged.deals.values()}
        self._emit(raw, query.client_id, merged, query.source[0], revision, "close", items)
        self._count(fates.JOINED)
        self._count("sessions")

    def _emit(
        self, raw: bytes, client_id: str, merged: Labels, offset: int, revision: int, reason: str, items: set[int]
    ) -> None:
        value = sessions.build(
            raw,
            merged,
            partition=self._partition,
            offset=offset,
            revision=revision,
            reason=reason,
            changed_items=items,
            click_window_ms=self._window_ms,
            watermark_ts=self._clock.watermark_ts,
        )
        self._effects.sessions.append((client_id.encode(), value))

    def _find_session(self, query_id: str) -> _Correction | None:
        correction = self._corrections.get(query_id)
        if correction is not None:
            return correction
        stored = self._warm.get(rows.session_key(query_id))
        return _Correction(rows.unpack_session(stored)) if stored is not None else None

    def _correct(self, query_id: str, correction: _Correction, verdict: Merge, item: int, reason: str) -> None:
        if verdict is Merge.DUPLICATE:
            return
        correction.items.add(item)
        correction.reasons.add(reason)
        correction.grown |= verdict is not Merge.REPEATED
        self._corrections[query_id] = correction

    def _write_corrections(self) -> None:
        for query_id, correction in self._corrections.items():
            warm = correction.session
            warm.revision += correction.grown
            self._warm.put(rows.session_key(query_id), rows.pack_warm(self._session_expiry(warm), warm))
            reason = max(correction.reasons, key=_REASON_ORDER.index)
            self._emit(warm.raw(), warm.client_id, warm.labels, warm.offset, warm.revision, reason, correction.items)
            self._count("revisions")
        self._corrections.clear()

    def _session_expiry(self, warm: WarmSession) -> int:
        bought_ts = [deal.event_ts for deal in warm.labels.deals.values() if deal.action == "purchase"]
        until_ts = max([warm.event_ts + self._attribution_ms, *(ts + self._refund_ms for ts in bought_ts)])
        return until_ts + self._slack_ms

    def _raw(self, query: _OpenQuery) -> bytes:
        stored = self._hot.get(rows.impression_key(query.query_id))
        assert stored is not None, f"open query {query.query_id} without its row"
        return rows.raw_of(stored)

    def _note_closed(self, kind: bytes, query_id: str, ts: int) -> None:
        hour = ts // closed.HOUR_MS
        value = closed.digest(query_id)
        (self._closed if kind == b"c" else self._evicted).add(hour, value)
        self._digests.setdefault((kind, hour), []).append(value)

    def _behave(
        self, client_id: str, event_id: str, action: str, event_ts: int, shown: sessions.ListHead, item: int
    ) -> None:
        behaviour = Behaviour(
            event_id=event_id,
            item_id=shown.items.object_id[item],
            action=action,
            event_ts=event_ts,
            category=shown.query.category,
            price_minor=shown.items.price_minor[item],
        )
        profile = self._profiles.get(client_id)
        if profile is None:
            stored = self._warm.get(rows.profile_key(client_id))
            profile = rows.unpack_bytes(stored) if stored is not None else None
        self._profiles[client_id] = profiles.add(profile, client_id, behaviour, self._settings.profile_size)

    # Time

    def _settle_due(self) -> None:
        """Close and decide whatever the watermark has passed, in order of deadlines."""
        watermark_ts = self._clock.watermark_ts
        while self._deadlines and self._deadlines[0][0] <= watermark_ts:
            name = heappop(self._deadlines)[4]
            if isinstance(name, str):
                query = self._open.get(name)
                if query is not None:
                    self._close(query)
                continue
            waiting = self._waiting.get(name)
            if waiting is not None:
                self._place(waiting, final=True)
                self._release(name, waiting)

    def _sweep(self) -> None:
        for key, expiry_ts in self._warm.expired(self._clock.expiry_ts):
            self._expiring.append((self._slice, key, expiry_ts))
            if key[:1] == b"p":
                self._effects.profiles.append((key[1:], None))
        excess_bytes = self._warm.size_bytes - self._settings.warm_max_bytes
        if excess_bytes > 0:
            for key in self._warm.oldest(excess_bytes):
                self._count("evicted_rows")
                if key[:1] == b"s":
                    self._note_closed(b"e", key[1:].decode(), self._clock.watermark_ts)

    def _report_progress(self) -> None:
        now_ts = self._clock.now_ts
        watermark_ts = self._clock.watermark_ts
        moved_ms = max(now_ts - self._emitted_ts, watermark_ts - self._emitted_watermark_ts)
        if moved_ms < self._settings.progress_s * 1_000 or not now_ts:
            return
        self._emitted_ts, self._emitted_watermark_ts = now_ts, watermark_ts
        state = health.measure(self.counters, self._snapshots, now_ts=now_ts, watermark_ts=watermark_ts)
        self._snapshots = health.remember(self._snapshots, self.counters, now_ts)
        record = session.Progress(
            partition=self._partition,
            watermark_ts=watermark_ts,
            matured_ts=max(0, watermark_ts - self._attribution_ms),
            now_ts=now_ts,
            counters=dict(self.counters),
            coverage=state.coverage,
            ctr=state.ctr,
            join_rate=state.join_rate,
            hold=state.hold,
        )
        self._effects.sessions.append((self._progress_key, session.encode(record)))

    # Rows

    def _flush(self) -> Effects:
        for query in self._relabelled.values():
            assert query.labels is not None
            self._hot.put(rows.labels_key(query.query_id), rows.pack_labels(query.labels))
        self._relabelled.clear()
        for (kind, hour), digests in self._digests.items():
            key = rows.closed_key(kind, self._partition, hour, self._slice)
            expiry_ts = (hour + 1) * closed.HOUR_MS + self._attribution_ms
            self._warm.put(key, rows.pack_bytes(expiry_ts, closed.pack(digests)))
        self._digests.clear()
        for client_id, profile in self._profiles.items():
            if profile is not None:
                expiry_ts = profiles.updated_ts(profile) + self._settings.profile_idle_s * 1_000
                self._warm.put(rows.profile_key(client_id), rows.pack_bytes(expiry_ts, profile))
                # An old behaviour that comes this late must not outlive the deletion of its profile.
                outlived = expiry_ts <= self._clock.expiry_ts
                self._effects.profiles.append((client_id.encode(), None if outlived else profile))
        self._profiles.clear()
        self._retire()
        effects = self._effects
        self._slice += 1
        row = self._progress_row()
        self._progress[self._progress_key] = row
        effects.hot, effects.warm, effects.progress = self._hot.flush(), self._warm.flush(), {self._progress_key: row}
        if self._clock.impressions_run_ahead():
            effects.pause = frozenset({topics.IMPRESSIONS})
        return effects

    def _retire(self) -> None:
        """Delete rows that were settled long enough ago that no crash can undo it."""
        while self._retiring and self._retiring[0][0] + self._settings.retire_slices <= self._slice:
            _, key = self._retiring.popleft()
            if key[:1] == b"w":
                live = key in self._waiting
            else:
                query = self._open.get(key[1:].decode())
                live = query is not None and (key[:1] == b"i" or query.labels is not None)
            if not live:
                self._hot.delete(key)
        while self._expiring and self._expiring[0][0] + self._settings.retire_slices <= self._slice:
            _, key, expiry_ts = self._expiring.popleft()
            if self._warm.delete_expired(key, expiry_ts) and key[:1] in {b"c", b"e"}:
                hour = int(key.split(b":")[1])
                (self._closed if key[:1] == b"c" else self._evicted).forget(hour)

    def _progress_row(self) -> bytes:
        clock = self._clock
        return rows.pack_progress(
            rows.ProgressRow(
                slice_number=self._slice,
                now_ts=clock.now_ts,
                watermark_ts=clock.watermark_ts,
                conversions_ts=clock.conversions_ts,
                next=clock.next,
                high=clock.high,
                hw=clock.hw,
                grown_ts=clock.grown_ts,
                counters=self.counters,
                emitted_ts=self._emitted_ts,
                emitted_watermark_ts=self._emitted_watermark_ts,
                snapshots=self._snapshots,
            )
        )

    def _restore(self) -> None:
        """Return to what the progress row claims; rows that run ahead of it are dropped or merged again."""
        stored = self._progress.get(self._progress_key)
        clock = self._clock
        if stored is not None:
            row = rows.unpack_progress(stored)
            self._slice, self._emitted_ts, self._snapshots = row.slice_number, row.emitted_ts, row.snapshots
            self._emitted_watermark_ts = row.emitted_watermark_ts
            self.counters = row.counters
            clock.now_ts, clock.watermark_ts, clock.conversions_ts = row.now_ts, row.watermark_ts, row.conversions_ts
            clock.next, clock.high, clock.hw, clock.grown_ts = row.next, row.high, row.hw, row.grown_ts
        hot = dict(self._hot.items())
        seen = {key[1:].decode(): self._restore_impression(key, hot[key]) for key in hot if key[:1] == b"i"}
        for key, value in hot.items():
            if key[:1] == b"l":
                query = self._open.get(key[1:].decode())
                if query is None:
                    self._retiring.append((self._slice, key))
                else:
                    query.labels = rows.unpack_labels(value)
                    self._hold(query.client_id, len(query.labels))
        for key, value in hot.items():
            if key[:1] == b"w":
                self._restore_waiting(key, value, seen)
        for key, value in self._warm.items():
            if key[:1] in {b"c", b"e"}:
                bucket = self._closed if key[:1] == b"c" else self._evicted
                for number in closed.unpack(rows.unpack_bytes(value)):
                    bucket.add(int(key.split(b":")[1]), number)

    def _restore_impression(self, key: bytes, value: bytes) -> _OpenQuery | None:
        """Open a query again; return it, or the settled query, or None if its impression will come again."""
        source = rows.unpack_source(value)
        if source.offset >= self._clock.next.get(topics.IMPRESSIONS, 0):
            self._retiring.append((self._slice, key))
            return None
        shown = sessions.identity(source.raw)
        query = _OpenQuery(
            query_id=key[1:].decode(),
            client_id=shown.client_id,
            event_id=shown.event_id,
            event_ts=shown.event_ts,
            close_ts=shown.event_ts + self._window_ms,
            source=(source.offset, source.append_ts),
        )
        if query.close_ts <= self._clock.watermark_ts:
            self._retiring.append((self._slice, key))
        else:
            self._open_query(query)
        return query

    def _restore_waiting(self, key: bytes, value: bytes, seen: dict[str, _OpenQuery | None]) -> None:
        _, topic, _, line = key.decode().split(":")
        source = rows.unpack_source(value)
        event: Click | Conversion
        if topic == topics.CLICKS:
            event = decode.click(source.raw)
            deadline_ts = self._click_deadline(event)
        else:
            event = decode.conversion(source.raw)
            deadline_ts = event.event_ts + self._wait_ms + 1
        waiting = _Waiting(topic, event, int(line), source, deadline_ts)
        ahead = source.offset >= self._clock.next.get(topic, 0)
        if ahead or deadline_ts <= self._clock.watermark_ts or self._was_placed(waiting, seen):
            self._retiring.append((self._slice, key))
        else:
            self._remember(key, waiting)

    def _was_placed(self, waiting: _Waiting, seen: dict[str, _OpenQuery | None]) -> bool:
        """Return whether the arrival of its impression had settled a waiting event before the restart."""
        query = seen.get(_named_query(waiting) or "")
        event = waiting.event
        if query is None or event.event_ts >= query.close_ts:
            return False
        if isinstance(event, Click):
            return True
        stored = self._hot.get(rows.impression_key(query.query_id))
        if stored is None or query.client_id != event.client_id or event.action_name != "purchase":
            return False
        return event.items[waiting.line].object_id in sessions.head(rows.raw_of(stored)).items.object_id

    # Counters

    def _count(self, name: str, number: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + number

    def _count_merge(self, verdict: Merge) -> bool:
        """Count a merged record by its verdict and return whether it joined."""
        joined = verdict in {Merge.ADDED, Merge.REPEATED}
        self._count(fates.JOINED if joined else fates.DUPLICATE)
        if verdict is Merge.REPLACED:
            self._count("conflicts")
        return joined

    def _divert(
        self, topic: str, client_id: str, source: Source, reason: str, detail: str, *, line_id: str | None = None
    ) -> None:
        self._count(fates.FATE_OF_REASON[reason])
        self._count(reason)
        self._effects.unjoined.append(
            fates.unjoined(
                client_id,
                source.raw,
                topic=topic,
                partition=self._partition,
                offset=source.offset,
                append_ts=source.append_ts,
                reason=reason,
                detail=detail,
                line_id=line_id,
            )
        )


def _source(record: InputRecord) -> Source:
    assert record.value is not None
    return Source(record.offset, record.timestamp, record.value)


def _named_query(waiting: _Waiting) -> str | None:
    if isinstance(waiting.event, Click):
        return waiting.event.query_id
    return waiting.event.items[waiting.line].query_id or waiting.event.query_id


def _touch(click: Click, item: int, source: Source, link: str) -> Touch:
    return Touch(click.event_id, click.action_name, item, click.event_ts, source.append_ts, source.offset, link)


def _line(conversion: Conversion, ordered: OrderLine, item: int, source: Source, link: str) -> Deal:
    reversal = conversion.action_name != "purchase"
    return Deal(
        event_id=conversion.event_id,
        transaction_id=conversion.transaction_id,
        line_id=ordered.line_id,
        refund_id=(conversion.refund_id or conversion.event_id) if reversal else "",
        action=conversion.action_name,
        item=item,
        quantity=ordered.quantity,
        amount_minor=ordered.amount_minor,
        currency=conversion.currency,
        event_ts=conversion.event_ts,
        append_ts=source.append_ts,
        offset=source.offset,
        link=link,
    )
