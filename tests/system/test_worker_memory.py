"""The worker's memory: after a burst, while it catches up after a day's outage, and when all windows have passed."""

import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream.agents.settings import WorkerSettings
from stream.broker.admin import create_topics, delete_topics
from stream.broker.offsets import end_offsets
from stream.broker.partitioner import partition_of
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.join.settings import JoinSettings
from stream.schemas import events, session, topics
from stream.schemas.session import Session
from tests.harness.kafka import PARTITIONS
from tests.harness.worker import (
    HOUR_MS,
    START_TS,
    WorkerProcess,
    emitted,
    labels,
    running,
    undisturbed,
    wait_until_committed,
)

pytestmark = [pytest.mark.kafka, pytest.mark.system]
SEED = 2_400
DAY_S = 86_400
TICK_S = 30
NUM_ITEMS = 24
NUM_FEATURES = 16
NUM_CLIENTS = 5_000
MIB = 1 << 20
# Of each partition, one fetch of this size at most is in work when reading stops, and one was fetched ahead of it.
FETCH_BYTES = MIB
READ_AHEAD_BYTES = WorkerSettings().read_ahead_bytes
READ_BYTES = READ_AHEAD_BYTES + 2 * PARTITIONS * FETCH_BYTES
SETTINGS = JoinSettings()
# Memory that the settings allow beside the program: RocksDB's cache; the input of all topics, as records, as rows of
# the hot and the warm tier and as sessions; and the open sessions.
BUDGET_BYTES = 128 * MIB + 4 * (READ_AHEAD_BYTES + len(topics.EVENT_TOPICS) * PARTITIONS * FETCH_BYTES) + 32 * MIB
OPEN_S = SETTINGS.click_window_s + SETTINGS.lateness_s + TICK_S
NEVER_S = 10**8
LIST_BYTES = 3_000
HOT_BYTES = MIB
# Ticks further apart than a fetch waits come as micro-batches of their own; metrics are written once a second.
BATCH_S = 0.11
METRICS_S = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A log: how many lists in each stretch of event time, and how heavy a click is."""

    stretches: tuple[tuple[int, int], ...]
    clicked: float = 0.3
    click_bytes: int = 300
    num_features: int = NUM_FEATURES

    @property
    def num_lists(self) -> int:
        return sum(number for number, _ in self.stretches)

    @property
    def span_s(self) -> int:
        return sum(seconds for _, seconds in self.stretches)


Sent = tuple[int, str, bytes, bytes]


# A fetch of lists spans three times as much of the day as a fetch of these clicks, ...
HEAVY_CLICKS = Shape(stretches=((20_000, DAY_S),), click_bytes=30_000)
# ... or a fourth of it: then clicks are there long before the lists that they are for.
HEAVY_LISTS = Shape(stretches=((8_000, DAY_S),), clicked=1.0, click_bytes=6_000, num_features=200)


@pytest.mark.parametrize(
    ("shape", "topic"),
    [
        pytest.param(HEAVY_CLICKS, topics.IMPRESSIONS, id="lists-run-ahead"),
        pytest.param(HEAVY_LISTS, topics.CLICKS, id="clicks-run-ahead"),
    ],
)
def test_what_runs_ahead_after_a_day_of_outage_waits(
    shape: Shape, topic: str, fresh_kafka: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = make_log(shape, SEED)
    sizes = [len(value) for _, name, _, value in log if name == topic]
    in_time = (OPEN_S + SETTINGS.ahead_s) * len(sizes) / shape.span_s
    allowed = in_time + READ_BYTES * len(sizes) / sum(sizes)

    _, last_ts = send_with_ticks(fresh_kafka, log)
    course = catch_up(fresh_kafka, tmp_path / "paused", last_ts)
    _say(capsys, f"24 h, {len(sizes)} {topic} that may wait: {course}; allowed {allowed:.0f}")
    _check_sessions(fresh_kafka, shape.num_lists)

    delete_topics(fresh_kafka)
    create_topics(fresh_kafka, PARTITIONS)
    send_with_ticks(fresh_kafka, log)
    unpaused = catch_up(fresh_kafka, tmp_path / "unpaused", last_ts, ahead_s=NEVER_S)
    _say(capsys, f"the same without pauses: {unpaused}")

    assert course.pauses[topic] > 0, f"seed {SEED}: {course}"
    assert course.held(topic) <= allowed, f"seed {SEED}: {course}"
    assert course.peak_bytes <= course.start_bytes + BUDGET_BYTES, f"seed {SEED}: {course}"
    assert not any(unpaused.pauses.values())
    assert unpaused.held(topic) > allowed, f"seed {SEED}: the log does not need a pause: {unpaused}"


def test_a_budget_in_bytes_is_enough_to_even_out_reading(
    fresh_kafka: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = make_log(HEAVY_CLICKS, SEED + 2)
    sizes = [len(value) for _, name, _, value in log if name == topics.IMPRESSIONS]
    # A hot row is no smaller than four fifths of its list.
    allowed = (PARTITIONS * HOT_BYTES / 0.8 + READ_BYTES) * len(sizes) / sum(sizes)
    _, last_ts = send_with_ticks(fresh_kafka, log)
    course = catch_up(fresh_kafka, tmp_path, last_ts, ahead_s=NEVER_S, hot_max_bytes=HOT_BYTES)
    _say(capsys, f"24 h, hot budget of {HOT_BYTES} bytes a partition: {course}; allowed {allowed:.0f}")
    _check_sessions(fresh_kafka, HEAVY_CLICKS.num_lists)
    assert course.pauses[topics.IMPRESSIONS] > 0, f"seed {SEED + 2}: {course}"
    assert course.open_peak <= allowed, f"seed {SEED + 2}: {course}"
    assert course.peak_bytes <= course.start_bytes + BUDGET_BYTES, f"seed {SEED + 2}: {course}"


# Twenty minutes at 5 lists a second, five at 50, twenty at 5 again.
BURST = Shape(stretches=((6_000, 1_200), (15_000, 300), (6_000, 1_200)))
BURST_SPEED = 120.0


def test_a_burst_of_ten_times_passes(fresh_kafka: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = make_log(BURST, SEED + 1)
    burst_ts = START_TS + BURST.stretches[0][1] * 1_000
    parts = [
        part for is_later in (False, True) if (part := [sent for sent in log if (sent[0] >= burst_ts) == is_later])
    ]
    port = _free_port()
    with (
        running(fresh_kafka, tmp_path, "--metrics-port", str(port)) as worker,
        Watch(worker, port) as watch,
    ):
        ends, steady_ts = send_with_ticks(fresh_kafka, parts[0], speed=BURST_SPEED)
        wait_until_committed(fresh_kafka, worker)
        steady_bytes, steady_open = watch.peak_bytes, watch.peaks["shelfwise_join_open_sessions"]
        ends, last_ts = send_with_ticks(fresh_kafka, parts[1], first_ts=steady_ts, ends=ends, speed=BURST_SPEED)
        wait_until_committed(fresh_kafka, worker)
        time.sleep(METRICS_S)
        after_open = watch.newest["shelfwise_join_open_sessions"]
        _pass_all_windows(fresh_kafka, worker, watch, last_ts)
        assert worker.stop() == 0, worker.log
    most_open = _most_open(log) + READ_BYTES // LIST_BYTES
    peak_open = watch.peaks["shelfwise_join_open_sessions"]
    _say(
        capsys,
        f"10 x burst: {steady_open:.0f} open sessions, {peak_open:.0f} (allowed {most_open}), then {after_open:.0f}; "
        f"RSS {watch.start_bytes / MIB:.0f}, {steady_bytes / MIB:.0f}, {watch.peak_bytes / MIB:.0f} MiB",
    )
    _check_sessions(fresh_kafka, BURST.num_lists)
    assert 2 * steady_open < peak_open <= most_open, f"seed {SEED + 1}"
    assert after_open <= 1.2 * steady_open, f"seed {SEED + 1}"
    assert watch.peak_bytes <= watch.start_bytes + BUDGET_BYTES, f"seed {SEED + 1}"


# S12: above the limit of the parser, below that of the broker.
NUM_TOO_LARGE = 600
TOO_LARGE_BYTES = 1_000_000
TOO_LARGE_GROWTH_MIB = 50


def test_s12_events_that_are_too_large_pass_through(
    fresh_kafka: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = Shape(stretches=((600, 1_200),))
    ends, _ = send_with_ticks(fresh_kafka, make_log(shape, SEED + 3))
    port = _free_port()
    with running(fresh_kafka, tmp_path, "--metrics-port", str(port)) as worker, Watch(worker, port) as watch:
        wait_until_committed(fresh_kafka, worker)
        normal_bytes = watch.peak_bytes
        rng = np.random.default_rng(SEED + 3)
        with Producer(fresh_kafka) as producer:
            for number in range(NUM_TOO_LARGE):
                key = b"bulk-%d" % number
                ends[partition_of(key, PARTITIONS)][topics.CLICKS] += 1
                producer.send(topics.CLICKS, key=key, value=rng.bytes(TOO_LARGE_BYTES))
        wait_until_committed(fresh_kafka, worker)
        assert worker.stop() == 0, worker.log
    dead_letters = list(read_to_end(fresh_kafka, topics.DEAD_LETTERS))
    growth_mib = (watch.peak_bytes - normal_bytes) / MIB
    _say(capsys, f"{NUM_TOO_LARGE} x {TOO_LARGE_BYTES} bytes: RSS {normal_bytes / MIB:.0f} + {growth_mib:.0f} MiB")
    assert len({each.key for each in dead_letters}) == len(dead_letters) == NUM_TOO_LARGE
    assert growth_mib <= TOO_LARGE_GROWTH_MIB


def _most_open(log: list[Sent]) -> int:
    """Return how many lists are shown at most in the time that a list stays open."""
    shown = np.array([event_ts for event_ts, topic, _, _ in log if topic == topics.IMPRESSIONS])
    return int((np.searchsorted(shown, shown + (OPEN_S + SETTINGS.ahead_s) * 1_000) - np.arange(len(shown))).max())


def _check_sessions(broker: Broker, num_lists: int) -> None:
    found = emitted(broker)
    assert len(found) == num_lists
    assert labels(found) == labels(undisturbed(broker, PARTITIONS))
    assert sum(end_offsets(broker, [topics.UNJOINED, topics.DEAD_LETTERS]).values()) == 0


def _say(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Print the measurements, also of runs that pass."""
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")


