from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats

from abtest import group_sequential, looks, validation
from abtest.analysis import evaluate
from abtest.estimates import Estimate, Quotient, columns_of
from abtest.experiment import Epoch
from abtest.inference import compare
from abtest.metrics import COLUMNS, METRICS, Metric
from abtest.moments import Moments
from abtest.page import page_html
from abtest.plan import Plan
from abtest.queries import Facts, Sample
from abtest.strata import compared
from abtest.stratified import epoch_weights, stratified_pair

Clients = dict[int, NDArray[np.float64]]
EPOCHS = (
    Epoch(number=1, start_ts=0, end_ts=9, coverage=0.1, weights=(0.9, 0.1), dealt=(900, 100), sha256=""),
    Epoch(number=2, start_ts=9, end_ts=None, coverage=1.0, weights=(0.5, 0.5), dealt=(5_000, 5_000), sha256=""),
)


def clients(seed: int, sizes: dict[int, int], buyers: dict[int, float]) -> Clients:
    random = np.random.default_rng(seed)
    return {epoch: validation.client_sums(random, n, buyers[epoch]) for epoch, n in sizes.items()}


def by_epoch(found: Clients) -> dict[int, Moments]:
    return {epoch: Moments.of(vectors) for epoch, vectors in found.items()}


def pair_of(
    metric: Metric, control: dict[int, Moments], arm: dict[int, Moments], weights: dict[int, float]
) -> tuple[Estimate, Estimate]:
    return stratified_pair(columns_of(metric), control, arm, weights, is_money=metric.is_money)


BUYERS = {1: 0.2, 2: 0.1}
CONTROL, TREATED = clients(1, {1: 900, 2: 1_000}, BUYERS), clients(2, {1: 700, 2: 800}, BUYERS)
WEIGHTS = epoch_weights([by_epoch(CONTROL), by_epoch(TREATED)])


def column(found: Clients, name: str) -> NDArray[np.float64]:
    return np.concatenate([found[epoch][:, COLUMNS.index(name)] for epoch in (1, 2)])


def regression(values: NDArray[np.float64]) -> tuple[float, float]:
    """The weighted difference of the epochs, by least squares on a dummy of each cell with HC2 errors."""
    cells = np.concatenate(
        [np.repeat(each, len(part[each])) + at for at, part in ((0, CONTROL), (2, TREATED)) for each in (1, 2)]
    )
    fit = sm.OLS(values, np.equal.outer(cells, [1, 2, 3, 4]).astype(float)).fit(cov_type="HC2")
    tested = fit.t_test([[-WEIGHTS[1], -WEIGHTS[2], WEIGHTS[1], WEIGHTS[2]]])
    return float(tested.effect[0]), float(np.squeeze(tested.sd))


def test_a_mean_equals_least_squares_with_the_epochs_as_dummies() -> None:
    values = np.concatenate([column(CONTROL, "gross_minor"), column(TREATED, "gross_minor")])
    effect, se = regression(values)
    found = compare(*pair_of(METRICS["gmv"], by_epoch(CONTROL), by_epoch(TREATED), WEIGHTS))
    assert (found.diff, found.se) == pytest.approx((effect, se), rel=1e-9)


def test_a_ratio_equals_least_squares_on_its_linear_part() -> None:
    """The ratio of stratified means varies as the stratified mean of what each client adds to it."""
    ratios, parts = [], []
    for side in (CONTROL, TREATED):
        above, below = (
            sum(WEIGHTS[epoch] * side[epoch][:, COLUMNS.index(name)].mean() for epoch in (1, 2))
            for name in ("clicks", "items")
        )
        ratios.append(above / below)
        parts.append((column(side, "clicks") - above / below * column(side, "items")) / below)
    _, se = regression(np.concatenate(parts))
    found = compare(*pair_of(METRICS["ctr"], by_epoch(CONTROL), by_epoch(TREATED), WEIGHTS))
    assert (found.diff, found.se) == pytest.approx((ratios[1] - ratios[0], se), rel=1e-9)


def test_weights_are_the_shares_of_the_clients_of_all_arms() -> None:
    assert WEIGHTS == {1: 1_600 / 3_400, 2: 1_800 / 3_400}


