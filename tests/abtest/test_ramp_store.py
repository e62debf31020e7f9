"""The store of ramps on SQLite and PostgreSQL: epochs, plans and their events in one transaction each."""

import numpy as np
import pytest
from sqlalchemy import Connection, Engine

from abtest.experiment import Arm
from abtest.ramp_plan import Decision, Ramp, RampPlan
from abtest.ramp_store import RampStore
from abtest.results import Check
from abtest.store import ExperimentStore
from stream.errors import ConfigError

ARMS = (Arm(name="control", lineage="prm-1", is_control=True), Arm(name="treatment", lineage="armmt-1"))
PLAN = RampPlan(steps=(0.1, 0.5), every_ms=1_000)
PASSED = (Check(check_name="sample_ratio", stat=1.0, p=0.5, status="ok", detail="as planned"),)


def unguarded(_connection: Connection) -> None:
    """Let each step pass."""


def planned(engine: Engine, *, share: float = 0.01) -> RampStore:
    """Return a store with the planned ramp of the experiment `first`."""
    ExperimentStore(engine).create(key="first", arms=ARMS, now_ts=1_000, share=share)
    store = RampStore(engine)
    store.plan("first", PLAN, now_ts=1_500, actor="ada")
    return store


def only(store: RampStore) -> Ramp:
    """Return the one planned ramp."""
    (found,) = store.ramps()
    return found


def step(store: RampStore, ramp: Ramp, share: float, now_ts: int) -> bool:
    return store.step(ramp, share, now_ts=now_ts, actor="controller, term 1", lineages={"prm-1": 3}, guard=unguarded)


