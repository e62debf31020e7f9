from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest

from deploy.simulation.marketplace import shopping
from deploy.simulation.marketplace.driver import Driver, Summary
from deploy.simulation.marketplace.market import Listing, Market
from deploy.simulation.marketplace.rankers import IncomingOrder, Ranked, Ranker
from deploy.simulation.marketplace.settings import MarketplaceSettings
from stream.broker.admin import create_topics, delete_topics
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.join.engine import Join
from stream.join.settings import JoinSettings
from stream.operations.tick_writer import Ticker, newest_ts
from stream.schemas import session, topics
from stream.schemas.events import Click, Conversion, Impression, Item, Tick
from stream.schemas.outcomes import open_count
from stream.schemas.records import Record

PARTITIONS = 4
SETTINGS = MarketplaceSettings(
    seed=9,
    hours=0.25,
    rate=2_000.0,
    drain_h=6.0,
    clients=2_000,
    tick_s=30.0,
    conversion_boost=5.0,
    duplicates=0.05,
    late=0.02,
    refund_delay_h=2.0,
    refund_share=0.5,
    concurrency=1,
)

pytestmark = pytest.mark.kafka


@pytest.fixture
def broker(kafka_broker: Broker) -> Broker:
    empty_topics(kafka_broker)
    return kafka_broker


def empty_topics(broker: Broker) -> None:
    delete_topics(broker)
    create_topics(broker, PARTITIONS)


def drive(broker: Broker, market: Market, ranker: Ranker, lines: list[str] | None = None) -> Summary:
    with Producer(broker) as producer, Ticker(broker, producer, writer="test") as ticker:
        report = (lines if lines is not None else []).append
        return Driver(market, ranker, producer, ticker, report=report).run()


def join_topics(of_topic: Mapping[str, list[Record]]) -> tuple[dict[str, session.Session], Counter[str]]:
    """Join the records of the topics, one partition after the other, up to each tick's watermark before the tick."""
    found: dict[str, session.Session] = {}
    counters: Counter[str] = Counter()
    logs: dict[tuple[str, int], list[Record]] = {}
    for name in topics.INPUTS:
        for record in of_topic[name]:
            logs.setdefault((record.topic, record.partition), []).append(record)
    for partition in range(PARTITIONS):
        join = Join(partition, JoinSettings(ticks="driver"), hot={}, warm={}, progress={}, num_partitions=PARTITIONS)
        for tick in logs[topics.TICKS, partition]:
            high = msgspec.json.decode(tick.value or b"", type=Tick).hw
            slices = []
            for name in topics.EVENT_TOPICS:
                log = logs.get((name, partition), [])
                slices.append([r for r in log if join.positions.get(name, 0) <= r.offset < high[name]])
            for records in [*filter(None, slices), [tick]]:
                for _, raw in join.apply(records).sessions:
                    decoded = session.decode(raw)
                    if isinstance(decoded, session.Session):
                        found[decoded.query_id] = decoded
        assert (join.open_sessions, join.waiting_events) == (0, 0)
        counters.update(join.counters)
    return found, counters


@dataclass(frozen=True, kw_only=True)
class DirectRun:
    """A run without a service, and what it left on the broker.

    Attributes:
        market: The market.
        summary: What the driver counted.
        lines: What the driver reported.
        logs: Records of each topic.
        newest_ts: Time at which a continued run would start.
    """

    market: Market
    summary: Summary
    lines: list[str]
    logs: Mapping[str, list[Record]]
    newest_ts: int | None


@pytest.fixture(scope="module")
def direct_run(kafka_broker: Broker) -> DirectRun:
    empty_topics(kafka_broker)
    market, lines = Market(SETTINGS), list[str]()
    summary = drive(kafka_broker, market, IncomingOrder(market), lines)
    logs = {name: list(read_to_end(kafka_broker, name)) for name in (*topics.INPUTS, topics.ITEMS)}
    return DirectRun(market=market, summary=summary, lines=lines, logs=logs, newest_ts=newest_ts(kafka_broker))


def test_a_direct_run_fills_the_topics_and_every_session_closes(direct_run: DirectRun) -> None:
    summary = direct_run.summary
    assert summary.queries == summary.impressions > 300
    assert summary.impressions_missing == summary.serving_errors == 0
    assert not summary.stopped
    assert {name: len(direct_run.logs[name]) for name in topics.EVENT_TOPICS} == summary.produced
    num_copies = sum(summary.duplicates.values())
    assert num_copies > 0
    clicks = summary.clicks + summary.add_to_carts + summary.duplicates.get(topics.CLICKS, 0)
    assert clicks == summary.produced[topics.CLICKS]
    orders = summary.order_lines + summary.refunds + summary.duplicates.get(topics.CONVERSIONS, 0)
    assert orders == summary.produced[topics.CONVERSIONS]

    sessions, counters = join_topics(direct_run.logs)
    assert len(sessions) == summary.impressions
    assert counters["produced"] == sum(summary.produced.values())
    assert open_count(counters) == 0
    assert counters["duplicate"] == num_copies
    assert counters["dead"] == 0
    # What was sent half an hour late may miss its window; nothing else may.
    assert counters["late"] + counters["orphan"] <= summary.late
    num_orders = sum(int(found.column("orders").sum()) for found in sessions.values())
    assert num_orders >= summary.order_lines - summary.late
    assert summary.refunds > 0
    assert sum(int(found.column("refund_minor").sum()) for found in sessions.values()) > 0
    assert any("shopping 100%" in line for line in direct_run.lines)


