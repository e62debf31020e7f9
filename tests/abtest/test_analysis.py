import msgspec
import pytest
from sqlalchemy import Engine

from abtest import render
from abtest.experiment import Arm
from abtest.page import page_html
from abtest.plan import Plan
from abtest.report import decide, report
from abtest.results import decomposition
from abtest.store import ExperimentStore
from stream.schemas.session import Session
from tests.harness.generated_facts import ARMS, LAST_TS, fill, generate

pytestmark = pytest.mark.slow

FEW = Plan(min_buyers=20)


def test_a_strong_effect_on_the_primary_ships(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=2.0)[0], plan=FEW)
    found = decide(store_engine, "first")
    assert (found.verdict, found.result("cvr", "treatment").verdict) == ("ship", "ship")
    assert found.as_of == LAST_TS + 7
    assert not found.blocked
    (part,) = decomposition(found)
    assert part.gmv == pytest.approx(part.sessions + part.orders + part.aov)


def test_a_harmful_arm_does_not_ship(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=0.4)[0], plan=FEW)
    found = decide(store_engine, "first")
    assert found.verdict == "do not ship"
    assert "CVR is lower" in found.verdict_reason


def test_the_sample_ratio_prevents_a_look(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=14, treatment=0.3, lift=3.0)[0], plan=FEW)
    found = decide(store_engine, "first")
    assert found.blocked
    assert (found.verdict, found.result("cvr", "treatment").verdict, found.looks) == ("invalid", "invalid", ())
    assert "sample_ratio" in found.verdict_reason
    assert found.result("cvr", "treatment").p_fixed is not None


def test_no_declared_primary_gives_no_verdict(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=2.0)[0], plan=Plan(primary=None))
    found = decide(store_engine, "first")
    assert (found.verdict, found.verdict_reason) == ("invalid", "no primary metric was declared")
    assert render.verdict_line(found) == "invalid because no primary metric was declared"


def test_underpowered_plan_says_so(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=16, num_clients=100)[0], plan=Plan(mde=0.01))
    found = report(store_engine, "first")
    assert any("power" in note and "overstate" in note for note in found.caveats)


def test_undefined_numbers_have_reasons(store_engine: Engine) -> None:
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=0)
    empty = report(store_engine, "first")
    assert empty.verdict == "keep running"
    assert {entry.reason for entry in empty.results if entry.metric != "cvr"} == {"no_clients"}
    assert all(entry.p_fixed is None and entry.lift is None for entry in empty.results)
    assert "undefined (no_clients)" in render.report_markdown(empty)
    assert "No client was exposed yet" in page_html(empty)


def test_with_several_arms_levels_are_divided_and_sentences_name_the_arm(store_engine: Engine) -> None:
    arms = (*ARMS, Arm(name="third", lineage="din-1"))
    sessions = [session for seed, treated in ((41, "treatment"), (42, "third")) for session in renamed(seed, treated)]
    fill(store_engine, sessions, plan=FEW, arms=arms, weights=(0.5, 0.25, 0.25))
    found = report(store_engine, "first")
    alone = {entry.arm: entry for entry in found.results if entry.metric == "cvr"}
    assert "97.5 % confidence sequence" in render.table_columns(found)
    assert alone["third"].sentence.startswith("CVR, third: ")
    assert any("each at 0.05 / 2 (Bonferroni)" in note for note in found.caveats)


def renamed(seed: int, treated: str) -> list[Session]:
    """Return generated sessions with ids of their own and another name of the treated arm."""
    sessions, _ = generate(seed=seed, num_clients=200)
    for session in sessions:
        (entry,) = session.assignment
        arm = entry.arm if entry.arm == "control" else treated
        session.assignment[0] = msgspec.structs.replace(entry, arm=arm)
        session.client_id, session.query_id = f"{treated}-{session.client_id}", f"{treated}-{session.query_id}"
    return sessions
