"""Records and tables of labelling budgets."""

from pathlib import Path

import pytest
from scipy import stats

from stream.errors import ConfigError
from tests.bench.budget_tables import Record, Records, interval, tables


def record(seed: int, gain: float, *, orders: bool = False) -> Record:
    alone = [0.5, 0.6, 0.7, 0.8]
    with_teachers = [value + gain for value in alone]
    return Record(
        seed=seed,
        right={"log": 0.6 + gain},
        pages={"log": 0.55, "incoming order": 0.4},
        quality={"labels alone": alone, "teachers of the log": with_teachers},
        orders={"labels alone": [1.0] * 4, "teachers of the log": [1.0 + 2 * gain] * 4} if orders else {},
    )


def test_the_interval_is_students() -> None:
    values = [0.1, 0.3, 0.2, -0.1]
    low, high = stats.t.interval(0.95, 3, loc=0.125, scale=stats.sem(values))
    assert interval(values) == pytest.approx((0.125, low, high))


def test_one_repetition_has_no_interval() -> None:
    mean, low, high = interval([0.25])
    assert mean == 0.25
    assert low != low
    assert high != high
    lines = tables([record(1, 0.01, orders=True)], "world").splitlines()
    assert "| teachers of the log | 10 % | +0.0100 | +0.010 | +2.0 % |" in lines


def test_tables_compare_each_row_with_labels_alone() -> None:
    lines = tables([record(1, 0.01), record(2, 0.03)], "seed").splitlines()
    assert "| log | 0.620 | 0.5500 |" in lines
    assert "| incoming order |  | 0.4000 |" in lines
    assert "| labels alone | 0.5000 | 0.6000 | 0.7000 | 0.8000 |" in lines
    assert "| teachers of the log | 10 % | +0.0200 (-0.1071 to +0.1471) | +0.010 +0.030 |" in lines
    assert "| 30 % | -0.1000 (-0.1000 to -0.1000) |" in lines
    assert "| row, less labels alone | budget | NDCG@10 (interval) | by seed |" in lines


def test_orders_have_a_column_where_they_are_known() -> None:
    lines = tables([record(1, 0.01, orders=True), record(2, 0.03, orders=True)], "world").splitlines()
    assert "| row, less labels alone | budget | NDCG@10 (interval) | by world | orders (interval) |" in lines
    assert (
        "| teachers of the log | 100 % | +0.0200 (-0.1071 to +0.1471) | +0.010 +0.030 | +4.0 % (-21.4 to +29.4) |"
        in (lines)
    )


def test_records_of_several_runs_are_kept_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    Records(path).add(record(1, 0.01))
    again = Records(path)
    again.add(record(2, 0.03, orders=True))
    assert Records(path).found == [record(1, 0.01), record(2, 0.03, orders=True)]
    with pytest.raises(ConfigError, match="has a record of seed 2"):
        again.check_new(2)


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"seed": 1}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"records\.jsonl, line 1: .*right"):
        Records(path)
