"""The choice of lists and items, against counts by hand."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.trainer.annotation.test_scored_lists import LIST
from trainer.annotation.pages import Wanted, page_id, rows_of, sample, top, wanted_lists


@pytest.mark.parametrize(
    ("num", "p", "chosen"),
    [(1, 0.1, 1), (4, 0.1, 1), (5, 0.3, 2), (10, 0.1, 1), (10, 0.2, 2), (10, 0.3, 3), (25, 0.1, 2), (10, 1.0, 10)],
)
def test_of_each_type_the_rounded_share_and_at_least_one_is_chosen(num: int, p: float, chosen: int) -> None:
    scores = [float(place) for place in range(num)]
    assert top(["product"] * num, scores, p) == list(range(num - chosen, num))
    # Scores of types are not compared: a type whose scores are all lower keeps its share.
    types, both = ["product"] * num + ["video"] * num, [*scores, *(score - 1_000 for score in scores)]
    assert top(types, both, p) == [*range(num - chosen, num), *range(2 * num - chosen, 2 * num)]


def test_of_equal_scores_the_first_are_chosen() -> None:
    assert top(["product"] * 4, [1.0, 2.0, 1.0, 1.0], 0.5) == [0, 1]


def test_a_page_names_each_item_once_with_its_best_score_and_counts_different_items() -> None:
    twice = replace(
        LIST,
        item_id=["a", "b", "a", "c"],
        type=["product", "video", "product", "product"],
        score=[0.1, 0.9, 0.8, 0.2],
        price_minor=[100, 200, 101, 300],
    )
    rows = {row.item_id: row for row in rows_of(twice, 0.5, "p50", "red shoes", {"a": "A shoe"})}
    assert set(rows) == {"a", "b"}
    assert (rows["a"].score, rows["a"].price, rows["a"].title, rows["a"].num_items) == (0.8, "1.01 EUR", "A shoe", 3)
    assert (rows["b"].type, rows["b"].title, rows["b"].query) == ("video", "", "red shoes")
    assert {row.page for row in rows.values()} == {page_id("q-1", "p50")} != {page_id("q-1", "p30")}


def test_the_order_of_a_page_does_not_tell_the_scores() -> None:
    ids = [f"i-{number}" for number in range(20)]
    up = replace(
        LIST,
        item_id=ids,
        type=["product"] * 20,
        score=[float(n) for n in range(20)],
        price_minor=[1] * 20,
    )
    down = replace(up, score=up.score[::-1])
    order = [row.item_id for row in rows_of(up, 1.0, "full", "", {})]
    assert order == [row.item_id for row in rows_of(down, 1.0, "full", "", {})]
    assert order not in (ids, ids[::-1])
    assert sorted(order) == sorted(ids)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({}, None),
        ({"lineage": "prm-1", "from_ts": 1_000, "to_ts": 1_001, "query_hashes": {"q"}, "judged": {"q-2"}}, None),
        ({"lineage": "other"}, "ranked by another lineage"),
        ({"from_ts": 1_001}, "shown at another time"),
        ({"to_ts": 1_000}, "shown at another time"),
        ({"query_hashes": set()}, "of another query"),
        ({"judged": {"q-1"}}, "judged already"),
    ],
)
def test_lists_that_are_not_wanted_are_counted(wanted: dict[str, Any], reason: str | None) -> None:
    left_out: Counter[str] = Counter()
    assert list(wanted_lists([LIST], Wanted(**wanted), left_out)) == ([LIST] if reason is None else [])
    assert left_out == ({} if reason is None else {reason: 1})


def test_a_sample_is_the_same_in_any_order_and_a_smaller_one_is_its_beginning() -> None:
    lists = [replace(LIST, query_id=f"q-{number}") for number in range(50)]
    chosen = sample(lists, 10)
    assert len(chosen) == 10
    assert sample(lists[::-1], 10) == chosen
    assert sample(lists, 4) == chosen[:4]
    assert len(sample(lists, 60)) == 50
    assert [each.query_id for each in chosen] != [f"q-{number}" for number in range(10)]
    # Of a session and its correction, the later record is taken.
    newer = replace(chosen[3], category="shoes")
    assert sample([*lists, newer], 10)[3] == newer
