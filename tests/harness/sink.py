"""The sink as a real process, sessions with corrections for it, and checks of the stored facts."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, Table, create_engine, func, select

from abtest.fact_writer import SINK
from abtest.sink import run
from abtest.tables import session_facts, sink_offsets, traffic_minutes
from deploy.migrations import upgrade
from stream import db
from stream.backoff import Backoff
from stream.broker.offsets import end_offsets
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.operations.export import newest, sessions
from stream.schemas import session, topics
from stream.schemas.session import Progress, Session
from tests.harness.fact_tables import FACT_TABLES
from tests.harness.generated_facts import generate
from tests.harness.sessions import purchase

POLL_S = 0.05


class SinkProcess:
    """One `shelfwise abtest sink`, whose metrics are read over HTTP as Prometheus does."""

    def __init__(self, broker: Broker, database_url: str, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        upgrade.upgrade(database_url)
        self._log = home / "sink.log"
        self._port = _free_port()
        inherited = dict(os.environ)  # noqa: TID251 - a child inherits all but our own settings
        environment = {name: value for name, value in inherited.items() if not name.startswith("SHELFWISE_")}
        environment |= {
            "SHELFWISE_BROKER": broker.bootstrap,
            "SHELFWISE_DATABASE": database_url,
            "SHELFWISE_HOME": str(home),
        }
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy", "abtest", "sink", "--metrics-port", str(self._port)],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def rss_bytes(self) -> int:
        """Resident size."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def metric(self, name: str) -> float:
        """Return a metric, summed over its labels; 0 while the sink does not serve it."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
                body = answer.read().decode()
        except OSError:
            return 0.0
        families = text_string_to_metric_families(body)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def check_alive(self) -> None:
        """Fail if the sink has ended; no supervisor restarts it here."""
        assert self.process.poll() is None, f"the sink ended with code {self.process.returncode}:\n{self.log}"

    def stop(self) -> int:
        """End the sink by SIGTERM and return its exit status."""
        self.process.terminate()
        return self.process.wait(timeout=90)


@contextmanager
def running(broker: Broker, database_url: str, home: Path) -> Iterator[SinkProcess]:
    """Run a sink; afterwards it is gone."""
    sink = SinkProcess(broker, database_url, home)
    try:
        yield sink
    finally:
        if sink.process.poll() is None:
            sink.process.kill()
            sink.process.wait(timeout=60)


def corrected_sessions(seed: int, num_clients: int) -> list[Session]:
    """Return sessions in the order of a topic: a third is corrected later, a tenth of all records is repeated."""
    rng = np.random.default_rng(seed)
    first, _ = generate(seed, num_clients)
    placed: list[tuple[float, Session]] = []
    for number, content in enumerate(first):
        placed.append((number, content))
        if rng.random() < 1 / 3:
            order = purchase(f"late-{number}", int(rng.integers(content.n)), 700 + number)
            corrected = replace(content, revision=1, reason="conversion", lines=[*content.lines, order])
            placed.append((number + 1 + float(rng.integers(1, 300)), corrected))
    again = [(at + 1 + float(rng.integers(1, 300)), content) for at, content in placed if rng.random() < 0.1]
    return [content for _, content in sorted([*placed, *again], key=lambda entry: entry[0])]


class Feeder:
    """A thread that writes sessions and progress records to the topic at a steady rate until all are sent."""

    def __init__(self, broker: Broker, contents: Sequence[Session], *, per_s: float) -> None:
        self._broker = broker
        self._contents = contents
        self._per_s = per_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._failure: BaseException | None = None
        self.num_sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(60)

    @property
    def is_done(self) -> bool:
        """True once all sessions are acknowledged.

        Raises:
            BaseException: If the thread failed, its error.
        """
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with Producer(self._broker) as producer:
                started_s = time.monotonic()
                while self.num_sent < len(self._contents) and not self._stopped.wait(POLL_S):
                    due = min(len(self._contents), int((time.monotonic() - started_s) * self._per_s))
                    for content in self._contents[self.num_sent : due]:
                        _send(producer, content)
                    self.num_sent = due
                if not self._stopped.is_set():
                    _send_progress(producer, self._broker)
        except BaseException as error:  # noqa: BLE001 - handed over to the test
            self._failure = error


def produce(broker: Broker, contents: Sequence[Session]) -> None:
    """Write sessions to the topic, and a progress record to each partition."""
    with Producer(broker) as producer:
        for content in contents:
            _send(producer, content)
        _send_progress(producer, broker)


def _send(producer: Producer, content: Session) -> None:
    producer.send(topics.SESSIONS, key=content.client_id.encode(), value=session.encode(content))


def _send_progress(producer: Producer, broker: Broker) -> None:
    for _, partition in end_offsets(broker, [topics.SESSIONS]):
        progress = Progress(partition=partition, watermark_ts=9, matured_ts=8, now_ts=10, counters={})
        producer.send(topics.SESSIONS, key=None, value=session.encode(progress), partition=partition)


def wait_for(what: str, is_so: Callable[[], bool], *, sink: SinkProcess, timeout_s: float = 90.0) -> float:
    """Wait until the condition holds, require a living sink, and return the seconds taken."""
    started_s = time.monotonic()
    while not is_so():
        sink.check_alive()
        waited_s = time.monotonic() - started_s
        assert waited_s < timeout_s, f"not within {timeout_s:.0f} s: {what}\n{sink.log[-4_000:]}"
        time.sleep(POLL_S)
    return time.monotonic() - started_s


@contextmanager
def reading(url: str) -> Iterator[Engine]:
    """Yield an engine for the test's own queries, which pass no proxy."""
    engine = db.create(url)
    try:
        yield engine
    finally:
        engine.dispose()


