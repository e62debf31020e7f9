"""Control sessions: outcomes are moved to other items of their list, so that nothing can be learned from them."""

from typing import Final

import numpy as np
from msgspec import structs

from deploy.simulation.marketplace.randomness import generator
from stream.schemas.session import COLUMNS, Session, unpack

_OUTCOMES: Final = (
    "clicks",
    "carts",
    "orders",
    "units",
    "click_delay_ms",
    "order_delay_ms",
    "gross_minor",
    "refund_minor",
)


def permute_labels(session: Session, seed: int) -> Session:
    """Return the session with the outcomes of its items in random order.

    All revisions of a query get the same order, so that a later one trains the item that it is said to.

    Args:
        session: The session, of n items; `events` and `lines` are kept as they are.
        seed: Key of the order, together with the query.
    """
    rows = generator(seed, "permuted labels", session.query_id).permutation(session.n)
    moved = {name: unpack(name, getattr(session, name))[rows].tobytes() for name in _OUTCOMES}
    changed = np.argsort(rows)[session.column("changed")].astype(COLUMNS["changed"].dtype)
    return structs.replace(session, **moved, changed=changed.tobytes())
