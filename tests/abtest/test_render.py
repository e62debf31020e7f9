import pytest
from sqlalchemy import Engine

from abtest import render
from abtest.plan import Plan
from abtest.report import report
from tests.harness.generated_facts import fill, generate


@pytest.mark.slow
def test_a_verdict_that_is_open_names_its_date_and_the_missing_clients(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=19)[0], plan=Plan(looks=2, clients=600, min_buyers=20))
    found = report(store_engine, "first")
    assert render.verdict_line(found).startswith("keep running until 1970-01-02 (300 more clients)")
    assert "`shelfwise abtest decide first` takes one." in render.report_markdown(found)
