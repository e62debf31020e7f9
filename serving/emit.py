"""Impressions leave without the request path waiting for them: queue, thread, broker; or disk, or a counted drop.

emitted = delivered + spooled + dropped, by batch: a batch whose delivery is uncertain goes to the spool whole, which
may repeat impressions (the join knows them by `event_id`) and loses none.

Source: TRAINING_SERVING.md 8, RELIABILITY.md 2.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from serving.metrics import Metrics
from serving.spool import Pair, Spool
from stream.bus import Broker, Producer, answers
from stream.errors import BusError
from stream.events import Impression, encode
from stream.topics import IMPRESSIONS

MAX_BATCH = 1_000
REQUEST_TIMEOUT_MS = 2_000
FLUSH_TIMEOUT_S = 3.0
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 30.0
_GATHER_S = 0.01
_GATHER_AWAY_S = 0.5

_log = logging.getLogger(__name__)


class Emitter:
    """Takes impressions from any thread and delivers them from one of its own."""

    def __init__(
        self,
        broker: Broker | None,
        spool: Spool,
        metrics: Metrics,
        *,
        queue_size: int,
        clock: Callable[[], float],
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:
        """Prepare; `clock` is monotonic seconds, and without a broker everything goes to the spool."""
        self._broker = broker
        self._spool = spool
        self._count = metrics.impressions
        self._spool_bytes = metrics.spool_bytes
        self._queue: deque[Impression] = deque()
        self._queue_size = queue_size
        self._clock = clock
        self._flush_timeout_s = flush_timeout_s
        self._producer: Producer | None = None
        self._retry_at = 0.0
        self._backoff_s = _FIRST_BACKOFF_S
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="emit", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, impression: Impression) -> None:
        """Hand over one impression; never blocks, drops and counts when the queue is full."""
        self._count.labels("emitted").inc()
        if len(self._queue) >= self._queue_size:
            self._count.labels("dropped").inc()
            return
        self._queue.append(impression)
        self._wake.set()

    def stop(self, timeout_s: float = 6.0) -> None:
        """Deliver or spool what is queued, and end the thread."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._pause_s() if len(self._spool) else None)
            self._wake.clear()
            # Impressions of the next moments share one round trip to the broker, or one file.
            self._stop.wait(_GATHER_S if self._clock() >= self._retry_at else _GATHER_AWAY_S)
            self._step()
        self._step()
        self._close()

    def _pause_s(self) -> float:
        return max(self._retry_at - self._clock(), _GATHER_S)

    def _step(self) -> None:
        while batch := self._take():
            pairs = [(impression.client_id.encode(), encode(impression)) for impression in batch]
            if self._deliver(pairs):
                self._count.labels("delivered").inc(len(pairs))
            elif self._spool.put(pairs):
                self._count.labels("spooled").inc(len(pairs))
            else:
                self._count.labels("dropped").inc(len(pairs))
        while not self._stop.is_set() and not self._queue and (waiting := self._spool.oldest()):
            path, pairs = waiting
            if not self._deliver(pairs):
                break
            self._spool.discard(path)
            self._count.labels("resent").inc(len(pairs))
        self._spool_bytes.set(self._spool.num_bytes)

    def _take(self) -> list[Impression]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]

    def _deliver(self, pairs: Sequence[Pair]) -> bool:
        if self._broker is None or (self._producer is None and self._clock() < self._retry_at):
            return False
        try:
            if self._producer is None:
                self._producer = self._connect(self._broker)
            for key, value in pairs:
                self._producer.send(IMPRESSIONS, key=key, value=value)
            self._producer.flush(self._flush_timeout_s)
        except BusError as error:
            self._close()
            self._retry_at = self._clock() + self._backoff_s
            _log.warning("broker away, impressions go to disk; next try in %.1f s: %s", self._backoff_s, error)
            self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)
            return False
        self._backoff_s = _FIRST_BACKOFF_S
        return True

    def _connect(self, broker: Broker) -> Producer:
        # The producer alone would keep trying for half a minute, too long for a process that is to stop.
        if not answers(broker):
            raise BusError(f"broker {broker.bootstrap} does not answer")
        return Producer(broker, request_timeout_ms=REQUEST_TIMEOUT_MS)

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(0.5)
            except BusError as error:
                _log.debug("producer closed with %s", error)
