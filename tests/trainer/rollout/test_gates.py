"""Each gate passes, fails and waits; its formula is held against SciPy or a simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from abtest.metrics import COLUMNS
from abtest.moments import Moments
from trainer.rollout import gates
from trainer.rollout.gates import Interval, LabelCounts, Loads, Prequential, Shadow, SliceCounts
from trainer.rollout.policy import Policy

POLICY = Policy(mode="gated")
OK = Loads(ok=("a:1", "b:1"))


@pytest.mark.parametrize(
    ("loads", "outcome", "reason"),
    [
        (OK, "pass", ""),
        (Loads(), "wait", "no server reports"),
        (Loads(ok=("a:1",), pending=("b:1",)), "wait", "not loaded by b:1"),
        (Loads(ok=("a:1",), refused={"b:1": "sha256 differs"}), "wait", "refused by a server, b:1: sha256 differs"),
        (Loads(pending=("a:1",), refused={"b:1": "sha256 differs"}), "wait", "refused by a server"),
        (Loads(refused={"b:1": "sha256 differs"}), "fail", "refused by every server, b:1: sha256 differs"),
    ],
)
def test_integrity_follows_the_servers(loads: Loads, outcome: str, reason: str) -> None:
    found = gates.integrity(loads, None, [], POLICY)
    assert found.outcome == outcome
    assert found.reason.startswith(reason)


def test_golden_and_integrity_each_fail_for_their_own_reason() -> None:
    loads = Loads(refused={"a:1": "golden: 3e-2 from the trainer's scores", "b:1": "golden: 3e-2"})
    assert gates.golden(loads).outcome == "fail"
    assert gates.integrity(loads, None, [], POLICY).outcome == "wait"
    damaged = Loads(refused={"a:1": "truncated"})
    assert gates.integrity(damaged, None, [], POLICY).outcome == "fail"
    assert gates.golden(damaged).outcome == "wait"
    both = Loads(refused={"a:1": "truncated", "b:1": "golden: 3e-2"})
    assert {gates.golden(both).outcome, gates.integrity(both, None, [], POLICY).outcome} == {"wait"}
    assert gates.golden(OK).outcome == "pass"


def test_the_norm_is_held_against_its_history() -> None:
    history = np.random.default_rng(3).normal(0.2, 0.05, size=30).tolist()
    for change in (0.2, 0.45, 0.55, -0.2):
        sigma = abs(change - np.mean(history)) / stats.tstd(history)
        found = gates.integrity(OK, change, history, POLICY)
        assert found.numbers["norm_sigma"] == pytest.approx(sigma)
        assert (found.outcome == "fail") == (sigma > 6.0)


@pytest.mark.parametrize("change", [math.nan, math.inf])
@pytest.mark.parametrize("num_former", [0, 30])
def test_a_norm_that_is_not_finite_fails(change: float, num_former: int) -> None:
    assert gates.integrity(OK, change, [0.1 * n for n in range(num_former)], POLICY).outcome == "fail"


def test_a_constant_history_allows_no_change_and_a_short_one_all() -> None:
    assert gates.integrity(OK, 0.1, [0.1] * 5, POLICY).outcome == "pass"
    assert gates.integrity(OK, 0.2, [0.1] * 5, POLICY).outcome == "fail"
    assert gates.integrity(OK, 99.0, [0.1] * 4, POLICY).outcome == "pass"


def interval(mean: float, width: float = 0.001) -> Interval:
    return Interval(mean=mean, low=mean - width, high=mean + width)


@pytest.mark.parametrize(
    ("num_lists", "loss", "lead", "outcome", "reason"),
    [
        (1_000, interval(0.0), interval(0.02), "pass", ""),
        (1_000, None, interval(0.02), "pass", ""),
        (999, interval(0.5), interval(-0.5), "wait", "999 of 1000 lists"),
        (1_000, interval(0.0039), interval(0.02), "pass", ""),
        (1_000, interval(0.0045), interval(0.02), "wait", "log loss above the live version's by more than 0.005"),
        (1_000, interval(0.0065), interval(0.02), "fail", "log loss above the live version's, by more than 0.005"),
        (1_000, interval(-0.2), interval(0.0005), "wait", "ranks behind the incoming order"),
        (1_000, interval(-0.2), interval(-0.02), "fail", "ranks behind the incoming order, by more than 0"),
        (1_000, interval(math.nan), interval(0.02), "fail", "log loss"),
        (1_000, None, interval(math.nan), "fail", "ranks behind"),
    ],
)
def test_prequential(num_lists: int, loss: Interval | None, lead: Interval, outcome: str, reason: str) -> None:
    found = gates.prequential(Prequential(num_lists=num_lists, loss=loss, lead=lead), POLICY)
    assert found.outcome == outcome
    assert found.reason.startswith(reason)
    assert found.numbers["lead"] == pytest.approx(lead.mean, nan_ok=True)


def test_without_a_comparison_gates_3_and_5_wait() -> None:
    assert gates.prequential(None, POLICY).outcome == "wait"
    assert gates.shadow(None, [], POLICY, has_live=True).outcome == "wait"
    assert gates.shadow(None, [], POLICY, has_live=False).outcome == "pass"


def counts(predicted: float, observed: float, category: str = "") -> LabelCounts:
    return LabelCounts(category=category, predicted=predicted, observed=observed)


@pytest.mark.parametrize("observed", [400, 1_000, 20_000])
def test_calibration_fails_where_a_poisson_count_cannot_explain_it(observed: int) -> None:
    """The limits agree with SciPy's exact interval of a Poisson count to a fraction of a per cent."""
    low = stats.chi2.ppf(0.025, 2 * observed) / 2
    high = stats.chi2.ppf(0.975, 2 * (observed + 1)) / 2
    for limit, bound in ((1.1, high), (0.9, low)):
        edge = limit * float(bound)
        inside, outside = (edge * (1.0 + sign * 0.004 * math.copysign(1.0, limit - 1.0)) for sign in (-1, 1))
        assert gates.calibration([counts(inside, observed)], POLICY).outcome == "wait"
        assert gates.calibration([counts(outside, observed)], POLICY).outcome == "fail"
    assert gates.calibration([counts(1.09 * observed, observed)], POLICY).outcome == "pass"


