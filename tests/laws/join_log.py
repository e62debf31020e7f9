"""A partitioned log in memory that feeds the join as the worker does, with crashes.

Records arrive in any order within the lateness, topics advance in any interleaving that Kafka allows, and micro-batches
have any size. After a crash, changelogs and outputs reach at least as far as the progress row, and the progress row at
least as far as the last acknowledged micro-batch. The restart begins at any commit up to that micro-batch.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as dataclass_replace
from functools import cache
from itertools import chain, islice

import numpy as np
from msgspec.structs import replace

from stream.broker.partitioner import partition_of
from stream.join.engine import Join
from stream.join.output import MicroBatchOutput
from stream.join.settings import JoinSettings
from stream.schemas import events, session, topics
from stream.schemas.events import ALL_LINES, Click, Conversion, Impression, OrderLine, Query, ShownItems, Tick
from stream.schemas.session import Progress, Session, UnlinkedLine

START_TS = 1_700_000_000_000
NUM_PARTITIONS = 4
PARTITION = 1
_NAMES = tuple(f"client-{i}" for i in range(60))


@cache
def clients_of(partition: int) -> tuple[str, ...]:
    """Return some clients of a partition."""
    return tuple(name for name in _NAMES if partition_of(name.encode(), NUM_PARTITIONS) == partition)[:4]


CLIENTS = clients_of(PARTITION)
ITEMS = tuple(f"item-{i}" for i in range(6))
# An idle topic moves the watermark to now - idle_s: idle_s equals lateness_s, or records within it would be late.
SETTINGS = JoinSettings(idle_s=60, ticks="driver", profile_idle_s=3_600, attribution_s=7_200, refund_s=10_800)
MAX_DELAY_MS = 59_000
MAX_IN_FLIGHT = 8
# A later micro-batch deletes superfluous rows: some ticks at the end, one per micro-batch, as live.
DRAIN_TICKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One record as a topic holds it."""

    topic: str
    partition: int = PARTITION
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """One event with the time at which it reaches the broker."""

    topic: str
    client_id: str
    value: bytes
    arrival_ts: int


Event = Impression | Click | Conversion


def topic_of(event: Event) -> str:
    """Return the topic of an event."""
    if isinstance(event, Impression):
        return topics.IMPRESSIONS
    return topics.CLICKS if isinstance(event, Click) else topics.CONVERSIONS


def send(event: Event, delay_ms: int = 0) -> Sent:
    """Return the event on its way to the broker."""
    return Sent(topic_of(event), event.client_id, events.encode(event), event.event_ts + delay_ms)


def impression(
    number: int,
    *,
    client: str = CLIENTS[0],
    at_s: int = 0,
    items: Sequence[str] = ITEMS[:3],
    currency: str = "EUR",
) -> Impression:
    """Return the list of query `q<number>`."""
    return Impression(
        event_id=f"i{number}",
        event_ts=START_TS + at_s * 1_000,
        client_id=client,
        source="test",
        query_id=f"q{number}",
        query=Query(hash="h", category="shoes"),
        currency=currency,
        items=ShownItems(
            object_id=list(items),
            rank_in=list(range(1, len(items) + 1)),
            price_minor=[100 * (at + 1) for at in range(len(items))],
        ),
    )


def part(
    number: int,
    name: str,
    items: Mapping[int, str],
    *,
    client: str = CLIENTS[0],
    at_s: int = 0,
    currency: str = "EUR",
) -> Impression:
    """Return part `i<number>-<name>` of the list of query `q<number>`: the item at each position."""
    whole = impression(number, client=client, at_s=at_s, items=list(items.values()), currency=currency)
    # A product has one price, also where a list shows it twice.
    prices = [100 * (1 + ITEMS.index(item)) if item in ITEMS else 0 for item in items.values()]
    shown = replace(whole.items, rank_in=[max(1, at) for at in items], price_minor=prices, position=list(items))
    return replace(whole, event_id=f"i{number}-{name}", items=shown)


def click(
    number: int,
    query: int | None,
    item: str,
    *,
    client: str = CLIENTS[0],
    at_s: int = 0,
    action: str = "click",
    at_ms: int = 0,
    position: int | None = None,
) -> Click:
    """Return click `c<number>`."""
    return Click(
        event_id=f"c{number}",
        event_ts=START_TS + at_s * 1_000 + at_ms,
        client_id=client,
        source="test",
        query_id=None if query is None else f"q{query}",
        object_id=item,
        position=position,
        action_name="add_to_cart" if action == "add_to_cart" else "click",
    )


