import msgspec
import pytest

from stream.broker.admin import create_topics, delete_topics
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.operations.replay import SETTLE_MS, TICK_MS, Replayed, run
from stream.operations.tick_writer import newest_ts
from stream.schemas import topics
from stream.schemas.events import Click, Tick, encode

START_TS = 1_541_548_800_000


@pytest.fixture
def broker(kafka_broker: Broker) -> Broker:
    delete_topics(kafka_broker)
    create_topics(kafka_broker, 4)
    return kafka_broker


class Clock:
    """Wall time that moves only when the driver waits."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


def clicks(*seconds: int) -> list[Replayed]:
    return [
        Replayed(
            event_ts=START_TS + 1_000 * s,
            topic=topics.CLICKS,
            key=f"client-{s % 7}".encode(),
            value=encode(
                Click(
                    event_id=f"e{s}",
                    event_ts=START_TS + 1_000 * s,
                    client_id=f"client-{s % 7}",
                    source="test",
                    action_name="click",
                    object_id="i",
                )
            ),
        )
        for s in seconds
    ]


@pytest.mark.kafka
def test_records_arrive_with_ticks_that_cover_them(broker: Broker) -> None:
    events = clicks(*range(0, 200, 3))
    summary = run(broker, events, 1e9)
    assert summary.produced == {topics.IMPRESSIONS: 0, topics.CLICKS: len(events), topics.CONVERSIONS: 0}
    assert newest_ts(broker) == summary.end_ts >= START_TS + SETTLE_MS
    ticks: dict[int, list[Tick]] = {}
    for record in read_to_end(broker, topics.TICKS):
        ticks.setdefault(record.partition, []).append(msgspec.json.decode(record.value or b"", type=Tick))
    sent: dict[int, list[Click]] = {}
    for record in read_to_end(broker, topics.CLICKS):
        sent.setdefault(record.partition, []).append(msgspec.json.decode(record.value or b"", type=Click))
    assert sorted(ticks) == [0, 1, 2, 3]
    for partition, found in ticks.items():
        assert len(found) == summary.ticks
        for tick in found:
            before = sum(click.event_ts < (tick.now_ts or 0) for click in sent.get(partition, []))
            assert tick.hw[topics.CLICKS] == before


@pytest.mark.kafka
def test_the_speed_bounds_the_pace(broker: Broker) -> None:
    clock = Clock()
    summary = run(broker, clicks(0, 600), 20.0, monotonic=clock.monotonic, wait=clock.wait)
    assert summary.simulated_s == 600
    assert summary.wall_s == pytest.approx(600 / 20)
    fast = Clock()
    assert run(broker, clicks(0, 600), 2_000.0, monotonic=fast.monotonic, wait=fast.wait).wall_s == pytest.approx(0.3)


@pytest.mark.kafka
def test_a_stopped_replay_leaves_the_windows_open(broker: Broker) -> None:
    answers = iter([False] * 3)
    summary = run(broker, clicks(*range(100)), 1e9, stop=lambda: next(answers, True))
    assert summary.stopped
    assert summary.produced[topics.CLICKS] == 3
    assert summary.end_ts <= START_TS + 2 * TICK_MS


@pytest.mark.kafka
def test_disorder_and_a_wrong_speed_are_refused(broker: Broker) -> None:
    with pytest.raises(ValueError, match="expected the order of time"):
        run(broker, clicks(100, 0), 1e9)
    with pytest.raises(ValueError, match="speed = 0"):
        run(broker, [], 0)


@pytest.mark.kafka
def test_an_empty_log_writes_nothing(broker: Broker) -> None:
    summary = run(broker, [], 10.0)
    assert summary.ticks == 0
    assert newest_ts(broker) is None


@pytest.mark.kafka
def test_a_gap_costs_a_few_ticks(broker: Broker) -> None:
    year_s = 365 * 86_400
    summary = run(broker, clicks(0, year_s, year_s + 45), 1e9)
    assert summary.ticks < 20
    ticks = [record for record in read_to_end(broker, topics.TICKS) if record.partition == 0]
    times = [msgspec.json.decode(record.value or b"", type=Tick).now_ts or 0 for record in ticks]
    second_ts = START_TS + 1_000 * year_s
    assert max(time for time in times if time <= second_ts) > second_ts - TICK_MS
    assert times == sorted(times)
