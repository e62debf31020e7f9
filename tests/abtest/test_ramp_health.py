from dataclasses import replace

import pytest
from msgspec.structs import replace as struct_replace
from sqlalchemy import Engine

from abtest import ramp_health
from abtest.plan import Plan
from abtest.ramp_health import fallback_share, guardrail
from abtest.results import Check, Result
from abtest.store import ExperimentStore
from stream import db
from stream.schemas.session import Session
from tests.harness.generated_facts import ARMS, LAST_TS, fill, generate

RESULT = Result(metric="ctr", arm="treatment", method="ratio", n=900, n_control=900, mean=0.1, mean_control=0.11)


def checks_of(engine: Engine) -> dict[str, Check]:
    """Return the checks of the experiment `first` by name."""
    store = ExperimentStore(engine)
    with db.read(engine) as connection:
        found, as_of = ramp_health.read(connection, store.get("first"), store.epochs("first"))
    assert as_of == LAST_TS + 7
    return {check.check_name: check for check in found}


@pytest.mark.slow
def test_open_windows_count_and_a_sound_experiment_passes(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=15, num_clients=400)[0], matured_ts=1_010, plan=Plan(min_buyers=20))
    found = checks_of(store_engine)
    assert {check.status for check in found.values()} == {"ok"}
    assert found["sample_ratio"].p is not None


@pytest.mark.slow
def test_harm_is_found_by_name(store_engine: Engine) -> None:
    """An arm that falls back in every tenth list, and whose shoppers click a tenth as often."""
    sessions, _ = generate(seed=16, num_clients=600, lift=0.1)
    treated = [index for index, each in enumerate(sessions) if each.assignment[0].arm == ARMS[1].name]
    for index in treated[::10]:
        sessions[index] = _fallen_back(sessions[index])
    fill(store_engine, sessions, plan=Plan(min_buyers=10))
    found = checks_of(store_engine)
    assert {name for name, check in found.items() if check.status == "blocked"} == {"fallback_share", "guardrail"}
    assert "ctr of treatment -" in found["guardrail"].detail
    assert "sessions of this epoch in the incoming order" in found["fallback_share"].detail
    assert found["fallback_share"].stat == pytest.approx(0.1, abs=0.01)


def _fallen_back(session: Session) -> Session:
    return struct_replace(session, fallback="late")


@pytest.mark.parametrize(
    ("sessions", "fallbacks", "status"),
    [(99, 0, "undefined"), (100, 1, "ok"), (100, 2, "blocked"), (10_000, 100, "ok"), (10_000, 101, "blocked")],
)
def test_an_arm_may_fall_back_in_one_session_of_a_hundred(sessions: int, fallbacks: int, status: str) -> None:
    found = fallback_share({"a": (sessions, fallbacks), "b": (500, 0)}, ("a", "b"))
    assert found.status == status


def test_a_blocked_arm_wins_over_one_without_sessions() -> None:
    assert fallback_share({"a": (100, 50)}, ("a", "b")).status == "blocked"


@pytest.mark.parametrize(
    ("lo", "hi", "kind", "status"),
    [
        (-0.2, -0.01, "interval", "blocked"),
        (-0.2, 0.01, "interval", "ok"),
        (-0.2, -0.01, "outside", "ok"),
        (None, None, None, "ok"),
    ],
)
def test_only_a_certain_drop_is_harm(lo: float | None, hi: float | None, kind: str | None, status: str) -> None:
    assert guardrail([replace(RESULT, cs_lo=lo, cs_hi=hi, cs_kind=kind)]).status == status
