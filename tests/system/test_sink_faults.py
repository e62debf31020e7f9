"""S15 to S17: PostgreSQL dies, freezes, runs out of space or answers slowly under the running sink."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaAdminClient

from stream.broker.offsets import end_offsets
from stream.broker.settings import Broker
from stream.schemas import topics
from tests.harness.postgres import PostgresServer, find_binaries, own_server
from tests.harness.proxy import Proxy
from tests.harness.sink import (
    Feeder,
    SinkProcess,
    check_back_off,
    check_facts,
    corrected_sessions,
    produce,
    reading,
    running,
    stored_offset,
    wait_for,
    wait_until_applied,
    wait_until_drained,
)

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.system]
SEED = 1_517
NUM_KILLS = 5
KILLED_S = 4.0
FROZEN_S = 30.0
NUM_BEFORE = 500
NUM_REFUSED = 4
DISK_MIB = 64
MIB = 1 << 20
SLOWED = 10
FIRST_DELAY_S = 0.1
SLOW_S = 20.0
MOST_GROWTH = 1.2
LEAST_LAG = 5_000
_SMALL = ("synchronous_commit=on", "min_wal_size=2MB", "max_wal_size=4MB", "shared_buffers=4MB")


def test_the_sink_waits_for_a_database_that_is_killed_and_frozen(
    fresh_kafka: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(SEED)
    contents = corrected_sessions(SEED, 12_000)
    produce(fresh_kafka, contents[:NUM_BEFORE])
    feeder = Feeder(fresh_kafka, contents[NUM_BEFORE:], per_s=200)
    outages: list[tuple[float, float]] = []
    with own_server() as server, Proxy(server.port) as proxy, reading(server.url) as engine:
        with running(fresh_kafka, proxy.through(server.url), tmp_path) as sink, ExitStack() as feeding:
            wait_until_applied(sink, NUM_BEFORE)
            feeding.enter_context(feeder)
            for number in range(NUM_KILLS):
                _work_on(sink, num_sessions=int(rng.integers(50, 500)))
                before, killed_s = len(proxy.opened_s), time.monotonic()
                server.kill()
                _wait_until(killed_s + KILLED_S, sink)
                server.start()
                outage_s = time.monotonic() - killed_s
                outages.append((outage_s, wait_until_drained(fresh_kafka, engine, sink)))
                attempts_s = proxy.opened_s[before:]
                assert attempts_s, f"kill {number} of seed {SEED} met no batch"
                check_back_off(attempts_s, context=f"kill {number} of seed {SEED}")

            _work_on(sink, num_sessions=int(rng.integers(50, 500)))
            before, frozen_s = len(proxy.opened_s), time.monotonic()
            applied = sink.metric("shelfwise_sink_sessions_total")
            server.freeze()
            _wait_until(frozen_s + FROZEN_S, sink)
            # What was on its way when the server froze may still have been counted.
            assert sink.metric("shelfwise_sink_sessions_total") <= applied + 2_000
            server.thaw()
            outage_s = time.monotonic() - frozen_s
            outages.append((outage_s, wait_until_drained(fresh_kafka, engine, sink)))
            check_back_off(proxy.opened_s[before:], context=f"freeze of seed {SEED}")
            assert not feeder.is_done, f"{len(contents)} sessions were too few to last"
            feeding.close()
            wait_until_drained(fresh_kafka, engine, sink)
            assert sink.stop() == 0, sink.log
        check_facts(fresh_kafka, engine, context=f"seed {SEED}")
    _say(capsys, f"S15 outage and drain in seconds: {[(round(out, 1), round(drain, 1)) for out, drain in outages]}")
    assert all(drain_s <= 2 * outage_s for outage_s, drain_s in outages), outages


def _say(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Show what was measured, in runs that pass too."""
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")


def _work_on(sink: SinkProcess, *, num_sessions: int) -> None:
    wait_until_applied(sink, int(sink.metric("shelfwise_sink_sessions_total")) + num_sessions)


def _wait_until(until_s: float, sink: SinkProcess) -> None:
    wait_for("the outage has lasted", lambda: time.monotonic() >= until_s, sink=sink)


