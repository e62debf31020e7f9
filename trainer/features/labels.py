"""Labels of a list: what a revision of a session trains, and what is known of it at the end.

Source: docs/training.md.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.schemas.session import COLUMNS, Session

_COUNT: Final = np.dtype(COLUMNS["clicks"].dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Training labels of a list, rows in the order of the source list.

    Attributes:
        click, conv: 0 or 1.
        money: Minor units of the converted items.
        click_weight: 0 takes the list out of the click loss.
    """

    click: NDArray[np.float32]
    conv: NDArray[np.float32]
    money: NDArray[np.float64]
    click_weight: float = 1.0

    @classmethod
    def none(cls, n: int) -> "Labels":
        """Return empty labels: a request has none."""
        return cls(click=np.zeros(n, np.float32), conv=np.zeros(n, np.float32), money=np.zeros(n, np.float64))


def stream_labels(session: Session) -> Labels:
    """Return what this revision of a session trains, so that every label is trained once.

    Revision 0 trains the clicks and the items bought so far; a later revision trains only its newly bought items.
    """
    new = np.zeros(session.n, dtype=np.bool_)
    if session.revision == 0:
        new[:] = True
    elif session.reason == "conversion":
        new[session.column("changed")] = True
    return _labels(session, new, click_weight=1.0 if session.revision == 0 else 0.0)


def final_labels(session: Session) -> Labels:
    """Return the labels of a session as of its revision, all of them: for evaluation and snapshot fits."""
    return _labels(session, np.ones(session.n, dtype=np.bool_), click_weight=1.0)


def _labels(session: Session, new: NDArray[np.bool_], *, click_weight: float) -> Labels:
    clicks, carts, orders = (np.frombuffer(raw, _COUNT) for raw in (session.clicks, session.carts, session.orders))
    click = ((clicks | carts | orders) > 0).astype(np.float32)
    # Most lists have no order, and the time of a batch is that of its many small lists.
    if session.orders.count(0) == len(session.orders):
        return Labels(
            click=click, conv=np.zeros(session.n, np.float32), money=np.zeros(session.n), click_weight=click_weight
        )
    conv = (orders > 0) & new
    return Labels(
        click=click,
        conv=conv.astype(np.float32),
        money=np.where(conv, session.column("gross_minor"), 0).astype(np.float64),
        click_weight=click_weight,
    )
