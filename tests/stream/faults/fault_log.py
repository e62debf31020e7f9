"""Shopping of one partition in which everything joins, and logs of it whose faults a test decides upon."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream.broker.partitioner import partition_of
from stream.join.settings import JoinSettings
from stream.schemas.events import Assignment, Conversion
from tests.laws.join_log import (
    DRAIN_TICKS,
    ITEMS,
    NUM_PARTITIONS,
    PARTITION,
    SETTINGS,
    START_TS,
    Event,
    Log,
    Run,
    click,
    impression,
    purchase,
    reversal,
    send,
)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
# The product's attribution window; rows of a whole day are told apart from those of the next.
DAY: JoinSettings = replace(SETTINGS, attribution_s=86_400, refund_s=172_800)
SHOPPERS = tuple(
    name for name in (f"shopper-{i}" for i in range(400)) if partition_of(name.encode(), NUM_PARTITIONS) == PARTITION
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record on its way to the broker, which need not be an event."""

    topic: str
    key: bytes | None
    value: bytes | None
    arrival_ts: int


def arrival(event: Event, delay_ms: int = 0) -> Arrival:
    """Return an event that reaches the broker some time after it happened."""
    sent = send(event, delay_ms)
    return Arrival(sent.topic, sent.client_id.encode(), sent.value, sent.arrival_ts)


def shopping(num_queries: int, *, seed: int, span_s: int = 7_200, last_click_s: int = 899) -> list[Event]:
    """Return lists, two thirds of them clicked, a third bought and a sixth returned; every unit of it joins.

    Half of the clicks come in the last 40 s of `last_click_s`, where a watermark that is ahead by little loses them.
    """
    random = np.random.default_rng(seed)
    happened: list[Event] = []
    for number in range(num_queries):
        shopper = int(random.integers(len(SHOPPERS)))
        client, at_s = SHOPPERS[shopper], int(random.integers(span_s))
        shown = impression(number, client=client, at_s=at_s, items=[f"{name}-of-{number}" for name in ITEMS])
        arm = "treatment" if shopper % 2 else "control"
        shown.assignment = [Assignment(layer="ranker", experiment="first", arm=arm, epoch=1, bucket=shopper)]
        happened.append(shown)
        if number % 3 == 0:
            continue
        item = f"{ITEMS[int(random.integers(len(ITEMS)))]}-of-{number}"
        click_s = at_s + int(random.integers(1 if random.random() < 0.5 else last_click_s - 40, last_click_s))
        # Odd milliseconds keep clicks off the edges of windows.
        happened.append(click(number, number, item, client=client, at_s=click_s, at_ms=number % 999 + 1))
        if number % 3 == 1:
            named = number if random.random() < 0.5 else None
            order = purchase(number, named, [item], client=client, at_s=click_s + int(random.integers(60, 7_200)))
            happened.append(order)
            if number % 2:
                happened.append(reversal(order, number, after_s=int(random.integers(60, 14_400))))
    return happened


def on_time(happened: Sequence[Event], *, seed: int, max_delay_ms: int = 59_000) -> list[Arrival]:
    """Return the events shuffled by random delays within the lateness."""
    delays = np.random.default_rng(seed).integers(0, max_delay_ms, len(happened))
    return [arrival(event, int(delay)) for event, delay in zip(happened, delays, strict=True)]


def log_of(arrivals: Iterable[Arrival], *, end_ts: int, settings: JoinSettings = DAY, tick_s: int = 20) -> Log:
    """Return the log of arriving records, with ticks that end at the same times for every log."""
    log, queue, seq, at = Log(), sorted(arrivals, key=lambda each: each.arrival_ts), 0, 0
    assert queue[-1].arrival_ts < end_ts
    tick_ts = queue[0].arrival_ts
    while at < len(queue):
        while at < len(queue) and queue[at].arrival_ts <= tick_ts:
            came = queue[at]
            log.append(came.topic, came.key, came.value, came.arrival_ts)
            at += 1
        log.tick(tick_ts, seq)
        seq += 1
        # Nothing but time passes in a gap: the driver leaps.
        gap_ts = queue[at].arrival_ts if at < len(queue) else tick_ts
        tick_ts = max(tick_ts + tick_s * 1_000, gap_ts - tick_s * 1_000)
    span_ms = max(settings.attribution_s, settings.refund_s, settings.profile_idle_s) * 1_000
    for past_ms in (settings.click_window_s * 1_000, span_ms, 2 * span_ms):
        for step in range(4):
            log.tick(end_ts + past_ms + step * 61_000, seq)
            seq += 1
    for _ in range(DRAIN_TICKS):
        log.tick(end_ts + 4 * span_ms, seq)
        seq += 1
    return log


def num_units(happened: Iterable[Event]) -> int:
    """Return the number of units of the reconciliation: records, and order lines of conversions."""
    return sum(len(event.items) if isinstance(event, Conversion) else 1 for event in happened)


def doubled_sessions(result: Run) -> int:
    """Return how many session records repeat a revision; without crashes there is no reason for one."""
    revisions = [(each.query_id, each.revision) for each in result.outputs.sessions()]
    return len(revisions) - len(set(revisions))


__all__ = [
    "DAY",
    "DAY_MS",
    "HOUR_MS",
    "START_TS",
    "Arrival",
    "arrival",
    "doubled_sessions",
    "log_of",
    "num_units",
    "on_time",
    "shopping",
]