@pytest.mark.parametrize("metric", ["ctr", "cvr", "gmv", "net_gmv", "aov", "sessions_per_client"])
def test_one_epoch_is_the_pooled_comparison(metric: str) -> None:
    base, arm = ({1: Moments.of(part[1])} for part in (CONTROL, TREATED))
    pooled = compare(*compared(facts(base, arm, stratified=False), METRICS[metric], "control", "treatment"))
    found = compare(*pair_of(METRICS[metric], base, arm, {1: 1.0}))
    assert (found.diff, found.se, found.df) == pytest.approx((pooled.diff, pooled.se, pooled.df), rel=1e-9)


def test_money_of_unequal_arms_has_one_spread_in_each_epoch() -> None:
    few = clients(3, {1: 90, 2: 900}, BUYERS)
    metric = METRICS["gmv"]
    own = [replace(metric, is_money=False), metric]
    plain, common = (compare(*pair_of(each, by_epoch(CONTROL), by_epoch(few), WEIGHTS)) for each in own)
    assert plain.diff == common.diff
    assert plain.se != pytest.approx(common.se, rel=1e-3)


def rate(n: int, share: float) -> Moments:
    """Return clients with one session each, of which a share has an order."""
    vectors = np.zeros((n, len(COLUMNS)))
    vectors[:, COLUMNS.index("sessions")] = vectors[:, COLUMNS.index("items")] = 1
    vectors[: round(n * share), [COLUMNS.index("orders"), COLUMNS.index("clicked_orders")]] = 1
    return Moments.of(vectors)


def facts(control: dict[int, Moments], treatment: dict[int, Moments], *, stratified: bool = True) -> Facts:
    samples = {
        arm: Sample(
            moments=sum(parts.values(), Moments.empty(len(COLUMNS))), by_epoch=parts, buyers=999, clicked_buyers=999
        )
        for arm, parts in (("control", control), ("treatment", treatment))
    }
    found = validation.facts_of(samples)
    exposed = tuple(
        validation.exposed_once(arm, part.n, epoch=epoch)
        for arm, sample in samples.items()
        for epoch, part in sample.by_epoch.items()
    )
    return replace(found, exposures=exposed, stratified=stratified)


SIMPSON = facts({1: rate(95_000, 0.05), 2: rate(50_000, 0.03)}, {1: rate(5_000, 0.052), 2: rate(50_000, 0.032)})


def test_pooling_would_turn_the_sign_and_strata_do_not() -> None:
    """Kohavi, Tang, Xu 2020: each epoch gains 0.2 points, while the pooled rates lose 0.93."""
    pooled = compare(*compared(replace(SIMPSON, stratified=False), METRICS["cvr"], "control", "treatment"))
    found = compare(*compared(SIMPSON, METRICS["cvr"], "control", "treatment"))
    assert pooled.diff == pytest.approx(-0.00929, abs=1e-5)
    assert found.diff == pytest.approx(0.002)
    expected = 0.25 * (0.05 * 0.95 / 95_000 + 0.052 * 0.948 / 5_000 + 0.03 * 0.97 / 50_000 + 0.032 * 0.968 / 50_000)
    assert found.se == pytest.approx(np.sqrt(expected), rel=1e-4)
    # Almost all of the arm's variance is that of the 5,000 clients of the first epoch.
    assert found.df is not None
    assert found.df < 20_000


def test_a_verdict_across_changed_shares_follows_the_strata() -> None:
    experiment = validation.experiment_of(Plan())
    epochs = (replace(EPOCHS[0], dealt=(950, 50)), EPOCHS[1])
    (look,) = looks.take(experiment, SIMPSON, 1, [])
    assert look.z > 0.0
    report = evaluate(experiment, epochs, SIMPSON, [look])
    assert report.verdict != "invalid"
    assert report.result("cvr", "treatment").diff == look.diff == pytest.approx(0.002)
    assert any("shares of the arms differ between epochs" in note for note in report.caveats)
    # Numerators and denominators of all epochs together do not belong to a weighted rate.
    assert "/ 55,000" not in page_html(report)


def test_after_weights_changed_each_look_is_tested_at_what_it_spends() -> None:
    """Bonferroni holds for any correlation; the recursion would give the second look a smaller boundary."""
    experiment = validation.experiment_of(Plan(looks=2, clients=300_000))
    early = facts({1: rate(45_000, 0.05)}, {1: rate(5_000, 0.05)})
    late = replace(
        facts({1: rate(45_000, 0.05), 2: rate(125_000, 0.04)}, {1: rate(5_000, 0.05), 2: rate(125_000, 0.04)})
    )
    first = looks.take(experiment, replace(early, reweighted=True), 1, [])
    (second,) = looks.take(experiment, replace(late, reweighted=True), 2, first)
    assert second.boundary == pytest.approx(stats.norm.isf((0.05 - first[0].spent) / 2))
    assert (first[0].p is None, second.p) == (False, None)
    (kept,) = looks.take(experiment, late, 2, looks.take(experiment, early, 1, []))
    assert kept.boundary is not None
    assert second.boundary is not None
    assert kept.boundary < second.boundary


