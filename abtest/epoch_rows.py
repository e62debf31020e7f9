"""Rows of `epochs`: buckets are dealt to arms when an epoch opens, and stay until it ends.

Source: docs/experiments.md.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, insert, update

from abtest import buckets
from abtest.experiment import Arm
from abtest.tables import epochs
from stream.errors import ConfigError


def deal(key: str, arms: Sequence[Arm], weights: Sequence[float], share: float, hold_out: float) -> NDArray[np.int16]:
    """Return the arm number of each bucket.

    Args:
        key: The experiment, also the salt of its bucket order.
        arms: Its arms.
        weights: Share of each arm among the clients that take part.
        share: Share of all clients that take part.
        hold_out: Share of the layer's clients that no experiment takes.

    Raises:
        ConfigError: If a value is refused, or an arm gets too few buckets.

    Shapes: (10000,).
    """
    try:
        table = buckets.allocate(key, weights, share, hold_out)
        buckets.check_dealt(table, [arm.name for arm in arms])
    except ValueError as error:
        raise ConfigError(f"experiment '{key}': {error}") from error
    return table


def open_epoch(
    connection: Connection,
    key: str,
    number: int,
    table: NDArray[np.int16],
    *,
    weights: Sequence[float],
    share: float,
    start_ts: int,
    reason: str,
) -> None:
    """Insert the row of an epoch in a transaction.

    Args:
        connection: An open transaction.
        key: The experiment.
        number: Number of the epoch.
        table: Buckets as dealt.
        weights: Shares by which they were dealt.
        share: Share of all clients that take part.
        start_ts: Start of the epoch.
        reason: Text that is stored with it.
    """
    connection.execute(
        insert(epochs).values(
            experiment=key,
            number=number,
            start_ts=start_ts,
            coverage=share,
            weights=list(weights),
            buckets=buckets.to_bytes(table),
            buckets_sha256=buckets.sha256(table),
            reason=reason,
        )
    )


def end_epoch(connection: Connection, key: str, *, end_ts: int, number: int | None = None) -> bool:
    """End the open epoch of an experiment; return False if there is none, or it is not the one of this number."""
    own = [epochs.c.experiment == key, epochs.c.end_ts.is_(None)]
    if number is not None:
        own.append(epochs.c.number == number)
    return bool(connection.execute(update(epochs).where(*own).values(end_ts=end_ts)).rowcount)
