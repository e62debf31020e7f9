"""Counts by minute against the facts, under histories in any order, with copies, corrections and crashes."""

from collections.abc import Sequence

import numpy as np
import pytest
from msgspec import structs
from sqlalchemy import Engine, func, select

from abtest.erasure import erase
from abtest.fact_writer import FactWriter
from abtest.tables import session_facts, traffic_minutes
from stream import db
from stream.schemas import topics
from stream.schemas.session import Session
from stream.schemas.times import MINUTE_MS
from tests.harness.sessions import click, log_of, make_session, purchase

on_sqlite = pytest.mark.parametrize("store_engine", ["sqlite"], indirect=True)


def apply(engine: Engine, batch: Sequence[Session], first: int, fails_at: str | None = None) -> None:
    def fail(step: str) -> None:
        if step == fails_at:
            raise RuntimeError(step)

    writer = FactWriter(engine, failpoint=fail)
    writer.open({(topics.SESSIONS, 0): 0})
    writer.apply(log_of(batch, first=first))


def of_the_table(engine: Engine) -> list[tuple[object, ...]]:
    with db.read(engine) as connection:
        rows = connection.execute(select(traffic_minutes).order_by(*traffic_minutes.primary_key))
        return [tuple(row) for row in rows]


def of_the_facts(engine: Engine) -> list[tuple[object, ...]]:
    """Add the facts up by a query of their own."""
    facts = session_facts.c
    names = [func.coalesce(facts[name], "") for name in ("experiment", "arm", "lineage", "version", "source")]
    keys = [facts.impression_ts - facts.impression_ts % 60_000, *names, facts.currency]
    sums = [func.sum(column) for column in (facts.n_items, facts.clicks, facts.orders, facts.gross_minor)]
    with db.read(engine) as connection:
        found = connection.execute(
            select(*keys, func.count(), func.count(facts.fallback), *sums).group_by(*keys).order_by(*keys)
        )
        return [tuple(row) for row in found]


def history(seed: int) -> list[Session]:
    """Return sessions of three minutes; corrections change counts, currency, minute, arm, source and version."""
    random = np.random.default_rng(seed)

    def revised(number: int, revision: int) -> Session:
        session = make_session(
            f"q{number}",
            f"c{number % 5}",
            arm=("control", "treatment", None)[int(random.integers(3))],
            impression_ts=int(random.integers(180_000)),
            currency=("EUR", "USD")[int(random.integers(2))],
            fallback="timeout" if random.random() < 0.2 else None,
            version=str(random.integers(1, 3)),
            events=[click(f"e{number}", 1)] if random.random() < 0.5 else [],
            lines=[purchase(f"t{number}", 1, int(random.integers(1, 900)))] if random.random() < 0.4 else [],
        )
        return structs.replace(session, revision=revision, source=("serving", "")[int(random.integers(2))])

    sessions = [revised(number, revision) for number in range(20) for revision in range(1 + number % 3)]
    copies = [sessions[index] for index in random.integers(0, len(sessions), 10)]
    shuffled = [*sessions, *copies]
    return [shuffled[index] for index in random.permutation(len(shuffled))]


@on_sqlite
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_table_is_what_the_facts_add_up_to_after_each_batch(store_engine: Engine, seed: int) -> None:
    sessions, first = history(seed), 0
    for start in range(0, len(sessions), 7):
        batch = sessions[start : start + 7]
        with pytest.raises(RuntimeError, match="offsets written"):
            apply(store_engine, batch, first, fails_at="offsets written")
        apply(store_engine, batch, first)
        first += len(batch)
        assert of_the_table(store_engine) == of_the_facts(store_engine)
    assert sum(row[7] for row in of_the_table(store_engine)) == 20  # type: ignore[misc]


def test_names_of_any_length_and_amounts_of_any_size_stop_nothing(store_engine: Engine) -> None:
    """PostgreSQL refuses long index rows, and SQLite integers above 2^63."""
    most = 2**53 - 1
    large = [
        make_session(f"q{number}", "c1", version="v" * 5_000, lines=[purchase("t", 1, most)]) for number in range(1_100)
    ]
    apply(store_engine, [structs.replace(each, source="s" * 5_000) for each in large], 0)
    (row,) = of_the_table(store_engine)
    assert row[4:8] == ("v" * 64, "s" * 64, "EUR", 1_100)
    assert row[-1] == pytest.approx(1_100 * most)


@on_sqlite
def test_an_erased_client_is_in_no_row_and_its_counts_stay(store_engine: Engine) -> None:
    apply(store_engine, [make_session("q1", "c1"), make_session("q2", "c2")], 0)
    before = of_the_table(store_engine)
    erase(store_engine, "c1")
    assert of_the_table(store_engine) == before
    assert not {"client_id", "session_id", "query_id"} & set(traffic_minutes.c.keys())


def test_counts_stand_at_the_begin_of_their_minute(store_engine: Engine) -> None:
    apply(store_engine, [make_session("q1", "c1", impression_ts=2 * MINUTE_MS - 1)], 0)
    apply(store_engine, [make_session("q2", "c2", impression_ts=2 * MINUTE_MS)], 1)
    assert [row[0] for row in of_the_table(store_engine)] == [MINUTE_MS, 2 * MINUTE_MS]
