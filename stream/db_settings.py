"""Settings of the database; every command reads them, also those that need no SQLAlchemy."""

from dataclasses import dataclass, replace
from typing import Literal

from stream.setting_fields import secret


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """Address and time-outs of the database of facts, experiments and versions.

    Attributes:
        url: SQLAlchemy URL; empty means SQLite under the home folder. `postgresql://` is read as psycopg 3.
        connect_timeout_s: Longest wait for a connection to PostgreSQL; the driver waits 2 s at least.
        statement_timeout_s: Longest run of one statement on PostgreSQL; 0 means no limit. A server that gives no
            answer at all is given up `connect_timeout_s` later.
        lock_timeout_s: Longest wait for a lock that another process holds, on PostgreSQL and SQLite.
        prepare_threshold: Runs of a statement on one connection after which psycopg prepares it on the server, or
            `off`. Needs `off` behind a pooler in transaction mode, such as PgBouncer without
            `max_prepared_statements`.
    """

    url: str = secret(url=True)
    connect_timeout_s: int = 5
    statement_timeout_s: float = 300.0
    lock_timeout_s: float = 30.0
    prepare_threshold: int | Literal["off"] = 5

    def __post_init__(self) -> None:
        if self.connect_timeout_s < 1:
            raise ValueError(f"connect_timeout_s = {self.connect_timeout_s}: expected 1 or more")
        if self.statement_timeout_s < 0:
            raise ValueError(f"statement_timeout_s = {self.statement_timeout_s}: expected 0 or more")
        if self.lock_timeout_s <= 0:
            raise ValueError(f"lock_timeout_s = {self.lock_timeout_s}: expected more than 0")
        if self.prepare_threshold != "off" and self.prepare_threshold < 0:
            raise ValueError(f"prepare_threshold = {self.prepare_threshold}: expected 0 or more, or 'off'")

    def at_most(self, seconds: int) -> "DatabaseSettings":
        """Return the settings with no time-out above `seconds`."""
        return replace(
            self,
            connect_timeout_s=min(self.connect_timeout_s, seconds),
            statement_timeout_s=min(self.statement_timeout_s or seconds, seconds),
            lock_timeout_s=min(self.lock_timeout_s, seconds),
        )
