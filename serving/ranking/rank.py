"""The order of a list from its scores: plain code without clock, network or framework.

One version scores the whole list, or the list keeps its incoming order for a stated reason.

Source: docs/serving.md.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Final

from abtest.experiment import SHUFFLE
from serving.ranking.context import RankContext
from serving.schemas import RankedItem, RankRequest

LATE: Final = "late"
STUCK: Final = "stuck"
WAITED: Final = "waited"
OVERLOAD: Final = "overload"
NOT_FINITE: Final = "not_finite"
WRONG_LENGTH: Final = "wrong_length"
ERROR: Final = "error"
BAD_OUTPUTS: Final = frozenset({NOT_FINITE, WRONG_LENGTH, ERROR})


def order(context: RankContext) -> tuple[RankedItem, ...]:
    """Return the candidates of a request in answer order: by score, shuffled by policy, or in incoming order."""
    request, query_id = context.request, context.identity.query_id
    if context.scores is not None:
        return by_score(request, query_id, context.scores)
    return shuffled(request, query_id) if is_shuffled(context) else in_incoming_order(request)


def is_shuffled(context: RankContext) -> bool:
    """Return whether the policy of the client's arm is to shuffle, so that each candidate may stand in each place."""
    return context.scores is None and context.assignment.lineage is None and context.assignment.policy == SHUFFLE


def fault_of(scores: Sequence[float], num_expected: int) -> str | None:
    """Return the fault in a model's output, or None.

    >>> fault_of([1.0, 2.0], 2), fault_of([1.0], 2), fault_of([1.0, float("nan")], 2)
    (None, 'wrong_length', 'not_finite')
    """
    if len(scores) != num_expected:
        return WRONG_LENGTH
    return None if all(math.isfinite(score) for score in scores) else NOT_FINITE


def by_score(request: RankRequest, query_id: str, scores: Sequence[float]) -> tuple[RankedItem, ...]:
    """Order the first candidates by score, best first, and append the unscored rest in incoming order.

    A hash of query and item breaks ties, so that constant scores do not repeat the incoming order.
    """
    ids = [candidate.item_id for candidate in request.candidates]
    ties = {i: tie_break(query_id, ids[i]) for i in _tied(scores)}
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], ties.get(i, b"")))
    shown: list[tuple[int, float | None]] = [(i, float(scores[i])) for i in best]
    shown += [(i, None) for i in range(len(scores), len(ids))]
    return _items(ids, shown)


def in_incoming_order(request: RankRequest) -> tuple[RankedItem, ...]:
    """Keep the incoming order, without scores."""
    ids = [candidate.item_id for candidate in request.candidates]
    return _items(ids, [(i, None) for i in range(len(ids))])


def shuffled(request: RankRequest, query_id: str) -> tuple[RankedItem, ...]:
    """Order all candidates by a hash of query and item, which a retry of the request repeats."""
    ids = [candidate.item_id for candidate in request.candidates]
    by_hash = sorted(range(len(ids)), key=lambda i: tie_break(query_id, ids[i]))
    return _items(ids, [(i, None) for i in by_hash])


def tie_break(query_id: str, item_id: str) -> bytes:
    """Return the sort key of items of equal score: a hash of query and item, unrelated to the incoming order.

    >>> tie_break("q-1", "i-1") == tie_break("q-1", "i-1") != tie_break("q-2", "i-1")
    True
    """
    key = hashlib.sha256(query_id.encode()).digest()
    return hashlib.blake2b(item_id.encode(), digest_size=8, key=key).digest()


def _items(ids: Sequence[str], shown: Sequence[tuple[int, float | None]]) -> tuple[RankedItem, ...]:
    return tuple(
        RankedItem(item_id=ids[i], position=position, rank_in=i + 1, score=score)
        for position, (i, score) in enumerate(shown, start=1)
    )


def _tied(scores: Sequence[float]) -> list[int]:
    if len(set(scores)) == len(scores):
        return []
    counts: dict[float, int] = {}
    for score in scores:
        counts[score] = counts.get(score, 0) + 1
    return [i for i, score in enumerate(scores) if counts[score] > 1]
