"""A PostgreSQL connection that gives up on a server that does not answer.

The server's own time-outs do not help against a server that is frozen, or against a network that swallows packets.

Source: docs/operations.md; psycopg documentation, "Connection classes".
"""

from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

_Answer = TypeVar("_Answer")


class LimitedConnection(psycopg.Connection[Any]):
    """A connection that is closed if one answer takes too long.

    Attributes:
        answer_timeout_s: Longest wait for one answer; None means no limit.
    """

    answer_timeout_s: float | None = None

    def wait(self, gen: PQGen[_Answer], interval: float = 0.1, timeout: float | None = None) -> _Answer:
        """Return the answer that `gen` waits for.

        Raises:
            psycopg.OperationalError: If it does not come in time. The connection is closed then.
        """
        limit_s = timeout or self.answer_timeout_s
        try:
            return super().wait(gen, interval, limit_s)
        except psycopg.OperationalError as error:
            # An error that the server reports ends the statement; a statement that is still active was not answered.
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {limit_s:g} s") from error
