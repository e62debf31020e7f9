"""An assignment from its opening to its end: the check of the log, positions, pauses and back-steps of the reader."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from stream.agents import assignment as assignment_module
from stream.agents import log_check
from stream.agents.assignment import Assignment, Input
from stream.agents.log_check import LogFingerprint, LostRecordsError
from stream.join.engine import Join
from stream.join.settings import JoinSettings
from stream.schemas import topics

CLICKS: Input = (topics.CLICKS, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    topic: str
    partition: int
    offset: int
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"client"
    value: bytes | None = b"no event"
    headers: Sequence[tuple[str, bytes]] = ()


class _Log:
    """Check of a log that passes until it is told to fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[Mapping[int, LogFingerprint], Mapping[Input, int]]] = []
        self.failure: Exception | None = None

    async def check(self, fingerprints: Mapping[int, LogFingerprint], starts: Mapping[Input, int]) -> None:
        self.asked.append((fingerprints, starts))
        if self.failure is not None:
            raise self.failure


def _assignment(log: _Log, progress: dict[bytes, bytes] | None = None) -> Assignment:
    return Assignment(
        7,
        {3: ({}, {}, {} if progress is None else progress)},
        {CLICKS: 5, (topics.CLICKS, 4): 9},
        settings=JoinSettings(),
        num_partitions=12,
        check_log=log.check,
    )


async def _ends() -> Mapping[Input, int]:
    return {CLICKS: 9}


def _clicks(first: int, last: int) -> list[_Record]:
    return [_Record(topic=topics.CLICKS, partition=3, offset=offset) for offset in range(first, last + 1)]


def test_an_assignment_opens_after_the_check_of_what_it_has_merged() -> None:
    async def scenario() -> None:
        log, known = _Log(), {topics.CLICKS: (4, 1_700_000_000_000)}
        assignment = _assignment(log, {log_check.KEY: log_check.pack(known)})
        assert (assignment.is_open, assignment.is_closed) == (False, False)
        assert await assignment.open(_ends, num_failures=2)
        assert (assignment.is_open, assignment.is_closed) == (True, False)
        assert log.asked == [({3: known}, {CLICKS: 5})], "only the inputs of owned partitions"
        assert assignment.is_verified(2)
        assert not assignment.is_verified(3), "the broker was away since"

    asyncio.run(scenario())


def test_records_before_the_assignment_are_no_lag() -> None:
    async def scenario() -> None:
        assignment = _assignment(_Log())
        await assignment.open(_ends, num_failures=0)
        assert (assignment.position(CLICKS), assignment.lags()) == (5, {CLICKS: 4})
        assignment.acknowledge(*CLICKS, 7)
        assert (assignment.position(CLICKS), assignment.lags()) == (8, {CLICKS: 1})
        assignment.set_ends({CLICKS: 6})
        assert assignment.lags() == {CLICKS: 0}, "an end that is older than the position"

    asyncio.run(scenario())


def test_an_assignment_that_was_closed_meanwhile_does_not_open() -> None:
    async def scenario() -> None:
        assignment = _assignment(_Log())

        async def revoked() -> Mapping[Input, int]:
            assignment.close()
            return {CLICKS: 9}

        assert not await assignment.open(revoked, num_failures=0)
        assert (assignment.is_open, assignment.is_closed) == (False, True)

    asyncio.run(scenario())


def test_lost_records_keep_an_assignment_closed_and_unverified() -> None:
    async def scenario() -> None:
        log = _Log()
        log.failure = LostRecordsError("clicks-3 was read up to offset 5, but its log ends at 2")
        assignment = _assignment(log)
        with pytest.raises(LostRecordsError):
            await assignment.open(_ends, num_failures=0)
        assert not assignment.is_open
        assert not assignment.is_verified(0)

    asyncio.run(scenario())


def test_a_step_back_of_the_reader_demands_another_check() -> None:
    async def scenario() -> None:
        log = _Log()
        assignment = _assignment(log)
        await assignment.open(_ends, num_failures=0)
        assignment.apply(_clicks(5, 6))
        assignment.apply(_clicks(7, 8))
        assert assignment.is_verified(0)
        assignment.apply(_clicks(6, 8))
        assert not assignment.is_verified(0)
        await assignment.verify(0)
        assert assignment.is_verified(0)

    asyncio.run(scenario())


