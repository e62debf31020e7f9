"""A range of the quarantine that a user gives back: learned once, also after a crash, and forgotten by a step back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from stream import db
from stream.errors import StoreError
from stream.schemas.session import encode
from tests.trainer.harness import SETTINGS, Crash, PastList, make_loop
from tests.trainer.session_log import START_TS, LogRecord, broken_log, make_progress
from trainer.guard import Records
from trainer.loop import Loop
from trainer.pauses import Pauses
from trainer.quarantine.ranges import LogRange, QuarantinedRange, decided
from trainer.quarantine.store import Quarantine
from trainer.released import ReleasedRanges
from trainer.rollout import changes
from trainer.rollout.changes import Change
from trainer.rollout.states import LineageView
from trainer.rollout.store import RolloutStore
from trainer.versions.registry import Registry

NARROW = replace(SETTINGS, breaker_lists=20, breaker_windows=3)


def make_engine(folder: Path) -> Engine:
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    return engine


def give_back(engine: Engine, number: int) -> None:
    ranges = {each.number: each for each in Quarantine(engine).ranges("test")}

    def decide(_view: LineageView) -> Change:
        return changes.decide_range(decided("test", ranges, number), "released", "sound")

    RolloutStore(engine).command("test", "quarantine train", decide, user="ada", request_id=None, now_ms=1)


def statuses(engine: Engine) -> list[str]:
    return [each.status for each in Quarantine(engine).ranges("test")]


def go_on(loop: Loop, log: Sequence[LogRecord], second: int) -> None:
    """Let the watermark of every partition reach a time."""
    ends = {p: max(each.offset for each in log if each.partition == p) for p in range(3)}
    offsets = loop.start() if loop.progress.watermark_ts is None else {}
    first = {p: max(ends[p] + 1, offsets.get(p, 0)) for p in ends}
    watermark_ts = START_TS + second * 1_000
    loop.push([LogRecord(p, first[p] + second, encode(make_progress(p, watermark_ts))) for p in sorted(first)])


@pytest.mark.no_cover
def test_a_range_is_learned_once_after_a_crash_before_its_checkpoint(tmp_path: Path) -> None:
    log, engine, crashes = broken_log(), make_engine(tmp_path), False

    def failpoint(name: str) -> None:
        if crashes and name == "checkpoint.before_rename":
            raise Crash(name)

    loop = make_loop(tmp_path, engine, settings=NARROW, past=PastList(log), failpoint=failpoint)
    loop.start()
    # Up to the first boundary behind the fault: the breaker of the rarer label is still open.
    until = [each for each in log if each.offset < len(log)][: int(len(log) * 0.93)]
    loop.push(until)
    assert statuses(engine) == ["quarantined"] * len(statuses(engine))
    assert loop.guard.open
    before = dict(loop.learner.counters)
    give_back(engine, 1)
    crashes = True
    rest = log[len(until) :]
    with pytest.raises(Crash):
        loop.push(rest)
    assert statuses(engine)[0] == "released", "no checkpoint has learned it"
    crashes = False
    resumed = make_loop(tmp_path, engine, settings=NARROW, past=PastList(log))
    offsets = resumed.start()
    resumed.push([each for each in log if each.offset >= offsets[each.partition]])
    assert statuses(engine)[0] == "trained"
    assert not resumed.guard.open, "what the user gave back is usual"
    events = [event.to_status for event in RolloutStore(engine).history("test")]
    assert [events.count(word) for word in ("released", "trained")] == [1, 1]
    num_sessions = Quarantine(engine).ranges("test")[0].range.num_sessions
    trained = resumed.learner.counters["trained"] - before["trained"]
    again = make_loop(tmp_path, engine, settings=NARROW, past=PastList(log))
    go_on(again, log, 900)
    assert again.learner.counters == resumed.learner.counters, "a later boundary learns it no second time"
    assert 0 < num_sessions <= trained + len(again.learner.pending)


class Ranges:
    """Ranges of a lineage with its trainer's view of them."""

    def __init__(self, folder: Path, beginning: int = 0) -> None:
        self.engine = make_engine(folder)
        registry = Registry(self.engine)
        registry.ensure_lineage("test", "prm", "tiny", "h")
        self.quarantine = Quarantine(self.engine)
        self.records = Records(
            quarantine=self.quarantine,
            lineage="test",
            term=registry.leases.acquire("test", "one", 0, 10),
            now_ms=lambda: 5,
            pauses=Pauses(monotonic_s=lambda: 0.0, wait=lambda _: True, random=lambda: 0.0),
        )
        own = LogRange(
            from_ts=0,
            until_ts=60_000,
            from_cursors={"0": (5, 0), "1": (0, 0), "2": (0, 0)},
            until_offsets={"0": 25, "1": 0, "2": 0},
            reasons=("click_rate",),
            numbers={},
            num_sessions=20,
        )
        self.quarantine.add("test", 1, own, 1)
        self.released = ReleasedRanges(self.records, PastList(broken_log(), beginning))

    def due(self, boundary_ts: int = 60_000) -> list[QuarantinedRange]:
        return self.released.due(boundary_ts)


def test_a_range_is_due_from_its_end_on_and_until_it_is_learned(tmp_path: Path) -> None:
    own = Ranges(tmp_path)
    assert own.due() == []
    give_back(own.engine, 1)
    assert own.due(59_999) == []
    (due,) = own.due()
    (batch,) = own.released.sessions(due)
    assert [each.key.offset for each in batch.sessions] == sorted(each.key.offset for each in batch.sessions)
    assert not any(batch.held)
    assert (own.due(), own.released.learned, statuses(own.engine)) == ([], (1,), ["released"])
    own.released.mark()
    own.released.mark()
    assert statuses(own.engine) == ["trained"]
    earlier = ReleasedRanges(own.records, PastList(broken_log()))
    earlier.restore(())
    assert [each.number for each in earlier.due(60_000)] == [1], "this state has not learned it"
    earlier.restore((1,))
    assert earlier.due(60_000) == []


def test_a_range_that_retention_has_removed_is_lost(tmp_path: Path) -> None:
    own = Ranges(tmp_path, beginning=6)
    give_back(own.engine, 1)
    assert list(own.released.sessions(own.due()[0])) == []
    assert statuses(own.engine) == ["lost"]
    assert own.due() == []
    last = RolloutStore(own.engine).history("test")[-1]
    assert (last.to_status, last.why) == (
        "lost",
        "range 1: retention has removed offsets 5 to 5 of partition 0 of sessions",
    )


def test_without_a_database_nothing_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Ranges(tmp_path)

    def away(_own: Quarantine, _lineage: str) -> list[QuarantinedRange]:
        raise StoreError("away")

    monkeypatch.setattr(Quarantine, "ranges", away)
    assert own.due() == []
