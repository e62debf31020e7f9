from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from serving.ranking.assignment import ClientAssignment
from serving.ranking.rank import by_score, in_incoming_order, shuffled
from serving.ranking.swaps import SwapPolicy
from serving.ranking.versions import ServedVersion
from tests.serving.world import StubScorer, context, request
from trainer.examination.observations import order_before_swaps

VERSION = ServedVersion(lineage="base", number=4, artifact="a" * 64, scorer=StubScorer())
POLICY = SwapPolicy(share=0.4, reach=29, num_positions=30, key=bytes(32))
NUM_LISTS = 20_000


@pytest.mark.no_cover
@pytest.mark.parametrize("reach", [1, 2, 29])
def test_items_come_to_positions_as_often_as_is_logged(reach: int) -> None:
    """Frequencies over many queries, within five standard errors of the chance that each list logs."""
    policy, n = replace(POLICY, reach=reach), 5
    asked = request(num_candidates=n)
    items = in_incoming_order(asked)
    seen: Counter[tuple[int, int]] = Counter()
    logged: dict[tuple[int, int], float] = {}
    for number in range(NUM_LISTS):
        ranked = context(request(num_candidates=n, query_id=f"q-{number}"))
        placed, chances, is_swapped = policy.placed(ranked, items)
        assert [item.position for item in placed] == [1, 2, 3, 4, 5]
        assert is_swapped == (placed != items)
        for item, chance in zip(placed, chances, strict=True):
            cell = (item.rank_in, item.position)
            seen[cell] += 1
            assert logged.setdefault(cell, chance) == chance
    for row_in in range(1, n + 1):
        assert sum(chance for (row, _), chance in logged.items() if row == row_in) == pytest.approx(1)
    for cell, chance in logged.items():
        assert seen[cell] / NUM_LISTS == pytest.approx(chance, abs=5 * np.sqrt(chance * (1 - chance) / NUM_LISTS))
    assert len(logged) == n + 2 * sum(n - distance for distance in range(1, min(reach, n - 1) + 1))


def test_the_estimate_of_examination_finds_the_order_before() -> None:
    asked = request(num_candidates=30)
    items = in_incoming_order(asked)
    swapped = 0
    for number in range(50):
        placed, chances, is_swapped = POLICY.placed(context(request(query_id=f"q-{number}")), items)
        swapped += is_swapped
        before = order_before_swaps(np.array(chances, "<f4").astype(np.float64))
        assert before is not None
        assert [placed[row].rank_in for row in before] == list(range(1, 31))
    assert 10 <= swapped <= 30


def test_a_retry_repeats_the_draw_and_another_key_draws_anew() -> None:
    items = in_incoming_order(request())
    lists = [context(request(query_id=f"q-{number}")) for number in range(40)]
    first, again = ([POLICY.placed(each, items) for each in lists] for _ in range(2))
    assert first == again
    other = replace(POLICY, key=b"1" * 32)
    assert first != [other.placed(each, items) for each in lists]


def test_scored_items_alone_change_places_and_keep_their_scores() -> None:
    scores = [0.9, 0.8, 0.7]
    for number in range(60):
        asked = request(num_candidates=6, query_id=f"q-{number}")
        ranked = context(asked, version=VERSION, scores=scores)
        placed, chances, _ = POLICY.placed(ranked, by_score(asked, f"q-{number}", scores))
        assert [item.rank_in for item in placed[3:]] == [4, 5, 6]
        assert chances[3:] == [1.0] * 3
        assert {item.rank_in: item.score for item in placed[:3]} == {1: 0.9, 2: 0.8, 3: 0.7}


def test_other_lists_stay_as_they_are() -> None:
    asked = request(num_candidates=4)
    fallback = context(asked, version=VERSION, fallback="late")
    alone = context(request(num_candidates=1))
    policy = replace(POLICY, share=0.49)
    for number in range(40):
        for ranked in (fallback, alone):
            ranked.identity = replace(ranked.identity, query_id=f"q-{number}")
            items = in_incoming_order(ranked.request)
            assert policy.placed(ranked, items) == (items, [1.0] * len(items), False)
    assert replace(POLICY, share=0.0).placed(context(asked), in_incoming_order(asked))[1] == [1.0] * 4
    mixed = context(asked, assignment=ClientAssignment(bucket=7, policy="shuffle"))
    items = shuffled(asked, "q-1")
    assert policy.placed(mixed, items) == (items, [0.25] * 4, False)
