from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from sqlalchemy import Engine, MetaData, Table, select

from abtest import looks, render, validation
from abtest.analysis import evaluate
from abtest.cuped import compare as by_cuped
from abtest.declared import adjusted, declared
from abtest.estimates import Quotient
from abtest.experiment import Epoch
from abtest.inference import compare
from abtest.metrics import COLUMNS, METRICS
from abtest.moments import Moments
from abtest.page import page_html
from abtest.plan import Plan
from abtest.queries import Facts, Sample
from abtest.report import decide, report
from abtest.strata import compared
from tests.harness.generated_facts import LAST_TS, fill
from tests.harness.sessions import make_session, purchase

EPOCHS = (Epoch(number=1, start_ts=0, end_ts=None, coverage=1.0, weights=(0.5, 0.5), dealt=(5_000, 5_000), sha256=""),)
PLAN = Plan(primary="gmv", cuped_days=14.0)
WIDTH = len(COLUMNS)


def clients(seed: int, n: int, lift: float = 0.0) -> NDArray[np.float64]:
    """Sums of clients with lasting habits, during and before (n, 2 * columns)."""
    random = np.random.default_rng(seed)
    habit = random.gamma(2.0, 0.5, n)
    halves = []
    for factor in (1.0 + lift, 1.0):
        sums = np.zeros((n, WIDTH))
        orders, sessions = random.poisson(2.0 * habit * factor), 1 + random.poisson(3.0, n)
        for name, values in (
            ("sessions", sessions),
            ("items", 10 * sessions),
            ("clicks", random.binomial(10 * sessions, np.minimum(0.9, 0.1 * habit))),
            ("orders", orders),
            ("clicked_orders", random.binomial(sessions, np.minimum(0.9, 0.2 * habit))),
            ("gross_minor", 1_000 * orders),
            ("net_minor", 900 * orders),
        ):
            sums[:, COLUMNS.index(name)] = values
        halves.append(sums)
    return np.hstack(halves)


def facts(parts: dict[str, dict[int, NDArray[np.float64]]], *, stratified: bool = False) -> Facts:
    samples = {}
    for arm, epochs in parts.items():
        by_epoch = {epoch: Moments.of(vectors) for epoch, vectors in epochs.items()}
        samples[arm] = Sample(
            moments=sum(by_epoch.values(), Moments.empty(2 * WIDTH)), by_epoch=by_epoch, buyers=500, clicked_buyers=500
        )
    return replace(validation.facts_of(samples), stratified=stratified)


CONTROL, TREATED = clients(1, 900), clients(2, 800, lift=0.1)
ONE = facts({"control": {1: CONTROL}, "treatment": {1: TREATED}})


def named(x: NDArray[np.float64], name: str, *, before: bool = False) -> NDArray[np.float64]:
    return x[:, COLUMNS.index(name) + (WIDTH if before else 0)]


def test_a_mean_is_near_the_regression_on_the_same_metric_before() -> None:
    found = adjusted(ONE, PLAN, METRICS["gmv"], "control", "treatment", alpha=0.05)
    assert found is not None
    both = np.vstack([CONTROL, TREATED])
    treated = np.repeat([0.0, 1.0], [len(CONTROL), len(TREATED)])
    design = np.column_stack([np.ones(len(both)), treated, named(both, "gross_minor", before=True)])
    fit = sm.OLS(named(both, "gross_minor"), design).fit(cov_type="HC1")
    assert found.lift.diff == pytest.approx(fit.params[1], rel=0.02)
    assert found.lift.se == pytest.approx(fit.bse[1], rel=0.01)
    assert found.variance_ratio < 0.8
    assert found.lift == declared(ONE, PLAN, METRICS["gmv"], "control", "treatment", alpha=0.05)


@pytest.mark.parametrize(
    ("metric", "during", "before"),
    [
        ("ctr", ("clicks", "items"), ("clicks", "items")),
        ("cvr", ("clicked_orders", "sessions"), ("clicked_orders", "sessions")),
        ("net_gmv", ("net_minor", None), ("gross_minor", None)),
    ],
)
def test_each_metric_is_adjusted_by_its_own_past(
    metric: str, during: tuple[str, str | None], before: tuple[str, str | None]
) -> None:
    """A refund can come after the exposure, so that money after refunds is adjusted by money before them."""

    def quotient(names: tuple[str, str | None], offset: int) -> Quotient:
        return Quotient(*(None if name is None else offset + COLUMNS.index(name) for name in names))  # type: ignore[arg-type]

    expected = by_cuped(Moments.of(CONTROL), Moments.of(TREATED), quotient(during, 0), quotient(before, WIDTH))
    assert adjusted(ONE, PLAN, METRICS[metric], "control", "treatment", alpha=0.05) == expected
    assert expected is not None
    assert expected.theta != 0.0


def test_strata_equal_the_adjusted_clients_of_each_epoch() -> None:
    parts = {
        "control": {1: clients(3, 900), 2: clients(4, 300)},
        "treatment": {1: clients(5, 100, 0.1), 2: clients(6, 900, 0.1)},
    }
    found = adjusted(
        facts(parts, stratified=True), PLAN, METRICS["orders_per_client"], "control", "treatment", alpha=0.05
    )
    assert found is not None
    weights = {1: 1_000 / 2_200, 2: 1_200 / 2_200}
    diff = variance = 0.0
    for epoch, weight in weights.items():
        sides = [
            named(parts[arm][epoch], "orders") - found.theta * named(parts[arm][epoch], "orders", before=True)
            for arm in ("control", "treatment")
        ]
        diff += weight * (sides[1].mean() - sides[0].mean())
        variance += weight**2 * sum(side.var(ddof=1) / len(side) for side in sides)
    assert (found.lift.diff, found.lift.se) == pytest.approx((diff, np.sqrt(variance)), rel=1e-9)
    assert found.variance_ratio < 0.9


