import numpy as np
import pytest

from abtest.metrics import COLUMNS
from abtest.validation import client_sums, validate


def test_a_seed_repeats_its_runs() -> None:
    assert validate(3, runs=4, num_looks=2) == validate(3, runs=4, num_looks=2)


def test_a_small_arm_with_few_buyers_takes_no_look() -> None:
    found = validate(3, runs=3, num_looks=1, weight=0.01)
    assert (found.without_look, found.error) == (3, 0.0)


def test_a_small_arm_with_enough_buyers_takes_one() -> None:
    assert validate(3, runs=2, num_looks=1, primary="aov", weight=0.1, clients=12_000).without_look == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"runs": 0}, "runs = 0: expected 1 or more"),
        ({"runs": -1}, "runs = -1"),
        ({"seed": -1}, "seed = -1: expected 0 or more"),
        ({"weight": 1.5}, "weights"),
        ({"weight": 0.0001}, "1 of 10000 buckets"),
        ({"buyers": 0.0}, "buyers = 0.0"),
        ({"lift": -0.1}, "lift = -0.1"),
        ({"lift": 0.1, "primary": "latency"}, "primary = 'latency': a lift is planted in ctr"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, float | str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        validate(**{"seed": 3, "runs": 1, "num_looks": 1, **options})  # type: ignore[arg-type]


@pytest.mark.slow
def test_seven_looks_decide_no_more_often_than_alpha_allows() -> None:
    found = validate(5, runs=200, num_looks=7)
    # Four standard errors of a share of 5 % in 200 runs are 6.2 points; tested at alpha, each look would give 17 %.
    assert 0.0 < found.error < 0.112
    assert found.higher + found.lower + found.without_look <= found.runs
    assert found.sequence <= 0.05 * found.runs


@pytest.mark.parametrize("primary", ["ctr", "cvr", "gmv", "aov"])
def test_confidence_sets_hold_a_planted_lift(primary: str) -> None:
    found = validate(6, runs=200, num_looks=1, primary=primary, clients=6_000, buyers=0.2, lift=0.1)
    # Four standard errors of a share of 95 % in 200 runs are 6.2 points.
    assert found.coverage is not None
    assert found.coverage > 0.888
    # Four standard errors of the power, at most.
    assert found.forecast is not None
    assert found.higher / found.runs == pytest.approx(found.forecast, abs=0.141)
    assert found.lower <= 2


def test_runs_without_a_look_have_no_coverage() -> None:
    assert validate(3, runs=1, num_looks=1, weight=0.01).coverage is None


def test_the_sums_of_clients_fit_together() -> None:
    sums = dict(zip(COLUMNS, client_sums(np.random.default_rng(1), 20_000, 0.08).T, strict=True))
    assert (sums["orders"] <= sums["sessions"]).all()
    assert ((sums["gross_minor"] > 0) == (sums["orders"] > 0)).all()
    assert (sums["net_minor"] == sums["gross_minor"] - sums["refund_minor"]).all()
    assert sums["orders"].sum() / sums["sessions"].sum() == pytest.approx(0.08, abs=0.004)
