import pytest
from sqlalchemy import Engine

from abtest import render
from abtest.plan import Plan
from abtest.report import report
from abtest.results import decomposition
from abtest.store import ExperimentStore
from abtest.tables import results
from tests.harness.generated_facts import ARMS, LAST_TS, fill, generate

pytestmark = pytest.mark.slow


def test_strong_effect_on_the_primary_wins(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=2.0)[0])
    found = report(store_engine, "first")
    assert (found.verdict, found.result("cvr", "treatment").verdict) == ("win", "win")
    assert found.as_of == LAST_TS + 7
    assert not found.blocked
    (part,) = decomposition(found)
    assert part.gmv == pytest.approx(part.sessions + part.cvr + part.aov)


def test_loss_is_told(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=0.4)[0])
    assert report(store_engine, "first").verdict == "loss"


def test_sample_ratio_blocks_the_verdict(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=14, treatment=0.3, lift=3.0)[0])
    found = report(store_engine, "first")
    assert found.blocked
    assert (found.verdict, found.result("cvr", "treatment").verdict) == ("refused", "refused")
    assert "sample_ratio" in found.verdict_reason
    assert found.result("cvr", "treatment").p_fixed is not None


def test_more_looks_than_declared_refuse(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=2.0)[0])
    with store_engine.begin() as connection:
        connection.execute(
            results.insert().values(
                experiment="first",
                as_of=5,
                metric="cvr",
                arm="treatment",
                method="ratio",
                partial=False,
                n=1,
                n_control=1,
                spec_hash="",
            )
        )
    found = report(store_engine, "first")
    assert found.verdict == "refused"
    assert "look 2 of 1 declared" in found.verdict_reason


def test_no_declared_primary_gives_no_verdict(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=2.0)[0], plan=Plan(primary=None))
    found = report(store_engine, "first")
    assert (found.verdict, found.verdict_reason) == ("refused", "no primary metric was declared")


def test_underpowered_plan_says_so(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=16, num_clients=100)[0], plan=Plan(mde=0.01))
    found = report(store_engine, "first")
    assert any("power" in note and "overstate" in note for note in found.caveats)


def test_undefined_numbers_have_reasons(store_engine: Engine) -> None:
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=0)
    empty = report(store_engine, "first")
    assert empty.verdict == "refused"
    assert {entry.reason for entry in empty.results if entry.metric != "cvr"} == {"no_clients"}
    assert all(entry.p_fixed is None and entry.lift is None for entry in empty.results)
    assert "undefined (no_clients)" in render.report_markdown(empty)
    assert render.report_html(empty)