@pytest.mark.parametrize("make_room", [pytest.param("disk", id="full-disk"), pytest.param("files", id="file-limit")])
def test_the_sink_waits_for_space(
    make_room: str, fresh_kafka: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = corrected_sessions(SEED + 1, 8_000)
    produce(fresh_kafka, contents[:NUM_BEFORE])
    feeder = Feeder(fresh_kafka, contents[NUM_BEFORE:], per_s=200)
    num_server_starts = 0
    with ExitStack() as stack:
        room = stack.enter_context(_small_disk() if make_room == "disk" else _small_files())
        _say(capsys, f"S16 runs on {room.kind}")
        server = room.server
        engine = stack.enter_context(reading(server.url))
        with running(fresh_kafka, server.url, tmp_path) as sink, ExitStack() as feeding:
            wait_until_applied(sink, NUM_BEFORE)
            feeding.enter_context(feeder)
            _work_on(sink, num_sessions=NUM_BEFORE)
            room.fill()
            filled_s = time.monotonic()
            wait_for("refused batches", lambda: sink.metric("shelfwise_sink_retries_total") >= NUM_REFUSED, sink=sink)
            applied = sink.metric("shelfwise_sink_sessions_total")
            room.free()
            if not server.is_running:  # a full log ends PostgreSQL; its owner starts it again, nothing is edited
                server.start()
                num_server_starts += 1
            outage_s = time.monotonic() - filled_s
            drained_s = wait_until_drained(fresh_kafka, engine, sink)
            _work_on(sink, num_sessions=NUM_BEFORE)
            assert not feeder.is_done, f"{len(contents)} sessions were too few to last"
            feeding.close()
            wait_until_drained(fresh_kafka, engine, sink)
            assert sink.metric("shelfwise_sink_sessions_total") > applied
            assert sink.stop() == 0, sink.log
        check_facts(fresh_kafka, engine, context=f"seed {SEED + 1} on {room.kind}")
    _say(capsys, f"S16 outage {outage_s:.1f} s, drained in {drained_s:.1f} s, starts of the server {num_server_starts}")
    assert drained_s <= 2 * outage_s


class _Room(ABC):
    """A server and the space that its files may take."""

    kind: str
    server: PostgresServer

    @abstractmethod
    def fill(self) -> None:
        """Leave no space."""

    @abstractmethod
    def free(self) -> None:
        """Leave plenty of space again."""


class _SmallDisk(_Room):
    """A small file system that somebody else's file fills up."""

    kind = "a file system of 64 MiB (tmpfs), filled to its last byte"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"
        self.server = PostgresServer(folder, find_binaries(), options=_SMALL, wal_segment_mb=1)

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as ballast:
            for size in (MIB, 4_096, 1):
                while _is_written(ballast.fileno(), bytes(size)):
                    pass
        assert shutil.disk_usage(self._folder).free == 0

    def free(self) -> None:
        self._ballast.unlink()


class _SmallFiles(_Room):
    """A limit on the size of each file: what may not be written fails as on a full disk, though with another code."""

    kind = "a limit on the size of files (RLIMIT_FSIZE), below that of the largest"

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self.server = PostgresServer(folder, find_binaries(), options=_SMALL, wal_segment_mb=1)

    def fill(self) -> None:
        # A table grows by pages; the log's segments have their full size from the start and stay writable.
        largest = max(entry.stat().st_size for entry in self._data.glob("base/*/*") if entry.is_file())
        self.server.limit_file_size(max(largest, MIB))

    def free(self) -> None:
        self.server.limit_file_size(None)


@contextmanager
def _small_disk() -> Iterator[_Room]:
    """A server on a file system of 64 MiB; where none may be mounted, one with small files, which its kind says."""
    with tempfile.TemporaryDirectory(prefix="shelfwise-small-") as name:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0755", "tmpfs", name],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            with _small_files() as room:
                room.kind += f"; mount said: {mounted.stderr.decode().strip()}"
                yield room
            return
        try:
            with _started(_SmallDisk(Path(name))) as room:
                yield room
        finally:
            subprocess.run(["umount", name], check=True)


@contextmanager
def _small_files() -> Iterator[_Room]:
    with tempfile.TemporaryDirectory(prefix="shelfwise-small-") as name, _started(_SmallFiles(Path(name))) as room:
        yield room


@contextmanager
def _started(room: _Room) -> Iterator[_Room]:
    room.server.start()
    try:
        yield room
    finally:
        if room.server.is_running:
            room.server.kill()


def _is_written(handle: int, piece: bytes) -> bool:
    try:
        return os.write(handle, piece) == len(piece)
    except OSError:
        return False


def test_a_sink_slowed_ten_times_keeps_its_size(
    fresh_kafka: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = corrected_sessions(SEED + 2, 10_000)
    third = len(contents) // 3
    produce(fresh_kafka, contents[:third])
    groups = _groups(fresh_kafka)
    with own_server() as server, Proxy(server.port) as proxy, reading(server.url) as engine:
        with running(fresh_kafka, proxy.through(server.url), tmp_path) as sink:
            wait_until_applied(sink, 1)
            fast_per_s, fast_bytes = _pace(sink, until=third)
            proxy.delay_s, slow_per_s, slow_bytes = FIRST_DELAY_S, fast_per_s, 0
            produce(fresh_kafka, contents[third:])
            while slow_per_s > fast_per_s / SLOWED:
                proxy.delay_s *= 2
                slow_per_s, most_bytes = _pace(sink, lasting_s=SLOW_S)
                slow_bytes = max(slow_bytes, most_bytes)
            lag = sum(end_offsets(fresh_kafka, [topics.SESSIONS]).values()) - stored_offset(engine)
            assert _groups(fresh_kafka) == groups
            proxy.delay_s = 0.0
            wait_until_drained(fresh_kafka, engine, sink)
            assert sink.stop() == 0, sink.log
        check_facts(fresh_kafka, engine, context=f"seed {SEED + 2}")
    _say(
        capsys,
        f"S17 fast {fast_per_s:.0f}/s at {fast_bytes / MIB:.1f} MiB; slow {slow_per_s:.0f}/s at "
        f"{slow_bytes / MIB:.1f} MiB with {lag} records behind",
    )
    assert lag > LEAST_LAG, "the sink was not left behind"
    assert slow_bytes <= MOST_GROWTH * fast_bytes


def _pace(sink: SinkProcess, *, until: int | None = None, lasting_s: float = 0.0) -> tuple[float, int]:
    """Watch the sink until it has applied so many sessions, or for a time; return sessions per second and its size."""
    sizes = [sink.rss_bytes]

    def is_over() -> bool:
        sizes.append(sink.rss_bytes)
        if until is not None:
            return sink.metric("shelfwise_sink_sessions_total") >= until
        return time.monotonic() >= started_s + lasting_s

    started_s, first = time.monotonic(), sink.metric("shelfwise_sink_sessions_total")
    took_s = wait_for("the measurement", is_over, sink=sink)
    return (sink.metric("shelfwise_sink_sessions_total") - first) / took_s, max(sizes)


def _groups(broker: Broker) -> set[str]:
    """Return the consumer groups that the broker knows; the sink has none and cannot be evicted."""
    admin = KafkaAdminClient(**broker.client_config())
    try:
        return {str(group["group_id"]) for group in admin.list_groups()}
    finally:
        admin.close()
