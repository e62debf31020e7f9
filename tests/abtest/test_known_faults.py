"""Faults that other tools for experiments had in public; tests/README.md lists each with the test that would find it.

Here are those that no test of a module finds already.
"""

import gc
import time

import msgspec
import numpy as np
import pytest
from scipy import stats
from sqlalchemy import Engine, insert, select

from abtest import buckets, cuped, inference, looks, multiplicity, render, validation
from abtest.analysis import evaluate
from abtest.client_vectors import Counted, client_vectors
from abtest.estimates import Quotient, pair
from abtest.experiment import Arm
from abtest.facts import MAX_INTEGER
from abtest.metrics import COLUMNS, METRICS
from abtest.moments import Moments
from abtest.page import page_html
from abtest.plan import Plan
from abtest.tables import client_orders, session_facts
from stream import db
from tests.abtest.test_declared import EPOCHS
from tests.abtest.test_looks import facts, sample
from tests.harness.generated_facts import fill
from tests.harness.sessions import make_session, purchase

THREE = (*validation.ARMS, Arm(name="third", lineage="b"))


def test_holm_runs_no_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    def collect() -> None:
        raise AssertionError("a collection takes longer than a report")

    monkeypatch.setattr(gc, "collect", collect)
    assert multiplicity.holm([0.01, 0.04]) == [0.02, 0.04]


@pytest.mark.slow
def test_sums_beyond_64_bits_do_not_end_a_report(store_engine: Engine) -> None:
    """One producer of absurd amounts must not take the report of all clients down."""
    fill(store_engine, [make_session("q", "a", lines=[purchase("t", 1, MAX_INTEGER, event_ts=1_500)])])
    copies = 1_100
    with db.transaction(store_engine) as connection:
        for table, key in ((session_facts, "query_id"), (client_orders, "transaction_id")):
            row = dict(connection.execute(select(table)).mappings().one())
            connection.execute(insert(table), [{**row, key: f"copy{at}"} for at in range(copies)])
    with db.read(store_engine) as connection:
        found = client_vectors(connection, Counted(experiment="first", epochs=(1,), start_ts=0, until_ts=None))
    sums = dict(zip(COLUMNS, found["control"].vectors[0], strict=True))
    assert sums["gross_minor"] == sums["clicked_gross_minor"] == float(MAX_INTEGER) * (copies + 1)


def test_weights_that_a_slider_rounded_are_refused_and_rounding_of_floats_is_not() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        buckets.allocate("first", [0.3333, 0.3333, 0.3333], 1.0)
    assert buckets.dealt(buckets.allocate("first", [0.1 + 0.2, 0.7], 1.0), 2) == (3_000, 7_000)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_arms_are_even_inside_a_gradual_rollout(share: float) -> None:
    """One hash for taking part and for the arm would deal the small share to one arm."""
    table = buckets.allocate("first", [0.5, 0.5], share)
    arms = table[[buckets.bucket(f"client-{at}", "ranker-2026q1") for at in range(30_000)]]
    taking_part = arms[arms != buckets.UNASSIGNED]
    assert len(taking_part) == pytest.approx(30_000 * share, rel=0.15)
    assert stats.chisquare(np.bincount(taking_part, minlength=2)).pvalue > 0.001


def test_two_small_experiments_do_not_take_the_same_clients_first() -> None:
    first, second = (
        buckets.allocate(key, [0.5, 0.5], 0.1) != buckets.UNASSIGNED for key in ("experiment-a", "experiment-b")
    )
    # 100 of 10,000 buckets are expected in both, with a standard deviation of 9.
    assert 60 < int((first & second).sum()) < 140


def test_days_are_those_of_utc_whatever_the_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = render.moment(1_700_000_000_000)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert time.localtime(0).tm_hour != 0
        assert render.moment(1_700_000_000_000) == expected == "2023-11-14 22:13:20 UTC"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_identical_arms_without_an_outcome_have_a_page() -> None:
    nothing = np.zeros((50, len(COLUMNS)))
    nothing[:, [COLUMNS.index("sessions"), COLUMNS.index("items")]] = 1.0
    same = validation.sample_of(Moments.of(nothing), buyers=500)
    found = evaluate(
        validation.experiment_of(Plan(min_buyers=0)),
        EPOCHS,
        validation.facts_of(dict.fromkeys(("control", "treatment"), same)),
    )
    assert found.result("ctr", "treatment").reason == "zero_variance"
    assert "zero variance" in page_html(found)


def test_a_p_below_the_smallest_number_is_printed_as_a_bound() -> None:
    assert (render.p_value(0.0), render.p_value(1e-300)) == ("< 1e-300", "1.0e-300")


def test_each_of_several_arms_has_the_bounds_of_its_own_clients() -> None:
    experiment = validation.experiment_of(Plan(looks=2, clients=9_000), THREE)
    found = validation.facts_of(
        {"control": sample(1, 1_500, 0.08), "treatment": sample(2, 500, 0.08), "third": sample(3, 1_500, 0.09)}
    )
    for look in looks.take(experiment, found, 1, []):
        own = inference.compare(*pair(METRICS["cvr"], *(found.matured[arm].moments for arm in ("control", look.arm))))
        assert (look.n, look.se, look.diff) == (found.matured[look.arm].moments.n, own.se, own.diff)


def test_a_very_early_look_has_no_bounds_and_no_infinite_ones() -> None:
    (look,) = looks.take(validation.experiment_of(Plan(looks=5, clients=4_000_000)), facts(400), 1, [])
    assert (look.lo, look.hi, look.set_kind, look.verdict) == (None, None, "line", "keep running")
    assert b"nfinity" not in msgspec.json.encode(look)


def test_the_error_of_a_lift_by_cuped_holds_what_the_control_adds_to_both_parts() -> None:
    """The control moves the difference and the base: its clients weigh 1 + lift, less the adjustment."""
    random = np.random.default_rng(6)
    sides = []
    for n, lift in ((900, 0.0), (700, 0.8)):
        before = random.gamma(2.0, 1.0, n)
        sides.append(np.column_stack([before * (1.0 + lift) + random.gamma(1.0, 0.5, n), before]))
    found = cuped.compare(Moments.of(sides[0]), Moments.of(sides[1]), Quotient(0), Quotient(1))
    assert found is not None
    base, lift = sides[0][:, 0].mean(), found.lift.lift or 0.0
    assert lift > 0.5
    treated = (sides[1][:, 0] - found.theta * sides[1][:, 1]) / base
    control = (sides[0][:, 0] * (1.0 + lift) - found.theta * sides[0][:, 1]) / base
    expected = np.sqrt(treated.var(ddof=1) / 700 + control.var(ddof=1) / 900)
    assert found.lift.lift_se == pytest.approx(expected, rel=1e-9)
