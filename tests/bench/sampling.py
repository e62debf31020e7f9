"""Samples of a process at the commits of its group: events, CPU seconds and memory.

Between two commits the events and their CPU time are known, also on a machine that does other work.
"""

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from stream.broker.settings import Broker
from tests.bench.contenders import Running
from tests.bench.load import NUM_PARTITIONS

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """State at one time: committed events, wall clock, CPU seconds and resident bytes of the process."""

    wall_s: float
    num_committed: int
    cpu_s: float
    rss_bytes: int


@dataclass(slots=True)
class Course:
    """Samples at the times of commits."""

    samples: list[Sample] = field(default_factory=list)

    def rates(self, *, below: float) -> tuple[float, float]:
        """Return events per CPU second and per wall second, between the first commit and the last one up to `below`."""
        used = [sample for sample in self.samples if 0 < sample.num_committed <= below]
        if len(used) < 2:
            return float("nan"), float("nan")
        first, last = used[0], used[-1]
        num_events = last.num_committed - first.num_committed
        return num_events / max(last.cpu_s - first.cpu_s, 1e-9), num_events / (last.wall_s - first.wall_s)

    @property
    def peak_rss_bytes(self) -> int:
        """The largest resident size seen."""
        return max(sample.rss_bytes for sample in self.samples)


class Commits:
    """Reader of a group's commits that does not join the group."""

    def __init__(self, broker: Broker, group: str, inputs: tuple[str, ...]) -> None:
        self._consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
        self._pairs = [TopicPartition(name, number) for name in inputs for number in range(NUM_PARTITIONS)]

    def count(self) -> int:
        """Return the number of committed events."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return sum(max(0, found.offset) for found in self._consumer.committed(self._pairs, timeout=30))
            except KafkaException:
                # A young broker makes its offsets topic when the first group asks for it.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


def watch(*running: Running, commits: Commits, until: int, timeout_s: float) -> Course:
    """Sample at every commit until `num_events` are committed; CPU and memory are sums over all processes.

    Raises:
        RuntimeError: If the process ends or nothing is committed for `timeout_s`.
    """
    course = Course()
    known = commits.count()
    moved_s = time.monotonic()
    while known < until:
        found = commits.count()
        now_s = time.monotonic()
        if found != known:
            known, moved_s = found, now_s
            cpu_s = sum(cpu_seconds(one.pid) for one in running)
            course.samples.append(Sample(now_s, found, cpu_s, sum(rss_bytes(one.pid) for one in running)))
        for one in running:
            one.check()
        if now_s - moved_s > timeout_s:
            raise RuntimeError(f"{known} of {until} events are committed and none for {timeout_s:.0f} s")
        time.sleep(_POLL_S)
    return course


def wait_for_log(running: Running, text: str | re.Pattern[str], timeout_s: float) -> float:
    """Return the time at which the process had logged `text`.

    Raises:
        RuntimeError: If it does not.
    """
    deadline = time.monotonic() + timeout_s
    while not re.search(text, running.log()):
        running.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"'{text}' was not logged within {timeout_s:.0f} s:\n{running.log()[-2_000:]}")
        time.sleep(_POLL_S)
    return time.monotonic()


def cpu_seconds(pid: int) -> float:
    """Return user and system time of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Return the resident size of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
