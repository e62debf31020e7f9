"""Sums of clients from frames and files of all kinds."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from abtest.frame_plan import FramePlan, MetricPlan
from abtest.frame_sums import ClientSums, client_sums, scan
from stream.errors import ConfigError

MONEY = MetricPlan(name="gmv", numerator="money")
CTR = MetricPlan(name="ctr", numerator="clicks", denominator="items", is_share=True)
PLAN = FramePlan(client="who", control="a", metrics=(MONEY, CTR))
ROWS = pl.DataFrame(
    {
        "who": [1, 1, 2, 3, 4, 5],
        "arm": ["a", "a", "b", "a", "b", "b"],
        "money": [1.5, 0.0, 2.0, 3.0, 0.25, 0.0],
        "clicks": [1, 0, 2, 0, 1, 0],
        "items": [5, 5, 6, 7, 8, 9],
    }
)


def sums(frame: pl.DataFrame, plan: FramePlan = PLAN) -> ClientSums:
    return client_sums(frame.lazy(), plan)


def same(left: ClientSums, right: ClientSums) -> bool:
    return left.moments.keys() == right.moments.keys() and all(
        part.n == right.moments[arm].n
        and np.array_equal(part.mean, right.moments[arm].mean)
        and np.array_equal(part.comoment, right.moments[arm].comoment)
        for arm, part in left.moments.items()
    )


def test_rows_are_added_up_by_client() -> None:
    found = sums(ROWS)
    assert {arm: part.n for arm, part in found.moments.items()} == {"a": 2, "b": 3}
    assert found.moments["a"].mean.tolist() == [2.25, 0.5, 8.5]
    assert (found.left_out, found.rows_without_client) == (0, 0)


@pytest.mark.parametrize(
    "client",
    [
        pl.col("who").cast(pl.UInt64) * 2**61,
        pl.col("who").cast(pl.Int128) * 2**70,
        pl.col("who").cast(pl.Float64),
        pl.col("who").cast(pl.Decimal(10, 2)),
        pl.format("client-{}", pl.col("who")),
        pl.format("client-{}", 9 - pl.col("who")).cast(pl.Categorical),
        pl.format("client-{}", pl.col("who")).cast(pl.Binary),
        pl.lit(datetime(2026, 1, 1, tzinfo=UTC)) + pl.duration(days=pl.col("who")),
    ],
)
def test_clients_have_any_type_that_tells_them_apart(client: pl.Expr) -> None:
    found = sums(ROWS.with_columns(client.alias("who")))
    expected = sums(ROWS)
    for arm, part in expected.moments.items():
        assert found.moments[arm].n == part.n
        np.testing.assert_allclose(found.moments[arm].comoment, part.comoment, rtol=1e-12)


def test_the_order_of_categories_changes_no_digit() -> None:
    random = np.random.default_rng(1)
    data = pl.DataFrame(
        {"who": [f"c{n}" for n in range(400)], "arm": ["a", "b"] * 200, "money": random.lognormal(0.0, 2.0, 400)}
    )
    plan = FramePlan(client="who", control="a", metrics=(MONEY,))
    one, other = (
        sums(frame.with_columns(pl.col("who").cast(pl.Categorical)), plan) for frame in (data, data.reverse())
    )
    assert same(one, other)


@pytest.mark.parametrize(
    "arm",
    [
        pl.col("arm").cast(pl.Categorical),
        pl.col("arm") == "a",
        (pl.col("arm") == "a").cast(pl.Int8),
        pl.col("arm").cast(pl.Enum(["b", "a", "unused"])),
    ],
)
def test_arms_have_any_type_that_has_names(arm: pl.Expr) -> None:
    found = sums(ROWS.with_columns(arm.alias("arm")))
    assert sorted(part.n for part in found.moments.values()) == [2, 3]


@pytest.mark.parametrize(
    "money",
    [
        pl.col("money").cast(pl.Decimal(12, 2)),
        pl.col("money").cast(pl.Float32),
        pl.when(pl.col("money") > 0).then("money"),
    ],
)
def test_amounts_have_any_type_of_number_and_an_empty_cell_is_0(money: pl.Expr) -> None:
    assert same(sums(ROWS.with_columns(money.alias("money"))), sums(ROWS))


def test_clients_in_two_arms_or_in_none_are_left_out() -> None:
    more = pl.DataFrame({"who": [2, 9, 3], "arm": ["a", None, None], "money": 1.0, "clicks": 0, "items": 1})
    found = sums(pl.concat([ROWS, more.cast(ROWS.schema)]))
    assert ({arm: part.n for arm, part in found.moments.items()}, found.left_out) == ({"a": 1, "b": 2}, 3)


@pytest.mark.parametrize("dtype", [pl.Int64, pl.String, pl.Float64])
def test_rows_that_name_no_client_are_left_out_and_counted(dtype: type[pl.DataType]) -> None:
    """All of them together would be one client with a large total."""
    data = ROWS.with_columns(pl.col("who").cast(dtype))
    lost = data.head(2).with_columns(pl.lit(None, dtype).alias("who"))
    found = sums(pl.concat([data, lost]))
    assert same(found, sums(data))
    assert (found.rows_without_client, found.left_out) == (2, 0)
    if dtype == pl.Float64:
        unknown = lost.with_columns(pl.lit(float("nan")).alias("who"))
        assert sums(pl.concat([data, unknown])).rows_without_client == 2


def test_columns_may_be_named_as_those_of_the_sums() -> None:
    names = {"who": "client", "arm": "first arm", "money": "sum 1", "clicks": "sum 0", "items": "last arm"}
    metrics = (
        MetricPlan(name="gmv", numerator="sum 1"),
        MetricPlan(name="ctr", numerator="sum 0", denominator="last arm"),
    )
    plan = FramePlan(client="client", arm="first arm", control="a", metrics=metrics)
    assert same(sums(ROWS.rename(names), plan), sums(ROWS))
    rows = FramePlan(arm="first arm", control="a", metrics=metrics)
    assert sum(part.n for part in sums(ROWS.rename(names), rows).moments.values()) == len(ROWS)


def test_hundreds_of_arms_are_told_apart_and_thousands_refused() -> None:
    names = [f"arm {number:03d}" for number in range(300)]
    data = pl.DataFrame({"arm": names * 3, "money": [float(number) for number in range(900)]})
    plan = FramePlan(control="arm 000", metrics=(MONEY,))
    found = sums(data, plan)
    assert {arm: (part.n, part.mean.item()) for arm, part in found.moments.items()} == {
        name: (3, 300.0 + number) for number, name in enumerate(names)
    }
    many = pl.DataFrame({"arm": range(1_001), "money": 0.0})
    with pytest.raises(ConfigError, match=r"^column 'arm' holds 1,001 values, expected at most 1,000 arms$"):
        sums(many, plan)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("money", pl.lit(float("nan")), "column 'money' holds nan for client '1', expected finite numbers"),
        ("money", pl.lit(float("-inf")), "column 'money' holds -inf for client '1', expected finite numbers"),
        ("money", pl.lit(1e308), "column 'money' holds inf for client '1', expected finite numbers"),
        ("money", pl.lit("5"), "column 'money' holds String, expected numbers"),
        ("money", pl.lit(None), "column 'money' holds Null, expected numbers"),
        ("money", pl.lit(datetime(2026, 1, 1, tzinfo=UTC)), "column 'money' holds Datetime.*, expected numbers"),
        ("money", pl.lit("5").cast(pl.Categorical), "column 'money' holds Categorical, expected numbers"),
        ("clicks", pl.lit(40), "column 'clicks' holds 80 for client '1', expected 0 to 'items': 'ctr' is a share"),
        ("clicks", pl.lit(-1), "column 'clicks' holds -2 for client '1', expected 0 to 'items': 'ctr' is a share"),
        ("items", pl.lit(-3), "column 'items' holds -6 for client '1', expected 0 or more: 'ctr' divides by it"),
        ("who", pl.lit([1]), r"column 'who' holds List\(Int64\), expected text or whole numbers"),
        ("who", pl.lit(None), "column 'who' holds Null, expected text or whole numbers"),
        ("who", pl.lit(1e17), "column 'who' holds clients as floats above 2\\^53, which are not told apart"),
        ("arm", pl.struct("money"), r"column 'arm' holds Struct.*, expected text or whole numbers"),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(column: str, value: pl.Expr, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        sums(ROWS.with_columns(value.alias(column)))


def test_a_share_of_clients_is_at_most_1_for_each() -> None:
    plan = FramePlan(control="a", metrics=(MetricPlan(name="buyers", numerator="money", is_share=True),))
    with pytest.raises(ConfigError, match=r"^column 'money' holds 1.5 in row 1, expected 0 to 1: 'buyers' is a share$"):
        sums(ROWS, plan)
    assert sums(ROWS.with_columns(pl.col("money") > 0), plan).moments["a"].mean.tolist() == [2 / 3]


def test_a_share_of_rounded_sums_may_be_the_whole() -> None:
    data = pl.DataFrame({"who": [1, 1, 1], "arm": "a", "clicks": [0.1, 0.2, 0.3], "items": [0.3, 0.2, 0.1]})
    plan = FramePlan(client="who", control="a", metrics=(CTR,))
    assert sums(data, plan).moments["a"].n == 1


def test_planned_arms_without_clients_are_there_and_others_refused() -> None:
    plan = FramePlan(client="who", control="a", weights={"a": 1.0, "b": 1.0, "c": 1.0}, metrics=(MONEY,))
    assert sums(ROWS, plan).moments["c"].n == 0
    plan = FramePlan(client="who", control="a", weights={"a": 1.0, "c": 1.0}, metrics=(MONEY,))
    with pytest.raises(ConfigError, match=r"^weights of a, c: the arms of the data are a, b$"):
        sums(ROWS, plan)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_files_are_read_with_their_separator(tmp_path: Path, separator: str, mark: bytes) -> None:
    path = tmp_path / "data.CSV"
    # The first amount is whole, so that a guess by the first rows would be an integer.
    path.write_bytes(mark + ROWS.sort("money").write_csv(separator=separator).encode())
    assert same(client_sums(scan(path), PLAN), sums(ROWS))


def test_parquet_files_are_read_with_their_types(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    typed = ROWS.with_columns(pl.col("money").cast(pl.Decimal(10, 2)), pl.col("arm").cast(pl.Categorical))
    typed.write_parquet(path)
    assert same(client_sums(scan(path), PLAN), sums(ROWS))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.parquet", b"PAR1 and nothing else", "the data cannot be read"),
        ("data.parquet", b"", "the data cannot be read"),
        ("data.csv", b"", "the data cannot be read"),
        ("data.csv", b"who,arm\n1,a\n", "column 'money' is not in the data; there are who, arm$"),
        ("data.csv", b"who|arm|money\n1|a|2\n", r"column 'who' is not in the data; there are who\|arm\|money$"),
        ("data.csv", b"who,arm,money,clicks,items\n1,a,1,2,3,4,5\n", "the data cannot be read"),
        ("data.csv", "who,arm,money,clicks,items\n1,gr\u00fcn,1,2,3\n".encode("latin-1"), "the data cannot be read"),
        ("data.csv", b"who,arm,money,clicks,items\n1,a,n/a,2,3\n", "column 'money' holds String, expected numbers$"),
        ("data.csv", b"who;arm;money;clicks;items\n1;a;1,5;2;3\n", "column 'money' holds String, expected numbers$"),
        ("data.csv", b"who,arm,money,clicks,items\n", "holds String, expected numbers$"),
        ("data.xlsx", b"", r"expected a file that ends in \.parquet or \.csv$"),
    ],
)
def test_a_file_that_is_damaged_or_foreign_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        client_sums(scan(path), PLAN)


def test_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ConfigError, match="there is no such file"):
            scan(path)