def test_a_step_back_during_a_check_demands_another_one() -> None:
    async def scenario() -> None:
        assignment: Assignment

        async def check(_fingerprints: object, _starts: object) -> None:
            if assignment.is_open:
                assignment.apply(_clicks(5, 6))

        assignment = Assignment(
            7, {3: ({}, {}, {})}, {CLICKS: 5}, settings=JoinSettings(), num_partitions=12, check_log=check
        )
        await assignment.open(_ends, num_failures=0)
        await assignment.verify(0)
        assert assignment.is_verified(0)
        await assignment.verify(0)
        assert not assignment.is_verified(0)

    asyncio.run(scenario())


def test_the_fingerprint_is_stored_with_the_progress_and_never_goes_back() -> None:
    assignment = _assignment(_Log())
    asyncio.run(assignment.open(_ends, num_failures=0))
    output = assignment.apply(_clicks(5, 6))
    newest = {topics.CLICKS: (6, 1_700_000_000_000)}
    assert log_check.unpack(output.progress[log_check.KEY]) == newest
    assert log_check.KEY not in assignment.apply(_clicks(5, 5)).progress


def test_a_pause_names_what_changes() -> None:
    assignment = _assignment(_Log())
    assert assignment.pause(3, frozenset({topics.CLICKS})) == ([CLICKS], [])
    assert assignment.pause(3, frozenset({topics.CLICKS})) == ([], [])
    assert assignment.is_paused(CLICKS)
    assert not assignment.is_paused((topics.CLICKS, 4))
    assert assignment.pause(3, frozenset({topics.IMPRESSIONS})) == ([(topics.IMPRESSIONS, 3)], [CLICKS])
    assert list(assignment.paused_topics()) == [frozenset({topics.IMPRESSIONS})]


def test_only_what_this_process_has_counted_is_reported() -> None:
    class Counts:
        gained = 0

        def count(self, counters: Mapping[str, int], seen: dict[str, int]) -> None:
            self.gained += counters["produced"] - seen.get("produced", 0)
            seen.update(counters)

    hot, warm, progress = dict[bytes, bytes](), dict[bytes, bytes](), dict[bytes, bytes]()

    def assigned(start: int) -> Assignment:
        assignment = Assignment(
            7,
            {3: (hot, warm, progress)},
            {CLICKS: start},
            settings=JoinSettings(),
            num_partitions=12,
            check_log=_Log().check,
        )
        asyncio.run(assignment.open(_ends, num_failures=0))
        return assignment

    first, counts = assigned(5), Counts()
    first.apply(_clicks(5, 6))
    first.report(counts)
    first.report(counts)
    assert counts.gained == 2
    second = assigned(7)
    second.apply(_clicks(7, 7))
    second.report(counts)
    assert counts.gained == 3


def test_heartbeats_go_on_while_joins_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    is_building, has_beaten = threading.Event(), threading.Event()

    def slow_join(*arguments: Any, **stores: Any) -> Join:
        is_building.set()
        assert has_beaten.wait(10), "the loop has waited for the join"
        return Join(*arguments, **stores)

    monkeypatch.setattr(assignment_module, "Join", slow_join)

    async def scenario() -> None:
        assignment = _assignment(_Log())
        opening = asyncio.create_task(assignment.open(_ends, num_failures=0))
        while not is_building.is_set():
            await asyncio.sleep(0)
        has_beaten.set()
        assert await opening
        assert assignment.joins.keys() == {3}

    asyncio.run(scenario())


def test_an_assignment_that_ends_while_joins_are_built_stays_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        assignment = _assignment(_Log())

        def revoked(*arguments: Any, **stores: Any) -> Join:
            assignment.close()
            return Join(*arguments, **stores)

        monkeypatch.setattr(assignment_module, "Join", revoked)
        assert not await assignment.open(_ends, num_failures=0)
        assert not assignment.is_open

    asyncio.run(scenario())
