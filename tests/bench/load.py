"""Seeded shopping events in order of arrival, with the result of a perfect join.

Everything is simulated time: a record arrives when it happened, except for the share that is disordered, repeated or
late. Offsets are known beforehand, as each topic starts empty: ticks carry them.
"""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.broker.partitioner import partition_of
from stream.schemas import topics
from stream.schemas.events import Click, Conversion, Impression, OrderLine, Query, ShownItems, Tick, encode
from stream.schemas.identity import event_id

START_TS = 1_700_000_000_000
WINDOW_MS = 900_000
NUM_PARTITIONS = 12
_NUM_ITEMS = 24
_POISON = b'{"schema_version":1,"event_id":'


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """The shape of a load; shares are of the events they name.

    Attributes:
        num_queries: Impressions; clicks and conversions follow from the shares.
        span_s: Simulated time between the first and the last impression.
        seed: Same seed, same bytes.
        num_clients: Shoppers, who search equally often.
        clicked: Share of lists that are clicked.
        more_clicks: Chance of one more click or cart addition after each.
        bought: Share of clicked lists with an order.
        delay_median_s: Of the log-normal delay from list to click.
        delay_sigma: Its shape.
        duplicates: Share of events that arrive twice.
        disordered: Share that arrives up to `disorder_s` too late.
        disorder_s: Disorder, within the lateness that the join allows.
        late: Share that arrives long after its window has closed; clicks only.
        poison: Share that no client can decode.
        tick_s: Simulated time between two ticks.
    """

    num_queries: int = 70_000
    span_s: int = 3_600
    seed: int = 2_024
    num_clients: int = 10_000
    clicked: float = 0.3
    more_clicks: float = 0.3
    bought: float = 0.08
    delay_median_s: float = 30.0
    delay_sigma: float = 1.2
    duplicates: float = 0.01
    disordered: float = 0.05
    disorder_s: float = 60.0
    late: float = 0.001
    poison: float = 0.0001
    tick_s: int = 10


class Arrival(NamedTuple):
    """One record as it reaches the broker; ticks have no event id."""

    arrival_ms: int
    topic: str
    partition: int
    key: bytes
    value: bytes
    event_ts: int
    event_id: str
    query_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Result of a complete join.

    Attributes:
        queries: Query to partition and time of its impression.
        clicks: Click to query, of clicks that happened inside the window and arrived within the allowed disorder.
        lines: Order lines that were produced, duplicates not counted.
    """

    queries: dict[str, tuple[int, int]]
    clicks: dict[str, str]
    num_lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Records in order of arrival, ticks among them, and the truth about them."""

    settings: LoadSettings
    arrivals: list[Arrival]
    truth: Truth

    @property
    def num_events(self) -> int:
        """Number of records without ticks."""
        return sum(arrival.topic != topics.TICKS for arrival in self.arrivals)

    def counts(self) -> dict[str, int]:
        """Return records by topic."""
        return dict(Counter(arrival.topic for arrival in self.arrivals))


def generate(settings: LoadSettings) -> Load:
    """Return the load of `settings`."""
    rng = np.random.default_rng(settings.seed)
    events, truth = _events(settings, rng)
    arrivals = _disturb(events, truth, settings, rng)
    arrivals.sort(key=lambda arrival: arrival.arrival_ms)
    return Load(settings=settings, arrivals=_with_ticks(arrivals, settings), truth=truth)


def _events(settings: LoadSettings, rng: np.random.Generator) -> tuple[list[Arrival], Truth]:
    num_queries, seed = settings.num_queries, settings.seed
    times = np.sort(rng.integers(0, settings.span_s * 1_000, num_queries)) + START_TS
    clients = rng.integers(0, settings.num_clients, num_queries).tolist()
    first_items = rng.integers(0, 50_000, num_queries).tolist()
    scores = np.round(rng.normal(size=num_queries + _NUM_ITEMS), 4).tolist()
    num_clicks = _num_clicks(settings, rng)
    num_orders = (num_clicks > 0) & (rng.random(num_queries) < settings.bought)
    delays = rng.lognormal(np.log(settings.delay_median_s), settings.delay_sigma, int(num_clicks.sum())) * 1_000
    delay_of = iter(delays.astype(np.int64).tolist())
    items = [f"sku-{number:07d}" for number in range(50_000 + _NUM_ITEMS)]
    prices = rng.integers(99, 99_999, 50_000 + _NUM_ITEMS).tolist()
    ranks = rng.permuted(np.tile(np.arange(1, _NUM_ITEMS + 1), (64, 1)), axis=1).tolist()
    names = [f"visitor-{number:08d}" for number in range(settings.num_clients)]
    homes = [partition_of(name.encode(), NUM_PARTITIONS) for name in names]
    arrivals: list[Arrival] = []
    queries: dict[str, tuple[int, int]] = {}
    clicks: dict[str, str] = {}
    num_lines = 0
    for number, (ts, client, first, count, ordered) in enumerate(
        zip(times.tolist(), clients, first_items, num_clicks.tolist(), num_orders.tolist(), strict=True)
    ):
        name, home = names[client], homes[client]
        key, query_id = name.encode(), event_id(ts, seed, "query", number)
        shown = items[first : first + _NUM_ITEMS]
        impression = Impression(
            event_id=event_id(ts, seed, "impression", number),
            event_ts=ts,
            client_id=name,
            session_id=f"visit-{client:08d}",
            source="bench",
            query_id=query_id,
            query=Query(hash=f"{number * 2_654_435_761 % 2**64:032x}", category=f"category-{first % 40}"),
            currency="EUR",
            items=ShownItems(
                object_id=shown,
                rank_in=ranks[number % 64],
                price_minor=prices[first : first + _NUM_ITEMS],
                score=scores[number : number + _NUM_ITEMS],
            ),
            latency_us=8_400,
        )
        queries[query_id] = (home, ts)
        arrivals.append(_arrival(topics.IMPRESSIONS, home, key, impression, query_id))
        for nth in range(count):
            click_ts = ts + next(delay_of)
            position = (number * 7 + nth * 5) % _NUM_ITEMS
            click = Click(
                event_id=event_id(click_ts, seed, "click", number, nth),
                event_ts=click_ts,
                client_id=name,
                session_id=f"visit-{client:08d}",
                source="bench",
                action_name="click" if nth % 3 < 2 else "add_to_cart",
                query_id=query_id,
                object_id=shown[position],
                position=position + 1,
            )
            if click_ts < ts + WINDOW_MS:
                clicks[click.event_id] = query_id
            arrivals.append(_arrival(topics.CLICKS, home, key, click, query_id))
        if ordered:
            bought_ts = click_ts + 240_000
            line = OrderLine(
                line_id="1", object_id=shown[position], quantity=1, amount_minor=prices[first], query_id=query_id
            )
            order = Conversion(
                event_id=event_id(bought_ts, seed, "order", number),
                event_ts=bought_ts,
                client_id=name,
                source="bench",
                action_name="purchase",
                transaction_id=f"order-{number}",
                currency="EUR",
                items=[line],
            )
            num_lines += 1
            arrivals.append(_arrival(topics.CONVERSIONS, home, key, order, query_id))
    return arrivals, Truth(queries=queries, clicks=clicks, num_lines=num_lines)