def test_calibration_waits_for_labels_and_looks_into_categories() -> None:
    assert gates.calibration([], POLICY).reason == "0 of 400 labels"
    assert gates.calibration([], POLICY, has_head=False).outcome == "pass"
    assert gates.calibration([counts(900, 399)], POLICY).outcome == "wait"
    good = counts(5_000, 5_000)
    found = gates.calibration([good, counts(700, 400, "shoes"), counts(90, 30, "hats")], POLICY)
    assert found.outcome == "fail"
    assert "1.750 in shoes" in found.reason
    assert set(found.numbers) == {"ratio", "ratio:shoes"}
    assert gates.calibration([good, counts(90, 30, "hats")], POLICY).outcome == "pass"
    assert gates.calibration([counts(math.nan, 5_000)], POLICY).outcome == "fail"


def test_calibrated_categories_seldom_fail() -> None:
    """Eleven calibrated ratios of 400 labels each: the interval is shared among them."""
    rng = np.random.default_rng(11)
    failed = sum(
        gates.calibration(
            [counts(440.0, float(n), name) for name, n in zip(["", *"abcdefghij"], rng.poisson(400, 11), strict=True)],
            replace(POLICY, calibration_labels=1),
        ).outcome
        == "fail"
        for _ in range(400)
    )
    assert failed <= stats.binom.ppf(0.999, 400, 0.05)


def change(correlation: float, churn: float, num_lists: int = 1_000) -> Shadow:
    return Shadow(num_lists=num_lists, correlation=correlation, churn=churn)


# As measured between successive versions of two lineages: of a demo, whose orders move at each version, and of one
# that has settled.
YOUNG = [change(0.95, 0.41), change(0.89, 0.47), change(0.97, 0.28), change(0.96, 0.31), change(0.9, 0.48)]
SETTLED = [change(0.97, 0.05), change(0.98, 0.04), change(0.97, 0.06), change(0.98, 0.05), change(0.97, 0.04)]


