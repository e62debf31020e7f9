"""The fault tests of the join worker (tests/README.md), each with a number of rounds: one, or the full count."""

import gc
import os
import signal
import struct
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from deploy.kafka.local import LocalKafka
from stream.broker.offsets import end_offsets
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.schemas import topics
from tests.harness.faults import (
    CLEAN,
    SESSION_S,
    Fleet,
    Load,
    drain,
    fleet,
    judge,
    oldest_wait_s,
    wait_until,
    wait_until_steady,
)
from tests.harness.groups import committed_offsets
from tests.harness.kafka import PARTITIONS
from tests.harness.worker import GROUP, wait_until_committed

NAMES = ("first", "second")
STEADY_S = 60.0
RESUME_S = 30.0
# Bound of every wait: a machine that does other work takes longer, and that is no fault of the program.
_LIMIT_S = 180.0
_QUERIES_PER_S = 250
# Searches, each one second of event time: more than the click window, so that sessions close while others are open.
_WARM_UP = 1_000


def kill_one(broker: Broker, folder: Path, *, rounds: int, seed: int) -> list[float]:
    """Run S1: SIGKILL one of two workers at random times, restart it and return the seconds to a steady lag."""
    chance = np.random.default_rng(seed)
    with _two_workers(broker, folder, f"seed {seed}") as (workers, load):
        return [_kill_one(broker, workers, load, chance) for _ in range(rounds)]


def kill_all(broker: Broker, folder: Path, *, rounds: int, seed: int) -> list[float]:
    """Run S2: SIGKILL all workers together, restart them and return the seconds to a steady lag."""
    chance = np.random.default_rng(seed)
    with _two_workers(broker, folder, f"seed {seed}") as (workers, load):
        return [_kill_all(broker, workers, load, chance) for _ in range(rounds)]


def kill_broker(kafka: LocalKafka, folder: Path, *, rounds: int, seed: int) -> list[tuple[float, float]]:
    """Run S6: SIGKILL the broker under load and restart it.

    Returns:
        Seconds from its answer until the source's next acknowledgement, and until the lag was steady, of each round.
    """
    chance = np.random.default_rng(seed)
    with _two_workers(kafka.broker, folder, f"seed {seed}") as (workers, load):
        return [_kill_broker(kafka, workers, load, chance) for _ in range(rounds)]


def stop_and_continue(broker: Broker, folder: Path, *, quiet: bool) -> list[tuple[str, int]]:
    """Run S4: suspend a worker for two session timeouts, continue it, and return names and exit statuses.

    Args:
        broker: Broker with the log.
        folder: Homes of the workers.
        quiet: Continue it when the other worker is idle, so that any write of it stays the newest.
    """
    with _two_workers(broker, folder, f"quiet {quiet}", may_exit=True) as (workers, load):
        _stop_and_continue(broker, workers, load, quiet=quiet)
        return workers.exits


def each_once(kafka: LocalKafka, folder: Path, *, seed: int) -> list[tuple[str, int]]:
    """Run one round of S1, S2, S6 and the quiet S4, in this order under one load, and return exits as S4 does."""
    chance = np.random.default_rng(seed)
    with _two_workers(kafka.broker, folder, f"seed {seed}", may_exit=True) as (workers, load):
        _kill_one(kafka.broker, workers, load, chance)
        _kill_all(kafka.broker, workers, load, chance)
        _kill_broker(kafka, workers, load, chance)
        assert not workers.exits, "\n".join(workers.last_words)
        _stop_and_continue(kafka.broker, workers, load, quiet=True)
        return workers.exits


@contextmanager
def _two_workers(broker: Broker, folder: Path, what: str, *, may_exit: bool = False) -> Iterator[tuple[Fleet, Load]]:
    """Yield two workers under a load; when the faults are over, drain the log and compare what came out."""
    with fleet(broker, folder) as workers, _load(broker) as load:
        _start_both(broker, workers, load)
        yield workers, load
        drain(broker, load, workers)
    _check(broker, load, what, () if may_exit else workers.last_words)


