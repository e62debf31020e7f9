"""The lease of a trainer process, on a clock that the test sets."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from stream import db
from stream.errors import FencedError
from trainer.pauses import Pauses
from trainer.versions.leases import Leases
from trainer.writer_lease import WriterLease

TTL_MS = 30_000


class Clock:
    """Seconds that pass when told, and in each wait; a stop is requested at `stop_s`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.stop_s = 1_000.0

    def wait(self, seconds: float) -> bool:
        self.now_s += seconds
        return self.now_s >= self.stop_s


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = db.create("sqlite://")
    db.metadata.create_all(engine)
    Leases(engine).ensure("prm")
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lease(engine: Engine, clock: Clock, holder: str) -> WriterLease:
    return WriterLease(
        Leases(engine),
        "prm",
        holder,
        ttl_ms=TTL_MS,
        now_ms=lambda: round(clock.now_s * 1_000),
        pauses=Pauses(monotonic_s=lambda: clock.now_s, wait=clock.wait, random=lambda: 0.5),
    )


def test_a_second_process_waits_until_the_lease_has_expired(engine: Engine, clock: Clock) -> None:
    first, second = lease(engine, clock, "one"), lease(engine, clock, "two")
    assert first.acquire()
    assert second.acquire()
    assert (first.term, second.term, clock.now_s) == (1, 2, 30.0)
    with pytest.raises(FencedError, match="term 1 has lost its lease"):
        first.keep()


def test_a_stop_ends_the_wait(engine: Engine, clock: Clock) -> None:
    assert lease(engine, clock, "one").acquire()
    clock.stop_s = 5.0
    waiting = lease(engine, clock, "two")
    assert not waiting.acquire()
    assert (waiting.term, waiting.is_held(), clock.now_s) == (0, False, 5.0)


def test_the_lease_is_renewed_each_third_and_lost_without_the_database(engine: Engine, clock: Clock) -> None:
    own = lease(engine, clock, "one")
    assert own.acquire()
    clock.now_s = 9.0
    own.keep()
    clock.now_s = 31.0
    assert not own.is_held(), "9 s were too early for a renewal"
    own.keep()
    assert own.is_held()
    db.metadata.tables["leases"].drop(engine)
    clock.now_s = 50.0
    own.keep()
    assert own.is_held(), "a database that refuses is no other holder"
    clock.now_s = 62.0
    own.keep()
    assert not own.is_held()