def test_without_the_declaration_and_for_unequal_money_the_comparison_is_plain() -> None:
    plain = compare(*compared(ONE, METRICS["gmv"], "control", "treatment"))
    assert declared(ONE, Plan(primary="gmv"), METRICS["gmv"], "control", "treatment", alpha=0.05) == plain
    unequal = facts({"control": {1: clients(7, 900)}, "treatment": {1: clients(8, 100)}})
    assert adjusted(unequal, PLAN, METRICS["gmv"], "control", "treatment", alpha=0.05) is None
    assert adjusted(unequal, PLAN, METRICS["cvr"], "control", "treatment", alpha=0.05) is not None
    assert adjusted(ONE, PLAN, METRICS["latency"], "control", "treatment", alpha=0.05) is None
    strangers = facts({"control": {1: CONTROL}, "treatment": {2: TREATED}}, stratified=True)
    assert adjusted(strangers, PLAN, METRICS["gmv"], "control", "treatment", alpha=0.05) is None


def test_a_look_decides_by_what_the_plan_declares_and_reports_show_both() -> None:
    experiment = validation.experiment_of(PLAN)
    (look,) = looks.take(experiment, ONE, 1, [])
    found = adjusted(ONE, PLAN, METRICS["gmv"], "control", "treatment", alpha=0.05)
    assert found is not None
    assert (look.diff, look.se, look.lo, look.hi) == pytest.approx(
        (found.lift.diff, found.lift.se, found.lift.lo, found.lift.hi)
    )
    assert look.reason.startswith("GMV by CUPED is higher")
    (plain,) = looks.take(validation.experiment_of(Plan(primary="gmv")), ONE, 1, [])
    assert (plain.diff, plain.reason[:6]) != (look.diff, look.reason[:6])
    shown = evaluate(experiment, EPOCHS, ONE, [look])
    assert shown.result("gmv", "treatment").diff == plain.diff
    (adjusted_gmv,) = (entry for entry in shown.adjusted if entry.metric == "gmv")
    assert adjusted_gmv.diff == look.diff
    # The sequence of the adjusted difference is the narrower one.
    assert adjusted_gmv.cs_lo is not None
    assert adjusted_gmv.cs_hi is not None
    wide = shown.result("gmv", "treatment")
    assert adjusted_gmv.cs_hi - adjusted_gmv.cs_lo < (wide.cs_hi or 0.0) - (wide.cs_lo or 0.0)
    page, markdown = page_html(shown), render.report_markdown(shown)
    assert "Lifts by CUPED" in markdown
    for written in (page, markdown):
        assert f"{adjusted_gmv.lift:+.2%}" in written
        assert f"{wide.lift:+.2%}" in written
    # Beside the plain lift, in its row.
    assert (
        f"by CUPED {adjusted_gmv.lift:+.2%}; {render.interval(adjusted_gmv.cs_lo, adjusted_gmv.cs_hi, 'interval')}"
        in page
    )
    assert page.count(' cuped" viewBox') == sum(entry.cs_kind is not None for entry in shown.adjusted) > 3
    assert "by CUPED on 14 days before" in page
    without = evaluate(validation.experiment_of(Plan()), EPOCHS, ONE)
    assert without.adjusted == ()
    assert "CUPED" not in page_html(without)


@pytest.mark.slow
def test_the_past_of_clients_is_read_from_facts_of_no_experiment(store_engine: Engine) -> None:
    random = np.random.default_rng(3)
    day_ms, sessions = 86_400_000, []
    for at in range(300):
        client, arm, habit = f"c{at}", "treatment" if at % 2 else "control", at // 2 % 3
        for number in range(habit):
            lines = [purchase(f"b{at}-{number}", 0, 1_000, event_ts=day_ms)]
            sessions.append(make_session(f"b{at}-{number}", client, arm=None, impression_ts=day_ms, lines=lines))
        lines = [purchase(f"t{at}", 0, 900 * (1 + habit) + int(random.integers(200)), event_ts=4 * day_ms + 9)]
        sessions.append(make_session(f"q{at}", client, arm=arm, impression_ts=4 * day_ms, lines=lines))
    plan = Plan(primary="gmv", cuped_days=7.0, min_buyers=20)
    fill(store_engine, sessions, matured_ts=LAST_TS + 4 * day_ms, plan=plan)
    found = report(store_engine, "first")
    (gmv,) = (entry for entry in found.adjusted if entry.metric == "gmv")
    assert gmv.variance_ratio < 0.05
    with store_engine.connect() as connection:
        latest = Table("v_lift_latest", MetaData(), autoload_with=connection)
        kept = connection.execute(select(latest)).mappings().all()
    rows = {(row["metric"], row["arm"]): row for row in kept}
    row, plain = rows["gmv", "treatment"], found.result("gmv", "treatment")
    assert (row["lift"], row["cs_lo"], row["cs_hi"]) == (plain.lift, plain.cs_lo, plain.cs_hi)
    assert (row["cuped_lift"], row["cuped_cs_lo"], row["cuped_cs_hi"]) == (gmv.lift, gmv.cs_lo, gmv.cs_hi)
    assert (row["cuped_variance_ratio"], rows["gmv", "control"]["cuped_lift"]) == (gmv.variance_ratio, None)
    assert rows["latency", "treatment"]["cuped_lift"] is None
    (look,) = decide(store_engine, "first").looks
    assert look.se == gmv.se
