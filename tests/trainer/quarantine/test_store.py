from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from stream import db
from stream.errors import ConfigError, FencedError, StoreError
from trainer.quarantine.ranges import LogRange, decided
from trainer.quarantine.store import Quarantine
from trainer.rollout import changes
from trainer.rollout.changes import Change
from trainer.rollout.states import LineageView
from trainer.rollout.status import status
from trainer.rollout.store import RolloutStore
from trainer.versions.event_log import Event
from trainer.versions.registry import Registry

FIRST = LogRange(
    from_ts=60_000,
    until_ts=120_000,
    from_cursors={"0": (5, 59_000), "1": (3, 58_000)},
    until_offsets={"0": 9, "1": 3},
    reasons=("click_rate", "loss"),
    numbers={"click_rate": {"value": 0.0, "expected": 0.05, "z": -9.0, "lists": 60.0, "since_ts": 60_000.0}},
    num_sessions=4,
)
SECOND = replace(FIRST, from_ts=120_000, until_ts=180_000, reasons=("hold",), numbers={})


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    found = db.create(f"sqlite:///{tmp_path}/test.db")
    db.metadata.create_all(found)
    registry = Registry(found)
    registry.ensure_lineage("prm", "prm", "tiny", "h")
    assert registry.leases.acquire("prm", "one", 0, 10) == 1
    return found


def drop(engine: Engine, number: int, request_id: str | None = None) -> Event:
    ranges = {each.number: each for each in Quarantine(engine).ranges("prm")}

    def decide(_view: LineageView) -> Change:
        return changes.decide_range(decided("prm", ranges, number), "dropped", "spam")

    return RolloutStore(engine).command("prm", "quarantine drop", decide, user="ada", request_id=request_id, now_ms=9)


def test_ranges_are_numbered_and_the_newest_is_open_until_the_trainer_goes_on(engine: Engine) -> None:
    quarantine = Quarantine(engine)
    quarantine.add("prm", 1, FIRST, 7)
    quarantine.add("prm", 1, SECOND, 8)
    first, second = quarantine.ranges("prm")
    assert (first.number, first.range, first.status, first.is_open, first.created_ts) == (
        1,
        FIRST,
        "quarantined",
        False,
        7,
    )
    assert (second.number, second.is_open) == (2, True)
    found = status(RolloutStore(engine), engine, "prm", 9)
    assert (found.breakers, found.quarantined) == (("hold",), (1, 2))
    for _ in range(2):
        quarantine.close("prm", 1, 240_000, 9)
    assert status(RolloutStore(engine), engine, "prm", 9).breakers == ()
    events = RolloutStore(engine).history("prm")
    assert [event.to_status for event in events] == ["breaker"] * 3, "a repeated close changes nothing"
    assert events[0].evidence["until_offsets"] == {"0": 9, "1": 3}
    assert [event.after for event in events] == [
        {"breakers": ["click_rate", "loss"]},
        {"breakers": ["hold"]},
        {"breakers": []},
    ]


def test_a_range_that_was_recorded_before_a_crash_is_not_recorded_again(engine: Engine) -> None:
    quarantine = Quarantine(engine)
    for _ in range(2):
        quarantine.add("prm", 1, FIRST, 7)
    drop(engine, 1)
    quarantine.add("prm", 1, FIRST, 8)
    (found,) = quarantine.ranges("prm")
    assert (found.status, found.is_open) == ("dropped", True)
    assert len(RolloutStore(engine).history("prm")) == 2


def test_a_stale_trainer_records_nothing(engine: Engine) -> None:
    Registry(engine).leases.acquire("prm", "two", 20, 10)
    with pytest.raises(FencedError):
        Quarantine(engine).add("prm", 1, FIRST, 7)
    with pytest.raises(FencedError):
        Quarantine(engine).close("prm", 1, 0, 7)
    assert not Quarantine(engine).ranges("prm")


def test_a_decision_is_one_event_and_a_repeat_changes_nothing(engine: Engine) -> None:
    Quarantine(engine).add("prm", 1, FIRST, 7)
    event = drop(engine, 1, "r1")
    assert (event.to_status, event.actor, event.why) == ("dropped", "ada", "spam")
    assert (event.before, event.after) == ({"ranges": {"1": "quarantined"}}, {"ranges": {"1": "dropped"}})
    assert drop(engine, 1, "r1").id == event.id
    with pytest.raises(ConfigError, match="it is dropped"):
        drop(engine, 1)


def test_of_two_decisions_that_saw_the_same_range_one_is_refused(engine: Engine) -> None:
    Quarantine(engine).add("prm", 1, FIRST, 7)
    (seen,) = Quarantine(engine).ranges("prm")
    drop(engine, 1)
    change = changes.decide_range(seen, "dropped", "late")
    with pytest.raises(StoreError, match="changed meanwhile"):
        RolloutStore(engine).command("prm", "quarantine drop", lambda _: change, user="bob", request_id=None, now_ms=9)
    assert len(RolloutStore(engine).history("prm")) == 2
