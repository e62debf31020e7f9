"""Binary searches for anchors, against a search of all items."""

from collections import Counter
from dataclasses import replace
from math import ceil, log2

import numpy as np
import pytest

from stream.schemas.annotation import Judgement, annotation_of
from tests.trainer.annotation.test_scored_lists import LIST
from trainer.annotation.anchors import asked_places, by_query, next_places, open_lists


def judged(types: list[str], scores: list[float], truth: list[float]) -> list[float | None]:
    """Return the grades after all rounds, each of which asks for one item of a type at most."""
    grades: list[float | None] = [None] * len(types)
    while asked := next_places(types, scores, grades):
        assert len({types[place] for place in asked}) == len(asked)
        for place in asked:
            assert grades[place] is None
            grades[place] = truth[place]
    return grades


@pytest.mark.parametrize("seed", range(20))
def test_the_grades_around_each_crossing_are_found_in_few_judgements(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {"product": 12, "video": int(rng.integers(1, 9)), "card": int(rng.integers(1, 4))}
    types = [name for name, size in sizes.items() for _ in range(size)]
    truth = rng.integers(0, 5, len(types)).astype(float)
    # Scores of a type are monotone in the grade; those of two types do not compare.
    scores = (truth + rng.uniform(0, 0.5, len(types)) + np.array([100 * len(name) for name in types])).tolist()
    shuffled = rng.permutation(len(types)).tolist()
    types, scores, values = ([each[row] for row in shuffled] for each in (types, scores, truth.tolist()))
    grades = judged(types, scores, values)
    by_score = sorted(range(len(types)), key=lambda place: -scores[place])
    products = [place for place in by_score if types[place] == "product"]
    anchor = products[6]
    assert [place for place in products if grades[place] is not None] == [anchor]
    for name in ("video", "card"):
        own = [place for place in by_score if types[place] == name]
        asked = [place for place in own if grades[place] is not None]
        assert len(asked) <= ceil(log2(len(own) + 1))
        above = [place for place in own if values[place] >= values[anchor]]
        # Both neighbours of the crossing are judged, where there are two.
        assert set(above[-1:] + own[len(above) : len(above) + 1]) <= set(asked)


def test_a_list_of_one_type_has_nothing_to_compare() -> None:
    assert next_places(["video", "video"], [1.0, 2.0], [None, None]) == []


def test_without_the_grade_of_the_anchor_the_second_step_is_not_known() -> None:
    types, scores = ["product"] * 5 + ["video"] * 4, [float(place) for place in range(9)]
    assert next_places(types, scores, [None] * 9) == [2, 6]
    assert next_places(types, scores, [None] * 6 + [1.0, None, None]) == [2]
    assert next_places(types, scores, [None, None, 3.0, None, None, None, 1.0, None, None]) == [7]
    assert next_places(types, scores, [None, None, 1.0, None, None, None, 1.0, None, None]) == [5]


TWICE = replace(
    LIST,
    item_id=["a", "b", "a", "c", "v"],
    type=["product"] * 4 + ["video"],
    score=[0.1, 0.9, 0.8, 0.2, 7.0],
    price_minor=[100, 200, 101, 300, 0],
)


def test_an_item_that_stands_twice_is_asked_for_at_its_best_place() -> None:
    assert asked_places(TWICE, {}) == [2, 4]
    assert asked_places(TWICE, {"q-1": {"a": 2.0}}) == [4]
    assert asked_places(TWICE, {"q-2": {"a": 2.0}}) == [2, 4]


def test_lists_without_a_further_question_are_counted() -> None:
    left_out: Counter[str] = Counter()
    ended = replace(TWICE, query_id="q-2")
    plain = replace(TWICE, query_id="q-3", type=["product"] * 5)
    grades = {"q-2": {"a": 2.0, "v": 1.0}}
    assert list(open_lists([TWICE, ended, plain], grades, left_out)) == [TWICE]
    assert left_out == {"anchored already": 1, "of one item type": 1}


def test_the_grades_of_a_budget_are_means_over_annotators() -> None:
    def said(item_id: str, annotator: str, grade: int, budget: str = "anchors") -> Judgement:
        return Judgement(
            query_id="q-1", item_id=item_id, annotator=annotator, grade=grade, budget=budget, page="p", num_items=5
        )

    both = [said("a", "x", 1), said("a", "y", 4), said("v", "x", 2), said("b", "x", 0, "p30")]
    found = by_query([annotation_of(each, 1) for each in both], "anchors")
    assert found == {"q-1": {"a": 2.5, "v": 2.0}}
