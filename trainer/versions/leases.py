"""Leases of writers: one trainer writes a lineage, one controller moves versions, and each take-over raises the term.

The transaction of a writer compares its term with the one in the database, so a writer that lost its lease while it
slept changes nothing.

Source: docs/training.md.
"""

from typing import Final

from sqlalchemy import Connection, Engine, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from stream import db
from stream.errors import FencedError, StoreError
from trainer.versions.tables import leases

CONTROLLER: Final = ":controller"
"""Name of the controller's lease; no lineage can have it."""


class Leases:
    """Leases in SQLite or PostgreSQL, by the name of a lineage or `CONTROLLER`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ensure(self, name: str) -> None:
        """Create a lease without a holder, if it is missing.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        try:
            with db.transaction(self._engine) as connection:
                if connection.execute(select(leases.c.term).where(leases.c.name == name)).one_or_none() is None:
                    create(connection, name)
        except StoreError as error:
            # Another process created it in between.
            if not isinstance(error.__cause__, IntegrityError):
                raise

    def acquire(self, name: str, holder: str, now_ms: int, ttl_ms: int) -> int:
        """Take the lease and return its new term; the same holder may take it again, which fences its earlier process.

        Raises:
            FencedError: If another holder's lease has not expired, or there is no such lease.
            StoreError: If the database is unreachable or refused.
        """
        free = or_(leases.c.expires_ts <= now_ms, leases.c.holder == holder)
        with db.transaction(self._engine) as connection:
            changed = connection.execute(
                update(leases)
                .where(leases.c.name == name, free)
                .values(holder=holder, term=leases.c.term + 1, expires_ts=now_ms + ttl_ms)
            )
            row = connection.execute(select(leases).where(leases.c.name == name)).one_or_none()
        if row is None:
            raise FencedError(f"{_writer(name)} has no lease row: create it first")
        if changed.rowcount != 1:
            raise FencedError(f"{_writer(name)}: '{row.holder}' holds the lease until {row.expires_ts}")
        return int(row.term)

    def renew(self, name: str, term: int, now_ms: int, ttl_ms: int) -> None:
        """Extend the lease of `term`.

        Raises:
            FencedError: If a later term has taken over.
            StoreError: If the database is unreachable or refused.
        """
        with db.transaction(self._engine) as connection:
            changed = connection.execute(
                update(leases).where(leases.c.name == name, leases.c.term == term).values(expires_ts=now_ms + ttl_ms)
            )
        if changed.rowcount != 1:
            raise _lost(name, term)


def create(connection: Connection, name: str) -> None:
    """Create a lease without a holder."""
    connection.execute(insert(leases).values(name=name, holder="", term=0, expires_ts=0))


def check_term(connection: Connection, name: str, term: int) -> None:
    """Refuse a stale term, and keep the lease row locked until the transaction ends.

    Raises:
        FencedError: If the lease has another term.
    """
    held = select(leases.c.term).where(leases.c.name == name, leases.c.term == term).with_for_update()
    if connection.execute(held).one_or_none() is None:
        raise _lost(name, term)


def lock(connection: Connection, name: str) -> None:
    """Keep the lease row locked until the transaction ends, whoever holds it."""
    connection.execute(select(leases.c.term).where(leases.c.name == name).with_for_update())


def fence(connection: Connection, name: str) -> int:
    """Take the lease from its holder, for the next one to acquire, and return the new term."""
    raised = update(leases).where(leases.c.name == name).values(term=leases.c.term + 1, holder="", expires_ts=0)
    return int(connection.execute(raised.returning(leases.c.term)).scalar_one())


def _lost(name: str, term: int) -> FencedError:
    return FencedError(f"{_writer(name)}: term {term} has lost its lease")


def _writer(name: str) -> str:
    return "controller" if name == CONTROLLER else f"lineage {name}"