def test_a_ramp_adds_clients_and_moves_none(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    former = store.create(key="first", arms=ARMS, now_ts=1_000, share=0.01, weights=(0.9, 0.1))
    for number, share in enumerate((0.05, 0.25, 1.0), start=2):
        opened = RampStore(store_engine).set_share("first", share, now_ts=1_000 * number, reason="ramp")
        assert (opened.number, opened.coverage, opened.end_ts) == (number, share, None)
        active = store.active("ranker")
        assert active is not None
        assert active.epoch == number
        assert np.array_equal(active.table[former.table >= 0], former.table[former.table >= 0])
        assert opened.dealt == tuple(np.bincount(active.table + 1, minlength=3)[1:])
        former = active
    assert [(e.start_ts, e.end_ts) for e in store.epochs("first")] == [
        (1_000, 2_000),
        (2_000, 3_000),
        (3_000, 4_000),
        (4_000, None),
    ]


def test_a_ramp_is_refused_by_name(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    store.create(key="first", arms=ARMS, now_ts=1_000, share=0.5)
    for share, named in ((0.5, "share = 0.5"), (0.2, "--shrink"), (1.5, "coverage = 1.5")):
        with pytest.raises(ConfigError, match=named):
            RampStore(store_engine).set_share("first", share, now_ts=2_000, reason="ramp")
    with pytest.raises(ConfigError, match="not before now"):
        RampStore(store_engine).set_share("first", 1.0, now_ts=1_000, reason="ramp")
    with pytest.raises(ConfigError, match="buckets, expected 10 or more"):
        RampStore(store_engine).set_share("first", 0.001, now_ts=2_000, reason="ramp", shrink=True)
    assert len(store.epochs("first")) == 1
    assert RampStore(store_engine).set_share("first", 0.2, now_ts=2_000, reason="too slow", shrink=True).coverage == 0.2
    store.stop("first", now_ts=3_000)
    with pytest.raises(ConfigError, match="is stopped"):
        RampStore(store_engine).set_share("first", 1.0, now_ts=4_000, reason="ramp")


def test_steps_of_a_plan_are_epochs_with_their_evidence(store_engine: Engine) -> None:
    store = planned(store_engine)
    assert store.write_health(only(store), PASSED, 2_500)
    seen = only(store)
    assert (seen.share, seen.next_share, seen.due_ts, seen.checks) == (0.01, 0.1, 2_000, PASSED)
    assert step(store, seen, 0.1, 2_600)
    after = only(store)
    assert (after.share, after.epoch, after.due_ts, after.checks, after.as_of) == (0.1, 2, 3_600, (), None)
    assert step(store, after, 0.5, 3_700)
    assert store.ramps() == []
    assert [e.coverage for e in ExperimentStore(store_engine).epochs("first")] == [0.01, 0.1, 0.5]
    events = store.events("first")
    assert [(e.event, e.actor, e.epoch, e.share) for e in events] == [
        ("planned", "ada", 1, 0.01),
        ("step", "controller, term 1", 2, 0.1),
        ("step", "controller, term 1", 3, 0.5),
        ("ended", "controller, term 1", 3, 0.5),
    ]
    assert events[1].evidence["checks"][0]["detail"] == "as planned"
    assert (events[1].evidence["as_of"], events[1].evidence["live"]) == (2_500, {"prm-1": 3})


def test_a_step_by_an_old_view_changes_nothing(store_engine: Engine) -> None:
    store = planned(store_engine)
    seen = only(store)
    store.write_health(seen, PASSED, 2_500)
    assert not step(store, seen, 0.1, 2_600)
    assert not store.write_health(seen, (), 2_600)
    newer = only(store)
    store.set_share("first", 0.05, now_ts=2_700, reason="by hand", actor="ada")
    assert not step(store, newer, 0.1, 2_800)
    replanned = only(store)
    store.plan("first", PLAN, now_ts=2_900, actor="ada")
    assert not step(store, replanned, 0.1, 3_000)
    assert only(store).share == 0.05


def test_a_refused_guard_leaves_no_trace(store_engine: Engine) -> None:
    store = planned(store_engine)

    def refuse(_connection: Connection) -> None:
        raise ConfigError("the lease was taken over")

    seen, frozen = only(store), Decision(held={"guardrail": "ctr"}, reason="frozen")
    with pytest.raises(ConfigError, match="taken over"):
        store.step(seen, 0.1, now_ts=2_600, actor="controller, term 1", lineages={}, guard=refuse)
    with pytest.raises(ConfigError, match="taken over"):
        store.hold(seen, frozen, now_ts=2_600, actor="controller, term 1", guard=refuse)
    assert only(store) == seen
    assert [event.event for event in store.events("first")] == ["planned"]


def test_a_freeze_and_its_end_are_events(store_engine: Engine) -> None:
    store = planned(store_engine)
    frozen = Decision(held={"guardrail": "ctr of treatment -3 % or less"}, reason="frozen")
    assert store.hold(only(store), frozen, now_ts=2_000, actor="controller, term 1", guard=unguarded)
    assert (only(store).held, only(store).held_since) == (frozen.held, 2_000)
    released = Decision(reason="all checks passed")
    assert store.hold(only(store), released, now_ts=2_500, actor="controller, term 1", guard=unguarded)
    assert (only(store).held, only(store).held_since) == ({}, None)
    assert [(event.event, event.why) for event in store.events("first")][1:] == [
        ("frozen", "guardrail"),
        ("resumed", "all checks passed"),
    ]


def test_a_smaller_share_ends_the_plan_and_a_larger_one_shortens_it(store_engine: Engine) -> None:
    store = planned(store_engine)
    store.set_share("first", 0.2, now_ts=2_000, reason="by hand", actor="ada")
    assert only(store).next_share == 0.5
    store.set_share("first", 0.1, now_ts=3_000, reason="trouble", actor="ada", shrink=True)
    assert store.ramps() == []
    assert [event.event for event in store.events("first")] == ["planned", "step", "step", "ended"]
    assert not store.end("first", now_ts=4_000, actor="ada", reason="again")


def test_a_plan_is_refused_by_name(store_engine: Engine) -> None:
    store = planned(store_engine, share=0.01)
    assert store.end("first", now_ts=1_600, actor="ada", reason="by hand")
    with pytest.raises(ConfigError, match="no step is above it"):
        store.plan("first", RampPlan(steps=(0.005, 0.01), every_ms=1), now_ts=2_000, actor="ada")
    ExperimentStore(store_engine).stop("first", now_ts=3_000)
    with pytest.raises(ConfigError, match="is stopped"):
        store.plan("first", PLAN, now_ts=4_000, actor="ada")


def test_the_ramp_of_a_stopped_experiment_is_over(store_engine: Engine) -> None:
    store = planned(store_engine)
    seen = only(store)
    ExperimentStore(store_engine).stop("first", now_ts=3_000)
    assert store.ramps() == []
    with pytest.raises(ConfigError, match="is stopped"):
        step(store, seen, 0.1, 4_000)