def _kill_one(broker: Broker, workers: Fleet, load: Load, chance: np.random.Generator) -> float:
    time.sleep(chance.uniform(0, 1))
    name = NAMES[chance.integers(len(NAMES))]
    workers.kill(name)
    workers.start(name)
    return wait_until_steady(broker, load, workers, _LIMIT_S)


def _kill_all(broker: Broker, workers: Fleet, load: Load, chance: np.random.Generator) -> float:
    time.sleep(chance.uniform(0, 1))
    workers.kill(*NAMES)
    for name in NAMES:
        workers.start(name)
    return wait_until_steady(broker, load, workers, _LIMIT_S)


def _kill_broker(kafka: LocalKafka, workers: Fleet, load: Load, chance: np.random.Generator) -> tuple[float, float]:
    time.sleep(chance.uniform(0, 1))
    kill_9(kafka)
    killed_s = time.monotonic()
    kafka.start()
    back_s = time.monotonic()
    wait_until(lambda: load.acknowledged_s[-1] > killed_s, "the source", _LIMIT_S)
    resumed_s = max(0.0, next(at for at in load.acknowledged_s if at > killed_s) - back_s)
    return resumed_s, wait_until_steady(kafka.broker, load, workers, _LIMIT_S)


def _stop_and_continue(broker: Broker, workers: Fleet, load: Load, *, quiet: bool) -> None:
    zombie = workers.workers.pop("first")
    os.kill(zombie.process.pid, signal.SIGSTOP)
    stopped_s = time.monotonic()
    wait_until_steady(broker, load, workers, _LIMIT_S)
    if quiet:
        load.stop()
        wait_until_committed(broker, workers.workers["second"])
    wait_until(lambda: time.monotonic() - stopped_s >= 2 * SESSION_S, "two session timeouts")
    os.kill(zombie.process.pid, signal.SIGCONT)
    workers.workers["first"] = zombie

    def is_replaced() -> bool:
        workers.mind()
        return bool(workers.exits) and workers.is_ready("first")

    wait_until(is_replaced, "the end of the stopped worker and its return", _LIMIT_S, workers.words)


def come_and_go(broker: Broker, folder: Path, *, for_s: float, every_s: float) -> tuple[float, float]:
    """Run S5: let a worker join or leave every few seconds.

    Returns:
        Seconds that the oldest unprocessed event waited: in lone rebalances, and under the stream of them.
    """
    with fleet(broker, folder) as workers, _load(broker) as load:
        workers.start("first")
        wait_until(lambda: workers.is_ready("first"), "the first worker", _LIMIT_S, workers.words)
        load.wait_for(_WARM_UP)
        wait_until_steady(broker, load, workers, _LIMIT_S)
        steady_s = 0.0
        for _ in range(2):
            workers.start("second")
            steady_s = max(steady_s, _oldest_until(broker, lambda: workers.is_ready("second"), workers))
            steady_s = max(steady_s, _oldest_for(broker, 2.0))
            workers.retire("second")
            steady_s = max(steady_s, _oldest_for(broker, 3.0))
        wait_until_steady(broker, load, workers, _LIMIT_S)
        oldest_s = 0.0
        steps = [("second", True), ("third", True), ("second", False), ("third", False)]
        for number in range(int(for_s / every_s)):
            name, comes = steps[number % len(steps)]
            if comes:
                workers.start(name)
            else:
                workers.retire(name)
            oldest_s = max(oldest_s, _oldest_for(broker, every_s))
        wait_until_steady(broker, load, workers, _LIMIT_S)
        drain(broker, load, workers)
    _check(broker, load, "come and go", workers.last_words)
    return steady_s, oldest_s


def _oldest_for(broker: Broker, duration_s: float) -> float:
    """Return the longest wait of an unprocessed event that was seen in this time."""
    end_s = time.monotonic() + duration_s
    oldest_s = 0.0
    while time.monotonic() < end_s:
        oldest_s = max(oldest_s, oldest_wait_s(broker))
    return oldest_s


