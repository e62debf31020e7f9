"""Analysis of data frames and files."""

import numpy as np
import polars as pl
import pytest

from abtest import cuped, inference, multiplicity
from abtest.estimates import Quotient
from abtest.frames import FramePlan, MetricPlan, analyze
from abtest.moments import Moments
from abtest.monitoring import monitored
from stream.errors import ConfigError
from tests.abtest import quotients

PLAN = FramePlan(
    client="who",
    arm="arm",
    control="a",
    weights={"a": 0.5, "b": 0.5},
    metrics=(
        MetricPlan(name="gmv", numerator="money", before="earlier"),
        MetricPlan(name="cvr", numerator="orders", denominator="sessions"),
        MetricPlan(name="sessions", numerator="sessions", goal=False),
    ),
)


def sessions(seed: int = 1, n: int = 600) -> pl.DataFrame:
    """Return one to three rows of each client; `earlier` stands in the first one."""
    random = np.random.default_rng(seed)
    who = np.sort(random.integers(0, n, 2 * n))
    first = np.concatenate([[True], who[1:] != who[:-1]])
    bought = random.random(2 * n) < 0.2
    return pl.DataFrame(
        {
            "who": who,
            "arm": np.where(who % 2, "b", "a"),
            "sessions": np.ones(2 * n, np.int64),
            "orders": bought,
            "money": bought * random.lognormal(3.0, 1.0, 2 * n),
            "earlier": first * random.lognormal(3.0, 1.0, 2 * n),
        }
    )


def test_rows_are_added_up_by_client() -> None:
    data = sessions()
    found = analyze(data.sample(fraction=1.0, shuffle=True, seed=2), PLAN)
    sums = data.group_by("who").agg(pl.col("arm").first(), pl.col("money", "orders", "sessions", "earlier").sum())
    control, arm = (
        Moments.of(sums.filter(pl.col("arm") == name).select("money", "orders", "sessions", "earlier").to_numpy() * 1.0)
        for name in "ab"
    )
    gmv, cvr, visits = found.results
    expected = cuped.compare(control, arm, Quotient(0), Quotient(3))
    assert expected is not None
    assert gmv.lift.p_fixed == pytest.approx(expected.lift.p_fixed)
    assert (gmv.value, gmv.control_value) == pytest.approx((arm.mean[0], control.mean[0]))
    assert gmv.variance_ratio == pytest.approx(expected.variance_ratio)
    plain = inference.compare(quotients.ratio(control, 1, 2), quotients.ratio(arm, 1, 2))
    assert (cvr.lift.lift, cvr.lift.lo, cvr.lift.hi) == pytest.approx((plain.lift, plain.lo, plain.hi))
    assert (cvr.variance_ratio, visits.p_adj) == (None, None)
    assert [gmv.p_adj, cvr.p_adj] == pytest.approx(
        multiplicity.holm([gmv.lift.p_fixed or 0.0, cvr.lift.p_fixed or 0.0])
    )
    assert found.clients == {"a": control.n, "b": arm.n}
    assert found.ratio is not None
    assert found.ratio.status == "ok"


def test_the_order_of_rows_changes_no_digit() -> None:
    data = sessions()
    assert analyze(data, PLAN) == analyze(data.reverse(), PLAN) == analyze(data.lazy(), PLAN)


def test_without_a_column_of_clients_each_row_is_one() -> None:
    data = sessions(n=50)
    plan = FramePlan(control="a", metrics=(MetricPlan(name="money", numerator="money"),))
    found = analyze(data, plan)
    assert sum(found.clients.values()) == len(data)
    assert found.ratio is None


def test_skewed_amounts_of_unequal_arms_get_one_spread() -> None:
    data = sessions().filter((pl.col("who") % 2 == 0) | (pl.col("who") % 10 == 1))
    plain, common = (
        analyze(data, FramePlan(client="who", control="a", metrics=(metric,))).results[0]
        for metric in (
            MetricPlan(name="gmv", numerator="money"),
            MetricPlan(name="gmv", numerator="money", is_money=True),
        )
    )
    assert plain.lift.diff == common.lift.diff
    assert plain.lift.se != common.lift.se


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control": "c", "weights": {}}, r"^control = 'c': the arms of the data are a, b$"),
        ({"weights": {"a": 1.0, "c": 1.0}}, r"^weights of a, c: the arms of the data are a, b$"),
        ({"alpha": 5.0}, "alpha"),
        ({"client": "nobody"}, r"^column 'nobody' is not in the data; there are who, arm, sessions"),
    ],
)
def test_data_that_do_not_fit_the_plan_are_refused_by_name(change: dict[str, object], message: str) -> None:
    fields = {name: getattr(PLAN, name) for name in PLAN.__struct_fields__} | change
    with pytest.raises(ConfigError, match=message):
        analyze(sessions(), FramePlan(**fields))


