"""Shared parts of the fault tests: a source of events, workers that tests kill and start, and the comparison."""

import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import msgspec

from stream.agents import log_check
from stream.broker.offsets import append_times, beginning_offsets, end_offsets
from stream.broker.producer import Producer
from stream.broker.reader import Reader, read_to_end
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.join.rows import unpack_progress
from stream.operations.export import newest, sessions
from stream.schemas import events, topics
from stream.schemas.records import Record
from stream.schemas.session import Progress, Session, decode
from tests.harness.groups import committed_offsets
from tests.harness.worker import (
    GROUP,
    START_TS,
    WorkerProcess,
    labels,
    pass_all_windows,
    shopping,
    undisturbed,
    wait_until_committed,
)

SESSION_S = 6.0
"""Session timeout of workers under test: the broker's floor, so that a dead member is missed soon."""

OUTAGE_S = 120.0
_STEP_S = 0.25
_RECORDS_PER_QUERY = 1.6
_EVERLASTING = 10_000_000
_Sent = tuple[str, bytes, bytes]


class Load:
    """A thread that sends searches at a steady rate, with a driver's ticks, and records what was acknowledged.

    One query is one second of event time. A chunk that fails is sent again with the same ids until it is acknowledged,
    as a source with no loss does.
    """

    def __init__(self, broker: Broker, *, queries_per_s: int, partitions: int) -> None:
        self._broker = broker
        self._per_step = max(1, int(queries_per_s * _STEP_S))
        self._pairs = [(name, number) for name in topics.EVENT_TOPICS for number in range(partitions)]
        self._partitions = partitions
        self._records = _by_query(shopping(_EVERLASTING))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._failure: BaseException | None = None
        self.acknowledged: list[_Sent] = []
        """All acknowledged events."""
        self.acknowledged_s: list[float] = []
        """Time of each chunk's acknowledgement, by the monotonic clock."""
        self.num_queries = 0
        self.num_repeats = 0
        self.records_per_s = queries_per_s * _RECORDS_PER_QUERY

    @property
    def last_ts(self) -> int:
        """Event time of the newest acknowledged search."""
        return START_TS + self.num_queries * 1_000

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop sending and wait for the records in flight."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * OUTAGE_S)
        assert not self._thread.is_alive(), "the source hangs"
        if self._failure is not None:
            raise self._failure

    def wait_for(self, num_queries: int, timeout_s: float = 60.0) -> None:
        """Wait until this many more searches are acknowledged."""
        wanted = self.num_queries + num_queries
        wait_until(lambda: self.num_queries >= wanted, f"{num_queries} more searches", timeout_s)

    def _run(self) -> None:
        try:
            self._send_until_stopped()
        except BaseException as error:  # noqa: BLE001 - raised again by `stop`
            self._failure = error

    def _send_until_stopped(self) -> None:
        with ExitStack() as stack:
            producer = stack.enter_context(Producer(self._broker, request_timeout_ms=int(OUTAGE_S * 1_000)))
            reader = stack.enter_context(Reader(self._broker, beginning_offsets_of(self._broker, self._pairs)))
            step = 0
            due_s = time.monotonic()
            while not self._stopped.is_set():
                queries = list(islice(self._records, self._per_step))
                chunk = [record for query in queries for record in query]
                self._deliver(producer, chunk)
                self.acknowledged += chunk
                self.num_queries += len(queries)
                self.acknowledged_s.append(time.monotonic())
                step += 1
                if step % 4 == 0:
                    self._tick(producer, reader, step)
                due_s = max(due_s + _STEP_S, time.monotonic())
                self._stopped.wait(due_s - time.monotonic())

    def _deliver(self, producer: Producer, chunk: Sequence[_Sent]) -> None:
        while True:
            try:
                for topic, key, value in chunk:
                    producer.send(topic, key=key, value=value)
                producer.flush(OUTAGE_S)
            except BusError:
                self.num_repeats += 1
            else:
                return

    def _tick(self, producer: Producer, reader: Reader, seq: int) -> None:
        try:
            ends = reader.ends()
            for partition in range(self._partitions):
                high = {name: ends[name, partition] for name in topics.EVENT_TOPICS}
                record = events.Tick(partition=partition, seq=seq, worker="load", hw=high, now_ts=self.last_ts)
                producer.send(topics.TICKS, key=b"%d" % partition, value=events.encode(record), partition=partition)
            producer.flush(OUTAGE_S)
        except BusError:
            self.num_repeats += 1


