from collections.abc import Sequence
from threading import Event

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select, update

from abtest.fact_writer import FactWriter
from abtest.sink import SinkMetrics, run
from abtest.tables import session_facts, sink_offsets
from stream import session, topics
from stream.bus import Broker, Producer, end_offsets
from stream.errors import BusError, FencedError, StoreError
from stream.session import Progress, Session
from tests.harness.generated_facts import generate


class CrashError(Exception):
    """Stands for the death of the process inside of a transaction."""


def produce(broker: Broker, sessions: Sequence[Session]) -> None:
    with Producer(broker) as producer:
        for content in sessions:
            producer.send(topics.SESSIONS, key=content.client_id.encode(), value=session.encode(content))
        for _, partition in end_offsets(broker, [topics.SESSIONS]):
            progress = Progress(partition=partition, watermark_ts=9, matured_ts=8, now_ts=10, counters={})
            producer.send(topics.SESSIONS, key=None, value=session.encode(progress), partition=partition)


def stored(engine: Engine) -> dict[str, tuple[int, int]]:
    with engine.connect() as connection:
        rows = connection.execute(
            select(session_facts.c.query_id, session_facts.c.revision, session_facts.c.clicks).where(
                session_facts.c.experiment == "first"
            )
        )
        return {row.query_id: (row.revision, row.clicks) for row in rows}


@pytest.mark.kafka
def test_every_session_is_stored_once_whatever_crashes(kafka_broker: Broker, store_engine: Engine) -> None:
    sessions, truth = generate(seed=21, num_clients=60)
    produce(kafka_broker, sessions)
    crashes = iter(["facts written", "exposures written", "offsets written"])
    metrics = SinkMetrics(CollectorRegistry())

    for where in crashes:

        def crash(name: str, where: str = where) -> None:
            if name == where:
                raise CrashError

        with pytest.raises(CrashError):
            run(kafka_broker, store_engine, Event(), max_records=25, until_end=True, failpoint=crash)
    total = run(kafka_broker, store_engine, Event(), max_records=25, until_end=True, metrics=metrics)
    assert set(stored(store_engine)) >= {entry.query_id for entry in sessions}
    ours = {entry.query_id for entry in sessions}
    assert sum(clicks for query, (_, clicks) in stored(store_engine).items() if query in ours) == sum(
        entry.numbers[2] for entry in truth.values()
    )
    assert total.num_refused == 0
    again = run(kafka_broker, store_engine, Event(), until_end=True)
    assert (again.num_sessions, again.num_written) == (0, 0)
    assert metrics.sessions._value.get() == total.num_sessions


@pytest.mark.kafka
def test_a_stop_ends_the_sink_after_the_batch(kafka_broker: Broker, store_engine: Engine) -> None:
    stop = Event()
    stop.set()
    assert run(kafka_broker, store_engine, stop).num_sessions == 0


@pytest.mark.kafka
def test_offsets_of_another_log_are_refused(kafka_broker: Broker, store_engine: Engine) -> None:
    run(kafka_broker, store_engine, Event(), until_end=True)
    with store_engine.begin() as connection:
        connection.execute(update(sink_offsets).values(next_offset=10**9))
    with pytest.raises(BusError, match="the facts stand at offset 1000000000"):
        run(kafka_broker, store_engine, Event(), until_end=True)


@pytest.mark.kafka
def test_a_lost_database_is_waited_for(kafka_broker: Broker, store_engine: Engine) -> None:
    produce(kafka_broker, generate(seed=22, num_clients=5)[0])
    failures = iter([StoreError("gone"), StoreError("still gone")])
    metrics = SinkMetrics(CollectorRegistry())

    def fail_twice(_name: str) -> None:
        error = next(failures, None)
        if error is not None:
            raise error

    run(kafka_broker, store_engine, Event(), until_end=True, failpoint=fail_twice, metrics=metrics)
    assert metrics.retries._value.get() == 2
    assert stored(store_engine)


@pytest.mark.kafka
def test_the_second_of_two_sinks_is_refused(kafka_broker: Broker, store_engine: Engine) -> None:
    produce(kafka_broker, generate(seed=23, num_clients=5)[0])
    other_ran: list[str] = []

    def let_another_pass(name: str) -> None:
        if name == "facts written" and not other_ran:
            other_ran.append(name)
            raise StoreError("lost for a moment")

    class OtherSink(Event):
        """While the first sink waits, another one takes its place and goes further."""

        def wait(self, timeout: float | None = None) -> bool:
            run(kafka_broker, store_engine, Event(), until_end=True, max_records=3)
            produce(kafka_broker, generate(seed=24, num_clients=5)[0])
            run(kafka_broker, store_engine, Event(), until_end=True, max_records=3)
            return False

    with pytest.raises(FencedError, match="another sink"):
        run(kafka_broker, store_engine, OtherSink(), until_end=True, max_records=3, failpoint=let_another_pass)
    assert other_ran


def test_writer_positions_start_where_the_log_begins(store_engine: Engine) -> None:
    assert FactWriter(store_engine).open({(topics.SESSIONS, 2): 40}) == {(topics.SESSIONS, 2): 40}
