"""A join worker as a real process, and the events and oracle that its tests share."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stream.broker.offsets import end_offsets
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.join.engine import Join
from stream.join.settings import JoinSettings
from stream.operations.export import newest, sessions
from stream.schemas import events, topics
from stream.schemas.records import Record
from stream.schemas.session import Session
from tests.harness.groups import committed_offsets

START_TS = 1_700_000_000_000
HOUR_MS = 3_600_000
GROUP = "shelfwise-join"


class WorkerProcess:
    """One `shelfwise stream worker`; the test writes the ticks unless `ticks` is "worker"."""

    def __init__(
        self,
        broker: Broker,
        home: Path,
        *options: str,
        settings: Mapping[str, str] | None = None,
        ticks: Literal["driver", "worker"] = "driver",
        program: Sequence[str] = ("deploy",),
    ) -> None:
        self._log = home / "worker.log"
        home.mkdir(parents=True, exist_ok=True)
        address = f"memory@{broker.bootstrap}" if broker.memory else broker.bootstrap
        inherited = dict(os.environ)  # noqa: TID251 - a child inherits all but our own settings
        environment = {name: value for name, value in inherited.items() if not name.startswith("SHELFWISE_")}
        environment |= {"SHELFWISE_BROKER": address, "SHELFWISE_HOME": str(home), **(settings or {})}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", *program, "stream", "worker", "--ticks", ticks),
                    *("--metrics-port", "0", *options),
                ],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> int:
        """End the worker by SIGTERM and return its exit status."""
        self.process.terminate()
        return self.process.wait(timeout=90)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=60)


@contextmanager
def running(
    broker: Broker,
    home: Path,
    *options: str,
    settings: Mapping[str, str] | None = None,
    ticks: Literal["driver", "worker"] = "driver",
    program: Sequence[str] = ("deploy",),
) -> Iterator[WorkerProcess]:
    """Run a worker; afterwards it is gone."""
    worker = WorkerProcess(broker, home, *options, settings=settings, ticks=ticks, program=program)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.kill()


def wait_until_committed(
    broker: Broker, worker: WorkerProcess, *, num_records: int | None = None, timeout_s: float = 90.0
) -> None:
    """Wait until the worker has acknowledged all inputs, or at least `num_records` of them."""
    ends = end_offsets(broker, topics.INPUTS)
    deadline = time.monotonic() + timeout_s
    while True:
        committed = committed_offsets(broker, GROUP, topics.INPUTS)
        if num_records is not None and sum(committed.values()) >= num_records:
            return
        if all(committed.get(pair, 0) >= end for pair, end in ends.items()):
            return
        assert worker.process.poll() is None, f"the worker ended:\n{worker.log}"
        assert time.monotonic() < deadline, f"not all was acknowledged: {committed} of {ends}\n{worker.log}"
        time.sleep(0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clicked:
    """A click on the item at `position`, from 1, of a list that was shown `after_ms` before."""

    position: int
    after_ms: int


def search(
    number: int, client: str, event_ts: int, items: list[str], clicked: Clicked | None
) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield topic, key and value of one search and of its click."""
    query, ranks = f"query-{number}", list(range(1, len(items) + 1))
    shown = events.ShownItems(object_id=items, rank_in=ranks, price_minor=[999 + rank for rank in ranks])
    impression = events.Impression(
        event_id=f"i-{number}",
        event_ts=event_ts,
        query_id=query,
        query=events.Query(hash="hash"),
        currency="EUR",
        items=shown,
        client_id=client,
        source="test",
    )
    yield topics.IMPRESSIONS, client.encode(), events.encode(impression)
    if clicked is not None:
        click = events.Click(
            event_id=f"c-{number}",
            event_ts=event_ts + clicked.after_ms,
            action_name="click",
            query_id=query,
            object_id=items[clicked.position - 1],
            position=clicked.position,
            client_id=client,
            source="test",
        )
        yield topics.CLICKS, client.encode(), events.encode(click)