def make_log(shape: Shape, seed: int) -> list[Sent]:
    """Return event time, topic, key and value of lists of 24 items and their clicks, in order of time."""
    rng = np.random.default_rng(seed)
    made: list[Sent] = []
    start_ts, number = START_TS, 0
    for num_lists, seconds in shape.stretches:
        for event_ts in np.sort(rng.integers(start_ts, start_ts + seconds * 1_000, num_lists)).tolist():
            made += _search(number, event_ts, shape, rng)
            number += 1
        start_ts += seconds * 1_000
    return sorted(made, key=lambda sent: sent[0])


def _search(number: int, event_ts: int, shape: Shape, rng: np.random.Generator) -> Iterator[Sent]:
    client, query_id = f"visitor-{int(rng.integers(NUM_CLIENTS)):06d}", f"query-{number:08d}"
    items = [f"sku-{(number + place) % 5_000:07d}" for place in range(NUM_ITEMS)]
    features = events.Features(
        schema="ab" * 32,
        item_f16=rng.standard_normal(NUM_ITEMS * shape.num_features).astype("<f2").tobytes(),
        context_f16=rng.standard_normal(8).astype("<f2").tobytes(),
        history=events.History(
            object_id=items[:20], category=["category-7"] * 20, action=["click"] * 20, age_s=list(range(20))
        ),
    )
    shown = events.Impression(
        event_id=f"i-{number}",
        event_ts=event_ts,
        query_id=query_id,
        query=events.Query(hash=f"{number:032x}", category="category-7"),
        currency="EUR",
        items=events.ShownItems(
            object_id=items,
            rank_in=list(range(1, NUM_ITEMS + 1)),
            price_minor=[999 + place for place in range(NUM_ITEMS)],
            score=[0.25 * place for place in range(NUM_ITEMS)],
        ),
        features=features,
        client_id=client,
        session_id=f"visit-{number % 97:06d}",
        source="test",
    )
    yield event_ts, topics.IMPRESSIONS, client.encode(), events.encode(shown)
    if rng.random() >= shape.clicked:
        return
    click_ts = event_ts + int(rng.integers(1_000, 300_000))
    place = int(rng.integers(NUM_ITEMS))
    click = events.Click(
        event_id=f"c-{number}",
        event_ts=click_ts,
        action_name="click",
        query_id=query_id,
        object_id=items[place],
        position=place + 1,
        client_id=client,
        source="test",
    )
    value = events.encode(click)
    # Shops send fields of their own beside the schema.
    padding = msgspec.json.encode({"note": "x" * max(0, shape.click_bytes - len(value))})
    yield click_ts, topics.CLICKS, client.encode(), value[:-1] + b"," + padding[1:]