def test_looks_hold_their_level_when_arms_become_unequal() -> None:
    """From 50/50 to 90/10 at a half, with seven looks by Bonferroni and by the recursion for constant shares."""
    random, paths, total = np.random.default_rng(2), 20_000, 14_000.0
    sums, sizes = np.zeros((2, 2, paths)), np.zeros((2, 2))
    by_spending, by_recursion = np.zeros(paths, bool), np.zeros(paths, bool)
    path, spent, information = group_sequential.Path(), 0.0, 0.0
    for look in range(1, 8):
        for epoch, treated in ((0, 0.5), (1, 0.1)):
            n = total / 7 if (look <= 3) == (epoch == 0) and look != 4 else total / 14 if look == 4 else 0.0
            for side, share in ((0, 1.0 - treated), (1, treated)):
                sums[epoch, side] += random.normal(0.0, np.sqrt(n * share), paths)
                sizes[epoch, side] += n * share
        used = sizes[:, 0] > 0
        weights = sizes[used].sum(axis=1) / sizes.sum()
        diff = sum(w * (s[1] / n[1] - s[0] / n[0]) for w, s, n in zip(weights, sums[used], sizes[used], strict=True))
        variance = float((weights**2 * (1.0 / sizes[used]).sum(axis=1)).sum())
        z = np.abs(diff / np.sqrt(variance))
        level = group_sequential.spent(0.05, look / 7)
        information = max(1.0 / variance, 1.001 * information)
        boundary = path.boundary(information, level)
        by_recursion |= z >= boundary
        by_spending |= z >= group_sequential.z_of(level - spent)
        if look < 7:
            path = path.passed(information, boundary, level)
        spent = level
    assert by_spending.mean() <= 0.05
    assert by_recursion.mean() > 0.055


def test_an_epoch_without_two_clients_of_each_arm_is_left_out_and_counted() -> None:
    found = facts({1: rate(950, 0.1), 2: rate(500, 0.1)}, {1: rate(1, 1.0), 2: rate(500, 0.2)})
    cvr = compared(found, METRICS["cvr"], "control", "treatment")
    assert [estimate.n for estimate in cvr] == [500, 500]
    report = evaluate(validation.experiment_of(Plan()), EPOCHS, found)
    assert any("951 clients are left out" in note for note in report.caveats)


def test_no_epoch_with_both_arms_is_undefined() -> None:
    found = facts({1: rate(900, 0.1)}, {2: rate(900, 0.1)})
    assert compare(*compared(found, METRICS["cvr"], "control", "treatment")).reason == "few_clients_by_epoch"
    nobody = facts({}, {})
    assert compare(*compared(nobody, METRICS["cvr"], "control", "treatment")).reason == "no_clients"


def test_no_order_leaves_aov_undefined() -> None:
    found = facts({1: rate(90, 0.0)}, {1: rate(90, 0.1)})
    assert compare(*compared(found, METRICS["aov"], "control", "treatment")).reason == "zero_denominator"


@pytest.mark.parametrize("scale", [1e-90, 1.0, 1e90])
def test_degrees_of_freedom_have_no_unit(scale: float) -> None:
    control, arm = (
        by_epoch({epoch: scale * each[:, :1] for epoch, each in part.items()}) for part in (CONTROL, TREATED)
    )
    found = stratified_pair(Quotient(0), control, arm, WEIGHTS, is_money=False)
    assert [each.df for each in found] == pytest.approx([1_894.0, 1_494.0], rel=0.01)
    assert compare(*found).p_fixed is not None


def test_moments_that_no_clients_have_give_no_number() -> None:
    broken = by_epoch(TREATED)
    broken[2] = Moments(n=9, mean=broken[2].mean, comoment=-broken[2].comoment)
    found = compare(*pair_of(METRICS["cvr"], by_epoch(CONTROL), broken, WEIGHTS))
    assert (found.p_fixed, found.lift, found.reason) == (None, None, "impossible_moments")
    assert epoch_weights([]) == {}