def shopping(num_queries: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield topic, key and value of searches, one a second: a third clicked, a sixth bought, a twelfth returned."""
    for number in range(num_queries):
        client, query, now = f"client-{number % 97}", f"query-{number}", START_TS + number * 1_000
        items = [f"item-{(number + k) % 50}" for k in range(8)]
        yield from search(number, client, now, items, Clicked(position=3, after_ms=4_000) if number % 3 == 0 else None)
        if number % 6 == 0:
            order = _order(number, "purchase", now + 60_000, query, items[2], client)
            yield topics.CONVERSIONS, client.encode(), events.encode(order)
        if number % 12 == 0:
            order = _order(number, "refund", now + 2 * HOUR_MS, query, items[2], client)
            yield topics.CONVERSIONS, client.encode(), events.encode(order)


def _order(
    number: int, action: Literal["purchase", "refund"], event_ts: int, query: str, item: str, client: str
) -> events.Conversion:
    line = events.OrderLine(line_id="1", object_id=item, quantity=1, amount_minor=1_002, query_id=query)
    return events.Conversion(
        event_id=f"{action}-{number}",
        event_ts=event_ts,
        action_name=action,
        transaction_id=f"t-{number}",
        currency="EUR",
        items=[line],
        client_id=client,
        source="test",
    )


def send(broker: Broker, records: Sequence[tuple[str, bytes, bytes]]) -> None:
    with Producer(broker) as producer:
        for topic, key, value in records:
            producer.send(topic, key=key, value=value)


def tick(broker: Broker, now_ts: int, seq: int) -> None:
    """Write a driver's tick to every partition."""
    ends = end_offsets(broker, topics.EVENT_TOPICS)
    with Producer(broker) as producer:
        for partition in sorted({number for _, number in ends}):
            high = {name: ends[name, partition] for name in topics.EVENT_TOPICS}
            record = events.Tick(partition=partition, seq=seq, worker="test", hw=high, now_ts=now_ts)
            producer.send(topics.TICKS, key=b"%d" % partition, value=events.encode(record), partition=partition)


def pass_all_windows(broker: Broker, last_ts: int, seq: int = 1_000) -> None:
    """Write ticks until every window has passed; idle time counts from the first tick."""
    for step, hours in enumerate((1, 2, 24 * 10, 24 * 10 + 1)):
        tick(broker, last_ts + hours * HOUR_MS, seq + step)


def emitted(broker: Broker) -> dict[str, Session]:
    """Return the newest revision of every session on the broker."""
    return newest(sessions(read_to_end(broker, topics.SESSIONS)))


def undisturbed(broker: Broker, num_partitions: int) -> dict[str, Session]:
    """Return the sessions of the pure join over the inputs on the broker, without a process or crash."""
    inputs: dict[tuple[str, int], list[Record]] = {}
    for name in topics.INPUTS:
        for record in read_to_end(broker, name):
            inputs.setdefault((name, record.partition), []).append(record)
    found: list[Record] = []
    for partition in range(num_partitions):
        join = Join(
            partition, JoinSettings(ticks="driver"), hot={}, warm={}, progress={}, num_partitions=num_partitions
        )
        for name in topics.INPUTS:
            records = inputs.get((name, partition), [])
            for start in range(0, len(records), 512):
                effects = join.apply(records[start : start + 512])
                found += [_Emitted(value) for _, value in effects.sessions]
    return newest(sessions(found))


class _Emitted:
    """A record of `sessions` that was never on a broker."""

    topic, partition, offset, timestamp = topics.SESSIONS, 0, 0, 0
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()

    def __init__(self, value: bytes) -> None:
        self.value: bytes | None = value


def labels(found: Mapping[str, Session]) -> dict[str, tuple[object, ...]]:
    """Return the parts that two runs over one log share: the list, its labels, money and evidence."""
    return {
        query_id: (
            *(each.item_id, each.clicks, each.carts, each.orders, each.units, each.gross_minor, each.refund_minor),
            *(each.label_key, each.src, frozenset(each.events), frozenset(each.lines)),
        )
        for query_id, each in found.items()
    }
