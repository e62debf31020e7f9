import math

import pytest

from serving.ranking import rank
from serving.schemas import RankedItem
from tests.serving.world import request


def ids(items: tuple[RankedItem, ...]) -> list[str]:
    return [item.item_id for item in items]


def test_best_score_first_and_the_unscored_rest_behind_in_incoming_order() -> None:
    asked = request(num_candidates=5)
    found = rank.by_score(asked, "q-1", [0.1, 0.9, 0.5])
    assert ids(found) == ["i-1", "i-2", "i-0", "i-3", "i-4"]
    assert [item.score for item in found] == [0.9, 0.5, 0.1, None, None]
    assert [item.position for item in found] == [1, 2, 3, 4, 5]
    assert [item.rank_in for item in found] == [2, 3, 1, 4, 5]


def test_ties_are_broken_by_query_and_item_alone() -> None:
    forward, backward = request(num_candidates=12), request()
    backward = type(forward)(
        client_id="c-1", query=forward.query, currency="EUR", candidates=list(reversed(forward.candidates))
    )
    constant = [1.0] * 12
    one = ids(rank.by_score(forward, "q-1", constant))
    assert one == ids(rank.by_score(backward, "q-1", constant))
    assert one != ids(rank.by_score(forward, "q-2", constant))
    assert one != [c.item_id for c in forward.candidates]
    mixed = ids(rank.by_score(forward, "q-1", [2.0] + [1.0] * 11))
    assert mixed == ["i-0", *(item for item in one if item != "i-0")]


def test_incoming_order_keeps_everything_and_scores_nothing() -> None:
    found = rank.in_incoming_order(request(num_candidates=40))
    assert [item.rank_in for item in found] == list(range(1, 41))
    assert {item.score for item in found} == {None}


def test_shuffle_is_a_permutation_that_a_retry_repeats() -> None:
    asked = request(num_candidates=30)
    one, again, other = (ids(rank.shuffled(asked, query)) for query in ("q-1", "q-1", "q-2"))
    assert one == again != other
    assert sorted(one) == sorted(c.item_id for c in asked.candidates)


@pytest.mark.parametrize(
    ("scores", "fault"),
    [
        ([1.0, 2.0], None),
        ([1.0], rank.WRONG_LENGTH),
        ([1.0, 2.0, 3.0], rank.WRONG_LENGTH),
        ([1.0, math.nan], rank.NOT_FINITE),
        ([math.inf, 1.0], rank.NOT_FINITE),
    ],
)
def test_faulty_output_is_reported(scores: list[float], fault: str | None) -> None:
    assert rank.fault_of(scores, 2) == fault
