from datetime import UTC, datetime

import pytest

from tests.harness.grafana import queries

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def sql(text: str, **variables: list[str]) -> str:
    return queries.expand_sql(text, variables, start=START, end=END)


def test_sql_macros() -> None:
    assert sql("$__timeGroup(t.time, '5m') AS time") == "floor(extract(epoch from t.time)/300)*300 AS time"
    assert sql("$__timeFrom() $__timeTo()") == "'2026-01-01T00:00:00Z' '2026-01-02T03:04:05Z'"


def test_sql_variables_are_quoted() -> None:
    assert sql("arm IN (${arm:sqlstring})", arm=["a", "o'b"]) == "arm IN ('a','o''b')"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$__timeEpoch(t)", r"\$__timeEpoch is unknown"),
        ("${arm:sqlstring}", "arm has no value"),
        ("$metric", "quotes its values"),
        ("${metric:csv}", "quotes its values"),
    ],
)
def test_sql_that_cannot_be_expanded(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        sql(text, metric=["ctr"])


def test_promql_intervals_and_variables() -> None:
    text = 'rate(a{l=~"$lineage"}[$__rate_interval]) + b[$__range] + c[$__interval]'
    expanded = queries.expand_promql(text, {"lineage": ".*"}, step_s=60, scrape_s=15, range_s=3600)
    assert expanded == 'rate(a{l=~".*"}[75s]) + b[3600s] + c[60s]'
    with pytest.raises(ValueError, match="other has no value"):
        queries.expand_promql("$other", {}, step_s=1, scrape_s=1, range_s=1)


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400)])
def test_durations(text: str, expected: int) -> None:
    assert queries.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "m", "5w", "-5m"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        queries.seconds(text)
