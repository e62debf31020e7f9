"""Measurements of a contender: a backlog with a kill in it, a steady pace, and two workers against one.

Source: docs/benchmarks/stream.md.
"""

import re
import threading
import time
from pathlib import Path

import numpy as np
from msgspec import Struct

from stream.broker.settings import Broker
from stream.schemas import topics
from tests.bench.contenders import NAIVE, QUIX, SHELFWISE, Contender, Running
from tests.bench.feed import feed, for_quix, renew_topics
from tests.bench.load import NUM_PARTITIONS, Arrival, Load
from tests.bench.outputs import emit_delays_ms, judge, outputs
from tests.bench.sampling import Commits, cpu_seconds, wait_for_log, watch

_KILL_AT = 0.6
_STUCK_S = 120.0
_RECOVERED = re.compile(r"(\d+) changelog rows read in ([\d.]+) s")


class Backlog(Struct, kw_only=True):
    """Figures of a stored backlog; SIGKILL came after 60 % of it.

    Attributes:
        events_per_core: Events per CPU second of the process, all its threads and the system calls they make.
        events_per_s: Events per second of wall time, on a machine that the broker shares.
        peak_rss_bytes: Largest resident size.
        lists: Share of the on-time lists in the output at the end, after the crash.
        clicks: The same of clicks.
        num_repeated: Outputs written again with the same identity.
        num_doubled: Clicks that one list holds twice.
        recovery_s: From the start after the kill to the first event processed and committed.
        rows: Changelog rows read.
        rows_per_s: Rows per second while they were read.
    """

    events_per_core: float
    events_per_s: float
    peak_rss_bytes: int
    lists: float
    clicks: float
    num_repeated: int
    num_doubled: int
    recovery_s: float
    rows: int | None = None
    rows_per_s: float | None = None


class Paced(Struct, kw_only=True):
    """Figures of a steady rate.

    Attributes:
        events_per_s: The rate.
        cpu_share: CPU seconds of the process per second.
        delay_p50_ms: From the record that closes a list (Quix Streams: the click) to the stored output.
        delay_p99_ms: The same.
    """

    events_per_s: float
    cpu_share: float
    peak_rss_bytes: int
    lists: float
    clicks: float
    num_repeated: int
    num_doubled: int
    delay_p50_ms: float
    delay_p99_ms: float


class Shared(Struct, kw_only=True):
    """Figures of workers of one group on a backlog that was stored while they were suspended, from first to last event.

    Attributes:
        events_per_core: Events per CPU second of all processes together.
        events_per_s: Events per second of wall time, on a machine that the broker shares.
    """

    events_per_core: float
    events_per_s: float


def _arrivals(load: Load, contender: Contender) -> list[Arrival]:
    if contender is QUIX:
        return list(for_quix(load.arrivals))
    if contender is NAIVE:
        return [arrival for arrival in load.arrivals if arrival.topic in contender.inputs]
    return load.arrivals


def backlog(broker: Broker, contender: Contender, load: Load, folder: Path, group: str) -> Backlog:
    """Store the load, then let the contender work through it with one kill."""
    renew_topics(broker)
    arrivals = _arrivals(load, contender)
    feed(broker, arrivals)
    num_events = sum(arrival.topic != topics.TICKS for arrival in arrivals)
    commits = Commits(broker, group, contender.inputs)
    running = Running(contender, broker, group, folder)
    try:
        course = watch(running, commits=commits, until=int(num_events * _KILL_AT), timeout_s=_STUCK_S)
        running.kill()
        at_kill = commits.count()
        started_s = time.monotonic()
        running = Running(contender, broker, group, folder)
        again = watch(running, commits=commits, until=num_events, timeout_s=_STUCK_S)
        recovery_s = again.samples[0].wall_s - started_s
        rows, rows_per_s = _recovered(contender, running)
        if contender is SHELFWISE:
            _wait_for_ticks(broker, running, group, load)
    finally:
        running.stop()
        commits.close()
    found = list(outputs(broker, contender))
    verdict = judge(load, contender, found)
    per_core, per_s = course.rates(below=max(at_kill, 1))
    return Backlog(
        events_per_core=per_core,
        events_per_s=per_s,
        peak_rss_bytes=max(course.peak_rss_bytes, again.peak_rss_bytes),
        lists=verdict.lists,
        clicks=verdict.clicks,
        num_repeated=verdict.num_repeated,
        num_doubled=verdict.num_doubled,
        recovery_s=recovery_s,
        rows=rows,
        rows_per_s=rows_per_s,
    )