def test_a_planned_arm_without_clients_blocks_and_has_no_number() -> None:
    found = analyze(
        sessions(), FramePlan(client="who", control="a", weights={"a": 1.0, "b": 1.0, "c": 1.0}, metrics=PLAN.metrics)
    )
    assert found.clients["c"] == 0
    assert found.ratio is not None
    assert found.ratio.status == "blocked"
    for result in found.results:
        assert result.lift.reason == ("no_clients" if result.arm == "c" else None)
        assert (result.lift.p_fixed is None) == (result.arm == "c")


def test_one_arm_is_no_experiment() -> None:
    plan = FramePlan(client="who", control="a", metrics=PLAN.metrics)
    with pytest.raises(ConfigError, match=r"^control = 'a': the data have no other arm$"):
        analyze(sessions().filter(pl.col("arm") == "a"), plan)
    with pytest.raises(ConfigError, match=r"^control = 'a': the arms of the data are none$"):
        analyze(sessions().head(0), plan)


def test_the_share_of_false_findings_can_be_bounded_instead() -> None:
    plan = FramePlan(client="who", control="a", metrics=PLAN.metrics, adjustment="benjamini_hochberg")
    found = [result for result in analyze(sessions(), plan).results if result.metric != "sessions"]
    expected = multiplicity.benjamini_hochberg([result.lift.p_fixed or 0.0 for result in found])
    assert [result.p_adj for result in found] == expected


def test_the_comparison_without_adjustment_stands_beside_the_one_by_cuped() -> None:
    data = sessions()
    gmv, cvr, _ = analyze(data, PLAN).results
    plain = FramePlan(client="who", control="a", metrics=(MetricPlan(name="gmv", numerator="money"),))
    (expected,) = analyze(data, plain).results
    assert gmv.plain is not None
    assert (gmv.plain.diff, gmv.plain.lo, gmv.plain.p_fixed) == pytest.approx(
        (expected.lift.diff, expected.lift.lo, expected.lift.p_fixed)
    )
    assert gmv.lift.lo != gmv.plain.lo
    assert cvr.plain is None


def test_a_confidence_sequence_is_that_of_reports_at_the_level_of_an_arm() -> None:
    data = sessions().with_columns(pl.when(pl.col("who") % 3 == 0).then(pl.lit("c")).otherwise("arm").alias("arm"))
    metrics = (MetricPlan(name="spend", numerator="money"), PLAN.metrics[0])
    found = analyze(data, FramePlan(client="who", control="a", tightest_clients=400, metrics=metrics))
    plain, other, adjusted, _ = found.results
    sums = data.group_by("who", "arm").agg(pl.col("money", "earlier").sum())
    control, treated = (
        Moments.of(sums.filter(pl.col("arm") == name).select("money", "earlier").to_numpy() * 1.0) for name in "ab"
    )
    base, arm = (quotients.mean(part, 0) for part in (control, treated))
    expected = monitored(base, arm, inference.compare(base, arm), alpha=0.025, tightest=400)
    assert (plain.arm, other.arm) == ("b", "c")
    assert (plain.lift.cs_lo, plain.lift.cs_hi, plain.lift.cs_p) == pytest.approx(
        (expected.cs_lo, expected.cs_hi, expected.cs_p)
    )
    by_cuped = cuped.compare(control, treated, Quotient(0), Quotient(1))
    assert by_cuped is not None
    wanted = monitored(base, arm, by_cuped.lift, alpha=0.025, tightest=400, covariance=by_cuped.covariance)
    assert (adjusted.lift.cs_lo, adjusted.lift.cs_hi) == pytest.approx((wanted.cs_lo, wanted.cs_hi))
    assert analyze(data, FramePlan(client="who", control="a", metrics=metrics)).results[0].lift.cs_kind is None


