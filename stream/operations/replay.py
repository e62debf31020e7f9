"""The replay driver: records in the order of their event time, at most `speed` times as fast as they happened."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.operations.tick_writer import Ticker
from stream.schemas import topics
from stream.schemas.times import DAY_MS, HOUR_MS, MINUTE_MS

# The join takes events up to 60 s ahead of its clock at face value, so the clock must not lag further behind.
TICK_MS = 30_000
# Beyond all windows of the join: attribution, then refunds seven days after an order.
SETTLE_MS = 9 * DAY_MS
FINAL_STEP_MS = MINUTE_MS
# The watermark stays behind the last tick by the disorder that it allows and by the time after which a topic is quiet.
MOST_BEHIND_MS = DAY_MS
# A gap without events is crossed in one step: an event of a wrong year would else cost a tick for each 30 s.
GAP_MS = HOUR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One record of a log: when it happened, and what goes to which topic."""

    event_ts: int
    topic: str
    key: bytes
    value: bytes


@dataclass(slots=True, kw_only=True)
class ReplaySummary:
    """Counts of a replay.

    Attributes:
        produced: Records per topic, all acknowledged.
        end_ts: Time of the last tick, beyond all windows of the join.
        stopped: Whether the replay was asked to stop before the end of the log; then windows stay open.
    """

    produced: dict[str, int] = field(default_factory=lambda: dict.fromkeys(topics.EVENT_TOPICS, 0))
    ticks: int = 0
    start_ts: int = 0
    end_ts: int = 0
    simulated_s: float = 0.0
    wall_s: float = 0.0
    stopped: bool = False


def run(
    broker: Broker,
    events: Iterable[Replayed],
    speed: float,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[str], None] = lambda _line: None,
    monotonic: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] = time.sleep,
) -> ReplaySummary:
    """Send `events`, which come in the order of `event_ts`, and write the clock after each step of 30 s.

    A pipeline that is slower than `speed` makes the replay slower or lag, never reorders it.

    Args:
        broker: Where the topics are.
        events: A loader's records.
        speed: Simulated seconds per wall second, at most.
        stop: Asked between steps.
        report: Gets a line of progress now and then.
        monotonic: Wall clock in seconds.
        wait: Waits that many seconds.

    Raises:
        BusError: If a record is not acknowledged.
        ValueError: If `speed` is not positive, or the events are out of order.
    """
    if not speed > 0:
        raise ValueError(f"speed = {speed}: expected more than 0")
    summary = ReplaySummary()
    with Producer(broker) as producer, Ticker(broker, producer, writer="replay") as ticker:
        wall_start = monotonic()
        now_ts = 0
        for event in events:
            if summary.ticks == 0:
                summary.start_ts = now_ts = event.event_ts
                _tick(ticker, summary, now_ts)
            if event.event_ts < now_ts:
                raise ValueError(f"event_ts = {event.event_ts} after a tick at {now_ts}: expected the order of time")
            if event.event_ts - now_ts > GAP_MS:
                for step in range(3):
                    _tick(ticker, summary, now_ts + TICK_MS + step * FINAL_STEP_MS)
                now_ts = event.event_ts - TICK_MS - (event.event_ts - now_ts) % TICK_MS
                _tick(ticker, summary, now_ts)
            while event.event_ts >= now_ts + TICK_MS:
                now_ts += TICK_MS
                _tick(ticker, summary, now_ts)
                ahead_s = (now_ts - summary.start_ts) / 1_000 / speed - (monotonic() - wall_start)
                if ahead_s > 0:
                    wait(ahead_s)
                if summary.ticks % 500 == 0:
                    report(f"replay: {sum(summary.produced.values())} records, {summary.ticks} ticks")
            if stop():
                summary.stopped = True
                break
            producer.send(event.topic, key=event.key, value=event.value, timestamp_ms=event.event_ts)
            summary.produced[event.topic] += 1
        if summary.ticks == 0:
            return summary
        summary.simulated_s = (now_ts - summary.start_ts) / 1_000
        _tick(ticker, summary, now_ts + TICK_MS)
        if not summary.stopped:
            # Several, as a topic counts as quiet only after it has been so for some time of the clock.
            for step in range(3):
                _tick(ticker, summary, now_ts + SETTLE_MS + step * FINAL_STEP_MS)
        producer.flush()
        summary.wall_s = round(monotonic() - wall_start, 3)
    return summary


def _tick(ticker: Ticker, summary: ReplaySummary, now_ts: int) -> None:
    ticker.tick(now_ts)
    summary.ticks += 1
    summary.end_ts = now_ts
