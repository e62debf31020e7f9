"""The lease of a trainer process: taken, renewed in time, and lost to a later term.

Source: docs/training.md.
"""

import logging
from collections.abc import Callable

from stream.errors import FencedError, StoreError
from trainer.pauses import Pauses
from trainer.versions.leases import Leases

_log = logging.getLogger(__name__)


class WriterLease:
    """The lease of one lineage, as one process holds it.

    While the database is unreachable, training continues; the store refuses a stale term when it is back.

    Args:
        leases: Leases of the database.
        lineage: Name of the lineage.
        holder: Name of this process, which no other one has.
        ttl_ms: Time after which another process may take over, unless the lease is renewed.
        now_ms: Epoch milliseconds.
        pauses: Monotonic clock and waits.

    Attributes:
        term: Term of the lease; 0 before it is taken.
    """

    def __init__(
        self,
        leases: Leases,
        lineage: str,
        holder: str,
        *,
        ttl_ms: int,
        now_ms: Callable[[], int],
        pauses: Pauses,
    ) -> None:
        self._leases = leases
        self._lineage = lineage
        self._holder = holder
        self._ttl_ms = ttl_ms
        self._now_ms = now_ms
        self._pauses = pauses
        self._monotonic_s = pauses.monotonic_s
        self._tried_s = 0.0
        self._renewed_s = 0.0
        self.term = 0

    def acquire(self) -> bool:
        """Take the lease, waiting for another holder's to expire; return False if a stop comes first."""
        while True:
            try:
                self.term = self._leases.acquire(self._lineage, self._holder, self._now_ms(), self._ttl_ms)
            except FencedError as error:
                _log.info("waiting for the lease: %s", error)
                if self._pauses.wait(min(1.0, self._ttl_ms / 3000)):
                    return False
            else:
                self._tried_s = self._renewed_s = self._monotonic_s()
                return True

    def keep(self) -> None:
        """Renew the lease if a third of it has passed since the last attempt.

        Raises:
            FencedError: If a later term has taken over.
        """
        now_s = self._monotonic_s()
        if now_s - self._tried_s < self._ttl_ms / 3000:
            return
        self._tried_s = now_s
        try:
            self._leases.renew(self._lineage, self.term, self._now_ms(), self._ttl_ms)
        except FencedError:
            raise
        except StoreError as error:
            _log.warning("lease not renewed: %s", error)
        else:
            self._renewed_s = now_s

    def is_held(self) -> bool:
        """Return whether this process took the lease and renewed it in time."""
        return self.term > 0 and self._monotonic_s() - self._renewed_s < self._ttl_ms / 1000