def test_money_of_unequal_arms_is_not_adjusted() -> None:
    """Its variance needs the spread of both arms, which CUPED does not take into account."""
    data = sessions().filter((pl.col("who") % 2 == 0) | (pl.col("who") % 10 == 1))
    metric = MetricPlan(name="gmv", numerator="money", before="earlier", is_money=True)
    (result,) = analyze(data, FramePlan(client="who", control="a", metrics=(metric,))).results
    assert (result.variance_ratio, result.plain) == (None, None)


class Exported:
    """Data frame of another library that gives Arrow's stream of arrays."""

    def __init__(self, data: pl.DataFrame) -> None:
        self._data = data

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._data.__arrow_c_stream__(requested_schema)


def test_frames_of_other_libraries_are_read_and_other_things_refused() -> None:
    data = sessions()
    assert analyze(Exported(data), PLAN) == analyze(data, PLAN)
    for other in ({"arm": ["a"]}, [1], None, "data.csv"):
        with pytest.raises(ConfigError, match=f"^the data are a {type(other).__name__}, expected a data frame"):
            analyze(other, PLAN)


def weeks(seed: int = 9) -> pl.DataFrame:
    """Return clients of two weeks with other shares of the arms and another level."""
    random = np.random.default_rng(seed)
    sizes = {("a", "one"): 900, ("b", "one"): 100, ("a", "two"): 500, ("b", "two"): 520}
    parts = [
        pl.DataFrame(
            {
                "arm": [arm] * n,
                "week": [week] * n,
                "orders": random.poisson(1.0 if week == "one" else 4.0, n),
                "visits": 1 + random.poisson(6.0, n),
                "past": random.poisson(2.0, n),
            }
        )
        for (arm, week), n in sizes.items()
    ]
    return pl.concat(parts).with_row_index("who")


def test_strata_of_other_shares_are_no_difference_between_the_arms() -> None:
    data = weeks()
    mean = MetricPlan(name="orders", numerator="orders")
    rate = MetricPlan(name="rate", numerator="orders", denominator="visits")
    plan = FramePlan(client="who", control="a", stratum="week", metrics=(mean, rate))
    found = analyze(data, plan)
    assert found.strata == {"one": pytest.approx(1_000 / 2_020), "two": pytest.approx(1_020 / 2_020)}
    cells = {key: part["orders"].to_numpy() for key, part in data.partition_by("arm", "week", as_dict=True).items()}
    values = {arm: sum(found.strata[week] * cells[arm, week].mean() for week in ("one", "two")) for arm in ("a", "b")}
    variance = sum((found.strata[week] ** 2) * orders.var(ddof=1) / len(orders) for (_, week), orders in cells.items())
    orders, ratio = found.results
    assert (orders.control_value, orders.value) == pytest.approx((values["a"], values["b"]))
    assert orders.lift.se == pytest.approx(variance**0.5)
    assert orders.lift.p_fixed is not None
    assert orders.lift.p_fixed > 0.01
    assert ratio.lift.p_fixed is not None
    assert ratio.lift.p_fixed > 0.01
    pooled = FramePlan(client="who", control="a", metrics=(mean, rate))
    assert [(each.lift.p_fixed or 1.0) < 1e-6 for each in analyze(data, pooled).results] == [True, True]
    assert found.left_out == 0


def test_strata_are_adjusted_by_the_time_before_and_their_odd_clients_left_out() -> None:
    data = weeks().with_columns((pl.col("orders") + pl.col("past")).alias("orders"))
    moved = data.head(1).with_columns(pl.lit("two").alias("week"))
    lost = data.tail(1).with_columns(pl.lit(None, pl.String).alias("week"))
    few = data.head(1).with_columns(pl.lit("three").alias("week"), pl.lit(9_999, pl.UInt32).alias("who"))
    metric = MetricPlan(name="orders", numerator="orders", before="past")
    plan = FramePlan(client="who", control="a", stratum="week", metrics=(metric,))
    found = analyze(pl.concat([data, moved, lost, few]), plan)
    assert (found.left_out, sorted(found.strata)) == (2, ["one", "two"])
    (result,) = found.results
    assert result.plain is not None
    assert (result.lift.se or 0.0) < 0.9 * (result.plain.se or 0.0)
    apart = data.filter((pl.col("arm") == "a") == (pl.col("week") == "two"))
    alone = analyze(apart, plan)
    assert (alone.strata, alone.results[0].lift.reason) == ({}, "few_clients_by_epoch")