def test_launched_items_are_published_as_time_passes(direct_run: DirectRun) -> None:
    items = [msgspec.json.decode(record.value or b"", type=Item) for record in direct_run.logs[topics.ITEMS]]
    launch_ts = direct_run.market.world.items.launch_ts
    assert direct_run.summary.items == len(items) == int((launch_ts > 0).sum())
    assert [item.updated_ts for item in items] == sorted(item.updated_ts for item in items)


def test_events_are_sent_in_order_and_ticks_cover_them(direct_run: DirectRun) -> None:
    summary = direct_run.summary
    for partition in range(PARTITIONS):
        ticks = [
            msgspec.json.decode(record.value or b"", type=Tick)
            for record in direct_run.logs[topics.TICKS]
            if record.partition == partition
        ]
        assert len(ticks) == summary.ticks
        times = [tick.now_ts or 0 for tick in ticks]
        assert times == sorted(times)
        assert times[0] == SETTINGS.start_ts
        shown = [
            msgspec.json.decode(record.value or b"", type=Impression)
            for record in direct_run.logs[topics.IMPRESSIONS]
            if record.partition == partition
        ]
        assert [event.event_ts for event in shown] == sorted(event.event_ts for event in shown)
        for tick in ticks:
            # All lists shown before the tick lie below its high watermark, and no later one.
            assert tick.hw[topics.IMPRESSIONS] == sum(event.event_ts < (tick.now_ts or 0) for event in shown)
    assert direct_run.newest_ts == summary.end_ts


@pytest.mark.no_cover
def test_two_runs_send_the_same_bytes(direct_run: DirectRun, broker: Broker) -> None:
    market = Market(SETTINGS)
    again = drive(broker, market, IncomingOrder(market))
    assert again.produced == direct_run.summary.produced
    for name in topics.EVENT_TOPICS:
        sent = Counter(record.value for record in read_to_end(broker, name))
        assert sent == Counter(record.value for record in direct_run.logs[name]), name


class ServedElsewhere:
    """Stands for a service that writes impressions on its own, except for every `lost`-th."""

    def __init__(self, market: Market, producer: Producer, *, lost: int = 0, failing: int = 0) -> None:
        self._market = market
        self._producer = producer
        self._lost = lost
        self._failing = failing
        self.num_asked = 0

    def rank(self, listing: Listing) -> Ranked:
        self.num_asked += 1
        if self._failing and self.num_asked % self._failing == 0:
            raise BusError("ranking service: 500")
        order = np.arange(len(listing.candidates.items))[::-1]
        if not self._lost or self.num_asked % self._lost:
            key = shopping.client_id(listing.search).encode()
            value = shopping.impression(self._market, listing, order)
            self._producer.send(topics.IMPRESSIONS, key=key, value=value)
        return Ranked(order=order, arm="reversed")


def test_ticks_wait_for_the_impressions_of_the_service(broker: Broker) -> None:
    market = Market(SETTINGS)
    with Producer(broker, linger_ms=50) as elsewhere:
        ranker = ServedElsewhere(market, elsewhere, failing=50)
        summary = drive(broker, market, ranker)
    assert summary.impressions_missing == 0
    assert summary.serving_errors == summary.queries // 50 > 0
    assert summary.truth.arms["reversed"].queries == summary.impressions
    sessions, counters = join_topics({name: list(read_to_end(broker, name)) for name in topics.INPUTS})
    assert len(sessions) == summary.impressions
    assert counters["dead"] == open_count(counters) == 0


def test_a_lost_impression_is_counted_and_the_run_goes_on(broker: Broker) -> None:
    market = Market(MarketplaceSettings(seed=9, hours=0.02, rate=1_000.0, clients=500, concurrency=2))
    lines: list[str] = []
    now_s = iter(range(1_000_000))
    with (
        Producer(broker, linger_ms=0) as elsewhere,
        Producer(broker) as producer,
        Ticker(broker, producer, writer="test") as ticker,
    ):
        ranker = ServedElsewhere(market, elsewhere, lost=3)
        # Each look at the clock is a second, so the wait for the lost ones is over after ten looks.
        summary = Driver(
            market, ranker, producer, ticker, report=lines.append, monotonic=lambda: float(next(now_s))
        ).run()
    assert summary.impressions_missing >= summary.impressions // 3 > 0
    assert sum("did not arrive" in line for line in lines) == 1


def test_a_stopped_run_flushes_and_says_so(broker: Broker) -> None:
    market = Market(SETTINGS)
    answers = iter([False] * 10)
    with Producer(broker) as producer, Ticker(broker, producer, writer="test") as ticker:
        summary = Driver(market, IncomingOrder(market), producer, ticker, stop=lambda: next(answers, True)).run()
    assert summary.stopped
    assert summary.simulated_s == 10 * SETTINGS.tick_s
    decoded = [msgspec.json.decode(r.value or b"", type=Click) for r in read_to_end(broker, topics.CLICKS)]
    assert len(decoded) == summary.produced[topics.CLICKS]
    bought = [msgspec.json.decode(r.value or b"", type=Conversion) for r in read_to_end(broker, topics.CONVERSIONS)]
    assert len(bought) == summary.produced[topics.CONVERSIONS]
