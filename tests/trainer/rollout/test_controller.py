"""The controller on SQLite and PostgreSQL: it moves by evidence, holds without, and survives its own death."""

import logging
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, update

from stream import db
from stream.errors import FencedError, StoreError
from tests.trainer.rollout.world import LINEAGE, QUICK, GatedLineage
from trainer.rollout import changes, judgement
from trainer.rollout.changes import Change
from trainer.rollout.controller import LEASE_TTL_MS, Controller, as_evidence
from trainer.rollout.metrics import RolloutMetrics
from trainer.rollout.policy import Policy
from trainer.rollout.slices import CANARY, CONTROL
from trainer.rollout.states import MOVES, LineageView, Move, Verdict
from trainer.rollout.store import RolloutStore
from trainer.versions.event_log import Event
from trainer.versions.leases import CONTROLLER
from trainer.versions.tables import lineages

HOUR_MS = 3_600_000
START_MS = 10_000


class Clock:
    """Milliseconds that pass when told."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def lineage(engine: Engine) -> GatedLineage:
    return GatedLineage(engine)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def controller(lineage: GatedLineage, clock: Callable[[], int], holder: str = "one") -> Controller:
    metrics = RolloutMetrics(CollectorRegistry())
    return Controller(lineage.engine, lineage.store, holder=holder, now_ms=clock, metrics=metrics)


def steps(controlled: Controller, clock: Clock, num: int = 4, *, apart_ms: int = 2_000) -> int:
    """Take steps, and return the number of moves."""
    moves = 0
    for _ in range(num):
        moves += controlled.step()
        clock.now_ms += apart_ms
    return moves


def good_evidence(lineage: GatedLineage, number: int, clock: Clock, live: int | None = None) -> None:
    """Let servers load a version and answer in both slices, and clients search there."""
    loaded = dict.fromkeys(range(1, number + 1), "ok")
    lineage.report(loaded=loaded, counts=lineage.answers(number))
    lineage.search(CANARY, number, at_ts=clock.now_ms + HOUR_MS)
    lineage.search(CONTROL, live or number - 1, at_ts=clock.now_ms + HOUR_MS)


def test_a_good_version_goes_live_by_all_gates(lineage: GatedLineage, clock: Clock) -> None:
    lineage.publish(2)
    good_evidence(lineage, 2, clock)
    controlled = controller(lineage, clock)
    assert controlled.step() == 1
    canary = lineage.version(2)
    assert (canary.status, canary.canary_share, canary.canary_since) == ("canary", 0.01, START_MS)
    assert controlled.step() == 0
    clock.now_ms += 1_000
    assert controlled.step() == 1
    assert [lineage.status_of(number) for number in (1, 2)] == ["superseded", "live"]
    promoted = lineage.store.history(LINEAGE)[-1]
    assert (promoted.actor, promoted.why) == ("controller, term 1", "gates 1 to 7 passed")
    assert promoted.evidence["system"]["numbers"]["control_answered"] == 1_000


def test_a_bad_canary_is_rolled_back_and_its_trainer_fenced(lineage: GatedLineage, clock: Clock) -> None:
    lineage.publish(2)
    good_evidence(lineage, 2, clock)
    controlled = controller(lineage, clock)
    controlled.step()
    lineage.publish(3)
    lineage.report(loaded={1: "ok", 2: "ok"}, counts=lineage.answers(2, bad=100))
    assert controlled.step() == 1
    assert [lineage.status_of(number) for number in (1, 2, 3)] == ["live", "rolled_back", "quarantined"]
    view = lineage.store.view(LINEAGE)
    assert (view.rewind_to, view.lock) == (1, "frozen: released by hand: version 2 was rolled back")
    with pytest.raises(FencedError):
        lineage.publish(4)
    assert controlled.step() == 0


def test_a_version_that_fails_before_its_canary_is_rejected(lineage: GatedLineage, clock: Clock) -> None:
    lineage.publish(2, **{judgement.CORRELATION: 0.3})
    good_evidence(lineage, 2, clock)
    assert controller(lineage, clock).step() == 1
    assert lineage.status_of(2) == "rejected"
    assert "shadow: rank correlation 0.300" in lineage.store.history(LINEAGE)[-1].why


def test_a_rejection_may_send_the_trainer_back(lineage: GatedLineage, clock: Clock) -> None:
    lineage.command("policy", lambda view: changes.set_policy(view, {"on_rejection": "skip"}, "test"))
    lineage.publish(2, **{judgement.CORRELATION: -0.4})
    lineage.publish(3)
    good_evidence(lineage, 2, clock)
    assert controller(lineage, clock).step() == 1
    assert [lineage.status_of(number) for number in (1, 2, 3)] == ["live", "rejected", "quarantined"]
    view = lineage.store.view(LINEAGE)
    assert (view.rewind_to, view.rewind_mode, view.lock) == (1, "skip", None)
    assert not lineage.store.has_rewound(LINEAGE)
    with pytest.raises(FencedError):
        lineage.publish(4)


def test_numbers_that_json_cannot_hold_stop_no_move(lineage: GatedLineage) -> None:
    lineage.publish(2)
    unsound = Verdict(outcome="fail", reason="why", numbers={"ratio": math.inf, "other": math.nan, "third": 1.5})
    move = Move(version=2, from_status="verified", to_status="rejected", why="why")
    lineage.registry.leases.ensure(CONTROLLER)
    term = lineage.registry.leases.acquire(CONTROLLER, "test", 0, 1)
    view = lineage.store.view(LINEAGE)
    assert lineage.store.move(view, move, Policy(), term=term, now_ms=3, evidence=as_evidence({"calibration": unsound}))
    stored = lineage.store.history(LINEAGE)[-1].evidence["calibration"]
    assert stored["numbers"] == {"ratio": "inf", "other": "nan", "third": 1.5}


@pytest.mark.parametrize("silent", ["servers", "answers", "facts"])
def test_silence_holds_for_an_hour_and_then_the_data_decide(lineage: GatedLineage, clock: Clock, silent: str) -> None:
    """R10: no traffic, broker away, sink stopped, servers stale: nothing is promoted and nothing rolled back."""
    lineage.publish(2)
    good_evidence(lineage, 2, clock)
    controlled = controller(lineage, clock)
    controlled.step()
    loaded = {1: "ok", 2: "ok"}
    if silent == "servers":
        lineage.report(seen_ts=clock.now_ms, loaded=loaded, counts=lineage.answers(2))
        clock.now_ms += 11_000
    elif silent == "answers":
        lineage.report(loaded=loaded, counts=lineage.answers(2, answered=99))
    else:
        lineage.command("policy", lambda view: changes.set_policy(view, {"business_sessions": 500}, "test"))
    assert steps(controlled, clock, 60, apart_ms=60_000) == 0
    assert lineage.status_of(2) == "canary"
    lineage.report(loaded=loaded, counts=lineage.answers(2))
    for at in range(3):
        lineage.search(CANARY, 2, at_ts=clock.now_ms + at + 5)
        lineage.search(CONTROL, 1, at_ts=clock.now_ms + at + 5)
    assert controlled.step() == 1
    assert lineage.status_of(2) == "live"


@pytest.mark.parametrize(
    "decide",
    [
        lambda view: changes.freeze(view, "why"),
        lambda view: changes.kill(view, "why"),
        lambda view: changes.pin(view, None, "why"),
        lambda view: changes.set_policy(view, {"mode": "direct"}, "why"),
    ],
)
def test_a_locked_or_direct_lineage_is_left_alone(
    lineage: GatedLineage, clock: Clock, decide: Callable[[LineageView], Change]
) -> None:
    lineage.publish(2)
    good_evidence(lineage, 2, clock)
    lineage.command("test", decide)
    controlled = controller(lineage, clock)
    assert steps(controlled, clock) == 0
    assert lineage.status_of(2) == "verified"


def test_a_policy_of_another_release_stops_its_lineage_only(
    lineage: GatedLineage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    lineage.publish(2)
    good_evidence(lineage, 2, clock)
    lineage.registry.ensure_lineage("newer", "prm", "tiny", "h" * 64)
    with db.transaction(lineage.engine) as connection:
        connection.execute(update(lineages).where(lineages.c.name == "newer").values(policy={"moon": 1}))
    with caplog.at_level(logging.INFO):
        assert steps(controller(lineage, clock), clock, 2) == 2
    assert "lineage newer: flag: unknown key 'policy.moon'" in caplog.text
    assert caplog.text.count("policy.moon'") == 1


def test_a_second_controller_waits_for_the_lease(lineage: GatedLineage, clock: Clock) -> None:
    first, second = controller(lineage, clock), controller(lineage, clock, "two")
    first.step()
    clock.now_ms += LEASE_TTL_MS - 1
    with pytest.raises(FencedError, match="'one' holds the lease"):
        second.step()
    clock.now_ms += 1
    second.step()
    with pytest.raises(FencedError, match="term 1 has lost its lease"):
        first.step()


class Waits:
    """The waits of a loop that ends after so many; something happens before each."""

    def __init__(self, happenings: Iterator[Callable[[], None]]) -> None:
        self._happenings = happenings

    def __call__(self, seconds: float) -> bool:
        happening = next(self._happenings, None)
        if happening is not None:
            happening()
        return happening is None


def test_the_loop_outlives_a_database_that_fails_and_a_lease_that_is_lost(
    lineage: GatedLineage, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    controlled = controller(lineage, clock)
    reasons: list[str | None] = []

    def break_database() -> None:
        def refuse(_store: RolloutStore) -> list[str]:
            raise StoreError("connection refused")

        reasons.append(controlled.why_not_ready)

        monkeypatch.setattr(RolloutStore, "names", refuse)

    def repair_and_lose() -> None:
        monkeypatch.undo()
        reasons.append(controlled.why_not_ready)
        clock.now_ms += LEASE_TTL_MS
        controller(lineage, clock, "two").step()

    def expire() -> None:
        reasons.append(controlled.why_not_ready)
        clock.now_ms += LEASE_TTL_MS

    with caplog.at_level(logging.INFO):
        controlled.run(Waits(iter([break_database, repair_and_lose, expire])))
    refused = "the database does not answer, nothing is decided: connection refused"
    assert [*reasons, controlled.why_not_ready] == [None, refused, None, None]
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("controller: ")]
    assert [text.partition(":")[2].strip()[:30] for text in said] == [
        "in charge, term 1",
        "the database does not answer, ",
        "in charge, term 2",
        "another controller is at work:",
        "in charge, term 3",
    ]


def _controller_that_dies(url: str, now_ms: int, where: str, at_call: int) -> None:
    """Step until nothing moves any more; the process ends by SIGKILL at one call of a failpoint."""
    num_calls = 0

    def die(name: str) -> None:
        nonlocal num_calls
        num_calls += name == where
        if name == where and num_calls == at_call:
            os.kill(os.getpid(), signal.SIGKILL)

    engine, clock = db.create(url), Clock(now_ms)
    store = RolloutStore(engine, die)
    metrics = RolloutMetrics(CollectorRegistry())
    controlled = Controller(engine, store, holder=f"child at {now_ms}", now_ms=clock, metrics=metrics)
    while controlled.step():
        clock.now_ms += 2_000
    # The canary needs its second; without a move after that there is none.
    clock.now_ms += 2_000
    while controlled.step():
        clock.now_ms += 2_000
    engine.dispose()


def check_path(events: list[Event]) -> None:
    """Check that events form one path of the state machine: each starts where the last one ended, none is double."""
    statuses: dict[str, str | None] = {}
    for event in events:
        before, after = event.before or {}, event.after or {}
        for number, status in after.get("versions", {}).items():
            was = before["versions"][number]
            assert statuses.get(number) == was, f"event {event.id}: version {number} was {statuses.get(number)}"
            assert was is None or (was, status) in MOVES, f"event {event.id}"
            statuses[number] = status


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("where", ["before_move", "before_event", "after_event", "after_move"])
def test_r3_a_controller_killed_at_each_step_leaves_one_path(engine: Engine, where: str) -> None:
    """R3: kill -9 before and after move and event, time and again: no gap and no double in the events."""
    lineage = GatedLineage(engine, QUICK | {"on_rollback": "replay"})
    random = np.random.default_rng(5)
    fork = multiprocessing.get_context("fork")
    url = engine.url.render_as_string(hide_password=False)
    clock, deaths = Clock(), 0
    for number in range(2, 8):
        lineage.publish(number, **({judgement.CORRELATION: 0.3} if number == 4 else {}))
        if number == 4:
            lineage.report(loaded=dict.fromkeys(range(1, 5), "ok"))
        else:
            good_evidence(lineage, number, clock, live=3 if number == 5 else None)
        if number == 7:
            lineage.report(loaded=dict.fromkeys(range(1, 8), "ok"), counts=lineage.answers(7, bad=500))
        while True:
            engine.dispose()
            at_call = int(random.integers(1, 3))
            child = fork.Process(target=_controller_that_dies, args=(url, clock.now_ms, where, at_call))
            child.start()
            child.join(60)
            clock.now_ms += 2 * LEASE_TTL_MS
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL, f"at {number}"
            deaths += 1
            assert deaths < 100, "the controller gets no further"
    assert deaths >= 4
    events = lineage.store.history(LINEAGE)
    check_path(events)
    assert [lineage.status_of(number) for number in range(1, 8)] == [
        "superseded",
        "superseded",
        "superseded",
        "rejected",
        "superseded",
        "live",
        "rolled_back",
    ]
    moves = [(e.version, e.to_status) for e in events if e.actor.startswith("controller")]
    canaried = [(number, status) for number in (2, 3) for status in ("canary", "live")]
    assert moves == [
        *canaried,
        (4, "rejected"),
        *((number, status) for number in (5, 6) for status in ("canary", "live")),
        (7, "canary"),
        (7, "rolled_back"),
    ]
