"""Assignment of clients to buckets and of buckets to arms, as pure functions of their arguments.

Source: docs/experiments.md.
"""

import hashlib
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

NUM_BUCKETS = 10_000
MIN_BUCKETS = 10
UNASSIGNED = -1
MAX_SALT_BYTES = 64


def bucket(client_id: str, salt: str) -> int:
    """Return the bucket of a client in the layer with this salt.

    >>> bucket("c-1", "ranker-2026q1"), bucket("c-2", "ranker-2026q1"), bucket("c-1", "price-2026q1")
    (6198, 8660, 1575)
    """
    digest = hashlib.blake2b(client_id.encode(), digest_size=8, key=salt.encode()).digest()
    return int.from_bytes(digest, "big") % NUM_BUCKETS


def check_salt(salt: str) -> str:
    """Return `salt` if it can key the hash.

    Raises:
        ValueError: If it is empty or longer than 64 bytes.
    """
    if not 1 <= len(salt.encode()) <= MAX_SALT_BYTES:
        raise ValueError(f"salt = {salt!r}: expected 1 to {MAX_SALT_BYTES} bytes")
    return salt


def allocate(salt: str, weights: Sequence[float], coverage: float, hold_out: float = 0.0) -> NDArray[np.int16]:
    """Return the arm number of each bucket, or -1 for a bucket without an arm.

    The order of the buckets depends on the experiment's own salt, which breaks carry-over from the previous experiment
    of the layer. Each arm owns a range of that order. The left edge of a range depends on the weights alone, so that
    more coverage adds buckets to arms and moves no bucket between arms.

    Args:
        salt: The experiment's own salt, not the layer's.
        weights: Share of each arm; zero keeps an arm's buckets empty.
        coverage: Used share of each arm's range.
        hold_out: Share of all buckets, the highest ones, that belong to no arm's range: the same clients in all
            experiments of a layer.

    Raises:
        ValueError: If the weights do not add up to 1, or a share lies outside of its bounds.

    Shapes: (10000,).
    """
    if not weights or not min(weights) >= 0.0 or not abs(sum(weights) - 1.0) <= 1e-9:
        raise ValueError(f"weights = {list(weights)}: expected shares from 0 that add up to 1")
    if not 0.0 < coverage <= 1.0:
        raise ValueError(f"coverage = {coverage}: expected more than 0, at most 1")
    if not 0.0 <= hold_out < 1.0:
        raise ValueError(f"hold_out = {hold_out}: expected 0 or more, less than 1")
    key = check_salt(salt).encode()
    free = NUM_BUCKETS - round(hold_out * NUM_BUCKETS)
    order = sorted(
        range(free), key=lambda number: hashlib.blake2b(str(number).encode(), digest_size=8, key=key).digest()
    )
    edges = [0, *(round(total * free) for total in accumulate(weights))]
    table = np.full(NUM_BUCKETS, UNASSIGNED, dtype=np.int16)
    for arm, (left, right) in enumerate(pairwise(edges)):
        table[order[left : left + round(coverage * (right - left))]] = arm
    table.setflags(write=False)
    return table


def check_dealt(table: NDArray[np.int16], names: Sequence[str]) -> None:
    """Refuse an allocation that gives an arm fewer than 10 buckets.

    With fewer, rounding changes the planned weights, and an arm can be without clients, for which every look waits.

    Raises:
        ValueError: If an arm has too few buckets.
    """
    for number, name in zip(dealt(table, len(names)), names, strict=True):
        if number < MIN_BUCKETS:
            raise ValueError(f"arm '{name}': {number} of {NUM_BUCKETS} buckets, expected {MIN_BUCKETS} or more")


def dealt(table: NDArray[np.int16], num_arms: int) -> tuple[int, ...]:
    """Return the number of buckets of each arm.

    >>> dealt(allocate("first", (0.9, 0.1), 0.015), 2)
    (135, 15)
    """
    return tuple(int((table == arm).sum()) for arm in range(num_arms))


def to_bytes(table: NDArray[np.int16]) -> bytes:
    """Return the allocation as little-endian int16."""
    return table.astype("<i2").tobytes()


def from_bytes(raw: bytes) -> NDArray[np.int16]:
    """Return the allocation in `raw`.

    Raises:
        ValueError: If it does not hold 10,000 arm numbers.
    """
    if len(raw) != 2 * NUM_BUCKETS:
        raise ValueError(f"allocation of {len(raw)} bytes: expected {2 * NUM_BUCKETS}")
    return np.frombuffer(raw, dtype="<i2").astype(np.int16)


def sha256(table: NDArray[np.int16]) -> str:
    """Return the SHA-256 of an allocation."""
    return hashlib.sha256(to_bytes(table)).hexdigest()


def moved(before: NDArray[np.int16], after: NDArray[np.int16]) -> int:
    """Return the number of buckets that change from one arm to another.

    A bucket that joins or leaves the experiment does not count.
    """
    return int(np.sum((before != after) & (before != UNASSIGNED) & (after != UNASSIGNED)))
