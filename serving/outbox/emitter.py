"""Impressions leave without the request path waiting for them: queue, thread, broker; or disk, or a counted drop.

emitted = delivered + spooled + dropped, by batch: a batch whose delivery is uncertain goes to the spool whole, which
may repeat impressions (the join knows them by `event_id`) and loses none.

Source: TRAINING_SERVING.md 8, RELIABILITY.md 2.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from serving.metrics import Metrics
from serving.outbox.delivery import FLUSH_TIMEOUT_S, Delivery, Outgoing
from serving.outbox.spool import Pair, Spool
from stream.broker.settings import Broker
from stream.schemas.events import Impression, encode
from stream.schemas.topics import IMPRESSIONS

MAX_BATCH = 1_000
_GATHER_S = 0.01
_GATHER_AWAY_S = 0.5


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
        self._delivery = Delivery(broker, clock=clock, flush_timeout_s=flush_timeout_s)
        self._spool = spool
        self._count = metrics.impressions
        self._spool_bytes = metrics.spool_bytes
        self._queue: deque[Impression] = deque()
        self._queue_size = queue_size
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
            self._stop.wait(_GATHER_AWAY_S if self._delivery.wait_s else _GATHER_S)
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
        return self._delivery.deliver([Outgoing(topic=IMPRESSIONS, key=key, value=value) for key, value in pairs])
