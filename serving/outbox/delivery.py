"""A broker that goes away and comes back: one batch at a time, acknowledged or not, with growing pauses between tries.

Used by one thread. A batch that was not acknowledged may have arrived in part; whoever sends it again relies on its
ids.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream.broker.admin import answers
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.errors import BusError

REQUEST_TIMEOUT_MS = 2_000
FLUSH_TIMEOUT_S = 3.0
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One record on its way to a topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class Delivery:
    """Sends batches to a broker, or says that it could not."""

    def __init__(
        self,
        broker: Broker | None,
        *,
        clock: Callable[[], float],
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:
        """Prepare; `clock` is monotonic seconds, and without a broker nothing is ever delivered."""
        self._broker = broker
        self._clock = clock
        self._flush_timeout_s = flush_timeout_s
        self._producer: Producer | None = None
        self._retry_at: float | None = None
        self._backoff_s = _FIRST_BACKOFF_S

    @property
    def wait_s(self) -> float:
        """Seconds until the next try makes sense."""
        return 0.0 if self._retry_at is None else max(self._retry_at - self._clock(), 0.0)

    def deliver(self, batch: Sequence[Outgoing]) -> bool:
        """Send a batch and wait for the broker; False if it is away or did not acknowledge all of it."""
        if self._broker is None or (self._producer is None and self.wait_s > 0):
            return False
        try:
            if self._producer is None:
                self._producer = self._connect(self._broker)
            for record in batch:
                self._producer.send(record.topic, key=record.key, value=record.value, headers=record.headers)
            self._producer.flush(self._flush_timeout_s)
        except BusError as error:
            self.close()
            self._retry_at = self._clock() + self._backoff_s
            _log.warning("broker away; next try in %.1f s: %s", self._backoff_s, error)
            self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)
            return False
        self._backoff_s = _FIRST_BACKOFF_S
        return True

    def close(self) -> None:
        """Let go of the producer; a later batch connects again."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(0.5)
            except BusError as error:
                _log.debug("producer closed with %s", error)

    def _connect(self, broker: Broker) -> Producer:
        # The producer alone would keep trying for half a minute, too long for a process that is to stop.
        if not answers(broker):
            raise BusError(f"broker {broker.bootstrap} does not answer")
        return Producer(broker, request_timeout_ms=REQUEST_TIMEOUT_MS)