def purchase(
    number: int,
    query: int | None,
    items: Sequence[str],
    *,
    client: str = CLIENTS[0],
    at_s: int = 0,
    currency: str = "EUR",
) -> Conversion:
    """Return order `t<number>` with one line per item."""
    return Conversion(
        event_id=f"v{number}",
        event_ts=START_TS + at_s * 1_000,
        client_id=client,
        source="test",
        action_name="purchase",
        transaction_id=f"t{number}",
        currency=currency,
        query_id=None if query is None else f"q{query}",
        items=[
            OrderLine(line_id=str(at), object_id=item, quantity=1 + at, amount_minor=500 + at)
            for at, item in enumerate(items)
        ],
    )


def reversal(
    bought: Conversion, number: int, *, after_s: int, action: str = "refund", amount_minor: int | None = None
) -> Conversion:
    """Return the refund or cancellation of the first line of an order."""
    return Conversion(
        event_id=f"r{number}",
        event_ts=bought.event_ts + after_s * 1_000,
        client_id=bought.client_id,
        source="test",
        action_name="cancel" if action == "cancel" else "refund",
        transaction_id=bought.transaction_id,
        currency=bought.currency,
        items=[
            replace(line, amount_minor=line.amount_minor if amount_minor is None else amount_minor)
            for line in bought.items[:1]
        ],
    )


def whole_reversal(
    bought: Conversion, number: int, *, after_s: int, action: str = "refund", total_minor: int = 0
) -> Conversion:
    """Return the refund or cancellation of all lines of an order, which it does not name."""
    reversed_ = reversal(bought, number, after_s=after_s, action=action)
    line = OrderLine(line_id=ALL_LINES, object_id=ALL_LINES, quantity=1, amount_minor=total_minor)
    return replace(reversed_, event_id=f"w{number}", items=[line])


@dataclass
class Log:
    """The topics of one partition.

    Attributes:
        partition: The partition.
        ends: Topic to its end offset, past transaction markers.
        records: Topic to its records.
        ticks: Clock of the ticks, as in the settings of the join.
    """

    partition: int = PARTITION
    ticks: str = "driver"
    records: dict[str, list[Stored]] = field(default_factory=lambda: {name: [] for name in topics.INPUTS})
    ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(topics.INPUTS, 0))

    def append(self, topic: str, key: bytes | None, value: bytes | None, timestamp: int) -> None:
        """Append one record."""
        self.records[topic].append(
            Stored(
                topic=topic,
                partition=self.partition,
                offset=self.ends[topic],
                timestamp=timestamp,
                key=key,
                value=value,
            )
        )
        self.ends[topic] += 1

    def append_marker(self, topic: str) -> None:
        """Append a transaction marker, which takes an offset and is no record."""
        self.ends[topic] += 1

    @classmethod
    def of(
        cls,
        sent: Iterable[Sent],
        *,
        tick_s: int = 20,
        settings: JoinSettings = SETTINGS,
        partition: int = PARTITION,
        markers: Callable[[], bool] = lambda: False,
    ) -> "Log":
        """Return the log of events in arrival order with ticks up to the end of all windows.

        Args:
            sent: The events.
            tick_s: Interval of the ticks while events arrive.
            settings: Settings of the join, which tell its windows and the clock of the ticks.
            partition: The partition.
            markers: Returns whether a transaction ends after the next event.
        """
        log = cls(partition=partition, ticks=settings.ticks)
        queue = sorted(sent, key=lambda s: s.arrival_ts)
        last_ts = max((s.arrival_ts for s in queue), default=START_TS)
        tick_ts = min((s.arrival_ts for s in queue), default=START_TS)
        seq = 0
        at = 0
        while tick_ts < last_ts + 2 * tick_s * 1_000:
            while at < len(queue) and queue[at].arrival_ts <= tick_ts:
                event = queue[at]
                log.append(event.topic, event.client_id.encode(), event.value, event.arrival_ts)
                if markers():
                    log.append_marker(event.topic)
                at += 1
            log.tick(tick_ts, seq)
            seq += 1
            # No event arrives in a gap: the driver skips it.
            gap_ts = queue[at].arrival_ts if at < len(queue) else tick_ts
            tick_ts = max(tick_ts + tick_s * 1_000, gap_ts - tick_s * 1_000)
        span_ms = max(settings.attribution_s, settings.refund_s, settings.profile_idle_s) * 1_000
        for late_ts in (settings.click_window_s * 1_000, span_ms, span_ms + 7_200_000, span_ms + 14_400_000):
            for step in range(4):
                log.tick(last_ts + 600_000 + late_ts + step * 61_000, seq)
                seq += 1
        for _ in range(DRAIN_TICKS):
            log.tick(last_ts + 4 * span_ms, seq)
            seq += 1
        return log

    def later_ticks(self) -> list[Stored]:
        """Return ticks after the end of the log at the time of the last one."""
        last = self.records[topics.TICKS][-1]
        return [dataclass_replace(last, offset=last.offset + 1 + number) for number in range(DRAIN_TICKS)]

    def tick(self, now_ts: int, seq: int) -> None:
        """Append a tick that knows all records so far, and the markers after the newest one."""
        hw = {name: self.ends[name] for name in topics.EVENT_TOPICS}
        records_end = {name: self.records[name][-1].offset + 1 for name in hw if self.records[name]}
        tail = {name: end for name, end in records_end.items() if end < hw[name]}
        clock = now_ts if self.ticks == "driver" else None
        tick = Tick(partition=self.partition, seq=seq, worker="test", hw=hw, tail=tail, now_ts=clock)
        self.append(topics.TICKS, str(self.partition).encode(), events.encode(tick), now_ts)

    def events(self) -> list[Stored]:
        """Return the records of the event topics."""
        return [record for name in topics.EVENT_TOPICS for record in self.records[name]]


