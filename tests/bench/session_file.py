"""Seeded sessions of an experiment of two arms, as a Parquet file in the order of time.

`python -m tests.bench.session_file FILE --rows 10000000` writes it; a process of its own, so that its memory is not
that of the programs that are measured.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

SESSIONS_EACH = 4.5


def write(path: Path, rows: int, *, as_text: bool, seed: int = 7) -> None:
    """Write sessions: clicks in 30 % of them, an order in 3 %, log-normal money, and 1 % more of both in one arm."""
    random = np.random.default_rng(seed)
    num_clients = max(2, round(rows / SESSIONS_EACH))
    client_N = random.integers(0, num_clients, rows)
    # Clients differ in how often they click and buy.
    habit_N = random.gamma(4.0, 0.25, num_clients)[client_N]
    lift_N = np.where(client_N % 2 == 1, 1.01, 1.0)
    clicks_N = np.minimum(random.poisson(0.36 * habit_N * lift_N), 24)
    orders_N = (random.random(rows) < 0.03 * habit_N * lift_N).astype(np.int64)
    money_N = orders_N * np.exp(random.normal(8.0, 1.0, rows)).astype(np.int64)
    names = pl.Series(["control", "treatment"])
    frame = pl.DataFrame(
        {
            "client": _ids(num_clients, as_text=as_text).gather(client_N),
            "arm": names.gather(client_N % 2),
            "items": random.integers(10, 31, rows),
            "clicks": clicks_N,
            "sessions": np.ones(rows, np.int64),
            "orders": orders_N,
            "gross_minor": money_N,
        }
    )
    frame.write_parquet(path)


def _ids(number: int, *, as_text: bool) -> pl.Series:
    """Return ids without order, as hashes are."""
    hash_N = np.arange(number, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return pl.Series([f"{each:016x}" for each in hash_N.tolist()]) if as_text else pl.Series(hash_N.astype(np.int64))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--text", action="store_true", help="Ids of 16 characters instead of integers of 64 bits.")
    options = parser.parse_args()
    write(options.file, options.rows, as_text=options.text)
