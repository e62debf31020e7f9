import math
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from abtest.report import report
from abtest.results import decomposition
from abtest.store import ExperimentStore
from tests.harness.generated_facts import ARMS, fill, generate

pytestmark = pytest.mark.slow


def test_log_lifts_of_the_factors_add_up_to_that_of_gmv(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=2.0)[0])
    found = report(store_engine, "first")
    (part,) = decomposition(found)
    gmv = found.result("gmv", "treatment")
    assert gmv.mean is not None
    assert gmv.mean_control is not None
    assert part.gmv == pytest.approx(math.log(gmv.mean / gmv.mean_control))
    assert part.gmv == pytest.approx(part.sessions + part.orders + part.aov)
    # Amounts of opposite sign, and ones of which the quotient is no number, have no logarithm.
    for value in (-1.0, 1e308):
        other = replace(gmv, mean=value, mean_control=1e-10)
        odd = tuple(other if entry is gmv else entry for entry in found.results)
        assert decomposition(replace(found, results=odd)) == ()


def test_an_arm_without_orders_has_no_decomposition(store_engine: Engine) -> None:
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=0)
    assert decomposition(report(store_engine, "first")) == ()
