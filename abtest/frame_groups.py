"""Rows of a data frame or a file added up by client.

Texts are grouped by a hash, in half of the time. A second hash of each client, with a seed that is drawn for the run,
finds two clients that share the first one; the texts themselves are grouped then.

Source: docs/experiments.md, Analysis of a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import randbits

import polars as pl

from stream.errors import ConfigError

# Floats count whole numbers without gaps up to here.
_LARGEST_FLOAT_ID = 2.0**53
# The order of clients, and with it the last digits of moments, is that of these hashes.
_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Sums of the clients.

    Attributes:
        sums: One row for each client, ascending by its `key`, with `first arm`, `last arm`, and the sums.
        rows_without_client: Rows that name no client, left out.
        frame: The rows, to find the name of a client by its key.
        client: Text that `key` is the hash of; None where it is the client itself.
    """

    sums: pl.DataFrame
    rows_without_client: int
    frame: pl.LazyFrame
    client: pl.Expr | None = None

    def name_of(self, key: object) -> object:
        """Return the client of a key."""
        if self.client is None:
            return key
        same = self.frame.select(self.client.filter(hashed(self.client).eq(key)).first())
        return same.collect(engine="streaming").item()


def grouped(
    frame: pl.LazyFrame, client: str | None, arm: pl.Expr, values: Sequence[pl.Expr], names: Sequence[str]
) -> Groups:
    """Return the sums of each client and its smallest and largest arm.

    Args:
        frame: The rows.
        client: Column of the client; None makes each row one, numbered from 1.
        arm: Number of the arm.
        values: Numbers that are added up, a missing one as 0.
        names: Names of their sums.

    Raises:
        ConfigError: If clients are floats too large to be told apart.
    """
    selected = [arm.alias("arm"), *(value.alias(name) for value, name in zip(values, names, strict=True))]
    if client is None:
        rows = frame.select(selected).with_row_index("key", offset=1)
        return Groups(sums=_sums(rows, names), rows_without_client=0, frame=frame)
    dtype = frame.collect_schema()[client]
    # The order of categories is that of the rows, so they are grouped as texts.
    key = pl.col(client).cast(pl.String) if isinstance(dtype, pl.Categorical) else pl.col(client)
    key = key.fill_nan(None) if dtype.is_float() else key
    is_text = isinstance(dtype, pl.Categorical | pl.String | pl.Binary)
    by_hash = _sums_by_hash(frame, key, selected, names) if is_text else None
    sums = by_hash if by_hash is not None else _sums(frame.select(key.alias("key"), *selected), names)
    rows_without_client = 0
    if len(sums) and sums["key"][-1] is None:
        rows_without_client = frame.select(key.null_count()).collect(engine="streaming").item()
        sums = sums.head(-1)
    if dtype.is_float() and (sums["key"].abs() > _LARGEST_FLOAT_ID).any():
        raise ConfigError(f"column '{client}' holds clients as floats above 2^53, which are not told apart")
    return Groups(
        sums=sums, rows_without_client=rows_without_client, frame=frame, client=None if by_hash is None else key
    )


def hashed(client: pl.Expr) -> pl.Expr:
    """Return 64 bits of each client; null where it is null."""
    return pl.when(client.is_not_null()).then(client.hash(_SEED))


def _sums(rows: pl.LazyFrame, names: Sequence[str], *more: pl.Expr) -> pl.DataFrame:
    return (
        rows.group_by("key")
        .agg(pl.col("arm").min().alias("first arm"), pl.col("arm").max().alias("last arm"), pl.col(names).sum(), *more)
        # Moments of floats depend on their order in the last digits, so the clients get a fixed one.
        .sort("key", nulls_last=True)
        .collect(engine="streaming")
    )


def _sums_by_hash(
    frame: pl.LazyFrame, client: pl.Expr, selected: Sequence[pl.Expr], names: Sequence[str]
) -> pl.DataFrame | None:
    """Return the sums of each hash, or None if two clients share one."""
    check = client.hash(randbits(64)).alias("check")
    rows = frame.select(hashed(client).alias("key"), check, *selected)
    found = _sums(rows, names, pl.col("check").min(), pl.col("check").max().alias("last check"))
    return None if (found["check"] != found["last check"]).any() else found.drop("check", "last check")
