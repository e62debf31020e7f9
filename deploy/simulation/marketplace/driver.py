"""The discrete-event loop: shoppers in simulated time, their events on the topics, ticks as the clock.

Between two ticks all searches are ranked, then everything that happened is sent in the order of time, then the ticks
follow. The loop never waits for the join: a slower pipeline lags, nothing is reordered.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Protocol

import numpy as np

from deploy.simulation.marketplace import shopping, traffic
from deploy.simulation.marketplace.market import Listing, Market
from deploy.simulation.marketplace.rankers import Ranked, Ranker
from deploy.simulation.marketplace.shopping import Sending
from deploy.simulation.marketplace.traffic import Search
from deploy.simulation.marketplace.truth import MARK, Accountant, Truth
from stream.errors import BusError
from stream.operations.replay import FINAL_STEP_MS
from stream.operations.tick_writer import HighWatermarks
from stream.schemas import topics
from stream.schemas.events import encode
from stream.schemas.times import HOUR_MS

IMPRESSIONS_WAIT_S = 10.0
# Below the five minutes after which a watermark counts as behind.
DRAIN_STEP_MS = 120_000


@dataclass(slots=True, kw_only=True)
class Summary:
    """Counts of a run, and the truth about its lists.

    Attributes:
        queries: Searches made.
        impressions: Lists shown; each should be one record on `impressions`.
        clicks, add_to_carts, refunds: Records sent, without their duplicates.
        order_lines: Order lines of the purchases sent, without their duplicates.
        duplicates: Records sent a second time, by topic.
        late: Records sent long after they happened.
        dropped: Records due after the drain, never sent.
        produced: Records on each topic that this run knows of, duplicates included.
        impressions_missing: Lists shown whose record had not arrived when the wait for it ended.
        serving_errors: Searches that got no list.
        last_error: The reason of the last one of them.
        ticks: Times the clock was written.
        end_ts: Simulated time of the last tick.
        truth: Expected orders of the shown lists, by arm and by version, beside those of other orders.
        stopped: Whether the run was asked to stop before its end; its windows were closed all the same.
    """

    queries: int = 0
    impressions: int = 0
    clicks: int = 0
    add_to_carts: int = 0
    order_lines: int = 0
    refunds: int = 0
    items: int = 0
    duplicates: dict[str, int] = field(default_factory=dict)
    late: int = 0
    dropped: int = 0
    produced: dict[str, int] = field(default_factory=lambda: dict.fromkeys(topics.EVENT_TOPICS, 0))
    impressions_missing: int = 0
    serving_errors: int = 0
    last_error: str = ""
    ticks: int = 0
    simulated_s: float = 0.0
    wall_s: float = 0.0
    end_ts: int = 0
    truth: Truth = field(default_factory=Truth)
    stopped: bool = False


class Log(Protocol):
    """The part of `stream.broker.producer.Producer` that the driver uses."""

    def send(self, topic: str, *, key: bytes, value: bytes, timestamp_ms: int | None = None) -> None:
        """Queue one record."""

    def flush(self) -> None:
        """Wait until all queued records are in the log."""


class Clock(Protocol):
    """The part of `stream.operations.tick_writer.Ticker` that the driver uses."""

    def high_watermarks(self) -> HighWatermarks:
        """Return the ends of the event topics."""
        ...

    def tick(self, now_ts: int, high: HighWatermarks) -> None:
        """Write what time it is and how far the topics reach."""


class Driver:
    """The discrete-event loop of one market."""

    def __init__(
        self,
        market: Market,
        ranker: Ranker,
        producer: Log,
        ticker: Clock,
        *,
        stop: Callable[[], bool] = lambda: False,
        report: Callable[[str], None] = lambda _line: None,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._market = market
        self._settings = market.settings
        self._ranker = ranker
        self._producer = producer
        self._ticker = ticker
        self._stop = stop
        self._report = report
        self._monotonic = monotonic
        self._wait = wait
        self._due: list[tuple[int, int, Sending]] = []
        self._num_queued = 0
        self._num_expected = 0
        self._base_impressions = 0
        self._wall_start = 0.0
        launch_ts = market.world.items.launch_ts
        self._launches = [int(j) for j in np.argsort(launch_ts, kind="stable") if launch_ts[j] > 0]
        start_ts = self._settings.start_ts
        self._accountant = Accountant(market, start_ts, start_ts + int(self._settings.hours * HOUR_MS))
        self.summary = Summary(truth=self._accountant.truth)

    def run(self) -> Summary:
        """Run searches, drain, and tick past all windows; return the summary.

        Raises:
            BusError: If the broker refuses a record.
        """
        self._wall_start = self._monotonic()
        start_ts = self._settings.start_ts
        self._base_impressions = _num_impressions(self._ticker.high_watermarks())
        self._tick(start_ts)
        end_ts = self._shop(start_ts)
        for line in self._accountant.last_lines():
            self._report(MARK + line)
        end_ts = self._drain(end_ts)
        settle_ms = int(self._settings.settle_h * HOUR_MS)
        # Several, as a topic counts as quiet only after it has been so for some time of the clock.
        for step in range(3):
            self._tick(end_ts + settle_ms + step * FINAL_STEP_MS)
        self._producer.flush()
        self.summary.wall_s = round(self._monotonic() - self._wall_start, 3)
        return self.summary

    def _shop(self, start_ts: int) -> int:
        settings = self._settings
        end_ts = start_ts + int(settings.hours * HOUR_MS)
        tick_ms = int(settings.tick_s * 1_000)
        coming = _Coming(traffic.searches(self._market.world))
        now_ts, next_report = start_ts, start_ts
        with ThreadPoolExecutor(max_workers=settings.concurrency) as pool:
            while now_ts < end_ts and not self._stop():
                now_ts = min(now_ts + tick_ms, end_ts)
                listings = [self._market.listing(search) for search in coming.until(now_ts)]
                ranked = pool.map(self._rank, listings) if settings.concurrency > 1 else map(self._rank, listings)
                for listing, answer in zip(listings, ranked, strict=True):
                    self._show(listing, answer)
                self._launch(now_ts)
                self._send_until(now_ts)
                self._tick(now_ts)
                if now_ts >= next_report:
                    self._report_progress(now_ts, end_ts)
                    next_report += max(tick_ms, (end_ts - start_ts) // 20)
                self._keep_pace(now_ts - start_ts)
        self.summary.stopped = now_ts < end_ts
        self.summary.simulated_s = (now_ts - start_ts) / 1_000
        return now_ts

    def _drain(self, now_ts: int) -> int:
        horizon_ts = now_ts + int(self._settings.drain_h * HOUR_MS)
        while self._due and self._due[0][0] <= horizon_ts and not self._stop():
            now_ts = min(max(now_ts + DRAIN_STEP_MS, self._due[0][0]), horizon_ts)
            self._send_until(now_ts)
            self._tick(now_ts)
        self.summary.dropped += len(self._due)
        self._due.clear()
        return now_ts

    def _rank(self, listing: Listing) -> Ranked | None:
        try:
            return self._ranker.rank(listing)
        except BusError as error:
            self.summary.last_error = str(error)
            return None

    def _show(self, listing: Listing, ranked: Ranked | None) -> None:
        self.summary.queries += 1
        if ranked is None:
            self.summary.serving_errors += 1
            if self.summary.serving_errors == 1:
                self._report(f"warning: a search got no list: {self.summary.last_error}")
            return
        self.summary.impressions += 1
        if ranked.impression is not None:
            self._put(_impression_sending(listing.search, ranked.impression))
        else:
            self._num_expected += 1
            self.summary.produced[topics.IMPRESSIONS] += 1
        for line in self._accountant.add(listing, ranked):
            self._report(MARK + line)
        for sending in shopping.sendings(self._settings, listing.search, self._market.respond(listing, ranked.order)):
            self._put(sending)

    def _put(self, sending: Sending) -> None:
        self._num_queued += 1
        heappush(self._due, (sending.send_ts, self._num_queued, sending))

    def _send_until(self, now_ts: int) -> None:
        while self._due and self._due[0][0] <= now_ts:
            _, _, sending = heappop(self._due)
            self._producer.send(sending.topic, key=sending.key, value=sending.value, timestamp_ms=sending.send_ts)
            self._count(sending)

    def _count(self, sending: Sending) -> None:
        summary = self.summary
        summary.produced[sending.topic] += 1
        summary.late += sending.is_late
        if sending.is_copy:
            summary.duplicates[sending.topic] = summary.duplicates.get(sending.topic, 0) + 1
        elif sending.kind == "click":
            summary.clicks += 1
        elif sending.kind == "add_to_cart":
            summary.add_to_carts += 1
        elif sending.kind == "purchase":
            summary.order_lines += sending.num_lines
        elif sending.kind == "refund":
            summary.refunds += 1

    def _launch(self, now_ts: int) -> None:
        launch_ts = self._market.world.items.launch_ts
        while self._launches and launch_ts[self._launches[0]] <= now_ts:
            item = self._market.shelf.item(self._launches.pop(0))
            self._producer.send(topics.ITEMS, key=item.item_id.encode(), value=encode(item))
            self.summary.items += 1

    def _tick(self, now_ts: int) -> None:
        self._producer.flush()
        self._ticker.tick(now_ts, self._await_impressions())
        self.summary.ticks += 1
        self.summary.end_ts = now_ts

    def _await_impressions(self) -> HighWatermarks:
        deadline = self._monotonic() + IMPRESSIONS_WAIT_S
        pause_s = 0.005
        while True:
            high = self._ticker.high_watermarks()
            # Records sent by this run directly are acknowledged already; those of the service may be on their way.
            num_direct = self.summary.produced[topics.IMPRESSIONS] - self._num_expected
            num_arrived = _num_impressions(high) - self._base_impressions - num_direct
            num_missing = self._num_expected - num_arrived
            if num_missing <= self.summary.impressions_missing:
                # Those given up before may have come after all.
                self.summary.impressions_missing = max(0, num_missing)
                return high
            if self._monotonic() > deadline or self._wait(pause_s):
                if self.summary.impressions_missing == 0:
                    self._report(f"warning: {num_missing} impressions did not arrive within {IMPRESSIONS_WAIT_S:.0f} s")
                self.summary.impressions_missing = num_missing
                return high
            pause_s = min(2 * pause_s, 0.25)

    def _report_progress(self, now_ts: int, end_ts: int) -> None:
        start_ts, summary = self._settings.start_ts, self.summary
        share = (now_ts - start_ts) / max(1, end_ts - start_ts)
        wall_s = self._monotonic() - self._wall_start
        self._report(
            f"shopping {share:4.0%}: {summary.queries} searches, {summary.clicks} clicks,"
            f" {summary.order_lines} orders, {summary.queries / max(wall_s, 1e-9):.0f} searches/s"
        )

    def _keep_pace(self, simulated_ms: int) -> None:
        if self._settings.pace <= 0:
            return
        ahead_s = simulated_ms / 1_000 / self._settings.pace - (self._monotonic() - self._wall_start)
        if ahead_s > 0:
            self._wait(ahead_s)


class _Coming:
    """Searches not yet made, handed out by time."""

    def __init__(self, searches: Iterator[Search]) -> None:
        self._searches = searches
        self._next = next(searches, None)

    def until(self, end_ts: int) -> Iterator[Search]:
        while self._next is not None and self._next.event_ts < end_ts:
            yield self._next
            self._next = next(self._searches, None)


def _impression_sending(search: Search, value: bytes) -> Sending:
    return Sending(
        send_ts=search.event_ts,
        kind="impression",
        topic=topics.IMPRESSIONS,
        key=shopping.client_id(search).encode(),
        value=value,
    )


def _num_impressions(high: HighWatermarks) -> int:
    return sum(offset for (topic, _), offset in high.items() if topic == topics.IMPRESSIONS)