def send_with_ticks(
    broker: Broker,
    log: Iterable[Sent],
    *,
    first_ts: int = START_TS,
    ends: list[dict[str, int]] | None = None,
    speed: float | None = None,
) -> tuple[list[dict[str, int]], int]:
    """Write the log with a driver's tick after each half minute of it.

    Args:
        broker: Where to.
        log: The events in order of time.
        first_ts: When the log begins.
        ends: Where the topics end, by partition; by default they are empty.
        speed: Seconds of the log in a second; by default as many as there can be.

    Returns:
        Where the topics end now, and the time of the last tick.
    """
    ends = ends or [dict.fromkeys(topics.EVENT_TOPICS, 0) for _ in range(PARTITIONS)]
    due_ts, started_s = first_ts + TICK_S * 1_000, time.monotonic()
    with Producer(broker) as producer:
        for event_ts, topic, key, value in log:
            while event_ts >= due_ts:
                _send_ticks(producer, due_ts, ends)
                if speed is not None:
                    time.sleep(max(0.0, started_s + (due_ts - first_ts) / 1_000 / speed - time.monotonic()))
                due_ts += TICK_S * 1_000
            ends[partition_of(key, PARTITIONS)][topic] += 1
            producer.send(topic, key=key, value=value)
        _send_ticks(producer, due_ts, ends)
    return ends, due_ts