def shared(broker: Broker, load: Load, folder: Path, group: str, *, num_workers: int) -> Shared:
    """Let the workers share a load that is stored while all are suspended: none has a head start.

    All work is counted, begun or not committed yet: the course of a few seconds has only a few commits.
    """
    renew_topics(broker)
    num_events = sum(arrival.topic != topics.TICKS for arrival in load.arrivals)
    share = re.compile(rf"owns partitions \[(\d+(, )?){{{NUM_PARTITIONS // num_workers}}}\] of {NUM_PARTITIONS}")
    commits = Commits(broker, group, SHELFWISE.inputs)
    patient = {"SHELFWISE_WORKER__SESSION_S": "30"}
    workers = [
        Running(SHELFWISE, broker, group, folder / f"{number}", instance=f"bench-{number}", settings=patient)
        for number in range(num_workers)
    ]
    try:
        for worker in workers:
            wait_for_log(worker, share, 60)
        for worker in workers:
            worker.hold()
        feed(broker, load.arrivals)
        start_s, start_cpu_s = time.monotonic(), sum(cpu_seconds(worker.pid) for worker in workers)
        for worker in workers:
            worker.release()
        last = watch(*workers, commits=commits, until=num_events, timeout_s=_STUCK_S).samples[-1]
    finally:
        for worker in workers:
            worker.release()
            worker.stop()
        commits.close()
    return Shared(
        events_per_core=num_events / (last.cpu_s - start_cpu_s), events_per_s=num_events / (last.wall_s - start_s)
    )


def _recovered(contender: Contender, running: Running) -> tuple[int | None, float | None]:
    found = _RECOVERED.search(running.log()) if contender is SHELFWISE else None
    if found is None:
        return None, None
    rows, seconds = int(found[1]), float(found[2])
    return rows, rows / max(seconds, 0.01)


def _wait_for_ticks(broker: Broker, running: Running, group: str, load: Load) -> None:
    ticks = Commits(broker, group, (topics.TICKS,))
    try:
        watch(running, commits=ticks, until=load.counts()[topics.TICKS], timeout_s=_STUCK_S)
    finally:
        ticks.close()


def paced(broker: Broker, contender: Contender, load: Load, folder: Path, group: str, *, seconds: float) -> Paced:
    """Feed the load over so many seconds into a contender that runs already."""
    renew_topics(broker)
    arrivals = _arrivals(load, contender)
    num_events = sum(arrival.topic != topics.TICKS for arrival in arrivals)
    commits = Commits(broker, group, contender.inputs)
    running = Running(contender, broker, group, folder)
    handed_over: dict[str, int] = {}

    def write() -> None:
        handed_over.update(feed(broker, arrivals, speed=load.settings.span_s / seconds))

    feeder = threading.Thread(target=write)
    try:
        if contender.ready:
            wait_for_log(running, contender.ready, 60)
        feeder.start()
        course = watch(running, commits=commits, until=int(num_events * 0.98), timeout_s=_STUCK_S)
        feeder.join()
        if contender is SHELFWISE:
            _wait_for_ticks(broker, running, group, load)
        else:
            watch(running, commits=commits, until=num_events, timeout_s=_STUCK_S)
    finally:
        if feeder.is_alive():
            feeder.join()
        running.stop()
        commits.close()
    found = list(outputs(broker, contender))
    verdict = judge(load, contender, found)
    delays_ms = emit_delays_ms(broker, load, contender, found, handed_over)
    first, last = course.samples[0], course.samples[-1]
    took_s = last.wall_s - first.wall_s
    return Paced(
        events_per_s=(last.num_committed - first.num_committed) / took_s,
        cpu_share=(last.cpu_s - first.cpu_s) / took_s,
        peak_rss_bytes=course.peak_rss_bytes,
        lists=verdict.lists,
        clicks=verdict.clicks,
        num_repeated=verdict.num_repeated,
        num_doubled=verdict.num_doubled,
        delay_p50_ms=float(np.percentile(delays_ms, 50)) if len(delays_ms) else float("nan"),
        delay_p99_ms=float(np.percentile(delays_ms, 99)) if len(delays_ms) else float("nan"),
    )
