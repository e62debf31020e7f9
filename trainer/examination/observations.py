"""Rows of sessions from which examination can be told apart from attractiveness.

A row is an item that stood at a position. Rows of one stratum have the same attractiveness whichever position they
stood at: by chance where positions were drawn, by assumption where the same item came back. Comparing clicks within
strata therefore compares positions.

- `shuffle`: lists in which each item could stand at each position with one chance; a stratum is the length of the list
  and the position in the incoming order.
- `swaps`: lists in which pairs of items changed places with a known chance; a stratum is the length of the list and the
  position before the swap. The chance must be the same in all lists.
- `em`: all lists; a stratum is a query and an item.

Source: docs/training.md.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stream.schemas.session import Session
from trainer.features.served_list import displayed_positions

Method = Literal["shuffle", "swaps", "em"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_EVEN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Rows in the form that estimates read. Legend: R rows.

    Attributes:
        position: [R] position at which the item was shown, from 1.
        stratum: [R] number of the stratum, from 0.
        is_clicked: [R] whether the item was clicked, put into the cart or bought.
        unit: [R] number of the visit, else of the client, from 0: the unit of the bootstrap.
        num_lists: Lists behind the rows.
        left_out: Lists left out, by reason.
    """

    position: Ints
    stratum: Ints
    is_clicked: NDArray[np.bool_]
    unit: Ints
    num_lists: int
    left_out: Mapping[str, int]

    @property
    def num_units(self) -> int:
        """Return the number of visits."""
        return int(self.unit.max()) + 1 if self.unit.size else 0

    @property
    def num_clicks(self) -> int:
        """Return the number of clicked rows."""
        return int(np.count_nonzero(self.is_clicked))


def observe(sessions: Iterable[Session], method: Method) -> Observations:
    """Return the rows of sessions that a method can use.

    Args:
        sessions: The newest revision of each query.
        method: How strata are formed.
    """
    strata: dict[object, int] = {}
    units: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    positions: list[Ints] = []
    numbers: list[int] = []
    clicked: list[NDArray[np.bool_]] = []
    unit_of_row: list[Ints] = []
    for session in sessions:
        found = _strata(session, method)
        if isinstance(found, str):
            left_out[found] += 1
            continue
        positions.append(displayed_positions(session).astype(np.int64))
        numbers.extend(strata.setdefault(each, len(strata)) for each in found)
        clicked.append((session.column("clicks") > 0) | (session.column("carts") > 0) | (session.column("orders") > 0))
        unit = units.setdefault(session.session_id or session.client_id, len(units))
        unit_of_row.append(np.full(session.n, unit, dtype=np.int64))
    return Observations(
        position=np.concatenate([np.zeros(0, np.int64), *positions]),
        stratum=np.array(numbers, dtype=np.int64),
        is_clicked=np.concatenate([np.zeros(0, np.bool_), *clicked]),
        unit=np.concatenate([np.zeros(0, np.int64), *unit_of_row]),
        num_lists=len(positions),
        left_out=dict(left_out),
    )


def order_before_swaps(propensity: Floats) -> Ints | None:
    """Return the row that stood at each row's place before pairs were swapped, or None if the pairs are not plain.

    An item that was moved stands there with a chance below one half. Two such items are one pair; more are pairs of
    neighbours.

    >>> order_before_swaps(np.array([0.9, 0.02, 0.9, 0.02])).tolist()
    [0, 3, 2, 1]
    >>> order_before_swaps(np.array([0.1, 0.1, 0.9, 0.1])) is None
    True
    """
    order = np.arange(propensity.size)
    moved = np.flatnonzero(propensity < _EVEN)
    first, second = moved[::2], moved[1::2]
    if moved.size % 2 or (moved.size > 2 and (second - first != 1).any()):
        return None
    order[first], order[second] = second, first
    return order


def _strata(session: Session, method: Method) -> list[object] | str:
    """Return the stratum of each row, or the reason for which the list is left out."""
    if method == "em":
        query = session.query_hash or session.query_category or ""
        return [(query, item_id) for item_id in session.item_id]
    propensity = session.column("propensity").astype(np.float64)
    if propensity.size != session.n:
        return "without propensities"
    if not ((propensity > 0) & (propensity <= 1)).all():
        return "propensities beyond (0, 1]"
    if (propensity == 1).all():
        return "without a random position"
    is_shuffled = session.n > 2 and np.allclose(propensity, 1 / session.n)
    if is_shuffled != (method == "shuffle"):
        return "randomised in another way"
    if is_shuffled:
        return [(session.n, rank) for rank in session.column("rank_in").tolist()]
    order = order_before_swaps(propensity)
    if order is None:
        return "with swaps that cannot be undone"
    return [(session.n, position) for position in displayed_positions(session)[order].tolist()]
