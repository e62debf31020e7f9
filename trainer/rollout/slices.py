"""The clients of a canary and of its control slice, as a pure function of their ids.

A keyed hash gives each client a place among 10,000, apart for each version. The first places are the canary, as many
after them the control slice. A larger share therefore adds clients to the canary and removes none, and neither the arms
of experiments nor the slices of other versions tell anything about the place.

Source: docs/rollout.md.
"""

import hashlib
from typing import Final

from abtest import buckets
from stream.schemas.events import Slice

CANARY: Final = "canary"
CONTROL: Final = "control"
LIVE: Final = "live"
"""Clients in neither slice, in the reports of servers."""

_SALT_LENGTH: Final = 32


def salt(lineage: str, version: int) -> str:
    """Return the key by which a version places clients.

    >>> salt("prm", 7)
    'dc40ba1dc60703e4ebad7372d60a441e'
    """
    return hashlib.sha256(f"{lineage}/{version}".encode()).hexdigest()[:_SALT_LENGTH]


def slice_of(client_id: str, key: str, share: float) -> Slice | None:
    """Return the slice of a client, None for a client in neither.

    Args:
        client_id: The client.
        key: The `salt` of the version.
        share: Share of clients in the canary. Above one half, fewer are left for the control slice.
    """
    place, size = buckets.bucket(client_id, key), num_places(share)
    if place < size:
        return CANARY
    return CONTROL if place < 2 * size else None


def num_places(share: float) -> int:
    """Return the number of places of a share; one that is not 0 has at least one.

    >>> num_places(0.0), num_places(0.00001), num_places(0.005), num_places(1.0)
    (0, 1, 50, 10000)
    """
    return max(1, round(share * buckets.NUM_BUCKETS)) if share > 0 else 0