def _by_query(records: Iterator[_Sent]) -> Iterator[list[_Sent]]:
    query: list[_Sent] = []
    for record in records:
        if record[0] == topics.IMPRESSIONS and query:
            yield query
            query = []
        query.append(record)


def beginning_offsets_of(broker: Broker, pairs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Return the first offset of the partitions."""
    found = beginning_offsets(broker, sorted({name for name, _ in pairs}))
    return {pair: found[pair] for pair in pairs}


class Fleet:
    """Workers of one group by name; `mind` restarts those that have ended."""

    def __init__(self, broker: Broker, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self._broker = broker
        self._folder = folder
        self._settings = {"SHELFWISE_WORKER__SESSION_S": str(SESSION_S), **(settings or {})}
        self.workers: dict[str, WorkerProcess] = {}
        self._log_sizes: dict[str, int] = {}
        self.exits: list[tuple[str, int]] = []
        """Name and exit status of every worker that ended without `kill`."""
        self.last_words: list[str] = []
        """The last lines of the log of each of them."""

    def start(self, name: str, *options: str) -> WorkerProcess:
        """Start a worker; its home outlives it."""
        worker = WorkerProcess(self._broker, self._folder / name, *options, settings=self._settings)
        self._log_sizes[name] = len(worker.log)
        self.workers[name] = worker
        return worker

    def is_ready(self, name: str) -> bool:
        """Return whether this worker was assigned partitions since its start."""
        return "owns partitions [" in self.workers[name].log[self._log_sizes[name] :]

    def kill(self, *names: str) -> None:
        """Kill the workers by SIGKILL, all before any is reaped."""
        victims = [self.workers.pop(name) for name in names]
        for victim in victims:
            os.kill(victim.process.pid, signal.SIGKILL)
        for victim in victims:
            victim.process.wait(timeout=60)

    def retire(self, name: str) -> None:
        """Send SIGTERM to one worker; a worker that is still starting may end by the signal."""
        worker = self.workers.pop(name)
        is_ready = "owns partitions [" in worker.log[self._log_sizes[name] :]
        worker.process.terminate()
        code = worker.process.wait(timeout=60)
        assert code == 0 or not is_ready, f"{name} ended with {code}:\n{worker.log[-4_000:]}"

    def mind(self) -> None:
        """Restart, under the same name, each worker that has ended by itself, as a supervisor does."""
        for name, worker in list(self.workers.items()):
            code = worker.process.poll()
            if code is not None:
                self.exits.append((name, code))
                self.last_words.append(f"{name} ended with {code}:\n{worker.log[-4_000:]}")
                self.start(name)

    def stop(self) -> None:
        """Send SIGTERM to all workers; each must exit with status 0."""
        for worker in self.workers.values():
            worker.process.terminate()
        for name, worker in self.workers.items():
            assert worker.process.wait(timeout=60) == 0, f"{name}:\n{worker.log[-4_000:]}"
        self.workers.clear()

    def words(self) -> str:
        """Return the last lines of each log, for failure messages."""
        return "\n".join(f"{name}:\n{worker.log[-2_500:]}" for name, worker in self.workers.items())

    def close(self) -> None:
        """Kill the workers that still run."""
        for worker in self.workers.values():
            if worker.process.poll() is None:
                worker.kill()


@contextmanager
def fleet(broker: Broker, folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Fleet]:
    """Run a fleet; afterwards all its workers are gone."""
    started = Fleet(broker, folder, settings)
    try:
        yield started
    finally:
        started.close()


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 60.0, words: Callable[[], str] = str) -> float:
    """Poll until `holds` returns true and return the seconds taken."""
    start_s = time.monotonic()
    while not holds():
        assert time.monotonic() - start_s < timeout_s, f"waited {timeout_s:.0f} s for {what}\n{words()}"
        time.sleep(0.1)
    return time.monotonic() - start_s


def lag(broker: Broker) -> int:
    """Return the number of input records that are not acknowledged yet."""
    ends = end_offsets(broker, topics.INPUTS)
    committed = committed_offsets(broker, GROUP, topics.INPUTS)
    return sum(max(0, end - committed.get(pair, 0)) for pair, end in ends.items())


def oldest_wait_s(broker: Broker) -> float:
    """Return the age in the log of the oldest event that is not acknowledged yet."""
    ends = end_offsets(broker, topics.EVENT_TOPICS)
    committed = committed_offsets(broker, GROUP, topics.EVENT_TOPICS)
    open_at = {pair: committed.get(pair, 0) for pair, end in ends.items() if committed.get(pair, 0) < end}
    found = [at for at in append_times(broker, open_at).values() if at is not None]
    return max((time.time_ns() // 1_000_000 - at for at in found), default=0) / 1_000


def wait_until_steady(broker: Broker, load: Load, workers: Fleet, timeout_s: float = 60.0) -> float:
    """Wait until no partition of an event topic lags by more than three seconds of load; return the seconds taken.

    Every partition must also have been acknowledged past where it ended at the call, and every worker have its share.
    """
    start = end_offsets(broker, topics.EVENT_TOPICS)
    total = load.records_per_s * 3

    def steady() -> bool:
        workers.mind()
        if not all(workers.is_ready(name) for name in workers.workers):
            return False
        committed = committed_offsets(broker, GROUP, topics.EVENT_TOPICS)
        if any(committed.get(pair, 0) < end for pair, end in start.items()):
            return False
        ends = end_offsets(broker, topics.EVENT_TOPICS)
        return sum(end - committed.get(pair, 0) for pair, end in ends.items()) <= total

    return wait_until(steady, "a steady lag", timeout_s, workers.words)


def drain(broker: Broker, load: Load, workers: Fleet) -> None:
    """Stop the source, pass all windows and wait until everything is acknowledged; then end the workers."""
    load.stop()
    any_worker = next(iter(workers.workers.values()))
    wait_until_committed(broker, any_worker)
    pass_all_windows(broker, load.last_ts, seq=1_000_000)
    wait_until_committed(broker, any_worker)
    workers.stop()


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Differences between the acknowledged events and the output; every number shall be 0.

    Attributes:
        lost: Acknowledged events that are in no topic, and expected sessions and evidence that were not emitted.
        repeated: Sessions of one query and revision with another content, and events twice in one session.
        diverged: Sessions that differ from those of the pure join.
        miscounted: Distance of the newest progress rows' `produced` and `joined` from the log's counts.
        commits_back: Offset commits below an earlier one.
        progress_back: Rows of the progress changelog that claim less than an earlier one.
    """

    lost: int
    repeated: int
    diverged: int
    miscounted: int
    commits_back: int
    progress_back: int


CLEAN = Differences(lost=0, repeated=0, diverged=0, miscounted=0, commits_back=0, progress_back=0)


def judge(broker: Broker, acknowledged: Sequence[_Sent], partitions: int) -> Differences:
    """Compare the records on the broker with the acknowledged events and with the pure join of the log."""
    records = [record for name in topics.EVENT_TOPICS for record in read_to_end(broker, name)]
    in_log = [_event_id(record.value or b"") for record in records]
    expected = undisturbed(broker, partitions)
    emitted = list(sessions(read_to_end(broker, topics.SESSIONS)))
    found = newest(emitted)
    counters = newest_counters(broker)
    num_unique = len(set(in_log))
    diverted = sum(end_offsets(broker, [topics.UNJOINED, topics.DEAD_LETTERS]).values())
    lost = len({_event_id(value) for _, _, value in acknowledged} - set(in_log))
    lost += len(expected.keys() - found.keys()) + len(_evidence(expected) - _evidence(found))
    wanted, got = labels(expected), labels(found)
    return Differences(
        lost=lost,
        repeated=_repeats(emitted) + diverted,
        diverged=sum(1 for query_id in wanted.keys() | got.keys() if wanted.get(query_id) != got.get(query_id)),
        miscounted=abs(counters.get("produced", 0) - len(in_log))
        + abs(counters.get("joined", 0) - num_unique)
        + abs(counters.get("duplicate", 0) - (len(in_log) - num_unique)),
        commits_back=num_commits_back(broker),
        progress_back=num_progress_back(broker),
    )


def _event_id(value: bytes) -> str:
    return str(msgspec.json.decode(value)["event_id"])


def _evidence(found: Mapping[str, Session]) -> set[str]:
    return {event.event_id for each in found.values() for event in each.events} | {
        f"{line.transaction_id}/{line.line_id}/{line.refund_id}" for each in found.values() for line in each.lines
    }


def _repeats(emitted: Sequence[Session]) -> int:
    seen: dict[tuple[str, int], tuple[object, ...]] = {}
    num_repeats = 0
    for each in emitted:
        content = labels({each.query_id: each})[each.query_id]
        num_repeats += seen.setdefault((each.query_id, each.revision), content) != content
        num_repeats += len(each.events) - len({event.event_id for event in each.events})
        num_repeats += len(each.lines) - len({(x.transaction_id, x.line_id, x.refund_id) for x in each.lines})
    return num_repeats


def newest_counters(broker: Broker) -> dict[str, int]:
    """Return the sum of the newest progress record of every partition."""
    last: dict[int, Progress] = {}
    for record in read_to_end(broker, topics.SESSIONS):
        decoded = decode(record.value or b"")
        if isinstance(decoded, Progress):
            last[decoded.partition] = decoded
    total: dict[str, int] = {}
    for progress in last.values():
        for name, number in progress.counters.items():
            total[name] = total.get(name, 0) + number
    return total


def num_progress_back(broker: Broker) -> int:
    """Count rows of the progress changelog with an input position below that of an earlier row."""
    reached: dict[tuple[int, str], int] = {}
    num_back = 0
    for record in read_to_end(broker, topics.PROGRESS_CHANGELOG):
        if record.value is None or record.key == log_check.KEY:
            continue
        positions = unpack_progress(record.value).next_offsets
        num_back += any(at < reached.get((record.partition, topic), 0) for topic, at in positions.items())
        for topic, at in positions.items():
            reached[record.partition, topic] = max(at, reached.get((record.partition, topic), 0))
    return num_back


def commits(broker: Broker) -> Iterator[tuple[tuple[str, int], int | None]]:
    """Yield every offset commit of the join's group that the broker accepted, in order; None when a topic was deleted.

    Source: the broker's own records of commits, `OffsetCommitKey` and `OffsetCommitValue`.
    """
    for record in read_to_end(broker, "__consumer_offsets"):
        found = _commit(record)
        if found is not None:
            yield found


def _commit(record: Record) -> tuple[tuple[str, int], int | None] | None:
    key, value = record.key, record.value
    if key is None or struct.unpack_from(">h", key)[0] > 1:
        return None
    at = 2
    names: list[str] = []
    for _ in range(2):
        (size,) = struct.unpack_from(">h", key, at)
        names.append(key[at + 2 : at + 2 + size].decode())
        at += 2 + size
    if names[0] != GROUP:
        return None
    pair = (names[1], struct.unpack_from(">i", key, at)[0])
    return pair, struct.unpack_from(">q", value, 2)[0] if value is not None else None


def num_commits_back(broker: Broker) -> int:
    """Count accepted offset commits below an earlier one of the same partition."""
    reached: dict[tuple[str, int], int] = {}
    num_back = 0
    for pair, offset in commits(broker):
        if offset is None:
            reached.pop(pair, None)
            continue
        num_back += offset < reached.get(pair, 0)
        reached[pair] = max(offset, reached.get(pair, 0))
    return num_back
