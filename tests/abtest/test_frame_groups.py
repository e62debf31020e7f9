"""Clients that are grouped by a hash of their texts."""

import numpy as np
import polars as pl
import pytest

from abtest import frame_groups
from abtest.frame_groups import Groups, grouped

COLUMNS = [pl.col("money").cast(pl.Float64), pl.col("clicks").cast(pl.Float64)]
NAMES = ["money", "clicks"]


def rows(n: int = 500, clients: int = 60) -> pl.DataFrame:
    random = np.random.default_rng(4)
    return pl.DataFrame(
        {
            "who": [None if each == 7 else f"client {each}" for each in random.integers(0, clients, n).tolist()],
            "arm": random.integers(0, 3, n),
            "money": random.integers(0, 900, n),
            "clicks": random.integers(0, 4, n),
        }
    )


def groups(data: pl.DataFrame) -> Groups:
    return grouped(data.lazy(), "who", pl.col("arm"), COLUMNS, NAMES)


def by_client(found: Groups) -> dict[object, list[float]]:
    return {found.name_of(row[0]): list(row[1:]) for row in found.sums.rows()}


def expected(data: pl.DataFrame) -> dict[object, list[float]]:
    found = data.group_by("who").agg(
        pl.col("arm").min().alias("first"), pl.col("arm").max().alias("last"), pl.col("money"), pl.col("clicks")
    )
    return {
        who: [first, last, float(sum(money)), float(sum(clicks))]
        for who, first, last, money, clicks in found.rows()
        if who is not None
    }


@pytest.mark.parametrize("dtype", [pl.String, pl.Binary, pl.Categorical])
def test_hashed_clients_have_the_sums_of_their_texts(dtype: type[pl.DataType]) -> None:
    data = rows().with_columns(pl.col("who").cast(dtype))
    found = groups(data)
    assert found.client is not None
    assert found.sums["key"].dtype == pl.UInt64
    assert by_client(found) == expected(data.with_columns(pl.col("who").cast(pl.String).cast(dtype)))
    assert found.rows_without_client == data["who"].null_count() > 0


def test_two_clients_that_share_a_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows()
    apart = by_client(groups(data))
    monkeypatch.setattr(frame_groups, "hashed", lambda client: pl.when(client.is_not_null()).then(client.hash(1) % 59))
    found = groups(data)
    assert found.client is None
    assert by_client(found) == apart == expected(data)
    assert found.rows_without_client == data["who"].null_count()


def test_the_seed_of_the_second_hash_moves_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows()
    found = []
    for seed in (0, 2**64 - 1):
        monkeypatch.setattr(frame_groups, "randbits", lambda _, seed=seed: seed)
        found.append(groups(data).sums)
    assert found[0].equals(found[1])


def test_whole_numbers_are_their_own_keys() -> None:
    found = groups(rows().with_columns(pl.col("who").str.tail(1).cast(pl.Int64)))
    assert found.client is None
    assert found.sums["key"].to_list() == list(range(10))
