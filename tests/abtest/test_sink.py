import multiprocessing
import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Event

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, Row, select, update

from abtest import sink
from abtest.fact_writer import FactWriter
from abtest.sink import Readiness, SinkMetrics
from abtest.tables import session_facts, sink_offsets
from stream import db
from stream.broker.offsets import end_offsets
from stream.broker.producer import Producer
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import BusError, FencedError, StoreError
from stream.schemas import session, topics
from stream.schemas.session import Progress, Session, SessionsRecord
from tests.harness.fact_tables import FACT_TABLES
from tests.harness.generated_facts import generate
from tests.harness.sessions import click, log_of, unlinked
from tests.harness.stores import new_store

# The shortest waiting times, since no test asserts a duration.
run = partial(sink.run, random=lambda: 0.0)


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
    """S3: fails at each step of a batch, from a real topic: each session once."""
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
    with pytest.raises(BusError, match="the facts end at offset 1000000000"):
        run(kafka_broker, store_engine, Event(), until_end=True)


@pytest.mark.kafka
def test_a_lost_database_is_waited_for(kafka_broker: Broker, store_engine: Engine) -> None:
    produce(kafka_broker, generate(seed=22, num_clients=5)[0])
    failures = iter([StoreError("gone"), StoreError("still gone")])
    metrics, readiness, seen = SinkMetrics(CollectorRegistry()), Readiness(), []
    assert "has not been read" in (readiness.why_not_ready() or "")

    def fail_twice(_name: str) -> None:
        seen.append(readiness.why_not_ready())
        error = next(failures, None)
        if error is not None:
            raise error

    run(
        kafka_broker,
        store_engine,
        Event(),
        until_end=True,
        failpoint=fail_twice,
        metrics=metrics,
        readiness=readiness,
    )
    assert metrics.retries._value.get() == 2
    assert seen[:3] == [None, "gone", "still gone"]
    assert readiness.why_not_ready() is None
    assert stored(store_engine)


@pytest.mark.kafka
def test_the_second_of_two_sinks_is_refused(fresh_kafka: Broker, store_engine: Engine) -> None:
    produce(fresh_kafka, generate(seed=23, num_clients=5)[0])
    other_ran: list[str] = []

    def let_another_pass(name: str) -> None:
        if name == "facts written" and not other_ran:
            other_ran.append(name)
            raise StoreError("lost for a moment")

    class OtherSink(Event):
        """While the first sink waits, another one takes its place and goes further."""

        def wait(self, timeout: float | None = None) -> bool:
            run(fresh_kafka, store_engine, Event(), until_end=True, max_records=3)
            produce(fresh_kafka, generate(seed=24, num_clients=5)[0])
            run(fresh_kafka, store_engine, Event(), until_end=True, max_records=3)
            return False

    with pytest.raises(FencedError, match="another sink"):
        run(fresh_kafka, store_engine, OtherSink(), until_end=True, max_records=3, failpoint=let_another_pass)
    assert other_ran


_STEPS = ("exposures written", "facts written", "orders written", "offsets written")
_BATCH = 23


def _revised(seed: int) -> list[SessionsRecord]:
    """Return a log in which half of the sessions come in revisions, and some records twice."""
    sessions, _ = generate(seed=seed, num_clients=60)
    random = np.random.default_rng(seed)
    found: list[SessionsRecord] = []
    for number, content in enumerate(sessions):
        found.append(content)
        if number % 2:
            more = [*content.events, click(f"late-{number}", 0, 9_000)]
            found.append(msgspec.structs.replace(content, revision=1, reason="click", events=more))
        if random.random() < 0.1:
            found.append(found[int(random.integers(len(found)))])
        if number % 7 == 0:
            found.append(unlinked(content.client_id, f"u{number}", 100 + number))
        if number % 20 == 0:
            found.append(Progress(partition=0, watermark_ts=number, matured_ts=number // 2, now_ts=number, counters={}))
    return found


def _sink_that_dies(url: str, seed: int, where: str, at_call: int) -> None:
    """Apply the log from where the database says; the process ends by SIGKILL at one call of a failpoint."""
    num_calls = 0

    def die(name: str) -> None:
        nonlocal num_calls
        num_calls += name == where
        if name == where and num_calls == at_call:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = db.create(url)
    writer = FactWriter(engine, failpoint=die)
    (position,) = writer.open({(topics.SESSIONS, 0): 0}).values()
    log = log_of(_revised(seed))
    for start in range(position, len(log), _BATCH):
        writer.apply(log[start : start + _BATCH])
    engine.dispose()


def _rows(engine: Engine) -> list[list[Row[tuple[object, ...]]]]:
    with engine.connect() as connection:
        return [
            list(connection.execute(select(table).order_by(*table.primary_key)))
            for table in (*FACT_TABLES, sink_offsets)
        ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("where", _STEPS)
def test_s3_a_sink_killed_inside_its_transactions_ends_in_the_rows_of_a_calm_one(
    where: str, store_engine: Engine, tmp_path: Path
) -> None:
    """S3: kill -9 between the upsert of sessions and the commit of offsets, time and again: no row differs."""
    seed = 31 + _STEPS.index(where)
    random = np.random.default_rng(seed)
    url = store_engine.url.render_as_string(hide_password=False)
    fork = multiprocessing.get_context("fork")
    num_deaths = 0
    while True:
        child = fork.Process(target=_sink_that_dies, args=(url, seed, where, int(random.integers(1, 4))))
        child.start()
        child.join(60)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL, f"seed {seed}: code {child.exitcode}"
        num_deaths += 1
        assert num_deaths < 100, f"seed {seed}: the sink gets no further"
    assert num_deaths >= 5, f"seed {seed}"

    calm = db.create(new_store(tmp_path / "calm.db"))
    try:
        writer = FactWriter(calm)
        writer.open({(topics.SESSIONS, 0): 0})
        log = log_of(_revised(seed))
        for start in range(0, len(log), _BATCH):
            writer.apply(log[start : start + _BATCH])
        facts, *others, offsets = _rows(store_engine)
        assert len(facts) == len({content.query_id for content in _revised(seed) if isinstance(content, Session)})
        assert [facts, *others, offsets] == _rows(calm)
        assert [row._mapping["next_offset"] for row in offsets] == [len(log)]
    finally:
        calm.dispose()


def test_writer_positions_start_where_the_log_begins(store_engine: Engine) -> None:
    assert FactWriter(store_engine).open({(topics.SESSIONS, 2): 40}) == {(topics.SESSIONS, 2): 40}


class Limited(Event):
    """An event that is set after a number of questions."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self._left = questions

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_a_sink_that_reads_to_the_end_gives_up_a_broker_that_brings_nothing(
    memory_broker: Broker, store_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(memory_broker, [])
    monkeypatch.setattr(Reader, "poll", lambda _, timeout_ms=500: [])
    with pytest.raises(BusError, match="no record for 60 s, expected more at sessions-"):
        run(memory_broker, store_engine, Limited(1_000), until_end=True)