@dataclass
class Tables:
    """Rows as the changelogs hold them."""

    hot: dict[bytes, bytes] = field(default_factory=dict)
    warm: dict[bytes, bytes] = field(default_factory=dict)
    progress: dict[bytes, bytes] = field(default_factory=dict)

    def copy(self) -> "Tables":
        """Return a copy that another join may change."""
        return Tables(dict(self.hot), dict(self.warm), dict(self.progress))

    def join(self, settings: JoinSettings = SETTINGS, partition: int = PARTITION) -> Join:
        """Return a join restored from these rows."""
        return Join(
            partition, settings, hot=self.hot, warm=self.warm, progress=self.progress, num_partitions=NUM_PARTITIONS
        )


@dataclass
class Outputs:
    """The output topics."""

    partition: int = PARTITION
    records: list[Stored] = field(default_factory=list)

    def take(self, output: MicroBatchOutput) -> None:
        """Append the records of one output."""
        for key, value in output.sessions:
            self._append(topics.SESSIONS, key, value, ())
        for topic, dead_letters in ((topics.UNJOINED, output.unjoined), (topics.DEAD_LETTERS, output.dead_letters)):
            for source_key, source_value, headers in dead_letters:
                self._append(topic, source_key, source_value, headers)
        for client, profile in output.profiles:
            self._append(topics.PROFILES, client, profile, ())

    def _append(self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        self.records.append(
            Stored(
                topic=topic,
                partition=self.partition,
                offset=len(self.records),
                timestamp=0,
                key=key,
                value=value,
                headers=headers,
            )
        )

    def final(self) -> dict[str, object]:
        """Return the final view of a sink by query: the union of evidence, and the labels of the last record."""
        view: dict[str, object] = {}
        union: dict[str, set[tuple[object, ...]]] = {}
        for content in self.sessions():
            found = union.setdefault(content.query_id, set())
            # A late click moves the order lines of a product that the list shows twice, and a copy may have an earlier
            # time: the last record has the places and times.
            found |= {(e.event_id, e.action, e.topic) for e in content.events}
            found |= {(x.transaction_id, x.line_id, x.refund_id, x.amount_minor) for x in content.lines}
            columns = (content.currency, content.clicks, content.carts, content.orders, content.units,
                       content.gross_minor, content.refund_minor, content.click_delay_ms, content.order_delay_ms,
                       content.label_key)  # fmt: skip
            events = tuple((e.event_id, e.item, e.event_ts) for e in content.events)
            lines = tuple((x.transaction_id, x.line_id, x.refund_id, x.item) for x in content.lines)
            view[content.query_id] = (frozenset(found), columns, events, lines)
        return view

    def sessions(self) -> list[Session]:
        """Return the session records in order."""
        decoded = (session.decode(r.value or b"") for r in self.records if r.topic == topics.SESSIONS)
        return [content for content in decoded if isinstance(content, Session)]

    def unlinked(self) -> dict[tuple[str, str, str, str], tuple[object, ...]]:
        """Return the order lines that joined no session by identity, without their coordinates."""
        decoded = (session.decode(r.value or b"") for r in self.records if r.topic == topics.SESSIONS)
        return {
            line.identity: (line.action, line.object_id, line.quantity, line.amount_minor, line.currency,
                            line.event_id, line.event_ts, line.reason, line.source)
            for line in decoded
            if isinstance(line, UnlinkedLine)
        }  # fmt: skip

    def progress(self) -> list[Progress]:
        """Return the progress records in order."""
        decoded = (session.decode(r.value or b"") for r in self.records if r.topic == topics.SESSIONS)
        return [content for content in decoded if isinstance(content, Progress)]

    def dead_letters(self, topic: str) -> Counter[tuple[str, bytes]]:
        """Return the distinct dead letters of a topic by reason and value."""
        seen = {}
        for record in self.records:
            if record.topic == topic:
                headers = dict(record.headers)
                where = (headers["topic"], headers["partition"], headers["offset"], headers.get("line_id", b""))
                seen[where] = (headers["reason"].decode(), record.value or b"")
        return Counter(seen.values())

    def profiles(self) -> dict[bytes | None, bytes | None]:
        """Return the compacted topic `profiles`."""
        return {r.key: r.value for r in self.records if r.topic == topics.PROFILES}


Position = dict[str, int]


def micro_batches(
    log: Log,
    rng: np.random.Generator,
    start: Position | None = None,
    max_batch: int = 7,
    paused: Callable[[], Container[str]] = frozenset,
) -> Iterator[list[Stored]]:
    """Yield micro-batches of the log in a random interleaving of the topics.

    Args:
        log: The log.
        rng: Decides the interleaving and the sizes.
        start: Topic to the number of records before the first one to read.
        max_batch: Most records of a micro-batch.
        paused: Returns the topics that are not read now.
    """
    position = dict.fromkeys(topics.INPUTS, 0) | (start or {})
    while True:
        left = [name for name in topics.INPUTS if position[name] < len(log.records[name])]
        if not left:
            break
        left = [name for name in left if name not in paused()]
        assert left, "every topic with records is paused"
        to_drain = len(log.records[topics.TICKS]) - DRAIN_TICKS - position[topics.TICKS]
        if to_drain <= 0 and len(left) > 1:
            # An event that is read after the last tick leaves rows that no micro-batch deletes.
            left = [name for name in left if name != topics.TICKS]
        name = left[int(rng.integers(len(left)))]
        size = int(rng.integers(1, max_batch + 1))
        if name == topics.TICKS:
            size = min(size, to_drain) if to_drain > 0 else 1
        yield log.records[name][position[name] : position[name] + size]
        position[name] += size


@dataclass
class Run:
    """A finished run of the join over a log."""

    join: Join
    tables: Tables
    outputs: Outputs

    @property
    def outcomes(self) -> dict[str, int]:
        """Return the counters of produced units and of their outcomes."""
        return {name: self.join.counters.get(name, 0) for name in
                ("produced", "joined", "duplicate", "late", "orphan", "dead")}  # fmt: skip


@dataclass
class DayRun:
    """The finished runs of all partitions."""

    runs: list[Run]

    @property
    def outcomes(self) -> Counter[str]:
        """Return the counters of produced units and of their outcomes."""
        return sum((Counter(each.outcomes) for each in self.runs), Counter())

    @property
    def outputs(self) -> Outputs:
        """Return the output topics of all partitions."""
        return Outputs(records=[record for each in self.runs for record in each.outputs.records])


def run(
    log: Log, *, seed: int = 0, settings: JoinSettings = SETTINGS, max_batch: int = 7, obeys_pauses: bool = False
) -> Run:
    """Run the join undisturbed."""
    tables, outputs = Tables(), Outputs(log.partition)
    join = tables.join(settings, log.partition)
    if obeys_pauses:
        join.seed({}, {name: log.ends[name] for name in topics.EVENT_TOPICS})
    watermark_ts = 0
    paused: frozenset[str] = frozenset()
    batches = micro_batches(
        log,
        np.random.default_rng(seed),
        max_batch=max_batch,
        paused=lambda: paused if obeys_pauses else frozenset(),
    )
    for batch in batches:
        output = applied(join, batch)
        outputs.take(output)
        paused = output.pause
        assert join.watermark_ts >= watermark_ts, "the watermark fell"
        watermark_ts = join.watermark_ts
    return Run(join, tables, outputs)


def run_in_order(log: Log, settings: JoinSettings = SETTINGS) -> Run:
    """Run the join on one record after the other, in the order of arrival; a tick comes after its records."""
    tables, outputs = Tables(), Outputs()
    join = tables.join(settings)
    for record in sorted(
        (record for name in (*topics.EVENT_TOPICS, topics.TICKS) for record in log.records[name]),
        key=lambda record: record.timestamp,
    ):
        outputs.take(applied(join, [record]))
    return Run(join, tables, outputs)


def run_with_crashes(
    log: Log, crashes: Sequence[int], *, seed: int = 0, settings: JoinSettings = SETTINGS, same_order: bool = False
) -> Run:
    """Run the join and kill it after each of the given numbers of micro-batches.

    Args:
        log: The log.
        crashes: Numbers of micro-batches between two crashes.
        seed: Decides the interleaving, and what survives.
        settings: Settings of the join.
        same_order: Whether each life reads the same micro-batches as an undisturbed run, or others.
    """
    rng, outputs = np.random.default_rng(seed), Outputs(log.partition)
    everything = list(micro_batches(log, np.random.default_rng(seed)))
    stored, commit, num_acknowledged = Tables(), dict.fromkeys(topics.INPUTS, 0), 0
    for crash_after in crashes:
        unread = iter(everything[num_acknowledged:]) if same_order else micro_batches(log, rng, commit)
        lived = list(islice(unread, crash_after))
        stored, acknowledged = _until_crash(lived, rng, stored, outputs, settings)
        num_acknowledged += acknowledged
        for batch in lived[:acknowledged]:
            commit[batch[0].topic] += len(batch)
    tables = stored.copy()
    join = tables.join(settings, log.partition)
    unread = iter(everything[num_acknowledged:]) if same_order else micro_batches(log, rng, commit)
    # The last crash may come after the last record; a live topic has further ticks, which delete superfluous rows.
    for batch in chain(unread, ([tick] for tick in log.later_ticks())):
        outputs.take(applied(join, batch))
    return Run(join, tables, outputs)


def applied(join: Join, batch: Sequence[Stored]) -> MicroBatchOutput:
    """Apply a micro-batch whose output is stored at once."""
    output = join.apply(batch)
    join.confirm(output.batch_number)
    return output


def _until_crash(
    batches: Sequence[list[Stored]], rng: np.random.Generator, stored: Tables, outputs: Outputs, settings: JoinSettings
) -> tuple[Tables, int]:
    """Run micro-batches; return the surviving rows, with prefixes of the last outputs, and the number acknowledged."""
    join = stored.copy().join(settings, outputs.partition)
    written: list[MicroBatchOutput] = []
    num_confirmed = 0
    for batch in batches:
        written.append(join.apply(batch))
        num_confirmed = max(num_confirmed, len(written) - int(rng.integers(0, MAX_IN_FLIGHT + 1)))
        if num_confirmed:
            join.confirm(written[num_confirmed - 1].batch_number)
    num_progress = max(num_confirmed, len(written) - int(rng.integers(0, MAX_IN_FLIGHT + 1)))
    survivors = stored.copy()
    _write(survivors.hot, [output.hot for output in written], num_progress, rng)
    _write(survivors.warm, [output.warm for output in written], num_progress, rng)
    for output in written[:num_progress]:
        for key, value in output.progress.items():
            assert value is not None
            survivors.progress[key] = value
    for output in written[: int(rng.integers(num_progress, len(written) + 1))]:
        outputs.take(output)
    # Any commit up to the progress row, also a much older one.
    return survivors, int(rng.integers(0, num_progress + 1))


def _write(
    rows: dict[bytes, bytes], touched: Sequence[dict[bytes, bytes | None]], at_least: int, rng: np.random.Generator
) -> None:
    """Apply a prefix of a changelog: `at_least` whole outputs, then some more rows."""
    flat = [row for output in touched[at_least:] for row in output.items()]
    whole = [row for output in touched[:at_least] for row in output.items()]
    for key, value in [*whole, *flat[: int(rng.integers(0, len(flat) + 1))]]:
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
