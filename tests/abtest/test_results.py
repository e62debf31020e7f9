import math

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


def test_an_arm_without_orders_has_no_decomposition(store_engine: Engine) -> None:
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=0)
    assert decomposition(report(store_engine, "first")) == ()