def _oldest_until(broker: Broker, holds: Callable[[], bool], workers: Fleet) -> float:
    deadline = time.monotonic() + _LIMIT_S
    oldest_s = 0.0
    while not holds():
        assert time.monotonic() < deadline, workers.words()
        oldest_s = max(oldest_s, oldest_wait_s(broker))
    return oldest_s


def cut_the_log(
    kafka: LocalKafka, folder: Path, *, cut_bytes: int, refill: bool
) -> tuple[set[int], set[int], int, str]:
    """Run S7: SIGKILL the broker, cut the end of a merged input partition and restart the broker.

    Args:
        kafka: The broker, with empty topics.
        folder: Homes of the workers.
        cut_bytes: Bytes removed from the end of the newest segment.
        refill: Write new records into the place of the lost ones before the worker looks.

    Returns:
        Offsets that the cut batches held, offsets that are missing, the worker's exit status and its last words.
    """
    broker = kafka.broker
    partition = (topics.IMPRESSIONS, 0)
    with fleet(broker, folder) as workers, _load(broker) as load:
        workers.start("first")
        load.wait_for(400)
        load.stop()
        wait_until_committed(broker, workers.workers["first"])
        before = {r.offset: r.value for r in read_to_end(broker, partition[0]) if r.partition == partition[1]}
        if refill:
            workers.stop()
        kill_9(kafka)
        segment = max((kafka.folder / "data" / "impressions-0").glob("*.log"))
        expected = _offsets_in(segment) - _offsets_in(segment, segment.stat().st_size - cut_bytes)
        with segment.open("r+b") as log:
            log.truncate(segment.stat().st_size - cut_bytes)
        kafka.start()
        after = {r.offset: r.value for r in read_to_end(broker, partition[0]) if r.partition == partition[1]}
        assert after.items() <= before.items()
        if refill:
            with _load(broker) as more:
                wait_until(lambda: end_offsets(broker, [partition[0]])[partition] > len(before) + 20, "new records")
                more.stop()
            workers.start("first")
        code = workers.workers["first"].process.wait(timeout=90)
        words = workers.workers["first"].log[-3_000:]
        assert committed_offsets(broker, GROUP, [partition[0]])[partition] == len(before), "nothing was acknowledged"
    return expected, set(before) - set(after), code, words


def forget_sockets() -> None:
    """Collect the sockets that kafka-python leaves behind after failed connections to a dead broker."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def kill_9(kafka: LocalKafka) -> None:
    """Kill the broker by SIGKILL and reap it."""
    pid = kafka.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _offsets_in(segment: Path, size: int | None = None) -> set[int]:
    """Return the offsets of the batches that lie whole within the first `size` bytes of a segment.

    Source: Kafka's record batch, message format 2: base offset, length, ..., last offset delta at byte 23.
    """
    log = segment.read_bytes()[:size]
    return {offset for first, last in _batches(log) for offset in range(first, last + 1)}


def _batches(log: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at + 61 <= len(log):
        first, length = struct.unpack_from(">qi", log, at)
        if length <= 0 or at + 12 + length > len(log):
            return
        yield first, first + struct.unpack_from(">i", log, at + 23)[0]
        at += 12 + length


def _check(broker: Broker, load: Load, what: str, last_words: Sequence[str] = ()) -> None:
    found = judge(broker, load.acknowledged, PARTITIONS)
    assert found == CLEAN, f"{what}: {found}"
    assert not last_words, f"{what}: ended without being told to:\n" + "\n".join(last_words)


def _load(broker: Broker) -> Load:
    return Load(broker, queries_per_s=_QUERIES_PER_S, partitions=PARTITIONS)


def _start_both(broker: Broker, workers: Fleet, load: Load) -> None:
    for name in NAMES:
        workers.start(name)

    def both_own() -> bool:
        assert not any(worker.process.poll() for worker in workers.workers.values()), workers.words()
        return all(workers.is_ready(name) for name in NAMES)

    wait_until(both_own, "both workers", _LIMIT_S, workers.words)
    load.wait_for(max(0, _WARM_UP - load.num_queries))
    wait_until_steady(broker, load, workers, _LIMIT_S)