def _send_ticks(producer: Producer, now_ts: int, ends: list[dict[str, int]]) -> None:
    for partition, high in enumerate(ends):
        record = events.Tick(partition=partition, seq=now_ts, worker="test", hw=dict(high), now_ts=now_ts)
        producer.send(topics.TICKS, key=b"%d" % partition, value=events.encode(record), partition=partition)


class Watch:
    """Samples a worker's memory and metrics from a thread, and keeps the greatest."""

    def __init__(self, worker: WorkerProcess, port: int) -> None:
        self._worker = worker
        self._port = port
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.start_bytes = 0
        self.peak_bytes = 0
        self.peaks: dict[str, float] = {}
        self.newest: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(30)

    def _run(self) -> None:
        statm = Path(f"/proc/{self._worker.process.pid}/statm")
        while not self._stopped.wait(0.1):
            try:
                size_bytes = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
                    body = answer.read().decode()
            except OSError:
                continue
            found: dict[str, float] = {}
            for family in text_string_to_metric_families(body):
                for sample in family.samples:
                    name = sample.name + "".join(
                        f":{sample.labels[key]}" for key in ("tier", "topic") if key in sample.labels
                    )
                    found[name] = found.get(name, 0.0) + sample.value
            # Everything is imported by the time it answers, and nothing read yet.
            self.start_bytes = self.start_bytes or size_bytes
            self.peak_bytes = max(self.peak_bytes, size_bytes)
            self.newest = found
            self.peaks |= {name: max(value, self.peaks.get(name, 0.0)) for name, value in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Measurements of one run.

    Attributes:
        open_peak: Most open sessions at a time, by the metrics once a second and by the rows that the worker wrote.
        waiting_peak: Most events that waited for their lists at a time, as the metrics showed it.
        pauses: How often each topic was paused.
        hot_peak_bytes: Most bytes of hot rows at a time, counted from their changelog; partitions added up.
        start_bytes: Resident size before the first record.
        peak_bytes: Greatest resident size.
    """

    open_peak: int
    waiting_peak: int
    pauses: Mapping[str, int]
    hot_peak_bytes: int
    start_bytes: int
    peak_bytes: int

    def held(self, topic: str) -> int:
        """Return how much of a topic was in memory at a time."""
        return self.open_peak if topic == topics.IMPRESSIONS else self.waiting_peak

    def __str__(self) -> str:
        return (
            f"{self.open_peak} open sessions, {self.waiting_peak} events waiting, pauses {dict(self.pauses)}, "
            f"hot {self.hot_peak_bytes / MIB:.1f} MiB, "
            f"RSS {self.start_bytes / MIB:.0f} to {self.peak_bytes / MIB:.0f} MiB"
        )


def catch_up(
    broker: Broker,
    home: Path,
    last_ts: int,
    *,
    ahead_s: int = SETTINGS.ahead_s,
    hot_max_bytes: int = SETTINGS.hot_max_bytes,
) -> Course:
    """Start a worker on a topic that is full, let it read all and pass all windows; fail unless its state is empty."""
    port = _free_port()
    settings = {"SHELFWISE_JOIN__AHEAD_S": str(ahead_s), "SHELFWISE_JOIN__HOT_MAX_BYTES": str(hot_max_bytes)}
    names = {topic: f"shelfwise_join_pauses_total:{topic}" for topic in topics.EVENT_TOPICS}
    with (
        running(broker, home, "--metrics-port", str(port), settings=settings) as worker,
        Watch(worker, port) as watch,
    ):
        wait_until_committed(broker, worker, timeout_s=240)
        _pass_all_windows(broker, worker, watch, last_ts)
        assert worker.stop() == 0, worker.log
    return Course(
        open_peak=max(written_peak(broker), int(watch.peaks["shelfwise_join_open_sessions"])),
        waiting_peak=int(watch.peaks["shelfwise_join_waiting_events"]),
        pauses={topic: int(watch.peaks.get(name, 0)) for topic, name in names.items()},
        hot_peak_bytes=hot_peak_bytes(broker),
        start_bytes=watch.start_bytes,
        peak_bytes=watch.peak_bytes,
    )


def _pass_all_windows(broker: Broker, worker: WorkerProcess, watch: Watch, last_ts: int) -> None:
    """Send ticks past every window until no row is left: a row goes after the confirmation of its end."""
    found = end_offsets(broker, topics.EVENT_TOPICS)
    ends = [{name: found[name, partition] for name in topics.EVENT_TOPICS} for partition in range(PARTITIONS)]
    deadline = time.monotonic() + 120
    end_ts = last_ts + PAST_MS
    with Producer(broker) as producer:
        # Quiet is counted from the first tick on.
        for now_ts in (last_ts + HOUR_MS, last_ts + 2 * HOUR_MS, end_ts):
            _send_ticks(producer, now_ts, ends)
            producer.flush()
            wait_until_committed(broker, worker)
        while any(watch.newest.get(name, 1.0) for name in STATE):
            assert worker.process.poll() is None, worker.log
            left = {name: watch.newest.get(name) for name in STATE}
            assert time.monotonic() < deadline, f"state is left after all windows: {left}"
            end_ts += TICK_S * 1_000
            _send_ticks(producer, end_ts, ends)
            producer.flush()
            time.sleep(BATCH_S)
    wait_until_committed(broker, worker)
    assert {name: live_rows(broker, name) for name in ROWS} == dict.fromkeys(ROWS, 0)


# Beyond attribution, refunds and the patience with idle profiles.
PAST_MS = 60 * DAY_S * 1_000
STATE = ("shelfwise_join_open_sessions", "shelfwise_join_state_bytes:hot", "shelfwise_join_state_bytes:warm")
ROWS = (topics.HOT_CHANGELOG, topics.WARM_CHANGELOG)


def live_rows(broker: Broker, changelog: str) -> int:
    """Return how many rows a restarted worker would find."""
    newest: dict[tuple[int, bytes | None], bool] = {}
    for record in read_to_end(broker, changelog):
        newest[record.partition, record.key] = record.value is not None
    return sum(newest.values())


def hot_peak_bytes(broker: Broker) -> int:
    """Return the greatest size of each partition's hot rows, added up, from the log of their changes."""
    sizes: dict[tuple[int, bytes | None], int] = {}
    held, peak = [0] * PARTITIONS, [0] * PARTITIONS
    for record in read_to_end(broker, topics.HOT_CHANGELOG):
        at, key = record.partition, (record.partition, record.key)
        size = 0 if record.value is None else len(record.key or b"") + len(record.value)
        held[at] += size - sizes.get(key, 0)
        sizes[key] = size
        peak[at] = max(peak[at], held[at])
    return sum(peak)


def written_peak(broker: Broker) -> int:
    """Return the greatest number of sessions open at a time: opened by their hot row, closed by revision 0."""
    opened: dict[bytes, int] = {}
    for record in read_to_end(broker, topics.HOT_CHANGELOG):
        if record.value is not None and record.key is not None and record.key[:1] == b"i":
            opened.setdefault(record.key[1:], record.timestamp)
    closed: dict[bytes, int] = {}
    for record in read_to_end(broker, topics.SESSIONS):
        content = session.decode(record.value or b"")
        if isinstance(content, Session):
            closed.setdefault(content.query_id.encode(), record.timestamp)
    assert opened.keys() == closed.keys()
    steps = sorted(
        [(at, 1) for at in opened.values()] + [(at, -1) for at in closed.values()], key=lambda s: (s[0], -s[1])
    )
    held = peak = 0
    for _, step in steps:
        held += step
        peak = max(peak, held)
    return peak


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