@pytest.mark.parametrize("correlation", [0.99, 0.87, 0.83, 0.71, 0.5])
def test_a_lineage_without_a_history_may_move_its_orders(correlation: float) -> None:
    for former in ([], YOUNG[:4]):
        assert gates.shadow(change(correlation, 0.57), former, POLICY, has_live=True).outcome == "pass"


@pytest.mark.parametrize("former", [[], YOUNG[:4], YOUNG, SETTLED, [change(0.5, 1.0), *YOUNG]])
@pytest.mark.parametrize("correlation", [0.49, 0.37, 0.0, -0.37, -1.0, math.nan])
def test_an_order_that_is_random_or_inverted_fails_in_each_lineage(former: list[Shadow], correlation: float) -> None:
    found = gates.shadow(change(correlation, 0.1), former, POLICY, has_live=True)
    assert found.outcome == "fail"
    assert "rank correlation" in found.reason


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (change(0.9, 0.2), "pass"),
        (change(0.1, 0.2, num_lists=999), "wait"),
        (change(0.89, 0.2), "fail"),
        (change(0.9, 0.21), "fail"),
        (change(0.95, math.nan), "fail"),
    ],
)
def test_a_settled_lineage_has_the_limits_of_its_policy(found: Shadow, outcome: str) -> None:
    assert gates.shadow(found, SETTLED, POLICY, has_live=True).outcome == outcome


def test_a_restless_lineage_may_change_as_much_as_its_own_versions_did() -> None:
    """The mean of `YOUNG` is .934 and .39, the standard deviation .0365 and .0918."""
    for inside, outside in ((change(0.72, 0.6), change(0.71, 0.6)), (change(0.9, 0.93), change(0.9, 0.95))):
        assert gates.shadow(inside, YOUNG, POLICY, has_live=True).outcome == "pass"
        assert gates.shadow(outside, YOUNG, POLICY, has_live=True).outcome == "fail"


BOUNDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, math.inf)


def histogram(seconds: NDArray[np.float64]) -> dict[float, int]:
    placed = np.searchsorted(BOUNDS, seconds)
    return {bound: int((placed == place).sum()) for place, bound in enumerate(BOUNDS)}


def slice_of(n: int, *, fallbacks: int = 0, bad: int = 0, slower: float = 1.0, seed: int = 1) -> SliceCounts:
    seconds = slower * np.random.default_rng(seed).lognormal(math.log(0.004), 0.4, n)
    return SliceCounts(answered=n, fallbacks=fallbacks, bad=bad, latency=histogram(seconds))


def test_system_passes_equal_slices_and_waits_for_answers() -> None:
    assert gates.system(slice_of(2_000, fallbacks=20, seed=2), slice_of(2_000, fallbacks=20), POLICY).outcome == "pass"
    assert gates.system(slice_of(1_999), slice_of(2_000), POLICY).reason == "1999 of 2000 answers"
    assert gates.system(slice_of(2_000), slice_of(10), POLICY).outcome == "wait"
    assert gates.system(SliceCounts(), slice_of(10), POLICY).outcome == "wait"
    assert gates.system(slice_of(2_000), None, POLICY).outcome == "pass"
    assert gates.system(slice_of(2_000), SliceCounts(), POLICY).outcome == "wait"
    assert gates.system(slice_of(2_000, fallbacks=2_000), SliceCounts(), POLICY).outcome == "wait"


@pytest.mark.parametrize(
    ("canary", "words"),
    [
        (slice_of(400, fallbacks=100), "fallbacks: 25.00% against 0.00%"),
        (slice_of(400, bad=100), "bad outputs: 25.00%"),
        (slice_of(400, slower=10.0), "of the answers take more than"),
    ],
)
def test_system_fails_before_the_canary_has_all_its_answers(canary: SliceCounts, words: str) -> None:
    found = gates.system(canary, slice_of(400), POLICY)
    assert found.outcome == "fail"
    assert words in found.reason


