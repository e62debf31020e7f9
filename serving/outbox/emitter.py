"""Emission of impressions outside of the request path: one thread moves them from a queue to the broker or the spool.

An impression that fits into neither is counted as dropped.

emitted = delivered + spooled + dropped, batch by batch. A batch whose delivery is uncertain goes to the spool as a
whole. Impressions can therefore repeat, and the join recognises them by `event_id`, but none is lost.

Source: docs/serving.md.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from serving.metrics import Metrics
from serving.outbox.delivery import FLUSH_TIMEOUT_S, Delivery
from serving.outbox.spool import Pair, Spool
from stream.broker.settings import Broker
from stream.schemas.events import Impression, encode
from stream.schemas.records import ProducerRecord
from stream.schemas.topics import IMPRESSIONS

MAX_BATCH = 1_000
_GATHER_S = 0.01
_GATHER_UNAVAILABLE_S = 0.5


class Emitter:
    """Queue of impressions and the thread that delivers them; any thread may offer."""

    def __init__(
        self,
        broker: Broker | None,
        spool: Spool,
        metrics: Metrics,
        *,
        queue_size: int,
        clock: Callable[[], float],
        random: Callable[[], float],
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:
        """Prepare the thread.

        Args:
            broker: The broker; without one, everything goes to the spool.
            spool: Files for impressions that cannot be delivered.
            metrics: Metrics of the process.
            queue_size: Impressions that may wait in memory.
            clock: Monotonic seconds.
            random: Uniform numbers in [0, 1), for the jitter of retries.
            flush_timeout_s: Seconds within which the broker must acknowledge a batch.
        """
        self._delivery = Delivery(broker, clock=clock, random=random, flush_timeout_s=flush_timeout_s)
        self._spool = spool
        self._count = metrics.impressions
        self._spool_bytes = metrics.spool_bytes
        self._queue: deque[Impression] = deque()
        self._queue_size = queue_size
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="emitter", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, impression: Impression) -> None:
        """Queue one impression without waiting; if the queue is full, count it as dropped."""
        self._count.labels("emitted").inc()
        if len(self._queue) >= self._queue_size:
            self._count.labels("dropped").inc()
            return
        self._queue.append(impression)
        self._wake.set()

    def stop(self, timeout_s: float = 6.0) -> None:
        """Deliver or spool the queued impressions, and end the thread."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._pause_s() if len(self._spool) else None)
            self._wake.clear()
            # Impressions that arrive within this time share one round trip to the broker, or one file.
            self._stop.wait(_GATHER_UNAVAILABLE_S if self._delivery.wait_s else _GATHER_S)
            self._step()
        self._step()
        self._delivery.close()

    def _pause_s(self) -> float:
        return max(self._delivery.wait_s, _GATHER_S)

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
        return self._delivery.deliver([ProducerRecord(topic=IMPRESSIONS, key=key, value=value) for key, value in pairs])
