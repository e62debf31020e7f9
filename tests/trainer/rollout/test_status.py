"""The status that operators read, and what served at a time."""

import pytest
from sqlalchemy import Engine

from stream.errors import FencedError
from tests.trainer.rollout.world import LINEAGE, QUICK, GatedLineage, address
from trainer.rollout import changes
from trainer.rollout.status import serving_at, status
from trainer.versions.event_log import Event
from trainer.versions.registry import Rewind


@pytest.fixture
def lineage(engine: Engine) -> GatedLineage:
    return GatedLineage(engine)


def test_the_status_names_what_waits_and_who_is_behind(lineage: GatedLineage) -> None:
    lineage.publish(2)
    lineage.report("a:1", loaded={1: "ok", 2: "ok"})
    lineage.report("b:1", loaded={2: "ok"})
    lineage.report("c:1", loaded={1: "truncated"})
    found = status(lineage.store, lineage.engine, LINEAGE, 10)
    assert (found.mode, found.live, found.canary, found.lock, found.failed) == ("gated", 1, None, None, None)
    assert found.servers_behind == ("b:1", "c:1")
    assert found.waits_for == ("integrity", "golden")
    assert found.next == "holds: version 2 waits for integrity, golden: not loaded by c:1"
    assert found.gates[2]["shadow"].outcome == "pass"


def test_the_status_names_servers_that_may_still_serve_what_was_rolled_back(lineage: GatedLineage) -> None:
    """A server that is cut off from the database follows no rollback."""
    now_ms, fresh_ms = 1_000_000, 10_000
    lineage.report("cut:1", seen_ts=now_ms - fresh_ms - 1, loaded={1: "ok"})
    lineage.report("fresh:1", seen_ts=now_ms - fresh_ms, loaded={1: "ok"})
    lineage.report("drained:1", seen_ts=0, ready=False, loaded={1: "ok"})
    lineage.report("other:1", seen_ts=0, loaded={1: "ok"}, lineage="other")
    found = status(lineage.store, lineage.engine, LINEAGE, now_ms)
    assert (found.servers_behind, found.servers_silent) == ((), {"cut:1": now_ms - fresh_ms - 1})
    lineage.command("rollback", lambda view: changes.rollback(view, None, "wait", "test"))
    found = status(lineage.store, lineage.engine, LINEAGE, now_ms)
    assert (found.live, found.servers_silent) == (None, {"cut:1": now_ms - fresh_ms - 1})


def test_a_live_version_counts_as_failed_while_it_is_watched(engine: Engine) -> None:
    lineage = GatedLineage(engine, QUICK | {"watch_s": "10"})
    lineage.report("a:1", loaded={1: "5 bad outputs"})
    assert status(lineage.store, engine, LINEAGE, 10_001).failed == (
        "version 1: integrity: refused by every server, a:1: 5 bad outputs"
    )
    assert status(lineage.store, engine, LINEAGE, 10_002).failed is None


def test_a_rollback_that_nobody_released_counts_as_failed_and_no_freeze_by_hand_does(engine: Engine) -> None:
    lineage = GatedLineage(engine)

    def failed() -> str | None:
        return status(lineage.store, engine, LINEAGE, 10).failed

    text = "released by hand: version 1 was rolled back"
    lineage.command("freeze", lambda view: changes.freeze(view, text))
    assert failed() is None
    lineage.command("rollback", lambda view: changes.rollback(view, None, "wait", "test"))
    assert failed() == text
    lineage.command("rewind", lambda view: changes.rewind(view, "skip", "test"))
    lineage.command("kill", lambda view: changes.kill(view, "test"))
    assert failed() == text
    lineage.command("resume", lambda view: changes.resume(view, "test"))
    assert failed() is None
    lineage.command("freeze", lambda view: changes.freeze(view, text))
    assert failed() is None


def test_the_status_says_what_the_trainer_does_after_a_rollback(engine: Engine) -> None:
    lineage = GatedLineage(engine)

    def trainer() -> str | None:
        return status(lineage.store, engine, LINEAGE, 10).trainer

    assert trainer() is None
    lineage.command("rollback", lambda view: changes.rollback(view, None, "wait", "test"))
    assert trainer() == "waits before it goes back to fresh weights: rewind or resume says how"
    lineage.command("rewind", lambda view: changes.rewind(view, "skip", "test"))
    assert trainer() == "goes back to fresh weights (skip) when it starts"
    term = lineage.registry.leases.acquire(LINEAGE, "another", 10**16, 1)
    lineage.registry.record_rewound(LINEAGE, term, Rewind(to=0, mode="skip"), {}, 3)
    assert trainer() == "has gone back to fresh weights (skip) and has not published since"
    lineage.command("rewind", lambda view: changes.rewind(view, "replay", "test"))
    assert trainer() == "goes back to fresh weights (replay) when it starts"
    with pytest.raises(FencedError):
        lineage.registry.record_rewound(LINEAGE, term, Rewind(to=0, mode="replay"), {}, 4)
    term = lineage.registry.leases.acquire(LINEAGE, "another", 10**16, 1)
    lineage.registry.publish(LINEAGE, 2, address(2), parent=None, term=term, metrics={}, offsets={}, published_ts=5)
    assert trainer() is None


def event(number: int, after: dict[str, object] | None, version: int | None = None, to_status: str = "") -> Event:
    return Event(
        id=number,
        lineage=LINEAGE,
        version=version,
        from_status=None,
        to_status=to_status,
        actor="ada",
        command=None,
        request_id=None,
        why="",
        before=None,
        after=after,
        evidence={},
        event_ts=number,
    )


def test_what_served_follows_from_the_events() -> None:
    events = [
        event(1, None, 1, "live"),
        event(2, None, 1, "superseded"),
        event(3, {"versions": {"2": "live"}}),
        event(4, {"frozen": "why"}),
        event(5, {"versions": {"3": "canary"}}),
        event(6, {"versions": {"2": "rolled_back", "1": "live", "3": "quarantined"}}),
    ]
    seen = [serving_at(events[:n]) for n in range(len(events) + 1)]
    assert [found["live"] for found in seen] == [[], [1], [], [2], [2], [2], [1]]
    assert [found["canary"] for found in seen] == [[], [], [], [], [], [3], []]
