"""Labels of a list: what a revision of a session trains, and what is known of it at the end.

Source: docs/training.md.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.schemas.session import COLUMNS, Session

_COUNT: Final = np.dtype(COLUMNS["orders"].dtype)
_NONE: Final = np.zeros(0, np.bool_)


class Labels(NamedTuple):
    """Labels that a list trains beside its clicks, rows in the order of the source list.

    Attributes:
        conv: Flags of the bought items; empty if there is none.
        click_weight: 0 takes the list out of the click loss.
    """

    conv: NDArray[np.bool_]
    click_weight: float = 1.0

    def only(self, conv: NDArray[np.bool_]) -> "Labels":
        """Return the labels with these bought items and no others."""
        return Labels(conv if conv.any() else _NONE, self.click_weight)


def stream_labels(session: Session) -> Labels:
    """Return what this revision of a session trains, so that every label is trained once.

    Revision 0 trains the clicks and the items bought so far; a later revision trains only its newly bought items.
    """
    labels = Labels(_bought(session), 1.0 if session.revision == 0 else 0.0)
    if session.revision == 0 or not labels.conv.size:
        return labels
    new = np.zeros(session.n, dtype=np.bool_)
    if session.reason == "conversion":
        new[session.column("changed")] = True
    return labels.only(labels.conv & new)


def final_labels(session: Session) -> Labels:
    """Return the labels of a session as of its revision, all of them: for evaluation and snapshot fits."""
    return Labels(_bought(session))


def _bought(session: Session) -> NDArray[np.bool_]:
    # Most lists have no order, and the time of a batch is that of its many small lists.
    if session.orders.count(0) == len(session.orders):
        return _NONE
    return np.frombuffer(session.orders, _COUNT) > 0
