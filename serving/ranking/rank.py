"""Ranking as plain code: request and scores in, ordered list out. No clock, no network, no framework.

A list is scored by one version or not at all: anything wrong with the scores gives the incoming order and a reason.

Source: TRAINING_SERVING.md 8, RELIABILITY.md V2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from serving.identifiers import tie_break
from serving.schemas import RankedItem, RankRequest

NO_VERSION: Final = "no_version"
QUARANTINED: Final = "quarantined"
LATE: Final = "late"
STUCK: Final = "stuck"
WAITED: Final = "waited"
NOT_FINITE: Final = "not_finite"
WRONG_LENGTH: Final = "wrong_length"
ERROR: Final = "error"
FALLBACKS: Final = (NO_VERSION, QUARANTINED, LATE, STUCK, WAITED, NOT_FINITE, WRONG_LENGTH, ERROR)
BAD_OUTPUTS: Final = frozenset({NOT_FINITE, WRONG_LENGTH, ERROR})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """An ordered list; scores are None when no model scored it."""

    items: tuple[RankedItem, ...]
    fallback: str | None = None

    @property
    def scored(self) -> bool:
        """Tell whether a model made the order."""
        return self.items[0].score is not None


def fault_of(scores: Sequence[float], num_expected: int) -> str | None:
    """Return what is wrong with a model's output, or None.

    >>> fault_of([1.0, 2.0], 2), fault_of([1.0], 2), fault_of([1.0, float("nan")], 2)
    (None, 'wrong_length', 'not_finite')
    """
    if len(scores) != num_expected:
        return WRONG_LENGTH
    return None if all(math.isfinite(score) for score in scores) else NOT_FINITE


def by_score(request: RankRequest, query_id: str, scores: Sequence[float]) -> Ranking:
    """Order the first candidates by score, best first, and append the unscored rest in incoming order.

    Ties are broken by a hash of query and item, so that constant scores do not repeat the incoming order.
    """
    ids = [candidate.item_id for candidate in request.candidates]
    ties = {i: tie_break(query_id, ids[i]) for i in _tied(scores)}
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], ties.get(i, b"")))
    shown: list[tuple[int, float | None]] = [(i, float(scores[i])) for i in order]
    shown += [(i, None) for i in range(len(scores), len(ids))]
    return Ranking(items=_items(ids, shown))


def in_incoming_order(request: RankRequest, fallback: str | None = None) -> Ranking:
    """Keep the incoming order, unscored."""
    ids = [candidate.item_id for candidate in request.candidates]
    return Ranking(items=_items(ids, [(i, None) for i in range(len(ids))]), fallback=fallback)


def shuffled(request: RankRequest, query_id: str) -> Ranking:
    """Order all candidates by a hash of query and item: random to a reader, repeatable for a retry."""
    ids = [candidate.item_id for candidate in request.candidates]
    order = sorted(range(len(ids)), key=lambda i: tie_break(query_id, ids[i]))
    return Ranking(items=_items(ids, [(i, None) for i in order]))


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
