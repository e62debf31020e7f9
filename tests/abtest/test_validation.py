import numpy as np
import pytest

from abtest.metrics import COLUMNS
from abtest.validation import client_sums, validate


def test_a_seed_repeats_its_runs() -> None:
    assert validate(3, runs=4, num_looks=2) == validate(3, runs=4, num_looks=2)


@pytest.mark.slow
def test_seven_looks_decide_no_more_often_than_alpha_allows() -> None:
    found = validate(5, runs=400, num_looks=7)
    # Four standard errors of a share of 5 % in 400 runs are 4.4 points; tested at alpha, each look would give 17 %.
    assert 0.006 < found.error < 0.094
    assert found.higher + found.lower + found.without_look <= found.runs
    assert found.sequence <= 0.05 * found.runs


def test_the_sums_of_clients_fit_together() -> None:
    sums = dict(zip(COLUMNS, client_sums(np.random.default_rng(1), 20_000, 0.08).T, strict=True))
    assert (sums["orders"] <= sums["sessions"]).all()
    assert ((sums["gross_minor"] > 0) == (sums["orders"] > 0)).all()
    assert (sums["net_minor"] == sums["gross_minor"] - sums["refund_minor"]).all()
    assert sums["orders"].sum() / sums["sessions"].sum() == pytest.approx(0.08, abs=0.004)