@pytest.mark.parametrize(("fallbacks", "outcome"), [(1_400, "pass"), (2_600, "fail")])
def test_a_rise_counts_from_what_is_allowed_on(fallbacks: int, outcome: str) -> None:
    """1 % of the answers of the control slice are fallbacks, and one per cent more is allowed."""
    control = SliceCounts(answered=100_000, fallbacks=1_000)
    assert gates.system(SliceCounts(answered=100_000, fallbacks=fallbacks), control, POLICY).outcome == outcome


def test_without_a_live_version_the_shares_themselves_count() -> None:
    assert gates.system(slice_of(2_000, fallbacks=400), None, POLICY).outcome == "fail"
    assert gates.system(slice_of(2_000, slower=10.0), None, POLICY).outcome == "pass"


@pytest.mark.parametrize("slower", [0.5, 1.0, 1.6, 2.5])
def test_the_limit_of_slow_answers_is_the_p99_of_the_control_slice(slower: float) -> None:
    seconds = slower * np.random.default_rng(4).lognormal(math.log(0.004), 0.4, 50_000)
    found = gates.system(slice_of(5_000), SliceCounts(answered=50_000, latency=histogram(seconds)), POLICY)
    p99 = float(np.quantile(seconds, 0.99, method="inverted_cdf"))
    bucket = next(bound for bound in BOUNDS if bound >= p99)
    assert found.numbers["slow_above_s"] == next(bound for bound in BOUNDS if bound >= 1.25 * bucket)


def test_slices_add_up() -> None:
    both = slice_of(100, fallbacks=3, bad=1) + slice_of(50, fallbacks=2, seed=9)
    assert (both.answered, both.fallbacks, both.bad, sum(both.latency.values())) == (150, 5, 1, 150)


def test_equal_slices_fail_no_more_often_than_alpha_over_all_looks() -> None:
    """200 canaries of a harmless version, looked at after each 100 answers: at most `alpha` of them ever fail."""
    rng, runs, policy = np.random.default_rng(8), 200, replace(POLICY, alpha=0.05, max_fallbacks=0.0, max_bad=0.0)
    failed = 0
    for _ in range(runs):
        own_N, its_N = np.cumsum(rng.random((2, 5_000)) < 0.02, axis=1)
        failed += any(
            gates.system(
                SliceCounts(answered=n, fallbacks=int(own_N[n - 1])),
                SliceCounts(answered=n, fallbacks=int(its_N[n - 1])),
                policy,
            ).outcome
            == "fail"
            for n in range(100, 5_001, 100)
        )
    assert failed <= stats.binom.ppf(0.999, runs, 0.05)


def clients(rng: np.random.Generator, n: int, *, cvr: float = 0.05, ctr: float = 0.1) -> NDArray[np.float64]:
    """Return the sums of clients who search once to five times and see 10 items each time."""
    sessions = rng.integers(1, 6, n)
    orders = rng.binomial(sessions, cvr)
    gross = orders * rng.lognormal(8.0, 1.0, n).round()
    found = np.zeros((n, len(COLUMNS)))
    for name, values in (
        ("sessions", sessions),
        ("items", 10 * sessions),
        ("clicks", rng.binomial(10 * sessions, ctr)),
        ("orders", orders),
        ("gross_minor", gross),
        ("net_minor", gross),
        ("clicked_orders", orders),
        ("clicked_gross_minor", gross),
    ):
        found[:, COLUMNS.index(name)] = values
    return found