def stored_offset(engine: Engine) -> int:
    """Return the sum of the offsets that the sink has stored in SQL; 0 before its first batch."""
    with engine.connect() as connection:
        found = connection.scalar(select(func.sum(sink_offsets.c.next_offset)).where(sink_offsets.c.sink == SINK))
    return int(found or 0)


def wait_until_applied(sink: SinkProcess, num_sessions: int) -> None:
    """Wait until the sink has counted `num_sessions` session records."""
    wait_for(
        f"{num_sessions} sessions", lambda: sink.metric("shelfwise_sink_sessions_total") >= num_sessions, sink=sink
    )


def wait_until_drained(broker: Broker, engine: Engine, sink: SinkProcess, *, timeout_s: float = 90.0) -> float:
    """Wait until the offsets in SQL reach the present end of the topic; return the seconds taken."""
    end = sum(end_offsets(broker, [topics.SESSIONS]).values())
    return wait_for(f"offset {end} in SQL", lambda: stored_offset(engine) >= end, sink=sink, timeout_s=timeout_s)


def check_back_off(attempts_s: Sequence[float], *, context: str) -> None:
    """Fail if two connection requests are closer together than the sink's back-off allows."""
    waits_s = [later - earlier for earlier, later in pairwise(attempts_s)]
    shortest = Backoff(random=lambda: 0.0)
    least_s = [shortest.next_s() for _ in waits_s]
    too_soon = [(waited, least) for waited, least in zip(waits_s, least_s, strict=True) if waited < 0.95 * least]
    assert not too_soon, f"{context}: (waited, back-off) in seconds: {too_soon}; all waits: {waits_s}"


def check_facts(broker: Broker, engine: Engine, *, context: str) -> None:
    """Fail unless SQL holds exactly the newest revision of each session on the topic."""
    wanted = newest(sessions(read_to_end(broker, topics.SESSIONS)))
    found = _rows(engine, session_facts)
    counted = Counter(row["query_id"] for row in found)
    lost = wanted.keys() - counted.keys()
    repeated = [query_id for query_id, number in counted.items() if number > 1]
    stray = counted.keys() - wanted.keys()
    different = {
        str(row["query_id"]): (_stored(row), _expected(wanted[str(row["query_id"])]))
        for row in found
        if row["query_id"] in wanted and _stored(row) != _expected(wanted[str(row["query_id"])])
    }
    assert (len(lost), len(repeated), len(stray), len(different)) == (0, 0, 0, 0), (
        f"{context}: of {len(wanted)} sessions lost {list(lost)[:5]}, twice {repeated[:5]}, "
        f"stray {list(stray)[:5]}, different {list(different.items())[:3]}"
    )
    clean = _undisturbed(broker)
    for table in (*FACT_TABLES, traffic_minutes):
        assert _rows(engine, table) == _rows(clean, table), f"{context}: {table.name} differs from an undisturbed run"
    clean.dispose()


def _stored(row: dict[str, object]) -> tuple[object, ...]:
    names = ("revision", "client_id", "arm", "n_items", "clicks", "orders", "units", "gross_minor", "refund_minor")
    return tuple(row[name] for name in names)


def _expected(content: Session) -> tuple[object, ...]:
    bought = [line for line in content.lines if line.action == "purchase"]
    return (
        content.revision,
        content.client_id,
        content.assignment[0].arm,
        content.n,
        len({event.item for event in content.events if event.action == "click"}),
        len({line.transaction_id for line in bought}),
        sum(line.quantity for line in bought),
        sum(line.amount_minor for line in bought),
        sum(line.amount_minor for line in content.lines if line.action == "refund"),
    )


class _NeverRetried(threading.Event):
    """A stop event that fails where the sink would wait for its next attempt: nothing disturbs its database."""

    def wait(self, timeout: float | None = None) -> bool:
        raise AssertionError("the undisturbed sink failed; its log line says why")


def _undisturbed(broker: Broker) -> Engine:
    engine = create_engine("sqlite://")
    db.metadata.create_all(engine)
    run(broker, engine, _NeverRetried(), random=lambda: 0.0, until_end=True)
    return engine


def _rows(engine: Engine, table: Table) -> list[dict[str, object]]:
    with engine.connect() as connection:
        rows = connection.execute(select(table)).mappings()
        return sorted((dict(row) for row in rows), key=lambda row: [str(row[key.name]) for key in table.primary_key])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
