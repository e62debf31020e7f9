"""Analysis of data frames and files."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from abtest import cuped, estimates, frames, inference
from abtest.estimates import Quotient
from abtest.frames import FramePlan, MetricPlan, analyze
from abtest.moments import Moments
from stream.errors import ConfigError

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
    plain = inference.compare(estimates.ratio(control, 1, 2), estimates.ratio(arm, 1, 2))
    assert (cvr.lift.lift, cvr.lift.lo, cvr.lift.hi) == pytest.approx((plain.lift, plain.lo, plain.hi))
    assert (cvr.variance_ratio, visits.p_adj) == (None, None)
    assert [gmv.p_adj, cvr.p_adj] == pytest.approx(inference.holm([gmv.lift.p_fixed or 0.0, cvr.lift.p_fixed or 0.0]))
    assert found.clients == {"a": control.n, "b": arm.n}
    assert found.ratio is not None
    assert found.ratio.status == "ok"


def test_the_order_of_rows_changes_no_digit() -> None:
    data = sessions()
    assert analyze(data, PLAN) == analyze(data.reverse(), PLAN) == analyze(data.lazy(), PLAN)


def test_clients_in_two_arms_or_in_none_are_left_out() -> None:
    data = sessions()
    moved = data.filter(pl.col("arm") == "a").head(1).with_columns(pl.lit("b").alias("arm"))
    lost = data.head(1).with_columns(pl.lit(9_999, pl.Int64).alias("who"), pl.lit(None, pl.String).alias("arm"))
    found = analyze(pl.concat([data, moved, lost]), PLAN)
    assert found.left_out == 2
    assert sum(found.clients.values()) == data["who"].n_unique() - 1


def test_a_client_with_a_row_without_an_arm_is_left_out() -> None:
    data = sessions()
    found = analyze(pl.concat([data, data.head(1).with_columns(pl.lit(None, pl.String).alias("arm"))]), PLAN)
    assert (found.left_out, sum(found.clients.values())) == (1, data["who"].n_unique() - 1)


def test_hundreds_of_arms_are_told_apart() -> None:
    names = [f"arm {number:03d}" for number in range(300)]
    data = pl.DataFrame({"arm": names * 3, "spend": [float(number) for number in range(900)]})
    found = analyze(data, FramePlan(control="arm 000", metrics=(MetricPlan(name="spend", numerator="spend"),)))
    assert found.clients == dict.fromkeys(names, 3)
    assert [result.value for result in found.results] == [300.0 + number for number in range(1, 300)]


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
        ({"control": "c"}, r"^control = 'c': the arms of the data are a, b$"),
        ({"weights": {"a": 1.0}}, r"^weights of a: the arms of the data are a, b$"),
        ({"client": "nobody"}, r"^column 'nobody' is not in the data; there are who, arm, sessions"),
        ({"metrics": (MetricPlan(name="x", numerator="arm"),)}, r"^column 'arm' holds String, expected numbers$"),
    ],
)
def test_data_that_do_not_fit_the_plan_are_refused_by_name(change: dict[str, object], message: str) -> None:
    fields = {name: getattr(PLAN, name) for name in PLAN.__struct_fields__} | change
    with pytest.raises(ConfigError, match=message):
        analyze(sessions(), FramePlan(**fields))


def test_a_number_that_is_not_finite_is_refused_by_name() -> None:
    data = sessions().with_columns(
        pl.when(pl.col("who") == 4).then(float("nan")).otherwise(pl.col("money")).alias("money")
    )
    with pytest.raises(ConfigError, match=r"^column 'money' holds a value that is no finite number$"):
        analyze(data, PLAN)


TOML = """
client = "who"
control = "a"
[[metric]]
name = "cvr"
numerator = "orders"
denominator = "sessions"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOML.replace("control", "controll"), "unknown field `controll`"),
        (TOML + 'before = "x"\n', "metric 'cvr': a ratio with `before` needs `before_denominator`"),
        (TOML + TOML[TOML.index("[[") :], "metric 'cvr' is there twice"),
        ('control = "a"\nalpha = 0.7\n' + TOML[TOML.index("[[") :], r"`float` < 0.5 - at `\$.alpha`"),
        ("control = 1", r"at `\$.control`"),
        ("[", "Invalid initial character"),
    ],
)
def test_a_plan_that_is_wrong_is_refused_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"plan\.toml: .*{message}"):
        frames.read_plan(path)


def test_files_are_read_by_their_suffix(tmp_path: Path) -> None:
    data = sessions(n=60)
    parquet, csv, other = (tmp_path / f"data.{suffix}" for suffix in ("parquet", "csv", "xlsx"))
    data.write_parquet(parquet)
    # The first amount is whole, so that a guess by the first rows would be an integer.
    data.sort("money").with_columns(pl.col("orders").cast(pl.Int64)).write_csv(csv)
    other.touch()
    one, two = (analyze(frames.scan(path), PLAN) for path in (parquet, csv))
    assert one.results[1] == two.results[1]
    with pytest.raises(ConfigError, match=r"expected a file that ends in \.parquet or \.csv"):
        frames.scan(other)
    with pytest.raises(ConfigError, match="there is no such file"):
        frames.scan(tmp_path / "none.csv")


def test_a_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ConfigError, match="the data cannot be read"):
        analyze(frames.scan(path), PLAN)
