"""Delivery of batches to a broker that can become unavailable, with growing waiting times between attempts.

A batch that was not acknowledged may have arrived in part. The sender relies on event ids when it sends it again.
"""

import logging
from collections.abc import Callable, Sequence

from stream.backoff import Backoff
from stream.broker.connection import is_reachable
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.errors import BusError, ShelfwiseError
from stream.schemas.records import ProducerRecord

REQUEST_TIMEOUT_MS = 2_000
FLUSH_TIMEOUT_S = 3.0

_log = logging.getLogger(__name__)


class Delivery:
    """A producer that connects again after a failure; used by one thread."""

    def __init__(
        self,
        broker: Broker | None,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:
        """Prepare a delivery that is not connected.

        Args:
            broker: The broker; without one, every delivery fails.
            clock: Monotonic seconds.
            random: Uniform numbers in [0, 1), for the jitter of retries.
            flush_timeout_s: Seconds within which the broker must acknowledge a batch.
        """
        self._broker = broker
        self._clock = clock
        self._flush_timeout_s = flush_timeout_s
        self._producer: Producer | None = None
        self._backoff = Backoff(random=random)
        self._retry_at_s = 0.0

    @property
    def wait_s(self) -> float:
        """Return the seconds until the next attempt."""
        return max(self._retry_at_s - self._clock(), 0.0)

    def deliver(self, batch: Sequence[ProducerRecord]) -> bool:
        """Produce a batch and return whether the broker has acknowledged all of it."""
        if self._broker is None or (self._producer is None and self.wait_s > 0):
            return False
        try:
            if self._producer is None:
                self._producer = self._connect(self._broker)
            for record in batch:
                self._producer.send(record.topic, key=record.key, value=record.value, headers=record.headers)
            self._producer.flush(self._flush_timeout_s)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any fault, such as certificates in renewal
            self.close()
            wait_s = self._backoff.next_s()
            self._retry_at_s = self._clock() + wait_s
            is_foreseen = isinstance(error, ShelfwiseError)
            _log.warning(
                "the broker is unavailable, next attempt in %.1f s: %s", wait_s, error, exc_info=not is_foreseen
            )
            return False
        self._backoff.reset()
        return True

    def close(self) -> None:
        """Close the producer; a later batch opens a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(0.5)
            except Exception as error:  # noqa: BLE001 - what was not acknowledged is sent again
                _log.debug("the producer closed with an error: %s", error)

    def _connect(self, broker: Broker) -> Producer:
        # Without this check the producer would retry for half a minute, too long for a process that has to stop.
        if not is_reachable(broker):
            raise BusError(f"broker {broker.bootstrap} does not answer")
        return Producer(broker, request_timeout_ms=REQUEST_TIMEOUT_MS)
