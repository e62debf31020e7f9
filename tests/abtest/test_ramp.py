import pytest
from msgspec.structs import replace
from sqlalchemy import Engine

from abtest.plan import Plan
from abtest.ramp import ramp, write_health
from abtest.ramp_plan import RampPlan
from abtest.ramp_store import RampStore
from abtest.report import report
from abtest.store import ExperimentStore
from stream.errors import ConfigError
from tests.harness.generated_facts import ARMS, LAST_TS, append, fill, generate

pytestmark = pytest.mark.slow


def test_steps_up_to_all_clients(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    store.create(key="first", arms=ARMS, now_ts=0, share=0.1)
    shares = [ramp(store_engine, "first", None, now_ts=at, reason="ramp").coverage for at in (1, 2, 3)]
    assert shares == [0.25, 0.5, 1.0]
    with pytest.raises(ConfigError, match="all clients take part already"):
        ramp(store_engine, "first", None, now_ts=4, reason="ramp")


def test_a_blocked_check_freezes_the_share_but_lets_it_shrink(store_engine: Engine) -> None:
    sessions, _ = generate(seed=15, num_clients=400)
    of_control = [each for each in sessions if each.assignment[0].arm == ARMS[0].name or each.client_id < "c00100"]
    fill(store_engine, of_control, plan=Plan(min_buyers=20))
    RampStore(store_engine).set_share("first", 0.5, now_ts=LAST_TS + 1, reason="smaller", shrink=True)
    with pytest.raises(ConfigError, match=r"stays at 0\.5 of all clients, as a check is blocked: sample_ratio"):
        ramp(store_engine, "first", 1.0, now_ts=LAST_TS + 2, reason="ramp")
    assert ramp(store_engine, "first", 0.2, now_ts=LAST_TS + 2, reason="stop", shrink=True).coverage == 0.2


def test_facts_of_all_epochs_count_together(store_engine: Engine) -> None:
    sessions, _ = generate(seed=15, num_clients=400)
    fill(store_engine, sessions[: len(sessions) // 2], plan=Plan(min_buyers=20))
    before = report(store_engine, "first")
    RampStore(store_engine).set_share("first", 0.5, now_ts=LAST_TS + 1, reason="smaller", shrink=True)
    for session in sessions[len(sessions) // 2 :]:
        session.assignment = [replace(session.assignment[0], epoch=2)]
    append(store_engine, sessions[len(sessions) // 2 :], matured_ts=LAST_TS)
    after = report(store_engine, "first")
    assert sum(count.sessions for count in before.counts) < sum(count.sessions for count in after.counts)
    assert sum(count.sessions for count in after.counts) == len(sessions)
    assert "weights" not in after.verdict_reason


def test_a_small_share_that_rounds_the_weights_is_a_stratum(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=15, num_clients=40)[0], weights=(1 / 3, 2 / 3))
    assert not report(store_engine, "first").stratified
    RampStore(store_engine).set_share("first", 0.01, now_ts=LAST_TS + 1, reason="smaller", shrink=True)
    assert report(store_engine, "first").stratified


def test_the_health_of_planned_ramps_is_stored_with_the_time_of_its_data(store_engine: Engine) -> None:
    sessions, _ = generate(seed=15, num_clients=400)
    fill(store_engine, sessions, plan=Plan(min_buyers=20))
    store = RampStore(store_engine)
    assert write_health(store_engine) == 0
    store.set_share("first", 0.5, now_ts=LAST_TS + 1, reason="smaller", shrink=True)
    store.plan("first", RampPlan(steps=(0.6, 0.8), every_ms=1), now_ts=LAST_TS + 2, actor="ada")
    assert write_health(store_engine) == 1
    (planned,) = store.ramps()
    assert planned.as_of == LAST_TS + 7
    assert {check.check_name: check.status for check in planned.checks} == {
        "sample_ratio": "ok",
        "sample_ratio_sequential": "ok",
        "sample_ratio_assigned": "ok",
        "sample_ratio_analysed": "ok",
        "multi_arm": "ok",
        "unknown_arm": "ok",
        "epoch": "ok",
        "currency": "ok",
        "latency": "ok",
        "fallback_share": "undefined",
        "guardrail": "ok",
    }