def _num_clicks(settings: LoadSettings, rng: np.random.Generator) -> NDArray[np.int64]:
    clicked = rng.random(settings.num_queries) < settings.clicked
    counts: NDArray[np.int64] = clicked * rng.geometric(1 - settings.more_clicks, settings.num_queries)
    return counts


def _arrival(topic: str, home: int, key: bytes, event: Impression | Click | Conversion, query_id: str) -> Arrival:
    return Arrival(event.event_ts, topic, home, key, encode(event), event.event_ts, event.event_id, query_id)


def _disturb(events: list[Arrival], truth: Truth, settings: LoadSettings, rng: np.random.Generator) -> list[Arrival]:
    """Return the events with disorder, lateness, duplicates and poison; the truth forgets clicks that are late."""
    n = len(events)
    disorder_ms = np.where(rng.random(n) < settings.disordered, rng.random(n) * settings.disorder_s * 1_000, 0.0)
    num_clicks = sum(event.topic == topics.CLICKS for event in events)
    is_late = (rng.random(n) < settings.late * n / num_clicks).tolist()
    late_ms = (rng.random(n) * WINDOW_MS + 2 * WINDOW_MS).astype(np.int64).tolist()
    is_twice = (rng.random(n) < settings.duplicates).tolist()
    again_ms = (rng.random(n) * 120_000).astype(np.int64).tolist()
    is_poison = (rng.random(n) < settings.poison).tolist()
    arrivals: list[Arrival] = []
    for at, (event, delay_ms) in enumerate(zip(events, disorder_ms.astype(np.int64).tolist(), strict=True)):
        if event.topic == topics.CLICKS and is_late[at]:
            delay_ms += late_ms[at]  # noqa: PLW2901
            truth.clicks.pop(event.event_id, None)
        arrived = event._replace(arrival_ms=event.event_ts + delay_ms)
        arrivals.append(arrived)
        if is_twice[at]:
            arrivals.append(arrived._replace(arrival_ms=arrived.arrival_ms + again_ms[at]))
        if is_poison[at]:
            arrivals.append(arrived._replace(value=_POISON, event_id="", query_id=f"poison-{at}"))
    return arrivals


def _with_ticks(arrivals: list[Arrival], settings: LoadSettings) -> list[Arrival]:
    """Return the arrivals with the driver's ticks among them, and after them until every window has closed."""
    step_ms = settings.tick_s * 1_000
    ends = [dict.fromkeys(topics.EVENT_TOPICS, 0) for _ in range(NUM_PARTITIONS)]
    ticked: list[Arrival] = []
    due_ts = START_TS + step_ms
    for arrival in arrivals:
        while arrival.arrival_ms >= due_ts:
            ticked += _ticks(due_ts, ends)
            due_ts += step_ms
        ends[arrival.partition][arrival.topic] += 1
        ticked.append(arrival)
    end_ts = due_ts + WINDOW_MS + 120_000
    while due_ts <= end_ts:
        ticked += _ticks(due_ts, ends)
        due_ts += step_ms
    return ticked


def _ticks(now_ts: int, ends: list[dict[str, int]]) -> list[Arrival]:
    return [
        Arrival(
            now_ts,
            topics.TICKS,
            partition,
            str(partition).encode(),
            encode(Tick(partition=partition, seq=now_ts, worker="bench", hw=dict(hw), now_ts=now_ts)),
            now_ts,
            "",
            "",
        )
        for partition, hw in enumerate(ends)
    ]
