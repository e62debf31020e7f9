"""Exchanges of two items in a small share of the lists, from which examination by position can be estimated.

The draw is a keyed hash of the query id, so a retry of the request repeats it, and callers cannot foresee it. The
impression logs the chance with which each item came to its position. The pair is drawn evenly from all pairs of
positions that are not further apart than the reach.

Source: Joachims, Swaminathan and Schnabel 2017, Unbiased Learning-to-Rank with Biased Feedback, section 5;
docs/training.md.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from serving.ranking.context import RankContext
from serving.ranking.rank import is_shuffled
from serving.schemas import RankedItem

_PURPOSE: Final = b"swap"
_ONE: Final = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapPolicy:
    """The share of lists in which two items change places, and which two may.

    Attributes:
        share: Share of the lists, below one half.
        reach: Largest distance of the two positions.
        num_positions: First positions that take part.
        key: Secret of the draw, at most 64 bytes.
    """

    share: float
    reach: int
    num_positions: int
    key: bytes

    def placed(
        self, context: RankContext, items: tuple[RankedItem, ...]
    ) -> tuple[tuple[RankedItem, ...], list[float], bool]:
        """Return the items in the order to show, the chance of each one's position, and whether two changed places.

        Lists that fell back to the incoming order stay as they are, and so do shuffled ones.
        """
        n = min(len(items), self.num_positions if context.scores is None else len(context.scores))
        if is_shuffled(context):
            return items, [1 / len(items)] * len(items), False
        if context.fallback is not None or not self.share or n < 2:
            return items, [1.0] * len(items), False
        pairs = _num_pairs(n, self.reach)
        chances = [1 - self.share * _num_partners(at, n, self.reach) / pairs for at in range(n)]
        chances += [1.0] * (len(items) - n)
        first_draw, second_draw = self._draws(context.identity.query_id)
        if first_draw >= self.share:
            return items, chances, False
        first, second = _pair(int(second_draw * pairs), n, self.reach)
        chances[first] = chances[second] = self.share / pairs
        return _exchanged(items, first, second), chances, True

    def _draws(self, query_id: str) -> tuple[float, float]:
        """Return two uniform numbers in [0, 1) that belong to the query."""
        digest = hashlib.blake2b(query_id.encode(), digest_size=16, key=self.key, person=_PURPOSE).digest()
        return int.from_bytes(digest[:8], "big") / _ONE, int.from_bytes(digest[8:], "big") / _ONE


def _num_pairs(n: int, reach: int) -> int:
    """Return the number of pairs of n positions at most `reach` apart.

    >>> _num_pairs(4, 1), _num_pairs(4, 9)
    (3, 6)
    """
    widest = min(reach, n - 1)
    return widest * n - widest * (widest + 1) // 2


def _num_partners(at: int, n: int, reach: int) -> int:
    """Return the number of positions, from 0, that a position can change with.

    >>> [_num_partners(at, 4, 1) for at in range(4)]
    [1, 2, 2, 1]
    """
    return min(reach, at) + min(reach, n - 1 - at)


def _pair(number: int, n: int, reach: int) -> tuple[int, int]:
    """Return a pair of positions, from 0, by its number.

    >>> [_pair(number, 4, 2) for number in range(5)]
    [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)]
    """
    distance = 1
    while distance < reach and number >= n - distance:
        number -= n - distance
        distance += 1
    first = min(number, n - 1 - distance)
    return first, first + distance


def _exchanged(items: Sequence[RankedItem], first: int, second: int) -> tuple[RankedItem, ...]:
    shown = list(items)
    shown[first] = replace(items[second], position=items[first].position)
    shown[second] = replace(items[first], position=items[second].position)
    return tuple(shown)
