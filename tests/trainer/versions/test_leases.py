"""Leases on SQLite and PostgreSQL: taken, renewed, lost and taken over."""

import pytest
from sqlalchemy import Engine

from stream import db
from stream.errors import FencedError
from tests.trainer.versions.test_registry import engine
from trainer.versions.leases import CONTROLLER, Leases, check_term, fence

__all__ = ["engine"]


@pytest.fixture
def leases(engine: Engine) -> Leases:
    leases = Leases(engine)
    leases.ensure("armmt")
    return leases


def test_a_lease_is_taken_renewed_lost_and_taken_over(leases: Leases) -> None:
    assert leases.acquire("armmt", "one", 0, 100) == 1
    with pytest.raises(FencedError, match="'one' holds"):
        leases.acquire("armmt", "two", 99, 100)
    leases.renew("armmt", 1, 90, 100)
    with pytest.raises(FencedError):
        leases.acquire("armmt", "two", 150, 100)
    assert leases.acquire("armmt", "two", 190, 100) == 2
    with pytest.raises(FencedError, match="lineage armmt: term 1 has lost its lease"):
        leases.renew("armmt", 1, 191, 100)
    assert leases.acquire("armmt", "two", 195, 100) == 3
    with pytest.raises(FencedError, match="lineage unknown has no lease row"):
        leases.acquire("unknown", "two", 195, 100)


def test_a_lease_that_exists_keeps_its_term(leases: Leases) -> None:
    leases.acquire("armmt", "one", 0, 100)
    leases.ensure("armmt")
    assert leases.acquire("armmt", "one", 1, 100) == 2


def test_a_fenced_holder_writes_nothing_more_and_the_next_one_need_not_wait(leases: Leases, engine: Engine) -> None:
    leases.ensure(CONTROLLER)
    term = leases.acquire(CONTROLLER, "one", 0, 100)
    with db.transaction(engine) as connection:
        check_term(connection, CONTROLLER, term)
        assert fence(connection, CONTROLLER) == term + 1
    with (
        db.transaction(engine) as connection,
        pytest.raises(FencedError, match="controller: term 1 has lost its lease"),
    ):
        check_term(connection, CONTROLLER, term)
    assert leases.acquire(CONTROLLER, "two", 1, 100) == term + 2
