"""The load is repeatable, and its truth is what the join finds in it."""

from collections import defaultdict
from dataclasses import dataclass

from stream.join.engine import Join
from stream.join.settings import JoinSettings
from stream.schemas import session, topics
from tests.bench.load import NUM_PARTITIONS, Load, LoadSettings, generate

_SMALL = LoadSettings(num_queries=1_500, span_s=1_200, num_clients=300, late=0.01, poison=0.005)


@dataclass(frozen=True, slots=True)
class _Stored:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def _joined(load: Load) -> tuple[dict[str, set[str]], int, int]:
    joins = [
        Join(number, JoinSettings(ticks="driver"), hot={}, warm={}, progress={}, num_partitions=NUM_PARTITIONS)
        for number in range(NUM_PARTITIONS)
    ]
    next_offset: defaultdict[tuple[str, int], int] = defaultdict(int)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for arrival in load.arrivals:
        offset = next_offset[arrival.topic, arrival.partition]
        next_offset[arrival.topic, arrival.partition] = offset + 1
        stored = _Stored(arrival.topic, arrival.partition, offset, arrival.arrival_ms, arrival.key, arrival.value)
        for _, value in joins[arrival.partition].apply([stored]).sessions:
            record = session.decode(value)
            if isinstance(record, session.Session):
                found[record.query_id] |= {e.event_id for e in record.events if e.topic == topics.CLICKS}
    num_open = sum(join.open_sessions for join in joins)
    return found, sum(join.counters["dead"] for join in joins), num_open


def test_same_seed_same_load() -> None:
    assert generate(_SMALL) == generate(_SMALL)


def test_the_join_finds_the_truth() -> None:
    load = generate(_SMALL)
    found, num_dead, num_open = _joined(load)
    assert found.keys() == load.truth.queries.keys()
    assert all(click in found[query] for click, query in load.truth.clicks.items())
    assert num_dead == sum(not arrival.event_id for arrival in load.arrivals if arrival.topic != topics.TICKS) > 0
    assert num_open == 0


def test_ticks_carry_the_ends_of_what_arrived_before() -> None:
    load = generate(_SMALL)
    counts = load.counts()
    assert counts[topics.TICKS] % NUM_PARTITIONS == 0
    assert load.num_events == sum(count for name, count in counts.items() if name != topics.TICKS)
    assert (
        800 < sum(len(a.value) for a in load.arrivals if a.topic == topics.IMPRESSIONS) / counts["impressions"] < 1_300
    )