def test_business_bounds_agree_with_a_bootstrap() -> None:
    rng = np.random.default_rng(21)
    own, its = clients(rng, 3_000, cvr=0.045), clients(rng, 3_000)
    found = gates.business(Moments.of(own), Moments.of(its), POLICY)
    assert found.outcome == "pass"
    orders, sessions = COLUMNS.index("orders"), COLUMNS.index("sessions")
    draws = []
    for _ in range(2_000):
        a, b = own[rng.integers(0, 3_000, 3_000)], its[rng.integers(0, 3_000, 3_000)]
        draws.append(a[:, orders].sum() / a[:, sessions].sum() - b[:, orders].sum() / b[:, sessions].sum())
    base, highest = found.numbers["control_cvr"], found.numbers["cvr_highest"]
    own_cvr = found.numbers["cvr"]
    assert isinstance(base, float)
    assert isinstance(highest, float)
    assert isinstance(own_cvr, float)
    assert own_cvr == pytest.approx(own[:, orders].sum() / own[:, sessions].sum())
    width = highest * base - (own_cvr - base)
    # The bound that holds at all looks is 1.4 to 2 times as wide as that of a single one at the same level.
    single = float(stats.norm.isf(POLICY.alpha / 3)) * float(np.std(draws))
    assert 1.1 * single < width < 2.0 * single


def test_business_catches_a_disaster_and_lets_small_changes_pass() -> None:
    rng = np.random.default_rng(22)
    its = Moments.of(clients(rng, 4_000))
    found = gates.business(Moments.of(clients(rng, 4_000, cvr=0.02)), its, POLICY)
    assert found.outcome == "fail"
    assert found.reason.startswith("CVR -")
    assert gates.business(Moments.of(clients(rng, 4_000, ctr=0.05)), its, POLICY).reason.startswith("CTR -")
    assert gates.business(Moments.of(clients(rng, 4_000, cvr=0.0)), its, POLICY).outcome == "fail"
    assert gates.business(Moments.of(clients(rng, 4_000, cvr=0.049)), its, POLICY).outcome == "pass"
    assert gates.business(Moments.of(clients(rng, 4_000, cvr=0.2)), its, POLICY).outcome == "pass"
    allowed = replace(POLICY, max_drop=0.8)
    assert gates.business(Moments.of(clients(rng, 4_000, cvr=0.02)), its, allowed).outcome == "pass"


def test_business_waits_without_facts() -> None:
    rng, nothing = np.random.default_rng(23), Moments.empty(len(COLUMNS))
    some = Moments.of(clients(rng, 100))
    assert gates.business(nothing, nothing, POLICY).reason == "0 of 1000 sessions with facts"
    assert gates.business(some, nothing, POLICY).outcome == "wait"
    wants_none = replace(POLICY, business_sessions=0)
    assert gates.business(nothing, nothing, wants_none).outcome == "pass"
    disaster = Moments.of(clients(rng, 4_000, cvr=0.0))
    assert gates.business(disaster, Moments.of(clients(rng, 4_000)), wants_none).outcome == "fail"
    assert gates.business(Moments.of(clients(rng, 1)), some, POLICY).outcome == "wait"
    assert gates.business(Moments.of(clients(rng, 20, cvr=0.0)), some, POLICY).outcome == "wait"


def test_an_early_look_needs_a_larger_drop() -> None:
    """Thirty clients without an order against 16 of 30: at a single look that were certain, at all looks it is not."""
    control = np.zeros((30, len(COLUMNS)))
    control[:, COLUMNS.index("sessions")] = 1.0
    canary = control.copy()
    for name in ("orders", "clicked_orders"):
        control[:16, COLUMNS.index(name)] = 1.0
    assert stats.fisher_exact(np.array([[0, 30], [16, 14]])).pvalue < 1e-5
    assert gates.business(Moments.of(canary), Moments.of(control), POLICY).outcome == "wait"
    more = Moments.of(np.tile(canary, (3, 1))), Moments.of(np.tile(control, (3, 1)))
    assert gates.business(*more, POLICY).outcome == "fail"


@pytest.mark.no_cover
def test_equal_slices_fail_the_business_gate_no_more_often_than_alpha_over_all_looks() -> None:
    rng, runs, policy = np.random.default_rng(24), 150, replace(POLICY, alpha=0.05)
    failed = 0
    for _ in range(runs):
        own, its = clients(rng, 4_000), clients(rng, 4_000)
        failed += any(
            gates.business(Moments.of(own[:n]), Moments.of(its[:n]), policy).outcome == "fail"
            for n in range(100, 4_001, 300)
        )
    assert failed <= stats.binom.ppf(0.999, runs, 0.05)
