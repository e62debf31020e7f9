"""The queries of the evidence, on SQLite and PostgreSQL."""

import math

import pytest
from sqlalchemy import Engine

from abtest.experiment import Arm
from abtest.metrics import COLUMNS
from abtest.store import ExperimentStore
from tests.trainer.rollout.world import LINEAGE, GatedLineage
from trainer.rollout import changes, evidence
from trainer.rollout.gates import Loads
from trainer.rollout.judgement import Evidence
from trainer.rollout.policy import Policy
from trainer.rollout.slices import CANARY, CONTROL, LIVE
from trainer.rollout.states import Move
from trainer.versions.leases import CONTROLLER

POLICY = Policy(mode="gated", server_fresh_s=10)
NOW_MS = 1_000_000


@pytest.fixture
def lineage(engine: Engine) -> GatedLineage:
    return GatedLineage(engine)


def read(lineage: GatedLineage) -> Evidence:
    return evidence.read(lineage.engine, lineage.store.view(LINEAGE), POLICY, NOW_MS)


def start_canary(lineage: GatedLineage, number: int, at_ts: int) -> None:
    lineage.registry.leases.ensure(CONTROLLER)
    term = lineage.registry.leases.acquire(CONTROLLER, "test", 0, 1)
    move = Move(version=number, from_status="verified", to_status="canary", why="test", share=0.01)
    assert lineage.store.move(lineage.store.view(LINEAGE), move, POLICY, term=term, now_ms=at_ts)


def test_without_reports_facts_and_experiments_there_is_none(lineage: GatedLineage) -> None:
    assert read(lineage) == Evidence(loads={1: Loads()})


def test_reports_count_while_they_are_fresh_and_the_server_is_ready(lineage: GatedLineage) -> None:
    lineage.publish(2)
    lineage.report("a:1", seen_ts=NOW_MS - 10_000, loaded={1: "ok", 2: "ok"})
    lineage.report("b:1", seen_ts=NOW_MS - 10_001, loaded={1: "ok", 2: "ok"})
    lineage.report("c:1", seen_ts=NOW_MS, ready=False, loaded={1: "ok"})
    lineage.report("d:1", seen_ts=NOW_MS, loaded={1: "ok"})
    lineage.report("e:1", seen_ts=NOW_MS, loaded={1: "truncated", 2: "golden: 3e-2"})
    assert read(lineage).loads == {
        1: Loads(ok=("a:1", "d:1"), refused={"e:1": "truncated"}),
        2: Loads(ok=("a:1",), pending=("d:1",), refused={"e:1": "golden: 3e-2"}),
    }


def test_a_server_of_other_lineages_is_not_asked(lineage: GatedLineage) -> None:
    lineage.report("a:1", seen_ts=NOW_MS, loaded={1: "ok"})
    lineage.report("b:1", seen_ts=NOW_MS, loaded={1: "truncated"}, lineage="other")
    assert read(lineage).loads[1] == Loads(ok=("a:1",))


def test_counts_add_up_over_servers_old_reports_included(lineage: GatedLineage) -> None:
    lineage.publish(2)
    start_canary(lineage, 2, at_ts=500)
    counts = {"answered": 10, "fallbacks": {"slow": 1, "no_version": 2}, "bad": 1, "latency": {"0.01": 9, "inf": 1}}
    both = {f"{LINEAGE}/2/canary": counts, f"{LINEAGE}/1/live": counts, "other/2/canary": counts}
    lineage.report("a:1", seen_ts=NOW_MS, counts=both)
    lineage.report("b:1", seen_ts=600, counts={f"{LINEAGE}/2/canary": counts, f"{LINEAGE}/2/control": counts})
    lineage.report("c:1", seen_ts=400, counts={f"{LINEAGE}/2/canary": counts})
    found = read(lineage).slices
    assert set(found) == {(2, CANARY), (1, LIVE), (2, CONTROL)}
    canary = found[2, CANARY]
    assert (canary.answered, canary.fallbacks, canary.bad, canary.latency) == (20, 6, 2, {0.01: 18, math.inf: 2})
    assert found[1, LIVE].answered == 10


def test_facts_of_the_slices_since_the_canary_began(lineage: GatedLineage) -> None:
    lineage.search(CANARY, 2, at_ts=400)
    lineage.publish(2)
    start_canary(lineage, 2, at_ts=500)
    lineage.search(CANARY, 2, at_ts=500, clients=4)
    lineage.search(CANARY, 2, at_ts=501, clients=2)
    lineage.search(CANARY, 3, at_ts=502)
    lineage.search(CONTROL, 1, at_ts=503, clients=6)
    lineage.search(CONTROL, 7, at_ts=504)
    lineage.search(None, 1, at_ts=505)
    found = read(lineage).facts
    assert {part: moments.n for part, moments in found.items()} == {CANARY: 4, CONTROL: 6}
    total = dict(zip(COLUMNS, (found[CANARY].mean * 4).tolist(), strict=True))
    expected = {"sessions": 6, "items": 60, "clicks": 9, "orders": 3, "gross_minor": 300, "net_minor": 300}
    expected |= {"refund_minor": 0, "clicked_orders": 3, "clicked_gross_minor": 300}
    assert total == expected | {"fallbacks": 0, "timed_sessions": 0, "latency_us": 0}
    assert found[CANARY].covariance is not None


def test_lists_in_incoming_order_stay_in_the_slice_of_their_client(lineage: GatedLineage) -> None:
    lineage.publish(2)
    start_canary(lineage, 2, at_ts=500)
    lineage.search(CANARY, 2, at_ts=501, clients=4)
    lineage.search(CANARY, None, at_ts=502, clients=5)
    lineage.search(CONTROL, 1, at_ts=503, clients=6)
    lineage.search(CONTROL, None, at_ts=504, clients=7)
    assert {part: moments.n for part, moments in read(lineage).facts.items()} == {CANARY: 5, CONTROL: 7}


def test_without_a_live_version_the_control_slice_has_the_incoming_order(lineage: GatedLineage) -> None:
    lineage.publish(2)
    lineage.command("rollback", lambda view: changes.rollback(view, None, "wait", "x"))
    lineage.command("resume", lambda view: changes.resume(view, "x"))
    lineage.term = lineage.registry.leases.acquire(LINEAGE, "trainer", 3, 10**15)
    lineage.registry.publish(
        LINEAGE, 3, "c" * 64, parent=None, term=lineage.term, metrics={}, offsets={}, published_ts=3
    )
    lineage.registry.advance(LINEAGE, 3, lineage.term, to_status="verified", why="test", now_ms=3)
    start_canary(lineage, 3, at_ts=500)
    lineage.search(CONTROL, None, at_ts=501, clients=5)
    lineage.search(CONTROL, 1, at_ts=501)
    assert read(lineage).facts[CONTROL].n == 5


def test_the_share_of_buckets_is_that_of_running_experiments(lineage: GatedLineage, engine: Engine) -> None:
    experiments = ExperimentStore(engine)
    arms = [Arm(name="base", policy="incoming_order", is_control=True), Arm(name="new", lineage=LINEAGE)]
    experiments.create(key="first", arms=arms, now_ts=0, share=0.5, weights=[0.6, 0.4])
    assert read(lineage).bucket_share == pytest.approx(0.2)
    experiments.create(key="second", arms=arms, now_ts=0, layer="other", salt="other-1")
    assert read(lineage).bucket_share == pytest.approx(0.7)
    experiments.stop("first", now_ts=1)
    assert read(lineage).bucket_share == pytest.approx(0.5)
    experiments.stop("second", now_ts=1)
    assert read(lineage).bucket_share is None
